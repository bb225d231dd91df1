"""The cuts of several targets, closed in on from both sides at once.

Were the cuts of the other targets as low as they can be, a target would see the fewest rows, and
its own cut be the lowest it can be; were they as high, the highest. Each pass over the pool narrows
all cuts from both sides, until the rows whose target is open are few enough to be settled on the
driver by the definition (`allocation`). Passes do not grow with the number of targets, only with
the logarithm of rows: the highest of the cuts that are open is always found to one bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark.errors import DataError
from dsir_spark.selection import allocation, cuts
from dsir_spark.selection.allocation import FOR, Rule
from dsir_spark.selection.cuts import CHANGED, Cut
from dsir_spark.selection.pool import ID, KEYS, SIZE
from dsir_spark.selection.rows import Rows, matrix, to_arrow

_SURE, _POSSIBLE = "__dsir_sure", "__dsir_possible"
_OPEN_BYTES = 64_000_000  # of the rows that the driver settles
_BINS = 65_536  # between the bounds of all targets together
_TOP = 1 << 20  # the bin of rows above the upper bound, and above all others
_LABEL = 1 << 21  # half the span of bins


class _Span(NamedTuple):
    """Where a target's cut is: from (low, first) to (high, last), both included; no id: any.
    `open`: about how many rows are between."""

    low: float = -math.inf
    high: float = math.inf
    first: Any = None
    last: Any = None
    open: int = 1 << 62
    closed: bool = False  # no cut to look for: the target takes all that come, or nothing at all


_ALL = _Span(-math.inf, -math.inf, open=0, closed=True)
_NONE = _Span(math.inf, math.inf, open=0, closed=True)


class _Count(NamedTuple):
    """Rows in one bin that may come to a target: how many, the sum of their sizes (or number), that
    of those which no other target can take from it, the smallest and largest key, and id."""

    bin: int
    n: int
    amount: int
    sure: int
    low: float
    high: float
    first: Any
    last: Any

    def with_other(self, other: _Count) -> _Count:
        """Of both."""
        return _Count(
            self.bin, self.n + other.n, self.amount + other.amount, self.sure + other.sure,
            min(self.low, other.low), max(self.high, other.high),
            None if self.first is None else min(self.first, other.first),
            None if self.last is None else max(self.last, other.last),
        )  # fmt: skip


def narrowed_cuts(pool: DataFrame, rule: Rule) -> list[Cut]:
    """The cut of each target.

    Parameters
    ----------
    pool : frame with ID, KEYS and, where budgets are of sizes, SIZE; not fewer
        rows than the sum of the budgets where they are of rows
    """
    spans = [_Span() if budget > 0 else _NONE for budget in rule.budgets]
    most = _OPEN_BYTES // allocation.row_bytes(len(spans))
    first = True
    while sum(s.open for s in spans) > most:
        found = _counted(pool, rule, spans)
        before = spans
        spans = [
            s if s.closed else _narrowed(s, t, found.get(t, []), rule, first)
            for t, s in enumerate(spans)
        ]
        if spans == before:
            break
        first = False
    return _settled(pool, rule, spans)


def _narrowed(span: _Span, t: int, counts: Sequence[_Count], rule: Rule, first: bool) -> _Span:
    """The span after a pass.

    first : has every row been counted for every target? Then whatever the others take, the target
        gets its budget from its own best rows up to the sum of all budgets.
    """
    budget = rule.budgets[t]
    ordered = sorted(counts, reverse=True)
    total = sum(c.amount for c in ordered)
    if rule.sized and total <= budget:
        return _ALL
    high = _ending([(c, c.amount) for c in ordered], budget, rule.sized)
    lows = [_ending([(c, c.sure) for c in ordered], budget, rule.sized)]
    if first:
        lows.append(_ending([(c, c.amount) for c in ordered], sum(rule.budgets), rule.sized))
    if high is None:
        raise DataError(CHANGED)
    low = max((c for c in lows if c is not None), default=None)
    bottom = ordered[-1] if low is None else low
    crowd = bottom.low == high.high
    return _Span(
        bottom.low, high.high,
        (bottom.first if low is not None else span.first) if crowd else None,
        high.last if crowd else None,
        sum(c.n for c in ordered if bottom.bin <= c.bin <= high.bin),
    )  # fmt: skip


def _ending(amounts: Sequence[tuple[_Count, int]], budget: int, sized: bool) -> _Count | None:
    """The bin in which a budget ends, of bins by falling keys; None if it does not."""
    taken = 0
    for count, amount in amounts:
        taken += amount
        if taken > budget or (taken == budget and not sized):
            return count
    return None


def _bounds(pool: DataFrame, rule: Rule, spans: Sequence[_Span]) -> Column:
    """The spans, as an array of literals."""
    integral = isinstance(pool.schema[ID].dataType, T.IntegralType)
    kind = "bigint" if integral else "string"
    found = []
    for s, rank in zip(spans, rule.ranks, strict=True):
        skipped = cuts.skipped(s.first, s.last, integral)
        offset = s.first >> skipped if integral and s.first is not None else 0
        fields = {
            "rank": F.lit(rank), "low": F.lit(s.low), "high": F.lit(s.high),
            "first": F.lit(s.first).cast(kind), "last": F.lit(s.last).cast(kind),
            "all": F.lit(s == _ALL), "none": F.lit(s == _NONE), "fresh": F.lit(s == _Span()),
            "step": F.lit(cuts.step(s.low, s.high, max(256, _BINS // len(spans)))),
            "skipped": F.lit(skipped), "offset": F.lit(offset).cast("bigint"),
        }  # fmt: skip
        found.append(F.struct(*[value.alias(name) for name, value in fields.items()]))
    return F.array(*found)


def _possible(key: Column, span: Column) -> Column:
    """May the row reach the cut?"""
    by_id = span["first"].isNull() | (F.col(ID) >= span["first"])
    return ~span["none"] & ((key > span["low"]) | ((key == span["low"]) & by_id))


def _sure(key: Column, span: Column) -> Column:
    """Must the row reach the cut?"""
    by_id = F.coalesce(F.col(ID) > span["last"], F.lit(False))
    above = (key > span["high"]) | ((key == span["high"]) & by_id)
    return ~span["none"] & (span["all"] | above)


def _competes(key: Column, span: Column, rule: Rule) -> Column:
    """May the row go to the target?"""
    not_worse = F.col(_SURE).isNull() | (rule.liking(key, span["rank"]) >= F.col(_SURE))
    return _possible(key, span) & not_worse


def _with_bounds(pool: DataFrame, rule: Rule, bounds: Column) -> DataFrame:
    """With how much each row likes the best target that it must reach, and the best that it may
    reach; null where there is none."""
    sizes = [F.col(SIZE)] if rule.sized else []
    sure, may = (rule.best(F.col(KEYS), bounds, reached) for reached in (_sure, _possible))
    return pool.select(F.col(ID), *sizes, F.col(KEYS), sure.alias(_SURE), may.alias(_POSSIBLE))


def _counted(pool: DataFrame, rule: Rule, spans: Sequence[_Span]) -> dict[int, list[_Count]]:
    """The rows that may go to each target, by bins between its bounds; one pass."""
    crowds = any(not s.closed and s.low == s.high for s in spans)
    bounds = _bounds(pool, rule, spans)
    key, target, span = F.col("key"), F.col("target"), F.col("span")
    sizes = [SIZE] if rule.sized else []
    rows = _with_bounds(pool, rule, bounds).select(
        ID, *sizes, _SURE, _POSSIBLE, F.posexplode(KEYS).alias("target", "key")
    )
    rows = rows.withColumn("span", bounds[target])
    rows = rows.where(_competes(key, span, rule) & ~span["all"])
    # Target, bin and certainty in one number: counting by one column is the fastest.
    integral = isinstance(pool.schema[ID].dataType, T.IntegralType)
    label = _bin(key, span, integral, len(spans)) + (2 * target + 1).cast("bigint") * F.lit(_LABEL)
    label = label * 2 + (F.col(_POSSIBLE) == rule.liking(key, span["rank"])).cast("bigint")
    amount = F.sum(SIZE) if rule.sized else F.count("*")
    # Strings among the aggregates would have Spark sort all rows: only where they are needed.
    ends = [F.min(ID), F.max(ID)] if crowds else []
    groups = rows.groupBy(label.alias("label"))
    counted = groups.agg(F.count("*"), amount, F.min(key), F.max(key), *ends)
    found: dict[tuple[int, int], _Count] = {}
    for at, n, total, low, high, *ids in counted.collect():
        place, within = divmod(at // 2, 2 * _LABEL)
        first, last = ids or (None, None)
        one = _Count(within - _LABEL, n, total, total * (at % 2), low, high, first, last)
        other = found.get((place, within))
        found[place, within] = one if other is None else one.with_other(other)
    by_target: dict[int, list[_Count]] = {}
    for (place, _), count in found.items():
        by_target.setdefault(place, []).append(count)
    return by_target


def _bin(key: Column, span: Column, integral: bool, targets: int) -> Column:
    """The bin of a key (bigint, below _TOP): finer between the bounds, one for all rows above."""
    by_id = cuts.id_bin(span["skipped"], integral) - span["offset"]
    by_key = cuts.split_bin(key, span["low"], span["step"])
    inside = F.when(span["low"] < span["high"], by_key).otherwise(by_id)
    inside = F.when(_sure(key, span), F.lit(_TOP)).otherwise(inside)
    return F.when(span["fresh"], cuts.root_bin(key, targets)).otherwise(inside)


def _settled(pool: DataFrame, rule: Rule, spans: Sequence[_Span]) -> list[Cut]:
    """The cuts, with the rows whose target is open settled on the driver."""
    bounds = _bounds(pool, rule, spans)
    bounded = _with_bounds(pool, rule, bounds)
    sure, may = F.col(_SURE)["place"], F.col(_POSSIBLE)["place"]
    is_open = ~sure.eqNullSafe(may)
    size = F.col(SIZE) if rule.sized else F.lit(1).cast("bigint")
    keys = F.zip_with(KEYS, bounds, lambda k, span: F.when(_competes(k, span, rule), k))
    # Each open row is a group of its own, the others one for each target: one pass for both.
    groups = bounded.select(
        F.when(~is_open, F.coalesce(-sure, F.lit(-1))).alias(FOR),
        F.when(is_open, F.col(ID)).alias(ID), F.when(is_open, keys).alias(KEYS), size.alias(SIZE),
    ).groupBy(FOR, ID, KEYS)  # fmt: skip
    table = to_arrow(groups.agg(F.count("*").alias("n"), F.sum(SIZE).alias(SIZE)))
    certain = {
        rule.ranks.index(row[FOR]): (row["n"], row[SIZE])
        for row in table.filter(pc.greater_equal(table.column(FOR), 0)).to_pylist()
    }
    table = table.filter(pc.is_null(table.column(FOR)))
    rows = Rows.of(table if rule.sized else table.drop_columns([SIZE]))
    own = matrix(table, KEYS, len(spans))
    rest = [b - certain.get(t, (0, 0))[1] if b > 0 else 0 for t, b in enumerate(rule.budgets)]
    ends = allocation.settle(rows, own, replace(rule, budgets=rest))
    return allocation.cuts_of(rows, own, rule, ends, certain)
