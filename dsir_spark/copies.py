"""Copies of a text: which hashes occur more than once, found without sorting or joining all rows.

A pool has an id and TEXT_HASH, the hash of the text after folding case and white space. Of the rows
of one hash the one with the smallest id is the original, the others are copies.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import quoted

TEXT_HASH = "text_hash"  # of the text after folding case and white space (struct of two bigints)
FIRST = "__dsir_first"  # the smallest id of the rows of a hash

_FEW = 500_000  # texts that occur more than once, held by the driver for a moment
_A_PART = 4_000_000  # hashes that a task sorts at once, 8 bytes each
_NONE = np.zeros(0, np.int64)


def find(pool: DataFrame, id_column: str) -> DataFrame | None:
    """TEXT_HASH of the texts that occur more than once, and FIRST of each; None if there are none.

    Half a hash tells which rows to look at, so eight bytes a document are shuffled. Up to 500,000
    texts are kept and sent to the tasks of later passes; of more, every pass finds them anew.
    """
    half = F.col(TEXT_HASH).getField("high")
    parts = 1 + pool.count() // _A_PART
    halves = pool.select(half.alias("half")).repartition(parts, "half")
    twice = _kept_if_few(halves.mapInArrow(_repeated, "half bigint"))
    if twice is None:
        return None
    suspects = pool.join(twice, half == F.col("half"), "left_semi")
    grouped = suspects.groupBy(TEXT_HASH).agg(
        F.min(quoted(id_column)).alias(FIRST), F.count("*").alias("n")
    )
    return _kept_if_few(grouped.where(F.col("n") > 1).select(TEXT_HASH, FIRST))


def _repeated(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The numbers that occur more than once among all rows of a task, once each."""
    numbers = [batch.column(0).to_numpy() for batch in batches]
    ordered = np.sort(np.concatenate(numbers or [_NONE]))
    found = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    yield pa.RecordBatch.from_arrays([pa.array(found)], names=["half"])


def _kept_if_few(frame: DataFrame) -> DataFrame | None:
    """The frame; if it is small, its rows as they are now, sent to every task; None if empty."""
    rows = frame.limit(_FEW + 1).collect()
    if len(rows) > _FEW:
        return frame
    return F.broadcast(frame.sparkSession.createDataFrame(rows, frame.schema)) if rows else None
