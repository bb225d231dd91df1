"""Which documents share an n-gram of some length with one of some texts: exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsir_spark.features.passes import Block, Documents, blocks
from dsir_spark.features.rolling import hash_runs, insert, look_up
from dsir_spark.features.spec import Int64

UInt64 = npt.NDArray[np.uint64]


class Index(NamedTuple):
    """The n-grams of m texts, of `ngram` tokens each, for `shared` to look up.

    data : uint8[*], the tokens of all texts as `split` writes them
    starts : int64[tokens + 1], the place of each token in `data`, and that of a next one
    owners : int64[tokens], the text of each
    bits : uint64[*], a bitmap of hashes
    keys, last : uint64[2^k] and int64[2^k], an open hash table: a hash, and the n-gram's last token
    """

    ngram: int
    data: npt.NDArray[np.uint8]
    starts: Int64
    owners: Int64
    bits: UInt64
    keys: UInt64
    last: Int64


def _runs(documents: Documents, ngram: int, indptr: Int64) -> Iterator[tuple[Block, UInt64]]:
    """The blocks of documents, and `hash_runs` of each (uint64[hi - lo]), valid until the next."""
    tokens, out = np.empty(0, np.uint64), np.empty(0, np.uint64)
    for block in blocks(documents, ngram, indptr):
        if len(tokens) < block.hi:
            tokens, out = (np.empty(2 * block.hi, np.uint64) for _ in range(2))
        scratch, starts, *place = block
        hash_runs(scratch, starts, documents.gap, *place, indptr, tokens, ngram, out)
        yield block, out[: block.hi - block.lo]


def index(documents: Documents, ngram: int) -> Index:
    """The n-grams of some texts; of equal ones that of the first text."""
    gap, indptr = documents.gap, np.zeros(len(documents.offsets), np.int64)
    data, starts, size = [np.zeros(0, np.uint8)], [], 0
    hashed: list[Any] = [np.zeros(0, np.uint64)]
    for block, own in _runs(documents, ngram, indptr):
        lo, hi, first = block.lo, block.hi, int(block.starts[block.lo]) - gap
        hashed.append(own.copy())
        data.append(block.scratch[first : int(block.starts[hi]) - gap].copy())
        starts.append(block.starts[lo:hi] - first + size)
        size += len(data[-1])
    every = np.concatenate(hashed)
    # Four slots an n-gram, and 16 bits: of what is not there one in 16 is looked for in the table.
    slots = 1 << max(8, (2 * len(every)).bit_length())
    found = Index(
        ngram, np.concatenate(data), np.concatenate([*starts, np.array([size + gap])]),
        np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), np.zeros(slots // 4, np.uint64),
        np.zeros(slots, np.uint64), np.zeros(slots, np.int64),
    )  # fmt: skip
    insert(every, gap, ngram, found.data, found.starts, found.bits, found.keys, found.last)
    return found


def shared(documents: Documents, texts: Index) -> Int64:
    """Of n documents, split as the texts were, the text that has the first n-gram which one of them
    has too: int64[n]; -1 where there is none."""
    gap, indptr = documents.gap, np.zeros(len(documents.offsets), np.int64)
    found = np.full(len(indptr) - 1, -1, np.int64)
    for block, own in _runs(documents, texts.ngram, indptr):
        scratch, starts, *place = block
        look_up(own, scratch, starts, gap, *place, indptr, *texts, found)
    return found
