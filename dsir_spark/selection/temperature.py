"""`temperature="auto"`: how far scores must be evened out for a sample to be one.

At the temperature found the effective sample size (sum w)^2 / sum w^2 of the weights exp(score / T)
is the number of rows wanted. Scores are counted in 65,536 equal steps, from which it follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.selection.pool import RANKS
from dsir_spark.selection.rows import Floats

_BINS = 65_536
Histogram = tuple[Floats, Floats]  # scores of n bins, nats, and rows in each


def smallest_temperature(low: Floats, counts: Floats, wanted: float, floor: float) -> float:
    """The smallest T >= floor at which exp(low / T) has an effective sample size of `wanted`.

    Parameters
    ----------
    low : float64[n] scores of n bins, nats
    counts : float64[n] rows in each
    wanted : rows; fewer than there are

    Rounded up to a multiple of floor / 1024, so that the last bit of an exponential, in which
    processors differ, decides nothing.
    """

    def size(t: float) -> float:
        w = np.exp((low - low.max()) / t)
        return float((counts @ w) ** 2 / (counts @ (w * w)))

    if size(floor) >= wanted:
        return floor
    a, b = floor, 2.0 * floor
    while size(b) < wanted and b < 1e12:
        a, b = b, 2.0 * b
    for _ in range(60):
        middle = (a + b) / 2
        a, b = (a, middle) if size(middle) >= wanted else (middle, b)
    return math.ceil(b * 1024 / floor) * floor / 1024


def found(
    histograms: Sequence[Histogram], num_rows: int, budget: int, size: int | None,
    shares: Sequence[float], floor: float,
) -> tuple[float, ...]:  # fmt: skip
    """The temperature of each target, for its share of a budget of rows, or, if `size` is the sum
    of all sizes, of one of sizes."""
    rows = float(budget) if size is None else budget * num_rows / max(1, size)
    # Fewer than there are.
    wanted = [min(rows * share / sum(shares), num_rows - 0.5) for share in shares]
    return tuple(
        smallest_temperature(*own, n, floor) if len(own[0]) else floor
        for own, n in zip(histograms, wanted, strict=True)
    )


def histograms(pool: DataFrame, targets: int) -> list[Histogram]:
    """Of the scores of each target, by two passes over a frame with RANKS."""
    ranks = pool.select(F.posexplode(RANKS).alias("at", "rank"))
    ranks = ranks.where(F.abs("rank") < math.inf)
    lows, steps = [0.0] * targets, [1.0] * targets
    for t, low, high in ranks.groupBy("at").agg(F.min("rank"), F.max("rank")).collect():
        lows[t], steps[t] = low, _step(low, high)
    low, step = (F.array(*[F.lit(x) for x in own])[F.col("at")] for own in (lows, steps))
    counted = ranks.groupBy("at", F.floor((F.col("rank") - low) / step).alias("bin")).count()
    bins: list[list[tuple[int, int]]] = [[] for _ in lows]
    for t, *one in counted.collect():
        bins[t].append(tuple(one))
    numbers = [np.array(sorted(own), np.float64).reshape(-1, 2) for own in bins]
    return [(own[:, 0] * step, own[:, 1]) for own, step in zip(numbers, steps, strict=True)]


def histograms_of(ranks: Floats) -> list[Histogram]:
    """The same, of float64[rows, targets] on the driver."""
    found: list[Histogram] = []
    for own in ranks.T:
        own = own[np.isfinite(own)]
        low = own.min(initial=math.inf)
        step = _step(low, own.max(initial=-math.inf)) if len(own) else 1.0
        bins, counts = np.unique(np.floor((own - low) / step), return_counts=True)
        found.append((bins * step, counts.astype(np.float64)))
    return found


def _step(low: Any, high: Any) -> float:
    return float((high - low) / _BINS) or 1.0
