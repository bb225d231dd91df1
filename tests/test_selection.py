"""Selection against brute force: every option, on the driver and by passes, from plain columns."""

from __future__ import annotations

import math
import pickle
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark import cloudpickle
from pyspark.sql import functions as F

from dsir_spark.errors import ColumnError, ConfigError, DataError
from dsir_spark.local_rows import from_arrow, to_arrow
from dsir_spark.options import SelectOptions
from dsir_spark.selection import Pool, Selection, copies, find, keys, select, small, temperature
from dsir_spark.selection.allocation import apportion, row_bytes

WING = "dsir_spark.selection."

N = 300
SEED = 1
COLUMNS = (
    "id string, nid bigint, x double, y double, z double, twin double, odd double, size double, "
    "source string, host string, hash struct<high: bigint, low: bigint>"
)


def made_rows():
    """Ties, sizes of zero, null and wrong sizes, rare values, copies, null and infinite scores."""
    rng = np.random.default_rng(3)
    x = np.round(rng.normal(0, 3, N), 1)
    odd = np.round(rng.normal(0, 2, N))
    odd[:40] = rng.choice([math.inf, -math.inf, math.nan], 40)
    sizes = rng.integers(0, 9, N) / 2
    rows = []
    for i in range(N):
        text = i % 6 if i < 40 else i
        rows.append({
            "id": f"d{i:03}" if i % 5 else f"\u00e9{i}", "nid": (i * 7919) % 1009 - 500,
            "x": float(x[i]), "y": float(rng.normal(1, 5)), "z": float(rng.normal(-2, 1)),
            "twin": float(x[i]), "odd": None if i % 50 == 49 else float(odd[i]),
            "size": None if i == 7 else -1.0 if i == 8 else float(sizes[i]),
            "source": str(rng.choice(["a", "b", "c"], p=[0.7, 0.25, 0.05])) if i % 9 else None,
            "host": f"h{i % 40}" if i > 20 else None, "hash": (text % 7, text),
        })  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def table(spark):
    rows = [tuple(row.values()) for row in made_rows()]
    noisy = spark.createDataFrame(rows, COLUMNS)
    for name in ("id", "nid"):
        noisy = noisy.withColumn(f"g_{name}", keys.gumbel(SEED, F.col(name)))
    # What Spark makes the noise of is held by a test of its own.
    found = noisy.collect()
    plain = noisy.drop("g_id", "g_nid")
    frame = from_arrow(spark, to_arrow(plain), plain.schema)  # of which queries are quicker
    return frame, [row.asDict() for row in found]


def by_passes(monkeypatch):
    """From here on pools are counted, with few rows at the end, and not held by the driver."""
    bounds = {"small.BYTES": -1, "cuts._MAX_ROWS": 20, "allocation._OPEN_BYTES": 2_000,
              "pool.FEW_TARGETS": 2, "allocation.FEW_TARGETS": 2, "quotas.FEW_TARGETS": 2}
    for name, bound in bounds.items():
        monkeypatch.setattr(WING + name, bound)


@pytest.fixture(params=["driver", "passes"])
def way(request, monkeypatch):
    if request.param == "passes":
        by_passes(monkeypatch)
    return request.param


def taken_by(selection, frame):
    """The target of each row that is selected."""
    rows = [row.asDict() for row in selection.filter(frame, frame).collect()]
    return {row[selection.pool.id_column]: row.get("target") for row in rows}


def chosen(
    frame, scores="x", ids="id", drop=False, shares=None, content=False, num_rows=N, **options
):
    """A selection of the table, and what it takes; of another frame `num_rows` has to be small."""
    checked = SelectOptions.checked({"seed": SEED, "method": "top_k", **options})
    names = {None: F.col(scores)} if isinstance(scores, str) else {s: F.col(s) for s in scores}
    size = F.col(checked.size_column) if checked.size_column else F.lit(1)
    noise = "gumbel" if checked.method == "sample" else "none"
    pool = Pool(ids, names, noise, size=size if checked.sized else None,
                copies="hash" if drop else None, ids_from_content=content)  # fmt: skip
    selection = find(frame, pool, checked, shares, num_rows)
    assert Selection.from_json(selection.to_json(), pool) == selection
    return selection, taken_by(selection, frame)


