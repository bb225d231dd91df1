"""Quotas: shares of the budget for the values of a column.

The best of each value up to its smallest share are in, whatever competes (floor); of the others
those within its largest share (cap) compete for the rest of the budget. That is the selection of
the largest keys among all that keep the quotas: the constraints are nested, so taking the best
first is optimal. Targets choose one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import COPIES
from dsir_spark.errors import DataError
from dsir_spark.options import SelectOptions, part_of
from dsir_spark.score_options import ScoreOptions
from dsir_spark.selection.allocation import Rule, apportion, by_name
from dsir_spark.selection.cuts import GROUP, KEY, Cut, exact_cuts, nothing, reached
from dsir_spark.selection.keys import may_reach
from dsir_spark.selection.pool import FEW_TARGETS, FOR, ID, KEYS, NOISE, OF, RANKS, VALUE, lookup
from dsir_spark.selection.rows import known, total_size

_MAX_VALUES = 10_000  # of a quota column, all of which the driver holds
_BOUNDS = "__dsir_bounds"


@dataclass(frozen=True)
class Quota:
    """The cuts of one value of the quota column: the rows that are in whatever competes, and those
    that may be."""

    value: str | None
    floor: Cut
    cap: Cut | None


Quotas = tuple[Quota, ...]


@dataclass(frozen=True)
class Repeat:
    """A value whose rows are selected all, and more than once: `rounds` times, and those that reach
    `again` once more."""

    value: str | None
    rounds: int
    again: Cut


def most_copies(options: SelectOptions) -> int:
    """How often a row may be selected."""
    return options.max_copies if isinstance(options, ScoreOptions) else 1


def _is_shared(options: SelectOptions) -> bool:
    """Do the quotas come from `group_share`?"""
    return isinstance(options, ScoreOptions) and options.group_share is not None


class Candidates(Protocol):
    """Candidates to fill quotas from, less what earlier targets took."""

    def amounts(self) -> dict[str | None, int]:
        """Rows (or their sizes) of each value; of very many, or where quotas name some, of those
        that quotas and messages need."""

    def cuts_of_values(self, t: int, wanted: Sequence[tuple[str | None, int]]) -> list[Cut]:
        """Where the rows of a value end by the keys of a target, for each (value, budget)."""

    def take(self, t: int, own: Quotas, rest: int) -> Cut:
        """The cut of a target among the rows outside its floors and caps; what it takes is gone."""


def fill(
    pool: Candidates, rule: Rule, options: SelectOptions
) -> tuple[list[Cut], list[Quotas], tuple[Repeat, ...]]:
    """Of each target the cut among the rows outside floors and caps, and its quotas; and what is
    repeated."""
    amounts = _amounts_of(pool.amounts(), options)
    cuts, quotas = [], []
    repeats: list[Repeat] = []
    for t, budget in enumerate(rule.budgets):
        floors, caps = _budgets_of(budget, amounts, options)
        wanted = [*floors.items(), *((v, c) for v, c in caps.items() if c != floors[v])]
        more = _rounds(floors, amounts, most_copies(options))
        wanted += [(v, rest) for v, (_, rest) in more.items()]
        lists = dict(zip(wanted, pool.cuts_of_values(t, wanted), strict=True))
        own = tuple(
            Quota(v, lists[v, floors[v]], lists[v, caps[v]] if v in caps else None)
            for v in amounts
        )  # fmt: skip
        again = tuple(Repeat(v, n, lists[v, rest]) for v, (n, rest) in more.items())
        taken = taken_of(own, again, options.sized)
        if options.quota_shortfall == "report":  # what floors leave open stays open
            taken = max(taken, sum(floors.values()))
        cuts.append(pool.take(t, own, max(0, budget - taken)))
        quotas.append(own)
        repeats += again
    return cuts, quotas, tuple(repeats)


def _rounds(
    floors: Mapping[str | None, int], amounts: Mapping[str | None, int], most: int
) -> dict[str | None, tuple[int, int]]:
    """How often all rows of a value are taken, and what is left of its budget then, for values that
    have less than it."""
    found = {}
    for value, budget in floors.items():
        amount = amounts[value]
        if most > 1 and 0 < amount < budget:
            rounds = min(most, budget // amount)
            found[value] = (rounds, budget - rounds * amount if rounds < most else 0)
    return found


class OnSpark(Candidates):
    """Candidates that are counted by passes: a frame with ID, VALUE, KEYS and, if `sized`, SIZE."""

    def __init__(
        self, rows: DataFrame, names: Sequence[str | None], options: SelectOptions
    ) -> None:
        self.rows, self.names, self.options = rows, names, options
        self.found: tuple[list[Cut], list[Quotas]] = ([], [])

    def amounts(self) -> dict[str | None, int]:
        amount = total_size() if self.options.sized else F.count("*")
        counted = self.rows.groupBy(VALUE).agg(amount.alias("amount"))
        most = counted.orderBy(F.desc("amount"), VALUE)
        named = list(self.options.quota_bounds)
        rows = most.limit(_MAX_VALUES + 1)
        if named:
            rows = counted.where(F.col(VALUE).isin(named)).unionByName(most.limit(10))
        return {r[VALUE]: known(r["amount"]) for r in rows.collect()}

    def _keyed(self, t: int) -> DataFrame:
        """The rows that are left, with KEY."""
        keyed = self.rows.withColumn(KEY, F.col(KEYS)[t])
        if not t:
            return keyed
        first = Rule(self.names[:t], (), self.options.sized, joint=False)
        return placed(keyed, first, *self.found).where(F.col(FOR).isNull()).drop(_BOUNDS, OF, FOR)

    def cuts_of_values(self, t: int, wanted: Sequence[tuple[str | None, int]]) -> list[Cut]:
        lists = {value: g for g, value in enumerate(dict(wanted))}
        frame = lookup(self._keyed(t), VALUE, lists, f"{GROUP} int").drop(OF)
        return exact_cuts(frame, [(lists[v], budget) for v, budget in wanted], self.options.sized)

    def take(self, t: int, own: Quotas, rest: int) -> Cut:
        sized = self.options.sized
        rows, bounds = _with_bounds(self._keyed(t), [0], [nothing(sized)], [own])
        free = rows.where(_competes(bounds[0], F.col(KEY))).drop(_BOUNDS, OF)
        (cut,) = exact_cuts(free, [(0, rest)], sized)
        self.found[0].append(cut)
        self.found[1].append(own)
        return cut


def _amounts_of(counted: Mapping[str | None, int], options: SelectOptions) -> dict[str | None, int]:
    """Rows (or their sizes) of each value that has a quota, in the order of the quotas.

    Raises
    ------
    DataError
        A value that quotas name is not there, or there are too many of them.
    """
    column, bounds = options.quota_column, options.quota_bounds
    if bounds:
        # A share of nothing is kept without a candidate.
        absent = sorted(v for v, own in bounds.items() if v not in counted and own != (0.0, 0.0))
        if absent:
            named = "group_share names" if _is_shared(options) else "quotas name"
            most = sorted(counted, key=lambda v: (-counted[v], v is not None, str(v)))[:10]
            raise DataError(
                f"no candidate has {' or '.join(map(repr, absent))} in {column}, which "
                f"{named}; most have {', '.join(map(repr, most))}"
            )
        return {value: counted[value] for value in bounds if value in counted}
    if len(counted) > _MAX_VALUES:
        raise DataError(
            f"quotas as in raw need a column of at most {_MAX_VALUES} values; {column} has more"
        )
    return {value: counted[value] for value in sorted(counted, key=by_name)}


def _budgets_of(
    budget: int, amounts: Mapping[str | None, int], options: SelectOptions
) -> tuple[dict[str | None, int], dict[str | None, int]]:
    """Smallest and largest amount of each value that has one."""
    if options.quotas == "raw" or _is_shared(options):
        names = list(amounts)
        weights: Sequence[float] = list(amounts.values())
        if options.quotas != "raw":
            weights = [options.quota_bounds[str(v)][0] for v in names]
        elif most_copies(options) == 1:
            budget = min(budget, sum(amounts.values()))
        shares = apportion(budget, weights, names)
        whole = dict(zip(names, shares, strict=True))
        return whole, whole

    bounds = [(v, options.quota_bounds[str(v)]) for v in amounts]
    floors = {v: part_of(budget, low) for v, (low, _) in bounds}
    return floors, {v: part_of(budget, high) for v, (_, high) in bounds if high is not None}


def taken_of(quotas: Quotas, repeats: Sequence[Repeat], sized: bool) -> int:
    """What the floors of quotas take of a budget, repetitions included."""

    def amount(cut: Cut) -> int:
        return cut.size or 0 if sized else cut.num_documents

    floors = {q.value: amount(q.floor) for q in quotas}
    more = sum((r.rounds - 1) * floors[r.value] + amount(r.again) for r in repeats)
    return sum(floors.values()) + more


def placed(rows: DataFrame, rule: Rule, cuts: Sequence[Cut], quotas: Sequence[Quotas]) -> DataFrame:
    """With FOR, the position of the target that takes each row (int), or null: of those whose cut
    it reaches, the one it likes best.

    Parameters
    ----------
    rows : frame with ID, KEYS and, with quotas, VALUE
    cuts, quotas : of the first targets, or all
    """
    if not any(quotas) and len(cuts) == 1:
        found = F.when(cuts[0].reached_by(F.col(KEYS)[0], F.col(ID)), F.lit(0))
        return rows.withColumn(FOR, found)
    takes = _takes if any(quotas) else lambda bounds, key: reached(bounds["rest"], key)
    near = None if any(quotas) else _may_reach(rows, cuts)
    rows, bounds = _with_bounds(rows, rule.ranks, cuts, quotas)
    found = rule.best(F.col(KEYS), bounds, takes)["target"]
    return rows.withColumn(FOR, found if near is None else F.when(near, found))


def _may_reach(rows: DataFrame, cuts: Sequence[Cut]) -> Column | None:
    """Which rows may reach a cut, told by their noise and ranks in code that Spark compiles: of
    many targets the rest is functions of arrays, which it does not. None: by these nothing tells.
    """
    keys = {t: cut.key for t, cut in enumerate(cuts) if cut.key is not None}
    known = {NOISE, RANKS} <= set(rows.columns) and len(keys) > FEW_TARGETS
    if not known or not all(map(math.isfinite, keys.values())):
        return None
    return may_reach(F.col(NOISE), [F.col(RANKS)[t] for t in keys], list(keys.values()))


def with_copies(rows: DataFrame, repeats: Sequence[Repeat]) -> DataFrame:
    """Selected rows with ID, VALUE and KEYS of one target, and COPIES, how often each is taken."""
    if not repeats:
        return rows.withColumn(COPIES, F.lit(1))
    rows = rows.drop(_BOUNDS, OF)  # of the search for cuts
    cut = f"struct<key: double, id: {rows.schema[ID].dataType.simpleString()}, exclusive: boolean>"
    table = {r.value: (r.rounds, r.again.bound) for r in repeats}
    joined = lookup(rows, VALUE, table, f"{_BOUNDS} struct<rounds: int, again: {cut}>")
    more = reached(F.col(_BOUNDS)["again"], F.col(KEYS)[0]).cast("int")
    often = F.coalesce(F.col(_BOUNDS)["rounds"] + more, F.lit(1))
    return joined.withColumn(COPIES, often).drop(OF, _BOUNDS)


def _takes(bounds: Column, key: Column) -> Column:
    """Does the target take the row?"""
    rest = _competes(bounds, key) & reached(bounds["rest"], key)
    return reached(bounds["floor"], key) | rest


def _competes(bounds: Column, key: Column) -> Column:
    """Is the row below its value's floor for a target, and within its cap?"""
    uncapped = bounds["cap"].isNull()
    return ~reached(bounds["floor"], key) & (uncapped | reached(bounds["cap"], key))


