"""The exact cut: which rows of a list are the best, found from counts by histogram passes.

A list has an id (string or integer), a key (double, not null) and, where budgets are not in rows,
a size (bigint, >= 0). Its order is (key, id), falling. The driver holds histograms and the rows
near a cut, both of bounded size, never anything that grows with the pool or the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark.errors import DataError
from dsir_spark.selection.pool import ID, SIZE
from dsir_spark.selection.rows import Floats, Ints, Rows, numbers, to_arrow

KEY, GROUP, BIN = "__dsir_key", "__dsir_group", "__dsir_bin"
# Bins are equal steps of the fourth root of the key: fine where keys are small, coarse where they
# are large, so that one pass without bounds known beforehand leaves a row in some hundred for the
# next. The processor has an instruction for square roots; a logarithm costs Java as much as
# everything else in the pass. With four times as many bins the pass takes a fifth longer: the
# counts no longer fit into the processor's cache.
_STEPS = 1024.0
_MOST_BINS = 1 << 18  # each way, for keys of 4e9 and more: the driver receives no more
_LISTS_AT_FULL_WIDTH = 64  # more lists have wider bins: the driver receives rows of both
# So many rows near cuts the driver orders; of more, further histograms split their bins first.
_MAX_ROWS = 100_000
_SPLIT_BINS = 65_536
_LABEL = 1 << 32  # above the span of all bins
# A condition that all rows with a key within two bounds meet, and that is cheaper than the key.
Near = Callable[[float, float], Column]
CHANGED = "the weights changed between two passes over them: resample from data that stands still"


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


def nothing(sized: bool) -> Cut:
    """The cut that no row reaches."""
    return Cut(None, None, 0, 0 if sized else None)


def everything(num_documents: int, size: int | None) -> Cut:
    """The cut that all rows reach."""
    return Cut(float("-inf"), None, num_documents, size)


class Bin(NamedTuple):
    """Rows of a list whose keys lie in one bin: how many, the sum of their sizes (or their number),
    and the smallest and the largest of the keys, and of the ids where they are known."""

    bin: int
    n: int
    amount: int
    low: float
    high: float
    first: Any = None
    last: Any = None


def cut_within(
    rows: Rows, keys: Floats, order: Ints, budget: int, above: tuple[int, int] = (0, 0)
) -> Cut | None:
    """The cut of a list whose last part is on the driver; None where its rows do not fill it.

    Parameters
    ----------
    order : positions of that part by falling (key, id)
    above : rows before it, and the sum of their sizes (or their number)
    """
    documents, taken = above
    n = rows.leading(order, budget - taken)
    if rows.sizes is None:
        if n < budget - taken or not n:
            return None
        return Cut(float(keys[order[n - 1]]), rows.id(order[n - 1]), documents + n)
    if n == len(order):
        return None
    size = taken + rows.amount(order[:n])
    return Cut(float(keys[order[n]]), rows.id(order[n]), documents + n, size, exclusive=True)


@dataclass(frozen=True)
class _Search:
    """A cut that is looked for: it is at one of `n` rows of the list `group`, with keys from `low`
    to `high` (and, of equal keys, ids from `first` to `last`); `above` as of `cut_within`."""

    group: int
    budget: int
    n: int
    low: float
    high: float
    first: Any
    last: Any
    above: tuple[int, int]

    @classmethod
    def among(
        cls, group: int, budget: int, bins: Sequence[Bin], sized: bool,
        above: tuple[int, int] = (0, 0),
    ) -> _Search:  # fmt: skip
        """The search in the bin where the budget ends."""
        found, (documents, taken) = ending(bins, budget - above[1], sized)
        above = (above[0] + documents, above[1] + taken)
        crowd = found.low == found.high
        first, last = (found.first, found.last) if crowd else (None, None)
        return cls(group, budget, found.n, found.low, found.high, first, last, above)

    @property
    def crowd(self) -> bool:
        """Are all the keys equal?"""
        return self.low == self.high

    def holds(self) -> Column:
        """Is the row of the list between the bounds?"""
        found = F.col(KEY).between(F.lit(self.low), F.lit(self.high))
        if self.crowd and self.first is not None:
            found = found & F.col(ID).between(F.lit(self.first), F.lit(self.last))
        return found


def exact_cut(pool: DataFrame, budget: int, sized: bool = False) -> Cut:
    """The best `budget` rows of a frame with ID, KEY and, if `sized`, SIZE; see `exact_cuts`."""
    return exact_cuts(pool, [(0, budget)], sized)[0]


def exact_cuts(
    pool: DataFrame,
    wanted: Sequence[tuple[int, int]],
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

    One pass counts the keys of all lists by bins of their fourth roots; the rows of the bins in
    which cuts lie are ordered on the driver. Bins too full for it are split by equal steps of the
    key first, crowds of equal keys by steps of the id.
    """
    grouped = GROUP in pool.columns
    if known is None:
        lists = len({g for g, budget in wanted if budget > 0})
        if not lists:
            return [nothing(sized) for _ in wanted]
        own = pool.where(F.col(GROUP).isin([g for g, _ in wanted])) if grouped else pool
        steps = _STEPS / max(1.0, lists / _LISTS_AT_FULL_WIDTH)
        known = histograms(own, GROUP if grouped else None, sized, steps)
    cuts: list[Cut | None] = []
    searches: dict[int, _Search] = {}
    for i, (g, budget) in enumerate(wanted):
        bins = known.get(g, ())
        n, total = sum(b.n for b in bins), sum(b.amount for b in bins)
        cuts.append(plain_cut(n, total, budget, sized, grouped))
        if cuts[i] is None:
            searches[i] = _Search.among(g, budget, bins, sized)
    searches = _narrowed(pool, searches, sized, near)
    if searches:
        columns = [ID, KEY, *([GROUP] if grouped else []), *([SIZE] if sized else [])]
        close = _near_cuts(pool, list(searches.values()), near).select(*columns)
        rows = Rows.of(to_arrow(close))
        keys = numbers(rows.table, KEY, np.float64)
        groups = numbers(rows.table, GROUP, np.int64) if grouped else np.zeros(len(rows), int)
        for i, search in searches.items():
            own_rows = np.flatnonzero(
                (groups == search.group) & (keys >= search.low) & (keys <= search.high)
            )
            order = rows.falling(keys, own_rows)
            if search.crowd and search.first is not None:
                order = _between_ids(rows, order, search)
            cuts[i] = cut_within(rows, keys, order, search.budget, search.above)
    found = [c for c in cuts if c is not None]
    if len(found) < len(cuts):
        raise DataError(CHANGED)
    return found


