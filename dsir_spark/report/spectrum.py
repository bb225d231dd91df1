"""The numbers of all candidates in one query: counts in bins, which the driver adds up.

Bins are equal steps on the scale of the sample, as many to either side as there are documents, so
nothing has to be known before. From them come histograms, effective sample sizes, medians of
length, and the keys at which so many documents are above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import NUM_TOKENS, TARGET, quoted
from dsir_spark.report.sample import Sample, matched, ranks
from dsir_spark.scoring.documents import num_ngrams
from dsir_spark.scoring.model import Model
from dsir_spark.selection import Selection

Float64 = npt.NDArray[np.float64]

RANK, KEY, SCORE, LENGTH, RANK_SELECTED, LENGTH_SELECTED = range(6)
_RANK_STEPS, _KEY_STEPS, _SHOWN = 240, 2_048, 60
_WIDEST = 512.0  # nats: exp(2 * half of it) is a double
_EXACT_LENGTHS = 1_024  # tokens; above, 256 bins to each doubling


@dataclass(frozen=True)
class Scale:
    """Bin of a number x: floor((x - low) / step)."""

    low: float
    step: float

    @classmethod
    def of(cls, numbers: Float64, steps: int, widest: float = float("inf")) -> Scale:
        """The range of some numbers in so many steps, none wider than `widest`."""
        if not len(numbers):
            return cls(0.0, 1.0)
        low, high = float(numbers.min()), float(numbers.max())
        return cls(low, min((high - low) / steps, widest) or 1.0)

    def bin(self, x: Column) -> Column:
        """Of a column of double."""
        return F.floor((x - F.lit(self.low)) / F.lit(self.step))

    def middle(self, x: Column) -> Column:
        """Of the bin of a column."""
        return F.lit(self.low) + (self.bin(x) + F.lit(0.5)) * F.lit(self.step)


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins that are not empty, rising.

    at, n : int64[B] bin and documents
    first, second : float64[B] sums of exp(x - middle) and of its square, of ranks; of scores, the
        first is the sum of n-grams
    low, high : float64[B] the smallest and the largest number
    """

    at: npt.NDArray[np.int64]
    n: npt.NDArray[np.int64]
    first: Float64
    second: Float64
    low: Float64
    high: Float64

    def median(self) -> float:
        """The lower median; 0 of none."""
        if not self.n.sum():
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


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The bins of one pool: of each kind, by target."""

    found: dict[tuple[int, int], Bins]
    scales: tuple[Scale, ...]

    def bins(self, kind: int, t: int = 0) -> Bins:
        """Of one kind and target."""
        nothing = np.zeros(0)
        return self.found.get((kind, t)) or Bins(
            nothing.astype(np.int64), nothing.astype(np.int64), *[nothing] * 4
        )

    def effective_sample_size(self, t: int) -> float:
        """(sum w)^2 / sum w^2 over the candidates, documents (Kish); w = exp(rank)."""
        bins, scale = self.bins(RANK, t), self.scales[t]
        if not len(bins.at):
            return 0.0
        scaled = np.exp((bins.at - bins.at.max()) * scale.step)  # the largest bin becomes 1
        return float((bins.first @ scaled) ** 2 / (bins.second @ (scaled * scaled)))

    def histogram(self, t: int) -> tuple[list[float], list[int], list[int]]:
        """Edges (nats), candidates and selected, in some 60 equal bins."""
        own, chosen = self.bins(RANK, t), self.bins(RANK_SELECTED, t)
        if not len(own.at):
            return [0.0, 1.0], [0], [0]
        scale, low = self.scales[t], int(own.at.min())
        together = -(-(int(own.at.max()) + 1 - low) // _SHOWN)
        number = -(-(int(own.at.max()) + 1 - low) // together)
        edges = [scale.low + scale.step * (low + together * i) for i in range(number + 1)]
        counts = [
            np.bincount((b.at - low) // together, b.n, number).astype(np.int64).tolist()
            for b in (own, chosen)
        ]
        return edges, counts[0], counts[1]


def measure(
    model: Model,
    selection: Selection,
    weights: DataFrame,
    selected: DataFrame,
    sample: Sample,
    keys: bool,
) -> Spectrum:
    """All bins, in one query; of a matched selection those of the scores too, for the bound.

    Parameters
    ----------
    keys : count the keys too?
    """
    targets = range(len(selection.targets))
    scales = tuple(Scale.of(sample.ranks[:, t], _RANK_STEPS, _WIDEST) for t in targets)
    steps = max(256, _KEY_STEPS // len(targets))
    own, rows = ranks(selection), []
    for t in targets:
        apart = own[t] - scales[t].middle(own[t])
        rows.append(
            _row(RANK, F.lit(t), scales[t].bin(own[t]), own[t], F.exp(apart), F.exp(apart + apart))
        )
    if keys:
        for t, key in enumerate(selection.keys()):
            rows.append(_row(KEY, F.lit(t), Scale.of(sample.keys[:, t], steps).bin(key), key))
    if matched(selection):
        size = num_ngrams(F.col(NUM_TOKENS), model.config.ngrams).cast("double")
        for t, name in enumerate(model.match_columns[1::2]):
            # Documents of score 0 have no logarithm: they are the last.
            at = F.coalesce(F.floor(F.log(quoted(name)) * 4096), F.lit(-(1 << 60)))
            rows.append(_row(SCORE, F.lit(t), at, quoted(name), size))
    tokens = F.col(NUM_TOKENS).cast("double")
    rows.append(_row(LENGTH, F.lit(0), _length_bin(tokens), tokens))
    of = position(selection)
    ours = F.array(*own)[of]
    bins = F.array(*[s.bin(r) for s, r in zip(scales, own, strict=True)])[of]
    rows_selected = [
        _row(RANK_SELECTED, of, bins, ours),
        _row(LENGTH_SELECTED, of, _length_bin(tokens), tokens),
    ]
    entries = _exploded(weights.where(selection.is_candidate()), rows).union(
        _exploded(selected, rows_selected)
    )
    counted = entries.groupBy("kind", "t", "bin").agg(
        F.count("*"), F.sum("first"), F.sum("second"), F.min("x"), F.max("x")
    )
    found: dict[tuple[int, int], list[tuple[float, ...]]] = {}
    for kind, t, *numbers in counted.collect():
        found.setdefault((kind, t), []).append(tuple(numbers))
    return Spectrum({where: _bins(own) for where, own in found.items()}, scales)


def position(selection: Selection) -> Column:
    """Position of the target that a selected row is for (int, from 0)."""
    if len(selection.targets) == 1:
        return F.lit(0)
    named = [F.when(F.col(TARGET) == F.lit(n), F.lit(t)) for t, n in enumerate(selection.targets)]
    return F.coalesce(*named)


def _row(
    kind: int, t: Column, at: Column, x: Column, first: Column | None = None,
    second: Column | None = None,
) -> Column:  # fmt: skip
    nothing = F.lit(0.0)
    return F.struct(
        F.lit(kind).alias("kind"), t.alias("t"), at.cast("bigint").alias("bin"),
        x.cast("double").alias("x"), (nothing if first is None else first).alias("first"),
        (nothing if second is None else second).alias("second"),
    )  # fmt: skip


def _exploded(frame: DataFrame, rows: Sequence[Column]) -> DataFrame:
    return frame.select(F.explode(F.array(*rows)).alias("row")).select("row.*")


def _length_bin(tokens: Column) -> Column:
    many = F.log2(tokens / F.lit(float(_EXACT_LENGTHS))) * F.lit(256.0)
    return F.when(tokens < _EXACT_LENGTHS, tokens).otherwise(F.floor(many) + _EXACT_LENGTHS)


def _bins(rows: list[tuple[float, ...]]) -> Bins:
    ordered = sorted(rows)
    columns = [np.array(c) for c in zip(*ordered, strict=True)]
    return Bins(columns[0].astype(np.int64), columns[1].astype(np.int64), *columns[2:])
