"""The oracle itself, held against golden constants that were not computed by it."""

from __future__ import annotations

import math

import oracle
import pytest


def test_xxh64_golden_constants():
    """From the specification of XXH64 (seed 0) and from Spark SQL's `xxhash64` (seed 42)."""
    for data, digest in ((b"", 0xEF46DB3751D8E999), (b"a", 0xD24EC4F1A98C6E5B),
                         (b"abc", 0x44BC2CF5AD770999)):  # fmt: skip
        assert oracle.xxhash64(data, seed=0) % 2**64 == digest
    assert oracle.xxhash64(b"Spark") == -4294468057691064905


def test_buckets_of_the_reference_package():
    assert oracle.bucket("alice", 10_000, "sha256") == 6720
    assert oracle.bucket("alice went", 10_000, "sha256") == 114


def test_worked_document():
    words = oracle.tokens("To be, to be.")
    assert words == ["to", "be", ",", "to", "be", "."]
    grams = oracle.ngrams(words, 2)
    assert grams[:5] == ["to", "be", "to be", ",", "be ,"]
    assert len(grams) == 11
    ratios = (0.5, -1.0, 0.0, 2.0)
    assert sum(r * n for r, n in zip(ratios, (4, 3, 3, 1), strict=True)) == 1.0


def test_kl_of_a_known_pair():
    assert oracle.kl([0.5, 0.5], [0.25, 0.75]) == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-8
    )
    assert (
        oracle.kl_reduction([1, 1], [1, 3], [2, 2])
        > 0
        == oracle.kl_reduction([1, 1], [1, 3], [1, 3])
    )
