"""N-grams of many tokens, looked up in a table of those of some texts; compiled.

A document's n-grams have a hash that rolls over its tokens: most fall where a bitmap has no bit.
Where a hash is in the table, the tokens themselves are compared, so nothing is found by chance.
"""

from __future__ import annotations

import numpy as np

from dsir_spark.features.jit import inlined, jit, kernel
from dsir_spark.features.simd import load64

_BASE = np.uint64(0x9FB21C651E98DF25)  # of the rolling hash: any odd number of many bits
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@inlined
def _hash_token(scratch, at, end):
    """A hash of scratch[at:end], at half the price of XXH64: what it finds is compared anyway."""
    hashed = np.uint64(end - at) * _SPREAD
    while end - at > 8:
        hashed = (hashed ^ load64(scratch, at)) * _BASE
        hashed ^= hashed >> np.uint64(29)
        at += 8
    if end > at:  # a tokenizer of the user's may give empty tokens
        hashed = (hashed ^ (load64(scratch, at) << np.uint64(64 - 8 * (end - at)))) * _BASE
    return hashed ^ (hashed >> np.uint64(32))


@kernel
def hash_runs(scratch, starts, gap, lo, hi, before, first, last, indptr, tokens, ngram, out):
    """out[i - lo] = a hash (never 0) of the `ngram` tokens that end with token i of a block, for
    i = lo..hi-1; 0 where the document has fewer up to there.

    tokens : uint64[*], receives the hash of each token; the rest as `passes.Block` tells them
    """
    for i in range(max(0, lo - ngram + 1), hi):
        at = starts[np.uint64(i)]
        tokens[np.uint64(i)] = _hash_token(scratch, at, starts[np.uint64(i + 1)] - gap)
    leaving = np.uint64(1)
    for _ in range(ngram):
        leaving *= _BASE
    for d in range(first, last + 1):
        begin = max(indptr[d] - before, lo - ngram + 1, 0)
        end = indptr[d + 1] - before if d < last else hi
        rolled = np.uint64(0)
        for i in range(begin, end):
            rolled = rolled * _BASE + tokens[np.uint64(i)]
            if i - begin >= ngram:
                rolled -= tokens[np.uint64(i - ngram)] * leaving
            if i >= lo:
                full = i - begin >= ngram - 1
                out[np.uint64(i - lo)] = rolled | np.uint64(1) if full else np.uint64(0)


@jit
def _place(hashed, size):
    """Where a hash falls among `size` places, a power of two."""
    return ((hashed * _SPREAD) >> np.uint64(32)) & np.uint64(size - 1)


@jit
def _equal(a, from_a, to_a, b, from_b, to_b):
    """Are a[from_a:to_a] and b[from_b:to_b] the same bytes?"""
    if to_a - from_a != to_b - from_b:
        return False
    for i in range(to_a - from_a):
        if a[from_a + i] != b[from_b + i]:
            return False
    return True


@jit
def _found(hashed, scratch, start, end, gap, ngram, data, places, keys, last):
    """The slot of an n-gram, whose tokens are scratch[start:end], in the table; where it is not in
    the table, the empty slot where it would be."""
    at = _place(hashed, keys.shape[0])
    while keys[at] != np.uint64(0):
        if keys[at] == hashed:
            own = last[at]
            if _equal(scratch, start, end, data, places[own - ngram + 1], places[own + 1] - gap):
                break
        at = (at + np.uint64(1)) & np.uint64(keys.shape[0] - 1)
    return at


@kernel
def insert(hashes, gap, ngram, data, starts, bits, keys, last):
    """Puts the n-grams of `overlap.Index` into its bitmap and table; of equal ones the first stays.

    hashes : uint64[tokens], of `hash_runs`
    """
    for i in range(hashes.shape[0]):
        hashed = hashes[i]
        if hashed != np.uint64(0):
            bit = _place(hashed, 64 * bits.shape[0])
            bits[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
            start, end = starts[i - ngram + 1], starts[i + 1] - gap
            at = _found(hashed, data, start, end, gap, ngram, data, starts, keys, last)
            if keys[at] == np.uint64(0):
                keys[at], last[at] = hashed, i


@kernel
def look_up(
    hashes, scratch, starts, gap, lo, hi, before, first, last_document, indptr,
    ngram, data, places, owners, bits, keys, last, found,
):  # fmt: skip
    """found[d] becomes the text that has the first n-gram of document d which `overlap.Index` has.

    hashes : uint64[*], of `hash_runs` for this block
    found : int64[n], below 0 where nothing is found yet
    """
    for d in range(first, last_document + 1):
        begin = max(indptr[d] - before, lo)
        end = indptr[d + 1] - before if d < last_document else hi
        if found[d] >= 0:
            continue
        for i in range(begin, end):
            hashed = hashes[np.uint64(i - lo)]
            bit = _place(hashed, 64 * bits.shape[0])
            word = bits[bit >> np.uint64(6)] >> (bit & np.uint64(63))
            if word & np.uint64(1) != np.uint64(0) and hashed != np.uint64(0):
                start, end_of = starts[i - ngram + 1], starts[i + 1] - gap
                at = _found(hashed, scratch, start, end_of, gap, ngram, data, places, keys, last)
                if keys[at] != np.uint64(0):
                    found[d] = owners[last[at]]
                    break
