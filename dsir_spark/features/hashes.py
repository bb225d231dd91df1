"""N-grams become buckets: XXH64 of many n-grams at once, and its remainder by `num_buckets`.

The loops over a group of n-grams are plain and short, one for each step of XXH64, and have no
branch: the compiler makes vector instructions of them, of whatever width the processor has, and
while one n-gram waits for a product, the processor goes on with the next ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dsir_spark.features.jit import jit, kernel
from dsir_spark.features.simd import load64

SEED = np.uint64(42)  # Spark SQL's xxhash64

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)

_GROUP = 256  # n-grams hashed at once: what belongs to them stays in the first-level cache
_WORDS = 3  # of 8 bytes, that are read of every token


@jit
def _rotl(x, r):
    return (x << np.uint64(r)) | (x >> np.uint64(64 - r))


@jit
def _round(h, word):
    """State of XXH64 after eight more bytes."""
    return _rotl(h ^ (_rotl(word * _P2, 31) * _P1), 27) * _P1 + _P4


@jit
def _four(h, tail):
    """State after the four lowest bytes of tail."""
    return _rotl(h ^ ((tail & np.uint64(0xFFFFFFFF)) * _P1), 23) * _P2 + _P3


@jit
def _byte(h, tail):
    """State after the lowest byte of tail."""
    return _rotl(h ^ ((tail & np.uint64(0xFF)) * _P5), 11) * _P1


@jit
def _mixed(h):
    """The hash, of the state after all bytes."""
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@jit
def xxhash64(buf, start, length, seed):
    """XXH64 of buf[start : start + length], a uint64; reads up to 8 bytes beyond it.

    Algorithm: Yann Collet's specification of XXH64, as Spark SQL's `xxhash64` of a string.
    """
    at, end = start, start + length
    h = seed + _P5
    if length >= 32:
        v1, v2, v3, v4 = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
        while at + 32 <= end:
            v1 = _rotl(v1 + load64(buf, at) * _P2, 31) * _P1
            v2 = _rotl(v2 + load64(buf, at + 8) * _P2, 31) * _P1
            v3 = _rotl(v3 + load64(buf, at + 16) * _P2, 31) * _P1
            v4 = _rotl(v4 + load64(buf, at + 24) * _P2, 31) * _P1
            at += 32
        h = _rotl(v1, 1) + _rotl(v2, 7) + _rotl(v3, 12) + _rotl(v4, 18)
        for v in (v1, v2, v3, v4):
            h = (h ^ (_rotl(v * _P2, 31) * _P1)) * _P1 + _P4
    h += np.uint64(length)
    while at + 8 <= end:
        h = _round(h, load64(buf, at))
        at += 8
    tail = load64(buf, at)
    if length & 4 != 0:
        h = _four(h, tail)
        tail >>= np.uint64(32)
    for _ in range(length & 3):
        h = _byte(h, tail)
        tail >>= np.uint64(8)
    return _mixed(h)


# In the loops below, indices are unsigned: numba need not ask whether they count from the end.


@jit
def _take_words(words, at, rounds, lengths, keys):
    """Take the first `rounds` words of each n-gram, as far as it has them, into its state."""
    for k in range(rounds):
        word = words[k]
        for i in range(keys.shape[0]):
            j = np.uint64(i)
            after = _round(keys[j], word[np.uint64(at + i)])
            keys[j] = after if lengths[j] >= 8 * k + 8 else keys[j]


@jit
def _take_rests(tails, lengths, keys):
    """Take the last 0 to 7 bytes of each n-gram, then make the hash of its state.

    All steps are taken and selected from: lengths are random, and a branch that the processor did
    not foresee costs more than the arithmetic that it saves.
    """
    for i in range(keys.shape[0]):
        j = np.uint64(i)
        four = lengths[j] & 4 != 0
        after = _four(keys[j], tails[j])
        keys[j] = after if four else keys[j]
        tails[j] = tails[j] >> np.uint64(32) if four else tails[j]
    for i in range(keys.shape[0]):
        j = np.uint64(i)
        h, tail = keys[j], tails[j]
        for byte in range(3):
            after = _byte(h, tail >> np.uint64(8 * byte))
            h = after if lengths[j] & 3 > byte else h
        keys[j] = h
    for i in range(keys.shape[0]):
        j = np.uint64(i)
        keys[j] = _mixed(keys[j])


@jit
def _hash_each(scratch, starts, gap, n, words, at, lengths, tails, longer, keys):
    """XXH64 of m n-grams of n + 1 tokens, into keys (uint64[m]).

    N-gram j begins at scratch[starts[j]] and ends `gap` bytes before starts[j + n + 1];
    words[k, at + j] are its bytes from 8 * k on. Where tokens are long, some of its n-grams have
    more words than are taken side by side: these go one by one.
    """
    rounds = min(n + 1, _WORDS)
    for i in range(keys.shape[0]):
        j = np.uint64(i)
        length = starts[np.uint64(i + n + 1)] - starts[j] - gap
        lengths[j] = length
        keys[j] = SEED + _P5 + np.uint64(length)
    over = 0
    for i in range(keys.shape[0]):  # apart from the loop above, of which vectors are made
        length = lengths[np.uint64(i)]
        tails[np.uint64(i)] = load64(scratch, starts[np.uint64(i)] + (length & ~7))
        longer[np.uint64(over)] = i
        over += np.int64(length >= 8 * rounds + 8)
    _take_words(words, at, rounds, lengths, keys)
    _take_rests(tails, lengths, keys)
    for i in range(over):
        j = longer[i]
        keys[j] = xxhash64(scratch, starts[j], lengths[j], SEED)


@jit
def _to_buckets(keys, num_buckets, buckets):
    """buckets (int32[m]) = pmod of keys (uint64[m], read as int64).

    In floating point: processors divide no integers side by side. Every product is exact for a
    divisor of at most 2^24, and a quotient is off by one at most.
    """
    divisor = np.float64(num_buckets)
    inverse = 1.0 / divisor
    two32 = np.float64((1 << 32) % num_buckets)
    for i in range(keys.shape[0]):
        key = keys[np.uint64(i)]
        high = np.float64(np.int32(key >> np.uint64(32)))
        high -= np.floor(high * inverse) * divisor
        r = high * two32 + np.float64(np.uint32(key))
        r -= np.floor(r * inverse) * divisor
        r = r + divisor if r < 0.0 else r
        r = r - divisor if r >= divisor else r
        buckets[np.uint64(i)] = np.int32(r)


def new_room(ngrams: int) -> Any:
    """Scratch of `hash_ngrams`."""
    return (
        np.empty((_WORDS, _GROUP + ngrams), np.uint64), np.empty(_GROUP, np.int64),
        np.empty(_GROUP, np.uint64), np.empty(_GROUP, np.int64), np.empty(_GROUP, np.uint64),
    )  # fmt: skip


@kernel
def hash_ngrams(scratch, starts, gap, lo, hi, num_buckets, room, rows):
    """Buckets of the n-grams that end at tokens lo..hi-1 of a block.

    Parameters
    ----------
    scratch : uint8[*]
    starts : int64[*]
        Of the tokens; `gap` bytes (0 or 1) stand between two, and starts[hi] is that of the next.
    gap, lo, hi, num_buckets : int64
    room
        From `new_room`.
    rows : int32[ngrams, *]
        rows[n, i - lo] receives the bucket of the n + 1 tokens that end at token i, unless they
        begin before the block. (Those that reach into the document before are of no use.)
    """
    words, lengths, tails, longer, keys = room
    ngrams = rows.shape[0]
    for a in range(lo, hi, _GROUP):
        b = min(a + _GROUP, hi)
        base = max(a - ngrams + 1, 0)
        for i in range(base, b):
            for k in range(_WORDS):
                word = load64(scratch, starts[np.uint64(i)] + 8 * k)
                words[np.uint64(k), np.uint64(i - base)] = word
        for n in range(ngrams):
            last = max(a, n)  # token of the first of these n-grams; it begins n tokens before
            if last < b:
                _hash_each(
                    scratch, starts[last - n :], gap, n, words, last - n - base,
                    lengths, tails, longer, keys[: b - last],
                )  # fmt: skip
                _to_buckets(keys[: b - last], num_buckets, rows[n, last - lo :])
