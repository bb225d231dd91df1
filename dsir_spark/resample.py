"""Resampling: a noisy key for each document, and who competes with whom for the budget.

The noise is a function of (seed, id) alone and the cuts are found from counts (`cuts`), so the same
documents are selected on any cluster, in any partitioning, after any retry. Only numbers, ids and
hashes pass through here, never a text.

The outcome is a `Selection`: for each target a cut (key, id), with quotas two more for each of
their values, from which membership of a document follows by its own row of weights. Copies of a
text and documents above `max_per_group` are the exception: they are found from the weights of all.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from dsir_spark import copies, cuts
from dsir_spark.columns import check_size_column, quoted
from dsir_spark.config import QualityRule, ResampleConfig
from dsir_spark.copies import FIRST, TEXT_HASH
from dsir_spark.cuts import GROUP, ID, KEY, SIZE, Cut, Near
from dsir_spark.errors import ColumnError, DataError

NUM_TOKENS = "num_tokens"  # tokens of the document (bigint); null where the text is null
LOG_WEIGHT = "log_weight"  # log importance weight, nats (double); null where the text is null
TARGET = "target"  # name of the target that a document was selected for
QUALITY = ("most_frequent", "informative", "digits")  # tokens of each document (bigint)
_FOR = "__dsir_target"
_NOISE = "__dsir_noise"
_VALUE, _MEMBER, _LIMIT = "__dsir_value", "__dsir_member_of", "__dsir_limit"
_CANDIDATE = 0
_MAX_VALUES = 10_000  # of a quota column, all of which the driver holds
_TEMPERATURE_BINS = 65_536
_BROADCAST_IDS = 5_000_000

# Where documents leave the funnel, in this order; `_stage` gives them the numbers -11 to -1.
STAGES = (
    "null_id", "null_text", "blank", "too_short",
    "quality_length", "quality_repeating", "quality_informative", "quality_numeric",
    "without_size", "duplicate_text", "over_max_per_group",
)  # fmt: skip
_DUPLICATE, _OVER = -2, -1


def column_name(target: str | None) -> str:
    """`log_weight`, or `log_weight_<target>` where targets are separate."""
    return LOG_WEIGHT if target is None else f"{LOG_WEIGHT}_{target}"


def match_column(target: str | None) -> str:
    """`match_key`, or `match_key_<target>`: what method match ranks documents by, whole numbers."""
    return "match_key" if target is None else f"match_key_{target}"


def uniform(seed: int, id_column: Column) -> Column:
    """u in (0, 1) from (seed, id): ((xxhash64(seed, id) >>> 11) + 0.5) * 2^-53."""
    h = F.shiftrightunsigned(F.xxhash64(F.lit(seed).cast("bigint"), id_column), 11)
    u = (h.cast("double") + F.lit(0.5)) * F.lit(2.0**-53)
    # The one value of 2^53 that rounds to 1 would give an infinite key.
    return F.least(u, F.lit(1.0 - 2.0**-53))


def gumbel(seed: int, id_column: Column) -> Column:
    """Standard Gumbel noise from (seed, id): -log(-log(u))."""
    return -F.log(-F.log(uniform(seed, id_column)))


# Between these is any noise of a method: -log(-log(u)) at the ends of `uniform`, or u itself.
_NOISE_ENDS = {"sample": (-3.63, 36.75), "match": (0.0, 1.0), "top_k": (0.0, 0.0)}


def sampling_key(log_weight: Column, seed: int, id_column: Column) -> Column:
    """log_weight + Gumbel noise: the k largest are k draws without replacement (DSIR, sec. 3)."""
    return log_weight + gumbel(seed, id_column)


@dataclass(frozen=True)
class Funnel:
    """Where the documents went; `read` = the losses + `candidates`.

    `duplicate_text`: copies of a text with a smaller id (or with the same one, where ids are made
    from the content). `quality_*`: by the first rule broken.
    """

    read: int
    null_id: int
    null_text: int
    blank: int
    too_short: int
    quality_length: int
    quality_repeating: int
    quality_informative: int
    quality_numeric: int
    without_size: int
    duplicate_text: int
    over_max_per_group: int
    candidates: int
    selected: int


@dataclass(frozen=True)
class Quota:
    """The cuts of one value of the quota column: the documents that are in whatever competes, and
    those that may be."""

    value: str | None
    floor: Cut
    cap: Cut | None


@dataclass(frozen=True)
class Selection:
    """Which documents are selected, as a predicate on their weights, num_tokens and id.

    cuts : of each target, among its candidates outside the quotas' floors and caps
    quotas : of each target, for each value with a quota
    num_documents : selected for each target
    size : sum of sizes selected for each target, where the budget is one of sizes
    temperatures : of each target
    ngrams : n-grams of 1 to this many tokens are counted
    """

    targets: tuple[str | None, ...]
    cuts: tuple[Cut, ...]
    options: ResampleConfig
    id_column: str
    ngrams: int
    temperatures: tuple[float, ...]
    quotas: tuple[tuple[Quota, ...], ...]
    num_documents: tuple[int, ...]
    size: tuple[int, ...] | None
    funnel: Funnel
    ids_from_content: bool
    # What `copies.find` found; found again where the selection comes from a record.
    repeated: DataFrame | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def method(self) -> str:
        """Of the resampling: sample, top_k or match."""
        return self.options.method

    @property
    def seed(self) -> int:
        """Of the noise."""
        return self.options.seed

    @property
    def min_example_length(self) -> int:
        """Tokens."""
        return self.options.min_example_length

    @property
    def num_selected(self) -> int:
        """Documents selected, over all targets."""
        return sum(self.num_documents)

    def is_candidate(self) -> Column:
        """Could the row be selected, by itself (copies and groups apart)?"""
        return _stage(self.options, self.id_column) == F.lit(_CANDIDATE)

    def ranks(self) -> list[Column]:
        """What a scored row is ranked by for each target, before noise."""
        return _ranks(self.targets, self.options, self.ngrams, self.temperatures)

    def keys(self) -> list[Column]:
        """The key of a scored row for each target."""
        noise = _noise(self.options, quoted(self.id_column))
        return [rank + noise for rank in self.ranks()]

    def filter(self, scored: DataFrame, weights: DataFrame | None = None) -> DataFrame:
        """Rows of a scored frame that are selected; with several targets, `target` is added.

        weights : the table that the selection was found from; needed where copies are dropped or
            groups are limited
        """
        columns = [quoted(c) for c in scored.columns]
        staged = scored.where(self.is_candidate())
        chosen = self._chosen(staged).select(*columns, F.col(_FOR))
        chosen = chosen.where(F.col(_FOR).isNotNull())
        if self._has_losers():
            if weights is None:
                raise ValueError("copies and groups are found from the weights of all documents")
            losers = self._losers(weights)
            few = self.funnel.duplicate_text + self.funnel.over_max_per_group <= _BROADCAST_IDS
            chosen = chosen.join(
                F.broadcast(losers) if few else losers,
                quoted(self.id_column) == F.col(ID), "left_anti",
            )  # fmt: skip
        if self.targets == (None,):
            return chosen.select(*columns)
        names = F.array(*[F.lit(t) for t in self.targets])
        return chosen.select(*columns, names[F.col(_FOR)].alias(TARGET))

    def rejected(self, scored: DataFrame) -> DataFrame:
        """Candidates of a scored frame that no target takes, whatever copies and groups say."""
        columns = [quoted(c) for c in scored.columns]
        staged = self._chosen(scored.where(self.is_candidate()))
        return staged.where(F.col(_FOR).isNull()).select(*columns)

    def _chosen(self, staged: DataFrame) -> DataFrame:
        """With the position of the target that each row would go to, or null."""
        keys, ids = self.keys(), quoted(self.id_column)
        if not any(self.quotas):
            choice = _choice(self.targets, keys, self.cuts, ids, self.options.allocation)
            return staged.withColumn(_FOR, choice)
        value = quoted(str(self.options.quota_column)).cast("string")
        with_cuts = staged.withColumn(_VALUE, value)
        reached = []
        for t, own in enumerate(self.quotas):
            with_cuts = _with_quotas(with_cuts, own, t)
            reached.append(_within_quotas(keys[t], ids, self.cuts[t], t))
        places = [F.when(r, F.lit(t)) for t, r in enumerate(reached)]
        return with_cuts.withColumn(_FOR, F.coalesce(*places))

    def _has_losers(self) -> bool:
        dropped = self.options.duplicates == "drop" and self.funnel.duplicate_text > 0
        return dropped or self.funnel.over_max_per_group > 0

    def _repeated_among(self, candidates: DataFrame) -> DataFrame | None:
        if self.options.duplicates == "keep" or not self.funnel.duplicate_text:
            return None
        if self.repeated is None:
            object.__setattr__(self, "repeated", copies.find(candidates, self.id_column))
        return self.repeated

    def _losers(self, weights: DataFrame) -> DataFrame:
        """ID of the documents that reach a cut, but are copies, or too many of their group."""
        ids = quoted(self.id_column)
        candidates = weights.where(self.is_candidate())
        reaching = self._chosen(candidates).where(F.col(_FOR).isNotNull())
        found, kept = [], candidates
        repeated = self._repeated_among(candidates)
        if repeated is not None:
            copy = F.coalesce(ids > F.col(FIRST), F.lit(False))
            found.append(reaching.join(repeated, TEXT_HASH).where(copy))
            kept = candidates.join(repeated, TEXT_HASH, "left").where(~copy)
        if self.funnel.over_max_per_group > 0:
            # Of all candidates: the better ones of a group may be selected for no target.
            group = _group(self.options)
            over = _limited(kept, group, self.options, self.keys(), ids).where(F.col(_LIMIT))
            found.append(self._chosen(over).where(F.col(_FOR).isNotNull()))
        return reduce(lambda a, b: a.union(b), [f.select(ids.alias(ID)) for f in found])


def select(
    weights: DataFrame,
    *,
    targets: Sequence[str | None],
    shares: Mapping[str | None, float],
    options: ResampleConfig,
    id_column: str,
    ngrams: int = 2,
    ids_from_content: bool = False,
) -> Selection:
    """Find the cut-offs of a resampling from a weights table.

    Parameters
    ----------
    weights : DataFrame
        `id_column`, `num_tokens`, one log weight a target, and whatever columns the options name;
        without quotas, groups and copies read twice a target: a histogram of keys (of all targets
        at once, and of the funnel in the first), and the rows of one bin.
    targets : names in the order of the caller, or (None,) for a single one.
    shares : proportion of the budget for each target; need not sum to 1.
    options : the budget is one over all targets; more than there is selects all, with a warning.

    Raises
    ------
    ColumnError
        A column that the options need is not in the weights table.
    DataError
        Quotas that these documents cannot fill.
    """
    _refuse_missing_columns(weights, options)
    sized, ids = options.sized, quoted(id_column)
    temperatures = _temperatures(weights, targets, shares, options, id_column, ngrams)
    ranks = _ranks(targets, options, ngrams, temperatures)
    named = [rank.alias(_key_name(t)) for t, rank in enumerate(ranks)]
    extra = []
    if sized:
        extra.append(_size(options).alias(SIZE))
    if options.quotas is not None:
        extra.append(quoted(str(options.quota_column)).cast("string").alias(_VALUE))
    if options.duplicates == "drop":
        extra.append(F.col(TEXT_HASH))
    if options.group_column is not None:
        extra.append(_group(options).alias(_MEMBER))
    staged = weights.select(ids.alias(ID), *named, _stage(options, id_column).alias(_FOR), *extra)
    # A column of its own, so that it is computed once for all targets.
    staged = staged.withColumn(_NOISE, _noise(options, F.col(ID)))
    plain = [F.col(_key_name(t)).alias(_rank_name(t)) for t in range(len(targets))]
    keys = [(F.col(_key_name(t)) + F.col(_NOISE)).alias(_key_name(t)) for t in range(len(targets))]
    carried = [c for c in staged.columns if c in (SIZE, _VALUE, TEXT_HASH, _MEMBER)]
    staged = staged.select(ID, _FOR, *keys, *plain, *carried)
    repeated = None
    if options.duplicates == "drop":
        repeated = copies.find(staged.where(F.col(_FOR) == F.lit(_CANDIDATE)), ID)
        if repeated is not None:
            staged = _copies_staged(staged, repeated)
    if options.group_column is not None:
        staged = _groups_staged(staged, options, len(targets))
    names = [_rank_name(t) for t in range(len(targets))] + _kept(options)
    staged = staged.select(ID, _FOR, *_pool_keys(targets), *[F.col(c) for c in names])
    pool = staged.where(F.col(_FOR) == F.lit(_CANDIDATE)).drop(_FOR)
    first = None
    if ids_from_content or options.quotas is not None:
        funnel = _funnel(staged.groupBy(_FOR).agg(F.count("*").alias("n")).collect())
        if ids_from_content:
            pool = pool.dropDuplicates([ID])
            distinct = pool.count()
            same = funnel.candidates - distinct
            funnel = dataclasses.replace(
                funnel, duplicate_text=funnel.duplicate_text + same, candidates=distinct
            )
    else:
        none_known = [None] * len(targets)
        coming = _choice(targets, _pool_keys(targets), none_known, F.col(ID), options.allocation)
        first = cuts.histograms(_for_its_target(staged, coming, targets, sized), _FOR, sized)
        funnel = _funnel([{**r, _FOR: t} for t, rows in first.items() for r in rows])
    if not sized and options.budget > funnel.candidates:
        warnings.warn(
            f"num_to_sample is {options.budget}, but only {funnel.candidates} documents are "
            f"candidates: all of them are selected, {options.budget - funnel.candidates} short",
            UserWarning,
            stacklevel=3,
        )
    whole = options.budget if sized else min(options.budget, funnel.candidates)
    budgets = apportion(whole, [shares[t] for t in targets], targets)
    if options.quotas is not None:
        found = _quota_cuts(pool, targets, budgets, options)
    else:
        allocate = _sequential_cuts if options.allocation == "sequential" else _joint_cuts
        own = allocate(pool, targets, budgets, first, options)
        found = _Found(own, [()] * len(targets), [c.num_documents for c in own],
                       [c.size or 0 for c in own])  # fmt: skip
    return Selection(
        tuple(targets), tuple(found.cuts), options, id_column, ngrams, tuple(temperatures),
        tuple(found.quotas), tuple(found.documents), tuple(found.sizes) if sized else None,
        dataclasses.replace(funnel, selected=sum(found.documents)), ids_from_content, repeated,
    )  # fmt: skip


@dataclass(frozen=True)
class _Found:
    """For each target: the cut, quotas, documents and sum of sizes."""

    cuts: list[Cut]
    quotas: list[tuple[Quota, ...]]
    documents: list[int]
    sizes: list[int]


def _kept(options: ResampleConfig) -> list[str]:
    """Columns of the pool beside id and keys."""
    return [*([SIZE] if options.sized else []), *([_VALUE] if options.quotas is not None else [])]


def _refuse_missing_columns(weights: DataFrame, options: ResampleConfig) -> None:
    needed = [options.size_column, options.group_column, options.quota_column]
    needed += QUALITY if options.quality is not None else ()
    missing = [c for c in needed if c is not None and c not in weights.columns]
    if missing:
        raise ColumnError(
            f"the weights table has no column {', '.join(missing)}; it has "
            f"{', '.join(weights.columns)}: weigh with the same options, or name them in keep"
        )
    if options.duplicates == "drop" and TEXT_HASH not in weights.columns:
        raise ColumnError(
            f"the weights table has no column {TEXT_HASH}, by which copies are dropped: weigh "
            "again, or give duplicates keep"
        )
    if options.size_column is not None:
        check_size_column(weights, options.size_column, "the weights table")


def _copies_staged(staged: DataFrame, found: DataFrame) -> DataFrame:
    """Candidates with a copy of a smaller id leave the funnel."""
    candidate = F.col(_FOR) == F.lit(_CANDIDATE)
    joined = staged.join(found, TEXT_HASH, "left")
    stage = F.when(candidate & (F.col(ID) > F.col(FIRST)), F.lit(_DUPLICATE))
    return joined.withColumn(_FOR, stage.otherwise(F.col(_FOR))).drop(FIRST)


def _groups_staged(staged: DataFrame, options: ResampleConfig, targets: int) -> DataFrame:
    """Candidates beyond `max_per_group` leave the funnel."""
    keys = [F.col(_key_name(t)) for t in range(targets)]
    candidate = F.col(_FOR) == F.lit(_CANDIDATE)
    limited = _limited(staged, F.col(_MEMBER), options, keys, F.col(ID), candidate)
    stage = F.when(candidate & F.col(_LIMIT), F.lit(_OVER)).otherwise(F.col(_FOR))
    return limited.withColumn(_FOR, stage).drop(_LIMIT)


def _limited(
    frame: DataFrame, group: Column, options: ResampleConfig, keys: list[Column], ids: Column,
    candidate: Column | None = None,
) -> DataFrame:  # fmt: skip
    """With _LIMIT: is the document not among the best `max_per_group` of its group?

    By its largest key over the targets, then id. Documents without a group are not limited.
    """
    counts = group.isNotNull() if candidate is None else group.isNotNull() & candidate
    # Rows that do not count are groups of their own: together they would be one huge partition.
    alone = F.concat(F.lit("r"), F.rand().cast("string"))
    place = F.when(counts, F.concat(F.lit("g"), group)).otherwise(alone)
    placed = frame.withColumn("__dsir_place", place)
    order = Window.partitionBy("__dsir_place").orderBy(F.greatest(*_two(keys)).desc(), ids.desc())
    over = F.row_number().over(order) > F.lit(options.max_per_group)
    return placed.withColumn(_LIMIT, over).drop("__dsir_place")


def _group(options: ResampleConfig) -> Column:
    """What `max_per_group` goes by: a column's value as a string."""
    return quoted(str(options.group_column)).cast("string")


