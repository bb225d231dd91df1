"""The facts of a report page, gathered from the tables of a run; the driver sees few.

Histograms, a sample of rows, the texts of a few examples. Two passes over raw: one counts n-grams
by rank for the curve of the KL reduction over k, one gives the bound (docs/matched.md) for
selections that were not matched.
"""

from __future__ import annotations

import datetime
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from dsir_spark import (
    checks,
    cuts,
    explain,
    frames,
    job,
    matched,
    page,
    report,
    tables,
    weights,
)
from dsir_spark.checks import visible
from dsir_spark.columns import check_column, quoted
from dsir_spark.dsir import BucketCounts, DSIRModel
from dsir_spark.errors import DataError
from dsir_spark.resample import NUM_TOKENS, TARGET, Selection, column_name

REPORT = "report"
_BINS = 60
_POINTS = 600  # candidates drawn of those looked at
_EXCERPT = 700
_STEPS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)  # sizes of the curve, in those selected
_MIXTURES = (0.25, 0.5, 0.75, 0.9)  # of raw and the selection, from which bounds are taken

LABELS = {
    "read": "read",
    "filtered": "left out by where",
    "null_id": "without id",
    "null_text": "without text",
    "blank": "blank",
    "too_short": "too short",
    "quality_length": "quality: length",
    "quality_repeating": "quality: repetition",
    "quality_informative": "quality: information",
    "quality_numeric": "quality: digits",
    "without_size": "without a size",
    "duplicate_text": "copies of a text",
    "over_max_per_group": "over max_per_group",
    "candidates": "candidates",
    "selected": "selected",
}


def write(
    spark: SparkSession, output: str, html: str | None = None, composition: Sequence[str] = (),
    examples: int = 2,
) -> str:  # fmt: skip
    """Gather the facts of the latest selection; write the page and a row of the table `report`.

    Parameters
    ----------
    html : path of the page; by default `report.html` under a local output, else
        `dsir-report.html` in the current folder.

    Returns
    -------
    The path of the page. Beside it the same facts as JSON, and as a row of OUTPUT/report.
    """
    facts = gather(spark, output, composition, examples)
    if html is None:
        folder = Path(output)
        html = str(folder / "report.html") if folder.is_dir() else "dsir-report.html"
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    Path(html).write_text(page.render(facts), encoding="utf-8", errors="replace")
    Path(html).with_suffix(".json").write_text(text, encoding="utf-8", errors="replace")
    schema = "run_id string, written_at timestamp, facts string"
    now = datetime.datetime.now(datetime.timezone.utc)
    clean = text.encode("utf-8", "replace").decode()
    frame = spark.createDataFrame([(facts["run"]["id"], now, clean)], schema).coalesce(1)
    run_id = facts["run"]["id"]
    tables.write(frame, tables.within(output, REPORT), append=True, run_id=run_id)
    return html


