"""Resampling: a noisy key for each document and the exact cut-off of the k largest.

The noise is a function of (seed, id) alone and the cut is found from counts, so the same documents
are selected on any cluster, in any partitioning, after any retry. Only numbers and ids pass through
here, never a text; the driver holds histograms of bounded size, never a list that grows with N or
k.

The outcome is a `Selection`: for each target a cut-off (key, id), from which membership of a
document follows by its weights and its id alone. Filtering a second scan by it needs no join.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.group import GroupedData

from dsir_spark.errors import DataError

NUM_TOKENS = "num_tokens"  # tokens of the document (bigint); null where the text is null
LOG_WEIGHT = "log_weight"  # log importance weight, nats (double); null where the text is null
TARGET = "target"  # name of the target that a document was selected for
_KEY = POOL_KEY = "__dsir_key"  # of `exact_cut`: key (double, not null)
_ID = POOL_ID = "__dsir_id"  # of `exact_cut`: id (string or integer)
_BIN = "__dsir_bin"
_FOR = "__dsir_target"
_NOISE = "__dsir_noise"
_CANDIDATE = 0
_LABEL = 1 << 32  # above the span of all bins

# Bins are equal steps of asinh-like key: 1/1024 of the key's size, so that one pass without bounds
# known beforehand leaves about one row in a thousand for the next. With four times as many the
# pass takes a fifth longer: the counts no longer fit into the processor's cache.
_BINS_PER_E = 1024.0
# A bin of this many rows is ordered by one task; above it, one more histogram splits it first.
_MAX_WINDOW_ROWS = 500_000
_SPLIT_BINS = 65_536
_CHANGED = "the weights changed between two passes over them: resample from data that stands still"


def column_name(target: str | None) -> str:
    """`log_weight`, or `log_weight_<target>` where targets are separate."""
    return LOG_WEIGHT if target is None else f"{LOG_WEIGHT}_{target}"


def match_column(target: str | None) -> str:
    """`match_key`, or `match_key_<target>`: what method match ranks documents by, whole numbers."""
    return "match_key" if target is None else f"match_key_{target}"


def quoted(name: str) -> Column:
    """The column of exactly this name, dots and blanks included."""
    return F.col("`" + name.replace("`", "``") + "`")


def uniform(seed: int, id_column: Column) -> Column:
    """u in (0, 1) from (seed, id): ((xxhash64(seed, id) >>> 11) + 0.5) * 2^-53."""
    h = F.shiftrightunsigned(F.xxhash64(F.lit(seed).cast("bigint"), id_column), 11)
    u = (h.cast("double") + F.lit(0.5)) * F.lit(2.0**-53)
    # The one value of 2^53 that rounds to 1 would give an infinite key.
    return F.least(u, F.lit(1.0 - 2.0**-53))


def gumbel(seed: int, id_column: Column) -> Column:
    """Standard Gumbel noise from (seed, id): -log(-log(u))."""
    return -F.log(-F.log(uniform(seed, id_column)))


def sampling_key(log_weight: Column, seed: int, id_column: Column) -> Column:
    """log_weight + Gumbel noise: the k largest are k draws without replacement (DSIR, sec. 3)."""
    return log_weight + gumbel(seed, id_column)


@dataclass(frozen=True)
class Cut:
    """The last selected (key, id) of one target, and how many documents reach it."""

    key: float | None
    id: Any
    num_documents: int

    def reached_by(self, key: Column, id_column: Column) -> Column:
        """Is (key, id) >= the cut?"""
        if self.key is None:
            return F.lit(False)
        last = F.lit(self.key)
        return (key > last) | ((key == last) & (id_column >= F.lit(self.id)))


@dataclass(frozen=True)
class Funnel:
    """Where the documents went; `read` = the five losses + `candidates`.

    `duplicate_text` is counted only where ids are made from the content: a text that occurs more
    than once is one candidate there.
    """

    read: int
    null_id: int
    null_text: int
    blank: int
    too_short: int
    duplicate_text: int
    candidates: int
    selected: int


@dataclass(frozen=True)
class Selection:
    """Which documents are selected, as a predicate on their weights, num_tokens and id."""

    targets: tuple[str | None, ...]
    cuts: tuple[Cut, ...]
    method: str
    seed: int
    min_example_length: int
    allocation: str
    id_column: str
    num_to_sample: int
    funnel: Funnel

    @property
    def num_selected(self) -> int:
        """Documents selected, over all targets."""
        return sum(cut.num_documents for cut in self.cuts)

    def is_candidate(self) -> Column:
        """Is a scored row long enough, and has it an id?"""
        return _is_candidate(self.min_example_length, self.id_column)

    def keys(self) -> list[Column]:
        """The key of a scored row for each target."""
        return _keys(self.targets, self.method, self.seed, quoted(self.id_column))

    def filter(self, scored: DataFrame) -> DataFrame:
        """Rows of a scored frame that are selected; with several targets, `target` is added."""
        choice = _choice(self.targets, self.keys(), self.cuts, quoted(self.id_column),
                         self.allocation)  # fmt: skip
        columns = [quoted(c) for c in scored.columns]
        named = scored.where(self.is_candidate()).select(*columns, choice.alias(_FOR))
        chosen = named.where(F.col(_FOR).isNotNull())
        if self.targets == (None,):
            return chosen.select(*columns)
        names = F.array(*[F.lit(t) for t in self.targets])
        return chosen.select(*columns, names[F.col(_FOR)].alias(TARGET))


def select(
    weights: DataFrame,
    *,
    targets: Sequence[str | None],
    shares: Mapping[str | None, float],
    num_to_sample: int,
    method: str,
    seed: int,
    min_example_length: int,
    allocation: str,
    id_column: str,
    ids_from_content: bool = False,
) -> Selection:
    """Find the cut-offs of a resampling from a weights table.

    Parameters
    ----------
    weights : DataFrame
        `id_column`, `num_tokens` and one log weight a target; read twice a target: a histogram of
        keys (of all targets at once, and of the funnel in the first), and the rows of one bin.
    targets : names in the order of the caller, or (None,) for a single one.
    shares : proportion of documents for each target; need not sum to 1.
    num_to_sample : documents over all targets; more than there are selects all, with a warning.
    """
    ids = quoted(id_column)
    named = [quoted(_ranked(t, method)).alias(_key_name(i)) for i, t in enumerate(targets)]
    staged = weights.select(
        ids.alias(_ID), *named, _stage(min_example_length, id_column).alias(_FOR)
    )
    # A column of its own, so that it is computed once for all targets.
    staged = staged.withColumn(_NOISE, _noise(method, seed, F.col(_ID)))
    keys = [(F.col(_key_name(t)) + F.col(_NOISE)).alias(_key_name(t)) for t in range(len(targets))]
    staged = staged.select(_ID, _FOR, *keys)
    pool = staged.where(F.col(_FOR) == F.lit(_CANDIDATE)).drop(_FOR)
    first = None
    if ids_from_content:
        funnel = _funnel(staged.groupBy(_FOR).agg(F.count("*").alias("n")).collect())
        pool = pool.dropDuplicates([_ID])
        distinct = pool.count()
        funnel = dataclasses.replace(
            funnel, duplicate_text=funnel.candidates - distinct, candidates=distinct
        )
    else:
        none_known = [None] * len(targets)
        coming = _choice(targets, _pool_keys(targets), none_known, F.col(_ID), allocation)
        first = _histograms(_for_its_target(staged, coming, len(targets)))
        funnel = _funnel([r for rows in first.values() for r in rows])
    if num_to_sample > funnel.candidates:
        warnings.warn(
            f"num_to_sample is {num_to_sample}, but only {funnel.candidates} documents are "
            f"candidates: all of them are selected, {num_to_sample - funnel.candidates} short",
            UserWarning,
            stacklevel=3,
        )
    quotas = apportion(min(num_to_sample, funnel.candidates), [shares[t] for t in targets], targets)
    allocate = _sequential_cuts if allocation == "sequential" else _joint_cuts
    cuts = allocate(pool, targets, quotas, first)
    selected = sum(c.num_documents for c in cuts)
    return Selection(
        tuple(targets), tuple(cuts), method, seed, min_example_length, allocation, id_column,
        num_to_sample, dataclasses.replace(funnel, selected=selected),
    )  # fmt: skip


def apportion(
    num_to_sample: int, shares: Sequence[float], names: Sequence[str | None]
) -> list[int]:
    """Whole documents for each target, by largest remainder, ties by name: order-free."""
    total = sum(shares)
    exact = [num_to_sample * share / total for share in shares]
    quotas = [int(x) for x in exact]
    order = sorted(range(len(shares)), key=lambda t: (quotas[t] - exact[t], str(names[t])))
    for t in order[: num_to_sample - sum(quotas)]:
        quotas[t] += 1
    return quotas


def uniform_cuts(
    weights: DataFrame, selection: Selection, sizes: Sequence[int], ids_from_content: bool
) -> dict[int, Cut]:
    """The cuts of uniform random subsets of the candidates, by their sizes in documents."""
    ids = quoted(selection.id_column)
    pool = weights.where(_is_candidate(selection.min_example_length, selection.id_column)).select(
        ids.alias(_ID), uniform_key(selection).alias(_KEY)
    )
    if ids_from_content:
        pool = pool.dropDuplicates([_ID])
    cuts = {}
    for size in sizes:
        cut = exact_cut(pool, size)
        if cut is None:
            raise DataError(_CHANGED)
        cuts[size] = cut
    return cuts


def uniform_key(selection: Selection) -> Column:
    """Key of the uniform subset: noise of a seed of its own, independent of the selection's."""
    return uniform(selection.seed ^ 0x5DEECE66D, quoted(selection.id_column))


