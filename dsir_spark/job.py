"""The job in stages over Delta tables: fit, weigh, resample, or all of them as `run`.

Each stage is a function of what it needs; it writes its table in one commit, and the run's row in
`runs` is the last (`runs`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from dsir_spark import (
    features,
    increments,
    inputs,
    labels,
    matchings,
    places,
    plans,
    preflight,
    recorded,
    rejecting,
    report,
    reporting,
    resampling,
    score_job,
)
from dsir_spark.columns import NUM_TOKENS, TEXT_HASH, quoted
from dsir_spark.dsir import DSIR, DSIRModel
from dsir_spark.errors import DSIRError
from dsir_spark.history import RUNS
from dsir_spark.inputs import Input, open_input
from dsir_spark.job_options import JobOptions
from dsir_spark.options import FitOptions, ResampleOptions
from dsir_spark.runs import (
    DOCUMENTS,
    MATCH,
    MODEL,
    REJECTED,
    SELECTED,
    WEIGHTS,
    WRITES,
    Progress,
    Run,
    quiet,
)
from dsir_spark.scoring import distributions, matched
from dsir_spark.scoring.documents import spec_of, without_held_out
from dsir_spark.scoring.stored import as_frame
from dsir_spark.selection import Selection

explain, report_again, select, write_report = (
    reporting.explain, reporting.report_again, score_job.select, reporting.write_report
)


# Options that the steps of a matched selection are learnt by.
_LEARNT_BY = (
    "num_to_sample", "num_tokens_to_sample", "size_column", "proportions", "min_example_length",
    "match_steps", "match_tokens",
)  # fmt: skip
_log = logging.getLogger("dsir_spark")


def compile_kernels(options: JobOptions) -> None:
    """Compile what the fit takes, or load it: for this needs no session, which may start meanwhile.

    The workers of this machine find the result on disk.
    """
    features.compile_kernels(spec_of(options.part(FitOptions)))


def fit(spark: SparkSession, options: JobOptions, progress: Progress = quiet) -> dict[str, Any]:
    """Fit a model from raw and target and write it; the run's row."""
    options.require("raw", "target", "output")
    options, looked = preflight.resolved(spark, options), None
    if options.incremental:
        looked = Run(spark, options, "fit", progress)
        if looked.there[MODEL] is not None:
            return increments.fit(looked)
    run, raw, targets = _opened(spark, options, "fit", progress, looked)
    fit_options = preflight.open_inputs(run, raw, targets)
    run.begin()
    _model(run, fit_options, targets, raw)
    return run.finish()


def weigh(spark: SparkSession, options: JobOptions, progress: Progress = quiet) -> dict[str, Any]:
    """Weigh raw with the model under the output and write the weights; the run's row."""
    options.require("output")
    run = Run(spark, preflight.resolved(spark, options), "weigh", progress)
    model, earlier = recorded.model_of_record(run)
    if options.incremental and run.there[WEIGHTS] is not None:
        return increments.weigh(run, model)
    raw = recorded.open_raw(run, earlier)
    preflight.check_columns(run, raw, model.config, model.names)
    texts = preflight.open_decontamination(run, model.config)
    plans.check(spark, model.config, len(model.targets), texts)
    run.begin()
    if not run.done(WEIGHTS):
        model = dataclasses.replace(model, decontamination=texts)
        preflight.check_ids(run, raw, model.config.id_column)
        _write_weights(run, model, raw)
    return run.finish()


def resample_again(
    spark: SparkSession, options: JobOptions, progress: Progress = quiet
) -> dict[str, Any]:
    """Select from the weights under the output; nothing is fitted or weighed. The run's row.

    An earlier selection is replaced; it stays readable as an older version of the table.
    """
    options.require("output", budget=True)
    run = Run(spark, preflight.resolved(spark, options), "resample", progress)
    model, _ = recorded.model_of_record(run)
    earlier = recorded.weights_of_record(run)
    recorded.method_of_record(run, earlier)
    raw = recorded.open_raw(run, earlier, WEIGHTS)
    preflight.check_columns(run, raw, model.config, model.names)
    recorded.refuse_foreign_weights(run, model, earlier, raw)
    run.facts["weights_version"] = earlier["weights_version"]
    recorded.leave_ids_unchecked(run, earlier)
    texts = preflight.open_decontamination(run, model.config, earlier.get("decontaminate"))
    plans.check(spark, model.config, len(model.targets), texts, run.options)
    run.begin()
    learnt = _as_learnt(run, model, raw, earlier) if run.options.method == "match" else model
    # What a document is ranked by depends on how many are wanted: for others texts are read again.
    model = dataclasses.replace(learnt or _match(run, model, raw), decontamination=texts)
    if learnt is None and not run.done(WEIGHTS):
        _write_weights(run, model, raw)
    targets = inputs.recorded_targets(spark, run.facts["target"])
    return _select(run, model, raw, targets, None)


