"""The command `select`: documents of raw by a score that somebody else made, over Delta tables.

The table `scores` holds what is selected from, as `weights` does for a model: ids, scores, and the
columns that options name. Texts are read once, where the selected documents are written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark import inputs, places, preflight, rejecting, report, tables
from dsir_spark.columns import (
    COPIES,
    TARGET,
    as_text,
    check_column,
    check_copies_column,
    check_id_column,
    check_text_column,
    found,
    hashed,
    quoted,
    refuse_columns,
)
from dsir_spark.errors import ColumnError, ConfigError
from dsir_spark.fields import by_text
from dsir_spark.inputs import Input, open_input
from dsir_spark.job_options import Loader, SelectJobOptions
from dsir_spark.resampling import SENT_IDS
from dsir_spark.runs import REJECTED, SCORES, SELECTED, Progress, Run, quiet
from dsir_spark.score_options import ScoreOptions
from dsir_spark.selection import Pool, Selection, find, rejected, scores

COPY_HASH = "copy_hash"  # of the column that is equal for copies (struct of two bigints)
_OF = "__dsir_of"
_MAX_SHARES = 100_000  # values of a group column, which the driver holds


def select(
    spark: SparkSession, options: SelectJobOptions, progress: Progress = quiet
) -> dict[str, Any]:
    """Select documents of raw by their scores and write them; the run's row."""
    options.require("raw", "output")
    run = Run(spark, preflight.resolved(spark, options), "select", progress)
    options = _of(run)
    raw = open_input(spark, str(options.raw), options.raw_format, "raw",
                     None if options.scores else options.where)  # fmt: skip
    pool = raw
    if options.scores is not None:
        kind, where = options.scores_format, options.where
        pool = open_input(spark, options.scores, kind, "scores", where)
        run.facts["scores"] = json.dumps(pool.identity, sort_keys=True)
    preflight.put_on_record(run, {"raw": raw, **({} if pool is raw else {"scores": pool})})
    _check(options, raw, pool)
    cutting = _shared(spark, options)
    if isinstance(options.group_share, str) and isinstance(cutting.quotas, dict):
        known = {value: round(share, 12) for value, share in cutting.quotas.items()}  # type: ignore
        told = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        run.facts["target"] = json.dumps({"group_share": {"shares": told}})
    run.begin()
    if not run.done(SCORES):
        preflight.check_ids(run, pool, options.id_column, "raw" if pool is raw else "scores")
        if pool is not raw:
            preflight.check_ids(run, raw, options.id_column)
        with run.stage("score", "writing the scores"):
            run.write(_scores(options, raw, pool), SCORES, unchanged=pool.check_unchanged)
    return _select(run, raw, pool, cutting)


def report_again(
    spark: SparkSession, output: str, row: Mapping[str, Any], composition: tuple[str, ...],
    examples: int, progress: Progress = quiet,
) -> report.ScoreFacts:  # fmt: skip
    """The facts of a run of `select`, gathered anew.

    Raises
    ------
    TableError
        A table that it read is gone or changed.
    ColumnError
        A column of `composition` is not in its table `scores`.
    """
    config, fields = json.loads(row["config"]), SelectJobOptions.model_fields
    options = SelectJobOptions.model_validate({n: v for n, v in config.items() if n in fields})
    where = None if options.scores else options.where
    raw = inputs.as_recorded(spark, json.loads(row["raw"]), "raw", where)
    place = places.within(output, SCORES)
    version = tables.version_to_read(spark, place, row["scores_version"])
    rows = _ranked(tables.read(spark, place, place, version), options)
    for name in composition:
        check_column(rows, name, "the scores", "composition")
    selection = Selection.from_json(row["selection"], _pool(options, rows))
    with progress("gathering the facts of the report"):
        return report.gather_scores(
            run=row, options=options, rows=rows, raw=raw, selection=selection,
            composition=composition, examples=examples,
        )  # fmt: skip


def _of(run: Run) -> SelectJobOptions:
    assert isinstance(run.options, SelectJobOptions)
    return run.options