def leading(rows, size, budget, sized):
    """The best rows within a budget; the first that would cross it ends the list."""
    taken, total = [], 0
    for row in rows if budget > 0 else ():
        if total + size(row) > budget or (not sized and total == budget):
            break
        taken.append(row)
        total += size(row)
    return taken


def expected(rows, scores="x", ids="id", drop=False, shares=None, **options):
    """The target of each row that is selected, and the funnel, by the definition."""
    o = SelectOptions.checked({"seed": SEED, "method": "top_k", **options})
    names = [None] if isinstance(scores, str) else list(scores)
    score = {t: scores if t is None else t for t in names}
    funnel = {"read": len(rows)}
    pool = [r for r in rows if all(not (r[s] is None or math.isnan(r[s])) for s in score.values())]
    funnel["without_score"] = len(rows) - len(pool)
    left = [r for r in pool if not o.sized or (r["size"] is not None and r["size"] >= 0)]
    funnel["without_size"], pool = len(pool) - len(left), left
    if drop:
        first = {}
        for r in sorted(pool, key=lambda r: r[ids]):
            first.setdefault(tuple(r["hash"]), r)
        funnel["duplicate_text"], pool = len(pool) - len(first), list(first.values())
    noise = f"g_{ids}" if o.method == "sample" else None

    def key(r, t):
        return r[score[t]] / o.temperature + (r[noise] if noise else 0.0)

    def falling(among, t):
        return sorted(among, key=lambda r: (key(r, t), r[ids]), reverse=True)

    if o.group_column:
        best, kept = {}, []
        for r in sorted(pool, key=lambda r: (max(key(r, t) for t in names), r[ids]), reverse=True):
            group = r[o.group_column]
            best[group] = best.get(group, 0) + 1
            if group is None or best[group] <= o.max_per_group:
                kept.append(r)
        funnel["over_max_per_group"], pool = len(pool) - len(kept), kept
    funnel["candidates"] = len(pool)

    def size(r):
        return math.ceil(r["size"]) if o.sized else 1

    whole = o.budget if o.sized else min(o.budget, len(pool))
    budgets = apportion(whole, [(shares or {}).get(t, 1.0) for t in names], names)
    taken, full = {}, {t for t, b in zip(names, budgets, strict=True) if b == 0}
    left = dict(zip(names, budgets, strict=True))
    if o.allocation == "joint" and len(names) > 1:
        pairs = [(key(r, t), r[ids], [-ord(c) for c in t], r) for r in pool for t in names]
        for *_, name, r in sorted(pairs, key=lambda p: p[:3], reverse=True):
            t = "".join(chr(-c) for c in name)
            if r[ids] in taken or t in full:
                continue
            if size(r) > left[t]:
                full.add(t)
                continue
            taken[r[ids]], left[t] = t, left[t] - size(r)
        return taken, funnel
    for t, budget in left.items():
        free = [r for r in falling(pool, t) if r[ids] not in taken]
        inside, rest, competing = [], budget, free
        if o.quotas is not None:
            inside, rest, competing = quotas(free, pool, budget, size, o)
        own = inside + leading(competing, size, rest, o.sized)
        taken |= {r[ids]: t for r in own}
    return taken, funnel


