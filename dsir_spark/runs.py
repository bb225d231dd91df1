"""The record: what each run began, wrote and ended, and the run that goes on.

A run appends a row to the table `runs` when it begins, which tries the output before the first
pass, and one when it ends. Each table's commit holds the run's record so far: a table is there
together with its record or not at all, and a run that died is gone on with from there.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from pyspark.sql import DataFrame, SparkSession

import dsir_spark
from dsir_spark import history, labels, places, tables
from dsir_spark.errors import DataError, DSIRError, TableError
from dsir_spark.history import FINISHED, RUNS, STARTED
from dsir_spark.job_options import JobOptions

MODEL, WEIGHTS, MATCH, SCORES, SELECTED, REJECTED, DOCUMENTS, REPORT = (
    "model", "weights", "match", "scores", "selected", "rejected", "documents", "report",
)  # fmt: skip
# Tables that each command may write: of two commands at once that write the same, the one that
# began later goes on.
WRITES: dict[str, tuple[str, ...]] = {
    "run": (MODEL, MATCH, WEIGHTS, SELECTED, REJECTED, DOCUMENTS), "fit": (MODEL,),
    "weigh": (WEIGHTS,), "resample": (MATCH, WEIGHTS, SELECTED, REJECTED, DOCUMENTS),
    "select": (SCORES, SELECTED, REJECTED),
}  # fmt: skip
ADDING = ("fit", "weigh")  # commands that can add to what is there

SCHEMA = """
    run_id string, command string, started_at timestamp, dsir_spark_version string, config string,
    raw string, target string, held_out string, decontaminate string,
    model_fingerprint string, table_fingerprint string,
    seed bigint, num_to_sample bigint, num_tokens_to_sample bigint,
    temperature map<string, double>, shortfall bigint, selection string,
    funnel map<string, bigint>, selected_by_target map<string, bigint>,
    contaminated map<string, bigint>,
    kl_reduction map<string, double>, kl_reduction_random map<string, double>,
    effective_sample_size map<string, double>, kl_bound map<string, double>,
    classifier string, match string, match_version bigint, scores string, scores_version bigint,
    rejected_version bigint,
    model_version bigint, weights_version bigint, selected_version bigint,
    seconds map<string, double>, state string, notes array<string>
