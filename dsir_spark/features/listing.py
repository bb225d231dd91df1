"""Text that is tokens already: each byte one, or a list of them that a tokenizer in Python made."""

from __future__ import annotations

from dsir_spark.features.jit import kernel
from dsir_spark.features.splitting import BEYOND, Place


@kernel
def split_bytes(data, offsets, unicode, place, lowered, scratch, starts, indptr):
    """`splitting.split_words`, but each byte is a token, and nothing stands between two."""
    document, at, previous, fill, count, before = place
    room = min(scratch.shape[0] - fill - BEYOND, starts.shape[0] - count - BEYOND)
    while document < offsets.shape[0] - 1 and room > 0:
        end = offsets[document + 1]
        stop = min(end, at + room)
        room -= stop - at
        for j in range(at, stop):
            scratch[fill] = data[j]
            starts[count] = fill
            fill += 1
            count += 1
        at = stop
        if at >= end:
            document += 1
            indptr[document] = before + count
    starts[count] = fill
    return Place(document, at, previous, fill, count, before)


@kernel
def split_listed(data, offsets, unicode, place, lowered, scratch, starts, indptr):
    """`splitting.split_words` of documents that are tokens already, each behind the byte 0xFF.

    UTF-8 does not have that byte.
    """
    document, at, previous, fill, count, before = place
    room = min(scratch.shape[0] - fill - BEYOND, starts.shape[0] - count - BEYOND)
    while document < offsets.shape[0] - 1 and room > 0:
        end = offsets[document + 1]
        stop = min(end, at + room)
        room -= stop - at
        for j in range(at, stop):
            scratch[fill] = data[j]
            fill += 1
            if data[j] == 0xFF:
                scratch[fill - 1] = 0x20
                starts[count] = fill
                count += 1
        at = stop
        if at >= end:
            document += 1
            indptr[document] = before + count
    starts[count] = fill + 1
    return Place(document, at, previous, fill, count, before)
