"""Exact bucket counts of sets of documents: what a model is made of, and selections are judged by.

Counts are summed on the executors: the driver receives num_buckets rows a set at most. They are
whole numbers and add up to the same whatever the partitioning, order or retries.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import quoted
from dsir_spark.features import FeatureSpec, batches

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BucketCounts:
    """Facts about one set of documents: n-grams by bucket (int64[num_buckets]) and totals.

    num_documents : documents read, of which `num_null` without text and `num_blank` without a token
    num_tokens : tokens of the documents counted
    """

    counts: Int64
    num_documents: int
    num_null: int
    num_blank: int
    num_tokens: int

    @property
    def num_ngrams(self) -> int:
        """N-grams in all buckets."""
        return int(self.counts.sum())


def count(
    frames: Mapping[str, DataFrame], text_column: str, spec: FeatureSpec, min_tokens: int = 0
) -> dict[str, BucketCounts]:
    """The counts of several frames, in one query; of documents of at least `min_tokens` tokens."""
    text = quoted(text_column).cast("string").alias("text")
    parts = [frame.select(F.lit(name).alias("name"), text) for name, frame in frames.items()]
    return count_named(functools.reduce(DataFrame.union, parts), list(frames), spec, min_tokens)


def count_named(
    named: DataFrame, names: Sequence[str], spec: FeatureSpec, min_tokens: int = 0
) -> dict[str, BucketCounts]:
    """`count` of one frame with the columns `name` and `text` (string both), by name."""
    add = functools.partial(batches.count, spec=spec, min_tokens=min_tokens)
    sums = named.select("name", "text").mapInArrow(add, "name string, key bigint, count bigint")
    # Keys from TOKENS, the smallest, on: facts about the documents, then buckets.
    vectors = {name: np.zeros(spec.num_buckets - batches.TOKENS, np.int64) for name in names}
    for name, key, total in sums.groupBy("name", "key").agg(F.sum("count")).collect():
        vectors[name][key - batches.TOKENS] = total
    return {name: _facts(vector) for name, vector in vectors.items()}


def _facts(vector: Int64) -> BucketCounts:
    documents, null, blank, tokens = (
        int(vector[key - batches.TOKENS])
        for key in (batches.DOCUMENTS, batches.NULL, batches.BLANK, batches.TOKENS)
    )
    return BucketCounts(vector[-batches.TOKENS :], documents, null, blank, tokens)
