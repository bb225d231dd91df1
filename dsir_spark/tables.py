"""Delta tables: reading inputs, writing outputs in one commit, identity."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import types as T

from dsir_spark import failures, files, places
from dsir_spark.columns import types_within
from dsir_spark.errors import TableError

# Delta stores names with these characters under column mapping only, which not all readers know:
# tables without such names stay without it.
_UNMAPPED = re.compile(r"[ ,;{}()\n\t=]")
_NAMES = (
    "'delta.columnMapping.mode' = 'name', 'delta.minReaderVersion' = '2', "
    "'delta.minWriterVersion' = '5'"
)
# Types that a table begun without them must be told of.
_TYPES = {"timestamp_ntz": "timestampNtz", "variant": "variantType"}
RUN_ID = "dsir_spark_run"  # of the run that made a commit, in the commit's record
OF_NO_RUN = {RUN_ID: None}  # the record of a table that is ours, saved by no run
# Commits that leave the rows as they are. Maintenance makes them, on Databricks by itself.
_MAINTENANCE = {
    "OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES",
    "COMPUTE STATS", "ANALYZE", "REORG", "CLUSTER BY", "ADD CONSTRAINT", "DROP CONSTRAINT",
    "UPGRADE PROTOCOL", "ADD FEATURE", "DROP FEATURE", "CHANGE COLUMN", "SET TABLE LOCATION",
}  # fmt: skip
_REFUSED = r"(?i)permission|privilege|denied|PARSE_SYNTAX_ERROR"
# By Delta's protocol: folder of a table's commits, and their names.
_LOG, _COMMIT = "_delta_log", re.compile(r"\d{20}\.json")
_HISTORY = 1_000  # commits looked through for the last one that changed rows


@dataclass(frozen=True)
class Version:
    """Versions of a Delta table.

    data : the last that changed rows, which identifies them
    latest : to read by; it is newer where maintenance went over the table since
    record : what the commit of `data` says of itself, if one of this package made it
    rows : how many that commit wrote; None where it added to others, or Delta does not tell
    """

    data: int
    latest: int
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)
    rows: int | None = field(default=None, compare=False)


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


def delta_version(spark: SparkSession, place: str) -> Version | None:
    """Versions of the Delta table at `place`; None where there is none.

    Raises
    ------
    TableError
        There is something that cannot be looked at.
    """
    if places.sql_name(spark, place) is None or places.nothing_at(spark, place, _LOG):
        return None
    try:
        rows = _commits(spark, place, 1)
        if rows and rows[0]["operation"] in {*_MAINTENANCE, "RESTORE"}:
            rows = _commits(spark, place, _HISTORY)
    except PySparkException as error:
        _refuse_other_than_nothing(place, error)
        return None
    return _last_change(rows) if rows else None


def _commits(spark: SparkSession, place: str, n: int) -> Sequence[Mapping[str, Any]]:
    """What the last `n` commits say of themselves, the newest first.

    Read on this machine they cost no job, of which a run has thirty.
    """
    folder = places.local(spark, place)
    with contextlib.suppress(OSError, ValueError, KeyError):
        if folder is not None and (found := _logged(os.path.join(folder, _LOG), n)):
            return found
    name = places.sql_name(spark, place)
    return [r.asDict() for r in spark.sql(f"DESCRIBE HISTORY {name} LIMIT {n}").collect()]


def _logged(log: str, n: int) -> list[dict[str, Any]]:
    """The last commits in a log on this machine, by Delta's protocol: a file of JSON lines each."""
    names = sorted(filter(_COMMIT.fullmatch, os.listdir(log)), reverse=True)[:n]
    told = ("operation", "operationParameters", "operationMetrics", "userMetadata")
    commits = []
    for name in names:
        with open(os.path.join(log, name), encoding="utf-8") as lines:
            info = json.loads(next(lines, ""))["commitInfo"]
        commits.append({"version": int(name[:-5]), **{key: info.get(key) for key in told}})
    return commits


def _last_change(rows: Sequence[Mapping[str, Any]]) -> Version:
    """The last commit that changed rows, of a history from the newest."""
    latest, at = int(rows[0]["version"]), int(rows[0]["version"])
    found = rows[-1]
    for row in rows:
        if row["version"] > at or row["operation"] in _MAINTENANCE:
            continue
        restored = (row["operationParameters"] or {}).get("version")
        # What was restored is what that commit wrote; of a time it is not told which one that was.
        if row["operation"] == "RESTORE" and restored is not None:
            at = int(restored)
            continue
        found = row
        break
    added = (found["operationParameters"] or {}).get("mode") == "Append"
    rows_written = None if added else (found["operationMetrics"] or {}).get("numOutputRows")
    return Version(int(found["version"]), latest, _record_of(found),
                   None if rows_written is None else int(rows_written))  # fmt: skip