def plain_cut(n: int, total: int, budget: int, sized: bool, grouped: bool) -> Cut | None:
    """The cut of a list of `n` rows with a sum of sizes (or number) of `total`, where it needs no
    search; a list of several is cut below its last row only where more than the budget is there."""
    if budget <= 0:
        return nothing(sized)
    if total < budget or (total == budget and (sized or grouped)):
        return everything(n, total if sized else None)
    return None


def ending(bins: Sequence[Bin], budget: int, sized: bool) -> tuple[Bin, tuple[int, int]]:
    """The bin in which the best `budget` end, and the rows and sizes in higher ones."""
    documents = taken = 0
    for found in sorted(bins, reverse=True):
        if taken + found.amount > budget or (taken + found.amount == budget and not sized):
            return found, (documents, taken)
        documents, taken = documents + found.n, taken + found.amount
    raise DataError(CHANGED)


def histograms(
    pool: DataFrame, label: str | None, sized: bool = False, steps: float = _STEPS
) -> dict[int, list[Bin]]:
    """The bins of keys for each value of a column of small integers (0 without one); one pass."""
    # One whole number for both: counting by two columns takes a tenth longer.
    packed = F.coalesce(root_bin(F.col(KEY), steps), F.lit(0))
    if label is not None:
        packed = packed + F.col(label).cast("bigint") * F.lit(_LABEL)
    key, documents = F.col(KEY), F.count("*")
    found: dict[int, list[Bin]] = {}
    counted = pool.groupBy(packed.alias(BIN)).agg(
        documents.alias("n"), (F.sum(SIZE) if sized else documents).alias("amount"),
        F.min(key).alias("low"), F.max(key).alias("high"),
    )  # fmt: skip
    for at, n, amount, low, high in counted.collect():
        group = (at + _LABEL // 2) // _LABEL
        found.setdefault(group, []).append(Bin(at - group * _LABEL, n, amount or 0, low, high))
    return found


def root_bin(key: Column, steps: float = _STEPS) -> Column:
    """The bin of a key (bigint), rising with it."""
    root = F.least(F.sqrt(F.sqrt(F.abs(key))) * F.lit(steps), F.lit(float(_MOST_BINS)))
    return F.floor(F.signum(key) * root)


def _narrowed(
    pool: DataFrame, searches: Mapping[int, _Search], sized: bool, near: Near | None
) -> dict[int, _Search]:
    """The searches, each among few enough rows for the driver; one pass for all of them a step."""
    found = dict(searches)
    while True:
        most = _MAX_ROWS // max(1, len(found))
        full = {i: s for i, s in found.items() if s.n > most and (not s.crowd or s.first != s.last
                                                                  or s.first is None)}  # fmt: skip
        if not full:
            return found
        for i, bins in _split(pool, full, sized, near).items():
            old = found[i]
            new = _Search.among(old.group, old.budget, bins, sized, old.above)
            # Of ids that are equal but for their last bytes no step may be left.
            stuck = (new.low, new.high, new.first, new.last) == (
                old.low, old.high, old.first, old.last)  # fmt: skip
            found[i] = replace(new, n=0) if stuck else new


def _split(
    pool: DataFrame, searches: Mapping[int, _Search], sized: bool, near: Near | None
) -> dict[int, list[Bin]]:
    """Finer bins of the rows between the bounds of each search."""
    kind = pool.schema[ID].dataType
    integral = isinstance(kind, T.IntegralType)
    ids = "bigint" if integral else "string"
    table = [
        (i, s.group, s.low, s.high, s.first, s.last, step(s.low, s.high, _SPLIT_BINS),
         skipped(s.first, s.last, integral))
        for i, s in searches.items()
    ]  # fmt: skip
    schema = (
        f"search int, of int, low double, high double, first {ids}, last {ids}, step double, "
        "skipped int"
    )
    bounds = F.broadcast(pool.sparkSession.createDataFrame(table, schema))
    within = F.col(KEY).between(F.col("low"), F.col("high"))
    within = within & (F.col("first").isNull() | F.col(ID).between(F.col("first"), F.col("last")))
    if GROUP in pool.columns:
        within = within & (F.col(GROUP) == F.col("of"))
    close = pool if near is None else pool.where(
        reduce(lambda a, b: a | b, [near(s.low, s.high) for s in searches.values()])
    )  # fmt: skip
    rows = close.join(bounds, within)
    by_key = split_bin(F.col(KEY), F.col("low"), F.col("step"))
    by_id = id_bin(F.col("skipped"), integral)
    binned = F.when(F.col("low") < F.col("high"), by_key).otherwise(by_id)
    # Strings among the aggregates would have Spark sort all rows: only where they are needed.
    crowds = any(s.crowd for s in searches.values())
    ends = [F.min(ID), F.max(ID)] if crowds else [F.lit(None), F.lit(None)]
    documents = F.count("*")
    counted = rows.groupBy("search", binned.alias(BIN)).agg(
        documents.alias("n"), (F.sum(SIZE) if sized else documents).alias("amount"),
        F.min(KEY).alias("low"), F.max(KEY).alias("high"),
        ends[0].alias("first"), ends[1].alias("last"),
    )  # fmt: skip
    found: dict[int, list[Bin]] = {}
    for search, *fields in counted.collect():
        found.setdefault(search, []).append(Bin(*fields))
    return found


def split_bin(key: Column, low: Column, step: Column) -> Column:
    """The bin of a key (bigint) between two bounds, by equal steps; where a bound is infinite, for
    which `step` is 0, by steps of the logarithm."""
    log = F.floor(F.signum(key) * F.least(F.log1p(F.abs(key)), F.lit(1e3)) * F.lit(64.0))
    return F.when(step > 0, F.floor((key - low) / step)).otherwise(log)


def id_bin(skipped: Column, integral: bool) -> Column:
    """The bin of an id (bigint): an integer without so many bits, or two bytes of a string after so
    many characters."""
    if integral:
        return F.call_function("shiftright", F.col(ID).cast("bigint"), skipped)
    part = F.call_function("substring", F.col(ID), skipped + 1, F.lit(2))
    return F.conv(F.rpad(F.hex(part), 4, "0"), 16, 10).cast("bigint")


def step(low: float, high: float, bins: int) -> float:
    """Width of the bins between two keys; 0 where one of them is infinite."""
    # Halves first: high - low may overflow. Rounding keeps the order, which is all that matters.
    width = (high / 2 - low / 2) / (bins / 2)
    return max(width, 5e-324) if np.isfinite(width) else 0.0


def skipped(first: Any, last: Any, integral: bool) -> int:
    """What the bins of ids from `first` to `last` leave out: bits of integers, or characters with
    which all strings begin."""
    if first is None:
        return 48 if integral else 0
    if integral:
        return max(0, int(last - first).bit_length() - 16)
    pairs = zip(first, last, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(last)))


