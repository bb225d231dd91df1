"""128 bits of a text that do not change with its case and its blanks: to find copies by."""

from __future__ import annotations

import numpy as np

from dsir_spark.features.hashes import xxhash64
from dsir_spark.features.jit import jit, kernel
from dsir_spark.features.simd import classify, copy64, trailing_zeros
from dsir_spark.features.splitting import DOT_ABOVE, ascii_ahead, encode, lower
from dsir_spark.features.unicode_tables import CLASS_SHIFT, SPACE, SPECIAL_BIT

GROWTH = 3  # bytes folded per byte of text at most: an invalid byte becomes U+FFFD


@jit
def _fold(data, begin, end, unicode, lowered, scratch):
    """Write " ".join(text.lower().split()) of the text data[begin:end]; how many bytes it has."""
    one = np.uint64(1)
    at, fill = begin, 0
    gap = True  # the last byte written is a blank, or there is none
    while at < end:
        size = ascii_ahead(data, at, end)
        if size > 0:
            _, blank = classify(data, at, lowered, 0)
            left = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - size)
            left &= ~(blank & ((blank << one) | np.uint64(gap)))
            while left != np.uint64(0):  # each run of bytes that are kept
                first = trailing_zeros(left)
                copy64(lowered, first, scratch, fill)
                fill += trailing_zeros(~(left >> np.uint64(first)))
                left &= left + (one << np.uint64(first))  # carries through the run and clears it
            gap = blank & (one << np.uint64(size - 1)) != np.uint64(0)
        else:
            word, cp, size = lower(data, at, begin, end, unicode)
            blank_here = (word >> CLASS_SHIFT) & 3 == SPACE
            if not (blank_here and gap):
                fill = encode(scratch, fill, np.int64(0x20) if blank_here else cp)
            if word & SPECIAL_BIT != 0:
                fill = encode(scratch, fill, DOT_ABOVE)
            gap = blank_here
        at += size
    return fill - 1 if gap and fill > 0 else fill


@kernel
def text_hashes(data, offsets, unicode, lowered, scratch, out):
    """Two hashes of each text after folding: lower case, and one blank between words.

    Parameters
    ----------
    data, offsets, unicode
        As in `splitting.split_words`.
    lowered : uint8[128]
    scratch : uint8[*]
        Room for GROWTH times the longest text and `splitting.BEYOND`.
    out : int64[n, 2]
        XXH64 of the folded UTF-8 with the seeds 1 and 2.
    """
    for d in range(offsets.shape[0] - 1):
        size = _fold(data, offsets[d], offsets[d + 1], unicode, lowered, scratch)
        out[d, 0] = np.int64(xxhash64(scratch, 0, size, np.uint64(1)))
        out[d, 1] = np.int64(xxhash64(scratch, 0, size, np.uint64(2)))
