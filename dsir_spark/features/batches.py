"""What Spark runs where the data is: Arrow batches of text in, Arrow batches of numbers out.

Module-level functions only, with all that they need as arguments: bound by `functools.partial` they
are shipped by name, and an executor imports this wing and nothing else of the package. Each takes
an iterator of record batches (`mapInArrow`), or one array of texts (`arrow_udf`). Columns of text
are string or binary; binary keeps bytes that are no UTF-8 on their way, which the kernels read as
U+FFFD.
"""

from __future__ import annotations

import gc
import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from dsir_spark.features import arrow, chunking
from dsir_spark.features import terms as ngram_terms
from dsir_spark.features.decontamination import Decontamination
from dsir_spark.features.quality import QUALITY
from dsir_spark.features.spec import FeatureSpec, Float64, Int64

Batches = Iterable[pa.RecordBatch]

# Keys of `count` below 0 are facts about the documents, not buckets.
DOCUMENTS, NULL, BLANK, TOKENS = -1, -2, -3, -4

STRUCT = "__dsir"  # the column of `score_rows` that holds what `score_struct` returns
BY = "by"  # its field of the text that a document shares an n-gram with


def warn_of_other_unicode(fitted: str) -> None:
    """Warn where this process splits texts by other Unicode tables than those of the fit."""
    here = unicodedata.unidata_version
    if here != fitted:
        warnings.warn(
            f"the model was fitted with Unicode {fitted}, this Python has Unicode {here}: texts "
            "with characters that changed in between may get other weights; use one Python version",
            UserWarning,
            stacklevel=2,
        )


