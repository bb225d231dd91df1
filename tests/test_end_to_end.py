"""The job over Delta tables, as the command line runs it."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from dsir_spark import DSIRModel, cli, history, job, preflight, tables
from dsir_spark.errors import ColumnError, ConfigError, DataError, TableError
from dsir_spark.job_options import JobOptions
from dsir_spark.report import text as printed
from dsir_spark.selection import Pool

pytestmark = pytest.mark.spark

COOKING = "boil the water add salt and stir the soup until it is thick then serve it hot".split()
SAILING = "hoist the sail and steer the boat against the wind until the harbour is near".split()


def text(words, rng, length=30):
    return " ".join(rng.choice(words) for _ in range(length))


def documents():
    """Two topics, and rows that can be no candidates."""
    rng = random.Random(7)
    rows = [{"id": f"c{i}", "text": text(COOKING, rng), "topic": "cooking"} for i in range(200)]
    rows += [{"id": f"s{i}", "text": text(SAILING, rng), "topic": "sailing"} for i in range(300)]
    rows += [
        {"id": "null", "text": None, "topic": "bad"},
        {"id": "blank", "text": " \n\u2003", "topic": "bad"},
        {"id": "short", "text": "salt", "topic": "bad"},
        {"id": None, "text": text(COOKING, rng), "topic": "bad"},
    ]
    rng.shuffle(rows)
    return rows


def write_lines(path, lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Raw, its good rows in every format, and a target of each topic."""
    folder = tmp_path_factory.mktemp("data")
    rows = documents()
    (folder / "parquet").mkdir()
    for part in range(3):
        pq.write_table(pa.Table.from_pylist(rows[part::3]), folder / "parquet" / f"{part}.parquet")
    good = [r for r in rows if r["id"] is not None and (r["text"] or "").strip()]
    pq.write_table(pa.Table.from_pylist(good), folder / "good.parquet")
    write_lines(folder / "good.jsonl", map(json.dumps, good))
    pa.csv.write_csv(pa.Table.from_pylist(good), folder / "good.csv")
    write_lines(folder / "good.txt", [r["text"] for r in good])
    for name, words in (("cooking", COOKING), ("sailing", SAILING)):
        rng = random.Random(name)
        sample = [{"text": text(words, rng)} for _ in range(20)]
        pq.write_table(pa.Table.from_pylist(sample), folder / f"{name}.parquet")
    return folder


def options(data, output, **more):
    return {
        "raw": str(data / "parquet"),
        "target": str(data / "cooking.parquet"),
        "output": str(output),
        "num_to_sample": 50,
        "method": "sample",
        "seed": 3,
        "min_example_length": 10,
        "report": False,
        **more,
    }


def run(spark, chosen, stage=job.run_all):
    return stage(spark, JobOptions.from_mapping(chosen))


def again(spark, output, **more):
    return run(spark, {"output": str(output), "report": False, **more}, job.resample_again)


def delta(spark, place):
    return spark.read.format("delta").load(str(place))


def weights_of(spark, output):
    rows = delta(spark, output / "weights").select("id", "log_weight", "num_tokens")
    return sorted(map(tuple, rows.collect()))


def texts_of(spark, output):
    return sorted(r["text"] for r in delta(spark, output / "selected").select("text").collect())


# Method, format of raw, and options that leave what is selected as it is.
MATRIX = [
    ("sample", "good.csv", {}),
    ("top_k", "good.txt", {}),
    ("match", "good.jsonl", {"match_steps": 4}),
    ("top_k", "delta", {}),
]


def matrix(spark, data, folder, cases):
    """The texts that each case selects, as JSON."""
    if not (data / "delta").exists():
        good = spark.read.parquet(str(data / "good.parquet"))
        good.write.format("delta").save(str(data / "delta"))
    found = []
    for i, (method, raw, own) in enumerate(cases):
        chosen = options(data, folder / str(i), raw=str(data / raw), method=method, **own)
        facts = run(spark, chosen)
        assert facts["funnel"]["candidates"] == 500 and facts["funnel"]["selected"] == 50
        found.append(texts_of(spark, folder / str(i)))
    return found


