"""Each check provoked and not; pictures, page and text of made-up facts; no Spark."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re

import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_features import HOSTILE

from dsir_spark import features
from dsir_spark.features import FeatureSpec, terms
from dsir_spark.report import candidates, checks, comparison, facts, page, text, texts
from dsir_spark.report.candidates import Sample, rank_correlation
from dsir_spark.report.facts import (
    Composition,
    FitFacts,
    FitTarget,
    SelectionFacts,
    Shortfall,
    TargetFacts,
    WeightFacts,
    WeightTarget,
    visible,
)
from dsir_spark.scoring.distributions import kl_reduction, raw_share


def fit(missed=0.0, kl=1.0, cjk=None, smoothed=False, tokenizer="wordpunct", wanted=1, there=100):
    own = FitTarget("t", missed, kl, cjk)
    return FitFacts((own,), smoothed, tokenizer, wanted, there, "documents")


def weighed(method="sample", copies=0, spread=1.0, correlation=0.0, in_raw=0, shares=(0.5, 0.5),
            unparsed=0, over=0):  # fmt: skip
    own = WeightTarget("t", spread, correlation, in_raw, 1)
    numbers = {"raw": 10, "raw_share": shares[1], "selected": 9, "selected_share": shares[0]}
    value = {"value": "w\u202eb", "candidates": 5, **numbers}
    composed = (Composition("source", (value,), 31),)
    return WeightFacts(method, 70, copies, over, 100, unparsed, (own,), composed, drawn())


def selected(method="sample", kl=0.2, random=0.1, size=50.0, short=0, candidates=10, median=100.0,
             names=("t",), length=100.0, unread=0.0):  # fmt: skip
    own = [
        TargetFacts(n, 100, 900, kl, random, None, 0.5, None, size - i, median, length)
        for i, n in enumerate(names)
    ]
    missing = Shortfall(short, "documents", 100)
    return SelectionFacts(method, missing, candidates, 10, 100.0, tuple(own), unread)


def drawn(n=4):
    numbers = np.arange(n)
    ranks = np.linspace(0, 1, n)[:, None]
    return Sample([f"d{i}" for i in numbers], numbers, None, ranks, ranks, n, 0.0)


@pytest.mark.parametrize(
    "name, shown, silent",
    [
        ("small_target", fit(missed=0.75), fit(missed=0.01)),
        ("small_target", fit(missed=0.75), fit(missed=0.75, smoothed=True)),
        ("nearly_the_same", fit(kl=0.0), fit(kl=0.01)),
        ("close_to_all", fit(wanted=60), fit(wanted=50)),
        ("close_to_all", fit(wanted=2, there=1), fit(wanted=1, there=0)),
        ("one_token_of_a_sentence", fit(cjk=0.9), fit(cjk=0.1)),
        ("one_token_of_a_sentence", fit(cjk=0.9), fit(cjk=0.9, tokenizer="wordpunct_cjk")),
        ("one_token_of_a_sentence", fit(cjk=0.9), fit(cjk=None)),
        ("top_k_in_disguise", weighed(spread=40.0), weighed("match", spread=40.0)),
        ("top_k_in_disguise", weighed(spread=40.0), weighed(spread=2.0)),
        ("follows_length", weighed(correlation=-0.8), weighed(correlation=0.3)),
        ("follows_length", weighed(correlation=0.8), weighed("match", correlation=-0.8)),
        ("dominates", weighed(shares=(0.95, 0.2)), weighed(shares=(0.95, 0.9))),
        ("copies", weighed(copies=4), weighed(copies=4, over=20)),
        ("unparsed", weighed(unparsed=2), weighed(unparsed=0)),
        ("contamination", weighed(in_raw=3), weighed(in_raw=0)),
        ("worse_than_random", selected(kl=-0.2, random=-0.1), selected(kl=0.2, random=-0.1)),
        ("worse_than_random", selected(kl=-0.2, random=-0.1), selected(kl=None)),
        ("few_effective", selected(size=2.0), selected(size=50.0)),
        ("few_effective", selected(size=2.0), selected("match", size=2.0)),
        ("short_first", selected(median=20.0), selected(median=60.0)),
        ("short_first", selected(median=20.0), selected(median=20.0, length=30.0)),
        ("not_utf8", selected(unread=0.02), selected(unread=0.01)),
        ("shortfall", selected(short=5), selected(short=1)),
        ("shortfall", selected(short=5, candidates=11), selected(short=-5)),
    ],
)
def test_each_check_is_provoked_and_not(name, shown, silent):
    (found,) = [c for c in checks.found(shown) if c.name == name]
    assert found.sentence.endswith(".") and found.remedy.endswith(".") and "{" not in found.remedy
    assert name not in [c.name for c in checks.found(silent)]


def test_each_rule_has_a_name_of_its_own():
    names = [rule.name for rules in checks.RULES.values() for rule in rules]
    assert len(set(names)) == len(names) == 23


def test_warnings_of_one_kind_are_one_entry_worst_first():
    found = checks.found(selected(size=3.0, names="abc"))
    (group,) = checks.grouped(found)
    assert group.worst.about == "c"
    assert str(group).startswith("The weights for target c")
    assert "top of the list. Likewise: b (0.02), a (0.03). Give temperature" in str(group)
    with pytest.warns(checks.CheckWarning) as told:
        checks.tell(found)
    assert len(told) == 1
    (worse,) = checks.found(selected(kl=-0.2, random=-0.1))  # of match, too
    assert "give method match" not in worse.remedy
    said = "have source 'w\ufffdb', 20% of raw.*quotas on source"
    with pytest.warns(checks.CheckWarning, match=said):
        checks.tell(checks.found(weighed(shares=(0.95, 0.2))))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-5, 5)), min_size=3, max_size=30))
def test_rank_correlation_is_pearson_of_mean_ranks(pairs):
    columns = [[float(p[i]) for p in pairs] for i in (0, 1)]
    ranks = [[sum(y < x for y in c) + (sum(y == x for y in c) - 1) / 2 for x in c] for c in columns]
    means = [sum(r) / len(r) for r in ranks]
    (a, b), n = ranks, range(len(pairs))
    cov = sum((a[i] - means[0]) * (b[i] - means[1]) for i in n)
    var = [sum((x - m) ** 2 for x in r) for r, m in zip(ranks, means, strict=True)]
    expected = cov / (var[0] * var[1]) ** 0.5 if all(var) else 0.0
    assert rank_correlation(*map(np.array, columns)) == pytest.approx(expected, abs=1e-9)


def bins(numbers, step=1.0, low=0.0):
    """Of all numbers, as Spark would count them."""
    at = np.floor((np.asarray(numbers) - low) / step).astype(np.int64)
    own, where, n = np.unique(at, return_inverse=True, return_counts=True)
    apart = np.exp(numbers - (low + (at + 0.5) * step))
    ends = [[f(np.asarray(numbers)[where == i]) for i in range(len(own))] for f in (min, max)]
    sums = [np.bincount(where, apart), np.bincount(where, apart * apart)]
    return candidates.Bins(own, n, *sums, *map(np.array, ends))


# Different ones: of equal numbers at an edge all would be rounded over it.
NUMBERS = st.floats(-900, 900, allow_subnormal=False)


@given(st.lists(NUMBERS, min_size=1, max_size=50, unique=True), st.floats(0.1, 500))
def test_bins_give_what_all_numbers_give(numbers, step):
    numbers = np.array(numbers)
    scales = (candidates.Scale(0.0, step),)
    found = candidates.Spectrum(None, None, scales, {(candidates.RANK, 0): bins(numbers, step)})
    weights = np.exp(numbers - numbers.max())
    expected = weights.sum() ** 2 / (weights * weights).sum()
    assert found.effective_sample_size(0) == pytest.approx(expected)
    edges, counts, chosen, total = found.histogram(0).values()
    assert sum(counts) == total == len(numbers) and not sum(chosen) and len(counts) <= 60
    counted = np.histogram(numbers, np.array(edges))[0]
    assert np.abs(counted - counts).sum() <= 2  # rounding at an edge
    for wanted in (1, len(numbers) // 2 + 1, 99):
        low, number = found.bins(candidates.RANK).above(wanted)
        assert number == (numbers >= low).sum() >= min(wanted, len(numbers))
    lengths = bins(np.floor(numbers) % 50)
    middle = np.sort(np.floor(numbers) % 50)[(len(numbers) - 1) // 2]
    assert lengths.median() == middle


def test_documents_on_the_driver_are_their_counts():
    rng = np.random.default_rng(1)
    table = rng.integers(0, 5, (6, 8))
    own = {f"d{i}": (np.flatnonzero(row), row[row > 0]) for i, row in enumerate(table)}
    found = texts.Documents(8, own, {})
    some = ["d4", "d0", "absent", "d5"]
    assert (found.total(some) == table[[4, 0, 5]].sum(axis=0)).all()
    assert (found.total([]) == 0).all()
    means, ngrams = found.means(some, np.arange(8.0))
    assert (ngrams == table[[4, 0, 5]].sum(axis=1)).all()
    assert means == pytest.approx(table[[4, 0, 5]] @ np.arange(8.0) / ngrams)
    target, raw = rng.integers(1, 9, 8), table.sum(axis=0)
    for size in (1, 2, 3):
        for chosen in [rng.choice(6, size, replace=False) for _ in range(20)]:
            counts = table[chosen].sum(axis=0)
            ngrams = int(counts.sum())
            limit = found.bound(target, raw, list(own), ngrams, raw_share(ngrams, 8))
            assert kl_reduction(target, raw, counts) <= limit + 1e-9


def test_a_random_selection_is_the_first_of_the_sample():
    whole = drawn(10)
    assert whole.random(4, None) == (4, True) and whole.random(40, None) == (10, False)
    sized = Sample(whole.ids, whole.num_tokens, np.full(10, 3), whole.ranks, whole.keys, 99, 0.9)
    assert sized.random(0, 10) == (3, True) and sized.random(0, 99) == (10, False)


def made_up(names=("target",), method="sample"):
    """Facts of everything, the page's included."""
    driver = {"bucket": 3, "log_ratio": 1.0, "p_target": 0.2, "p_raw": 0.1}
    driver["ngrams"] = [["<b>", 0.9]]
    shown = {
        "place": "top", "id": "<i>", "key": 2.0, "log_weight": 1.5, "num_tokens": 12,
        "pieces": [["oven", 0.5], [" ", 0.0]], "largest": 0.5, "more": True,
    }  # fmt: skip
    histogram = {"edges": [0.0, 1.0, 2.0], "candidates": [5, 3], "selected": [0, 2], "total": 8}
    detail = {
        "weights": {**histogram, "label": "log weight (nats)", "cut": 1.0},
        "lengths": {"label": "log weight (nats)", "points": [[10, 0.5, False], [20, 1.5, True]]},
        "curve": [{"documents": 50 * k, "kl_reduction": 0.1 * k} for k in (1, 2)],
        "sampled": 600, "up": [driver], "down": [], "examples": [shown],
    }  # fmt: skip
    chosen = selected(method, size=2.0, names=names)
    targets = [
        TargetFacts(**{**vars(t), "detail": detail, "bound": 0.5 + i, "bound_documents": 7})
        for i, t in enumerate(chosen.targets)
    ]
    chosen = SelectionFacts(**{**vars(chosen), "targets": tuple(targets)})
    own = weighed()
    own = WeightFacts(**{**vars(own), "targets": tuple(
        WeightTarget(n, 1.0, 0.1) for n in names)})  # fmt: skip
    run = facts.Run(
        "r1",
        "run",
        "2026-01-02 03:04",
        method,
        1,
        "m1",
        "0",
        5,
        {"t": {"kl_reduction": [0.1], "kl_bound": [0.2]}} if method == "match" else {},
    )
    funnel = dict.fromkeys(facts.LABELS, 0) | {"read": 12, "too_short": 2, "candidates": 10}
    return facts.Facts(run, funnel, fit(), own, chosen, checks.found(chosen))