def effective_sample_size(
    weights: DataFrame, columns: Mapping[str, str], selection: Selection
) -> dict[str, float]:
    """(sum w)^2 / sum w^2 over the candidates, in documents, of named weight columns (Kish)."""
    pool = weights.where(_is_candidate(selection.min_example_length, selection.id_column))
    tops = pool.agg(*[F.max(quoted(c)).alias(name) for name, c in columns.items()]).first()
    if tops is None or tops[0] is None:
        return dict.fromkeys(columns, 0.0)
    sums = []
    for name, c in columns.items():
        scaled = F.exp(quoted(c) - F.lit(tops[name]))  # the largest weight becomes 1
        sums += [F.sum(scaled), F.sum(scaled * scaled)]
    row = pool.agg(*sums).first()
    assert row is not None
    return {name: row[2 * i] ** 2 / row[2 * i + 1] for i, name in enumerate(columns)}


def exact_cut(pool: DataFrame, k: int, histogram: list[Any] | None = None) -> Cut | None:
    """The k-th largest (key, id) of a pool with columns _KEY (double, not null) and _ID.

    None where the pool holds fewer than k rows. `histogram` is the pool's in `_histograms`, if it
    is known already.

    One pass counts the keys of logarithmic bins; rows of the one bin in which the k-th lies are
    ordered by (key, id). A bin too full for one task is split by equal steps first, and a
    crowd of equal keys by prefixes of the ids.
    """
    if k <= 0:
        return Cut(None, None, 0)
    rows = _histogram(pool, _log_bin(F.col(_KEY))) if histogram is None else histogram
    if sum(r["n"] for r in rows) < k:
        return None
    rest = k
    while True:
        row, above = _bin_of(rows, rest)
        rest -= above
        low, high = row["low"], row["high"]
        # By the bin's own keys: cheaper than computing each row's bin anew.
        inside = pool.where(F.col(_KEY).between(F.lit(low), F.lit(high)))
        if row["n"] <= _MAX_WINDOW_ROWS or low == high:
            found = _nth_by_window(inside, rest, row["n"], low if low == high else None)
            if found is None:
                raise DataError(_CHANGED)
            return Cut(found[_KEY], found[_ID], k)
        rows = _histogram(inside, _linear_bin(F.col(_KEY), low, high))


