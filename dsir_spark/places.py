"""Where tables and inputs are: paths, and names of tables.

A place is a path (`/data/raw`, `s3://b/raw`, `raw.jsonl`, `out`) or a table name with a dot in it
(`schema.table`, `catalog.schema.table`, parts quoted by backticks or not); `./my.folder` is a path
in any case, and so is what exists on this machine.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from dsir_spark import files
from dsir_spark.columns import setting

_NAME_PART = r"(?:`(?:[^`]|``)+`|[^\s/\\:*?.`]+)"
_TABLE_NAME = re.compile(rf"{_NAME_PART}(?:\.{_NAME_PART}){{1,2}}")
_OF_SPARK = re.compile("_(delta_|change_data|spark_metadata|symlink_|temporary)")
_METADATA = re.compile("_(common_)?metadata")  # folders that Spark looks into all the same
# As SQL names the table, or the files, of a path.
_OF_PATH = re.compile(r"(?i)(?:delta|parquet|json|csv|text)\.`(.*/.*)`")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def is_path(place: str) -> bool:
    """Is `place` a path (and not the name of a table)?"""
    named = _TABLE_NAME.fullmatch(place) and not place.startswith(".")
    return not named or files.extension(place) is not None or os.path.exists(place)


def within(output: str, name: str) -> str:
    """The place of the table `name` under an output path, or in an output schema."""
    return f"{output.rstrip('/')}/{name}" if is_path(output) else f"{output}.{name}"


def resolved(spark: SparkSession, place: str) -> str:
    """The place in one spelling, as Spark finds it from the current folder.

    A relative path becomes absolute where the session's files are this machine's, or where there is
    something that Spark can list; a table name is quoted where it must be.
    """
    if not is_path(place):
        if not (named := re.fullmatch(_OF_PATH, place)):
            return quoted_name(place)
        place = named[1].replace("``", "`")
    if place.startswith("file:") and _files_are_default(spark):
        place = re.sub("^file:/*", "/", place)
    if not _SCHEME.match(place):
        if _on_this_machine(spark):
            return os.path.abspath(at_home(place))
        if not place.startswith("/"):
            return _listed_folder(spark, place) or place
    return place if place == "/" else place.rstrip("/")


def nothing(place: str) -> str:
    """That nothing is at a path; with the spelling of a table of its name, if one may be meant."""
    named = _TABLE_NAME.fullmatch(place)
    return f"there is nothing at {place}" + (f" (a table: {quoted_name(place)})" if named else "")


def contains(outer: str, inner: str) -> bool:
    """Is the resolved path `inner` the path `outer`, or one that it stands for, or below it?

    By where links lead to.
    """
    if not is_path(outer) or not is_path(inner):
        return inner == outer
    outer, inner = (os.path.realpath(p) if p.startswith("/") else p for p in (outer, inner))
    if f"{inner}/".startswith(outer.rstrip("/") + "/"):
        return True
    if os.path.exists(outer):  # its stars are those of names
        return False
    patterns = [pattern.split("/") for pattern in _alternatives(outer)]
    parts = [inner.split("/")[: len(pattern)] for pattern in patterns]
    return any(len(p) == len(of) and all(map(fnmatch.fnmatchcase, p, of))
               for p, of in zip(parts, patterns, strict=True))  # fmt: skip


def meet(place: str, output: str) -> bool:
    """Is an input in a folder of tables, or are these in it?"""
    # A pattern may stand for no more than files of a table.
    part = f"{output}/a_table/part-0.parquet" if is_path(output) else output
    return contains(place, part) or contains(output, place)


def _alternatives(pattern: str) -> list[str]:
    """A pattern of files for each of what stands in braces."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    start, end = pattern[: found.start()], pattern[found.end() :]
    return [one for text in found[1].split(",") for one in _alternatives(start + text + end)]


def at_home(place: str) -> str:
    """A place with `~/` read as shells do, but for that of `--raw=~/x` and of YAML."""
    return os.path.expanduser(place) if place.startswith("~/") else place


def nothing_at(spark: SparkSession, place: str, within: str = "") -> bool:
    """Is it known, without asking Spark, that there is nothing at a path, or of a name within it?

    Of a path of this machine. Spark answers by an exception, which costs it 70 ms, and a run looks
    at twenty places where nothing is yet.
    """
    found = local(spark, place)
    if found is None:
        return False
    # (A slash after the name of a file would make it one of nothing.)
    return not os.path.lexists(os.path.join(found, within) if within else found)


