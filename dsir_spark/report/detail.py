"""What a page shows of each target beside its numbers, and which documents that needs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from dsir_spark.columns import NUM_TOKENS, column_name, quoted
from dsir_spark.features import arrow, best
from dsir_spark.local_rows import to_arrow
from dsir_spark.report import texts
from dsir_spark.report.candidates import KEY, Sample, Spectrum, matched, position
from dsir_spark.report.texts import Documents
from dsir_spark.scoring.distributions import kl_reduction
from dsir_spark.scoring.documents import spec_of
from dsir_spark.scoring.model import Model
from dsir_spark.selection import Selection
from dsir_spark.selection.keys import may_reach

PLACES = ("top", "middle", "just above the cut", "below the cut", "rejected, at random")
_BELOW, _BY_CHANCE = PLACES[3:]
_AT = "__dsir_at"
_CHOSEN = "chosen"  # the place of all selected documents of the random sample
_POINTS = 600  # documents of the sample that are drawn
_EXCERPT = 700  # characters shown of an example
_STEPS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)  # sizes of a curve, in those selected
_CURVES = 5  # targets that have one: those for which most is selected
CURVE_DOCUMENTS = 4_500  # looked at for all curves together
_NEAR = 1_000  # candidates below the cut among which the next ones are looked for
_GRAINS = 1 << 24  # of a hash of ids, by which samples are drawn


Band = tuple[float, int]  # the key at its lower end, and the candidates between it and the next


class Picked(NamedTuple):
    """Documents that are looked at, whose texts are in raw."""

    bands: dict[int, list[Band]]  # of each target that has a curve, best first
    # id, key, log_weight, num_tokens by falling key, of each target and place: one of PLACES,
    # _CHOSEN, or the number of a band.
    rows: dict[tuple[int, str], list[dict[str, Any]]]

    def ids(self, t: int, place: str) -> list[Any]:
        """Of the documents of a place."""
        return [row["id"] for row in self.rows.get((t, place), ())]

    def wanted(self, sample: Sample, random: int) -> dict[Any, int]:
        """Characters of the text that are read of each document looked at; `random` of the sample
        are read."""
        found = dict.fromkeys(sample.ids, 0)
        found |= dict.fromkeys(sample.ids[:random], texts.CHARACTERS)
        for (_, place), own in self.rows.items():
            least = _EXCERPT + 1 if place in PLACES else 0
            found |= {r["id"]: max(found.get(r["id"], 0), least) for r in own}
        return found


def pick(weights: DataFrame, spectrum: Spectrum, examples: int) -> Picked:
    """What a page shows, found from weights in one query; `examples` of each place and target."""
    selection, bands = spectrum.selection, _bands(spectrum)
    frames = [(selection.filter(weights, weights), _selected(spectrum, examples))]
    if bands:
        lows = [own[-1][0] for own in bands.values()]
        ranks = [selection.ranks()[t] for t in bands]
        near = selection.is_candidate() & may_reach(selection.noise(), ranks, lows)
        frames.append((weights.where(near), _banded(selection, bands)))
    t, parts = F.col(f"{_AT}.t"), []
    for frame, places in frames:
        there = frame.withColumn(_AT, F.explode(F.array(*places))).where(f"{_AT}.place is not null")
        log_weight = F.array(*_log_weights(selection))[t].alias("log_weight")
        row = [selection.key_for(t).alias("key"), log_weight]
        ids = quoted(selection.pool.id_column).alias("id")
        parts.append(there.select(ids, f"{_AT}.*", NUM_TOKENS, *row))
    if examples:
        parts.append(_rejected(spectrum, weights, examples).select(*parts[0].columns))
    order = Window.partitionBy("t", "place").orderBy(F.desc("order"), F.desc("id"))
    ranked = functools.reduce(DataFrame.union, parts).withColumn("n", F.row_number().over(order))
    shown, one = F.col("place").isin(*PLACES), F.col("place") == F.lit(_BY_CHANCE)
    few = ranked.where(~shown | (F.col("n") <= F.when(one, 1).otherwise(examples)))
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in sorted(to_arrow(few).to_pylist(), key=lambda row: (-row["key"], str(row["id"]))):
        rows.setdefault((row["t"], row["place"]), []).append(row)
    return Picked(bands, rows)


def _place(t: Column, place: Column, order: Column) -> Column:
    """A place of a row (null: it is not there), and what the rows there are ordered by, falling."""
    return F.struct(t.alias("t"), place.alias("place"), order.cast("double").alias("order"))


def _hashed(selection: Selection, salt: str) -> Column:
    return F.pmod(F.xxhash64(F.lit(salt), quoted(selection.pool.id_column)), F.lit(_GRAINS))


def _selected(spectrum: Spectrum, number: int) -> list[Column]:
    selection = spectrum.selection
    of, documents = position(selection), selection.num_documents
    top, middle, last = map(F.lit, PLACES[:3])
    key = selection.key_for(of)
    middles = [spectrum.bins(KEY, t).above(max(1, n // 2))[0] for t, n in enumerate(documents)]
    # Of a small selection the top is all there is to see.
    many = F.array(*[F.lit(n > 3 * number) for n in documents])[of]
    half = many & (key < F.array(*map(F.lit, middles))[of])
    random = selection.uniform_key() >= F.lit(spectrum.sample.least)
    chosen, inner = F.when(random, F.lit(_CHOSEN)), F.when(half, middle)
    falling = [_place(of, place, key) for place in (chosen, top, inner)]
    return [*falling, _place(of, F.when(many, last), -key)]


def _rejected(spectrum: Spectrum, weights: DataFrame, number: int) -> DataFrame:
    """Some candidates that were not selected, the best of each target and a random one among them,
    with their places."""
    selection, funnel = spectrum.selection, spectrum.selection.funnel
    hashed, targets = _hashed(selection, "a random one"), len(selection.targets)
    near = selection.num_selected + funnel["duplicate_text"] + funnel["over_max_per_group"] + _NEAR
    share = 200 / max(1, funnel["candidates"] - selection.num_selected)
    drawn = hashed < F.lit(int(min(1.0, share) * _GRAINS))
    lows = [spectrum.bins(KEY, t).above(near)[0] for t in range(targets)]
    few = selection.rejected(weights)
    few = few.where(drawn | may_reach(selection.noise(), selection.ranks(), lows))
    ids, kind = quoted(selection.pool.id_column), few.schema[selection.pool.id_column].dataType
    chance = F.array_repeat(-hashed.cast("double"), targets).alias("chance")
    log_weights = F.array(*_log_weights(selection)).alias("log_weight")
    rows = [F.array(*selection.keys()).alias("key"), log_weights]
    picked = functools.partial(best.best, orders={"key": number, "chance": 1})
    found = few.select(ids.alias("id"), NUM_TOKENS, *rows, chance).mapInArrow(
        picked, f"id {kind.simpleString()}, {NUM_TOKENS} bigint, key double, log_weight double, "
        "chance double, t int, by int, `order` double",
    )  # fmt: skip
    places = F.array(F.lit(_BELOW), F.lit(_BY_CHANCE))
    return found.withColumn("place", places[F.col("by")])


def _log_weights(selection: Selection) -> list[Column]:
    return [quoted(column_name(name)) for name in selection.targets]


def _bands(spectrum: Spectrum) -> dict[int, list[Band]]:
    documents_of = enumerate(spectrum.selection.num_documents)
    most = sorted(documents_of, key=lambda pair: (-pair[1], pair[0]))
    found: dict[int, list[Band]] = {}
    for t, wanted in sorted(pair for pair in most[:_CURVES] if pair[1]):
        found[t], before = [], 0
        for size in sorted({max(1, round(wanted * step)) for step in _STEPS}):
            low, documents = spectrum.bins(KEY, t).above(size)
            if documents > before:
                found[t].append((low, documents - before))
                before = documents
    return {t: own for t, own in found.items() if own}


def _banded(selection: Selection, bands: Mapping[int, Sequence[Band]]) -> list[Column]:
    """The places of a sample of each band."""
    each = CURVE_DOCUMENTS / min(_CURVES, len(selection.targets)) / len(_STEPS)
    hashed, keys, places = _hashed(selection, "curve"), selection.keys(), []
    for t, own in bands.items():
        place = F.lit(None).cast("string")
        for i, (low, documents) in reversed(list(enumerate(own))):
            share = F.lit(int(min(1.0, each / documents) * _GRAINS))
            drawn = F.when(hashed < share, F.lit(str(i)))
            place = F.when(keys[t] >= F.lit(low), drawn).otherwise(place)
        places.append(_place(F.lit(t), place, F.lit(0.0)))
    return places


def details(
    model: Model, spectrum: Spectrum, picked: Picked, read: Documents,
    target_texts: Mapping[str, Sequence[bytes]],
) -> list[dict[str, Any]]:  # fmt: skip
    """Of each target, as JSON has it.

    weights: histogram and cut. lengths: tokens, rank, and whether selected, of some documents of
    the sample. curve: KL reduction of the best so many documents. up, down: buckets with the
    n-grams found in `sampled` texts. examples: with what each piece of a text adds to its weight.
    """
    selection, sample = spectrum.selection, spectrum.sample
    of_raw = [read.texts[i] for i in sample.ids[: texts.TEXTS] if i in read.texts]
    moving, spec = texts.drivers(model, of_raw, target_texts), spec_of(model.config)
    chosen = {i for t in range(len(selection.targets)) for i in picked.ids(t, _CHOSEN)}
    drawn = range(0, len(sample.ids), max(1, len(sample.ids) // _POINTS))
    found = []
    for t, (name, ratio) in enumerate(model.log_ratio.items()):
        label, cut = _label(selection, t), selection.cuts[t].key
        if matched(selection) or (cut is not None and not np.isfinite(cut)):
            cut = None  # one key does not tell
        points = [
            (int(sample.num_tokens[i]), float(sample.ranks[i, t]), sample.ids[i] in chosen)
            for i in drawn
        ]
        examples = []
        for place, row in ((p, row) for p in PLACES for row in picked.rows.get((t, p), ())):
            text = arrow.decoded(read.texts.get(row["id"], b""))
            pieces = texts.pieces(text[:_EXCERPT], ratio, spec)
            examples.append({
                "place": place, "id": str(row["id"]), "log_weight": row["log_weight"],
                "key": row["key"] if np.isfinite(row["key"]) else None,
                "num_tokens": row["num_tokens"], "pieces": pieces, "more": len(text) > _EXCERPT,
                "largest": max((abs(part) for _, part in pieces), default=0.0),
            })  # fmt: skip
        found.append({
            "weights": {**spectrum.histogram(t), "label": label, "cut": cut},
            "lengths": {"label": label, "points": points},
            "curve": _curve(model, name, t, picked, read),
            "sampled": len(of_raw) + len(target_texts.get(name, ())),
            "examples": examples, **moving[name],
        })  # fmt: skip
    return found


def _label(selection: Selection, t: int) -> str:
    label, temperature = "log weight (nats)", selection.temperatures[t]
    if matched(selection):
        return label
    if getattr(selection.options, "normalize", "none") == "ngram":
        label = "mean log ratio (nats an n-gram)"
    return label if temperature == 1.0 else f"{label} / {temperature:.3g}"


def _curve(
    model: Model, name: str, t: int, picked: Picked, read: Documents
) -> list[dict[str, float]]:  # fmt: skip
    """The sample of a band stands for it."""
    total, number, counted, curve = np.zeros(read.num_buckets), 0, 0, []
    for i, (_, candidates) in enumerate(picked.bands.get(t, ())):
        ids = picked.ids(t, str(i))
        if not ids:
            break
        number += candidates
        own = read.total(ids)
        total, counted = total + own * (candidates / len(ids)), counted + int(own.sum())
        kl = kl_reduction(model.targets[name].counts, model.raw.counts, total, counted)
        if kl is not None:
            curve.append({"documents": number, "kl_reduction": kl})
    return curve
