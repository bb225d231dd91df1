"""Several targets: who gets which row, when each row goes to one target at most.

Joint: pairs of row and target by falling (key, id), ties by the target's name; a pair counts if its
row is still free and its target not yet full. Sequential: target after target takes its best of
what the earlier ones left. Both are the one stable matching in which targets prefer by key, and a
row prefers the target with its largest key, or the earlier one.

`settled` is this definition, for rows on the driver. `narrowed_cuts` closes in on it from both
sides at once: were the cuts of the other targets as low as they can be, a target would see the
fewest rows, and its own cut be the lowest it can be; were they as high, the highest. Each pass over
the pool narrows all cuts from both sides, until the rows whose target is open are few enough to be
settled. Passes do not grow with the number of targets, only with the logarithm of rows: the highest
of the cuts that are open is always found to one bin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.local_rows import to_arrow
from dsir_spark.options import DOUBLES
from dsir_spark.selection import cuts
from dsir_spark.selection.cuts import KEY, Bin, Cut, Span, nothing
from dsir_spark.selection.pool import FEW_TARGETS, FOR, ID, KEYS, SIZE
from dsir_spark.selection.rows import Floats, Ints, Rows, known, matrix, total_size

_SURE, _POSSIBLE = "__dsir_sure", "__dsir_possible"
_OPEN_BYTES = 64_000_000  # of the rows that the driver settles
_BINS = 65_536  # between the bounds of all targets together
_ROOT_STEPS = 4_096.0  # of all targets together, while there are no bounds
# Where there is no cut to look for: the target takes all that come, or nothing at all.
_ALL = Span(-math.inf, -math.inf, n=0)
_NONE = Span(math.inf, math.inf, n=0)
Reached = Callable[[Column, Column], Column]


def row_bytes(targets: int) -> int:
    """About what a row takes on the driver: a key for each target, id, size and hash."""
    return 8 * targets + 72


def by_name(name: str | None) -> tuple[str, bool]:
    """What orders names: null, a value of a quota column too, beside the text `None`, before it."""
    return str(name), name is not None


def apportion(budget: int, shares: Sequence[float], names: Sequence[str | None]) -> list[int]:
    """Whole rows (or sizes) for each target, by largest remainder, ties by name: order-free."""
    number: Any = float if budget < DOUBLES else Fraction
    own = [number(share) for share in shares]
    total = sum(own)
    if not total:
        return [0] * len(shares)
    exact = [budget * share / total for share in own]
    whole = [int(x) for x in exact]
    order = sorted(range(len(shares)), key=lambda t: (whole[t] - exact[t], by_name(names[t])))
    for t in order[: budget - sum(whole)]:
        whole[t] += 1
    return whole


@dataclass(frozen=True)
class Rule:
    """What the allocation goes by: names and budgets of the targets, and joint or sequential."""

    names: Sequence[str | None]
    budgets: Sequence[int]
    sized: bool
    joint: bool

    @property
    def ranks(self) -> list[int]:
        """Of each target, its rank among those that a row likes as much: by name; if sequential,
        when a row likes all the same, by position."""
        order = list(range(len(self.names)))
        if self.joint:
            order.sort(key=lambda t: str(self.names[t]))
        return [order.index(t) for t in range(len(order))]

    def liking(self, key: Column, bound: Column) -> Column:
        """How much a row likes the target of a bound, to compare with others (struct)."""
        key = key if self.joint else F.lit(0.0)
        facts = {"key": key, "rank": -bound["rank"], "target": bound["target"]}
        return F.struct(*[fact.alias(name) for name, fact in facts.items()])

    def best(self, keys: Column, bounds: Column, reached: Reached) -> Column:
        """The largest liking of a row among the targets that it reaches; null if there is none.

        keys, bounds : arrays by target; a bound has the target's `rank` and position (`target`)
        reached : of a bound and a key
        """

        def liking(key: Column, bound: Column) -> Column:
            return F.when(reached(bound, key), self.liking(key, bound))

        n = len(self.names)
        if n > FEW_TARGETS:
            return F.array_max(F.zip_with(keys, bounds, liking))
        likings = [liking(keys[t], bounds[t]) for t in range(n)]
        return F.greatest(*likings) if n > 1 else likings[0]


def settled(
    rows: Rows, keys: Floats, rule: Rule, certain: Mapping[int, tuple[int, int]] | None = None
) -> list[Cut]:
    """The cut of each target, by the definition, on the driver.

    Parameters
    ----------
    keys : float64[rows, targets]; NaN where a row does not compete for a target
    certain : rows that go to each target beside these, and the sum of their sizes (or number)
    """
    beside = [(certain or {}).get(t, (0, 0)) for t in range(len(rule.budgets))]
    left = [budget - amount for budget, (_, amount) in zip(rule.budgets, beside, strict=True)]
    # Of a target's own list, all targets together can take no more than is left of all budgets.
    most, lists = sum(x for x in left if x > 0), []
    for t, budget in enumerate(rule.budgets):
        own = np.flatnonzero(~np.isnan(keys[:, t]) & (budget > 0))
        order = rows.falling(keys[:, t], own)
        lists.append(order[: rows.leading(order, most) + 1])
    docs, targets = np.concatenate(lists), np.repeat(np.arange(len(left)), [*map(len, lists)])
    liked = -np.array(rule.ranks, np.int64)[targets]
    by = (liked, rows.place[docs], keys[docs, targets])
    order = np.lexsort(by if rule.joint else (*by, liked))[::-1]
    taken, ends = _taken(rows, docs[order], targets[order], left)
    cuts = []
    for t, (n, amount) in enumerate(beside):
        mine, end = np.flatnonzero(taken == t), int(ends[t])
        n, size = n + len(mine), amount + rows.amount(mine) if rule.sized else None
        if rule.budgets[t] <= 0:
            cuts.append(nothing(rule.sized))
        elif end < 0:
            cuts.append(Cut(-math.inf, None, n, size))
        else:
            cuts.append(Cut(float(keys[end, t]), rows.id(end), n, size, exclusive=rule.sized))
    return cuts


def _taken(rows: Rows, docs: Ints, targets: Ints, left: list[int]) -> tuple[Ints, Ints]:
    """The target of each row, or -1, and the row at which each target was full, or -1: the last
    that it took, or, by size, the first that would have crossed its budget; of pairs in order."""
    taken = np.full(len(rows), -1, np.int64)
    ends = np.full(len(left), -1, np.int64)
    # Rows of size 0 still fit where nothing is left of a budget of sizes.
    full = np.array([b <= 0 and rows.sizes is None for b in left])
    for start in range(0, len(docs), 1 << 16):
        part = slice(start, start + (1 << 16))
        still = (taken[docs[part]] < 0) & ~full[targets[part]]
        pairs = zip(docs[part][still].tolist(), targets[part][still].tolist(), strict=True)
        for doc, t in pairs:
            if full[t] or taken[doc] >= 0:
                continue
            size = 1 if rows.sizes is None else int(rows.sizes[doc])
            fits = size <= left[t]
            if fits:
                left[t] -= size
                taken[doc] = t
            if not fits or (rows.sizes is None and not left[t]):
                full[t], ends[t] = True, doc
    return taken, ends


def narrowed_cuts(pool: DataFrame, rule: Rule) -> list[Cut]:
    """The cut of each target, of a frame with ID, KEYS and, where budgets are of sizes, SIZE; not
    fewer rows than the sum of the budgets where they are of rows."""
    spans = [Span() if budget > 0 else _NONE for budget in rule.budgets]
    most = _OPEN_BYTES // row_bytes(len(spans))
    first = True
    while sum(s.n for s in spans) > most:
        found = _counted(pool, rule, spans, first)
        before = spans
        spans = [_narrowed(s, found.get(t, []), rule, t, first) for t, s in enumerate(before)]
        if spans == before:
            break
        first = False
    return _settled(pool, rule, spans)


def _narrowed(span: Span, bins: Sequence[Bin], rule: Rule, t: int, first: bool) -> Span:
    """The span after a pass; `first`: has every row been counted for every target?"""
    if span is _ALL or span is _NONE:
        return span
    if rule.sized and sum(b.amount for b in bins) <= rule.budgets[t]:
        return _ALL
    # Whatever the others take, a target gets its budget from its best rows up to all budgets.
    most = sum(rule.budgets) if first else 0
    # Rows above are counted again: which of them come to the target depends on the others.
    return span.narrowed(bins, rule.budgets[t], rule.sized, most)._replace(above=(0, 0))


def _bounded(pool: DataFrame, rule: Rule, spans: Sequence[Span]) -> tuple[DataFrame, Column]:
    """The rows, with how much each likes the best target that it must reach, and the best that it
    may reach, or null where there is none; and the spans (array)."""
    steps = max(256, _BINS // len(spans))
    kind = f"{cuts.span_fields(pool)}, all: boolean, none: boolean, rank: int, target: int"
    facts = [
        (*s.facts(steps), s is _ALL, s is _NONE, rank, t)
        for t, (s, rank) in enumerate(zip(spans, rule.ranks, strict=True))
    ]
    bounds = F.array(*[F.struct(*map(F.lit, own)).cast(f"struct<{kind}>") for own in facts])
    sure, may = (rule.best(F.col(KEYS), bounds, reached) for reached in (_sure, _possible))
    return pool.withColumns({_SURE: sure, _POSSIBLE: may}), bounds


def _possible(span: Column, key: Column) -> Column:
    """May the row reach the cut?"""
    return ~span["none"] & cuts.from_low(span, key)


def _sure(span: Column, key: Column) -> Column:
    """Must the row reach the cut?"""
    return ~span["none"] & (span["all"] | cuts.above_high(span, key))


def _competes(span: Column, key: Column, rule: Rule) -> Column:
    """May the row go to the target?"""
    not_worse = F.col(_SURE).isNull() | (rule.liking(key, span) >= F.col(_SURE))
    return _possible(span, key) & not_worse


def _counted(
    pool: DataFrame, rule: Rule, spans: Sequence[Span], first: bool
) -> dict[int, list[Bin]]:
    """The rows that may go to each target, by bins between its bounds; one pass."""
    key, target, span = F.col(KEY), F.col("target"), F.col("span")
    bounded, bounds = _bounded(pool, rule, spans)
    rows = bounded.select("*", F.posexplode(KEYS).alias("target", KEY))
    rows = rows.withColumn("span", bounds[target])
    rows = rows.where(_competes(span, key, rule) & ~span["all"])
    if first:
        bins = cuts.root_bin(key, _ROOT_STEPS / len(spans))
    else:
        bins = F.when(_sure(span, key), F.lit(cuts.TOP)).otherwise(cuts.split_bin(pool, span))
    crowds = any(s.low == s.high for s in spans if s is not _ALL and s is not _NONE)
    best = F.col(_POSSIBLE) == rule.liking(key, span)
    return cuts.counted(rows, target, bins, rule.sized, ids=crowds, sure=best)


def _settled(pool: DataFrame, rule: Rule, spans: Sequence[Span]) -> list[Cut]:
    """The cuts, with the rows whose target is open settled on the driver."""
    bounded, bounds = _bounded(pool, rule, spans)
    sure, may = F.col(_SURE)["target"], F.col(_POSSIBLE)["target"]
    is_open = ~sure.eqNullSafe(may)
    size = F.col(SIZE) if rule.sized else F.lit(1).cast("bigint")
    keys = F.zip_with(KEYS, bounds, lambda k, span: F.when(_competes(span, k, rule), k))
    # Each open row is a group of its own, the others one for each target: one pass for both.
    groups = bounded.select(
        F.when(~is_open, F.coalesce(sure, F.lit(-1))).alias(FOR),
        F.when(is_open, F.col(ID)).alias(ID), F.when(is_open, keys).alias(KEYS), size.alias(SIZE),
    ).groupBy(FOR, ID, KEYS)  # fmt: skip
    table = to_arrow(groups.agg(F.count("*").alias("n"), total_size().alias(SIZE)))
    certain = {
        row[FOR]: (row["n"], known(row[SIZE]))
        for row in table.filter(pc.greater_equal(table.column(FOR), 0)).to_pylist()
    }
    table = table.filter(pc.is_null(table.column(FOR)))
    rows = Rows.of(table if rule.sized else table.drop_columns([SIZE]))
    return settled(rows, matrix(table, KEYS, len(spans)), rule, certain)
