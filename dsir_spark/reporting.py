"""What is told of a run that ended, by its record: the report anew, and documents explained."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from dsir_spark import history, inputs, matchings, report, resampling, score_job, tables
from dsir_spark.columns import check_column
from dsir_spark.dsir import DSIRModel
from dsir_spark.options import ResampleOptions
from dsir_spark.runs import MATCH, MODEL, REPORT, SELECTED, WEIGHTS, Progress, quiet
from dsir_spark.selection import Selection


def report_again(
    spark: SparkSession,
    output: str,
    composition: Sequence[str] = (),
    examples: int = 3,
    progress: Progress = quiet,
    allow_functions: bool = False,
) -> report.Facts | report.ScoreFacts:
    """The facts of the latest selection under `output`, gathered anew.

    Parameters
    ----------
    composition : columns of raw whose values are counted before and after
    examples : documents shown of each place, for each target; 0: no text and no n-gram
    allow_functions : may the model's tokenizer be a function, which is imported and run?

    Raises
    ------
    TableError
        There is no finished selection under `output`, or its raw table is gone or changed.
    ColumnError
        A column of `composition` is not in raw.
    """
    output = tables.resolved(spark, output)
    row = history.latest_selection(spark, output)
    if row["command"] == "select":
        return score_job.report_again(spark, output, row, tuple(composition), examples, progress)
    raw = inputs.recorded_raw(spark, row)
    for name in composition:
        check_column(raw, name, "raw", "composition")

    def table(name: str) -> DataFrame:
        return _read(spark, tables.within(output, name), row[f"{name}_version"])

    model = read_model(spark, output, row, allow_functions)
    weights, own = table(WEIGHTS), _options_of(row["selection"], model)
    pool = resampling.pool_of(model, own, weights.columns).of(weights)
    selection = Selection.from_json(row["selection"], pool)
    targets = inputs.recorded_targets(spark, row["target"])
    for name in model.targets.keys() - targets.keys():
        said = f"the report lacks the n-grams of target {name}, which is gone or changed"
        warnings.warn(said, UserWarning, stacklevel=2)
    with progress("gathering the facts of the report"):
        return report.gather(
            run=row, model=model, raw=raw, weights=weights, selected=table(SELECTED),
            selection=selection, targets=targets, composition=composition, examples=examples,
        )  # fmt: skip


def explain(
    spark: SparkSession, output: str, ids: Sequence[str], number: int = 20,
    allow_functions: bool = False,
) -> str:  # fmt: skip
    """The weights of documents under the model of `output`, split over their n-grams, as text.

    Raises
    ------
    DataError
        Raw has no document of an id.
    """
    output = tables.resolved(spark, output)
    row = history.latest_selection(spark, output)
    score_job.refuse_explaining(row)
    model = read_model(spark, output, row, allow_functions, learnt=False)
    return report.explained(model, inputs.recorded_raw(spark, row), ids, number)


def write_report(
    spark: SparkSession, facts: report.Facts | report.ScoreFacts, output: str,
    html: str | None = None,
) -> str:  # fmt: skip
    """The path of the page, written with its facts as JSON beside it and as a row of `report`.

    Parameters
    ----------
    html : path of the page; by default `report.html` under a local output, else
        `dsir-report.html` in the current folder.
    """
    written = report.write(facts, output, html)
    frame = report.as_frame(spark, facts)
    place = tables.within(tables.resolved(spark, output), REPORT)
    tables.append(frame, place, {tables.RUN_ID: facts.run.id})
    return written


def read_model(
    spark: SparkSession, output: str, row: Mapping[str, Any], functions: bool, learnt: bool = True
) -> DSIRModel:
    """The model as a run knew it; `learnt`: with the steps of a matched selection."""
    place = tables.within(output, MODEL)
    version = tables.version_to_read(spark, place, row["model_version"])
    model = DSIRModel.load(place, spark=spark, version=version, allow_functions=functions)
    if not learnt or row.get("match_version") is None:
        return model
    place = tables.within(output, MATCH)
    version = tables.version_to_read(spark, place, row["match_version"])
    return matchings.load_matchings(model, place, spark=spark, version=version)


def _read(spark: SparkSession, place: str, version: int) -> DataFrame:
    """A table of a run as it was at the version that the run wrote."""
    return tables.read(spark, place, place, tables.version_to_read(spark, place, version))


def _options_of(selection: str, model: DSIRModel) -> ResampleOptions:
    """The options on a selection's record."""
    return ResampleOptions.checked(json.loads(selection)["options"], tuple(model.targets))
