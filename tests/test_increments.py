"""Raw that grew: what came is added to weights and model, to the bits of a whole pass."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pyspark
import pytest
from test_end_to_end import COOKING, again, delta, documents, run, text, write_lines

from dsir_spark import DSIRModel, job, matchings, preflight, recorded, tables
from dsir_spark.errors import ConfigError, DataError, TableError
from dsir_spark.inputs import open_input
from dsir_spark.job_options import JobOptions

pytestmark = pytest.mark.spark
BUDGET = {"num_to_sample": 20, "min_example_length": 5}
FEED = {"delta.enableChangeDataFeed": "true"}


class Grown:
    """Raw in a format, which rows are added to, and an output."""

    def __init__(self, spark, folder, kind="delta", fit=None, **properties):
        self.spark, self.kind, self.raw, self.out = spark, kind, folder / "raw", folder / "out"
        self.rows, self.added = documents(), 0
        self.properties, self.fit, self.target = properties, fit or {}, folder / "target.parquet"
        if kind != "delta":
            self.raw.mkdir()
        sample = [text(COOKING, random.Random(i)) for i in range(20)]
        pq.write_table(pa.table({"text": sample}), self.target)

    def add(self, n):
        """The next n rows, in a file or a commit of their own."""
        rows, name = self.rows[self.added : self.added + n], f"{self.added}.{self.kind}"
        self.added += n
        if self.kind == "delta":
            frame = self.spark.createDataFrame(rows, "id string, text string, topic string")
            if self.added > 410:  # a column more than the rows before
                frame = frame.selectExpr("*", "'en' as lang")
            writer = frame.write.format("delta").mode("append").option("mergeSchema", True)
            writer.options(**self.properties).save(str(self.raw))
        elif self.kind == "parquet":
            own = {} if pyspark.__version__.startswith("3") else {"_metadata": "of the user's"}
            named = [{**row, **own} for row in rows]
            pq.write_table(pa.Table.from_pylist(named), self.raw / name)
        elif self.kind == "csv":  # columns in another order in each file
            order = ["id", "text", "topic"] if n % 2 else ["topic", "id", "text"]
            pyarrow.csv.write_csv(pa.Table.from_pylist(rows).select(order), self.raw / name)
        else:
            write_lines(self.raw / name, map(json.dumps, rows))

    def sql(self, statement):
        self.spark.sql(statement.format(raw=f"delta.`{self.raw}`")).collect()

    def stage(self, stage, output=None, **more):
        raw = f"delta.`{self.raw}`" if self.kind == "delta" else str(self.raw)
        chosen = {"raw": raw, "output": str(output or self.out)}
        return run(self.spark, {**chosen, "target": str(self.target), **self.fit, **more}, stage)

    def weigh(self, **more):
        return self.stage(job.weigh, incremental=True, **more)

    def begun(self, n, other=None, **own):
        """Itself, with weights of n rows by a model, fitted here or a copy of another's."""
        self.add(n)
        if other is None:
            self.stage(job.fit)
        else:
            for name in ("model", "runs"):
                shutil.copytree(other.out / name, self.out / name)
            self.target = other.target
        self.weigh(**own)  # there are none: all
        return self

    def whole(self, where=None, **own):
        """The rows of weights of all of raw, weighed at once."""
        raw = open_input(self.spark, str(self.raw), None, "raw", where).frame
        model = DSIRModel.load(str(self.out / "model"))
        weights = preflight.weighed(model, raw, JobOptions.from_mapping(own))
        return sorted(map(str, weights.collect()))


@pytest.fixture(scope="module")
def base(spark, tmp_path_factory):
    """300 rows, of which changes are kept, a model by default options, and weights with topics."""
    return Grown(spark, tmp_path_factory.mktemp("base"), **FEED).begun(300, keep=["topic"])


