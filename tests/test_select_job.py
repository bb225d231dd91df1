"""The command `select` over Delta tables: what it writes, refuses, records, and shows."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections import Counter
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F
from test_report import jobs_of

from dsir_spark import history, job, runs, score_job, tables
from dsir_spark import select as select_rows
from dsir_spark.errors import ColumnError, ConfigError, DataError, TableError
from dsir_spark.job_options import SelectJobOptions
from dsir_spark.report import text as printed
from dsir_spark.report.gather import compositions
from dsir_spark.selection import small

pytestmark = pytest.mark.spark
N = 120


def documents():
    rng = np.random.default_rng(4)
    return [
        {"id": f"d{i}", "text": f"text {i % 50}", "rating": None if i % 20 == 3 else i % 6,
         "loss": math.nan if i == 7 else float(rng.normal()), "size": i % 9,
         "topic": "web" if i % 3 else "news"}
        for i in range(N)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Raw, and scores of half of it and of others."""
    folder = tmp_path_factory.mktemp("data")
    rows = documents()
    pq.write_table(pa.Table.from_pylist(rows), folder / "raw.parquet")
    own = [{"id": r["id"], "q": r["size"] * 1.5, "length": r["size"], "score": "its own"}
           for r in rows[::2]]  # fmt: skip
    own += [{"id": "elsewhere", "q": 99.0, "length": 1, "score": "its own"}]
    pq.write_table(pa.Table.from_pylist(own), folder / "scores.parquet")
    return folder


def run(spark, data, output, **more):
    given = {"raw": str(data / "raw.parquet"), "output": str(output), "score": "rating",
             "method": "top_k", "num_to_sample": 30, "seed": 3, "report": False,
             **more}  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    options = SelectJobOptions.from_mapping(given, "select")
    return job.select(spark, options)


def delta(spark, output, name):
    return spark.read.format("delta").load(str(output / name))


def ids(frame):
    return sorted(r["id"] for r in frame.select("id").collect())


CASES = {
    "several": {"score": {"a": "rating", "b": "-loss"}, "proportions": {"a": 1, "b": 2},
                "method": "sample"},
    "ranked within": {"score": "loss", "lower_is_better": True, "normalize_score": "rank",
                      "normalize_within": "topic", "method": "sample", "temperature": 0.1},
    "quotas by size": {"num_to_sample": None, "quantile": 0.4, "size_column": "size",
                       "quota_column": "topic", "quotas": "raw"},
    "without copies": {"copies_column": "text", "threshold": 2},
    "random": {"score": None, "method": "random"},
}  # fmt: skip


# Ids are sent to the scan of raw, or joined with it where they are many.
@pytest.mark.parametrize(
    ("name", "sent"),
    [*((name, 0 if "size" in name else score_job.SENT_IDS) for name in CASES), ("several", 0)],
)
def test_the_command_selects_what_the_function_does(
    spark, data, tmp_path, monkeypatch, name, sent
):  # fmt: skip
    monkeypatch.setattr(score_job, "SENT_IDS", sent)
    options = {"score": "rating", **CASES[name]}
    facts = run(spark, data, tmp_path, **CASES[name])
    copied = options.pop("copies_column", None)
    given = {"method": "top_k", "num_to_sample": 30, "seed": 3, **options}
    score = given.pop("score") or "0"
    raw = spark.read.parquet(str(data / "raw.parquet"))
    right = select_rows(raw, score, copies=copied, **given)
    found = delta(spark, tmp_path, "selected")
    assert ids(found) == ids(right) and len(ids(found)) == facts["funnel"]["selected"] > 10
    added = ["score_a", "score_b", "target"] if name == "several" else ["score"]
    assert found.columns == [*raw.columns, *(added if options["score"] else [])]
    if name == "several":
        both = [sorted((r["id"], r["target"]) for r in f.collect()) for f in (found, right)]
        assert both[0] == both[1]
    funnel = facts["funnel"]
    left = {k: n for k, n in funnel.items() if k not in ("read", "candidates", "selected")}
    assert funnel["read"] == N == funnel["candidates"] + sum(left.values())


