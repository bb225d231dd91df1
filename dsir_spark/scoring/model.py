"""The model: bucket counts of raw and targets, a frozen value, and the scores that follow."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import (
    CONTAMINATED_BY,
    NUM_TOKENS,
    TARGET,
    TEXT_HASH,
    check_text_column,
    classifier_columns,
    column_name,
    match_columns,
    quality_columns,
    refuse_columns,
)
from dsir_spark.features import Decontamination
from dsir_spark.options import FitOptions
from dsir_spark.scoring import FORMAT_VERSION, distributions, passes, scorers
from dsir_spark.scoring.counts import BucketCounts
from dsir_spark.scoring.distributions import Float64
from dsir_spark.scoring.documents import id_name, spec_of
from dsir_spark.scoring.linear import Linear
from dsir_spark.scoring.matched import Matching

RAW = "raw"


@dataclass(frozen=True, eq=False)
class Model:
    """Bucket counts of raw and targets, and all that follows from them.

    Attributes
    ----------
    config : the parameters it was fitted with
    raw, targets : `BucketCounts` of raw (of the part fitted on) and of each target by name
    single_target : was `target` one DataFrame (columns without the target's name)?
    fitted_share : share of the ids' hash space that raw's counts come from
    unicode_version : `unicodedata.unidata_version` of the Python that fitted
    matchings : the steps of method match learnt for each target; empty for a model that only fitted
    classifiers : of each target, where the scorer is a classifier
    decontamination : texts that no candidate may share an n-gram with; no part of what is saved
    """

    config: FitOptions
    raw: BucketCounts
    targets: Mapping[str, BucketCounts]
    single_target: bool
    fitted_share: float
    unicode_version: str
    matchings: Mapping[str, Matching] = dataclasses.field(default_factory=dict)
    classifiers: Mapping[str, Linear] = dataclasses.field(default_factory=dict)
    decontamination: Decontamination | None = None

    @property
    def names(self) -> tuple[str | None, ...]:
        """Names of the targets as columns know them; (None,) for a single target."""
        return (None,) if self.single_target else tuple(self.targets)

    @property
    def id_name(self) -> str:
        """Name of the id column of weights and selection."""
        return id_name(self.config)

    @property
    def weight_columns(self) -> list[str]:
        """Names of the log weights."""
        return [column_name(name) for name in self.names]

    @property
    def score_columns(self) -> list[str]:
        """Names of the columns that `transform` adds, without `num_tokens`."""
        names = self.names if self.classifiers else ()
        return [*self.weight_columns, *(c for name in names for c in classifier_columns(name))]

    @property
    def match_columns(self) -> list[str]:
        """Columns of matched weights: key, and score under the last gradient, by turn."""
        return [column for name in self.names for column in match_columns(name)]

    @functools.cached_property
    def log_ratio(self) -> dict[str, Float64]:
        """Log ratio of each bucket in nats, read-only float64[num_buckets], by target."""
        p_raw = distributions.distribution(self.raw.counts)
        how = self.config.target_laplace_smoothing, self.config.target_dirichlet_smoothing
        found = {
            name: distributions.log_ratio(distributions.smoothed(t.counts, p_raw, *how), p_raw)
            for name, t in self.targets.items()
        }
        for ratio in found.values():
            ratio.setflags(write=False)  # all who ask get these
        return found

    def tables(self) -> Float64:
        """Log ratios of all targets, float64[num_buckets, T], interleaved by bucket."""
        return scorers.log_weights(list(self.log_ratio.values())).tables

    @property
    def fingerprint(self) -> str:
        """32 hex digits that depend on every fact of the model and on nothing else."""
        digest = hashlib.sha256(json.dumps(self.facts(), sort_keys=True, allow_nan=False).encode())
        for part in (self.raw, *self.targets.values()):
            digest.update(np.ascontiguousarray(part.counts, "<i8").tobytes())
        for classifier in self.classifiers.values():
            digest.update(np.ascontiguousarray(classifier.table, "<f8").tobytes())
        return digest.hexdigest()[:32]

    @property
    def classifier_facts(self) -> str | None:
        """What is known of each classifier, by target, as JSON; None where there is none."""
        if not self.classifiers:
            return None
        found = {name: dict(c.facts) for name, c in self.classifiers.items()}
        return json.dumps(found, sort_keys=True, allow_nan=False)

    def facts(self) -> dict[str, Any]:
        """All of the model but counts, tables and matchings, as JSON has it."""
        parts = {RAW: self.raw, **{f"{TARGET} {n}": t for n, t in self.targets.items()}}
        totals = {
            name: [p.num_documents, p.num_null, p.num_blank, p.num_tokens]
            for name, p in parts.items()
        }
        config, learnt = self.config.model_dump(), self.classifiers
        if not learnt:  # as before there were other scorers
            del config["scorer"]
        own = {name: {**c.facts, "intercept": c.intercept} for name, c in learnt.items()}
        return {
            **({"classifiers": own} if learnt else {}),
            "format_version": FORMAT_VERSION if learnt else 1,
            "config": config,
            "single_target": self.single_target,
            "fitted_share": self.fitted_share,
            "unicode_version": self.unicode_version,
            "totals": totals,
        }

    def scored(
        self, df: DataFrame, *, matched: bool = True, text_hash: bool = False,
        quality: bool = False, contaminated: bool = False, keep: Sequence[str] | None = None,
    ) -> DataFrame:  # fmt: skip
        """`df` with weights, `match_columns`, `num_tokens` and more, in one pass over the text.

        matched : with `match_columns`, of a model that has learnt them
        contaminated : with CONTAMINATED_BY, of a model that has a `decontamination`
        keep : as in `passes.with_scores`
        """
        config = self.config
        check_text_column(df, config.text_column, "the DataFrame")
        names, scoring = self.weight_columns, [scorers.log_weights(list(self.log_ratio.values()))]
        if matched and self.matchings:
            names += self.match_columns
            scoring += [
                scorers.matched_keys(self.matchings[name], t.counts, self.raw.counts)
                for name, t in self.targets.items()
            ]
        odds = [classifier_columns(name) for name in self.names] if self.classifiers else []
        if odds:
            names += [log_odds for log_odds, _ in odds]
            scoring.append(scorers.linear(list(self.classifiers.values())))
        texts = self.decontamination if contaminated else None
        added = [*names, *(p for _, p in odds), NUM_TOKENS]
        added += [TEXT_HASH] if text_hash else []
        added += quality_columns(config.tokenizer) if quality else ()
        refuse_columns(df, added if texts is None else [*added, CONTAMINATED_BY])
        found = passes.with_scores(
            df, config.text_column, scorers.joined(scoring), names, spec_of(config),
            self.unicode_version, text_hash=text_hash, quality=quality, decontamination=texts,
            keep=keep,
        )  # fmt: skip
        for log_odds, probability in odds:
            # By the JVM's exp, which is the same on all machines; NumPy's is not.
            found = found.withColumn(probability, F.lit(1.0) / (1.0 + F.exp(-F.col(log_odds))))
        return found
