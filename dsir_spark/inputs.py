"""What a run reads: raw and targets, each with what tells it from another."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dsir_spark import tables
from dsir_spark.errors import ColumnError, TableError


@dataclass(frozen=True)
class Input:
    """A frame with its identity.

    frame : without what `where` leaves out
    identity : place, format, and the Delta version or facts of the files
    everything : with it
    """

    frame: DataFrame
    identity: dict[str, Any]
    everything: DataFrame


def open_input(
    spark: SparkSession, place: str, kind: str | None, owner: str, where: str | None = None
) -> Input:
    """Read a place; a Delta table at its version of now, so that all passes see the same rows.

    Raises
    ------
    TableError
        Nothing is there, or Spark cannot read it.
    ColumnError
        `where` does not hold for its columns.
    """
    found, version = tables.identity(spark, place, kind, owner)
    frame = tables.read(spark, place, found["format"], owner, version=version)
    return Input(_kept(frame, where, owner), found, frame)


def _kept(frame: DataFrame, where: str | None, owner: str) -> DataFrame:
    if where is None:
        return frame
    try:
        kept = frame.where(where)
        kept.schema  # noqa: B018 - under Connect, only now is the predicate analysed
        # Spark aggregates nothing that changes from one reading to the next, and says so.
        frame.agg(F.max(F.expr(where))).schema  # noqa: B018
    except (AnalysisException, ParseException) as error:
        message = str(error).strip().splitlines()[0]
        if "NONDETERMINISTIC" in message or "nondeterministic" in message:
            message = "it is not deterministic, and every pass would see other rows"
        raise ColumnError(f"where {where!r} does not hold for {owner}: {message}") from None
    return kept


def as_recorded(spark: SparkSession, identity: Mapping[str, Any], owner: str) -> DataFrame:
    """The rows that a run read, by the identity on its record.

    Raises
    ------
    TableError
        They are gone, or the files changed since.
    """
    place, kind = identity["place"], identity["format"]
    if (version := identity.get("delta_version")) is not None:
        version = tables.version_to_read(spark, place, version)
        return tables.read(spark, place, kind, owner, version)
    found = open_input(spark, place, None if kind == "table" else kind, owner)
    if found.identity != identity:
        raise TableError(f"the files of {owner} at {place} changed since the run: run again")
    return found.frame


def recorded_raw(spark: SparkSession, run: Mapping[str, Any]) -> DataFrame:
    """Raw as the run of a row of `runs` read it, without what its `where` left out."""
    where = json.loads(run["config"]).get("where")
    return _kept(as_recorded(spark, json.loads(run["raw"]), "raw"), where, "raw")


def recorded_targets(spark: SparkSession, recorded: str) -> dict[str, DataFrame]:
    """The targets as the run that fitted read them, by name; without those gone or changed."""
    found = {}
    for name, identity in json.loads(recorded).items():
        with contextlib.suppress(TableError):
            found[name] = as_recorded(spark, identity, f"target {name}")
    return found
