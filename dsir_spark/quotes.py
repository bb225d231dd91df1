"""Quotes of CSV that stay open, told by lines alone: such a text takes in all rows up to the next.

To see it by the rows would take another reading, and a rule for how many lines a text may have.
"""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F


def marks(line: Column) -> tuple[Column, Column]:
    """`odd`: has the line an odd number of quotes (0 or 1)? `open`: 1 where it can only open a text
    that has further lines, -1 where it may end one, else 0.

    A quote that opens stands first in its field, one that ends last. So in a file where every quote
    is closed, `open` never sums to more than 0, whatever the texts are.
    """
    odd = (F.length(line) - F.length(F.replace(line, F.lit('"'), F.lit("")))) % 2
    bare = F.replace(line, F.lit('""'), F.lit(""))
    step = F.when(odd == 0, 0).when(bare.rlike('^[^"]*"(,|$)'), -1)
    return odd.alias("odd"), step.when(bare.rlike('(^|,)"[^"]*$'), 1).otherwise(0).alias("open")


def said(path: str, opened: int, lines: int, others: int) -> str:
    """What a user is told of a file with a quote that stays open.

    opened : sum of `open` over its lines; of 0 their quotes are odd
    others : further files that have one
    """
    what = "an odd number of quotes"
    if opened > 0:
        what = f"{opened} of {lines} lines that begin a text with a quote and do not end it"
    more = f" (and {others} more)" if others else ""
    return (f"{path}{more} has {what}: a text whose quote is not closed takes in all rows up to "
            "the next one")  # fmt: skip
