"""Runs that die, meet each other, or find their tables changed: nothing good is lost."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_end_to_end import again, data, delta, done, finished, options, run, texts_of  # noqa: F401

from dsir_spark import DSIRModel, history, inputs, job, runs, tables
from dsir_spark.errors import ColumnError, DataError, TableError
from dsir_spark.report import text as printed

pytestmark = pytest.mark.spark
BUDGET = {"num_to_sample": 20, "min_example_length": 10}


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def dying(monkeypatch, name, after):
    """A run that dies when it has written, or is about to write, the table of this name."""
    write = tables.write

    def killed(frame, place, **more):
        if place.endswith(f"/{name}") and not after:
            raise Killed
        version = write(frame, place, **more)
        if place.endswith(f"/{name}"):
            raise Killed
        return version

    monkeypatch.setattr(tables, "write", killed)


def bits(spark, output):
    """All that readers of the three tables see, without times and the run's id."""
    found = [delta(spark, output / name).collect() for name in ("model", "weights", "selected")]
    return [sorted(rows, key=str) for rows in found]


def test_a_run_that_died_is_gone_on_with(spark, data, done, tmp_path, monkeypatch, caplog):  # noqa: F811
    """It died before its first table, then after each, before which is as after the last one."""
    chosen, output = options(data, tmp_path / "out", keep=["topic"]), str(tmp_path / "out")
    order, kept = ["model", "weights", "selected"], []
    caplog.set_level("INFO", "dsir_spark")
    for name in (None, *order):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            dying(patch, name or "model", after=name is not None)
            run(spark, chosen)
        kept += [name] if name else []
        (line,) = runs.listing(spark, output)
        assert f"not ended, wrote {', '.join(kept) or 'nothing'}" in line
        if kept:
            with pytest.raises(TableError, match=r"that has not ended .*seed was 3 and is 4; give"):
                run(spark, {**chosen, "seed": 4})
    facts = run(spark, chosen)
    already = [line.split("there already: ")[1] for line in caplog.messages if "there alr" in line]
    assert already == ["nothing", "model", "model, weights", "model, weights, selected"]
    assert bits(spark, tmp_path / "out") == bits(spark, done[0])
    assert all(len(tables.records(spark, f"{output}/{name}")) == 1 for name in order)
    assert facts["seconds"].keys() >= {"fit", "write_model", "weigh", "cut", "select"}
    (line,) = runs.listing(spark, output)
    assert "ended after" in line and "50 selected" in line and facts["run_id"] in line


def test_a_resampling_that_died_is_gone_on_with(spark, finished, monkeypatch):  # noqa: F811
    matched = {**BUDGET, "method": "match", "match_steps": 2}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(patch, "weights", True)
        again(spark, finished, **matched)
    died = history.last(spark, str(finished), n=1)[0]
    facts = again(spark, finished, **matched)
    assert facts["run_id"] == died["run_id"] and facts["weights_version"] == 1
    assert len(tables.records(spark, str(finished / "match"))) == 1
    assert job.report_again(spark, str(finished), examples=0).selection.selected == 20