def quotas(free, pool, budget, size, o):
    """Of rows by falling keys: those within the floors, what is left, those that compete for it."""

    def values(rows, v):
        return [r for r in rows if r[o.quota_column] == v]

    if o.quotas == "raw":
        names = sorted({r[o.quota_column] for r in pool}, key=str)
        amounts = [sum(map(size, values(pool, v))) for v in names]
        shares = apportion(min(budget, sum(amounts)), amounts, names)
        bounds = {v: (s, s) for v, s in zip(names, shares, strict=True)}
    else:
        bounds = {v: (int(a * budget + 1e-6), None if b is None else int(b * budget + 1e-6))
                  for v, (a, b) in o.quota_bounds.items()}  # fmt: skip
    inside, out = [], []
    for v, (floor, cap) in bounds.items():
        own = values(free, v)
        inside += leading(own, size, floor, o.sized)
        if cap is not None:
            within = leading(own, size, cap, o.sized)
            out += [r for r in own if r not in within]
    spent = sum(map(size, inside))
    if o.quota_shortfall == "report":
        spent = max(spent, sum(floor for floor, _ in bounds.values()))
    return inside, budget - spent, [r for r in free if r not in inside and r not in out]


SOURCES = {"quota_column": "source", "num_to_sample": 100}
SIZES = {"size_column": "size"}
CASES = {
    "all but one": {"num_to_sample": N - 1, "ids": "nid"},
    "noise": {"num_to_sample": 40, "method": "sample", "drop": True},
    "cooler, other ids": {"num_to_sample": 90, "method": "sample", "temperature": 3.7,
                          "ids": "nid", "drop": True},
    "infinite and no scores": {"scores": "odd", "num_to_sample": 20},
    "infinite, to the lowest": {"scores": "odd", "num_to_sample": 240, "drop": True, "ids": "nid"},
    "sizes": {"num_tokens_to_sample": 200, **SIZES},
    "sizes, few": {"num_tokens_to_sample": 1, **SIZES, "drop": True, "method": "sample"},
    "sizes, more than there are": {"num_tokens_to_sample": 10**6, **SIZES},
    "no sizes": {"num_tokens_to_sample": 0, **SIZES},
    "best of groups": {"num_to_sample": 60, "group_column": "host", "max_per_group": 2,
                       "drop": True},
    "best of groups, three": {"num_to_sample": 60, "group_column": "host", "max_per_group": 3,
                              "scores": (*"xyz",), "method": "sample"},
    "fixed share": {**SOURCES, "quotas": {"c": 0.02}},
    "shares of all kinds": {**SOURCES, "quota_shortfall": "report",
                            "quotas": {"a": 0.2, "b": 0.3, "c": {"min": 0.01, "max": 0.05}}},
    "more than there are": {**SOURCES, "quotas": {"c": 0.9}, "drop": True},
    "open": {**SOURCES, "quotas": {"c": 0.9, "a": 0.0}, "quota_shortfall": "report"},
    "as in raw": {**SOURCES, "quotas": "raw", "method": "sample", "ids": "nid"},
    "shares of sizes": {"quota_column": "source", "num_tokens_to_sample": 300, **SIZES,
                        "quotas": {"b": {"min": 0.4}, "a": {"max": 0.25}}},
    "shares, sequential": {**SOURCES, "quotas": {"b": 0.5, "a": {"max": 0.2}}, "scores": (*"yxz",),
                           "allocation": "sequential", "shares": {"y": 2.0}},
    "joint": {"scores": (*"xyz",), "num_to_sample": 120, "shares": {"z": 2.0}, "drop": True},
    "joint, other order": {"scores": (*"zxy",), "num_to_sample": 299, "method": "sample"},
    "joint, all": {"scores": (*"xyz",), "num_to_sample": N, "ids": "nid", "shares": {"x": 0.0}},
    "joint, equal scores": {"scores": ("twin", "x", "odd"), "num_to_sample": 100},
    "joint, sizes": {"scores": (*"xyz",), "num_tokens_to_sample": 400, **SIZES},
    "joint, all sizes": {"scores": (*"yx",), "num_tokens_to_sample": 2_000, **SIZES, "drop": True},
    "sequential": {"scores": (*"yxz",), "num_to_sample": 90, "allocation": "sequential"},
    "sequential, sizes": {"scores": ("odd", "x", "z"), "num_tokens_to_sample": 150, **SIZES,
                          "allocation": "sequential", "ids": "nid"},
}  # fmt: skip


