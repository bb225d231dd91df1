"""Spark sessions for the command line and the tests: the only place that touches settings.

The library itself takes the session of the caller's DataFrames.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dsir_spark import jvm
from dsir_spark.errors import SessionError

MIN_JAVA = 17
_log = logging.getLogger("dsir_spark")
_INSTALL = "pip install 'dsir-spark[spark]'"
# What Delta's jars ask for besides, and Spark has in versions of its own, which it takes.
_IN_SPARK = (
    "org.apache.hadoop:hadoop-client-api", "org.apache.hadoop:hadoop-client-runtime",
    "org.apache.parquet:*", "org.apache.logging.log4j:*",
)  # fmt: skip
_DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}


def build_session(
    app_name: str = "dsir_spark",
    master: str | None = None,
    remote: str | None = None,
    conf: Mapping[str, str] | None = None,
    record: bool = False,
) -> Any:
    """A session with Delta: Databricks' own, spark-submit's, a Connect server's, or a local one.

    Parameters
    ----------
    master : Spark master; by default local with all cores
    remote : Connect server, `sc://host:port` or `local[n]` to start one; default: SPARK_REMOTE
    conf : further settings, which win over those made here
    record : a local JVM may keep its classes for the next one (`jvm`)

    Raises
    ------
    SessionError
        Java or a package is missing or too old, or Delta's jars cannot be had.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise SessionError(f"pyspark is not installed: {_INSTALL}") from None
    own = dict(conf or {})
    if "DATABRICKS_RUNTIME_VERSION" in os.environ:  # the workspace has one, and its settings
        return _configured(SparkSession.builder, own).getOrCreate()
    builder = SparkSession.builder.appName(app_name)
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit has started the JVM, with its jars
        return _configured(builder, _DELTA | own).getOrCreate()
    remote = remote or os.environ.get("SPARK_REMOTE")
    if remote and remote.startswith("sc://"):
        return _configured(builder.remote(remote), own).getOrCreate()
    java = _check_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if master is None or master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    settings = _DELTA | _local_settings(master, own) | own
    if remote:
        builder = builder.remote(remote)
    else:
        builder = builder.master(master or "local[*]")
    if "delta" in own.get("spark.jars", "") + own.get("spark.jars.packages", ""):
        return _start(_configured(builder, settings))
    package = delta_package()
    local = not remote and (master is None or master.startswith("local"))
    kept = jvm.folder(java, package, own) if local else None
    if kept and (jars := jvm.class_path(kept)):
        settings["spark.driver.extraClassPath"] = jars
        settings["spark.driver.extraJavaOptions"] += jvm.archive(kept, record)
        return _start(_configured(builder, settings))
    spark = _start(_configured(builder, settings | _packages(package, remote, own)))
    if kept:
        jvm.keep_jars(kept, spark.sparkContext.getConf().get("spark.jars", ""))
    return spark


def _packages(package: str, remote: str | None, own: Mapping[str, str]) -> dict[str, str]:
    """Settings by which Spark finds Delta's jars, or downloads them."""
    if not _has_jar(package, own.get("spark.jars.ivy")):
        _log.info("a first start on this machine: Spark downloads Delta's jars (under 20 MB)")
    packages = [package, *_connect_package(remote), own.get("spark.jars.packages")]
    return {
        "spark.jars.excludes": own.get("spark.jars.excludes") or ",".join(_IN_SPARK),
        "spark.jars.packages": ",".join(filter(None, packages)),
    }


def _configured(builder: Any, settings: Mapping[str, str]) -> Any:
    return builder.config(map=dict(settings))


def _local_settings(master: str | None, own: Mapping[str, str]) -> dict[str, str]:
    settings = {
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",  # the command line shows it
        # Batches count rows, not bytes; long documents would make them huge.
        "spark.sql.execution.arrow.maxRecordsPerBatch": "2048",
    }
    if master is None or master.startswith("local"):
        settings |= {
            "spark.driver.memory": os.environ.get("SPARK_DRIVER_MEMORY", "2g"),
            # The JVM's second compiler takes from the few cores more than it gives: a run over
            # 203 MB took 36 s without it and 43 with it, over 2.1 GB 57 and 71; passes of fit and
            # weigh, once warm, the same.
            "spark.driver.extraJavaOptions": jvm.flags(own),
            "spark.sql.shuffle.partitions": str(os.cpu_count() or 2),
            # Of so few partitions none need be joined, and each shuffle would be a job of its own:
            # 62 jobs instead of 48 for a run without its page.
            "spark.sql.adaptive.enabled": "false",
            # With it each function of a column has Spark look for a class in all jars, to say where
            # in this package an error of Spark's came from: a quarter of all that is sent to it.
            "spark.python.sql.dataFrameDebugging.enabled": "false",
            # A local Delta log is small: 50 tasks to read it are 48 too many.
            "spark.databricks.delta.snapshotPartitions": "2",
            # Lists of files in checksums, made by a job with each new table; nothing here is
            # sooner found by them.
            "spark.databricks.delta.allFilesInCrc.enabled": "false",
        }
    return settings