def test_a_selection_starts_few_jobs(spark, data, tmp_path):
    """How many rows there are its commit tells, and all ties are counted together."""
    for most, score in ((19, "rating"), (21, {"a": "rating", "b": "size"})):
        output = tmp_path / str(most)
        assert jobs_of(spark, lambda o=output, s=score: run(spark, data, o, score=s)) <= most


def test_scores_of_another_table_are_the_pool(spark, data, tmp_path):
    options = {"scores": str(data / "scores.parquet"), "score": "q", "num_to_sample": None,
               "num_tokens_to_sample": 50, "size_column": "length", "rejected": N}  # fmt: skip
    more = {"where": "length < 8", "keep": ["length"], "report": True}
    facts = run(spark, data, tmp_path, **options, **more)
    funnel = {k: n for k, n in facts["funnel"].items() if n}
    scored = [r for r in documents()[::2] if r["size"] < 8]
    assert funnel == {"read": 61, "filtered": 60 - len(scored), "not_in_raw": 1,
                      "candidates": len(scored), "selected": 7}  # fmt: skip
    chosen = delta(spark, tmp_path, "selected").collect()
    assert sorted(r["size"] for r in chosen) == [6] + [7] * 6 and facts["shortfall"] == 2
    assert all(r["score"] == 1.5 * r["size"] and r["text"].startswith("text") for r in chosen)
    # A column of theirs that is named as the score is none of a row that was not scored.
    gone = delta(spark, tmp_path, "rejected")
    assert dict(gone.dtypes)["score"] == "double"
    gone = gone.where("stage = 'filtered'").select("score", "number").collect()
    assert gone == [(None, None)] * (60 - len(scored))
    row = history.latest_selection(spark, str(tmp_path))
    assert json.loads(row["scores"])["place"].endswith("scores.parquet")
    assert row["scores_version"] == row["selected_version"] == 0
    again = job.report_again(spark, str(tmp_path), ["length"], examples=2)
    assert again.to_dict() == facts["facts"].to_dict()


def test_what_is_shown(spark, data, tmp_path):
    facts = run(spark, data, tmp_path, keep=["topic"], report=True)["facts"]
    (one,) = facts.scores
    by = [r["rating"] for r in documents() if r["rating"] is not None]
    assert (one.low, one.high, one.selected_low, one.selected_high) == (0, 5, 4, 5)
    assert one.mean == pytest.approx(sum(by) / len(by)) and one.selected_mean > 4
    assert one.tied == by.count(4) and one.tied_selected == 30 - by.count(5)
    assert one.histogram["candidates"] == [by.count(n) for n in range(6)]
    assert one.histogram["selected"] == [0, 0, 0, 0, one.tied_selected, by.count(5)]
    assert one.histogram["cut"] == 4
    assert [w.name for w in facts.warnings] == ["ties"]
    shown = printed.full(facts)
    for said in ("without a score", "Composition by topic", "the seed chose", "Method top_k"):
        assert said in shown
    written = job.write_report(spark, facts, str(tmp_path))
    page = (tmp_path / "report.html").read_text("utf-8")
    assert written == str(tmp_path / "report.html")
    for said in ("30 documents were selected", "just above the cut", "text 4", "<svg", "4 to 5"):
        assert said in page
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == facts.to_dict()
    with pytest.raises(TableError, match="by a score, not by a model"):
        job.explain(spark, str(tmp_path), ["d1"])
    with pytest.raises(ColumnError, match="composition 'no' is not a column"):
        job.report_again(spark, str(tmp_path), ["no"])
    for path in (tmp_path / "scores").glob("*.parquet"):
        path.unlink()
    kept = job.report_again(spark, str(tmp_path), examples=2)
    assert [w.name for w in kept.warnings] == ["as_stored", "ties"]
    again = dataclasses.replace(kept, warnings=facts.warnings)
    assert again.to_dict() == facts.to_dict()
    assert printed.full(again) == shown
    empty = run(spark, data, tmp_path / "b", num_to_sample=0)["facts"]
    assert "Nothing was selected" in json.dumps(empty.to_dict())


