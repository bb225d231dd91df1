"""Cuts and allocation in detail: NumPy on millions, theory, extreme keys, crowds, many targets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from dsir_spark.selection import allocation, cuts, exact_cut, exact_cuts, keys, narrowing
from dsir_spark.selection.allocation import Rule, apportion
from dsir_spark.selection.pool import ID, KEYS, SIZE
from dsir_spark.selection.rows import Rows, matrix


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
def test_exact_cuts_equal_numpy_on_millions(spark):
    n = 2_000_000
    pool = spark.range(n, numPartitions=4).select(
        F.col("id").alias(ID),
        F.round(F.xxhash64("id") / 2.0**55, 2).alias(cuts.KEY),  # many ties
    )
    rows = pool.orderBy(cuts.KEY, ID)
    rows = rows.toArrow() if hasattr(rows, "toArrow") else pa.table(rows.toPandas())
    budgets = [0, 1, 2, 999, 1_100_000, n - 1, n]
    found = exact_cuts(pool, [(0, k) for k in budgets], sized=False)
    for k, cut in zip(budgets, found, strict=True):
        last = tuple(rows[c][n - k].as_py() for c in (cuts.KEY, ID)) if k else (None, None)
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
@pytest.mark.parametrize("kind", ["string", "bigint"])
@pytest.mark.parametrize("sized", [False, True])
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
    assert exact_cut(frame, 7).num_documents == 7


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


def test_apportion_is_whole_fair_and_free_of_order():
    assert apportion(10, [1, 1, 1], ["a", "b", "c"]) == [4, 3, 3]
    assert apportion(10, [1, 1, 1], ["c", "b", "a"]) == [3, 3, 4]
    assert apportion(0, [2, 1], ["a", "b"]) == [0, 0]
    assert sum(apportion(99_999, [0.1, 0.7, 0.2], "abc")) == 99_999


def greedy(table, rule):
    """The joint allocation by its definition: pairs by falling (key, id), then by name."""
    ids, sizes = table[ID].to_pylist(), table[SIZE].to_pylist()
    pairs = sorted(
        (
            (key, ids[i], -ord(rule.names[t]), i, t)
            for i, keyed in enumerate(table[KEYS].to_pylist())
            for t, key in enumerate(keyed)
        ),
        reverse=True,
    )
    taken, left = {}, list(rule.budgets)
    full = {t for t, b in enumerate(left) if b == 0}
    for _, _, _, i, t in pairs:
        if i in taken or t in full:
            continue
        size = sizes[i] if rule.sized else 1
        if size > left[t]:
            full.add(t)
            continue
        taken[i], left[t] = t, left[t] - size
    return taken


def made_table(rng, n, targets, digits):
    """Rows that all targets like for the same reason, and each for its own."""
    common = rng.normal(0, 2, n) * rng.choice([0, 1])
    own = [rng.normal(0, rng.choice([0.5, 3]), n) for _ in range(targets)]
    keyed = np.round(common + np.array(own), digits).T + 0.0
    ids = [f"d{i:04}" for i in rng.permutation(3 * n)[:n]]
    return pa.table({ID: ids, SIZE: rng.integers(0, 9, n), KEYS: keyed.tolist()})


def settled(table, rule):
    """What the driver settles, as `greedy` has it."""
    rows = Rows.of(table if rule.sized else table.drop_columns([SIZE]))
    keyed = matrix(table, KEYS, len(rule.names)).copy()
    keyed[:, [b == 0 for b in rule.budgets]] = np.nan
    taken, _ = allocation.settle(rows, keyed, rule)
    return {i: int(t) for i, t in enumerate(taken) if t >= 0}


@pytest.mark.parametrize("sized", [False, True])
def test_targets_are_settled_by_falling_key(sized):
    for seed in range(150):
        rng = np.random.default_rng(seed)
        names = list(rng.permutation(list("abcdef"))[: rng.integers(1, 7)])
        n, shares = int(rng.integers(1, 50)), [1.0 + t % 2 for t in range(len(names))]
        table = made_table(rng, n, len(names), int(rng.choice([0, 1, 9])))
        most = 2 * sum(table[SIZE].to_pylist()) if sized else n
        budgets = apportion(int(rng.integers(0, most + 1)), shares, names)
        rule = Rule(names, budgets, sized, joint=True)
        assert settled(table, rule) == greedy(table, rule)


@pytest.mark.spark
@pytest.mark.parametrize(
    "targets, sized, digits, joint, passes",
    [
        (60, False, 9, True, 5),
        (12, True, 9, True, 6),
        (5, True, 0, True, 9),
        (12, False, 9, False, 6),
    ],
)
def test_many_targets_are_closed_in_on_in_few_passes(
    spark, monkeypatch, targets, sized, digits, joint, passes
):
    rng = np.random.default_rng(targets)
    names = [chr(ord("\u0100") + t) for t in rng.permutation(targets)]
    table = made_table(rng, 2_000, targets, digits)
    budgets = apportion(1_000 if sized else 300, [1.0 + t % 3 for t in range(targets)], names)
    rule = Rule(names, budgets, sized, joint)
    schema = f"{ID} string, {SIZE} bigint, {KEYS} array<double>"
    frame = spark.createDataFrame(table.to_pylist(), schema)
    monkeypatch.setattr(narrowing, "_OPEN_BYTES", 200 * allocation.row_bytes(targets))
    counted, made = narrowing._counted, []
    monkeypatch.setattr(narrowing, "_counted", lambda *a: made.append(1) or counted(*a))
    found = narrowing.narrowed_cuts(frame, rule)
    placed = frame.select(ID, rule.choice(found, F.col(KEYS), F.col(ID)).alias("to"))
    taken = dict(placed.where("`to` is not null").collect())
    wanted = greedy(table, rule) if joint else settled(table, rule)
    ids = table[ID].to_pylist()
    assert taken == {ids[i]: t for i, t in wanted.items()}
    assert sum(c.num_documents for c in found) == len(taken)
    assert len(made) <= passes
