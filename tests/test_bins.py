"""Counts in bins are those of a loop over the numbers."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from dsir_spark.features import bins


def plain(numbers, sizes, kind):
    """By t and bin: rows, sums, least and largest."""
    found: dict[tuple[int, int], list[float]] = {}
    for row, size in zip(numbers, sizes, strict=True):
        for t, x in enumerate(row):
            if kind.scales is None:
                at, first = math.floor(math.log(x) * 4096) if x else -(1 << 60), size
                second = 0.0
            else:
                low, step = kind.scales[t]
                at, first, second = math.floor((x - low) / step), 0.0, 0.0
                if kind.exponents:
                    first = math.exp(x - (low + (at + 0.5) * step))
                    second = first**2
            n, a, b, least, most = found.get((t, at), [0, 0.0, 0.0, math.inf, -math.inf])
            found[t, at] = [n + 1, a + first, b + second, min(least, x), max(most, x)]
    return found


@pytest.mark.parametrize(
    "kind",
    [bins.Kind("x", [(-1.0, 0.5), (0.0, 3.0), (2.0, 0.01)], exponents=True),
     bins.Kind("x", [(0.0, 1.0)] * 3), bins.Kind("x", None, sizes="size")],
    ids=["exponents", "counts", "logarithms"],
)  # fmt: skip
def test_numbers_are_counted_in_bins(kind):
    rng = np.random.default_rng(3)
    numbers, sizes = rng.uniform(0, 4, (700, 3)), rng.integers(1, 99, 700).astype(float)
    numbers[::7] = 0.0
    lists = pa.array(list(numbers), pa.list_(pa.float64()))
    whole = pa.RecordBatch.from_arrays([lists, pa.array(sizes)], names=["x", "size"])
    cut = [whole.slice(i, 30) for i in range(0, 700, 30)]  # more batches than are held
    (*rows,) = pa.Table.from_batches(bins.counted([whole.slice(0, 0), *cut], {4: kind})).to_pylist()
    expected = plain(numbers, sizes, kind)
    assert {(r["t"], r["bin"]) for r in rows} == expected.keys() and len(rows) == len(expected)
    for r in rows:
        own = [r[name] for name in ("n", "first", "second", "low", "high")]
        assert r["kind"] == 4 and own == pytest.approx(expected[r["t"], r["bin"]], rel=1e-9)
    assert not list(bins.counted([], {4: kind}))
