"""Each check provoked, and not provoked; the weight split over n-grams; no Spark."""

from __future__ import annotations

import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_features import HOSTILE

from dsir_spark import checks, explain, features
from dsir_spark.config import FeatureSpec

FEW, MANY = np.array([5, 0, 0, 0]), np.array([5, 4, 3, 2])
RAW = np.array([10, 10, 10, 10])


@pytest.mark.parametrize(
    "name, shown, silent",
    [
        ("small_target", ("t", FEW, RAW, False), ("t", MANY, RAW, False)),
        ("small_target", ("t", FEW, RAW, False), ("t", FEW, RAW, True)),
        ("nearly_the_same", ("t", RAW, RAW), ("t", FEW, RAW)),
        ("close_to_all", (60, 100, "documents"), (50, 100, "documents")),
        ("close_to_all", (1, 1, "tokens"), (1, 0, "tokens")),
        ("one_token_of_a_sentence", ("t", 0.9, "wordpunct"), ("t", 0.1, "wordpunct")),
        ("one_token_of_a_sentence", ("t", 0.9, "wordpunct"), ("t", 0.9, "wordpunct_cjk")),
        ("top_k_in_disguise", ("t", 40.0, "sample"), ("t", 40.0, "match")),
        ("top_k_in_disguise", ("t", 40.0, "sample"), ("t", 2.0, "sample")),
        ("follows_length", ("t", -0.8), ("t", 0.3)),
        ("dominates", ("source", "web", 0.95, 0.2), ("source", "web", 0.95, 0.9)),
        ("copies", (30, 70, False), (1, 99, False)),
        ("contamination", ("t", 3, 2), ("t", 0, 0)),
        ("worse_than_random", ("t", -0.2, -0.1), ("t", 0.2, -0.1)),
        ("worse_than_random", ("t", -0.2, -0.1), ("t", None, -0.1)),
        ("few_effective", ("t", 2.0, 100, "sample"), ("t", 50.0, 100, "sample")),
        ("few_effective", ("t", 2.0, 100, "sample"), ("t", 2.0, 100, "match")),
        ("shortfall", (5, "documents", 10, 10), (5, "tokens", 10, 9)),
    ],
)
def test_each_check_is_provoked_and_not(name, shown, silent):
    found = getattr(checks, name)(*shown)
    assert found.name == name and found.sentence.endswith(".") and found.remedy.endswith(".")
    assert getattr(checks, name)(*silent) is None


def test_the_mass_that_a_small_target_misses():
    assert checks.small_target("t", FEW, RAW, False).found == pytest.approx(0.75)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-5, 5)), min_size=3, max_size=30))
def test_rank_correlation_is_pearson_of_mean_ranks(pairs):
    columns = [[float(p[i]) for p in pairs] for i in (0, 1)]
    ranks = [[sum(y < x for y in c) + (sum(y == x for y in c) - 1) / 2 for x in c] for c in columns]
    means = [sum(r) / len(r) for r in ranks]
    (a, b), n = ranks, range(len(pairs))
    cov = sum((a[i] - means[0]) * (b[i] - means[1]) for i in n)
    var = [sum((x - m) ** 2 for x in r) for r, m in zip(ranks, means, strict=True)]
    expected = cov / (var[0] * var[1]) ** 0.5 if all(var) else 0.0
    found = checks.rank_correlation(*map(np.array, columns))
    assert found == pytest.approx(expected, abs=1e-9)


texts = st.text(st.one_of(st.sampled_from(HOSTILE + "ab c"), st.characters(codec="utf-8")))


@settings(max_examples=200, deadline=None)
@given(texts, st.integers(1, 4), st.sampled_from(["wordpunct", "wordpunct_cjk", "bytes"]))
@example("\u0130\u03a3 \u6f22\u5b57, \u0e01\u0e49.", 2, "wordpunct_cjk")
def test_terms_add_up_to_the_weight(text, ngrams, tokenizer):
    spec = FeatureSpec(ngrams, 97, tokenizer)
    ratio = np.random.default_rng(1).normal(size=97)
    found = explain.terms(text, ratio, spec)
    total, number = features.score(pa.array([text]), ratio[:, None], spec)
    assert explain.log_weight(found) == total[0, 0]
    if tokenizer != "bytes":
        words = oracle.tokens(text, tokenizer)
        assert [t.ngram for t in found] == oracle.ngrams(words, ngrams)
        assert [t.bucket for t in found] == [oracle.bucket(t.ngram, 97) for t in found]
    parts = explain.token_parts(found, int(number[0]))
    assert parts.sum() == pytest.approx(total[0, 0], abs=1e-9)
    rows = explain.by_ngram(found)
    assert sum(n for _, n, _ in rows) == len(found)
    assert sum(part for _, _, part in rows) == pytest.approx(total[0, 0], abs=1e-9)


def test_who_shares_a_bucket():
    spec = FeatureSpec(1, 3)
    words = ["a", "b", "c", "d", "e", "f"]
    sharers = explain.Sharers(["a b c d e f a"], spec, range(3))
    for bucket in range(3):
        own = {w: 2 if w == "a" else 1 for w in words if oracle.bucket(w, 3) == bucket}
        found = sharers.of(bucket, 9)
        expected = {w: n / sum(own.values()) for w, n in own.items()}
        assert dict(found) == pytest.approx(expected)
    assert explain.Sharers([], spec, [1]).of(1) == []


def test_what_is_shown_of_hostile_text():
    assert checks.visible("a\u202eb\x07c\u200d\n d") == "a\ufffdb\ufffdc\ufffd d"
    assert checks.visible("\ufffe\ue000\ud800\u2028\u00a0x") == "\ufffd\ufffd\ufffd x"