def _near_cuts(pool: DataFrame, searches: Sequence[_Search], near: Near | None) -> DataFrame:
    """The rows among which the cuts are."""
    if GROUP not in pool.columns:
        close = pool
        if near is not None:
            # By the bin's own keys: cheaper than computing each row's key.
            bounds = [near(s.low, s.high) for s in searches]
            close = pool.where(reduce(lambda a, b: a | b, bounds))
        return close.where(reduce(lambda a, b: a | b, [s.holds() for s in searches]))
    ids = "bigint" if isinstance(pool.schema[ID].dataType, T.IntegralType) else "string"
    schema = f"of int, low double, high double, first {ids}, last {ids}"
    table = [(s.group, s.low, s.high, s.first, s.last) for s in searches]
    bounds_of = F.broadcast(pool.sparkSession.createDataFrame(table, schema))
    within = (F.col(GROUP) == F.col("of")) & F.col(KEY).between(F.col("low"), F.col("high"))
    within = within & (F.col("first").isNull() | F.col(ID).between(F.col("first"), F.col("last")))
    return pool.join(bounds_of, within, "left_semi")


def _between_ids(rows: Rows, order: Ints, search: _Search) -> Ints:
    """Those of a crowd whose ids are between the bounds; other searches may have brought more."""
    named = rows.ids(order)
    kept = [search.first <= name <= search.last for name in named]
    found: Ints = order[np.array(kept, bool)]
    return found
