"""Files as people have them: which are read, what is left out, and what is said."""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import datetime
import gzip
import json
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsir_spark import failures, files, inputs, places, preflight, tables
from dsir_spark.errors import ColumnError, ConfigError, DataError, DSIRError, TableError
from dsir_spark.job_options import JobOptions

pytestmark = pytest.mark.spark

ROWS = [{"id": f"d{i}", "text": f"salt the soup {i}", "source": "ab"[i % 2]} for i in range(8)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(rows, schema=None):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink)
    return sink.getvalue().to_pybytes()


def csv(names, rows=ROWS):
    values = [[row[name] for name in names] for row in rows]
    return "".join(",".join(line) + "\n" for line in [names, *values])



JSONL, PARQUET = lines(ROWS), parquet(ROWS)
NAMES = ["id", "source", "text"]
TIMES = parquet([{"t": 1}], pa.schema({"t": pa.timestamp("ns")}))
PROPER = 'id,text\na,"b\n"\n"b",", so\nx,"\nc,"""q"" he said,\n,"""\nd,"5"", ""\n\n""e"\n'
OPENED = 'id,text\na,"salt\nb,"soup"\nc,"pot"\n'

# Files by name; place; rows; columns; what is said (of what is left out, or in the error).
READ = {
    "folders in folders": ({"r/a.jsonl": lines(ROWS[:3]), "r/x/y/b.jsonl": lines(ROWS[3:])},
                           "r", 8, NAMES, None),
    "folders only": ({"r/x/a.parquet": PARQUET}, "r", 8, NAMES, None),
    "texts in folders": ({"r/a.txt": "one\ntwo\n", "r/x/b.txt": "three\n"}, "r", 3, ["text"], None),
    "some in folders of keys": ({"r/a.jsonl": lines(ROWS[:3]), "r/k=1/b.jsonl": lines(ROWS[3:])},
                                "r", 8, NAMES, "folders named k= are read, but are no columns"),
    "keys stay texts": ({"r/k=00/a.jsonl": lines(ROWS[:3]), "r/k=1e3/b.jsonl": lines(ROWS[3:])},
                        "r", 8, [*NAMES, "k"], None),
    "a key that is a column too": (
        {f"r/source={k}/x.csv": csv(NAMES[::-1], ROWS[i::2]) for i, k in enumerate("ab")},
        "r", 8, NAMES, None),
    "a key that is one of some": (
        {"r/source=a/x.csv": csv(["id", "text"], ROWS[::2]), "r/source=b/x.csv": csv(NAMES)},
        "r", 12, NAMES, r"x\.csv has no column source"),
    "a long first line and another": ({"r/a.csv": "x" * 132_000 + "\n", "r/b.csv": "id\n1\n"},
                                      "r", 1, ["x" * 132_000, "id"], "has no column"),
    "a pattern": ({"r/x/a.jsonl": lines(ROWS[:3]), "r/y/z/b.jsonl": lines(ROWS[3:])},
                  "r/*", 8, NAMES, None),
    "a manifest beside lines": ({"r/a.jsonl": JSONL * 3, "r/manifest.json": '{\n "kept": 1\n}'},
                                "r", 24, NAMES, r"1 file under .* is left out.*manifest\.json"),
    "what begins with _": (
        {"r/a.jsonl": JSONL, "r/_b.jsonl": JSONL, "r/_old/c.jsonl": JSONL, "r/_SUCCESS": "x",
         "r/_delta_index/x": "y"}, "r", 8, NAMES, r"begins with _ under .* \(_b\.jsonl, _old\)"),
    "a readme beside Parquet": ({"r/a.parquet": PARQUET, "r/README.md": "#", "r/license.json": "[]",
                                 "r/NOTICE": "x", "r/_SUCCESS": "", "r/.a.crc": "x"},
                                "r", 8, NAMES, r"3 files under .*left out.*NOTICE, license\."),
    "lines of two endings": ({"r/a.jsonl": lines(ROWS[:4]), "r/b.ndjson": lines(ROWS[4:])},
                             "r", 8, NAMES, None),
    "compressed": ({"r/a.jsonl.gz": gzip.compress(JSONL.encode()),
                    "r/b.JSONL.bz2": bz2.compress(b'{"id": "x", "text": "y"}\n'),
                    "r/c.jsonl.gz": gzip.compress(b"")}, "r", 9, NAMES, None),
    "columns in another order": ({"r/a.csv": csv(["id", "text"], ROWS[:3]),
                                  "r/b.csv": csv(["text", "id"], ROWS[3:])},
                                 "r", 8, ["id", "text"], None),
    "a column that one lacks": ({"r/a.csv": csv(["id", "text"], ROWS[:3]),
                                 "r/b.csv": csv(NAMES, ROWS[3:])},
                                "r", 8, ["id", "text", "source"], r"a\.csv has no column source"),
    "Parquet, a column that one lacks": (
        {"r/a.parquet": parquet([{"id": "x", "text": "y"}]), "r/b.parquet": PARQUET},
        "r", 9, ["id", "text", "source"], None),
    "Parquet, a field that one lacks": (
        {"r/a.parquet": parquet([{"m": {"a": 1}}]), "r/b.parquet": parquet([{"m": {"b": "x"}}])},
        "r", 2, ["m"], None),
    "columns in another case": ({"r/a.csv": "id,text\na,b\n", "r/b.csv": "ID,Text\nc,d\n"},
                                "r", 2, ["id", "text"], None),
    "a BOM": ({"r.csv": "\ufeff" + csv(NAMES)}, "r.csv", 8, NAMES, None),
    "line ends in a text": ({"r.csv": 'id,text\na,"b\nc"\n'}, "r.csv", 1, ["id", "text"], None),
    "line ends and quotes in texts": ({"r.csv": PROPER}, "r.csv", 4, ["id", "text"], None),
    "two quotes that stay open": (
        {"r.csv": csv(["id", "text"]) + 'a,"salt\nb,soup\nc,"pot\n' + PROPER}, "r.csv", None,
        ["id", "text"], r"r\.csv has 2 of \d+ lines that begin a text with a quote and do not end"),
    "a quote that stays open": ({"r.csv": OPENED}, "r.csv", None, ["id", "text"],
                                r"r\.csv has 1 of 4 lines that begin a text with a quote and do"),
    "an odd quote": ({"r/a.csv": 'id,text\na,5" discs\n', "r/b.csv": OPENED}, "r", None,
                     ["id", "text"], r"a\.csv \(and 1 more\) has an odd number of quotes"),
    "an array on a line": ({"r.json": json.dumps(ROWS)}, "r.json", 8, NAMES, None),
    "an empty file that is not the first": (
        {"r/a.parquet": PARQUET, "r/b.parquet": PARQUET, "r/z.parquet": b""},
        "r", 16, NAMES, r"z\.parquet .*left out"),
    "objects that share a line": (
        {"r.jsonl": JSONL[:-1] + lines(ROWS[:1]) + '{"id": "x"}, y\n{"id": "z"} {"id": "z"}\nnull'},
        "r.jsonl", None, NAMES, r"of the 11 lines looked at 4 are null or go on .*r\.jsonl"),
    "braces in texts": (
        {"r.jsonl": r'''{"a": "\\frac{x}{\"y\":}{"}
{"a": "}{", "b": {"c": [{"x": 1}, {}]}, "d": null}
[{"a": "} x"}, {"a": "y"}]
{"a": "cut {} off'''}, "r.jsonl", 4, ["a", "b", "d"], None),
    "an empty file that is the first": (
        {"r/a.parquet": b"", "r/b.parquet": PARQUET}, "r", 8, NAMES, r"a\.parquet .*left out"),
    "an empty file in a folder of a key": (
        {"r/k=007/a.parquet": PARQUET, "r/k=007/b.parquet": PARQUET, "r/k=08/z.parquet": b""},
        "r", 16, [*NAMES, "k"],
        r"z\.parquet .*left out"),
    "a readme in a folder of a key": (
        {"r/a.jsonl": JSONL, "r/k=1/README.md": "#"}, "r", 8, NAMES, "is left out, having other"),
    "a pattern of folders of keys": (
        {"r/j=1/k=1/a.parquet": PARQUET, "r/j=2/k=1/a.parquet": PARQUET}, "r/j=*", 16, NAMES,
        "folders named k= are read, but are no columns: several folders are named"),
    "CSV by odd names": (
        {"r [1]/k=007/a[1].csv": csv(["id", "text"], ROWS[:3]),
         "r [1]/k=007/b.csv": csv(["text", "id"], ROWS[3:])},
        "r [1]", 8, ["id", "text", "k"], None),
    "lines that are no UTF-8": (
        {"r.txt": b"caf\xe9\n" * 3 + b"\xef\xbf\xbd\n"}, "r.txt", 4, ["text"],
        r"of the 4 lines looked at 3 are no UTF-8 .*r\.txt.*iconv -f ISO-8859"),
    "JSON that is no UTF-8": (
        {"r.jsonl.gz": gzip.compress(b'{"a": "b"}\n{"a": "caf\xe9"}\n')}, "r.jsonl.gz", 1, ["a"],
        r"of the 2 lines looked at 1 are no UTF-8 .*, and what is none does not parse"),
    "one file that is no UTF-8": (
        {"r/a.csv": csv(NAMES), "r/b.csv": csv(NAMES).encode() + b"x,caf\xe9,y\n",
         "r/c.csv": "id\n1\n"},
        "r", 18, NAMES, r"of 21 lines 1 are no UTF-8 .*b\.csv"),
    "percent signs in names": (
        {"r/a%41.parquet": PARQUET, "r/b%20c.parquet": PARQUET, "r/z.parquet": b""},
        "r", 16, NAMES, r"z\.parquet .*left out"),
    "odd names": ({"r 5% [v1] {a,b} #2/x ?&é.jsonl": JSONL}, "r 5% [v1] {a,b} #2", 8, NAMES, None),
    "nothing in a column": ({"r.parquet": parquet([{"text": "a", "n": None, "l": [None]}])},
                            "r.parquet", 1, ["text", "n", "l"], None),
}  # fmt: skip
REFUSED = {
    "types that differ": (
        {"r/a.parquet": parquet([{"id": 1}]), "r/b.parquet": parquet([{"id": "x"}])},
        "r", r"column id is bigint in .*a\.parquet and string in .*b\.parquet"),
    "a struct and a text": (
        {"r/a.parquet": parquet([{"m": {"u": "x"}}]), "r/b.parquet": parquet([{"m": "x"}])},
        "r", r"column m is struct in .*a\.parquet and string in .*b\.parquet"),
    "fields that differ": (
        {"r/a.parquet": parquet([{"m": {"u": "x"}}]), "r/b.parquet": parquet([{"m": {"u": 1}}])},
        "r", r"column m\.u is string in .*a\.parquet and bigint in"),
    "two formats": ({"r/a.parquet": PARQUET, "r/b.jsonl": JSONL * 20}, "r", "files by a pattern"),
    "no endings": ({"r/a": JSONL}, "r", "give --raw-format"),
    "a name that begins with _": ({"_r.jsonl": JSONL}, "_r.jsonl", "Spark skips files whose names"),
    "nothing": ({}, "r", "there is nothing at"),
    "JSON that is not lines": ({"r.json": json.dumps(ROWS, indent=1)}, "r.json", "not JSON lines"),
    "keys that differ in case": ({"r.jsonl": '{"a": {"b": 1, "B": 2}}\n'}, "r.jsonl",
                                 r"named `b`, .* upper and lower case: .*caseSensitive=true keeps"),
    "a key twice": ({"r.jsonl": JSONL + '{"id": "a", "id": "b"}\n'}, "r.jsonl",
                    "two columns of a row are named `id`, in one spelling or"),
    "nanoseconds": ({"r.parquet": TIMES}, "r.parquet", "nanoseconds.*--conf spark.sql.legacy"),
    "a cut-off Parquet file": ({"r/a.parquet": PARQUET, "r/b.parquet": PARQUET[:-9]}, "r",
                               r"b\.parquet is broken or not of its format"),
    **{f"{kind} in UTF-16": ({f"r.{kind}": text.encode("utf-16")}, f"r.{kind}",
                             r"raw: \S+ is UTF-16, or no text: convert .* iconv -f UTF-16 -t UTF-8")
       for kind, text in {"txt": "one\ntwo\n", "csv": csv(NAMES), "jsonl": JSONL}.items()},
    "JSON of which nothing is UTF-8": (
        {"r.jsonl": b'{"a": "caf\xe9"}\n'}, "r.jsonl", "1 lines looked at 1 are no UTF-8"),
    "lines by key that do not parse": ({"r/k=1/a.json": json.dumps(ROWS, indent=1)}, "r",
                                       "not JSON lines"),
    "a name of ours": ({"r.jsonl": '{"__dsir_of": 1}\n'}, "r.jsonl",
                       r"raw \(.*r\.jsonl\) has a column __dsir_of: names that begin with __dsir"),
    "folders of keys beside others": (
        {"r/k=1/a.jsonl": JSONL * 9, "r/docs/README.md": "#"}, "r",
        "named key=value lie beside others with files.*: move those"),
    "a colon": ({"r/10:00.jsonl": JSONL}, "r", "a file's name holds a colon"),
}  # fmt: skip