@pytest.mark.spark
@pytest.mark.parametrize("name", CASES)
def test_the_selection_is_that_of_brute_force(table, monkeypatch, name):
    """Both ways find the same cuts; the rows that copies and groups lose each finds in its own."""
    frame, rows = table
    taken, funnel = expected(rows, **CASES[name])
    selection, found = chosen(frame, **CASES[name])
    assert found == taken
    assert {k: selection.funnel[k] for k in funnel} == funnel
    assert selection.funnel["selected"] == selection.num_selected == len(taken)
    for t, n in zip(selection.targets, selection.num_documents, strict=True):
        assert n == sum(to == t for to in taken.values())
    if selection.size is not None:
        by_id = {r[selection.pool.id_column]: math.ceil(r["size"] or 0) for r in rows}
        assert sum(selection.size) == sum(by_id[i] for i in found) <= selection.options.budget
    by_passes(monkeypatch)
    again = find(frame, selection.pool, selection.options, CASES[name].get("shares"))
    assert again == selection
    assert not again.has_losers or taken_by(again, frame) == taken


@pytest.mark.spark
def test_both_ways_are_one_in_any_partitioning(table, monkeypatch):
    frame, _ = table
    options = {"scores": (*"xyz",), "num_to_sample": 50, "method": "sample", "temperature": "auto"}
    first, found = chosen(frame, **options)
    assert chosen(frame.coalesce(1).orderBy(F.rand(7)), **options) == (first, found)
    other = chosen(frame, **{**options, "seed": 2})[1]
    larger = chosen(frame, scores="x", num_to_sample=100, method="sample")[1]
    assert other != found
    assert set(chosen(frame, scores="x", num_to_sample=20, method="sample")[1]) < set(larger)
    monkeypatch.setattr(WING + "small.BYTES", -1)
    monkeypatch.setattr(WING + "allocation._OPEN_BYTES", 2_000)
    assert chosen(frame.repartition(5), **options) == (first, found)


@pytest.mark.spark
def test_rows_of_equal_id_are_one_candidate(table, way):
    frame, rows = table
    twice = frame.unionByName(frame.where("x > 0")).repartition(3)
    options = {"group_column": "host", "max_per_group": 2, "num_to_sample": 30}
    taken, funnel = expected(rows, **options)
    selection, found = chosen(twice, content=True, **options)
    assert found == taken
    more = sum(r["x"] > 0 for r in rows)
    assert selection.funnel["duplicate_text"] == more
    assert selection.funnel["candidates"] == funnel["candidates"]


@pytest.mark.spark
def test_copies_are_found_again_from_a_record(table, monkeypatch):
    frame, rows = table
    taken, _ = expected(rows, num_to_sample=150, drop=True)
    selection, found = chosen(frame, num_to_sample=150, drop=True)
    assert found == taken
    for few in (500_000, 3):  # above it, nothing is kept between passes
        monkeypatch.setattr(copies, "_FEW", few)
        assert taken_by(Selection.from_json(selection.to_json(), selection.pool), frame) == taken
    with pytest.raises(ValueError, match="give them as rows"):
        Selection.from_json(selection.to_json(), selection.pool).filter(frame)
    by_passes(monkeypatch)
    assert chosen(frame, num_to_sample=150, drop=True) == (selection, taken)


def test_what_runs_on_executors_needs_nothing_of_this_wing(monkeypatch):
    code = cloudpickle.dumps(copies._occurring_twice())
    for name in ("dsir_spark.selection", "dsir_spark.selection.copies"):
        monkeypatch.setitem(sys.modules, name, None)
    batches = [pa.RecordBatch.from_pydict({"half": h}) for h in ([3, 1, 2], [2, 2, 3])]
    (found,) = pickle.loads(code)(iter(batches))
    assert found.to_pydict() == {"half": [2, 3]}