@pytest.fixture(scope="module")
def selected(spark, data, tmp_path_factory):
    """The folder of the outputs, and the texts of each."""
    folder = tmp_path_factory.mktemp("matrix")
    return folder, matrix(spark, data, folder, MATRIX)


def test_every_format_gives_the_same_weights_and_selection(spark, selected, done):
    """Top-k of texts without ids too: what they are ranked by is their text alone."""
    by_method = {"sample": texts_of(spark, done[0])}  # of raw in Parquet, among rows to leave out
    folder, of_texts = selected
    for (method, _, _), texts in zip(MATRIX, of_texts, strict=True):
        assert by_method.setdefault(method, texts) == texts
    assert len({tuple(t) for t in by_method.values()}) == 3
    with_ids = [i for i, (_, raw, _) in enumerate(MATRIX) if raw != "good.txt"]
    first, *others = (weights_of(spark, folder / str(i)) for i in with_ids)
    assert len(first) == 501 and others == [first, first]


@pytest.mark.slow
def test_the_same_under_spark_connect(data, selected, tmp_path):
    """In a process of its own: one process holds classic sessions or Connect sessions."""
    code = (
        "import sys, json, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "from test_end_to_end import MATRIX, matrix\n"
        "from dsir_spark.session import build_session\n"
        "spark = build_session(remote='local[2]')\n"
        "folders = map(pathlib.Path, sys.argv[2:])\n"
        "print('FOUND', json.dumps(matrix(spark, *folders, MATRIX[:3])))\n"
        "spark.stop()\n"
    )
    folders = [str(Path(__file__).parent), str(data), str(tmp_path)]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *folders],
                          capture_output=True, text=True, timeout=600)  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-3000:]
    assert json.loads(lines[0].removeprefix("FOUND ")) == selected[1][:3]


@pytest.fixture(scope="module")
def done(spark, data, tmp_path_factory):
    """A finished run: its output, which stays as it is, and its row."""
    output = tmp_path_factory.mktemp("out") / "tables"
    facts = run(spark, options(data, output, keep=["topic"]))
    return output, facts


@pytest.fixture
def finished(done, tmp_path):
    """A copy of its output, to go on from."""
    return Path(shutil.copytree(done[0], tmp_path / "out"))


def test_run_writes_four_tables_of_one_commit_each(spark, done):
    output, facts = done
    selected = delta(spark, output / "selected")
    assert selected.columns == ["id", "text", "topic", "log_weight", "num_tokens"]
    weights = delta(spark, output / "weights")
    assert weights.columns == ["id", "log_weight", "num_tokens", "text_hash", "topic"]
    assert (selected.count(), weights.count()) == (50, 504)
    states = [r["state"] for r in delta(spark, output / "runs").orderBy("state").collect()]
    assert states == ["finished", "started"]
    own = {r["id"]: (r["log_weight"], r["num_tokens"]) for r in weights.collect()}
    for row in selected.collect():
        assert (row["log_weight"], row["num_tokens"]) == own[row["id"]]
        assert row["topic"] == "cooking"
    for name in ("model", "weights", "selected", "runs"):
        history = spark.sql(f"DESCRIBE HISTORY delta.`{output}/{name}`").collect()
        assert len(history) == 1 + (name == "runs")
        log = (output / name / "_delta_log" / f"{0:020}.json").read_text("utf-8")
        # Of weights, which are always read whole, no bounds of columns.
        assert ("minValues" in log) == (name in ("selected", "runs", "model")), name
        assert json.loads(history[0]["userMetadata"])["dsir_spark_run"] == facts["run_id"]


