"""The facts of a run as they were kept: what is shown where its inputs cannot be read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

from dsir_spark.report import facts
from dsir_spark.report.facts import Check, Facts, TargetFacts
from dsir_spark.report.score_facts import OfScore, ScoreFacts, score_run_of

_NAME = "as_stored"  # of the check that says so
_OF_WEIGHTS = ("name", "spread", "correlation", "sample")  # beside the detail of a target
_BY_TARGET = ("kl_reduction", "kl_reduction_random", "effective_sample_size")  # columns of `runs`


def as_stored(
    run: Mapping[str, Any], kept: Mapping[str, Any] | None, why: str, examples: bool = True
) -> Facts | ScoreFacts:
    """The facts on record, with a check that says that they are.

    Parameters
    ----------
    run : its row of `runs`
    kept : its report, as JSON has it; None: the row is all there is
    why : what cannot be read again
    examples : may texts and n-grams be shown?
    """
    kept = kept or {}
    what = "the report as it was stored" if kept else "what `runs` has of the run, without a report"
    said = f"This is {what}, for it cannot be made again: {why}."
    warned = [Check(**w) for w in kept.get("warnings", ())]
    notes = (Check(_NAME, 1.0, 0.0, said, "Its numbers are those of that time."),
             *[check for check in warned if check.name != _NAME])  # fmt: skip
    composition = tuple(
        facts.Composition(c["column"], tuple(c["rows"]), c.get("values", len(c["rows"])))
        for c in kept.get("composition", ())
    )
    if run["command"] != "select":
        return _facts(run, kept, notes, composition, examples)
    scores = tuple(_of_score(s, examples) for s in kept.get("scores", ()))
    return ScoreFacts(
        score_run_of(run), run["funnel"], scores, composition, facts.shortfall_of(run), notes
    )


def is_stored(found: Facts | ScoreFacts) -> bool:
    """Were they not gathered anew?"""
    return any(check.name == _NAME for check in found.warnings)


def _facts(
    run: Mapping[str, Any], kept: Mapping[str, Any], notes: tuple[Check, ...],
    composition: tuple[facts.Composition, ...], examples: bool,
) -> Facts:  # fmt: skip
    config, funnel = json.loads(run["config"]), run["funnel"]
    details = {t["name"]: t for t in kept.get("targets", ())}
    targets = tuple(
        _of_target(v, details.get(v["target"]), examples)
        for v in kept.get("verdict", _verdicts(run))
    )
    beside = [details.get(t.name, {}) for t in targets]
    weights = facts.WeightFacts(
        config["method"], funnel["candidates"], funnel["duplicate_text"],
        funnel.get("over_max_per_group", 0), funnel["read"], funnel.get("unparsed", 0),
        tuple(facts.WeightTarget(t.name, of.get("spread", 0.0), of.get("correlation", 0.0))
              for t, of in zip(targets, beside, strict=True)),
        composition,
        SimpleNamespace(ids=range(next((of["sample"] for of in beside if of), 0))),
        run.get("contaminated") or {},
    )  # fmt: skip
    short = facts.shortfall_of(run)
    chosen = facts.SelectionFacts(
        config["method"], short, funnel["candidates"], funnel["selected"], 0.0, targets
    )
    fit = facts.FitFacts((), False, config["tokenizer"], 0.0, 0.0, short.unit)
    return Facts(facts.run_of(run), funnel, fit, weights, chosen, notes)


def _verdicts(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The numbers by target that a row of `runs` has."""
    bounds = run["kl_bound"] or {}
    return [
        {"target": name, "documents": number, "bound": bounds.get(name),
         **{fact: (run[fact] or {}).get(name) for fact in _BY_TARGET}}
        for name, number in (run["selected_by_target"] or {}).items()
    ]  # fmt: skip


def _of_target(
    verdict: Mapping[str, Any], of: Mapping[str, Any] | None, examples: bool
) -> TargetFacts:
    detail = None
    if of is not None:
        detail = {fact: of[fact] for fact in of if fact not in _OF_WEIGHTS}
        if not examples:
            bare = {way: [{**b, "ngrams": []} for b in detail[way]] for way in ("up", "down")}
            detail |= {**bare, "examples": [], "sampled": 0}
    held, apart = verdict.get("held_out"), ("name", "held_out", "detail")
    numbers = {f.name: verdict.get(f.name) for f in fields(TargetFacts) if f.name not in apart}
    judged = facts.HeldOut(**held) if held else None
    return TargetFacts(verdict["target"], held_out=judged, detail=detail, **numbers)  # type: ignore[arg-type]


def _of_score(score: Mapping[str, Any], examples: bool) -> OfScore:
    ends = {"low": "from", "high": "to", "selected_low": "selected_from",
            "selected_high": "selected_to"}  # fmt: skip
    own = {f.name: score.get(f.name) for f in fields(OfScore)}
    own |= {name: _number(score[end]) for name, end in ends.items()}
    return OfScore(**own | {"examples": tuple(score["examples"]) if examples else ()})


def _number(shown: str) -> float | None:
    """What `score_facts.shown` has shown."""
    return None if shown == "–" else float(shown.replace(",", ""))
