"""A random sample of the candidates, held by the driver: what the report tells of all of raw.

It is drawn by the uniform noise of the ids, so the random selection of equal size that a selection
is compared with is its first documents, for every target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import NUM_TOKENS, column_name, quoted
from dsir_spark.selection import Selection
from dsir_spark.selection.rows import to_arrow

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

DOCUMENTS = 5_000
_SIZES = "__dsir_size"


@dataclass(frozen=True, eq=False)
class Sample:
    """Candidates by falling uniform noise.

    ids : n
    num_tokens, sizes : int64[n]; sizes: what the budget counts, None where it counts documents
    ranks, keys : float64[n, T], nats (keys of a matched selection: steps), by target
    population : candidates that it was drawn from, copies among them
    least : the noise that all of them, and no other candidates, have at least
    """

    ids: list[Any]
    num_tokens: Int64
    sizes: Int64 | None
    ranks: Float64
    keys: Float64
    population: int
    least: float

    @property
    def complete(self) -> bool:
        """Are all candidates in it?"""
        return self.least <= 0.0

    def random(self, documents: int, size: int | None) -> tuple[int, bool]:
        """How many of the first are a random selection of so many documents (or of such a size),
        and whether they are all of it."""
        if self.sizes is None or size is None:
            number = min(documents, len(self.ids))
            return number, number == documents
        number = int(np.searchsorted(np.cumsum(self.sizes), size, side="right"))
        return number, self.complete or number < len(self.ids)


def matched(selection: Selection) -> bool:
    """Is it of method match?"""
    return str(selection.options.method) == "match"


def ranks(selection: Selection) -> list[Column]:
    """What documents are ranked by, noise apart, for each target.

    Keys of a matched selection are a few whole numbers: there the log weight, which says more.
    """
    if matched(selection):
        return [quoted(column_name(target)) for target in selection.targets]
    return list(selection.ranks())


def draw(selection: Selection, weights: DataFrame) -> Sample:
    """About 5,000 candidates; one query, without a shuffle."""
    funnel = selection.funnel
    found = funnel["candidates"] + funnel["over_max_per_group"]
    # Of equal ids, a copy is no row of its own.
    population = found if selection.pool.ids_from_content else found + funnel["duplicate_text"]
    # A few more, so that five thousand are never too few by chance.
    share = (DOCUMENTS + 5 * math.sqrt(DOCUMENTS)) / max(1, population)
    least = max(0.0, 1.0 - share)
    noise, sized = selection.uniform_key(), selection.options.sized
    size = [selection.pool.whole_size().alias(_SIZES)] if sized else []
    rows = weights.where(selection.is_candidate() & (noise >= F.lit(least))).select(
        quoted(selection.pool.id_column).alias("id"), noise.alias("noise"), NUM_TOKENS, *size,
        F.array(*ranks(selection)).alias("ranks"), F.array(*selection.keys()).alias("keys"),
    )  # fmt: skip
    table = to_arrow(rows)
    drawn = table.column("noise").to_numpy()
    ids = table.column("id").to_pylist()
    order = sorted(range(len(ids)), key=lambda i: (drawn[i], ids[i]), reverse=True)
    if selection.pool.ids_from_content:
        order = list({ids[i]: i for i in reversed(order)}.values())[::-1]

    def column(name: str) -> Any:
        return np.array(table.column(name).to_pylist())[order]

    shape = (len(order), len(selection.targets))
    return Sample(
        ids=[ids[i] for i in order],
        num_tokens=column(NUM_TOKENS).astype(np.int64),
        sizes=column(_SIZES).astype(np.int64) if sized else None,
        ranks=column("ranks").reshape(shape).astype(np.float64),
        keys=column("keys").reshape(shape).astype(np.float64),
        population=population,
        least=least,
    )


def rank_correlation(a: Float64 | Int64, b: Float64 | Int64) -> float:
    """Spearman's, of two arrays of n numbers; 0 where one of them is constant."""
    placed = []
    for x in (a, b):
        _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
        placed.append((np.cumsum(counts) - (counts - 1) / 2.0)[where])  # ties share a rank
    if len(a) < 3 or any(r.std() == 0 for r in placed):
        return 0.0
    return float(np.corrcoef(placed[0], placed[1])[0, 1])
