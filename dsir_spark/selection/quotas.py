"""Quotas: shares of the budget for the values of a column.

The best of each value up to its smallest share are in, whatever competes (floor); of the others
those within its largest share (cap) compete for the rest of the budget. That is the selection of
the largest keys among all that keep the quotas: the constraints are nested, so taking the best
first is optimal. Targets choose one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.errors import DataError
from dsir_spark.options import SelectOptions
from dsir_spark.selection import cuts
from dsir_spark.selection.allocation import FOR, apportion
from dsir_spark.selection.cuts import GROUP, KEY, Cut
from dsir_spark.selection.pool import ID, KEYS, SIZE, VALUE

_MAX_VALUES = 10_000  # of a quota column, all of which the driver holds
_BOUNDS = "__dsir_bounds"


@dataclass(frozen=True)
class Quota:
    """The cuts of one value of the quota column: the rows that are in whatever competes, and those
    that may be."""

    value: str | None
    floor: Cut
    cap: Cut | None


@dataclass(frozen=True)
class Found:
    """What was found for each target: its cut among the rows outside floors and caps, its quotas,
    how many rows it takes and the sum of their sizes."""

    cuts: list[Cut]
    quotas: list[tuple[Quota, ...]]
    documents: list[int]
    sizes: list[int]

    @classmethod
    def of(cls, own: list[Cut]) -> Found:
        """Cuts without quotas."""
        sizes = [c.size or 0 for c in own]
        return cls(own, [()] * len(own), [c.num_documents for c in own], sizes)

    def add(self, cut: Cut, own: tuple[Quota, ...]) -> None:
        """The next target's."""
        lists = [cut, *(q.floor for q in own)]
        self.cuts.append(cut)
        self.quotas.append(own)
        self.documents.append(sum(c.num_documents for c in lists))
        self.sizes.append(sum(c.size or 0 for c in lists))


def quota_cuts(pool: DataFrame, budgets: Sequence[int], options: SelectOptions) -> Found:
    """The cuts under quotas, by passes over the pool for target after target.

    Parameters
    ----------
    pool : frame with ID, VALUE, KEYS and, where budgets are of sizes, SIZE
    """
    sized = options.sized
    amount = F.sum(SIZE) if sized else F.count("*")
    counted = pool.groupBy(VALUE).agg(amount.alias("amount"))
    rows = counted.orderBy(F.desc("amount"), VALUE).limit(_MAX_VALUES + 1)
    if options.quota_bounds:
        named = counted.where(F.col(VALUE).isin(list(options.quota_bounds)))
        rows = named.unionByName(counted.orderBy(F.desc("amount"), VALUE).limit(10))
    amounts = amounts_of({r[VALUE]: r["amount"] for r in rows.collect()}, options)
    frame = pool.sparkSession.createDataFrame(
        [(value, g) for g, value in enumerate(amounts)], f"of string, {GROUP} int"
    )
    same = F.col(VALUE).eqNullSafe(F.col("of"))
    grouped = pool.join(F.broadcast(frame), same, "left").drop("of")
    found = Found.of([])
    for t, budget in enumerate(budgets):
        keyed = grouped.withColumn(KEY, F.col(KEYS)[t])
        if t:
            keyed = placed(keyed, found.cuts, found.quotas).where(F.col(FOR).isNull())
            keyed = keyed.drop(_BOUNDS, FOR)
        floors, caps = budgets_of(budget, amounts, options)
        wanted = [*floors.items(), *((g, c) for g, c in caps.items() if c != floors[g])]
        lists = dict(zip(wanted, cuts.exact_cuts(keyed, wanted, sized), strict=True))
        own = tuple(
            Quota(value, lists[g, floors[g]], lists[g, caps[g]] if g in caps else None)
            for g, value in enumerate(amounts)
        )
        bounded = with_bounds(keyed, [cuts.nothing(sized)], [own])
        free = bounded.where(competes(F.col(KEY), F.col(_BOUNDS)[0])).drop(GROUP, _BOUNDS)
        rest = rest_of(budget, floors, own, options)
        found.add(cuts.exact_cuts(free, [(0, rest)], sized)[0], own)
    return found


def amounts_of(counted: Mapping[str | None, int], options: SelectOptions) -> dict[str | None, int]:
    """Rows (or their sizes) of each value that has a quota, in the order of the quotas.

    Raises
    ------
    DataError
        A value that quotas name is not there, or there are too many of them.
    """
    column, bounds = options.quota_column, options.quota_bounds
    if bounds:
        absent = sorted(value for value in bounds if value not in counted)
        if absent:
            most = sorted(counted, key=lambda v: (-counted[v], v is not None, str(v)))[:10]
            raise DataError(
                f"no candidate has {' or '.join(map(repr, absent))} in {column}, which quotas "
                f"name; most have {', '.join(map(repr, most))}"
            )
        return {value: counted[value] for value in bounds}
    if len(counted) > _MAX_VALUES:
        raise DataError(
            f"quotas as in raw need a column of at most {_MAX_VALUES} values; {column} has more"
        )
    return {value: counted[value] for value in sorted(counted, key=str)}


