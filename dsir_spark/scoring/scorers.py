"""Every scorer: how the buckets of a document become its score columns.

A scorer is a `Scoring`: tables of numbers by bucket, and for each column what is made of their sums
over a document's n-grams. Several are `joined` to be read off in one pass over the text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dsir_spark.features.batches import Output, Scoring
from dsir_spark.scoring.distributions import Float64, Int64
from dsir_spark.scoring.linear import Linear
from dsir_spark.scoring.matched import Matching


def log_weights(log_ratios: Sequence[Float64]) -> Scoring:
    """Log importance weights in nats: a column for each of T log ratios, float64[num_buckets]."""
    tables = np.ascontiguousarray(np.stack(log_ratios, axis=1))
    return Scoring(tables, tuple(Output("sum", t) for t in range(tables.shape[1])))


def matched_keys(matching: Matching, target: Int64, raw: Int64) -> Scoring:
    """The match key (sum of t + 1 over the steps that took the document), and the match score, the
    mean under the last gradient.

    target, raw : int64[num_buckets], n-grams by bucket
    """
    steps = Output("steps", 0, tuple(matching.thresholds.tolist()))
    return Scoring(matching.tables(target, raw), (steps, Output("mean", len(matching.steps))))


def linear(scores: Sequence[Linear]) -> Scoring:
    """What was learnt of n-grams: a column for each."""
    tables = np.ascontiguousarray(np.stack([score.table for score in scores], axis=1))
    own = [Output(score.kind, t, intercept=score.intercept) for t, score in enumerate(scores)]
    return Scoring(tables, tuple(own))


def joined(scorings: Sequence[Scoring]) -> Scoring:
    """The columns of all, one scorer's after the other's."""
    outputs: list[Output] = []
    first = 0
    for scoring in scorings:
        outputs += [dataclasses.replace(o, first=o.first + first) for o in scoring.outputs]
        first += scoring.tables.shape[1]
    tables = np.concatenate([scoring.tables for scoring in scorings], axis=1)
    return Scoring(np.ascontiguousarray(tables), tuple(outputs))
