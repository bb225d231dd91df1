"""Several targets: who gets which row, when each row goes to one target at most.

Joint: pairs of row and target by falling (key, id), ties by the target's name; a pair counts if its
row is still free and its target not yet full. Sequential: target after target takes its best of
what the earlier ones left. Both are the one stable matching in which targets prefer by key, and a
row prefers the target with its largest key, or the earlier one. That is what `narrowing` closes in
on; here is the definition, for rows on the driver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pyspark.sql import Column
from pyspark.sql import functions as F

from dsir_spark.selection import cuts
from dsir_spark.selection.cuts import Cut
from dsir_spark.selection.rows import Floats, Ints, Rows

FOR = "__dsir_target"  # position of the target that a row goes to (int), or null


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

    @property
    def by_rank(self) -> list[int]:
        """The targets by rank."""
        ranks = self.ranks
        return sorted(range(len(ranks)), key=lambda t: ranks[t])

    def liking(self, key: Column) -> Column:
        """How much a row likes a target (double); equal likings go by rank."""
        return key if self.joint else F.lit(0.0)

    def first(self, likings: Column) -> Column:
        """The rank of the target that a row likes best (bigint), of an array of its likings by
        rank, null for targets that it cannot have; null if it has none."""
        return F.array_position(likings, F.array_max(likings)) - 1

    def ordered(self, keys: Column) -> Column:
        """An array by targets, by rank instead."""
        order = self.by_rank
        return keys if order == sorted(order) else F.array(*[keys[t] for t in order])

    def choice(self, own: Sequence[Cut], keys: Column, ids: Column) -> Column:
        """Position of the target that a row goes to (int), or null: of those whose cut it reaches,
        the one it likes best.

        Parameters
        ----------
        keys : array of a row's keys by target
        """
        if len(own) == 1:
            return F.when(own[0].reached_by(keys[0], ids), F.lit(0))
        order = self.by_rank
        named = [c.id for c in own if c.id is not None]
        kind = "string" if named and isinstance(named[0], str) else "bigint"
        # Arrays, so that the plan does not grow with the targets: code for each of sixty becomes
        # a method too long for Java to compile.
        bounds = F.array(*[
            F.struct(
                F.lit(own[t].key).cast("double").alias("key"),
                F.lit(own[t].id).cast(kind).alias("id"),
                F.lit(own[t].exclusive).alias("exclusive"),
                F.lit(own[t].key is not None and own[t].id is None).alias("all"),
            )
            for t in order
        ])  # fmt: skip

        def liking(key: Column, cut: Column) -> Column:
            reached = cut["all"] | (key > cut["key"])
            if named:
                by_id = (ids > cut["id"]) | (~cut["exclusive"] & (ids == cut["id"]))
                reached = reached | ((key == cut["key"]) & by_id)
            return F.when(reached, self.liking(key))

        likings = F.zip_with(self.ordered(keys), bounds, liking)
        return F.get(F.array(*[F.lit(t) for t in order]), self.first(likings).cast("int"))


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
