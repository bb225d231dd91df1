"""What a run reads: raw and targets, each with what tells it from another."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark import files, labels, places, reading, tables
from dsir_spark.columns import check_expression, quoted, refuse_own_names, setting
from dsir_spark.errors import ColumnError, DataError, TableError

_PARTS = 16  # of the ids that are counted, at least: a local session has two for all else
_NAMED = 3  # files and folders that Spark skips, in the note of them
_LOOKED = 20  # folders of a store that are looked at for a table's log


@dataclass(frozen=True)
class Input:
    """A frame with its identity.

    frame : the rows that parse and that `where` keeps
    identity : place, format, and the Delta version or facts of the files
    everything : all rows
    dropped : conditions under which a row of `everything` is not in `frame`, by stage of the funnel
    notes : what is left out or filled in, in sentences
    seen : `places.seen` of before the files were looked at
    latest : version by which a Delta table is read; newer than the identity's after maintenance
    """

    frame: DataFrame
    identity: dict[str, Any]
    everything: DataFrame
    dropped: dict[str, Column] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seen: files.Seen | None = field(default=None, compare=False)
    latest: int | None = field(default=None, compare=False)

    def check_unchanged(self) -> None:
        """Raise a `DataError` where files came, went or changed since they were looked at.

        A Delta table is read at its version, whatever is written to it meanwhile.
        """
        if "listing" not in self.identity:
            return
        place, kind = self.identity["place"], self.identity["format"]
        spark = self.frame.sparkSession
        seen = places.seen(spark, place)
        if seen is not None and seen.files is not None and seen == self.seen:
            return
        facts = files.find(spark, place, kind, place, seen).facts
        if facts != {name: self.identity[name] for name in facts}:
            raise DataError(f"the files under {place} changed while they were read: run again on "
                            "data that stands still")  # fmt: skip

    def count_dropped(self) -> dict[str, int]:
        """Rows left out, by stage of the funnel. It reads raw, but no text of columnar files."""
        if not self.dropped:
            return {}
        counts = [F.count_if(condition).alias(name) for name, condition in self.dropped.items()]
        return self.everything.agg(*counts).collect()[0].asDict()


def open_input(
    spark: SparkSession, place: str, kind: str | None, owner: str, where: str | None = None,
    known: Mapping[str, Any] | None = None,
) -> Input:  # fmt: skip
    """Read a place; a Delta table at its version of now, so that all passes see the same rows.

    known : an earlier identity: of files, only those that came since are read

    Raises
    ------
    TableError
        Nothing is there, Spark cannot read it, or files of a table were named, not the table.
    ColumnError
        `where` does not hold for its columns.
    """
    named, version, seen = not places.is_path(place), None, None
    if named or kind in (None, "delta"):
        version = tables.delta_version(spark, place)
    latest = None if version is None else version.latest
    if named or kind == "delta" or version is not None:
        read = tables.read(spark, place, owner, latest)
        identity: dict[str, Any] = {"place": place, "format": "table" if named else "delta"}
        identity |= {"delta_version": version.data} if version is not None else {}
        notes: list[str] = []
    else:
        seen = places.seen(spark, place)
        found = files.find(spark, place, kind, owner, seen)
        _refuse_files_of_tables(spark, found, owner)
        if known is not None and "listing" in known:
            found = files.newer(spark, found, known, owner)
        if skipped := seen.skipped if seen else []:
            few = ", ".join(skipped[:_NAMED]) + (", ..." if len(skipped) > _NAMED else "")
            found.notes.append(f"{owner}: what begins with _ under {place} is left out ({few})")
        read, notes = reading.read(spark, found, owner)
        identity, notes = {"place": place, "format": found.kind, **found.facts}, found.notes + notes
    read = _without_void(read)
    dropped, frame = {}, read
    if reading.UNPARSED in read.columns:
        dropped["unparsed"] = F.col(reading.UNPARSED).isNotNull()
        frame = frame.where(F.col(reading.UNPARSED).isNull()).drop(reading.UNPARSED)
    refuse_own_names(frame, f"{owner} ({place})")
    if where is not None:
        frame = _kept(frame, where, owner)
        dropped["filtered"] = ~F.coalesce(F.expr(where), F.lit(False))
        if "unparsed" in dropped:
            dropped["filtered"] &= ~dropped["unparsed"]
    return Input(frame, identity, read, dropped, notes, seen, latest)


def _refuse_files_of_tables(spark: SparkSession, found: files.Files, owner: str) -> None:
    """Raise a `TableError` where Parquet files are those of a Delta table.

    A table keeps the files of rows that were deleted or overwritten; only its log tells them.
    """
    table = _table_around(spark, found) if found.kind == "parquet" else None
    if table is not None:
        raise TableError(
            f"{owner}: {found.place} has files of a Delta table ({table}), which hold rows that "
            "were deleted too: name the table itself; --where keeps a part of raw"
        )


def _table_around(spark: SparkSession, found: files.Files) -> str | None:
    """A Delta table that has one of the files; None where none is known of."""
    if places.local(spark, found.place) is None:
        # Delta looks at the folders above too. Each look is a message or more to a store.
        tops = sorted({re.sub("(/[^/=]+=[^/]*)+$", "", folder) for folder in found.folders})
        with contextlib.suppress(TableError):  # it may have no right to look there
            return next((top for top in tops[:_LOOKED] if tables.exists(spark, top)), None)
        return None
    own = [Path(re.sub("^file:/*", "/", folder)) for folder in found.folders]
    folders = sorted({folder for one in own for folder in (one, *one.parents)})
    return next((str(f) for f in folders if os.path.isdir(f / "_delta_log")), None)


def refuse_repeated(ids: DataFrame, id_column: str, owner: str) -> None:
    """Raise a `DataError` where an id, of the column `id` of a frame, occurs twice.

    Hashes of ids are counted first, in parts that fit in memory: of 13 million, in a local session,
    that takes a third of the time that the ids themselves take.
    """
    known, spark = ids.where(F.col("id").isNotNull()), ids.sparkSession
    given = setting(spark, "spark.sql.shuffle.partitions")
    hashed = known.select(F.xxhash64("id").alias("hash"))
    if given.isdigit():
        hashed = hashed.repartition(max(_PARTS, int(given)), "hash")
    else:  # Databricks says auto, or nothing, and knows better
        hashed = hashed.repartition("hash")
    [(alike,)] = hashed.groupBy("hash").count().where("count > 1").agg(F.count("*")).collect()
    if not alike:
        return
    twice = known.groupBy("id").count().where("count > 1")
    least = F.min(F.struct("id", "count"))
    [(number, first)] = twice.agg(F.count("*"), least).collect()
    if number:  # else hashes met
        raise DataError(
            f"id_column {id_column!r} of {owner} is not unique: {number} ids occur more than "
            f"once, e.g. {first['id']!r} {first['count']} times; name a unique "
            "column, or none (id_column: null in the config) to make ids from the texts"
        )


def _without_void(frame: DataFrame) -> DataFrame:
    """Columns that hold nothing, and so have no type, as strings: no table stores them else."""
    fields = [(f.name, _stored(f.dataType), f.dataType) for f in frame.schema.fields]
    if all(new == old for _, new, old in fields):
        return frame
    return frame.select(*[quoted(n) if new == old else quoted(n).cast(new).alias(n)
                          for n, new, old in fields])  # fmt: skip


def _stored(kind: T.DataType) -> T.DataType:
    if isinstance(kind, T.NullType):
        return T.StringType()
    if isinstance(kind, T.ArrayType):
        return T.ArrayType(_stored(kind.elementType), kind.containsNull)
    if isinstance(kind, T.MapType):
        return T.MapType(_stored(kind.keyType), _stored(kind.valueType), kind.valueContainsNull)
    if isinstance(kind, T.StructType):
        return T.StructType([T.StructField(f.name, _stored(f.dataType), f.nullable)
                             for f in kind.fields])  # fmt: skip
    return kind


def _kept(frame: DataFrame, where: str, owner: str) -> DataFrame:
    said = f"where {where!r} does not hold for {owner}"
    kind = check_expression(frame, where, said)
    if not isinstance(kind, T.BooleanType):
        raise ColumnError(f"{said}: it is no predicate but of type {kind.simpleString()}")
    return frame.where(where)


def as_recorded(
    spark: SparkSession, identity: Mapping[str, Any], owner: str, where: str | None = None
) -> DataFrame:
    """The rows that a run read, by the identity on its record.

    Raises
    ------
    TableError
        They are gone, or the files changed since.
    """
    place, kind = identity["place"], identity["format"]
    if (data := identity.get("delta_version")) is not None:
        version = tables.version_to_read(spark, place, data)
        frame = tables.read(spark, place, owner, version)
        return frame if where is None else _kept(frame, where, owner)
    found = open_input(spark, place, None if kind == "table" else kind, owner, where)
    if found.identity != identity:
        raise TableError(f"the files of {owner} at {place} changed since the run: run again")
    return found.frame


def recorded_raw(spark: SparkSession, run: Mapping[str, Any]) -> DataFrame:
    """Raw as the run of a row of `runs` read it, without what its `where` left out."""
    where = json.loads(run["config"]).get("where")
    return as_recorded(spark, json.loads(run["raw"]), "raw", where)


def recorded_targets(spark: SparkSession, recorded: str) -> dict[str, DataFrame]:
    """The targets as the run that fitted read them, by name; without those gone or changed."""

    def opened(name: str, identity: Mapping[str, Any]) -> DataFrame | None:
        with contextlib.suppress(TableError):
            return as_recorded(spark, identity, f"target {name}")
        return None

    known = json.loads(recorded)
    with labels.threads(spark) as aside:  # side by side: each takes a look or two of Spark's
        frames = aside.map(opened, known.keys(), known.values())
        return {name: frame for name, frame in zip(known, frames, strict=True) if frame is not None}
