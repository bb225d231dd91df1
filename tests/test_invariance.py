"""Spark around the kernels: the same bits for any partitioning, batch size, order and session."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import oracle
import pytest
from chispa import assert_df_equality
from pyspark.sql import functions as F

from dsir_spark import DSIR, ngram_counts, select
from dsir_spark.columns import CONTENT_ID
from dsir_spark.errors import ColumnError
from dsir_spark.features import batches
from dsir_spark.scoring import documents

pytestmark = pytest.mark.spark

WORDS = "the of and \u0391\u03a3 na\u00efve caf\u00e9 \u4e2d\u6587 1984 -- ! data weights spark"
WORDS = WORDS.split()


def made(n, seed=11):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randrange(1, 60))) for _ in range(n)]
    return [(f"d{i}", None if i % 50 == 7 else " " if i % 50 == 8 else t)
            for i, t in enumerate(texts)]  # fmt: skip


RAW = made(400)
TARGET = [(f"t{i}", "data weights spark caf\u00e9 " * 5) for i in range(10)]
SCHEMA = "id string, text string"
OPTIONS = {"num_buckets": 1009, "ngrams": 3}


def both(spark, rows=RAW):
    return spark.createDataFrame(rows, SCHEMA), spark.createDataFrame(TARGET, SCHEMA)


def everything(spark, rows, partitions):
    """All that a model, its weights and its selections consist of, as JSON of exact values."""
    raw, target = both(spark, rows)
    raw = raw.repartition(partitions)
    model = DSIR(**OPTIONS).fit(raw, target)
    weights = {r["id"]: [r["log_weight"], r["num_tokens"]] for r in model.transform(raw).collect()}
    options = {"num_to_sample": 60, "seed": 5, "min_example_length": 3}
    ids = {
        method: sorted(r["id"] for r in model.resample(raw, method=method, **options, **more)
                       .select("id").collect())
        for method, more in (("sample", {}), ("match", {"match_steps": 3}))
    }  # fmt: skip
    parts = raw.selectExpr("id", "length(text) % 7 AS score", "substring(id, 2, 1) AS part")
    for kind in ("rank", "z"):
        chosen = select(parts, num_to_sample=60, seed=5, temperature=0.1, normalize_score=kind,
                        normalize_within="part")  # fmt: skip
        ids[kind] = sorted(r["id"] for r in chosen.collect())
    hexes = {k: [None if w is None else float(w).hex(), n] for k, (w, n) in sorted(weights.items())}
    return json.dumps({"model": model.fingerprint, "weights": hexes, **ids})


@pytest.fixture(scope="module")
def once(spark):
    return everything(spark, RAW, 2)


@pytest.fixture(scope="module")
def expected():
    """The same facts from the oracle, without Spark."""
    present = [t for _, t in RAW if t is not None]
    raw = oracle.bucket_counts(present, 3, 1009)
    target = oracle.bucket_counts([t for _, t in TARGET], 3, 1009)
    ratios = oracle.log_ratios(target, raw)
    weights = {
        i: [None, None] if t is None else [oracle.log_weight(t, ratios, 3), len(oracle.tokens(t))]
        for i, t in RAW
    }
    pool = [i for i, (_, n) in weights.items() if n is not None and n >= 3]
    selected = oracle.gumbel_top_k(pool, [weights[i][0] for i in pool], 60, 5)
    return weights, sorted(selected), (target, raw)


def test_model_weights_and_selection_are_the_oracles(once, expected):
    found = json.loads(once)
    weights, selected, _ = expected
    assert found["sample"] == selected
    hexes = {k: [None if w is None else float(w).hex(), n] for k, (w, n) in weights.items()}
    assert found["weights"] == hexes


def test_same_bits_for_any_partitions_batches_and_order(spark, once):
    """All of them are others than in `once`, so that none of them shows."""
    rows = list(RAW)
    random.Random(8).shuffle(rows)
    # (Clusters have adaptive execution, local sessions, Connect's below too, do not.)
    own = {"spark.sql.execution.arrow.maxRecordsPerBatch": "1",
           "spark.sql.adaptive.enabled": "true"}  # fmt: skip
    before = {name: spark.conf.get(name) for name in own}
    for name, value in own.items():
        spark.conf.set(name, value)
    try:
        assert everything(spark, rows, 5) == once
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)


# In a process of its own: one process holds classic sessions or Connect sessions. Its workers are
# new, so what they have imported after every pass over text is what the passes need.
CONNECT = """
import sys
sys.path.insert(0, sys.argv[1])
from pyspark.sql import SparkSession, functions as F
from pyspark.sql import types as T
from test_invariance import RAW, both, everything
spark = SparkSession.builder.remote("local[2]").config(map={
    # As in conftest: small queries, and a JVM that ends soon. Half of the time less.
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.ui.enabled": "false",
}).getOrCreate()
print("FOUND", everything(spark, RAW, 3))

