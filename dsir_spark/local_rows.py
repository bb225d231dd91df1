"""Rows that this process holds, from a frame and to one: by Arrow, where Spark can.

Row by row Spark checks each number in Python: half a million counts, of sixteen steps of a matched
selection, take as long as a pass over a hundred megabytes of text.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyspark
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T


def to_arrow(frame: DataFrame) -> pa.Table:
    """All rows of a frame; one Spark job where the frame needs no shuffle."""
    if hasattr(frame, "toArrow"):  # of Spark 4
        return frame.toArrow()
    rows = [row.asDict(recursive=True) for row in frame.collect()]
    return pa.table({name: pa.array([row[name] for row in rows]) for name in frame.columns})


def with_arrays(frame: DataFrame) -> list[dict[str, Any]]:
    """All rows of a frame, in which an array of numbers is one of NumPy."""
    table = to_arrow(frame)
    columns = [
        [cell.values.to_numpy() if cell.is_valid else None for cell in column]
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        else column.to_pylist()
        for column in table.columns
    ]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def from_arrow(spark: SparkSession, table: pa.Table, schema: T.StructType | str) -> DataFrame:
    """A frame of a table's rows, with its names in their order; `schema` as Spark has it."""
    if not pyspark.__version__.startswith("3"):
        return spark.createDataFrame(table, schema)
    return spark.createDataFrame([tuple(row.values()) for row in table.to_pylist()], schema)