@pytest.mark.filterwarnings("ignore:num_to_sample is")
@pytest.mark.parametrize(
    "options, short",
    [
        ({"group_column": "topic", "max_per_group": 4}, 22),
        ({"quota_column": "Topic", "quotas": {"news": 0.5}, "quota_shortfall": "report",
          "num_to_sample": 100}, 12),
        ({"threshold": 3.0, "num_to_sample": 100}, 44),
        ({"group_column": "topic", "group_share": {"web": 1, "news": 7}, "max_copies": 3,
          "num_to_sample": 120}, 0),
        ({"method": "random", "group_column": "topic", "group_share": "raw"}, 0),
    ],
)  # fmt: skip
def test_what_is_shown_is_what_the_table_has(spark, data, tmp_path, monkeypatch, options, short):
    monkeypatch.setitem(compositions.__globals__, "_VALUES", 3)
    keep = ["ID", "rating", "topic"]  # as Spark finds them
    facts = run(spark, data, tmp_path, keep=keep, report=True, **options)
    shown, rows = facts["facts"], delta(spark, tmp_path, "selected").collect()
    times = {r["id"]: r["copies"] if "max_copies" in options else 1 for r in rows}
    (one,) = shown.scores
    for e in one.examples:
        assert (e["place"] != "below the cut") == (e["id"] in times), e
    total = sum(times.values())
    assert one.amount == (total if "max_copies" in options else None)
    mean = sum(r["score"] * times[r["id"]] for r in rows) / total
    assert one.selected_mean == pytest.approx(mean)
    by_id, by_rating, by_topic = shown.composition
    assert (len(by_id.rows), by_id.values, by_rating.values, by_topic.values) == (3, N, 7, 2)
    assert len(by_rating.rows) == 3 and "... and 95 further values" in printed.full(shown)
    for value in by_topic.rows:
        own = sum(times[r["id"]] for r in rows if r["topic"] == value["value"])
        assert value["selected"] == own and value["selected_share"] == own / total
    assert shown.to_dict()["shortfall"]["number"] == short == facts["shortfall"]
    assert [w.name for w in shown.warnings if w.name == "too_few"] == ["too_few"] * (short > 0)
    assert (f"{short} documents short" in printed.full(shown)) == (short > 0)


def test_null_is_a_value_of_a_column(spark):
    given = [(None, b"\xc8"), ("None", b"a"), (None, b"\xc9")]
    rows = spark.createDataFrame(given, "c string, b binary")
    found, of_bytes = compositions(["c", "b"], rows, rows.limit(0), None)
    assert [(r["value"], r["raw"]) for r in found.rows] == [("(null)", 2), ("None", 1)]
    assert [r["value"] for r in of_bytes.rows] == ["C8", "C9", "a"]  # as quotas name them


@pytest.mark.parametrize("held", [1 << 30, -1])
def test_strings_that_are_no_utf8_are_named_by_their_bytes(spark, monkeypatch, held):
    """By quotas, groups and compositions, in a pool that the driver holds and in one on Spark."""
    monkeypatch.setattr(small, "BYTES", held)
    given = [(i, float(i), b"\xe9" if i % 2 else b"\xe8") for i in range(10)]
    rows = spark.createDataFrame(given, "id int, x double, b binary")
    rows = rows.select("id", "x", F.col("b").cast("string").alias("c"))
    own = {"method": "top_k", "num_to_sample": 3, "seed": 1}
    for quotas, found in (({"E9": 1.0}, [5, 7, 9]), ("raw", [6, 8, 9])):
        assert ids(select_rows(rows, "x", quota_column="c", quotas=quotas, **own)) == found
    few = select_rows(rows, "x", group_column="c", max_per_group=1, **{**own, "num_to_sample": 2})
    assert ids(few) == [8, 9]
    [one] = compositions(["c"], rows, rows.limit(0), None)
    assert [r["value"] for r in one.rows] == ["E8", "E9"]


