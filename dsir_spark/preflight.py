"""What a run is told before its first pass: columns, ids, and whether tables are its own.

Everything here reads schemas, ids and the record, and raises errors of one line; no text is read.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dsir_spark import history, places, resampling, tables
from dsir_spark.columns import (
    CONTAMINATED_BY,
    NUM_CHUNKS_SELECTED,
    TEXT_HASH,
    check_column,
    check_id_column,
    check_size_column,
    check_text_column,
    found,
    quoted,
    refuse_columns,
)
from dsir_spark.dsir import DSIRModel
from dsir_spark.errors import ColumnError, ConfigError, TableError
from dsir_spark.features import Decontamination, tokenizers
from dsir_spark.inputs import Input, as_recorded, open_input, refuse_repeated
from dsir_spark.job_options import JobOptions
from dsir_spark.options import FitOptions, ResampleOptions
from dsir_spark.runs import MODEL, SELECTED, WEIGHTS, WRITES, Run
from dsir_spark.scoring import decontamination, distributions, linear
from dsir_spark.scoring.documents import united
from dsir_spark.selection import rejected

MAKING = {MODEL: "fit", WEIGHTS: "weigh"}  # tables and the commands that make each alone
_ENOUGH, _HELD_OUT = 1_000, 0.1  # documents of a target, and the share held out of so many
_COLUMNS = ("text_column", "id_column")  # found whatever their case is, as Spark does
_log = logging.getLogger("dsir_spark")


def resolved(spark: SparkSession, options: JobOptions) -> JobOptions:
    """The options with every place in one spelling.

    Raises
    ------
    ConfigError
        The output lies in an input, or an input in the output: the run's own tables would become
        data, or maintenance of a Delta table would delete them.
    """
    named = ("raw", "scores", "output", "decontaminate", "checkpoints")
    given = {n: places.resolved(spark, v) for n in named if (v := getattr(options, n, None))}
    targets = {name: places.resolved(spark, place) for name, place in options.target.items()}
    output = given.get("output")
    inputs = {n: given.get(n) for n in ("raw", "scores", "decontaminate")}
    inputs |= {f"target {name}": place for name, place in targets.items()}
    for owner, place in inputs.items():
        if output and place and places.meet(place, output):
            raise ConfigError(
                f"output {output} and {owner} {place} lie one in the other: give an --output apart"
            )
    more = {"target": targets} if "target" in options.given else {}
    return options.model_copy(update={**given, **more})


def check_columns(
    run: Run, raw: Input, fit_options: FitOptions, targets: Sequence[str | None]
) -> None:
    """The columns that options name, and those that would be added, before the first pass."""
    options, owner = run.options, f"raw ({run.options.raw or raw.identity['place']})"
    check_text_column(raw.frame, fit_options.text_column, owner)
    check_named_columns(raw.frame, options, owner, "group_column", "quota_column")
    added = resampling.added_columns(
        fit_options, targets, options.part(ResampleOptions), options.decontaminate is not None
    )
    added += [NUM_CHUNKS_SELECTED] if options.whole_documents is not None else []
    # In a weights table columns of these names are taken for ours, whatever the options ask for.
    kept = kept_columns(raw.frame, options)
    added += rejected.ADDED if options.rejected else ()
    added += [c for c in (TEXT_HASH, CONTAMINATED_BY) if c in map(str.lower, kept)]
    refuse_columns(raw.frame, added, owner)
    written = raw.frame if SELECTED in WRITES[run.command] else raw.frame.select(*map(quoted, kept))
    refuse_unwritable(written, owner)


def check_named_columns(frame: DataFrame, options: JobOptions, owner: str, *named: str) -> None:
    """Raise a `ColumnError` unless `frame` has the columns of these options, of `keep`, and the
    size."""
    for name in options.keep:
        check_column(frame, name, owner, "keep")
    for option in named:
        if (column := getattr(options, option)) is not None:
            check_column(frame, column, owner, option)
    if options.size_column is not None:
        check_size_column(frame, options.size_column, owner)


def kept_columns(frame: DataFrame, options: JobOptions, *more: str) -> tuple[str, ...]:
    """The columns that a table of weights keeps, and more, each once, as the frame spells them."""
    names = (*options.keep, *options.needed_columns, *more)
    return tuple(dict.fromkeys(found(frame, name) or name for name in names))


def refuse_unwritable(frame: DataFrame, owner: str) -> None:
    """Raise a `ColumnError` where Delta cannot store the rows of `frame`."""
    if said := tables.unwritable(frame.schema):
        raise ColumnError(f"{owner}: {said}: leave it out by a view, or rename or cast it there")


def open_decontamination(
    run: Run, config: FitOptions, recorded: str | None = None
) -> Decontamination | None:
    """The texts to stay away from, put on the run's record; None where there are none.

    recorded : those that weights were made with, for a run that takes them as they are

    Raises
    ------
    TableError
        Others are given than are on record, or those on record are gone or changed.
    """
    place, ngram = run.options.decontaminate, run.options.decontaminate_ngram
    if recorded is not None or run.command == "resample":
        known = json.loads(recorded or "{}")
        if place is not None and (known.get("place"), known.get("ngram")) != (place, ngram):
            raise TableError(
                f"the weights at {run.place(WEIGHTS)} were made with decontaminate "
                f"{known.get('place', 'not given')}, not with {ngram} tokens of {place}: leave it "
                "out, or run `weigh --overwrite`"
            )
        if not known:
            return None
        place, ngram = known["place"], known.pop("ngram")
        texts, identity, notes = as_recorded(run.spark, known, "decontaminate"), known, []
    elif place is None:
        return None
    else:
        opened = open_input(run.spark, place, None, "decontaminate")
        texts, identity, notes = opened.frame, opened.identity, opened.notes
    found, more = decontamination.read(texts, config, ngram, f"decontaminate ({place})")
    run.facts["decontaminate"] = json.dumps({**identity, "ngram": ngram}, sort_keys=True)
    run.facts["notes"] = [*run.facts["notes"], *notes, *more]
    for note in (*notes, *more):
        warnings.warn(note, UserWarning, stacklevel=2)
    return found


def named_targets(options: JobOptions) -> dict[str, tuple[str, str]]:
    """What each target is called in messages, and its place, by name."""
    return {
        name: ("target" if options.single_target else f"target {name}", place)
        for name, place in options.target.items()
    }


def open_inputs(run: Run, raw: Input, targets: Mapping[str, Input]) -> FitOptions:
    """The options of the fit, with all columns looked at and no text read; inputs on record."""
    fit_options = _what_to_fit(run, raw, targets)
    identities = {name: target.identity for name, target in targets.items()}
    run.facts["target"] = json.dumps(identities, sort_keys=True)
    run.facts["held_out"] = json.dumps(_held_out(run.options, targets), sort_keys=True)
    put_on_record(run, {"raw": raw, **targets})
    return fit_options


def _held_out(options: JobOptions, targets: Mapping[str, Input]) -> dict[str, float]:
    """Share of each target to keep out of the fit."""
    if options.held_out != "auto":
        return dict.fromkeys(targets, options.held_out)
    named = [t.frame.select(F.lit(name).alias("name")) for name, t in targets.items()]
    counted = united(named).groupBy("name").count().where(f"count >= {_ENOUGH}")
    large = {row["name"] for row in counted.collect()}
    return {name: _HELD_OUT if name in large else 0.0 for name in targets}


def put_on_record(run: Run, opened: Mapping[str, Input]) -> None:
    """Raw's identity, and what was left out of the inputs, which is told too."""
    run.facts["raw"] = json.dumps(opened["raw"].identity, sort_keys=True)
    run.raw_latest = opened["raw"].latest
    run.facts["notes"] = [note for one in opened.values() for note in one.notes]
    for note in run.facts["notes"]:
        warnings.warn(note, UserWarning, stacklevel=2)


