"""Raw that grew: what came since a table was written is added to it, and no more is read.

The table says how far it came: each commit to it has raw's identity on record. What is new is one
batch, added by one commit with the new identity: it is there once, or not at all. Of a Delta table
it is the batch of a stream; where rows were deleted or updated, the change data feed says which.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import unicodedata
from collections.abc import Mapping
from typing import Any

from dsir_spark import changes, matchings, plans, preflight, recorded, tables
from dsir_spark.additions import Adding, Fitting, Weighing
from dsir_spark.dsir import DSIRModel
from dsir_spark.errors import DataError, TableError
from dsir_spark.inputs import Input, open_input
from dsir_spark.job_options import JobOptions
from dsir_spark.recorded import MAKING
from dsir_spark.runs import MATCH, MODEL, WEIGHTS, Run

# Options that decide the columns of weights, and the texts of a model: those are made as they were.
_AS_MADE = {
    WEIGHTS: ("keep", "quality", "duplicates", "size_column", "group_column", "quota_column"),
    MODEL: ("held_out",),
}
_log = logging.getLogger("dsir_spark")


def weigh(run: Run, model: DSIRModel) -> dict[str, Any]:
    """Add to the weights under the output those of what is new in raw; the run's row.

    Of a matched selection the steps are those that the weights there were made by.

    Raises
    ------
    TableError
        The weights are of another model or raw; or what is new cannot be told from the rest.
    ConfigError
        Over Spark Connect, of a model too large to be sent.
    DataError
        An id of the new rows is there already, or twice.
    """
    earlier = recorded.weights_of_record(run)
    recorded.refuse_other_weights(run, model, earlier)
    raw = _open(run, earlier, WEIGHTS)
    run.options = _as_made(run, earlier, WEIGHTS)
    preflight.check_columns(run, raw, model.config, model.names)
    texts = preflight.open_decontamination(run, model.config, earlier.get("decontaminate") or "{}")
    run.facts["table_fingerprint"] = earlier["table_fingerprint"]
    weights = run.read(WEIGHTS)
    model = matchings.of_record(model, run.place(MATCH), earlier, spark=run.spark)
    # The pass is sent the steps that the weights were made by, whatever the options say.
    steps = max((len(m.steps) for m in model.matchings.values()), default=0)
    made = {"method": "match", "match_steps": steps} if steps else {"method": "sample"}
    options = run.options.model_copy(update=made)
    plans.check(run.spark, model.config, len(model.targets), texts, options)
    model = dataclasses.replace(model, decontamination=texts)
    run.facts |= {name: earlier.get(name) for name in ("match", "match_version")}
    adding = Weighing(
        raw.identity, run.options.where, run.place(WEIGHTS), _base(run, WEIGHTS),
        model=model, options=run.options,
    )  # fmt: skip
    adding.refuse_unlike(raw.frame, weights)
    recorded.leave_ids_unchecked(run, earlier)
    run.begin()
    _add(run, raw, earlier, WEIGHTS, adding)
    return run.finish()


def fit(run: Run) -> dict[str, Any]:
    """Add to the model under the output the counts of what is new in raw; the run's row.

    Counts are whole numbers: it is the model of a fit on all of raw, to the last bit.

    Raises
    ------
    TableError
        The model is of other targets, options or raw; or what is new cannot be told from the rest.
    """
    model, earlier = recorded.model_of_record(run)
    place, again = run.place(MODEL), "fit with --overwrite"
    if model.config.num_tokens_to_fit != "all" or model.classifiers:
        raise TableError(
            f"the model at {place} was fitted on a sample of raw (num_tokens_to_fit, or scorer "
            f"classifier): a sample of the grown raw is another; {again}"
        )
    if model.unicode_version != unicodedata.unidata_version:
        raise TableError(
            f"the model at {place} was fitted by Unicode {model.unicode_version}, here is "
            f"{unicodedata.unidata_version}: their counts do not add up; {again}"
        )
    for name, known in json.loads(earlier["target"]).items():
        kind = None if known["format"] == "table" else known["format"]
        if open_input(run.spark, known["place"], kind, f"target {name}").identity != known:
            raise TableError(f"target {name} at {known['place']} changed since the fit: {again}")
    run.options = _as_made(run, earlier, MODEL)
    raw = _open(run, earlier, MODEL)
    preflight.check_columns(run, raw, model.config, model.names)
    run.begin()
    adding = Fitting(raw.identity, run.options.where, place, _base(run, MODEL), model=model)
    _add(run, raw, earlier, MODEL, adding)
    return run.finish()


def _open(run: Run, earlier: Mapping[str, Any], name: str) -> Input:
    """Raw with what came to it; of a folder only the new files.

    Raises
    ------
    TableError
        It is another than the table was made of, or was set back, or has no versions.
    """
    known = json.loads(earlier["raw"])
    place, advice = run.options.raw or known["place"], f"run `{MAKING[name]} --overwrite`"
    if place != known["place"]:
        raise TableError(f"what is at {run.place(name)} was made of {known['place']}, and raw is "
                         f"{place}: {advice}")  # fmt: skip
    try:
        raw = recorded.open_raw(run, earlier, name, new=True)
    except TableError as error:
        raise TableError(f"{error}" if advice in f"{error}" else f"{error}; {advice}") from None
    now, before = (identity.get("delta_version") for identity in (raw.identity, known))
    if raw.identity.keys() != known.keys() or raw.identity["format"] != known["format"]:
        raise TableError(f"raw at {place} was {known['format']} and is {raw.identity['format']}: "
                         f"{advice}")  # fmt: skip
    if "listing" not in known and (now is None or before is None):
        raise TableError(f"raw at {place} has no versions of Delta, so what is new in it is not "
                         f"known: {advice}")  # fmt: skip
    if before is not None and now < before:
        raise TableError(f"raw at {place} was set back from version {before} to {now}: {advice}")
    return raw


def _as_made(run: Run, earlier: Mapping[str, Any], name: str) -> JobOptions:
    """The options of the run, with those that the table there was made by.

    Raises
    ------
    TableError
        Others are given.
    """
    config, own = json.loads(earlier["config"]), run.options
    made = {n: config.get(n, JobOptions.model_fields[n].default) for n in _AS_MADE[name]}
    made = {n: tuple(was) if isinstance(was, list) else was for n, was in made.items()}
    if differences := [f"{option} {was!r}, not {now!r}" for option, was in made.items()
                       if option in own.given and (now := getattr(own, option)) != was]:
        raise TableError(f"what is at {run.place(name)} was made with {', '.join(differences)}: "
                         f"leave it out, or run `{MAKING[name]} --overwrite`")  # fmt: skip
    return own.model_copy(update=made)


def _base(run: Run, name: str) -> tables.Version:
    there = run.there[name]
    assert there is not None
    return there


def _add(run: Run, raw: Input, earlier: Mapping[str, Any], name: str, adding: Adding) -> None:
    """Add what came to raw since the earlier run, where this one has not done it already."""
    known = json.loads(earlier["raw"])
    if run.done(name) or raw.identity == known:
        run.facts[f"{name}_version"] = adding.base.data
        _log.info("nothing is new in raw")
        return
    adding = dataclasses.replace(adding, record=run.record())
    run.refuse_outrun()
    with run.stage(MAKING[name], f"adding what is new in raw to the {name}"):
        try:
            if "delta_version" in known:
                after = earlier.get("raw_latest") or known["delta_version"]
                _follow(run, raw, after, name, adding)
            else:
                adding.add(raw.frame)
                _put_back_if_changed(run, raw, name, adding)
        except changes.RowsChanged as error:
            raise TableError(f"rows of raw were deleted or updated ({error}): run `{MAKING[name]} "
                             "--overwrite`") from None  # fmt: skip
    run.there[name] = tables.delta_version(run.spark, run.place(name))
    if not run.done(name):
        raise TableError(f"another run wrote the {name} under {run.options.output} meanwhile: run "
                         "again")  # fmt: skip


def _follow(run: Run, raw: Input, after: int, name: str, adding: Adding) -> None:
    """Add what commits to a Delta table brought, and follow what they took."""
    spark, place, last = run.spark, raw.identity["place"], raw.latest
    assert last is not None  # of a Delta table
    # Maintenance passes by a folder of such a name. A run that died has its id again, and so its
    # stream; no other goes on with it, nor this one over rows that were put back.
    folder = run.options.checkpoints or f"{changes.location(spark, adding.place)}/_checkpoints"
    own = f"{run.run_id}-{adding.base.latest}-{last}"
    try:
        changes.added(spark, place, after, f"{folder}/{own}", adding)
    except changes.RowsChanged as changed:
        try:
            adding.change(changes.all_since(spark, place, after, last))
        except TableError as error:
            raise changes.RowsChanged(f"{changed}; {error}") from None
        return
    there = tables.delta_version(spark, adding.place)
    if there is not None and there.data == adding.base.data:  # no rows came, and so no batch
        adding.add(raw.frame.limit(0))


def _put_back_if_changed(run: Run, raw: Input, name: str, adding: Adding) -> None:
    try:
        raw.check_unchanged()
    except DataError:
        tables.restore(run.spark, run.place(name), adding.base.latest)
        raise
