"""The exact cut: which documents of a pool are the best, found from counts by histogram passes.

A pool has an id (string or integer), a key (double, not null) and, where budgets are not in
documents, a size (bigint, >= 0). Its order is (key, id), falling. The driver holds histograms of
bounded size, never a list that grows with the pool or the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.group import GroupedData

from dsir_spark.errors import DataError

KEY, ID, SIZE, GROUP = "__dsir_key", "__dsir_id", "__dsir_size", "__dsir_group"
BIN = "__dsir_bin"
# Bins are equal steps of the fourth root of the key: fine where keys are small, coarse where they
# are large, so that one pass without bounds known beforehand leaves a row in some hundred for the
# next. The processor has an instruction for square roots; a logarithm costs Java as much as
# everything else in the pass. With four times as many bins the pass takes a fifth longer: the
# counts no longer fit into the processor's cache.
_STEPS = 1024.0
_MOST_BINS = 1 << 18  # each way, for keys of 4e9 and more: the driver receives no more
_GROUPS_AT_FULL_WIDTH = 64  # more groups have wider bins: the driver receives rows of both
# A bin of this many rows is ordered by one task; above it, one more histogram splits it first.
_MAX_WINDOW_ROWS = 500_000
_SPLIT_BINS = 65_536
_LABEL = 1 << 32  # above the span of all bins
# A condition that all rows with a key within two bounds meet, and that is cheaper than the key.
Near = Callable[[float, float], Column]
CHANGED = "the weights changed between two passes over them: resample from data that stands still"


@dataclass(frozen=True)
class Cut:
    """Where a list of documents by falling (key, id) ends.

    key, id : the last document of the list, or, if `exclusive`, the first that is not in it; no
        key: the list is empty; a key without id: all documents are in it
    num_documents : documents in the list
    size : sum of their sizes, where the budget was one of sizes
    """

    key: float | None
    id: Any
    num_documents: int
    size: int | None = None
    exclusive: bool = False

    def reached_by(self, key: Column, id_column: Column) -> Column:
        """Is (key, id) in the list?"""
        if self.key is None:
            return F.lit(False)
        last = F.lit(self.key)
        if self.id is None:
            return key > last
        by_id = id_column > F.lit(self.id) if self.exclusive else id_column >= F.lit(self.id)
        return (key > last) | ((key == last) & by_id)


def nothing(sized: bool) -> Cut:
    """The cut that no document reaches."""
    return Cut(None, None, 0, 0 if sized else None)


def everything(num_documents: int, size: int | None) -> Cut:
    """The cut that all documents reach."""
    return Cut(float("-inf"), None, num_documents, size)


def exact_cut(
    pool: DataFrame,
    budget: int,
    histogram: list[Any] | None = None,
    sized: bool = False,
    near: Near | None = None,
) -> Cut | None:
    """The best `budget` documents; if `sized`, the best whose sizes sum to at most `budget`.

    None where the pool holds fewer documents; a pool of less size than the budget is selected
    whole. By size, the document that would cross the budget ends the list. `histogram` is the
    pool's in `histograms`, if it is known already; `near` spares computing the keys of most rows in
    the second pass.

    One pass counts the keys of bins of their fourth roots; rows of the one bin in which the cut
    lies are ordered by (key, id). A bin too full for one task is split by equal steps first, and a
    crowd of equal keys by prefixes of the ids.
    """
    if budget <= 0:
        return nothing(sized)
    rows = _histogram(pool, _root_bin(F.col(KEY)), sized) if histogram is None else histogram
    total = sum(r["amount"] for r in rows)
    if sized and total <= budget:
        return everything(sum(r["n"] for r in rows), total)
    if total < budget:
        return None
    rest, documents = budget, 0
    while True:
        row, above = _bin_of(rows, rest, sized)
        rest -= sum(r["amount"] for r in above)
        documents += sum(r["n"] for r in above)
        low, high = row["low"], row["high"]
        # By the bin's own keys: cheaper than computing each row's bin anew.
        close = pool if near is None else pool.where(near(low, high))
        inside = close.where(F.col(KEY).between(F.lit(low), F.lit(high)))
        if row["n"] <= _MAX_WINDOW_ROWS or low == high:
            break
        rows = _histogram(inside, _linear_bin(F.col(KEY), low, high), sized)
    if row["n"] > _MAX_WINDOW_ROWS:
        inside, above = _narrow_by_id(inside, rest, sized)
        rest -= sum(r["amount"] for r in above)
        documents += sum(r["n"] for r in above)
    found = _crossing(inside, F.lit(rest), Window.orderBy(*_falling()), sized).first()
    if found is None:
        raise DataError(CHANGED)
    return _cut(found, budget - rest, documents, sized)


def exact_cuts(pool: DataFrame, budgets: Mapping[int, int], sized: bool) -> dict[int, Cut]:
    """The cut of each group by its own budget; a group that has less is selected whole.

    Parameters
    ----------
    pool : with a column GROUP (int); groups without a budget are passed over
    """
    wanted = {g: budget for g, budget in budgets.items() if budget > 0}
    cuts = {g: nothing(sized) for g in budgets}
    if not wanted:
        return cuts
    own = pool.where(F.col(GROUP).isin(list(wanted)))
    steps = _STEPS / max(1.0, len(wanted) / _GROUPS_AT_FULL_WIDTH)
    bins = _root_bin(F.col(KEY), steps)
    rows: dict[int, list[Any]] = {g: [] for g in wanted}
    for row in _counted(own.groupBy(GROUP, bins.alias(BIN)), sized).collect():
        rows[row[GROUP]].append(row)
    narrow = []
    above: dict[int, tuple[int, int]] = {}
    for g, budget in wanted.items():
        total = sum(r["amount"] for r in rows[g])
        if total <= budget:
            documents = sum(r["n"] for r in rows[g])
            cuts[g] = everything(documents, total if sized else None)
            continue
        row, higher = _bin_of(rows[g], budget, sized)
        if row["n"] > _MAX_WINDOW_ROWS:
            cut = exact_cut(own.where(F.col(GROUP) == F.lit(g)), budget, rows[g], sized)
            if cut is None:
                raise DataError(CHANGED)
            cuts[g] = cut
            continue
        taken = sum(r["amount"] for r in higher)
        above[g] = (taken, sum(r["n"] for r in higher))
        narrow.append((g, row["low"], row["high"], budget - taken))
    if narrow:
        schema = f"{GROUP} int, low double, high double, rest bigint"
        bounds = F.broadcast(pool.sparkSession.createDataFrame(narrow, schema))
        inside = own.join(bounds, GROUP).where(F.col(KEY).between(F.col("low"), F.col("high")))
        order = Window.partitionBy(GROUP).orderBy(*_falling())
        for found in _crossing(inside, F.col("rest"), order, sized).collect():
            taken, documents = above.pop(found[GROUP])
            cuts[found[GROUP]] = _cut(found, taken, documents, sized)
        if above:
            raise DataError(CHANGED)
    return cuts


def _falling() -> list[Column]:
    return [F.desc(KEY), F.desc(ID)]


def _crossing(inside: DataFrame, rest: Column, order: Any, sized: bool) -> DataFrame:
    """The row at which each list ends: `n` is its rank, `upto` the sizes up to it."""
    ranked = inside.withColumn("n", F.row_number().over(order))
    if not sized:
        return ranked.where(F.col("n") == rest)
    rows = order.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    upto = ranked.withColumn("upto", F.sum(SIZE).over(rows))
    return upto.where((F.col("upto") > rest) & (F.col("upto") - F.col(SIZE) <= rest))


def _cut(found: Any, taken: int, documents: int, sized: bool) -> Cut:
    if not sized:
        return Cut(found[KEY], found[ID], documents + found["n"])
    size = taken + found["upto"] - found[SIZE]
    return Cut(found[KEY], found[ID], documents + found["n"] - 1, size, exclusive=True)


def _root_bin(key: Column, steps: float = _STEPS) -> Column:
    root = F.least(F.sqrt(F.sqrt(F.abs(key))) * F.lit(steps), F.lit(float(_MOST_BINS)))
    return F.floor(F.signum(key) * root)


def _linear_bin(key: Column, low: float, high: float) -> Column:
    # Halves first: high - low may overflow. Rounding keeps the order, which is all that matters.
    step = (high / 2 - low / 2) / (_SPLIT_BINS / 2)
    return F.floor((key - F.lit(low)) / F.lit(step))


def _histogram(pool: DataFrame, bins: Column, sized: bool) -> list[Any]:
    """Rows of BIN, `n`, `amount`, `low` and `high`: keys it holds, the smallest and the largest."""
    return _counted(pool.groupBy(bins.alias(BIN)), sized).collect()


def histograms(coming: DataFrame, label: str, sized: bool = False) -> dict[int, list[Any]]:
    """The histogram of bins of keys for each value of a column of small integers; one pass."""
    # One whole number for both: counting by two columns takes a tenth longer.
    packed = F.col(label).cast("bigint") * F.lit(_LABEL)
    packed = packed + F.coalesce(_root_bin(F.col(KEY)), F.lit(0))
    found: dict[int, list[Any]] = {}
    for row in _counted(coming.groupBy(packed.alias(BIN)), sized).collect():
        group = (row[BIN] + _LABEL // 2) // _LABEL
        found.setdefault(group, []).append({**row.asDict(), BIN: row[BIN] - group * _LABEL})
    return found


def _counted(groups: GroupedData, sized: bool) -> DataFrame:
    key, documents = F.col(KEY), F.count("*")
    found = groups.agg(
        documents.alias("n"), *([F.sum(SIZE).alias("amount")] if sized else []),
        F.min(key).alias("low"), F.max(key).alias("high"),
    )  # fmt: skip
    return found if sized else found.withColumn("amount", F.col("n"))


def _bin_of(rows: list[Any], rest: int, sized: bool) -> tuple[Any, list[Any]]:
    """The bin in which the list ends, and the higher bins."""
    ordered = sorted(rows, key=lambda r: r[BIN], reverse=True)
    taken = 0
    for i, row in enumerate(ordered):
        taken += row["amount"]
        if taken > rest or (taken == rest and not sized):
            return row, ordered[:i]
    raise ValueError("the budget is larger than the pool")


def last_bin(rows: list[Any], budget: int, sized: bool) -> Any:
    """The row of a histogram in which the best `budget` end; None where they are fewer."""
    total = sum(r["amount"] for r in rows)
    if total < budget or (sized and total <= budget):
        return None
    return _bin_of(rows, budget, sized)[0]


def _leading_bits(tied: DataFrame) -> Column:
    """Integer ids without so many bits that at most some 65,536 values are left."""
    ends = tied.agg(F.min(ID), F.max(ID)).first()
    if ends is None or ends[0] is None:
        raise DataError(CHANGED)
    spare = max(0, int(ends[1] - ends[0]).bit_length() - 16)
    return F.shiftright(F.col(ID).cast("bigint"), spare)


def _narrow_by_id(tied: DataFrame, rest: int, sized: bool) -> tuple[DataFrame, list[Any]]:
    """Rows of one prefix of ids (bits of an integer, leading characters of a string), and the bins
    above it."""
    integral = isinstance(tied.schema[ID].dataType, T.IntegralType)
    higher: list[Any] = []
    for step in range(1, 64):
        prefix = _leading_bits(tied) if integral else F.col(ID).substr(1, step)
        binned = tied.withColumn(BIN, prefix)
        # Ordered by Spark: Python orders some strings otherwise.
        ordered = _counted(binned.groupBy(BIN), sized).orderBy(F.desc(BIN)).collect()
        rows = [{**row.asDict(), "at": -i} for i, row in enumerate(ordered)]
        row, above = _bin_of([{**r, BIN: r["at"]} for r in rows], rest, sized)
        value = ordered[-row["at"]][BIN]
        rest -= sum(r["amount"] for r in above)
        higher += above
        tied = binned.where(F.col(BIN) == F.lit(value)).drop(BIN)
        if row["n"] <= _MAX_WINDOW_ROWS:
            break
    return tied, higher
