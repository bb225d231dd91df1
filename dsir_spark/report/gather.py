"""The facts of a run, gathered once, in the order in which they are known.

Fit, then weights, then what was written. All numbers come from the tables of the run in a few
queries; of raw's texts about 10,000 documents are looked at, in one scan, whatever the size of raw.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import NUM_TOKENS, TARGET, TEXT_HASH, quoted
from dsir_spark.features import arrow
from dsir_spark.options import ResampleOptions
from dsir_spark.report import bounds, checks, detail, picked, scan, spectrum
from dsir_spark.report.composition import compositions
from dsir_spark.report.facts import (
    Composition,
    Facts,
    FitFacts,
    FitTarget,
    Run,
    SelectionFacts,
    TargetFacts,
    WeightFacts,
    WeightTarget,
)
from dsir_spark.report.sample import Sample, draw, matched, rank_correlation
from dsir_spark.report.texts import some_texts
from dsir_spark.scoring.counts import BucketCounts, count_named
from dsir_spark.scoring.distributions import distribution, kl_divergence, kl_reduction
from dsir_spark.scoring.documents import spec_of
from dsir_spark.scoring.model import Model
from dsir_spark.selection import Selection

_OF = "__dsir_of"


def gather_fit(
    model: Model, options: ResampleOptions, targets: Mapping[str, DataFrame]
) -> FitFacts:  # fmt: skip
    """What is known before raw is weighed: of counts, and of a sample of the targets' texts.

    Parameters
    ----------
    targets : by name, those whose texts can be read
    """
    config, p_raw = model.config, distribution(model.raw.counts)
    counted = {n: (f, float(model.targets[n].num_documents)) for n, f in targets.items()}
    texts = some_texts(counted, config.text_column)
    found = []
    for name, target in model.targets.items():
        own = [arrow.decoded(text) for text in texts.get(name, ())]
        found.append(
            FitTarget(
                name=name,
                called=_called(model, name),
                missed=float(p_raw[target.counts == 0].sum()),
                kl=kl_divergence(distribution(target.counts), p_raw),
                cjk_share=checks.cjk_share(own) if name in texts else None,
            )
        )
    smoothed = config.target_dirichlet_smoothing != 0 or config.target_laplace_smoothing > 0
    there_is, unit = float(model.raw.num_documents), "documents"
    if options.sized:
        # How much there is of another size than tokens nobody has counted.
        there_is, unit = 0.0 if options.size_column else float(model.raw.num_tokens), "tokens"
    return FitFacts(
        targets=tuple(found),
        smoothed=smoothed or options.method == "match",
        tokenizer=config.tokenizer,
        wanted=float(options.budget),
        there_is=there_is / model.fitted_share,
        unit=unit,
        texts=texts,
    )


def gather_weights(
    model: Model,
    selection: Selection,
    weights: DataFrame,
    targets: Mapping[str, DataFrame],
    columns: Sequence[str] = (),
) -> WeightFacts:
    """What weights tell before the selected documents are written.

    Parameters
    ----------
    targets : by name, those whose texts are looked for in raw
    columns : of weights, whose values are counted before and after
    """
    sample = draw(selection, weights)
    in_raw = _in_raw(model, selection, weights, targets)
    found = []
    for t, name in enumerate(model.targets):
        heights, enough = sample.ranks[:, t], len(sample.ids) > 2
        found.append(
            WeightTarget(
                name=name,
                called=_called(model, name),
                spread=float(heights.std()) if enough else 0.0,
                correlation=rank_correlation(sample.num_tokens, heights),
                in_raw=in_raw.get(name, (0, 0))[0],
                in_raw_selected=in_raw.get(name, (0, 0))[1],
            )
        )
    chosen = selection.filter(weights, weights)
    if selection.pool.ids_from_content:
        chosen = chosen.dropDuplicates([selection.pool.id_column])
    return WeightFacts(
        method=selection.options.method,
        candidates=selection.funnel["candidates"],
        copies=selection.funnel["duplicate_text"],
        targets=tuple(found),
        composition=compositions(columns, weights, chosen, selection.is_candidate()),
        sample=sample,
    )


def gather(
    *,
    run: Mapping[str, Any],
    model: Model,
    raw: DataFrame,
    weights: DataFrame,
    selected: DataFrame,
    selection: Selection,
    targets: Mapping[str, DataFrame],
    fit: FitFacts | None = None,
    weighed: WeightFacts | None = None,
    composition: Sequence[str] = (),
    examples: int = 2,
    page: bool = True,
) -> Facts:
    """All facts of a run.

    Parameters
    ----------
    run : the row of `runs`, as far as it is known
    raw : as the run read it
    weights, selected : the tables that were written
    targets : by name, those whose texts can be read
    fit, weighed : where they were gathered before
    composition : columns of raw whose values are counted before and after
    examples : documents shown of each place, for each target; 0: no text is shown, n-grams neither
    page : what only a page shows too: histograms, curves, n-grams, examples
    """
    if fit is None:
        fit = gather_fit(model, selection.options, targets)  # type: ignore[arg-type]
    if weighed is None:
        own = [c for c in composition if c in weights.columns]
        weighed = gather_weights(model, selection, weights, targets, own)
    weighed = _completed(weighed, composition, raw, selected)
    sample: Sample = weighed.sample
    measured = spectrum.measure(model, selection, weights, selected, sample, keys=page)
    counted = _counted(model, selected)
    shown = picked.pick(selection, weights, measured, sample, examples) if page else None
    wanted = dict.fromkeys(sample.ids, 0)
    if shown is not None:
        wanted = detail.wanted(sample, shown, examples > 0)
    documents = scan.read(model, raw, wanted) if wanted else None
    found = _of_targets(model, selection, measured, counted, sample, documents)
    if shown is not None and documents is not None:
        details = detail.details(
            model, selection, measured, sample, shown, documents, fit.texts if examples else {}
        )
        found = [replace(t, detail=d) for t, d in zip(found, details, strict=True)]
    facts = SelectionFacts(
        method=selection.options.method,
        shortfall=run["shortfall"],
        unit=_unit(selection.options),
        candidates=selection.funnel["candidates"],
        selected=selection.funnel["selected"],
        median_length=measured.bins(spectrum.LENGTH).median(),
        targets=tuple(found),
    )
    warnings = tuple(check for part in (fit, weighed, facts) for check in checks.found(part))
    return Facts(_run(run), run["funnel"], fit, weighed, facts, warnings)


def _called(model: Model, name: str) -> str:
    return "the target" if model.single_target else f"target {name}"


def _unit(options: Any) -> str:
    """What the budget counts."""
    return (options.size_column or "tokens") if options.sized else "documents"


def _run(run: Mapping[str, Any]) -> Run:
    config = json.loads(run["config"])
    started: datetime.datetime = run["started_at"]
    return Run(
        id=run["run_id"],
        command=run["command"],
        started_at=f"{started:%Y-%m-%d %H:%M}",
        method=config["method"],
        seed=run["seed"],
        model=run["model_fingerprint"],
        version=run["dsir_spark_version"],
        min_example_length=config["min_example_length"],
        match=json.loads(run.get("match") or "{}"),
    )


def _in_raw(
    model: Model, selection: Selection, weights: DataFrame, targets: Mapping[str, DataFrame]
) -> dict[str, tuple[int, int]]:
    """Documents of raw that are texts of a target but for case and blanks; of them selected."""
    if TEXT_HASH not in weights.columns or not targets:
        return {}
    text = quoted(model.config.text_column)
    texts = [f.select(F.lit(name).alias(_OF), text) for name, f in targets.items()]
    hashed = model.scored(
        functools.reduce(DataFrame.union, texts), matched=False, text_hash=True, keep=[_OF]
    )
    hashes = hashed.where(F.col(NUM_TOKENS) > 0).select(_OF, TEXT_HASH).distinct()
    found = weights.join(F.broadcast(hashes), TEXT_HASH)
    number = dict(map(tuple, found.groupBy(_OF).count().collect()))
    if not number:
        return {}
    of_these = selection.filter(found, weights).groupBy(_OF).count()
    chosen = dict(map(tuple, of_these.collect()))
    return {name: (n, chosen.get(name, 0)) for name, n in number.items()}


def _completed(
    weighed: WeightFacts, columns: Sequence[str], raw: DataFrame, selected: DataFrame
) -> WeightFacts:
    """With the values of columns that weights do not keep, counted in raw."""
    known = {c.column: c for c in weighed.composition}
    rest = [c for c in dict.fromkeys(columns) if c not in known]
    known |= {c.column: c for c in compositions(rest, raw, selected, None)}
    ordered: tuple[Composition, ...] = tuple(known[c] for c in dict.fromkeys((*columns, *known)))
    return replace(weighed, composition=ordered)


def _counted(model: Model, selected: DataFrame) -> dict[str, BucketCounts]:
    """N-grams of what was written, by target, in one query."""
    names = list(model.targets)
    name = F.lit(names[0]) if model.single_target else F.col(TARGET)
    text = quoted(model.config.text_column).cast("string").alias("text")
    named = selected.select(name.alias("name"), text)
    return count_named(named, names, spec_of(model.config))


def _of_targets(
    model: Model,
    selection: Selection,
    measured: spectrum.Spectrum,
    counted: Mapping[str, BucketCounts],
    sample: Sample,
    documents: scan.Documents | None,
) -> list[TargetFacts]:
    """The numbers of each target; no texts."""
    exact = bool(model.matchings) and matched(selection)
    share = min(1.0, len(sample.ids) / max(1, sample.population))
    found = []
    for t, (name, target) in enumerate(model.targets.items()):
        size = None if selection.size is None else selection.size[t]
        number, all_of_it = sample.random(selection.num_documents[t], size)
        ngrams = counted[name].num_ngrams
        random, bound = None, None
        if documents is not None:
            drawn = documents.total(sample.ids[:number])
            random = kl_reduction(target.counts, model.raw.counts, drawn)
        if exact:
            bound = bounds.exact(model, name, measured.bins(spectrum.SCORE, t), ngrams)
        elif documents is not None and ngrams:
            bound = bounds.estimated(
                target.counts, model.raw.counts, documents, sample.ids, round(ngrams * share)
            )
        found.append(
            TargetFacts(
                name=name,
                called=_called(model, name),
                documents=counted[name].num_documents,
                tokens=counted[name].num_tokens,
                kl_reduction=kl_reduction(target.counts, model.raw.counts, counted[name].counts),
                kl_reduction_random=random,
                random_documents=None if all_of_it else number,
                bound=bound,
                bound_documents=None if exact or sample.complete else len(sample.ids),
                effective_sample_size=measured.effective_sample_size(t),
                median_length=measured.bins(spectrum.LENGTH_SELECTED, t).median(),
            )
        )
    return found
