"""From a pool and options to a selection: the funnel, the temperatures, who competes, the cuts.

A pool that the driver can hold takes two passes, whatever the options: one counts the funnel, one
brings the candidates. A larger one is counted by histograms of keys, and only the rows near the
cuts are brought.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.options import SelectOptions
from dsir_spark.selection import copies, cuts, groups, keys, small, temperature
from dsir_spark.selection.allocation import Rule, apportion
from dsir_spark.selection.cuts import KEY, Bin, exact_cuts
from dsir_spark.selection.narrowing import narrowed_cuts
from dsir_spark.selection.pool import (
    CANDIDATE,
    COPY,
    ID,
    KEYS,
    MEMBER,
    NOISE,
    OVER,
    RANKS,
    SIZE,
    STAGE,
    Pool,
    with_keys,
)
from dsir_spark.selection.quotas import Found, quota_cuts
from dsir_spark.selection.rows import to_arrow
from dsir_spark.selection.selection import LOSER, Selection

_SENT_LOSERS = 100_000  # ids that a selection carries to its filters; of more they are found anew


def find(
    rows: DataFrame,
    pool: Pool,
    options: SelectOptions,
    shares: Mapping[str | None, float] | None = None,
) -> Selection:
    """Find which rows are selected.

    Parameters
    ----------
    rows : frame with the columns that the pool and the options name
    options : the budget is one over all targets; more than there is selects all, with a warning
    shares : proportion of the budget for each target; need not sum to 1; by default equal

    Raises
    ------
    ColumnError
        A column that the pool or the options need is not there.
    DataError
        Quotas that these rows cannot fill.
    """
    pool.check(rows, options)
    search = _Find(rows, pool, options, [(shares or {}).get(t, 1.0) for t in pool.targets])
    return search.on_driver() if search.is_small else search.on_spark()


class _Find:
    """One search; what both ways of it share."""

    def __init__(
        self, rows: DataFrame, pool: Pool, options: SelectOptions, shares: list[float]
    ) -> None:
        self.rows, self.pool, self.options, self.shares = rows, pool, options, shares
        self.names = pool.targets
        self.auto = options.temperature == "auto"
        self.temperatures = (1.0 if self.auto else float(options.temperature),) * len(self.names)
        self.staged = pool.staged(rows, options, self.temperatures)
        self.funnel: dict[str, int] = {}
        self.bins: list[Bin] | None = None
        self._count(self.staged, with_bins=not self.auto)

    def _count(self, staged: DataFrame, with_bins: bool = True) -> None:
        """Count the funnel, and, if they are what the cut will be found from, the keys in bins."""
        if with_bins and len(self.names) == 1 and self.options.quotas is None:
            key = (F.col(RANKS)[0] + F.col(NOISE)).alias(KEY)
            sizes = [SIZE] if self.options.sized else []
            found = cuts.histograms(staged.select(STAGE, key, *sizes), STAGE, self.options.sized)
            self.bins = found.get(CANDIDATE, [])
            counts = {stage: sum(b.n for b in bins) for stage, bins in found.items()}
        else:
            counts = dict(staged.groupBy(STAGE).agg(F.count("*")).collect())
        self.funnel = self.pool.funnel(counts)

    @property
    def is_small(self) -> bool:
        """Should the driver hold the pool? One without copies, groups and the like is cut in as few
        passes without."""
        simple = (
            self.bins is not None
            and not self.pool.drops_copies(self.options)
            and not self.pool.ids_from_content
            and self.options.group_column is None
        )
        return not simple and small.fits(self.funnel["candidates"], len(self.names))

    def on_driver(self) -> Selection:
        """Everything else in NumPy."""
        options, targets = self.options, len(self.names)
        own = small.SmallPool(to_arrow(_candidates(self.staged).drop(STAGE)), targets)
        if self.auto:
            self.temperatures = temperature.of_rows(
                own.ranks, options.budget, own.size, self.shares, self.pool.temperature_floor
            )
        own.heat(self.temperatures if self.auto else (1.0,) * targets)
        if self.pool.drops_copies(options):
            self._lose("duplicate_text", own.drop_copies())
        if self.pool.ids_from_content:
            self._lose("duplicate_text", own.drop_equal_ids())
        if options.max_per_group is not None:
            self._lose("over_max_per_group", own.limit_groups(options.max_per_group))
        rule = self._rule()
        if options.quotas is None:
            found = own.allocate(rule)
        else:
            found = own.fill_quotas(rule.budgets, options)
        losers = None
        if 0 < len(own.losers) <= _SENT_LOSERS:
            kind = self.staged.schema[ID].dataType.simpleString()
            table = [(loser,) for loser in own.losers]
            losers = self.rows.sparkSession.createDataFrame(table, f"{LOSER} {kind}")
        return self._selection(found, losers=losers)

    def on_spark(self) -> Selection:
        """Everything else by passes over the rows."""
        options, targets = self.options, len(self.names)
        if self.auto:
            self.temperatures = temperature.of_table(
                _candidates(self.staged), self.funnel["candidates"], options.budget, self.shares,
                options.sized, self.pool.temperature_floor,
            )  # fmt: skip
            self.staged = self.pool.staged(self.rows, options, self.temperatures)
        rows = with_keys(_candidates(self.staged), targets)
        rows, repeated = self._without_copies(rows)
        if options.max_per_group is not None:
            limited = groups.limited(
                rows, F.col(MEMBER), options.max_per_group, F.array_max(KEYS), F.col(ID)
            ).withColumn(STAGE, F.when(F.col(groups.OVER_LIMIT), OVER).otherwise(CANDIDATE))
            self._recount(limited)
            rows = _candidates(limited)
        elif repeated is not None or self.pool.ids_from_content or self.auto:
            self._recount(rows)
        rule = self._rule()
        if options.quotas is not None:
            found = quota_cuts(rows, rule.budgets, options)
        elif targets > 1:
            found = Found.of(narrowed_cuts(rows, rule))
        else:
            near = None if self.pool.noise == "none" else self._near
            keyed = rows.withColumn(KEY, F.col(RANKS)[0] + F.col(NOISE)).drop(KEYS)
            bins = {0: self.bins or []}
            found = Found.of(exact_cuts(keyed, [(0, rule.budgets[0])], rule.sized, bins, near))
        return self._selection(found, repeated=repeated)

    def _without_copies(self, rows: DataFrame) -> tuple[DataFrame, DataFrame | None]:
        """The candidates that are no copies, and the values that occur more than once."""
        repeated = None
        if self.pool.drops_copies(self.options):
            n = self.funnel["candidates"]
            repeated = copies.repeated(rows.select(ID, COPY), n)
        if repeated is not None:
            copy = F.coalesce(F.col(ID) > F.col(copies.FIRST), F.lit(False))
            rows = rows.join(repeated, COPY, "left").where(~copy)
        return (rows.dropDuplicates([ID]) if self.pool.ids_from_content else rows), repeated

    def _recount(self, rows: DataFrame) -> None:
        """Count again what has become of the candidates."""
        before = self.funnel
        self._count(rows)
        over, left = self.funnel["over_max_per_group"], self.funnel["candidates"]
        self.funnel = {**before, "candidates": before["candidates"]}
        self._lose("over_max_per_group", over)
        self._lose("duplicate_text", self.funnel["candidates"] - left)

    def _near(self, low: float, high: float) -> Column:
        return keys.may_be_between(F.col(RANKS)[0], self.pool.noise, low, high)

    def _lose(self, stage: str, rows: int) -> None:
        self.funnel[stage] += rows
        self.funnel["candidates"] -= rows

    def _rule(self) -> Rule:
        """Budgets of the targets, once the candidates are known."""
        options, candidates = self.options, self.funnel["candidates"]
        budget = options.budget
        if not options.sized and budget > candidates:
            warnings.warn(
                f"num_to_sample is {budget}, but only {candidates} documents are candidates: all "
                f"of them are selected, {budget - candidates} short",
                UserWarning,
                stacklevel=5,
            )
            budget = candidates
        joint = options.allocation == "joint"
        budgets = apportion(budget, self.shares, self.names)
        return Rule(self.names, budgets, options.sized, joint)

    def _selection(
        self, found: Found, repeated: DataFrame | None = None, losers: DataFrame | None = None
    ) -> Selection:
        self.funnel["selected"] = sum(found.documents)
        return Selection(
            self.pool, self.options, tuple(found.cuts), tuple(found.quotas), self.temperatures,
            tuple(found.documents), tuple(found.sizes) if self.options.sized else None,
            self.funnel, repeated, losers,
        )  # fmt: skip


def _candidates(staged: DataFrame) -> DataFrame:
    return staged.where(F.col(STAGE) == F.lit(CANDIDATE))