def budgets_of(
    budget: int, amounts: Mapping[str | None, int], options: SelectOptions
) -> tuple[dict[int, int], dict[int, int]]:
    """Smallest and largest amount of each value that has one, by the position of the value."""
    if options.quotas == "raw":
        total = sum(amounts.values())
        names = list(amounts)
        shares = apportion(min(budget, total), [float(a) for a in amounts.values()], names)
        return dict(enumerate(shares)), dict(enumerate(shares))
    bounds = options.quota_bounds
    # A hair more than the product: 0.29 * 100 is below 29 in binary.
    whole = [tuple(None if x is None else int(x * budget + 1e-6) for x in bounds[str(v)])
             for v in amounts]  # fmt: skip
    floors = {g: int(low or 0) for g, (low, _) in enumerate(whole)}
    caps = {g: int(high) for g, (_, high) in enumerate(whole) if high is not None}
    return floors, caps


def rest_of(
    budget: int, floors: Mapping[int, int], own: Sequence[Quota], options: SelectOptions
) -> int:
    """What the floors leave of a budget."""
    taken = sum(q.floor.size or 0 if options.sized else q.floor.num_documents for q in own)
    fill = options.quota_shortfall == "fill"
    return max(0, budget - (taken if fill else max(taken, sum(floors.values()))))


def with_bounds(
    rows: DataFrame, own: Sequence[Cut], quotas: Sequence[Sequence[Quota]]
) -> DataFrame:
    """Rows with KEYS, VALUE and the cuts that hold for their value, by target."""
    kind = rows.schema[ID].dataType.simpleString()
    cut = f"struct<key: double, id: {kind}, exclusive: boolean>"
    bounds = f"struct<floor: {cut}, cap: {cut}, rest: {cut}>"
    by_value: dict[str | None, list[Any]] = {}
    for rest, lists in zip(own, quotas, strict=True):
        for q in lists:
            facts = (_facts(q.floor), _facts(q.cap), _facts(rest))
            by_value.setdefault(q.value, []).append(facts)
    schema = f"of string, {_BOUNDS} array<{bounds}>"
    frame = F.broadcast(rows.sparkSession.createDataFrame(list(by_value.items()), schema))
    joined = rows.join(frame, F.col(VALUE).eqNullSafe(F.col("of")), "left").drop("of")
    # Values without a quota: neither floor nor cap.
    others = [
        F.struct(
            F.lit(None), F.lit(None),
            F.struct(F.lit(c.key).cast("double"), F.lit(c.id).cast(kind), F.lit(c.exclusive)),
        ).cast(bounds)
        for c in own
    ]  # fmt: skip
    return joined.withColumn(_BOUNDS, F.coalesce(_BOUNDS, F.array(*others)))


def _facts(cut: Cut | None) -> tuple[Any, ...] | None:
    return None if cut is None else (cut.key, cut.id, cut.exclusive)


def _reached(bound: Column, key: Column) -> Column:
    """Is (key, id) in the list that the bound ends?"""
    last, last_id, ids = bound["key"], bound["id"], F.col(ID)
    by_id = F.when(bound["exclusive"], ids > last_id).otherwise(ids >= last_id)
    everything = last.isNotNull() & last_id.isNull()
    return F.coalesce(everything | (key > last) | ((key == last) & by_id), F.lit(False))


def competes(key: Column, bounds: Column) -> Column:
    """Is the row below its value's floor for a target, and within its cap?"""
    capped = bounds["cap"].isNotNull()
    return ~_reached(bounds["floor"], key) & (~capped | _reached(bounds["cap"], key))


def placed(rows: DataFrame, own: Sequence[Cut], quotas: Sequence[Sequence[Quota]]) -> DataFrame:
    """With FOR, the position of the first target that takes each row (int), or null."""

    def takes(key: Column, bounds: Column) -> Column:
        rest = competes(key, bounds) & _reached(bounds["rest"], key)
        return F.coalesce(_reached(bounds["floor"], key) | rest, F.lit(False))

    if len(own) == 1:
        found = F.when(takes(F.col(KEYS)[0], F.col(_BOUNDS)[0]), F.lit(0))
    else:
        found = F.array_position(F.zip_with(KEYS, _BOUNDS, takes), True).cast("int") - 1
        found = F.when(found >= 0, found)
    return with_bounds(rows, own, quotas).withColumn(FOR, found)