def _size(options: ResampleConfig) -> Column:
    """Size of a document (bigint): its tokens, or a column's number, rounded up."""
    if options.size_column is None:
        return F.col(NUM_TOKENS).cast("bigint")
    return F.ceil(quoted(options.size_column)).cast("bigint")


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


def uniform_cuts(weights: DataFrame, selection: Selection) -> list[Cut]:
    """The cut of a uniform random subset of the candidates as large as the selection, by target."""
    sized = selection.options.sized
    columns = [quoted(selection.id_column).alias(ID), uniform_key(selection).alias(KEY)]
    if sized:
        columns.append(_size(selection.options).alias(SIZE))
    pool = weights.where(selection.is_candidate()).select(*columns)
    if selection.ids_from_content:
        pool = pool.dropDuplicates([ID])
    sizes = selection.size if sized and selection.size is not None else selection.num_documents
    known: dict[int, Cut] = {}
    for size in sizes:
        if size not in known:
            cut = cuts.exact_cut(pool, size, sized=sized)
            if cut is None:
                raise DataError(cuts.CHANGED)
            known[size] = cut
    return [known[size] for size in sizes]


def uniform_key(selection: Selection) -> Column:
    """Key of the uniform subset: noise of a seed of its own, independent of the selection's."""
    return uniform(selection.seed ^ 0x5DEECE66D, quoted(selection.id_column))


