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

from dsir_spark.selection.cuts import Cut, cut_within, plain_cut
from dsir_spark.selection.pool import COPY, MEMBER, NOISE, OWN, RANKS, VALUE
from dsir_spark.selection.quotas import Candidates, Quotas
from dsir_spark.selection.rows import Floats, Ints, Rows, matrix, numbers

BYTES = 100_000_000  # of a pool that the driver holds


class SmallPool(Candidates):
    """The candidates, as `Pool.staged` gives them, on the driver.

    ranks : float64[rows, targets] before noise
    keys : the same, with it
    losers : ids of rows that left as copies or as too many of their group, and the stage
    """

    def __init__(self, table: pa.Table, targets: int) -> None:
        self.rows = Rows.of(table)
        self.ranks: Floats = matrix(table, RANKS, targets)
        self.keys = self.ranks
        self.losers: list[tuple[Any, str]] = []
        self._left: dict[str | None, Ints] = {}

    def total_size(self) -> int | None:
        """The sum of all sizes, where budgets are of sizes."""
        return None if self.rows.sizes is None else int(self.rows.sizes.sum())

    def heat(self, temperatures: tuple[float, ...]) -> None:
        """Divide the ranks by temperatures, and add the noise."""
        noise = numbers(self.rows.table, NOISE, np.float64)
        self.ranks = self.ranks / np.array(temperatures)
        self.keys = self.ranks + noise[:, None]

    def _keep(self, kept: np.ndarray[Any, Any], stage: str | None = None) -> int:
        """Drop the others, which are losers of a stage; how many they are."""
        if kept.all():
            return 0
        if stage is not None:
            self.losers += [(own, stage) for own in self.rows.ids(np.flatnonzero(~kept))]
        self.rows = self.rows.where(kept)
        self.ranks, self.keys = self.ranks[kept], self.keys[kept]
        return int((~kept).sum())

    def drop_copies(self) -> int:
        """Drop all rows of a value of COPY but those with its smallest id; how many."""
        table, place = self.rows.table, self.rows.place
        if OWN in table.column_names and len(table):
            place = np.asarray(pc.rank(table.column(OWN), tiebreaker="min")).astype(np.int64)
        codes = _codes(table.column(COPY))
        first = np.full(codes.max(initial=-1) + 2, len(codes), np.int64)  # the last: of null
        np.minimum.at(first, codes, place)
        return self._keep((codes < 0) | (place == first[codes]), "duplicate_text")

    def drop_equal_ids(self) -> int:
        """Drop rows of an id but one; how many."""
        kept = np.zeros(len(self.rows), bool)
        kept[np.unique(self.rows.place, return_index=True)[1]] = True
        return self._keep(kept)

    def limit_groups(self, most: int) -> int:
        """Drop rows that are not among the best of their group, by their largest key; how many."""
        codes = _codes(self.rows.table.column(MEMBER))
        order = self.rows.falling(self.keys.max(axis=1, initial=-np.inf))
        order = order[np.argsort(codes[order], kind="stable")]
        starts = np.flatnonzero(np.diff(codes[order], prepend=-2))
        within = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
        kept = np.empty(len(order), bool)
        kept[order] = (within < most) | (codes[order] < 0)
        return self._keep(kept, "over_max_per_group")

    def amounts(self) -> dict[str | None, int]:
        column = self.rows.table.column(VALUE)
        codes = _codes(column)
        order = np.argsort(codes, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []
        self._left = {column[int(own[0])].as_py(): own for own in parts}
        return {value: self.rows.amount(own) for value, own in self._left.items()}

    def cuts_of_values(self, t: int, wanted: Sequence[tuple[str | None, int]]) -> list[Cut]:
        return [self._cut(t, self._falling(t, value), budget, True) for value, budget in wanted]

    def take(self, t: int, own: Quotas, rest: int) -> Cut:
        competing, taken = dict(self._left), np.zeros(len(self.rows), bool)
        for q in own:
            order, inside = self._falling(t, q.value), q.floor.num_documents
            taken[order[:inside]] = True
            competing[q.value] = order[inside : None if q.cap is None else q.cap.num_documents]
        free = np.concatenate([np.zeros(0, np.int64), *competing.values()])
        order = self.rows.falling(self.keys[:, t], free)
        cut = self._cut(t, order, rest, False)
        taken[order[: cut.num_documents]] = True
        self._left = {value: rows[~taken[rows]] for value, rows in self._left.items()}
        return cut

    def _falling(self, t: int, value: str | None) -> Ints:
        return self.rows.falling(self.keys[:, t], self._left[value])

    def _cut(self, t: int, order: Ints, budget: int, grouped: bool) -> Cut:
        """As `cuts.exact_cuts` finds it."""
        rows = self.rows
        plain = plain_cut(len(order), rows.amount(order), budget, rows.sizes is not None, grouped)
        return plain or cut_within(rows, self.keys[:, t], order, budget)


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
        found = np.asarray(pa.array(pair).dictionary_encode().indices).astype(np.int64)
    found[~np.asarray(pc.is_valid(array))] = -1
    return found