@pytest.fixture
def grown(base, tmp_path):
    """A copy of it to add to: to its records raw has always been there."""
    copied = copy.copy(base)
    copied.raw, copied.out = (shutil.copytree(p, tmp_path / p.name) for p in (base.raw, base.out))
    for log in copied.out.glob("*/_delta_log/*.json"):
        log.write_text(log.read_text("utf-8").replace(str(base.raw), str(copied.raw)), "utf-8")
    return copied


def rows_of(spark, output, name="weights"):
    return sorted(map(str, delta(spark, output / name).collect()))


def commits(output):
    """Rows of weights that each commit wrote, the newest first."""
    logs = sorted((output / "weights" / "_delta_log").glob("*.json"), reverse=True)
    told = [json.loads(log.read_text("utf-8").split("\n")[0])["commitInfo"] for log in logs]
    return [int(commit["operationMetrics"]["numOutputRows"]) for commit in told]


@pytest.mark.parametrize(
    ("kind", "fit", "own"),
    [
        ("delta", {}, {"keep": ["topic"]}),
        ("delta", {"chunk_words": 8}, {"quality": "paper", "where": "topic != 'sailing'"}),
        ("parquet", {"id_column": None}, {"duplicates": "keep"}),
        ("csv", {}, {}),
    ],
)
def test_what_came_is_added_and_the_weights_are_those_of_a_whole_pass(
    spark, tmp_path, base, request, kind, fit, own
):
    if "keep" in own:
        grown = request.getfixturevalue("grown")
    else:
        grown = Grown(spark, tmp_path, kind, fit).begun(300, None if fit else base, **own)
    sizes = [101, 103] if "keep" in own else [101]
    for n in sizes:
        grown.add(n)
        grown.weigh()
    before = commits(grown.out)
    assert "chunk_words" in fit or before == [*reversed(sizes), 300]
    if "keep" in own:
        grown.weigh()
        assert commits(grown.out) == before  # nothing was new
    assert rows_of(spark, grown.out) == grown.whole(**own)


@pytest.mark.parametrize("kind", ["delta", "parquet"])
def test_counts_that_came_make_the_model_of_a_fit_on_all(
    spark, tmp_path, monkeypatch, request, kind
):
    if kind == "delta":
        grown = request.getfixturevalue("grown")
        grown.add(104)
        grown.sql("UPDATE {raw} SET text = concat(text, ' salt') WHERE id LIKE 'c1%'")
        grown.sql("DELETE FROM {raw} WHERE id LIKE 's1%'")
    else:
        grown = Grown(spark, tmp_path, kind)
        grown.add(300)
        grown.stage(job.fit)
        grown.add(104)
    folder = tmp_path / "streams"
    added = grown.stage(job.fit, incremental=True, checkpoints=str(folder))
    assert folder.exists() == (kind == "delta")
    looks, look = [], job.Run
    with monkeypatch.context() as patch:
        patch.setattr(job, "Run", lambda *of: looks.append(of) or look(*of))
        whole = grown.stage(job.fit, tmp_path / "whole", incremental=True)  # there is none: all
    assert len(looks) == 1
    assert added["model_fingerprint"] == whole["model_fingerprint"]
    assert rows_of(spark, grown.out, "model") == rows_of(spark, tmp_path / "whole", "model")
    if kind == "delta":
        with pytest.raises(TableError, match="do not belong to the model beside them"):
            grown.weigh()
        return
    assert grown.stage(job.fit, incremental=True)["model_version"] == 1
    with pytest.raises(TableError, match=r"with held_out 'auto', not 0\.5: leave it out"):
        grown.stage(job.fit, incremental=True, held_out=0.5)
    pq.write_table(pa.table({"text": ["salt and soup"]}), grown.target)
    with pytest.raises(TableError, match=r"target target at .* changed since the fit"):
        grown.stage(job.fit, incremental=True)


