"""The report of `select` from made-up facts: checks provoked and not, page and text; no Spark."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from dsir_spark.report import checks, page, text
from dsir_spark.report.facts import Composition, Shortfall
from dsir_spark.report.score_facts import OfScore, ScoreFacts, ScoreRun

HOSTILE = "<script>alert(1)</script>\u202e&"


def made(method="top_k", tied=10, tied_selected=10, spread=1.0, low=0.0, high=5.0, unscored=0,
         shares=(0.5, 0.5), short=0, candidates=100, selected=20, documents=20,
         size=None, mean=2.5, amount=None):  # fmt: skip
    histogram = {"edges": [0.0, 1.0, 2.0], "candidates": [60, 40], "selected": [0, 20],
                 "cut": 1.0, "label": "score", "cut_label": "worst selected"}  # fmt: skip
    example = {"place": "best", "id": HOSTILE, "score": "5", "text": HOSTILE, "more": True}
    own_mean = 3.0 if documents else None
    one = OfScore("score", HOSTILE, documents, size, candidates, low, high, 1.0, high, mean,
                  own_mean, amount, tied, tied_selected, spread, histogram, (example,))  # fmt: skip
    value = {"value": HOSTILE, "candidates": 5, "raw": 10, "raw_share": shares[1], "selected": 9,
             "selected_share": shares[0]}  # fmt: skip
    run = ScoreRun("r", "select", "2026-01-01 00:00", "0", method, 3, True, "rank", "topic")
    funnel = {"read": 100, "without_score": unscored, "candidates": candidates,
              "selected": selected}  # fmt: skip
    own = (Composition("source", (value,), 1),)
    missing = Shortfall(short, "tokens" if size else "documents", 100)
    facts = ScoreFacts(run, funnel, (one,), own, missing)
    return dataclasses.replace(facts, warnings=checks.found(facts))


@pytest.mark.parametrize(
    "name, provoked, quiet",
    [
        ("unscored", {"unscored": 6}, {"unscored": 5}),
        ("ties", {"tied": 90, "tied_selected": 10}, {"tied": 10, "tied_selected": 10}),
        ("scores_spread", {"method": "sample", "spread": 7.0}, {"spread": 7.0}),
        ("no_weight", {"method": "sample", "spread": 0.01},
         {"method": "sample", "spread": 0.0, "low": 5.0}),
        ("group_dominates", {"shares": (0.95, 0.4)}, {"shares": (0.95, 0.5)}),
        ("too_few", {"short": 5, "selected": 100}, {"short": 1}),
        ("too_few", {"short": 5}, {"short": 0}),
    ],
)  # fmt: skip
def test_each_check_is_provoked_and_not(name, provoked, quiet):
    assert [w.name for w in made(**provoked).warnings] == [name]
    assert made(**quiet).warnings == ()
    shown = text.full(made(**provoked))
    assert "Note: " in shown and "{" not in shown


@pytest.mark.parametrize("facts", [
    made(), made(low=-math.inf, high=math.inf, mean=None, size=500),
    made(short=1, amount=35), made(low=None, high=None, documents=0, mean=None),
])  # fmt: skip
def test_page_and_json_show_anything_and_run_nothing(facts):
    drawn = page.render(facts.to_dict())
    assert drawn == page.render(json.loads(facts.to_json()))
    assert "<script" not in drawn and "\u202e" not in drawn and "&lt;script&gt;" in drawn
    json.loads(facts.to_json(), parse_constant=pytest.fail)
    compared = 'aria-label="Mean score: random 2.5, this selection 3"' in drawn
    assert compared == (facts.scores[0].mean is not None) == ("less is better" in drawn)
    shown = text.full(facts)
    for said in (drawn, shown):
        assert ("repetitions among them" in said) == (facts.scores[0].amount is not None)
        assert ("1 documents short of the budget" in said) == (facts.shortfall.number == 1)
    assert "lower is better, scores normalised by rank within topic" in shown
    assert "\u202e" not in shown and "Seed 3" in shown