def test_some_of_what_was_rejected(spark, data, tmp_path):
    options = {"copies_column": "text", "threshold": 2, "where": "id <> 'd4' and id <> 'd10'",
               "size_column": "size", "num_to_sample": None, "quantile": 0.2}  # fmt: skip
    facts = run(spark, data, tmp_path, rejected=7, keep=["topic"], **options)
    rows = [r.asDict() for r in delta(spark, tmp_path, "rejected").collect()]
    by_id = {r["id"]: r for r in documents()}
    stages = {}
    for r in rows:
        stages.setdefault(r["stage"], []).append(r)
    funnel = facts["funnel"]
    below = funnel["candidates"] - funnel["selected"]
    for stage, n in {**funnel, "below_cut": below}.items():
        if stage not in ("read", "candidates", "selected", "duplicate_text"):
            assert len(stages.get(stage, [])) == min(7, n), stage
    assert {"filtered", "beyond_threshold", "without_score", "below_cut"} <= stages.keys()
    assert {r["id"] for r in stages["filtered"]} == {"d4", "d10"}
    assert {r["reason"] for r in stages["without_score"]} == {"without a score"}
    assert all(r["number"] == by_id[r["id"]]["rating"] < 2 for r in stages["beyond_threshold"])
    assert all(r["topic"] == by_id[r["id"]]["topic"] for r in rows)
    chosen = ids(delta(spark, tmp_path, "selected"))
    assert not {r["id"] for r in rows} & set(chosen) and len({r["id"] for r in rows}) == len(rows)
    chosen = {**options, "rejected": 7, "keep": ["topic"]}
    with pytest.raises(TableError, match=r"already holds scores, selected, .* or another --output"):
        run(spark, data, tmp_path, **chosen)
    again = run(spark, data, tmp_path, **chosen, overwrite=True)
    assert again["rejected_version"] == again["selected_version"] == 1
    assert ids(delta(spark, tmp_path, "rejected")) == sorted(r["id"] for r in rows)


def test_what_was_rejected_is_told_by_the_stage_it_left_at(spark, data, tmp_path):
    """Of copies and of groups, each by its own."""
    options = {"copies_column": "text", "group_column": "topic", "max_per_group": 20}
    facts = run(spark, data, tmp_path, rejected=N, **options)
    rows = delta(spark, tmp_path, "rejected").select("id", "stage").collect()
    funnel = facts["funnel"] | {"below_cut": facts["funnel"]["candidates"] - 30}
    stages = ("without_score", "duplicate_text", "over_max_per_group", "below_cut")
    assert Counter(r["stage"] for r in rows) == {stage: funnel[stage] for stage in stages}
    assert len({r["id"] for r in rows}) == len(rows) == N - 30 and min(map(funnel.get, stages)) > 3
    first = {}
    for r in sorted(documents(), key=lambda r: r["id"]):
        if r["rating"] is not None:
            first.setdefault(r["text"], r["id"])
    copied = {r["id"] for r in rows if r["stage"] == "duplicate_text"}
    assert copied == {r["id"] for r in documents() if r["rating"] is not None} - {*first.values()}


def test_shares_of_bytes_are_named_as_quotas_are(spark, tmp_path):
    place = str(tmp_path / "shares.parquet")
    pq.write_table(pa.table({"kind": [b"\xc8", b"a"], "share": [3.0, 1.0]}), place)
    assert score_job._shares_at(spark, place, "kind") == {"C8": 3.0, "a": 1.0}


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def test_a_run_that_died_is_gone_on_with(spark, data, tmp_path, monkeypatch):
    """Once its scores are written, and again once its documents are."""
    write, shares = tables.write, tmp_path / "s.json"
    shares.write_text('{"web": 1, "news": 1}')
    own = {"group_column": "topic", "group_share": str(shares)}
    for name in ("scores", "selected"):

        def killed(frame, place, last=f"/{name}", **more):
            version = write(frame, place, **more)
            if place.endswith(last):
                raise Killed
            return version

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(tables, "write", killed)
            run(spark, data, tmp_path, **own)
        (line,) = runs.listing(spark, str(tmp_path))
        assert f"not ended, wrote scores{', selected' if name == 'selected' else ''}" in line
        with pytest.raises(TableError, match=r"that has not ended .*seed was 3 and is 4"):
            run(spark, data, tmp_path, **own, seed=4)
        shares.write_text('{"web": 2, "news": 1}')
        with pytest.raises(TableError, match=r"has not ended .* and target changed since"):
            run(spark, data, tmp_path, **own)
        shares.write_text('{"web": 1, "news": 1}')
    facts = run(spark, data, tmp_path, **own)
    for name in ("scores", "selected"):
        assert len(tables.records(spark, str(tmp_path / name))) == 1
    assert facts["funnel"]["selected"] == len(ids(delta(spark, tmp_path, "selected"))) == 30
    (line,) = runs.listing(spark, str(tmp_path))
    assert "ended after" in line and "30 selected" in line