def test_other_data_is_not_gone_on_with(spark, data, tmp_path, monkeypatch):  # noqa: F811
    shutil.copytree(data / "parquet", tmp_path / "raw")
    chosen = options(data, tmp_path / "out", raw=str(tmp_path / "raw"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(patch, "model", True)
        run(spark, chosen)
    shutil.copy(data / "good.parquet", tmp_path / "raw" / "more.parquet")
    with pytest.raises(TableError, match="and raw changed since: give --overwrite"):
        run(spark, {**chosen, "check_ids": False})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(patch, "model", True)
        run(spark, {**chosen, "check_ids": False, "overwrite": True})
    with pytest.raises(DataError, match="is not unique"):  # which was not looked at
        run(spark, chosen)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(patch, "weights", True)
        run(spark, {**chosen, "check_ids": False})
    funnel = again(spark, tmp_path / "out", **BUDGET)["funnel"]
    assert (funnel["read"], funnel["selected"]) == (1005, 20)


def test_of_two_runs_the_later_goes_on(spark, data, tmp_path, monkeypatch):  # noqa: F811
    chosen = options(data, tmp_path / "out", overwrite=True)
    write, others = tables.write, []

    def met(frame, place, **more):
        version = write(frame, place, **more)
        if place.endswith("/weights") and not others:
            others.append(None)
            others.append(run(spark, {**chosen, "seed": 9, "num_to_sample": 30}))
        return version

    monkeypatch.setattr(tables, "write", met)
    with pytest.raises(TableError, match=r"a later `run` \(run \w+\) began to write"):
        run(spark, chosen)
    assert delta(spark, tmp_path / "out" / "selected").count() == 30
    assert history.latest_selection(spark, str(tmp_path / "out"))["run_id"] == others[1]["run_id"]
    for name in ("model", "weights", "selected"):
        record = tables.records(spark, str(tmp_path / "out" / name))[0][1]
        assert record[tables.RUN_ID] == others[1]["run_id"], name


@pytest.mark.parametrize("with_a_run", [False, True])
def test_what_meets_ends_whole(spark, data, finished, with_a_run):  # noqa: F811
    """Two resamplings, or one during a run, at once and under OPTIMIZE: one outcome, whole."""
    output, over = finished, threading.Event()
    chosen = options(data, output, overwrite=True)
    first = (lambda: run(spark, chosen)) if with_a_run else (lambda: again(
        spark, output, num_to_sample=30, seed=8, min_example_length=10))  # fmt: skip

    def optimised():
        while not over.wait(0.3):
            for name in ("weights", "selected"):
                # Of the two that write a table the one that comes later may be refused.
                with contextlib.suppress(Exception):
                    spark.sql(f"OPTIMIZE delta.`{output}/{name}`").collect()

    with ThreadPoolExecutor(3) as threads:
        maintenance = threads.submit(optimised)
        ended = [threads.submit(one) for one in (first, lambda: again(spark, output, **BUDGET))]
        found = [one.exception() or one.result() for one in ended]
        over.set()
        maintenance.result()
    lost = [one for one in found if isinstance(one, BaseException)]
    assert all(isinstance(one, TableError) for one in lost) and len(lost) <= 1, lost
    last = history.latest_selection(spark, str(output))
    assert last["run_id"] in [one["run_id"] for one in found if one not in lost]
    assert delta(spark, output / "selected").count() == last["funnel"]["selected"]
    report = job.report_again(spark, str(output), examples=0)
    assert report.selection.selected == last["funnel"]["selected"]


def test_what_was_there_is_put_back_when_other_rows_are_written(
    spark, data, tmp_path, finished, monkeypatch  # noqa: F811
):  # fmt: skip
    """Raw that changes while it is read, in number of rows or in its files."""
    good, rows_of = texts_of(spark, tmp_path / "out"), job.resampling.selected_rows

    def put_back(*_):
        raise Killed

    def refuse(*_):
        raise TableError("cannot write it")

    with monkeypatch.context() as patch:
        patch.setattr(job.resampling, "selected_rows", lambda *a, **k: rows_of(*a, **k).limit(3))
        with monkeypatch.context() as refused, pytest.raises(
            DataError, match=r"3 rows came to .*; what was written stays: cannot write it"
        ):
            refused.setattr(tables, "restore", refuse)
            again(spark, tmp_path / "out", **BUDGET)
        tables.restore(spark, str(tmp_path / "out" / "selected"), 0)
        with pytest.raises(DataError, match="3 rows came to be written to selected where 20 were"):
            again(spark, tmp_path / "out", **BUDGET)
        assert texts_of(spark, tmp_path / "out") == good
        with monkeypatch.context() as death, pytest.raises(Killed):
            death.setattr(tables, "restore", put_back)
            again(spark, tmp_path / "out", **BUDGET)
    assert delta(spark, tmp_path / "out" / "selected").count() == 3  # until it is gone on with
    assert again(spark, tmp_path / "out", **BUDGET)["funnel"]["selected"] == 20
    assert delta(spark, tmp_path / "out" / "selected").count() == 20
    shutil.copytree(data / "parquet", tmp_path / "raw")
    chosen = options(data, tmp_path / "new", raw=str(tmp_path / "raw"))

    def grown(*of, **more):
        shutil.copy(data / "good.parquet", tmp_path / "raw" / "more.parquet")
        return rows_of(*of, **more)

    with monkeypatch.context() as patch:
        patch.setattr(job.resampling, "selected_rows", grown)
        with pytest.raises(DataError, match="changed while they were read"):
            run(spark, chosen)
    assert delta(spark, tmp_path / "new" / "selected").count() == 0


def test_a_table_that_may_only_be_added_to_is_told_of(spark, finished):  # noqa: F811
    place = str(finished / "selected")
    spark.sql(f"ALTER TABLE delta.`{place}` SET TBLPROPERTIES (delta.appendOnly = true)").collect()
    for write in (lambda: again(spark, finished, **BUDGET),
                  lambda: tables.restore(spark, place, None)):  # fmt: skip
        with pytest.raises(TableError, match=r"cannot write .*selected: rows of the table may onl"):
            write()


def test_maintenance_leaves_a_run_as_it_is(spark, data, tmp_path):  # noqa: F811
    spark.read.parquet(str(data / "parquet")).repartition(3).write.format("delta").save(
        str(tmp_path / "raw")
    )
    chosen = options(data, tmp_path / "out", raw=str(tmp_path / "raw"))
    run(spark, {name: chosen[name] for name in ("raw", "target", "output")}, job.fit)
    row = run(spark, {"output": chosen["output"]}, job.weigh)
    assert json.loads(row["raw"])["delta_version"] == 0
    for name in ("out/weights", "raw"):
        spark.sql(f"OPTIMIZE delta.`{tmp_path}/{name}`").collect()
    spark.sql(f"VACUUM delta.`{tmp_path}/out/weights`").collect()
    spark.sql(f"ALTER TABLE delta.`{tmp_path}/out/model` SET TBLPROPERTIES ('a' = 'b')").collect()
    assert again(spark, tmp_path / "out", **BUDGET)["funnel"]["selected"] == 20
    facts = job.report_again(spark, str(tmp_path / "out"), examples=1)
    more = spark.read.parquet(str(data / "good.parquet")).limit(3)
    more.write.format("delta").mode("append").save(str(tmp_path / "raw"))
    with pytest.raises(TableError, match="delta_version was 0 and is 2"):
        again(spark, tmp_path / "out", **BUDGET)
    shown_as_stored(spark, tmp_path, facts)


def shown_as_stored(spark, folder, facts):
    """Without files of raw or weights the report is the one that was stored."""
    output = str(folder / "out")
    job.write_report(spark, facts, output)
    for gone in ("out/weights/*.parquet", "raw/_delta_log", "out/report"):
        for path in folder.glob(gone):
            path.unlink() if path.is_file() else shutil.rmtree(path)
        kept = job.report_again(spark, output, examples=0 if gone == "out/report" else 2)
        note, *others = kept.warnings
        assert note.name == "as_stored" and "cannot be made again: " in note.sentence, gone
        assert tuple(others) == facts.warnings
        if gone != "out/report":
            assert kept.to_dict() | {"warnings": facts.to_dict()["warnings"]} == facts.to_dict()
            job.write_report(spark, kept, output)  # as JSON only: the table has it
            shown = printed.full(kept)
    assert "Note: This is the report as it was stored" in shown and "Examples for" in shown
    assert shown.startswith(printed.full(facts).split("\n\nNote")[0])
    assert "Examples for" not in printed.full(kept)
    (folder / "out" / "report.json").unlink()
    few = job.report_again(spark, output)
    assert few.row() == facts.row() and "without a report" in few.warnings[0].sentence
    job.write_report(spark, few, output)


def test_a_local_session_runs_over_a_store(spark, data, store):  # noqa: F811
    spark.read.parquet(str(data / "parquet")).write.parquet(f"{store}/raw")
    chosen = options(data, f"{store}/out", raw=f"{store}/raw")
    run(spark, {name: chosen[name] for name in ("raw", "target", "output")}, job.fit)
    run(spark, {"output": f"{store}/out"}, job.weigh)
    assert again(spark, f"{store}/out", **BUDGET)["funnel"]["selected"] == 20
    with pytest.raises(TableError, match="already holds model, weights, selected"):
        run(spark, chosen)


def test_places_in_any_spelling_are_one(spark, data, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(data)
    chosen = options(data, tmp_path / "o [1] {x} #5%", raw="parquet/", target="./cooking.parquet")
    run(spark, chosen)
    with pytest.raises(TableError, match="already holds model, weights, selected"):
        run(spark, chosen)
    facts = again(spark, chosen["output"], raw=f"file:{data}/parquet",
                  target=f"file:{data}/cooking.parquet", **BUDGET)  # fmt: skip
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert json.loads(facts["raw"])["place"] == str(data / "parquet")
    assert job.explain(spark, chosen["output"].replace(str(tmp_path), "~"), ["c1"])


def test_what_is_not_ours_is_left_alone(spark, data, tmp_path):  # noqa: F811
    shutil.copytree(data / "parquet", tmp_path / "out" / "selected")
    before = sorted(p.name for p in (tmp_path / "out" / "selected").iterdir())
    for more in ({}, {"overwrite": True}):
        with pytest.raises(TableError, match="holds files that are no table of Delta"):
            run(spark, options(data, tmp_path / "out", **more))
    assert sorted(p.name for p in (tmp_path / "out" / "selected").iterdir()) == before
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "model").write_text("a file of somebody")
    with pytest.raises(TableError, match="holds files that are no table of Delta"):
        run(spark, options(data, tmp_path / "single"))
    for name in ("rejected", "runs", "report"):
        spark.range(1).write.format("delta").save(str(tmp_path / name / name))
        over = {"overwrite": True}
        for more, stage in (({}, job.run_all), (over, job.run_all), ({}, job.resample_again)):
            with pytest.raises(TableError, match=f"{name} is a table that dsir-spark did not"):
                run(spark, options(data, tmp_path / name, **more), stage)
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file" / "out", "/proc/none/out"):
        with pytest.raises(TableError, match=r"cannot write .*: no table can be made there"):
            run(spark, options(data, output))
    with pytest.raises(TableError, match=r"a folder of this name is \./results.v2"):
        run(spark, options(data, "results.v2"))


def test_ids_and_names_as_spark_finds_them(spark, data, tmp_path, caplog):  # noqa: F811
    """Ids of any width give one sample; an id by another case is one; where none is, it is said."""
    good = spark.read.parquet(str(data / "good.parquet")).selectExpr(
        "row_number() over (order by id) as id", "text"
    )
    raws = {kind: good.selectExpr(f"cast(id as {kind}) as ID", "text as Text")
            for kind in ("int", "bigint", "decimal(20,0)")}  # fmt: skip
    raws["int"].write.parquet(str(tmp_path / "int"))
    chosen = options(data, tmp_path / "out", raw=str(tmp_path / "int"), temperature=50)
    run(spark, chosen)
    model = DSIRModel.load(str(tmp_path / "out" / "model"))
    names = ("num_to_sample", "method", "seed", "min_example_length", "temperature")
    found = {kind: model.resample(raw, **{name: chosen[name] for name in names})
             for kind, raw in raws.items()}  # fmt: skip
    found["run"] = delta(spark, tmp_path / "out" / "selected")
    assert [frame.dtypes[0] for frame in found.values()] == [
        ("ID", kind) for kind in (*raws, "int")
    ]
    assert len({tuple(sorted(int(r["ID"]) for r in f.collect())) for f in found.values()}) == 1
    good.selectExpr("id as doc_id", "text").write.parquet(str(tmp_path / "doc_id"))
    fit = {name: chosen[name] for name in ("target", "output")} | {"overwrite": True}
    with caplog.at_level("INFO", "dsir_spark"):
        run(spark, {**fit, "raw": str(tmp_path / "doc_id")}, job.fit)
    assert "has no column 'id' (it has doc_id, text): ids are made from the texts" in caplog.text


@pytest.mark.parametrize(
    ("hashes", "partitions"), [("xxhash64(id)", "auto"), ("xxhash64(id)", ""), ("1L", "2")]
)
def test_ids_are_told_apart_where_their_hashes_meet(spark, monkeypatch, hashes, partitions):
    monkeypatch.setattr(inputs, "setting", lambda *_: partitions)  # as Databricks has them
    monkeypatch.setattr(inputs.F, "xxhash64", lambda _: inputs.F.expr(hashes))
    ids = spark.range(50).selectExpr("if(id = 7, null, cast(id as string)) as id")
    inputs.refuse_repeated(ids.union(ids.where("id is null")), "id", "raw")
    with pytest.raises(DataError, match=r"2 ids occur more than once, e\.g\. '12' 2 times"):
        inputs.refuse_repeated(ids.union(ids.where("id in (12, 30)")), "id", "raw")


def test_what_cannot_be_stored_is_told_before_the_first_pass(spark, data, tmp_path):  # noqa: F811
    place = str(tmp_path / "raw")
    good = spark.read.parquet(str(data / "good.parquet"))
    good.selectExpr("*", "interval 1 day as i").write.parquet(place)
    with pytest.raises(ColumnError, match="column i is of type interval day, which Delta does not"):
        run(spark, options(data, tmp_path / "out", raw=place))
    assert not (tmp_path / "out").exists()


def test_no_text_leaves_raw_by_the_report(spark, data, tmp_path):  # noqa: F811
    """Nor an n-gram, with --no-examples: in the page, its JSON, the table, the record."""
    output = str(tmp_path / "out")
    wanted = options(data, output, report=True, examples=False, keep=["topic"])
    without = run(spark, wanted)["facts"]
    again = job.report_again(spark, output)  # neither, unless it is asked for
    assert again.to_dict() == without.to_dict() and again.weights.composition
    reports = ((True, job.report_again(spark, output, examples=3)), (False, again))
    for examples, facts in reports:
        page = job.write_report(spark, facts, output)
        shown = [Path(page).read_text("utf-8"), Path(page).with_suffix(".json").read_text("utf-8")]
        row = delta(spark, f"{output}/report").orderBy("written_at").collect()[-1]
        record = delta(spark, f"{output}/runs").collect()
        commits = spark.sql(f"DESCRIBE HISTORY delta.`{output}/selected`").collect()
        shown.append(row["facts"])
        words = ("boil", "harbour", "hoist")
        assert all(any(word in text for word in words) == examples for text in shown)
        assert not any(word in str((record, commits)) for word in words)
