"""Kernels over Arrow buffers against the oracle, on hostile text."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter

import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsir_spark import features
from dsir_spark.features import FeatureSpec, passes, unicode_tables

# Letters that break tokenisers: final sigma and what it skips, the dotted I, combining marks,
# letters beyond 16 bits, digits of other scripts, blanks that are no ASCII, NUL, the joiner.
HOSTILE = "aB1_ .,'\u0000\t\n\x1c\x85\u00a0\u2003\u3000\u03a3\u03c3\u0130\u0307\u0301\u00ad\u2019:"
HOSTILE += "\u1e9e\ufb01\u0660\u0e33\u4e2d\uac00\U0001d7d8\U00010400\U0001f600\u200d\ufffd\u2160"
# Of the scripts that `wordpunct_cjk` knows, and beside their borders.
CJK = "\u6f22\u5b57\u30ab\u3099\u304c\uff76\ud55c\uae00\u1112\u1161\u0e01\u0e49\u0e33\u0e3f\u0e52"
CJK += "\u3001\u30fb\u3000\u3400\U00020000\U0001b000\u0e00\u0e3b\ud7a4\uffdd"
texts = st.text(st.one_of(st.sampled_from(HOSTILE + CJK), st.characters(codec="utf-8")))
runs = st.lists(st.one_of(texts, st.sampled_from(["word ", "a" * 70, "-" * 9, " " * 80, "Ab, c"])))
SPEC = FeatureSpec(2, 1 << 24)
specs = st.builds(
    FeatureSpec,
    ngrams=st.integers(1, 7),
    num_buckets=st.sampled_from([1, 2, 7, 1000, 10_000, 65_536, 1 << 24]),
    tokenizer=st.sampled_from(["wordpunct", "wordpunct_cjk", "bytes"]),
    hash=st.sampled_from(["xxhash64", "sha256"]),
)
CODE_POINTS = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]


def check(text, spec, split=None):
    """Sparse vector, buckets in order, tokens; of the text (str or bytes) between two others."""
    data = text if isinstance(text, bytes) else text.encode()
    read = features.decoded(data)
    split = split or spec.tokenizer
    rows = pa.array([None, b"x", data], pa.binary()).slice(1)
    expected = oracle.buckets(read, spec.ngrams, spec.num_buckets, spec.hash, split)
    first = oracle.buckets("x", spec.ngrams, spec.num_buckets, spec.hash, split)
    assert features.buckets_in_order(rows, spec).tolist() == first + expected
    indices, counts = features.sparse_counts(rows, spec)
    found = dict(zip(indices[1].as_py(), counts[1].as_py(), strict=True))
    assert found == Counter(expected) and list(found) == sorted(found)
    assert features.count_ngrams(rows.slice(1), spec).num_tokens == len(oracle.tokens(read, split))


@settings(max_examples=300, deadline=None)
@given(parts=runs, spec=specs)
@example(["\u0391\u03a3 \u03a3 \u0391\u03a3\u0301 a\u03a3b a\u03a3\u00ad\u03a3"], SPEC)
@example(["\u0130stanbul I\u0307 \u0130\u0130"], SPEC)
@example([CJK, "abc", CJK], FeatureSpec(2, 10_000, "wordpunct_cjk"))
@example([], SPEC)
def test_buckets_of_any_text(parts, spec):
    check("".join(parts), spec)


@settings(max_examples=200, deadline=None)
@given(parts=runs, spec=specs, size=st.integers(1, 200))
def test_any_border_of_blocks(parts, spec, size):
    """Blocks of a few bytes, so that each part of a text comes to stand at their borders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "_BLOCK", size)
        check("".join(parts), spec)


LONG = {
    "token": "a" * 300_000, "words": "ab " * 30_000, "two-byte": "\u00e9" * 65_536 + " b",
    "border": "!" * 65_535 + "a", "sigma": "a" * 65_535 + "\u03a3 b", "sigmas": "\u03a3" * 70_000,
    "lines": ("word " * 3 + "\n") * 9_000, "blanks": "a" + " " * 200_000 + "b", "cjk": CJK * 2_000,
}  # fmt: skip


@pytest.mark.parametrize("tokenizer, ngrams", [("wordpunct", 1), ("wordpunct", 5),
                                               ("wordpunct_cjk", 2), ("bytes", 1)])  # fmt: skip
@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_documents(text, tokenizer, ngrams):
    if tokenizer == "bytes":  # the oracle takes long for each n-gram
        text = text[:2_000]
    spec = FeatureSpec(ngrams, 1 << 20, tokenizer)
    grams = oracle.ngrams(oracle.tokens(text, tokenizer), ngrams)
    found = features.buckets_in_order(pa.array([text]), spec).tolist()
    bucket = {g: oracle.bucket(g, 1 << 20) for g in set(grams)}
    assert found == [bucket[g] for g in grams]


@pytest.mark.parametrize("tokenizer", ["wordpunct", "wordpunct_cjk"])
def test_every_code_point_between_letters_and_alone(tokenizer):
    """In one document each 4,096 code points, so that every class and case is met."""
    pieces = [CODE_POINTS[at : at + 4096] for at in range(0, len(CODE_POINTS), 4096)]
    rows = [" ".join(f"{chr(c)} A{chr(c)}{chr(c)}\u03a3" for c in piece) for piece in pieces]
    spec = FeatureSpec(1, 1 << 24, tokenizer)
    _, found = features.score(pa.array(rows), np.zeros((1 << 24, 1)), spec)
    assert found.tolist() == [len(oracle.tokens(row, tokenizer)) for row in rows]
    for row in rows[::20]:  # hashing all in plain Python takes long
        found = features.buckets_in_order(pa.array([row]), spec).tolist()
        assert found == oracle.buckets(row, 1, 1 << 24, "xxhash64", tokenizer)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["wordpunct", "wordpunct_cjk"]))
