"""Chunks, smoothing, copies, quality, quotas, `where`: through the model and the command line."""

from __future__ import annotations

import json
import random

import numpy as np
import oracle
import pytest
from pyspark.sql import functions as F

from dsir_spark import DSIR, cli, features, ngram_counts, weights

pytestmark = pytest.mark.spark
SCHEMA = "id string, text string, source string"


def corpus():
    rng = random.Random(11)
    words = [[f"{kind}{i}" for i in range(30)] for kind in "xyz"]
    rows = []
    for i in range(120):
        text = " ".join(rng.choices(words[i % 3], k=rng.randrange(12, 60)))
        rows.append((f"d{i:03}", text, "xyz"[i % 3]))
    rows += [(f"e{i:03}", "  " + t.upper().replace(" ", "\n"), s)
             for i, (_, t, s) in enumerate(rows[:30])]  # fmt: skip
    rows += [("null", None, "x"), ("blank", " ", "y")]
    return rows, [(f"t{i}", " ".join(rng.choices(words[1], k=40)), "t") for i in range(3)]


def frames(spark):
    return [spark.createDataFrame(rows, SCHEMA).repartition(3) for rows in corpus()]


def test_dirichlet_smoothing_is_the_formula(spark):
    raw, target = frames(spark)
    model = DSIR(num_buckets=97, target_dirichlet_smoothing="auto").fit(raw, target)
    again = DSIR(num_buckets=97, target_dirichlet_smoothing=97).fit(raw, target)
    counts, of_raw = model.targets["target"].counts.tolist(), model.raw.counts.tolist()
    n, total = sum(counts), sum(of_raw)
    p = [(c + 97 * r / total) / (n + 97) for c, r in zip(counts, of_raw, strict=True)]
    expected = weights.log_ratio(np.array(p), weights.distribution(model.raw.counts))
    assert model.log_ratio["target"] == pytest.approx(expected, abs=1e-12)
    assert (model.log_ratio["target"] == again.log_ratio["target"]).all()
    plain = DSIR(num_buckets=97).fit(raw, target)
    assert plain.log_ratio["target"].min() < -5 < model.log_ratio["target"].min()
    assert plain.fingerprint != model.fingerprint


def test_chunks_are_weighed_and_selected(spark, tmp_path):
    raw, target = frames(spark)
    model = DSIR(num_buckets=97, chunk_words=8).fit(raw, target)
    texts = {r["id"]: r["text"] for r in raw.collect()}
    chunks = {}
    for i, text in texts.items():
        split = (text or "").split(" ")
        for at in range(0, len(split), 8):
            chunks[f"{i}#{at // 8}"] = None if text is None else " ".join(split[at : at + 8])
    expected = oracle.bucket_counts([t for t in chunks.values() if t], 2, 97)
    assert model.raw.counts.tolist() == expected
    options = {"num_to_sample": 40, "seed": 3, "min_example_length": 5}
    rows = model.resample(raw, **options).collect()
    assert len(rows) == 40
    for row in rows:
        assert row["text"] == chunks[row["chunk_id"]]
        assert row["chunk_id"] == f"{row['id']}#{row['chunk']}"
        assert texts[row["id"]][row["chunk_start"] : row["chunk_end"]] == row["text"]
    again = model.resample(raw.repartition(7), **options)
    assert {r["chunk_id"] for r in again.collect()} == {r["chunk_id"] for r in rows}
    whole = model.whole_documents(raw, again, 0.5).collect()
    numbers = {}
    for row in rows:
        numbers[row["id"]] = numbers.get(row["id"], 0) + 1
    wanted = {i: n for i, n in numbers.items()
              if n >= 0.5 * sum(c.startswith(f"{i}#") for c in chunks)}  # fmt: skip
    assert {r["id"]: r["num_selected_chunks"] for r in whole} == wanted
    assert all(r["text"] == texts[r["id"]] for r in whole)
    unnamed = DSIR(num_buckets=97, chunk_words=8, id_column=None).fit(raw, target)
    found = unnamed.resample(raw.drop("id"), **options).collect()
    assert len(found) == 40 and all("#" in r["chunk_id"] for r in found)
    matched = model.resample(raw, method="match", match_steps=3, **options)
    assert matched.count() == 40


