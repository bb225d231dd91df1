"""Matched selection: the subset whose n-grams are as close to the target's as the pool allows.

With inclusion probabilities a document and a budget in n-grams, the bucket distribution q of what
is selected is linear in the probabilities, so KL(p_target || q) is convex and Frank-Wolfe finds its
minimum with passes that DSIR has already: score every document by the mean of p_target[b] / q[b]
over its n-grams, take the best within the budget, and move q towards them. Convexity bounds what
any selection of that size can reach (Jaggi 2013, the duality gap). See docs/matched.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dsir_spark.features.batches import binned
from dsir_spark.scoring.distributions import (
    KL_EPS,
    Float64,
    Int64,
    distribution,
    from_ruler,
    kl_divergence,
    on_ruler,
)

# A bin of scores: (documents, n-grams, smallest score, largest score).
Histogram = Mapping[int, tuple[int, int, float, float]]

# Of raw in all that is brought near to the target. Without it the first steps, which leave out most
# of raw, leave many buckets empty, and the next ones do no more than fill them. With 0.1
# held-out text of all 15 targets is better served where 40 KB are selected, and of 10 where 4 MB
# are (part G of scripts/evidence.py).
RAW_SHARE = 0.1


@dataclass(frozen=True)
class Step:
    """What one step of Frank-Wolfe took: primary facts, from which all else follows.

    threshold : documents of a score at or above it were taken
    counts : int64[num_buckets], their n-grams by bucket
    num_ngrams : the budget it was given, in n-grams of what it learnt from
    """

    threshold: float
    counts: Int64
    num_ngrams: int


@dataclass(frozen=True)
class Matching:
    """The steps learnt for one target.

    raw_share : of raw in what was brought near to the target
    """

    steps: tuple[Step, ...]
    raw_share: float = RAW_SHARE

    def tables(self, target: Int64, raw: Int64) -> Float64:
        """Gradients before each step, and on the ruler after the last, float64[num_buckets, T + 1].

        A document's key is the sum of t + 1 over the steps t = 0, 1, ... that took it: with steps
        of 2 / (t + 2) its probability is the sum of 2 (t + 1) / (T (T + 1)), and these are the
        numerators. Of the last only `bound` is made, which is measured on the ruler.
        """
        p = distribution(target)
        found = [gradient(p, q) for q in self.mixtures(raw)[:-1]]
        last = gradient(on_ruler(p), on_ruler(self.mixtures(raw)[-1]))
        return np.stack([*found, from_ruler(last, len(p))], axis=1)

    def mixtures(self, raw: Int64) -> list[Float64]:
        """q before each step and after the last: T + 1 distributions, float64[num_buckets]."""
        path = [distribution(raw)]
        for t, step in enumerate(self.steps):
            path.append(mixed(path[-1], step.counts, t, path[0], self.raw_share))
        return path

    @property
    def thresholds(self) -> Float64:
        """Of each step, float64[T]."""
        return np.array([step.threshold for step in self.steps])


def mixed(q: Float64, counts: Int64, t: int, p_raw: Float64, raw_share: float) -> Float64:
    """q after step t has taken documents of these counts."""
    gamma = 2.0 / (t + 2.0)
    taken = (1.0 - raw_share) * distribution(counts) + raw_share * p_raw
    return np.asarray((1.0 - gamma) * q + gamma * taken)


def gradient(p: Float64, q: Float64) -> Float64:
    """p / (q + 1e-10): the gradient of KL(p || q) in q, with the sign turned; float64[*]."""
    return np.asarray(p / (q + KL_EPS))


def histogram(scores: Float64, sizes: Int64) -> Histogram:
    """The histogram of n documents: float64[n] scores (>= 0), int64[n] n-grams."""
    found, *numbers = binned(scores, sizes)
    rows = zip(*[each.tolist() for each in numbers], strict=True)
    return dict(zip(found.tolist(), rows, strict=True))


def cut(histogram: Histogram, budget: int) -> float:
    """The threshold at which documents hold at most `budget` n-grams.

    Where the first bin alone holds more than the budget, it is taken whole: a step must take
    something.
    """
    above, threshold = 0, float("inf")
    for found in sorted(histogram, reverse=True):
        _, size, low, _ = histogram[found]
        if above and above + size > budget:
            break
        above += size
        threshold = low
    return threshold


def taken(histogram: Histogram, threshold: float) -> tuple[int, int]:
    """Documents and n-grams of the bins from `threshold`, the lowest score of one of them, on."""
    bins_taken = [found for found in histogram.values() if found[2] >= threshold]
    return sum(found[0] for found in bins_taken), sum(found[1] for found in bins_taken)


def best_mean(histogram: Histogram, budget: int) -> float:
    """An upper bound of the mean score of any documents of at least `budget` n-grams together.

    The best documents, and a part of the last one; every document counts with the largest score of
    its bin.
    """
    left, total = budget, 0.0
    for found in sorted(histogram, reverse=True):
        _, size, _, high = histogram[found]
        taken = min(size, left)
        total += taken * high
        left -= taken
        if left == 0:
            break
    taken_all = budget - left
    return total / taken_all if taken_all else 0.0


def bound(p: Float64, p_raw: Float64, q: Float64, best: float, raw_share: float) -> float:
    """What the KL reduction of no selection of that size can pass, in nats.

    KL(p || q) is convex in q, so KL(p || s) >= KL(p || q) - <g, s - q> with g the gradient above.
    Of s, raw_share is raw's, and the rest, what is selected, has a mean score of at most `best`.
    """
    reached, g = kl_divergence(p, p_raw) - kl_divergence(p, q), gradient(p, q)
    most = (1.0 - raw_share) * best + raw_share * float(np.sum(g * p_raw))
    return reached + most - float(np.sum(g * q))


class Sample(Protocol):
    """The documents to learn from, wherever they are."""

    def histograms(self, tables: Float64) -> list[Histogram]:
        """Of the documents' mean scores under each of float64[num_buckets, K]."""

    def counts(self, tables: Float64, thresholds: Float64) -> list[Int64]:
        """int64[num_buckets] for each table: n-grams of the documents that score at least
        thresholds[k]."""


