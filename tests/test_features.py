"""Kernels over Arrow buffers against the oracle, on hostile text."""

from __future__ import annotations

import random
import re
import sys

import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsir_spark import features, unicode_tables
from dsir_spark.config import FeatureSpec

# Letters that break tokenisers: final sigma and what it skips, the dotted I, combining marks,
# letters beyond 16 bits, digits of other scripts, blanks that are no ASCII, NUL, the joiner.
HOSTILE = "aB1_ .,'\u0000\t\n\x1c\x85\u00a0\u2003\u3000\u03a3\u03c3\u0130\u0307\u0301\u00ad\u2019:"
HOSTILE += "\u1e9e\ufb01\u0660\u0e33\u4e2d\uac00\U0001d7d8\U00010400\U0001f600\u200d\ufffd\u2160"
texts = st.text(alphabet=st.one_of(st.sampled_from(HOSTILE), st.characters(codec="utf-8")))
specs = st.builds(
    FeatureSpec,
    ngrams=st.integers(1, 7),
    num_buckets=st.sampled_from([1, 2, 7, 1000, 10_000, 65_536, 1 << 24]),
    tokenizer=st.just("wordpunct"),
    hash=st.sampled_from(["xxhash64", "sha256"]),
)
SPEC = FeatureSpec(num_buckets=1 << 24)


def found_buckets(text, spec):
    """Buckets with their counts, as the sparse vector tells them."""
    indices, counts = features.sparse_counts(pa.array([text]), spec)
    return dict(zip(indices[0].as_py(), counts[0].as_py(), strict=True))


def expected_buckets(text, spec):
    out: dict[int, int] = {}
    for b in oracle.buckets(text, spec.ngrams, spec.num_buckets, spec.hash):
        out[b] = out.get(b, 0) + 1
    return out


@settings(max_examples=400, deadline=None)
@given(text=texts, spec=specs)
@example(text="\u0391\u03a3 \u03a3 \u0391\u03a3\u0301 a\u03a3b a\u03a3\u00ad\u03a3", spec=SPEC)
@example(text="\u0130stanbul I\u0307 \u0130\u0130", spec=SPEC)
@example(text="", spec=SPEC)
def test_buckets_of_any_text(text, spec):
    assert found_buckets(text, spec) == expected_buckets(text, spec)


def test_every_code_point_between_letters_and_alone():
    """In one document each 4,096 code points, so that every class and case is met."""
    points = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    rows = []
    for at in range(0, len(points), 4096):
        rows.append(" ".join(f"{chr(c)} A{chr(c)}\u03a3" for c in points[at : at + 4096]))
    spec = FeatureSpec(ngrams=1, num_buckets=1 << 24)
    indices, counts = features.sparse_counts(pa.array(rows), spec)
    for row, text in enumerate(rows):
        grams = oracle.tokens(text)
        assert sum(counts[row].as_py()) == len(grams)
    # Hashing a million n-grams in plain Python takes long: a tenth of the rows in full.
    for row in range(0, len(rows), 10):
        got = dict(zip(indices[row].as_py(), counts[row].as_py(), strict=True))
        assert got == expected_buckets(rows[row], spec)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
@example(b"\xed\xa0\x80 \xf4\x90\x80\x80 \xc0\xaf \xe2\x82 a\xff\xce\xa3")
def test_bytes_that_are_no_utf8_read_as_replacement_characters(data):
    """One U+FFFD for each byte that is not part of a valid sequence."""
    text = data.decode("utf-8", errors="surrogateescape")
    text = re.sub("[\udc80-\udcff]", "\ufffd", text)
    indices, counts = features.sparse_counts(pa.array([data], pa.binary()), SPEC)
    got = dict(zip(indices[0].as_py(), counts[0].as_py(), strict=True))
    assert got == expected_buckets(text, SPEC)