@pytest.mark.parametrize(
    "given, error, said",
    [
        ({"score": "rand()"}, ColumnError, "not deterministic"),
        ({"score": "no_such"}, ColumnError, "score 'no_such' does not hold for the pool"),
        ({"score": "topic"}, ColumnError, "score must be numeric; it is string"),
        ({"score": {"label": "1"}}, ColumnError, "score label '1' names no column"),
        ({"duplicates": "drop"}, ConfigError, "duplicates is for copies_column: give copies_col"),
        ({"scores_format": "csv"}, ConfigError, "scores_format is for scores: give scores too"),
        ({"target_format": "csv"}, ConfigError, "target_format is for target: give target too"),
        ({"score": None, "method": "random", "threshold": 1}, ConfigError, "threshold is for scor"),
        ({"score": None, "method": "random", "proportions": {"a": 1}}, ConfigError,
         "^proportions are shares of scores with names: give --score NAME=EXPR"),
        ({"method": "random", "lower_is_better": True}, ConfigError, "lower_is_better changes"),
        ({"score": {"a": "rating", "topic": "size"}, "keep": ["no"]}, ColumnError, "keep 'no' is"),
        ({"id_column": "rating"}, DataError, "'rating' of raw is not unique"),
        ({"id_column": "no"}, ColumnError, "id_column 'no' is not a column"),
        ({"size_column": "topic", "num_tokens_to_sample": 5, "num_to_sample": None}, ColumnError,
         "size_column 'topic' of raw must be numeric"),
        ({"text_column": "no"}, ColumnError, "text_column 'no' is not a column of raw"),
        ({"copies_column": "no"}, ColumnError, "copies_column 'no' is not a column of raw"),
        ({"where": "uuid() > 'a'"}, ColumnError, "where .* not deterministic"),
        ({"where": "rating + 1"}, ColumnError, "where 'rating . 1' does not hold for raw"),
        ({"scores": "SCORES", "score": "q", "id_column": "length"}, ColumnError, "'length' is not"),
        ({"ngrams": 3}, ConfigError, "ngrams is no option of select"),
        ({"num_to_sample": None}, ConfigError, "how many"),
        ({"scores": "RAW"}, ConfigError, "lie one in the other"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_nothing_is_written(spark, data, tmp_path, given, error, said):
    places = {"SCORES": str(data / "scores.parquet"), "RAW": str(tmp_path)}
    given = {k: places.get(v, v) if isinstance(v, str) else v for k, v in given.items()}
    with pytest.raises(error, match=said) as caught:
        run(spark, data, tmp_path / "out", **given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "scores").exists()


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.yaml", "007: 3\n1e6: 1\n2_0: 1\n", {"007": 3.0, "1e6": 1.0, "2_0": 1.0}),
        ("a.json", json.dumps({"\U0001f600": 1}), {"\U0001f600": 1.0}),
        ("a.yaml", "no: 3\nen: 1\n", "key False is no text; write it in quotes: 'no'"),
        ("a.yaml", "law: 1\nlaw: 9\n", "the key law is given twice"),
        ("a.json", '{"law": 1, "law": 9}', "'law' is given twice"),
        ("a.csv", "topic,share\nlaw,1\nlaw,9\n", "'law' is given twice"),
        ("a.csv", "topic,share\nlaw,1\n,9\n", "key None is no text"),
        ("a.csv", "topic,share\nlaw,1\ncode,\n", "must map values to numbers"),
        ("a.csv", "topic,share\nlaw,1\ncode,a\n", "must map values to numbers: could not conv"),
    ],
)
def test_a_file_of_shares_says_what_is_written(spark, tmp_path, monkeypatch, name, text, said):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / name).write_text(text, encoding="utf-8")
    if isinstance(said, dict):
        assert score_job._shares_at(spark, f"~/{name}", "topic") == said
        return
    with pytest.raises(ConfigError, match=said) as caught:
        score_job._shares_at(spark, f"~/{name}", "topic")
    assert "\n" not in str(caught.value)