def learn(
    targets: Mapping[str, Int64],
    raw: Int64,
    num_steps: int,
    sample: Sample,
    budgets: Callable[[Histogram, Float64 | None], list[int]],
    raw_share: float = RAW_SHARE,
) -> dict[str, Matching]:
    """Frank-Wolfe from q = p_raw, for each of K targets; two passes over the sample a step.

    Parameters
    ----------
    targets : name -> int64[num_buckets]
    raw : int64[num_buckets]
    budgets : n-grams that a step may take for each target, from a histogram of the pool and the
        mean length of what the steps so far took for each target (float64[K], n-grams a document,
        step t = 0, 1, ... weighted t + 1; None before the first). A budget of documents is one of
        n-grams only by the length of what is selected, which the steps find out.
    raw_share : of raw in what is brought near to a target
    """
    p = [distribution(t) for t in targets.values()]
    p_raw = distribution(raw)
    q = [p_raw] * len(p)
    steps: list[list[Step]] = [[] for _ in p]
    documents, ngrams = np.zeros(len(p)), np.zeros(len(p))
    for t in range(num_steps):
        tables = np.stack([gradient(a, b) for a, b in zip(p, q, strict=True)], axis=1)
        found = sample.histograms(tables)
        sizes = budgets(found[0], ngrams / documents if t else None)
        thresholds = np.array([cut(h, size) for h, size in zip(found, sizes, strict=True)])
        for k, own in enumerate(sample.counts(tables, thresholds)):
            steps[k].append(Step(float(thresholds[k]), own, sizes[k]))
            q[k] = mixed(q[k], own, t, p_raw, raw_share)
            size = taken(found[k], float(thresholds[k]))
            documents[k] += (t + 1) * size[0]
            ngrams[k] += (t + 1) * size[1]
    return {
        name: Matching(tuple(own), raw_share) for name, own in zip(targets, steps, strict=True)
    }


def kl_path(matching: Matching, target: Int64, raw: Int64) -> list[float]:
    """KL reduction of q before each step and after the last, in nats, on the model's buckets, with
    raw_share of raw in what is taken."""
    p = distribution(target)
    path = matching.mixtures(raw)
    start = kl_divergence(p, path[0])
    return [start - kl_divergence(p, q) for q in path]


def bound_path(matching: Matching, target: Int64, raw: Int64) -> list[float]:
    """`bound` at each step, in nats, for selections of as many n-grams as the step took.

    What a step took are the best documents under its gradient, so its counts have their mean score.
    """
    p, p_raw = distribution(target), distribution(raw)
    found = []
    for step, q in zip(matching.steps, matching.mixtures(raw), strict=False):
        best = float(np.sum(gradient(p, q) * distribution(step.counts)))
        found.append(bound(p, p_raw, q, best, matching.raw_share))
    return found