def test_matched_selection_goes_with_all_the_others(spark):
    """Separate targets, quotas, chunks, copies and a budget of tokens, in any partitioning."""
    raw, target = frames(spark)
    targets = {"one": target.where("id < 't3'"), "two": raw.where("source = 'y' and id < 'd040'")}
    model = DSIR(num_buckets=97, chunk_words=8).fit(raw, targets)
    options = {
        "method": "match", "match_steps": 3, "num_tokens_to_sample": 400, "min_example_length": 4,
        "quota_column": "source", "quotas": {"x": {"max": 0.3}, "z": 0.2},
        "allocation": "sequential", "proportions": {"one": 1, "two": 3},
    }  # fmt: skip
    rows = model.resample(raw, **options).collect()
    again = model.resample(raw.repartition(5), **options).collect()
    assert sorted(r["chunk_id"] for r in rows) == sorted(r["chunk_id"] for r in again)
    for name, budget in (("one", 100), ("two", 300)):
        tokens = {s: sum(r["num_tokens"] for r in rows if (r["target"], r["source"]) == (name, s))
                  for s in "xyz"}  # fmt: skip
        assert 0 < sum(tokens.values()) <= budget and tokens["x"] <= 0.3 * budget
    folded = [" ".join(r["text"].lower().split()) for r in rows]
    assert len(set(folded)) == len(folded) > 20


def test_copies_of_a_text_but_for_case_and_blanks(spark):
    raw, target = frames(spark)
    model = DSIR(num_buckets=97).fit(raw, target)
    table = model.weigh(raw)
    options = {"num_to_sample": 150, "min_example_length": 5, "method": "top_k"}
    with pytest.warns(UserWarning, match="only 120 documents are candidates"):
        kept = {r["id"] for r in model.resample(raw, weights=table, **options).collect()}
    assert kept == {f"d{i:03}" for i in range(120)}
    both = model.resample(raw, duplicates="keep", **options)
    assert both.count() == 150
    assert both.columns == ["id", "text", "source", "log_weight", "num_tokens"]


def test_kept_columns_come_out_as_they_went_in(spark, capsys):
    """Plain ones go to Python beside the text; one of another type keeps all of them back."""
    raw, target = frames(spark)
    made = {
        "many": "length(id) * 1e12", "whole": "cast(length(id) as bigint)",
        "exact": "cast(-1.005 as decimal(9, 3))", "day": "date '1582-10-04'",
        "at": "timestamp '0001-02-03 04:05:06.789'", "raw bytes": "unhex('00ff80')",
        "flag": "id > 'd5'", "nothing": "cast(null as string)",
    }  # fmt: skip
    raw = raw.select("*", *[F.expr(e).alias(name) for name, e in made.items()],
                     F.array("id").alias("tags"))  # fmt: skip
    model = DSIR(num_buckets=97).fit(raw, target)
    plain = model.weigh(raw, keep=("source", *made), quality=True)
    mixed = model.weigh(raw, keep=("source", *made, "tags"), quality=True)
    plans = []
    for table in (plain, mixed):
        table.explain()
        plans.append(capsys.readouterr().out)
    assert "MapInArrow" in plans[0] and "MapInArrow" not in plans[1]
    assert plain.schema.fields == mixed.drop("tags").schema.fields
    assert sorted(plain.collect(), key=str) == sorted(mixed.drop("tags").collect(), key=str)
    kept = plain.select("id", "source", *[f"`{name}`" for name in made])
    assert kept.exceptAll(raw.select(kept.columns)).count() == 0
    assert plain.where("num_tokens is null").count() == 1


def test_columns_of_any_name(spark):
    """Dots, blanks, backticks and capitals: everything is as with plain names."""
    hard = {"id": "doc.id", "text": "The text`s.own", "source": "so.ur`ce x", "size": "c1.size"}
    plain = [frame.withColumn("size", F.length("text")) for frame in frames(spark)]
    named = [frame.toDF(*hard.values()) for frame in plain]
    names = {"id_column": hard["id"], "text_column": hard["text"]}
    options = {
        "num_tokens_to_sample": 2000, "min_example_length": 5, "method": "match", "match_steps": 1,
        "size_column": "size", "group_column": "source", "max_per_group": 12,
        "quota_column": "source", "quotas": "raw",
    }  # fmt: skip

    def same(found, expected, called=hard):
        assert found.columns == [called.get(c, c) for c in expected.columns]
        assert sorted(found.collect(), key=str) == sorted(expected.collect(), key=str) != []

    for chunks in (8, None):
        model = DSIR(num_buckets=97, chunk_words=chunks).fit(*plain)
        other = DSIR(num_buckets=97, chunk_words=chunks, **names).fit(*named)
        assert (other.raw.counts == model.raw.counts).all()
        same(other.weigh(named[0], (hard["source"], hard["size"])),
             model.weigh(plain[0], ("source", "size")))  # fmt: skip
    same(other.explain(named[0]), model.explain(plain[0]), called={})
    hardly = {option: hard.get(value, value) for option, value in options.items()}
    same(other.resample(named[0], **hardly), model.resample(plain[0], **options))
    counted = ngram_counts(plain[0], num_buckets=97)
    same(ngram_counts(named[0], text_column=hard["text"], num_buckets=97), counted)


