"""Exact bucket counts of sets of documents: what a model is made of, and selections are judged by.

Counts are summed on the executors: the driver receives num_buckets rows a set at most. They are
whole numbers and add up to the same whatever the partitioning, order or retries.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import quoted
from dsir_spark.features import FeatureSpec, NgramCounts, batches
from dsir_spark.local_rows import to_arrow
from dsir_spark.scoring.documents import united

BucketCounts = NgramCounts  # of a set of documents, wherever they are counted


def count(
    frames: Mapping[str, DataFrame], text_column: str, spec: FeatureSpec
) -> dict[str, BucketCounts]:
    """The counts of several frames, in one query."""
    text = quoted(text_column).cast("string").alias("text")
    parts = [frame.select(F.lit(name).alias("name"), text) for name, frame in frames.items()]
    return count_named(united(parts), list(frames), spec)


def count_named(
    named: DataFrame, names: Sequence[str], spec: FeatureSpec
) -> dict[str, BucketCounts]:
    """`count` of one frame with the columns `name` and `text` (string both), by name."""
    add = functools.partial(batches.count, spec=spec)
    sums = named.select("name", "text").mapInArrow(add, "name string, key bigint, count bigint")
    # Keys from TOKENS, the smallest, on: facts about the documents, then buckets.
    vectors = {name: np.zeros(spec.num_buckets - batches.TOKENS, np.int64) for name in names}
    found = to_arrow(sums.groupBy("name", "key").agg(F.sum("count").alias("count")))
    keys, totals = (found.column(column).to_numpy() for column in ("key", "count"))
    of = found.column("name").combine_chunks().dictionary_encode()
    for code, name in enumerate(of.dictionary.to_pylist()):
        own = of.indices.to_numpy() == code
        vectors[name][keys[own] - batches.TOKENS] = totals[own]
    facts = (batches.DOCUMENTS, batches.NULL, batches.BLANK, batches.TOKENS)
    return {
        name: BucketCounts(
            vector[-batches.TOKENS :], *(int(vector[key - batches.TOKENS]) for key in facts)
        )
        for name, vector in vectors.items()
    }
