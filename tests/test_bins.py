"""Counts in bins, and the best of many numbers, are those of a loop over the numbers."""

from __future__ import annotations

import math
import struct

import numpy as np
import pyarrow as pa
import pytest

from dsir_spark.features import best, bins


def plain(numbers, sizes, kind):
    """By t and bin: rows, sums, least and largest."""
    found: dict[tuple[int, int], list[float]] = {}
    for row, size in zip(numbers, sizes, strict=True):
        for t, x in enumerate(row):
            if kind.scales is None:
                # The leading bits: 4,096 bins from a number to its double.
                at, first = struct.unpack("<q", struct.pack("<d", x))[0] >> 40, size
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
    [bins.Kind("xyz", [(-1.0, 0.5), (0.0, 3.0), (2.0, 0.01)], exponents=True),
     bins.Kind("xyz", [(0.0, 1.0)] * 3), bins.Kind("xyz", sizes="size")],
    ids=["exponents", "counts", "leading bits"],
)  # fmt: skip
def test_numbers_are_counted_in_bins(kind):
    rng = np.random.default_rng(3)
    numbers, sizes = rng.uniform(0, 4, (700, 3)), rng.integers(1, 99, 700).astype(float)
    numbers[::7] = 0.0
    columns = [pa.array(x) for x in (*numbers.T, sizes)]
    whole = pa.RecordBatch.from_arrays(columns, names=[*"xyz", "size"])
    cut = [whole.slice(i, 30) for i in range(0, 700, 30)]  # more batches than are held
    (*rows,) = pa.Table.from_batches(bins.counted([whole.slice(0, 0), *cut], {4: kind})).to_pylist()
    expected = plain(numbers, sizes, kind)
    assert {(r["t"], r["bin"]) for r in rows} == expected.keys() and len(rows) == len(expected)
    for r in rows:
        own = [r[name] for name in ("n", "first", "second", "low", "high")]
        assert r["kind"] == 4 and own == pytest.approx(expected[r["t"], r["bin"]], rel=1e-9)
    assert not list(bins.counted([], {4: kind}))


def test_the_best_of_many_numbers():
    """By number, then by id as its bytes order; of batches with fewer rows than are wanted, all."""
    rng = np.random.default_rng(4)
    ids = [f"{'é' if i % 3 else 'z'}{i}" for i in rng.permutation(90)]
    keys = rng.integers(0, 5, (90, 3)).astype(float)  # ties
    keys[:9] = math.inf
    keys[9:18, 1] = -math.inf
    chance = np.repeat(rng.permutation(90).astype(float)[:, None], 3, axis=1)
    lists = [pa.array(list(x), pa.list_(pa.float64())) for x in (keys, chance)]
    columns = [pa.array(ids), pa.array(range(90)), *lists]
    whole = pa.RecordBatch.from_arrays(columns, names=["id", "n", "key", "chance"])
    assert not list(best.best([whole.slice(7, 0)], {"key": 4}))
    for batch in (whole, whole.slice(40, 2)):
        (found,) = best.best([batch], {"key": 4, "chance": 1})
        rows = batch.to_pylist()
        expected = []
        for by, (name, number) in enumerate((("key", 4), ("chance", 1))):
            for t in range(3):
                order = sorted(rows, key=lambda r: (r[name][t], r["id"].encode()), reverse=True)
                expected += [
                    {**r, "key": r["key"][t], "chance": r["chance"][t], "t": t, "by": by,
                     "order": r[name][t]} for r in order[:number]
                ]  # fmt: skip
        assert found.to_pylist() == expected


def test_numbers_go_to_bins_that_are_given():
    numbers, at = pa.array([3.0, 5.0, 4.0]), pa.array([7, -2, 7])
    batch = pa.RecordBatch.from_arrays([numbers, at], names=["x", "at"])
    (found,) = bins.counted([batch], {0: bins.Kind("x", at="at")})
    rows = [[r["bin"], r["n"], r["low"], r["high"]] for r in found.to_pylist()]
    assert rows == [[-2, 1, 5.0, 5.0], [7, 2, 3.0, 4.0]]