def effective_sample_size(weights: DataFrame, selection: Selection) -> dict[str | None, float]:
    """(sum w)^2 / sum w^2 over the candidates, in documents, for each target (Kish).

    Of the weights that are sampled by: after `normalize` and `temperature`; of method match, the
    plain ones.
    """
    options = selection.options
    if options.method == "match":
        options = dataclasses.replace(options, method="sample")
    ranks = _ranks(selection.targets, options, selection.ngrams, selection.temperatures)
    named = [rank.alias(f"w{t}") for t, rank in enumerate(ranks)]
    pool = weights.where(selection.is_candidate()).select(*named)
    tops = pool.agg(*[F.max(f"w{t}") for t in range(len(ranks))]).first()
    if tops is None or tops[0] is None:
        return dict.fromkeys(selection.targets, 0.0)
    sums = []
    for t in range(len(ranks)):
        scaled = F.exp(F.col(f"w{t}") - F.lit(tops[t]))  # the largest weight becomes 1
        sums += [F.sum(scaled), F.sum(scaled * scaled)]
    row = pool.agg(*sums).first()
    assert row is not None
    return {name: row[2 * t] ** 2 / row[2 * t + 1] for t, name in enumerate(selection.targets)}


def temperature_floor(options: ResampleConfig) -> float:
    """The smallest that `temperature="auto"` gives: 1 for sums, 0.01 for means of log ratios."""
    return 0.01 if options.normalize == "ngram" else 1.0


