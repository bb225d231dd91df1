"""Reading inputs and writing outputs: paths or table names, one commit each, identity recorded.

A place is a path (`/data/raw`, `s3://b/raw`, `raw.jsonl`, `out`) or a table name with a dot in it
(`schema.table`, `catalog.schema.table`); `./my.folder` is a path in any case.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark.errors import TableError

_EXTENSIONS = {
    "parquet": "parquet", "json": "json", "jsonl": "json", "ndjson": "json", "txt": "text",
    "text": "text", "csv": "csv",
}  # fmt: skip
_COMPRESSIONS = ("gz", "zst", "bz2", "lz4", "snappy", "deflate")
# Delta stores names with these characters under column mapping only, which not all readers know:
# tables without such names stay without it.
_UNMAPPED = re.compile(r"[ ,;{}()\n\t=]")
_MAPPED = (
    "'delta.columnMapping.mode' = 'name', 'delta.minReaderVersion' = '2', "
    "'delta.minWriterVersion' = '5'"
)
_TABLE_NAME = re.compile(r"[^\s/\\:*?.]+(\.[^\s/\\:*?.]+){1,2}")


def active_session() -> SparkSession:
    """The session of the caller's thread.

    Raises
    ------
    TableError
        There is none: it must be passed as `spark=`.
    """
    session = SparkSession.getActiveSession()
    if session is None:
        raise TableError("there is no active Spark session: pass one as spark=")
    return session


def is_path(place: str) -> bool:
    """Is `place` a path (and not the name of a table)?"""
    named = _TABLE_NAME.fullmatch(place) and not place.startswith(".")
    return not named or _extension(place) is not None or os.path.exists(place)


def within(output: str, name: str) -> str:
    """The place of the table `name` under an output path, or in an output schema."""
    return f"{output.rstrip('/')}/{name}" if is_path(output) else f"{output}.{name}"


def _extension(place: str) -> str | None:
    parts = os.path.basename(place.rstrip("/")).lower().split(".")
    if len(parts) > 1 and parts[-1] in _COMPRESSIONS:
        parts.pop()
    return _EXTENSIONS.get(parts[-1]) if len(parts) > 1 else None


def _sql_name(spark: SparkSession, place: str) -> str | None:
    """The table as SQL names it; None where a relative path holds no Delta table.

    Delta takes absolute paths only in SQL, and which folder a relative one starts from is known to
    Spark alone (the working directory, or the user's home on the cluster's file system).
    """
    if not is_path(place):
        return ".".join("`" + part + "`" for part in place.split("."))
    if not place.startswith("/") and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", place):
        try:
            log = _files(spark, f"{place.rstrip('/')}/_delta_log").select("path").first()
        except PySparkException:
            return None
        if log is None:
            return None
        place = log["path"].rsplit("/_delta_log/", 1)[0]
    return "delta.`" + place.replace("`", "``") + "`"


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]


def delta_version(spark: SparkSession, place: str) -> int | None:
    """Latest version of the Delta table at `place`; None where there is none."""
    name = _sql_name(spark, place)
    if name is None:
        return None
    try:
        row = spark.sql(f"DESCRIBE HISTORY {name} LIMIT 1").first()
    except PySparkException:
        return None
    return None if row is None else int(row["version"])


def _files(spark: SparkSession, place: str) -> DataFrame:
    """Names, sizes and times of the files under a path, listed by Spark and never read."""
    listing = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(place)
    return listing.select("path", "length", "modificationTime")


def find_format(spark: SparkSession, place: str, owner: str) -> str:
    """delta, parquet, json, text or csv, by the log folder or the names of the files.

    Raises
    ------
    TableError
        Nothing is there, or its files have names that do not tell.
    """
    if not is_path(place):
        return "table"
    if delta_version(spark, place) is not None:
        return "delta"
    found = _extension(place)
    try:
        first = _files(spark, place).select("path").limit(100).collect()
    except AnalysisException as error:
        raise TableError(f"{owner}: there is nothing at {place} ({_reason(error)})") from None
    if not first:
        raise TableError(f"{owner}: {place} holds no files")
    kinds = {_extension(r["path"]) for r in first} - {None}
    if found is None and len(kinds) == 1:
        found = kinds.pop()
    if found is None:
        raise TableError(
            f"{owner}: the format of {place} is not clear from its file names "
            f"({first[0]['path'].rsplit('/', 1)[-1]}, ...): "
            f"name it with --{owner.split()[0]}-format"
        )
    return found


def read(
    spark: SparkSession,
    place: str,
    kind: str | None = None,
    owner: str = "input",
    version: int | None = None,
) -> DataFrame:
    """The frame at a place; of a Delta table the given version, or the latest.

    Raises
    ------
    TableError
        Nothing is there, or Spark cannot read it.
    """
    kind = kind or find_format(spark, place, owner)
    reader = spark.read
    if version is not None:
        reader = reader.option("versionAsOf", version)
    try:
        if not is_path(place):
            frame = reader.table(place)
        elif kind == "csv":
            frame = reader.options(header=True, multiLine=True, escape='"').csv(place)
        elif kind == "text":
            frame = reader.text(place).withColumnRenamed("value", "text")
        else:
            frame = reader.format(kind).load(place)
        # Under Spark Connect nothing is looked up before the schema is asked for.
        frame.schema  # noqa: B018
    except PySparkException as error:
        raise TableError(f"{owner}: cannot read {place} as {kind} ({_reason(error)})") from None
    return frame


def identity(spark: SparkSession, place: str, kind: str) -> dict[str, Any]:
    """What tells this input from another: place, format, and Delta version or the files' facts."""
    found: dict[str, Any] = {"place": place, "format": kind}
    version = delta_version(spark, place) if kind in ("delta", "table") else None
    if version is not None:
        return {**found, "delta_version": version}
    if is_path(place):
        row = (
            _files(spark, place)
            .agg(
                F.count("*").alias("files"),
                F.sum("length").alias("bytes"),
                F.bit_xor(F.xxhash64("path", "length", "modificationTime")).alias("listing"),
            )
            .first()
        )
        found.update(row.asDict() if row is not None else {})
    return found