"""
_NAMES = [column.split()[0] for column in SCHEMA.replace("map<string, ", "map<").split(",")]
_PASSING = ("overwrite", "report", "check_ids")  # options that leave what is written as it is
_LOOKED_AT = 200  # rows of `runs` in which a run that has not ended is looked for


class Progress(Protocol):
    """Shows a stage by its label while it runs; of so many rows, if they are known."""

    def __call__(self, label: str, rows: int | None = None) -> AbstractContextManager[None]: ...


_log = logging.getLogger("dsir_spark")


def quiet(label: str, rows: int | None = None) -> AbstractContextManager[None]:
    """No display of progress."""
    return contextlib.nullcontext()


@dataclass
class Run:
    """What is known of a run so far.

    facts : columns of its row, filled in by the stages
    seconds : of each stage that ended
    unfinished : the row of the latest run of this command that has not ended, if it was the last
    there : tables under the output when it began, or as it wrote them
    raw_latest : version of a Delta table up to which its rows are those of raw's identity
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
    unfinished: dict[str, Any] | None = None
    there: dict[str, tables.Version | None] = field(default_factory=dict)
    raw_latest: int | None = None
    _stage: tuple[str, float] | None = None  # the one that goes on, and when it began
    _attempt: str = field(default_factory=lambda: uuid.uuid4().hex)
    _began: int = -1

    def __post_init__(self) -> None:
        """Look at what is under the output; nothing of raw is read, and nothing written.

        Raises
        ------
        TableError
            There are tables of another run, and `overwrite` is not given; or files of others.
        """
        for name in (*WRITES[self.command], RUNS, REPORT):
            self.there[name] = tables.refuse_foreign(self.spark, self.place(name))
        if self.there[RUNS] is not None:
            self.unfinished = _unfinished(self.spark, str(self.options.output), self.command)
        if not self._goes_over:
            self._refuse_existing()

    @property
    def _goes_over(self) -> bool:
        """Are tables of earlier runs replaced, or added to, by intent?"""
        adds = self.options.incremental and self.command in ADDING
        return self.options.overwrite or self.command == "resample" or adds

    def _refuse_existing(self) -> None:
        taken = [name for name in WRITES[self.command] if self.there[name] is not None]
        if not taken:
            return
        output = self.options.output
        if self.unfinished is None:
            other = "another --output, or use `resample` to select again from its weights"
            other = "or another --output" if self.command == "select" else other
            raise TableError(
                f"{output} already holds {', '.join(taken)} of an earlier run: give --overwrite to "
                f"replace them, {other}"
            )
        if differences := self._differences(self.unfinished):
            raise TableError(
                f"{output} holds a `{self.command}` that has not ended (run "
                f"{self.unfinished['run_id']}), with other options: {differences}; give the same "
                "to go on with it, --overwrite to begin anew, or another --output"
            )

    def _differences(self, unfinished: Mapping[str, Any]) -> str:
        """What differs from the options of the run that has not ended, in words."""
        old, new = json.loads(unfinished["config"]), json.loads(self.options.to_json())
        return ", ".join(
            f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
            for name in sorted(old.keys() | new.keys())
            if name not in _PASSING and old.get(name) != new.get(name)
        )

    def begin(self) -> None:
        """Put the run on record, with its inputs among the facts, before the first pass.

        A run that has not ended, of the same options and inputs, is gone on with.

        Raises
        ------
        TableError
            The output cannot be written; or another run began there, whose inputs were others.
        """
        old = self.unfinished
        if old is not None and not self._differences(old):
            inputs = ("raw", "target", "scores", "decontaminate", "model_fingerprint")
            known = {n: old[n] for n in inputs if old.get(n) is not None}
            changed = [n for n, was in known.items() if was != self.facts.get(n)]
            if not changed:
                self.run_id = old["run_id"]
                kept = [name for name in WRITES[self.command] if self._is_own(name)]
                _log.info("going on with run %s of %s; there already: %s", self.run_id,
                          old["started_at"], ", ".join(kept) or "nothing")  # fmt: skip
            elif not self._goes_over:
                raise TableError(
                    f"{self.options.output} holds a `{self.command}` that has not ended (run "
                    f"{old['run_id']}), and {' and '.join(changed)} changed since: give "
                    "--overwrite to begin anew, or another --output"
                )
        there = self.there[RUNS]
        before = -1 if there is None else there.latest
        self._append(STARTED)
        self._began = before + 1
        if tables.exists(self.spark, self.place(RUNS), before + 2):  # another's was between
            own = [v for v, record in self._records() if record["attempt"] == self._attempt]
            self._began = own[0] if own else -1

    def _is_own(self, name: str) -> bool:
        there = self.there[name]
        return there is not None and there.record.get(tables.RUN_ID) == self.run_id

    def done(self, name: str, rows: int | None = None) -> bool:
        """Did this run write a table before it was gone on with? What it knew is known again.

        rows : how many there must be; a run that died before it put back other ones writes anew
        """
        if not self._is_own(name):
            return False
        there = self.there[name]
        assert there is not None
        if _differ(there, rows):
            self.there[name] = None  # not to be put back
            return False
        self.seconds |= there.record["seconds"]
        self.facts |= {k: v for k, v in there.record.items() if k in _NAMES and k not in (
            "run_id", "command", "started_at", "config", "seconds", "state")}  # fmt: skip
        self.facts[f"{name}_version"] = there.data
        return True

    @contextlib.contextmanager
    def stage(self, name: str, label: str, rows: int | None = None) -> Iterator[None]:
        """One stage, of so many rows, if they are known: shown while it runs, named in Spark's own
        pages, timed and logged."""
        self._stage = name, time.monotonic()
        with self.progress(label, rows), labels.described(self.spark, label):
            yield
        self.seconds, self._stage = self._seconds(), None
        _log.info("%s: %.1f s", label, self.seconds[name])

    def _seconds(self) -> dict[str, float]:
        """Of all stages, of the one that goes on so far: by the record that its commit holds."""
        if self._stage is None:
            return self.seconds
        name, begin = self._stage
        return {**self.seconds, name: round(time.monotonic() - begin, 3)}

    def place(self, name: str) -> str:
        """Where a table of this run is."""
        return places.within(str(self.options.output), name)

    def write(
        self, frame: DataFrame, name: str, *, rows: int | None = None,
        unchanged: Callable[[], None] = lambda: None,
    ) -> int:  # fmt: skip
        """Write a table in one commit that holds the record so far; its version.

        rows : how many there must be; else what was there before is put back
        unchanged : raises a `DSIRError` where the inputs changed meanwhile; the same then

        Both are known after the commit only. To know them before would take a second copy of the
        rows: Delta commits what Spark wrote, with no step in between.

        Raises
        ------
        DataError
            Other rows were written than were to be.
        TableError
            Another run that writes the same began later, or the table cannot be written.
        """
        self.refuse_outrun()
        pool = name in (WEIGHTS, SCORES)  # a cut goes by how many rows it has
        version = tables.write(
            frame, self.place(name), overwrite=True, record=self.record(),
            counted=pool or rows is not None, searched=not pool,
        )  # fmt: skip
        try:
            unchanged()
            if _differ(version, rows):
                raise DataError(
                    f"{version.rows} rows came to be written to {name} where {rows} were to be: "
                    "raw changed while it was read, or its ids do; run again on data that stands "
                    "still"
                )
        except DSIRError as error:
            _put_back(self.spark, self.place(name), self.there[name], error)
            raise
        self.facts[f"{name}_version"] = version.data
        self.there[name] = version
        return version.data

    def read(self, name: str) -> DataFrame:
        """A table that the run wrote, or that was there when it began."""
        version, place = self.there[name], self.place(name)
        assert version is not None
        return tables.read(self.spark, place, place, version.latest)

    def refuse_outrun(self) -> None:
        """Raise a `TableError` where a run that writes the same tables began later."""
        if not tables.exists(self.spark, self.place(RUNS), self._began + 1):
            return
        own = set(WRITES[self.command])
        for version, record in self._records():
            later = version > self._began and record["attempt"] != self._attempt
            if later and record["state"] == STARTED and own & set(WRITES[record["command"]]):
                raise TableError(
                    f"a later `{record['command']}` (run {record[tables.RUN_ID]}) began to write "
                    f"to {self.options.output}: this one ends, and what was written stays"
                )

    def _records(self) -> list[tuple[int, dict[str, Any]]]:
        found = tables.records(self.spark, self.place(RUNS), self._began)
        return [(version, record) for version, record in found if "attempt" in record]

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

    def record(self) -> dict[str, Any]:
        """What a commit of this run holds."""
        row = {k: v for k, v in self.row().items() if k in _NAMES}
        return {
            **row, "started_at": self.started_at.isoformat(), "seconds": self._seconds(),
            "raw_latest": self.raw_latest, tables.RUN_ID: self.run_id,
        }  # fmt: skip

    def finish(self) -> dict[str, Any]:
        """Append the run's last row; the row."""
        self.refuse_outrun()
        return self._append(FINISHED)

    def _append(self, state: str) -> dict[str, Any]:
        row = {**self.row(), "state": state}
        values = [tuple(row.get(name) for name in _NAMES)]
        frame = self.spark.createDataFrame(values, SCHEMA).coalesce(1)
        own = {tables.RUN_ID: self.run_id, "command": self.command, "state": state}
        tables.append(frame, self.place(RUNS), {**own, "attempt": self._attempt})
        return row