@pytest.mark.spark
def test_what_cannot_be_selected_is_told(table):
    frame, _ = table
    quota = {"num_to_sample": 9, "quota_column": "source"}
    with pytest.raises(DataError, match=r"no candidate has 'wiki' in source.*most have 'a'"):
        chosen(frame, **quota, quotas={"wiki": 0.1})
    with pytest.raises(ColumnError, match="no column domain"):
        chosen(frame, **{**quota, "quota_column": "domain"}, quotas="raw")
    with pytest.raises(ColumnError, match=r"domain; it has id, nid, .*hash: name another"):
        select(frame, "x", num_to_sample=1, group_column="domain", max_per_group=1)
    for kind in ("map(id, 1)", "array(struct(map(id, 1)))"):
        with pytest.raises(ColumnError, match=r"copies 'hash' of .* can be equal; it is .*map<"):
            select(frame.withColumn("hash", F.expr(kind)), "x", num_to_sample=1, copies="hash")
    with pytest.raises(ColumnError, match="no column hash, by which copies are dropped"):
        chosen(frame.drop("hash"), num_to_sample=1, drop=True)
    with pytest.warns(UserWarning, match="but only 300 documents are candidates.*5 short"):
        selection, _ = chosen(frame, num_to_sample=N + 5)
    assert selection.num_selected == N
    with pytest.warns(UserWarning, match="but only 300 documents are candidates$"):
        chosen(frame, **{**quota, "num_to_sample": N + 5}, quotas={"a": {"max": 0.1}})


COPIES = {
    "bytes": "unhex(if(id < 3, 'ff', hex(string(id))))",
    "arrays": "array(if(id < 3, 0, id), null)",
    "arrays by their end": "if(id < 3, array(0), array(0, null, id))",
    "structs": "struct(array(if(id < 3, 0, id)) AS a, if(id < 3, null, id) AS b)",
    "structs by their fields":
        "struct(if(id < 3, 1d, null) AS a, if(id < 3, null, id - 2d) AS b)",
    "doubles": "if(id < 3, if(id = 1, -0d, 0d), double(id))",
    "NaN": "if(id < 3, double('nan'), double(id))",
    "dates": "date_add(date'2020-02-02', int(if(id < 3, 0, id)))",
}


@pytest.mark.spark
@pytest.mark.parametrize("value", COPIES)
def test_copies_of_any_type(spark, monkeypatch, value):
    """Of the first three, and of rows without a value: on the driver, from a record, by passes."""
    rows = spark.range(9).selectExpr("id", "1d AS x", f"if(id > 6, null, {COPIES[value]}) AS Hash")
    one_of_two = list(COPIES).index(value) % 2
    groups = {"group_column": "id", "max_per_group": 1} if one_of_two else {}
    selection, found = chosen(rows, drop=True, num_to_sample=7, **groups)
    assert sorted(found) == [0, 3, 4, 5, 6, 7, 8]
    assert taken_by(Selection.from_json(selection.to_json(), selection.pool), rows) == found
    by_passes(monkeypatch)
    assert chosen(rows, drop=True, num_to_sample=7, **groups)[1] == found


@pytest.mark.spark
def test_of_copies_the_smallest_unsigned_id_is_kept(spark, way):
    rows = spark.range(4).selectExpr(
        "cast(if(id < 2, id + 5, 18446744073709551611BD + id) AS decimal(20,0)) AS i",
        "1d AS x", "id % 2 AS hash",
    )  # fmt: skip
    found = select(rows, "x", id_column="i", copies="hash", num_to_sample=2)
    assert sorted(int(r["i"]) for r in found.collect()) == [5, 6]
    assert sorted(map(int, chosen(rows, ids="i", drop=True, num_to_sample=2)[1])) == [5, 6]


