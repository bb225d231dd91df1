"""`select`: a selection from any table of ids and scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark.columns import TARGET, quoted, refuse_columns
from dsir_spark.errors import ColumnError, ConfigError
from dsir_spark.options import SelectOptions, takes, target_name_problems
from dsir_spark.selection.find import find
from dsir_spark.selection.pool import Pool

Score = str | Column


@takes(SelectOptions)
def select(
    pool: DataFrame,
    score: Score | Mapping[str, Score] = "score",
    *,
    id_column: str = "id",
    copies: str | None = None,
    **options: Any,
) -> DataFrame:
    """The rows of a table that are selected by a score, exactly and by seed; all its columns.

    Parameters
    ----------
    pool : ids, scores and whatever columns the options name; read more than once
    score : Spark SQL over its columns, or a Column: numbers, the larger the better. A mapping of
        names to them makes several targets, and adds a column `target`. Rows without a score (null
        or NaN) are no candidates.
    id_column : unique ids, string or integer
    copies : a column that is equal for copies (a hash of the text), of which only the one with the
        smallest id may be selected, unless `duplicates` is keep
    {options}

    Raises
    ------
    ConfigError
        Options out of range or in contradiction, all of them listed.
    ColumnError
        A column is missing, or a score is no number.

    Examples
    --------
    >>> select(pages, "quality - 0.1 * toxicity", num_to_sample=1_000, seed=7)
    """
    several = isinstance(score, Mapping)
    given: dict[Any, Score] = dict(score) if isinstance(score, Mapping) else {None: score}
    names = tuple(str(name) for name in given) if several else None
    problems = target_name_problems(names) if names is not None else []
    if not given:
        problems = ["score must be one score or a mapping of names to scores; got none"]
    if problems:
        raise ConfigError.from_problems(problems)
    checked = SelectOptions.checked(options, names)
    if checked.num_to_sample is None and not checked.sized:
        raise ConfigError("give num_to_sample, or num_tokens_to_sample and size_column")
    if checked.sized and checked.size_column is None:
        raise ConfigError("num_tokens_to_sample needs size_column: what a row's size is")
    if several:
        refuse_columns(pool, [TARGET])
    scores = {name: F.expr(s) if isinstance(s, str) else s for name, s in given.items()}
    _check_numbers(pool, scores)
    own = Pool(
        id_column, scores,
        noise="gumbel" if checked.method == "sample" else "none",
        size=None if checked.size_column is None else quoted(checked.size_column),
        copies=copies,
    )  # fmt: skip
    shares = checked.proportions or {}
    return find(pool, own, checked, {t: shares.get(str(t), 1.0) for t in given}).filter(pool, pool)


def _check_numbers(pool: DataFrame, scores: Mapping[str | None, Column]) -> None:
    """Raise a `ColumnError` unless all scores are numbers."""
    frame = pool.select(*[s.alias(f"s{i}") for i, s in enumerate(scores.values())])
    for field, name in zip(frame.schema.fields, scores, strict=True):
        if not isinstance(field.dataType, T.NumericType):
            who = "score" if name is None else f"score {name}"
            raise ColumnError(
                f"{who} must be numeric; it is {field.dataType.simpleString()}: cast it"
            )
