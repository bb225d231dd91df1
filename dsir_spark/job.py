"""The job in stages over Delta tables: fit, weigh, resample, or all of them as `run`.

Each stage is a function of what it needs; it writes its table in one commit, and the run's row in
`runs` is the last (`runs`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from dsir_spark import inputs, matchings, report, resampling, runs, tables
from dsir_spark.columns import check_column
from dsir_spark.dsir import DSIR, DSIRModel
from dsir_spark.errors import DataError, DSIRError
from dsir_spark.inputs import Input, open_input
from dsir_spark.options import FitOptions, JobOptions, ResampleOptions
from dsir_spark.preflight import (
    check_columns,
    check_ids,
    model_of_record,
    open_raw,
    refuse_existing,
    refuse_foreign_weights,
    resolved,
    weights_of_record,
    what_to_fit,
)
from dsir_spark.runs import (
    DOCUMENTS,
    MATCH,
    MODEL,
    REPORT,
    RUNS,
    SELECTED,
    WEIGHTS,
    Progress,
    Run,
    quiet,
)
from dsir_spark.scoring import distributions, matched
from dsir_spark.selection import Selection


def fit(spark: SparkSession, options: JobOptions, progress: Progress = quiet) -> dict[str, Any]:
    """Fit a model from raw and target and write it; the run's row."""
    options.require("raw", "target", "output")
    run = Run(spark, resolved(spark, options), "fit", progress)
    refuse_existing(run, MODEL)
    raw = open_input(spark, str(options.raw), options.raw_format, "raw", options.where)
    _write_model(run, _fit(run, *what_to_fit(run, raw), raw))
    return run.finish()


def weigh(spark: SparkSession, options: JobOptions, progress: Progress = quiet) -> dict[str, Any]:
    """Weigh raw with the model under the output and write the weights; the run's row."""
    options.require("output")
    run = Run(spark, resolved(spark, options), "weigh", progress)
    refuse_existing(run, WEIGHTS)
    model, earlier = model_of_record(run)
    raw = open_raw(run, earlier)
    check_columns(run, raw, model.config, model.names)
    check_ids(run, raw, model.config)
    _write_weights(run, model, raw)
    return run.finish()


def resample_again(
    spark: SparkSession, options: JobOptions, progress: Progress = quiet
) -> dict[str, Any]:
    """Select from the weights under the output; nothing is fitted or weighed. The run's row.

    An earlier selection is replaced; it stays readable as an older version of the table.
    """
    options.require("output", budget=True)
    run = Run(spark, resolved(spark, options), "resample", progress)
    model, _ = model_of_record(run)
    earlier = weights_of_record(run)
    raw = open_raw(run, earlier, weighed=True)
    check_columns(run, raw, model.config, model.names)
    refuse_foreign_weights(run, model, earlier, raw)
    run.facts["weights_version"] = earlier["weights_version"]
    if options.method == "match":
        # What a document is ranked by depends on how many are wanted: its text is read again.
        model = _match(run, model, raw)
        _write_weights(run, model, raw)
    targets = inputs.recorded_targets(spark, run.facts["target"])
    weights, selection, weighed = _cut(run, model, targets)
    return _select(run, model, raw, weights, selection, targets, None, weighed)


def run_all(spark: SparkSession, options: JobOptions, progress: Progress = quiet) -> dict[str, Any]:
    """Fit, weigh and resample; the run's row.

    Where nothing can be selected as the options say, model and weights are on record all the same:
    `resample` goes on from them.
    """
    options.require("raw", "target", "output", budget=True)
    run = Run(spark, resolved(spark, options), "run", progress)
    refuse_existing(run, MODEL, WEIGHTS, SELECTED, RUNS)
    raw = open_input(spark, str(options.raw), options.raw_format, "raw", options.where)
    fit_options, opened = what_to_fit(run, raw)
    check_ids(run, raw, fit_options)
    model = _fit(run, fit_options, opened, raw)
    targets = {name: target.frame for name, target in opened.items()}
    fitted = report.gather_fit(model, options.part(ResampleOptions), targets)
    report.checks.tell(report.checks.found(fitted))
    _write_model(run, model)
    if options.method == "match":
        model = _match(run, model, raw)
    _write_weights(run, model, raw)
    try:
        weights, selection, weighed = _cut(run, model, targets)
    except DSIRError as error:
        run.finish()
        left = "model and weights are written: `resample` goes on from them"
        raise type(error)(f"{error} ({left})") from None
    return _select(run, model, raw, weights, selection, targets, fitted, weighed)


