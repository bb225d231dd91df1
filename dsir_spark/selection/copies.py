"""Rows that leave because of others: copies, and those above `max_per_group`.

Of the rows of one value the one with the smallest id is the original, the others are copies; null
is equal to nothing. Which values occur more than once is found without sorting or joining all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from dsir_spark.selection.pool import COPY, ID, KEYS

FIRST = "__dsir_first"  # the smallest id of the rows of a value
OVER_LIMIT = "__dsir_over_limit"

_FEW = 500_000  # values that occur more than once, held by the driver for a moment
_A_PART = 4_000_000  # hashes that a task sorts at once, 8 bytes each


def repeated(pool: DataFrame, num_rows: int) -> DataFrame | None:
    """The values of COPY that occur more than once, and FIRST of each; None if there are none.

    A hash of the value tells which rows to look at, so eight bytes a row are shuffled. Up to
    500,000 values are kept and sent to the tasks of later passes; of more, every pass finds them.

    Parameters
    ----------
    pool : frame with ID and COPY
    num_rows : about how many it has
    """
    value, half = F.col(COPY), F.xxhash64(F.col(COPY))
    halves = pool.where(value.isNotNull()).select(half.alias("half"))
    halves = halves.repartition(1 + num_rows // _A_PART, "half")
    twice = _kept_if_few(halves.mapInArrow(_occurring_twice(), "half bigint"))
    if twice is None:
        return None
    suspects = pool.where(value.isNotNull()).join(twice, half == F.col("half"), "left_semi")
    grouped = suspects.groupBy(COPY).agg(F.min(ID).alias(FIRST), F.count("*").alias("n"))
    return _kept_if_few(grouped.where(F.col("n") > 1).select(COPY, FIRST))


def _occurring_twice() -> Any:
    """A function over batches: the numbers that occur more than once in a task, once each."""
    # Within a function, so that it travels with the query: executors have no dsir_spark.selection.

    def found(batches: Iterator[Any]) -> Iterator[Any]:
        import numpy as np
        import pyarrow as pa

        numbers = [batch.column(0).to_numpy() for batch in batches]
        ordered = np.sort(np.concatenate([*numbers, np.zeros(0, np.int64)]))
        twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        yield pa.RecordBatch.from_arrays([pa.array(twice)], names=["half"])

    return found


def _kept_if_few(frame: DataFrame) -> DataFrame | None:
    """The frame; if it is small, its rows as they are now, sent to every task; None if empty."""
    rows = frame.limit(_FEW + 1).collect()
    if len(rows) > _FEW:
        return frame
    return F.broadcast(frame.sparkSession.createDataFrame(rows, frame.schema)) if rows else None


def is_copy(ids: Column) -> Column:
    """Of a row joined with `repeated`: is it one of its value's copies?"""
    return F.coalesce(ids > F.col(FIRST), F.lit(False))


def limited(frame: DataFrame, group: Column, most: int) -> DataFrame:
    """A frame with ID and KEYS, and OVER_LIMIT: is the row not among the best `most` of its group?

    By key (the largest over the targets), then id. Rows without a group are not limited.
    """
    # Rows without a group are groups of their own: together they would be one huge partition.
    alone = F.concat(F.lit("r"), F.col(ID).cast("string"))
    placed = frame.withColumn("__dsir_place", F.coalesce(F.concat(F.lit("g"), group), alone))
    order = Window.partitionBy("__dsir_place").orderBy(F.array_max(KEYS).desc(), F.col(ID).desc())
    over = F.row_number().over(order) > F.lit(most)
    return placed.withColumn(OVER_LIMIT, group.isNotNull() & over).drop("__dsir_place")