def exists(spark: SparkSession, place: str) -> bool:
    """Is there a table at `place`?"""
    return delta_version(spark, place) is not None


def refuse_existing(spark: SparkSession, output: str, names: tuple[str, ...]) -> None:
    """Raise a `TableError` that names what is in the way of an output."""
    taken = [name for name in names if exists(spark, within(output, name))]
    if taken:
        raise TableError(
            f"{output} already holds {', '.join(taken)} of an earlier run: give --overwrite to "
            "replace them, another --output, or use `resample` to select again from its weights"
        )


def write(
    frame: DataFrame,
    place: str,
    *,
    overwrite: bool = False,
    append: bool = False,
    run_id: str | None = None,
) -> None:
    """Write a frame as a Delta table in one commit, with the run's id in its metadata.

    Over a table that is there, a name that needs column mapping costs a commit before, of the
    property alone.

    Raises
    ------
    TableError
        Something is there already, or the place cannot be written.
    """
    mode = "append" if append else "overwrite" if overwrite else "errorifexists"
    writer = frame.write.format("delta").mode(mode)
    if overwrite:
        writer = writer.option("overwriteSchema", "true")
    if append:
        # Tables of an earlier version lack the columns of a later one.
        writer = writer.option("mergeSchema", "true")
    mapped = _needs_mapping(frame.schema)
    if mapped:
        writer = writer.option("delta.columnMapping.mode", "name")
    if run_id is not None:
        writer = writer.option("userMetadata", json.dumps({"dsir_spark_run": run_id}))
    try:
        spark = frame.sparkSession
        if mapped and overwrite and exists(spark, place):
            # The writer's options set properties of new tables only.
            spark.sql(f"ALTER TABLE {_sql_name(spark, place)} SET TBLPROPERTIES ({_MAPPED})")
        if is_path(place):
            writer.save(place)
        else:
            writer.saveAsTable(place)
    except AnalysisException as error:
        raise TableError(f"cannot write {place} ({_reason(error)})") from None


def _needs_mapping(kind: T.DataType) -> bool:
    """Has a field, at any depth, a name that Delta stores under column mapping only?"""
    if isinstance(kind, T.StructType):
        return any(_UNMAPPED.search(f.name) or _needs_mapping(f.dataType) for f in kind.fields)
    if isinstance(kind, T.ArrayType):
        return _needs_mapping(kind.elementType)
    return isinstance(kind, T.MapType) and any(map(_needs_mapping, (kind.keyType, kind.valueType)))
