"""`select`: a selection from any table of ids and scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame

from dsir_spark.columns import (
    COPIES,
    TARGET,
    check_column,
    quoted,
    refuse_columns,
    refuse_own_names,
)
from dsir_spark.errors import ConfigError
from dsir_spark.options import takes, target_name_problems
from dsir_spark.score_options import ScoreOptions
from dsir_spark.selection import scores
from dsir_spark.selection.find import find
from dsir_spark.selection.scores import Score


@takes(ScoreOptions)
def select(
    pool: DataFrame,
    score: Score | Mapping[str, Score] = "score",
    *,
    id_column: str = "id",
    copies: str | None = None,
    **options: Any,
) -> DataFrame:
    """The rows of a table that are selected by a score, exactly and by seed; all its columns.

    Rows without a score (null or NaN) are no candidates; infinite scores are the first and the
    last. Rows of equal score are in an order that the seed decides.

    Parameters
    ----------
    pool : ids, scores and whatever columns the options name; read more than once
    score : Spark SQL over its columns, or a Column: numbers, the larger the better. A mapping of
        names to them makes several targets, and adds a column `target`; `max_copies` above 1
        adds `copies`
    id_column : unique ids, string or integer
    copies : a column that is equal for copies (a hash of the text), of which only the one with the
        smallest id may be selected, unless `duplicates` is keep
    {options}

    Raises
    ------
    ConfigError
        Options out of range or in contradiction, all of them listed.
    ColumnError
        A column is missing, or a score is no number or changes from one reading to the next.

    Examples
    --------
    >>> select(pages, "quality - 0.1 * toxicity", num_to_sample=1_000, seed=7)
    >>> select(pages, "perplexity", lower_is_better=True, method="top_k", quantile=0.1)
    """
    several = isinstance(score, Mapping)
    given: dict[Any, Score] = dict(score) if isinstance(score, Mapping) else {None: score}
    names = tuple(str(name) for name in given) if several else None
    problems = target_name_problems(names) if names is not None else []
    if not given:
        problems = ["score must be one score or a mapping of names to scores; got none"]
    if problems:
        raise ConfigError.from_problems(problems)
    checked = _shared(ScoreOptions.checked(options, names), copies)
    if checked.proportions is not None and not several:
        raise ConfigError("proportions are shares of scores with names: give a mapping of names to "
                          "scores, or leave proportions out")  # fmt: skip
    added = ([TARGET] if several else []) + ([COPIES] if checked.max_copies > 1 else [])
    refuse_columns(pool, added)
    refuse_own_names(pool, "the pool")
    scores.check_scores(pool, given)
    if checked.normalize_within is not None:
        check_column(pool, checked.normalize_within, "the pool", "normalize_within")
    rows, as_given, ranked_by = scores.hidden(pool, given, checked)
    size = quoted(checked.size_column) if checked.size_column else None
    how = scores.pool_of(rows, id_column, as_given, ranked_by, checked, size=size, copies=copies)
    budgets = checked.proportions or {}
    found = find(rows, how, checked, {t: budgets.get(str(t), 1.0) for t in given})
    return found.filter(rows, rows).drop(*as_given.values(), *ranked_by.values())


def _shared(options: ScoreOptions, copies: str | None) -> ScoreOptions:
    """The options with what `group_share` means; `duplicates` means something of `copies` only."""
    if "duplicates" in options.model_fields_set and copies is None:
        raise ConfigError("duplicates is for copies: give the column that is equal for them")
    shares = options.group_share
    if shares is None:
        return options
    if shares != "raw" and not isinstance(shares, Mapping):
        raise ConfigError(f"group_share must be raw or a mapping here; got {shares!r}")
    return options.sharing(shares)
