"""Documents that share an n-gram with texts of an evaluation: found exactly, and left out."""

from __future__ import annotations

import json
import random

import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsir_spark import DSIR, job, resampling
from dsir_spark.errors import ColumnError, ConfigError, DataError, TableError
from dsir_spark.features import Decontamination, rolling
from dsir_spark.job_options import JobOptions
from dsir_spark.report import text as printed

WORDS = ["a", "b", "c,", "D\u00e9", "...x", "\u4e2d\u6587", "longer_than_eight_bytes"]


def first_shared(texts, document, n, tokenizer="wordpunct"):
    """The first of the sorted (id, text) that has the first n-gram which the document shares."""
    known = {}
    for name, text in sorted(texts):
        words = oracle.tokens(text, tokenizer)
        for i in range(len(words) - n + 1):
            known.setdefault(tuple(words[i : i + n]), name)
    words = oracle.tokens(document or "", tokenizer)
    grams = (tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return next((known[gram] for gram in grams if gram in known), None)


def made(seed, number, most, words=WORDS):
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randrange(most))) for _ in range(number)]


@pytest.mark.parametrize("tokenizer", ["wordpunct", "wordpunct_cjk", "bytes", split := str.split])
@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_first_shared_ngram_of_any_tokenizer(tokenizer, n, monkeypatch):
    if tokenizer is split:
        monkeypatch.setattr("dsir_spark.features.tokenizers.splitter",
                            lambda _: lambda rows: [r.split() for r in rows])  # fmt: skip
    texts = [(f"t{i}", text) for i, text in enumerate(made(n, 6, 9 + n))]
    # Beside small ones: nothing, no text, and n-grams in later blocks and across their border.
    documents = [*made(99, 300, 60), "", None, "z " * 40_000 + texts[0][1], "y " * 32_760 * 2
                 + max((t for _, t in texts), key=len) + " y" * 9]  # fmt: skip
    known = Decontamination(
        tuple(i for i, _ in texts), tuple(t.encode() for _, t in texts), n
    )
    named = tokenizer if isinstance(tokenizer, str) else "module:function"
    found = known.contaminated_by(pa.array(documents), named).to_pylist()
    expected = [first_shared(texts, d, n, tokenizer) for d in documents]
    assert found == expected
    assert len(set(expected)) > 2 or n == 13


def test_equal_hashes_are_not_enough(monkeypatch):
    """Every token hashes to one number: all n-grams have one hash, and tokens decide."""
    texts = [("s", "x y z w"), ("t", "one two three four five")]
    known = Decontamination(("s", "t"), tuple(t.encode() for _, t in texts), 3)
    documents = ["one two three", "three two one", "a x y z", "x y", "two three four one x y w"]
    compiled = rolling.hash_runs

    def same(*given):
        compiled(*given)
        given[-1][given[-1] != 0] = 1

    monkeypatch.setattr("dsir_spark.features.overlap.hash_runs", same)
    found = known.contaminated_by(pa.array(documents), "wordpunct").to_pylist()
    assert found == ["t", None, "s", None, "t"]


TOPIC = "boil the water add salt and stir the soup until it is thick then serve it hot".split()
RAW = [(f"d{i:03}", text) for i, text in enumerate(made(5, 150, 40, TOPIC))]
LONG = next(text for _, text in RAW if len(text) > 120)
EXAMS = [("q2", LONG + " or not"), ("q1", " ".join(made(6, 20, 40, TOPIC))),
         ("short", "boil the water"), ("none", "nothing of this is anywhere in raw")]  # fmt: skip
N = 4
BY = {i: first_shared(EXAMS, text, N) for i, text in RAW}
OPTIONS = {"num_to_sample": 20, "method": "sample", "seed": 3, "min_example_length": 2}


