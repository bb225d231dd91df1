"""Files under a path: which of them are data, and in what format.

Spark's readers take a folder for files of one kind and one schema, and say nothing of the rest:
they skip files in folders below, and read a `license.json` as data. Here the files are listed
first; what is left out is said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, NamedTuple

import xxhash
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from dsir_spark.errors import TableError
from dsir_spark.local_rows import to_arrow

FORMATS = {
    "parquet": "parquet", "json": "json", "jsonl": "json", "ndjson": "json", "txt": "text",
    "text": "text", "csv": "csv",
}  # fmt: skip

_COMPRESSIONS = ("gz", "gzip", "zst", "zstd", "bz2", "lz4", "snappy", "deflate")
# The last part of a file's name, in front of a compression's.
_ENDING = r"\.([^.]+?)(\.(" + "|".join(_COMPRESSIONS) + "))?$"
_LISTED = ("path", "length", "modificationTime")
# Files of another ending with less than this share of the bytes are no data: a README, a manifest.
_BESIDE = 0.1


@dataclass(frozen=True)
class Files:
    """The data files at a place.

    kind : Spark's name of their format
    facts : number, bytes, and a hash of names, sizes and times, which tell them from others
    keys : columns that come from folders named key=value
    options : of Spark's reader, so that it reads these files and no others
    notes : what is left out, in sentences
    folders : that the data files lie in
    after : rows of files that changed later than this are read, in microseconds since 1970; the
        columns are those of all files
    """

    place: str
    kind: str
    facts: dict[str, int]
    keys: tuple[str, ...]
    options: dict[str, str]
    notes: list[str] = field(default_factory=list)
    folders: frozenset[str] = frozenset()
    after: int | None = None


class Seen(NamedTuple):
    """What Spark finds under a path of this machine.

    files : bytes of each, and when it changed, in nanoseconds since 1970, by its path for Spark;
        None where only Spark can tell
    skipped : names of data that it skips, as they begin with _
    """

    files: dict[str, tuple[int, int]] | None
    skipped: list[str]


def extension(place: str) -> str | None:
    """The format that a file's name stands for."""
    found = re.search(_ENDING, os.path.basename(place.rstrip("/")).lower())
    return FORMATS.get(found.group(1)) if found else None


def literal(place: str) -> str:
    """A path that Spark's readers do not take for a pattern, where it is there as it is spelt."""
    return escaped(place) if os.path.exists(place) else place


def escaped(path: str) -> str:
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", path)


def listed(spark: SparkSession, place: str, **options: str) -> DataFrame:
    """Names, sizes and times of the files under a path, listed by Spark and never read."""
    listing = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    listing = listing.options(**options)
    return listing.load(literal(place)).select(*_LISTED)


def _hash() -> Column:
    """What tells a file from others; those of a set are joined by xor."""
    return F.xxhash64(*_LISTED)


def find(
    spark: SparkSession, place: str, kind: str | None, owner: str, seen: Seen | None = None
) -> Files:
    """The data files at a place.

    Parameters
    ----------
    kind : their format, or None: found by the endings of their names
    owner : whose they are, for messages
    seen : what is there, where that is known without Spark

    Raises
    ------
    TableError
        Nothing is there, or the names do not tell the format.
    """
    try:
        groups = _by_ending(spark, place, seen)
    except PySparkException as error:
        raise TableError(f"{owner}: there is nothing at {place} ({reason(error)})") from None
    if not groups and os.path.basename(place).startswith(("_", ".")) and extension(place):
        raise TableError(f"{owner}: {place} is not read: Spark skips files whose names begin with "
                         "_ or a dot: rename it")  # fmt: skip
    if not groups:
        raise TableError(f"{owner}: {place} holds no files, or empty ones only")
    chosen, found = _data(groups, place, kind, owner)
    rest = [group for group in groups if group not in chosen]
    options, notes = {}, []
    if rest:
        endings = {end for group in chosen for end in group["endings"]}
        options["pathGlobFilter"] = "*{" + ",".join(sorted(endings)) + "}"
        n, names = sum(g["files"] for g in rest), ", ".join(sorted(g["first"] for g in rest))
        notes.append(
            f"{owner}: {n} {_files(n)} under {place} {'is' if n == 1 else 'are'} left out, having "
            f"other endings than the data ({names}{', ...' if n > len(rest) else ''})"
        )
    keys = {key for group in chosen for key in group["keys"]}
    several = len({top for group in chosen for top in group["tops"]}) > 1
    if len(keys) > 1 or several or any(group["nested"] for group in chosen):
        if any(keys):
            named = sorted({name for key in keys for name in key})
            why = "several folders are named" if several else "other files lie outside of them"
            notes.append(f"{owner}: folders named {', '.join(n + '=' for n in named)} are read, but"
                         f" are no columns: {why}")  # fmt: skip
        keys = set()
    if not any(keys):
        # Else Spark leaves them out where a folder is named so that has no data.
        options["recursiveFileLookup"] = "true"
    facts = {name: sum(g[name] for g in chosen) for name in ("files", "bytes")}
    facts["listing"] = reduce(lambda a, b: a ^ b, (group["listing"] for group in chosen))
    own = next(iter(keys), ())
    folders = frozenset().union(*(group["folders"] for group in chosen))
    return Files(place, found, facts, own, options, notes, folders)