@pytest.mark.spark
def test_bytes_have_quotas(spark, way):
    """By the text that they are, or by their digits where they are none."""
    rows = spark.range(8).selectExpr("id", "1d AS x", "if(id < 4, X'ff00', X'6162') AS source")
    for quotas in ("raw", {"FF00": 0.5, "ab": 0.5}):
        found = chosen(rows, num_to_sample=4, quota_column="source", quotas=quotas)[1]
        assert sorted(found) == [2, 3, 6, 7]


@pytest.mark.spark
def test_columns_are_found_as_spark_finds_them(spark, way):
    rows = spark.range(6).selectExpr("id", "1d AS x", "0 AS Size", "id % 2 AS Source")
    budget = {"num_tokens_to_sample": 3, "size_column": "SIZE"}
    # Of sizes of 0 all are within any budget, but a share of their sum is nothing.
    for n, more in ((0, {"quota_column": "SOURCE", "quotas": "raw"}),
                    (6, {"group_column": "SOURCE", "max_per_group": 3})):  # fmt: skip
        assert len(chosen(rows, **budget, **more)[1]) == n


@pytest.mark.spark
@pytest.mark.parametrize("huge", ["1e300", "double('inf')", f"{1 << 53}L", "1e29BD", "-1e29BD"])
def test_a_size_that_is_none_is_no_candidate(spark, way, huge):
    kind = "decimal(38,0)" if "BD" in huge else "bigint" if "L" in huge else "double"
    size = F.expr(f"cast(if(id in (5, 6, 9), {huge}, 1) as {kind})")
    frame = spark.range(10).withColumn("size", size).withColumn("x", F.col("id").cast("double"))
    budget = {"num_tokens_to_sample": 3, "size_column": "size"}
    for more in ({}, {"group_column": "x", "max_per_group": 1}):
        selection, found = chosen(frame, ids="id", **budget, **more)
        assert sorted(found) == [4, 7, 8] and selection.size == (3,)
        assert selection.funnel["without_size"] == 3


@pytest.mark.spark
@pytest.mark.parametrize("more", [{}, {"group_column": "id", "max_per_group": 1}, SOURCES])
def test_sizes_that_no_bigint_holds_together_are_told(spark, way, more):
    given = {"num_tokens_to_sample": 3, "size_column": "size", "num_to_sample": None}
    given = {**more, "quotas": "raw"} | given if more is SOURCES else {**more, **given}
    frame = spark.range(1_100).selectExpr("id", "1d AS x", f"{(1 << 53) - 1}L AS size", "1 source")
    with pytest.raises(DataError, match=r"rows selected from sum to 2\^63 or more"):
        chosen(frame, **given)


@pytest.mark.spark
@pytest.mark.parametrize("rows_held, held", [(N - 1, True), (N // 2 + 1, False)])
def test_a_pool_that_is_small_once_rows_are_rejected(table, monkeypatch, rows_held, held):
    """Of copies, which its bins would say nothing of."""
    frame, rows = table
    monkeypatch.setattr(small, "BYTES", rows_held * row_bytes(1))
    made, pool_of = [], small.SmallPool
    monkeypatch.setattr(small, "SmallPool", lambda *own: made.append(1) or pool_of(*own))
    options = {"scores": "odd", "num_to_sample": 100, "drop": True}
    selection, found = chosen(frame, num_rows=N, **options)
    plain, funnel = expected(rows, **options)
    assert found == plain and selection.funnel.items() >= funnel.items() and bool(made) == held


@pytest.mark.spark
def test_rejected_rows(table):
    frame, rows = table
    selection, found = chosen(frame, num_to_sample=40, method="sample")
    rejected = {r["id"] for r in selection.rejected(frame).collect()}
    assert rejected == {r["id"] for r in rows} - set(found)


def size_at(scores, t):
    w = np.exp((np.array(scores) - max(scores)) / t)
    return w.sum() ** 2 / (w * w).sum()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-500, 500), min_size=2, max_size=40),
    st.floats(0.01, 0.98), st.sampled_from([0.01, 1.0]),
)  # fmt: skip
def test_the_smallest_temperature(scores, share, floor):
    wanted = 1 + share * (len(scores) - 1)
    ones = np.ones(len(scores))
    found = temperature.smallest_temperature(np.array(scores), ones, wanted, floor)
    assert size_at(scores, found) >= wanted * (1 - 1e-6)
    assert found == floor or size_at(scores, found * (1 - 1e-3) - floor / 1024) < wanted