def _with_bounds(
    rows: DataFrame, ranks: Sequence[int], cuts: Sequence[Cut], quotas: Sequence[Quotas]
) -> tuple[DataFrame, Column]:
    """The rows, and the cuts that hold for a row's value, by target (array)."""
    kind = rows.schema[ID].dataType.simpleString()
    cut = f"struct<key: double, id: {kind}, exclusive: boolean>"
    bounds = f"struct<floor: {cut}, cap: {cut}, rest: {cut}, rank: int, target: int>"
    by_value: dict[str | None, list[Any]] = {}
    others = []  # values without a quota have neither floor nor cap
    for t, (rest, rank, own) in enumerate(zip(cuts, ranks, quotas, strict=True)):
        facts = (F.lit(None), F.lit(None), F.struct(*map(F.lit, rest.bound)), F.lit(rank), F.lit(t))
        others.append(F.struct(*facts).cast(bounds))
        for q in own:
            cap = None if q.cap is None else q.cap.bound
            by_value.setdefault(q.value, []).append((q.floor.bound, cap, rest.bound, rank, t))
    if not by_value:
        return rows, F.array(*others)
    joined = lookup(rows, VALUE, by_value, f"{_BOUNDS} array<{bounds}>")
    # Of both sides of the join: what is of one side only Spark may compute below it, where rows
    # without a match are not yet.
    known = F.when(F.col(VALUE).eqNullSafe(F.col(OF)), F.col(_BOUNDS))
    return joined.withColumn(_BOUNDS, F.coalesce(known, F.array(*others))), F.col(_BOUNDS)