def test_funnel_adds_up_and_bad_rows_are_counted(done):
    funnel = {stage: n for stage, n in done[1]["funnel"].items() if n}
    assert funnel == {
        "read": 504, "null_id": 1, "null_text": 1, "blank": 1, "too_short": 1,
        "candidates": 500, "selected": 50,
    }  # fmt: skip
    kl, random_kl = done[1]["kl_reduction"]["target"], done[1]["kl_reduction_random"]["target"]
    assert kl > 0.1 > random_kl


def test_report_shows_funnel_composition_and_examples(spark, done):
    shown = printed.full(job.report_again(spark, str(done[0]), ["topic"], examples=2))
    for part in ("candidates", "KL reduction", "cooking", "below the cut", "middle", "top"):
        assert part in shown
    with pytest.raises(ColumnError, match="columns are id, text, topic"):
        job.report_again(spark, str(done[0]), ["nope"])


def test_resample_again_reads_the_weights_and_refuses_what_is_not_theirs(
    spark, data, done, finished
):
    output, first = finished, done[1]
    facts = again(spark, output, num_to_sample=80, seed=4, min_example_length=10)
    assert facts["funnel"]["selected"] == 80
    assert (facts["weights_version"], facts["model_version"]) == (0, 0)
    assert set(facts["seconds"]) == {"cut", "select", "evaluate"}
    assert facts["model_fingerprint"] == first["model_fingerprint"]
    for change, said in [
        ({"ngrams": 3}, "ngrams is 1 in the model and 3 here"),
        ({"raw": str(data / "cooking.parquet")}, "do not belong to this raw table: bytes was"),
    ]:
        with pytest.raises(TableError, match=said):
            again(spark, output, num_to_sample=5, **change)
    with pytest.raises(TableError, match="--overwrite"):
        run(spark, options(data, output))


def test_a_cut_that_fails_leaves_weights_to_go_on_from(spark, data, tmp_path):
    quotas = {"quota_column": "topic", "quotas": {"misspelt": 0.5}}
    with pytest.raises(DataError, match=r"'misspelt' in topic.*`resample` goes on from them"):
        run(spark, options(data, tmp_path / "out", **quotas))
    assert not (tmp_path / "out" / "selected").exists()
    rest = {"num_to_sample": 50, "seed": 3, "min_example_length": 10}
    facts = again(spark, tmp_path / "out", **rest, quota_column="topic", quotas="raw")
    assert facts["funnel"]["selected"] == 50 and facts["weights_version"] == 0
    states = delta(spark, tmp_path / "out" / "runs").select("command", "state").collect()
    assert sorted(map(tuple, states)) == [
        ("resample", "finished"), ("resample", "started"), ("run", "started")
    ]  # fmt: skip


def test_separate_targets_share_the_documents(spark, data, tmp_path):
    targets = {name: str(data / f"{name}.parquet") for name in ("cooking", "sailing")}
    shares = {"cooking": 1, "sailing": 3}
    facts = run(spark, options(data, tmp_path / "out", target=targets, proportions=shares))
    assert facts["selected_by_target"] == {"cooking": 13, "sailing": 37}
    selected = delta(spark, tmp_path / "out" / "selected")
    added = ["log_weight_cooking", "log_weight_sailing", "num_tokens", "target"]
    assert selected.columns[-4:] == added
    assert selected.select("id").distinct().count() == 50
    assert selected.where("target != topic").count() == 0


def test_more_than_there_is_selects_all_with_a_warning(spark, finished):
    with pytest.warns(UserWarning, match="only 500 documents are candidates"):
        facts = again(spark, finished, num_to_sample=10_000, min_example_length=10)
    assert (facts["shortfall"], facts["funnel"]["selected"]) == (9_500, 500)
    facts = again(spark, finished, num_to_sample=0)
    assert facts["funnel"]["selected"] == 0
    assert facts["kl_reduction"]["target"] is None


