"""Resampling against theory, NumPy and the oracle: exact, seeded, whatever the partitioning."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from dsir_spark import cuts, resample
from dsir_spark.config import ResampleConfig, check
from dsir_spark.errors import ConfigError

pytestmark = pytest.mark.spark

DEFAULTS = {"seed": 1, "min_example_length": 0, "duplicates": "keep"}


def weights_table(spark, columns, partitions=3):
    table = {"num_tokens": np.full(len(columns["id"]), 10), **columns}
    return spark.createDataFrame(pa.table(table).to_pandas()).repartition(partitions)


def chosen(spark, table, targets=(None,), shares=None, **options):
    selection = resample.select(
        table,
        targets=targets,
        shares=shares or dict.fromkeys(targets, 1.0),
        options=ResampleConfig(**{**DEFAULTS, **options}),
        id_column="id",
    )
    return selection, selection.filter(table, table)


def ids(frame):
    return sorted(r["id"] for r in frame.select("id").collect())


def test_key_is_the_contract_formula(spark):
    from oracle import sampling_key

    names = ["a", "", "\u00e9\U0001f600", "x" * 100]
    rows = [(n, float(i)) for i, n in enumerate(names)]
    frame = spark.createDataFrame(rows, "id string, w double")
    found = frame.select("w", resample.sampling_key(F.col("w"), 7, F.col("id"))).collect()
    for name, (weight, key) in zip(names, found, strict=True):
        assert key == pytest.approx(sampling_key(weight, 7, name), rel=1e-12)


@pytest.mark.parametrize("k", [0, 1, 2, 999, 1_500_000, 2_999_999, 3_000_000])
def test_exact_cut_equals_numpy_on_millions(spark, k):
    n = 3_000_000
    pool = spark.range(n, numPartitions=4).select(
        F.col("id").alias(cuts.ID),
        F.round(F.xxhash64("id") / 2.0**55, 2).alias(cuts.KEY),  # many ties
    )
    cut = cuts.exact_cut(pool, k)
    rows = np.array(pool.toPandas().sort_values([cuts.KEY, cuts.ID]))
    if k == 0:
        assert cut.key is None
    else:
        key, row_id = {c: i for i, c in enumerate(pool.columns)}[cuts.KEY], None
        row_id = 1 - key
        assert (cut.key, cut.id) == (rows[n - k][key], int(rows[n - k][row_id]))
    reached = pool.where(cut.reached_by(F.col(cuts.KEY), F.col(cuts.ID)))
    assert reached.count() == k


@pytest.mark.parametrize("kind", ["string", "bigint"])
def test_crowds_of_equal_keys_are_cut_by_id(spark, monkeypatch, kind):
    monkeypatch.setattr(cuts, "_MAX_WINDOW_ROWS", 50)
    pool = spark.range(3_000).select(
        F.col("id").cast(kind).alias(cuts.ID),
        F.when(F.col("id") < 100, 3.0).otherwise(-2.5).alias(cuts.KEY),
    )
    rows = sorted(((r[1], r[0]) for r in pool.collect()), reverse=True)
    for k in (1, 99, 100, 101, 1_234, 3_000):
        cut = cuts.exact_cut(pool, k)
        assert (cut.key, cut.id) == rows[k - 1]


def test_wide_and_narrow_ranges_of_keys(spark, monkeypatch):
    monkeypatch.setattr(cuts, "_MAX_WINDOW_ROWS", 20)
    values = [1e300, -1e300, 0.0, -0.0, 5e-324, -5e-324, 1.0, math.nextafter(1.0, 2.0), -708.4]
    values += [1000 + i * 1e-10 for i in range(300)] + [-3.0 - i * 1e-13 for i in range(300)]
    pool = spark.createDataFrame(
        [(i, v) for i, v in enumerate(values)],
        f"{cuts.ID} int, {cuts.KEY} double",
    ).repartition(3)
    rows = sorted(((v, i) for i, v in enumerate(values)), reverse=True)
    for k in range(1, len(values) + 1, 29):
        cut = cuts.exact_cut(pool, k)
        assert (cut.key, cut.id) == rows[k - 1]


@pytest.mark.parametrize("method", ["sample", "top_k"])
def test_rows_far_from_the_cut_are_passed_over_and_none_near_it(spark, method):
    rng = np.random.default_rng(8)
    spread = [1e-3, 1.0, 40.0, 1e6, 1e11]
    weights = np.concatenate([rng.normal(0, s, 200) for s in spread])
    table = weights_table(spark, {"id": [f"d{i}" for i in range(1000)], "log_weight": weights})
    key = F.col("log_weight")
    if method == "sample":
        key = resample.sampling_key(key, 1, F.col("id"))
    rows = sorted(((r[1], r[0]) for r in table.select("id", key).collect()), reverse=True)
    for k in (1, 150, 400, 500, 777, 999):
        selection, found = chosen(spark, table, num_to_sample=k, method=method)
        assert (selection.cuts[0].key, selection.cuts[0].id) == rows[k - 1]
        assert ids(found) == sorted(i for _, i in rows[:k])


def without_replacement(weights, k):
    """Probability of each item to be among k draws without replacement in proportion to weights."""
    inclusion = [0.0] * len(weights)
    for order in itertools.permutations(range(len(weights)), k):
        left, p = sum(weights), 1.0
        for item in order:
            p *= weights[item] / left
            left -= weights[item]
        for item in order:
            inclusion[item] += p
    return inclusion


def test_inclusion_frequencies_are_those_of_sampling_without_replacement(spark):
    weights, k, draws = [1.0, 2.0, 3.0, 4.0, 10.0], 2, 20_000
    seeds = (0, 1, -7, 1 << 40)
    rows = [(f"draw {d}, document {i}", math.log(w))
            for i, w in enumerate(weights) for d in range(draws // len(seeds))]  # fmt: skip
    frame = spark.createDataFrame(pa.table(dict(zip("iw", zip(*rows, strict=True), strict=True)))
                                  .to_pandas())  # fmt: skip
    keys = [resample.sampling_key(F.col("w"), s, F.col("i")).alias(f"k{s}") for s in seeds]
    found = frame.select("i", *keys).toPandas().set_index("i").loc[[i for i, _ in rows]]
    keyed = found.to_numpy().reshape(len(weights), draws)
    picked = np.argsort(-keyed, axis=0)[:k]
    observed = np.bincount(picked.ravel(), minlength=len(weights))
    expected = np.array(without_replacement(weights, k)) * draws
    # Counts of items within one draw are negatively correlated: this statistic is conservative.
    chi_square = float(np.sum((observed - expected) ** 2 / expected))
    assert chi_square < 18.5  # 0.1 % of chi-square with 4 degrees of freedom


def pool_of_two(spark, n=400, partitions=3):
    rng = np.random.default_rng(3)
    columns = {
        "id": [f"d{i}" for i in range(n)],
        "log_weight_a": rng.normal(0, 3, n),
        "log_weight_b": rng.normal(1, 5, n),
        "log_weight_c": rng.normal(-2, 1, n),
    }
    return columns, weights_table(spark, columns, partitions)


def greedy(columns, keys, quotas):
    """The joint allocation by its definition: pairs by falling key."""
    pairs = sorted(
        ((keys[t][i], columns["id"][i], t) for t in keys for i in range(len(columns["id"]))),
        reverse=True,
    )
    left, taken = dict(quotas), {}
    for _, doc, t in pairs:
        if doc not in taken and left[t] > 0:
            taken[doc] = t
            left[t] -= 1
    return taken


@pytest.mark.parametrize("k", [0, 7, 120, 399, 400])
def test_joint_allocation_is_the_greedy_one_in_any_order(spark, k):
    columns, table = pool_of_two(spark)
    shares = {"a": 1.0, "b": 1.0, "c": 2.0}
    keys = {t: columns[f"log_weight_{t}"] for t in shares}
    quotas = dict(zip(shares, resample.apportion(k, list(shares.values()), "abc"), strict=True))
    for order in (("a", "b", "c"), ("c", "a", "b")):
        selection, rows = chosen(
            spark, table, targets=order, shares=shares, num_to_sample=k, method="top_k"
        )
        assert {r["id"]: r["target"] for r in rows.collect()} == greedy(columns, keys, quotas)
        assert selection.num_selected == k


def test_sequential_allocation_serves_target_after_target(spark):
    columns, table = pool_of_two(spark)
    options = {"shares": {"a": 1, "b": 1, "c": 1}, "num_to_sample": 90, "method": "top_k"}
    _, rows = chosen(spark, table, targets=("b", "a", "c"), allocation="sequential", **options)
    expected, free = {}, set(range(400))
    for t in "bac":
        best = sorted(free, key=lambda i: (columns[f"log_weight_{t}"][i], columns["id"][i]))[-30:]
        expected |= {columns["id"][i]: t for i in best}
        free -= set(best)
    assert {r["id"]: r["target"] for r in rows.collect()} == expected


def test_same_documents_in_any_partitioning_and_order(spark):
    columns, _ = pool_of_two(spark)
    plain = {"id": columns["id"], "log_weight": columns["log_weight_a"]}
    found = set()
    for partitions in (1, 3, 16):
        table = weights_table(spark, plain, partitions).orderBy(F.rand(partitions))
        found.add(tuple(ids(chosen(spark, table, num_to_sample=50)[1])))
    assert len(found) == 1
    other = chosen(spark, table, num_to_sample=50, seed=2)[1]
    assert tuple(ids(other)) not in found


def test_a_smaller_sample_is_part_of_a_larger_one(spark):
    columns, _ = pool_of_two(spark)
    plain = {"id": columns["id"], "log_weight": columns["log_weight_a"]}
    table = weights_table(spark, plain)
    small, large = (set(ids(chosen(spark, table, num_to_sample=k)[1])) for k in (20, 100))
    assert small < large


def test_apportion_is_whole_fair_and_free_of_order():
    assert resample.apportion(10, [1, 1, 1], ["a", "b", "c"]) == [4, 3, 3]
    assert resample.apportion(10, [1, 1, 1], ["c", "b", "a"]) == [3, 3, 4]
    assert resample.apportion(0, [2, 1], ["a", "b"]) == [0, 0]
    assert sum(resample.apportion(99_999, [0.1, 0.7, 0.2], "abc")) == 99_999


def test_options_out_of_range_are_listed_together():
    wrong = ResampleConfig(
        num_to_sample=-1, method="best", seed=1 << 63, min_example_length=-2,
        proportions={"x": -1}, allocation="random",
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        check(wrong.resample_problems(("x",)))
    for name in ("num_to_sample", "method", "seed", "min_example_length", "proport", "allocation"):
        assert name in str(caught.value)
    with pytest.raises(ConfigError, match="for exactly the targets a, b"):
        check(ResampleConfig(proportions={"a": 1, "c": 2}).resample_problems(("a", "b")))
