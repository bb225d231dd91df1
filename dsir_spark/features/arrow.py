"""Arrow arrays of text in, NumPy arrays of features out; runs without Spark.

One function an operation, each over one array of n texts (`string`, `large_string`, `binary` or
`large_binary`; nulls, slices and missing buffers allowed). Texts are read in place: nothing is
decoded, copied or checked; bytes that are not UTF-8 read as U+FFFD, one for each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsir_spark.features import listing, passes, splitting, tokenizers, unicode_tables
from dsir_spark.features.spec import FeatureSpec, Float64, Int32, Int64

_LARGE = (pa.large_string(), pa.large_binary())
_NO_BYTES = np.frombuffer(bytes(8), np.uint8)


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

    @property
    def num_ngrams(self) -> int:
        """N-grams in all buckets."""
        return int(self.counts.sum())


def count_ngrams(texts: pa.Array, spec: FeatureSpec) -> NgramCounts:
    """Counts of all n-grams of the documents."""
    counts, num_tokens = passes.count(documents(texts, spec.tokenizer), spec)
    present = texts.is_valid().to_numpy(zero_copy_only=False)
    return NgramCounts(
        counts,
        num_documents=len(texts),
        num_null=len(texts) - int(present.sum()),
        num_blank=int((num_tokens[present] == 0).sum()),
        num_tokens=int(num_tokens.sum()),
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
    # In the one form of array that kernels are compiled for.
    tables = np.require(tables, np.float64, ["C", "W", "A"])
    return passes.score(documents(texts, spec.tokenizer), tables, spec)


def buckets_in_order(texts: pa.Array, spec: FeatureSpec) -> Int32:
    """Buckets of all n-grams of the texts, int32[*], in the order in which `score` adds them."""
    return collected_buckets(texts, spec)[0]


def collected_buckets(texts: pa.Array, spec: FeatureSpec) -> tuple[Int32, Int64, Int64]:
    """`buckets_in_order`, where each text's begin (int64[n + 1]), and its tokens (int64[n])."""
    return passes.collect(documents(texts, spec.tokenizer), spec)


def text_hashes(texts: pa.Array) -> Int64:
    """128 bits of each text, int64[n, 2], equal for texts that differ in case and blanks only.

    XXH64 with the seeds 1 and 2 of ``" ".join(text.lower().split())`` in UTF-8.
    """
    from dsir_spark.features import folding

    data, offsets = text_buffers(texts)
    longest = int(np.diff(offsets).max(initial=0))
    scratch = np.empty(folding.GROWTH * longest + splitting.BEYOND, np.uint8)
    found = np.empty((len(texts), 2), np.int64)
    lowered = np.empty(128, np.uint8)
    folding.text_hashes(data, offsets, unicode_tables.table(), lowered, scratch, found)
    return found


@dataclass(frozen=True)
class QualityFacts:
    """Of each document, over its `wordpunct` tokens; int64[n] each.

    most_frequent : how often its most frequent token occurs
    informative : tokens that are neither English stop words nor punctuation
    digits : tokens of the digits 0 to 9 only
    num_wordpunct : tokens
    """

    most_frequent: Int64
    informative: Int64
    digits: Int64
    num_wordpunct: Int64


def quality_facts(texts: pa.Array) -> QualityFacts:
    """What the paper's quality rule (DSIR, appendix) goes by; 0 for nulls."""
    from dsir_spark.features import quality

    return QualityFacts(*np.ascontiguousarray(quality.facts(documents(texts, "wordpunct")).T))


def sparse_counts(texts: pa.Array, spec: FeatureSpec) -> tuple[pa.ListArray, pa.ListArray]:
    """Each document's distinct buckets, ascending, and their counts: list<int32> both.

    Null for null texts.
    """
    buckets, borders, _ = collected_buckets(texts, spec)
    # One number a document and bucket: sorted, and equal ones counted, over all documents at once.
    owner = np.repeat(np.arange(len(texts)), np.diff(borders))
    entries, counts = np.unique(owner * spec.num_buckets + buckets, return_counts=True)
    indptr = np.searchsorted(entries, np.arange(len(texts) + 1) * spec.num_buckets)
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    offsets = pa.array(indptr, pa.int32(), mask=np.append(missing, False))
    return (
        pa.ListArray.from_arrays(offsets, pa.array(entries % spec.num_buckets, pa.int32())),
        pa.ListArray.from_arrays(offsets, pa.array(counts, pa.int32())),
    )


def compile_kernels(spec: FeatureSpec) -> None:
    """Compile for this spec now, so that the workers of this machine find the result on disk."""
    tiny = pa.array(["a b", None])
    count_ngrams(tiny, spec)
    score(tiny, np.zeros((spec.num_buckets, 1)), spec)
    text_hashes(tiny)


def documents(texts: pa.Array, tokenizer: str) -> passes.Documents:
    """The texts as the kernels read them, and how this tokenizer splits them."""
    split, gap, table = splitting.split_words, 1, unicode_tables.table
    if tokenizer == "wordpunct_cjk":
        table = unicode_tables.cjk_table
    elif tokenizer == "bytes":
        split, gap = listing.split_bytes, 0
    elif tokenizer != "wordpunct":
        split, texts = listing.split_listed, _listed(texts, tokenizers.splitter(tokenizer))
    return passes.Documents(*text_buffers(texts), table(), split, gap)


def _listed(texts: pa.Array, split: tokenizers.Splitter) -> pa.Array:
    """The texts as lists of tokens, as `split_listed` reads them: 0xFF and UTF-8 of each token."""
    given = texts.cast(pa.large_binary()).to_pylist()
    rows = [None if text is None else decoded(text) for text in given]
    found = iter(split([row for row in rows if row is not None]))
    return pa.array(
        [
            None if row is None
            else b"".join(b"\xff" + t.encode("utf-8", "replace") for t in next(found))
            for row in rows
        ],
        pa.large_binary(),
    )  # fmt: skip


def decoded(text: bytes) -> str:
    """Bytes as the kernels read them: U+FFFD for each that is not part of a valid sequence."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return re.sub("[\udc80-\udcff]", "\ufffd", text.decode(errors="surrogateescape"))


def text_buffers(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], Int64]:
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
        missing = texts.is_null().to_numpy(zero_copy_only=False)
        if np.any(np.diff(offsets)[missing]):  # Arrow allows the slot of a null to hold bytes
            return text_buffers(texts.fill_null(b"" if pa.types.is_binary(texts.type) else ""))
    if data_buffer is None or data_buffer.size == 0:
        return _NO_BYTES, offsets
    data = np.frombuffer(data_buffer, np.uint8)
    data.setflags(write=False)
    return data, offsets
