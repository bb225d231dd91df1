"""Counts of many numbers a row in bins, batch by batch: what reports draw and bound by.

As rows of Spark each number would be one: of 60 targets two hundred a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dsir_spark.features.batches import bins
from dsir_spark.features.spec import Float64

COLUMNS = (
    "kind int, t int, bin bigint, n bigint, first double, second double, low double, high double"
)
_NAMES = tuple(each.split()[0] for each in COLUMNS.split(", "))


class Kind(NamedTuple):
    """How the T numbers of a row are counted.

    Parameters
    ----------
    columns : T of them (double), without nulls; lists take twice as long from Spark
    scales : (low, step) of each of the T: bin = floor((x - low) / step); None: `batches.bins`
    at : a column (bigint) of the bins that these numbers, of T = 1, go to instead
    exponents : sum exp(x - middle of the bin) and its square, too
    sizes : a column (double) whose sum is kept instead
    """

    columns: Sequence[str]
    scales: Sequence[tuple[float, float]] | None = None
    at: str | None = None
    exponents: bool = False
    sizes: str | None = None


def counted(batches: Iterable[pa.RecordBatch], kinds: dict[int, Kind]) -> Iterator[pa.RecordBatch]:
    """COLUMNS: for each kind, t and bin the rows, both sums (0 where none is kept), and the least
    and largest number. One part for each partition: they are added up elsewhere."""
    parts: dict[tuple[int, int], list[Float64]] = {}
    for batch in filter(len, batches):
        for key, kind in kinds.items():
            at, sizes = (
                None if name is None else batch.column(name).to_numpy(zero_copy_only=False)
                for name in (kind.at, kind.sizes)
            )
            for t, name in enumerate(kind.columns):
                there = parts.setdefault((key, t), [])
                x = batch.column(name).to_numpy(zero_copy_only=False)
                there.append(_rows(kind, t, x, at, sizes))
                if len(there) == 16:  # no more is held than there are bins, some times over
                    there[:] = [_added(np.concatenate(there, axis=1))]
    for (key, t), there in parts.items():
        at, n, *numbers = _added(np.concatenate(there, axis=1))
        same = [np.full(len(at), v, np.int32) for v in (key, t)]
        columns = [*same, at.astype(np.int64), n.astype(np.int64), *numbers]
        yield pa.RecordBatch.from_pydict(dict(zip(_NAMES, columns, strict=True)))


def _rows(kind: Kind, t: int, x: Float64, at: Any, sizes: Float64 | None) -> Float64:
    """Of one batch and t: bin, rows, sums, least and largest, float64[6, *]."""
    one, none = np.ones(len(x)), np.zeros(len(x))
    first, second = none if sizes is None else sizes, none
    if kind.scales is not None:
        low, step = kind.scales[t]
        at = np.floor((x - low) / step)
        if kind.exponents:
            first = np.exp(x - (low + (at + 0.5) * step))
            second = first * first
    elif at is None:
        at = bins(x)
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
