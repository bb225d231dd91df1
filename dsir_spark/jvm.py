"""The JVM of a local session: its flags, and the classes that it keeps for the next one.

Much of what Java does in a short run is loading classes: each is looked for in some hundreds of
jars, read and verified. A JVM can write what it has loaded to an archive when it ends, and the
next one maps it (class data sharing: https://openjdk.org/jeps/350). It archives only what its own
class path holds, so Delta's jars, found once by Spark, stand there. An archive that does not fit
(another Java, another jar) is left aside by the JVM, without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

# With one compiler a JVM keeps 48 MB for what it compiles, which a run of three targets fills: then
# it compiles no more, or ends. 240 MB are what it keeps with both.
QUICK = "-XX:+IgnoreUnrecognizedVMOptions -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"
# Of short-lived rows the parallel collector takes less of two cores than the default one.
_COLLECTOR = "-XX:+UseParallelGC"
_OPTIONS = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS")
# Folders on the class path, which no archive may have, or another Spark.
_ELSEWHERE = ("SPARK_HOME", "SPARK_CONF_DIR", "HADOOP_CONF_DIR", "YARN_CONF_DIR",
              "SPARK_DIST_CLASSPATH")  # fmt: skip
_OWN = ("spark.jars", "spark.driver.extraClassPath", "spark.driver.defaultJavaOptions")
_HOUR, _MONTH = 3600, 30 * 86400

_recording: Path | None = None  # where this process' JVM writes at its end


def flags(own: Mapping[str, str]) -> str:
    """For `spark.driver.extraJavaOptions`: without a collector where there may be one."""
    # A JVM refuses two, and does not start.
    named = any("GC" in os.environ.get(name, "") for name in _OPTIONS)
    return QUICK if named or not _plain(own) else f"{QUICK} {_COLLECTOR}"


def folder(java: str, packages: str, own: Mapping[str, str]) -> Path | None:
    """Where the JVM of these packages keeps its classes; None where it cannot.

    Parameters
    ----------
    java : what `java -version` says
    packages : coordinates of Delta's jars
    own : settings of the caller
    """
    if not _plain(own):
        return None
    import pyspark

    key = "\n".join((java, packages, pyspark.__version__, pyspark.__file__))
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dsir_spark"
    if os.pathsep in str(root):  # Java would take it for two
        return None
    return root / hashlib.sha256(key.encode()).hexdigest()[:16]


def _plain(own: Mapping[str, str]) -> bool:
    """Has the JVM no settings and no class path but ours?"""
    import pyspark

    return not (
        any(os.environ.get(name) for name in _ELSEWHERE)
        or any(key.startswith(_OWN) for key in own)
        or (Path(pyspark.__file__).parent / "conf").exists()
    )


def class_path(kept: Path) -> str | None:
    """The jars that Spark found for the packages, for `spark.driver.extraClassPath`."""
    try:
        jars = (kept / "jars").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return os.pathsep.join(jars) if jars and all(Path(jar).is_file() for jar in jars) else None


def keep_jars(kept: Path, jars: str) -> None:
    """Note what Spark found, `spark.jars` of its session, but for what it has itself.

    Loaded as packages they come after Spark's own jars; on the class path they come first, and
    Delta's Jackson there is one that Spark does not start with.
    """
    import pyspark

    if "delta" not in jars:
        return  # a session that was there before
    has = {_artifact(jar.name) for jar in (Path(pyspark.__file__).parent / "jars").glob("*.jar")}
    found = [unquote(urlsplit(jar).path) for jar in jars.split(",")]
    # Spark names what it downloads by group and artifact.
    paths = [jar for jar in found if _artifact(Path(jar).name.partition("_")[2]) not in has]
    with contextlib.suppress(OSError):  # a home that cannot be written: each start looks anew
        kept.mkdir(parents=True, exist_ok=True)
        new = kept / f"jars.{os.getpid()}"
        new.write_text("\n".join(paths), encoding="utf-8")
        new.replace(kept / "jars")


def _artifact(jar: str) -> str:
    return re.sub(r"-\d[^-]*(-[^-]*)?\.jar$", "", jar)


def archive(kept: Path, record: bool) -> str:
    """The flag that maps the archive, or with `record` the one that writes it; else none.

    Quoted, as `spark.driver.extraJavaOptions` wants a path with a space.
    """
    global _recording
    file = kept / "classes.jsa"
    try:
        if _whole(file):
            os.utime(kept)
            return f' -XX:SharedArchiveFile="{file}" -Xlog:cds=off'
        if not record or not _claimed(kept / "claim"):
            return ""
        for stale in (kept / "ended", file):
            stale.unlink(missing_ok=True)
        _forget_unused(kept.parent)
    except OSError:
        return ""
    _recording = kept
    return f' -XX:ArchiveClassesAtExit="{file}" -Xlog:cds=off -Xlog:cds+dynamic=off'


def ended(well: bool) -> None:
    """The command is over: what its JVM keeps as it ends is of use if it has done all it should.

    One that stopped at a mistake has loaded little, and its archive would be mapped for good: the
    next one writes it.
    """
    if _recording is not None:
        with contextlib.suppress(OSError):
            if well:
                (_recording / "ended").touch()
            else:
                (_recording / "claim").unlink()


def _whole(file: Path) -> bool:
    """Written to its end, by a JVM of a command that did all it should?"""
    if not file.exists() or not (file.parent / "ended").exists():
        return False
    with file.open("rb") as opened:  # the header comes last: zeros until then
        return any(opened.read(4))


def _claimed(claim: Path) -> bool:
    """May this process write the archive? One does, and another when it has not within an hour."""
    try:
        claim.open("x").close()
    except FileExistsError:
        if time.time() - claim.stat().st_mtime < _HOUR:
            return False
        claim.touch()
    return True


def _forget_unused(root: Path) -> None:
    """Archives are 200 MB; those of installations that are gone are not kept."""
    for other in root.iterdir():
        if other.is_dir() and time.time() - other.stat().st_mtime > _MONTH:
            shutil.rmtree(other, ignore_errors=True)