def gather(
    spark: SparkSession, output: str, composition: Sequence[str] = (), examples: int = 2
) -> dict[str, Any]:
    """All facts of the latest selection under `output`, as JSON knows them.

    Parameters
    ----------
    composition : columns of raw whose values are counted before and after
    examples : documents shown of each place, for each target
    """
    run = report.latest_selection(spark, output)
    config = json.loads(run["config"])
    raw = report.recorded_raw(spark, run)
    for name in composition:
        check_column(raw, name, "raw", "composition")
    model = DSIRModel.load(
        tables.within(output, job.MODEL), spark=spark, version=run["model_version"]
    )
    if run["match_version"] is not None:
        model = model.load_matchings(
            tables.within(output, job.MATCH), spark=spark, version=run["match_version"]
        )
    selection = job.selection_from_json(run["selection"])

    def table(name: str) -> DataFrame:
        place, version = tables.within(output, name), run[f"{name}_version"]
        return tables.read(spark, place, "delta", version=version)

    scored, chosen = table(job.WEIGHTS), table(job.SELECTED)
    by_target = _by_target(model, chosen)
    counted = model.count(by_target)
    bounds = dict(run.get("kl_bound") or {})
    if not bounds and selection.num_selected:
        bounds = _bounds(model, raw, selection, counted)
    curves = _curves(model, raw, scored, selection)
    compared = [_composition(raw, scored, chosen, selection, name) for name in composition]
    verdict = [
        _verdict(run, name, counted[name], bounds.get(name), config) for name in model.targets
    ]
    samples = job.open_targets(spark, run["target"])
    for name in model.targets.keys() - samples.keys():
        warnings.warn(f"the report lacks the n-grams of target {name}, which is gone or changed",
                      UserWarning, stacklevel=2)  # fmt: skip
    texts_raw = job.sample_texts(model, raw)
    shown = _examples(model, selection, raw, scored, examples)
    sample = job.sample_of_ranks(selection, scored)
    targets = []
    for t, name in enumerate(model.targets):
        texts = job.sample_texts(model, samples[name]) if name in samples else []
        up, down = _drivers(model, name, texts_raw, texts)
        targets.append(
            {
                **_spread(selection, scored, by_target[name], sample, t),
                "name": name,
                "curve": curves.get(name, []),
                "sampled": len(texts_raw) + len(texts),
                "up": up,
                "down": down,
                "examples": shown[t],
            }
        )
    found = [
        *job.before_weighing(model, selection.options, samples),
        *job.before_writing(model, selection, scored, samples, sample),
        *_checks(run, config, model, selection, compared),
    ]
    return {
        "run": {
            "id": run["run_id"],
            "started_at": f"{run['started_at']:%Y-%m-%d %H:%M}",
            "method": config["method"],
            "seed": run["seed"],
            "model": run["model_fingerprint"],
            "version": run["dsir_spark_version"],
        },
        "verdict": verdict,
        "warnings": [{**asdict(c), "found": float(c.found)} for c in found if c is not None],
        "funnel": [
            {"stage": stage, "label": LABELS.get(stage, stage), "count": run["funnel"][stage]}
            for stage in sorted(run["funnel"], key=list(LABELS).index)
            if run["funnel"][stage] or stage in ("read", "candidates", "selected")
        ],
        "composition": compared,
        "targets": targets,
    }


def explained(spark: SparkSession, output: str, ids: Sequence[str], number: int = 20) -> str:
    """The weights of documents under the model of `output`, split over their n-grams, as text.

    Raises
    ------
    DataError
        Raw has no document of an id.
    """
    run = report.latest_selection(spark, output)
    model = DSIRModel.load(
        tables.within(output, job.MODEL), spark=spark, version=run["model_version"]
    )
    raw = report.recorded_raw(spark, run)
    documents = model.documents(raw).where(quoted(model.id_name).cast("string").isin(list(ids)))
    text = quoted(model.config.text_column)
    texts = {str(r[0]): r[1] for r in documents.select(quoted(model.id_name), text).collect()}
    absent = [i for i in ids if texts.get(i) is None]
    if absent:
        raise DataError(f"raw has no document with {model.id_name} {absent[0]!r} and a text")
    spec = model.config.features
    found = {
        (i, name): explain.terms(texts[i], ratio, spec)
        for i in ids
        for name, ratio in model.log_ratio.items()
    }
    rows = {key: explain.by_ngram(terms)[:number] for key, terms in found.items()}
    shown = {term.bucket for own in rows.values() for term, _, _ in own}
    others = explain.Sharers(job.sample_texts(model, raw), spec, shown)
    lines = []
    for (i, name), own in rows.items():
        total = explain.log_weight(found[i, name])
        who = "" if model.single_target else f" for {name}"
        lines += [
            f"{visible(i)}: log weight{who} {total:+.4f} nats, the sum over "
            f"{len(found[i, name]):,} n-grams; the {len(own)} that move it most:",
            f"  {'part':>9}  {'times':>5}  {'log ratio':>9}  {'bucket':>8}  n-gram"
            f"{'':<24}  in its bucket",
        ]
        for term, times, part in own:
            sharing = ", ".join(
                f"{visible(g)[:24]} {share:.0%}" for g, share in others.of(term.bucket)
            )
            ngram = visible(term.ngram)[:30]
            lines.append(
                f"  {part:>+9.3f}  {times:>5}  {term.log_ratio:>+9.3f}  {term.bucket:>8}  "
                f"{ngram:<30}  {sharing or '-'}"
            )
    return "\n".join(lines)


def _by_target(model: DSIRModel, chosen: DataFrame) -> dict[str, DataFrame]:
    if model.single_target:
        return dict.fromkeys(model.targets, chosen)
    return {name: chosen.where(F.col(TARGET) == F.lit(name)) for name in model.targets}


