"""The job in stages over Delta tables: fit, weigh, resample, or all of them as `run`.

Under the output are `model`, `weights`, `selected` and `runs`. Each stage writes its table in one
commit, and the run's row in `runs` is the last: a table version that no row names is not there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

import dsir_spark
from dsir_spark import checks, frames, matched, resample, tables, tokens, weights
from dsir_spark.checks import Check, CheckWarning
from dsir_spark.columns import (
    check_column,
    check_id_column,
    check_size_column,
    check_text_column,
    quoted,
    refuse_columns,
)
from dsir_spark.config import FitConfig, JobConfig, ResampleConfig
from dsir_spark.copies import TEXT_HASH
from dsir_spark.cuts import Cut
from dsir_spark.dsir import (
    DSIR,
    NUM_CHUNKS_SELECTED,
    BucketCounts,
    DSIRModel,
    added_columns,
    needed_columns,
)
from dsir_spark.errors import ColumnError, DataError, DSIRError, TableError
from dsir_spark.resample import NUM_TOKENS, TARGET, Selection

MODEL, WEIGHTS, SELECTED, RUNS = "model", "weights", "selected", "runs"
_SAMPLE = 5_000  # candidates whose weights are looked at before documents are written
_TEXTS = 300  # of raw and of a target, in which n-grams are looked up
_CHARACTERS = 20_000  # of each
MATCH, DOCUMENTS = "match", "documents"

RUN_SCHEMA = """
    run_id string, command string, started_at timestamp, dsir_spark_version string, config string,
    raw string, target string, model_fingerprint string, table_fingerprint string,
    seed bigint, num_to_sample bigint, num_tokens_to_sample bigint,
    temperature map<string, double>, shortfall bigint, selection string,
    funnel map<string, bigint>, selected_by_target map<string, bigint>,
    kl_reduction map<string, double>, kl_reduction_random map<string, double>,
    effective_sample_size map<string, double>, kl_bound map<string, double>,
    match string, match_version bigint,
    model_version bigint, weights_version bigint, selected_version bigint,
    seconds map<string, double>
"""

# Options that a stage cannot do without.
NEEDS = {
    "fit": ("raw", "target", "output"),
    "weigh": ("output",),
    "resample": ("output",),
    "run": ("raw", "target", "output"),
}
SELECTS = ("resample", "run")

Progress = Callable[[str], AbstractContextManager[None]]


def quiet(_: str) -> AbstractContextManager[None]:
    """No display of progress."""
    return contextlib.nullcontext()


@dataclass
class _Run:
    """What is known of a run so far; it becomes the row in `runs`."""

    spark: SparkSession
    config: JobConfig
    command: str
    progress: Progress = quiet
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started_at: datetime.datetime = field(
        default_factory=lambda: datetime.datetime.now(datetime.timezone.utc)
    )

    def __post_init__(self) -> None:
        self.config.require(*NEEDS[self.command], selects=self.command in SELECTS)

    @contextlib.contextmanager
    def stage(self, name: str, label: str) -> Iterator[None]:
        begin = time.monotonic()
        with self.progress(label):
            yield
        self.seconds[name] = round(time.monotonic() - begin, 3)

    def place(self, name: str) -> str:
        return tables.within(str(self.config.output), name)

    def finish(self) -> dict[str, Any]:
        """Append the run's row, the last commit of the run; the row as a dict."""
        row = {
            "run_id": self.run_id,
            "command": self.command,
            "started_at": self.started_at,
            "dsir_spark_version": dsir_spark.__version__,
            "config": resolved(self.config),
            "seconds": self.seconds,
            **self.facts,
        }
        schema = self.spark.createDataFrame([], RUN_SCHEMA).schema
        values = [tuple(row.get(f.name) for f in schema.fields)]
        frame = self.spark.createDataFrame(values, schema).coalesce(1)
        tables.write(frame, self.place(RUNS), append=True, run_id=self.run_id)
        return row