def test_names_that_are_taken(spark, data, tmp_path, monkeypatch):
    rows = [{"id": i, "score": float(i), "target": "x"} for i in range(9)]
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "raw.parquet")
    run(spark, folder, tmp_path / "a", score="score", num_to_sample=2)
    found = delta(spark, tmp_path / "a", "selected")
    assert found.columns == ["id", "score", "target"] and ids(found) == [7, 8]
    with pytest.raises(ColumnError, match="already has a column score"):
        run(spark, folder, tmp_path / "b", score="score + 1", num_to_sample=2)
    with pytest.raises(ColumnError, match="already has a column target"):
        run(spark, folder, tmp_path / "b", score={"c": "score"}, num_to_sample=2)
    # Raw's own are written as they are, also where its scores are computed again.
    folder = tmp_path / "more"
    folder.mkdir()
    rows = [{"id": i, "score": Decimal(i), "normalized": f"n{i}"} for i in range(9)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "raw.parquet")
    # Quotas by the score itself go by raw's own values.
    quotas = {"quota_column": "score", "quotas": {"7": 0.5, "8": 0.5}}
    for sent in (2, 0):
        monkeypatch.setattr(score_job, "SENT_IDS", sent)
        run(spark, folder, tmp_path / f"c{sent}", score="score", num_to_sample=2, **quotas)
        found = delta(spark, tmp_path / f"c{sent}", "selected").orderBy("id").collect()
        assert [r.asDict() for r in found] == rows[7:]
        assert dict(delta(spark, tmp_path / f"c{sent}", "scores").dtypes)["score"][:7] == "decimal"
    shutil.rmtree(folder)


@pytest.mark.parametrize("given, said", [
    ({"score": None, "method": "random", "quota_column": "score", "quotas": "raw"}, "raw .* score"),
    ({"score": {"a": "score", "b": "-score"}, "keep": ["target"], "scores": "SCORES"},
     "scores .* target"),
    ({"group_column": "COPIES", "group_share": "raw", "max_copies": 2, "scores": "SCORES"},
     "scores .* copies"),
    ({"score": "x", "normalize_score": "z", "normalize_within": "score", "scores": "SCORES"},
     "scores .* score"),
])  # fmt: skip
def test_what_scores_keep_is_not_taken_for_what_is_made(spark, tmp_path, given, said):
    rows = [{"id": i, "score": i % 2, "target": "x", "copies": 1, "x": 0.5 * i} for i in range(9)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "scored.parquet")
    pq.write_table(pa.Table.from_pylist(rows).select(["id"]), tmp_path / "ids.parquet")
    raw = "ids" if "scores" in given else "scored"
    own = {"raw": f"{tmp_path}/{raw}.parquet", "score": "score", "num_to_sample": 4, **given}
    own |= {"scores": f"{tmp_path}/scored.parquet"} if "scores" in given else {}
    with pytest.raises(ColumnError, match=said.replace(" .* ", " already has a column ")):
        run(spark, tmp_path, tmp_path / "out", **own)
    assert not (tmp_path / "out" / "scores").exists()


def test_a_score_that_is_kept_in_another_case(spark, tmp_path):
    pq.write_table(pa.table({"id": range(9), "Score": range(9)}), tmp_path / "raw.parquet")
    facts = run(spark, tmp_path, tmp_path / "out", score="Score", keep=["Score"], num_to_sample=2)
    assert ids(delta(spark, tmp_path / "out", "selected")) == [7, 8] and facts["facts"].composition
