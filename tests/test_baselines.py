"""What DSIR is compared with, as docs/scorers.md names it: each beside a few lines of Python."""

from __future__ import annotations

import math
import random
from collections import Counter

import oracle
import pytest

from dsir_spark import DSIR, select

pytestmark = pytest.mark.spark
K, BUCKETS = 40, 1 << 20  # so many that no two of these words share one


def documents():
    rng = random.Random(12)
    words = [f"word{i}" for i in range(30)]
    rows = []
    for i in range(200):
        first = rng.choice((0, 0, 10, 20))
        text = " ".join(words[first + rng.randrange(10)] for _ in range(rng.randrange(5, 50)))
        rows.append((f"d{i:03}", text, f"site {first}"))
    return rows, [" ".join(rng.choices(words[5:15], k=30)) for _ in range(20)]


ROWS, TARGET = documents()
IDS = [i for i, _, _ in ROWS]


@pytest.fixture(scope="module")
def frames(spark):
    raw = spark.createDataFrame(ROWS, "id string, text string, source string").repartition(3)
    return raw, spark.createDataFrame([(t,) for t in TARGET], "text string")


def unigrams(smoothing):
    """Log probabilities of each token under the target (smoothed by raw) and raw."""
    raw = Counter(w for _, text, _ in ROWS for w in text.split())
    target = Counter(w for text in TARGET for w in text.split())
    n, total = sum(target.values()), sum(raw.values())
    return {
        w: (math.log((target[w] + smoothing * c / total) / (n + smoothing) + 1e-8),
            math.log(c / total + 1e-8))
        for w, c in raw.items()
    }  # fmt: skip


def test_moore_lewis_is_a_difference_of_cross_entropies(frames):
    raw, target = frames
    model = DSIR(ngrams=1, num_buckets=BUCKETS, target_dirichlet_smoothing=50).fit(raw, target)
    found = model.resample(raw, num_to_sample=K, method="top_k", normalize="ngram",
                           min_example_length=1)  # fmt: skip
    p = unigrams(50)
    entropies = {i: [-sum(p[w][k] for w in text.split()) / len(text.split()) for k in (0, 1)]
                 for i, text, _ in ROWS}  # fmt: skip
    best = sorted(IDS, key=lambda i: entropies[i][0] - entropies[i][1])[:K]
    assert {r["id"] for r in found.collect()} == set(best)


def test_dsir_of_unigrams(frames):
    raw, target = frames
    model = DSIR(ngrams=1, num_buckets=BUCKETS).fit(raw, target)
    found = model.resample(raw, num_to_sample=K, method="sample", seed=3,
                           min_example_length=1)
    p = unigrams(0)
    weights = [sum(p[w][0] - p[w][1] for w in text.split()) for _, text, _ in ROWS]
    assert {r["id"] for r in found.collect()} == set(oracle.gumbel_top_k(IDS, weights, K, 3))


def test_random_and_stratified(frames):
    raw, _ = frames
    found = select(raw, "0", num_to_sample=K, seed=9)
    expected = set(oracle.gumbel_top_k(IDS, [0.0] * len(IDS), K, 9))
    assert {r["id"] for r in found.collect()} == expected
    strata = {site: [i for i, _, own in ROWS if own == site] for _, _, site in ROWS}
    found = select(raw, "0", num_to_sample=K, seed=9, quota_column="source", quotas="raw")
    chosen = {r["id"] for r in found.collect()}
    assert len(chosen) == K
    for site, ids in strata.items():
        own = [i for i in ids if i in chosen]
        assert abs(len(own) - K * len(ids) / len(IDS)) < 1, site
        assert set(own) == set(oracle.gumbel_top_k(ids, [0.0] * len(ids), len(own), 9))