def resolved(config: JobConfig) -> str:
    """The configuration with all defaults filled in, as JSON."""
    options = dataclasses.asdict(config)
    options.pop("given")
    return json.dumps(options, sort_keys=True)


@dataclass(frozen=True)
class Input:
    """A frame with its identity; `frame` is without what `where` leaves out."""

    frame: DataFrame
    identity: dict[str, Any]
    everything: DataFrame


def open_input(
    spark: SparkSession, place: str, kind: str | None, owner: str, where: str | None = None
) -> Input:
    """Read a place; a Delta table at its version of now, so that all passes see the same rows."""
    kind = kind or tables.find_format(spark, place, owner)
    found = tables.identity(spark, place, kind)
    frame = tables.read(spark, place, kind, owner, version=found.get("delta_version"))
    if where is None:
        return Input(frame, found, frame)
    try:
        kept = frame.where(where)
        kept.schema  # noqa: B018 - under Connect, only now is the predicate analysed
    except (AnalysisException, ParseException) as error:
        message = str(error).strip().splitlines()[0]
        raise ColumnError(f"where {where!r} does not hold for {owner}: {message}") from None
    return Input(kept, found, frame)


def fit(spark: SparkSession, config: JobConfig, progress: Progress = quiet) -> dict[str, Any]:
    """Fit a model from raw and target and write it; the run's row."""
    run = _Run(spark, config, "fit", progress)
    if not config.overwrite:
        tables.refuse_existing(spark, str(config.output), (MODEL,))
    raw = open_input(spark, str(config.raw), config.raw_format, "raw", config.where)
    _write_model(run, _fit(run, *_to_fit(run, raw), raw))
    return run.finish()


def weigh(spark: SparkSession, config: JobConfig, progress: Progress = quiet) -> dict[str, Any]:
    """Weigh raw with the model under the output and write the weights; the run's row."""
    run = _Run(spark, config, "weigh", progress)
    if not config.overwrite:
        tables.refuse_existing(spark, str(config.output), (WEIGHTS,))
    model, earlier = _load_model(run)
    raw = _open_raw(run, json.loads(earlier["raw"]))
    _check_columns(run, raw, model.config, model.names)
    _check_ids(run, raw, model.config)
    _write_weights(run, model, raw)
    return run.finish()


def resample_again(
    spark: SparkSession, config: JobConfig, progress: Progress = quiet
) -> dict[str, Any]:
    """Select from the weights under the output; nothing is fitted or weighed. The run's row.

    An earlier selection is replaced; it stays readable as an older version of the table.
    """
    run = _Run(spark, config, "resample", progress)
    model, _ = _load_model(run)
    version, earlier = _weights_of_record(run)
    raw = _open_raw(run, json.loads(earlier["raw"]))
    _check_columns(run, raw, model.config, model.names)
    _refuse_foreign_weights(run, model, earlier, raw)
    run.facts["weights_version"] = version
    if config.method == "match":
        # What a document is ranked by depends on how many are wanted: its text is read again.
        model = _match(run, model, raw)
        _write_weights(run, model, raw)
    _select(run, model, raw, *_cut(run, model))
    return run.finish()


def run_all(spark: SparkSession, config: JobConfig, progress: Progress = quiet) -> dict[str, Any]:
    """Fit, weigh and resample; the run's row.

    Where nothing can be selected as the options say, model and weights are on record all the same:
    `resample` goes on from them.
    """
    run = _Run(spark, config, "run", progress)
    if not config.overwrite:
        tables.refuse_existing(spark, str(config.output), (MODEL, WEIGHTS, SELECTED, RUNS))
    raw = open_input(spark, str(config.raw), config.raw_format, "raw", config.where)
    fit_config, targets = _to_fit(run, raw)
    _check_ids(run, raw, fit_config)
    model = _fit(run, fit_config, targets, raw)
    _write_model(run, model)
    if config.method == "match":
        model = _match(run, model, raw)
    _write_weights(run, model, raw)
    try:
        table, selection = _cut(run, model)
    except DSIRError as error:
        run.finish()
        left = "model and weights are written: `resample` goes on from them"
        raise type(error)(f"{error} ({left})") from None
    _select(run, model, raw, table, selection)
    return run.finish()


