"""Places and Delta tables: reading inputs, writing outputs in one commit, identity.

A place is a path (`/data/raw`, `s3://b/raw`, `raw.jsonl`, `out`) or a table name with a dot in it
(`schema.table`, `catalog.schema.table`, parts quoted by backticks or not); `./my.folder` is a path
in any case, and so is what exists on this machine.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark.errors import TableError

_EXTENSIONS = {
    "parquet": "parquet", "json": "json", "jsonl": "json", "ndjson": "json", "txt": "text",
    "text": "text", "csv": "csv",
}  # fmt: skip
_COMPRESSIONS = ("gz", "gzip", "zst", "zstd", "bz2", "lz4", "snappy", "deflate")
# The last part of a file's name, in front of a compression's.
_ENDING = r"\.([^.]+?)(\.(" + "|".join(_COMPRESSIONS) + "))?$"
# Delta stores names with these characters under column mapping only, which not all readers know:
# tables without such names stay without it.
_UNMAPPED = re.compile(r"[ ,;{}()\n\t=]")
_MAPPED = (
    "'delta.columnMapping.mode' = 'name', 'delta.minReaderVersion' = '2', "
    "'delta.minWriterVersion' = '5'"
)
_NAME_PART = r"(?:`(?:[^`]|``)+`|[^\s/\\:*?.`]+)"
_TABLE_NAME = re.compile(rf"{_NAME_PART}(?:\.{_NAME_PART}){{1,2}}")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# Commits that leave the rows as they are. Maintenance makes them, on Databricks by itself.
_MAINTENANCE = {
    "OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES",
    "COMPUTE STATS", "ANALYZE", "REORG", "CLUSTER BY", "ADD CONSTRAINT", "DROP CONSTRAINT",
    "UPGRADE PROTOCOL", "ADD FEATURE", "DROP FEATURE", "CHANGE COLUMN", "SET TABLE LOCATION",
}  # fmt: skip
_REFUSED = r"(?i)permission|privilege|denied|PARSE_SYNTAX_ERROR"
_HISTORY = 1_000  # commits looked through for the last one that changed rows


@dataclass(frozen=True)
class Version:
    """Versions of a Delta table.

    data : the last that changed rows, which identifies them
    latest : to read by; it is newer where maintenance went over the table since
    """

    data: int
    latest: int


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


def resolved(spark: SparkSession, place: str) -> str:
    """The place in one spelling, as Spark finds it from the current folder.

    A relative path becomes absolute where the session's files are this machine's, or where there is
    something that Spark can list; a table name is quoted where it must be.
    """
    if not is_path(place):
        return _quoted_name(place)
    if place.startswith("file:"):
        place = re.sub("^file:/*", "/", place)
    if not _SCHEME.match(place):
        if _on_this_machine(spark):
            return os.path.abspath(place)
        if not place.startswith("/"):
            return _listed_folder(spark, place) or place
    return place if place == "/" else place.rstrip("/")


def contains(outer: str, inner: str) -> bool:
    """Is the resolved path `inner` the path `outer` or below it?"""
    if not is_path(outer) or not is_path(inner):
        return outer == inner
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


def _on_this_machine(spark: SparkSession) -> bool:
    master = spark.conf.get("spark.master", "") or ""
    files = spark.conf.get("spark.hadoop.fs.defaultFS", "file:///") or ""
    return master.startswith("local") and files.startswith("file:")


def _listed_folder(spark: SparkSession, place: str) -> str | None:
    """Where the files of a relative path are; None where there are none."""
    try:
        first = _files(spark, place).select("path").first()
    except PySparkException:
        return None
    found = re.search(re.escape("/" + place.strip("./")) + "(?=/|$)", first[0]) if first else None
    return first[0][: found.end()] if first and found else None


def _parts(place: str) -> list[str]:
    """The parts of a table's name, without backticks."""
    found = re.findall(_NAME_PART, place)
    return [p[1:-1].replace("``", "`") if p.startswith("`") else p for p in found]