def report_again(
    spark: SparkSession,
    output: str,
    composition: Sequence[str] = (),
    examples: int = 3,
    progress: Progress = quiet,
) -> report.Facts:
    """The facts of the latest selection under `output`, gathered anew.

    Parameters
    ----------
    composition : columns of raw whose values are counted before and after
    examples : documents shown of each place, for each target

    Raises
    ------
    TableError
        There is no finished selection under `output`, or its raw table is gone or changed.
    ColumnError
        A column of `composition` is not in raw.
    """
    output = tables.resolved(spark, output)
    row = runs.latest_selection(spark, output)
    raw = inputs.recorded_raw(spark, row)
    for name in composition:
        check_column(raw, name, "raw", "composition")

    def table(name: str) -> DataFrame:
        return _read(spark, tables.within(output, name), row[f"{name}_version"])

    model = _read_model(spark, output, row)
    selection = Selection.from_json(
        row["selection"], resampling.pool_of(model, _options_of(row["selection"], model))
    )
    targets = inputs.recorded_targets(spark, row["target"])
    for name in model.targets.keys() - targets.keys():
        said = f"the report lacks the n-grams of target {name}, which is gone or changed"
        warnings.warn(said, UserWarning, stacklevel=2)
    with progress("gathering the facts of the report"):
        return report.gather(
            run=row, model=model, raw=raw, weights=table(WEIGHTS), selected=table(SELECTED),
            selection=selection, targets=targets, composition=composition, examples=examples,
        )  # fmt: skip


def explain(spark: SparkSession, output: str, ids: Sequence[str], number: int = 20) -> str:
    """The weights of documents under the model of `output`, split over their n-grams, as text.

    Raises
    ------
    DataError
        Raw has no document of an id.
    """
    output = tables.resolved(spark, output)
    row = runs.latest_selection(spark, output)
    model = _read_model(spark, output, row, learnt=False)
    return report.explained(model, inputs.recorded_raw(spark, row), ids, number)


def write_report(
    spark: SparkSession, facts: report.Facts, output: str, html: str | None = None
) -> str:
    """The path of the page, written with its facts as JSON beside it and as a row of `report`.

    Parameters
    ----------
    html : path of the page; by default `report.html` under a local output, else
        `dsir-report.html` in the current folder.
    """
    written = report.write(facts, output, html)
    frame = report.as_frame(spark, facts)
    tables.append(frame, tables.within(output, REPORT), run_id=facts.run.id)
    return written


def _fit(
    run: Run, fit_options: FitOptions, targets: Mapping[str, Input], raw: Input
) -> DSIRModel:  # fmt: skip
    texts = {name: t.frame for name, t in targets.items()}
    with run.stage("fit", "counting n-grams of raw and target"):
        given = texts["target"] if run.options.single_target else texts
        model = DSIR(**fit_options.model_dump()).fit(raw.frame, given)
    run.facts |= {
        "raw": json.dumps(raw.identity, sort_keys=True),
        "target": json.dumps({n: t.identity for n, t in targets.items()}, sort_keys=True),
    }
    return model


def _write_model(run: Run, model: DSIRModel) -> None:
    with run.stage("write_model", "writing the model"):
        version = model.save(
            run.place(MODEL), spark=run.spark, overwrite=True, run_id=run.run_id
        )  # fmt: skip
    run.facts |= {"model_fingerprint": model.fingerprint, "model_version": version}


def _read_model(
    spark: SparkSession, output: str, row: Mapping[str, Any], learnt: bool = True
) -> DSIRModel:
    place = tables.within(output, MODEL)
    version = tables.version_to_read(spark, place, row["model_version"])
    model = DSIRModel.load(place, spark=spark, version=version)
    if not learnt or row["match_version"] is None:
        return model
    place = tables.within(output, MATCH)
    version = tables.version_to_read(spark, place, row["match_version"])
    return matchings.load_matchings(model, place, spark=spark, version=version)


def _read(spark: SparkSession, place: str, version: int) -> DataFrame:
    """A table of a run as it was at the version that the run wrote."""
    return tables.read(
        spark, place, "delta", place, tables.version_to_read(spark, place, version)
    )  # fmt: skip


def _options_of(selection: str, model: DSIRModel) -> ResampleOptions:
    """The options on a selection's record."""
    return ResampleOptions.checked(json.loads(selection)["options"], tuple(model.targets))