def test_ids_are_made_from_texts_copies_enter_once_and_broken_lines_are_counted(
    spark, data, tmp_path
):
    rng = random.Random(1)
    texts = [text(COOKING, rng) for _ in range(40)]
    rows = [{"text": t, "n": i, "__copy": 7} for i, t in enumerate(texts + texts[:15])]
    lines = [*map(json.dumps, rows)]
    raw = write_lines(tmp_path / "raw.jsonl", [*lines[:10], "{broken", *lines[10:]])
    target = write_lines(tmp_path / "target.txt", [" ".join(COOKING), "salt the soup"])
    chosen = options(data, tmp_path / "out", raw=raw, target=target, num_to_sample=40)
    funnel = run(spark, chosen)["funnel"]
    assert (funnel["candidates"], funnel["unparsed"], funnel["read"]) == (40, 1, 56)
    assert funnel["duplicate_text"] == 15
    selected = delta(spark, tmp_path / "out" / "selected")
    assert selected.count() == 40 == selected.select("text").distinct().count()
    assert selected.columns[:4] == ["content_id", "__copy", "n", "text"]
    assert selected.where("__copy = 7").count() == 40


def test_tables_by_name(spark, data, tmp_path):
    spark.sql(f"CREATE SCHEMA dsir_out LOCATION '{tmp_path}/schema'")
    facts = run(spark, options(data, "spark_catalog.dsir_out"))
    assert spark.table("dsir_out.selected").count() == 50
    assert facts["selected_version"] == 0
    assert job.report_again(spark, "spark_catalog.dsir_out", ["topic"], 1)
    assert run(spark, options(data, "spark_catalog.dsir_out", overwrite=True), job.weigh)
    spark.sql("DROP SCHEMA dsir_out CASCADE")
    spark.sql(f"CREATE SCHEMA dsir_out LOCATION '{tmp_path}/theirs'")
    for kind in ("TABLE dsir_out.weights USING delta", "VIEW dsir_out.model"):
        spark.sql(f"CREATE {kind} AS SELECT 1 AS id")
        with pytest.raises(TableError, match="is a table that dsir-spark did not write"):
            run(spark, options(data, "spark_catalog.dsir_out", overwrite=True))
    spark.sql("DROP SCHEMA dsir_out CASCADE")


def test_names_that_delta_must_map_are_written(spark, tmp_path):
    """Blanks and brackets, nested too, in a new table and over one without."""
    plain = spark.range(3)
    hard = plain.selectExpr("id", "array(named_struct('x (y)', id)) as `a, b`")
    place = str(tmp_path / "t")
    tables.write(plain, place)
    assert "columnMapping" not in str(spark.sql(f"SHOW TBLPROPERTIES delta.`{place}`").collect())
    for frame in (hard, plain, hard):
        tables.write(frame, place, overwrite=True)
        assert sorted(tables.read(spark, place, "delta").collect()) == sorted(frame.collect())
    tables.write(hard, str(tmp_path / "new"))
    assert tables.delta_version(spark, str(tmp_path / "new")) == tables.Version(0, 0)
    assert tables.read(spark, place, "delta", version=0).columns == ["id"]


