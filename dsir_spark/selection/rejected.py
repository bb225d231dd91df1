"""Some of what was rejected: rows of each stage of the funnel, drawn by a hash of their ids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from dsir_spark.columns import quoted
from dsir_spark.selection import keys
from dsir_spark.selection.pool import CANDIDATE, ID
from dsir_spark.selection.selection import LOSER, LOST_AT, Selection

STAGE = "stage"  # where a row left the funnel (string)
BELOW = "below_cut"  # candidates that no target took: below its cut, or above a quota
ADDED = (STAGE, "reason", "number")  # to the columns of what was selected from
_SEED = 0x2545F4914F6CDD1D  # of the draw; another than any selection's noise is likely to have
_PLACE, _DRAW = "__dsir_place", "__dsir_draw"


def rejected(selection: Selection, rows: DataFrame) -> DataFrame:
    """The rows that a selection was found from and that it does not hold, with STAGE."""
    pool, columns = selection.pool.of(rows), [quoted(c) for c in rows.columns]
    stage, names = pool.stage(selection.options.sized), pool.stage_names
    name = F.array(*map(F.lit, names))[stage + F.lit(len(names))]
    parts = [rows.where(stage != F.lit(CANDIDATE)).select(*columns, name.alias(STAGE))]
    below = selection.rejected(rows)
    losers = selection.with_losers(rows).losers
    if losers is not None:
        # Of those that no cut reaches, some are known to be losers, and some are not.
        is_loser = F.col(ID) == F.col(LOSER)
        below = below.withColumn(ID, pool.ties).join(losers, is_loser, "left_anti")
        for why in filter(selection.funnel.get, ("duplicate_text", "over_max_per_group")):
            own = losers.where(F.col(LOST_AT) == F.lit(why))
            lost = rows.withColumn(ID, pool.ties).join(own, is_loser, "left_semi")
            parts.append(lost.select(*columns, F.lit(why).alias(STAGE)))
    parts.append(below.select(*columns, F.lit(BELOW).alias(STAGE)))
    return reduce(DataFrame.union, parts)


def drawn(rows: DataFrame, ids: Column, counts: Mapping[str, int], number: int) -> DataFrame:
    """Up to `number` rows of each STAGE, by a hash of their ids.

    counts : about how many rows each stage has
    """
    # Rows without an id are drawn by what else there is.
    by = F.coalesce(ids.cast("string"), F.to_json(F.struct(*[quoted(c) for c in rows.columns])))
    draw = keys.uniform(_SEED, by)
    # A few more, so that they are never too few by chance; only these are ordered.
    most = number + 6 * math.sqrt(number) + 10
    limits = [F.when(F.col(STAGE) == F.lit(s), F.lit(most / n)) for s, n in counts.items() if n]
    few = rows.withColumn(_DRAW, draw).where(F.col(_DRAW) <= F.coalesce(*limits, F.lit(1.0)))
    place = Window.partitionBy(STAGE).orderBy(_DRAW, by)
    placed = few.withColumn(_PLACE, F.row_number().over(place)).where(F.col(_PLACE) <= number)
    return placed.drop(_DRAW, _PLACE)
