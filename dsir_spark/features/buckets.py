"""Documents as lists of buckets: hashed once on the executors, scored as often as wanted elsewhere.

A sample of some 100 million n-grams fits into the memory of one process, two bytes each where there
are at most 65,536 buckets. Scores have the bits that `arrow.score` gives for the texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dsir_spark.features.arrow import collected_buckets
from dsir_spark.features.spec import FeatureSpec, Int64

Buckets = npt.NDArray[Any]  # of `bucket_type`

_TEXT_BYTES = 1 << 22  # hashed at once: 8 bytes an n-gram for a moment
_PIECE = 1 << 21  # bytes of a row at most: far from the limits on messages


def bucket_type(num_buckets: int) -> np.dtype[Any]:
    """The smallest of uint16 and int32 that holds every bucket."""
    return np.dtype(np.uint16 if num_buckets <= 1 << 16 else np.int32)


def packed(
    batches: Iterable[pa.RecordBatch], spec: FeatureSpec, min_tokens: int
) -> Iterator[pa.RecordBatch]:
    """The buckets of documents of at least `min_tokens` (and 1) tokens, in pieces of 2 MB.

    batches : of one column, the texts

    A row: sizes (binary; int64, n-grams of each document that begins in the piece) and buckets
    (binary; `bucket_type`). A piece may end within a document: put together in their order, the
    rows of a partition are its documents one after another, and so are those of all.
    """
    kind = bucket_type(spec.num_buckets)
    for batch in batches:
        for texts in _slices(batch.column(0)):
            found, indptr, num_tokens = collected_buckets(texts, spec)
            kept = num_tokens >= max(1, min_tokens)
            sizes = np.diff(indptr)
            data = found[np.repeat(kept, sizes)].astype(kind).tobytes()
            pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)]
            lengths = [sizes[kept].tobytes(), *[b""] * (len(pieces) - 1)]
            if pieces:
                yield pa.RecordBatch.from_pydict(
                    {"sizes": pa.array(lengths, pa.binary()), "buckets": pieces}
                )


def _slices(texts: pa.Array) -> Iterator[pa.Array]:
    """The texts in slices of some 4 MB; a longer text is alone, or the last of its slice."""
    ends = np.cumsum(pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False))
    first = 0
    while first < len(texts):
        before = int(ends[first - 1]) if first else 0
        last = 1 + int(np.searchsorted(ends, before + _TEXT_BYTES))
        yield texts.slice(first, last - first)
        first = last


def unpacked(rows: Iterable[tuple[Any, Any]], spec: FeatureSpec) -> tuple[Buckets, Int64]:
    """The documents of `packed`: their buckets, and where each begins (int64[n + 1]).

    rows : sizes and buckets (anything with a buffer), in their order
    """
    sizes, pieces = [np.zeros(1, np.int64)], [np.zeros(0, bucket_type(spec.num_buckets))]
    for size, piece in rows:
        sizes.append(np.frombuffer(size, np.int64))
        pieces.append(np.frombuffer(piece, pieces[0].dtype))
    return np.concatenate(pieces), np.cumsum(np.concatenate(sizes))
