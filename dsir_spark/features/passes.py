"""Passes over documents: block by block into tokens, their buckets, and what is made of these.

A block is some 32 kB of text, of one document or of many: all that belongs to it stays in the
nearer caches, whatever the documents' length, and a call of a compiled function costs little by it.

N-grams come in one order, whatever the batch: token i = 0, 1, ..., and for each i the n-grams that
end at token i, n = 1, 2, .... Floating-point sums follow that order, so a weight has the same bits
wherever it is computed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dsir_spark.features import splitting, sums
from dsir_spark.features.spec import FeatureSpec, Float64, Int32, Int64
from dsir_spark.features.unicode_tables import SPACE

_BLOCK = 1 << 16  # bytes of text

# Rooms that hold a hash: each has `hash_ngrams` and `new_room`. Read when first asked for.
_HASHES = {"xxhash64": "dsir_spark.features.hashes", "sha256": "dsir_spark.features.sha256"}


class Documents(NamedTuple):
    """n texts, and how they are split.

    data : uint8[*]
    offsets : int64[n + 1]; document d is data[offsets[d] : offsets[d + 1]]
    unicode : uint32[0x110000], of `unicode_tables`
    split : `splitting.split_words` or one that does as it does
    gap : bytes between two tokens that `split` writes
    """

    data: npt.NDArray[np.uint8]
    offsets: Int64
    unicode: npt.NDArray[np.uint32]
    split: Callable[..., splitting.Place]
    gap: int


class Block(NamedTuple):
    """Tokens lo..hi-1 are complete and new; up to n - 1 before them are there for the n-grams.

    scratch, starts : the block's bytes, and where its tokens begin
    before : tokens of all documents before the block's first
    first, last : the documents that the block has tokens of; some may have none
    """

    scratch: npt.NDArray[np.uint8]
    starts: Int64
    lo: int
    hi: int
    before: int
    first: int
    last: int


def blocks(documents: Documents, ngrams: int, indptr: Int64) -> Iterator[Block]:
    """The documents' tokens, split as they are asked for; a block is valid until the next one is.

    indptr (int64[n + 1], zeros) receives the tokens up to the end of each document: of all before a
    block's `last` when the block is there, of all in the end.
    """
    data, offsets, unicode, split, gap = documents
    n = len(offsets) - 1
    scratch = np.empty(splitting.GROWTH * _BLOCK + splitting.BEYOND, np.uint8)
    starts = np.empty(_BLOCK + splitting.BEYOND + ngrams, np.int64)
    lowered = np.empty(128, np.uint8)
    place = splitting.Place(0, int(offsets[0]), SPACE, 0, 0, 0)
    lo = 0
    while place.document < n:
        first = place.document
        place = split(data, offsets, unicode, place, lowered, scratch, starts, indptr)
        # The last token of a document that is not at its end may go on in the next block.
        open_document = place.at != offsets[place.document]
        has_tokens = place.before + place.count > indptr[place.document]
        hi = place.count - 1 if open_document and has_tokens else place.count
        last = min(place.document, n - 1)
        yield Block(scratch, starts, lo, hi, place.before, first, last)
        keep = max(0, hi - ngrams + 1)
        shift = int(starts[keep]) - gap if keep < place.count else place.fill
        fill, count = place.fill - shift, place.count - keep
        starts[:count] = starts[keep : place.count] - shift
        room = (len(scratch) - fill - splitting.BEYOND) // splitting.GROWTH
        if 2 * room <= _BLOCK:  # long tokens
            scratch = np.concatenate([scratch[shift:], np.empty(2 * len(scratch), np.uint8)])
        else:
            scratch[:fill] = scratch[shift : place.fill]
        lo = hi - keep
        place = place._replace(fill=fill, count=count, before=place.before + keep)


def token_counts(documents: Documents) -> Int64:
    """Tokens of each document, int64[n]."""
    indptr = np.zeros(len(documents.offsets), np.int64)
    for _ in blocks(documents, 1, indptr):
        pass
    return np.diff(indptr)


class Buckets(NamedTuple):
    """Of a block's m documents, of which the j-th has buckets[borders[j] : borders[j + 1]].

    buckets : int32[*], in the order of the n-grams
    borders : int64[m + 1]
    which : the documents
    """

    buckets: Int32
    borders: Int64
    which: slice


def buckets_of(documents: Documents, spec: FeatureSpec, indptr: Int64) -> Iterator[Buckets]:
    """The documents' n-grams as buckets, block by block; else as `blocks`.

    `spec.tokenizer` is in `documents.split` already.
    """
    hashing = importlib.import_module(_HASHES[spec.hash])
    room = hashing.new_room(spec.ngrams)
    rows = np.empty((spec.ngrams, _BLOCK + splitting.BEYOND + spec.ngrams), np.int32)
    buckets = np.empty(rows.size, np.int32)
    borders = np.zeros(len(documents.offsets), np.int64)
    for scratch, starts, lo, hi, before, first, last in blocks(documents, spec.ngrams, indptr):
        gap = documents.gap
        hashing.hash_ngrams(scratch, starts, gap, lo, hi, spec.num_buckets, room, rows)
        sums.in_order(rows, lo, hi, before, first, last, indptr, buckets, borders)
        yield Buckets(buckets, borders[: last - first + 2], slice(first, last + 1))


def score(documents: Documents, tables: Float64, spec: FeatureSpec) -> tuple[Float64, Int64]:
    """Sums over each document's n-grams of tables float64[num_buckets, T]; and its tokens.

    float64[n, T] and int64[n].
    """
    indptr = np.zeros(len(documents.offsets), np.int64)
    total = np.zeros((len(indptr) - 1, tables.shape[1]))
    for buckets, borders, which in buckets_of(documents, spec, indptr):
        sums.add_scores(buckets, borders, tables, total[which])
    return total, np.diff(indptr)


def count(documents: Documents, spec: FeatureSpec) -> tuple[Int64, Int64]:
    """N-grams by bucket of all documents; and each document's tokens.

    int64[num_buckets] and int64[n].
    """
    indptr = np.zeros(len(documents.offsets), np.int64)
    counts, chosen = np.zeros(spec.num_buckets, np.int64), np.ones(len(indptr) - 1, np.bool_)
    for buckets, borders, which in buckets_of(documents, spec, indptr):
        sums.add_counts(buckets, borders, chosen[which], counts)
    return counts, np.diff(indptr)


def collect(documents: Documents, spec: FeatureSpec) -> tuple[Int32, Int64, Int64]:
    """Buckets of all n-grams in order, where each document's begin, and its tokens.

    int32[*], int64[n + 1] and int64[n].
    """
    indptr = np.zeros(len(documents.offsets), np.int64)
    sizes = np.zeros(len(documents.offsets), np.int64)
    parts = [np.zeros(0, np.int32)]
    for buckets, borders, which in buckets_of(documents, spec, indptr):
        sizes[1:][which] += np.diff(borders)
        parts.append(buckets[: borders[-1]].copy())
    return np.concatenate(parts), np.cumsum(sizes), np.diff(indptr)