def test_a_matched_selection_goes_on_by_the_steps_that_it_learnt(spark, grown, monkeypatch):
    first = again(spark, grown.out, method="match", **BUDGET)
    grown.add(100)
    grown.weigh()
    assert commits(grown.out) == [100, 300, 300]
    row = again(spark, grown.out, seed=1, **BUDGET)  # by what the weights are for
    assert row["match"] == first["match"] and row["match_version"] == first["match_version"]
    assert any("raw has grown since the steps" in note for note in row["notes"])
    assert row["funnel"]["read"] == 400 and row["funnel"]["selected"] == 20
    assert commits(grown.out) == [100, 300, 300]  # no text was read for it
    rows = {r["id"]: r for r in delta(spark, grown.out / "weights").collect()}
    before = tables.read(spark, str(grown.out / "weights"), version=1)
    old = {r["id"]: r for r in before.collect()}
    assert len(rows) == 400 and all(rows[of] == row for of, row in old.items())
    assert job.report_again(spark, str(grown.out), examples=0)

    # Learnt from all: another budget, or a column that the weights lack.
    budget = {**BUDGET, "method": "match", "num_to_sample": 30}
    other = again(spark, grown.out, **budget)
    assert other["match"] != first["match"] and commits(grown.out)[:2] == [400, 100]

    def learn(model, raw, options):
        raise Killed(raw.count())

    monkeypatch.setattr(matchings, "learn_matchings", learn)
    with pytest.raises(Killed, match="400"):
        again(spark, grown.out, **budget, keep=["topic"])


class Killed(RuntimeError):
    """Stands for the end of the process, in a batch."""


@contextlib.contextmanager
def appending(monkeypatch, instead):
    """Rows come to weights by `instead(append, ...)`."""
    append = tables.append

    def patched(frame, place, record, **more):
        if not place.endswith("/weights"):
            return append(frame, place, record, **more)
        return instead(lambda r=record: append(frame, place, r, **more))

    with monkeypatch.context() as patch:
        patch.setattr(tables, "append", patched)
        yield


def test_killed_and_met_by_others_rows_are_there_once(spark, grown, monkeypatch):
    def dying(after):
        def die(append):
            if after:
                append()
                append()  # a commit that is tried again is skipped
            raise Killed

        with appending(monkeypatch, die), pytest.raises(Exception, match="Killed"):
            grown.weigh()

    grown.add(50)
    dying(after=False)
    dying(after=True)
    grown.weigh()
    assert commits(grown.out) == [50, 300]
    grown.add(10)
    dying(after=False)
    grown.add(20)
    grown.sql("OPTIMIZE {raw}")
    spark.sql(f"OPTIMIZE delta.`{grown.out}/weights`").collect()

    def later(append):  # another's commit comes first
        append({tables.RUN_ID: "another"})
        append()

    with appending(monkeypatch, later), pytest.raises(TableError, match="another run wrote the we"):
        grown.weigh()
    spark.sql(f"RESTORE TABLE delta.`{grown.out}/weights` TO VERSION AS OF 1").collect()
    opened = recorded.open_raw

    def coming(*of, **more):
        found = opened(*of, **more)
        grown.add(5)
        return found

    with (
        monkeypatch.context() as patch,
        pytest.raises(DataError, match=r"rows came to .* run again"),
    ):
        patch.setattr(recorded, "open_raw", coming)
        grown.weigh()
    assert delta(spark, grown.out / "weights").count() == 350
    grown.weigh()
    assert rows_of(spark, grown.out) == grown.whole(keep=["topic"])


