"""Text becomes tokens: UTF-8 bytes, lower-cased and split, each token behind one blank.

`split_words` fills a block of scratch memory from as many documents as it has room for, or from a
part of a long one. There every n-gram is a slice of bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dsir_spark.features.jit import inlined, jit, kernel
from dsir_spark.features.simd import beyond_ascii, classify, copy64, ones, trailing_zeros
from dsir_spark.features.unicode_tables import (
    CASED_BIT,
    CLASS_SHIFT,
    IGNORABLE_BIT,
    LOWER_MASK,
    OTHER,
    SINGLE,
    SPACE,
    SPECIAL_BIT,
    WORD,
)

GROWTH = 4  # bytes of scratch per byte of text at most: an invalid byte becomes a blank and U+FFFD
BEYOND = 128  # bytes of scratch, and starts, that may be written or read beyond the last token

_SIGMA, _FINAL_SIGMA = 0x3A3, 0x3C2
DOT_ABOVE = 0x307
_REPLACEMENT = 0xFFFD


class Place(NamedTuple):
    """Where splitting stands; all int64.

    document, at : of the next byte: its document, and its index in `data`
    previous : class of the document's last character, so that a token may go on in the next block
    fill, count : bytes and tokens in the block
    before : tokens of this array of documents before the block's first
    """

    document: int
    at: int
    previous: int
    fill: int
    count: int
    before: int


@inlined
def decode(data, at, end):
    """The code point at data[at] and its length in bytes.

    A byte that is not part of a valid UTF-8 sequence within [at, end) reads as U+FFFD, length 1.
    """
    b0 = np.int64(data[at])
    if b0 < 0x80:
        return b0, 1
    size = 2 if b0 < 0xE0 else 3 if b0 < 0xF0 else 4
    if b0 < 0xC2 or b0 > 0xF4 or at + size > end:
        return np.int64(_REPLACEMENT), 1
    cp = b0 & (0x7F >> size)
    for j in range(1, size):
        b = np.int64(data[at + j])
        if b & 0xC0 != 0x80:
            return np.int64(_REPLACEMENT), 1
        cp = (cp << 6) | (b & 0x3F)
    overlong = (size == 3 and cp < 0x800) or (size == 4 and cp < 0x10000)
    if overlong or cp > 0x10FFFF or 0xD800 <= cp < 0xE000:
        return np.int64(_REPLACEMENT), 1
    return cp, size


@inlined
def encode(scratch, fill, cp):
    """Write cp as UTF-8 at scratch[fill]; the new fill."""
    if cp < 0x80:
        scratch[fill] = cp
        return fill + 1
    if cp < 0x800:
        scratch[fill] = 0xC0 | (cp >> 6)
        scratch[fill + 1] = 0x80 | (cp & 0x3F)
        return fill + 2
    if cp < 0x10000:
        scratch[fill] = 0xE0 | (cp >> 12)
        scratch[fill + 1] = 0x80 | ((cp >> 6) & 0x3F)
        scratch[fill + 2] = 0x80 | (cp & 0x3F)
        return fill + 3
    scratch[fill] = 0xF0 | (cp >> 18)
    scratch[fill + 1] = 0x80 | ((cp >> 12) & 0x3F)
    scratch[fill + 2] = 0x80 | ((cp >> 6) & 0x3F)
    scratch[fill + 3] = 0x80 | (cp & 0x3F)
    return fill + 4


@jit
def _cased_before(data, at, begin, end, unicode):
    """Is the last character of data[begin:at] that is not case-ignorable a cased one?"""
    while at > begin:
        j = at - 1
        while j > begin and at - j < 4 and data[j] & 0xC0 == 0x80:
            j -= 1
        cp, size = decode(data, j, end)
        if j + size != at:  # the byte before is no part of a valid sequence
            j = at - 1
            cp = np.int64(_REPLACEMENT)
        if unicode[cp] & IGNORABLE_BIT == 0:
            return unicode[cp] & CASED_BIT != 0
        at = j
    return False


@jit
def _lower_sigma(data, at, begin, end, unicode):
    """Lower case of the capital sigma at data[at], by its context in the document [begin, end).

    Final where a cased letter stands before it and none after it, case-ignorable characters
    skipped on both sides (Unicode, Final_Sigma; CPython's handle_capital_sigma).
    """
    if not _cased_before(data, at, begin, end, unicode):
        return _SIGMA + 0x20
    j = at + 2
    while j < end:
        cp, size = decode(data, j, end)
        j += size
        if unicode[cp] & IGNORABLE_BIT == 0:
            return _SIGMA + 0x20 if unicode[cp] & CASED_BIT != 0 else _FINAL_SIGMA
    return _FINAL_SIGMA


@inlined
def lower(data, at, begin, end, unicode):
    """The character at data[at] of the document [begin, end): its word of `unicode`, its lower-case
    code point, and its bytes."""
    cp, size = decode(data, at, end)
    word = np.int64(unicode[cp])
    if cp == _SIGMA:
        return word & ~SPECIAL_BIT, np.int64(_lower_sigma(data, at, begin, end, unicode)), size
    return word, word & LOWER_MASK, size


@jit
def ascii_ahead(data, at, stop):
    """Bytes of ASCII from data[at] on, up to 64 and to `stop`; 0 near the end of data."""
    if at + 64 > data.shape[0]:
        return 0
    return min(trailing_zeros(beyond_ascii(data, at)), stop - at)


@jit
def _split_ascii(word, blank, size, lowered, scratch, fill, starts, count, previous):
    """`_split_stretch` of `size` (1 to 64) bytes of ASCII in `lowered`, of classes as `classify`.

    What is written is the text without its blanks, and one blank before each token; so the place
    of a byte is the number of bytes of text before it, and of tokens up to it.
    Most tokens stand behind one blank already. The text is copied as it is, from each token on
    that does not: from 64 bytes, a handful of copies.
    """
    inside = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - size)
    one = np.uint64(1)
    word &= inside
    text = inside & ~blank
    other = text & ~word
    # A token starts where a class does; the last character's class goes on from chunk to chunk.
    begins = word & ~((word << one) | np.uint64(previous == WORD))
    begins |= other & ~((other << one) | np.uint64(previous == OTHER))
    left = begins & ~((blank << one) & (text << np.uint64(2)))
    copy64(lowered, 0, scratch, fill)
    while left != np.uint64(0):
        below = (left - one) & ~left
        left &= left - one
        to = fill + ones(text & below) + ones(begins & below) + 1
        scratch[np.uint64(to - 1)] = 0x20
        copy64(lowered, ones(below), scratch, to)
    left = begins
    while left != np.uint64(0):
        below = (left - one) & ~left
        left &= left - one
        fill += 1  # the blank before the token
        starts[np.uint64(count)] = fill + ones(text & below)
        count += 1
    fill += ones(text)
    last = one << np.uint64(size - 1)
    if word & last != np.uint64(0):
        return fill, count, np.int64(WORD)
    return fill, count, np.int64(OTHER if text & last != np.uint64(0) else SPACE)


@inlined
def _split_one(data, at, begin, end, unicode, scratch, fill, starts, count, previous):
    """`_split_stretch` of the one character at data[at]."""
    word, cp, size = lower(data, at, begin, end, unicode)
    kind = (word >> CLASS_SHIFT) & 3
    if kind != SPACE:
        if kind != previous or kind == SINGLE:
            scratch[fill] = 0x20
            fill += 1
            starts[count] = fill
            count += 1
        fill = encode(scratch, fill, cp)
    if word & SPECIAL_BIT != 0:
        # U+0130 is i and a combining dot, which is no letter: a token of its own.
        scratch[fill] = 0x20
        starts[count] = fill + 1
        count += 1
        fill = encode(scratch, fill + 1, DOT_ABOVE)
        kind = np.int64(OTHER)
    return at + size, fill, count, kind


@jit
def _split_stretch(
    data, at, stop, begin, end, unicode, lowered, scratch, fill, starts, count, previous
):  # fmt: skip
    """Lower-case and split data[at:stop] of the document [begin, end) into scratch.

    Returns (at, fill, count, previous), as in `Place`; `at` passes `stop` by the rest of the last
    character at most.
    """
    while at < stop:
        size = ascii_ahead(data, at, stop) if data[at] < 0x80 else 0
        if size > 0:
            word, blank = classify(data, at, lowered, 0)
            fill, count, previous = _split_ascii(
                word, blank, size, lowered, scratch, fill, starts, count, previous
            )
            at += size
        else:
            at, fill, count, previous = _split_one(
                data, at, begin, end, unicode, scratch, fill, starts, count, previous
            )
    return at, fill, count, previous


@kernel
def split_words(data, offsets, unicode, place, lowered, scratch, starts, indptr):
    """Split documents from `place` on until the block is full or the documents are at an end.

    Parameters
    ----------
    data : uint8[*]
        UTF-8 text of all documents; document d is data[offsets[d] : offsets[d + 1]].
    offsets : int64[n + 1]
    unicode : uint32[0x110000]
        `unicode_tables.table()`, or `cjk_table()`.
    place : Place
    lowered : uint8[128]
        Scratch.
    scratch : uint8[*]
        Receives the tokens, lower-cased, each behind one blank.
    starts : int64[*]
        starts[:count] become the places of the tokens in scratch, starts[count] that of the next.
    indptr : int64[n + 1]
        indptr[d + 1] becomes the number of tokens up to the end of d, if d ends in this block.

    Returns
    -------
    Place
        `previous` is kept where the last document goes on in the next block.
    """
    document, at, previous, fill, count, before = place
    room = min((scratch.shape[0] - fill - BEYOND) // GROWTH, starts.shape[0] - count - BEYOND)
    while document < offsets.shape[0] - 1 and room > 0:
        begin, end = offsets[document], offsets[document + 1]
        stop = min(end, at + room)
        room -= stop - at
        at, fill, count, previous = _split_stretch(
            data, at, stop, begin, end,
            unicode, lowered, scratch, fill, starts, count, previous,
        )  # fmt: skip
        if at >= end:
            document += 1
            at = end
            previous = SPACE
            indptr[document] = before + count
    starts[count] = fill + 1
    return Place(document, at, previous, fill, count, before)