@pytest.mark.parametrize("number", [2, 0])
def test_steps_are_told_of_what_was_selected(number):
    found = made_up(method="match")
    chosen = dataclasses.replace(found.selection, selected=number)
    said = text.full(dataclasses.replace(found, selection=chosen))
    assert ("Steps of the matched selection" in said) == (number > 0)


@pytest.mark.parametrize("names", [("target",), ("a", "b"), tuple("abcdef")])
def test_the_page_opens_with_its_picture_and_verdict_before_grouped_warnings(names):
    found = made_up(names).to_dict()
    assert json.loads(json.dumps(found)) == found
    shown = page.render(found)
    assert shown == page.render(found)
    opening = ['role="img"', "this selection +0.200", 'class="verdict']
    if len(names) > 3:  # of how many that is true is said first
        opening = [opening[2], *opening[:2]]
    order = ["What was selected", "<nav", *opening, 'class="warnings"', ">Funnel</h2>",
             'id="column-1"', "What drives it", "Examples"]  # fmt: skip
    at = [shown.index(part) for part in order]
    assert at == sorted(at)
    # Whoever sees no pictures reads them; contents lead there; in the dark all colours change.
    pictures = re.findall(r'<svg [^>]*role="img" aria-label="([^"]+)"', shown)
    assert len(pictures) == shown.count("<svg") == 1 + 3 * len(names)
    assert shown.count('style="width:50.00%"') == 2 and "and 17 further values" in shown
    for said in ("candidates: 8, half of them below 1; selected: 2, half of them below 2; cut",
                 "1 selected: 20 to 20 tokens, 1.5 to 1.5", "100 documents +0.200; this selection"):
        assert [p for p in pictures if said in p]
    wanted = re.findall('<a href="#([^"]+)"', shown)
    assert len(wanted) >= 3 and all(shown.count(f' id="{one}"') == 1 for one in wanted)
    levels = [int(n) for n in re.findall("<h([1-6])", shown)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert not re.findall("#[0-9a-f]{6}|rgba", shown.split("</style>")[1])
    assert shown.count("few_effective") == 1 and shown.count("Give temperature auto") == 1
    assert "<b></code>" not in shown and "&lt;b&gt;" in shown and "<code>&lt;i&gt;" in shown
    if len(names) > 3:
        assert shown.count("<details") == len(names)
        at = [shown.index(f'href="#target-{name}"') for name in "fa"]
        assert at == sorted(at)  # the least share of its bound first


@pytest.mark.parametrize(
    "name, values, many, said, drawn",
    [
        ("", (-0.1, 0.3, 0.4), False, "random −0.100, this selection +0.300, bound +0.400",
         [("random", 36, 8.8), ("own", 44.8, 26.4), ("bound", 44.8, 35.2)]),
        ("t", (0.2, 0.1, None), False, "t: random +0.200, this selection +0.100",
         [("random", 36, 44), ("worse", 36, 22)]),
        ("t", (0.2, 0.1, 0.4), True, "t: random +0.200, this selection +0.100, bound +0.400",
         [("bound", 36, 44), ("worse", 36, 11)]),
        ("t", (None, None, None), True, "t: ", []),
        ("t", (0.0, 0.0, 0.0), True, "t: random +0.000, this selection +0.000, bound +0.000",
         [("bound", 36, 0), ("worse", 36, 0)]),
    ],
)  # fmt: skip
def test_what_is_compared_stands_on_one_scale(name, values, many, said, drawn):
    worse = values[1] is not None and values[1] <= values[0]
    own = comparison.Compared(name, *values, worse=worse)
    found = comparison.picture([own], page._signed, many)
    assert found["said"] == said
    bars = [(b["kind"], b["x"], b["width"]) for row in found["rows"] for b in row["bars"]]
    assert [kind for kind, *_ in bars] == [kind for kind, *_ in drawn]
    assert np.allclose([b[1:] for b in bars], [d[1:] for d in drawn])


def test_the_picture_of_many_targets_has_a_row_each():
    names = [f"a_target_of_a_long_name_{i}" for i in range(70)]
    facts = made_up(names).to_dict() | {"targets": []}
    shown = page.render(facts)
    assert shown.count('class="own"') == comparison.SHOWN == 60 and "60 of 70" in shown
    assert f"height:{60 * 22}px" in shown and "a_targe…name_69" in shown
    assert "70 of 70 selections are nearer" in shown


def test_the_text_of_a_terminal():
    said = text.full(made_up(("a", "b"), "match"))
    for line in (
        "Run r1 (run, 2026-01-02 03:04 UTC)", "- under 5 tokens                         2",
        "candidates                              10", "a: +0.1000 (50%)"[3:],
        "~: an estimate from 7 candidates", "Composition by source (documents)", "w\ufffdb",
        "Examples for a", "<i>  key 2.00  log weight 1.50  12 tokens",
    ):  # fmt: skip
        assert line in said
    assert "quality" not in said
    told = text.summary(made_up(("a", "b")))
    assert "Likewise: a" in told and "Examples" not in told


TEXTS = st.text(st.one_of(st.sampled_from(HOSTILE + "ab c"), st.characters(codec="utf-8")))


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 4), st.sampled_from(["wordpunct", "wordpunct_cjk", "bytes"]))
@example("\u0130\u03a3 \u6f22\u5b57, \u0e01\u0e49.", 2, "wordpunct_cjk")
def test_terms_add_up_to_the_weight(text, ngrams, tokenizer):
    spec = FeatureSpec(ngrams, 97, tokenizer)
    ratio = np.random.default_rng(1).normal(size=97)
    found = terms.terms(text, ratio, spec)
    total, number = features.score(pa.array([text]), ratio[:, None], spec)
    assert terms.log_weight(found) == total[0, 0]
    if tokenizer != "bytes":
        words = oracle.tokens(text, tokenizer)
        assert [t.ngram for t in found] == oracle.ngrams(words, ngrams)
        assert [t.bucket for t in found] == [oracle.bucket(t.ngram, 97) for t in found]
    parts = terms.token_parts(found, int(number[0]))
    assert parts.sum() == pytest.approx(total[0, 0], abs=1e-9)
    rows = terms.by_ngram(found)
    assert sum(n for _, n, _ in rows) == len(found)
    assert sum(part for _, _, part in rows) == pytest.approx(total[0, 0], abs=1e-9)


def test_who_shares_a_bucket():
    spec = FeatureSpec(1, 3)
    words = ["a", "b", "c", "d", "e", "f"]
    sharers = terms.Sharers(["a b c d e f a"], spec, range(3))
    for bucket in range(3):
        own = {w: 2 if w == "a" else 1 for w in words if oracle.bucket(w, 3) == bucket}
        expected = {w: n / sum(own.values()) for w, n in own.items()}
        assert dict(sharers.of(bucket, 9)) == pytest.approx(expected)
    assert terms.Sharers([], spec, [1]).of(1) == []


def test_what_is_shown_of_hostile_text():
    assert visible("a\u202eb\x07c\u200d\n d") == "a\ufffdb\ufffdc\ufffd d"
    assert visible("\ufffe\ue000\ud800\u2028\u00a0x") == "\ufffd\ufffd\ufffd x"
