"""The passes over text: Arrow functions that Spark runs where the data is.

Each takes a frame and gives a lazy frame; what is computed per batch is in `features`. Spark ships
batches by rows (10,000 by default), however long the texts. The kernels read them in place and in
blocks, so what is needed beyond the batch itself is a few numbers a row.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark import explain, features, matched
from dsir_spark.columns import quoted
from dsir_spark.config import FeatureSpec
from dsir_spark.copies import TEXT_HASH
from dsir_spark.resample import NUM_TOKENS, QUALITY

Float64 = np.ndarray[Any, np.dtype[np.float64]]
Int64 = np.ndarray[Any, np.dtype[np.int64]]

# What Arrow carries to Python and back as it is, in every version of Spark.
_PLAIN = (T.StringType, T.BinaryType, T.BooleanType, T.NumericType, T.DateType, T.TimestampType)

CHUNK_ID = "chunk_id"
CHUNK_COLUMNS = (CHUNK_ID, "chunk", "num_chunks", "chunk_start", "chunk_end")

# Keys of `bucket_counts` below 0 are facts about the documents, not buckets.
DOCUMENTS, NULL, BLANK, TOKENS = -1, -2, -3, -4


def content_id(text: Column) -> Column:
    """An id made from the text: 32 hex digits of two independent 64-bit hashes; null for null."""
    two = F.concat(F.hex(F.xxhash64(F.lit(1), text)), F.hex(F.xxhash64(F.lit(2), text)))
    return F.when(text.isNotNull(), F.lower(two))


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


def with_scores(
    df: DataFrame,
    text_column: str,
    tables: np.ndarray[Any, np.dtype[np.float64]],
    names: list[str],
    spec: FeatureSpec,
    unicode_version: str,
    finish: Callable[[Float64, Int64], Float64] | None = None,
    *,
    text_hash: bool = False,
    quality: bool = False,
    keep: Sequence[str] | None = None,
) -> DataFrame:
    """`df` with a double column for each table and `num_tokens`; all null where the text is null.

    Only the text column goes to Python, and only the numbers come back: what is not asked for
    later is not even read. Where it is said what will be asked for (`keep`), not the text, and of
    plain types, those columns go along instead, which spares Spark to hold each text until its
    numbers are back: about a quarter of its part of the work.

    Parameters
    ----------
    tables : float64[num_buckets, T]
    names : T column names
    finish : from sums float64[n, T] and tokens int64[n] to the columns, float64[n, len(names)], if
        they are not the sums themselves
    text_hash, quality : add the columns TEXT_HASH, QUALITY, of the same pass
    keep : columns of `df` that the result has, all of which will be read; by default every one
    """
    fields = [T.StructField(f"s{t}", T.DoubleType()) for t in range(len(names))]
    whole = ["n", *(["h0", "h1"] if text_hash else []), *(QUALITY if quality else [])]
    fields += [T.StructField(name, T.LongType()) for name in whole]

    def score(texts: pa.Array) -> pa.Array:
        warn_of_other_unicode(unicode_version)
        totals, num_tokens = features.score(texts, tables, spec)
        totals = totals if finish is None else finish(totals, num_tokens)
        missing = texts.is_null().to_numpy(zero_copy_only=False)
        columns = [pa.array(totals[:, t], mask=missing) for t in range(len(names))]
        whole = [num_tokens]
        if text_hash:
            hashes = features.text_hashes(texts)
            whole += [hashes[:, 0], hashes[:, 1]]
        if quality:
            facts = features.quality_facts(texts)
            whole += [getattr(facts, name) for name in QUALITY]
        columns += [pa.array(column, mask=missing) for column in whole]
        return pa.StructArray.from_arrays(columns, names=[f.name for f in fields])

    given = df.schema
    kept = list(df.columns if keep is None else keep)
    # Text that comes back from Python in bulk may hang on Spark 4.2: see CONTRIBUTING.md.
    together = text_column not in kept and all(isinstance(given[c].dataType, _PLAIN) for c in kept)
    if together:

        def score_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                *others, texts = batch.columns
                columns = [*others, score(texts)]
                yield pa.RecordBatch.from_arrays(columns, names=[*kept, "__dsir"])

        schema = T.StructType([given[c] for c in kept])
        schema = schema.add("__dsir", T.StructType(fields))
        # mapInArrow looks its columns up by unquoted names: of the user's, one may hold a dot.
        numbered = [quoted(c).alias(f"c{i}") for i, c in enumerate((*kept, text_column))]
        inner = df.select(*numbered).mapInArrow(score_rows, schema)
    else:
        scored = _text_udf(score, T.StructType(fields))(quoted(text_column))
        inner = df.select(*[quoted(c) for c in kept], scored.alias("__dsir"))
    results = [F.col(f"__dsir.s{t}").alias(name) for t, name in enumerate(names)]
    results.append(F.col("__dsir.n").alias(NUM_TOKENS))
    if text_hash:
        halves = F.struct(F.col("__dsir.h0").alias("high"), F.col("__dsir.h1").alias("low"))
        results.append(F.when(F.col("__dsir.n").isNotNull(), halves).alias(TEXT_HASH))
    if quality:
        results += [F.col(f"__dsir.{name}").alias(name) for name in QUALITY]
    return inner.select(*[quoted(c) for c in kept], *results)


def chunked(df: DataFrame, text_column: str, id_column: str, words: int) -> DataFrame:
    """A row for each chunk of each text: the chunk in place of the text, and where it is from.

    Adds CHUNK_ID (string; the document's id, #, the number), `chunk` (int, from 0), `num_chunks`
    (int), `chunk_start` and `chunk_end` (bigint, characters). A null text is one chunk, null.
    """
    fields = [
        T.StructField("starts", T.ArrayType(T.LongType())),
        T.StructField("ends", T.ArrayType(T.LongType())),
        T.StructField("texts", T.ArrayType(T.StringType())),
    ]

    def cut(texts: pa.Array) -> pa.Array:
        found = features.chunks(texts, words)
        return pa.StructArray.from_arrays(list(found), names=[f.name for f in fields])

    made = _text_udf(cut, T.StructType(fields))
    others = [quoted(c) for c in df.columns if c != text_column]
    inner = df.select(*others, made(quoted(text_column)).alias("__dsir"))
    rows = inner.select(
        *others,
        F.coalesce(F.size("__dsir.texts"), F.lit(1)).alias("num_chunks"),
        F.posexplode_outer(
            F.arrays_zip(
                F.col("__dsir.starts").alias("start"), F.col("__dsir.ends").alias("end"),
                F.col("__dsir.texts").alias("text"),
            )
        ).alias("__at", "__chunk"),
    )  # fmt: skip
    at = F.coalesce(F.col("__at"), F.lit(0))
    columns = {c: quoted(c) for c in df.columns}
    columns[text_column] = F.col("__chunk.text").alias(text_column)
    return rows.select(
        F.concat(quoted(id_column).cast("string"), F.lit("#"), at.cast("string")).alias(CHUNK_ID),
        *columns.values(),
        at.alias("chunk"),
        "num_chunks",
        F.col("__chunk.start").alias("chunk_start"),
        F.col("__chunk.end").alias("chunk_end"),
    )


def terms(
    df: DataFrame, id_column: str, text_column: str, log_ratio: dict[str, Float64],
    spec: FeatureSpec,
) -> DataFrame:  # fmt: skip
    """A row for each n-gram of each text, in order: id (as a string), `explain.Term`, log ratios.

    log_ratio : name of a column -> float64[num_buckets]
    """

    def split(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for id_of, text in zip(batch.column(0), batch.column(1), strict=True):
                if not text.is_valid:
                    continue
                found = explain.terms(text.as_py(), nothing, spec)
                buckets = np.array([t.bucket for t in found], np.int64)
                yield pa.RecordBatch.from_arrays(
                    [
                        pa.array([id_of.as_py()] * len(found), pa.string()),
                        pa.array([t.position for t in found], pa.int32()),
                        pa.array([t.length for t in found], pa.int32()),
                        pa.array([t.ngram for t in found], pa.string()),
                        pa.array(buckets, pa.int32()),
                        *[pa.array(r[buckets]) for r in log_ratio.values()],
                    ],
                    names=["id", "position", "length", "ngram", "bucket", *log_ratio],
                )

    nothing = np.zeros(spec.num_buckets)
    columns = ", ".join(f"`{name}` double" for name in log_ratio)
    schema = f"id string, position int, length int, ngram string, bucket int, {columns}"
    ids, texts = (quoted(c).cast("string") for c in (id_column, text_column))
    return df.select(ids.alias("id"), texts.alias("text")).mapInArrow(split, schema)


def with_ngram_counts(df: DataFrame, text_column: str, spec: FeatureSpec) -> DataFrame:
    """`df` with `indices` and `counts` (array<int>): each text's sparse count vector."""
    entries = T.ArrayType(T.IntegerType(), containsNull=True)
    fields = [T.StructField("indices", entries), T.StructField("counts", entries)]

    def vectors(texts: pa.Array) -> pa.Array:
        indices, counts = features.sparse_counts(texts, spec)
        return pa.StructArray.from_arrays([indices, counts], names=["indices", "counts"])

    vector = _text_udf(vectors, T.StructType(fields))
    kept = [quoted(c) for c in df.columns]
    inner = df.select(*kept, vector(quoted(text_column)).alias("__dsir"))
    return inner.select(*kept, F.col("__dsir.indices"), F.col("__dsir.counts"))


def bucket_counts(
    texts: dict[str, Column], frames: dict[str, DataFrame], spec: FeatureSpec, min_tokens: int = 0
) -> dict[str, tuple[np.ndarray[Any, np.dtype[np.int64]], dict[int, int]]]:
    """Exact bucket counts of several frames in one job, and facts about their documents.

    Counts are summed on the executors; the driver receives num_buckets rows a frame at most.

    Returns
    -------
    name -> (int64[num_buckets] n-grams, {DOCUMENTS, NULL, BLANK, TOKENS -> int})
    """

    parts = [
        frame.select(F.lit(name).alias("name"), texts[name].cast("string").alias("text"))
        for name, frame in frames.items()
    ]
    union = parts[0]
    for part in parts[1:]:
        union = union.union(part)
    return bucket_counts_by_name(union, list(frames), spec, min_tokens)


def bucket_counts_by_name(
    named: DataFrame, names: list[str], spec: FeatureSpec, min_tokens: int = 0
) -> dict[str, tuple[np.ndarray[Any, np.dtype[np.int64]], dict[int, int]]]:
    """`bucket_counts` of one frame with the columns `name` and `text`, by name."""

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = {}
        for batch in batches:
            for name, rows in _by_name(batch):
                found = features.count_ngrams(rows, spec, min_tokens)
                facts = [found.num_tokens, found.num_blank, found.num_null, found.num_documents]
                vector = np.concatenate([facts, found.counts])
                sums[name] = sums[name] + vector if name in sums else vector
        for name, vector in sums.items():
            used = np.flatnonzero(vector)
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([name] * len(used), pa.string()),
                    pa.array(used - 4),
                    pa.array(vector[used]),
                ],
                names=["name", "key", "count"],
            )

    sums = named.mapInArrow(count, "name string, key bigint, count bigint")
    rows = sums.groupBy("name", "key").agg(F.sum("count").alias("count")).collect()
    out: dict[str, tuple[np.ndarray[Any, np.dtype[np.int64]], dict[int, int]]] = {
        name: (
            np.zeros(spec.num_buckets, np.int64),
            dict.fromkeys((DOCUMENTS, NULL, BLANK, TOKENS), 0),
        )
        for name in names
    }
    for name, key, total in rows:
        if key < 0:
            out[name][1][key] = total
        else:
            out[name][0][key] = total
    return out