def _named(options: SelectJobOptions, kind: str) -> dict[str | None, str]:
    """Columns of the scores as given (`score`), or scaled (`normalized`), by target."""
    return {name: kind if name is None else f"{kind}_{name}" for name in options.names}


def _given(options: SelectJobOptions) -> dict[str | None, Column]:
    """The scores, as numbers, by target; without an expression 0."""
    own = list(options.score.values()) or ["0"]
    return {
        name: F.expr(s).cast("double") for name, s in zip(options.names, own, strict=True)
    }


def _kept(options: SelectJobOptions, pool: DataFrame) -> list[str]:
    """The columns that go along with ids and scores, as the pool spells them."""
    within = [] if options.normalize_within is None else [options.normalize_within]
    own = found(pool, str(options.id_column))
    return [c for c in preflight.kept_columns(pool, options, *within) if c != own]


def _is_itself(options: SelectJobOptions, column: str) -> bool:
    """Is the score of this column's name the column itself?"""
    names = dict(zip(_named(options, "score").values(), options.score.values(), strict=False))
    return names.get(column, "").strip().strip("`").lower() == column.lower()


def _check(options: SelectJobOptions, raw: Input, pool: Input) -> None:
    """All columns, before the first pass."""
    owner, id_column = "raw" if pool is raw else "scores", str(options.id_column)
    check_id_column(pool.frame, id_column, owner)
    check_id_column(raw.frame, id_column, "raw")
    ids = [isinstance(f.schema[str(found(f, id_column))].dataType, T.StringType)
           for f in (pool.frame, raw.frame)]  # fmt: skip
    if ids[0] != ids[1]:
        raise ColumnError(f"id_column {id_column!r} is of type string in one of raw and scores and "
                          "a number in the other: cast one of them in a view")  # fmt: skip
    # (On a command line a=1 names a score of 1.)
    named_scores = dict(zip(options.names, options.score.values(), strict=False))
    scores.check_scores(pool.frame, named_scores, constant=False)
    named = ("group_column", "quota_column", "normalize_within")
    preflight.check_named_columns(pool.frame, options, owner, *named)
    if "text_column" in options.given:
        check_text_column(raw.frame, options.text_column, "raw")
    if options.copies_column is not None:
        check_copies_column(pool.frame, options.copies_column, owner, "copies_column")
    made = [*_named(options, "score").values()]  # without a score too
    own = [c for c in made if not _is_itself(options, c)]
    more = [] if options.names == (None,) else [TARGET]
    more += [COPIES] if options.max_copies > 1 else []
    taken = [*_named(options, "normalized").values(), COPY_HASH, *own, *more]
    taken += rejected.ADDED if options.rejected else []
    kept = [*map(quoted, _kept(options, pool.frame))]
    refuse_columns(pool.frame.select(quoted(id_column), *kept), taken, owner)
    added = (own if pool is raw else made) if options.score else []
    refuse_columns(raw.frame, [*added, *more], "raw")
    preflight.refuse_unwritable(raw.frame, "raw")
    preflight.refuse_unwritable(pool.frame.select(*kept), owner)


def _shared(spark: SparkSession, options: SelectJobOptions) -> ScoreOptions:
    """How rows are cut: with the shares that `group_share` names.

    Raises
    ------
    ConfigError
        They are no numbers, or there is no such file.
    """
    own, shares = options.part(ScoreOptions), options.group_share
    if shares is None:
        return own
    if shares == "target":
        shares = _shares_of_target(spark, options)
    elif isinstance(shares, str) and shares != "raw":
        shares = _shares_at(spark, shares, str(options.group_column))
    if len(shares) > _MAX_SHARES:
        raise ConfigError(f"group_share has over {_MAX_SHARES:,} values")
    return own.sharing(shares)


