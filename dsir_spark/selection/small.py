"""A small pool: everything after the funnel on the driver, in NumPy, from one pass over the rows.

The same steps as on Spark, in the same order and with the same bits: noise and scores come from
Spark, and what is left are sums, quotients and comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dsir_spark.options import SelectOptions
from dsir_spark.selection import allocation, cuts
from dsir_spark.selection.allocation import Rule
from dsir_spark.selection.cuts import Cut, cut_within
from dsir_spark.selection.pool import COPY, ID, MEMBER, NOISE, RANKS, VALUE
from dsir_spark.selection.quotas import Found, Quota, amounts_of, budgets_of, rest_of
from dsir_spark.selection.rows import Floats, Ints, Rows, matrix, numbers

_BYTES = 100_000_000  # of a pool that the driver holds


def fits(num_rows: int, targets: int) -> bool:
    """Is a pool of so many rows small?"""
    return num_rows * allocation.row_bytes(targets) <= _BYTES


class SmallPool:
    """The candidates, as `Pool.staged` gives them, on the driver.

    ranks : float64[rows, targets] before noise
    keys : the same, with it
    losers : ids of rows that left as copies or as too many of their group
    """

    def __init__(self, table: pa.Table, targets: int) -> None:
        self.rows = Rows.of(table)
        self.ranks: Floats = matrix(table, RANKS, targets)
        self.keys = self.ranks
        self.losers: list[Any] = []

    @property
    def size(self) -> int | None:
        """Sum of the sizes of all rows, where budgets are of sizes."""
        return None if self.rows.sizes is None else int(self.rows.sizes.sum())

    def heat(self, temperatures: tuple[float, ...]) -> None:
        """Divide the ranks by temperatures, and add the noise."""
        noise = numbers(self.rows.table, NOISE, np.float64)
        self.ranks = self.ranks / np.array(temperatures)
        self.keys = self.ranks + noise[:, None]

    def _keep(self, kept: np.ndarray[Any, Any], told: bool = True) -> int:
        """Drop the others; how many they are."""
        if kept.all():
            return 0
        if told:
            self.losers += self.rows.ids(np.flatnonzero(~kept))
        self.rows = Rows.of(self.rows.table.filter(pa.array(kept)))
        self.ranks, self.keys = self.ranks[kept], self.keys[kept]
        return int((~kept).sum())

    def drop_copies(self) -> int:
        """Drop all rows of a value of COPY but those with its smallest id; how many."""
        codes = _codes(self.rows.table.column(COPY))
        first = np.full(codes.max(initial=-1) + 1, len(codes), np.int64)
        place = _equal_places(self.rows)
        here = codes >= 0
        np.minimum.at(first, codes[here], place[here])
        kept = ~here
        kept[here] = place[here] == first[codes[here]]
        return self._keep(kept)

    def drop_equal_ids(self) -> int:
        """Drop rows of an id but one; how many."""
        place = _equal_places(self.rows)
        return self._keep(place == self.rows.place, told=False)

    def limit_groups(self, most: int) -> int:
        """Drop rows that are not among the best of their group, by their largest key; how many."""
        codes = _codes(self.rows.table.column(MEMBER))
        order = self.rows.falling(self.keys.max(axis=1, initial=-np.inf))
        order = order[np.argsort(codes[order], kind="stable")]
        starts = np.flatnonzero(np.diff(codes[order], prepend=-2))
        within = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
        kept = np.empty(len(order), bool)
        kept[order] = (within < most) | (codes[order] < 0)
        return self._keep(kept)

    def allocate(self, rule: Rule) -> Found:
        """The cuts without quotas."""
        keys = self.keys.copy()
        # Of a target's own order, no more than all budgets together can be taken by all targets.
        for t, budget in enumerate(rule.budgets):
            order = self.rows.falling(keys[:, t])
            most = self.rows.leading(order, sum(rule.budgets)) + 1 if budget > 0 else 0
            keys[order[most:], t] = np.nan
        found = allocation.settle(self.rows, keys, rule)
        return Found.of(allocation.cuts_of(self.rows, keys, rule, found))

    def fill_quotas(self, budgets: Sequence[int], options: SelectOptions) -> Found:
        """The cuts under quotas."""
        rows, values = self.rows, self.rows.table.column(VALUE).to_pylist()
        names: dict[str | None, int] = {}
        codes = np.array([names.setdefault(v, len(names)) for v in values], np.int64)
        counted = {v: rows.amount(np.flatnonzero(codes == c)) for v, c in names.items()}
        amounts = amounts_of(counted, options)
        found = Found.of([])
        left = np.ones(len(rows), bool)
        for t, budget in enumerate(budgets):
            keys = self.keys[:, t]
            floors, caps = budgets_of(budget, amounts, options)
            competing, taken = left.copy(), np.zeros(len(rows), bool)
            own = []
            for g, value in enumerate(amounts):
                order = rows.falling(keys, np.flatnonzero(left & (codes == names[value])))
                inside = rows.leading(order, floors[g]) if floors[g] > 0 else 0
                taken[order[:inside]], competing[order[:inside]] = True, False
                floor = self._cut(keys, order, floors[g], grouped=True)
                cap = None
                if g in caps:
                    cap = self._cut(keys, order, caps[g], grouped=True)
                    below = rows.leading(order, caps[g]) if caps[g] > 0 else 0
                    competing[order[below:]] = False
                own.append(Quota(value, floor, cap))
            rest = rest_of(budget, floors, own, options)
            order = rows.falling(keys, np.flatnonzero(competing))
            if rest > 0:
                taken[order[: rows.leading(order, rest)]] = True
            found.add(self._cut(keys, order, rest, grouped=False), tuple(own))
            left &= ~taken
        return found

    def _cut(self, keys: Floats, order: Ints, budget: int, grouped: bool) -> Cut:
        """As `cuts.exact_cuts` finds it."""
        total = self.rows.amount(order)
        plain = cuts.plain_cut(len(order), total, budget, self.rows.sizes is not None, grouped)
        found = plain or cut_within(self.rows, keys, order, budget)
        assert found is not None
        return found


def _equal_places(rows: Rows) -> Ints:
    """int64[n] the ranks of ids, with equal ids at the smallest of theirs."""
    order = np.argsort(rows.place)
    ids = rows.table.column(ID).combine_chunks().take(pa.array(order))
    new = np.ones(len(order), bool)
    if len(order) > 1:
        new[1:] = np.asarray(pc.not_equal(ids[1:], ids[:-1]))
    starts = np.flatnonzero(new)
    found = np.empty(len(order), np.int64)
    found[order] = starts[np.cumsum(new) - 1]
    return found


def _codes(column: pa.ChunkedArray) -> Ints:
    """int64[n] equal numbers for equal values; -1 for null."""
    array = column.combine_chunks()
    if not pa.types.is_struct(array.type):
        codes = pc.fill_null(array.dictionary_encode().indices, -1)
        return np.asarray(codes).astype(np.int64)
    found = np.zeros(len(array), np.int64)
    for field in array.flatten():
        # Numbers below n again after each field, so that no product of them overflows.
        pair = found * (len(array) + 1) + _codes(pa.chunked_array([field])) + 1
        found = np.unique(pair, return_inverse=True)[1].astype(np.int64)
    found[~np.asarray(pc.is_valid(array))] = -1
    return found
