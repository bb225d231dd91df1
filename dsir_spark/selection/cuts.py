"""The exact cut: which rows of a list are the best, found from counts by histogram passes.

A list has an id (string or integer), a key (double, not null) and, where budgets are not in rows,
a size (bigint, >= 0). Its order is (key, id), falling. The driver holds histograms and the rows
near a cut, both of bounded size, never anything that grows with the pool or the budget.

One pass counts the keys of all lists by bins of their fourth roots; the rows of the bins in which
cuts lie are ordered on the driver. Bins too full for it are split by equal steps of the key first,
crowds of equal keys by steps of the id. A bin tells its smallest and largest key, so the next pass
looks between these only.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark.errors import DataError
from dsir_spark.local_rows import to_arrow
from dsir_spark.selection.pool import ID, SIZE
from dsir_spark.selection.rows import Floats, Ints, Rows, known, numbers, total_size

KEY, GROUP = "__dsir_key", "__dsir_group"
# Bins are equal steps of the fourth root of the key: fine where keys are small, coarse where they
# are large, so that one pass without bounds known beforehand leaves a row in some hundred for the
# next. The processor has an instruction for square roots; a logarithm costs Java as much as
# everything else in the pass. With four times as many bins the pass takes a fifth longer: the
# counts no longer fit into the processor's cache.
_ROOT_STEPS = 1024.0
_MOST_BINS = 1 << 18  # each way, for keys of 4e9 and more: the driver receives no more
_LISTS_AT_FULL_WIDTH = 64  # more lists have wider bins: the driver receives rows of both
# So many rows near cuts the driver orders; of more, further histograms split their bins first.
_MAX_ROWS = 100_000
_SPLIT_BINS = 65_536
_LABEL = 1 << 32  # above the span of all bins
TOP = 1 << 20  # a bin above all others
_CHANGED = "the weights changed between two passes over them: resample from data that stands still"
# A condition that all rows with a key within two bounds meet, and that is cheaper than the key.
Near = Callable[[float, float], Column]
Wanted = Sequence[tuple[int, int]]  # lists, and the budget of each


@dataclass(frozen=True)
class Cut:
    """Where a list of rows by falling (key, id) ends.

    key, id : the last row of the list, or, if `exclusive`, the first that is not in it; no key: the
        list is empty; a key without id: all rows are in it
    num_documents : rows in the list
    size : sum of their sizes, where the budget was one of sizes
    """

    key: float | None
    id: Any
    num_documents: int
    size: int | None = None
    exclusive: bool = False

    def reached_by(self, key: Column, id_column: Column) -> Column:
        """Is (key, id) in the list?"""
        if self.key is None:
            return F.lit(False)
        if self.id is None:
            return key.isNotNull()
        last = F.lit(self.key)
        by_id = id_column > F.lit(self.id) if self.exclusive else id_column >= F.lit(self.id)
        return (key > last) | ((key == last) & by_id)

    @property
    def bound(self) -> tuple[float | None, Any, bool]:
        """What `reached` goes by: key, id, exclusive."""
        return self.key, self.id, self.exclusive


def reached(bound: Column, key: Column) -> Column:
    """Is (key, ID) in the list that a `Cut.bound` (a struct) ends?"""
    last, last_id, ids = bound["key"], bound["id"], F.col(ID)
    by_id = (ids > last_id) | (~bound["exclusive"] & (ids == last_id))
    everything = last.isNotNull() & last_id.isNull()
    return F.coalesce(everything | (key > last) | ((key == last) & by_id), F.lit(False))


def nothing(sized: bool) -> Cut:
    """The cut that no row reaches."""
    return Cut(None, None, 0, 0 if sized else None)


def plain_cut(n: int, total: int, budget: int, sized: bool, grouped: bool) -> Cut | None:
    """The cut of a list of `n` rows with a sum of sizes (or number) of `total`, where it needs no
    search; a list of several is cut below its last row only where more than the budget is there."""
    if budget <= 0:
        return nothing(sized)
    if total < budget or (total == budget and (sized or grouped)):
        return Cut(-math.inf, None, n, total if sized else None)
    return None


def cut_within(
    rows: Rows, keys: Floats, order: Ints, budget: int, above: tuple[int, int] = (0, 0)
) -> Cut:
    """The cut of a list whose last part is on the driver, by falling (key, id) in `order`; `above`
    as in `Span`."""
    documents, taken = above
    n = rows.leading(order, budget - taken)
    if n == len(order) if rows.sizes is not None else n < budget - taken or not n:
        raise DataError(_CHANGED)
    if rows.sizes is None:
        return Cut(float(keys[order[n - 1]]), rows.id(order[n - 1]), documents + n)
    size = taken + rows.amount(order[:n])
    return Cut(float(keys[order[n]]), rows.id(order[n]), documents + n, size, exclusive=True)


class Bin(NamedTuple):
    """Rows of a list whose keys lie in one bin: how many, the sum of their sizes (or their number),
    that sum over those that no other list can take, the smallest and the largest of the keys, and,
    where they are asked for, of the ids."""

    bin: int
    n: int
    amount: int
    sure: int
    low: float
    high: float
    first: Any = None
    last: Any = None


class Span(NamedTuple):
    """Where the end of a list is: at one of about `n` rows from (low, first) to (high, last), both
    included; no id: any. `above`: rows that are known to be better, and the sum of their sizes (or
    their number)."""

    low: float = -math.inf
    high: float = math.inf
    first: Any = None
    last: Any = None
    n: int = 1 << 62
    above: tuple[int, int] = (0, 0)

    def narrowed(self, bins: Sequence[Bin], budget: int, sized: bool, most: int = 0) -> Span:
        """The bins in which the budget ends, whatever other lists take of what they can.

        bins : of all rows between the bounds, or of all not below them
        most : if more than 0, an amount in which the budget ends in any case
        """
        falling = sorted(bins, reverse=True)
        documents, taken = self.above
        amounts = [b.amount for b in falling]
        top = _ending(amounts, budget - taken, sized)
        if top is None:
            raise DataError(_CHANGED)
        ends = [_ending([b.sure for b in falling], budget - taken, sized)]
        if most:
            ends.append(_ending(amounts, most, sized))
        end = min((e for e in ends if e is not None), default=None)
        high, low = falling[top], falling[-1 if end is None else end]
        n = sum(b.n for b in falling[top : None if end is None else end + 1])
        above = (documents + sum(b.n for b in falling[:top]), taken + sum(amounts[:top]))
        if low.low < high.high:
            return Span(low.low, high.high, n=n, above=above)
        first = self.first if end is None else low.first
        return Span(low.low, high.high, first, high.last, n, above)

    def facts(self, steps: int) -> tuple[Any, ...]:
        """The values of `span_fields`, for so many steps of the key."""
        # Halves first: high - low may overflow. Rounding keeps the order, which is all that
        # matters. 0 where a bound is infinite.
        step = (self.high / 2 - self.low / 2) / (steps / 2)
        step = max(step, 5e-324) if np.isfinite(step) else 0.0
        first, last, skipped, offset = self.first, self.last, None, 0
        if isinstance(first, int):
            skipped = max(0, int(last - first).bit_length() - 16)
            offset = first >> skipped
        elif first is not None:
            pairs = enumerate(zip(first, last, strict=False))
            skipped = next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))
        return (self.low, self.high, first, last, step, skipped, offset)


def span_fields(pool: DataFrame) -> str:
    """The fields of a span as a struct on Spark; `skipped`, `offset`: what bins of ids leave out,
    bits of an integer, or characters with which all strings begin."""
    ids = "bigint" if _has_integers(pool) else "string"
    bounds = f"low: double, high: double, first: {ids}, last: {ids}"
    return f"{bounds}, step: double, skipped: int, offset: bigint"


def _has_integers(pool: DataFrame) -> bool:
    return isinstance(pool.schema[ID].dataType, T.IntegralType)


def _ending(amounts: Sequence[int], budget: int, sized: bool) -> int | None:
    """The position at which a budget ends; None if it does not."""
    sums = [*accumulate(amounts)]  # of Python's numbers, which have no end
    found = (bisect_right if sized else bisect_left)(sums, budget)
    return found if found < len(amounts) else None


def counted(
    rows: DataFrame, of: Column, bins: Column, sized: bool, ids: bool = False,
    sure: Column | None = None,
) -> dict[int, list[Bin]]:  # fmt: skip
    """The bins of each list, in one pass over a frame with KEY, ID if `ids`, and SIZE if `sized`.

    of, bins : the list of a row (a small integer) and its bin (bigint)
    sure : is the row one that no other list can take? By default all are
    """
    # One whole number for both: counting by two columns takes a tenth longer.
    label = (bins + of.cast("bigint") * F.lit(_LABEL)).alias("label")
    amount = total_size() if sized else F.count("*")
    own = amount if sure is None else F.try_sum(F.when(sure, F.col(SIZE) if sized else F.lit(1)))
    # Strings among the aggregates would have Spark sort all rows: only where they are needed.
    ends = [F.min(ID), F.max(ID)] if ids else []
    found: dict[int, list[Bin]] = {}
    facts = [F.count("*"), amount, own, F.min(KEY), F.max(KEY), *ends]
    columns = [fact.alias(f"f{i}") for i, fact in enumerate(facts)]
    for at, n, total, sum_of_sure, *keys_and_ids in rows.groupBy(label).agg(*columns).collect():
        group = (at + _LABEL // 2) // _LABEL
        one = Bin(at - group * _LABEL, n, known(total), sum_of_sure or 0, *keys_and_ids)
        found.setdefault(group, []).append(one)
    return found


def root_bin(key: Column, steps: float = _ROOT_STEPS) -> Column:
    """The bin of a key (bigint), rising with it."""
    root = F.least(F.sqrt(F.sqrt(F.abs(key))) * F.lit(steps), F.lit(float(_MOST_BINS)))
    return F.floor(F.signum(key) * root)


def split_bin(pool: DataFrame, span: Column) -> Column:
    """The bin of KEY between two bounds (bigint): by equal steps; where a bound is infinite, for
    which `step` is 0, by steps of the logarithm; where the keys are equal, by the id."""
    key, ids, skipped = F.col(KEY), F.col(ID), span["skipped"]
    log = F.floor(F.signum(key) * F.least(F.log1p(F.abs(key)), F.lit(1e3)) * F.lit(64.0))
    by_key = F.when(span["step"] > 0, F.floor((key - span["low"]) / span["step"])).otherwise(log)
    if _has_integers(pool):
        bits = F.coalesce(skipped, F.lit(48))
        by_id = F.call_function("shiftright", ids.cast("bigint"), bits) - span["offset"]
    else:  # two bytes
        part = F.call_function("substring", ids, F.coalesce(skipped, F.lit(0)) + 1, F.lit(2))
        by_id = F.conv(F.rpad(F.hex(part), 4, "0"), 16, 10).cast("bigint")
    return F.when(span["low"] < span["high"], by_key).otherwise(by_id)


def from_low(span: Column, key: Column) -> Column:
    """Is the row at the lower bound or above?"""
    by_id = span["first"].isNull() | (F.col(ID) >= span["first"])
    return (key > span["low"]) | ((key == span["low"]) & by_id)


def above_high(span: Column, key: Column) -> Column:
    """Is the row above the upper bound?"""
    by_id = F.coalesce(F.col(ID) > span["last"], F.lit(False))
    return (key > span["high"]) | ((key == span["high"]) & by_id)


def exact_cuts(
    pool: DataFrame,
    wanted: Wanted,
    sized: bool,
    known: Mapping[int, Sequence[Bin]] | None = None,
    near: Near | None = None,
) -> list[Cut]:
    """The cut of each of several (list, budget): the best rows of a list up to a budget.

    A list that has no more is selected whole. By size, the row that would cross the budget ends the
    list, and a budget of 0 holds nothing.

    Parameters
    ----------
    pool : frame with ID, KEY and, if `sized`, SIZE; and GROUP (int), the list of each row, unless
        there is but one, 0
    known : the lists' histograms, if they are known already
    near : spares computing the keys of most rows in the second pass
    """
    grouped = GROUP in pool.columns
    lists = {g for g, budget in wanted if budget > 0}
    if known is None and lists:
        steps = _ROOT_STEPS / max(1.0, len(lists) / _LISTS_AT_FULL_WIDTH)
        own, group = pool, F.lit(0)
        if grouped:
            own, group = pool.where(F.col(GROUP).isin(list(lists))), F.col(GROUP)
        known = counted(own, group, root_bin(F.col(KEY), steps), sized)
    cuts: dict[int, Cut] = {}
    spans: dict[int, Span] = {}
    for i, (g, budget) in enumerate(wanted):
        bins = (known or {}).get(g, ())
        n, total = sum(b.n for b in bins), sum(b.amount for b in bins)
        if plain := plain_cut(n, total, budget, sized, grouped):
            cuts[i] = plain
        else:
            spans[i] = Span().narrowed(bins, budget, sized)
    most = _MAX_ROWS // max(1, len(spans))
    while full := {i: s for i, s in spans.items() if s.n > most}:
        rows = _within(pool, wanted, full, near)
        crowds = any(s.low == s.high for s in full.values())
        finer = split_bin(pool, F.col("at.span"))
        found = counted(rows, F.col("at.search"), finer, sized, ids=crowds)
        for i, old in full.items():
            new = old.narrowed(found.get(i, ()), wanted[i][1], sized)
            # Of equal ids, or ids that are equal but for their last bytes, no step is left.
            stuck = new[:4] == old[:4] or (new.first is not None and new.first == new.last)
            spans[i] = new._replace(n=0) if stuck else new
    if spans:
        sizes = [SIZE] if sized else []
        close = _within(pool, wanted, spans, near).select(ID, KEY, *sizes, "at.search")
        held = Rows.of(to_arrow(close))
        keys = numbers(held.table, KEY, np.float64)
        searches = numbers(held.table, "search", np.int64)
        for i, span in spans.items():
            order = held.falling(keys, np.flatnonzero(searches == i))
            cuts[i] = cut_within(held, keys, order, wanted[i][1], span.above)
    return [cuts[i] for i in range(len(wanted))]


def _within(
    pool: DataFrame, wanted: Wanted, spans: Mapping[int, Span], near: Near | None
) -> DataFrame:
    """The rows within each span, with `at`: its position (`search`), and the span."""
    at = f"struct<search: int, span: struct<{span_fields(pool)}>>"
    table = [(wanted[i][0], (i, s.facts(_SPLIT_BINS))) for i, s in spans.items()]
    if GROUP in pool.columns:
        frame = pool.sparkSession.createDataFrame(table, f"of int, at {at}")
        rows = pool.join(F.broadcast(frame), F.col(GROUP) == F.col("of"))
    else:
        if near is not None:
            # By the bin's own keys: cheaper than computing each row's key.
            pool = pool.where(reduce(Column.__or__, [near(s.low, s.high) for s in spans.values()]))
        entries = [
            F.struct(F.lit(i), F.struct(*map(F.lit, facts))).cast(at) for _, (i, facts) in table
        ]
        rows = pool.withColumn("at", F.explode(F.array(*entries)) if table[1:] else entries[0])
    span, key = F.col("at.span"), F.col(KEY)
    return rows.where(from_low(span, key) & ~above_high(span, key))