def test_rows_that_changed_are_followed_by_the_change_data_feed(spark, grown):
    own = {"keep": ["topic"], "where": "topic != 'bad'"}
    grown.stage(job.weigh, overwrite=True, **own)
    grown.add(100)
    grown.sql("UPDATE {raw} SET text = concat(text, ' and salt') WHERE id LIKE 'c1%'")
    grown.sql("UPDATE {raw} SET topic = 'bad' WHERE id = 'c11'")
    grown.sql("DELETE FROM {raw} WHERE id IN ('c12', 's3', 's4', 's5')")
    grown.sql("INSERT INTO {raw} VALUES ('s3', 'hoist the soup', 'sailing'), (NULL, 'a', 'none')")
    grown.sql("UPDATE {raw} SET text = concat(text, ' twice') WHERE id IN ('s3', 's243')")
    grown.weigh()
    assert rows_of(spark, grown.out) == grown.whole(**own)
    assert again(spark, grown.out, **BUDGET)["funnel"]["selected"] == 20
    before = commits(grown.out)
    grown.sql("INSERT INTO {raw} VALUES ('c69', 'a copy of an id', 'none')")
    grown.sql("DELETE FROM {raw} WHERE id = 'c69'")
    with pytest.raises(DataError, match=r"'id' of raw is not unique: 1 ids .* 'c69' 2 times"):
        grown.weigh()
    grown.sql("DELETE FROM {raw} WHERE id IS NULL")
    with pytest.raises(TableError, match=r"updated \(version \d+; rows without an id went"):
        grown.weigh()
    assert commits(grown.out) == before


def test_what_cannot_be_told_is_refused_in_a_line(grown, monkeypatch):
    grown.add(10)
    for more, error, said in [
        ({"raw": str(grown.target)}, TableError, "was made of .*raw, and raw is"),
        ({"keep": ["id"]}, TableError, r"was made with keep \('topic',\), not \('id',\)"),
        ({"where": "id = 'c1'"}, TableError, "were made where nothing is asked, not"),
        ({"decontaminate": str(grown.target)}, TableError, "with decontaminate not given"),
        ({"overwrite": True}, ConfigError, "incremental adds .* give one of them"),
    ]:
        with pytest.raises(error, match=said):
            grown.weigh(**more)
    grown.weigh()
    grown.sql("INSERT INTO {raw} VALUES ('c69', 'a copy of an id', 'none')")
    with pytest.raises(DataError, match=r"'id' of raw is not unique: 1 ids .* 'c69' 2 times"):
        grown.weigh()
    grown.sql("ALTER TABLE {raw} SET TBLPROPERTIES (delta.enableChangeDataFeed = false)")
    grown.sql("DELETE FROM {raw} WHERE id = 'c69'")
    for stage in (job.weigh, job.fit):
        with pytest.raises(
            TableError, match=r"deleted or updated \(version \d; .*DELTA_MISSING_CHA"
        ):
            grown.stage(stage, incremental=True)
    grown.sql("RESTORE TABLE {raw} TO VERSION AS OF 0")
    with pytest.raises(TableError, match="set back from version 1 to 0: run `weigh --overwrite`"):
        grown.weigh()
    model = DSIRModel.load(str(grown.out / "model"))
    config = model.config.model_copy(update={"num_tokens_to_fit": 1000})
    sampled = dataclasses.replace(model, config=config)
    monkeypatch.setattr(recorded.DSIRModel, "load", lambda *_, **__: sampled)
    with pytest.raises(TableError, match="was fitted on a sample of raw"):
        grown.stage(job.fit, num_tokens_to_fit=1000, incremental=True)


def test_raw_that_was_restored_before_is_followed_from_there(spark, grown):
    grown.add(50)
    grown.sql("RESTORE TABLE {raw} TO VERSION AS OF 0")
    assert grown.weigh()["weights_version"] == 0  # nothing is new
    grown.stage(job.weigh, overwrite=True, check_ids=False)
    grown.add(10)
    grown.weigh()
    # Which ids are twice among the first nobody has looked.
    made = tables.records(spark, str(grown.out / "weights"))
    looked = [json.loads(record["config"])["check_ids"] for _, record in made]
    assert looked[:2] == [False, False] and commits(grown.out) == [10, 300, 300]
    assert rows_of(spark, grown.out) == grown.whole()
    grown.sql("ALTER TABLE {raw} SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name')")
    grown.sql("ALTER TABLE {raw} RENAME COLUMN topic TO subject")
    grown.sql("INSERT INTO {raw} VALUES ('n1', 'salt and soup', 'none')")
    with pytest.raises(TableError, match=r"cannot be read \(\[DELTA_.*: give --overwrite ins"):
        grown.weigh()


