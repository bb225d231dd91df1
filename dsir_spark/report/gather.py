"""The facts of a run, gathered once, in the order in which they are known.

Fit, then weights, then what was written. All numbers come from the tables of the run in a few
queries; of raw's texts about 10,000 documents are looked at, in one scan, whatever the size of raw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from dsir_spark import labels
from dsir_spark.columns import CONTAMINATED_BY, NUM_TOKENS, TARGET, TEXT_HASH, as_text, quoted
from dsir_spark.features import arrow
from dsir_spark.options import ResampleOptions
from dsir_spark.report import candidates, checks, detail, facts, held_out, texts
from dsir_spark.report.candidates import OF
from dsir_spark.report.facts import Facts, FitFacts, WeightFacts
from dsir_spark.scoring import matched
from dsir_spark.scoring.counts import BucketCounts, count_named
from dsir_spark.scoring.distributions import (
    distribution,
    kl_divergence,
    kl_reduction,
    on_ruler,
    raw_share,
)
from dsir_spark.scoring.documents import spec_of, united
from dsir_spark.scoring.model import Model
from dsir_spark.selection import Selection

Frames = Mapping[str, DataFrame]
_VALUES = 1_000  # of a column, those with most selected documents first
_NULL = "(null)"  # as a value of a column
_TEXTS = 100  # that documents are contaminated by, named in the report
_COUNTED = ("raw", "candidates", "selected")


def gather_fit(
    model: Model, options: ResampleOptions, targets: Frames, rows: int | None = None
) -> FitFacts:
    """What is known before raw is weighed: of counts, and of a sample of the targets' texts.

    Parameters
    ----------
    targets : by name, those whose texts can be read
    rows : of raw that were weighed; None: as many as were there to fit on
    """
    config, p_raw = model.config, distribution(model.raw.counts)
    counted = {n: (f, float(model.targets[n].num_documents)) for n, f in targets.items()}
    read = texts.some_texts(counted, config.text_column)
    found = []
    for name, target in model.targets.items():
        missed = float(p_raw[target.counts == 0].sum())
        kl = kl_divergence(on_ruler(distribution(target.counts)), on_ruler(p_raw))
        cjk = checks.cjk_share(map(arrow.decoded, read[name])) if name in read else None
        auc = model.classifiers[name].facts["auc"] if model.classifiers else None
        found.append(facts.FitTarget(name, missed, kl, cjk, auc))
    smoothed = config.target_dirichlet_smoothing != 0 or config.target_laplace_smoothing > 0
    fitted, unit = model.raw.num_documents, "documents"
    there_is = fitted / model.fitted_share if rows is None else float(rows)
    if options.sized:
        # How much there is of another size than tokens nobody has counted.
        each = 0 if options.size_column else model.raw.num_tokens / max(1, fitted)
        there_is, unit = there_is * each, "tokens"
    return FitFacts(
        tuple(found), smoothed or options.method == "match", config.tokenizer,
        float(options.budget), there_is, unit, read,
    )  # fmt: skip


def gather_weights(
    model: Model, selection: Selection, weights: DataFrame, targets: Frames,
    columns: Sequence[str] = (),
) -> WeightFacts:  # fmt: skip
    """What weights tell before the selected documents are written.

    Parameters
    ----------
    targets : by name, those whose texts are looked for in raw
    columns : of weights, whose values are counted before and after; later where ids are made from
        texts
    """
    marked = _with_targets(model, weights, targets)
    sample, in_raw = candidates.draw(selection, marked)
    selected = _count_selected(selection, weights, marked) if in_raw else {}
    found = []
    for ranks, name in zip(sample.ranks.T, model.targets, strict=True):
        spread = float(ranks.std()) if len(sample.ids) > 2 else 0.0
        correlation = candidates.rank_correlation(sample.num_tokens, ranks)
        both = in_raw.get(name, 0), selected.get(name, 0)
        found.append(facts.WeightTarget(name, spread, correlation, *both))
    # Where ids are made from texts, weights do not know which of the copies will be written.
    known = () if selection.pool.ids_from_content else columns
    chosen = selection.filter(weights, weights)
    composition = compositions(known, weights, chosen, selection.is_candidate())
    rows = {"unparsed": 0, "over_max_per_group": 0, **selection.funnel}
    return WeightFacts(
        selection.options.method, rows["candidates"], rows["duplicate_text"],
        rows["over_max_per_group"], rows["read"], rows["unparsed"], tuple(found), composition,
        sample, _contaminated(weights),
    )  # fmt: skip


def gather(
    *, run: Mapping[str, Any], model: Model, raw: DataFrame, weights: DataFrame,
    selected: DataFrame, selection: Selection, targets: Frames,
    fit: FitFacts | None = None, weighed: WeightFacts | None = None,
    composition: Sequence[str] = (), examples: int = 2, page: bool = True,
) -> Facts:  # fmt: skip
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
        rows = selection.funnel["read"]  # more than were fitted on, where raw has grown since
        fit = gather_fit(model, selection.options, targets, rows)  # type: ignore[arg-type]
    own = [c for c in composition if c in weights.columns]
    if weighed is None:
        weighed = gather_weights(model, selection, weights, targets, own)
    if selection.pool.ids_from_content:
        counted = compositions(own, weights, selected, selection.is_candidate())
        weighed = replace(weighed, composition=counted)
    weighed = _composed(weighed, composition, raw, selected)
    sample: candidates.Sample = weighed.sample
    shown, wanted = None, dict.fromkeys(sample.ids, 0)
    shares = json.loads(run.get("held_out") or "{}") if page else {}
    with labels.threads(raw.sparkSession) as aside:
        counting = aside.submit(_count, model, selected)
        reading = None if page else aside.submit(texts.read, model, raw, wanted)
        spectrum = candidates.measure(model, selection, weights, selected, sample, keys=page)
        if page:  # whose examples go by what was measured
            shown = detail.pick(weights, spectrum, examples)
            random = held_out.DOCUMENTS if any(shares.values()) else texts.TEXTS if examples else 0
            wanted = shown.wanted(sample, random)
        documents = reading.result() if reading else texts.read(model, raw, wanted)
    found = _of_targets(model, spectrum, counting.result(), documents)
    if any(shares.values()):
        read = [documents.texts[i] for i in sample.ids if i in documents.texts]
        found = held_out.judged(found, model, targets, shares, selected, read)
    if shown is not None and wanted:
        known_texts = fit.texts if examples else {}
        details = detail.details(model, spectrum, shown, documents, known_texts)
        found = [replace(t, detail=d) for t, d in zip(found, details, strict=True)]
    funnel, median = selection.funnel, spectrum.bins(candidates.LENGTH).median()
    chosen = facts.SelectionFacts(
        selection.options.method, facts.shortfall_of(run), funnel["candidates"],
        funnel["selected"], median, tuple(found),
        len(documents.unread.intersection(sample.ids)) / max(1, len(sample.ids)),
    )  # fmt: skip
    warnings = tuple(check for part in (fit, weighed, chosen) for check in checks.found(part))
    return Facts(facts.run_of(run), run["funnel"], fit, weighed, chosen, warnings)


def _with_targets(model: Model, weights: DataFrame, targets: Frames) -> DataFrame:
    """Weights with OF: the targets of which a document is a text but for case and blanks."""
    if TEXT_HASH not in weights.columns or not targets:
        return weights.withColumn(OF, F.lit(None).cast("array<string>"))
    text = quoted(model.config.text_column)
    named = [f.select(F.lit(name).alias(OF), text) for name, f in targets.items()]
    hashed = model.scored(united(named), matched=False, text_hash=True, keep=[OF])
    names = F.sort_array(F.collect_set(OF)).alias(OF)
    hashes = hashed.where(F.col(NUM_TOKENS) > 0).groupBy(TEXT_HASH).agg(names)
    return weights.join(F.broadcast(hashes), TEXT_HASH, "left")


def _contaminated(weights: DataFrame) -> dict[str, int]:
    """Documents that share an n-gram with each of some texts: the _TEXTS with most of them."""
    if CONTAMINATED_BY not in weights.columns:
        return {}
    counted = weights.where(F.col(CONTAMINATED_BY).isNotNull()).groupBy(CONTAMINATED_BY).count()
    order = (F.desc("count"), F.asc(CONTAMINATED_BY))
    return dict(map(tuple, counted.orderBy(*order).limit(_TEXTS).collect()))


def _count_selected(selection: Selection, weights: DataFrame, marked: DataFrame) -> dict[str, int]:
    """The selected documents that are texts of each target."""
    chosen = selection.filter(marked.where(F.col(OF).isNotNull()), weights)
    names = chosen.select(F.explode(OF).alias("name"))
    return dict(map(tuple, names.groupBy("name").count().collect()))


def compositions(
    columns: Sequence[str], before: DataFrame, after: DataFrame, candidate: Column | None,
    times: Column | None = None,
) -> tuple[facts.Composition, ...]:  # fmt: skip
    """The values of columns of all rows and of those selected, counted in one query; candidates
    only where it is known which rows of `before` are.

    times : how often a row of `after` is selected; None: once
    """
    if not columns:
        return ()
    own = [
        F.struct(F.lit(i).alias("column"), as_text(before, c).alias("value"))
        for i, c in enumerate(columns)
    ]
    one, none = F.lit(1), F.lit(0)
    known = none if candidate is None else candidate.cast("int")
    each = [
        frame.select(F.explode(F.array(*own)).alias("of"), *numbers).toDF("of", *_COUNTED)
        for frame, numbers in (
            (before, (one, known, none)), (after, (none, none, one if times is None else times))
        )
    ]  # fmt: skip
    sums = each[0].union(each[1]).select("of.*", *_COUNTED).groupBy("column", "value").agg(
        *[F.sum(name).alias(name) for name in _COUNTED]
    )  # fmt: skip
    falling = (F.desc("selected"), F.desc("raw"), F.asc("value"))
    # Spark keeps so many rows of a column before any are sent to where they are ranked.
    place = F.row_number().over(Window.partitionBy("column").orderBy(*falling)).alias("n")
    first = sums.select("*", place, F.lit(0).alias("values")).where(F.col("n") <= _VALUES)
    whole = sums.groupBy("column").agg(
        F.lit(None).cast("string"), *[F.sum(name) for name in _COUNTED],
        F.lit(0), F.count("*").cast("int"),
    )  # fmt: skip
    found: list[list[dict[str, Any]]] = [[] for _ in columns]
    values, of_all = [0] * len(columns), (1, 1)
    counted = sorted(first.union(whole).collect(), key=itemgetter("column", "n"))
    for i, value, raw, eligible, selected, n, distinct in counted:
        if not n:
            values[i], of_all = distinct, (max(1, raw), max(1, selected))
            continue
        found[i].append({
            "value": _NULL if value is None else value, "raw": raw, "raw_share": raw / of_all[0],
            "candidates": None if candidate is None else eligible,
            "selected": selected, "selected_share": selected / of_all[1],
        })  # fmt: skip
    return tuple(
        facts.Composition(*own) for own in zip(columns, map(tuple, found), values, strict=True)
    )


def _count(model: Model, selected: DataFrame) -> dict[str, BucketCounts]:
    """The n-grams of what was selected for each target."""
    names = list(model.targets)
    name_of = F.lit(names[0]) if model.single_target else F.col(TARGET)
    text = quoted(model.config.text_column).cast("string").alias("text")
    return count_named(selected.select(name_of.alias("name"), text), names, spec_of(model.config))


def _composed(
    weighed: WeightFacts, columns: Sequence[str], raw: DataFrame, selected: DataFrame
) -> WeightFacts:
    """With the values of those columns too that weights do not keep, in the order asked for."""
    known = {c.column: c for c in weighed.composition}
    rest = [c for c in dict.fromkeys(columns) if c not in known]
    known |= {c.column: c for c in compositions(rest, raw, selected, None)}
    ordered = tuple(known[c] for c in dict.fromkeys((*columns, *known)))
    return replace(weighed, composition=ordered)


def _of_targets(
    model: Model, spectrum: candidates.Spectrum, counted: Mapping[str, BucketCounts],
    documents: texts.Documents,
) -> list[facts.TargetFacts]:  # fmt: skip
    """The numbers of each target; no texts."""
    selection, sample = spectrum.selection, spectrum.sample
    exact = bool(model.matchings) and candidates.matched(selection)
    share = min(1.0, len(sample.ids) / max(1, sample.population))
    found = []
    for t, (name, target) in enumerate(model.targets.items()):
        own, raw = counted[name], model.raw.counts
        size = None if selection.size is None else selection.size[t]
        number, all_of_it = sample.random(selection.num_documents[t], size)
        random, bound = documents.total(sample.ids[:number]), None
        of_raw = raw_share(own.num_ngrams, len(raw))
        if exact:
            best = matched.best_mean(spectrum.scores(t), max(1, own.num_ngrams))
            parts = distribution(target.counts), distribution(raw)
            p, p_raw, q = map(on_ruler, (*parts, model.matchings[name].mixtures(raw)[-1]))
            bound = matched.bound(p, p_raw, q, best, of_raw)
        elif own.num_ngrams:
            ngrams = round(own.num_ngrams * share)
            bound = documents.bound(target.counts, raw, sample.ids, ngrams, of_raw)
        all_drawn = exact or sample.least <= 0.0
        found.append(facts.TargetFacts(
            name=name, documents=own.num_documents, tokens=own.num_tokens,
            kl_reduction=kl_reduction(target.counts, raw, own.counts),
            kl_reduction_random=kl_reduction(target.counts, raw, random),
            random_documents=None if all_of_it else number,
            bound=bound, bound_documents=None if all_drawn else len(sample.ids),
            effective_sample_size=spectrum.effective_sample_size(t),
            median_length=spectrum.bins(candidates.LENGTH_SELECTED, t).median(),
            target_length=target.num_tokens / max(1, target.num_documents - target.num_null),
        ))  # fmt: skip
    return found