def test_arrow_refuses_lone_surrogates():
    with pytest.raises((UnicodeEncodeError, pa.ArrowInvalid)):
        pa.array(["\ud800"])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_slices_nulls_and_types_of_arrays(kind):
    rows = ["one two", None, "", "  ", "three, three", None, "caf\u00e9 \u0130"]
    whole = pa.array([None if r is None else r.encode() for r in rows], pa.binary()).cast(kind)
    if not pa.types.is_large_binary(kind) and not pa.types.is_binary(kind):
        whole = pa.array(rows, kind)
    tables = np.random.default_rng(1).normal(size=(97, 3))
    spec = FeatureSpec(num_buckets=97)
    for start in range(len(rows) + 1):
        for stop in range(start, len(rows) + 1):
            part = whole.slice(start, stop - start)
            present = [r for r in rows[start:stop] if r is not None]
            found = features.count_ngrams(part, spec)
            assert found.counts.tolist() == oracle.bucket_counts(present, 2, 97)
            assert found.num_documents == stop - start
            assert found.num_null == stop - start - len(present)
            assert found.num_blank == sum(not oracle.tokens(r) for r in present)
            totals, tokens = features.score(part, tables, spec)
            for i, row in enumerate(rows[start:stop]):
                words = oracle.tokens(row or "")
                assert tokens[i] == len(words)
                for t in range(3):
                    expected = oracle.log_weight(row or "", tables[:, t].tolist()) if row else 0.0
                    assert totals[i, t] == expected


def test_null_slots_that_hold_bytes_are_not_read():
    validity = pa.py_buffer(bytes([0b101]))
    offsets = pa.py_buffer(np.array([0, 2, 5, 7], np.int32).tobytes())
    array = pa.Array.from_buffers(
        pa.string(), 3, [validity, offsets, pa.py_buffer(b"abXYZcd")], null_count=1
    )
    found = features.count_ngrams(array, SPEC)
    assert found.counts.sum() == 2
    assert found.num_null == 1


@pytest.mark.parametrize("hash", ["xxhash64", "sha256"])
def test_scores_have_the_same_bits_in_any_batch(hash):
    rng = random.Random(5)
    words = ["alpha", "beta", "\u03a9mega", "12", "--", "x" * 40, "\U0001f600"]
    rows = [" ".join(rng.choices(words, k=rng.randrange(200))) for _ in range(300)]
    spec = FeatureSpec(ngrams=3, num_buckets=997, hash=hash)
    table = np.random.default_rng(2).normal(size=(997, 1))
    whole = features.score(pa.array(rows), table, spec)[0][:, 0].tolist()
    assert whole == [oracle.log_weight(r, table[:, 0].tolist(), 3, hash) for r in rows]
    for size in (1, 7, 100):
        parts = [pa.array(rows[i : i + size]) for i in range(0, len(rows), size)]
        assert [x for p in parts for x in features.score(p, table, spec)[0][:, 0]] == whole


@pytest.mark.parametrize("ngrams", [1, 2, 5])
@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        "ab " * 30_000,
        "\u00e9" * 16_384 + " b",
        "!" * 16_383 + "a",
        "a" * 16_383 + "\u03a3 b",
        ("word " * 3 + "\n") * 9_000,
        "\u03a3" * 20_000,
    ],
    ids=["token", "words", "two-byte", "border", "sigma", "lines", "sigmas"],
)
def test_long_documents_pass_the_borders_of_blocks(text, ngrams):
    spec = FeatureSpec(ngrams=ngrams, num_buckets=1 << 20)
    assert found_buckets(text, spec) == expected_buckets(text, spec)


def test_min_tokens_leaves_short_documents_out_of_counts():
    rows = pa.array(["a b c", "a", None, "a b"])
    found = features.count_ngrams(rows, SPEC, min_tokens=2)
    assert (found.counts.sum(), found.num_tokens, found.num_documents) == (8, 5, 4)


def test_unicode_tables_say_what_python_says():
    table = unicode_tables.table()
    for c in (*range(0x3000), 0x10400, 0x1D7D8, 0x1F600, 0xAC00):
        if c in (0x130, 0x3A3) or 0xD800 <= c < 0xE000:
            continue
        word = int(table[c])
        assert chr(word & unicode_tables.LOWER_MASK) == chr(c).lower()
        kind = (word >> unicode_tables.CLASS_SHIFT) & 3
        lower = chr(c).lower()
        expected = (
            unicode_tables.SPACE if re.match(r"\s", lower)
            else unicode_tables.WORD if re.match(r"\w", lower) else unicode_tables.OTHER
        )  # fmt: skip
        assert kind == expected, hex(c)
