"""Texts on the driver: some documents of raw from one scan, a few texts of each target, and what
their n-grams say, of bounds, of buckets that move weights, and of each document."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import CONTENT_ID, quoted
from dsir_spark.errors import DataError
from dsir_spark.features import FeatureSpec, arrow, terms
from dsir_spark.local_rows import to_arrow
from dsir_spark.report.facts import visible
from dsir_spark.scoring import documents, matched, passes
from dsir_spark.scoring.distributions import Float64, Int64, distribution, from_ruler, on_ruler
from dsir_spark.scoring.model import Model

TEXTS, CHARACTERS = 300, 5_000  # of a frame in which n-grams are looked up, and of each text
_ALL_TEXTS = 3_000  # of all frames together
_DRIVERS = 12  # of a target, up and down each

# Shares of the target in its mixtures with raw. A bound holds at any q; on real text it is tightest
# where q is nearly the target, and there the scores are nearly equal, so a sample tells it well:
# +0.258 +- 0.001 from 5,000 of 113,156 candidates (biomed), where mixtures with the selection give
# +0.424 +- 0.006.
_MIXTURES = (0.25, 0.5, 0.75, 0.9, 0.95)


class Documents(NamedTuple):
    """Some documents of raw, by id."""

    num_buckets: int
    ngrams: Mapping[Any, tuple[Int64, Int64]]  # buckets and counts, [*] both
    texts: Mapping[Any, bytes]  # the beginnings, of those of which it was asked for
    unread: frozenset[Any] = frozenset()  # those with U+FFFD, as what is no UTF-8 is read

    def _joined(self, ids: Sequence[Any]) -> tuple[list[int], Int64, Int64]:
        """The entries of each of these documents, and buckets and counts of all."""
        own = [self.ngrams[i] for i in ids if i in self.ngrams]
        nothing = np.zeros(0, np.int64)
        buckets, counts = (np.concatenate([nothing, *[each[k] for each in own]]) for k in (0, 1))
        return [len(each) for each, _ in own], buckets, counts

    def total(self, ids: Sequence[Any]) -> Int64:
        """N-grams by bucket of these documents together, int64[num_buckets]."""
        _, buckets, counts = self._joined(ids)
        return np.bincount(buckets, counts, self.num_buckets).astype(np.int64)

    def means(self, ids: Sequence[Any], table: Float64) -> tuple[Float64, Int64]:
        """Mean of float64[num_buckets] over the n-grams of each document, and its n-grams."""
        entries, buckets, counts = self._joined(ids)
        rows = np.repeat(np.arange(len(entries)), entries)
        ngrams = np.bincount(rows, counts, len(entries))
        sums = np.bincount(rows, counts * table[buckets], len(entries))
        return sums / np.maximum(ngrams, 1), ngrams.astype(np.int64)

    def bound(
        self, target: Int64, raw: Int64, ids: Sequence[Any], ngrams: int, raw_share: float
    ) -> float:
        """What no selection passes, nats an n-gram: the least of the bounds at some mixtures.

        A certificate where `ids` are all candidates. Where they are a sample, an estimate; `ngrams`
        are those selected, times the share of the candidates that is in it.
        """
        p, p_raw = (on_ruler(distribution(counts)) for counts in (target, raw))
        found = []
        for share in _MIXTURES:
            q = (1 - share) * p_raw + share * p
            table = from_ruler(matched.gradient(p, q), self.num_buckets)
            scores, sizes = self.means(ids, table)
            histogram = matched.histogram(scores[sizes > 0], sizes[sizes > 0])
            best = matched.best_mean(histogram, max(1, ngrams))
            found.append(matched.bound(p, p_raw, q, best, raw_share))
        return min(found)


def read(model: Model, raw: DataFrame, wanted: Mapping[Any, int]) -> Documents:
    """The documents of some ids, with so many characters of their texts; one scan of raw, and the
    kernel on these rows alone."""
    spec, text = documents.spec_of(model.config), quoted(model.config.text_column).cast("binary")
    if not wanted:
        return Documents(spec.num_buckets, {}, {})
    # At most four bytes a character.
    beginning = F.when(F.col("chars") > 0, text.substr(F.lit(1), F.col("chars") * 4))
    rows = _of_ids(model, raw, wanted)
    cannot = quoted(model.config.text_column).rlike("\ufffd").alias("unread")
    rows = rows.select("id", beginning.alias("beginning"), text.alias("text"), cannot)
    counted = passes.with_ngram_counts(rows, "text", spec)
    table = to_arrow(counted.select("id", "beginning", "unread", "indices", "counts"))
    buckets, counts = (table.column(name).to_numpy() for name in ("indices", "counts"))
    ids, texts = (table.column(name).to_pylist() for name in ("id", "beginning"))
    # Of equal ids, which are made of equal texts, one.
    ngrams = dict(zip(ids, zip(buckets, counts, strict=True), strict=True))
    known = {one: text for one, text in zip(ids, texts, strict=True) if text is not None}
    marked = table.column("unread").to_pylist()
    unread = frozenset(one for one, mark in zip(ids, marked, strict=True) if mark)
    return Documents(spec.num_buckets, ngrams, known, unread)


def _of_ids(model: Model, raw: DataFrame, wanted: Mapping[Any, int]) -> DataFrame:
    """The rows of raw of some ids, with `id` and `chars`; the ids are sent to every task."""
    config, create = model.config, raw.sparkSession.createDataFrame
    own, named = config.id_column or CONTENT_ID, documents.with_ids(raw, config)
    if config.chunk_words is not None:
        # Only the documents of these chunks are cut.
        of = sorted({str(one).rsplit("#", 1)[0] for one in wanted})
        sent = F.broadcast(create([(o,) for o in of], "of string"))
        named = named.join(sent, quoted(own).cast("string") == F.col("of"), "left_semi")
    rows = documents.documents(named, config.model_copy(update={"id_column": own}))
    kind = rows.schema[model.id_name].dataType.simpleString()
    sent = F.broadcast(create(list(wanted.items()), f"id {kind}, chars int"))
    rows = rows.select(quoted(model.id_name).alias("own"), quoted(config.text_column))
    return rows.join(sent, F.col("own") == F.col("id"))


def some_texts(
    frames: Mapping[str, tuple[DataFrame, float]], text_column: str, number: int | None = None
) -> dict[str, list[bytes]]:
    """The beginnings of a few texts of each frame (with about how many documents it has): those of
    the least hashes, in one query; so many of each, or by default TEXTS, fewer of many frames."""
    if not frames:
        return {}
    number = number or min(TEXTS, max(30, _ALL_TEXTS // len(frames)))
    hashed = F.xxhash64(quoted(text_column))
    # Four bytes are a character at most.
    beginning = F.substring(quoted(text_column).cast("binary"), 1, 4 * CHARACTERS).alias("text")
    parts = []
    for name, (frame, number_there) in frames.items():
        # More than enough of them, without a sort.
        share = (number + 5 * math.sqrt(number)) / max(1.0, number_there)
        most = min((1 << 63) - 1, int(share * 2.0**64) - (1 << 63))
        own = frame.where(quoted(text_column).isNotNull() & (hashed <= F.lit(most)))
        parts.append(own.select(F.lit(name).alias("name"), hashed.alias("hash"), beginning))
    found: dict[str, list[bytes]] = {name: [] for name in frames}
    rows = to_arrow(documents.united(parts)).to_pylist()
    for row in sorted(rows, key=lambda row: (row["hash"], row["text"])):
        found[row["name"]].append(row["text"])
    return {name: own[:number] for name, own in found.items()}


def drivers(
    model: Model, texts_raw: Sequence[bytes], texts: Mapping[str, Sequence[bytes]]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Of each target the buckets that move weights most `up` and `down`, by share of n-grams times
    log ratio, with the n-grams found there in some texts of the target, and of raw."""
    p_raw, ratios = distribution(model.raw.counts), model.log_ratio
    spec = documents.spec_of(model.config)
    falling = {name: _strongest(-p_raw * ratio, ratio < 0) for name, ratio in ratios.items()}
    shown = {b for own in falling.values() for b in own}
    of_raw = terms.Sharers(map(arrow.decoded, texts_raw), spec, shown)
    found = {}
    for name, ratio in ratios.items():
        p = distribution(model.targets[name].counts)
        rising = _strongest(p * ratio, ratio > 0)
        of_target = terms.Sharers(map(arrow.decoded, texts.get(name, ())), spec, rising)
        both = {"up": (rising, of_target), "down": (falling[name], of_raw)}
        found[name] = {
            way: [
                {"bucket": b, "log_ratio": float(ratio[b]), "p_target": float(p[b]),
                 "p_raw": float(p_raw[b]), "ngrams": sharers.of(b)}
                for b in own
            ]
            for way, (own, sharers) in both.items()
        }  # fmt: skip
    return found


