"""What matched selection has learnt: made, written as a table, and read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dsir_spark import tables
from dsir_spark.local_rows import from_arrow, with_arrays
from dsir_spark.options import ResampleOptions
from dsir_spark.resampling import refuse_mixed, require_budget
from dsir_spark.scoring.matched import Matching, Step
from dsir_spark.scoring.matching import learn
from dsir_spark.scoring.model import Model

M = TypeVar("M", bound=Model)
_TASK_NUMBERS = 4_000_000  # that a task writes, in a second or so
_SCHEMA = (
    "target string, step int, num_ngrams bigint, threshold double, buckets array<int>, "
    "counts array<bigint>, raw_share double"
)


def learn_matchings(model: M, raw: DataFrame, options: ResampleOptions) -> M:
    """The model with the steps of matched selection for these options, learnt from raw.

    Raises
    ------
    ConfigError
        No budget is given.
    DataError
        No document of the sample is a candidate.
    """
    require_budget(options)
    refuse_mixed(model.config, options)
    found = learn(
        raw, model.config, options, model.raw, model.fitted_share, model.targets
    )  # fmt: skip
    return dataclasses.replace(model, matchings=found)


def as_frame(model: Model, spark: SparkSession) -> DataFrame:
    """The steps of matched selection, a row a step.

    Columns: `target`, `step` (from 0), `num_ngrams` (the budget), `threshold` (mean of p_target / q
    over a document's n-grams), `buckets` (array<int>, rising, those of which n-grams were taken),
    `counts` (array<bigint>, how many of each), `raw_share` (of raw in q).
    """
    rows: list[dict[str, Any]] = []
    for name, m in model.matchings.items():
        for t, step in enumerate(m.steps):
            # Most are empty: all numbers of sixty targets took seven seconds to write.
            used = np.flatnonzero(step.counts).astype(np.int32)
            rows.append({
                "target": name, "step": t, "num_ngrams": step.num_ngrams,
                "threshold": step.threshold, "buckets": used, "counts": step.counts[used],
                "raw_share": m.raw_share,
            })  # fmt: skip
    wanted = 1 + sum(len(row["counts"]) for row in rows) // _TASK_NUMBERS
    # Spark makes a task of each batch.
    batches = pa.Table.from_pylist(rows).to_batches(max_chunksize=-(-len(rows) // wanted))
    return from_arrow(spark, pa.Table.from_batches(batches), _SCHEMA).coalesce(wanted)


def load_matchings(model: M, place: str, *, spark: SparkSession, version: int | None = None) -> M:
    """The model with the steps of a table of `as_frame`'s rows; tables of before it have numbers
    of all buckets, and some no `raw_share`, which was 0."""
    frame = tables.read(spark, place, version=version)
    if "raw_share" not in frame.columns:
        frame = frame.withColumn("raw_share", F.lit(0.0))
    steps: dict[str, list[Step]] = {name: [] for name in model.targets}
    parts = dict[str, float]()
    for r in sorted(with_arrays(frame), key=lambda r: r["step"]):
        counts = r["counts"]
        if "buckets" in r:
            counts = np.zeros(model.config.num_buckets, np.int64)
            counts[r["buckets"]] = r["counts"]
        steps[r["target"]].append(Step(r["threshold"], counts, r["num_ngrams"]))
        parts[r["target"]] = r["raw_share"]
    found = {name: Matching(tuple(own), parts[name]) for name, own in steps.items()}
    return dataclasses.replace(model, matchings=found)


def of_record(model: M, place: str, row: Mapping[str, Any], *, spark: SparkSession) -> M:
    """The model with those steps of a table that a run knew; as it is, where it knew none."""
    if row.get("match_version") is None:
        return model
    version = tables.version_to_read(spark, place, row["match_version"])
    return load_matchings(model, place, spark=spark, version=version)
