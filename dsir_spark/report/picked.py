"""Which documents a page shows: examples of each place, and samples of what is above some keys."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from dsir_spark.columns import NUM_TOKENS, column_name, quoted
from dsir_spark.report.sample import Sample
from dsir_spark.report.spectrum import KEY, Spectrum, position
from dsir_spark.selection import Selection
from dsir_spark.selection.rows import to_arrow

PLACES = ("top", "middle", "just above the cut", "below the cut", "rejected, at random")
_BAND, _CHOSEN = "band", "chosen"
_STEPS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)  # sizes of a curve, in those selected
_CURVES = 5  # targets that have one: those for which most is selected
_CURVE_DOCUMENTS = 4_500  # looked at for all curves together
_NEAR = 1_000  # candidates below the cut among which the next ones are looked for
_GRAINS = 1 << 24  # of a hash of ids, by which samples are drawn


@dataclass(frozen=True)
class Band:
    """Candidates with keys from `low` on, below the band before.

    documents : in it
    share : of them that are looked at
    """

    low: float
    documents: int
    share: float


@dataclass(frozen=True)
class Row:
    """A document as weights have it."""

    id: Any
    key: float
    log_weight: float
    num_tokens: int


@dataclass(frozen=True)
class Picked:
    """Documents that are looked at, whose texts are in raw.

    examples : of each target, (place, row)
    bands : of each target that has a curve, best first, each with the ids of its sample
    chosen : ids of the random sample that are selected
    """

    examples: Mapping[int, Sequence[tuple[str, Row]]]
    bands: Mapping[int, Sequence[tuple[Band, Sequence[Any]]]]
    chosen: frozenset[Any]


def pick(
    selection: Selection, weights: DataFrame, spectrum: Spectrum, sample: Sample, examples: int
) -> Picked:
    """What a page shows, found from weights in one query.

    examples : documents of each place, for each target
    """
    bands = _bands(selection, spectrum)
    random = selection.uniform_key() >= F.lit(sample.least)
    union = _examples(selection, weights, random, spectrum, examples)
    if any(bands.values()):
        union = union.union(_banded(selection, weights, bands))
    shown: dict[int, list[tuple[str, Row]]] = {t: [] for t in range(len(selection.targets))}
    in_band: dict[tuple[int, int], list[Any]] = {}
    random_ids = set()
    for row in sorted(to_arrow(union).to_pylist(), key=_falling):
        t, place = row["t"], row["place"]
        if place == _CHOSEN:
            random_ids.add(row["id"])
        elif place == _BAND:
            in_band.setdefault((t, int(row["at"])), []).append(row["id"])
        else:
            fields = {name: row[name] for name in Row.__dataclass_fields__}
            shown[t].append((place, Row(**fields)))
    return Picked(
        shown,
        {t: [(b, in_band.get((t, i), [])) for i, b in enumerate(own)] for t, own in bands.items()},
        frozenset(random_ids),
    )


def _falling(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The order of examples: by place, then by key; ids break ties and fix the order of bands."""
    place = PLACES.index(row["place"]) if row["place"] in PLACES else -1
    return row["t"], place, -row["key"], str(row["id"])


def _bands(selection: Selection, spectrum: Spectrum) -> dict[int, list[Band]]:
    most = sorted(enumerate(selection.num_documents), key=lambda pair: (-pair[1], pair[0]))
    found: dict[int, list[Band]] = {}
    for t, wanted in sorted(most[:_CURVES]):
        if not wanted:
            continue
        bins, own, before = spectrum.bins(KEY, t), [], 0
        each = _CURVE_DOCUMENTS / min(_CURVES, len(most)) / len(_STEPS)
        for size in sorted({max(1, round(wanted * step)) for step in _STEPS}):
            low, documents = bins.above(size)
            if documents > before:
                number = documents - before
                own.append(Band(low, number, min(1.0, each / number)))
                before = documents
        found[t] = own
    return found


def _hashed(selection: Selection, salt: str) -> Column:
    return F.pmod(F.xxhash64(F.lit(salt), quoted(selection.pool.id_column)), F.lit(_GRAINS))


