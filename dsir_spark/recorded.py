"""What earlier runs left for this one: model, weights and raw, by the record of who made them.

Each is refused in one line where it does not belong to what is asked for; no text is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyspark.sql import functions as F

from dsir_spark import history, resampling, tables
from dsir_spark.dsir import DSIRModel
from dsir_spark.errors import ConfigError, TableError
from dsir_spark.features import tokenizers
from dsir_spark.inputs import Input, open_input
from dsir_spark.job_options import JobOptions
from dsir_spark.options import ResampleOptions
from dsir_spark.preflight import put_on_record
from dsir_spark.runs import MODEL, WEIGHTS, Run
from dsir_spark.scoring import distributions

MAKING = {MODEL: "fit", WEIGHTS: "weigh"}  # tables and the commands that make each alone
_COLUMNS = ("text_column", "id_column")  # found whatever their case is, as Spark does


def _record(run: Run, name: str) -> tuple[tables.Version, Mapping[str, Any]]:
    """The table of this name under the output, and the record that its commit holds."""
    place, advice = run.place(name), MAKING[name]
    version = run.there.get(name) or tables.delta_version(run.spark, place)
    if version is None:
        there = {MODEL: "is no model", WEIGHTS: "are no weights"}[name]
        raise TableError(f"there {there} at {place}: run `{advice}` first")
    record: Mapping[str, Any] | None = version.record
    if "raw" not in version.record:  # an earlier version of the package wrote it
        wrote = F.col(f"{name}_version") == version.data
        record = history.latest(run.spark, str(run.options.output), wrote)
    if record is None:
        raise TableError(f"no run wrote the {name} at {place}: run `{advice} --overwrite`")
    return version, record


def model_of_record(run: Run) -> tuple[DSIRModel, Mapping[str, Any]]:
    """The model under the output and the run that wrote it; refused where it is another's."""
    place = run.place(MODEL)
    version, earlier = _record(run, MODEL)
    model = DSIRModel.load(
        place, spark=run.spark, version=version.latest, allow_functions=run.options.allow_functions
    )
    resampling.refuse_mixed(model.config, run.options.part(ResampleOptions))
    differences = [
        f"{name} is {_shown(fitted)} in the model and {_shown(given)} here"
        for name in sorted(run.options.given & model.config.model_dump().keys())
        if (given := _resolved(run.options, name)) != (fitted := getattr(model.config, name))
        and not (name in _COLUMNS and str(given).lower() == str(fitted).lower())
    ]
    if differences:
        raise TableError(
            f"the model at {place} does not belong to this config: {', '.join(differences)}; "
            "leave the options out, or fit again with --overwrite"
        )
    recorded = json.loads(earlier["target"])
    fitted_on = {name: identity["place"] for name, identity in recorded.items()}
    if "target" in run.options.given and run.options.target != fitted_on:
        raise TableError(
            f"the model at {place} does not belong to this config: it was fitted on target "
            f"{fitted_on}, not {run.options.target}; fit again with --overwrite"
        )
    run.facts |= {
        "model_fingerprint": model.fingerprint,
        "classifier": model.classifier_facts,
        "model_version": version.data,
        "target": earlier["target"],
        "held_out": earlier.get("held_out"),
    }
    return model, earlier


def _resolved(options: JobOptions, name: str) -> Any:
    """An option as a model holds it: a tokenizer's file by its content."""
    value = getattr(options, name)
    return tokenizers.resolved(value) if name == "tokenizer" else value


def _shown(value: Any) -> str:
    return repr(tokenizers.shown(value) if isinstance(value, str) else value)


def weights_of_record(run: Run) -> Mapping[str, Any]:
    """The record of the run that wrote the weights under the output."""
    version, earlier = _record(run, WEIGHTS)
    return {**earlier, "weights_version": version.data}


