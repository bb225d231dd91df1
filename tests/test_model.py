"""Chunks, smoothing, copies, kept columns, awkward names, rows by id: what a model does."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from dsir_spark import DSIR, DSIRModel, ngram_counts, resampling
from dsir_spark.errors import ColumnError, TableError
from dsir_spark.features import batches
from dsir_spark.features.quality import STOP_WORDS
from dsir_spark.local_rows import from_arrow, to_arrow
from dsir_spark.options import ResampleOptions
from dsir_spark.resampling import find_selection, selected_rows, whole_documents
from dsir_spark.scoring import distributions, documents, stored
from dsir_spark.scoring.documents import num_ngrams, united

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


def read_once(frame):
    """Its rows as they are now, which no later query computes again."""
    return from_arrow(frame.sparkSession, to_arrow(frame), frame.schema)


@pytest.fixture(scope="module")
def frames(spark):
    return [read_once(spark.createDataFrame(rows, SCHEMA)) for rows in corpus()]


@pytest.fixture(scope="module")
def plain(frames):
    return DSIR(num_buckets=97).fit(*frames)


@pytest.fixture(scope="module")
def weighed(frames, plain):
    """A model of chunks and one of documents, each with its weights of raw."""
    models = DSIR(num_buckets=97, chunk_words=8).fit(*frames), plain
    return [(model, read_once(model.weigh(frames[0]))) for model in models]


def test_dirichlet_smoothing_is_the_formula(frames, plain):
    model = DSIR(num_buckets=97, target_dirichlet_smoothing="auto").fit(*frames)
    again = DSIR(num_buckets=97, target_dirichlet_smoothing=97).fit(*frames)
    counts, of_raw = model.targets["target"].counts.tolist(), model.raw.counts.tolist()
    n, total = sum(counts), sum(of_raw)
    p = [(c + 97 * r / total) / (n + 97) for c, r in zip(counts, of_raw, strict=True)]
    expected = distributions.log_ratio(np.array(p), distributions.distribution(model.raw.counts))
    assert model.log_ratio["target"] == pytest.approx(expected, abs=1e-12)
    assert (model.log_ratio["target"] == again.log_ratio["target"]).all()
    assert plain.log_ratio["target"].min() < -5 < model.log_ratio["target"].min()
    assert plain.fingerprint != model.fingerprint


def test_chunks_are_weighed_and_selected(frames):
    raw, target = frames
    raw = raw.withColumn("__at", F.lit(None).cast("int"))
    model = DSIR(num_buckets=97, ngrams=2, chunk_words=8).fit(raw, target)
    texts = {i: text for i, text, _ in corpus()[0]}
    chunks = {}
    for i, text in texts.items():
        spans = [] if text is None else oracle.chunks(text, 8, re.compile(r"\w+|[^\w\s]+"))
        chunks |= {f"{i}#{n}": text[a:b] for n, (a, b) in enumerate(spans)}
        chunks |= {f"{i}#0": None} if text is None else {}
    expected = oracle.bucket_counts([t for t in chunks.values() if t], 2, 97)
    assert model.raw.counts.tolist() == expected
    options = {"num_to_sample": 40, "method": "sample", "seed": 3, "min_example_length": 5}
    rows = model.resample(raw, **options).collect()
    assert len(rows) == 40
    for row in rows:
        assert row["text"] == chunks[row["chunk_id"]]
        assert row["chunk_id"] == f"{row['id']}#{row['chunk']}"
        assert texts[row["id"]][row["chunk_start"] : row["chunk_end"]] == row["text"]
    again = read_once(model.resample(raw.repartition(7), **options))
    assert {r["chunk_id"] for r in again.collect()} == {r["chunk_id"] for r in rows}
    whole = whole_documents(model, raw, again, 0.5).collect()
    numbers = Counter(row["id"] for row in rows)
    wanted = {i: n for i, n in numbers.items()
              if n >= 0.5 * sum(c.startswith(f"{i}#") for c in chunks)}  # fmt: skip
    assert {r["id"]: r["num_selected_chunks"] for r in whole} == wanted
    assert all(r["text"] == texts[r["id"]] for r in whole)
    one = raw.where(raw["id"] == rows[0]["id"]).withColumn("num_chunks", F.lit(25))
    seven = one.withColumn("n", F.explode(F.sequence(F.lit(1), F.lit(7))))
    assert whole_documents(model, raw, seven, 0.28).count() == 1  # 0.28 * 25 is a double above 7


def test_matched_selection_goes_with_all_the_others(frames):
    """Separate targets, quotas, chunks, copies and a budget of tokens, in any partitioning."""
    raw, target = frames
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


def test_copies_of_a_text_but_for_case_and_blanks(frames, plain, weighed):
    raw, (_, weights) = frames[0], weighed[1]
    options = {"num_to_sample": 150, "min_example_length": 5, "method": "top_k"}
    with pytest.warns(UserWarning, match="only 120 documents are candidates"):
        chosen = plain.resample(raw, weights=weights, **options)
    assert {r["id"] for r in chosen.collect()} == {f"d{i:03}" for i in range(120)}
    few = {"num_to_sample": 9, "min_example_length": 5, "seed": 2}
    drawn = plain.resample(raw, method="sample", **few).collect()
    by_weights = plain.resample(raw, weights=weights, **few)  # as these are for
    assert sorted(by_weights.collect()) == sorted(drawn)
    both = plain.resample(raw, duplicates="keep", **options)
    assert both.count() == 150
    assert both.columns == ["id", "text", "source", "log_weight", "num_tokens"]


def test_kept_columns_come_out_as_they_went_in(frames, plain, capsys):
    """Plain ones go to Python beside the text; one of another type keeps all of them back."""
    raw, _ = frames
    made = {
        "many": "length(id) * 1e12", "whole": "cast(length(id) as bigint)",
        "exact": "cast(-1.005 as decimal(9, 3))", "day": "date '1582-10-04'",
        "at": "timestamp '0001-02-03 04:05:06.789'", "raw bytes": "unhex('00ff80')",
        "flag": "id > 'd5'", "nothing": "cast(null as string)",
    }  # fmt: skip
    raw = raw.select("*", *[F.expr(e).alias(name) for name, e in made.items()],
                     F.array("id").alias("tags"))  # fmt: skip
    together = plain.weigh(raw, keep=("source", *made), quality=True)
    mixed = plain.weigh(raw, keep=("source", *made, "tags"), quality=True)
    for table, is_sent in ((together, True), (mixed, False)):
        table.explain()
        assert ("MapInArrow" in capsys.readouterr().out) == is_sent
    assert together.schema.fields == mixed.drop("tags").schema.fields
    rows = together.collect()
    assert sorted(rows, key=str) == sorted(mixed.drop("tags").collect(), key=str)
    assert [r["num_tokens"] for r in rows].count(None) == 1
    kept = together.select("id", "source", *[f"`{name}`" for name in made])
    assert kept.exceptAll(raw.select(kept.columns)).count() == 0


def test_columns_of_any_name(frames, weighed):
    """Dots, blanks, backticks and capitals: everything is as with plain names."""
    hard = {"id": "doc.id", "text": "The text`s.own", "source": "so.ur`ce x", "size": "c1.size"}
    easy = [frame.withColumn("size", F.length("text")) for frame in frames]
    named = [frame.toDF(*hard.values()) for frame in easy]
    names = {"id_column": hard["id"], "text_column": hard["text"]}
    options = {
        "num_tokens_to_sample": 2000, "min_example_length": 5, "method": "match", "match_steps": 1,
        "size_column": "size", "group_column": "source", "max_per_group": 12,
        "quota_column": "source", "quotas": "raw",
    }  # fmt: skip

    def same(found, expected, called=hard):
        assert found.columns == [called.get(c, c) for c in expected.columns]
        assert sorted(found.collect(), key=str) == sorted(expected.collect(), key=str) != []

    for model, _ in weighed:
        other = DSIR(num_buckets=97, chunk_words=model.config.chunk_words, **names).fit(*named)
        assert (other.raw.counts == model.raw.counts).all()
        same(other.weigh(named[0], (hard["source"], hard["size"])),
             model.weigh(easy[0], ("source", "size")))  # fmt: skip
    same(other.explain(named[0]), model.explain(easy[0]), called={})
    hardly = {option: hard.get(value, value) for option, value in options.items()}
    same(other.resample(named[0], **hardly), model.resample(easy[0], **options))
    counted = ngram_counts(easy[0], num_buckets=97)
    same(ngram_counts(named[0], text_column=hard["text"], num_buckets=97), counted)


@pytest.mark.parametrize(
    "spelt, keep, columns",
    [
        ({"text": "Text"}, ["source"], ["id", "source"]),
        ({"id": "ID"}, ["iD", "text"], ["id"]),
        ({}, ["ID", "source", "SOURCE", "Text"], ["id", "source"]),
        ({}, ["SOURCE"], ["id", "SOURCE"]),
    ],
)
def test_columns_in_another_case(frames, plain, weighed, capsys, spelt, keep, columns):
    """Spark finds them, and so does whoever looks for the text, the id or what is kept."""
    raw, target = frames
    other = raw.withColumnsRenamed(spelt)
    for model, expected in weighed:
        chunks = model.config.chunk_words
        if spelt:
            again = DSIR(num_buckets=97, chunk_words=chunks).fit(other, target)
            assert again.fingerprint == model.fingerprint
        found = model.weigh(other, keep)
        assert [c for c in found.columns if c not in expected.columns[1 - bool(chunks):]] == [
            c for c in columns if not chunks or c != "id"]  # fmt: skip
        assert sorted(found.select(expected.columns).collect(), key=str) == sorted(
            expected.collect(), key=str)  # fmt: skip
    if not spelt:
        return
    plain.transform(other).explain()  # text that came back from Python may hang
    assert "MapInArrow" not in capsys.readouterr().out
    assert plain.transform(other).columns[:3] == other.columns
    few = {"num_to_sample": 9, "min_example_length": 5, "method": "top_k"}
    limited = plain.resample(other, **few, group_column="ID", max_per_group=1)
    assert limited.count() == 9


@pytest.mark.parametrize("tokenizer", ["wordpunct", "bytes"])
def test_the_quality_rule_goes_by_words_whatever_the_tokenizer(spark, frames, tokenizer):
    rows = [*corpus()[0], ("han", "\u6f22\u5b57" * 9, "x")]
    raw, texts = spark.createDataFrame(rows, SCHEMA), {i: text for i, text, _ in rows}
    model = DSIR(num_buckets=97, tokenizer=tokenizer).fit(raw, frames[1])
    weights = model.weigh(raw, quality=True)
    assert ("num_wordpunct" in weights.columns) == (tokenizer != "wordpunct")
    for low in (20, -1):  # of no words at all there are no shares
        rule = {"min_tokens": low, "max_tokens": 40, "min_repeated": -1, "max_informative": 1.1}
        options = {"num_to_sample": 999, "method": "top_k", "duplicates": "keep", "quality": rule,
                   "min_example_length": 0}  # fmt: skip
        kept = set()
        for name, text in texts.items():
            most, informative, _, n = oracle.quality_facts(text or "", set(STOP_WORDS.split()))
            some = max(n, 1)
            if low < n < 40 and most / some < 0.2 and 0.3 < informative / some:
                kept.add(name)
        assert 10 < len(kept) < 110
        with pytest.warns(UserWarning, match="are candidates"):
            chosen = model.resample(raw, **options)
        assert {r["id"] for r in chosen.select("id").collect()} == kept
    if tokenizer != "wordpunct":
        with pytest.raises(ColumnError, match=r"no column num_wordpunct; .*weigh again"):
            model.resample(raw, weights=weights.drop("num_wordpunct"), **options)


def test_number_of_ngrams_is_that_of_the_kernels(spark):
    lengths, ngrams = [0, 1, 2, 6, 7, 8, 999, 1000, 1001, 3_000_000_000], [1, 2, 7, 1000]
    rows = spark.createDataFrame([(n,) for n in lengths], "n bigint")
    found = np.array(rows.select(*[num_ngrams(F.col("n"), n) for n in ngrams]).collect()).T
    for n, own in zip(ngrams, found.tolist(), strict=True):
        assert own == batches.num_ngrams(np.array(lengths), n).tolist()


def test_a_model_that_is_none_or_damaged_is_one_line(spark, plain, tmp_path):
    place = str(tmp_path / "model")
    plain.save(place, spark=spark)
    assert DSIRModel.load(place, spark=spark).fingerprint == plain.fingerprint
    rows = read_once(stored.as_frame(plain, spark))
    changes = {"position": "null", "name": "'other'", "num_tokens": "num_tokens + 5",
               "counts": "slice(counts, 1, 9)"}  # fmt: skip
    damaged = [rows.withColumn(name, F.expr(f"if(position = 1, {value}, {name})"))
               for name, value in changes.items()]  # fmt: skip
    for own, said in (
        *[(own, "is damaged") for own in damaged], (rows.where("false"), "damaged: its 0 rows"),
        (rows.select("facts", "counts"), "is not a model: it has columns facts, counts"),
    ):  # fmt: skip
        with pytest.raises(TableError, match=said):
            stored.read(own, place, False)
    spark.sql(f"delete from delta.`{place}` where position = 1")
    with pytest.raises(TableError, match="is damaged: its 1 rows are not the ones that"):
        DSIRModel.load(place, spark=spark)


@pytest.mark.parametrize(
    "fit, options",
    [
        ({}, {"quality": {"min_tokens": 4, "max_informative": 1.1, "max_repeated": 0.9}}),
        ({"id_column": None}, {"duplicates": "keep"}),
        ({"chunk_words": 8, "id_column": None}, {"group_column": "source", "max_per_group": 12}),
        ({"several": True}, {"method": "top_k", "allocation": "sequential"}),
        ({"twice": True}, {"duplicates": "keep"}),
    ],
)
def test_rows_fetched_by_their_ids_are_those_scored_again(spark, frames, monkeypatch, fit, options):
    """Whatever the ids are; also where an id is that of several documents, which are told apart."""
    raw, targets = frames
    own = {k: v for k, v in fit.items() if k not in ("several", "twice")}
    if own.get("id_column", "id") is None:
        raw = raw.drop("id").union(raw.drop("id").where("source = 'x'"))
    if "several" in fit:
        targets = {"a": targets, "b": raw.where("source = 'z'").limit(5)}
    if "twice" in fit:
        raw = raw.withColumn("id", F.substring("id", 1, 3))
    model = DSIR(num_buckets=97, **own).fit(raw, targets)
    options = {"num_to_sample": 30, "method": "sample", "min_example_length": 5, **options}
    chosen = ResampleOptions.checked(options)
    table = model.weigh(raw, chosen.needed_columns, quality=chosen.quality is not None)
    selection = find_selection(model, table := read_once(table), chosen, num_rows=999)
    expected = selected_rows(model, raw, selection, table)
    rows = sorted(expected.collect(), key=str)
    assert len(rows) >= (30 if "twice" not in fit else 20)
    sent = selected_rows(model, raw, selection, table, sent=True)
    assert sent.columns == expected.columns and sorted(sent.collect(), key=str) == rows
    if "twice" not in fit:
        unique = selected_rows(model, raw, selection, table, sent=True, unique_ids=True)
        assert unique.columns == expected.columns and sorted(unique.collect(), key=str) == rows
    if own.get("chunk_words"):
        held = spark.createDataFrame(rows, expected.schema)
        whole = whole_documents(model, raw, held, 0.01).select("content_id").collect()
        assert len(whole) == len({r["content_id"] for r in rows}) > 5
    if not fit:  # too many to be sent
        monkeypatch.setattr(resampling, "SENT_IDS", 29)
        sent = selected_rows(model, raw, selection, table, sent=True)
        assert sorted(sent.collect(), key=str) == rows


def test_forty_targets_are_selected_by_their_weights(spark, tmp_path):
    """Constraints that Spark derives from a filter must not double with every target."""
    rows = [(f"d{i:03}", f"word{i % 40} and word{i % 7} are in text {i}") for i in range(200)]
    raw = spark.createDataFrame(rows, "id string, text string").coalesce(1)
    targets = {f"t{t:02}": raw.where(f"text like 'word{t} %'") for t in range(40)}
    model = DSIR(ngrams=1, num_buckets=97).fit(raw, targets)
    weights = model.weigh(raw)
    weights.write.parquet(str(tmp_path / "weights"))
    weights = spark.read.schema(weights.schema).parquet(str(tmp_path / "weights"))
    options = {"num_to_sample": 80, "method": "sample", "min_example_length": 1}
    selection = find_selection(model, weights, ResampleOptions.checked(options))
    chosen = selected_rows(model, raw, selection, weights, sent=True, unique_ids=True).collect()
    assert len(chosen) == 80 and len({r["target"] for r in chosen}) == 40
    own = {r["id"]: r for r in weights.collect()}
    for row in chosen:
        assert row[f"log_weight_{row['target']}"] == own[row["id"]][f"log_weight_{row['target']}"]


def test_small_files_are_read_in_few_tasks(spark, monkeypatch, tmp_path):
    """Of the same columns; what is large, or of a size that nobody knows, keeps its own."""
    files, frames = spark.read.schema("text string"), []
    for i in range(7):
        pq.write_table(pa.table({"text": [f"{i}"]}), tmp_path / f"{i}.parquet")
        frames.append(files.parquet(f"{tmp_path}/{i}.parquet"))
    rows = spark.createDataFrame([(str(i),) for i in range(9)], "text string").repartition(3)
    together = united([*frames, rows])
    assert together.rdd.getNumPartitions() == 1 + 3
    texts = [str(i) for i in range(9)]
    assert sorted(r["text"] for r in together.collect()) == sorted([*texts[:7], *texts])
    assert united(frames[:1]).collect() == frames[0].collect()
    wide = {"text": ["0"], **{f"n{i}": [i] for i in range(300)}}
    pq.write_table(pa.table(wide), tmp_path / "wide.parquet")
    read = spark.read.parquet(f"{tmp_path}/wide.parquet").select("text").where("text > ''")
    assert documents._bytes_of(read) == (tmp_path / "wide.parquet").stat().st_size
    monkeypatch.setattr(documents, "_SMALL", 1)  # all are large
    assert united(frames).rdd.getNumPartitions() == 7