@pytest.fixture
def files(spark, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.session, "build_session", lambda **_: spark)
    monkeypatch.setattr(spark, "stop", lambda: None)
    for name, rows in zip(("raw", "target"), corpus(), strict=True):
        lines = [json.dumps({"id": i, "text": t, "source": s}) for i, t, s in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def run(files, *flags):
    cli.main(["run", "--raw", str(files / "raw.jsonl"), "--target", str(files / "target.jsonl"),
              "--output", str(files / "out"), "--num-buckets", "97", "--min-example-length", "5",
              "--overwrite", *flags])  # fmt: skip


def latest(spark, files):
    rows = spark.read.format("delta").load(str(files / "out/runs"))
    return rows.orderBy(F.desc("started_at")).first()


def test_flags_of_a_run(spark, files, capsys):
    run(files, "--num-tokens-to-sample", "900", "--where", "source != 'z'", "--temperature", "auto",
        "--normalize", "ngram", "--quota-column", "source", "--quota", "x=0.1..0.25",
        "--group-column", "source", "--max-per-group", "30")  # fmt: skip
    said = capsys.readouterr().out
    assert "left out by `where`" in said and "over max_per_group" in said
    found = latest(spark, files)
    selected = spark.read.format("delta").load(str(files / "out/selected")).collect()
    tokens = {s: sum(r["num_tokens"] for r in selected if r["source"] == s) for s in "xyz"}
    assert sum(tokens.values()) <= 900 and 900 - sum(tokens.values()) == found["shortfall"]
    assert tokens["z"] == 0 and 60 <= tokens["x"] <= 225
    funnel = found["funnel"]
    assert funnel["filtered"] == 50 and funnel["duplicate_text"] == 20
    losses = sum(n for k, n in funnel.items() if k not in ("read", "candidates", "selected"))
    assert funnel["read"] == 152 == losses + funnel["candidates"]
    assert funnel["selected"] == len(selected) and found["temperature"]["target"] >= 0.01
    cli.main(["report", "--output", str(files / "out"), "--composition", "source"])
    assert "Composition by source" in capsys.readouterr().out
    cli.main(["resample", "--output", str(files / "out"), "--num-to-sample", "7",
              "--where", "source != 'z'", "--min-example-length", "5"])  # fmt: skip
    assert latest(spark, files)["funnel"]["selected"] == 7


def test_chunks_quality_and_whole_documents_of_a_run(spark, files, capsys):
    run(files, "--num-to-sample", "9", "--chunk-words", "12", "--whole-documents", "0.3",
        "--quality", "min_tokens=4", "--quality", "max_informative=1.1", "--quality",
        "max_repeated=0.9", "--duplicates", "keep")  # fmt: skip
    capsys.readouterr()
    selected = spark.read.format("delta").load(str(files / "out/selected"))
    assert selected.count() == 9 and "chunk_start" in selected.columns
    assert not set(selected.columns) & {"most_frequent", "text_hash"}
    whole = spark.read.format("delta").load(str(files / "out/documents"))
    assert whole.where("num_selected_chunks < 0.3 * num_chunks").count() == 0 < whole.count()
    with pytest.raises(SystemExit):
        cli.main(["resample", "--output", str(files / "out"), "--num-to-sample", "7",
                  "--chunk-words", "5"])  # fmt: skip
    assert "chunk_words is 12 in the model and 5 here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--num-to-sample", "3", "--where", "no_such > 1"], "where 'no_such > 1' does not hold"),
        (["--num-to-sample", "3", "--where", "a >"], "does not hold for raw"),
        (
            ["--num-to-sample", "3", "--quota-column", "nope", "--quota", "raw"],
            "quota_column 'nope'",
        ),
        (["--num-to-sample", "3", "--quota", "raw"], "belong together"),
        (["--num-to-sample", "3", "--temperature", "warm"], "is not a number"),
        ([], "--num-to-sample is missing"),
    ],
)
def test_mistakes_are_one_line(files, capsys, flags, said):
    with pytest.raises(SystemExit) as stopped:
        run(files, *flags)
    assert stopped.value.code == 2
    err = capsys.readouterr().err.strip()
    assert said in err and "\n" not in err
    assert not (files / "out" / "selected").exists()


def test_stop_words_are_tokens():
    from oracle import tokens

    assert all(tokens(w) == [w] for w in features.STOP_WORDS.split())
