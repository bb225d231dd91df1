"""Noise: what turns a score into the key that rows compete by.

The noise is a function of (seed, id) alone, so the same rows are selected on any cluster, in any
partitioning, after any retry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F

# Between these is any noise of a kind: -log(-log(u)) or u^(-1/9) - 1 at the ends of
# `uniform`, or u itself.
NOISE_ENDS = {"gumbel": (-3.63, 36.75), "uniform": (0.0, 1.0), "none": (0.0, 0.0),
              "pareto": (0.0, 63.01)}  # fmt: skip


def uniform(seed: int, id_column: Column) -> Column:
    """u in (0, 1) from (seed, id): ((xxhash64(seed, id) >>> 11) + 0.5) * 2^-53."""
    h = F.shiftrightunsigned(F.xxhash64(F.lit(seed).cast("bigint"), id_column), 11)
    u = (h.cast("double") + F.lit(0.5)) * F.lit(2.0**-53)
    # The one value of 2^53 that rounds to 1 would give an infinite key.
    return F.least(u, F.lit(1.0 - 2.0**-53))


def gumbel(seed: int, id_column: Column) -> Column:
    """Standard Gumbel noise from (seed, id): -log(-log(u)).

    The k largest sums of log weight and noise are k draws without replacement (DSIR, sec. 3).
    """
    return -F.log(-F.log(uniform(seed, id_column)))


def pareto(seed: int, id_column: Column) -> Column:
    """A draw of Pareto(9) as NumPy's `pareto(9)` gives it, which begins at 0, from (seed, id)."""
    return F.pow(uniform(seed, id_column), F.lit(-1.0 / 9.0)) - F.lit(1.0)


def noise(kind: str, seed: int, id_column: Column) -> Column:
    """The noise of a kind in NOISE_ENDS."""
    if kind == "none":
        return F.lit(0.0)
    return {"gumbel": gumbel, "pareto": pareto, "uniform": uniform}[kind](seed, id_column)


def may_reach(noise: Column, ranks: Sequence[Column], lows: Sequence[float]) -> Column:
    """Which rows may have, for a target, a key (rank + noise) from its `low` (finite) on: the noise
    is computed once, and not for each target."""
    missing = [F.lit(low - _hair(low)) - rank for rank, low in zip(ranks, lows, strict=True)]
    return noise >= (F.least(*missing) if len(missing) > 1 else missing[0])


def may_be_between(score: Column, kind: str, low: float, high: float) -> Column:
    """Which rows may have a key from `low` to `high`, by the score alone: cheaper than the key."""
    least, most = NOISE_ENDS[kind]
    found = F.lit(True)
    if math.isfinite(low):
        found = found & (score >= F.lit(low - most - _hair(low)))
    if math.isfinite(high):
        found = found & (score <= F.lit(high - least + _hair(high)))
    return found


def _hair(key: float) -> float:
    """More than the sum of score and noise may be rounded by, near a key."""
    return 0.01 + 1e-12 * abs(key)
