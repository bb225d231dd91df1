"""The documents that a matched selection is learnt from: in memory as buckets, or read every time.

Both are a `matched.Sample` of the documents of at least `min_tokens` tokens, and give the same bits
for the same texts in any order.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.features import FeatureSpec, batches, buckets, sums
from dsir_spark.local_rows import to_arrow
from dsir_spark.scoring import matched
from dsir_spark.scoring.distributions import Float64, Int64

# Bytes of a sample that is held by this process: 134 million n-grams in up to 65,536 buckets. Spark
# refuses results of more than 1 GB (spark.driver.maxResultSize), and its driver has 1 GB of memory
# by default.
HELD = 1 << 28
_PART = 1 << 17  # scores that are made at once: 1 MB of doubles


class HeldSample:
    """Held by this process as buckets.

    Parameters
    ----------
    held : `bucket_type`[*], the buckets of all n-grams, document by document
    indptr : int64[n + 1], where each document's begin
    """

    def __init__(self, held: buckets.Buckets, indptr: Int64, num_buckets: int) -> None:
        self._buckets, self._indptr = held, indptr
        self._sizes = np.diff(indptr)
        self._num_buckets = num_buckets
        self._scored: tuple[Float64, Float64] | None = None

    def histograms(self, tables: Float64) -> list[matched.Histogram]:
        """See `matched.Sample`."""
        return [matched.histogram(own, self._sizes) for own in self.scores(tables)]

    def counts(self, tables: Float64, thresholds: Float64) -> list[Int64]:
        """See `matched.Sample`."""
        found = np.zeros((len(thresholds), self._num_buckets), np.int64)
        for k, chosen in enumerate(self.scores(tables) >= thresholds[:, None]):
            sums.add_counts(self._buckets, self._indptr, chosen, found[k])
        return list(found)

    def scores(self, tables: Float64) -> Float64:
        """Mean scores, float64[K, n]; those of the tables asked for last are kept."""
        if self._scored is not None and self._scored[0] is tables:
            return self._scored[1]
        n = len(self._sizes)
        found = np.empty((tables.shape[1], n))
        # Parts of equal numbers of n-grams, of about a megabyte of scores, so that they are turned
        # over in a processor's cache; at least one for each thread.
        parts = max(os.cpu_count() or 1, tables.shape[1] * n // _PART)
        edges = np.linspace(0, self._indptr[-1], parts + 1)[1:-1]
        at = [0, *np.searchsorted(self._indptr, edges).tolist(), n]

        def add(first: int, last: int) -> None:
            total = np.zeros((last - first, tables.shape[1]))
            sums.add_scores(self._buckets, self._indptr[first : last + 1], tables, total)
            found[:, first:last] = batches.means(total, self._sizes[first:last]).T

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(add, at[:-1], at[1:]))
        self._scored = tables, found
        return found


def hashed(texts: DataFrame, spec: FeatureSpec, min_tokens: int) -> HeldSample:
    """Hashed once, by one Spark job; `texts` has one string column."""
    pack = partial(buckets.packed, spec=spec, min_tokens=min_tokens)
    columns = to_arrow(texts.mapInArrow(pack, "sizes binary, buckets binary")).columns
    rows = zip(*[[cell.as_buffer() for cell in column] for column in columns], strict=True)
    return HeldSample(*buckets.unpacked(rows, spec), spec.num_buckets)


class ReadSample:
    """Read and hashed by Spark at every question.

    Parameters
    ----------
    texts : one string column
    """

    def __init__(self, texts: DataFrame, spec: FeatureSpec, min_tokens: int) -> None:
        self._texts, self._spec, self._min_tokens = texts, spec, min_tokens

    def histograms(self, tables: Float64) -> list[matched.Histogram]:
        """See `matched.Sample`."""
        count = partial(
            batches.histograms, tables=tables, spec=self._spec, min_tokens=self._min_tokens
        )
        schema = (
            "table bigint, bin bigint, documents bigint, ngrams bigint, low double, high double"
        )
        binned = self._texts.mapInArrow(count, schema).groupBy("table", "bin")
        numbers = F.sum("documents"), F.sum("ngrams"), F.min("low"), F.max("high")
        found: list[dict[int, tuple[int, int, float, float]]] = [{} for _ in tables.T]
        for k, at, documents, ngrams, low, high in binned.agg(*numbers).collect():
            found[k][at] = (documents, ngrams, low, high)
        return list(found)

    def counts(self, tables: Float64, thresholds: Float64) -> list[Int64]:
        """See `matched.Sample`."""
        add = partial(
            batches.counts_above, tables=tables, thresholds=thresholds, spec=self._spec,
            min_tokens=self._min_tokens,
        )  # fmt: skip
        counted = self._texts.mapInArrow(add, "table bigint, bucket bigint, count bigint")
        sums = to_arrow(counted.groupBy("table", "bucket").agg(F.sum("count").alias("count")))
        of, bucket, count = (column.to_numpy() for column in sums.columns)
        found = np.zeros((len(thresholds), self._spec.num_buckets), np.int64)
        found[of, bucket] = count
        return list(found)
