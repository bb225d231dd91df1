"""Learning a classifier of each target against raw, from a sample of both, on Spark."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import hashable, quoted
from dsir_spark.errors import DataError
from dsir_spark.local_rows import with_arrays
from dsir_spark.options import FitOptions
from dsir_spark.scoring import linear, passes
from dsir_spark.scoring.counts import BucketCounts
from dsir_spark.scoring.documents import content_id, documents, spec_of, united

_MOST = 50_000  # documents of a target
_MOST_NGRAMS = 20_000_000  # of a target and of raw: 240 MB each in the driver's memory
_RAW = ""  # no target has this name


def learn(
    raw: DataFrame, targets: Mapping[str, DataFrame], config: FitOptions,
    of_raw: BucketCounts, fitted_share: float, of_targets: Mapping[str, BucketCounts],
) -> dict[str, linear.Linear]:  # fmt: skip
    """A classifier of each target against as many documents of raw, drawn by the hash of ids.

    of_raw, of_targets : as counted, raw of the part `fitted_share`

    Raises
    ------
    DataError
        A target or raw has fewer than 50 different texts with a token, or none in a part of them.
    """
    shares = {name: _share(t, _MOST) for name, t in of_targets.items()}
    wanted = max(shares[name] * t.num_documents for name, t in of_targets.items())
    # More than are wanted, so that there are enough by all chance; the first ones are taken.
    share = _share(of_raw, wanted + 5 * math.sqrt(wanted) + 10, fitted_share)
    parts = [(_RAW, documents(drawn(raw, config, share, "classifier"), config))]
    by_text = config.model_copy(update={"id_column": None})
    parts += [
        (name, drawn(frame, by_text, shares[name], "classifier")) for name, frame in targets.items()
    ]
    found = collect(parts, config)
    learnt = {}
    for name in targets:
        target = found[name][0]
        own = found[_RAW][0].first(len(target))
        if not (target.enough and own.enough):
            raise DataError(
                f"scorer classifier needs {linear.LEAST} different texts with a token of raw and "
                "of each target, some of them to choose by and some to hold out, by their hash; "
                f"raw has {own.num_texts:,} and {name} {target.num_texts:,}: give more, or scorer "
                "dsir"
            )
        learnt[name] = linear.classify(target, own)
    return learnt


def _share(counts: BucketCounts, documents: float, fitted_share: float = 1.0) -> float:
    """The share of all documents that has so many of them, or _MOST_NGRAMS if those are fewer."""
    most = min(documents / max(1, counts.num_documents), _MOST_NGRAMS / max(1, counts.num_ngrams))
    return min(1.0, most * fitted_share)


def drawn(frame: DataFrame, config: FitOptions, share: float, salt: str) -> DataFrame:
    """About this share of the rows: those with the least hashes of their ids, or of their texts."""
    if share >= 1.0:
        return frame
    text = quoted(config.text_column)
    ids = content_id(text) if config.id_column is None else hashable(frame, config.id_column)
    most = int(share * 2.0**64) - (1 << 63)
    return frame.where(F.xxhash64(F.lit(salt), ids) <= F.lit(most))


def collect(
    parts: list[tuple[str, DataFrame]], config: FitOptions, *more: str
) -> dict[str, tuple[linear.Examples, list[dict[str, Any]]]]:
    """The documents of each part as examples, in one query; and of each example the values of some
    columns more."""
    text = quoted(config.text_column).cast("string")
    named = [
        frame.select(F.lit(name).alias("name"), content_id(text).alias("hash"), text.alias("text"),
                     *[quoted(c).alias(f"c{i}") for i, c in enumerate(more)])
        for name, frame in parts
    ]  # fmt: skip
    every = united(named)
    vectors = passes.with_ngram_counts(every, "text", spec_of(config))
    rows = with_arrays(vectors.drop("text").where(F.size("indices") > 0))
    found = {}
    for name, _ in parts:
        # Copies of a text, which have one hash, in an order of their own: that of their values.
        own = sorted((row for row in rows if row["name"] == name),
                     key=lambda row: [repr(row[f"c{i}"]) for i in range(len(more))])
        hashes, indices, counts = ([row[c] for row in own] for c in ("hash", "indices", "counts"))
        of, order = linear.examples(hashes, indices, counts, config.num_buckets)
        values = [{c: own[at][f"c{i}"] for i, c in enumerate(more)} for at in order]
        found[name] = of, values
    return found