def score_histograms(
    texts: DataFrame, tables: Float64, spec: FeatureSpec, min_tokens: int
) -> list[matched.Histogram]:
    """Of the mean scores of documents of at least `min_tokens` tokens, for each table; one pass.

    texts : one string column
    tables : float64[num_buckets, K]
    """

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            scores, sizes = _mean_scores(batch.column(0), tables, spec, min_tokens)
            for k in range(tables.shape[1]):
                found, where = np.unique(matched.bins(scores[:, k]), return_inverse=True)
                low = np.full(len(found), np.inf)
                high = np.zeros(len(found))
                np.minimum.at(low, where, scores[:, k])
                np.maximum.at(high, where, scores[:, k])
                total = np.zeros(len(found), np.int64)
                np.add.at(total, where, sizes)
                columns = [np.full(len(found), k), found, np.bincount(where, minlength=len(found)),
                           total, low, high]  # fmt: skip
                yield pa.RecordBatch.from_arrays(
                    [pa.array(c) for c in columns],
                    names=["table", "bin", "documents", "ngrams", "low", "high"],
                )

    schema = "table bigint, bin bigint, documents bigint, ngrams bigint, low double, high double"
    rows = (
        texts.mapInArrow(count, schema)
        .groupBy("table", "bin")
        .agg(F.sum("documents"), F.sum("ngrams"), F.min("low"), F.max("high"))
        .collect()
    )
    found: list[dict[int, tuple[int, int, float, float]]] = [{} for _ in range(tables.shape[1])]
    for k, at, documents, ngrams, low, high in rows:
        found[k][at] = (documents, ngrams, low, high)
    return list(found)