from functools import partial
from dsir_spark import DSIR, ngram_counts
from dsir_spark.features import batches
from dsir_spark.scoring import matching, passes, samples
raw, target = both(spark)
model = DSIR(num_buckets=97, chunk_words=8).fit(raw, target)
model.weigh(raw, quality=True).collect()
model.explain(raw.limit(3)).collect()
ngram_counts(raw).drop("text").collect()
matching.HELD = 0
model.resample(raw, num_to_sample=5, min_example_length=2, method="match", match_steps=1).collect()
both_ints = T.ArrayType(T.IntegerType())
struct = T.StructType([T.StructField(n, both_ints) for n in ("indices", "counts")])
spec = samples.FeatureSpec(2, 10_000)
older = passes._pandas_text_udf(partial(batches.vectors, spec=spec), struct)
by_pandas = raw.select(older(F.col("text")).alias("v")).select("v.indices", "v.counts").collect()
counted = ngram_counts(raw, ngrams=2, num_buckets=10_000)
print("SAME", by_pandas == counted.select("indices", "counts").collect())

def modules(batches):
    import sys
    import pyarrow as pa
    for _ in batches:
        found = [m for m in sys.modules if m.startswith("dsir_spark")]
        yield pa.RecordBatch.from_arrays([pa.array(found)], names=["m"])

rows = spark.range(0, 40, 1, 8).mapInArrow(modules, "m string").distinct().collect()
print("IMPORTED", " ".join(sorted(r["m"] for r in rows)))
spark.stop()
"""


def test_spark_connect_and_what_executors_import(once):
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CONNECT, folder],
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert "IMPORTED" in said, done.stderr[-3000:]
    assert said["FOUND"] == once
    assert said["SAME"] == "True"
    imported = set(said["IMPORTED"].split())
    assert "dsir_spark.features.batches" in imported
    assert {m for m in imported if not m.startswith("dsir_spark.features")} == {"dsir_spark"}


@pytest.mark.parametrize("num_buckets", [1, 10_000])
def test_buckets_are_those_of_spark_sql(spark, num_buckets):
    """`pmod(xxhash64(ngram), num_buckets)` by Spark's own function."""
    text = RAW[0][1] + " \u0130 \U0001f600 " + "long" * 30
    grams = oracle.ngrams(oracle.tokens(text), 2)
    frame = spark.createDataFrame([(g,) for g in grams], "ngram string")
    bucket = F.expr(f"pmod(xxhash64(ngram), {num_buckets}L)")
    by_sql = {int(r["b"]): r["n"] for r in
              frame.groupBy(bucket.alias("b")).agg(F.count("*").alias("n")).collect()}  # fmt: skip
    row = ngram_counts(
        spark.createDataFrame([(text,)], "text string"), ngrams=2, num_buckets=num_buckets
    ).first()
    assert dict(zip(row["indices"], row["counts"], strict=True)) == by_sql


def test_ngram_counts_frame(spark):
    frame = spark.createDataFrame([("a", "b a b"), ("n", None), ("e", " ")], SCHEMA)
    counted: dict[int, int] = {}
    for b in oracle.buckets("b a b", 2, 50):
        counted[b] = counted.get(b, 0) + 1
    indices = sorted(counted)
    rows = [("a", "b a b", indices, [counted[i] for i in indices]), ("n", None, None, None),
            ("e", " ", [], [])]  # fmt: skip
    schema = f"{SCHEMA}, indices array<int>, counts array<int>"
    found = ngram_counts(frame, ngrams=2, num_buckets=50)
    assert_df_equality(found, spark.createDataFrame(rows, schema), ignore_nullable=True)


