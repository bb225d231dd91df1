"""From a pool and options to a selection: the funnel, the temperatures, who competes, the cuts.

Rows that the driver can hold, if their number is known, take one pass, whatever the options. A pool
that it can hold takes two: one counts the funnel, one brings the candidates. A larger one is
counted by histograms of keys, and only the rows near the cuts are brought.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.local_rows import to_arrow
from dsir_spark.options import SelectOptions
from dsir_spark.selection import copies, cuts, keys, quotas, small, temperature
from dsir_spark.selection.allocation import Rule, apportion, narrowed_cuts, row_bytes, settled
from dsir_spark.selection.cuts import KEY, Bin, Cut, exact_cuts
from dsir_spark.selection.pool import (
    CANDIDATE,
    COPY,
    ID,
    KEYS,
    MEMBER,
    NOISE,
    OVER,
    OWN,
    RANKS,
    SIZE,
    STAGE,
    Pool,
    with_keys,
)
from dsir_spark.selection.rows import known, numbers, total_size
from dsir_spark.selection.selection import LOSER, LOST_AT, Selection

_SENT_LOSERS = 100_000  # ids that a selection carries to its filters; of more they are found anew


def find(
    rows: DataFrame,
    pool: Pool,
    options: SelectOptions,
    shares: Mapping[str | None, float] | None = None,
    num_rows: int | None = None,
) -> Selection:
    """Find which rows are selected.

    Parameters
    ----------
    rows : frame with the columns that the pool and the options name
    options : the budget is one over all targets; more than there is selects all, with a warning
    shares : proportion of the budget for each target; need not sum to 1; by default equal
    num_rows : of the frame, if known

    Raises
    ------
    ColumnError
        A column that the pool or the options need is not there.
    DataError
        Quotas that these rows cannot fill.
    """
    pool.check(rows, options)
    own = [(shares or {}).get(t, 1.0) for t in pool.targets]
    search = _Find(rows, pool.of(rows), options, own, num_rows)
    return search.on_driver() if search.is_small else search.on_spark()


class _Find:
    """One search; what both ways of it share."""

    def __init__(
        self, rows: DataFrame, pool: Pool, options: SelectOptions, shares: list[float],
        num_rows: int | None,
    ) -> None:  # fmt: skip
        self.rows, self.pool, self.options, self.shares = rows, pool, options, shares
        self.names = pool.targets
        self.auto = options.temperature == "auto"
        self.temperatures = (1.0 if self.auto else float(options.temperature),) * len(self.names)
        self.staged = pool.staged(rows, options, self.temperatures)
        self.funnel: dict[str, int] = {}
        self.bins: list[Bin] | None = None
        self.held: pa.Table | None = None
        size = None if num_rows is None else num_rows * row_bytes(len(self.names))
        # Bins are no use to a pool that the driver will hold once it is without what is rejected.
        may_hold = not self._simple and size is not None and size <= 2 * small.BYTES
        if size is not None and size <= small.BYTES:
            self._hold()
        else:
            self._count(self.staged, with_bins=not self.auto and not may_hold)

    def _hold(self) -> None:
        """Bring all rows to the driver, and count the funnel there."""
        table = to_arrow(self.staged)
        stages = numbers(table, STAGE, np.int64)
        names, counts = np.unique(stages, return_counts=True)
        self.funnel = self.pool.funnel(dict(zip(names.tolist(), counts.tolist(), strict=True)))
        self.held = table.filter(pa.array(stages == CANDIDATE))

    def _count(self, staged: DataFrame, with_bins: bool = True) -> None:
        """Count the funnel, and, if they are what the cut will be found from, the keys in bins."""
        if with_bins and len(self.names) == 1 and self.options.quotas is None:
            key = F.col(RANKS)[0] + F.col(NOISE)
            sizes = [SIZE] if self.options.sized else []
            keyed = staged.select(STAGE, key.alias(KEY), *sizes)
            own = F.coalesce(cuts.root_bin(F.col(KEY)), F.lit(0))
            found = cuts.counted(keyed, F.col(STAGE), own, self.options.sized)
            self.bins = found.get(CANDIDATE, [])
            counts = {stage: sum(b.n for b in found[stage]) for stage in found}
        else:
            counts = dict(staged.groupBy(STAGE).agg(F.count("*")).collect())
        self.funnel = self.pool.funnel(counts)

    @property
    def is_small(self) -> bool:
        """Should the driver hold the pool?"""
        simple = self.bins is not None and self._simple
        size = self.funnel["candidates"] * row_bytes(len(self.names))
        return self.held is not None or (not simple and size <= small.BYTES)

    @property
    def _simple(self) -> bool:
        """A pool without copies, groups and the like is cut in as few passes by its bins."""
        drops = self.pool.drops_copies(self.options) or self.pool.ids_from_content
        return not drops and self.options.group_column is None

    def on_driver(self) -> Selection:
        """Everything else in NumPy."""
        options, targets = self.options, len(self.names)
        table = to_arrow(_candidates(self.staged)) if self.held is None else self.held
        own = small.SmallPool(table.drop_columns([STAGE]), targets)
        if self.auto:
            self._heat(temperature.histograms_of(own.ranks), own.total_size())
        own.heat(self.temperatures if self.auto else (1.0,) * targets)
        if self.pool.drops_copies(options):
            self._lose("duplicate_text", own.drop_copies())
        if self.pool.ids_from_content:
            self._lose("duplicate_text", own.drop_equal_ids())
        if options.max_per_group is not None:
            self._lose("over_max_per_group", own.limit_groups(options.max_per_group))
        found = self._found(own, lambda rule: settled(own.rows, own.keys, rule), own.total_size)
        if not 0 < len(own.losers) <= _SENT_LOSERS:
            return found
        kind = self.staged.schema[ID].dataType.simpleString()
        schema = f"{LOSER} {kind}, {LOST_AT} string"
        return replace(found, losers=self.rows.sparkSession.createDataFrame(own.losers, schema))

    def on_spark(self) -> Selection:
        """Everything else by passes over the rows."""
        options = self.options
        if self.auto:
            rows = _candidates(self.staged)
            self._heat(temperature.histograms(rows, len(self.names)), self._total_size(rows))
            self.staged = self.pool.staged(self.rows, options, self.temperatures)
        rows = with_keys(_candidates(self.staged), len(self.names))
        repeated = None
        if self.pool.drops_copies(options):
            own = F.col(OWN if OWN in self.staged.columns else ID)
            values = rows.select(own.alias(ID), COPY)
            repeated = copies.repeated(values, self.funnel["candidates"])
        if repeated is not None:
            rows = rows.join(repeated, COPY, "left").where(~copies.is_copy(own))
        if self.pool.ids_from_content:
            rows = rows.dropDuplicates([ID])
        if options.max_per_group is not None:
            rows = copies.limited(rows, F.col(MEMBER), options.max_per_group)
            stage = F.when(F.col(copies.OVER_LIMIT), OVER).otherwise(CANDIDATE)
            rows = rows.withColumn(STAGE, stage)
            self._recount(rows)
            rows = _candidates(rows)
        elif repeated is not None or self.pool.ids_from_content or self.auto:
            self._recount(rows)
        of_values = quotas.OnSpark(rows, self.names, options)
        size = partial(self._total_size, rows)
        found = self._found(of_values, partial(self._cuts, rows), size)
        return found.with_losers(self.rows, repeated)

    def _total_size(self, rows: DataFrame) -> int | None:
        """The sum of all sizes, where budgets are of sizes."""
        if not self.options.sized:
            return None
        number, total = rows.agg(F.count("*"), total_size()).collect()[0]
        return known(total) if number else 0

    def _cuts(self, rows: DataFrame, rule: Rule) -> list[Cut]:
        """The cuts without quotas, by passes over the candidates."""
        if self.bins is None:
            return narrowed_cuts(rows, rule)
        keyed = rows.withColumn(KEY, F.col(RANKS)[0] + F.col(NOISE)).drop(KEYS)
        near = partial(keys.may_be_between, F.col(RANKS)[0], self.pool.noise)
        return exact_cuts(keyed, [(0, rule.budgets[0])], rule.sized, {0: self.bins}, near)

    def _heat(self, histograms: Sequence[temperature.Histogram], size: int | None) -> None:
        """Find the temperatures; `size`: the sum of all sizes, where budgets are of sizes."""
        number = self.funnel["candidates"]
        budget = self.options.budget_of(number, lambda: size or 0)
        self.temperatures = temperature.found(
            histograms, number, budget, size, self.shares, self.pool.temperature_floor
        )

    def _recount(self, rows: DataFrame) -> None:
        """Count again what has become of the candidates."""
        before = self.funnel
        self._count(rows)
        over, left = self.funnel["over_max_per_group"], self.funnel["candidates"]
        self.funnel = before
        self._lose("over_max_per_group", over)
        self._lose("duplicate_text", self.funnel["candidates"] - left)

    def _lose(self, stage: str, rows: int) -> None:
        self.funnel[stage] += rows
        self.funnel["candidates"] -= rows

    def _found(
        self, pool: quotas.Candidates, cuts_without: Callable[[Rule], list[Cut]],
        size: Callable[[], int | None],
    ) -> Selection:  # fmt: skip
        """The selection, once the candidates are known; `size` finds the sum of their sizes."""
        options, candidates = self.options, self.funnel["candidates"]
        budget = options.budget_of(candidates, lambda: size() or 0)
        repeated = quotas.most_copies(options) > 1
        if not options.sized and budget > candidates and not repeated:
            # What quotas leave of them is not known yet.
            short = f": all of them are selected, {budget - candidates} short"
            warnings.warn(
                f"num_to_sample is {budget}, but only {candidates} documents are candidates"
                + (short if options.quotas is None else ""),
                UserWarning,
                stacklevel=5,
            )
            budget = candidates
        budgets = apportion(budget, self.shares, self.names)
        rule = Rule(self.names, budgets, options.sized, options.allocation == "joint")
        lists: list[quotas.Quotas] = [()] * len(budgets)
        repeats: tuple[quotas.Repeat, ...] = ()
        if options.quotas is None:
            own = cuts_without(rule)
        else:
            own, lists, repeats = quotas.fill(pool, rule, options)
        found = Selection(
            self.pool, options, tuple(own), tuple(lists), self.temperatures, self.funnel, repeats
        )
        self.funnel["selected"] = found.num_selected
        return found


def _candidates(staged: DataFrame) -> DataFrame:
    return staged.where(F.col(STAGE) == F.lit(CANDIDATE))
