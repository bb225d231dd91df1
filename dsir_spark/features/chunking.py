"""Texts cut into chunks of so many tokens, as the tokenizer counts them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsir_spark.features import arrow, terms, tokenizers, unicode_tables
from dsir_spark.features.jit import kernel
from dsir_spark.features.spec import Int64
from dsir_spark.features.splitting import lower
from dsir_spark.features.unicode_tables import CLASS_SHIFT, OTHER, SINGLE, SPACE, SPECIAL_BIT


def chunks(
    texts: pa.Array, size: int, tokenizer: str
) -> tuple[pa.ListArray, pa.ListArray, pa.ListArray]:
    """Each text cut into chunks of `size` tokens, the rest kept, as the paper cuts raw documents.

    A text without a token is one chunk. Of a tokenizer that is not compiled, each word's tokens are
    counted by themselves, and no word is cut.

    Returns
    -------
    starts, ends : list<int64>
        Characters (code points) of the text before the chunk, and up to its end; blanks between two
        chunks belong to none, those around a text to its first and last.
    texts : list<string>
        Null for null texts, all three.
    """
    data, offsets = arrow.text_buffers(texts)
    text, offsets = data[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0]
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    if tokenizer in tokenizers.NAMES:
        edges = np.empty((len(text) // size + len(texts), 2), np.int64)
        indptr = np.zeros(len(texts) + 1, np.int64)
        table = unicode_tables.cjk_table if tokenizer == "wordpunct_cjk" else unicode_tables.table
        _cut(text, offsets, table(), size, tokenizer == "bytes", missing, edges, indptr)
        found = [edges[: indptr[-1]].ravel()]
    else:
        of_texts = [
            [] if null else list(_by_words(bytes(text[a:b]), size, tokenizer))
            for a, b, null in zip(offsets[:-1], offsets[1:], missing, strict=True)
        ]
        found = [
            np.array(own, np.int64).ravel() + a
            for own, a in zip(of_texts, offsets[:-1], strict=True)
        ]
        indptr = np.concatenate([[0], np.cumsum([len(own) for own in of_texts], dtype=np.int64)])
    return _as_lists(text, np.concatenate([*found, np.empty(0, np.int64)]), indptr, missing)


def _as_lists(
    text: npt.NDArray[np.uint8], edges: Int64, indptr: Int64, missing: npt.NDArray[np.bool_]
) -> tuple[pa.ListArray, pa.ListArray, pa.ListArray]:
    """Starts, ends and texts of chunks, by their edges (bytes; first and last by turn)."""
    per_text = np.diff(indptr)
    # Code points before each byte: a sum over stretches, not a number for each byte.
    leads = np.concatenate([(text & 0xC0) != 0x80, [False]])
    between = np.add.reduceat(leads, edges, dtype=np.int64) if len(edges) else edges
    between[np.append(edges[1:], edges[-1:]) == edges] = 0  # of nothing, reduceat gives one item
    before = np.concatenate([[0], np.cumsum(between)])[: len(edges)]
    before -= np.repeat(before[2 * indptr[:-1][~missing]], 2 * per_text[~missing])
    # Chunks and the blanks between them are one run of bytes: no text is copied until `take`.
    buffers = [None, pa.py_buffer(np.append(edges, edges[-1:])), pa.py_buffer(text)]
    runs = pa.Array.from_buffers(pa.large_string(), len(edges), buffers)
    values = runs.take(pa.array(np.arange(0, len(edges), 2)))
    lists = pa.array(indptr, pa.int32(), mask=np.append(missing, False))
    return (
        pa.ListArray.from_arrays(lists, pa.array(before[0::2])),
        pa.ListArray.from_arrays(lists, pa.array(before[1::2])),
        pa.ListArray.from_arrays(lists, values.cast(pa.string())),
    )


@kernel
def _cut(data, offsets, unicode, size, by_byte, missing, edges, indptr):  # type: ignore[no-untyped-def]
    """First byte, and the byte after the last, of each chunk: edges[n, 2]; indptr by text."""
    n = 0
    for document in range(offsets.shape[0] - 1):
        begin, end = offsets[document], offsets[document + 1]
        at, count, previous, last = begin, 0, SPACE, begin
        if not missing[document]:
            edges[n, 0] = begin
            while at < end:
                word, _, length = lower(data, at, begin, end, unicode)
                of = (word >> CLASS_SHIFT) & 3
                starts = of != SPACE and (of != previous or of == SINGLE)
                if by_byte or starts:
                    if count >= size:
                        edges[n, 1] = last
                        n += 1
                        edges[n, 0] = at
                        count = 0
                    count += length if by_byte else 1
                at += length
                if by_byte or of != SPACE:
                    last = at
                previous = of
                if not by_byte and word & SPECIAL_BIT != 0:  # of its two, the second is a token
                    count += 1
                    previous = OTHER
            edges[n, 1] = end
            n += 1
        indptr[document + 1] = n


def _by_words(text: bytes, size: int, tokenizer: str) -> Iterator[tuple[int, int]]:
    """Chunks of a text by a tokenizer in Python, in bytes."""
    read = text.decode(errors="surrogateescape")
    words = [m.span() for m in terms.pattern("wordpunct_cjk").finditer(read)]
    parts = [read[a:b].encode("utf-8", "surrogateescape") for a, b in words]
    tokens = tokenizers.splitter(tokenizer)([arrow.decoded(part) for part in parts])
    first, last, count, seen = 0, 0, 0, 0
    for (a, b), part, found in zip(words, parts, tokens, strict=True):
        at = last + len(read[seen:a].encode("utf-8", "surrogateescape"))
        if count and count + len(found) > size:
            yield first, last
            first, count = at, 0
        count += len(found)
        seen, last = b, at + len(part)
    yield first, len(text)