def _check_columns(
    run: _Run, raw: Input, fit_config: FitConfig, targets: Sequence[str | None]
) -> None:
    """The columns that options name, and those that would be added, before the first pass."""
    config, owner = run.config, f"raw ({run.config.raw or raw.identity['place']})"
    check_text_column(raw.frame, fit_config.text_column, owner)
    for name in config.keep:
        check_column(raw.frame, name, owner, "keep")
    for option in ("group_column", "quota_column"):
        if (column := getattr(config, option)) is not None:
            check_column(raw.frame, column, owner, option)
    if config.size_column is not None:
        check_size_column(raw.frame, config.size_column, owner)
    added = added_columns(fit_config, targets, config.resample_config())
    added += [NUM_CHUNKS_SELECTED] if config.whole_documents is not None else []
    # In a weights table a column of this name is taken for the hash, even if no copies are dropped.
    kept = (*config.keep, *needed_columns(config))
    added += [TEXT_HASH] if TEXT_HASH in map(str.lower, kept) else []
    refuse_columns(raw.frame, added, owner)


def _to_fit(run: _Run, raw: Input) -> tuple[FitConfig, dict[str, Input]]:
    """The options of the fit and the targets, with all columns looked at and no text read."""
    config = run.config
    fit_config = _with_id_column(config, raw)
    _check_columns(run, raw, fit_config, (None,) if config.single_target else tuple(config.target))
    targets = {}
    for name, place in config.target.items():
        owner = "target" if config.single_target else f"target {name}"
        targets[name] = open_input(run.spark, place, config.target_format, owner)
        check_text_column(targets[name].frame, config.text_column, f"{owner} ({place})")
    return fit_config, targets


def _fit(
    run: _Run, fit_config: FitConfig, targets: Mapping[str, Input], raw: Input
) -> DSIRModel:
    config = run.config
    texts = {name: t.frame for name, t in targets.items()}
    with run.stage("fit", "counting n-grams of raw and target"):
        dsir = DSIR(**{f.name: getattr(fit_config, f.name) for f in dataclasses.fields(FitConfig)})
        model = dsir.fit(raw.frame, texts["target"] if config.single_target else texts)
    if run.command in SELECTS:
        _tell(before_weighing(model, config.resample_config(), texts))
    run.facts |= {
        "raw": json.dumps(raw.identity, sort_keys=True),
        "target": json.dumps({n: t.identity for n, t in targets.items()}, sort_keys=True),
    }
    return model


def before_weighing(
    model: DSIRModel, options: ResampleConfig, targets: Mapping[str, DataFrame]
) -> list[Check]:
    """What bucket counts, and a sample of the targets' texts, tell before raw is weighed."""
    found = []
    smoothed = model.config.target_dirichlet_smoothing != 0 or options.method == "match"
    smoothed = smoothed or model.config.target_laplace_smoothing > 0
    for name, target in model.targets.items():
        who = called(model, name)
        found += [
            checks.small_target(who, target.counts, model.raw.counts, smoothed),
            checks.nearly_the_same(who, target.counts, model.raw.counts),
        ]
        if model.config.tokenizer == "wordpunct" and name in targets:
            share = checks.cjk_share(sample_texts(model, targets[name]))
            found.append(checks.one_token_of_a_sentence(who, share, model.config.tokenizer))
    if options.num_to_sample is not None:
        documents = model.raw.num_documents / model.fitted_share
        found.append(checks.close_to_all(options.num_to_sample, documents, "documents"))
    elif options.size_column is None and options.sized:
        in_raw = model.raw.num_tokens / model.fitted_share
        found.append(checks.close_to_all(options.budget, in_raw, "tokens"))
    return [check for check in found if check is not None]


