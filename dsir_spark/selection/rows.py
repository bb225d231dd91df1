"""Rows on the driver: a bounded number of ids with their keys and sizes, in NumPy.

The last step of every selection, which orders the few rows near the cuts, and the only one where
the pool is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column
from pyspark.sql import functions as F

from dsir_spark.errors import DataError
from dsir_spark.selection.pool import ID, SIZE

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Rows:
    """Rows of a frame with ID and perhaps SIZE.

    table : all columns
    place : int64[n] the rank of each id among all, rising; equal ids have equal ranks
    sizes : int64[n], or None where budgets are of rows
    """

    table: pa.Table
    place: Ints
    sizes: Ints | None

    @classmethod
    def of(cls, table: pa.Table) -> Rows:
        """Rows of a table with ID and perhaps SIZE.

        Raises
        ------
        DataError
            All sizes together are more than a bigint holds.
        """
        # Arrow orders strings as Spark does, by their bytes.
        ranks = pc.rank(table.column(ID), tiebreaker="min") if len(table) else []
        place = np.asarray(ranks).astype(np.int64)
        sizes = numbers(table, SIZE, np.int64) if SIZE in table.column_names else None
        if sizes is not None and sizes.sum(dtype=np.float64) >= 2.0**63:
            raise too_large()
        return cls(table, place, sizes)

    def where(self, kept: np.ndarray[Any, np.dtype[np.bool_]]) -> Rows:
        """Those that are kept (bool[n]), with the ranks that they had among all."""
        sizes = None if self.sizes is None else self.sizes[kept]
        return Rows(self.table.filter(pa.array(kept)), self.place[kept], sizes)

    def __len__(self) -> int:
        return len(self.place)

    def id(self, row: int) -> Any:
        """The id of a row."""
        return self.table.column(ID)[int(row)].as_py()

    def ids(self, rows: Ints) -> list[Any]:
        """The ids of rows."""
        return list(self.table.column(ID).take(pa.array(rows)).to_pylist())

    def falling(self, keys: Floats, among: Ints | None = None) -> Ints:
        """Positions by falling (key, id)."""
        rows = np.arange(len(self)) if among is None else among
        return np.asarray(rows[np.lexsort((self.place[rows], keys[rows]))[::-1]])

    def leading(self, order: Ints, rest: int) -> int:
        """How many of the first rows of an order the rest of a budget holds; by size, the first row
        to cross it ends it, and rows of size 0 fit in any."""
        if self.sizes is None:
            return max(0, min(rest, len(order)))
        return int(np.searchsorted(np.cumsum(self.sizes[order]), rest, side="right"))

    def amount(self, rows: Ints) -> int:
        """Sum of the sizes of rows, or their number."""
        return len(rows) if self.sizes is None else int(self.sizes[rows].sum())


def total_size() -> Column:
    """The sum of SIZE of one row or more; null where a bigint does not hold it."""
    return F.try_sum(SIZE)


def too_large() -> DataError:
    """What is said of sizes that no bigint holds together."""
    return DataError("the sizes of the rows selected from sum to 2^63 or more: give a size_column "
                     "of a larger unit, or leave such rows out")  # fmt: skip


def known(total: int | None) -> int:
    """A `total_size`.

    Raises
    ------
    DataError
        There is none.
    """
    if total is None:
        raise too_large()
    return total


def numbers(table: pa.Table, name: str, kind: Any) -> Any:
    """A column without nulls as a NumPy array."""
    return table.column(name).to_numpy().astype(kind, copy=False)


def matrix(table: pa.Table, name: str, width: int) -> Floats:
    """float64[rows, width] of a column of arrays; NaN for null."""
    if not len(table):
        return np.zeros((0, width))
    flat = table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat.astype(np.float64, copy=False).reshape(len(table), width))