def _put_back(
    spark: SparkSession, place: str, before: tables.Version | None, error: DSIRError
) -> None:  # fmt: skip
    """Put back what was at a place before; where that cannot be, the error says so too."""
    try:
        tables.restore(spark, place, before.latest if before else None)
    except TableError as refused:
        raise type(error)(f"{error}; what was written stays: {refused}") from None


def _differ(version: tables.Version, rows: int | None) -> bool:
    """Is it known that a commit wrote other than so many rows?"""
    return rows is not None and version.rows not in (None, rows)


def _unfinished(spark: SparkSession, output: str, command: str) -> dict[str, Any] | None:
    """The latest run, where it is of this command and has not ended."""
    rows = history.last(spark, output, n=_LOOKED_AT)
    ended = {row["run_id"] for row in rows if row["state"] != STARTED}
    last = next(iter(rows), None)
    return last if last and last["command"] == command and last["run_id"] not in ended else None


def listing(spark: SparkSession, output: str) -> list[str]:
    """A line for each run under the output, the latest first: id, command, times, state.

    Raises
    ------
    TableError
        There is no run.
    """
    place = places.within(output, RUNS)
    if not tables.exists(spark, place):
        raise TableError(f"there is no run at {place}: use `dsir-spark run` first")
    found = dict[str, dict[str, Any]]()
    for row in history.last(spark, output, n=_LOOKED_AT):
        kept = found.setdefault(row["run_id"], row)
        if row["state"] != STARTED:
            found[row["run_id"]] = {**row, "started_at": kept["started_at"]}
    wrote: dict[str, list[str]] = {}
    for name in dict.fromkeys((SCORES, *WRITES["run"])):
        there = tables.delta_version(spark, places.within(output, name))
        if there is not None:
            wrote.setdefault(str(there.record.get(tables.RUN_ID)), []).append(name)
    return [_line(row, wrote.get(row["run_id"], [])) for row in found.values()]


def _line(row: Mapping[str, Any], wrote: list[str]) -> str:
    took = sum((row["seconds"] or {}).values())
    if row["state"] == STARTED:
        state = f"not ended, wrote {', '.join(wrote) or 'nothing'}"
    else:
        selected = (row["funnel"] or {}).get("selected")
        state = f"ended after {took:.0f} s" + (f", {selected:,} selected" if selected else "")
    return f"{row['run_id']}  {row['started_at']:%Y-%m-%d %H:%M} UTC  {row['command']:8}  {state}"
