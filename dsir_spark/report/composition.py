"""How often each value of a column is there before and after."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import quoted
from dsir_spark.report.facts import Composition, Value

_VALUES = 1_000  # a column, those with most selected documents first
_NUMBERS = ("raw", "candidates", "selected")


def compositions(
    columns: Sequence[str], before: DataFrame, after: DataFrame, candidate: Column | None
) -> tuple[Composition, ...]:
    """The values of columns, counted in one query.

    Parameters
    ----------
    before, after : all rows, and those selected; both have the columns
    candidate : is a row of `before` one? None: that is not known
    """
    if not columns:
        return ()
    one, none = F.lit(1), F.lit(0)
    known = none if candidate is None else candidate.cast("int")
    counted = _values(before, columns, one, known, none).union(
        _values(after, columns, none, none, one)
    )
    # With the rows of whole columns, which come first.
    sums = counted.rollup("column", "value").agg(
        F.grouping_id().alias("level"), *[F.sum(name).alias(name) for name in _NUMBERS]
    )
    order = (F.desc("selected"), F.desc("raw"), F.asc("value"))
    rows = sums.where("level < 3").orderBy(F.desc("level"), *order)
    found: list[list[Value]] = [[] for _ in columns]
    whole = {}
    for r in rows.limit((_VALUES + 1) * len(columns)).collect():
        if r["level"]:
            whole[r["column"]] = r
            continue
        of = whole[r["column"]]
        found[r["column"]].append(
            Value(
                value=str(r["value"]),
                raw=r["raw"],
                raw_share=r["raw"] / max(1, of["raw"]),
                candidates=None if candidate is None else r["candidates"],
                selected=r["selected"],
                selected_share=r["selected"] / max(1, of["selected"]),
            )
        )
    return tuple(Composition(c, tuple(own)) for c, own in zip(columns, found, strict=True))


def _values(
    frame: DataFrame, columns: Sequence[str], raw: Column, candidate: Column, selected: Column
) -> DataFrame:  # fmt: skip
    """A row for each value of each row."""
    each = [
        F.struct(F.lit(i).alias("column"), quoted(c).cast("string").alias("value"))
        for i, c in enumerate(columns)
    ]
    numbers = [n.alias(c) for n, c in zip((raw, candidate, selected), _NUMBERS, strict=True)]
    return frame.select(F.explode(F.array(*each)).alias("of"), *numbers).select("of.*", *_NUMBERS)