def _strongest(parts: Float64, keep: npt.NDArray[np.bool_]) -> list[int]:
    return [int(b) for b in np.argsort(-parts, kind="stable")[:_DRIVERS] if keep[b]]


def pieces(text: str, ratio: Float64, spec: FeatureSpec) -> list[tuple[str, float]]:
    """The text in pieces, with what each token adds to the weight (nats); 0 between them."""
    if spec.tokenizer not in terms.BY_PATTERN:
        return [(text, 0.0)]
    spans = [m.span() for m in terms.pattern(spec.tokenizer).finditer(text)]
    found = terms.terms(text, ratio, spec)
    parts = terms.token_parts(found, len(terms.split(text, spec.tokenizer)))
    if len(parts) != len(spans):  # lower-casing made or joined a token
        return [(text, 0.0)]
    shown, at = [], 0
    for (start, end), part in zip(spans, parts.tolist(), strict=True):
        shown += [(text[at:start], 0.0), (text[start:end], part)]
        at = end
    return [(piece, part) for piece, part in (*shown, (text[at:], 0.0)) if piece]


def explained(model: Model, raw: DataFrame, ids: Sequence[str], number: int = 20) -> str:
    """The weights of documents of raw under the model: the `number` n-grams that move each most.

    Raises
    ------
    DataError
        Raw has no document of an id.
    """
    spec = documents.spec_of(model.config)
    # As bytes: what is no UTF-8 is read here as the kernels read it.
    text = quoted(model.config.text_column).cast("binary").alias("text")
    named = quoted(model.id_name).cast("string")
    found = documents.documents(raw, model.config).where(named.isin(list(ids)))
    texts = {r["id"]: r["text"] for r in found.select(named.alias("id"), text).collect()}
    if absent := [i for i in ids if texts.get(i) is None]:
        raise DataError(f"raw has no document with {model.id_name} {absent[0]!r} and a text")
    pairs = itertools.product(ids, model.log_ratio.items())
    parts = {(i, name): terms.terms(bytes(texts[i]), r, spec) for i, (name, r) in pairs}
    rows = {key: terms.by_ngram(own)[:number] for key, own in parts.items()}
    in_raw = model.raw.num_documents / model.fitted_share
    others = some_texts({"raw": (raw, in_raw)}, model.config.text_column)["raw"]
    shown = {term.bucket for own in rows.values() for term, _, _ in own}
    sharers = terms.Sharers(map(arrow.decoded, others), spec, shown)
    lines = []
    for (i, name), own in rows.items():
        whose = "" if model.single_target else f" for {name}"
        lines += [
            f"{visible(i)}: log weight{whose} {terms.log_weight(parts[i, name]):+.4f} nats, the "
            f"sum over {len(parts[i, name]):,} n-grams; the {len(own)} that move it most:",
            f"  {'part':>9}  {'times':>5}  {'log ratio':>9}  {'bucket':>8}  n-gram"
            f"{'':<24}  in its bucket",
        ]
        for term, times, part in own:
            sharing = [f"{visible(g)[:24]} {share:.0%}" for g, share in sharers.of(term.bucket)]
            lines.append(
                f"  {part:>+9.3f}  {times:>5}  {term.log_ratio:>+9.3f}  {term.bucket:>8}  "
                f"{visible(term.ngram)[:30]:<30}  {', '.join(sharing) or '-'}"
            )
    return "\n".join(lines)