def smallest_temperature(
    low: np.ndarray[Any, Any], counts: np.ndarray[Any, Any], wanted: float, floor: float
) -> float:
    """The smallest T >= floor at which exp(low / T) has an effective sample size of `wanted`.

    Parameters
    ----------
    low : float64[n] log weights of n bins, nats
    counts : int64[n] documents in each
    wanted : documents; fewer than there are

    Rounded up to a multiple of floor / 1024, so that the last bit of an exponential, in which
    processors differ, decides nothing.
    """

    def size(t: float) -> float:
        w = np.exp((low - low.max()) / t)
        return float((counts @ w) ** 2 / (counts @ (w * w)))

    if size(floor) >= wanted:
        return floor
    a, b = floor, 2.0 * floor
    while size(b) < wanted and b < 1e12:
        a, b = b, 2.0 * b
    for _ in range(60):
        middle = (a + b) / 2
        a, b = (a, middle) if size(middle) >= wanted else (middle, b)
    return math.ceil(b * 1024 / floor) * floor / 1024


def _temperatures(
    weights: DataFrame,
    targets: Sequence[str | None],
    shares: Mapping[str | None, float],
    options: ResampleConfig,
    id_column: str,
    ngrams: int,
) -> list[float]:
    """Of each target: as given, or found from a histogram of its log weights in 65,536 bins."""
    if options.temperature != "auto":
        return [float(options.temperature)] * len(targets)
    plain = dataclasses.replace(options, temperature=1.0)
    ranks = _ranks(targets, plain, ngrams, [1.0] * len(targets))
    named = [rank.alias(_key_name(t)) for t, rank in enumerate(ranks)]
    size = [_size(options).alias(SIZE)] if options.sized else []
    pool = weights.where(_stage(options, id_column) == F.lit(_CANDIDATE)).select(*named, *size)
    facts = pool.agg(
        F.count("*").alias("n"),
        *([F.sum(SIZE).alias("size")] if size else []),
        *[f(_key_name(t)).alias(f"{f.__name__}{t}") for t in range(len(targets))
          for f in (F.min, F.max)],
    ).first()  # fmt: skip
    assert facts is not None
    if not facts["n"]:
        return [temperature_floor(options)] * len(targets)
    documents = float(options.budget)
    if options.sized:
        documents = options.budget * facts["n"] / max(1, facts["size"])
    total = sum(shares[t] for t in targets)
    found = []
    for t, name in enumerate(targets):
        bottom, top = facts[f"min{t}"], facts[f"max{t}"]
        step = (top - bottom) / _TEMPERATURE_BINS or 1.0
        bins = F.floor((F.col(_key_name(t)) - F.lit(bottom)) / F.lit(step)).cast("bigint")
        rows = pool.groupBy(bins.alias("bin")).agg(F.count("*").alias("n")).collect()
        rows.sort(key=lambda r: r["bin"])
        wanted = min(documents * shares[name] / total, facts["n"] - 0.5)
        found.append(
            smallest_temperature(
                np.array([r["bin"] for r in rows]) * step,
                np.array([float(r["n"]) for r in rows]),
                wanted, temperature_floor(options),
            )
        )  # fmt: skip
    return found


