"""Cuts and allocation in detail: NumPy on many rows, theory, extreme keys, crowds, many targets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from pyspark.sql import functions as F
from test_selection import SEED, chosen, expected

from dsir_spark.local_rows import to_arrow
from dsir_spark.options import part_of
from dsir_spark.score_options import ScoreOptions
from dsir_spark.selection import allocation, cuts, exact_cuts, keys, quotas, small
from dsir_spark.selection.allocation import apportion, row_bytes
from dsir_spark.selection.pool import FEW_TARGETS, ID, SIZE


@pytest.mark.spark
def test_key_is_the_contract_formula(spark):
    from oracle import sampling_key

    names = ["a", "", "\u00e9\U0001f600", "x" * 100]
    frame = spark.createDataFrame(
        [(n, float(i)) for i, n in enumerate(names)], "id string, w double"
    )
    found = frame.select("w", F.col("w") + keys.gumbel(7, F.col("id"))).collect()
    for name, (weight, key) in zip(names, found, strict=True):
        assert key == pytest.approx(sampling_key(weight, 7, name), rel=1e-12)


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


@pytest.mark.spark
def test_inclusion_frequencies_are_those_of_sampling_without_replacement(spark):
    weights, k, draws = [1.0, 2.0, 3.0, 4.0, 10.0], 2, 20_000
    seeds = (0, 1, -7, 1 << 40)
    numbers = spark.range(draws // len(seeds), numPartitions=1)
    names = [F.concat(F.lit("draw "), "id", F.lit(f", document {i}")) for i in range(len(weights))]
    noisy = [
        (F.lit(math.log(w)) + keys.gumbel(s, name)).alias(f"k{i}_{s % 97}")
        for i, (w, name) in enumerate(zip(weights, names, strict=True)) for s in seeds
    ]  # fmt: skip
    keyed = np.array(numbers.select(*noisy).collect()).T.reshape(len(weights), draws)
    picked = np.argsort(-keyed, axis=0)[:k]
    observed = np.bincount(picked.ravel(), minlength=len(weights))
    expected = np.array(without_replacement(weights, k)) * draws
    # Counts of items within one draw are negatively correlated: this statistic is conservative.
    chi_square = float(np.sum((observed - expected) ** 2 / expected))
    assert chi_square < 18.5  # 0.1 % of chi-square with 4 degrees of freedom


@pytest.mark.spark
def test_exact_cuts_equal_numpy_on_many_rows(spark):
    n = 50_000
    pool = spark.range(n, numPartitions=4).select(
        F.col("id").alias(ID),
        F.round(F.xxhash64("id") / 2.0**55, 2).alias(cuts.KEY),  # many ties
    )
    held = to_arrow(pool)
    key, row = (held[c].to_numpy() for c in (cuts.KEY, ID))
    order = np.lexsort((row, key))
    budgets = [0, 1, 999, 30_000, n - 1, n]
    found = exact_cuts(pool, [(0, k) for k in budgets], sized=False)
    for k, cut in zip(budgets, found, strict=True):
        last = (key[order[n - k]], row[order[n - k]]) if k else (None, None)
        assert (cut.key, cut.id, cut.num_documents) == (*last, k)
    reached = [F.count_if(c.reached_by(F.col(cuts.KEY), F.col(ID))) for c in found]
    assert list(pool.agg(*reached).first()) == budgets


def crowd(spark, kind):
    """3,000 rows, and these by falling (key, id): two values of the key, long common prefixes."""
    number = F.col("id")
    name = F.concat(F.lit("https://\u00e9xample/"), F.lpad(number.cast("string"), 9, "0"))
    pool = spark.range(3_000).select(
        (name if kind == "string" else number.cast(kind) - 1_500).alias(ID),
        F.when(number < 100, 3.0).otherwise(-2.5).alias(cuts.KEY), (number % 7).alias(SIZE),
    )  # fmt: skip
    return pool, sorted(((r[1], r[0], r[2]) for r in pool.collect()), reverse=True)


@pytest.mark.spark
@pytest.mark.parametrize("kind, sized", [("string", True), ("bigint", False)])
def test_crowds_of_equal_keys_are_cut_by_id(spark, monkeypatch, kind, sized):
    monkeypatch.setattr(cuts, "_MAX_ROWS", 300)
    pool, rows = crowd(spark, kind)
    total = np.cumsum([r[2] for r in rows])
    budgets = [1, 250, 299, 301, 5_990, 20_000] if sized else [1, 99, 100, 101, 1_234, 3_000]
    for cut, k in zip(exact_cuts(pool, [(0, k) for k in budgets], sized), budgets, strict=True):
        n = int(np.searchsorted(total, k, side="right")) if sized else k
        if n == len(rows) and sized:
            assert (cut.id, cut.num_documents, cut.size) == (None, n, total[-1])
        else:
            assert (cut.key, cut.id) == rows[n if sized else n - 1][:2]
            assert (cut.num_documents, cut.exclusive) == (n, sized)


@pytest.mark.spark
def test_wide_and_narrow_ranges_of_keys(spark, monkeypatch):
    monkeypatch.setattr(cuts, "_MAX_ROWS", 400)
    values = [1e300, -1e300, 0.0, 5e-324, -5e-324, 1.0, math.nextafter(1.0, 2.0), -708.4]
    values += [math.inf] * 30 + [-math.inf] * 30 + [5e9 + i for i in range(30)]
    values += [1000 + i * 1e-10 for i in range(300)] + [-3.0 - i * 1e-13 for i in range(300)]
    frame = spark.createDataFrame(list(enumerate(values)), f"{ID} int, {cuts.KEY} double")
    rows = sorted(((v, i) for i, v in enumerate(values)), reverse=True)
    budgets = list(range(1, len(values) + 1, 29))
    found = exact_cuts(frame.repartition(3), [(0, k) for k in budgets], sized=False)
    assert [(c.key, c.id) for c in found] == [rows[k - 1] for k in budgets]


@pytest.mark.spark
@pytest.mark.parametrize("kind", ["gumbel", "uniform", "none"])
def test_rows_far_from_the_cut_are_passed_over_and_none_near_it(spark, kind):
    rng = np.random.default_rng(8)
    scores = np.concatenate([rng.normal(0, s, 200) for s in (1e-3, 1.0, 40.0, 1e6, 1e11)])
    scores[:3] = math.inf, -math.inf, -math.inf
    frame = spark.createDataFrame(
        [(f"d{i}", float(w)) for i, w in enumerate(scores)], f"{ID} string, w double"
    )
    noisy = frame.withColumn(cuts.KEY, F.col("w") + keys.noise(kind, 1, F.col(ID))).repartition(2)
    rows = sorted(((r[2], r[0]) for r in noisy.collect()), reverse=True)
    budgets = [1, 150, 400, 500, 777, 999, 1000]

    def near(low, high):
        return keys.may_be_between(F.col("w"), kind, low, high)

    found = exact_cuts(noisy, [(0, k) for k in budgets], False, near=near)
    assert [(c.key, c.id) for c in found] == [rows[k - 1] for k in budgets]


@pytest.mark.spark
@pytest.mark.parametrize("method", ["sample", "top_k"])
def test_no_row_that_a_cut_takes_is_passed_over(spark, method):
    """Of many targets, where rows are first told by their noise; with scores of all sizes."""
    rng = np.random.default_rng(9)
    names = [f"t{t}" for t in range(FEW_TARGETS + 3)]
    scale = np.resize([1.0, 0.1, 60.0, 1e-9, 1.0, 1e6, 3.0, 1e12], len(names))
    scores = rng.normal(0, 1, (400, len(names))) * scale
    scores[::7] = np.round(scores[::7])  # ties
    scores[:40, 2], scores[40:42, 3] = -math.inf, math.inf
    given = [(f"d{i}", *own) for i, own in enumerate(scores.tolist())]
    frame = spark.createDataFrame(given, ["id", *names])
    rows = [r.asDict() for r in frame.withColumn("g_id", keys.gumbel(SEED, F.col("id"))).collect()]
    for k in (60, 399):
        shares = {name: float(t != 1) for t, name in enumerate(names)}  # one takes none
        options = {"scores": names, "num_to_sample": k, "method": method}
        selection, found = chosen(frame, shares=shares, **options)
        assert found == expected(rows, shares=shares, **options)[0]
        assert selection.rejected(frame).count() == 400 - k


def test_apportion_is_whole_fair_and_free_of_order():
    assert apportion(10, [1, 1, 1], ["a", "b", "c"]) == [4, 3, 3]
    assert apportion(10, [1, 1, 1], ["c", "b", "a"]) == [3, 3, 4]
    assert apportion(1, [1, 1], ["None", None]) == apportion(1, [1, 1], [None, "None"])[::-1]
    assert apportion(0, [2, 1], ["a", "b"]) == [0, 0]
    assert apportion(5, [0.0, 0.0], ["a", "b"]) == [0, 0]
    assert sum(apportion(99_999, [0.1, 0.7, 0.2], "abc")) == 99_999


@pytest.mark.parametrize("whole", [100, 2**53 + 1, 2**54 + 2, 2**60 + 1, 2**63 - 1])
def test_shares_of_sizes_are_whole_above_what_doubles_hold(whole):
    assert apportion(whole, [1.0], ["a"]) == [whole]
    for n in range(1, 5):
        assert sum(apportion(whole, [1.0] * n, "abcd"[:n])) == whole
    quota = ScoreOptions.checked(
        {"quantile": 1, "size_column": "s", "quota_column": "q", "quotas": "raw"})  # fmt: skip
    assert quota.budget_of(3, lambda: whole) == whole
    amounts = {"a": whole - 50, "b": 50}
    assert quotas._budgets_of(whole, amounts, quota) == (amounts, amounts)
    assert part_of(whole, 1.0) == whole and part_of(whole // 100 * 100, 0.29) == whole // 100 * 29


@pytest.mark.spark
@pytest.mark.parametrize(
    "targets, sized, digits, way, passes",
    [
        (60, False, 9, "joint", 7),
        (5, True, 0, "joint", 8),
        (12, False, 9, "sequential", 6),
    ],
)
def test_many_targets_are_closed_in_on_in_few_passes(
    spark, monkeypatch, targets, sized, digits, way, passes
):
    rng = np.random.default_rng(targets)
    names = [f"t{t:02}" for t in rng.permutation(targets)]
    # Rows that all targets like for the same reason, and each for its own.
    spread = rng.choice([0.5, 3], targets)
    liked = rng.normal(0, 2, (1_500, 1)) + rng.normal(0, 1, (1_500, targets)) * spread
    rows = [
        {"id": f"d{i:04}", "size": float(size), **dict(zip(names, keyed, strict=True))}
        for i, size, keyed in zip(rng.permutation(4_000)[:1_500], rng.integers(0, 9, 1_500),
                                  np.round(liked, digits).tolist(), strict=True)
    ]  # fmt: skip
    frame = spark.createDataFrame([tuple(r.values()) for r in rows], list(rows[0]))
    monkeypatch.setattr(small, "BYTES", -1)
    monkeypatch.setattr(allocation, "_OPEN_BYTES", 200 * row_bytes(targets))
    counted, made = allocation._counted, []
    monkeypatch.setattr(allocation, "_counted", lambda *a: made.append(1) or counted(*a))
    budget = (
        {"num_tokens_to_sample": 900, "size_column": "size"} if sized else {"num_to_sample": 300}
    )
    options = {"scores": names, "allocation": way, **budget}
    shares = {name: 1.0 + t % 3 for t, name in enumerate(names)}
    selection, found = chosen(frame, shares=shares, **options)
    assert found == expected(rows, shares=shares, **options)[0]
    assert len(made) <= passes
    assert selection.num_selected == len(found) > targets
