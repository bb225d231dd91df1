"""The job over Delta tables, as the command line runs it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsir_spark import DSIR, DSIRModel, cli, job, report, tables
from dsir_spark.config import JobConfig
from dsir_spark.errors import ColumnError, ConfigError, DataError, TableError

pytestmark = pytest.mark.spark

COOKING = "boil the water add salt and stir the soup until it is thick then serve it hot".split()
SAILING = "hoist the sail and steer the boat against the wind until the harbour is near".split()


def text(words, rng, length=30):
    return " ".join(rng.choice(words) for _ in range(length))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Raw with two topics, bad rows among them; a target of each topic."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(7)
    rows = [{"id": f"c{i}", "text": text(COOKING, rng), "topic": "cooking"} for i in range(200)] + [
        {"id": f"s{i}", "text": text(SAILING, rng), "topic": "sailing"} for i in range(300)
    ]
    rows += [
        {"id": "null", "text": None, "topic": "bad"},
        {"id": "blank", "text": " \n\u2003", "topic": "bad"},
        {"id": "short", "text": "salt", "topic": "bad"},
        {"id": None, "text": text(COOKING, rng), "topic": "bad"},
    ]
    rng.shuffle(rows)
    (folder / "raw").mkdir()
    for part in range(3):
        pq.write_table(pa.Table.from_pylist(rows[part::3]), folder / "raw" / f"{part}.parquet")
    for name, words in (("cooking", COOKING), ("sailing", SAILING)):
        sample = [{"text": text(words, rng)} for _ in range(20)]
        pq.write_table(pa.Table.from_pylist(sample), folder / f"{name}.parquet")
    return folder


def options(data, output, **more):
    return {
        "raw": str(data / "raw"),
        "target": str(data / "cooking.parquet"),
        "output": str(output),
        "num_to_sample": 50,
        "seed": 3,
        "min_example_length": 10,
        **more,
    }


def run(spark, chosen):
    return job.run_all(spark, JobConfig.from_mapping(chosen))


@pytest.fixture(scope="module")
def done(spark, data, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "tables"
    facts = run(spark, options(data, output, keep=["topic"]))
    return output, facts


def delta(spark, place):
    return spark.read.format("delta").load(str(place))


def test_run_writes_four_tables_of_one_commit_each(spark, done):
    output, facts = done
    selected = delta(spark, output / "selected")
    assert selected.columns == ["id", "text", "topic", "log_weight", "num_tokens"]
    assert selected.count() == 50
    weights = delta(spark, output / "weights")
    assert weights.columns == ["id", "log_weight", "num_tokens", "text_hash", "topic"]
    assert weights.count() == 504
    for name in ("model", "weights", "selected", "runs"):
        history = spark.sql(f"DESCRIBE HISTORY delta.`{output}/{name}`").collect()
        assert len(history) == 1
        assert json.loads(history[0]["userMetadata"]) == {"dsir_spark_run": facts["run_id"]}
    assert delta(spark, output / "runs").count() == 1


def test_funnel_adds_up_and_bad_rows_are_counted(done):
    funnel = {stage: n for stage, n in done[1]["funnel"].items() if n}
    assert funnel == {
        "read": 504,
        "null_id": 1,
        "null_text": 1,
        "blank": 1,
        "too_short": 1,
        "candidates": 500,
        "selected": 50,
    }


def test_selection_follows_the_target(spark, done):
    output, facts = done
    topics = {r["topic"] for r in delta(spark, output / "selected").collect()}
    assert topics == {"cooking"}
    kl, random_kl = facts["kl_reduction"]["target"], facts["kl_reduction_random"]["target"]
    assert kl > 0.1 > random_kl


def test_report_shows_funnel_composition_and_examples(spark, done):
    shown = report.report(spark, str(done[0]), ["topic"], examples=2)
    for part in ("candidates", "KL reduction", "cooking", "below the cut", "middle", "top"):
        assert part in shown
    with pytest.raises(ColumnError, match="columns are id, text, topic"):
        report.report(spark, str(done[0]), ["nope"])


def test_resample_again_reads_the_weights_and_refuses_what_is_not_theirs(spark, data, tmp_path):
    output = tmp_path / "out"
    first = run(spark, options(data, output))
    again = job.resample_again(
        spark,
        JobConfig.from_mapping(
            {"output": str(output), "num_to_sample": 80, "seed": 4, "min_example_length": 10}
        ),
    )
    assert again["funnel"]["selected"] == 80
    assert (again["weights_version"], again["model_version"]) == (0, 0)
    assert set(again["seconds"]) == {"cut", "select", "evaluate"}
    assert again["model_fingerprint"] == first["model_fingerprint"]

    other = {"output": str(output), "num_to_sample": 5}
    with pytest.raises(TableError, match="ngrams is 2 in the model and 3 here"):
        job.resample_again(spark, JobConfig.from_mapping({**other, "ngrams": 3}))
    foreign = str(data / "cooking.parquet")
    with pytest.raises(TableError, match="do not belong to this raw table: bytes was"):
        job.resample_again(spark, JobConfig.from_mapping({**other, "raw": foreign}))
    with pytest.raises(TableError, match="--overwrite"):
        run(spark, options(data, output))


def test_a_cut_that_fails_leaves_weights_to_go_on_from(spark, data, tmp_path):
    quotas = {"quota_column": "topic", "quotas": {"misspelt": 0.5}}
    with pytest.raises(DataError, match=r"'misspelt' in topic.*`resample` goes on from them"):
        run(spark, options(data, tmp_path / "out", **quotas))
    assert not (tmp_path / "out" / "selected").exists()
    rest = {"output": str(tmp_path / "out"), "num_to_sample": 50, "seed": 3}
    again = job.resample_again(
        spark, JobConfig.from_mapping({**rest, "min_example_length": 10, **quotas, "quotas": "raw"})
    )
    assert again["funnel"]["selected"] == 50 and again["weights_version"] == 0
    assert spark.read.format("delta").load(str(tmp_path / "out" / "runs")).count() == 2


def test_separate_targets_share_the_documents(spark, data, tmp_path):
    targets = {"cooking": str(data / "cooking.parquet"), "sailing": str(data / "sailing.parquet")}
    chosen = options(
        data, tmp_path / "out", target=targets, proportions={"cooking": 1, "sailing": 3}
    )
    facts = run(spark, chosen)
    assert facts["selected_by_target"] == {"cooking": 13, "sailing": 37}
    selected = delta(spark, tmp_path / "out" / "selected")
    assert selected.columns[-4:] == [
        "log_weight_cooking",
        "log_weight_sailing",
        "num_tokens",
        "target",
    ]
    assert selected.select("id").distinct().count() == 50
    assert selected.where("target != topic").count() == 0


def test_more_than_there_is_selects_all_with_a_warning(spark, data, tmp_path):
    with pytest.warns(UserWarning, match="only 500 documents are candidates"):
        facts = run(spark, options(data, tmp_path / "out", num_to_sample=10_000))
    assert facts["shortfall"] == 9_500
    assert facts["funnel"]["selected"] == 500
    facts = run(spark, options(data, tmp_path / "none", num_to_sample=0))
    assert facts["funnel"]["selected"] == 0
    assert facts["kl_reduction"]["target"] is None


def test_ids_are_made_from_texts_and_copies_enter_once(spark, tmp_path):
    rng = random.Random(1)
    texts = [text(COOKING, rng) for _ in range(40)]
    rows = [{"text": t, "n": i} for i, t in enumerate(texts + texts[:15])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "raw.parquet")
    pq.write_table(pa.Table.from_pylist([{"text": "salt the soup"}]), tmp_path / "t.parquet")
    facts = run(
        spark,
        {
            "raw": str(tmp_path / "raw.parquet"),
            "target": str(tmp_path / "t.parquet"),
            "output": str(tmp_path / "out"),
            "num_to_sample": 40,
            "min_example_length": 1,
        },
    )
    assert facts["funnel"]["duplicate_text"] == 15
    selected = delta(spark, tmp_path / "out" / "selected")
    assert selected.count() == 40
    assert selected.select("text").distinct().count() == 40
    assert selected.columns[0] == "content_id"


def write_lines(path, lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_json_lines_csv_and_text_inputs(spark, tmp_path):
    words = " ".join(COOKING)
    lines = [json.dumps({"id": i, "text": f"{words} {i}"}) for i in range(30)]
    raw = write_lines(tmp_path / "raw.jsonl", [*lines[:10], "{broken", *lines[10:]])
    target = write_lines(tmp_path / "target.txt", [words, "salt the soup"])
    common = {"num_to_sample": 7, "min_example_length": 5}
    facts = run(spark, {"raw": raw, "target": target, "output": str(tmp_path / "a"), **common})
    assert facts["funnel"]["candidates"] == 30
    assert facts["funnel"]["read"] == 31
    csv = write_lines(tmp_path / "raw.csv", ["id,text", *[f'{i},"{words}, {i}"' for i in range(9)]])
    facts = run(spark, {"raw": csv, "target": target, "output": str(tmp_path / "b"), **common})
    assert facts["funnel"]["selected"] == 7


def test_delta_input_is_read_at_its_version(spark, data, tmp_path):
    raw = spark.read.parquet(str(data / "raw"))
    raw.write.format("delta").save(str(tmp_path / "raw"))
    facts = run(spark, options(data, tmp_path / "out", raw=str(tmp_path / "raw")))
    assert json.loads(facts["raw"])["delta_version"] == 0
    raw.limit(3).write.format("delta").mode("append").save(str(tmp_path / "raw"))
    with pytest.raises(TableError, match="delta_version was 0 and is 1"):
        job.resample_again(
            spark, JobConfig.from_mapping({"output": str(tmp_path / "out"), "num_to_sample": 5})
        )


def test_tables_by_name(spark, data, tmp_path):
    spark.sql(f"CREATE SCHEMA dsir_out LOCATION '{tmp_path}/schema'")
    facts = run(spark, options(data, "spark_catalog.dsir_out"))
    assert spark.table("dsir_out.selected").count() == 50
    assert facts["selected_version"] == 0
    assert report.report(spark, "spark_catalog.dsir_out", ["topic"], 1)
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
        assert sorted(tables.read(spark, place).collect()) == sorted(frame.collect())
    tables.write(hard, str(tmp_path / "new"))
    assert tables.delta_version(spark, str(tmp_path / "new")) == 0
    assert tables.read(spark, place, version=0).columns == ["id"]


def mistakes(data, folder):
    write_lines(folder / "empty.jsonl", ['{"id": "a", "text": null}'])
    write_lines(folder / "blank.jsonl", ['{"text": "  "}'])
    write_lines(folder / "alien.jsonl", ['{"text": "\\uc11c\\uc6b8"}'])
    write_lines(folder / "twice.jsonl", ['{"id": "a", "text": "salt"}'] * 2)
    write_lines(folder / "number.jsonl", ['{"id": "a", "text": 5}'])
    pq.write_table(
        pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())}),
        folder / "none.parquet",
    )
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
        ({"raw": "no.such_table"}, TableError, "cannot read no.such_table"),
        ({"text_column": "body"}, ColumnError, "columns are id, text, topic"),
        ({"id_column": "key"}, ColumnError, "columns are id, text, topic"),
        ({"keep": ["nope"]}, ColumnError, "keep 'nope' is not a column"),
        ({"raw": folder / "number.jsonl"}, ColumnError, "must be of type string; it is bigint"),
        ({"raw": folder / "none.parquet"}, DataError, "raw is empty"),
        ({"raw": folder / "blank.jsonl"}, DataError, "raw has no tokens"),
        ({"target": folder / "blank.jsonl"}, DataError, "target has no tokens"),
        ({"target": folder / "alien.jsonl"}, DataError, "shares no bucket with raw"),
        ({"raw": folder / "twice.jsonl"}, DataError, "'a' 2 times"),
    ]


def test_mistakes_are_one_line_and_write_nothing(spark, data, tmp_path):
    for change, kind, said in mistakes(data, tmp_path):
        chosen = options(data, tmp_path / "out")
        chosen |= {k: str(v) if isinstance(v, Path) else v for k, v in change.items()}
        with pytest.raises(kind, match=said) as caught:
            run(spark, chosen)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


def test_all_problems_of_a_config_are_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        JobConfig.from_mapping(
            {"ngrams": 0, "num_buckets": -1, "metod": "x", "seed": "y", "num_to_sample": -5}
        )
    for name in ("ngrams", "num_buckets", "metod", "seed", "num_to_sample"):
        assert name in str(caught.value)


def test_model_is_saved_and_loaded_whole(spark, data, tmp_path):
    raw, target = (spark.read.parquet(str(data / n)) for n in ("raw", "cooking.parquet"))
    model = DSIR(num_buckets=500, ngrams=3, hash="sha256").fit(raw, target)
    model.save(str(tmp_path / "model"), spark=spark)
    loaded = DSIRModel.load(str(tmp_path / "model"), spark=spark)
    assert loaded.fingerprint == model.fingerprint
    assert (loaded.tables() == model.tables()).all()
    with pytest.raises(TableError, match="cannot write"):
        model.save(str(tmp_path / "model"), spark=spark)


def test_cli_exit_codes(spark, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli.session, "build_session", lambda **_: spark)
    config = write_lines(tmp_path / "job.yaml", ["num_to_sample: 5", "min_example_length: 10"])
    flags = ["run", "--raw", str(data / "raw"), "--target", str(data / "cooking.parquet")]
    flags += ["--output", str(tmp_path / "out"), "--config", config, "--seed", "9"]
    cli.main(flags)
    assert "KL reduction" in capsys.readouterr().out
    cli.main(["report", "--output", str(tmp_path / "out"), "--composition", "topic"])
    assert "Composition by topic" in capsys.readouterr().out
    for wrong, said in (
        (flags, "already holds"),
        ([*flags, "--ngrams", "x"], "ngrams"),
        (["run", "--nope"], "No such option"),
        (["run"], "--raw is missing"),
        (["report", "--output", str(tmp_path / "nothing")], "there is no run"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(wrong)
        assert stopped.value.code == 2
        err = capsys.readouterr().err.strip()
        assert said in err.splitlines()[-1]
        assert "Traceback" not in err
