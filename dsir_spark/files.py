"""Files under a path: which of them are data, in what format, and the columns that they share.

Spark's readers take a folder for files of one kind and one schema, and say nothing of the rest:
they skip files in folders below, read a `license.json` as data, and give all files the columns of
the first. Here the files are listed first; what is left out is said.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any
from urllib.parse import unquote

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, DataFrameReader, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark import failures, quotes
from dsir_spark.errors import DSIRError, TableError
from dsir_spark.local_rows import to_arrow

FORMATS = {
    "parquet": "parquet", "json": "json", "jsonl": "json", "ndjson": "json", "txt": "text",
    "text": "text", "csv": "csv",
}  # fmt: skip
UNPARSED = "__dsir_unparsed"  # the line of a row that does not parse (string); else null

_COMPRESSIONS = ("gz", "gzip", "zst", "zstd", "bz2", "lz4", "snappy", "deflate")
# The last part of a file's name, in front of a compression's.
_ENDING = r"\.([^.]+?)(\.(" + "|".join(_COMPRESSIONS) + "))?$"
# Files of another ending with less than this share of the bytes are no data: a README, a manifest.
_BESIDE = 0.1
_NAMED = 1_000  # files that may be named one by one to Spark
_COMPARED = 200  # files whose schemas are compared, to name two that differ


@dataclass(frozen=True)
class Files:
    """The data files at a place.

    kind : Spark's name of their format
    facts : number, bytes, and a hash of names, sizes and times, which tell them from others
    keys : columns that come from folders named key=value
    options : of Spark's reader, so that it reads these files and no others
    notes : what is left out, in sentences
    after : rows of files that changed later than this are read, in microseconds since 1970; the
        columns are those of all files
    """

    place: str
    kind: str
    facts: dict[str, int]
    keys: tuple[str, ...]
    options: dict[str, str]
    notes: list[str] = field(default_factory=list)
    after: int | None = None


def extension(place: str) -> str | None:
    """The format that a file's name stands for."""
    found = re.search(_ENDING, os.path.basename(place.rstrip("/")).lower())
    return FORMATS.get(found.group(1)) if found else None


def literal(place: str) -> str:
    """A path that Spark's readers do not take for a pattern, where it is there as it is spelt."""
    return _escaped(place) if os.path.exists(place) else place


def _escaped(path: str) -> str:
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", path)


def listed(spark: SparkSession, place: str, **options: str) -> DataFrame:
    """Names, sizes and times of the files under a path, listed by Spark and never read."""
    listing = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    listing = listing.options(**options)
    return listing.load(literal(place)).select("path", "length", "modificationTime")


def _hash() -> Column:
    """What tells a file from others; those of a set are joined by xor."""
    return F.xxhash64("path", "length", "modificationTime")


def find(spark: SparkSession, place: str, kind: str | None, owner: str) -> Files:
    """The data files at a place.

    Parameters
    ----------
    kind : their format, or None: found by the endings of their names
    owner : whose they are, for messages

    Raises
    ------
    TableError
        Nothing is there, or the names do not tell the format.
    """
    try:
        groups = _by_ending(spark, place)
    except PySparkException as error:
        raise TableError(f"{owner}: there is nothing at {place} ({_reason(error)})") from None
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
    if len(keys) > 1 or any(group["nested"] for group in chosen):
        options["recursiveFileLookup"] = "true"
        if any(keys):
            named = sorted({name for key in keys for name in key})
            notes.append(f"{owner}: folders named {', '.join(n + '=' for n in named)} are read, but"
                         " are no columns: other files lie outside of them")  # fmt: skip
        keys = set()
    facts = {name: sum(g[name] for g in chosen) for name in ("files", "bytes")}
    facts["listing"] = reduce(lambda a, b: a ^ b, (group["listing"] for group in chosen))
    own = next(iter(keys), ())
    return Files(place, found, facts, own, options, notes)