def _record_of(row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(row["userMetadata"] or "{}")
    except ValueError:  # another's
        return {}
    return found if isinstance(found, dict) and RUN_ID in found else {}


def records(spark: SparkSession, place: str, after: int = -1) -> list[tuple[int, dict[str, Any]]]:
    """Versions and records of the commits since version `after`, the newest first."""
    rows = _commits(spark, place, _HISTORY)
    return [(r["version"], _record_of(r)) for r in rows if r["version"] > after]


def restore(spark: SparkSession, place: str, version: int | None) -> None:
    """Put back the rows of a version; None: there was no table, and an empty one is left.

    Raises
    ------
    TableError
        Delta refuses it.
    """
    name = places.sql_name(spark, place)
    with _writing(place):
        if version is None:
            spark.sql(f"DELETE FROM {name}").collect()
        else:
            spark.sql(f"RESTORE TABLE {name} TO VERSION AS OF {version}").collect()


def read(
    spark: SparkSession, place: str, owner: str = "input", version: int | None = None
) -> DataFrame:
    """A table; of a Delta table the given version, or the latest.

    Raises
    ------
    TableError
        Nothing is there, or Spark cannot read it.
    """
    try:
        return _loaded(spark, place, version)
    except PySparkException as error:
        raise TableError(f"{owner}: cannot read {place} ({files.reason(error)})") from None


def _loaded(spark: SparkSession, place: str, version: int | None) -> DataFrame:
    reader = spark.read if version is None else spark.read.option("versionAsOf", version)
    named = not places.is_path(place)
    frame = reader.table(places.quoted_name(place)) if named else reader.format("delta").load(place)
    # Under Spark Connect nothing is looked up before the schema is asked for.
    frame.schema  # noqa: B018
    return frame


def version_to_read(spark: SparkSession, place: str, data: int) -> int:
    """The version to read the rows by that a Delta table had at version `data`.

    The latest where only maintenance went over them since: files of older versions may be gone.
    """
    now = delta_version(spark, place)
    return now.latest if now is not None and now.data == data else data


def exists(spark: SparkSession, place: str, version: int | None = None) -> bool:
    """Is there a table at `place`, and of this version, which may be its latest or yet to come?

    It starts no job, which a history does.
    """
    log = _LOG if version is None else f"{_LOG}/{version:020}.json"
    if places.nothing_at(spark, place, log):
        return False
    try:
        _loaded(spark, place, version)
    except PySparkException as error:
        _refuse_other_than_nothing(place, error)
        return False
    return True


def _refuse_other_than_nothing(place: str, error: PySparkException) -> None:
    # That nothing is there, or no Delta table, has many names; what else is wrong is an error:
    # taken for "nothing there" it would let a table be replaced.
    if not isinstance(error, AnalysisException) or re.search(_REFUSED, str(error)):
        said = failures.told(error) or files.reason(error)
        raise TableError(f"cannot look at the table {place} ({said})") from None


def refuse_foreign(spark: SparkSession, place: str) -> Version | None:
    """The table of ours at `place`, or None where nothing is.

    Raises
    ------
    TableError
        What is there is somebody's: a table without a commit of ours, a view, or files that belong
        to no table.
    """
    found = delta_version(spark, place)
    other = found is None and not places.is_path(place) and exists(spark, place)  # a view, say
    if other or (found is not None and not _is_ours(spark, place, found)):
        raise TableError(f"{place} is a table that dsir-spark did not write: move it, or give "
                         "another --output")  # fmt: skip
    if found is None and places.is_path(place) and not places.nothing_at(spark, place):
        with contextlib.suppress(PySparkException):
            if (first := files.listed(spark, place).select("path").first()) is not None:
                raise TableError(f"{place} holds files that are no table of Delta ({first['path']},"
                                 " ...): move them, or give another --output")  # fmt: skip
    return found


def _is_ours(spark: SparkSession, place: str, found: Version) -> bool:
    """Did this package make some commit of a table?"""
    if found.record or any(record for _, record in records(spark, place)):
        return True
    # By name Delta keeps no record with the commit that makes a table; `runs` is made first.
    beside = f"{place.rpartition('.')[0]}.runs"
    named = not places.is_path(place) and exists(spark, beside)
    return named and "run_id" in read(spark, beside).columns


def write(
    frame: DataFrame, place: str, *, overwrite: bool = False,
    record: Mapping[str, Any] | None = None, counted: bool = True, searched: bool = True,
) -> Version:  # fmt: skip
    """Write a frame as a Delta table in one commit that holds a record; its version.

    Over a table that is there, types and names that need a feature of Delta's cost a commit before,
    of the property alone.

    counted : is it asked how many rows were written?
    searched : will some of its rows be looked for? A table that is always read whole needs no
        bounds of each column, which take a tenth of the time of a pass that writes weights

    Raises
    ------
    TableError
        Something is there already, or the place cannot be written.
    """
    spark = frame.sparkSession
    # To write over nothing would have Delta look for files to remove, by a job.
    over = overwrite and exists(spark, place)
    # ("error", not "errorifexists": Spark Connect of 3.5 and 4.0 knows the one spelling alone.)
    writer = _writer(frame, record).mode("overwrite" if over else "error")
    if over:
        writer = writer.option("overwriteSchema", "true")
    elif not searched:
        writer = writer.option("delta.dataSkippingNumIndexedCols", "0")
    needed = _features(frame.schema)
    if _NAMES in needed:
        writer = writer.option("delta.columnMapping.mode", "name")
    if needed and over:
        # The writer's options set properties of new tables only.
        properties = f"SET TBLPROPERTIES ({', '.join(needed)})"
        with _writing(place):
            spark.sql(f"ALTER TABLE {places.sql_name(spark, place)} {properties}").collect()
    _save(writer, place)
    if not over and not counted:
        return Version(0, 0, record or {})
    version = delta_version(spark, place)
    if version is None:
        raise TableError(f"{place} was removed while it was written")
    return version


def append(frame: DataFrame, place: str, record: Mapping[str, Any], **options: Any) -> None:
    """Append rows to a Delta table by these options, or begin it; columns that it lacks are added.

    Raises
    ------
    TableError
        The place cannot be written.
    """
    # Tables of an earlier version lack the columns of a later one.
    _save(_writer(frame, record).mode("append").options(mergeSchema=True, **options), place)


def _writer(frame: DataFrame, record: Mapping[str, Any] | None) -> DataFrameWriter:
    writer = frame.write.format("delta")
    return writer if record is None else writer.option("userMetadata", json.dumps(record))


def _save(writer: DataFrameWriter, place: str) -> None:
    with _writing(place):
        if places.is_path(place):
            writer.save(place)
        else:
            writer.saveAsTable(places.quoted_name(place))


@contextlib.contextmanager
def _writing(place: str) -> Iterator[None]:
    """What Spark and Delta say against a write, as a `TableError`."""
    try:
        yield
    except Exception as error:
        # A path's folder, or a catalog's: what is wrong with it has many classes.
        said = failures.told(error) or failures.of_delta(error)
        if said is None and not isinstance(error, AnalysisException):
            raise
        output = place.rpartition(".")[0]
        other = "" if places.is_path(place) else f"; a folder of this name is ./{output}"
        raise TableError(f"cannot write {place}: {said or files.reason(error)}{other}") from error


def unwritable(schema: T.StructType, within: str = "") -> str | None:
    """What keeps rows of a schema from being written, in words; None where nothing does."""
    names = [f.name.lower() for f in schema.fields]
    for f in schema.fields:
        name = f"{within}{f.name}"
        if names.count(f.name.lower()) > 1:
            return f"two columns are named {name}, but for upper and lower case"
        for kind in types_within(f.dataType):
            if isinstance(kind, T.StructType) and (said := unwritable(kind, f"{name}.")):
                return said
            if "interval" in kind.typeName():
                return f"column {name} is of type {kind.simpleString()}, which Delta does not store"
    return None


def _features(schema: T.StructType) -> list[str]:
    """Properties that a Delta table needs for names and types of these columns, at any depth."""
    kinds = list(types_within(schema))
    names = [f.name for kind in kinds if isinstance(kind, T.StructType) for f in kind.fields]
    needed = [_NAMES] if any(map(_UNMAPPED.search, names)) else []
    types = {kind.typeName() for kind in kinds}
    return needed + [f"'delta.feature.{f}' = 'supported'" for t, f in _TYPES.items() if t in types]