def _log_bin(key: Column) -> Column:
    return F.floor(F.signum(key) * F.log1p(F.abs(key)) * F.lit(_BINS_PER_E))


def _linear_bin(key: Column, low: float, high: float) -> Column:
    # Halves first: high - low may overflow. Rounding keeps the order, which is all that matters.
    step = (high / 2 - low / 2) / (_SPLIT_BINS / 2)
    return F.floor((key - F.lit(low)) / F.lit(step))


def _histogram(pool: DataFrame, bins: Column) -> list[Any]:
    """Rows of bin, `n`, `low` and `high`: how many keys it holds, the smallest and the largest."""
    return _counted(pool.groupBy(bins.alias(_BIN))).collect()


def _histograms(coming: DataFrame) -> dict[int, list[Any]]:
    """The histogram of logarithmic bins of each group _FOR, in one pass."""
    # One whole number for group and bin: counting by two columns takes a tenth longer.
    label = F.col(_FOR).cast("bigint") * F.lit(_LABEL)
    packed = label + F.coalesce(_log_bin(F.col(_KEY)), F.lit(0))
    found: dict[int, list[Any]] = {}
    for row in _counted(coming.groupBy(packed.alias(_BIN))).collect():
        group = (row[_BIN] + _LABEL // 2) // _LABEL
        own = {**row.asDict(), _FOR: group, _BIN: row[_BIN] - group * _LABEL}
        found.setdefault(group, []).append(own)
    return found


def _counted(groups: GroupedData) -> DataFrame:
    key = F.col(_KEY)
    return groups.agg(F.count("*").alias("n"), F.min(key).alias("low"), F.max(key).alias("high"))


def _bin_of(rows: list[Any], rank: int) -> tuple[Any, int]:
    """The bin in which the rank-th largest lies, and the number of rows in higher bins."""
    above = 0
    for row in sorted(rows, key=lambda r: r[_BIN], reverse=True):
        if above + row["n"] >= rank:
            return row, above
        above += row["n"]
    raise ValueError("rank is larger than the number of rows")


def _nth_by_window(inside: DataFrame, rank: int, rows: int, tied: float | None) -> Any:
    """The rank-th largest (key, id) among the `rows` rows of one bin.

    Rows of equal key are narrowed by prefixes of their ids until one task can order them.
    """
    if tied is not None and rows > _MAX_WINDOW_ROWS:
        inside, rank = _narrow_by_id(inside, rank, rows)
    order = Window.orderBy(F.col(_KEY).desc(), F.col(_ID).desc())
    return inside.withColumn("n", F.row_number().over(order)).where(F.col("n") == rank).first()


def _narrow_by_id(tied: DataFrame, rank: int, rows: int) -> tuple[DataFrame, int]:
    """Rows of one prefix of ids (bits of an integer, leading characters of a string)."""
    integral = isinstance(tied.schema[_ID].dataType, T.IntegralType)
    for step in range(1, 64):
        ids = F.col(_ID)
        prefix = F.shiftright(ids.cast("bigint"), 64 - step) if integral else ids.substr(1, step)
        binned = tied.withColumn(_BIN, prefix)
        counted = binned.groupBy(_BIN).agg(F.count("*").alias("n")).orderBy(F.col(_BIN).desc())
        row, above = _bin_of(counted.collect(), rank)
        tied, rank = binned.where(F.col(_BIN) == F.lit(row[_BIN])).drop(_BIN), rank - above
        if row["n"] <= _MAX_WINDOW_ROWS:
            break
    return tied, rank


def _key_name(t: int) -> str:
    return f"{_KEY}_{t}"


def _keys(targets: Sequence[str | None], method: str, seed: int, ids: Column) -> list[Column]:
    noise = _noise(method, seed, ids)
    return [quoted(_ranked(t, method)) + noise for t in targets]


def _ranked(target: str | None, method: str) -> str:
    return match_column(target) if method == "match" else column_name(target)


def _noise(method: str, seed: int, ids: Column) -> Column:
    """Gumbel noise to sample; below 1, to break the ties between whole numbers, to match."""
    if method == "top_k":
        return F.lit(0.0)
    return uniform(seed, ids) if method == "match" else gumbel(seed, ids)


def _is_candidate(min_example_length: int, id_column: str) -> Column:
    tokens = F.col(NUM_TOKENS)
    return (tokens >= max(1, min_example_length)) & quoted(id_column).isNotNull()


def _stage(min_example_length: int, id_column: str) -> Column:
    """Where a row of the weights leaves the funnel: -4 to -1, or _CANDIDATE."""
    tokens = F.col(NUM_TOKENS)
    return (
        F.when(quoted(id_column).isNull(), -4)
        .when(tokens.isNull(), -3)
        .when(tokens == 0, -2)
        .when(tokens < min_example_length, -1)
        .otherwise(_CANDIDATE)
    )


def _funnel(rows: Sequence[Any]) -> Funnel:
    """The funnel from counts `n` of rows by stage, or by the target that candidates come to."""
    n = dict.fromkeys(("null_id", "null_text", "blank", "too_short", "candidates"), 0)
    for row in rows:
        n[list(n)[min(row[_FOR], _CANDIDATE) + 4]] += row["n"]
    return Funnel(read=sum(n.values()), duplicate_text=0, selected=0, **n)


def _choice(
    targets: Sequence[str | None],
    keys: Sequence[Column],
    cuts: Sequence[Cut | float | None],
    ids: Column,
    allocation: str,
) -> Column:
    """Position of the target that a row goes to (int), or null.

    A cut that is not known yet is a key that it cannot be below, or None: everything reaches it.
    Sequential: the first target in the caller's order whose cut the row reaches. Joint: of those
    whose cut it reaches, the one with the largest key, ties by name.
    """
    reached = [
        cut.reached_by(key, ids)
        if isinstance(cut, Cut)
        else key >= F.lit(cut)
        if cut is not None
        else F.lit(True)
        for key, cut in zip(keys, cuts, strict=True)
    ]
    places = [F.lit(t) for t in range(len(targets))]
    if allocation == "sequential" or len(targets) == 1:
        return F.coalesce(*[F.when(r, t) for r, t in zip(reached, places, strict=True)])
    best = F.greatest(*_two([F.when(r, k) for r, k in zip(reached, keys, strict=True)]))
    by_name = sorted(range(len(targets)), key=lambda t: str(targets[t]))
    return F.coalesce(*[F.when(reached[t] & (keys[t] == best), places[t]) for t in by_name])


def _two(columns: list[Column]) -> list[Column]:
    """`greatest` wants at least two columns."""
    return columns if len(columns) > 1 else columns * 2


def _pool_keys(targets: Sequence[str | None]) -> list[Column]:
    return [F.col(_key_name(t)) for t in range(len(targets))]


def _for_its_target(rows: DataFrame, chosen: Column, targets: int) -> DataFrame:
    """_ID, _FOR and the key for that target; rows that are no candidates keep their stage."""
    if targets == 1:
        return rows.select(F.col(_ID), F.col(_FOR), F.col(_key_name(0)).alias(_KEY))
    to = F.when(F.col(_FOR) == F.lit(_CANDIDATE), chosen).otherwise(F.col(_FOR))
    named = rows.select("*", to.alias("to"))
    key = F.coalesce(
        *[F.when(F.col("to") == F.lit(t), F.col(_key_name(t))) for t in range(targets)]
    )
    return named.select(F.col(_ID), F.col("to").alias(_FOR), key.alias(_KEY))


def _sequential_cuts(
    pool: DataFrame,
    targets: Sequence[str | None],
    quotas: Sequence[int],
    first: Mapping[int, list[Any]] | None,
) -> list[Cut]:
    """Target after target takes its best of what the earlier ones left (the reference's way)."""
    cuts: list[Cut] = []
    for t, quota in enumerate(quotas):
        free = [~cut.reached_by(F.col(_key_name(s)), F.col(_ID)) for s, cut in enumerate(cuts)]
        left = reduce(lambda frame, c: frame.where(c), free, pool)
        known = first.get(_CANDIDATE) if first is not None and t == 0 else None
        cut = exact_cut(left.select(_ID, F.col(_key_name(t)).alias(_KEY)), quota, known)
        if cut is None:
            raise DataError(_CHANGED)
        cuts.append(cut)
    return cuts


def _joint_cuts(
    pool: DataFrame,
    targets: Sequence[str | None],
    quotas: Sequence[int],
    first: Mapping[int, list[Any]] | None,
) -> list[Cut]:
    """All targets choose at once: pairs (document, target) by falling key, until quotas are full.

    A pair counts if its document is still free and its target not yet full. The outcome depends on
    the keys alone, not on the order of targets. Between two targets that are filled one after the
    other nothing changes but who competes, so each round finds the target filled next: the one
    whose cut, among the documents that would come to it now, is the highest. One pass gives the
    histograms of all targets; only where the highest cut may be is it found exactly.
    """
    if len(targets) == 1:
        return _sequential_cuts(pool, targets, quotas, first)
    cuts: list[Cut | float | None] = [Cut(None, None, 0) if q == 0 else None for q in quotas]
    if any(q == 0 for q in quotas):
        first = None  # it let documents come to a target that takes none
    while any(not isinstance(c, Cut) for c in cuts):
        chosen = _choice(targets, _pool_keys(targets), cuts, F.col(_ID), "joint")
        staged = pool.withColumn(_FOR, F.lit(_CANDIDATE))
        coming = _for_its_target(staged, chosen, len(targets)).where(F.col(_FOR).isNotNull())
        histograms, first = first or _histograms(coming), None
        bins = {
            t: _bin_of(histograms[t], quotas[t])[0]
            for t, cut in enumerate(cuts)
            if not isinstance(cut, Cut) and sum(r["n"] for r in histograms.get(t, ())) >= quotas[t]
        }
        found = {}
        for t, row in bins.items():
            # Once another target is full, more documents come to this one, never fewer.
            cuts[t] = row["low"]
            if row[_BIN] == max(r[_BIN] for r in bins.values()):
                own = coming.where(F.col(_FOR) == F.lit(t)).select(_ID, _KEY)
                cut = exact_cut(own, quotas[t], histograms[t])
                if cut is not None:
                    found[t] = cut
        if not found:
            raise DataError(_CHANGED)
        filled = max(found, key=lambda t: (found[t].key, found[t].id, str(targets[t])))
        cuts[filled] = found[filled]
    return [c for c in cuts if isinstance(c, Cut)]
