"""What ran: rows of the table `runs`, read. `runs` writes them."""

from __future__ import annotations

import datetime
from typing import Any

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from dsir_spark import places, tables
from dsir_spark.errors import TableError

RUNS = "runs"
STARTED, FINISHED = "started", "finished"


def last(
    spark: SparkSession, output: str, *conditions: Column, n: int = 1
) -> list[dict[str, Any]]:
    """The last rows of `runs` under all conditions, the latest first."""
    place = places.within(output, RUNS)
    rows = tables.read(spark, place)
    if "state" not in rows.columns:  # of a version before there was one
        rows = rows.withColumn("state", F.lit(FINISHED))
    for condition in conditions:
        rows = rows.where(condition)
    found = rows.orderBy(F.col("started_at").desc(), F.col("state")).limit(n).collect()
    # Times come as those of this machine's zone, without saying so.
    utc = datetime.timezone.utc
    return [
        {**row.asDict(recursive=True), "started_at": row["started_at"].astimezone(utc)}
        for row in found
    ]


def latest(spark: SparkSession, output: str, *conditions: Column) -> dict[str, Any] | None:
    """The latest row of `runs`, of runs that ended, under all conditions; or None."""
    if not tables.exists(spark, places.within(output, RUNS)):
        return None
    ended = F.coalesce(F.col("state"), F.lit(FINISHED)) == FINISHED
    return next(iter(last(spark, output, ended, *conditions)), None)


def latest_selection(spark: SparkSession, output: str) -> dict[str, Any]:
    """The row of `runs` of the latest run that selected.

    Raises
    ------
    TableError
        There is none.
    """
    place = places.within(output, RUNS)
    if not tables.exists(spark, place):
        raise TableError(f"there is no run at {place}: use `dsir-spark run` first")
    row = latest(spark, output, F.col("selected_version").isNotNull())
    if row is None:
        raise TableError(f"no run at {place} has selected anything yet: use `dsir-spark resample`")
    return row
