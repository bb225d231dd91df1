"""What is told of a run that ended, by its record: the report anew, and documents explained."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dsir_spark import (
    failures,
    history,
    inputs,
    matchings,
    places,
    report,
    resampling,
    score_job,
    tables,
)
from dsir_spark.columns import check_column
from dsir_spark.dsir import DSIRModel
from dsir_spark.errors import TableError
from dsir_spark.options import ResampleOptions
from dsir_spark.runs import MATCH, MODEL, REPORT, SELECTED, WEIGHTS, Progress, quiet
from dsir_spark.selection import Selection

_EXAMPLES = 3  # of each place


def report_again(
    spark: SparkSession,
    output: str,
    composition: Sequence[str] = (),
    examples: int | None = None,
    progress: Progress = quiet,
    allow_functions: bool = False,
) -> report.Facts | report.ScoreFacts:
    """The facts of the latest selection under `output`, gathered anew.

    Where raw or a table of the run cannot be read any more they are those that were stored, with a
    check (`as_stored`) that says what is missing.

    Parameters
    ----------
    composition : columns of raw (of a `select`: of its table `scores`) whose values are counted
        before and after; none: those that the run kept
    examples : documents shown of each place, for each target; 0: no text and no n-gram; None: 3, or
        0 where the run was to show none
    allow_functions : may the model's tokenizer be a function, which is imported and run?

    Raises
    ------
    TableError
        There is no finished selection under `output`.
    ColumnError
        A column of `composition` is not in raw.
    """
    output = places.resolved(spark, output)
    row = history.latest_selection(spark, output)
    config = json.loads(row["config"])
    named = tuple(composition) or tuple(config.get("keep") or ())
    if examples is None:
        examples = _EXAMPLES if config.get("examples", True) else 0
    try:
        if row["command"] == "select":
            return score_job.report_again(spark, output, row, named, examples, progress)
        return _gathered(spark, output, row, named, examples, progress, allow_functions)
    except Exception as error:
        why = str(error) if isinstance(error, TableError) else failures.told(error)
        if why is None:
            raise
    kept = _kept(spark, output, row["run_id"])
    there = {c["column"] for c in (kept or {}).get("composition", ())}
    if lacking := [name for name in composition if name not in there]:
        why += f" (nor can {', '.join(lacking)} be counted)"
    return report.as_stored(row, kept, why, examples > 0)


def _gathered(
    spark: SparkSession, output: str, row: Mapping[str, Any], composition: Sequence[str],
    examples: int, progress: Progress, allow_functions: bool,
) -> report.Facts:  # fmt: skip
    """The facts of a run that selected by a model, from its tables and raw."""
    raw = inputs.recorded_raw(spark, row)
    for name in composition:
        check_column(raw, name, "raw", "composition")

    def table(name: str) -> DataFrame:
        place = places.within(output, name)
        version = tables.version_to_read(spark, place, row[f"{name}_version"])
        return tables.read(spark, place, place, version)

    model = read_model(spark, output, row, allow_functions)
    given = json.loads(row["selection"])["options"]
    weights, own = table(WEIGHTS), ResampleOptions.checked(given, tuple(model.targets))
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


def _kept(spark: SparkSession, output: str, run_id: str) -> dict[str, Any] | None:
    """The last report that was gathered of a run, as JSON has it; None where none was kept."""
    place, own = places.within(output, REPORT), F.col("run_id") == F.lit(run_id)
    with contextlib.suppress(TableError):
        rows = tables.read(spark, place).where(own).orderBy(F.desc("written_at"))
        if (last := rows.first()) is not None:
            return dict(json.loads(last["facts"]))
    with contextlib.suppress(OSError, ValueError):
        beside = json.loads(Path(output, "report.json").read_text(encoding="utf-8"))
        return beside if beside["run"]["id"] == run_id else None
    return None


def explain(
    spark: SparkSession, output: str, ids: Sequence[str], number: int = 20,
    allow_functions: bool = False,
) -> str:  # fmt: skip
    """The weights of documents under the model of `output`, split over their n-grams, as text.

    Raises
    ------
    TableError
        The latest selection knows no n-grams.
    DataError
        Raw has no document of an id.
    """
    output = places.resolved(spark, output)
    row = history.latest_selection(spark, output)
    if row["command"] == "select":
        raise TableError("the latest selection is by a score, not by a model: there are no n-grams "
                         "to explain it by")  # fmt: skip
    model = read_model(spark, output, row, allow_functions, learnt=False)
    return report.explained(model, inputs.recorded_raw(spark, row), ids, number)


def write_report(
    spark: SparkSession, facts: report.Facts | report.ScoreFacts, output: str,
    html: str | None = None,
) -> str:  # fmt: skip
    """The path of the page, written with its facts as JSON beside it and as a row of `report`,
    which has those that were stored before already.

    Parameters
    ----------
    html : path of the page; by default `report.html` under a local output, else
        `dsir-report.html` in the current folder.
    """
    place = places.within(places.resolved(spark, output), REPORT)
    tables.refuse_foreign(spark, place)
    written = report.write(facts, output, html)
    if report.is_stored(facts):
        return written
    frame = report.as_frame(spark, facts)
    tables.append(frame, place, {tables.RUN_ID: facts.run.id})
    return written


def read_model(
    spark: SparkSession, output: str, row: Mapping[str, Any], functions: bool, learnt: bool = True
) -> DSIRModel:
    """The model as a run knew it; `learnt`: with the steps of a matched selection."""
    place = places.within(output, MODEL)
    version = tables.version_to_read(spark, place, row["model_version"])
    model = DSIRModel.load(place, spark=spark, version=version, allow_functions=functions)
    place = places.within(output, MATCH)
    return matchings.of_record(model, place, row, spark=spark) if learnt else model
