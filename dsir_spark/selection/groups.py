"""Groups: of the rows of one value, only the best `max_per_group` compete."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

OVER_LIMIT = "__dsir_over_limit"


def limited(frame: DataFrame, group: Column, most: int, key: Column, ids: Column) -> DataFrame:
    """With OVER_LIMIT: is the row not among the best `most` of its group?

    By key (the largest over the targets), then id. Rows without a group are not limited.
    """
    # Rows without a group are groups of their own: together they would be one huge partition.
    alone = F.concat(F.lit("r"), ids.cast("string"))
    place = F.coalesce(F.concat(F.lit("g"), group), alone)
    placed = frame.withColumn("__dsir_place", place)
    order = Window.partitionBy("__dsir_place").orderBy(key.desc(), ids.desc())
    over = F.row_number().over(order) > F.lit(most)
    return placed.withColumn(OVER_LIMIT, group.isNotNull() & over).drop("__dsir_place")