def counts_above(
    texts: DataFrame, tables: Float64, thresholds: Float64, spec: FeatureSpec, min_tokens: int
) -> list[Int64]:
    """Bucket counts, int64[num_buckets], of the documents that score at least thresholds[k]."""

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums = np.zeros((len(thresholds), spec.num_buckets), np.int64)
        for batch in batches:
            long_enough, scores, _ = _scored_documents(batch.column(0), tables, spec, min_tokens)
            for k, threshold in enumerate(thresholds):
                own = long_enough.take(pa.array(np.flatnonzero(scores[:, k] >= threshold)))
                sums[k] += features.count_ngrams(own, spec).counts
        for k in range(len(thresholds)):
            used = np.flatnonzero(sums[k])
            yield pa.RecordBatch.from_arrays(
                [pa.array(np.full(len(used), k)), pa.array(used), pa.array(sums[k][used])],
                names=["table", "bucket", "count"],
            )

    summed = texts.mapInArrow(count, "table bigint, bucket bigint, count bigint")
    out = [np.zeros(spec.num_buckets, np.int64) for _ in thresholds]
    for k, bucket, total in summed.groupBy("table", "bucket").agg(F.sum("count")).collect():
        out[k][bucket] = total
    return out


def _scored_documents(
    texts: pa.Array, tables: Float64, spec: FeatureSpec, min_tokens: int
) -> tuple[pa.Array, Float64, Int64]:
    """Those of at least `min_tokens` tokens, their mean scores [n, K] and n-grams [n]."""
    totals, num_tokens = features.score(texts, tables, spec)
    long_enough = num_tokens >= max(1, min_tokens)
    sizes = matched.num_ngrams(num_tokens[long_enough], spec.ngrams)
    return (
        texts.filter(pa.array(long_enough)), matched.means(totals[long_enough], sizes), sizes
    )  # fmt: skip


