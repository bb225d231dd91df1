"""`select` by scores against plain Python: direction, scale, threshold, share, ties, keep rules."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from pyspark.sql import functions as F

from dsir_spark import select
from dsir_spark.errors import ColumnError, ConfigError, DataError
from dsir_spark.local_rows import from_arrow, to_arrow
from dsir_spark.selection import keys
from dsir_spark.selection.allocation import apportion

pytestmark = pytest.mark.spark

N = 240
SEED = 5
SCHEMA = "id string, x double, p double, stars int, size int, source string, w string"


def made_rows():
    """Scores with ties, infinite, missing and extreme ones; three sources, one of them null."""
    rng = np.random.default_rng(11)
    x = np.round(rng.normal(3, 10, N), 1)
    x[:8] = [math.inf, math.inf, -math.inf, -math.inf, math.nan, 1e300, -1e300, -0.0]
    rows = []
    for i in range(N):
        rows.append({
            "id": f"d{i:03}", "x": None if i % 60 == 59 else float(x[i]),
            "p": float(rng.beta(0.3, 0.6)), "stars": int(rng.integers(0, 6)),
            "size": int(rng.integers(0, 30)), "source": ["web", "news", None][int(rng.integers(3))],
            "w": f"t{i // 4}" if i < 40 else f"u{i}",
        })  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def table(spark):
    frame = spark.createDataFrame([tuple(r.values()) for r in made_rows()], SCHEMA)
    frame = from_arrow(spark, to_arrow(frame), frame.schema)  # of which queries are quicker
    # What Spark makes the noise of is held by a test of its own.
    noise = {"hash": F.xxhash64(F.lit(SEED).cast("bigint"), "id"),
             "gumbel": keys.gumbel(SEED, F.col("id"))}  # fmt: skip
    return frame, [r.asDict() for r in frame.withColumns(noise).collect()]


@pytest.fixture(params=["driver", "passes"])
def way(request, monkeypatch):
    if request.param == "passes":
        for name, bound in {"small.BYTES": -1, "cuts._MAX_ROWS": 20}.items():
            monkeypatch.setattr(f"dsir_spark.selection.{name}", bound)


def scaled(scores, kind):
    """Normalised scores of one group, null and NaN left as NaN."""
    scores = np.array([math.nan if s is None else s for s in scores])
    known = scores[~np.isnan(scores)]
    if kind == "rank":
        return np.array([
            math.nan if math.isnan(s)
            else (2 * int((known < s).sum()) + int((known == s).sum())) / (2 * len(known))
            for s in scores
        ])  # fmt: skip
    finite = [Fraction(s) for s in known[np.isfinite(known)].tolist()]
    mean, deviation = statistics.mean(finite), statistics.pstdev(finite)
    return np.array([
        s if not math.isfinite(s) else float((Fraction(s) - mean) / Fraction(deviation))
        for s in scores.tolist()
    ])  # fmt: skip


def expected(rows, column, **o):
    """The ids that are selected, by the definition."""
    given = {r["id"]: r[column] for r in rows if r[column] is not None}
    given = {i: float(s) for i, s in given.items() if not math.isnan(s)}
    sign = -1.0 if o.get("lower_is_better") else 1.0
    score = {i: sign * s for i, s in given.items()}
    if kind := o.get("normalize_score"):
        groups = {}
        for r in rows:
            groups.setdefault(r[o["normalize_within"]] if "normalize_within" in o else 0,
                              []).append(r["id"])  # fmt: skip
        for ids in groups.values():
            own = scaled([score.get(i) for i in ids], kind)
            score |= {i: s for i, s in zip(ids, own.tolist(), strict=True) if i in score}
    pool = [r for r in rows if r["id"] in score]
    if (limit := o.get("threshold")) is not None:
        pool = [r for r in pool if sign * given[r["id"]] >= sign * limit]
    method, noise = o.get("method", "sample"), {}
    draws = {
        r["id"]: (((r["hash"] % 2**64 >> 11) + 0.5) * 2.0**-53) ** (-1 / 9) - 1 for r in rows
    }
    if method == "pareto":
        pool = [r for r in pool if draws[r["id"]] > 1 - score[r["id"]]]
        noise = draws
    if method == "sample":
        score = {i: s / o.get("temperature", 1.0) for i, s in score.items()}
        noise = {r["id"]: r["gumbel"] for r in rows}
    if o.get("copies"):
        first = {}
        for r in sorted(pool, key=lambda r: r["id"]):
            first.setdefault(r["w"], r)
        pool = list(first.values())

    def key(r):
        if method == "random":
            return (r["hash"] % 2**64) >> 11, r["hash"]
        return score[r["id"]] + noise.get(r["id"], 0.0), r["hash"]

    by_size = o.get("size_column")
    sizes = {r["id"]: r["size"] if by_size else 1 for r in pool}
    budgets = [o[n] for n in ("num_to_sample", "num_tokens_to_sample") if n in o]
    if "quantile" in o:
        budgets.append(int(o["quantile"] * sum(sizes.values()) + 1e-6))
    budget, taken = min(budgets, default=math.inf), []
    for r in sorted(pool, key=key, reverse=True):
        if sizes[r["id"]] > budget:
            break
        budget -= sizes[r["id"]]
        taken.append(r["id"])
    return sorted(taken)


TOP = {"method": "top_k"}
CASES = {
    "ties by the seed": ("stars", {**TOP, "num_to_sample": 70}),
    "infinities first": ("x", {**TOP, "num_to_sample": 1}),
    "and last": ("x", {**TOP, "num_to_sample": 233}),
    "lower is better": ("x", {**TOP, "num_to_sample": 30, "lower_is_better": True}),
    "random": ("x", {"method": "random", "num_to_sample": 50}),
    "random by size": ("x", {"method": "random", "quantile": 0.3, "size_column": "size"}),
    "pareto": ("p", {"method": "pareto"}),
    "pareto to a budget": ("p", {"method": "pareto", "num_to_sample": 20}),
    "threshold": ("stars", {**TOP, "threshold": 3}),
    "threshold below": ("x", {**TOP, "threshold": 0, "lower_is_better": True}),
    "threshold to a budget": ("stars", {**TOP, "threshold": 3, "num_tokens_to_sample": 200,
                                        "size_column": "size"}),
    "tenth of the documents": ("x", {**TOP, "quantile": 0.1}),
    "tenth of the sizes": ("x", {**TOP, "quantile": 0.1, "size_column": "size"}),
    "tenth or fewer": ("x", {**TOP, "quantile": 0.1, "num_to_sample": 7}),
    "all of it": ("x", {**TOP, "quantile": 1}),
    "sample": ("x", {"num_to_sample": 40, "temperature": 5.0}),
    "sample of a share": ("stars", {"quantile": 0.2, "temperature": 0.5}),
    "by rank": ("x", {"num_to_sample": 60, "temperature": 0.1, "normalize_score": "rank"}),
    "by rank within": ("x", {**TOP, "num_to_sample": 60, "normalize_score": "rank",
                             "normalize_within": "source"}),
    "by z": ("size", {"num_to_sample": 60, "temperature": 0.3, "normalize_score": "z"}),
    "by z within": ("size", {**TOP, "num_to_sample": 60, "normalize_score": "z",
                             "normalize_within": "source", "lower_is_better": True}),
    "without copies": ("x", {**TOP, "num_to_sample": 60, "copies": "w"}),
    "copies of a share": ("stars", {**TOP, "quantile": 0.2, "copies": "w"}),
}  # fmt: skip


@pytest.mark.parametrize(
    "way, name",
    # Without copies and groups, rows of unknown number are cut by their bins, however few.
    [(way, name) for name, (_, own) in CASES.items() for way in ("driver", "passes")
     if way == "passes" or "copies" in own],
    indirect=["way"],
)  # fmt: skip
def test_the_selection_is_that_of_plain_python(table, way, name):
    frame, rows = table
    score, options = CASES[name]
    found = select(frame, score, seed=SEED, **options)
    assert found.columns == frame.columns
    assert sorted(r["id"] for r in found.collect()) == expected(rows, score, **options)


def normal(frame, score, **options):
    """What rows are ranked by, as text of the exact bits, by id."""
    from dsir_spark.score_options import ScoreOptions
    from dsir_spark.selection import scores

    checked = ScoreOptions.checked({"quantile": 1, **options})
    rows = frame.select("id", "source", F.col(score).cast("double").alias("score"))
    rows = scores.normalized(rows, ["score"], ["by"], checked)
    return {r["id"]: None if r["by"] is None else r["by"].hex() for r in rows.collect()}


@pytest.mark.parametrize("kind", ["rank", "z"])
@pytest.mark.parametrize("within", [None, "source"])
def test_normalised_scores_are_exact_for_any_partitioning(table, kind, within):
    frame, rows = table
    score = "x" if kind == "rank" else "size"
    options = {"normalize_score": kind, "normalize_within": within}
    once = normal(frame, score, **options)
    assert normal(frame.repartition(5), score, **options) == once
    for value in {r[within] if within else None for r in rows}:
        own = [r for r in rows if within is None or r[within] == value]
        found = [math.nan if (h := once[r["id"]]) is None else float.fromhex(h) for r in own]
        right = scaled([r[score] for r in own], kind)
        bound = {"rank": 0, "z": 1e-9}[kind]
        np.testing.assert_allclose(found, right, rtol=0, atol=bound)


def test_extreme_scores_have_finite_means(spark):
    """Of infinite ones too, of equal ones, and of groups that are bytes."""
    extreme = [-1.7e308, 1.7e308, math.inf, math.nan]
    groups = {b"a": extreme, b"x": [0.1, 0.1], bytes([200]): [0.0, 1.0], bytes([201]): [2.0, 3.0]}
    rows = [(f"{i}{n}", score, own) for i, (own, scores) in enumerate(groups.items())
            for n, score in enumerate(scores)]  # fmt: skip
    frame = spark.createDataFrame(rows, "id string, score double, source binary")
    found = normal(frame, "score", normalize_score="z", normalize_within="source")
    assert found.pop("03") is None
    assert found["10"] == found["11"] == (0.0).hex()
    z = [float.fromhex(own) for _, own in sorted(found.items())]
    assert z == pytest.approx([-1, 1, math.inf, 0, 0, -1, 1, -1, 1])


def repeated(rows, column, shares, budget, most, sized, fill):
    """How often each id is selected: of each group, in rounds, the best up to its budget; what is
    left is for values without a share, if `fill`."""
    pool = [r for r in rows if r[column] is not None and not math.isnan(r[column])]
    if shares == "raw":
        shares = {}
        for r in pool:
            amount = r["size"] if sized else 1
            shares[r["source"]] = shares.get(r["source"], 0) + amount
    names = sorted(shares, key=str)
    budgets = apportion(budget, [float(shares[n]) for n in names], names)
    found, taken = Counter(), 0
    pool.sort(key=lambda r: (r[column], r["hash"]), reverse=True)

    def take(own, left, most):
        nonlocal taken
        for r in own * most:
            size = r["size"] if sized else 1
            if size > left or (not sized and not left):
                break
            left, taken = left - size, taken + size
            found[r["id"]] += 1

    for name, left in zip(names, budgets, strict=True):
        take([r for r in pool if r["source"] == name], left, most)
    if fill:
        take([r for r in pool if r["source"] not in names], budget - taken, 1)
    return dict(found)


@pytest.mark.parametrize(
    "shares, budget, most, sized, fill",
    [
        ({"web": 0.25, "news": 0.75}, 100, 1, False, True),
        ({"web": 1, "news": 3}, 400, 3, False, True),
        ({"web": 1, "news": 3}, 400, 3, False, False),
        ({"web": 1, "news": 1}, 3001, 4, True, False),
        ({"web": 1, "news": 99}, 300, 2, False, False),
        ("raw", 500, 3, False, True),
        ("raw", 50, 3, True, True),
        ({"web": 1, "no": 0}, 40, 1, False, True),
    ],
)
def test_shares_of_groups_with_repetition(table, way, shares, budget, most, sized, fill):
    frame, rows = table
    options = {"num_tokens_to_sample": budget, "size_column": "size"} if sized else {
        "num_to_sample": budget}  # fmt: skip
    found = select(
        frame, "stars", seed=SEED, method="top_k", group_column="source",
        group_share=shares, max_copies=most, quota_shortfall="fill" if fill else "report",
        **options,
    )  # fmt: skip
    assert found.columns == [*frame.columns, *(["copies"] if most > 1 else [])]
    often = {r["id"]: r["copies"] if most > 1 else 1 for r in found.collect()}
    assert often == repeated(rows, "stars", shares, budget, most, sized, fill)
    if most > 1:
        assert dict(found.dtypes)["copies"] == "int"


def test_pareto_draws_by_the_id_whatever_its_width(spark):
    """What is drawn and what a budget then takes go by one draw."""
    rows = spark.range(300).select("id", ((F.col("id") * 37) % 101 / 101).alias("p"))
    found = [
        {r["id"] for r in select(rows.withColumn("id", F.col("id").cast(kind)), "p", seed=SEED,
                                 method="pareto", **budget).collect()}
        for kind in ("int", "bigint", "decimal(20,0)") for budget in ({}, {"num_to_sample": 25})
    ]  # fmt: skip
    everything, some = found[:2]
    assert found == [everything, some] * 3 and len(some) == 25 and some < everything
    # A budget of all that is drawn takes what no budget takes.
    every = select(rows, "p", seed=SEED, method="pareto", num_to_sample=len(everything))
    assert {r["id"] for r in every.collect()} == everything


@pytest.mark.parametrize(
    "score, options, error, said",
    [
        ("rand()", {}, ColumnError, "score 'rand.*it is not deterministic"),
        ("x + uuid()", {}, ColumnError, "not deterministic"),
        ("nope", {}, ColumnError, "score 'nope' does not hold for the pool"),
        ("x +", {}, ColumnError, "does not hold"),
        ("source", {}, ColumnError, "score must be numeric; it is string: cast it"),
        ("x", {"duplicates": "keep"}, ConfigError, "duplicates is for copies: give the column"),
        ("x", {"num_to_sample": None}, ConfigError, "how many. give num_to_sample"),
        ("x", {"normalize_within": "source"}, ConfigError, "is for normalize_score z or rank"),
        ("x", {"normalize_score": "z", "normalize_within": "no"}, ColumnError, "'no' is not a col"),
        ("x", {"quantile": 0}, ConfigError, "quantile must be a share above 0, to 1; got 0"),
        ("x", {"quantile": 0.5, "size_column": "size"}, ConfigError, "count different things"),
        ("x", {"num_to_sample": None, "num_tokens_to_sample": 5}, ConfigError, "needs size_column"),
        ({"a": "x", "b": "p"}, {"threshold": 1}, ConfigError, "threshold is for one score"),
        ({"a": "x", "b": "p"}, {"method": "pareto"}, ConfigError, "pareto is for one score"),
        ("p", {"method": "pareto", "lower_is_better": True}, ConfigError, "give 1 - score"),
        ("x", {"method": "random", "normalize_score": "z"}, ConfigError, "changes nothing"),
        ("x", {"group_column": "source"}, ConfigError, "belong together"),
        ("x", {"group_share": "raw"}, ConfigError, "belong together"),
        ("x", {"group_column": "source", "group_share": {"web": -1}}, ConfigError, "group_share"),
        ("x", {"group_column": "source", "group_share": {"web": 0}}, ConfigError, "a sum above 0"),
        ("x", {"group_column": "source", "group_share": "f.json"}, ConfigError, "a mapping here"),
        ("x", {"group_column": "source", "group_share": {"no": 1}}, DataError,
         "has .no. in source, which group_share names; most"),
        ("x", {"proportions": {"x": 1}}, ConfigError, "are shares of scores with names"),
        ({"a": "x", "b": "p"}, {"proportions": {"a": 1e308, "b": 1e308}}, ConfigError,
         "a sum above 0 and below 1e100"),
        ("x", {"max_copies": 2}, ConfigError, "max_copies is for shares of groups"),
        ("x", {"method": "match"}, ConfigError, "one of sample, top_k, random, pareto"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_the_first_pass(table, score, options, error, said):
    with pytest.raises(error, match=said) as caught:
        select(table[0], score, **{"num_to_sample": 1, **options})
    assert "\n" not in str(caught.value)