def _what_to_fit(run: Run, raw: Input, targets: Mapping[str, Input]) -> FitOptions:
    options = run.options
    linear.require(options.scorer)
    fit_options = _with_id_column(options, raw)
    resampling.refuse_mixed(fit_options, options.part(ResampleOptions))
    check_columns(run, raw, fit_options, (None,) if options.single_target else tuple(targets))
    for name, (owner, place) in named_targets(options).items():
        check_text_column(targets[name].frame, options.text_column, f"{owner} ({place})")
    text = found(raw.frame, fit_options.text_column)
    return fit_options.model_copy(update={"text_column": text})


def _with_id_column(options: JobOptions, raw: Input) -> FitOptions:
    """The user's id column; where none is named and there is no `id`, one is made from the text."""
    fit_options = options.part(FitOptions)
    if options.id_column is None:
        return fit_options
    name = found(raw.frame, options.id_column)
    if "id_column" not in options.given and name is None:
        _log.info(
            "raw has no column %r (it has %s): ids are made from the texts, copies are one "
            "document; name a column by --id-column", options.id_column,
            ", ".join(raw.frame.columns),
        )  # fmt: skip
        return fit_options.model_copy(update={"id_column": None})
    check_id_column(raw.frame, options.id_column, f"raw ({options.raw})")
    return fit_options.model_copy(update={"id_column": name})


def check_ids(run: Run, raw: Input, fit_options: FitOptions) -> None:
    if fit_options.id_column is not None:
        check_ids_of(run, raw, fit_options.id_column, "raw")


def check_ids_of(run: Run, data: Input, id_column: str, owner: str) -> None:
    """Raise a `DataError` where an id occurs twice, if the options ask for it."""
    if not run.options.check_ids:
        return
    with run.stage("check_ids", f"checking that ids of {owner} are unique"):
        refuse_repeated(data.frame.select(quoted(id_column).alias("id")), id_column, owner)


def weighed(
    model: DSIRModel, rows: DataFrame, options: JobOptions, *more: str
) -> DataFrame:  # fmt: skip
    """The weights of rows of raw with the columns that the options ask for, and more."""
    return model.weigh(
        rows, kept_columns(rows, options, *more),
        text_hash=options.duplicates == "drop", quality=options.quality is not None,
    )  # fmt: skip


def _record(run: Run, name: str, advice: str) -> tuple[tables.Version, Mapping[str, Any]]:
    """The table of this name under the output, and the record that its commit holds."""
    place = run.place(name)
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
    version, earlier = _record(run, MODEL, "fit")
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
    fitted_on = history.targets_by_place(earlier)
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
    version, earlier = _record(run, WEIGHTS, "weigh")
    return {**earlier, "weights_version": version.data}


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