def delta_package() -> str:
    """Coordinates of the Delta jar that fits the installed packages."""
    import pyspark

    try:
        delta = metadata.version("delta-spark")
    except metadata.PackageNotFoundError:
        raise SessionError(f"delta-spark is not installed: {_INSTALL}") from None
    spark = pyspark.__version__.split(".")
    if spark[0] == "3":
        return f"io.delta:delta-spark_2.12:{delta}"
    return f"io.delta:delta-spark_{spark[0]}.{spark[1]}_2.13:{delta}"


def _has_jar(package: str, ivy: str | None) -> bool:
    """Is the package's jar where Spark keeps what it has downloaded?"""
    named = package.replace(":", "_", 1).replace(":", "-")
    folders = [Path(ivy)] if ivy else Path.home().glob(".ivy2*")  # by Spark's version
    return any((folder / "jars" / f"{named}.jar").exists() for folder in folders)


def _connect_package(remote: str | None) -> list[str]:
    import pyspark

    if not remote or not pyspark.__version__.startswith("3"):
        return []
    # Later patch releases of the server are not published everywhere; this one serves 3.5.9 too.
    return ["org.apache.spark:spark-connect_2.12:3.5.7"]


def _check_java() -> str:
    """What `java -version` says."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    advice = f"install a JDK {MIN_JAVA} (openjdk-{MIN_JAVA}-jre-headless) or set JAVA_HOME"
    try:
        said = subprocess.run([java or "java", "-version"], capture_output=True, text=True).stderr
    except OSError:
        raise SessionError(f"Java is missing: {advice}") from None
    version = java_version(said)
    if version is None or version < MIN_JAVA:
        raise SessionError(f"Java {MIN_JAVA} or newer is needed, found {version}: {advice}")
    return said


def java_version(said: str) -> int | None:
    """Major version out of what `java -version` says; None where it says none."""
    found = re.search(r'version "(?:1\.)?(\d+)[."]', said)
    return int(found[1]) if found else None


def _start(builder: Any, tries: int = 2) -> Any:
    """Start the JVM with its output in a log file: the search for jars is long and means little."""
    descriptor, path = tempfile.mkstemp(prefix="dsir-spark-", suffix=".log")
    try:
        with _redirected(descriptor):
            return builder.getOrCreate()
    except Exception as error:
        log = Path(path).read_text(encoding="utf-8", errors="replace")
        if tries > 1 and "download failed" in log:  # of a jar that was found: the line broke off
            return _start(builder, tries - 1)
        raise SessionError(start_failure(f"{log}\n{error}", path)) from None
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _redirected(descriptor: int) -> Iterator[None]:
    """File descriptors 1 and 2 to a file; the JVM started meanwhile keeps them, Python does not."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        yield
    finally:
        for target, copy in enumerate(kept, start=1):
            os.dup2(copy, target)
            os.close(copy)


def start_failure(log: str, path: str) -> str:
    """The line for a session that did not start, by what its log says."""
    signs = ("unresolved dependency", "unresolved dependencies", "download failed")
    if any(sign in log.lower() for sign in signs):
        return (
            "Delta's jars cannot be downloaded: run once with network access, or give their paths "
            f"in SPARK_CONF_DIR/spark-defaults.conf as spark.jars (log: {path})"
        )
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "no output")
    return f"Spark did not start: {last.strip()[:200]} (log: {path})"


def warm(spark: Any) -> None:
    """Have the JVM of a local session load, aside, what a first Delta table takes.

    A first commit takes several times as long as later ones; the first look at the inputs leaves
    a core for it.
    """
    context = getattr(spark, "_sc", None)
    if context is None or not str(context.master).startswith("local"):
        return

    def commit() -> None:
        with contextlib.suppress(Exception), tempfile.TemporaryDirectory() as scratch:
            row = spark.createDataFrame([("",)], "id string").coalesce(1)
            row.write.format("delta").save(f"{scratch}/table")

    threading.Thread(target=commit, daemon=True).start()