def _shares_of_target(spark: SparkSession, options: SelectJobOptions) -> dict[str, float]:
    """The target's documents by value of the group column."""
    (place,), column = options.target.values(), str(options.group_column)
    target = open_input(spark, place, options.target_format, "target").frame
    check_column(target, column, "target", "group_column")
    values = target.where(quoted(column).isNotNull()).groupBy(as_text(target, column))
    found = values.count().limit(_MAX_SHARES + 1).collect()
    return {str(value): float(n) for value, n in found}


def _shares_at(spark: SparkSession, place: str, column: str) -> dict[str, float]:
    """The shares in a file of a mapping, or in a table."""
    place, pairs = places.at_home(place), None
    if not (place.endswith((".json", ".yaml", ".yml")) and os.path.isfile(place)):
        table = open_input(spark, places.resolved(spark, place), None, "group_share").frame
        check_column(table, column, "group_share", "group_column")
        check_column(table, "share", "group_share", "the column")
        # As texts: what is no number is told as of a file.
        rows = table.select(as_text(table, column), quoted("share").cast("string"))
        pairs = rows.limit(_MAX_SHARES + 1).collect()
    try:
        if pairs is not None:
            found = by_text(_once(pairs))
        else:
            with open(place, encoding="utf-8") as file:
                # (JSON is YAML, but for the halves that it writes some characters in.)
                found = (json.load(file, object_pairs_hook=_once) if place.endswith(".json")
                         else by_text(yaml.load(file, Loader)))  # fmt: skip
        return {value: float(share) for value, share in found.items()}
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OSError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"group_share {place} must map values to numbers: {why}") from None