def _verdict(
    run: Mapping[str, Any], name: str, counted: BucketCounts, bound: float | None,
    config: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    kl = run["kl_reduction"].get(name)
    random = run["kl_reduction_random"].get(name)
    share = kl / bound if kl is not None and bound and bound > 0 else None
    who = "The selection" if name == "target" else f"The selection for {name}"
    if kl is None:
        sentence = f"{who} is empty."
    elif random is not None and kl <= random:
        sentence = f"{who} is further from the target than a random one of equal size."
    elif kl <= 0:
        sentence = f"{who} is further from the target than raw is."
    elif share is None:
        sentence = f"{who} is nearer to the target than a random one of equal size."
    else:
        least = "at least " if config["method"] != "match" else ""
        sentence = f"{who} reaches {least}{max(0.0, share):.0%} of what any selection could."
    return {
        "target": name,
        "sentence": sentence,
        "kl_reduction": kl,
        "kl_reduction_random": random,
        "bound": bound,
        "share_of_bound": share,
        "effective_sample_size": run["effective_sample_size"].get(name, 0.0),
        "documents": run["selected_by_target"][name],
        "tokens": counted.num_tokens,
    }


def _bounds(
    model: DSIRModel, raw: DataFrame, selection: Selection, counted: Mapping[str, BucketCounts]
) -> dict[str, float]:
    """A bound for each target: the certificate holds at any q, here mixtures of raw and selection.

    KL reduction is concave in q, and its tangent at any q is above it: the least of them is taken.
    """
    names = [name for name in model.targets if counted[name].num_ngrams]
    p_raw = weights.distribution(model.raw.counts)
    mixtures, scoring = [], []
    for name in names:
        q_selected = weights.distribution(counted[name].counts)
        p = weights.distribution(model.targets[name].counts)
        for share in _MIXTURES:
            q = (1 - share) * p_raw + share * q_selected
            mixtures.append((name, q))
            scoring.append(matched.gradient(p, q))
    text = quoted(model.config.text_column).cast("string").alias("text")
    histograms = frames.score_histograms(
        model.documents(raw).select(text), np.ascontiguousarray(np.stack(scoring, axis=1)),
        model.config.features, selection.min_example_length,
    )  # fmt: skip
    bounds: dict[str, float] = {}
    for (name, q), histogram in zip(mixtures, histograms, strict=True):
        best = matched.best_mean(histogram, max(1, counted[name].num_ngrams))
        bound = matched.bound(model.targets[name].counts, model.raw.counts, q, best)
        bounds[name] = min(bound, bounds.get(name, bound))
    return bounds


def _curves(
    model: DSIRModel, raw: DataFrame, scored: DataFrame, selection: Selection
) -> dict[str, list[dict[str, float]]]:
    """KL reduction of the best k candidates for a few k, by target; one pass over raw.

    k is where a bin of the histogram of keys ends, so not a round number.
    """
    keys = selection.keys()
    pool = scored.where(selection.is_candidate())
    thresholds = []
    for key, wanted in zip(keys, selection.num_documents, strict=True):
        keyed = pool.select(key.alias(cuts.KEY), F.lit(0).alias("all"))
        rows = cuts.histograms(keyed, "all").get(0, [])
        total = sum(r["n"] for r in rows)
        sizes = sorted({min(total, max(1, round(wanted * s))) for s in _STEPS})
        found = [cuts.last_bin(rows, size, False) for size in sizes if rows]
        thresholds.append(sorted({r["low"] for r in found if r is not None}, reverse=True))
    text = quoted(model.config.text_column).cast("string").alias("text")
    quality = selection.options.quality is not None
    candidates = model.scored(model.documents(raw), quality=quality)
    candidates = candidates.where(selection.is_candidate())
    names, parts = [], []
    for t, (key, steps) in enumerate(zip(keys, thresholds, strict=True)):
        # The first step that the row reaches.
        band = F.coalesce(*[F.when(key >= F.lit(s), F.lit(f"{t}/{i}")) for i, s in enumerate(steps)]
                          ) if steps else F.lit(None).cast("string")  # fmt: skip
        names += [f"{t}/{i}" for i in range(len(steps))]
        parts.append(band)
    if not names:
        return {}
    each = F.explode(F.filter(F.array(*parts), lambda x: x.isNotNull())).alias("name")
    counted = frames.bucket_counts_by_name(
        candidates.select(each, text), names, model.config.features
    )
    curves = {}
    for t, (name, steps) in enumerate(zip(model.targets, thresholds, strict=True)):
        total, documents, curve = np.zeros_like(model.raw.counts), 0, []
        for i in range(len(steps)):
            counts, facts = counted[f"{t}/{i}"]
            total, documents = total + counts, documents + facts[frames.DOCUMENTS]
            kl = weights.kl_reduction(model.targets[name].counts, model.raw.counts, total)
            if kl is not None:
                curve.append({"documents": documents, "kl_reduction": kl})
        curves[name] = curve
    return curves


def _composition(
    raw: DataFrame, scored: DataFrame, chosen: DataFrame, selection: Selection, column: str
) -> dict[str, Any]:
    """Documents of each value of a column: raw, candidates (if weights keep it), selected."""
    value = quoted(column).cast("string").alias("value")

    def counts(frame: DataFrame) -> dict[Any, int]:
        top = frame.groupBy(value).count().orderBy(F.desc("count"), "value").limit(1_000)
        return {r["value"]: r["count"] for r in top.collect()}

    before, after = counts(raw), counts(chosen)
    between = counts(scored.where(selection.is_candidate())) if column in scored.columns else None
    all_before, all_after = max(1, sum(before.values())), max(1, sum(after.values()))
    order = sorted({*before, *after}, key=lambda v: (-after.get(v, 0), -before.get(v, 0), str(v)))
    return {
        "column": column,
        "rows": [
            {
                "value": str(v),
                "raw": before.get(v, 0),
                "raw_share": before.get(v, 0) / all_before,
                "candidates": None if between is None else between.get(v, 0),
                "selected": after.get(v, 0),
                "selected_share": after.get(v, 0) / all_after,
            }
            for v in order
        ],
    }


def _spread(
    selection: Selection, scored: DataFrame, chosen: DataFrame, sample: Sequence[Row], t: int
) -> dict[str, Any]:
    """How what documents are ranked by is spread, and how it goes with their length.

    sample : from `job.sample_of_ranks`
    """
    ids, rank = quoted(selection.id_column), job.ranks(selection)[t]
    matching = selection.method == "match"
    label = "log weight (nats)"
    if selection.options.normalize == "ngram" and not matching:
        label = "mean log ratio (nats an n-gram)"
    if selection.temperatures[t] != 1.0 and not matching:
        label += f" / {selection.temperatures[t]:.3g}"
    pool = scored.where(selection.is_candidate()).select(rank.alias("rank"))
    drawn = _histogram(pool, chosen.select(rank.alias("rank")))
    points = sample[:: max(1, len(sample) // _POINTS)]
    own = chosen.where(ids.isin([r["id"] for r in points])).select(ids.alias("id"))
    picked = {r["id"] for r in own.collect()} if points else set()
    length = np.array([float(r[NUM_TOKENS]) for r in sample])
    height = np.array([r[f"rank_{t}"] for r in sample])
    return {
        "weights": {**drawn, "label": label,
                    "cut": None if matching else _finite(selection.cuts[t].key)},
        "lengths": {"label": label, "points": [
            [r[NUM_TOKENS], r[f"rank_{t}"], r["id"] in picked] for r in points]},
        "correlation": checks.rank_correlation(length, height),
        "spread": float(height.std()) if len(height) else 0.0,
        "sample": len(sample),
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _histogram(pool: DataFrame, own: DataFrame) -> dict[str, Any]:
    """Documents in equal bins of rank, candidates and selected."""
    ends = pool.agg(F.min("rank"), F.max("rank"), F.count("*")).first()
    assert ends is not None
    low, high, total = ends[0] or 0.0, ends[1] or 0.0, ends[2]
    step = (high - low) / _BINS or 1.0
    at = F.least(F.floor((F.col("rank") - F.lit(low)) / F.lit(step)), F.lit(_BINS - 1))
    bins = F.greatest(at, F.lit(0)).cast("int").alias("bin")
    found = []
    for frame in (pool, own):
        counts = [0] * _BINS
        for row in frame.groupBy(bins).count().collect():
            counts[row["bin"]] = row["count"]
        found.append(counts)
    edges = [low + step * i for i in range(_BINS + 1)]
    return {"edges": edges, "candidates": found[0], "selected": found[1], "total": total}


def _drivers(
    model: DSIRModel, name: str, texts_raw: list[str], texts_target: list[str], number: int = 12
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The buckets that move weights most, by share of n-grams times log ratio."""
    ratio = model.log_ratio[name]
    p_target = weights.distribution(model.targets[name].counts)
    p_raw = weights.distribution(model.raw.counts)
    up = np.argsort(-(p_target * ratio), kind="stable")[:number]
    down = np.argsort(p_raw * ratio, kind="stable")[:number]
    spec = model.config.features
    sharers = (
        explain.Sharers(texts_target, spec, up.tolist()),
        explain.Sharers(texts_raw, spec, down.tolist()),
    )
    return tuple(  # type: ignore[return-value]
        [
            {
                "bucket": int(b),
                "log_ratio": float(ratio[b]),
                "p_target": float(p_target[b]),
                "p_raw": float(p_raw[b]),
                "ngrams": [[g, share] for g, share in who.of(int(b))],
            }
            for b in side
            if (ratio[b] > 0) == rising and ratio[b] != 0
        ]
        for side, who, rising in ((up, sharers[0], True), (down, sharers[1], False))
    )


def _examples(
    model: DSIRModel, selection: Selection, raw: DataFrame, scored: DataFrame, number: int
) -> list[list[dict[str, Any]]]:
    """Documents shown for each target, with their texts; one scan of raw for all."""
    targets = range(len(model.targets))
    places = [report.example_rows(scored, selection, t, number) if number else [] for t in targets]
    ids = list({row[selection.id_column] for own in places for _, row in own})
    texts = report.texts_of(raw, model, ids, _EXCERPT + 1) if ids else {}
    found: list[list[dict[str, Any]]] = []
    for t, (own, ratio) in enumerate(zip(places, model.log_ratio.values(), strict=True)):
        found.append([])
        for place, row in own:
            text = texts.get(row[selection.id_column], "")
            pieces = _pieces(text[:_EXCERPT], ratio, model)
            found[t].append(
                {
                    "place": place,
                    "id": str(row[selection.id_column]),
                    "key": _finite(row[report.KEY]),
                    "log_weight": row[column_name(selection.targets[t])],
                    "num_tokens": row[NUM_TOKENS],
                    "pieces": pieces,
                    "largest": max((abs(part) for _, part in pieces), default=0.0),
                    "more": len(text) > _EXCERPT,
                }
            )
    return found


def _pieces(text: str, ratio: Any, model: DSIRModel) -> list[tuple[str, float]]:
    """The text in pieces, with what each token adds to the weight; 0 between them."""
    spec = model.config.features
    if spec.tokenizer not in explain.BY_PATTERN:
        return [(text, 0.0)]
    spans = [m.span() for m in explain.pattern(spec.tokenizer).finditer(text)]
    number = len(explain.split(text, spec.tokenizer))
    parts = explain.token_parts(explain.terms(text, ratio, spec), number)
    if len(parts) != len(spans):  # lower-casing made or joined a token
        return [(text, 0.0)]
    pieces, at = [], 0
    for (start, end), part in zip(spans, parts.tolist(), strict=True):
        if start > at:
            pieces.append((text[at:start], 0.0))
        pieces.append((text[start:end], part))
        at = end
    return pieces


def _checks(
    run: Mapping[str, Any], config: Mapping[str, Any], model: DSIRModel, selection: Selection,
    compared: Sequence[Mapping[str, Any]],
) -> list[checks.Check | None]:  # fmt: skip
    found: list[checks.Check | None] = []
    for name in model.targets:
        who = job.called(model, name)
        chosen = run["selected_by_target"][name]
        size = run["effective_sample_size"].get(name, 0.0)
        found += [
            checks.worse_than_random(
                who, run["kl_reduction"].get(name), run["kl_reduction_random"].get(name)
            ),
            checks.few_effective(who, size, chosen, config["method"]),
        ]
    funnel = selection.funnel
    unit = report.unit(run)
    found.append(checks.shortfall(run["shortfall"], unit, funnel.candidates, funnel.selected))
    for column in compared:
        for row in column["rows"][:1]:
            found.append(
                checks.dominates(
                    column["column"], row["value"], row["selected_share"], row["raw_share"]
                )
            )  # fmt: skip
    return found
