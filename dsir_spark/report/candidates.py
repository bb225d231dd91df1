"""All candidates in numbers, on the driver: a random sample of them, and counts of all in bins.

The sample is drawn by the uniform noise of the ids: its first documents are the random selection
that a selection is compared with. Bins are equal steps on the scale of the sample, as many to
either side as there are documents, so nothing has to be known before; all come from one query.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import NUM_TOKENS, TARGET, column_name, quoted
from dsir_spark.features import bins
from dsir_spark.local_rows import to_arrow
from dsir_spark.scoring.distributions import Float64, Int64
from dsir_spark.scoring.documents import num_ngrams
from dsir_spark.scoring.matched import Histogram
from dsir_spark.scoring.model import Model
from dsir_spark.selection import Selection

SAMPLED = 5_000
OF = "__dsir_of"  # what a row of weights is one of: names (array of strings), or null
RANK, KEY, SCORE, LENGTH, RANK_SELECTED, LENGTH_SELECTED = range(6)
_RANK_STEPS, _KEY_STEPS, _SHOWN = 240, 2_048, 60
_WIDEST = 512.0  # nats: exp(2 * half of it) is a double
_SIZE, _LENGTH = "size", "length"
_EXACT_LENGTHS = 1_024  # tokens; above, 256 bins to each doubling


class Sample(NamedTuple):
    """Some n candidates by falling uniform noise, for T targets."""

    ids: list[Any]
    num_tokens: Int64  # [n]
    sizes: Int64 | None  # [n], what the budget counts; None where it counts documents
    ranks: Float64  # [n, T], nats
    keys: Float64  # [n, T], nats; of a matched selection, steps
    population: int  # candidates that it was drawn from, copies among them
    least: float  # the noise that these, and no other candidates, have at least; 0: it has all

    def random(self, documents: int, size: int | None) -> tuple[int, bool]:
        """How many of the first are a random selection of so many documents (or of such a size),
        and whether they are all of it."""
        if self.sizes is None or size is None:
            number = min(documents, len(self.ids))
            return number, number == documents
        number = int(np.searchsorted(np.cumsum(self.sizes), size, side="right"))
        return number, self.least <= 0.0 or number < len(self.ids)


def matched(selection: Selection) -> bool:
    return str(selection.options.method) == "match"


def _ranks(selection: Selection) -> list[Column]:
    if matched(selection):  # keys are a few whole numbers: log weights say more
        return [quoted(column_name(target)) for target in selection.targets]
    return selection.ranks()


def position(selection: Selection) -> Column:
    """Position of the target that a selected row is for (int, from 0)."""
    if len(selection.targets) == 1:
        return F.lit(0)
    names = F.array(*map(F.lit, selection.targets))
    # By its name: the function of 3.5 takes no column for what is looked for.
    return (F.call_function("array_position", names, F.col(TARGET)) - 1).cast("int")


def draw(selection: Selection, weights: DataFrame) -> tuple[Sample, dict[str, int]]:
    """About 5,000 candidates, and the rows of each name that is in the array OF; one query."""
    pool, funnel, sized = selection.pool, selection.funnel, selection.options.sized
    population = funnel["candidates"] + funnel["over_max_per_group"]
    if not pool.ids_from_content:  # of equal ids, a copy is no row of its own
        population += funnel["duplicate_text"]
    # A few more, so that five thousand are never too few by chance.
    least = max(0.0, 1.0 - (SAMPLED + 5 * math.sqrt(SAMPLED)) / max(1, population))
    noise, size = selection.uniform_key(), pool.whole_size() if sized else F.lit(0)
    row = F.struct(
        quoted(pool.id_column).alias("id"), noise.alias("noise"), F.col(NUM_TOKENS).alias("tokens"),
        size.alias("size"), F.array(*_ranks(selection)).alias("ranks"),
        F.array(*selection.keys()).alias("keys"),
    )  # fmt: skip
    row = F.when(selection.is_candidate() & (noise >= F.lit(least)), row)
    rows = weights.select(OF, row.alias("row")).where("row is not null or " + OF + " is not null")
    counts = F.count("*").alias("n"), F.collect_list("row").alias("rows")
    found = to_arrow(rows.groupBy(OF).agg(*counts))
    groups, number = found.to_pylist(), Counter[str]()
    for group in groups:
        number.update(dict.fromkeys(group[OF] or (), group["n"]))
    drawn = [own for group in groups for own in group["rows"]]
    drawn.sort(key=lambda r: (r["noise"], r["id"]), reverse=True)
    if pool.ids_from_content:
        drawn = list({row["id"]: row for row in drawn}.values())

    def column(name: str, kind: type, *shape: int) -> Any:
        return np.array([row[name] for row in drawn], kind).reshape(len(drawn), *shape)

    targets = len(selection.targets)
    sample = Sample(
        [row["id"] for row in drawn], column("tokens", np.int64),
        column("size", np.int64) if sized else None, column("ranks", np.float64, targets),
        column("keys", np.float64, targets), population, least,
    )  # fmt: skip
    return sample, number


def rank_correlation(a: Float64 | Int64, b: Float64 | Int64) -> float:
    """Spearman's, of two arrays of n numbers; 0 where one of them is constant."""
    placed = []
    for x in (a, b):
        _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
        placed.append((np.cumsum(counts) - (counts - 1) / 2.0)[where])  # ties share a rank
    if len(a) < 3 or any(r.std() == 0 for r in placed):
        return 0.0
    return float(np.corrcoef(placed[0], placed[1])[0, 1])


