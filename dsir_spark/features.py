"""Arrow arrays of text in, NumPy arrays of features out; runs without Spark.

One function an operation, each over one array of n texts (`string`, `large_string`, `binary` or
`large_binary`; nulls, slices and missing buffers allowed). Texts are read in place: nothing is
decoded, copied or checked; bytes that are not UTF-8 read as U+FFFD, one for each.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsir_spark import kernels, tokens, unicode_tables
from dsir_spark.config import FeatureSpec

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

# English words without a meaning of their own, and what `wordpunct` leaves of contractions.
STOP_WORDS = """
a about above after again against ain all am an and any are aren as at be because been before being
below between both but by can couldn d did didn do does doesn doing don down during each few for
from further had hadn has hasn have haven having he her here hers herself him himself his how i if
in into is isn it its itself just ll m ma me mightn more most mustn my myself needn no nor not now o
of off on once only or other our ours ourselves out over own re s same shan she should shouldn so
some such t than that the their theirs them themselves then there these they this those through to
too under until up ve very was wasn we were weren what when where which while who whom why will with
won wouldn y you your yours yourself yourselves
"""

_HASH_KINDS = {"xxhash64": kernels.XXHASH64, "sha256": kernels.SHA256}
_LARGE = (pa.large_string(), pa.large_binary())
_NO_BYTES = np.frombuffer(bytes(8), np.uint8)
_NO_INTS = np.zeros(0, np.int64)
_NO_FLOATS = np.zeros((0, 1))


@dataclass(frozen=True)
class NgramCounts:
    """Exact counts of a set of documents; they add.

    counts : int64[num_buckets], n-grams by bucket
    num_documents : documents read, of which `num_null` without text, `num_blank` without a token
    num_tokens : tokens of the documents counted
    """

    counts: Int64
    num_documents: int
    num_null: int
    num_blank: int
    num_tokens: int


def count_ngrams(texts: pa.Array, spec: FeatureSpec, min_tokens: int = 0) -> NgramCounts:
    """Counts of all n-grams of the documents of at least `min_tokens` tokens."""
    counts = np.zeros(spec.num_buckets, np.int64)
    _, _, num_tokens = _run(texts, spec, kernels.COUNT, min_tokens=min_tokens, counts=counts)
    present = num_tokens[texts.is_valid().to_numpy(zero_copy_only=False)]
    return NgramCounts(
        counts,
        num_documents=len(texts),
        num_null=len(texts) - len(present),
        num_blank=int((present == 0).sum()),
        num_tokens=int(present[present >= min_tokens].sum()),
    )


def score(texts: pa.Array, tables: Float64, spec: FeatureSpec) -> tuple[Float64, Int64]:
    """Sum over each document's n-grams of one or more tables of numbers per bucket.

    Parameters
    ----------
    texts : n texts
    tables : float64[num_buckets, T]
        Interleaved by bucket, so that one n-gram touches adjacent memory.

    Returns
    -------
    scores : float64[n, T]
        Added in the order of the n-grams: the same bits in any batch. 0 for nulls.
    num_tokens : int64[n]
        0 for nulls.
    """
    total = np.zeros((len(texts), tables.shape[1]))
    _, _, num_tokens = _run(texts, spec, kernels.SCORE, tables=tables, total=total)
    return total, num_tokens


def buckets_in_order(texts: pa.Array, spec: FeatureSpec) -> Int64:
    """Buckets of all n-grams of the texts, int64[*], in the order in which `score` adds them."""
    indptr = np.zeros(len(texts) + 1, np.int64)
    collected, _, _ = _run(texts, spec, kernels.COLLECT, indptr=indptr)
    return collected[: int(indptr[-1])]


def text_hashes(texts: pa.Array) -> Int64:
    """128 bits of each text, int64[n, 2], equal for texts that differ in case and blanks only.

    XXH64 with the seeds 1 and 2 of ``" ".join(text.lower().split())`` in UTF-8.
    """
    data, offsets = _text_buffers(texts)
    found = np.empty((len(texts), 2), np.int64)
    kernels.text_hashes(data, offsets, unicode_tables.table(), found)
    return found


@dataclass(frozen=True)
class QualityFacts:
    """Of each document, over its `wordpunct` tokens; int64[n] each.

    most_frequent : how often its most frequent token occurs
    informative : tokens that are neither English stop words nor punctuation
    digits : tokens of the digits 0 to 9 only
    """

    most_frequent: Int64
    informative: Int64
    digits: Int64


def quality_facts(texts: pa.Array) -> QualityFacts:
    """What the paper's quality rule (DSIR, appendix) goes by; 0 for nulls."""
    collected, indptr = _token_hashes(texts)
    facts = np.zeros((len(texts), 3), np.int64)
    kernels.quality(collected, indptr, _stop_words(), facts)
    return QualityFacts(facts[:, 0].copy(), facts[:, 1].copy(), facts[:, 2].copy())