def mistakes(folder):
    write_lines(folder / "blank.jsonl", ['{"text": "  "}'])
    (folder / "of_0_bytes.jsonl").touch()
    write_lines(folder / "alien.jsonl", ['{"text": "\\uc11c\\uc6b8"}'])
    write_lines(folder / "twice.jsonl", ['{"id": "a", "text": "salt"}'] * 2)
    write_lines(folder / "number.jsonl", ['{"id": "a", "text": 5}'])
    none = pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    pq.write_table(none, folder / "none.parquet")
    taken = ["digits", "match_key", "target", "num_selected_chunks", "text_hash"]
    pq.write_table(pa.table({c: ["a"] for c in ["id", "text", *taken]}), folder / "taken.parquet")
    raw, targets = {"raw": folder / "taken.parquet"}, dict.fromkeys("ab", f"{folder}/taken.parquet")
    sized = {"num_to_sample": None, "num_tokens_to_sample": 9, "size_column": "topic"}
    grouped = {"group_column": "text_hash", "max_per_group": 1, "duplicates": "keep"}
    return [
        ({**raw, "quality": "paper"}, ColumnError, "already has a column digits"),
        ({**raw, "method": "match"}, ColumnError, "already has a column match_key"),
        ({**raw, "target": targets}, ColumnError, "already has a column target"),
        ({**raw, "chunk_words": 9, "whole_documents": 0.5}, ColumnError, "num_selected_chunks"),
        ({**raw, "keep": ["text_hash"]}, ColumnError, "already has a column text_hash"),
        ({**raw, **grouped}, ColumnError, "already has a column text_hash"),
        (sized, ColumnError, "must be numeric; it is string"),
        ({"raw": "/no/such/place"}, TableError, "there is nothing at /no/such/place"),
        ({"target": folder / "of_0_bytes.jsonl"}, TableError, "holds no files, or empty ones only"),
        ({"raw": "no.such_table"}, TableError, "cannot read no.such_table"),
        ({"text_column": "body"}, ColumnError, "columns are id, text, topic"),
        ({"id_column": "key"}, ColumnError, "columns are id, text, topic"),
        ({"keep": ["nope"]}, ColumnError, "keep 'nope' is not a column"),
        ({"quota_column": "nope", "quotas": "raw"}, ColumnError, "quota_column 'nope'"),
        ({"where": "no_such > 1"}, ColumnError, "where 'no_such > 1' does not hold"),
        ({"where": "a >"}, ColumnError, "does not hold for raw"),
        ({"raw": folder / "number.jsonl"}, ColumnError, "must be of type string; it is bigint"),
        ({"raw": folder / "none.parquet"}, DataError, "raw is empty"),
        ({"raw": folder / "blank.jsonl"}, DataError, "raw has no tokens"),
        ({"target": folder / "blank.jsonl"}, DataError, "target has no tokens"),
        ({"target": folder / "alien.jsonl"}, DataError, "shares no bucket with raw"),
        ({"raw": folder / "twice.jsonl"}, DataError, "'a' 2 times"),
        ({"num_to_sample": None}, ConfigError, "--num-to-sample is missing"),
    ]


def test_mistakes_are_one_line_and_write_nothing(spark, data, tmp_path):
    for change, kind, said in mistakes(tmp_path):
        chosen = options(data, tmp_path / "out")
        chosen |= {k: str(v) if isinstance(v, Path) else v for k, v in change.items()}
        with pytest.raises(kind, match=said) as caught:
            run(spark, chosen)
        assert "\n" not in str(caught.value)
        written = {path.name for path in tmp_path.glob("out/*")}
        assert written <= {"runs"}  # that it began


def test_without_options_a_selection_is_matched(spark, data, tmp_path):
    """`resample` goes by what the weights were made for."""
    chosen = options(data, tmp_path / "out")
    del chosen["method"]
    row = run(spark, chosen)
    config = json.loads(row["config"])
    assert [config[n] for n in ("method", "ngrams", "num_buckets")] == ["match", 1, 30_000]
    topics = delta(spark, tmp_path / "out" / "selected").groupBy("topic").count().collect()
    assert [tuple(r) for r in topics] == [("cooking", 50)]
    row = again(spark, tmp_path / "out", num_to_sample=20, min_example_length=10)
    assert json.loads(row["config"])["method"] == "match" and row["funnel"]["selected"] == 20
    with pytest.raises(ConfigError, match="temperature is for method sample"):
        again(spark, tmp_path / "out", num_to_sample=20, temperature=2)