def before_writing(
    model: DSIRModel,
    selection: Selection,
    table: DataFrame,
    targets: Mapping[str, DataFrame],
    sample: Sequence[Row],
    columns: Sequence[str] = (),
) -> list[Check]:
    """What the weights tell before documents are written.

    Parameters
    ----------
    targets : those whose texts are looked for in raw
    sample : from `sample_of_ranks`
    columns : of the weights table, in which one value may dominate
    """
    if not selection.funnel.candidates:
        return []
    lengths = np.array([row[NUM_TOKENS] for row in sample], np.float64)
    found = [checks.copies(selection.funnel.duplicate_text, selection.funnel.candidates, False)]
    for t, name in enumerate(model.targets):
        who = called(model, name)
        if len(sample) > 2 and selection.method != "match":
            height = np.array([row[f"rank_{t}"] for row in sample], np.float64)
            found += [
                checks.top_k_in_disguise(who, float(height.std()), selection.method),
                checks.follows_length(who, checks.rank_correlation(lengths, height)),
            ]
        if name in targets:
            found.append(
                checks.contamination(who, *_in_raw(model, targets[name], table, selection))
            )
    found += _dominating(table, selection, columns)
    return [check for check in found if check is not None]


def called(model: DSIRModel, name: str) -> str:
    """A target as sentences name it."""
    return "the target" if model.single_target else f"target {name}"


def ranks(selection: Selection) -> list[Column]:
    """What documents are ranked by, noise apart, for each target.

    Keys of a matched selection are a few whole numbers: there the log weight, which says more.
    """
    if selection.method == "match":
        return [quoted(resample.column_name(target)) for target in selection.targets]
    return selection.ranks()


