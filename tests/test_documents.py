"""What is known of a document beside its weight (hash, quality, chunks), against the oracle."""

from __future__ import annotations

import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_features import HOSTILE

from dsir_spark import features
from dsir_spark.features import terms
from dsir_spark.features.quality import STOP_WORDS
from dsir_spark.features.tokenizers import TokenizerError

texts = st.text(st.one_of(st.sampled_from(HOSTILE + "aB  \n\t1"), st.characters(codec="utf-8")))
lists = st.lists(st.one_of(st.none(), texts), max_size=5)
STOPS = set(STOP_WORDS.split())


@settings(max_examples=400, deadline=None)
@given(lists)
@example(["A  b", " a b\n", "a,b", "a, b", "", " \u3000", None])
@example(["x" * 63 + "  " + "y" * 64 + " ", ("word  " * 30).upper(), "\u0130\u03a3 \u03a3"])
@example(["a\x1cb\x85c", "\u023a" * 100, " " * 200 + "a"])
def test_hashes_of_folded_texts(rows):
    found = features.text_hashes(pa.array(rows, pa.string()))
    assert found.tolist() == [oracle.text_hash(t or "") for t in rows]


@pytest.mark.parametrize("unit", ["word ", "W\u00d6RT \n", "\u6f22", "a" * 70, " ", "ab  c"])
def test_hashes_of_long_texts(unit):
    text = unit * 10_000
    rows = pa.array(["before", text, None, text.lower()], pa.large_string())
    found = features.text_hashes(rows.slice(1)).tolist()
    assert found[0] == found[2] == oracle.text_hash(text)


@settings(max_examples=300, deadline=None)
@given(lists)
@example(["the cat, the dog... 12 12a \u0661 \u2014 the", "don't", None, ""])
def test_quality_facts(rows):
    facts = features.quality_facts(pa.array(rows, pa.string()))
    found = zip(*(getattr(facts, name).tolist() for name in features.QUALITY), strict=True)
    assert list(found) == [oracle.quality_facts(t or "", STOPS) for t in rows]


def test_quality_facts_of_long_texts():
    text = "the cat sat on 12 mats , " * 20_000 + "odd" * 30_000
    facts = features.quality_facts(pa.array(["a", text, "b b"]))
    assert facts.most_frequent.tolist() == [1, 20_000, 2]
    assert facts.informative.tolist() == [0, 20_000 * 4 + 1, 2]
    assert facts.digits.tolist() == [0, 20_000, 0]


@settings(max_examples=300, deadline=None)
@given(lists, st.integers(1, 4))
@example([" a  b c ", None, "", " ", "\u0130x \u6f22\u5b57 a\nb"], 2)
def test_chunks_hold_so_many_tokens(rows, size):
    array = pa.concat_arrays([pa.array(["x \u00e9 y"]), pa.array(rows, pa.string())]).slice(1)
    for tokenizer in ("wordpunct", "wordpunct_cjk"):
        found = (part.to_pylist() for part in features.chunks(array, size, tokenizer))
        for text, starts, ends, chunks in zip(rows, *found, strict=True):
            if text is None:
                assert chunks is starts is ends is None
                continue
            assert chunks == [text[a:b] for a, b in zip(starts, ends, strict=True)]
            if "\u0130" not in text:
                spans = oracle.chunks(text, size, terms.pattern(tokenizer))
                assert list(zip(starts, ends, strict=True)) == spans


@pytest.mark.parametrize(
    ("tokenizer", "text", "size", "expected"),
    [
        ("wordpunct", "\u0130\u0130 a", 2, ["\u0130", "\u0130", "a"]),  # lower case is two tokens
        ("bytes", "a\u00e9b cd", 2, ["a\u00e9", "b ", "cd"]),  # no character is cut
        ("re:split", "a", 1, None),
        ("test_documents:letters", "ab cd\u6f22 e", 3, ["ab", "cd\u6f22", "e"]),  # nor a word
        ("test_documents:letters", " \n ", 3, [" \n "]),
        ("test_documents:letters", "abcd \u00e9\u00e9 x", 3, ["abcd", "\u00e9\u00e9 x"]),
    ],
)
def test_chunks_of_other_tokenizers(tokenizer, text, size, expected):
    if expected is None:
        with pytest.raises(TokenizerError, match="fails on"):
            features.chunks(pa.array([text]), size, tokenizer)
        return
    found = features.chunks(pa.array([text]), size, tokenizer)
    starts, ends, chunks = (part.to_pylist()[0] for part in found)
    assert chunks == expected == [text[a:b] for a, b in zip(starts, ends, strict=True)]


def letters(text):
    return list(text)


def test_no_texts():
    none = pa.array([], pa.string())
    assert features.text_hashes(none).shape == (0, 2)
    assert len(features.quality_facts(none).digits) == 0
    assert [len(x) for x in features.chunks(none, 3, "wordpunct")] == [0, 0, 0]
    assert np.array_equal(features.quality_facts(pa.array([None], pa.string())).digits, [0])