@example(b"\xed\xa0\x80 \xf4\x90\x80\x80 \xc0\xaf \xe2\x82 a\xff\xce\xa3", "wordpunct")
def test_bytes_that_are_no_utf8_read_as_replacement_characters(data, tokenizer):
    """One U+FFFD for each byte that is not part of a valid sequence."""
    text = data.decode("utf-8", errors="surrogateescape")
    assert features.decoded(data) == re.sub("[\udc80-\udcff]", "\ufffd", text)
    check(data, FeatureSpec(2, 1 << 24, tokenizer))
    found = features.text_hashes(pa.array([data], pa.binary())).tolist()
    assert found == [oracle.text_hash(features.decoded(data))]


def test_bytes_as_tokens_stay_as_they_are():
    data = b"\xff\xfe a\x00\x80"
    spec = FeatureSpec(2, SPEC.num_buckets, "bytes")
    found = features.buckets_in_order(pa.array([data], pa.binary()), spec).tolist()
    grams = oracle.ngrams([bytes([b]) for b in data], 2)
    assert found == [oracle.bucket(g, spec.num_buckets) for g in grams]


def test_arrow_refuses_lone_surrogates():
    with pytest.raises((UnicodeEncodeError, pa.ArrowInvalid)):
        pa.array(["\ud800"])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_slices_nulls_and_types_of_arrays(kind):
    rows = ["one two", None, "", "  ", "three, three", None, "caf\u00e9 \u0130"]
    whole = pa.array([r and r.encode() for r in rows], pa.binary()).cast(kind)
    tables = np.random.default_rng(1).normal(size=(97, 3))
    spec = FeatureSpec(2, 97)
    bounds = [(i, j) for i in range(len(rows) + 1) for j in range(i, len(rows) + 1)]
    for start, stop in bounds:
        part = whole.slice(start, stop - start)
        present = [r for r in rows[start:stop] if r is not None]
        found = features.count_ngrams(part, spec)
        assert found.counts.tolist() == oracle.bucket_counts(present, 2, 97)
        blank = sum(not oracle.tokens(r) for r in present)
        assert (found.num_documents, found.num_null, found.num_blank) == (
            stop - start, stop - start - len(present), blank
        )  # fmt: skip
        totals, tokens = features.score(part, tables, spec)
        assert tokens.tolist() == [len(oracle.tokens(r or "")) for r in rows[start:stop]]
        assert totals.tolist() == [
            [oracle.log_weight(r or "", table.tolist()) for table in tables.T]
            for r in rows[start:stop]
        ]


def test_null_slots_that_hold_bytes_are_not_read():
    offsets = pa.py_buffer(np.array([0, 2, 5, 7], np.int32).tobytes())
    buffers = [pa.py_buffer(bytes([0b101])), offsets, pa.py_buffer(b"abXYZcd")]
    array = pa.Array.from_buffers(pa.string(), 3, buffers, null_count=1)
    found = features.count_ngrams(array, SPEC)
    assert (found.counts.sum(), found.num_null) == (2, 1)


@pytest.mark.parametrize("hash", ["xxhash64", "sha256"])
def test_scores_have_the_same_bits_in_any_batch(hash):
    rng = random.Random(5)
    words = ["alpha", "beta", "\u03a9mega", "12", "--", "x" * 40, "y" * 70, "\U0001f600"]
    rows = [" ".join(rng.choices(words, k=rng.randrange(100))) for _ in range(200)]
    spec = FeatureSpec(ngrams=3, num_buckets=997, hash=hash)
    table = np.random.default_rng(2).normal(size=(997, 1))
    whole = features.score(pa.array(rows), table, spec)[0][:, 0].tolist()
    assert whole == [oracle.log_weight(r, table[:, 0].tolist(), 3, hash) for r in rows]
    table.setflags(write=False)  # as what comes out of an Arrow batch
    for size in (1, 7, 100):
        parts = [pa.array(rows[i : i + size]) for i in range(0, len(rows), size)]
        assert [x for p in parts for x in features.score(p, table, spec)[0][:, 0]] == whole


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), texts), max_size=8), st.integers(1, 300))
@example(["a b c", "a", None, "a b"], 100)
def test_counts_are_the_same_in_blocks_of_any_size(rows, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "_BLOCK", size)
        spec = FeatureSpec(2, 10_000)
        found = features.count_ngrams(pa.array(rows, pa.string()), spec)
    known = [r for r in rows if r is not None]
    assert found.counts.tolist() == oracle.bucket_counts(known)
    num_tokens = sum(len(oracle.tokens(r)) for r in known)
    assert (found.num_tokens, found.num_documents) == (num_tokens, len(rows))


def test_unicode_tables_say_what_python_says():
    table, single = unicode_tables.table(), unicode_tables.cjk_table()
    for c in (*range(0x3100), 0x10400, 0x1D7D8, 0x1F600, 0xAC00):
        if c in (0x130, 0x3A3) or 0xD800 <= c < 0xE000:
            continue
        word, lower = int(table[c]), chr(c).lower()
        assert chr(word & unicode_tables.LOWER_MASK) == lower
        kinds = (unicode_tables.SPACE, unicode_tables.WORD, unicode_tables.OTHER)
        expected = next(k for k, p in zip(kinds, (r"\s", r"\w", "(?s:.)"), strict=True)
                        if re.match(p, lower))  # fmt: skip
        assert (word >> unicode_tables.CLASS_SHIFT) & 3 == expected, hex(c)
        if not re.match(f"[{oracle.CJK}]", lower):
            assert int(single[c]) == word