def sample_of_ranks(selection: Selection, table: DataFrame) -> list[Row]:
    """Some candidates by a hash of their ids: `id`, NUM_TOKENS, and `rank_0`, ... by target.

    In one order, so that what is computed from them has the same bits in any partitioning.
    """
    one_in = max(1, selection.funnel.candidates // _SAMPLE)
    ids = quoted(selection.id_column)
    drawn = F.pmod(F.xxhash64(F.lit("report"), ids), F.lit(one_in)) == 0
    columns = [rank.alias(f"rank_{t}") for t, rank in enumerate(ranks(selection))]
    rows = table.where(selection.is_candidate() & drawn).select(
        ids.alias("id"), NUM_TOKENS, *columns
    )
    return sorted(rows.limit(2 * _SAMPLE).collect(), key=lambda row: str(row["id"]))


def _in_raw(
    model: DSIRModel, target: DataFrame, table: DataFrame, selection: Selection
) -> tuple[int, int]:
    """Documents of raw that are texts of the target but for case and blanks; of them selected."""
    if TEXT_HASH not in table.columns:
        return 0, 0
    text = model.config.text_column
    hashed = frames.with_scores(
        target.select(quoted(text)), text, model.tables(), model.weight_columns,
        model.config.features, model.unicode_version, text_hash=True,
    )  # fmt: skip
    hashes = F.broadcast(hashed.where(F.col(NUM_TOKENS) > 0).select(TEXT_HASH).distinct())
    found = table.join(hashes, TEXT_HASH, "left_semi")
    number = found.count()
    return number, selection.filter(found, table).count() if number else 0


def _dominating(
    table: DataFrame, selection: Selection, columns: Sequence[str]
) -> list[Check | None]:
    """Of each column the most frequent value among what is selected, if it is nearly all of it."""
    if not columns or not selection.num_selected:
        return []
    values = {column: quoted(column).cast("string") for column in columns}
    each = [F.struct(F.lit(c).alias("column"), v.alias("value")) for c, v in values.items()]
    chosen = selection.filter(table, table).select(F.explode(F.array(*each)).alias("of"))
    counted = chosen.groupBy("of.column", "of.value").count()
    most = F.max(F.struct("count", "value")).alias("most")
    first = {r["column"]: r["most"] for r in counted.groupBy("column").agg(most).collect()}
    same = [F.count_if(values[c].eqNullSafe(F.lit(m["value"]))).alias(c) for c, m in first.items()]
    whole = table.agg(F.count("*").alias("__all"), *same).first()
    assert whole is not None
    return [
        checks.dominates(
            column, str(most["value"]), most["count"] / selection.num_selected,
            whole[column] / whole["__all"],
        )
        for column, most in first.items()
    ]  # fmt: skip


def open_targets(spark: SparkSession, recorded: str) -> dict[str, DataFrame]:
    """The targets as the run that fitted read them, by name; those that are gone or changed not."""
    found = {}
    for name, identity in json.loads(recorded).items():
        place, kind, owner = identity["place"], identity["format"], f"target {name}"
        with contextlib.suppress(TableError):
            if (version := identity.get("delta_version")) is not None:
                found[name] = tables.read(spark, place, kind, owner, version=version)
                continue
            opened = open_input(spark, place, None if kind == "table" else kind, owner)
            if opened.identity == identity:
                found[name] = opened.frame
    return found


def sample_texts(model: DSIRModel, frame: DataFrame) -> list[str]:
    """The beginnings of a few texts, the same ones whatever the partitioning."""
    text = F.substring(quoted(model.config.text_column), 1, _CHARACTERS).alias("text")
    texts = frame.select(text).where(F.col("text").isNotNull())
    rows = texts.orderBy(F.xxhash64("text"), "text").limit(_TEXTS).collect()
    return [r["text"] for r in rows]


def _tell(found: list[Check]) -> None:
    for check in found:
        warnings.warn(str(check), CheckWarning, stacklevel=2)


def _with_id_column(config: JobConfig, raw: Input) -> FitConfig:
    """The user's id column; where none is named and there is no `id`, one is made from the text."""
    fit_config = config.fit_config()
    named = "id_column" in config.given
    if config.id_column is not None and not named and config.id_column not in raw.frame.columns:
        return dataclasses.replace(fit_config, id_column=None)
    if config.id_column is not None:
        check_id_column(raw.frame, config.id_column, f"raw ({config.raw})")
    return fit_config


def _check_ids(run: _Run, raw: Input, fit_config: FitConfig) -> None:
    if run.config.check_ids and fit_config.id_column is not None:
        with run.stage("check_ids", "checking that ids are unique"):
            _refuse_duplicate_ids(raw.frame, fit_config.id_column)


def _refuse_duplicate_ids(raw: DataFrame, id_column: str) -> None:
    ids = raw.select(quoted(id_column).alias("id")).where(F.col("id").isNotNull())
    twice = ids.groupBy("id").count().where(F.col("count") > 1)
    found = twice.agg(
        F.count("*").alias("n"), F.min(F.struct("id", "count")).alias("first")
    ).first()
    if found is not None and found["n"]:
        raise DataError(
            f"id_column {id_column!r} is not unique: {found['n']} ids occur more than once, e.g. "
            f"{found['first']['id']!r} {found['first']['count']} times; name a unique column, or "
            "none (id_column: null in the config) to make ids from the texts"
        )


def _write_model(run: _Run, model: DSIRModel) -> None:
    with run.stage("write_model", "writing the model"):
        model.save(run.place(MODEL), spark=run.spark, overwrite=True, run_id=run.run_id)
        version = tables.delta_version(run.spark, run.place(MODEL))
    run.facts |= {"model_fingerprint": model.fingerprint, "model_version": version}


def _load_model(run: _Run) -> tuple[DSIRModel, Any]:
    """The model under the output and the run that wrote it; refused where it is another's."""
    place = run.place(MODEL)
    version = tables.delta_version(run.spark, place)
    if version is None:
        raise TableError(f"there is no model at {place}: run `fit` first")
    earlier = _record(run, F.col("model_version") == version, F.col("command").isin("fit", "run"))
    if earlier is None:
        raise TableError(f"no finished run wrote the model at {place}: run `fit --overwrite`")
    model = DSIRModel.load(place, spark=run.spark, version=version)
    differences = [
        f"{name} is {_shown(fitted)} in the model and {_shown(given)} here"
        for name in sorted(run.config.given & {f.name for f in dataclasses.fields(FitConfig)})
        if (fitted := getattr(model.config, name)) != (given := _resolved(run.config, name))
    ]
    if differences:
        raise TableError(
            f"the model at {place} does not belong to this config: {', '.join(differences)}; "
            "leave the options out, or fit again with --overwrite"
        )
    target = {k: v["place"] for k, v in json.loads(earlier["target"]).items()}
    if "target" in run.config.given and dict(run.config.target) != target:
        raise TableError(
            f"the model at {place} does not belong to this config: it was fitted on target "
            f"{target}, not {dict(run.config.target)}; fit again with --overwrite"
        )
    run.facts |= {
        "model_fingerprint": model.fingerprint,
        "model_version": version,
        "target": earlier["target"],
    }
    return model, earlier


def _resolved(config: JobConfig, name: str) -> Any:
    """An option as a model holds it: a tokenizer's file by its content."""
    value = getattr(config, name)
    return tokens.resolved(value) if name == "tokenizer" else value


def _shown(value: Any) -> str:
    return repr(tokens.shown(value) if isinstance(value, str) else value)


def _record(run: _Run, *conditions: Any) -> Any:
    """The latest row of `runs` under all conditions, or None."""
    if not tables.exists(run.spark, run.place(RUNS)):
        return None
    rows = tables.read(run.spark, run.place(RUNS), "delta")
    for condition in conditions:
        rows = rows.where(condition)
    return rows.orderBy(F.col("started_at").desc()).first()


def _weights_of_record(run: _Run) -> tuple[int, Any]:
    place = run.place(WEIGHTS)
    version = tables.delta_version(run.spark, place)
    if version is None:
        raise TableError(f"there are no weights at {place}: run `weigh` first")
    wrote = F.col("command").isin("weigh", "run")
    earlier = _record(run, F.col("weights_version") == version, wrote)
    if earlier is None:
        raise TableError(f"no finished run wrote the weights at {place}: run `weigh --overwrite`")
    return version, earlier


def _open_raw(run: _Run, recorded: dict[str, Any]) -> Input:
    """Raw as named in the config, or else as recorded by the run that read it before."""
    place = run.config.raw or recorded["place"]
    kind = run.config.raw_format or (recorded["format"] if place == recorded["place"] else None)
    kind = None if kind == "table" else kind
    raw = open_input(run.spark, place, kind, "raw", run.config.where)
    run.facts["raw"] = json.dumps(raw.identity, sort_keys=True)
    return raw


def _refuse_foreign_weights(run: _Run, model: DSIRModel, earlier: Any, raw: Input) -> None:
    place = run.place(WEIGHTS)
    if earlier["model_fingerprint"] != model.fingerprint:
        raise TableError(
            f"the weights at {place} do not belong to the model beside them: they were made with "
            f"model {earlier['model_fingerprint']}, it is {model.fingerprint}; "
            "run `weigh --overwrite`"
        )
    recorded = json.loads(earlier["raw"])
    differences = [
        f"{name} was {recorded.get(name)!r} and is {raw.identity.get(name)!r}"
        for name in sorted(set(recorded) | set(raw.identity))
        if recorded.get(name) != raw.identity.get(name)
    ]
    if differences:
        raise TableError(
            f"the weights at {place} do not belong to this raw table: {', '.join(differences)}; "
            "run `weigh --overwrite`"
        )
    if earlier["table_fingerprint"] != weights.table_fingerprint(model.tables()):
        raise TableError(
            f"the weights at {place} were made on a machine whose logarithm differs in the last "
            "bit: run `weigh --overwrite` here, so that both passes agree"
        )


def _match(run: _Run, model: DSIRModel, raw: Input) -> DSIRModel:
    """The model with the steps of a matched selection, which are written."""
    config = run.config
    with run.stage("match", "learning the steps of the matched selection"):
        learnt = model.matched(raw.frame, config)
        learnt.save_matchings(run.place(MATCH), spark=run.spark, run_id=run.run_id)
    run.facts["match_version"] = tables.delta_version(run.spark, run.place(MATCH))
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


def _write_weights(run: _Run, model: DSIRModel, raw: Input) -> None:
    with run.stage("weigh", "weighing raw"):
        config = run.config
        table = model.weigh(
            raw.frame, (*config.keep, *needed_columns(config)),
            text_hash=config.duplicates == "drop", quality=config.quality is not None,
        )  # fmt: skip
        tables.write(table, run.place(WEIGHTS), overwrite=True, run_id=run.run_id)
        version = tables.delta_version(run.spark, run.place(WEIGHTS))
    run.facts |= {
        "weights_version": version,
        "table_fingerprint": weights.table_fingerprint(model.tables()),
    }


def _cut(run: _Run, model: DSIRModel) -> tuple[DataFrame, Selection]:
    """The weights table of the run and what is selected by it; nothing is written."""
    config = run.config
    version = run.facts["weights_version"]
    table = tables.read(run.spark, run.place(WEIGHTS), "delta", version=version)
    with run.stage("cut", "finding the cut-off"):
        selection = model.select(table, config.resample_config())
        targets = open_targets(run.spark, run.facts["target"])
        own = [c for c in config.keep if c in table.columns]
        sample = sample_of_ranks(selection, table)
        _tell(before_writing(model, selection, table, targets, sample, own))
    return table, selection


def _select(
    run: _Run, model: DSIRModel, raw: Input, table: DataFrame, selection: Selection
) -> None:
    config = run.config
    with run.stage("select", "writing the selected documents"):
        tables.write(
            model.selected(raw.frame, selection, table), run.place(SELECTED),
            overwrite=True, run_id=run.run_id,
        )  # fmt: skip
        if config.whole_documents is not None:
            version = tables.delta_version(run.spark, run.place(SELECTED))
            chosen = tables.read(run.spark, run.place(SELECTED), "delta", version=version)
            whole = model.whole_documents(raw.frame, chosen, config.whole_documents)
            tables.write(whole, run.place(DOCUMENTS), overwrite=True, run_id=run.run_id)
    run.facts |= {
        "table_fingerprint": weights.table_fingerprint(model.tables()),
        "selected_version": tables.delta_version(run.spark, run.place(SELECTED)),
        "seed": config.seed,
        "num_to_sample": config.num_to_sample,
        "num_tokens_to_sample": config.num_tokens_to_sample,
        "shortfall": config.budget - sum(selection.size or selection.num_documents),
        "selection": selection_to_json(selection),
        "funnel": _with_filtered(run, raw, dataclasses.asdict(selection.funnel)),
        "temperature": dict(zip(model.targets, selection.temperatures, strict=True)),
    }
    _evaluate(run, model, raw, table, selection)


def _with_filtered(run: _Run, raw: Input, funnel: dict[str, int]) -> dict[str, int]:
    """The funnel with what `where` left out, counted without reading a text."""
    if run.config.where is None:
        return funnel
    left_out = raw.everything.count() - raw.frame.count()
    return {**funnel, "read": funnel["read"] + left_out, "filtered": left_out}


def _evaluate(
    run: _Run, model: DSIRModel, raw: Input, table: DataFrame, selection: Selection
) -> None:
    """KL reduction of the selection as it was written, and of a random subset of equal size."""
    names = tuple(model.targets)
    version = run.facts["selected_version"]
    with run.stage("evaluate", "measuring the KL reduction"):
        selected = tables.read(run.spark, run.place(SELECTED), "delta", version=version)
        if selection.targets == (None,):
            by_target = {names[0]: selected.count()}
        else:
            found = {r[TARGET]: r["count"] for r in selected.groupBy(TARGET).count().collect()}
            by_target = {name: found.get(name, 0) for name in names}
        if sum(by_target.values()) != selection.num_selected:
            raise DataError(
                f"{sum(by_target.values())} documents were written where {selection.num_selected} "
                "were selected: raw changed while it was read; run again on data that stands still"
            )
        run.facts["selected_by_target"] = by_target
        chosen = {names[0]: selected}
        if selection.targets != (None,):
            chosen = {n: selected.where(F.col(TARGET) == F.lit(n)) for n in names}
        counted = model.count(chosen)
        run.facts["kl_reduction"] = _kl_reductions(model, counted)
        if model.matchings:
            sizes = {name: part.num_ngrams for name, part in counted.items()}
            run.facts["kl_bound"] = model.kl_bounds(table, sizes, selection.min_example_length)
        random = random_subsets(model, raw.frame, table, selection)
        run.facts["kl_reduction_random"] = _kl_reductions(
            model, model.count(random, selection.min_example_length)
        )
        sizes_of = resample.effective_sample_size(table, selection)
        run.facts["effective_sample_size"] = dict(zip(names, sizes_of.values(), strict=True))


def _kl_reductions(
    model: DSIRModel, counted: Mapping[str, BucketCounts]
) -> dict[str, float | None]:
    """Each target against the documents counted under its name."""
    return {name: model.kl_reduction(found.counts)[name] for name, found in counted.items()}


def random_subsets(
    model: DSIRModel, raw: DataFrame, table: DataFrame, selection: Selection
) -> dict[str, DataFrame]:
    """Uniform random subsets of raw's candidates, each as large as the selection for a target.

    Rows shorter than the selection's `min_example_length` come along and are not to be counted.
    """
    documents = model.documents(raw)
    key, ids = resample.uniform_key(selection), quoted(selection.id_column)
    made = selection.ids_from_content
    subsets = {}
    for name, cut in zip(model.targets, resample.uniform_cuts(table, selection), strict=True):
        subset = documents.where(cut.reached_by(key, ids))
        subsets[name] = subset.dropDuplicates([selection.id_column]) if made else subset
    return subsets


def selection_to_json(selection: Selection) -> str:
    """All facts of a selection as JSON."""
    facts = dataclasses.asdict(dataclasses.replace(selection, repeated=None))
    del facts["repeated"]
    return json.dumps(facts, sort_keys=True)


def selection_from_json(text: str) -> Selection:
    """The selection that `selection_to_json` wrote."""
    facts = json.loads(text)

    def cut(found: dict[str, Any] | None) -> Any:
        return None if found is None else Cut(**found)

    facts["cuts"] = tuple(cut(found) for found in facts["cuts"])
    facts["quotas"] = tuple(
        tuple(resample.Quota(q["value"], cut(q["floor"]), cut(q["cap"])) for q in own)
        for own in facts["quotas"]
    )
    facts["funnel"] = resample.Funnel(**facts["funnel"])
    facts["options"] = ResampleConfig(**facts["options"])
    for name in ("targets", "temperatures", "num_documents", "size"):
        facts[name] = None if facts[name] is None else tuple(facts[name])
    return Selection(**facts)


def written_places(output: str) -> list[str]:
    """Where the four tables of an output are."""
    return [tables.within(output, name) for name in (MODEL, WEIGHTS, SELECTED, RUNS)]