def run_all(spark: SparkSession, options: JobOptions, progress: Progress = quiet) -> dict[str, Any]:
    """Fit, weigh and resample; the run's row.

    Where nothing can be selected as the options say, model and weights stay all the same:
    `resample` goes on from them.
    """
    options.require("raw", "target", "output", budget=True)
    options = preflight.resolved(spark, options)
    run, raw, opened = _opened(spark, options, "run", progress)
    fit_options = preflight.open_inputs(run, raw, opened)
    texts = preflight.open_decontamination(run, fit_options)
    plans.check(spark, fit_options, len(opened), texts, options)
    run.begin()
    there = run.there[MODEL]
    if not (run.done(MODEL) and there and recorded.ids_checked(there.record)):
        preflight.check_ids(run, raw, fit_options.id_column)
    model = _model(run, fit_options, opened, raw)
    targets = {name: target.frame for name, target in opened.items()}
    fitted = report.gather_fit(model, run.options.part(ResampleOptions), targets)
    report.checks.tell(report.checks.found(fitted))
    if options.method == "match":
        model = _match(run, model, raw)
    model = dataclasses.replace(model, decontamination=texts)
    rows = model.raw.num_documents if model.fitted_share == 1 else None
    if not run.done(WEIGHTS, rows):
        _write_weights(run, model, raw, rows)
    return _select(run, model, raw, targets, fitted)


def _opened(
    spark: SparkSession, options: JobOptions, command: str, progress: Progress,
    run: Run | None = None,
) -> tuple[Run, Input, dict[str, Input]]:  # fmt: skip
    """A run that has looked at its output, raw, and the targets: looked at side by side.

    None needs another, and the first look that Spark takes at anything costs seconds.
    """
    with labels.threads(spark) as aside:
        raw = aside.submit(
            open_input, spark, str(options.raw), options.raw_format, "raw", options.where
        )
        targets = {
            name: aside.submit(open_input, spark, place, options.target_format, owner)
            for name, (owner, place) in preflight.named_targets(options).items()
        }
        run = run or Run(spark, options, command, progress)
        return run, raw.result(), {name: target.result() for name, target in targets.items()}


def _model(
    run: Run, fit_options: FitOptions, targets: Mapping[str, Input], raw: Input
) -> DSIRModel:  # fmt: skip
    """The model, fitted and written; or read, where this run had written it."""
    if run.done(MODEL):
        output, functions = str(run.options.output), run.options.allow_functions
        return reporting.read_model(run.spark, output, run.facts, functions, learnt=False)
    frames = {name: target.frame for name, target in targets.items()}
    shares = json.loads(run.facts["held_out"])
    texts = without_held_out(frames, fit_options.text_column, shares)
    with run.stage("fit", "counting n-grams of raw and target"):
        given = texts["target"] if run.options.single_target else texts
        own = {**fit_options.model_dump(), "allow_functions": run.options.allow_functions}
        model = DSIR(**own).fit(raw.frame, given)
    raw.check_unchanged()
    run.facts["model_fingerprint"] = model.fingerprint
    run.facts["classifier"] = model.classifier_facts
    with run.stage("write_model", "writing the model"):
        run.write(as_frame(model, run.spark), MODEL)
    return model


def _match(run: Run, model: DSIRModel, raw: Input) -> DSIRModel:
    """The model with the steps of a matched selection, which are written."""
    if run.done(MATCH):
        output, functions = str(run.options.output), run.options.allow_functions
        return reporting.read_model(run.spark, output, run.facts, functions)
    with run.stage("match", "learning the steps of the matched selection"):
        learnt = matchings.learn_matchings(model, raw.frame, run.options.part(ResampleOptions))
        steps = {}
        for name, m in learnt.matchings.items():
            target = model.targets[name].counts
            steps[name] = {
                "num_ngrams": [step.num_ngrams for step in m.steps],
                "thresholds": m.thresholds.tolist(),
                "kl_reduction": matched.kl_path(m, target, model.raw.counts)[1:],
                "kl_bound": matched.bound_path(m, target, model.raw.counts),
            }
        run.facts["match"] = json.dumps(steps)
        run.write(matchings.as_frame(learnt, run.spark), MATCH)
    return learnt


def _as_learnt(
    run: Run, model: DSIRModel, raw: Input, earlier: Mapping[str, Any]
) -> DSIRModel | None:
    """The model with the steps that the weights on record were made by; None where these options
    ask for other steps, or for columns that the weights lack.

    Learnt anew the steps would be the same, but where raw grew since (`weigh --incremental`): that
    is noted.
    """
    there = run.there[MATCH]
    if there is None or there.data != earlier.get("match_version") or "raw" not in there.record:
        return None
    was, now = json.loads(there.record["config"]), json.loads(run.options.to_json())
    if any(was.get(name) != now[name] for name in _LEARNT_BY):
        return None
    model = matchings.of_record(model, run.place(MATCH), earlier, spark=run.spark)
    wanted = preflight.weighed(model, raw.frame, run.options).columns
    if set(wanted) - set(run.read(WEIGHTS).columns):
        return None
    if there.record["raw"] != earlier["raw"]:
        note = ("raw has grown since the steps of the matched selection were learnt; to learn them "
                "from all of it: `weigh --overwrite`, then `resample --method match`")  # fmt: skip
        run.facts["notes"] = [*run.facts["notes"], note]
        _log.info(note)
    run.facts |= {name: earlier[name] for name in ("match", "match_version")}
    return model


