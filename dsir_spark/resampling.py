"""From weights to the selected documents: how documents compete, and how raw's rows are fetched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from dsir_spark.columns import (
    CHUNK_COLUMNS,
    CONTAMINATED_BY,
    CONTENT_ID,
    NUM_CHUNKS_SELECTED,
    NUM_TOKENS,
    NUM_WORDPUNCT,
    QUALITY,
    TARGET,
    TEXT_HASH,
    classifier_columns,
    column_name,
    match_columns,
    quality_columns,
    quoted,
)
from dsir_spark.errors import ColumnError, ConfigError
from dsir_spark.options import FitOptions, QualityRule, ResampleOptions
from dsir_spark.scoring.documents import documents, num_ngrams, with_ids
from dsir_spark.scoring.matching import shares
from dsir_spark.scoring.model import Model
from dsir_spark.selection import Pool, Selection, find

# A selection of up to so many documents is sent to the scan of raw: some 100 bytes each, in the
# memory of every executor and of the driver.
SENT_IDS = 1_000_000
_NOISE = {"sample": "gumbel", "top_k": "none", "match": "uniform"}
_OF, _SCORES = "__dsir_of", "__dsir_scores"


def pool_of(model: Model, options: ResampleOptions, columns: Sequence[str] = ()) -> Pool:
    """How the rows of the model's weights tables, which have these columns, compete."""
    tokens, contaminated = F.col(NUM_TOKENS), F.col(CONTAMINATED_BY).isNotNull()
    stages = [
        ("null_text", tokens.isNull()),
        ("blank", tokens == 0),
        # Before all that a selection chooses: the number is the same whatever is selected.
        *([("contaminated", contaminated)] if CONTAMINATED_BY in columns else []),
        ("too_short", tokens < options.min_example_length),
        *_quality_stages(options.rule, model.config.tokenizer),
    ]
    matched = options.method == "match"
    scores = {}
    for name in model.names:
        column = match_columns(name)[0] if matched else column_name(name)
        scores[name] = quoted(classifier_columns(name)[0] if model.classifiers else column)
        if options.normalize == "ngram":
            size = num_ngrams(tokens, model.config.ngrams)
            scores[name] = scores[name] / F.greatest(size, F.lit(1))
    return Pool(
        id_column=model.id_name,
        scores=scores,
        noise=_NOISE[options.method],
        stages=tuple(stages),
        size=tokens if options.size_column is None else quoted(options.size_column),
        copies=TEXT_HASH,
        ids_from_content=model.config.id_column is None,
        temperature_floor=0.01 if options.normalize == "ngram" else 1.0,
    )


def _quality_stages(rule: QualityRule | None, tokenizer: str) -> list[tuple[str, Column]]:
    """Does a row break the rule on length, repetition, information, digits? Nothing breaks None."""
    names = ("quality_length", "quality_repeating", "quality_informative", "quality_numeric")
    if rule is None:
        return [(name, F.lit(False)) for name in names]
    # Of the kind that is counted, whatever the model's are: of these a text may have none.
    own = NUM_WORDPUNCT in quality_columns(tokenizer)
    tokens = F.col(NUM_WORDPUNCT if own else NUM_TOKENS)
    least = F.greatest(tokens, F.lit(1))
    repeated, informative, digits = (F.col(name) / least for name in QUALITY)
    broken = (
        ~((tokens > rule.min_tokens) & (tokens < rule.max_tokens)),
        ~((repeated > rule.min_repeated) & (repeated < rule.max_repeated)),
        ~((informative > rule.min_informative) & (informative < rule.max_informative)),
        ~(F.lit(1.0) - digits > rule.min_not_digits),
    )
    return list(zip(names, broken, strict=True))


def find_selection(
    model: Model, weights: DataFrame, options: ResampleOptions, num_rows: int | None = None
) -> Selection:
    """The cut-offs of a resampling, found from a weights table alone.

    num_rows : of the table, if known

    Raises
    ------
    ConfigError
        No budget is given.
    ColumnError
        A column that the options need is not in the weights table.
    DataError
        Quotas that these documents cannot fill.
    """
    require_budget(options)
    refuse_mixed(model.config, options)
    needed = () if options.quality is None else quality_columns(model.config.tokenizer)
    if missing := [c for c in needed if c not in weights.columns]:
        raise ColumnError(
            f"the weights table has no column {', '.join(missing)}; it has "
            f"{', '.join(weights.columns)}: weigh again with quality"
        )
    if model.decontamination is not None and CONTAMINATED_BY not in weights.columns:
        raise ColumnError(
            f"the weights table has no column {CONTAMINATED_BY}: weigh with the model that was "
            "given the texts (decontaminate)"
        )
    own = shares(model.targets, options.proportions)
    by_name = dict(zip(model.names, own, strict=True))
    return find(weights, pool_of(model, options, weights.columns), options, by_name, num_rows)


def require_budget(options: ResampleOptions) -> None:
    """Raise a `ConfigError` where neither documents nor tokens are given."""
    if options.num_to_sample is None and not options.sized:
        raise ConfigError("give num_to_sample or num_tokens_to_sample")


def refuse_mixed(config: FitOptions, options: ResampleOptions) -> None:
    """Raise a `ConfigError` where what is asked for needs log weights and a classifier scores."""
    if config.scorer == "classifier" and options.method == "match":
        raise ConfigError("method match goes by counts: give sample or top_k, or scorer dsir")
    if config.scorer == "classifier" and options.normalize != "none":
        raise ConfigError("normalize is for scorer dsir: log odds are of means already")