@pytest.mark.spark
def test_model_stays_away(spark, monkeypatch):
    raw = spark.createDataFrame(RAW, "id string, text string").repartition(3)
    target = spark.createDataFrame([(t,) for _, t in RAW[:3]], "text string")
    plain = DSIR(num_buckets=97).fit(raw, target)
    with pytest.warns(UserWarning, match="1 of 4 texts of decontaminate have fewer than 4 tokens"):
        model = plain.decontaminate(spark.createDataFrame(EXAMS, "id string, text string"), N)
    assert {"q1", "q2", None} == set(BY.values())
    weights = model.weigh(raw)
    assert {r["id"]: r["contaminated_by"] for r in weights.collect()} == BY
    assert weights.drop("contaminated_by").exceptAll(plain.weigh(raw)).count() == 0
    clean = {i for i, by in BY.items() if by is None and len(dict(RAW)[i].split()) >= 2}
    assert 40 < len(clean) < 145
    rows = model.resample(raw, **{**OPTIONS, "method": "top_k"}).collect()
    best = [r["id"] for r in plain.weigh(raw).orderBy("log_weight", ascending=False).collect()]
    assert {r["id"] for r in rows} == set([i for i in best if i in clean][:20])
    assert set(rows[0].asDict()) == {"id", "text", "log_weight", "num_tokens"}
    # From a table of weights, by ids that are sent; or raw is read again, which needs the texts.
    path = str(spark.conf.get("spark.sql.warehouse.dir")) + "/contaminated"
    weights.write.parquet(path)
    table = spark.read.parquet(path)
    sent = plain.resample(raw, weights=table, **{**OPTIONS, "method": "top_k"})
    assert sorted(sent.collect()) == sorted(rows)
    monkeypatch.setattr(resampling, "SENT_IDS", 5)
    again = model.resample(raw, weights=table, **{**OPTIONS, "method": "top_k"})
    assert sorted(again.collect()) == sorted(rows)
    with pytest.raises(ConfigError, match="needs them too"):
        plain.resample(raw, weights=table, **{**OPTIONS, "method": "top_k"})
    with pytest.raises(ColumnError, match="no column contaminated_by"):
        model.resample(raw, weights=plain.weigh(raw), **OPTIONS)
    with pytest.raises(DataError, match="none of 1 texts has 99 tokens"):
        plain.decontaminate(target.limit(1), 99)
    with pytest.raises(ColumnError, match="already has a column contaminated_by"):
        plain.weigh(raw.withColumn("contaminated_by", raw["id"]), keep=["contaminated_by"])


@pytest.mark.spark
@pytest.mark.parametrize(
    "given, read", [(2.0, 2), ("3", 3), (True, None), (0, None), (2.5, None), ("x", None)]
)
def test_the_length_of_an_ngram_is_read_as_options_are(spark, given, read):
    raw = spark.createDataFrame([*RAW[:9], ("short", "boil")], "id string, text string")
    model = DSIR(num_buckets=97).fit(raw, raw)
    if read is None:
        with pytest.raises(ConfigError, match="ngram must be a whole number of tokens >= 1; got"):
            model.decontaminate(raw, given)
        return
    with pytest.warns(UserWarning, match=f"fewer than {read} tokens"):
        known = model.decontaminate(raw, given).decontamination
    assert known.ngram == read and isinstance(known.ngram, int)


@pytest.mark.spark
@pytest.mark.slow
def test_job_stays_away_and_says_so(spark, tmp_path, monkeypatch):
    def write(name, rows):
        place = str(tmp_path / f"{name}.parquet")
        pq.write_table(pa.Table.from_pylist([{"id": i, "text": t} for i, t in rows]), place)
        return place

    exams = write("exams", EXAMS)
    output = str(tmp_path / "out")
    given = {"raw": write("raw", RAW), "target": write("target", RAW[:3]), "output": output,
             "decontaminate": exams, "decontaminate_ngram": N, **OPTIONS}  # fmt: skip

    def run(stage=job.run_all, **more):
        return stage(spark, JobOptions.from_mapping({**given, **more}))

    with pytest.warns(UserWarning, match="1 of 4 texts of decontaminate"):
        row = run()
    number = {text: sum(by == text for by in BY.values()) for text in ("q1", "q2")}
    assert row["funnel"]["contaminated"] == sum(number.values())
    assert row["contaminated"] == number
    assert json.loads(row["decontaminate"])["ngram"] == N
    shown = printed.full(row["facts"])
    assert f"- contaminated{sum(number.values()):>28}\n" in shown and "q1" in shown
    job.write_report(spark, row["facts"], output)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert ">Contaminated</h2>" in page
    chosen = spark.read.format("delta").load(f"{output}/selected")
    assert all(BY[r["id"]] is None for r in chosen.select("id").collect())
    # Weights on record are selected from as they are, also where raw is read again.
    monkeypatch.setattr(resampling, "SENT_IDS", 5)
    once_more = {"output": output, **OPTIONS, "num_to_sample": 25}
    with pytest.warns(UserWarning, match="1 of 4 texts"):
        row = job.resample_again(spark, JobOptions.from_mapping(once_more))
    assert row["funnel"]["selected"] == 25 and row["contaminated"] == number
    facts = job.report_again(spark, output, examples=0)
    assert dict(facts.weights.contaminated) == number
    with pytest.raises(TableError, match=r"were made with decontaminate .*exams.*, not with 6"):
        run(job.resample_again, decontaminate_ngram=6)
    write("exams", EXAMS[:2])
    with pytest.raises(TableError, match=r"files of decontaminate at .* changed since"):
        job.resample_again(spark, JobOptions.from_mapping(once_more))
    with pytest.raises(DataError, match="none of 2 texts has 1000 tokens"):
        run(overwrite=True, decontaminate_ngram=1000)