def seen(spark: SparkSession, place: str) -> files.Seen | None:
    """What Spark finds under a path of this machine; its own look is a job, after each pass too.

    None of patterns, and of what is not on this machine. Of a folder with names that are no
    Unicode, or with what cannot be looked at, what is skipped is known, and no files.
    """
    top = local(spark, place)
    if top is None or top != place or not os.path.exists(top):
        return None
    paths: list[str] = []
    skipped: list[str] = []
    try:
        for folder, folders, names in _walked(top):
            hidden = [n for n in folders if _is_hidden(n) and not _METADATA.match(n)]
            skipped += [n for n in hidden if n[0] == "_" and not _OF_SPARK.match(n)]
            folders[:] = [n for n in folders if n not in hidden]
            skipped += [n for n in names if _is_hidden(n) and n[0] == "_" and files.extension(n)]
            paths += [os.path.join(folder, n) for n in names if not _is_hidden(n)]
    except OSError:  # a folder that cannot be read, or goes meanwhile
        return files.Seen(None, sorted(skipped))
    return files.Seen(_told(paths), sorted(skipped))


def _told(paths: list[str]) -> dict[str, tuple[int, int]] | None:
    """Bytes and times of files; None where one of them cannot be told."""
    try:
        "".join(paths).encode()
        found = {path: os.stat(path) for path in paths}
    except (OSError, UnicodeError):
        return None
    # Spark takes no empty ones.
    return {f"file:{p}": (of.st_size, of.st_mtime_ns) for p, of in found.items() if of.st_size}


def _walked(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders with their folders and files, as `os.walk` has them; errors are raised."""

    def refuse(error: OSError) -> None:
        raise error

    if os.path.isdir(top):
        yield from os.walk(top, onerror=refuse, followlinks=True)
    else:
        yield os.path.dirname(top), [], [os.path.basename(top)]


def _is_hidden(name: str) -> bool:
    """Does Spark skip a file or folder of this name?"""
    marked = name.startswith("_") and "=" not in name
    return marked or name.startswith(".") or name.endswith("._COPYING_")


def local(spark: SparkSession, place: str) -> str | None:
    """Where a path of this machine is; None of a table's name, and of what is elsewhere."""
    if not is_path(place) or not _on_this_machine(spark):
        return None
    found = resolved(spark, place)
    return None if _SCHEME.match(found) else found  # a store's, which a local session reads too


def _on_this_machine(spark: SparkSession) -> bool:
    # In this order: elsewhere each question is a message to a server, and the first one settles it.
    if not setting(spark, "spark.master").startswith("local"):
        return False
    return _files_are_default(spark)


def _files_are_default(spark: SparkSession) -> bool:
    """Is a path without a scheme one of files, and not of a store that Hadoop is configured for?"""
    context = getattr(spark, "_sc", None)
    if context is not None:
        given = str(context._jsc.hadoopConfiguration().get("fs.defaultFS"))
    elif not (given := setting(spark, "spark.hadoop.fs.defaultFS")):  # all that a server tells
        return setting(spark, "spark.master").startswith("local")
    return given.startswith("file:")


def _listed_folder(spark: SparkSession, place: str) -> str | None:
    """Where the files of a relative path are; None where there are none."""
    try:
        first = files.listed(spark, place).select("path").first()
    except PySparkException:
        return None
    found = re.search(re.escape("/" + place.strip("./")) + "(?=/|$)", first[0]) if first else None
    return first[0][: found.end()] if first and found else None


def parts(place: str) -> list[str]:
    """The parts of a table's name, without backticks."""
    found = re.findall(_NAME_PART, place)
    return [p[1:-1].replace("``", "`") if p.startswith("`") else p for p in found]


def quoted_name(place: str) -> str:
    """A table's name with those parts in backticks that SQL wants so, or that would make it a path.

    `corpus.text` would be a file of text.
    """
    plain = re.compile(r"[A-Za-z_]\w*", re.ASCII)
    return ".".join(
        p if plain.fullmatch(p) and p.lower() not in files.FORMATS
        else "`" + p.replace("`", "``") + "`"
        for p in parts(place)
    )


def sql_name(spark: SparkSession, place: str) -> str | None:
    """The table as SQL names it; None where a relative path holds no table.

    Delta takes absolute paths only in SQL.
    """
    place = resolved(spark, place)
    if not is_path(place):
        return place
    if not place.startswith("/") and not _SCHEME.match(place):
        return None
    return "delta.`" + place.replace("`", "``") + "`"
