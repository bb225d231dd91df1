"""Budgets, quotas, copies, groups and temperature against brute force on small pools."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F
from test_resample import chosen, ids

from dsir_spark import cuts, job, resample
from dsir_spark.config import QualityRule, ResampleConfig, check
from dsir_spark.errors import ColumnError, ConfigError, DataError

pytestmark = pytest.mark.spark
N = 300


def made_pool(spark, partitions=3, seed=3, **more):
    """Columns of a weights table, and the table: ties, sizes of zero, three sources."""
    rng = np.random.default_rng(seed)
    columns = {
        "id": [f"d{i:03}" for i in range(N)],
        "log_weight": np.round(rng.normal(0, 3, N), 1),
        "num_tokens": rng.integers(1, 60, N),
        "size": rng.integers(0, 9, N) / 2,
        "source": rng.choice(["a", "b", "c"], N, p=[0.7, 0.25, 0.05]),
        **more,
    }
    names = list(columns)
    rows = [
        tuple(x.item() if hasattr(x, "item") else x for x in row)
        for row in zip(*columns.values(), strict=True)
    ]
    kinds = {"size": "double", "log_weight": "double", "num_tokens": "bigint"}
    schema = ", ".join(f"{n} {kinds.get(n, 'string')}" for n in names)
    return columns, spark.createDataFrame(rows, schema).repartition(partitions)


def falling(columns, key="log_weight"):
    """Positions by falling (key, id)."""
    return sorted(range(N), key=lambda i: (columns[key][i], columns["id"][i]), reverse=True)


def prefix(order, sizes, budget):
    """The best documents within a budget of sizes; the first that would cross it ends the list."""
    taken, total = [], 0
    for i in order:
        if total + sizes[i] > budget:
            break
        taken.append(i)
        total += sizes[i]
    return taken


@pytest.mark.parametrize("budget", [0, 1, 37, 500, 2_000, 10**6])
@pytest.mark.parametrize("column", [None, "size"])
def test_budgets_of_tokens_and_of_any_size(spark, budget, column):
    columns, table = made_pool(spark)
    sizes = columns["num_tokens"] if column is None else np.ceil(columns["size"]).astype(int)
    expected = prefix(falling(columns), sizes, budget)
    if budget == 0:
        expected = []  # a document of size 0 is not worth a pass
    options = {"num_tokens_to_sample": budget, "size_column": column, "method": "top_k"}
    selection, rows = chosen(spark, table, **options)
    assert ids(rows) == sorted(columns["id"][i] for i in expected)
    assert selection.size == (sum(int(sizes[i]) for i in expected),)
    assert selection.size[0] <= budget and selection.num_selected == len(expected)
    again = chosen(spark, table.coalesce(1).orderBy(F.rand(7)), **options)[0]
    assert again == selection


@pytest.mark.parametrize("kind", ["string", "bigint"])
def test_crowds_of_equal_keys_within_a_budget_of_sizes(spark, monkeypatch, kind):
    monkeypatch.setattr(cuts, "_MAX_WINDOW_ROWS", 50)
    pool = spark.range(2_000).select(
        F.col("id").cast(kind).alias(cuts.ID),
        F.when(F.col("id") < 100, 3.0).otherwise(-2.5).alias(cuts.KEY),
        (F.col("id") % 7).alias(cuts.SIZE),
    )
    rows = sorted(((r[1], r[0], r[2]) for r in pool.collect()), reverse=True)
    for budget in (1, 250, 299, 300, 301, 2_000, 5_990):
        cut = cuts.exact_cut(pool, budget, sized=True)
        expected = prefix(range(len(rows)), [r[2] for r in rows], budget)
        assert cut.num_documents == len(expected)
        reached = pool.where(cut.reached_by(F.col(cuts.KEY), F.col(cuts.ID)))
        assert reached.count() == len(expected)


def test_joint_targets_share_a_budget_of_tokens(spark):
    rng = np.random.default_rng(5)
    more = {f"log_weight_{t}": rng.normal(0, s, N) for t, s in (("x", 3), ("y", 1))}
    columns, _ = made_pool(spark)
    names = ["id", "num_tokens", *more]
    rows = list(zip(columns["id"], columns["num_tokens"].tolist(),
                    *[m.tolist() for m in more.values()], strict=True))  # fmt: skip
    table = spark.createDataFrame(rows, names)
    budget = 1_500
    selection, found = chosen(
        spark, table, targets=("x", "y"), method="top_k", num_tokens_to_sample=budget
    )
    left, taken = {"x": budget / 2, "y": budget / 2}, {}
    pairs = sorted(((more[f"log_weight_{t}"][i], columns["id"][i], t) for t in "xy"
                    for i in range(N)), reverse=True)  # fmt: skip
    size = dict(zip(columns["id"], columns["num_tokens"], strict=True))
    for _, doc, t in pairs:
        if doc in taken or t not in left:
            continue
        if size[doc] > left[t]:
            del left[t]
            continue
        left[t] -= size[doc]
        taken[doc] = t
    assert {r["id"]: r["target"] for r in found.collect()} == taken
    assert all(s <= budget / 2 for s in selection.size)


def brute_force(columns, k, bounds, fill=True):
    """The quotas by their definition: floors first, then the best within the caps."""
    order = falling(columns)
    by_value = {v: [i for i in order if columns["source"][i] == v] for v in "abc"}
    floor = {v: int(lo * k + 1e-6) for v, (lo, _) in bounds.items()}
    cap = {v: int(hi * k + 1e-6) if hi is not None else N for v, (_, hi) in bounds.items()}
    inside = {i for v in bounds for i in by_value[v][: floor[v]]}
    rest = k - (len(inside) if fill else max(len(inside), sum(floor.values())))
    for i in order:
        v = columns["source"][i]
        if rest > 0 and i not in inside and by_value[v].index(i) < cap.get(v, N):
            inside.add(i)
            rest -= 1
    return sorted(columns["id"][i] for i in inside)


@pytest.mark.parametrize(
    "quotas",
    [
        {"c": 0.02},
        {"a": {"max": 0.3}},
        {"b": {"min": 0.5}, "a": {"max": 0.1}},
        {"a": 0.2, "b": 0.3, "c": {"min": 0.01, "max": 0.05}},
        {"c": 0.9},
        {"a": 0.0},
    ],
)
@pytest.mark.parametrize("shortfall", ["fill", "report"])
def test_quotas_are_those_of_brute_force(spark, quotas, shortfall):
    columns, table = made_pool(spark)
    options = {"num_to_sample": 100, "method": "top_k", "quota_column": "source",
               "quotas": quotas, "quota_shortfall": shortfall}  # fmt: skip
    selection, rows = chosen(spark, table, **options)
    bounds = ResampleConfig(quotas=quotas).quota_bounds
    assert ids(rows) == brute_force(columns, 100, bounds, shortfall == "fill")
    assert selection.num_selected == len(ids(rows))
    assert chosen(spark, table.repartition(1), **options)[0] == selection


def test_each_source_keeps_its_share(spark):
    columns, table = made_pool(
        spark, source=[None if i % 5 == 0 else "ab"[i % 2] for i in range(N)]
    )
    options = {"num_to_sample": 50, "method": "top_k", "quota_column": "source", "quotas": "raw"}
    _, rows = chosen(spark, table, **options)
    found = rows.collect()
    order = falling(columns)
    for value in (None, "a", "b"):
        best = [i for i in order if columns["source"][i] == value]
        best = best[: len(best) * 50 // N]
        assert {r["id"] for r in found if r["source"] == value} == {columns["id"][i] for i in best}


def test_quotas_of_sizes_and_of_targets(spark):
    columns, table = made_pool(spark)
    _, rows = chosen(spark, table, method="top_k", num_tokens_to_sample=900, quota_column="source",
                     quotas={"a": {"max": 0.25}})  # fmt: skip
    found = {r["id"] for r in rows.collect()}
    order = falling(columns)
    of_a = prefix([i for i in order if columns["source"][i] == "a"], columns["num_tokens"], 225)
    free = [i for i in order if i in of_a or columns["source"][i] != "a"]
    assert found == {columns["id"][i] for i in prefix(free, columns["num_tokens"], 900)}

    double = table.withColumn("log_weight_x", F.col("log_weight")).withColumn(
        "log_weight_y", F.col("log_weight")
    )
    both = {"method": "top_k", "quota_column": "source", "allocation": "sequential",
            "quotas": {"b": 0.5}}  # fmt: skip
    _, two = chosen(spark, double, targets=("x", "y"), num_to_sample=60, **both)
    taken = two.collect()
    for t, skip in (("x", 0), ("y", 15)):
        of_b = [columns["id"][i] for i in order if columns["source"][i] == "b"][skip : skip + 15]
        got = {r["id"] for r in taken if r["target"] == t and r["source"] == "b"}
        assert got == set(of_b)


def test_impossible_quotas_are_refused_with_the_numbers(spark):
    _, table = made_pool(spark)
    with pytest.raises(ConfigError, match=r"sum to 1\.1; they must not pass 1"):
        check(ResampleConfig(quota_column="s", quotas={"a": 0.6, "b": 0.5}).resample_problems())
    with pytest.raises(ConfigError, match=r"min 0\.5 above max 0\.1"):
        wrong = ResampleConfig(quota_column="s", quotas={"a": {"min": 0.5, "max": 0.1}})
        check(wrong.resample_problems())
    with pytest.raises(ConfigError, match="allocation sequential"):
        check(ResampleConfig(quota_column="s", quotas="raw").resample_problems(("a", "b")))
    with pytest.raises(DataError, match=r"no candidate has 'wikpedia' in source.*most have 'a'"):
        chosen(spark, table, num_to_sample=9, quota_column="source", quotas={"wikpedia": 0.1})
    with pytest.raises(ColumnError, match="no column domain"):
        chosen(spark, table, num_to_sample=9, quota_column="domain", quotas="raw")


def with_hashes(table, copies):
    """`text_hash` of a weights table: id d0xy is a text of its own, or number xy mod copies."""
    number = F.substring("id", 2, 3).cast("bigint")
    text = F.when(number < 40, number % copies).otherwise(number)
    return table.withColumn("text_hash", F.struct(text.alias("high"), F.lit(0).alias("low")))


@pytest.mark.parametrize("targets, few", [((None,), 500_000), (("x", "y"), 500_000), ((None,), 3)])
def test_copies_enter_once_with_the_smallest_id(spark, monkeypatch, targets, few):
    monkeypatch.setattr("dsir_spark.copies._FEW", few)  # above it, nothing is kept between passes
    rng = np.random.default_rng(8)
    more = {} if targets == (None,) else {f"log_weight_{t}": rng.normal(0, 2, N) for t in "xy"}
    _, table = made_pool(spark, **more)
    for name in more:
        table = table.withColumn(name, F.col(name).cast("double"))
    table = with_hashes(table, 6)
    options = {"targets": targets, "duplicates": "drop", "num_to_sample": 150, "method": "top_k"}
    selection, rows = chosen(spark, table, **options)
    assert selection.funnel.duplicate_text == 34
    assert selection.funnel.candidates == N - 34
    found = {r["id"] for r in rows.collect()}
    without = table.where("id < 'd006' or id >= 'd040'")
    _, others = chosen(spark, without, **{**options, "duplicates": "keep"})
    assert found == {r["id"] for r in others.collect()} and len(found) == 150
    assert chosen(spark, table.repartition(9), **options)[0] == selection
    with pytest.raises(ColumnError, match="text_hash"):
        chosen(spark, table.drop("text_hash"), num_to_sample=1, duplicates="drop")


def test_the_best_of_each_group(spark):
    columns, table = made_pool(spark, source=[None if i < 20 else f"g{i % 40}" for i in range(N)])
    options = {"group_column": "source", "max_per_group": 2, "num_to_sample": 60, "method": "top_k"}
    selection, rows = chosen(spark, table, **options)
    left, expected = {}, []
    for i in falling(columns):
        group = columns["source"][i]
        left[group] = left.get(group, 0) + 1
        if group is None or left[group] <= 2:
            expected.append(columns["id"][i])
    assert selection.funnel.candidates == len(expected)
    assert selection.funnel.over_max_per_group == N - len(expected)
    assert ids(rows) == sorted(expected[:60])
    # Copies do not use up a group's places.
    both = {**options, "duplicates": "drop"}
    selection, rows = chosen(spark, with_hashes(table, 4), **both)
    only = [i for i in falling(columns) if not 4 <= i < 40]
    left, expected = {}, []
    for i in only:
        group = columns["source"][i]
        left[group] = left.get(group, 0) + 1
        if group is None or left[group] <= 2:
            expected.append(columns["id"][i])
    assert ids(rows) == sorted(expected[:60])


def size_at(weights, t):
    w = np.exp((np.array(weights) - max(weights)) / t)
    return w.sum() ** 2 / (w * w).sum()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-500, 500), min_size=2, max_size=40),
    st.floats(0.01, 0.98), st.sampled_from([0.01, 1.0]),
)  # fmt: skip
def test_the_smallest_temperature(weights, share, floor):
    wanted = 1 + share * (len(weights) - 1)
    found = resample.smallest_temperature(np.array(weights), np.ones(len(weights)), wanted, floor)
    assert size_at(weights, found) >= wanted * (1 - 1e-6)
    assert found == floor or size_at(weights, found * (1 - 1e-3) - floor / 1024) < wanted


def test_temperature_auto_gives_the_size_wanted(spark):
    rng = np.random.default_rng(4)
    columns, table = made_pool(spark, log_weight=rng.normal(0, 60, N))
    selection, rows = chosen(spark, table, num_to_sample=40, temperature="auto")
    t = selection.temperatures[0]
    assert t > 5 and size_at(columns["log_weight"], t) == pytest.approx(40, rel=1e-2)
    assert resample.effective_sample_size(table, selection)[None] == pytest.approx(40, rel=1e-2)
    keys = {columns["id"][i]: columns["log_weight"][i] / t for i in range(N)}
    noise = {r["id"]: r["g"] for r in table.select("id", resample.gumbel(1, F.col("id")).alias("g"))
             .collect()}  # fmt: skip
    best = sorted(keys, key=lambda i: keys[i] + noise[i], reverse=True)[:40]
    assert ids(rows) == sorted(best)
    flat = chosen(spark, table.withColumn("log_weight", F.lit(0.0)), num_to_sample=5,
                  temperature="auto")[0]  # fmt: skip
    assert flat.temperatures == (1.0,)


def test_means_instead_of_sums(spark):
    columns, table = made_pool(spark)
    _, rows = chosen(spark, table, num_to_sample=50, method="top_k", normalize="ngram")
    tokens = columns["num_tokens"]
    columns["mean"] = columns["log_weight"] / (2 * tokens - 1)
    assert ids(rows) == sorted(columns["id"][i] for i in falling(columns, "mean")[:50])


def test_the_quality_rule_counts_its_losses(spark):
    rows = [
        ("good", 100, 10, 50, 5),
        ("short", 40, 4, 20, 0),
        ("long", 500, 50, 250, 0),
        ("repeating", 100, 20, 50, 0),
        ("monotonous", 100, 2, 50, 0),
        ("empty words", 100, 10, 30, 0),
        ("dense", 100, 10, 70, 0),
        ("numbers", 100, 10, 50, 20),
    ]
    names = ["id", "num_tokens", *resample.QUALITY]
    table = spark.createDataFrame(rows, names).withColumn("log_weight", F.lit(0.0))
    selection, found = chosen(spark, table, num_to_sample=1, quality="paper")
    assert ids(found) == ["good"]
    funnel = selection.funnel
    assert (funnel.quality_length, funnel.quality_repeating, funnel.quality_informative,
            funnel.quality_numeric, funnel.candidates) == (2, 2, 2, 1, 1)  # fmt: skip
    _, more = chosen(spark, table, num_to_sample=2, quality={"max_tokens": 501})
    assert ids(more) == ["good", "long"]
    assert QualityRule().max_tokens == 500
    with pytest.raises(ConfigError, match="quality has no bound max_words"):
        check(ResampleConfig(quality={"max_words": 3}).resample_problems())


@pytest.mark.parametrize(
    "options, said",
    [
        ({"num_to_sample": 1, "num_tokens_to_sample": 1}, "not both"),
        ({"num_to_sample": 1, "size_column": "bytes"}, "size_column is for"),
        ({"temperature": 0}, "temperature must be auto or a number > 0"),
        ({"temperature": 2, "method": "top_k"}, "temperature is for method sample"),
        ({"normalize": "ngram", "method": "match"}, "normalize is for"),
        ({"max_per_group": 3}, "belong together"),
        ({"quotas": "raw"}, "belong together"),
        ({"quotas": {"a": 2}, "quota_column": "s"}, "the quota of a must be a share"),
        ({"quotas": "all", "quota_column": "s"}, "quotas must be raw"),
        ({"duplicates": "merge"}, "drop, keep"),
        ({"quality": "best"}, "quality must be paper"),
    ],
)
def test_contradictions_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        check(ResampleConfig(**options).resample_problems())


def test_temperature_of_equal_weights_is_the_floor():
    assert resample.smallest_temperature(np.zeros(1), np.array([9.0]), 8.5, 1.0) == 1.0
    assert math.isfinite(resample.smallest_temperature(np.array([0.0, 9.0]), np.ones(2), 1.99, 1.0))


def test_values_that_dominate_are_found_among_the_selected(spark):
    columns, table = made_pool(spark)
    best = F.col("log_weight") > F.lit(float(np.sort(columns["log_weight"])[-60]))
    value = F.when(best, F.lit("mine\x07")).otherwise(F.lit("other"))
    table = table.withColumn("si.te", value).withColumn("all", F.lit("same"))
    names = ["source", "si.te", "all"]
    selection, _ = chosen(spark, table, num_to_sample=40, method="top_k")
    (check,) = [c for c in job._dominating(table, selection, names) if c is not None]
    assert (check.name, check.found) == ("dominates", 1.0)
    share = sum(r["si.te"] != "other" for r in table.collect()) / N
    assert f"si.te 'mine\ufffd', {share:.0%} of raw" in check.sentence
    none, _ = chosen(spark, table, num_to_sample=0, method="top_k")
    assert job._dominating(table, none, names) == []


def test_sample_of_ranks_is_the_same_in_any_partitioning(spark):
    columns, table = made_pool(spark)
    selection, _ = chosen(spark, table, num_to_sample=40)
    first = job.sample_of_ranks(selection, table)
    assert [r["id"] for r in first] == sorted(columns["id"])
    assert [r["rank_0"] for r in first] == list(columns["log_weight"])
    assert job.sample_of_ranks(selection, table.repartition(7, "source")) == first