def _row(
    selection: Selection, frame: DataFrame, t: Column, place: Column, at: Column
) -> DataFrame:  # fmt: skip
    """The columns that all parts have."""
    weights = F.array(*[quoted(column_name(name)) for name in selection.targets])
    return frame.select(
        quoted(selection.pool.id_column).alias("id"), t.alias("t"), place.alias("place"),
        at.cast("double").alias("at"), F.array(*selection.keys())[t].alias("key"),
        weights[t].alias("log_weight"), F.col(NUM_TOKENS),
    )  # fmt: skip


def _banded(
    selection: Selection, weights: DataFrame, bands: Mapping[int, Sequence[Band]]
) -> DataFrame:  # fmt: skip
    """The sample of each band, with its number as `at`."""
    hashed, keys, parts = _hashed(selection, "curve"), selection.keys(), []
    for t, own in bands.items():
        at = F.lit(None).cast("int")
        for i, band in reversed(list(enumerate(own))):
            drawn = hashed < F.lit(int(band.share * _GRAINS))
            at = F.when(keys[t] >= F.lit(band.low), F.when(drawn, F.lit(i))).otherwise(at)
        parts.append(F.struct(F.lit(t).alias("of"), at.alias("band")))
    frame = weights.where(selection.is_candidate()).withColumn("in", F.explode(F.array(*parts)))
    frame = frame.where(F.col("in.band").isNotNull())
    return _row(selection, frame, F.col("in.of"), F.lit(_BAND), F.col("in.band"))


def _examples(
    selection: Selection, weights: DataFrame, random: Column, spectrum: Spectrum, number: int
) -> DataFrame:
    """The first `number` documents of each place and target, and all selected ones of the random
    sample; `at` is what they are ordered by."""
    middles, floors = [], []
    lost = selection.funnel["duplicate_text"] + selection.funnel["over_max_per_group"]
    for t, documents in enumerate(selection.num_documents):
        bins = spectrum.bins(KEY, t)
        middles.append(bins.above(max(1, documents // 2))[0])
        floors.append(bins.above(selection.num_selected + lost + _NEAR)[0])
    of, key = position(selection), F.array(*selection.keys())
    top, middle, last, below, by_chance = (F.lit(place) for place in PLACES)
    # Of a small selection the top is all there is to see.
    many = F.array(*[F.lit(documents > 3 * number) for documents in selection.num_documents])[of]
    half = many & (key[of] < _literals(middles)[of])
    inside = F.array(
        F.struct(F.when(random, F.lit(_CHOSEN)).alias("place"), F.lit(0.0).alias("at")),
        F.struct(top.alias("place"), key[of].alias("at")),
        F.struct(F.when(half, middle).alias("place"), key[of].alias("at")),
        F.struct(F.when(many, last).alias("place"), (-key[of]).alias("at")),
    )
    rejected = selection.rejected(weights).withColumn(
        "of", F.explode(F.sequence(F.lit(0), F.lit(len(selection.targets) - 1)))
    )
    own = key[F.col("of")]
    hashed = _hashed(selection, "a random one")
    share = 200 / max(1, selection.funnel["candidates"] - selection.num_selected)
    outside = F.array(
        F.struct(F.when(own >= _literals(floors)[F.col("of")], below).alias("place"),
                 own.alias("at")),
        F.struct(F.when(hashed < F.lit(int(min(1.0, share) * _GRAINS)), by_chance).alias("place"),
                 (-hashed).cast("double").alias("at")),
    )  # fmt: skip
    parts = []
    chosen = selection.filter(weights, weights)
    frames = [(chosen, of, inside), (rejected, F.col("of"), outside)]
    for frame, own_target, places in frames[: 2 if number else 1]:
        exploded = frame.withColumn("in", F.explode(places)).where(F.col("in.place").isNotNull())
        parts.append(_row(selection, exploded, own_target, F.col("in.place"), F.col("in.at")))
    order = Window.partitionBy("t", "place").orderBy(F.desc("at"), F.desc("id"))
    ranked = functools.reduce(DataFrame.union, parts).withColumn("n", F.row_number().over(order))
    place = F.col("place")
    most = F.when(place == by_chance, 1).when(place == F.lit(_CHOSEN), 1 << 30).otherwise(number)
    return ranked.where(F.col("n") <= most).drop("n")


def _literals(numbers: Sequence[float]) -> Column:
    return F.array(*[F.lit(float(x)) for x in numbers])
