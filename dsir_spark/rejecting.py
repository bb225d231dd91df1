"""The table `rejected`: some rows of each stage of the funnel, why they are there, and the number
that it was told by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark import report
from dsir_spark.columns import found, quoted
from dsir_spark.inputs import Input
from dsir_spark.selection import Selection, rejected


def table_of(
    selection: Selection, rows: DataFrame, source: Input | None, number: int,
    scores: Sequence[Column], numbers: Mapping[str, Column], hidden: Sequence[str],
    made: Sequence[str] = (),
) -> DataFrame:  # fmt: skip
    """Up to `number` rows of each stage, with `rejected.ADDED`.

    rows : what was selected from
    source : where the rows that `where` left out are; None where those have no ids yet
    scores : of a row, by target; the best is its number
    numbers : by stage, what it was told by where that is another
    hidden : columns that are left out
    made : columns of `rows` that are not the source's, which may have others of these names; rows
        that `where` left out have none, for an expression may fail for them
    """
    ids, funnel = quoted(selection.pool.id_column), selection.funnel
    parted = rejected.rejected(selection, rows).drop(*hidden)
    if source is not None and "filtered" in source.dropped:
        parts = [c for c in parted.columns if c not in (rejected.STAGE, *made)]
        own = [c for c in parts if found(source.everything, c)]
        gone = source.everything.where(source.dropped["filtered"]).select(
            *map(quoted, own), F.lit("filtered").alias(rejected.STAGE)
        )
        parted = parted.unionByName(gone, allowMissingColumns=True)
    counts = {**funnel, rejected.BELOW: funnel["candidates"] - funnel["selected"]}
    few = rejected.drawn(parted, ids, counts, number)
    at = F.col(rejected.STAGE)
    reasons = [F.when(at == F.lit(stage), F.lit(label)) for stage, label in report.REASONS.items()]
    best = scores[0] if len(scores) == 1 else F.array_max(F.array(*scores))
    told = best.cast("double")
    for stage, other in numbers.items():
        told = F.when(at == F.lit(stage), other.cast("double")).otherwise(told)
    reason, number_of = F.coalesce(*reasons, at).alias("reason"), told.alias("number")
    return few.select("*", reason, number_of)
