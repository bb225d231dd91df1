"""What is given to a command besides flags: the YAML file, and places on this machine.

All of it is told before Spark starts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

from dsir_spark.errors import ConfigError, TableError
from dsir_spark.job_options import JobOptions, Loader

_SCHEME_OR_GLOB = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|.*[*?{\[]")
# Where one of these is set, a path need not be on this machine.
_ELSEWHERE = ("PYSPARK_GATEWAY_PORT", "HADOOP_CONF_DIR", "YARN_CONF_DIR", "SPARK_CONF_DIR",
              "DATABRICKS_RUNTIME_VERSION")  # fmt: skip
# Commands that read what is on record, whatever inputs a file of options names.
_OF_RECORD = ("report", "explain", "runs")


def read_yaml(path: str) -> dict[str, Any]:
    """The options of a file, by name; numbers and dates as texts.

    Raises
    ------
    ConfigError
        The file cannot be read, or is no mapping in YAML.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.load(file, Loader)  # of the safe kind: it makes plain values only
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"config {path} is not YAML: {' '.join(str(error).split())}") from None
    if found is not None and not isinstance(found, dict):
        kind = type(found).__name__
        raise ConfigError(f"config {path} must map options to values; it is a {kind}")
    return found or {}


def is_local(master: str | None, remote: str | None, conf: Mapping[str, str]) -> bool:
    """Will Spark run on this machine, so that a path without a scheme is one of it?"""
    sessions = (master, conf.get("spark.master"), remote, os.environ.get("SPARK_REMOTE"))
    other = any(os.environ.get(name) for name in _ELSEWHERE) or "spark.hadoop.fs.defaultFS" in conf
    return not other and all(not s or s.startswith("local") for s in sessions)


def look_for_places(command: str, options: JobOptions) -> None:
    """Raise a `TableError` unless inputs that are paths, and will be read, are on this machine."""
    # Here, because most mistakes are told without it.
    from dsir_spark import places

    def missing(place: str | None) -> bool:
        looked_for = place and not _SCHEME_OR_GLOB.match(place) and places.is_path(place)
        return bool(looked_for and not os.path.exists(places.at_home(str(place))))

    given = {
        "raw": options.raw, "scores": getattr(options, "scores", None),
        "decontaminate": getattr(options, "decontaminate", None),
    } | {
        "target" if options.single_target else f"target {name}": place
        for name, place in options.target.items()
    }
    given = {} if command in _OF_RECORD else given
    found = [f"{owner}: {places.nothing(str(p))}" for owner, p in given.items() if missing(p)]
    if command not in ("run", "fit", "select") and missing(options.output):
        found.append(f"there is no run at {options.output}: use `dsir-spark run` (or `fit`) first")
    if found:
        raise TableError("; ".join(found))
