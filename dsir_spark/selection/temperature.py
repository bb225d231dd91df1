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

from dsir_spark.selection.pool import RANKS, SIZE
from dsir_spark.selection.rows import Floats

_BINS = 65_536


def smallest_temperature(
    low: np.ndarray[Any, Any], counts: np.ndarray[Any, Any], wanted: float, floor: float
) -> float:
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


def of_table(
    pool: DataFrame, num_rows: int, budget: int, shares: Sequence[float], sized: bool, floor: float
) -> tuple[float, ...]:
    """The temperature of each target, by passes over a pool.

    Parameters
    ----------
    pool : candidates, with RANKS and, if `sized`, SIZE
    budget : rows wanted, or a sum of sizes
    shares : of the budget, one a target
    """
    sizes = pool.agg(F.sum(SIZE)).collect()[0][0] if sized else None
    ranks = pool.select(F.posexplode(RANKS).alias("at", "rank"))
    ranks = ranks.where(F.abs("rank") < math.inf)
    ends = {t: ends for t, *ends in ranks.groupBy("at").agg(F.min("rank"), F.max("rank")).collect()}
    lows = [ends[t][0] if t in ends else 0.0 for t in range(len(shares))]
    steps = [_step(*ends[t]) if t in ends else 1.0 for t in range(len(shares))]
    low, step = (F.array(*[F.lit(x) for x in own])[F.col("at")] for own in (lows, steps))
    counted = ranks.groupBy("at", F.floor((F.col("rank") - low) / step).alias("bin")).count()
    bins: list[dict[int, int]] = [{} for _ in shares]
    for t, at, n in counted.collect():
        bins[t][at] = n
    wanted = _wanted(num_rows, budget, sizes, shares)
    return tuple(
        smallest_temperature(
            np.array(sorted(own)) * step, np.array([float(own[b]) for b in sorted(own)]), w, floor
        )
        if own
        else floor
        for own, step, w in zip(bins, steps, wanted, strict=True)
    )


def of_rows(
    ranks: Floats, budget: int, size: int | None, shares: Sequence[float], floor: float
) -> tuple[float, ...]:
    """The same, of ranks (float64[rows, targets]) on the driver and the sum of all sizes."""
    found = []
    for t, wanted in enumerate(_wanted(len(ranks), budget, size, shares)):
        own = ranks[np.isfinite(ranks[:, t]), t]
        if not len(own):
            found.append(floor)
            continue
        step = _step(own.min(), own.max())
        bins, counts = np.unique(np.floor((own - own.min()) / step), return_counts=True)
        found.append(smallest_temperature(bins * step, counts.astype(np.float64), wanted, floor))
    return tuple(found)


def _step(low: Any, high: Any) -> float:
    return float((high - low) / _BINS) or 1.0


def _wanted(num_rows: int, budget: int, size: int | None, shares: Sequence[float]) -> list[float]:
    """Rows for each target; fewer than there are."""
    rows = float(budget) if size is None else budget * num_rows / max(1, size)
    return [min(rows * share / sum(shares), num_rows - 0.5) for share in shares]
