"""What the KL reduction of no selection of a size can pass, from documents on the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dsir_spark.report.scan import Documents
from dsir_spark.report.spectrum import Bins
from dsir_spark.scoring.distributions import distribution
from dsir_spark.scoring.matched import best_mean, bound, gradient, histogram
from dsir_spark.scoring.model import Model

Int64 = npt.NDArray[np.int64]

# Shares of the target in its mixtures with raw. A bound holds at any q; on real text it is tightest
# where q is nearly the target, and there the scores are nearly equal, so a sample tells it well:
# +0.258 +- 0.001 from 5,000 of 113,156 candidates (biomed), where mixtures with the selection give
# +0.424 +- 0.006.
_MIXTURES = (0.25, 0.5, 0.75, 0.9, 0.95)


def estimated(
    target: Int64, raw: Int64, documents: Documents, ids: Sequence[Any], ngrams: int
) -> float:
    """The least of the bounds at some mixtures, nats an n-gram.

    A certificate where `ids` are all candidates, an estimate where they are a sample of them.

    Parameters
    ----------
    target, raw : int64[num_buckets]
    ngrams : selected, times the share of the candidates that is in the sample
    """
    p, p_raw = distribution(target), distribution(raw)
    found = []
    for share in _MIXTURES:
        q = (1 - share) * p_raw + share * p
        scores, sizes = documents.means(ids, gradient(p, q))
        some = sizes > 0
        best = best_mean(histogram(scores[some], sizes[some]), max(1, ngrams))
        found.append(bound(target, raw, q, best))
    return min(found)


def exact(model: Model, name: str, scores: Bins, ngrams: int) -> float:
    """A certificate for a matched selection of a target, nats an n-gram.

    Parameters
    ----------
    scores : of all candidates, under the last gradient
    ngrams : selected
    """
    counted = zip(scores.n, scores.first, scores.low, scores.high, strict=True)
    found = {
        int(at): (int(n), int(size), float(low), float(high))
        for at, (n, size, low, high) in zip(scores.at, counted, strict=True)
    }
    q = model.matchings[name].mixtures(model.raw.counts)[-1]
    best = best_mean(found, max(1, ngrams))
    return bound(model.targets[name].counts, model.raw.counts, q, best)