def _quoted_name(place: str) -> str:
    """A table's name with those parts in backticks that SQL wants so."""
    return ".".join(
        p if re.fullmatch(r"[A-Za-z_]\w*", p, re.ASCII) else "`" + p.replace("`", "``") + "`"
        for p in _parts(place)
    )


def _extension(place: str) -> str | None:
    found = re.search(_ENDING, os.path.basename(place.rstrip("/")).lower())
    return _EXTENSIONS.get(found.group(1)) if found else None


def _sql_name(spark: SparkSession, place: str) -> str | None:
    """The table as SQL names it; None where a relative path holds no table.

    Delta takes absolute paths only in SQL.
    """
    place = resolved(spark, place)
    if not is_path(place):
        return place
    if not place.startswith("/") and not _SCHEME.match(place):
        return None
    return "delta.`" + place.replace("`", "``") + "`"


def _literal(place: str) -> str:
    """A path that Spark's readers do not take for a pattern, where it is there as it is spelt."""
    if os.path.exists(place):
        return re.sub(r"([\[\]{}*?\\])", r"\\\1", place)
    return place


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]


def delta_version(spark: SparkSession, place: str) -> Version | None:
    """Versions of the Delta table at `place`; None where there is none.

    Raises
    ------
    TableError
        There is something that cannot be looked at.
    """
    name = _sql_name(spark, place)
    if name is None:
        return None
    try:
        rows = spark.sql(f"DESCRIBE HISTORY {name} LIMIT 1").collect()
        if rows and rows[0]["operation"] in _MAINTENANCE:
            rows = spark.sql(f"DESCRIBE HISTORY {name} LIMIT {_HISTORY}").collect()
    except PySparkException as error:
        # That nothing is there, or no Delta table, has many names; what else is wrong is an error:
        # taken for "nothing there" it would let a table be replaced.
        if not isinstance(error, AnalysisException) or re.search(_REFUSED, str(error)):
            raise TableError(f"cannot look at the table {place} ({_reason(error)})") from None
        return None
    if not rows:
        return None
    changed = [r["version"] for r in rows if r["operation"] not in _MAINTENANCE]
    return Version(int(changed[0] if changed else rows[-1]["version"]), int(rows[0]["version"]))


def _files(spark: SparkSession, place: str) -> DataFrame:
    """Names, sizes and times of the files under a path, listed by Spark and never read."""
    listing = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    return listing.load(_literal(place)).select("path", "length", "modificationTime")


def identity(
    spark: SparkSession, place: str, kind: str | None, owner: str
) -> tuple[dict[str, Any], int | None]:
    """What tells this input from another: place, format, and Delta version or the files' facts.

    Beside it the version of a Delta table that is the latest now.

    Parameters
    ----------
    kind : its format, or None: found by the log folder or the names of the files

    Raises
    ------
    TableError
        Nothing is there, or its files have names that do not tell.
    """
    if not is_path(place) or kind in (None, "delta"):
        found = delta_version(spark, place)
        name = "delta" if is_path(place) else "table"
        if found is not None:
            facts = {"place": place, "format": name, "delta_version": found.data}
            return facts, found.latest
        if not is_path(place):
            return {"place": place, "format": name}, None
    file = F.element_at(F.split("path", "/"), -1)
    try:
        row = (
            _files(spark, place)
            .agg(
                F.count("*").alias("files"),
                F.sum("length").alias("bytes"),
                F.bit_xor(F.xxhash64("path", "length", "modificationTime")).alias("listing"),
                F.min(file).alias("first"),
                F.collect_set(F.regexp_extract(F.lower(file), _ENDING, 1)).alias("endings"),
            )
            .first()
        )
    except AnalysisException as error:
        raise TableError(f"{owner}: there is nothing at {place} ({_reason(error)})") from None
    if row is None or not row["files"]:
        raise TableError(f"{owner}: {place} holds no files")
    facts = {fact: row[fact] for fact in ("files", "bytes", "listing")}
    kind = kind or _format_of(place, row["endings"], row["first"], owner)
    return {"place": place, "format": kind, **facts}, None


