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

import numpy as np
import numpy.typing as npt

from dsir_spark import weights

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# A bin of scores: (documents, n-grams, smallest score, largest score).
Histogram = Mapping[int, tuple[int, int, float, float]]


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
    """The steps learnt for one target."""

    steps: tuple[Step, ...]

    def tables(self, target: Int64, raw: Int64) -> Float64:
        """Gradients before each step and after the last, float64[num_buckets, T + 1]."""
        path = [*self.mixtures(raw)]
        return np.stack([gradient(weights.distribution(target), q) for q in path], axis=1)

    def mixtures(self, raw: Int64) -> list[Float64]:
        """q before each step and after the last: T + 1 distributions, float64[num_buckets]."""
        q = weights.distribution(raw)
        path = [q]
        for t, step in enumerate(self.steps):
            q = mixed(q, step.counts, t)
            path.append(q)
        return path

    @property
    def thresholds(self) -> Float64:
        """Of each step, float64[T]."""
        return np.array([step.threshold for step in self.steps])


def step_size(t: int) -> float:
    """Of step t = 0, 1, ...: 2 / (t + 2)."""
    return 2.0 / (t + 2.0)


def step_weights(num_steps: int) -> Int64:
    """What each step adds to a document's key: t + 1, int64[T].

    With steps of 2 / (t + 2) the probability of a document is the sum over the steps that took it
    of 2 (t + 1) / (T (T + 1)); these are its numerators.
    """
    return np.arange(1, num_steps + 1, dtype=np.int64)


def mixed(q: Float64, counts: Int64, t: int) -> Float64:
    """q after step t has taken documents of these counts."""
    gamma = step_size(t)
    return np.asarray((1.0 - gamma) * q + gamma * weights.distribution(counts))


def gradient(p: Float64, q: Float64) -> Float64:
    """p / (q + 1e-10): the gradient of KL(p || q) in q, with the sign turned; float64[*]."""
    return np.asarray(p / (q + weights.KL_EPS))


def num_ngrams(num_tokens: Int64, ngrams: int) -> Int64:
    """N-grams of 1 to `ngrams` tokens in documents of so many tokens, int64[n]."""
    total = np.zeros_like(num_tokens)
    for n in range(1, min(ngrams, int(num_tokens.max(initial=0))) + 1):
        total += np.maximum(num_tokens - n + 1, 0)
    return total


def means(totals: Float64, sizes: Int64) -> Float64:
    """Scores, float64[n, T], of sums float64[n, T] over so many n-grams (int64[n]); 0 of none."""
    return np.asarray(totals / np.maximum(sizes, 1)[:, None])


def key_of(scores: Float64, thresholds: Float64) -> Float64:
    """The whole-numbered part of a document's key, float64[n]: the weights of steps taking it."""
    return np.asarray(((scores >= thresholds) @ step_weights(len(thresholds))).astype(np.float64))


def bins(scores: Float64) -> Int64:
    """Bin of each score (>= 0), int64[n]: the leading bits of the number itself.

    4,096 bins from a score to its double. Not by a logarithm, whose last bit differs between
    processors.
    """
    return np.ascontiguousarray(scores).view(np.int64) >> 40


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


def bound(target: Int64, raw: Int64, q: Float64, best: float) -> float:
    """What the KL reduction of no selection of that size can pass, in nats.

    KL(p || q) is convex in q, so KL(p || s) >= KL(p || q) - <g, s - q> with g the gradient above,
    and <g, s> is a mean score, at most `best`.
    """
    p = weights.distribution(target)
    reached = weights.kl_divergence(p, weights.distribution(raw)) - weights.kl_divergence(p, q)
    return reached + best - float(np.sum(gradient(p, q) * q))


def learn(
    targets: Mapping[str, Int64],
    raw: Int64,
    num_steps: int,
    histograms: Callable[[Float64], list[Histogram]],
    budgets: Callable[[Histogram, Float64 | None], list[int]],
    counts: Callable[[Float64, Float64], list[Int64]],
) -> dict[str, Matching]:
    """Frank-Wolfe from q = p_raw, for each of K targets; two passes a step.

    Parameters
    ----------
    targets : name -> int64[num_buckets]
    raw : int64[num_buckets]
    histograms : of the scores of the documents under K tables, float64[num_buckets, K]
    budgets : n-grams that a step may take for each target, from a histogram of the pool and the
        mean length of what the steps so far took for each target (float64[K], n-grams a document,
        weighted as `step_weights`; None before the first). A budget of documents is one of n-grams
        only by the length of what is selected, which the steps find out.
    counts : int64[num_buckets] for each target, of the documents that score at least float64[K]
    """
    p = [weights.distribution(t) for t in targets.values()]
    q = [weights.distribution(raw)] * len(p)
    steps: list[list[Step]] = [[] for _ in p]
    documents, ngrams = np.zeros(len(p)), np.zeros(len(p))
    for t in range(num_steps):
        tables = np.stack([gradient(a, b) for a, b in zip(p, q, strict=True)], axis=1)
        found = histograms(tables)
        sizes = budgets(found[0], ngrams / documents if t else None)
        thresholds = np.array([cut(h, size) for h, size in zip(found, sizes, strict=True)])
        for k, own in enumerate(counts(tables, thresholds)):
            steps[k].append(Step(float(thresholds[k]), own, sizes[k]))
            q[k] = mixed(q[k], own, t)
            size = taken(found[k], float(thresholds[k]))
            documents[k] += (t + 1) * size[0]
            ngrams[k] += (t + 1) * size[1]
    return {name: Matching(tuple(own)) for name, own in zip(targets, steps, strict=True)}


def kl_path(matching: Matching, target: Int64, raw: Int64) -> list[float]:
    """KL reduction of q before each step and after the last, in nats."""
    p = weights.distribution(target)
    path = matching.mixtures(raw)
    start = weights.kl_divergence(p, path[0])
    return [start - weights.kl_divergence(p, q) for q in path]


def bound_path(matching: Matching, target: Int64, raw: Int64) -> list[float]:
    """`bound` at each step, in nats, for selections of as many n-grams as the step took.

    What a step took are the best documents under its gradient, so its counts have their mean score.
    """
    p = weights.distribution(target)
    found = []
    for step, q in zip(matching.steps, matching.mixtures(raw), strict=False):
        best = float(np.sum(gradient(p, q) * weights.distribution(step.counts)))
        found.append(bound(target, raw, q, best))
    return found