class Scale(NamedTuple):
    """Bin of a number x: floor((x - low) / step)."""

    low: float
    step: float

    @classmethod
    def of(cls, numbers: Float64, steps: int, widest: float = float("inf")) -> Scale:
        """The range of some numbers in so many steps, none wider than `widest`."""
        low, high = (float(f(numbers)) for f in (np.min, np.max)) if len(numbers) else (0.0, 0.0)
        return cls(low, min((high - low) / steps, widest) or 1.0)

    def bin(self, x: Column) -> Column:
        return F.floor((x - F.lit(self.low)) / F.lit(self.step))


class Bins(NamedTuple):
    """The B bins that are not empty, rising; [B] all."""

    at: Int64
    n: Int64  # documents
    first: Float64  # sum of exp(x - middle), of ranks; of scores, n-grams
    second: Float64  # sum of its square
    low: Float64  # the smallest number
    high: Float64

    @classmethod
    def none(cls) -> Bins:
        return cls(*np.zeros((2, 0), np.int64), *np.zeros((4, 0)))

    @classmethod
    def of(cls, table: pa.Table) -> dict[tuple[int, int], Bins]:
        """Those of each kind and t, of a table of `bins.COLUMNS`."""
        if not len(table):
            return {}
        kind, t, *numbers = (column.to_numpy() for column in table.columns)
        order = np.lexsort((numbers[0], t, kind))
        of = np.stack([kind, t], axis=1)[order]
        starts = np.flatnonzero((of[1:] != of[:-1]).any(axis=1)) + 1
        found = zip(*[np.split(own[order], starts) for own in numbers], strict=True)
        firsts = of[[0, *starts.tolist()]].tolist()
        return {(k, i): cls(*own) for (k, i), own in zip(firsts, found, strict=True)}

    def median(self) -> float:
        """The lower median; 0 of none."""
        if not len(self.n):
            return 0.0
        i = int(np.searchsorted(np.cumsum(self.n), (self.n.sum() + 1) // 2))
        return float(self.low[i] + self.high[i]) / 2

    def above(self, wanted: int) -> tuple[float, int]:
        """A number that at least `wanted` documents reach, and how many do; of fewer, all."""
        if not len(self.n):
            return 0.0, 0
        reached = np.cumsum(self.n[::-1])
        i = min(int(np.searchsorted(reached, wanted)), len(reached) - 1)
        return float(self.low[::-1][i]), int(reached[i])


class Spectrum(NamedTuple):
    """The bins of all candidates and of the selected ones, by kind and target."""

    selection: Selection
    sample: Sample
    scales: tuple[Scale, ...]
    found: dict[tuple[int, int], Bins]

    def bins(self, kind: int, t: int = 0) -> Bins:
        return self.found.get((kind, t), Bins.none())

    def effective_sample_size(self, t: int) -> float:
        """(sum w)^2 / sum w^2 over the candidates, documents (Kish); w = exp(rank)."""
        bins = self.bins(RANK, t)
        if not len(bins.at):
            return 0.0
        scaled = np.exp((bins.at - bins.at.max()) * self.scales[t].step)  # the largest becomes 1
        # Product by product: the square of what is scaled alone may be too small for a double.
        return float((bins.first @ scaled) ** 2 / (bins.second * scaled @ scaled))

    def histogram(self, t: int) -> dict[str, Any]:
        """Edges (nats), candidates and selected, in some 60 equal bins, as JSON has them."""
        own, scale = self.bins(RANK, t), self.scales[t]
        if not len(own.at):
            return {"edges": [0.0, 1.0], "candidates": [0], "selected": [0], "total": 0}
        low, width = int(own.at.min()), int(np.ptp(own.at)) + 1
        together = -(-width // _SHOWN)
        number = -(-width // together)
        candidates, selected = (
            np.bincount((b.at - low) // together, b.n, number).astype(np.int64).tolist()
            for b in (own, self.bins(RANK_SELECTED, t))
        )
        edges = [scale.low + scale.step * (low + together * i) for i in range(number + 1)]
        return {"edges": edges, "candidates": candidates, "selected": selected,
                "total": sum(candidates)}  # fmt: skip

    def scores(self, t: int) -> Histogram:
        """Of the candidates, under the last gradient of a matched selection."""
        bins = self.bins(SCORE, t)
        numbers = zip(*(c.tolist() for c in (bins.n, bins.first, bins.low, bins.high)), strict=True)
        return dict(zip(bins.at.tolist(), numbers, strict=True))


def measure(
    model: Model, selection: Selection, weights: DataFrame, selected: DataFrame, sample: Sample,
    keys: bool,
) -> Spectrum:  # fmt: skip
    """All bins, in one query; of keys if asked for, and of the scores of a matched selection."""
    ranks, of = _ranks(selection), position(selection)
    scales = tuple(Scale.of(own, _RANK_STEPS, _WIDEST) for own in sample.ranks.T)
    tokens = F.col(NUM_TOKENS).cast("double")
    many = F.floor(F.log2(tokens / F.lit(float(_EXACT_LENGTHS))) * F.lit(256.0)) + _EXACT_LENGTHS
    length = F.when(tokens < _EXACT_LENGTHS, tokens).otherwise(many).cast("bigint")
    columns: list[Column] = []

    def kind(number: int, given: Sequence[Column], *how: Any, **more: Any) -> bins.Kind:
        named = [f"{number}_{t}" for t in range(len(given))]
        columns.extend(c.cast("double").alias(n) for c, n in zip(given, named, strict=True))
        return bins.Kind(named, *how, **more)

    kinds = {RANK: kind(RANK, ranks, _plain(scales), exponents=True),
             LENGTH: kind(LENGTH, [tokens], at=_LENGTH)}  # fmt: skip
    if keys:
        steps = max(256, _KEY_STEPS // len(ranks))
        at = _plain(Scale.of(k, steps) for k in sample.keys.T)
        kinds[KEY] = kind(KEY, selection.keys(), at)
    if matched(selection):
        scores = list(map(quoted, model.match_columns[1::2]))
        kinds[SCORE] = kind(SCORE, scores, sizes=_SIZE)
    size = num_ngrams(F.col(NUM_TOKENS), model.config.ngrams).cast("double")
    of_candidates = weights.where(selection.is_candidate()).select(
        *columns, size.alias(_SIZE), length.alias(_LENGTH)
    ).mapInArrow(functools.partial(bins.counted, kinds=kinds), bins.COLUMNS)  # fmt: skip
    binned = F.array(*[scale.bin(rank) for scale, rank in zip(scales, ranks, strict=True)])
    rows_selected = [
        _row(RANK_SELECTED, of, binned[of], F.array(*ranks)[of]),
        _row(LENGTH_SELECTED, of, length, tokens),
    ]
    other = selected.select(F.explode(F.array(*rows_selected)).alias("row"))
    counted = of_candidates.union(other.select("row.*")).groupBy("kind", "t", "bin").agg(
        F.sum("n"), F.sum("first"), F.sum("second"), F.min("low"), F.max("high")
    )  # fmt: skip
    return Spectrum(selection, sample, scales, Bins.of(to_arrow(counted)))


def _plain(scales: Iterable[Scale]) -> list[tuple[float, float]]:
    """For executors, which have no class of this module."""
    return [(scale.low, scale.step) for scale in scales]


def _row(kind: int, t: Column, at: Column, x: Column) -> Column:
    """One number, as `bins.COLUMNS` has them."""
    x, none = x.cast("double"), F.lit(0.0)
    return F.struct(
        F.lit(kind).alias("kind"), t.alias("t"), at.cast("bigint").alias("bin"),
        F.lit(1).cast("bigint").alias("n"), none.alias("first"), none.alias("second"),
        x.alias("low"), x.alias("high"),
    )  # fmt: skip