def _by_ending(spark: SparkSession, place: str) -> list[dict[str, Any]]:
    """A group of files for each ending that stands for a format, and one for all others.

    Spark lists and holds all files on its driver whatever is asked; grouping them by a query took
    longer than everything else of a look at a place.
    """
    # Folders between the place and the file; a pattern has as many parts as what it stands for.
    own = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:(//[^/]*)?", "", place).strip("/").split("/")
    depth = len(own) if own != [""] else 0
    groups: dict[str, dict[str, Any]] = {}
    table = to_arrow(listed(spark, place).select("path", "length", _hash().alias("hash")))
    for path, length, hashed in zip(*[c.to_pylist() for c in table.columns], strict=True):
        parts = re.sub(r"^[^:/]+:(//[^/]*)?/+", "", path).split("/")
        folders, name = parts[depth:-1], parts[-1]
        found = re.search(_ENDING, name, re.IGNORECASE)
        ending = found.group(1).lower() if found and found.group(1).lower() in FORMATS else ""
        none = {"files": 0, "bytes": 0, "listing": 0, "first": name, "nested": False}
        sets: dict[str, Any] = {"endings": set(), "keys": set()}
        group = groups.setdefault(ending, {"ending": ending, **none, **sets})
        group["files"] += 1
        group["bytes"] += length
        group["listing"] ^= hashed
        group["first"] = min(group["first"], name)
        if found and ending:
            group["endings"].add(found.group(0))
        keyed = [folder for folder in folders if re.match("[^=]+=.", folder)]
        group["nested"] |= len(keyed) < len(folders)
        group["keys"].add(tuple(folder.split("=")[0] for folder in keyed))
    return list(groups.values())


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


def read(spark: SparkSession, found: Files, owner: str) -> tuple[DataFrame, list[str]]:
    """The rows of the files, united by the names of their columns; and what is to be said of them.

    Rows that do not parse have their line in UNPARSED, a column that is there only if there may be
    such rows. Values of folders named key=value stay texts (00, 1e3).

    Raises
    ------
    TableError
        Spark cannot read the files, or a column is of types that cannot be united.
    """
    try:
        return _read(spark, found, owner)
    except Exception as error:  # of a footer that is read, classic sessions raise one of py4j's
        if isinstance(error, DSIRError) or not failures.is_of_spark(error):
            raise
        said = failures.told(error) or f"cannot be read as {found.kind} ({_reason(error)})"
        place = "" if found.place in said else f" {found.place}:"
        raise TableError(f"{owner}:{place} {said}") from None


def _read(spark: SparkSession, found: Files, owner: str) -> tuple[DataFrame, list[str]]:
    reader = spark.read.format(found.kind).options(**found.options)
    place = literal(found.place)
    if found.kind == "csv":
        return _read_csv(spark, found, owner)
    if found.kind == "parquet":
        schema, notes = _merged(spark, found, owner)
        return _typed(reader, place, schema, found), notes
    if found.kind == "json":
        reader = reader.option("columnNameOfCorruptRecord", UNPARSED)
        schema = reader.load(place).schema
        if schema.names == [UNPARSED]:
            raise TableError(
                f"{owner}: {found.place} is not JSON lines, one object a line: write it so, e.g. "
                f"by jq -c '.[]'"
            )
        return _typed(reader, place, schema, found), []
    frame = _typed(reader, place, reader.load(place).schema, found)
    return (frame.withColumnRenamed("value", "text") if found.kind == "text" else frame), []


def _typed(
    reader: DataFrameReader, place: str | list[str], schema: T.StructType, found: Files
) -> DataFrame:
    """Read by a schema, with the columns that come from folders as texts."""
    fields = [
        T.StructField(f.name, T.StringType()) if f.name in found.keys else f for f in schema.fields
    ]
    frame = reader.schema(T.StructType(fields)).load(place)
    if found.after is None:
        return frame
    # Spark does not open the files that this rules out.
    return frame.where(F.unix_micros("_metadata.file_modification_time") > found.after)


def _merged(spark: SparkSession, found: Files, owner: str) -> tuple[T.StructType, list[str]]:
    """The columns of all Parquet files; only their footers are read."""
    place = literal(found.place)

    def schema(merge: bool, *paths: str) -> T.StructType:
        reader = spark.read.options(**found.options).option("mergeSchema", merge)
        return reader.parquet(*paths).schema

    try:
        return schema(found.facts["files"] > 1, place), []
    except Exception as error:
        if not failures.is_of_spark(error):
            raise
        if difference := _difference(spark, found, owner):
            raise TableError(difference) from None
        # A file of 0 bytes has no footer and no rows: Spark reads on, unless it is the first.
        schema(False, place)
        named = [_escaped(path) for path in _paths(spark, found, _NAMED)]
        return schema(True, *named), [f"{owner}: {failures.told(error)}; it is left out"]


def _paths(spark: SparkSession, found: Files, n: int) -> list[str]:
    """The first data files of more than 0 bytes, by name."""
    rows = listed(spark, found.place).where("length > 0").orderBy("path").limit(n).collect()
    endings = tuple(found.options.get("pathGlobFilter", "").strip("*{}").split(","))
    return [path for row in rows if (path := unquote(row["path"])).endswith(endings)]


def _difference(spark: SparkSession, found: Files, owner: str) -> str | None:
    """Two files and the column that they have of different types; None where there are none."""
    seen: dict[str, tuple[str, str]] = {}
    for path in _paths(spark, found, _COMPARED):
        try:
            fields = spark.read.parquet(_escaped(path)).schema.fields
        except Exception as error:
            if not failures.is_of_spark(error):
                raise
            return f"{owner}: {failures.told(error) or _reason(error)}"
        for name, kind in _leaves(fields):
            first, before = seen.setdefault(name.lower(), (path, kind))
            if kind != before:
                return (
                    f"{owner}: column {name} is {before} in {first} and {kind} in {path}: write "
                    "all files with one type, or name those of one type by a pattern"
                )
    return None


def _read_csv(spark: SparkSession, found: Files, owner: str) -> tuple[DataFrame, list[str]]:
    """CSV with a header in each file, whose columns may stand in another order in each."""
    lines = spark.read.options(**found.options).text(literal(found.place))
    line = F.col("value")
    # Rows of a file's first part stand in one partition, in the file's order.
    number = F.when(F.col("_metadata.file_block_start") == 0, F.monotonically_increasing_id())
    numbered = lines.select(
        F.col("_metadata.file_path").alias("path"), line, number.alias("n"), *quotes.marks(line)
    )
    of_files = numbered.groupBy("path").agg(
        F.min_by("value", "n").alias("header"), F.count("*").alias("lines"),
        (F.sum("odd") % 2).alias("odd"), F.sum("open").alias("open"),
    )  # fmt: skip
    wrong = F.when((F.col("odd") == 1) | (F.col("open") > 0), F.struct("path", "open", "lines"))
    headers = of_files.groupBy("header").agg(
        F.count("*").alias("files"), F.min("path").alias("first"),
        F.count(wrong).alias("wrong"), F.min(wrong).alias("opened"),
        F.slice(F.collect_list("path"), 1, _NAMED).alias("paths"),
    ).orderBy("first").collect()  # fmt: skip
    notes = [
        f"{owner}: {quotes.said(unquote(path), opened, lines, r['wrong'] - 1)}"
        for r in headers if r["wrong"] for path, opened, lines in [r["opened"]]
    ]  # fmt: skip
    if len(headers) <= 1:
        return _parsed_csv(spark, found, literal(found.place)), notes
    frames, more = _by_header(spark, headers, found, owner)
    return reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), frames), notes + more