def _key_name(t: int) -> str:
    return f"{KEY}_{t}"


def _rank_name(t: int) -> str:
    return f"__dsir_rank_{t}"


def _ranks(
    targets: Sequence[str | None],
    options: ResampleConfig,
    ngrams: int,
    temperatures: Sequence[float],
) -> list[Column]:
    """What rows are ranked by, before noise: by the method, `normalize` and `temperature`."""
    if options.method == "match":
        return [quoted(match_column(t)) for t in targets]
    ranks = [quoted(column_name(t)) for t in targets]
    if options.normalize == "ngram":
        size = num_ngrams(F.col(NUM_TOKENS), ngrams)
        ranks = [rank / F.greatest(size, F.lit(1)) for rank in ranks]
    return [
        rank if t == 1.0 else rank / F.lit(t) for rank, t in zip(ranks, temperatures, strict=True)
    ]


def num_ngrams(num_tokens: Column, ngrams: int) -> Column:
    """N-grams of 1 to `ngrams` tokens in a document of so many tokens (bigint)."""
    sizes = [F.greatest(num_tokens - n, F.lit(0).cast("bigint")) for n in range(ngrams)]
    return reduce(lambda a, b: a + b, sizes)


def _noise(options: ResampleConfig, ids: Column) -> Column:
    """Gumbel noise to sample; below 1, to break the ties between whole numbers, to match."""
    if options.method == "top_k":
        return F.lit(0.0)
    if options.method == "match":
        return uniform(options.seed, ids)
    return gumbel(options.seed, ids)