def _by_ending(spark: SparkSession, place: str, seen: Seen | None) -> list[dict[str, Any]]:
    """A group of files for each ending that stands for a format, and one for all others.

    Spark lists and holds all files on its driver whatever is asked; grouping them by a query took
    longer than everything else of a look at a place.
    """
    # Folders between the place and the file; a pattern has as many parts as what it stands for.
    own = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:(//[^/]*)?", "", place).strip("/").split("/")
    depth = len(own) if own != [""] else 0
    groups: dict[str, dict[str, Any]] = {}
    for path, length, hashed in _hashed(spark, place, seen):
        parts = re.sub(r"^[^:/]+:(//[^/]*)?/+", "", path).split("/")
        folders, name = parts[depth:-1], parts[-1]
        found = re.search(_ENDING, name, re.IGNORECASE)
        ending = found.group(1).lower() if found and found.group(1).lower() in FORMATS else ""
        none = {"files": 0, "bytes": 0, "listing": 0, "first": name, "nested": False}
        sets: dict[str, Any] = {n: set() for n in ("endings", "keys", "folders", "tops")}
        group = groups.setdefault(ending, {"ending": ending, **none, **sets})
        group["files"] += 1
        group["bytes"] += length
        group["listing"] ^= hashed
        group["first"] = min(group["first"], name)
        group["folders"].add(path[: -len(name) - 1])
        group["tops"].add(tuple(parts[: min(depth, len(parts) - 1)]))
        if found and ending:
            group["endings"].add(found.group(0))
        keyed = [folder for folder in folders if re.match("[^=]+=.", folder)]
        group["nested"] |= len(keyed) < len(folders)
        group["keys"].add(tuple(folder.split("=")[0] for folder in keyed))
    return list(groups.values())


def _hashed(
    spark: SparkSession, place: str, seen: Seen | None
) -> Iterable[tuple[str, int, int]]:  # fmt: skip
    """Path, bytes and hash of each file."""
    if seen is None or seen.files is None:
        table = to_arrow(listed(spark, place).select("path", "length", _hash().alias("hash")))
        return zip(*[column.to_pylist() for column in table.columns], strict=True)
    return [
        (path, size, _hash_of(path, size, changed // 1_000_000 * 1_000))  # a time as Spark's
        for path, (size, changed) in seen.files.items()
    ]


def _hash_of(path: str, length: int, time: int) -> int:
    """`_hash` of one file, without a query."""
    h = xxhash.xxh64_intdigest(path.encode(), 42)
    for number in (length, time):
        h = xxhash.xxh64_intdigest(number.to_bytes(8, "little", signed=True), h)
    return h - (1 << 64) if h >> 63 else h


def newer(spark: SparkSession, found: Files, known: Mapping[str, Any], owner: str) -> Files:
    """The files that came after those of which the facts are `known`.

    Those are the oldest, or there is no telling: the facts of the oldest files are compared.

    Raises
    ------
    TableError
        No such files are there: some changed or went, or newer ones bear an older time.
    """
    glob = {name: text for name, text in found.options.items() if name == "pathGlobFilter"}
    time = F.unix_micros("modificationTime").alias("time")
    oldest = listed(spark, found.place, **glob).groupBy(time).agg(
        F.count("*").alias("files"), F.sum("length").alias("bytes"),
        F.bit_xor(_hash()).alias("listing"),
    ).orderBy("time")  # fmt: skip
    files = size = listing = 0
    for row in oldest.toLocalIterator():
        files, size = files + row["files"], size + row["bytes"]
        listing ^= row["listing"]
        if {"files": files, "bytes": size, "listing": listing}.items() <= known.items():
            return replace(found, after=row["time"])
        if files >= known["files"]:
            break
    raise TableError(
        f"{owner}: the oldest {known['files']} {_files(known['files'])} under {found.place} are "
        "not those on record: files were changed, deleted, or came with an older time"
    )


def _data(
    groups: list[dict[str, Any]], place: str, kind: str | None, owner: str
) -> tuple[list[dict[str, Any]], str]:
    """The groups of files that are data, and their format."""
    known = [g for g in groups if g["ending"] and kind in (None, FORMATS.get(g["ending"]))]
    kind = kind or (None if known else extension(place))
    if not known and kind:
        return groups, kind
    total = sum(g["bytes"] for g in groups)
    main = max(known, key=lambda g: (g["bytes"], g["files"]), default=None)
    found = kind or (FORMATS[main["ending"]] if main else None)
    chosen = [g for g in known if FORMATS[g["ending"]] == found and (
        g["ending"] != "json" or g["bytes"] >= _BESIDE * total or len(known) == 1)]  # fmt: skip
    rest = sum(g["bytes"] for g in groups if g not in chosen)
    if found is None or (kind is None and rest > _BESIDE * total):
        names = ", ".join(g["first"] for g in groups)
        raise TableError(
            f"{owner}: the format of {place} is not clear from its file names ({names}, ...): "
            f"name the files by a pattern ('{place}/*.jsonl'), or give --{owner.split()[0]}-format"
        )
    return chosen, found


def _files(n: int) -> str:
    return "file" if n == 1 else "files"


def reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