def _match(run: Run, model: DSIRModel, raw: Input) -> DSIRModel:
    """The model with the steps of a matched selection, which are written."""
    with run.stage("match", "learning the steps of the matched selection"):
        learnt = matchings.learn_matchings(model, raw.frame, run.options.part(ResampleOptions))
        run.facts["match_version"] = matchings.save_matchings(
            learnt, run.place(MATCH), spark=run.spark, run_id=run.run_id
        )
    steps = {
        name: {
            "num_ngrams": [step.num_ngrams for step in m.steps],
            "thresholds": m.thresholds.tolist(),
            "kl_reduction": matched.kl_path(m, model.targets[name].counts, model.raw.counts)[1:],
            "kl_bound": matched.bound_path(m, model.targets[name].counts, model.raw.counts),
        }
        for name, m in learnt.matchings.items()
    }
    run.facts["match"] = json.dumps(steps)
    return learnt


def _write_weights(run: Run, model: DSIRModel, raw: Input) -> None:
    options = run.options
    with run.stage("weigh", "weighing raw"):
        weights = model.weigh(
            raw.frame, (*options.keep, *options.needed_columns),
            text_hash=options.duplicates == "drop", quality=options.quality is not None,
        )  # fmt: skip
        version = run.write(weights, WEIGHTS)
    run.facts |= {
        "weights_version": version,
        "table_fingerprint": distributions.table_fingerprint(model.tables()),
    }


def _cut(
    run: Run, model: DSIRModel, targets: Mapping[str, DataFrame]
) -> tuple[DataFrame, Selection, report.WeightFacts]:
    """The weights table of the run and what is selected by it; nothing is written."""
    weights = _read(run.spark, run.place(WEIGHTS), run.facts["weights_version"])
    with run.stage("cut", "finding the cut-off"):
        selection = resampling.find_selection(model, weights, run.options.part(ResampleOptions))
        own = [c for c in run.options.keep if c in weights.columns]
        weighed = report.gather_weights(model, selection, weights, targets, own)
        report.checks.tell(report.checks.found(weighed))
    return weights, selection, weighed


def _select(
    run: Run, model: DSIRModel, raw: Input, weights: DataFrame, selection: Selection,
    targets: Mapping[str, DataFrame], fitted: report.FitFacts | None, weighed: report.WeightFacts,
) -> dict[str, Any]:  # fmt: skip
    """Write the selected documents, gather the facts of the run, and finish it."""
    options = run.options
    with run.stage("select", "writing the selected documents"):
        rows = resampling.selected_rows(
            model, raw.frame, selection, weights, sent=True, unique_ids=options.check_ids
        )  # fmt: skip
        version = run.write(rows, SELECTED)
        selected = _read(run.spark, run.place(SELECTED), version)
        if options.whole_documents is not None:
            whole = resampling.whole_documents(model, raw.frame, selected, options.whole_documents)
            run.write(whole, DOCUMENTS)
    run.facts |= {
        "table_fingerprint": distributions.table_fingerprint(model.tables()),
        "selected_version": version,
        "seed": options.seed,
        "num_to_sample": options.num_to_sample,
        "num_tokens_to_sample": options.num_tokens_to_sample,
        "shortfall": options.budget - sum(selection.size or selection.num_documents),
        "selection": selection.to_json(),
        "funnel": _with_filtered(run, raw, selection.funnel),
        "temperature": dict(zip(model.targets, selection.temperatures, strict=True)),
    }
    with run.stage("evaluate", "measuring what was selected"):
        facts = report.gather(
            run=run.row(), model=model, raw=raw.frame, weights=weights, selected=selected,
            selection=selection, targets=targets, fit=fitted, weighed=weighed,
            composition=options.keep, page=options.report,
        )  # fmt: skip
        run.facts |= facts.row()
        written = sum(facts.row()["selected_by_target"].values())
    if written != selection.num_selected:
        raise DataError(
            f"{written} documents were written where {selection.num_selected} "
            "were selected: raw changed while it was read; run again on data that stands still"
        )
    return {**run.finish(), "facts": facts}


def _with_filtered(run: Run, raw: Input, funnel: Mapping[str, int]) -> dict[str, int]:
    """The funnel with what `where` left out, counted without reading a text."""
    if run.options.where is None:
        return dict(funnel)
    left_out = raw.everything.count() - raw.frame.count()
    return {**funnel, "read": funnel["read"] + left_out, "filtered": left_out}


def written_places(output: str) -> list[str]:
    """Where the four tables of an output are."""
    return [tables.within(output, name) for name in (MODEL, WEIGHTS, SELECTED, RUNS)]