def _near(options: ResampleConfig, t: int) -> Near:
    """Which rows may have a key for target t within two bounds, by their rank alone."""
    least, _ = _NOISE_ENDS[options.method]

    def near(low: float, high: float) -> Column:
        return _may_reach(options, t, low) & (F.col(_rank_name(t)) <= high - least + _hair(high))

    return near


def _may_reach(options: ResampleConfig, t: int, low: float) -> Column:
    """Which rows may have a key for target t of at least `low`, by their rank alone."""
    _, most = _NOISE_ENDS[options.method]
    return F.col(_rank_name(t)) >= F.lit(low - most - _hair(low))


def _hair(key: float) -> float:
    """More than what the sum of rank and noise may be rounded by."""
    return 0.01 + 1e-12 * abs(key)


def _stage(options: ResampleConfig, id_column: str) -> Column:
    """Where a row of the weights leaves the funnel by itself: one of STAGES, or _CANDIDATE."""
    tokens = F.col(NUM_TOKENS)
    number = {name: F.lit(i - len(STAGES)) for i, name in enumerate(STAGES)}
    stage = (
        F.when(quoted(id_column).isNull(), number["null_id"])
        .when(tokens.isNull(), number["null_text"])
        .when(tokens == 0, number["blank"])
        .when(tokens < options.min_example_length, number["too_short"])
    )
    if options.rule is not None:
        for name, broken in zip(STAGES[4:8], _broken(options.rule), strict=True):
            stage = stage.when(broken, number[name])
    if options.size_column is not None:
        size = quoted(options.size_column)
        stage = stage.when(size.isNull() | F.isnan(size.cast("double")) | (size < 0),
                           number["without_size"])  # fmt: skip
    return stage.otherwise(F.lit(_CANDIDATE))


def _broken(rule: QualityRule) -> list[Column]:
    """Does a row break the rule on length, repetition, information, digits?"""
    tokens = F.col(NUM_TOKENS)
    repeated, informative, digits = (F.col(name) / tokens for name in QUALITY)
    return [
        ~((tokens > rule.min_tokens) & (tokens < rule.max_tokens)),
        ~((repeated > rule.min_repeated) & (repeated < rule.max_repeated)),
        ~((informative > rule.min_informative) & (informative < rule.max_informative)),
        ~(F.lit(1.0) - digits > rule.min_not_digits),
    ]


def _funnel(rows: Sequence[Any]) -> Funnel:
    """The funnel from counts `n` of rows by stage, or by the target that candidates come to."""
    n = dict.fromkeys((*STAGES, "candidates"), 0)
    for row in rows:
        n[list(n)[min(row[_FOR], _CANDIDATE) + len(STAGES)]] += row["n"]
    return Funnel(read=sum(n.values()), selected=0, **n)


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


def _for_its_target(
    rows: DataFrame, chosen: Column, targets: Sequence[str | None], sized: bool
) -> DataFrame:
    """ID, _FOR and the key for that target; rows that are no candidates keep their stage."""
    extra = [F.col(_rank_name(t)) for t in range(len(targets))] + ([F.col(SIZE)] if sized else [])
    keys = _pool_keys(targets)
    if len(targets) == 1:
        return rows.select(F.col(ID), F.col(_FOR), keys[0].alias(KEY), *extra)
    to = F.when(F.col(_FOR) == F.lit(_CANDIDATE), chosen).otherwise(F.col(_FOR))
    named = rows.select("*", to.alias("to"))
    key = F.coalesce(*[F.when(F.col("to") == F.lit(t), k) for t, k in enumerate(keys)])
    return named.select(F.col(ID), F.col("to").alias(_FOR), key.alias(KEY), *extra)


