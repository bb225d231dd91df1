"""The passes over text: functions of `features.batches` that Spark runs where the data is.

Each takes a frame and gives a lazy frame. Spark ships batches by rows (10,000 by default), however
long the texts; the kernels read them in place, so what is needed beyond a batch is a few numbers a
row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark.columns import (
    CHUNK_ID,
    CONTAMINATED_BY,
    NUM_TOKENS,
    TEXT_HASH,
    found,
    quality_columns,
    quoted,
)
from dsir_spark.features import Decontamination, FeatureSpec, batches
from dsir_spark.features.batches import STRUCT, Scoring
from dsir_spark.scoring.distributions import Float64

# What Arrow carries to Python and back as it is, in every version of Spark.
_PLAIN = (T.StringType, T.BinaryType, T.BooleanType, T.NumericType, T.DateType, T.TimestampType)


def with_scores(
    df: DataFrame,
    text_column: str,
    scoring: Scoring,
    names: Sequence[str],
    spec: FeatureSpec,
    unicode_version: str,
    *,
    text_hash: bool = False,
    quality: bool = False,
    decontamination: Decontamination | None = None,
    keep: Sequence[str] | None = None,
) -> DataFrame:
    """`df` with a double column for each score and NUM_TOKENS; all null where the text is null.

    Only the text column goes to Python, and only the numbers come back: what is not asked for
    later is not even read. Where it is said what will be asked for (`keep`), not the text, and of
    plain types, those columns go along instead, which spares Spark to hold each text until its
    numbers are back: about a quarter of its part of the work.

    Parameters
    ----------
    names : of the columns of `scoring`
    unicode_version : of the fit; another one is warned of, here and on the executors
    text_hash, quality, decontamination : add TEXT_HASH, `quality_columns`, CONTAMINATED_BY
    keep : columns of `df` that the result has, all of which will be read; by default every one
    """
    batches.warn_of_other_unicode(unicode_version)
    text_column = found(df, text_column) or text_column
    kept = list(df.columns if keep is None else keep)
    fields = batches.score_fields(len(names), text_hash, quality)
    struct = T.StructType()
    for i, name in enumerate(fields):
        struct.add(name, T.DoubleType() if i < len(names) else T.LongType())
    struct = struct if decontamination is None else struct.add(batches.BY, T.StringType())
    facts: dict[str, Any] = {
        "scoring": scoring, "spec": spec, "unicode_version": unicode_version,
        "text_hash": text_hash, "quality": quality, "decontamination": decontamination,
    }  # fmt: skip
    given = df.schema
    # Text that comes back from Python in bulk may hang on Spark 4.2: see CONTRIBUTING.md.
    if text_column not in kept and all(isinstance(given[c].dataType, _PLAIN) for c in kept):
        # mapInArrow looks its columns up by unquoted names: of the user's, one may hold a dot.
        numbered = [quoted(c).alias(f"c{i}") for i, c in enumerate((*kept, text_column))]
        score = partial(batches.score_rows, kept=tuple(kept), **facts)
        schema = T.StructType([given[c] for c in kept]).add(STRUCT, struct)
        inner = df.select(*numbered).mapInArrow(score, schema)
    else:
        score = _text_udf(partial(batches.score_struct, **facts), struct)
        inner = df.select(*[quoted(c) for c in kept], score(quoted(text_column)).alias(STRUCT))
    part = {name: F.col(f"{STRUCT}.{name}") for name in struct.names}
    added = [part[f].alias(name) for f, name in zip(fields, (*names, NUM_TOKENS), strict=False)]
    if text_hash:
        halves = F.struct(part["h0"].alias("high"), part["h1"].alias("low"))
        added.append(F.when(part["n"].isNotNull(), halves).alias(TEXT_HASH))
    if quality:
        added += [part[name].alias(name) for name in quality_columns(spec.tokenizer)]
    if decontamination is not None:
        added.append(part[batches.BY].alias(CONTAMINATED_BY))
    return inner.select(*[quoted(c) for c in kept], *added)


def chunked(
    df: DataFrame, text_column: str, id_column: str, size: int, tokenizer: str
) -> DataFrame:
    """A row for each chunk of each text: the chunk in place of the text, and where it is from.

    Adds CHUNK_ID (string; the document's id, #, the number), `chunk` (int, from 0), `num_chunks`
    (int), `chunk_start` and `chunk_end` (bigint, characters). A null text is one chunk, null.
    """
    text_column = found(df, text_column) or text_column
    struct = T.StructType()
    for name, kind in (("starts", T.LongType()), ("ends", T.LongType()), ("texts", T.StringType())):
        struct.add(name, T.ArrayType(kind))
    cut = _text_udf(partial(batches.cut_chunks, size=size, tokenizer=tokenizer), struct)
    others = [quoted(c) for c in df.columns if c != text_column]
    inner = df.select(*others, cut(quoted(text_column)).alias(STRUCT))
    starts, ends, texts = (F.col(f"{STRUCT}.{name}") for name in struct.names)
    zipped = F.arrays_zip(starts.alias("start"), ends.alias("end"), texts.alias("text"))
    rows = inner.select(
        *others,
        F.coalesce(F.array_size(texts), F.lit(1)).alias("num_chunks"),
        F.posexplode_outer(zipped).alias("__dsir_at", "__dsir_chunk"),
    )
    at = F.coalesce(F.col("__dsir_at"), F.lit(0))
    columns = {c: quoted(c) for c in df.columns}
    columns[text_column] = F.col("__dsir_chunk.text").alias(text_column)
    return rows.select(
        F.concat(quoted(id_column).cast("string"), F.lit("#"), at.cast("string")).alias(CHUNK_ID),
        *columns.values(),
        at.alias("chunk"),
        "num_chunks",
        F.col("__dsir_chunk.start").alias("chunk_start"),
        F.col("__dsir_chunk.end").alias("chunk_end"),
    )


def terms(
    df: DataFrame,
    id_column: str,
    text_column: str,
    log_ratios: Mapping[str, Float64],
    spec: FeatureSpec,
) -> DataFrame:
    """A row for each n-gram of each text, in order: id (string), position, length, ngram, bucket
    and log ratios, as `batches.terms` has them.

    log_ratios : name of a column -> float64[num_buckets]
    """
    split = partial(batches.terms, log_ratios=dict(log_ratios), spec=spec)
    columns = ", ".join(f"`{name}` double" for name in log_ratios)
    schema = f"id string, position int, length int, ngram string, bucket int, {columns}"
    ids, texts = (quoted(c).cast("string") for c in (id_column, text_column))
    return df.select(ids.alias("id"), texts.alias("text")).mapInArrow(split, schema)


def with_ngram_counts(df: DataFrame, text_column: str, spec: FeatureSpec) -> DataFrame:
    """`df` with `indices` and `counts` (array<int>): each text's sparse count vector."""
    entries = T.ArrayType(T.IntegerType())
    struct = T.StructType([T.StructField("indices", entries), T.StructField("counts", entries)])
    vector = _text_udf(partial(batches.vectors, spec=spec), struct)
    kept = [quoted(c) for c in df.columns]
    inner = df.select(*kept, vector(quoted(text_column)).alias(STRUCT))
    return inner.select(*kept, F.col(f"{STRUCT}.indices"), F.col(f"{STRUCT}.counts"))


def _text_udf(function: Callable[..., pa.StructArray], returns: T.StructType) -> Any:
    """`function` as a scalar function of Spark on one text column, its result a struct.

    Marked non-deterministic, which it is not: otherwise the optimiser copies it into every filter
    on its results, and each copy is another pass over the text.
    """
    try:
        from pyspark.sql.functions import arrow_udf  # type: ignore[attr-defined, unused-ignore]
    except ImportError:  # Spark before 4.1
        return _pandas_text_udf(function, returns)

    # Spark wants annotations, which a partial has not. Shipped by value, as it is no function of
    # this module, which an executor does not have.
    def on_texts(texts: pa.Array) -> pa.Array:
        return function(texts)

    on_texts.__annotations__ = {"texts": pa.Array, "return": pa.Array}
    return arrow_udf(on_texts, returns).asNondeterministic()


def _pandas_text_udf(function: Callable[..., pa.StructArray], returns: T.StructType) -> Any:
    """The same through pandas, with texts as bytes: text that is no UTF-8 would fail in pandas."""
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

    def through_pandas(texts: pd.Series) -> pd.DataFrame:
        found = function(pa.array(texts, pa.large_binary(), from_pandas=True))
        return pa.Table.from_struct_array(found).to_pandas(integer_object_nulls=True)

    # Not annotations: pandas is no dependency of the package, and Spark resolves them.
    through_pandas.__annotations__ = {"texts": pd.Series, "return": pd.DataFrame}
    udf = F.pandas_udf(through_pandas, returns).asNondeterministic()  # type: ignore[attr-defined]
    return lambda column: udf(column.cast("binary"))