def num_ngrams(num_tokens: Int64, ngrams: int) -> Int64:
    """N-grams of 1 to `ngrams` tokens in documents of so many tokens, int64[n]."""
    longest = np.minimum(num_tokens, ngrams)
    return np.asarray(longest * (2 * num_tokens - longest + 1) // 2)


def means(totals: Float64, sizes: Int64) -> Float64:
    """Means, float64[n, T], of sums float64[n, T] over so many n-grams (int64[n]); 0 of none."""
    return np.asarray(totals / np.maximum(sizes, 1)[:, None])


@dataclass(frozen=True)
class Output:
    """One double column, made of one or more adjacent tables of a `Scoring`.

    kind : "sum", of the first table's numbers over the document's n-grams; "mean", the sum by the
        number of n-grams, 0 of none; or "steps": over the K tables from the first on, the sum of
        k + 1 (k = 0, 1, ...) for each table whose mean is at least `thresholds[k]`
    first : number of the first table
    thresholds : of steps, K numbers; a tuple, so that outputs compare
    intercept : added to a sum or mean
    """

    kind: Literal["sum", "mean", "steps"]
    first: int
    thresholds: tuple[float, ...] = ()
    intercept: float = 0.0


@dataclass(frozen=True, eq=False)
class Scoring:
    """How tables of numbers by bucket become score columns.

    tables : float64[num_buckets, T], C order
    outputs : one for each column
    """

    tables: Float64
    outputs: tuple[Output, ...]

    def apply(self, texts: pa.Array, spec: FeatureSpec) -> tuple[Float64, Int64]:
        """Scores, float64[n, len(outputs)], and tokens, int64[n], of n texts; 0 for nulls."""
        totals, num_tokens = arrow.score(texts, self.tables, spec)
        averages = means(totals, num_ngrams(num_tokens, spec.ngrams))
        columns = np.empty((len(texts), len(self.outputs)))
        for i, output in enumerate(self.outputs):
            if output.kind == "sum":
                columns[:, i] = totals[:, output.first] + output.intercept
            elif output.kind == "mean":
                columns[:, i] = averages[:, output.first] + output.intercept
            else:
                size = len(output.thresholds)
                passed = averages[:, output.first : output.first + size] >= output.thresholds
                columns[:, i] = passed @ np.arange(1, size + 1)
        return columns, num_tokens


def score_fields(num_outputs: int, text_hash: bool = False, quality: bool = False) -> list[str]:
    """Names of the numbers of `score_struct`: the first `num_outputs` double, all others bigint."""
    names = [*[f"s{i}" for i in range(num_outputs)], "n"]
    return [*names, *(["h0", "h1"] if text_hash else []), *(QUALITY if quality else [])]


def score_struct(
    texts: pa.Array,
    scoring: Scoring,
    spec: FeatureSpec,
    unicode_version: str,
    text_hash: bool = False,
    quality: bool = False,
    decontamination: Decontamination | None = None,
) -> pa.StructArray:
    """Scores and facts of each text, the fields named by `score_fields`; all null for a null text.

    s0, s1, ... : double, the columns of `scoring`
    n : int64, tokens
    h0, h1 : int64, the halves of `text_hashes`, if asked for
    QUALITY : int64 each, if asked for
    BY : string, `contaminated_by` of a decontamination, if one is given; the last field
    """
    warn_of_other_unicode(unicode_version)
    scores, num_tokens = scoring.apply(texts, spec)
    columns = [*scores.T, num_tokens]
    if text_hash:
        columns += [*arrow.text_hashes(texts).T]
    if quality:
        facts = arrow.quality_facts(texts)
        columns += [getattr(facts, name) for name in QUALITY]
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    names = score_fields(len(scoring.outputs), text_hash, quality)
    fields = [pa.array(c, mask=missing) for c in columns]
    if decontamination is not None:
        fields.append(decontamination.contaminated_by(texts, spec.tokenizer))
        names.append(BY)
    return pa.StructArray.from_arrays(fields, names=names)


def score_rows(batches: Batches, kept: Sequence[str], **facts: Any) -> Iterator[pa.RecordBatch]:
    """The other columns, under the names `kept`, and `score_struct` of the last one, as STRUCT.

    facts : what `score_struct` takes besides texts
    """
    for batch in batches:
        *others, texts = batch.columns
        found = score_struct(texts, **facts)
        yield pa.RecordBatch.from_arrays([*others, found], names=[*kept, STRUCT])


def count(batches: Batches, spec: FeatureSpec) -> Iterator[pa.RecordBatch]:
    """Bucket counts of a partition's documents, by name: name (string), key, count (bigint).

    batches : of the columns name (string) and text

    A key of 0 or more is a bucket and its count n-grams; DOCUMENTS, NULL and BLANK count documents
    read, without a text, and without a token; TOKENS counts tokens. One batch a name, at the end.
    """
    sums: dict[str, Int64] = {}
    for batch in batches:
        for name, rows in _by_name(batch):
            found = arrow.count_ngrams(rows, spec)
            # In the order of the keys, which begin at TOKENS, the smallest.
            facts = [found.num_tokens, found.num_blank, found.num_null, found.num_documents]
            vector = np.concatenate([facts, found.counts])
            sums[name] = sums[name] + vector if name in sums else vector
    for name, vector in sums.items():
        used = np.flatnonzero(vector)
        yield pa.RecordBatch.from_pydict({
            "name": pa.array([name] * len(used), pa.string()), "key": used + TOKENS,
            "count": vector[used],
        })  # fmt: skip


def _by_name(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.Array]]:
    """The texts of each name; a batch comes from one partition, so nearly always there is one."""
    names = batch.column(0).dictionary_encode()
    if len(names.dictionary) == 1:
        yield names.dictionary[0].as_py(), batch.column(1)
        return
    codes = names.indices.to_numpy()
    for code, name in enumerate(names.dictionary.to_pylist()):
        yield name, batch.column(1).take(pa.array(np.flatnonzero(codes == code)))


def bins(scores: Float64) -> Int64:
    """Bin of each score (>= 0), int64[n]: the leading bits of the number itself.

    4,096 bins from a score to its double. Not by a logarithm, whose last bit differs between
    processors.
    """
    return np.ascontiguousarray(scores).view(np.int64) >> 40


def binned(scores: Float64, sizes: Int64) -> tuple[Int64, Int64, Int64, Float64, Float64]:
    """Of n scores (float64[n], >= 0) of documents of int64[n] n-grams, the `bins` that are not
    empty, rising, and of each the documents, their n-grams, the least and the largest score.

    No sort: bins are whole numbers, some 100,000 from the least score above 0 to the largest.
    """
    scores = np.ascontiguousarray(scores)
    at = bins(scores)
    first = int(at[at > 0].min(initial=1 << 24)) - 1  # bin 0 is those without an n-gram
    at = np.maximum(at - first, 0)
    documents = np.bincount(at)
    # Exact: there are fewer than 2^53 n-grams.
    ngrams = np.bincount(at, sizes, len(documents)).astype(np.int64)
    low, high = np.full(len(documents), np.inf), np.zeros(len(documents))
    np.minimum.at(low, at, scores)
    np.maximum.at(high, at, scores)
    there = np.flatnonzero(documents)
    found = np.where(there > 0, there + first, 0)
    return found, documents[there], ngrams[there], low[there], high[there]


