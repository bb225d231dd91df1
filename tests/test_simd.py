"""Vector instructions against plain twins."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from dsir_spark.features import simd

WORDS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_")


def load64(data, at):
    return int.from_bytes(data[at : at + 8].tobytes(), "little")


def beyond_ascii(data, at):
    return sum(1 << i for i in range(64) if data[at + i] >= 0x80)


def classify(data, at, lowered, to):
    """Of bytes that are no ASCII nothing is promised: what is compared leaves them out."""
    text = data[at : at + 64].tobytes().lower()
    blank = [chr(c).isspace() and c < 0x80 for c in text]
    lowered[to : to + 64] = [0x20 if b else c for b, c in zip(blank, text, strict=True)]
    word = sum((c in WORDS) << i for i, c in enumerate(text))
    return word, sum(b << i for i, b in enumerate(blank))


def copy64(source, at, target, to):
    target[to : to + 64] = source[at : at + 64]


@njit
def compiled(data, at, lowered, target, to):
    simd.copy64(data, at, target, to)
    return simd.load64(data, at), simd.beyond_ascii(data, at), simd.classify(data, at, lowered, to)


@njit
def compiled_bits(x):
    return simd.trailing_zeros(x), simd.ones(x)


RNG = np.random.default_rng(3)
TEXTS = {
    "every ASCII character": np.tile(np.arange(128, dtype=np.uint8), 2),
    "random ASCII": RNG.integers(0, 128, 500).astype(np.uint8),
    "random bytes": RNG.integers(0, 256, 500).astype(np.uint8),
    "borders of ranges": RNG.choice(np.frombuffer(b"@AZ[`az{/09:_^\t\r\x0e\x08\x1b\x1c !\x7f\x80",
                                                  np.uint8), 500),
}  # fmt: skip


@pytest.mark.parametrize("data", TEXTS.values(), ids=TEXTS)
def test_bytes(data):
    for at in range(0, len(data) - 64, 7):
        arrays = [np.full(200, 0xEE, np.uint8) for _ in range(4)]
        to = at % 100
        word, high, (words, blanks) = compiled(data, at, arrays[0], arrays[1], to)
        assert (word, high) == (load64(data, at), beyond_ascii(data, at))
        expected = classify(data, at, arrays[2], to)
        assert (words & ~high, blanks & ~high) == tuple(e & ~high for e in expected)
        copy64(data, at, arrays[3], to)
        assert np.array_equal(arrays[1], arrays[3])
        ascii_only = np.ones(200, bool)
        ascii_only[to : to + 64] = data[at : at + 64] < 0x80
        assert np.array_equal(arrays[0][ascii_only], arrays[2][ascii_only])


def test_bits():
    numbers = [0, 1, 2**63, 2**64 - 1, *(1 << i for i in range(64)), *RNG.integers(0, 2**63, 500)]
    for x in map(int, numbers):
        zeros, ones = compiled_bits(np.uint64(x))
        assert (zeros, ones) == ((x & -x).bit_length() - 1 if x else 64, bin(x).count("1"))