def test_a_tenth_of_a_large_target_is_held_out(spark, data, done, tmp_path):
    """And the report says how well it is predicted after the selection."""
    rng, target, out = random.Random(3), tmp_path / "target.parquet", tmp_path / "out"
    texts = [f"{text(COOKING, rng)} dish {i}" for i in range(1_000)]
    pq.write_table(pa.table({"text": texts}), target)
    chosen = options(data, out, target=str(target), report=True)
    row = run(spark, chosen)
    kept = spark.read.parquet(str(target)).where(
        f"pmod(xxhash64('held out', text), {1 << 20}) >= {round(0.1 * (1 << 20))}"
    )
    fitted = DSIRModel.load(f"{out}/model").targets["target"].num_documents
    assert row["held_out"] == '{"target": 0.1}' and fitted == kept.count() < 950
    [found] = row["facts"].selection.targets
    assert found.held_out.selected < found.held_out.random
    assert found.held_out.read_known >= found.held_out.read > 0
    assert "Held-out text (bits a byte" in printed.summary(row["facts"])
    [again] = job.report_again(spark, str(out)).selection.targets
    assert again.held_out == found.held_out
    fit = {name: chosen[name] for name in ("raw", "target")} | {"output": str(tmp_path / "all")}
    run(spark, {**fit, "held_out": 0}, job.fit)
    assert DSIRModel.load(f"{tmp_path}/all/model").targets["target"].num_documents == 1_000
    assert done[1]["facts"].selection.targets[0].held_out is None  # a small one


def test_every_budget_and_filter_of_a_run(spark, data, tmp_path):
    """A budget of tokens, where, temperature, means, quotas and groups at once; then again."""
    chosen = options(
        data, tmp_path / "out", num_to_sample=None, num_tokens_to_sample=1500,
        where="topic != 'bad'", temperature="auto", normalize="ngram", quota_column="topic",
        quotas={"sailing": {"min": 0.1, "max": 0.25}}, group_column="topic", max_per_group=90,
        rejected=6,
    )  # fmt: skip
    facts = run(spark, chosen)
    selected = delta(spark, tmp_path / "out" / "selected").collect()
    tokens = {t: sum(r["num_tokens"] for r in selected if r["topic"] == t)
              for t in ("cooking", "sailing")}  # fmt: skip
    assert 0 <= 1500 - sum(tokens.values()) == facts["shortfall"]
    assert 120 <= tokens["sailing"] <= 375
    funnel = facts["funnel"]
    assert funnel["filtered"] == 4 and funnel["over_max_per_group"] == 320
    losses = sum(n for k, n in funnel.items() if k not in ("read", "candidates", "selected"))
    assert funnel["read"] == 504 == losses + funnel["candidates"]
    assert funnel["selected"] == len(selected) and facts["temperature"]["target"] >= 0.01
    said = printed.summary(facts["facts"])
    assert "left out by where" in said and "over max_per_group" in said
    left = delta(spark, tmp_path / "out" / "rejected").collect()
    assert not {r["id"] for r in left} & {r["id"] for r in selected}
    stages = [r["stage"] for r in left]
    found = {stage: stages.count(stage) for stage in stages}
    assert found == {"filtered": 4, "over_max_per_group": 6, "below_cut": 6}
    by = {r["id"]: r["log_weight"] / r["num_tokens"]
          for r in delta(spark, tmp_path / "out" / "weights").collect()}  # fmt: skip
    assert all(r["number"] == by[r["id"]] for r in left if r["stage"] == "below_cut")
    rest = {"num_to_sample": 7, "min_example_length": 5}
    funnel = again(spark, tmp_path / "out", **rest)["funnel"]  # `where` belongs to the record
    assert (funnel["filtered"], funnel["selected"]) == (4, 7)
    with pytest.raises(TableError, match="were made where topic != 'bad', not where topic ="):
        again(spark, tmp_path / "out", **rest, where="topic = 'cooking'")