def _mean_scores(
    texts: pa.Array, tables: Float64, spec: FeatureSpec, min_tokens: int
) -> tuple[Float64, Int64]:
    _, scores, sizes = _scored_documents(texts, tables, spec, min_tokens)
    return scores, sizes


def _by_name(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.Array]]:
    """The texts of each name; a batch comes from one partition, so nearly always there is one."""
    names = batch.column(0).dictionary_encode()
    if len(names.dictionary) == 1:
        yield names.dictionary[0].as_py(), batch.column(1)
        return
    codes = names.indices.to_numpy()
    for code, name in enumerate(names.dictionary.to_pylist()):
        yield name, batch.column(1).take(pa.array(np.flatnonzero(codes == code)))


def _text_udf(function: Callable[[pa.Array], pa.Array], returns: T.StructType) -> Any:
    """`function` as a scalar function of Spark on one text column, its result a struct.

    Marked non-deterministic, which it is not: otherwise the optimiser copies it into every filter
    on its results, and each copy is another pass over the text.
    """
    try:
        from pyspark.sql.functions import arrow_udf  # type: ignore[attr-defined, unused-ignore]
    except ImportError:  # Spark before 4.1
        return _pandas_text_udf(function, returns)
    return arrow_udf(function, returns).asNondeterministic()


def _pandas_text_udf(function: Callable[[pa.Array], pa.Array], returns: T.StructType) -> Any:
    """The same through pandas, with texts as bytes: text that is no UTF-8 would fail in pandas."""
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

    def through_pandas(texts: pd.Series) -> pd.DataFrame:
        found = function(pa.array(texts, pa.large_binary(), from_pandas=True))
        return pa.Table.from_struct_array(found).to_pandas(integer_object_nulls=True)

    # Not annotations: pandas is no dependency of the package, and Spark resolves them.
    through_pandas.__annotations__ = {"texts": pd.Series, "return": pd.DataFrame}
    udf = F.pandas_udf(through_pandas, returns).asNondeterministic()  # type: ignore[attr-defined]
    return lambda column: udf(column.cast("binary"))
