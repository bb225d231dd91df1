"""Who competes: the columns of a row that a selection goes by, and where rows leave the funnel.

Everything comes in as expressions over one row, so any frame that has these columns can be cut, or
filtered by a cut found elsewhere. What a score means is the caller's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import (
    as_text,
    check_copies_column,
    check_id_column,
    check_size_column,
    comparable,
    found,
    hashable,
    quoted,
    summable,
    wraps,
)
from dsir_spark.errors import ColumnError
from dsir_spark.options import SelectOptions
from dsir_spark.selection import keys

ID, STAGE, NOISE, SIZE = "__dsir_id", "__dsir_stage", "__dsir_noise", "__dsir_size"
# Arrays: with a column for each of sixty targets, the constraints that Spark derives from a filter
# double with every column.
RANKS, KEYS = "__dsir_ranks", "__dsir_keys"
# Up to so many targets have code of their own, which is four times as fast as functions of arrays;
# of more, it would be a method too long for Java to compile.
FEW_TARGETS = 8
OWN = "__dsir_own"  # the id itself, where ID, which breaks ties, is of another order
VALUE, COPY, MEMBER = "__dsir_value", "__dsir_copy", "__dsir_member_of"
OF = "__dsir_of_value"  # what a field is known by (`lookup`)
FOR = "__dsir_target"  # position of the target that a row goes to (int), or null
CANDIDATE = 0  # the stage of rows that have not left the funnel; those that have are below
OVER = -1


@dataclass(frozen=True)
class Pool:
    """How rows compete.

    Parameters
    ----------
    id_column : unique ids (string or integer); a row without one is no candidate
    scores : by target, in the caller's order; `{None: column}` for a single unnamed one
    noise : "gumbel" (to sample), "none" (the largest), "uniform" (to break ties of whole numbers),
        "pareto" (to keep by probability)
    stages : (name, condition) under which a row leaves the funnel; the first that holds counts
    size : of a row, rounded up, where the budget is one of sizes
    copies : the column that is equal for copies, of which only the row with the smallest id
        competes; null is equal to nothing. None: no copies are dropped
    ids_from_content : are rows of equal id copies of one candidate?
    temperature_floor : the smallest that `temperature="auto"` gives
    tie_seed : equal keys are ordered by a hash of this and the id, the larger first; None: by id
    hashed_ids : the id as it is hashed; `of` knows it by the type that a table's ids have
    """

    id_column: str
    scores: Mapping[str | None, Column]
    noise: str = "gumbel"
    stages: tuple[tuple[str, Column], ...] = ()
    size: Column | None = None
    copies: str | None = None
    ids_from_content: bool = False
    temperature_floor: float = 1.0
    tie_seed: int | None = None
    hashed_ids: Column | None = None

    def of(self, rows: DataFrame) -> Pool:
        """The pool of a table's rows, or of any with ids of its type.

        Raises
        ------
        ColumnError
            There is no id column, or one that is neither string nor integer.
        """
        check_id_column(rows, self.id_column, "the table selected from")
        return dataclasses.replace(self, hashed_ids=hashable(rows, self.id_column))

    @property
    def targets(self) -> tuple[str | None, ...]:
        """Names in the caller's order, or (None,)."""
        return tuple(self.scores)

    @property
    def ids(self) -> Column:
        """The id."""
        return quoted(self.id_column) if self.hashed_ids is None else self.hashed_ids

    @property
    def ties(self) -> Column:
        """What orders rows of equal keys; as distinct as the ids."""
        if self.tie_seed is None:
            return self.ids
        return F.xxhash64(F.lit(self.tie_seed).cast("bigint"), self.ids)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Where rows leave the funnel, in this order."""
        own = (name for name, _ in self.stages)
        last = ("without_score", "without_size", "duplicate_text", "over_max_per_group")
        return ("null_id", *own, *last)

    def stage(self, sized: bool) -> Column:
        """Where a row leaves the funnel by itself: below 0, or CANDIDATE (int)."""
        reasons = [self.ids.isNull(), *(condition for _, condition in self.stages)]
        reasons.append(_no_number([score.cast("double") for score in self.scores.values()]))
        if sized and self.size is not None:
            reasons.append(summable(self.size).isNull())
        first = -len(self.stage_names)
        found = [F.when(reason, F.lit(first + i)) for i, reason in enumerate(reasons)]
        return F.coalesce(*found, F.lit(CANDIDATE))

    def ranks(self, temperatures: tuple[float, ...]) -> list[Column]:
        """What rows are ranked by for each target, before noise (double)."""
        scores = zip(self.scores.values(), temperatures, strict=True)
        return [s.cast("double") if t == 1.0 else s.cast("double") / F.lit(t) for s, t in scores]

    def whole_size(self) -> Column:
        """Size of a row (bigint), rounded up; 0 where it is none."""
        assert self.size is not None
        return F.coalesce(summable(self.size), F.lit(0))

    def drops_copies(self, options: SelectOptions) -> bool:
        """Are copies no candidates?"""
        return self.copies is not None and options.duplicates == "drop"

    def staged(
        self, rows: DataFrame, options: SelectOptions, temperatures: tuple[float, ...]
    ) -> DataFrame:
        """The columns that the options go by, and no others: ID (what breaks ties), STAGE, NOISE,
        RANKS (what a row is ranked by for each target), and as needed SIZE, VALUE (of the quota
        column), COPY and OWN (the id, where ID is another), MEMBER (of a group)."""
        facts = {ID: self.ties, STAGE: self.stage(options.sized)}
        # A column of its own, so that it is computed once for all targets.
        facts[NOISE] = keys.noise(self.noise, options.seed, self.ids)
        facts[RANKS] = F.array(*self.ranks(temperatures))
        if options.sized:
            facts[SIZE] = self.whole_size()
        if options.quotas is not None:
            facts[VALUE] = as_text(rows, str(options.quota_column))
        if self.drops_copies(options):
            facts[COPY] = comparable(rows, str(self.copies))
            if self.tie_seed is not None or wraps(rows, self.id_column):
                facts[OWN] = quoted(self.id_column)
        if options.group_column is not None:
            facts[MEMBER] = as_text(rows, str(options.group_column))
        return rows.select(*[fact.alias(name) for name, fact in facts.items()])

    def funnel(self, counts: Mapping[int, int]) -> dict[str, int]:
        """Rows read, those that left at each stage, and candidates, from rows by stage."""
        names = self.stage_names
        found = {name: counts.get(i - len(names), 0) for i, name in enumerate(names)}
        found["candidates"] = counts.get(CANDIDATE, 0)
        return {"read": sum(found.values()), **found, "selected": 0}

    def check(self, rows: DataFrame, options: SelectOptions) -> None:
        """Raise a `ColumnError` unless the rows have what the options need."""
        missing = [c for c in options.needed_columns if found(rows, c) is None]
        if missing:
            own = [c for c in rows.columns if not c.startswith("__dsir_")]
            raise ColumnError(
                f"the table selected from has no column {', '.join(missing)}; it has "
                f"{', '.join(own)}: name another, or write the table with it (keep)"
            )
        if self.drops_copies(options):
            if found(rows, str(self.copies)) is None:
                raise ColumnError(
                    f"the table selected from has no column {self.copies}, by which copies are "
                    "dropped: write the table with it, or give duplicates keep"
                )
            check_copies_column(rows, str(self.copies), "the table selected from", "copies")
        if options.size_column is not None:
            check_size_column(rows, options.size_column, "the table selected from")


def with_keys(staged: DataFrame, targets: int) -> DataFrame:
    """With KEYS, the key of each target."""
    noise = F.col(NOISE)
    if targets <= FEW_TARGETS:
        return staged.withColumn(KEYS, F.array(*[F.col(RANKS)[t] + noise for t in range(targets)]))
    # An array of the noise, so that it is computed once a row wherever Spark moves the expression.
    repeated = F.array_repeat(noise, targets)
    return staged.withColumn(KEYS, F.zip_with(RANKS, repeated, lambda rank, own: rank + own))


def lookup(rows: DataFrame, column: str, known: Mapping[str | None, Any], field: str) -> DataFrame:
    """The rows with a field that is known by the value of a column (OF), or null."""
    frame = rows.sparkSession.createDataFrame([*known.items()], f"{OF} string, {field}")
    return rows.join(F.broadcast(frame), F.col(column).eqNullSafe(F.col(OF)), "left")


def _no_number(scores: list[Column]) -> Column:
    """Is one of them null or NaN?"""
    if len(scores) == 1:
        return scores[0].isNull() | F.isnan(scores[0])
    # A NaN is the greatest number. Not by a function of arrays, which Spark does not compile.
    return F.greatest(*[score.isNull() for score in scores]) | F.isnan(F.greatest(*scores))
