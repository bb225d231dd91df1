"""Several targets: who gets which row, when each row goes to one target at most.

Joint: pairs of row and target by falling (key, id), ties by the target's name; a pair counts if its
row is still free and its target not yet full. Sequential: target after target takes its best of
what the earlier ones left. Both are the one stable matching in which targets prefer by key, and a
row prefers the target with its largest key, or the earlier one. That is what `narrowing` closes in
on; here is the definition, for rows on the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import Column
from pyspark.sql import functions as F

from dsir_spark.selection import cuts
from dsir_spark.selection.cuts import Cut
from dsir_spark.selection.pool import FEW_TARGETS
from dsir_spark.selection.rows import Floats, Ints, Rows

FOR = "__dsir_target"  # position of the target that a row goes to (int), or null


Reached = Callable[[Column, Column], Column]


def row_bytes(targets: int) -> int:
    """About what a row takes on the driver: a key for each target, id, size and hash."""
    return 8 * targets + 72


def apportion(budget: int, shares: Sequence[float], names: Sequence[str | None]) -> list[int]:
    """Whole rows (or sizes) for each target, by largest remainder, ties by name: order-free."""
    total = sum(shares)
    exact = [budget * share / total for share in shares]
    whole = [int(x) for x in exact]
    order = sorted(range(len(shares)), key=lambda t: (whole[t] - exact[t], str(names[t])))
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

    def liking(self, key: Column, rank: Column) -> Column:
        """How much a row likes a target, to compare with others (struct)."""
        return F.struct((key if self.joint else F.lit(0.0)).alias("key"), (-rank).alias("place"))

    def best(self, keys: Column, bounds: Column, reached: Reached) -> Column:
        """The largest liking of a row among the targets that it reaches; null if there is none.

        Parameters
        ----------
        keys : array of a row's keys by target
        bounds : array of structs by target, with a field `rank`
        reached : of a key and a bound
        """

        def liking(key: Column, bound: Column) -> Column:
            return F.when(reached(key, bound), self.liking(key, bound["rank"]))

        targets = range(len(self.names))
        if 1 < len(targets) <= FEW_TARGETS:
            return F.greatest(*[liking(keys[t], bounds[t]) for t in targets])
        return F.array_max(F.zip_with(keys, bounds, liking))

    def choice(self, own: Sequence[Cut], keys: Column, ids: Column) -> Column:
        """Position of the target that a row goes to (int), or null: of those whose cut it reaches,
        the one it likes best.

        Parameters
        ----------
        keys : array of a row's keys by target
        """
        if len(own) == 1:
            return F.when(own[0].reached_by(keys[0], ids), F.lit(0))
        named = [c.id for c in own if c.id is not None]
        kind = "string" if named and isinstance(named[0], str) else "bigint"
        bounds = F.array(*[
            F.struct(
                F.lit(c.key).cast("double").alias("key"), F.lit(c.id).cast(kind).alias("id"),
                F.lit(c.exclusive).alias("exclusive"), F.lit(rank).alias("rank"),
                F.lit(c.key is not None and c.id is None).alias("all"),
            )
            for c, rank in zip(own, self.ranks, strict=True)
        ])  # fmt: skip

        def reached(key: Column, cut: Column) -> Column:
            found = cut["all"] | (key > cut["key"])
            if not named:
                return found
            by_id = (ids > cut["id"]) | (~cut["exclusive"] & (ids == cut["id"]))
            return found | ((key == cut["key"]) & by_id)

        by_rank = [self.ranks.index(rank) for rank in range(len(own))]
        place = -self.best(keys, bounds, reached)["place"]
        return F.get(F.array(*[F.lit(t) for t in by_rank]), place)


def settle(rows: Rows, keys: Floats, rule: Rule) -> tuple[Ints, Ints]:
    """The allocation by its definition, on the driver.

    Parameters
    ----------
    keys : float64[rows, targets]; NaN where a row does not compete for a target, as no row does
        for one that takes none
    rule : with what is left of the budgets; none is left of a budget of rows that is 0, but rows of
        size 0 still fit into one of sizes

    Returns
    -------
    taken : int64[rows] the target of each row, or -1
    ends : int64[targets] the row at which each target was full, -1 if it was not: the last that it
        took, or, by size, the first that would have crossed its budget
    """
    taken = np.full(len(rows), -1, np.int64)
    ends = np.full(len(rule.budgets), -1, np.int64)
    if rule.joint:
        _by_falling_key(rows, keys, rule, taken, ends)
        return taken, ends
    for t, budget in enumerate(rule.budgets):
        free = np.flatnonzero((taken < 0) & ~np.isnan(keys[:, t]))
        order = rows.falling(keys[:, t], free)
        n = rows.leading(order, budget)
        taken[order[:n]] = t
        if rule.sized and n < len(order):
            ends[t] = order[n]
        elif not rule.sized and n == budget > 0:
            ends[t] = order[n - 1]
    return taken, ends


def _by_falling_key(rows: Rows, keys: Floats, rule: Rule, taken: Ints, ends: Ints) -> None:
    """Fill `taken` and `ends`, pair after pair."""
    docs, targets = np.nonzero(~np.isnan(keys))
    ranks = np.array(rule.ranks, np.int64)
    order = np.lexsort((-ranks[targets], rows.place[docs], keys[docs, targets]))[::-1]
    docs, targets = docs[order], targets[order]
    left = list(rule.budgets)
    full = np.array([b <= 0 and not rule.sized for b in left])
    for start in range(0, len(docs), 1 << 16):
        part = slice(start, start + (1 << 16))
        still = (taken[docs[part]] < 0) & ~full[targets[part]]
        pairs = zip(docs[part][still].tolist(), targets[part][still].tolist(), strict=True)
        for doc, t in pairs:
            if full[t] or taken[doc] >= 0:
                continue
            size = 1 if rows.sizes is None else int(rows.sizes[doc])
            if size > left[t]:
                full[t], ends[t] = True, doc
                continue
            left[t] -= size
            taken[doc] = t
            if rows.sizes is None and not left[t]:
                full[t], ends[t] = True, doc


def cuts_of(
    rows: Rows, keys: Floats, rule: Rule, found: tuple[Ints, Ints],
    certain: Mapping[int, tuple[int, int]] | None = None,
) -> list[Cut]:  # fmt: skip
    """The cuts that `settle` came to.

    Parameters
    ----------
    rule : with the whole budgets
    certain : rows that went to each target beside these, and the sum of their sizes
    """
    taken, ends = found
    own = []
    for t, budget in enumerate(rule.budgets):
        mine = np.flatnonzero(taken == t)
        n, amount = (certain or {}).get(t, (0, 0))
        n, amount = n + len(mine), amount + rows.amount(mine)
        size = amount if rule.sized else None
        if budget <= 0:
            own.append(cuts.nothing(rule.sized))
        elif ends[t] < 0:
            own.append(cuts.everything(n, size))
        else:
            end = int(ends[t])
            own.append(Cut(float(keys[end, t]), rows.id(end), n, size, exclusive=rule.sized))
    return own