def ids_checked(earlier: Mapping[str, Any]) -> bool:
    """Did the run of a record look whether an id occurs twice, in all that the table is made of?"""
    return bool(json.loads(earlier["config"]).get("check_ids", True))


def leave_ids_unchecked(run: Run, earlier: Mapping[str, Any]) -> None:
    """Where ids were not looked at for a table, what goes on from it does not look at all of them
    either: they are not known to be unique, and stay so on record."""
    if not ids_checked(earlier):
        run.options = run.options.model_copy(update={"check_ids": False})


def method_of_record(run: Run, earlier: Mapping[str, Any]) -> None:
    """Without a method a run selects by the one that the weights were made for, so that no text is
    read: match, where they know its steps, or that of the run that wrote them; sample, where
    `weigh` did.

    Raises
    ------
    ConfigError
        Options that are given are for another method.
    """
    if "method" in run.options.given:
        return
    if earlier.get("match_version") is not None:
        method = "match"
    else:
        plain = earlier["command"] == "weigh"
        method = "sample" if plain else json.loads(earlier["config"])["method"]
    run.options = run.options.model_copy(update={"method": method})
    if problems := run.options.contradictions(None):
        raise ConfigError.from_problems(problems)


def open_raw(
    run: Run, earlier: Mapping[str, Any], made: str | None = None, new: bool = False
) -> Input:
    """Raw as named in the options, or else as the earlier run read it, `where` included.

    made : the table that was made of it, if that only holds for the rows that `where` left
    new : of a folder, only the files that came since are read

    Raises
    ------
    TableError
        Another `where` is given than the table was made with; files that it was made of changed.
    """
    recorded, where = json.loads(earlier["raw"]), json.loads(earlier["config"]).get("where")
    place = run.options.raw or recorded["place"]
    kind = run.options.raw_format or (recorded["format"] if place == recorded["place"] else None)
    kind = None if kind == "table" else kind
    if "where" in run.options.given:
        if made and run.options.where != where:
            raise TableError(
                f"the rows at {run.place(made)} were made where {where or 'nothing is asked'}, not "
                f"where {run.options.where}: leave --where out, or run `{MAKING[made]} --overwrite`"
            )
        where = run.options.where
    run.options = run.options.model_copy(update={"where": where})
    raw = open_input(run.spark, place, kind, "raw", where, recorded if new else None)
    put_on_record(run, {"raw": raw})
    return raw


def refuse_foreign_weights(
    run: Run, model: DSIRModel, earlier: Mapping[str, Any], raw: Input
) -> None:
    """Raise a `TableError` where the weights on record are not of this model and raw."""
    refuse_other_weights(run, model, earlier)
    recorded = json.loads(earlier["raw"])
    differences = [
        f"{name} was {recorded.get(name)!r} and is {raw.identity.get(name)!r}"
        for name in sorted(set(recorded) | set(raw.identity))
        if recorded.get(name) != raw.identity.get(name)
    ]
    if differences:
        raise TableError(
            f"the weights at {run.place(WEIGHTS)} do not belong to this raw table: "
            f"{', '.join(differences)}; run `weigh --overwrite`, or `weigh --incremental` where "
            "raw has grown"
        )


def refuse_other_weights(run: Run, model: DSIRModel, earlier: Mapping[str, Any]) -> None:
    """Raise a `TableError` where weights that are made here would not be like those on record."""
    place = run.place(WEIGHTS)
    if earlier["model_fingerprint"] != model.fingerprint:
        raise TableError(
            f"the weights at {place} do not belong to the model beside them: they were made with "
            f"model {earlier['model_fingerprint']}, it is {model.fingerprint}; "
            "run `weigh --overwrite`"
        )
    if earlier["table_fingerprint"] != distributions.table_fingerprint(model.tables()):
        raise TableError(
            f"the weights at {place} were made on a machine whose logarithm differs in the last "
            "bit: run `weigh --overwrite` here, so that both passes agree"
        )