def selected_rows(
    model: Model,
    raw: DataFrame,
    selection: Selection,
    weights: DataFrame,
    *,
    sent: bool = False,
    unique_ids: bool = False,
) -> DataFrame:
    """The rows of `raw` that a selection holds, with weights and `num_tokens`; lazy.

    With several targets, `target` names the one that a row was selected for. Raw is scored again
    and filtered: the second reading gives the bits of the first.

    Parameters
    ----------
    weights : the table that the selection was found from
    sent : send up to SENT_IDS documents from there to the scan of raw, which then scores nothing?
        For weights that are a table, and not themselves a pass over raw
    unique_ids : is it known that no id occurs twice in raw? Where it is not, the documents sent are
        scored again, to tell them from others of the same id
    """
    options = selection.options
    assert isinstance(options, ResampleOptions)
    if sent and selection.num_selected <= SENT_IDS:
        chosen = _joined(model, raw, selection.filter(weights, weights), unique_ids)
    else:
        rows, matched = documents(raw, model.config), options.method == "match"
        contaminated = CONTAMINATED_BY in weights.columns
        if contaminated and model.decontamination is None:
            raise ConfigError(
                "the weights were made by a model that was given texts to stay away from: raw is "
                "read again, and needs them too (decontaminate)"
            )
        scored = model.scored(
            rows, matched=matched, quality=options.quality is not None, contaminated=contaminated
        )
        chosen = selection.filter(scored, weights)
        added = [*model.score_columns, NUM_TOKENS, *([] if model.single_target else [TARGET])]
        chosen = chosen.select(*[quoted(c) for c in (*rows.columns, *added)])
    return chosen if model.config.id_column is not None else _first_copies(chosen, model.id_name)


def _joined(model: Model, raw: DataFrame, selected: DataFrame, unique_ids: bool) -> DataFrame:
    """The rows of raw whose ids are those of some rows of weights, sent to every task."""
    config = model.config
    own = config.id_column or CONTENT_ID
    named = with_ids(raw, config)
    if config.chunk_words is not None:
        of = selected.select(quoted(own).alias(_OF)).distinct()
        named = named.join(F.broadcast(of), quoted(own) == F.col(_OF), "left_semi")
    rows = documents(named, config.model_copy(update={"id_column": own}))
    scores = [*model.score_columns, NUM_TOKENS]
    target = [] if model.single_target else [TARGET]
    # In one struct: under names of their own, the constraints that Spark derives from the filter of
    # `selected` would double with every target (2 GB were too little for twenty).
    own_scores = F.struct(*[quoted(c).alias(str(i)) for i, c in enumerate(scores)])
    found = selected.select(quoted(model.id_name).alias(_OF), own_scores.alias(_SCORES), *target)
    stored = {c: F.col(_SCORES)[str(i)] for i, c in enumerate(scores)}
    known = unique_ids or config.id_column is None
    if not unique_ids:
        found = found.distinct()
    joined = rows.join(F.broadcast(found), quoted(model.id_name) == F.col(_OF))
    columns = [quoted(c) for c in rows.columns]
    if known:
        return joined.select(*columns, *[s.alias(c) for c, s in stored.items()], *target)
    scored = model.scored(joined, matched=False)
    same = [s.eqNullSafe(quoted(c)) for c, s in stored.items()]
    scored = scored.where(reduce(Column.__and__, same))
    return scored.select(*columns, *[quoted(c) for c in scores], *target)


def _first_copies(chosen: DataFrame, id_column: str) -> DataFrame:
    """One row of each content id: the copies' own columns decide, whatever the partitioning."""
    columns = [quoted(c) for c in chosen.columns]
    copies = Window.partitionBy(quoted(id_column)).orderBy(F.to_json(F.struct(*columns)))
    numbered = chosen.withColumn("__dsir_copy_number", F.row_number().over(copies))
    return numbered.where("__dsir_copy_number = 1").select(*columns)


def whole_documents(model: Model, raw: DataFrame, selected: DataFrame, share: float) -> DataFrame:
    """The documents of `raw` of which at least this share of chunks is in `selected`.

    All columns of raw, and `num_selected_chunks` and `num_chunks`.
    """
    ids = quoted(model.config.id_column or CONTENT_ID)
    found = selected.groupBy(ids.alias(_OF)).agg(
        F.count("*").alias(NUM_CHUNKS_SELECTED), F.first("num_chunks").alias("num_chunks")
    )
    # A quotient is rounded as the share was: 7 of 25 are 0.28, but 0.28 * 25 is above 7.
    found = found.where(F.col(NUM_CHUNKS_SELECTED) / F.col("num_chunks") >= F.lit(share))
    # Text is not shuffled: the ids go to it, unless they are too many to be sent around.
    few = selected.count() <= SENT_IDS
    joined = with_ids(raw, model.config).join(
        F.broadcast(found) if few else found, ids == F.col(_OF)
    ).drop(_OF)
    return joined if model.config.id_column is not None else _first_copies(joined, CONTENT_ID)


def added_columns(
    config: FitOptions, targets: Sequence[str | None], options: ResampleOptions,
    contaminated: bool = False,
) -> list[str]:  # fmt: skip
    """What a selection adds to the columns of raw, some of it in passing.

    targets : as in `Model.names`
    contaminated : are documents that share an n-gram with some texts left out?
    """
    added = [*map(column_name, targets), NUM_TOKENS]
    if options.method == "match":
        added += [c for target in targets for c in match_columns(target)]
    if config.scorer == "classifier":
        added += [c for target in targets for c in classifier_columns(target)]
    added += quality_columns(config.tokenizer) if options.quality is not None else ()
    added += [CONTAMINATED_BY] if contaminated else []
    added += [CONTENT_ID] if config.id_column is None else []
    added += CHUNK_COLUMNS if config.chunk_words is not None else ()
    return added if tuple(targets) == (None,) else [*added, TARGET]