def _token_hashes(texts: pa.Array) -> tuple[Int64, Int64]:
    indptr = np.zeros(len(texts) + 1, np.int64)
    spec = FeatureSpec(ngrams=1, num_buckets=2)
    collected, _, _ = _run(texts, spec, kernels.FACTS, indptr=indptr)
    return collected, indptr


@functools.cache
def _stop_words() -> Int64:
    hashes, indptr = _token_hashes(pa.array(STOP_WORDS.split()))
    return np.sort(hashes[: int(indptr[-1])])


def sparse_counts(texts: pa.Array, spec: FeatureSpec) -> tuple[pa.ListArray, pa.ListArray]:
    """Each document's distinct buckets, ascending, and their counts: list<int32> both.

    Null for null texts.
    """
    indptr = np.zeros(len(texts) + 1, np.int64)
    collected, _, _ = _run(texts, spec, kernels.COLLECT, indptr=indptr)
    indices = np.empty(int(indptr[-1]), np.int32)
    values = np.empty(int(indptr[-1]), np.int32)
    filled = kernels.sparse(collected, indptr, indices, values)
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    offsets = pa.array(indptr, pa.int32(), mask=np.append(missing, False))
    return (
        pa.ListArray.from_arrays(offsets, pa.array(indices[:filled])),
        pa.ListArray.from_arrays(offsets, pa.array(values[:filled])),
    )


def chunks(texts: pa.Array, words: int) -> tuple[pa.ListArray, pa.ListArray, pa.ListArray]:
    """Each text cut into chunks of `words` words, the rest kept, as the paper cuts raw documents.

    A word is what stands between two single blanks (U+0020), as in ``text.split(" ")``.

    Returns
    -------
    starts, ends : list<int64>
        Characters (code points) of the text before the chunk, and up to its end; the blank after a
        chunk belongs to none.
    texts : list<string>
        Null for null texts, all three.
    """
    data, offsets = _text_buffers(texts)
    base = int(offsets[0])
    text = data[base : int(offsets[-1])]
    begins = offsets[:-1] - base
    blanks = np.flatnonzero(text == 0x20)
    owner_first = np.searchsorted(blanks, begins)
    owner = np.searchsorted(offsets - base, blanks, side="right") - 1
    rank = np.arange(len(blanks)) - owner_first[owner]
    at = (rank + 1) % words == 0
    breaks, owner = blanks[at], owner[at]
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    per_text = np.bincount(owner, minlength=len(texts)) + ~missing
    indptr = np.concatenate([[0], np.cumsum(per_text)])
    starts = np.empty(int(indptr[-1]), np.int64)
    ends = np.empty_like(starts)
    first, last = np.zeros(len(starts), bool), np.zeros(len(starts), bool)
    first[indptr[:-1][~missing]] = True
    last[indptr[1:][~missing] - 1] = True
    starts[first], ends[last] = begins[~missing], (offsets[1:] - base)[~missing]
    starts[~first], ends[~last] = breaks + 1, breaks
    # Code points before each byte: a sum over stretches, not a number for each byte.
    leads = np.concatenate([(text & 0xC0) != 0x80, [False]])
    edges = np.stack([starts, ends], axis=1).ravel()
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


def compile_kernels(spec: FeatureSpec) -> None:
    """Compile for this spec now, so that the workers of this machine find the result on disk."""
    tiny = pa.array(["a b", None])
    count_ngrams(tiny, spec)
    score(tiny, np.zeros((spec.num_buckets, 1)), spec)