def made(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize("name", READ)
def test_files_are_read(spark, tmp_path, name):
    files, place, rows, columns, said = READ[name]
    made(tmp_path, files)
    found = inputs.open_input(spark, str(tmp_path / place), None, "raw")
    assert sorted(found.frame.columns) == sorted(columns)
    assert rows is None or found.frame.count() == rows
    notes = " ".join(found.notes)
    assert (notes == "") == (said is None)
    if said is not None:
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(notes)
    found.check_unchanged()


@pytest.mark.parametrize("name", REFUSED)
def test_files_are_refused_in_a_line(spark, tmp_path, name):
    files, place, said = REFUSED[name]
    made(tmp_path, files)
    with pytest.raises(DSIRError, match=said) as caught:
        inputs.open_input(spark, str(tmp_path / place), None, "raw").frame.collect()
    assert "\n" not in str(caught.value)


def test_columns_and_values_of_what_is_united(spark, tmp_path):
    files, place, *_ = READ["columns in another order"]
    made(tmp_path, files)
    frame = inputs.open_input(spark, str(tmp_path / place), None, "raw").frame
    assert {(r["id"], r["text"]) for r in frame.collect()} == {(r["id"], r["text"]) for r in ROWS}
    files, place, *_ = READ["keys stay texts"]
    made(tmp_path / "k", files)
    frame = inputs.open_input(spark, str(tmp_path / "k" / place), None, "raw").frame
    assert {r["k"] for r in frame.collect()} == {"00", "1e3"}
    files, place, *_ = READ["an empty file in a folder of a key"]
    made(tmp_path / "e", files)
    frame = inputs.open_input(spark, str(tmp_path / "e" / place), None, "raw").frame
    assert {r["k"] for r in frame.collect()} == {"007"}
    files, place, *_ = READ["nothing in a column"]
    made(tmp_path / "n", files)
    frame = inputs.open_input(spark, str(tmp_path / "n" / place), None, "raw").frame
    tables.write(frame, str(tmp_path / "written"))


def test_rows_that_do_not_parse_are_counted(spark, tmp_path):
    made(tmp_path, {"r/a.jsonl": JSONL, "r/b.jsonl": "{broken\n" * 3,
                    "c.csv": csv(NAMES) + "a\n" + "a,b,c,d\n"})  # fmt: skip
    raw = inputs.open_input(spark, str(tmp_path / "r"), None, "raw", "source = 'a'")
    assert raw.count_dropped() == {"unparsed": 3, "filtered": 4} and raw.frame.count() == 4
    long = {"id": 1, "text": "x" * 20_000_001}  # more than Jackson takes
    made(tmp_path, {"u.jsonl": lines([long, {"id": 2, "text": "y"}])})
    raw = inputs.open_input(spark, str(tmp_path / "u.jsonl"), None, "raw")
    assert not any(raw.count_dropped().values()) and raw.frame.select("id").count() == 2
    assert raw.frame.selectExpr("max(length(text))").first()[0] == 20_000_001
    raw = inputs.open_input(spark, str(tmp_path / "c.csv"), None, "raw")
    assert raw.count_dropped() == {"unparsed": 2} and raw.frame.count() == 8
    raw = inputs.open_input(spark, str(tmp_path / "r" / "a.jsonl"), None, "raw")
    assert raw.count_dropped() == {}
    made(tmp_path, {"s/a.csv": csv(NAMES) + "a\n", "s/b.csv": "text\nsoup\n"})
    raw = inputs.open_input(spark, str(tmp_path / "s"), None, "raw")
    assert raw.count_dropped() == {"unparsed": 1} and raw.frame.count() == 9


def test_endings_in_capitals_leave_other_formats_out(spark, tmp_path):
    for name in ("a.JSON.GZ", "b.CSV.GZ", "README.GZ"):
        (tmp_path / name).write_bytes(b"\x1f\x8b" + bytes(90 if name[0] == "a" else 2))
    found = files.find(spark, str(tmp_path), None, "raw")
    assert (found.kind, found.facts["files"]) == ("json", 1)
    assert found.options["pathGlobFilter"] == "*{.JSON.GZ}"
    assert "2 files" in found.notes[0]


def test_files_that_change_are_seen(spark, tmp_path, monkeypatch):
    made(tmp_path, {"r/a.jsonl": JSONL, "elsewhere/c.jsonl": JSONL})
    (tmp_path / "r" / "linked").symlink_to(tmp_path / "elsewhere")
    raw = inputs.open_input(spark, str(tmp_path / "r"), None, "raw")
    made(tmp_path, {"r/.git/x": "y", "r/.a.jsonl.crc": "z"})  # nothing that Spark would read
    with monkeypatch.context() as patch:  # it is not asked where nothing else has changed
        patch.setattr(files, "find", None)
        raw.check_unchanged()
    made(tmp_path, {"r/README.md": "no data", "r/_SUCCESS": ""})
    raw.check_unchanged()
    pattern = inputs.open_input(spark, str(tmp_path / "r" / "*.jsonl"), None, "raw")
    alone = inputs.open_input(spark, f"file:{tmp_path}/r/a.jsonl", None, "raw")
    for one in (pattern, alone):
        one.check_unchanged()
    made(tmp_path, {"r/a.jsonl": JSONL.replace("a", "b", 1)})
    for one in (pattern, alone):
        with pytest.raises(DataError, match="changed while they were read"):
            one.check_unchanged()
    raw = inputs.open_input(spark, str(tmp_path / "r"), None, "raw")
    made(tmp_path, {"elsewhere/c.jsonl": JSONL * 2})
    with pytest.raises(DataError, match="changed while they were read"):
        raw.check_unchanged()
    raw = inputs.open_input(spark, str(tmp_path / "r"), None, "raw")
    made(tmp_path, {"r/b.jsonl": JSONL})
    with pytest.raises(DataError, match="changed while they were read"):
        raw.check_unchanged()
    with pytest.raises(TableError, match="changed since the run"):
        inputs.as_recorded(spark, raw.identity, "raw")


NAMES_OF_FILES = (
    "a.jsonl", "b.JSONL.gz", "below/c.jsonl", "k=1/d.jsonl", "_k=1/e.jsonl", "_below/f.jsonl",
    "_metadata_of/g.jsonl", "_metadata", "_common_metadata", "_x.jsonl", "_SUCCESS", ".x.jsonl",
    ".git/h", "a b%20.jsonl", "co:lon.jsonl", "[z]{q}*?#.jsonl", "x._COPYING_",
    "y._COPYING_/z.jsonl", "empty.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("place", ["", "/below", "/a b%20.jsonl", "/_x.jsonl", "/empty.jsonl"])
def test_files_on_this_machine_are_those_that_spark_finds(spark, tmp_path, place):
    made(tmp_path, {f"r/{name}": "x" * (name != "empty.jsonl") for name in NAMES_OF_FILES})
    (tmp_path / "r" / "linked").symlink_to(tmp_path / "r" / "below")
    os.utime(tmp_path / "r" / "a.jsonl", ns=(0, 1_234_567_890_123_999_999))
    os.utime(tmp_path / "r" / "below" / "c.jsonl", (1, 1))
    seen = places.seen(spark, f"{tmp_path}/r{place}")
    found, asked = (
        sorted(files._hashed(spark, f"{tmp_path}/r{place}", one)) for one in (seen, None)
    )
    assert found == asked and (place or len(found) == 10)
    assert seen.skipped == {"": ["_below", "_x.jsonl"], "/_x.jsonl": ["_x.jsonl"]}.get(place, [])


def test_what_this_machine_cannot_tell_is_asked_of_spark(spark, tmp_path):
    made(tmp_path, {"\u00e9.jsonl": JSONL, "s/a.jsonl": JSONL, "s/_b.jsonl": JSONL})
    assert len(places.seen(spark, str(tmp_path)).files) == 2
    for place in ("s/*.jsonl", "s/../s", "none"):
        assert places.seen(spark, f"{tmp_path}/{place}") is None
    for name, to in ((b"\xff.jsonl", b"a.jsonl"), (b"gone", b"none")):
        link = os.path.join(os.fsencode(tmp_path / "s"), name)
        os.symlink(to, link)
        assert places.seen(spark, f"{tmp_path}/s") == (None, ["_b.jsonl"])
        os.unlink(link)


def test_the_log_on_this_machine_tells_what_spark_tells(spark, tmp_path, monkeypatch):
    place = str(tmp_path / "table")
    name, record = f"delta.`{place}`", {tables.RUN_ID: "r", "said": "'\u00fc\n"}

    def told():
        version = dataclasses.asdict(tables.delta_version(spark, place))
        return version, tables.records(spark, place)

    def both():
        with monkeypatch.context() as alone:
            alone.setattr(type(spark), "sql", None)
            read = told()
        with monkeypatch.context() as asked:
            asked.setattr(places, "local", lambda *_: None)
            assert told() == read
        return read[0]

    assert tables.delta_version(spark, place) is None
    tables.write(spark.range(5).repartition(2), place, record=record)
    assert both() == {"data": 0, "latest": 0, "record": record, "rows": 5}
    tables.append(spark.range(2), place, record)
    assert both() == {"data": 1, "latest": 1, "record": record, "rows": None}
    for statement in ("OPTIMIZE {}", "VACUUM {}", "ALTER TABLE {} SET TBLPROPERTIES ('a' = 'b')"):
        spark.sql(statement.format(name)).collect()
    assert both()["data"] == 1
    tables.restore(spark, place, 0)
    assert (both()["data"], both()["rows"]) == (0, 5)
    at = spark.sql(f"DESCRIBE HISTORY {name} LIMIT 2").collect()[1]["timestamp"]
    spark.sql(f"RESTORE TABLE {name} TO TIMESTAMP AS OF '{at}'").collect()
    assert both()["data"] == both()["latest"] > 1 and both()["rows"] is None
    spark.sql(f"DELETE FROM {name} WHERE id = 1").collect()
    assert both()["data"] == both()["latest"] and both()["record"] == {}
    tables.write(spark.range(3), place, overwrite=True)
    assert both()["rows"] == 3


@pytest.mark.parametrize(
    ("raw", "output", "meet"),
    [
        ("p", "p/out", True), ("p", "pout", False), ("p/*", "p/out", True),
        ("p/*", "p/out/deep", True), ("link", "p/out", True), ("link/*", "p/out", True),
        ("p", "link/out", True), ("p/{a,o*}", "p/out", True), ("p/{a,b}", "p/out", False),
        ("p/*/*", "p/out", True), ("p/*.parquet", "p/out", False), ("p/*/*.jsonl", "p/out", False),
        ("p/[ab]", "p/[ab]/out", True), ("p/[ab]", "p/a/out", False), ("p/out/*", "p/out", True),
    ],
)  # fmt: skip
def test_an_output_that_would_be_read_is_refused(spark, tmp_path, raw, output, meet):
    (tmp_path / "p" / "[ab]").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "p")
    given = JobOptions(raw=f"{tmp_path}/{raw}", output=f"{tmp_path}/{output}")
    refused = pytest.raises(ConfigError, match="lie one in the other")
    for named in (given, given.model_copy(update={"raw": f"JSON.`{given.raw}`"})):
        with refused if meet else contextlib.nullcontext():
            preflight.resolved(spark, named)


@pytest.fixture(scope="module")
def lake(spark, store):
    """The path on this machine, and that of a store, of a table, `t`, with a deleted row."""
    link = "fs.viewfs.mounttable.default.link./store"
    folder = spark.sparkContext._jsc.hadoopConfiguration().get(link).removeprefix("file:")
    rows = spark.range(4).selectExpr("id", "id % 2 as k").coalesce(1)
    rows.write.format("delta").partitionBy("k").save(f"{folder}/lake/t")
    spark.sql(f"DELETE FROM delta.`{folder}/lake/t` WHERE id = 3").collect()
    rows.write.partitionBy("k").parquet(f"{folder}/plain/p")
    return folder, store


@pytest.mark.parametrize("place, kind", [
    ("lake", None), ("lake/*", None), ("lake/t*", None), ("lake/t/k=1", None),
    ("lake/t/*/*.parquet", None), ("lake/t", "parquet"), ("lake/t/k=1", "parquet"),
])  # fmt: skip
def test_files_of_a_table_are_not_read_without_its_log(spark, lake, place, kind):
    for top in lake:
        assert inputs.open_input(spark, f"{top}/plain", None, "raw").frame.count() == 4
        if top.startswith("viewfs") and (place, kind) == ("lake/t/k=1", None):
            # Asked for a part of a table, Delta itself reads it by the log.
            assert inputs.open_input(spark, f"{top}/{place}", kind, "raw").frame.count() == 1
            continue
        with pytest.raises(TableError, match=r"has files of a Delta table .*: name the table"):
            inputs.open_input(spark, f"{top}/{place}", kind, "raw")


def test_a_store_is_no_path_of_this_machine(spark, store):
    table, parquet = f"{store}/table", f"{store}/parquet"
    assert tables.write(spark.range(5), table).rows == 5
    written = tables.write(spark.range(3), table, overwrite=True)
    assert (written.data, written.rows) == (1, 3) and tables.delta_version(spark, table) == written
    raw = inputs.open_input(spark, table, None, "raw")
    assert raw.identity["format"] == "delta" and raw.frame.count() == 3
    assert not tables.exists(spark, parquet)
    spark.range(4).write.parquet(parquet)
    raw = inputs.open_input(spark, parquet, None, "raw")
    raw.check_unchanged()
    spark.range(4).write.mode("append").parquet(parquet)
    with pytest.raises(DataError, match="changed while they were read"):
        raw.check_unchanged()


def test_paths_are_of_the_store_that_hadoop_is_configured_for(spark, lake):
    """By core-site.xml, say, of which Spark's own settings tell nothing."""
    folder, conf = lake[0], spark.sparkContext._jsc.hadoopConfiguration()
    before = conf.get("fs.defaultFS")
    conf.set("fs.defaultFS", "viewfs:///")
    try:
        raw = inputs.open_input(spark, "/store/lake/t", None, "raw")
        assert raw.identity["format"] == "delta" and raw.frame.count() == 3
        here = places.resolved(spark, f"file:{folder}/plain/p")
        assert inputs.open_input(spark, here, None, "raw").frame.count() == 4
    finally:
        conf.set("fs.defaultFS", before)


CLOCK = r"(\w+\(\)|'\w+') is another at each pass: write the date itself"


@pytest.mark.parametrize(
    ("predicate", "said"),
    [
        *[(p, "it is not deterministic")
          for p in ("rand() < 0.5", "uuid() > 'a'", "monotonically_increasing_id() > 1")],
        *[(p, CLOCK) for p in (
            "now() > text", "day < CURRENT_DATE - 30", "'2020' < Current_Timestamp",
            "unix_timestamp() > 5", "curdate() > day", "id = 'it\\'s' or localtimestamp() > day",
            "date(day) < date'now'", "date(day) < TIMESTAMP ' Today'", "date(day) = 'yesterday'",
            "datediff(date(day), 'tomorrow UTC') < 0", "to_date('today') > date(day)",
            "day < (select string(current_date()))", "exists (select 1 where date('now') > day)")],
        *[(p, None) for p in (
            "text != 'now()'", "text like \"it's now() %\"", "`current_time` > 0",
            "current_time > 0", "unix_timestamp(day) > 5", "text != 'today'",
            "text = 'now' and date(day) > 'epoch'", "id in (select 'now' where day > '')")],
    ],
)  # fmt: skip
def test_predicates_that_change_are_refused(spark, tmp_path, predicate, said):
    rows = [{"id": "d", "text": "a", "current_time": 1, "day": "2020-01-01 00:00:00"}]
    made(tmp_path, {"r.jsonl": lines(rows)})
    met = contextlib.nullcontext() if said is None else pytest.raises(ColumnError, match=said)
    with met:
        inputs.open_input(spark, str(tmp_path / "r.jsonl"), None, "raw", predicate)


@pytest.mark.parametrize(("predicate", "said"), [
    ("1 / id > 0", r"row: \[DIVIDE_BY_ZERO\]"), ("text > 5", r"row: .*CAST_INVALID_INPUT.* 'a b'"),
])  # fmt: skip
def test_expressions_that_fail_for_a_row_are_told(spark, predicate, said):
    before = spark.conf.get("spark.sql.ansi.enabled")
    spark.conf.set("spark.sql.ansi.enabled", "true")  # as Spark 4 has it
    try:
        rows = spark.sql("SELECT 0 AS id, 'a\nb' AS text FROM range(1)")
        with pytest.raises(Exception) as met:
            rows.where(predicate).write.format("noop").mode("overwrite").save()
    finally:
        spark.conf.set("spark.sql.ansi.enabled", before)
    assert re.match(f"an expression fails for a {said}.*: write one that", failures.told(met.value))


@pytest.mark.parametrize(("place", "said"), [
    ("s3://bucket/raw", 'such a store: No FileSystem for scheme "s3": give its package'),
    ("s3a://bucket/raw", r"such a store: Class \S+S3AFileSystem not found: give"),
    ("TABLE", r"asks for another Delta: \[DELTA_UNSUPPORTED_FEATURES_FOR_READ\] .*: read it by"),
])  # fmt: skip
def test_what_this_spark_cannot_read_is_told(spark, tmp_path, place, said):
    if place == "TABLE":
        place = str(tmp_path / "table")
        tables.write(spark.range(1), place)
        asked = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["later"],
                 "writerFeatures": ["later"]}  # fmt: skip
        log = [{"commitInfo": {"operation": "SET TBLPROPERTIES"}}, {"protocol": asked}]
        made(tmp_path, {f"table/_delta_log/{1:020}.json": lines(log)})
        spark.catalog.clearCache()
    with pytest.raises(Exception) as met:
        inputs.open_input(spark, place, None, "raw")
    told = str(met.value) if isinstance(met.value, DSIRError) else failures.told(met.value)
    assert re.search(said, str(told))


def test_what_delta_does_not_store_is_known(spark, tmp_path):
    frame = spark.range(1)
    whole = frame.selectExpr("id", "interval 1 day as i")
    assert "column i is of type interval day, which" in str(tables.unwritable(whole.schema))
    inner = frame.selectExpr("id", "array(named_struct('x', interval 1 month)) as a")
    assert "column a.x is of type interval month" in str(tables.unwritable(inner.schema))
    twice = frame.selectExpr("struct(1 as x, 2 as X) as s")
    assert "two columns are named s.X" in str(tables.unwritable(twice.schema)).replace("s.x", "s.X")
    assert tables.unwritable(frame.schema) is None
    place = str(tmp_path / "t")
    tables.write(frame, place)
    later = frame.selectExpr("id", "timestamp_ntz'2024-01-01 00:00:00' as at")
    tables.write(later, place, overwrite=True)
    assert tables.read(spark, place).first()["at"] == datetime.datetime(2024, 1, 1)
