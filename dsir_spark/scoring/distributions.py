"""From exact bucket counts to distributions, log ratios and KL divergences; NumPy only."""

from __future__ import annotations

import hashlib
import math
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Numbers = TypeVar("Numbers", Float64, Int64)

RATIO_EPS = 1e-8  # inside the logs of a log ratio (reference package)
KL_EPS = 1e-10  # inside the logs of a KL divergence (the paper's code)
RULER = 10_000  # buckets that KL reductions are measured on, whatever the model has (the paper's)


def distribution(counts: Int64 | Float64, laplace_smoothing: float = 0.0) -> Float64:
    """Bucket distribution, float64[num_buckets], of int64[num_buckets] counts; sums to 1."""
    smoothed = counts + laplace_smoothing
    return np.asarray(smoothed / smoothed.sum(), np.float64)


def log_ratio(p_target: Float64, p_raw: Float64) -> Float64:
    """log(p_target + 1e-8) - log(p_raw + 1e-8) of each bucket in nats (DSIR, section 3).

    By `math.log`, number by number: NumPy's vectorised log differs in the last bit between
    processors, and two drivers must not weigh one document differently.
    """
    return _log(p_target + RATIO_EPS) - _log(p_raw + RATIO_EPS)


def _log(numbers: Float64) -> Float64:
    distinct, at = np.unique(numbers, return_inverse=True)  # many buckets are as probable as others
    return np.array([math.log(x) for x in distinct.tolist()])[at]


def dirichlet(counts: Int64, p_raw: Float64, mu: float) -> Float64:
    """(counts + mu p_raw) / (n-grams + mu), float64[num_buckets]; mu in n-grams (Zhai and Lafferty
    2004): a bucket that a small target does not have is as probable as raw makes it."""
    return np.asarray((counts + mu * p_raw) / (counts.sum() + mu), np.float64)


def smoothed(
    counts: Int64, p_raw: Float64, laplace_smoothing: float, mu: float | Literal["auto"]
) -> Float64:
    """A target's distribution by the options of smoothing; mu auto: as many n-grams as buckets."""
    if mu == 0:
        return distribution(counts, laplace_smoothing)
    return dirichlet(counts, p_raw, float(len(counts) if mu == "auto" else mu))


def table_fingerprint(table: Float64) -> str:
    """Hex digest of a table's bits: equal only where weights would be bit for bit equal."""
    return hashlib.sha256(np.ascontiguousarray(table, "<f8").tobytes()).hexdigest()[:16]


def kl_divergence(p: Float64, q: Float64) -> float:
    """KL(p || q) in nats, with 1e-10 inside the logs."""
    return float(np.sum(p * (np.log(p + KL_EPS) - np.log(q + KL_EPS))))


def on_ruler(by_bucket: Numbers) -> Numbers:
    """Counts or probabilities by bucket, of at most RULER buckets: b goes to b mod RULER.

    With more of them a small selection leaves many empty that the target has, and their logarithms
    are all that a divergence then shows. Where RULER divides num_buckets, these are the buckets
    that a model of RULER has.
    """
    size = len(by_bucket)
    if size <= RULER:
        return by_bucket
    padded = np.zeros(-(-size // RULER) * RULER, by_bucket.dtype)
    padded[:size] = by_bucket
    return np.asarray(padded.reshape(-1, RULER).sum(axis=0), by_bucket.dtype)


def from_ruler(table: Float64, num_buckets: int) -> Float64:
    """float64[num_buckets], for each bucket the number of its bucket `on_ruler`."""
    return table if num_buckets <= RULER else table[np.arange(num_buckets) % RULER]


def kl_reduction(
    target: Int64, raw: Int64, selected: Int64 | Float64, counted: int | None = None
) -> float | None:
    """KL(target || raw) - KL(target || selected) in nats, of int64[num_buckets] counts, `on_ruler`.

    None where nothing with an n-gram was selected. The paper's metric (section 5), of one target;
    but to what is selected as many n-grams are added as the ruler has buckets, distributed like
    raw. Of millions that changes nothing. Without it, of some thousands (a small target's share),
    the metric sees little but which buckets are empty.

    counted : n-grams that `selected` was told from, where that was a sample
    """
    if not selected.any():
        return None
    p, before = (distribution(on_ruler(counts)) for counts in (target, raw))
    of_raw = raw_share(int(selected.sum()) if counted is None else counted, len(target))
    after = (1.0 - of_raw) * on_ruler(distribution(selected)) + of_raw * before
    return kl_divergence(p, before) - kl_divergence(p, after)


def raw_share(ngrams: int, num_buckets: int) -> float:
    """Of raw in what `kl_reduction` compares with the target, of so many selected n-grams."""
    added = min(num_buckets, RULER)
    return added / (ngrams + added)