def test_files_that_changed_are_refused(spark, tmp_path, base):
    grown = Grown(spark, tmp_path, "parquet").begun(300, base)
    grown.add(10)
    os.utime(grown.raw / "300.parquet", (1, 1))
    with pytest.raises(
        TableError, match=r"the oldest 1 file under .* not those on record: .*--over"
    ):
        grown.weigh()
    os.utime(grown.raw / "300.parquet")
    shutil.copy(grown.raw / "300.parquet", grown.raw / "0.parquet")
    with pytest.raises(TableError, match="files were changed, deleted, or came with an older time"):
        grown.weigh()


@pytest.mark.slow
def test_the_command_killed_wherever_it_is(spark, tmp_path):
    """Killed when the stream is there, when its batch is planned, when it is committed."""
    grown = Grown(spark, tmp_path).begun(300)
    grown.rows += [{"id": f"n{i}", "text": text(COOKING, random.Random(i)), "topic": "new"}
                   for i in range(20_000)]  # fmt: skip
    grown.add(len(grown.rows) - 300)
    weights = grown.out / "weights"
    command = [sys.executable, "-W", "ignore", "-m", "dsir_spark.cli", "weigh", "--incremental",
               "--output", str(grown.out)]  # fmt: skip
    for sign in ("_checkpoints/*/metadata", "_checkpoints/*/offsets/0", "_delta_log/*1.json"):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        while not list(weights.glob(sign)):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert commits(grown.out) == [20_204, 300]
    assert rows_of(spark, grown.out) == grown.whole()


def over_connect(spark, folder):
    """What came, then what changed, then an id that is there: rows of weights, and the refusal.

    And of a matched selection: what came and changed, weighed by its steps.
    """
    matched = Grown(spark, folder / "matched", **FEED).begun(300)
    again(spark, matched.out, method="match", **BUDGET)
    matched.add(100)
    matched.weigh()
    matched.sql("UPDATE {raw} SET text = concat(text, ' salt') WHERE id LIKE 'c1%'")
    matched.weigh()
    by_steps = rows_of(spark, matched.out)
    grown = Grown(spark, folder, **FEED).begun(300)
    grown.add(100)
    grown.weigh()
    grown.sql("DELETE FROM {raw} WHERE id LIKE 'c1%'")
    grown.weigh()
    fitted = grown.stage(job.fit, incremental=True)["model_fingerprint"]
    found = rows_of(spark, grown.out)
    grown.sql("INSERT INTO {raw} VALUES ('c69', 'a copy of an id', 'none')")
    grown.stage(job.weigh, overwrite=True, check_ids=False)
    grown.sql("INSERT INTO {raw} VALUES ('c69', 'a copy of an id', 'none')")
    with pytest.raises(DataError) as refused:
        grown.weigh()
    return found, fitted, str(refused.value), by_steps


@pytest.mark.slow
def test_the_same_over_connect(spark, tmp_path):
    code = (
        "import sys, json, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from test_increments import over_connect\n"
        "from dsir_spark.session import build_session\n"
        "spark = build_session(remote='local[2]')\n"
        "print('FOUND', json.dumps(over_connect(spark, pathlib.Path(sys.argv[2]))))\n"
        "spark.stop()\n"
    )
    for name in ("connect", "classic"):
        (tmp_path / name / "matched").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent),
         str(tmp_path / "connect")], capture_output=True, text=True, timeout=900)  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-3000:]
    found = json.loads(lines[0].removeprefix("FOUND "))
    assert found == list(over_connect(spark, tmp_path / "classic"))