def test_transform_adds_weights_and_num_tokens_and_nothing_else(spark):
    model = DSIR(**OPTIONS).fit(*both(spark))
    frame = spark.createDataFrame([(1, "data spark"), (2, None), (3, "")], "n int, text string")
    ratios = model.log_ratio["target"].tolist()
    rows = [(1, "data spark", oracle.log_weight("data spark", ratios, 3), 2), (2, None, None, None),
            (3, "", 0.0, 0)]  # fmt: skip
    schema = "n int, text string, log_weight double, num_tokens long"
    assert_df_equality(
        model.transform(frame), spark.createDataFrame(rows, schema), ignore_nullable=True
    )
    with pytest.raises(ColumnError, match="num_tokens"):
        model.transform(frame.withColumn("num_tokens", F.lit(1)))
    ours = frame.selectExpr("n as id", "text", "1 as __dsir_of", "n as score")
    for refused in (
        model.transform, model.weigh, lambda f: model.resample(f, num_to_sample=1),
        lambda f: DSIR(**OPTIONS).fit(f, frame), lambda f: select(f, num_to_sample=1),
        lambda f: ngram_counts(f, num_buckets=50),
    ):  # fmt: skip
        with pytest.raises(ColumnError, match="has a column __dsir_of: names that begin with __"):
            refused(ours)


def test_smoothing_of_targets(spark, expected):
    model = DSIR(**OPTIONS, target_laplace_smoothing=0.5).fit(*both(spark))
    assert model.log_ratio["target"].tolist() == pytest.approx(
        oracle.log_ratios(*expected[2], laplace=0.5), rel=1e-12
    )
    # All counts are kept as they are: smoothing comes when the distribution is made.
    assert model.targets["target"].counts.tolist() == expected[2][0]


def test_fit_on_a_share_of_the_documents_is_a_sample_by_id(spark):
    raw, target = both(spark, [(f"d{i}", "one two three four") for i in range(3000)])
    parts = [
        DSIR(num_buckets=100, ngrams=2, num_tokens_to_fit=3500).fit(frame, target)
        for frame in (raw.coalesce(1), raw.repartition(5))
    ]
    assert parts[0].fingerprint == parts[1].fingerprint
    assert 0.1 < parts[0].fitted_share < 0.25
    assert 2500 < parts[0].raw.num_ngrams < 4500
    whole = DSIR(num_buckets=100, ngrams=2, num_tokens_to_fit="auto").fit(raw, target)
    assert whole.fitted_share == 1.0


def test_made_ids_depend_on_the_text_alone(spark):
    frame = spark.createDataFrame([("a",), ("a",), ("b",), (None,)], "text string")
    ids = [r[0] for r in frame.select(documents.content_id(F.col("text"))).collect()]
    assert ids[0] == ids[1] != ids[2]
    assert ids[3] is None and len(ids[0]) == 32


def test_a_cell_of_100_megabytes(spark):
    # Not a constant: Spark 3.5 would print one of 100 MB into its plans.
    text = F.expr("repeat(substring('ab cd ', 1, 6 + int(id)), 17000000)")
    frame = spark.range(1).select(F.lit("x").alias("id"), text.alias("text"))
    model = DSIR(num_buckets=100).fit(frame, spark.createDataFrame([("t", "ab cd")], SCHEMA))
    assert model.raw.num_tokens == 34_000_000
    row = model.transform(frame).select("num_tokens", "log_weight").first()
    assert row["num_tokens"] == 34_000_000 and np.isfinite(row["log_weight"])


def test_other_unicode_tables_are_told(spark, monkeypatch):
    raw, target = both(spark, RAW[:20])
    model = DSIR(**OPTIONS).fit(raw, target)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        model.transform(raw)
    monkeypatch.setattr(batches.unicodedata, "unidata_version", "3.2.0")
    with pytest.warns(UserWarning, match=r"this Python has Unicode 3\.2\.0"):
        model.transform(raw)


def test_resample_over_dataframes_alone(spark):
    """Also without ids: a text that occurs twice is one candidate and comes once."""
    raw = spark.createDataFrame([(t,) for _, t in RAW + RAW], "text string")
    model = DSIR(**OPTIONS, id_column=None).fit(raw, spark.createDataFrame(TARGET, SCHEMA))
    chosen = model.resample(raw, num_to_sample=30, method="top_k", min_example_length=2).collect()
    assert len({r["text"] for r in chosen}) == len(chosen) == 30
    assert chosen[0].asDict().keys() == {CONTENT_ID, "text", "log_weight", "num_tokens"}
