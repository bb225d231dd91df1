"""The record: a row of the table `runs` for each run, and the stages of the run that goes on.

A run's row is its last commit: a table version that no row names is not there.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

import dsir_spark
from dsir_spark import session, tables
from dsir_spark.errors import TableError
from dsir_spark.options import JobOptions

MODEL, WEIGHTS, MATCH, SELECTED, DOCUMENTS, RUNS, REPORT = (
    "model", "weights", "match", "selected", "documents", "runs", "report",
)  # fmt: skip

SCHEMA = """
    run_id string, command string, started_at timestamp, dsir_spark_version string, config string,
    raw string, target string, model_fingerprint string, table_fingerprint string,
    seed bigint, num_to_sample bigint, num_tokens_to_sample bigint,
    temperature map<string, double>, shortfall bigint, selection string,
    funnel map<string, bigint>, selected_by_target map<string, bigint>,
    kl_reduction map<string, double>, kl_reduction_random map<string, double>,
    effective_sample_size map<string, double>, kl_bound map<string, double>,
    match string, match_version bigint,
    model_version bigint, weights_version bigint, selected_version bigint,
    seconds map<string, double>
"""

Progress = Callable[[str], AbstractContextManager[None]]
_log = logging.getLogger("dsir_spark")


def quiet(_: str) -> AbstractContextManager[None]:
    """No display of progress."""
    return contextlib.nullcontext()


@dataclass
class Run:
    """What is known of a run so far; it becomes the row in `runs`.

    facts : columns of the row, filled in by the stages
    seconds : of each stage that ended
    """

    spark: SparkSession
    options: JobOptions
    command: str
    progress: Progress = quiet
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_at: datetime.datetime = field(
        default_factory=lambda: datetime.datetime.now(datetime.timezone.utc)
    )

    @contextlib.contextmanager
    def stage(self, name: str, label: str) -> Iterator[None]:
        """One stage: shown while it runs, named in Spark's own pages, timed and logged."""
        begin = time.monotonic()
        with self.progress(label), session.described(self.spark, label):
            yield
        self.seconds[name] = round(time.monotonic() - begin, 3)
        _log.info("%s: %.1f s", label, self.seconds[name])

    def place(self, name: str) -> str:
        """Where a table of this run is."""
        return tables.within(str(self.options.output), name)

    def write(self, frame: Any, name: str) -> int:
        """Write a table in one commit that names the run; its version."""
        return tables.write(frame, self.place(name), overwrite=True, run_id=self.run_id)

    def row(self) -> dict[str, Any]:
        """The row of `runs` as it is known now."""
        return {
            "run_id": self.run_id,
            "command": self.command,
            "started_at": self.started_at,
            "dsir_spark_version": dsir_spark.__version__,
            "config": self.options.to_json(),
            "seconds": self.seconds,
            **self.facts,
        }

    def finish(self) -> dict[str, Any]:
        """Append the run's row, the last commit of the run; the row."""
        row = self.row()
        names = [column.split()[0] for column in SCHEMA.replace("map<string, ", "map<").split(",")]
        frame = self.spark.createDataFrame([tuple(row.get(n) for n in names)], SCHEMA).coalesce(1)
        tables.append(frame, self.place(RUNS), run_id=self.run_id)
        return row


def latest(spark: SparkSession, output: str, *conditions: Column) -> dict[str, Any] | None:
    """The latest row of `runs` under all conditions, or None."""
    place = tables.within(output, RUNS)
    if not tables.exists(spark, place):
        return None
    rows = tables.read(spark, place, "delta")
    for condition in conditions:
        rows = rows.where(condition)
    row = rows.orderBy(F.col("started_at").desc()).first()
    if row is None:
        return None
    found = row.asDict(recursive=True)
    # Times come as those of this machine's zone, without saying so.
    return {**found, "started_at": found["started_at"].astimezone(datetime.timezone.utc)}


def latest_selection(spark: SparkSession, output: str) -> dict[str, Any]:
    """The row of `runs` of the latest run that selected.

    Raises
    ------
    TableError
        There is none.
    """
    place = tables.within(output, RUNS)
    if not tables.exists(spark, place):
        raise TableError(f"there is no run at {place}: use `dsir-spark run` first")
    row = latest(spark, output, F.col("selected_version").isNotNull())
    if row is None:
        raise TableError(f"no run at {place} has selected anything yet: use `dsir-spark resample`")
    return row


def targets_by_place(run: dict[str, Any]) -> dict[str, str]:
    """Names and places of the targets on record."""
    return {name: identity["place"] for name, identity in json.loads(run["target"]).items()}