def histograms(
    batches: Batches, tables: Float64, spec: FeatureSpec, min_tokens: int
) -> Iterator[pa.RecordBatch]:
    """Histograms of mean scores under each table, of documents of at least `min_tokens` tokens.

    batches : of one column, the texts
    tables : float64[num_buckets, K]

    A batch for each table and batch: table, bin (`bins`), documents, ngrams (bigint), low and high
    (double, the least and largest score in the bin). What has one table and bin adds up.
    """
    for batch in batches:
        _, scores, sizes = _scored(batch.column(0), tables, spec, min_tokens)
        for k in range(tables.shape[1]):
            at, documents, ngrams, low, high = binned(scores[:, k], sizes)
            yield pa.RecordBatch.from_pydict({
                "table": np.full(len(at), k), "bin": at, "documents": documents,
                "ngrams": ngrams, "low": low, "high": high,
            })  # fmt: skip


def counts_above(
    batches: Batches, tables: Float64, thresholds: Float64, spec: FeatureSpec, min_tokens: int
) -> Iterator[pa.RecordBatch]:
    """N-grams by bucket of the documents whose mean score under table k is >= thresholds[k].

    batches, tables : as in `histograms`
    thresholds : float64[K]

    A batch for each table, at the end: table, bucket, count (bigint).
    """
    sums = np.zeros((len(thresholds), spec.num_buckets), np.int64)
    for batch in batches:
        texts, scores, _ = _scored(batch.column(0), tables, spec, min_tokens)
        for k, threshold in enumerate(thresholds):
            own = texts.take(pa.array(np.flatnonzero(scores[:, k] >= threshold)))
            sums[k] += arrow.count_ngrams(own, spec).counts
    for k in range(len(thresholds)):
        used = np.flatnonzero(sums[k])
        yield pa.RecordBatch.from_pydict(
            {"table": np.full(len(used), k), "bucket": used, "count": sums[k][used]}
        )


def _scored(
    texts: pa.Array, tables: Float64, spec: FeatureSpec, min_tokens: int
) -> tuple[pa.Array, Float64, Int64]:
    """Those of at least `min_tokens` (and 1) tokens, their mean scores [n, K] and n-grams [n]."""
    totals, num_tokens = arrow.score(texts, tables, spec)
    long_enough = num_tokens >= max(1, min_tokens)
    sizes = num_ngrams(num_tokens[long_enough], spec.ngrams)
    return texts.filter(pa.array(long_enough)), means(totals[long_enough], sizes), sizes


def cut_chunks(texts: pa.Array, size: int, tokenizer: str) -> pa.StructArray:
    """`chunking.chunks` as a struct: starts, ends (list<int64>) and texts (list<string>)."""
    return pa.StructArray.from_arrays(
        list(chunking.chunks(texts, size, tokenizer)), names=["starts", "ends", "texts"]
    )


def vectors(texts: pa.Array, spec: FeatureSpec) -> pa.StructArray:
    """Each text's sparse count vector as a struct: indices and counts (list<int32> both)."""
    return pa.StructArray.from_arrays(
        list(arrow.sparse_counts(texts, spec)), names=["indices", "counts"]
    )


def terms(
    batches: Batches, log_ratios: Mapping[str, Float64], spec: FeatureSpec
) -> Iterator[pa.RecordBatch]:
    """A row for each n-gram of each text, in the order in which their log ratios are added.

    batches : of the columns id (string) and text
    log_ratios : name of a column -> float64[num_buckets]

    id (string), position and length (int, tokens), ngram (string), bucket (int), and a double for
    each of `log_ratios`; nothing for a null text.
    """
    nothing = np.zeros(spec.num_buckets)
    for batch in batches:
        texts = batch.column(1).cast(pa.large_binary())
        for id_of, text in zip(batch.column(0), texts, strict=True):
            if not text.is_valid:
                continue
            found = ngram_terms.terms(text.as_py(), nothing, spec)
            buckets = np.array([t.bucket for t in found], np.int64)
            yield pa.RecordBatch.from_pydict({
                "id": pa.array([id_of.as_py()] * len(found), pa.string()),
                "position": pa.array([t.position for t in found], pa.int32()),
                "length": pa.array([t.length for t in found], pa.int32()),
                "ngram": pa.array([t.ngram for t in found], pa.string()),
                "bucket": pa.array(buckets, pa.int32()),
                **{name: ratio[buckets] for name, ratio in log_ratios.items()},
            })  # fmt: skip


if "PYTHON_WORKER_FACTORY_SECRET" in os.environ:
    # A worker of Spark collects garbage after each task, and the next task waits for it: of
    # fifty thousand objects of numba and Arrow, which all stay. Frozen, they are not looked at.
    gc.freeze()