def test_chunks_quality_and_whole_documents_of_a_run(spark, data, tmp_path):
    quality = {"min_tokens": 4, "max_informative": 1.1, "max_repeated": 0.9}
    run(spark, options(data, tmp_path / "out", num_to_sample=90, chunk_words=12, quality=quality,
                       whole_documents=0.3, duplicates="keep", rejected=2))  # fmt: skip
    selected = delta(spark, tmp_path / "out" / "selected")
    assert selected.count() == 90 and "chunk_start" in selected.columns
    assert not set(selected.columns) & {"most_frequent", "text_hash"}
    left = delta(spark, tmp_path / "out" / "rejected")
    assert left.where("stage = 'below_cut' and chunk_id like '%#%'").count() == 2
    short = left.where("stage = 'too_short'").collect()
    assert [(r["number"], r["reason"]) for r in short] == [(6.0, "too short")] * 2
    assert "text_hash" not in left.columns
    whole = delta(spark, tmp_path / "out" / "documents")
    assert whole.where("num_selected_chunks < 0.3 * num_chunks").count() == 0 < whole.count()
    with pytest.raises(TableError, match="chunk_words is 12 in the model and 5 here"):
        again(spark, tmp_path / "out", num_to_sample=7, chunk_words=5)


def test_stages_one_by_one_give_what_run_gives(
    spark, data, done, tmp_path, monkeypatch, capsys
):  # fmt: skip
    """By the command: each tells its tables and is on record; `weigh` keeps what `resample` will
    need."""
    monkeypatch.setattr(cli.session, "build_session", lambda **_: spark)
    whole, output, told = done[1], tmp_path / "stages", []
    inputs = [f"--raw={data / 'parquet'}", f"--target={data / 'cooking.parquet'}"]
    budget = ["--num-to-sample=50", "--seed=3", "--min-example-length=10", "--no-report"]
    kept = ["--keep=topic", "--quality=paper"]
    for command, flags in (("fit", inputs), ("weigh", kept), ("resample", budget)):
        cli.main([command, "--output", str(output), *flags])
        told += [capsys.readouterr().out.splitlines()[-1].removeprefix("tables: ").split(", ")]
    names = [{Path(place).name for place in places} for places in told]
    assert names == [{"model", "runs"}, {"weights", "runs"}, {"weights", "selected", "runs"}]
    assert {*told[0], *told[2]} == {str(place) for place in output.iterdir()}
    cli.main(["runs", "--output", str(output)])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[4] for line in shown] == ["resample", "weigh", "fit"]
    assert all("ended after" in line for line in shown)
    facts = history.last(spark, str(output), n=1)[0]
    assert {"topic", "most_frequent"} <= {*delta(spark, output / "weights").columns}
    assert facts["model_fingerprint"] == whole["model_fingerprint"]
    assert texts_of(spark, output) == texts_of(spark, done[0])
    assert facts["kl_reduction"] == whole["kl_reduction"]
    assert json.loads(facts["config"])["method"] == "sample"  # which `weigh` made weights for
    # A model weighs another raw as well.
    rest = {"output": str(output), "report": False}
    other = {**rest, "raw": str(data / "cooking.parquet"), "overwrite": True, "id_column": "text"}
    with pytest.raises(TableError, match="id_column is 'id' in the model"):
        run(spark, other, job.weigh)
    other = {**rest, "raw": str(data / "good.parquet"), "overwrite": True}
    run(spark, other, job.weigh)
    assert delta(spark, tmp_path / "stages" / "weights").count() == 501


def test_columns_are_kept_once_whatever_their_case(spark):
    given = {"keep": ["ID", "Source"], "quota_column": "SOURCE", "quotas": "raw"}
    own = JobOptions.from_mapping(given)
    rows = spark.range(1).selectExpr("id", "id as source")
    assert preflight.kept_columns(rows, own, "id", "more") == ("id", "source", "more")
    Pool("id", {}, noise="none").check(rows, own.model_copy(update={"duplicates": "keep"}))
