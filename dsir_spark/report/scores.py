"""The facts of a selection by a score, gathered from its table `scores` in a few queries."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import COPIES, TARGET, found, quoted
from dsir_spark.job_options import SelectJobOptions
from dsir_spark.local_rows import to_arrow
from dsir_spark.report import checks, facts
from dsir_spark.report.candidates import SAMPLED, position
from dsir_spark.report.gather import compositions
from dsir_spark.report.score_facts import OfScore, ScoreFacts, score_run_of, shown
from dsir_spark.scoring.distributions import Float64
from dsir_spark.selection import Selection

_BINS = 60
_EXCERPT = 700  # characters shown of an example
CANDIDATE, SELECTED, TIED, TIED_SELECTED = range(4)


def gather_scores(
    *, run: Mapping[str, Any], options: SelectJobOptions, rows: DataFrame, raw: DataFrame,
    selection: Selection, composition: Sequence[str] = (), examples: int = 2, page: bool = True,
) -> ScoreFacts:  # fmt: skip
    """All facts of a run of `select`.

    Parameters
    ----------
    run : the row of `runs`, as far as it is known
    rows : the table `scores`, with what rows are ranked by
    raw : as the run read it
    composition : columns of the table `scores` whose values are counted before and after
    examples : documents shown of each place, for each score; 0: no text is shown
    page : what only a page shows too: examples
    """
    chosen = selection.filter(rows, rows)
    given = [
        quoted("score" if name is None else f"score_{name}").cast("double")
        for name in selection.targets
    ]
    times = F.col(COPIES) if selection.repeats_rows else F.lit(1)
    sample = _draw(selection, rows, chosen if page and examples else None, given)
    edges = [_edges(sample["scores"][:, t]) for t in range(len(given))]
    counted = _counted(selection, rows, chosen.withColumn(_TIMES, times), given, edges)
    tied = _tied(selection, rows, chosen, given, counted)
    texts = _texts(options, raw, selection, sample, examples) if page and examples else {}
    own = []
    expressions = [*options.score.values()] or ["random"]
    # Else the cut is no number of the score's own scale.
    on_scale = options.method == "top_k" and options.normalize_within is None
    for t, name in enumerate(selection.targets):
        before, after = counted.get((CANDIDATE, t), _NONE), counted.get((SELECTED, t), _NONE)
        if not options.score:  # a random selection has none
            before = after = _NONE
        worst = after["high" if options.lower_is_better else "low"]
        kept = np.isfinite(sample["ranks"][:, t])
        own.append(OfScore(
            name=name or "score", expression=expressions[t],
            documents=selection.num_documents[t],
            size=None if selection.size is None else selection.size[t],
            candidates=selection.funnel["candidates"], low=before["low"], high=before["high"],
            selected_low=after["low"], selected_high=after["high"],
            mean=_mean(before), selected_mean=_mean(after),
            amount=selection.amount if selection.repeats_rows else None,
            tied=tied.get((TIED, t), 0), tied_selected=tied.get((TIED_SELECTED, t), 0),
            spread=float(sample["ranks"][kept, t].std()) if kept.sum() > 2 else 0.0,
            histogram=_histogram(edges[t], before, after, worst if on_scale else None),
            examples=tuple(texts.get(t, ())),
        ))  # fmt: skip
    gathered = ScoreFacts(
        score_run_of(run), run["funnel"], tuple(own),
        compositions(composition, rows, chosen, selection.is_candidate(), times),
        facts.shortfall_of(run),
    )  # fmt: skip
    return replace(gathered, warnings=checks.found(gathered))


def _draw(
    selection: Selection, rows: DataFrame, chosen: DataFrame | None, given: Sequence[Column]
) -> dict[str, Any]:
    """Some five thousand candidates by the noise of their ids, those of most noise first; for which
    target those of them are selected that are `chosen`."""
    number = selection.funnel["candidates"]
    least = max(0.0, 1.0 - (SAMPLED + 5 * math.sqrt(SAMPLED)) / max(1, number))
    noise, nobody = selection.uniform_key(), F.lit(-1)
    frames = [(rows.where(selection.is_candidate()), nobody)]
    frames += [] if chosen is None else [(chosen, position(selection))]
    parts = [
        frame.where(noise >= F.lit(least)).select(
            quoted(selection.pool.id_column).alias("id"), noise.alias("noise"),
            F.array(*given).alias("scores"), F.array(*selection.keys()).alias("keys"),
            F.array(*selection.ranks()).alias("ranks"), target.alias("target"),
        )
        for frame, target in frames
    ]  # fmt: skip
    both = to_arrow(functools.reduce(DataFrame.union, parts)).to_pylist()
    held = sorted((row for row in both if row["target"] < 0),
                  key=lambda r: (-r["noise"], str(r["id"])))  # fmt: skip
    found: dict[str, Any] = {"ids": [row["id"] for row in held]}
    found["selected"] = {row["id"]: row["target"] for row in both if row["target"] >= 0}
    for name in ("scores", "keys", "ranks"):
        numbers = [row[name] for row in held]
        found[name] = np.array(numbers, np.float64).reshape(len(held), len(given))
    return found


def _edges(scores: Float64) -> list[float]:
    """Of the bins of a picture: all but the outermost scores of a sample in equal steps."""
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return [0.0, 1.0]
    values = np.unique(finite)
    if len(values) <= _BINS // 2 and (values == np.round(values)).all() and np.ptp(values) < _BINS:
        return [float(e) for e in np.arange(values[0] - 0.5, values[-1] + 1.0)]  # a bin a number
    low, high = np.quantile(finite, [0.002, 0.998])
    step = (high - low) / _BINS or 1.0
    return [float(e) for e in low + step * np.arange(_BINS + 1)]


_NONE: dict[str, Any] = {"bins": {}, "low": None, "high": None, "n": 0, "sum": 0.0}
_TIMES = "__dsir_times"  # how often a row is selected


def _counted(
    selection: Selection, rows: DataFrame, chosen: DataFrame, given: Sequence[Column],
    edges: Sequence[Sequence[float]],
) -> dict[tuple[int, int], dict[str, Any]]:  # fmt: skip
    """Rows in bins and in all, and the smallest, the largest and the sum of their scores, of
    candidates and selected by target; in `n` and the sum each as often as it is selected."""
    lows = F.array(*[F.lit(e[0]) for e in edges])
    steps = F.array(*[F.lit(e[1] - e[0]) for e in edges])
    last = F.array(*[F.lit(len(e) - 2) for e in edges])
    scores, t, of = F.array(*given), F.col("t"), position(selection)
    every = F.explode(F.sequence(F.lit(0), F.lit(len(given) - 1)))
    eligible, once = rows.where(selection.is_candidate()), F.lit(1).alias(_TIMES)
    before = eligible.select(every.alias("t"), scores.alias("scores"), once)
    after = chosen.select(of.alias("t"), scores.alias("scores"), _TIMES)
    kinds = [
        frame.select(F.lit(kind).alias("kind"), t, F.col("scores")[t].alias("x"), _TIMES)
        for kind, frame in ((CANDIDATE, before), (SELECTED, after))
    ]
    at = F.floor((F.col("x") - lows[t]) / steps[t])
    # What is beyond the picture stands at its ends.
    at = F.when(F.abs("x") < math.inf, F.greatest(F.lit(0), F.least(at, last[t])))
    groups = kinds[0].union(kinds[1]).groupBy("kind", "t", at.alias("bin"))
    result: dict[tuple[int, int], dict[str, Any]] = {}
    told = groups.agg(
        F.count("*"), F.sum(_TIMES), F.min("x"), F.max("x"), F.sum(F.col("x") * F.col(_TIMES))
    ).collect()  # fmt: skip
    for kind, target, bin_, rows_in, n, low, high, total in told:
        own = result.setdefault((kind, target), {**_NONE, "bins": {}, "low": low, "high": high})
        own["low"], own["high"] = min(own["low"], low), max(own["high"], high)
        own["n"], own["sum"] = own["n"] + n, own["sum"] + total
        if bin_ is not None:
            own["bins"][bin_] = rows_in
    return result


def _mean(of: Mapping[str, Any]) -> float | None:
    return of["sum"] / of["n"] if of["n"] and math.isfinite(of["sum"]) else None


def _tied(
    selection: Selection, rows: DataFrame, chosen: DataFrame, given: Sequence[Column],
    counted: Mapping[tuple[int, int], Mapping[str, Any]],
) -> dict[tuple[int, int], int]:  # fmt: skip
    """Candidates and selected of the worst score that was selected, of the largest scores only."""
    if selection.options.method != "top_k":
        return {}
    lower = bool(getattr(selection.options, "lower_is_better", False))
    eligible, parts = rows.where(selection.is_candidate()), []
    for t, score in enumerate(given):
        worst = counted.get((SELECTED, t), _NONE)["high" if lower else "low"]
        if worst is None:
            continue
        mine = chosen if selection.targets == (None,) else chosen.where(
            F.col(TARGET) == F.lit(selection.targets[t]))  # fmt: skip
        parts += [
            frame.where(score == F.lit(worst)).select(F.lit(kind), F.lit(t)).toDF("kind", "t")
            for kind, frame in ((TIED, eligible), (TIED_SELECTED, mine))
        ]
    if not parts:
        return {}
    numbers = functools.reduce(DataFrame.union, parts).groupBy("kind", "t").count()
    return {(kind, t): n for kind, t, n in numbers.collect()}


def _histogram(
    edges: Sequence[float], before: Mapping[str, Any], after: Mapping[str, Any], cut: float | None
) -> dict[str, Any]:
    own = [[of["bins"].get(i, 0) for i in range(len(edges) - 1)] for of in (before, after)]
    line = cut if cut is not None and math.isfinite(cut) else None
    return {"edges": list(edges), "candidates": own[0], "selected": own[1], "cut": line,
            "label": "score", "cut_label": "worst selected"}  # fmt: skip


def _texts(
    options: SelectJobOptions, raw: DataFrame, selection: Selection, sample: Mapping[str, Any],
    number: int,
) -> dict[int, list[dict[str, Any]]]:  # fmt: skip
    """The beginnings of some documents of the sample, if raw has texts; one scan of raw."""
    column = found(raw, options.text_column)
    if column is None or not sample["ids"]:
        return {}
    places: dict[int, list[tuple[str, int]]] = {}
    for t in range(len(selection.cuts)):
        falling = np.argsort(-sample["keys"][:, t], kind="stable").tolist()
        of = [sample["selected"].get(sample["ids"][i]) for i in range(len(falling))]
        inside = [i for i in falling if of[i] == t]
        outside = [i for i in falling if of[i] is None]
        near = [("just above the cut", i) for i in inside[number:][-number:]]
        places[t] = [("best", i) for i in inside[:number]] + near
        places[t] += [("below the cut", i) for i in outside[:number]]
    wanted = sorted({i for own in places.values() for _, i in own})
    ids, text = quoted(str(options.id_column)), quoted(column).cast("string")
    read = raw.where(ids.isin([sample["ids"][i] for i in wanted])).select(
        ids.alias("id"), F.substring(text, 1, _EXCERPT + 1).alias("text")
    )
    texts = {row["id"]: row["text"] or "" for row in read.collect()}
    return {
        t: [
            {"place": place, "id": str(sample["ids"][i]), "score": shown(sample["scores"][i, t]),
             "text": facts.visible(texts.get(sample["ids"][i], ""))[:_EXCERPT],
             "more": len(texts.get(sample["ids"][i], "")) > _EXCERPT}
            for place, i in own
        ]
        for t, own in places.items()
    }  # fmt: skip
