"""Counts of many numbers a row in bins, batch by batch: what reports draw and bound by.

As rows of Spark each number would be one: of 60 targets two hundred a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Float64 = npt.NDArray[np.float64]

LOG_STEPS = 4_096  # bins from a number to its double, where bins are of logarithms
ZERO = -(1 << 60)  # their bin of 0, which has no logarithm
COLUMNS = (
    "kind int, t int, bin bigint, n bigint, first double, second double, low double, high double"
)
_NAMES = tuple(each.split()[0] for each in COLUMNS.split(", "))


class Kind(NamedTuple):
    """How the T numbers of one column (list<double>) are counted.

    Parameters
    ----------
    column : without nulls, of T numbers a row
    scales : (low, step) of each of the T: bin = floor((x - low) / step); None: of the logarithm
    exponents : sum exp(x - middle of the bin) and its square, too
    sizes : a column (double) whose sum is kept instead
    """

    column: str
    scales: Sequence[tuple[float, float]] | None
    exponents: bool = False
    sizes: str | None = None


def counted(batches: Iterable[pa.RecordBatch], kinds: dict[int, Kind]) -> Iterator[pa.RecordBatch]:
    """COLUMNS: for each kind, t and bin the rows, both sums (0 where none is kept), and the least
    and largest number. One part for each partition: they are added up elsewhere."""
    parts: dict[tuple[int, int], list[Float64]] = {}
    for batch in batches:
        for name, kind in kinds.items():
            lists = batch.column(kind.column)
            numbers = lists.flatten().to_numpy(zero_copy_only=False)
            sizes = None
            if kind.sizes is not None:
                sizes = batch.column(kind.sizes).to_numpy(zero_copy_only=False)
            for t, x in enumerate(numbers.reshape(len(lists), -1).T if len(lists) else ()):
                there = parts.setdefault((name, t), [])
                there.append(_rows(kind, t, np.ascontiguousarray(x), sizes))
                if len(there) == 16:  # no more is held than there are bins, some times over
                    there[:] = [_added(np.concatenate(there, axis=1))]
    for (name, t), there in parts.items():
        at, *numbers = _added(np.concatenate(there, axis=1))
        same = [pa.array(np.full(len(at), v, np.int32)) for v in (name, t)]
        whole = [pa.array(at.astype(np.int64)), pa.array(numbers[0].astype(np.int64))]
        yield pa.RecordBatch.from_arrays(
            [*same, *whole, *map(pa.array, numbers[1:])], names=list(_NAMES)
        )


def _rows(kind: Kind, t: int, x: Float64, sizes: Float64 | None) -> Float64:
    """Of one batch and t: bin, rows, sums, least and largest, float64[6, *]."""
    one, none = np.ones(len(x)), np.zeros(len(x))
    if kind.scales is None:
        with np.errstate(divide="ignore"):
            at = np.floor(np.log(x) * LOG_STEPS)
        at[x == 0.0] = ZERO
    else:
        low, step = kind.scales[t]
        at = np.floor((x - low) / step)
    first, second = none if sizes is None else sizes, none
    if kind.exponents and kind.scales is not None:
        first = np.exp(x - (low + (at + 0.5) * step))
        second = first * first
    return _added(np.stack([at, one, first, second, x, x]))


def _added(rows: Float64) -> Float64:
    """Rows of equal bins as one, float64[6, *]; bins rise."""
    rows = rows[:, np.argsort(rows[0], kind="stable")]
    at = rows[0]
    if not len(at):
        return rows
    starts = np.flatnonzero(np.concatenate([[True], at[1:] != at[:-1]]))
    sums = np.add.reduceat(rows[1:4], starts, axis=1)
    least, largest = np.minimum.reduceat(rows[4], starts), np.maximum.reduceat(rows[5], starts)
    return np.vstack([at[starts], sums, least, largest])