def _format_of(place: str, endings: list[str], first: str, owner: str) -> str:
    """The one format that the endings of the files stand for."""
    kinds = {_EXTENSIONS.get(ending) for ending in endings} - {None}
    found = _extension(place) or (kinds.pop() if len(kinds) == 1 else None)
    if found is None:
        raise TableError(
            f"{owner}: the format of {place} is not clear from its file names ({first}, ...): "
            f"name it with --{owner.split()[0]}-format"
        )
    return found


def read(
    spark: SparkSession, place: str, kind: str, owner: str = "input", version: int | None = None
) -> DataFrame:
    """The frame at a place; of a Delta table the given version, or the latest.

    Raises
    ------
    TableError
        Nothing is there, or Spark cannot read it.
    """
    reader = spark.read
    if version is not None:
        reader = reader.option("versionAsOf", version)
    try:
        if not is_path(place):
            frame = reader.table(_quoted_name(place))
        elif kind == "csv":
            frame = reader.options(header=True, multiLine=True, escape='"').csv(_literal(place))
        elif kind == "text":
            frame = reader.text(_literal(place)).withColumnRenamed("value", "text")
        elif kind == "delta":
            frame = reader.format(kind).load(place)
        else:
            frame = reader.format(kind).load(_literal(place))
        # Under Spark Connect nothing is looked up before the schema is asked for.
        frame.schema  # noqa: B018
    except PySparkException as error:
        raise TableError(f"{owner}: cannot read {place} as {kind} ({_reason(error)})") from None
    return frame


def version_to_read(spark: SparkSession, place: str, data: int) -> int:
    """The version to read the rows by that a Delta table had at version `data`.

    The latest where only maintenance went over them since: files of older versions may be gone.
    """
    now = delta_version(spark, place)
    return now.latest if now is not None and now.data == data else data


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
    frame: DataFrame, place: str, *, overwrite: bool = False, run_id: str | None = None
) -> int:
    """Write a frame as a Delta table in one commit, with the run's id in its metadata; its version.

    Over a table that is there, a name that needs column mapping costs a commit before, of the
    property alone.

    Raises
    ------
    TableError
        Something is there already, or the place cannot be written.
    """
    spark = frame.sparkSession
    writer = _writer(frame, run_id).mode("overwrite" if overwrite else "errorifexists")
    if overwrite:
        writer = writer.option("overwriteSchema", "true")
    if _needs_mapping(frame.schema):
        writer = writer.option("delta.columnMapping.mode", "name")
        if overwrite and exists(spark, place):
            # The writer's options set properties of new tables only.
            spark.sql(f"ALTER TABLE {_sql_name(spark, place)} SET TBLPROPERTIES ({_MAPPED})")
    _save(writer, place)
    version = delta_version(spark, place)
    if version is None:
        raise TableError(f"{place} was removed while it was written")
    return version.data


def append(frame: DataFrame, place: str, *, run_id: str) -> None:
    """Append rows to a Delta table, or begin it; columns that it lacks are added.

    Raises
    ------
    TableError
        The place cannot be written.
    """
    # Tables of an earlier version lack the columns of a later one.
    _save(_writer(frame, run_id).mode("append").option("mergeSchema", "true"), place)


def _writer(frame: DataFrame, run_id: str | None) -> DataFrameWriter:
    writer = frame.write.format("delta")
    if run_id is None:
        return writer
    return writer.option("userMetadata", json.dumps({"dsir_spark_run": run_id}))


def _save(writer: DataFrameWriter, place: str) -> None:
    try:
        if is_path(place):
            writer.save(place)
        else:
            writer.saveAsTable(_quoted_name(place))
    except AnalysisException as error:
        raise TableError(f"cannot write {place} ({_reason(error)})") from None


def _needs_mapping(kind: T.DataType) -> bool:
    """Has a field, at any depth, a name that Delta stores under column mapping only?"""
    if isinstance(kind, T.StructType):
        return any(_UNMAPPED.search(f.name) or _needs_mapping(f.dataType) for f in kind.fields)
    if isinstance(kind, T.ArrayType):
        return _needs_mapping(kind.elementType)
    return isinstance(kind, T.MapType) and any(map(_needs_mapping, (kind.keyType, kind.valueType)))