def _sequential_cuts(
    pool: DataFrame,
    targets: Sequence[str | None],
    budgets: Sequence[int],
    first: Mapping[int, list[Any]] | None,
    options: ResampleConfig,
) -> list[Cut]:
    """Target after target takes its best of what the earlier ones left (the reference's way)."""
    own: list[Cut] = []
    sized = options.sized
    extra = [SIZE] if sized else []
    for t, budget in enumerate(budgets):
        free = [~cut.reached_by(F.col(_key_name(s)), F.col(ID)) for s, cut in enumerate(own)]
        left = reduce(lambda frame, c: frame.where(c), free, pool)
        known = first.get(_CANDIDATE, []) if first is not None and t == 0 else None
        left = left.select(ID, F.col(_key_name(t)).alias(KEY), _rank_name(t), *extra)
        cut = cuts.exact_cut(left, budget, known, sized, _near(options, t))
        if cut is None:
            raise DataError(cuts.CHANGED)
        own.append(cut)
    return own


def _joint_cuts(
    pool: DataFrame,
    targets: Sequence[str | None],
    budgets: Sequence[int],
    first: Mapping[int, list[Any]] | None,
    options: ResampleConfig,
) -> list[Cut]:
    """All targets choose at once: pairs (document, target) by falling key, until budgets are full.

    A pair counts if its document is still free and its target not yet full. The outcome depends on
    the keys alone, not on the order of targets. Between two targets that are filled one after the
    other nothing changes but who competes, so each round finds the target filled next: the one
    whose cut, among the documents that would come to it now, is the highest. One pass gives the
    histograms of all targets; only where the highest cut may be is it found exactly. By size, a
    target is full at the first document that would cross its budget, and what comes to the last
    targets may be less than theirs.
    """
    if len(targets) == 1:
        return _sequential_cuts(pool, targets, budgets, first, options)
    sized = options.sized
    own: list[Cut | float | None] = [cuts.nothing(sized) if b == 0 else None for b in budgets]
    if any(b == 0 for b in budgets):
        first = None  # it let documents come to a target that takes none
    extra = [SIZE] if sized else []
    while any(not isinstance(c, Cut) for c in own):
        chosen = _choice(targets, _pool_keys(targets), own, F.col(ID), "joint")
        # Once a target's bin was seen, rows below it cannot come to it: most need no key.
        known = [(t, c) for t, c in enumerate(own) if isinstance(c, float)]
        close = [_may_reach(options, t, low) for t, low in known]
        still = pool
        if close and not any(c is None for c in own):
            still = pool.where(reduce(lambda a, b: a | b, close))
        staged = still.withColumn(_FOR, F.lit(_CANDIDATE))
        coming = _for_its_target(staged, chosen, targets, sized)
        coming = coming.where(F.col(_FOR).isNotNull())
        histograms, first = first or cuts.histograms(coming, _FOR, sized), None
        bins = {}
        for t, cut in enumerate(own):
            row = None
            if not isinstance(cut, Cut):
                row = cuts.last_bin(histograms.get(t, []), budgets[t], sized)
            if row is not None:
                bins[t] = row
        if not bins and sized:
            for t, cut in enumerate(own):
                if not isinstance(cut, Cut):
                    rows = histograms.get(t, [])
                    total = sum(r["amount"] for r in rows)
                    own[t] = cuts.everything(sum(r["n"] for r in rows), total)
            break
        found = {}
        for t, row in bins.items():
            # Once another target is full, more documents come to this one, never fewer.
            own[t] = row["low"]
            if row[cuts.BIN] == max(r[cuts.BIN] for r in bins.values()):
                rows_of = coming.where(F.col(_FOR) == F.lit(t)).select(
                    ID, KEY, _rank_name(t), *extra
                )
                cut = cuts.exact_cut(rows_of, budgets[t], histograms[t], sized, _near(options, t))
                if cut is not None:
                    found[t] = cut
        if not found:
            raise DataError(cuts.CHANGED)
        filled = max(found, key=lambda t: (found[t].key, found[t].id, str(targets[t])))
        own[filled] = found[filled]
    return [c for c in own if isinstance(c, Cut)]


def _quota_cuts(
    pool: DataFrame,
    targets: Sequence[str | None],
    budgets: Sequence[int],
    options: ResampleConfig,
) -> _Found:
    """Cuts under quotas, target after target.

    The best of each value up to its smallest share are in, whatever competes (floor); of the others
    those within its largest share (cap) compete for the rest of the budget. That is the selection
    of the largest keys among all that keep the quotas: the constraints are nested, so taking the
    best first is optimal.
    """
    sized = options.sized
    amounts = _amounts(pool, options)
    found = _Found([], [], [], [])
    values: list[str | None] = list(amounts)
    frame = pool.sparkSession.createDataFrame(
        [(value, g) for g, value in enumerate(values)], f"{_VALUE} string, {GROUP} int"
    )
    left = _by_value(pool, frame)
    for t, budget in enumerate(budgets):
        floors, caps = _quota_budgets(budget, amounts, options)
        keyed = left.withColumn(KEY, F.col(_key_name(t)))
        low = cuts.exact_cuts(keyed, floors, sized)
        high = {g: low[g] for g, c in caps.items() if c == floors[g]}
        high |= cuts.exact_cuts(keyed, {g: c for g, c in caps.items() if g not in high}, sized)
        own = tuple(Quota(values[g], low[g], high.get(g)) for g in floors)
        taken = sum(c.size or 0 if sized else c.num_documents for c in low.values())
        reserved = taken if options.quota_shortfall == "fill" else max(taken, sum(floors.values()))
        with_cuts = _with_quotas(keyed, own, t)
        free = with_cuts.where(_competes(F.col(KEY), F.col(ID), t))
        cut = cuts.exact_cut(free, max(0, budget - reserved), sized=sized)
        if cut is None:
            cut = cuts.everything(free.count(), None)
        found.cuts.append(cut)
        found.quotas.append(own)
        found.documents.append(cut.num_documents + sum(c.num_documents for c in low.values()))
        found.sizes.append((cut.size or 0) + sum(c.size or 0 for c in low.values()))
        if t + 1 < len(budgets):
            gone = _within_quotas(F.col(KEY), F.col(ID), cut, t)
            left = with_cuts.where(~gone).select(*left.columns)
    return found


