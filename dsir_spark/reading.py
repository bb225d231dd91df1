"""Rows of files, united by the names of their columns, and what is to be said of them.

Spark gives all files the columns of the first, keeps still about quotes that stay open, and names
no file where types differ.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame, DataFrameReader, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark import failures, quotes
from dsir_spark.columns import quoted, setting
from dsir_spark.errors import DSIRError, TableError
from dsir_spark.files import Files, escaped, listed, literal, reason

UNPARSED = "__dsir_unparsed"  # the line of a row that does not parse (string); else null

_LOOKED = 1_000  # lines of JSON that are looked at for what Spark leaves out of them
# A second object (within a text, a quote of a key would stand behind a backslash); or, at the
# line's end, what is none.
_AFTER = r'\}\s*\{\s*"[^"\\]*"\s*:|\}\s*([^\s}\],"]|,)[^}\]"]*$'
_NULL = r"^\s*null\s*$"
_ANY = (1 << 31) - 1  # length
_READ = "is read as U+FFFD"  # what is no UTF-8, but in JSON
_NAMED = 1_000  # files that may be named one by one to Spark
_COMPARED = 200  # files whose schemas are compared, to name two that differ


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
        said = failures.told(error) or f"cannot be read as {found.kind} ({reason(error)})"
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
    notes = _by_lines(spark, found, owner)
    if found.kind == "json":
        # Spark takes no longer texts than 20,000,000 characters, and parses the columns that a pass
        # asks for: such a row would be one of some passes and not of others.
        reader = reader.option("columnNameOfCorruptRecord", UNPARSED)
        reader = reader.options(maxStringLen=_ANY, maxNumLen=_ANY)
        schema = reader.load(place).schema
        if {*schema.names} - {*found.keys} == {UNPARSED}:
            raise TableError(
                f"{owner}: {found.place} is not JSON lines, one object a line: write it so, e.g. "
                f"by jq -c '.[]'"
            )
        return _typed(reader, place, schema, found), notes
    frame = _typed(reader, place, reader.load(place).schema, found)
    return (frame.withColumnRenamed("value", "text") if found.kind == "text" else frame), notes


def _by_lines(spark: SparkSession, found: Files, owner: str) -> list[str]:
    """What Spark does not tell of files of lines: that they are no UTF-8; and what it leaves out of
    JSON lines, of each of which it reads the first value.

    The first lines are looked at, for all of them would be one more reading of raw.
    """
    line = F.col("value")
    # A line that is cut off is among those that do not parse.
    lost = (line.rlike(_AFTER) & F.get_json_object(line, "$").isNotNull()) | line.rlike(_NULL)
    lost = lost if found.kind == "json" else F.lit(False)
    lines = spark.read.options(**found.options).text(literal(found.place))
    path = F.col("_metadata.file_path").alias("path")
    looked = lines.select(path, lost.alias("lost"), *_marks(line)).take(_LOOKED)
    every, after, bad, wide = (
        [unquote(row["path"]) for row in looked if mark is None or row[mark]]
        for mark in (None, "lost", "bad", "wide")
    )
    wide = [path for path in wide if 2 * wide.count(path) >= every.count(path)]
    read = "does not parse" if found.kind == "json" else _READ
    notes = _not_utf8(owner, f"of the {len(looked)} lines looked at", len(bad), bad, wide, read)
    if found.kind == "json" and bad and bad == every:
        raise TableError(*notes)
    if after:
        notes.append(
            f"{owner}: of the {len(looked)} lines looked at {len(after)} are null or go on after "
            f"an object ({after[0]}), which is not read: write one object a line"
        )
    return notes


def _marks(line: Column) -> tuple[Column, Column]:
    """Has the line bytes that are no UTF-8 (`bad`)? A NUL, as those of UTF-16 have (`wide`)?"""
    # Spark keeps such bytes, and shows each as a character that is not among them.
    bad = line.rlike("\ufffd") & ~line.contains("\ufffd")
    return F.coalesce(bad, F.lit(False)).alias("bad"), line.contains("\0").alias("wide")


def _not_utf8(
    owner: str, lines: str, number: int, bad: list[str], wide: list[str], read: str = _READ
) -> list[str]:  # fmt: skip
    """What is said of a `number` of `lines` that are no UTF-8, of these files.

    Raises
    ------
    TableError
        Files have NULs in most of their lines.
    """
    advice = "convert such files, e.g. by iconv -f {} -t UTF-8"
    if wide:
        raise TableError(f"{owner}: {wide[0]} is UTF-16, or no text: {advice.format('UTF-16')}")
    if not number:
        return []
    return [f"{owner}: {lines} {number} are no UTF-8 ({bad[0]}), and what is none {read}: "
            f"{advice.format('ISO-8859-1')}"]  # fmt: skip


def _typed(
    reader: DataFrameReader, place: str | list[str], schema: T.StructType, found: Files
) -> DataFrame:
    """Read by a schema, with the columns that come from folders as texts."""
    fields = [
        T.StructField(f.name, T.StringType()) if f.name in found.keys else f for f in schema.fields
    ]
    frame = reader.schema(T.StructType(fields)).load(place)
    if found.after is not None:
        # Spark does not open the files that this rules out.
        # By its own name a column of the user's would be found first.
        of_files = getattr(frame, "metadataColumn", None)
        if of_files is None and "_metadata" in map(str.lower, schema.names):
            raise TableError(f"{found.place} has a column _metadata, behind which Spark 3.5 hides "
                             "when a file came: rename it, or use Spark 4")  # fmt: skip
        known = (of_files or F.col)("_metadata")
        frame = frame.where(F.unix_micros(known["file_modification_time"]) > found.after)
    if UNPARSED in schema.names:
        # Spark refuses to ask for it alone: a condition that always holds names another column.
        other = next(name for name in frame.columns if name != UNPARSED)
        beside = F.hash(quoted(other)) >= F.lit(-(1 << 31))
        frame = frame.withColumn(UNPARSED, F.when(beside, F.col(UNPARSED)))
    return frame


def _merged(spark: SparkSession, found: Files, owner: str) -> tuple[T.StructType, list[str]]:
    """The columns of all Parquet files; only their footers are read."""
    place = literal(found.place)

    def schema(merge: bool, **more: str) -> T.StructType:
        reader = spark.read.options(**found.options, **more).option("mergeSchema", merge)
        return reader.parquet(place).schema

    try:
        return schema(found.facts["files"] > 1), []
    except Exception as error:
        if not failures.is_of_spark(error):
            raise
        if difference := _difference(spark, found, owner):
            raise TableError(difference) from None
        # A file of 0 bytes has no footer and no rows: what has rows Spark reads all the same.
        columns = schema(True, ignoreCorruptFiles="true")
        return columns, [f"{owner}: {failures.told(error)}; it is left out"]


def _paths(spark: SparkSession, found: Files) -> list[str]:
    """The first data files of more than 0 bytes, by name."""
    rows = listed(spark, found.place).where("length > 0").orderBy("path").limit(_COMPARED).collect()
    endings = tuple(found.options.get("pathGlobFilter", "").strip("*{}").split(","))
    return [path for row in rows if (path := row["path"]).endswith(endings)]


def _difference(spark: SparkSession, found: Files, owner: str) -> str | None:
    """Two files and the column that they have of different types; None where there are none."""
    seen: dict[str, tuple[str, str]] = {}
    for path in _paths(spark, found):
        try:
            fields = spark.read.parquet(escaped(path)).schema.fields
        except Exception as error:
            if not failures.is_of_spark(error):
                raise
            return f"{owner}: {failures.told(error) or reason(error)}"
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
        F.col("_metadata.file_path").alias("path"), line, number.alias("n"),
        *quotes.marks(line), *_marks(line),
    )
    of_files = numbered.groupBy("path").agg(
        # (With U+FFFD in the place of what is no UTF-8, which Arrow does not take for a text.)
        F.regexp_replace(F.min_by("value", "n"), "\ufffd", "\ufffd").alias("header"),
        F.count("*").alias("lines"),
        (F.sum("odd") % 2).alias("odd"), F.sum("open").alias("open"),
        F.count_if("bad").alias("bad"), F.count_if("wide").alias("wide"),
    )  # fmt: skip
    wrong = F.when((F.col("odd") == 1) | (F.col("open") > 0), F.struct("path", "open", "lines"))
    headers = of_files.groupBy("header").agg(
        F.count("*").alias("files"), F.min("path").alias("first"),
        F.count(wrong).alias("wrong"), F.min(wrong).alias("opened"),
        F.slice(F.collect_list("path"), 1, _NAMED).alias("paths"),
        F.sum("bad").alias("bad"), F.min(F.when(F.col("bad") > 0, F.col("path"))).alias("in"),
        F.min(F.when(F.col("wide") * 2 >= F.col("lines"), F.col("path"))).alias("wide"),
        F.sum("lines").alias("lines"),
    ).orderBy("first").collect()  # fmt: skip
    bad, wide = ([unquote(r[mark]) for r in headers if r[mark]] for mark in ("in", "wide"))
    no_utf8, of_all = (sum(r[count] for r in headers) for count in ("bad", "lines"))
    notes = _not_utf8(owner, f"of {of_all} lines", no_utf8, bad, wide)
    notes += [
        f"{owner}: {quotes.said(unquote(path), opened, lines, r['wrong'] - 1)}"
        for r in headers if r["wrong"] for path, opened, lines in [r["opened"]]
    ]  # fmt: skip
    names = [_names(r["header"]) for r in headers]
    if {n.lower() for own in names for n in own} & {*map(str.lower, found.keys)}:
        # Spark finds columns by their position, but leaves out those that folders are named by.
        whole = {**found.options, "recursiveFileLookup": "true"}
        found = replace(found, keys=(), options=whole)
    if len(headers) <= 1:
        header = headers[0]["header"] if headers else ""
        return _parsed_csv(spark, found, header, literal(found.place)), notes
    frames, more = _by_header(spark, headers, names, found, owner)
    return reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), frames), notes + more


def _parsed_csv(
    spark: SparkSession, found: Files, header: str, place: str | list[str], **more: str
) -> DataFrame:  # fmt: skip
    reader = spark.read.format("csv").options(**found.options, **more)
    # To find the columns of rows of several lines, Spark takes names of files for patterns.
    several = header.count('"') % 2 == 1
    reader = reader.options(header=True, multiLine=several, escape='"')
    schema = reader.option("columnNameOfCorruptRecord", UNPARSED).load(place).schema
    reader = reader.option("multiLine", True)
    marked = T.StructType([*schema.fields, T.StructField(UNPARSED, T.StringType())])
    return _typed(reader, place, marked, found)


def _by_header(
    spark: SparkSession, headers: list[Row], names: list[list[str]], found: Files, owner: str
) -> tuple[list[DataFrame], list[str]]:
    """A frame for the files of each header."""
    if sum(r["files"] for r in headers) > _NAMED:
        first, second = (unquote(r["first"]) for r in headers[:2])
        raise TableError(f"{owner}: {first} and {second} have other columns, or in another order, "
                         f"and so have more than {_NAMED} files: write them alike")  # fmt: skip
    # (As it is spelt: of what it is given here Spark makes no pattern.)
    base = {"basePath": min(found.folders).rsplit("/", len(found.keys))[0]} if found.keys else {}
    exact = setting(spark, "spark.sql.caseSensitive").lower() == "true"
    same = str if exact else str.lower  # as Spark unites them
    every = {same(name): name for header in reversed(names) for name in reversed(header)}
    lacking = [every.keys() - map(same, header) for header in names]
    notes = [
        f"{owner}: {unquote(row['first'])} has no column "
        f"{', '.join(name for key, name in every.items() if key in missing)}, which other files "
        "have: null in its rows"
        for row, missing in zip(headers, lacking, strict=True)
        if missing
    ]
    paths = [[escaped(unquote(path)) for path in row["paths"]] for row in headers]
    given = zip(headers, paths, strict=True)
    return [_parsed_csv(spark, found, row["header"], own, **base) for row, own in given], notes


def _names(header: str) -> list[str]:
    """Names of the columns; none where a first line is no header but a long text."""
    with contextlib.suppress(csv.Error):
        return next(csv.reader([header.lstrip("\ufeff")]), [])
    return []


def _leaves(fields: Sequence[T.StructField], within: str = "") -> Iterator[tuple[str, str]]:
    """Names and types of columns, those in structs too."""
    for f in fields:
        if isinstance(f.dataType, T.StructType):
            yield within + f.name, "struct"
            yield from _leaves(f.dataType.fields, f"{within}{f.name}.")
        else:
            yield within + f.name, f.dataType.simpleString()
