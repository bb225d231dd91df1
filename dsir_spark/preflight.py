"""What a run is told before its first pass: places, columns, ids.

Everything here reads schemas and ids, and raises errors of one line; no text is read.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping, Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dsir_spark import places, resampling, tables
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
from dsir_spark.features import Decontamination
from dsir_spark.inputs import Input, as_recorded, open_input, refuse_repeated
from dsir_spark.job_options import JobOptions
from dsir_spark.options import FitOptions, ResampleOptions
from dsir_spark.runs import SELECTED, WEIGHTS, WRITES, Run
from dsir_spark.scoring import decontamination, linear
from dsir_spark.scoring.documents import united
from dsir_spark.selection import rejected

_ENOUGH, _HELD_OUT = 1_000, 0.1  # documents of a target, and the share held out of so many
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
    options = run.options
    linear.require(options.scorer)
    fit_options = _with_id_column(options, raw)
    resampling.refuse_mixed(fit_options, options.part(ResampleOptions))
    check_columns(run, raw, fit_options, (None,) if options.single_target else tuple(targets))
    for name, (owner, place) in named_targets(options).items():
        check_text_column(targets[name].frame, options.text_column, f"{owner} ({place})")
    identities = {name: target.identity for name, target in targets.items()}
    run.facts["target"] = json.dumps(identities, sort_keys=True)
    run.facts["held_out"] = json.dumps(_held_out(options, targets), sort_keys=True)
    put_on_record(run, {"raw": raw, **targets})
    text = found(raw.frame, fit_options.text_column)
    return fit_options.model_copy(update={"text_column": text})


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


def check_ids(run: Run, data: Input, id_column: str | None, owner: str = "raw") -> None:
    """Raise a `DataError` where an id occurs twice, if the options ask for it."""
    if id_column is None or not run.options.check_ids:
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
