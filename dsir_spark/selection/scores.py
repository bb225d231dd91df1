"""Scores that somebody else made become what rows are ranked by: direction, scale, and who is out.

All of it is exact or deterministic: ranks are counts of rows, means and deviations come from sums
of whole numbers, so that no partitioning shows in a bit. Only numbers are shuffled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark.columns import as_text, check_expression, check_id_column, hashable, quoted
from dsir_spark.errors import ColumnError, DataError
from dsir_spark.score_options import ScoreOptions
from dsir_spark.selection import keys
from dsir_spark.selection.cuts import root_bin
from dsir_spark.selection.pool import OF, Pool, lookup

Score = str | Column
NOISE_OF = {"sample": "gumbel", "top_k": "none", "random": "uniform", "pareto": "pareto"}
_WITHIN, _BIN, _N, _BELOW = "__dsir_within", "__dsir_bin", "__dsir_n", "__dsir_below"
_SCALE = "__dsir_scale"
_VALUE, _AT, _IN_BIN, _ALL = "__dsir_value_of", "__dsir_at", "__dsir_in_bin", "__dsir_all"
_MAX_VALUES = 10_000  # of the column within which means are taken
_STEPS = 1 << 40  # of the range of scores, in which sums for means are taken
_RANK_STEPS = 65_536.0  # of the fourth root of a score: what is within one, a task orders


def check_scores(
    pool: DataFrame, scores: Mapping[str | None, Score], constant: bool = True
) -> None:  # fmt: skip
    """Raise a `ColumnError` unless all scores are numbers, the same at each reading.

    constant : may they name no column?
    """
    for name, score in scores.items():
        who = "score" if name is None else f"score {name}"
        shown = f" {score!r}" if isinstance(score, str) else ""
        kind = check_expression(pool, score, f"{who}{shown} does not hold for the pool")
        if not isinstance(kind, T.NumericType):
            raise ColumnError(f"{who} must be numeric; it is {kind.simpleString()}: cast it")
        if isinstance(score, str) and not constant and not _names_a_column(pool, score):
            raise ColumnError(
                f"{who}{shown} names no column, and is the same for all rows; NAME=EXPR names a "
                "score: write a comparison as int(a = 1)"
            )


def _names_a_column(pool: DataFrame, expression: str) -> bool:
    """Does a column's name stand in an expression?

    Spark would tell what one refers to by an exception only, which it logs.
    """
    told = expression.replace("``", "`").lower()
    names = (*map(str.lower, pool.columns), "_metadata")
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", told) for name in names)


def is_number(score: Column) -> Column:
    """Neither null nor NaN?"""
    return score.isNotNull() & ~F.isnan(score)


def normalized(
    rows: DataFrame, given: Sequence[str], named: Sequence[str], options: ScoreOptions
) -> DataFrame:
    """The rows with what they are ranked by, the larger the better (double).

    Parameters
    ----------
    given : columns of scores (numbers)
    named : what each is called when it is turned and scaled

    z : mean and deviation are exact to 2^-40 of the range of the finite scores
    rank : (rows below + half of the rows equal) / all, in [0, 1]; exact

    Raises
    ------
    DataError
        z within a column of more than 10,000 values.
    """
    own = [quoted(c).cast("double") for c in given]
    # 0 - x, for the negative of 0 would be another number.
    turned = [F.lit(0.0) - score if options.lower_is_better else score for score in own]
    rows = rows.withColumns(dict(zip(named, turned, strict=True)))
    if options.normalize_score == "none":
        return rows
    within = options.normalize_within
    value = F.lit(None).cast("string") if within is None else as_text(rows, within)
    rows, scale = rows.withColumn(_WITHIN, value), {"z": _by_z, "rank": _by_rank}
    for name in named:
        rows = scale[options.normalize_score](rows, name)
    return rows.drop(_WITHIN)


def hidden(
    rows: DataFrame, given: Mapping[str | None, Score], options: ScoreOptions
) -> tuple[DataFrame, dict[str | None, str], dict[str | None, str]]:
    """The rows with their scores (double), and what they are ranked by, under names that no table
    has; and these names, by target."""
    as_given = {name: f"__dsir_given_{i}" for i, name in enumerate(given)}
    ranked_by = {name: f"__dsir_ranked_by_{i}" for i, name in enumerate(given)}
    own = {as_given[n]: F.expr(s) if isinstance(s, str) else s for n, s in given.items()}
    rows = rows.withColumns({name: s.cast("double") for name, s in own.items()})
    return normalized(rows, [*own], [*ranked_by.values()], options), as_given, ranked_by


def _by_z(rows: DataFrame, name: str) -> DataFrame:
    score, group = F.col(name), rows.groupBy(_WITHIN)
    finite = F.when(is_number(score) & (F.abs(score) < math.inf), score)
    found = group.agg(F.min(finite), F.max(finite)).limit(_MAX_VALUES + 1).collect()
    if len(found) > _MAX_VALUES:
        raise DataError(f"normalize_within needs a column of at most {_MAX_VALUES} values for z; "
                        "this has more: give normalize_score rank")  # fmt: skip
    # Halves, for the range may be more than a double.
    ends = {value: (low, high / 2 - low / 2) for value, low, high in found if low is not None}
    known = lookup(rows, _WITHIN, ends, f"{_SCALE} struct<low: double, half: double>")
    half = F.col(f"{_SCALE}.half")
    share = (finite / 2 - F.col(f"{_SCALE}.low") / 2) / half
    step = F.floor(F.when(half > 0, share * F.lit(float(_STEPS))).otherwise(F.lit(0.0)))
    step = F.when(finite.isNotNull(), step).cast("decimal(18,0)")
    sums = known.groupBy(_WITHIN).agg(F.count(step), F.sum(step), F.sum(step * step))
    scales = {
        value: _mean_and_deviation(int(n), int(first), int(second), *ends[value])
        for value, n, first, second in sums.collect()
        if n
    }
    known = lookup(rows, _WITHIN, scales, f"{_SCALE} struct<mean: double, deviation: double>")
    mean, deviation = F.col(f"{_SCALE}.mean"), F.col(f"{_SCALE}.deviation")
    # Of equal scores all are the mean; infinite ones stay what they are.
    flat = F.when(F.abs(score) < math.inf, F.lit(0.0)).otherwise(score)
    z = F.when(deviation > 0, (score - mean) / deviation).otherwise(flat)
    scaled = F.when(is_number(score), z)
    return known.withColumn(name, scaled).drop(OF, _SCALE)


def _mean_and_deviation(
    n: int, first: int, second: int, low: float, half: float
) -> tuple[float, float]:
    """Of n scores in steps of the range from `low` to `low + 2 * half`, from their sums."""
    mean, square = Fraction(first, n), Fraction(second, n)
    step = Fraction(2 * Fraction(half), _STEPS)
    deviation = math.sqrt(square - mean * mean) * float(step)
    # The middle of a step, where there are steps.
    return float(Fraction(low) + (mean + (Fraction(1, 2) if half else 0)) * step), deviation


def _by_rank(rows: DataFrame, name: str) -> DataFrame:
    """Distinct scores are counted and ordered within bins, and come back to the rows by a join."""
    score = F.col(name)
    groups = rows.where(is_number(score)).groupBy(_WITHIN, score.alias(OF))
    values = groups.agg(F.count("*").alias(_N))
    values = values.withColumn(_BIN, F.coalesce(root_bin(F.col(OF), _RANK_STEPS), F.lit(0)))
    bins = values.groupBy(_WITHIN, _BIN).agg(F.sum(_N).alias(_IN_BIN))
    # A row for each bin: some hundred thousand at most for each value.
    before = Window.partitionBy(_WITHIN).orderBy(_BIN)
    below = before.rowsBetween(Window.unboundedPreceding, -1)
    bins = bins.select(
        F.col(_WITHIN).alias(_VALUE), F.col(_BIN).alias(_AT),
        F.coalesce(F.sum(_IN_BIN).over(below), F.lit(0)).alias(_BELOW),
        F.sum(_IN_BIN).over(Window.partitionBy(_WITHIN)).alias(_ALL),
    )  # fmt: skip
    same = F.col(_WITHIN).eqNullSafe(F.col(_VALUE)) & (F.col(_BIN) == F.col(_AT))
    inside = Window.partitionBy(_WITHIN, _BIN).orderBy(OF)
    inside = inside.rowsBetween(Window.unboundedPreceding, -1)
    smaller = F.col(_BELOW) + F.coalesce(F.sum(_N).over(inside), F.lit(0))
    rank = (smaller * 2 + F.col(_N)).cast("double") / (F.col(_ALL) * 2).cast("double")
    ranks = values.join(bins, same).select(
        F.col(_WITHIN).alias(_VALUE), F.col(OF).alias(OF), rank.alias(_SCALE)
    )
    found = F.col(_WITHIN).eqNullSafe(F.col(_VALUE)) & (score == F.col(OF))
    joined = rows.join(ranks, found, "left").withColumn(name, F.col(_SCALE))
    return joined.drop(_VALUE, OF, _SCALE)


def pool_of(
    rows: DataFrame, id_column: str, given: Mapping[str | None, str],
    named: Mapping[str | None, str], options: ScoreOptions, *, size: Column | None = None,
    copies: str | None = None,
) -> Pool:  # fmt: skip
    """How `rows` compete by scores.

    Parameters
    ----------
    given : columns of the scores as they were given, by target
    named : columns of what rows are ranked by
    """
    scores: dict[str | None, Column] = {name: quoted(column) for name, column in named.items()}
    own = [quoted(column).cast("double") for column in given.values()]
    stages = []
    if options.threshold is not None:
        limit = F.lit(options.threshold)
        beyond = own[0] > limit if options.lower_is_better else own[0] < limit
        stages.append(("beyond_threshold", is_number(own[0]) & beyond))
    if options.method == "pareto":
        (score,) = scores.values()
        check_id_column(rows, id_column, "the table selected from")
        draw = keys.pareto(options.seed, hashable(rows, id_column))
        stages.append(("not_drawn", is_number(score) & ~(draw > F.lit(1.0) - score)))
    if options.method == "random":
        scores = {name: F.when(is_number(s), F.lit(0.0)) for name, s in scores.items()}
    pool = Pool(
        id_column, scores, noise=NOISE_OF[options.method], stages=tuple(stages), size=size,
        copies=copies, tie_seed=options.seed,
    )  # fmt: skip
    return pool.of(rows)