def _run(
    texts: pa.Array,
    spec: FeatureSpec,
    mode: int,
    min_tokens: int = 0,
    tables: Float64 = _NO_FLOATS,
    counts: Int64 = _NO_INTS,
    total: Float64 = _NO_FLOATS,
    indptr: Int64 = _NO_INTS,
) -> tuple[Int64, Int64, Int64]:
    split_kind, table = kernels.BY_CLASS, unicode_tables.table
    if spec.tokenizer == "wordpunct_cjk":
        table = unicode_tables.cjk_table
    elif spec.tokenizer == "bytes":
        split_kind = kernels.BY_BYTE
    elif spec.tokenizer != "wordpunct":
        split_kind, texts = kernels.LISTED, _listed(texts, tokens.splitter(spec.tokenizer))
    data, offsets = _text_buffers(texts)
    num_tokens = np.zeros(len(texts), np.int64)
    collected: Int64 = kernels.run(
        data, offsets, table(), split_kind,
        spec.ngrams, spec.num_buckets, _HASH_KINDS[spec.hash], _memo(spec.hash, spec.num_buckets),
        mode, min_tokens, tables, counts, total, np.empty(1024, np.int64), indptr, num_tokens,
    )  # fmt: skip
    return collected, indptr, num_tokens


def _listed(texts: pa.Array, split: tokens.Splitter) -> pa.Array:
    """The texts as lists of tokens, as the kernel reads them: 0xFF and UTF-8 of each token."""
    rows = [None if b is None else _decoded(b) for b in texts.cast(_binary(texts)).to_pylist()]
    found = iter(split([row for row in rows if row is not None]))
    return pa.array(
        [
            None if row is None
            else b"".join(b"\xff" + t.encode("utf-8", "replace") for t in next(found))
            for row in rows
        ],
        pa.large_binary(),
    )  # fmt: skip


def _binary(texts: pa.Array) -> Any:
    return pa.large_binary() if texts.type in _LARGE else pa.binary()


def _decoded(text: bytes) -> str:
    """UTF-8 as the kernels read it: U+FFFD for each byte that is not part of a valid sequence."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return re.sub("[\udc80-\udcff]", "\ufffd", text.decode(errors="surrogateescape"))


@functools.lru_cache(maxsize=2)
def _memo(hash_name: str, num_buckets: int) -> Any:
    """The sha256 cache of this process: kept over batches, one for each num_buckets."""
    return kernels.new_memo(_HASH_KINDS[hash_name])


def _text_buffers(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], Int64]:
    """Bytes (uint8[*], read-only) and offsets (int64[n + 1]) of an array of texts; null is empty.

    The arrays always have the same types and flags, so that the kernel is compiled once.
    """
    width = np.int64 if texts.type in _LARGE else np.int32
    _, offset_buffer, data_buffer = texts.buffers()
    if offset_buffer is None or len(texts) == 0:
        return _NO_BYTES, np.zeros(len(texts) + 1, np.int64)
    raw = np.frombuffer(offset_buffer, width)[texts.offset : texts.offset + len(texts) + 1]
    offsets = raw.astype(np.int64)
    if texts.null_count:
        texts, offsets = _without_nulls(texts, offsets)
        data_buffer = texts.buffers()[2]
    if data_buffer is None or data_buffer.size == 0:
        return _NO_BYTES, offsets
    data = np.frombuffer(data_buffer, np.uint8)
    data.setflags(write=False)
    return data, offsets


def _without_nulls(texts: pa.Array, offsets: Int64) -> tuple[pa.Array, Int64]:
    """The same texts with empty ones for nulls, if some null slot holds bytes (Arrow allows it)."""
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    if not np.any(np.diff(offsets)[missing]):
        return texts, offsets
    filled = texts.fill_null(b"" if pa.types.is_binary(texts.type) else "")
    width = np.int64 if filled.type in _LARGE else np.int32
    raw = np.frombuffer(filled.buffers()[1], width)
    return filled, raw[filled.offset : filled.offset + len(filled) + 1].astype(np.int64)
