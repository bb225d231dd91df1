"""What the command line shows of a run: lines out of the log, and tasks while a stage runs.

The library logs to `dsir_spark` and prints nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, Any

_LOG = logging.getLogger("dsir_spark")


@contextlib.contextmanager
def told() -> Iterator[None]:
    """The log of the package, and its warnings, as lines on standard error.

    A warning's text is told once; warnings of libraries stay silent.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
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


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        start = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return start + " ".join(record.getMessage().split())


def of(spark: Any) -> Callable[[str], AbstractContextManager[None]]:
    """Shows a stage by its label while it runs, for the functions of the job."""
    return lambda label: _live(spark, label, sys.stderr)


@contextlib.contextmanager
def stage(label: str, shown: Callable[[str], AbstractContextManager[None]]) -> Iterator[None]:
    """A stage that is the command line's own: shown, and logged as those of the job are."""
    begin = time.monotonic()
    with shown(label):
        yield
    _LOG.info("%s: %.1f s", label, time.monotonic() - begin)


@contextlib.contextmanager
def _live(spark: Any, label: str, stream: IO[str]) -> Iterator[None]:
    """On a terminal, the tasks done of all, in a line that is gone when the stage ends."""
    if not stream.isatty():
        yield
        return
    stop = threading.Event()
    shown = threading.Thread(target=_show_tasks, args=(spark, label, stream, stop), daemon=True)
    shown.start()
    try:
        yield
    finally:
        stop.set()
        shown.join()
        stream.write("\r\033[K")
        stream.flush()


def _show_tasks(spark: Any, label: str, stream: IO[str], stop: threading.Event) -> None:
    tracker = getattr(getattr(spark, "_sc", None), "statusTracker", lambda: None)()
    begin = time.monotonic()
    while not stop.wait(0.5):
        stages = [tracker.getStageInfo(s) for s in tracker.getActiveStageIds()] if tracker else []
        known = [s for s in stages if s is not None]
        tasks = f"{sum(s.numCompletedTasks for s in known)}/{sum(s.numTasks for s in known)} tasks"
        stream.write(f"\r\033[K{label}: {tasks if known else '...'} "
                     f"{time.monotonic() - begin:.0f} s")  # fmt: skip
        stream.flush()
