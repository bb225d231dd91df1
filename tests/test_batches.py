"""What runs on executors, on batches made by hand, against the oracle."""

from __future__ import annotations

import unicodedata
from collections import Counter

import numpy as np
import oracle
import pyarrow as pa
import pytest

from dsir_spark import features
from dsir_spark.features import FeatureSpec, batches

ROWS = ["To be, or not to be.", None, "", "a", "to be be be", "x " * 50, "not " * 9 + "\u03a3"]
SPEC = FeatureSpec(2, 97)
HERE = unicodedata.unidata_version
BATCHES = [pa.record_batch([pa.array(ROWS[i : i + 3], pa.string())], ["text"]) for i in (0, 3, 6)]
TABLES = np.random.default_rng(6).random((97, 4))


def sums(text):
    return np.array([oracle.log_weight(text or "", t.tolist()) for t in TABLES.T])


def mean(text):
    return sums(text) / max(1, len(oracle.buckets(text or "")))


def rows_of(found):
    return pa.Table.from_batches(found).to_pylist()


def test_outputs_of_a_scoring():
    outputs = (batches.Output("steps", 1, (0.5, 0.45)), batches.Output("sum", 0),
               batches.Output("mean", 3))  # fmt: skip
    scoring = batches.Scoring(TABLES, outputs)
    [found] = batches.score_rows(
        [pa.record_batch([pa.array(range(len(ROWS))), pa.array(ROWS)], ["c0", "c1"])],
        ["id"], scoring=scoring, spec=SPEC, unicode_version=HERE, text_hash=True, quality=True,
    )  # fmt: skip
    names = ["s0", "s1", "s2", "n", "h0", "h1", *features.QUALITY]
    assert batches.score_fields(3, True, True) == names
    for text, row in zip(ROWS, found.to_pylist(), strict=True):
        got = row[batches.STRUCT]
        if text is None:
            assert got is None or set(got.values()) == {None}
            continue
        means = mean(text)
        assert list(got) == names
        steps = float((means[1] >= 0.5) + 2 * (means[2] >= 0.45))
        assert [got[n] for n in names[:4]] == [steps, sums(text)[0], means[3],
                                              len(oracle.tokens(text))]  # fmt: skip
        assert [got["h0"], got["h1"]] == oracle.text_hash(text)
        words = set(features.quality.STOP_WORDS.split())
        assert tuple(got[n] for n in features.QUALITY) == oracle.quality_facts(text, words)


def test_counts_by_name():
    names = ["a", "b", "a", "b", "a", "a", "b"]
    given = [pa.record_batch([pa.array(names[i : i + 3]), batch.column(0)], ["name", "text"])
             for i, batch in zip((0, 3, 6), BATCHES, strict=True)]  # fmt: skip
    expected: Counter[tuple[str, int]] = Counter()
    for name, text in zip(names, ROWS, strict=True):
        words = oracle.tokens(text or "")
        expected.update([(name, batches.DOCUMENTS)])
        expected.update([(name, batches.NULL)] * (text is None))
        expected.update([(name, batches.BLANK)] * (text is not None and not words))
        expected.update([(name, batches.TOKENS)] * len(words))
        expected.update((name, b) for b in oracle.buckets(text or "", 2, 97))
    found = rows_of(batches.count(given, SPEC))
    assert {(r["name"], r["key"]): r["count"] for r in found} == expected


@pytest.mark.parametrize("min_tokens", [0, 4])
def test_histograms_and_the_counts_above_a_threshold(min_tokens):
    kept = [t for t in ROWS if len(oracle.tokens(t or "")) >= max(1, min_tokens)]
    expected: Counter[int] = Counter()
    for text in kept:
        for k, score in enumerate(mean(text)):
            expected[k, int(batches.bins(np.array([score]))[0])] += 1
    found = rows_of(batches.histograms(BATCHES, TABLES, SPEC, min_tokens))
    documents: Counter[int] = Counter()
    for row in found:
        documents[row["table"], row["bin"]] += row["documents"]
        assert row["low"] <= row["high"]
    assert documents == expected
    assert sum(r["ngrams"] for r in found) == 4 * sum(len(oracle.buckets(t)) for t in kept)
    thresholds = np.sort([mean(t) for t in kept], axis=0)[1]
    above: Counter[tuple[int, int]] = Counter()
    for text in kept:
        for k in np.flatnonzero(mean(text) >= thresholds):
            above.update((int(k), b) for b in oracle.buckets(text, 2, 97))
    found = rows_of(batches.counts_above(BATCHES, TABLES, thresholds, SPEC, min_tokens))
    assert {(r["table"], r["bucket"]): r["count"] for r in found} == above


def test_terms_of_texts_that_are_no_utf8():
    given = pa.record_batch([pa.array(["i", "j"]), pa.array([b"a\xe2\x82", None])], ["id", "text"])
    found = rows_of(batches.terms([given], {"r": TABLES[:, 0].copy()}, SPEC))
    assert [r["ngram"] for r in found] == oracle.ngrams(oracle.tokens("a\ufffd\ufffd"), 2)
    assert all(r["r"] == TABLES[r["bucket"], 0] for r in found)


def test_another_unicode_is_warned_of():
    batches.warn_of_other_unicode(HERE)
    with pytest.warns(UserWarning, match="fitted with Unicode 1.0"):
        batches.warn_of_other_unicode("1.0")