def _write_weights(run: Run, model: DSIRModel, raw: Input, rows: int | None = None) -> None:
    """Weigh raw, which may be another than the model was fitted on; rows : of it, if known."""
    run.facts["table_fingerprint"] = distributions.table_fingerprint(model.tables())
    with run.stage("weigh", "weighing raw", rows):
        weights = preflight.weighed(model, raw.frame, run.options)
        run.write(weights, WEIGHTS, rows=rows, unchanged=raw.check_unchanged)


def _told(
    model: DSIRModel, selection: Selection, weights: DataFrame, *more: Any
) -> report.WeightFacts:
    """What weights tell; the warnings by it as soon as it is known."""
    with labels.described(weights.sparkSession, "looking at the weights"):
        found = report.gather_weights(model, selection, weights, *more)
    report.checks.tell(report.checks.found(found))
    return found


def _select(
    run: Run, model: DSIRModel, raw: Input, targets: Mapping[str, DataFrame],
    fitted: report.FitFacts | None,
) -> dict[str, Any]:  # fmt: skip
    """Find the cut, write the selected documents, gather the facts of the run, and finish it."""
    options = run.options
    try:
        weights, there = run.read(WEIGHTS), run.there[WEIGHTS]
        with run.stage("cut", "finding the cut-off"):
            found = resampling.find_selection(
                model, weights, options.part(ResampleOptions), there.rows if there else None
            )
            selection = found.after(raw.count_dropped())
    except DSIRError as error:
        left = "model and weights are written: `resample` goes on from them"
        raise type(error)(f"{error} ({left})") from None
    run.facts |= {
        "table_fingerprint": distributions.table_fingerprint(model.tables()),
        "seed": options.seed,
        "num_to_sample": options.num_to_sample,
        "num_tokens_to_sample": options.num_tokens_to_sample,
        "shortfall": options.budget - sum(selection.size or selection.num_documents),
        "selection": selection.to_json(),
        "funnel": selection.funnel,
        "temperature": dict(zip(model.targets, selection.temperatures, strict=True)),
    }
    wanted, read = selection.num_selected, selection.funnel["read"]
    own = [c for c in options.keep if c in weights.columns]
    with labels.threads(run.spark) as aside:
        telling = aside.submit(_told, model, selection, weights, targets, own)
        if not run.done(SELECTED, wanted):
            with run.stage("select", "writing the selected documents", read):
                rows = resampling.selected_rows(
                    model, raw.frame, selection, weights, sent=True, unique_ids=options.check_ids
                )  # fmt: skip
                run.write(rows, SELECTED, rows=wanted, unchanged=raw.check_unchanged)
    selected, weighed = run.read(SELECTED), telling.result()
    if options.whole_documents is not None and not run.done(DOCUMENTS):
        with run.stage("documents", "writing the documents whose chunks were selected"):
            share = options.whole_documents
            whole = resampling.whole_documents(model, raw.frame, selected, share)
            run.write(whole, DOCUMENTS)
    if options.rejected is not None and not run.done(REJECTED):
        with run.stage("reject", "writing some of what was rejected"):
            run.write(_rejected(model, raw, selection, weights, options.rejected), REJECTED)
    with run.stage("evaluate", "measuring what was selected"):
        facts = report.gather(
            run=run.row(), model=model, raw=raw.frame, weights=weights, selected=selected,
            selection=selection, targets=targets, fit=fitted, weighed=weighed,
            composition=options.keep, page=options.report, examples=2 if options.examples else 0,
        )  # fmt: skip
        told = report.checks.found(weighed)
        report.checks.tell(c for c in report.checks.found(facts.weights) if c not in told)
        run.facts |= facts.row()
    return {**run.finish(), "facts": facts}


def _rejected(
    model: DSIRModel, raw: Input, selection: Selection, weights: DataFrame, number: int
) -> DataFrame:
    """The table `rejected`: the columns of `weights`, stage, reason and number."""
    tokens, size = quoted(NUM_TOKENS), selection.pool.size
    # Ids that are made of texts or of chunks are those of rows that were read.
    source = None if model.id_name != model.config.id_column else raw
    told = {"blank": tokens, "too_short": tokens} | ({} if size is None else {"without_size": size})
    scores = [*selection.pool.scores.values()]
    return rejecting.table_of(selection, weights, source, number, scores, told, [TEXT_HASH])


def written_places(output: str, row: Mapping[str, Any]) -> list[str]:
    """Where the tables are that the run of a row wrote."""
    names = [n for n in WRITES[row["command"]] if row.get(f"{n}_version") is not None]
    return [places.within(output, name) for name in (*names, RUNS)]