@pytest.mark.spark
def test_temperature_auto_gives_the_size_wanted(table, way):
    frame, rows = table
    frame = frame.withColumn("x", F.col("x") * 20)
    selection, found = chosen(frame, num_to_sample=40, method="sample", temperature="auto")
    (t,) = selection.temperatures
    scores = [r["x"] * 20 for r in rows]
    assert t > 5 and size_at(scores, t) == pytest.approx(40, rel=1e-2)
    best = sorted(rows, key=lambda r: r["x"] * 20 / t + r["g_id"], reverse=True)[:40]
    assert set(found) == {r["id"] for r in best}
    flat = chosen(frame.withColumn("x", F.lit(0.0)), num_to_sample=5, method="sample",
                  temperature="auto")[0]  # fmt: skip
    assert flat.temperatures == (1.0,)


@pytest.mark.spark
def test_select_takes_any_table_and_expression(table):
    frame, rows = table
    frame = frame.withColumnRenamed("x", "my score")
    best = sorted(rows, key=lambda r: (2 * r["x"] - 1, r["id"]), reverse=True)[:10]
    for score in ("2 * `my score` - 1", F.col("my score")):
        found = select(frame, score, method="top_k", num_to_sample=10)
        assert found.columns == frame.columns
        assert {r["id"] for r in found.collect()} == {r["id"] for r in best}
    found = select(frame, {"a": "y", "b": F.col("z")}, num_to_sample=9, copies="hash",
                   id_column="nid", proportions={"a": 1, "b": 2}, method="top_k")  # fmt: skip
    taken, _ = expected(rows, scores=("y", "z"), ids="nid", drop=True, num_to_sample=9,
                        shares={"z": 2.0})  # fmt: skip
    assert {r["nid"]: {"a": "y", "b": "z"}[r["target"]] for r in found.collect()} == taken
    for wrong, error, said in (
        ({"score": "source"}, ColumnError, "score must be numeric; it is string"),
        ({"score": {"a.b": "y"}}, ConfigError, "a target's name"),
        ({"score": {}}, ConfigError, "got none"),
        ({"num_to_sample": None}, ConfigError, "give num_to_sample"),
        ({"num_tokens_to_sample": 3, "num_to_sample": None}, ConfigError, "needs size_column"),
        ({"top": 3, "seed": "x"}, ConfigError, "unknown option top.*seed must be"),
        ({"id_column": "uuid"}, ColumnError, "id_column 'uuid' is not a column"),
    ):
        with pytest.raises(error, match=said):
            select(frame, **{"score": "y", "num_to_sample": 1, **wrong})


@pytest.mark.spark
def test_a_selection_starts_few_jobs(spark, table):
    frame, _ = table
    sixty = {f"t{t:02}": F.col("y") * math.sin(t) + F.col("z") * math.cos(t) for t in range(60)}
    plain = {None: F.col("x")}
    for scores, options in (
        (plain, {"duplicates": "keep"}),
        (plain, {}),
        (plain, {"quota_column": "source", "quotas": "raw"}),
        (sixty, {"group_column": "host", "max_per_group": 9}),
    ):
        spark.sparkContext.setJobGroup(group := f"jobs {len(scores)} {options}", "")
        checked = SelectOptions.checked({"num_to_sample": 120, "seed": SEED, **options})
        selection = find(frame, Pool("id", scores, copies="hash"), checked)
        jobs = spark.sparkContext.statusTracker().getJobIdsForGroup(group)
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
        assert len(jobs) <= 3
        assert selection.filter(frame).count() == selection.num_selected == 120
