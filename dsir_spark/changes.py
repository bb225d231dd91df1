"""What came to a Delta table since a version: rows that were added, as a stream; or all changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from dsir_spark import errors, failures, places
from dsir_spark.errors import DSIRError, TableError

CHANGE, VERSION = "_change_type", "_commit_version"  # columns of Delta's change data feed
_CHANGED = r"DELTA_SOURCE_(TABLE_IGNORE_CHANGES|IGNORE_DELETES?)\b|Detected (a data update|deleted)"
_GONE = (
    r"DELTA_VERSION_NOT_FOUND|DELTA_TIMESTAMP|versionNotFound|Cannot time travel|log.*cleaned up"
)
_MET = r"CONCURRENT_STREAM_LOG_UPDATE|CONCURRENT_QUERY|same id is already|Multiple streaming quer"
_OWN = re.compile(r"dsir_spark\.errors\.(\w+): (.*)")  # raised in a batch, maybe on a server
_ALL = (1 << 31) - 1  # files a batch


class RowsChanged(TableError):
    """Rows of a table were deleted or updated, which a stream of added rows does not follow."""


def added(
    spark: SparkSession, place: str, after: int, checkpoint: str,
    take: Callable[[DataFrame, int], None],
) -> None:  # fmt: skip
    """Hand the rows that were added after version `after` to `take`, as the one batch of a stream.

    A stream that died is gone on with by its checkpoint: with the same rows. `take` may be sent to
    a server, and is not called where no rows came. What it raises of this package's own is raised
    here.

    Raises
    ------
    RowsChanged
        Some commit deleted or updated rows.
    TableError
        The log does not reach back to that version, or another run adds the same.
    """
    reader = spark.readStream.format("delta").option("startingVersion", after + 1)
    reader = reader.option("maxFilesPerTrigger", _ALL)
    rows = reader.load(place) if places.is_path(place) else reader.table(place)
    stream = rows.writeStream.foreachBatch(take).trigger(availableNow=True)
    query = None
    try:
        query = stream.option("checkpointLocation", checkpoint).start()
        query.awaitTermination()
    except Exception as error:
        if (meant := _meaning(error, place, after)) is None:
            raise
        raise meant from None
    finally:
        if query is not None:
            query.stop()


def _meaning(error: Exception, place: str, after: int) -> DSIRError | None:
    """What ended a stream, where that is known."""
    text = str(error)
    if own := _OWN.findall(text):
        kind, said = own[-1]
        return cast(DSIRError, getattr(errors, kind)(said.strip()))
    if found := re.search(_CHANGED, text):
        at = re.search(r"version:? (\d+)", text[found.start() :])
        return RowsChanged(f"version {at[1]}" if at else "a version since")
    if re.search(_GONE, text):
        return TableError(_lost(place, after))
    if re.search(_MET, text):
        return TableError(f"another run adds what came to {place}: let it end before the next")
    refused = re.search(r"\[DELTA_\w+\][^\n]*", text)
    if refused is None or failures.told(error):
        return None
    said = f"what came to {place} after version {after} cannot be read ({refused[0]})"
    return TableError(f"{said}: give --overwrite instead of --incremental")


def all_since(spark: SparkSession, place: str, after: int, last: int) -> DataFrame:
    """The rows that changed after version `after`, up to `last`, by the change data feed.

    Columns of the table and CHANGE, VERSION.

    Raises
    ------
    TableError
        The table does not keep the feed, or has not since that version.
    """
    reader = spark.read.format("delta").option("readChangeFeed", "true")
    reader = reader.option("startingVersion", after + 1).option("endingVersion", last)
    try:
        rows = reader.load(place) if places.is_path(place) else reader.table(place)
        rows.select(VERSION).limit(1).collect()  # that all versions are there
    except PySparkException as error:
        if re.search(_GONE, str(error)):
            raise TableError(_lost(place, after)) from None
        raise TableError(str(error).strip().split("\n")[0][:200]) from None
    return rows


def location(spark: SparkSession, place: str) -> str:
    """The folder that a Delta table's files are in."""
    if places.is_path(place):
        return place
    return str(spark.sql(f"DESCRIBE DETAIL {place}").collect()[0]["location"])


def _lost(place: str, after: int) -> str:
    return f"the log of {place} no longer tells what came after version {after}"