def _once(pairs: Sequence[Any]) -> dict[Any, Any]:
    """The mapping of pairs; a ValueError where one of them would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{twice!r} is given twice")
    return found


def _scores(options: SelectJobOptions, raw: Input, pool: Input) -> DataFrame:
    """The table `scores`."""
    id_column, given = str(options.id_column), _named(options, "score")
    columns = {id_column: quoted(id_column)}
    columns |= {given[name]: score for name, score in _given(options).items()}
    # A score that is a kept column, in any case, is of its type: groups and sizes go by it.
    there = {name.lower(): name for name in columns}
    columns |= {there.get(c.lower(), c): quoted(c) for c in _kept(options, pool.frame)}
    if (copied := options.copies_column) is not None:
        columns[COPY_HASH] = hashed(pool.frame, copied)
    rows = pool.frame.select(*[column.alias(name) for name, column in columns.items()])
    if pool is not raw:
        ids = raw.frame.select(quoted(id_column).alias(_OF))
        rows = rows.join(ids, quoted(id_column) == F.col(_OF), "left_semi")
    if options.normalize_score == "none":
        return rows
    named = _named(options, "normalized")
    return scores.normalized(rows, [*given.values()], [*named.values()], options)


def _ranked(rows: DataFrame, options: SelectJobOptions) -> DataFrame:
    """The table `scores` with what its rows are ranked by."""
    if options.normalize_score != "none":
        return rows
    given, named = (_named(options, kind) for kind in ("score", "normalized"))
    return scores.normalized(rows, [*given.values()], [*named.values()], options)


def _pool(
    options: SelectJobOptions, rows: DataFrame, given: Mapping[str | None, str] | None = None,
    named: Mapping[str | None, str] | None = None,
) -> Pool:  # fmt: skip
    """How rows compete: those of the table `scores`, or with scores of other names."""
    size = None if options.size_column is None else quoted(options.size_column)
    return scores.pool_of(
        rows, str(options.id_column), given or _named(options, "score"),
        named or _named(options, "normalized"), options.part(ScoreOptions), size=size,
        copies=None if options.copies_column is None else COPY_HASH,
    )  # fmt: skip


def _select(run: Run, raw: Input, pool: Input, cutting: ScoreOptions) -> dict[str, Any]:
    """Find the cut, write the selected documents, gather the facts of the run, and finish it."""
    options, there = _of(run), run.there[SCORES]
    rows = _ranked(run.read(SCORES), options)
    with run.stage("cut", "finding the cut-off"):
        shares = {name: (options.proportions or {}).get(str(name), 1.0) for name in options.names}
        number = there.rows if there else None
        selection = find(rows, _pool(options, rows), cutting, shares, number)
        dropped = pool.count_dropped()
        if pool is not raw:
            dropped["not_in_raw"] = pool.frame.count() - selection.funnel["read"]
        selection = selection.after(dropped)
    wanted = options.num_tokens_to_sample if options.sized else options.num_to_sample
    run.facts |= {
        "seed": options.seed,
        "num_to_sample": options.num_to_sample,
        "num_tokens_to_sample": options.num_tokens_to_sample,
        "shortfall": max(0, (wanted or 0) - selection.amount) if options.quantile is None else 0,
        "selection": selection.to_json(),
        "funnel": selection.funnel,
        "temperature": {str(n or "score"): t
                        for n, t in zip(options.names, selection.temperatures, strict=True)},
        "selected_by_target": {str(n or "score"): k for n, k in zip(
            options.names, selection.num_documents, strict=True)},
    }  # fmt: skip
    if not run.done(SELECTED, selection.num_selected):
        with run.stage("select", "writing the selected documents"):
            chosen = _selected(options, raw, pool, selection, rows)
            run.write(chosen, SELECTED, rows=selection.num_selected, unchanged=raw.check_unchanged)
    if options.rejected is not None and not run.done(REJECTED):
        with run.stage("reject", "writing some of what was rejected"):
            run.write(_rejected(options, pool, selection, rows), REJECTED)
    with run.stage("evaluate", "measuring what was selected"):
        facts = report.gather_scores(
            run=run.row(), options=options, rows=rows, raw=raw.frame, selection=selection,
            composition=options.keep, examples=2 if options.examples else 0, page=options.report,
        )  # fmt: skip
    return {**run.finish(), "facts": facts}


def _selected(
    options: SelectJobOptions, raw: Input, pool: Input, selection: Selection, rows: DataFrame
) -> DataFrame:
    """The rows of raw that are selected, with their scores.

    Up to SENT_IDS ids are sent to the scan of raw. Of more, raw's own scores are computed again and
    cut; scores that are not raw's own, or that all rows together decide, are joined.
    """
    new = {n: c for n, c in _named(options, "score").items()
           if options.score and found(raw.frame, c) is None}  # fmt: skip
    more = [] if options.names == (None,) else [quoted(TARGET)]
    more += [quoted(COPIES)] if selection.repeats_rows else []
    columns = [quoted(c) for c in raw.frame.columns]
    few = selection.num_selected <= SENT_IDS
    if not few and pool is raw and options.normalize_score == "none":
        # Raw may have columns of any name, the table of scores' own too.
        ranked, *names = scores.hidden(raw.frame, _given(options), options)
        known = selection.with_losers(rows)
        chosen = dataclasses.replace(known, pool=_pool(options, ranked, *names)).filter(ranked)
        own = [quoted(names[0][n]).alias(c) for n, c in new.items()]
        return chosen.select(*columns, *own, *more)
    added = [*(quoted(c).cast("double").alias(c) for c in new.values()), *more]
    ids = quoted(str(options.id_column))
    chosen = selection.filter(rows, rows).select(ids.alias(_OF), *added)
    chosen = F.broadcast(chosen) if few else chosen
    joined = raw.frame.join(chosen, ids == F.col(_OF))
    return joined.select(*columns, *added)


def _rejected(
    options: SelectJobOptions, pool: Input, selection: Selection, rows: DataFrame
) -> DataFrame:
    """The table `rejected`: the columns of `scores`, stage, reason and number."""
    size = F.lit(None) if options.size_column is None else quoted(options.size_column)
    # As they were given, not as they were normalised.
    named = _named(options, "score").values()
    given = [quoted(c) for c in named]
    hidden = [c for c in _named(options, "normalized").values() if c in rows.columns]
    made = [c for c in named if not _is_itself(options, c)]
    return rejecting.table_of(
        selection, rows, pool, int(options.rejected or 0), given, {"without_size": size},
        [*hidden, COPY_HASH], made,
    )  # fmt: skip
