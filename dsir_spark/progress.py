"""What the command line shows of a run: lines out of the log, and what is done of a stage.

The library logs to `dsir_spark` and prints nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, Any

import click

_LOG = logging.getLogger("dsir_spark")


@contextlib.contextmanager
def told() -> Iterator[None]:
    """The log of the package, and its warnings, as lines on standard error.

    A warning's text is told once; warnings of libraries stay silent.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line("\r\033[K" if sys.stderr.isatty() else ""))
    level, seen = _LOG.level, set[str]()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            _LOG.warning("%s", message)

    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=UserWarning, module=r"dsir_spark\.")
            warnings.showwarning = show
            yield
    finally:
        _LOG.removeHandler(handler)
        _LOG.setLevel(level)


def say(text: str) -> None:
    """Print a line. Where nobody reads on (`| head -1`), the command goes on all the same."""
    try:
        click.echo(text)
    except BrokenPipeError:
        # What comes, and the flush at Python's end, would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Line(logging.Formatter):
    """A line of the log, in the place of the one that shows a stage."""

    def __init__(self, begin: str) -> None:
        super().__init__()
        self._begin = begin

    def format(self, record: logging.LogRecord) -> str:
        start = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return self._begin + start + " ".join(record.getMessage().split())


def of(spark: Any) -> Callable[..., AbstractContextManager[None]]:
    """Shows a stage by its label while it runs, for the functions of the job."""
    return lambda label, rows=None: _live(spark, label, rows, sys.stderr)


@contextlib.contextmanager
def stage(label: str, shown: Callable[..., AbstractContextManager[None]]) -> Iterator[None]:
    """A stage that is the command line's own: shown, and logged as those of the job are."""
    begin = time.monotonic()
    with shown(label):
        yield
    _LOG.info("%s: %.1f s", label, time.monotonic() - begin)


@contextlib.contextmanager
def _live(spark: Any, label: str, rows: int | None, stream: IO[str]) -> Iterator[None]:
    """On a terminal, what is done of a stage, in a line that is gone when it ends."""
    if not stream.isatty():
        yield
        return
    stop = threading.Event()
    with _tasks(spark) as tasks:
        given = (label, rows, tasks, stream, stop)
        shown = threading.Thread(target=_show, args=given, daemon=True)
        shown.start()
        try:
            yield
        finally:
            stop.set()
            shown.join()
            stream.write("\r\033[K")
            stream.flush()


@contextlib.contextmanager
def _tasks(spark: Any) -> Iterator[Callable[[], tuple[int, int]]]:
    """Tasks that are done, and all, of what Spark runs now: by its tracker, or as Connect tells."""
    tracker = getattr(getattr(spark, "_sc", None), "statusTracker", lambda: None)()
    if tracker is not None:

        def tracked() -> tuple[int, int]:
            found = [tracker.getStageInfo(s) for s in tracker.getActiveStageIds()]
            known = [s for s in found if s is not None]
            return sum(s.numCompletedTasks for s in known), sum(s.numTasks for s in known)

        yield tracked
        return
    told = [0, 0]

    def tell(stages: Any, inflight_tasks: int, operation_id: Any, done: bool) -> None:
        known = [s for s in stages or () if not s.done and not done]
        told[:] = sum(s.num_completed_tasks for s in known), sum(s.num_tasks for s in known)

    known = hasattr(spark, "registerProgressHandler")  # Spark Connect before 4.0 tells nothing
    if known:
        spark.registerProgressHandler(tell)
    try:
        yield lambda: (told[0], told[1])
    finally:
        if known:
            spark.removeProgressHandler(tell)


def _show(
    label: str, rows: int | None, tasks: Callable[[], tuple[int, int]], stream: IO[str],
    stop: threading.Event,
) -> None:  # fmt: skip
    begin = since = time.monotonic()
    before = 0
    while not stop.wait(0.5):
        done, of = tasks()
        now = time.monotonic()
        if of != before:  # other stages of Spark's: their time begins anew
            before, since = of, now
        stream.write(f"\r\033[K{line(label, done, of, now - since, now - begin, rows)}")
        stream.flush()


def line(
    label: str, done: int, tasks: int, seconds: float, in_all: float, rows: int | None
) -> str:
    """What is told of a stage.

    Parameters
    ----------
    done, tasks : of what Spark runs now, for so many seconds
    in_all : seconds since the stage began
    rows : of the stage, if known; those done are estimated by the tasks, which hold about as many
    """
    if not tasks:
        return f"{label}: ... {in_all:.0f} s"
    left = f", {_time(seconds * (tasks - done) / done)} left" if done and seconds > 1 else ""
    if rows is None or not left:
        return f"{label}: {done}/{tasks} tasks {in_all:.0f} s{left}"
    reached = rows * done // tasks
    return f"{label}: about {reached:,} of {rows:,} rows, {reached / seconds:,.0f}/s{left}"


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"