def _parsed_csv(
    spark: SparkSession, found: Files, place: str | list[str], **more: str
) -> DataFrame:  # fmt: skip
    reader = spark.read.format("csv").options(**found.options, **more)
    reader = reader.options(header=True, multiLine=True, escape='"')
    schema = reader.option("columnNameOfCorruptRecord", UNPARSED).load(place).schema
    marked = T.StructType([*schema.fields, T.StructField(UNPARSED, T.StringType())])
    return _typed(reader, place, marked, found)


def _by_header(
    spark: SparkSession, headers: list[Row], found: Files, owner: str
) -> tuple[list[DataFrame], list[str]]:
    """A frame for the files of each header."""
    if sum(r["files"] for r in headers) > _NAMED:
        first, second = (unquote(r["first"]) for r in headers[:2])
        raise TableError(f"{owner}: {first} and {second} have other columns, or in another order, "
                         f"and so have more than {_NAMED} files: write them alike")  # fmt: skip
    base = {"basePath": literal(found.place)} if found.keys else {}
    names = [next(csv.reader([r["header"].lstrip("\ufeff")]), []) for r in headers]
    every = list(dict.fromkeys(name for header in names for name in header))
    notes = [
        f"{owner}: {unquote(row['first'])} has no column {', '.join(missing)}, which other files "
        "have: null in its rows"
        for row, header in zip(headers, names, strict=True)
        if (missing := [name for name in every if name not in header])
    ]  # fmt: skip
    paths = [[_escaped(unquote(path)) for path in row["paths"]] for row in headers]
    return [_parsed_csv(spark, found, own, **base) for own in paths], notes


def _leaves(fields: Sequence[T.StructField], within: str = "") -> Iterator[tuple[str, str]]:
    """Names and types of columns, those in structs too."""
    for f in fields:
        if isinstance(f.dataType, T.StructType):
            yield within + f.name, "struct"
            yield from _leaves(f.dataType.fields, f"{within}{f.name}.")
        else:
            yield within + f.name, f.dataType.simpleString()


def _files(n: int) -> str:
    return "file" if n == 1 else "files"


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