def _amounts(pool: DataFrame, options: ResampleConfig) -> dict[str | None, int]:
    """Documents (or their sizes) of each value that has a quota."""
    amount = F.sum(SIZE) if options.sized else F.count("*")
    counted = pool.groupBy(_VALUE).agg(amount.alias("amount"))
    column, bounds = options.quota_column, options.quota_bounds
    if bounds:
        found = {r[_VALUE]: r["amount"] for r in counted.where(F.col(_VALUE).isin(list(bounds)))
                 .collect()}  # fmt: skip
        absent = sorted(value for value in bounds if value not in found)
        if absent:
            most = counted.orderBy(F.desc("amount"), _VALUE).limit(10).collect()
            raise DataError(
                f"no candidate has {' or '.join(map(repr, absent))} in {column}, which quotas "
                f"name; most have {', '.join(repr(r[_VALUE]) for r in most)}"
            )
        return {value: found[value] for value in bounds}
    rows = counted.limit(_MAX_VALUES + 1).collect()
    if len(rows) > _MAX_VALUES:
        raise DataError(
            f"quotas as in raw need a column of at most {_MAX_VALUES} values; {column} has more"
        )
    return {r[_VALUE]: r["amount"] for r in sorted(rows, key=lambda r: str(r[_VALUE]))}


def _quota_budgets(
    budget: int, amounts: Mapping[str | None, int], options: ResampleConfig
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


def _by_value(pool: DataFrame, values: DataFrame) -> DataFrame:
    """With GROUP: the position of the row's value, or null for values without a quota."""
    named = values.withColumnRenamed(_VALUE, "__dsir_of")
    return pool.join(F.broadcast(named), F.col(_VALUE).eqNullSafe(F.col("__dsir_of")), "left").drop(
        "__dsir_of"
    )


_BOUND = ("key", "id", "exclusive")


def _with_quotas(rows: DataFrame, quotas: Sequence[Quota], t: int) -> DataFrame:
    """Rows with _VALUE and the cuts of their value, as columns."""
    ids = next((c.id for q in quotas for c in (q.floor, q.cap) if c and c.id is not None), "")
    kind = "string" if isinstance(ids, str) else "bigint"
    names = [f"__dsir_{which}_{name}_{t}" for which in ("floor", "cap") for name in _BOUND]
    fields = ", ".join(
        f"{name} {kind_of}"
        for name, kind_of in zip(names, ("double", kind, "boolean") * 2, strict=True)
    )
    schema = f"__dsir_of string, {fields}, __dsir_capped_{t} boolean"
    table = [
        (q.value, *_facts(q.floor), *_facts(q.cap), q.cap is not None) for q in quotas
    ]  # fmt: skip
    frame = F.broadcast(rows.sparkSession.createDataFrame(table, schema))
    joined = rows.join(frame, F.col(_VALUE).eqNullSafe(F.col("__dsir_of")), "left")
    return joined.drop("__dsir_of")


def _facts(cut: Cut | None) -> tuple[Any, ...]:
    return (None, None, None) if cut is None else (cut.key, cut.id, cut.exclusive)


def _reached(which: str, key: Column, ids: Column, t: int) -> Column:
    """Is (key, id) in the list whose cut the row carries?"""
    last, last_id, exclusive = (F.col(f"__dsir_{which}_{name}_{t}") for name in _BOUND)
    by_id = F.when(exclusive, ids > last_id).otherwise(ids >= last_id)
    return F.coalesce((key > last) | ((key == last) & by_id), F.lit(False))


def _competes(key: Column, ids: Column, t: int) -> Column:
    """Is the row below its value's floor, and within its cap?"""
    capped = F.coalesce(F.col(f"__dsir_capped_{t}"), F.lit(False))
    return ~_reached("floor", key, ids, t) & (~capped | _reached("cap", key, ids, t))


def _within_quotas(key: Column, ids: Column, cut: Cut, t: int) -> Column:
    """Is the row selected?"""
    competing = _competes(key, ids, t) & F.coalesce(cut.reached_by(key, ids), F.lit(False))
    return _reached("floor", key, ids, t) | competing
