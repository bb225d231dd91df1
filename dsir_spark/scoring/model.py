"""The model: bucket counts of raw and targets, a frozen value, and the scores that follow."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame

from dsir_spark.columns import (
    NUM_TOKENS,
    QUALITY,
    TARGET,
    TEXT_HASH,
    check_text_column,
    column_name,
    match_columns,
    refuse_columns,
)
from dsir_spark.options import FitOptions
from dsir_spark.scoring import distributions, passes, scorers
from dsir_spark.scoring.counts import BucketCounts
from dsir_spark.scoring.documents import id_name, spec_of
from dsir_spark.scoring.matched import Matching

FORMAT_VERSION = 1
RAW = "raw"

Float64 = npt.NDArray[np.float64]


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
    """

    config: FitOptions
    raw: BucketCounts
    targets: Mapping[str, BucketCounts]
    single_target: bool
    fitted_share: float
    unicode_version: str
    matchings: Mapping[str, Matching] = dataclasses.field(default_factory=dict)

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
        """Names of the columns that `transform` adds, without `num_tokens`."""
        return [column_name(name) for name in self.names]

    @property
    def match_columns(self) -> list[str]:
        """Columns of matched weights: key, and score under the last gradient, by turn."""
        return [column for name in self.names for column in match_columns(name)]

    @property
    def log_ratio(self) -> dict[str, Float64]:
        """Log ratio of each bucket in nats, float64[num_buckets], by target."""
        p_raw = distributions.distribution(self.raw.counts)
        laplace, mu = (
            self.config.target_laplace_smoothing, self.config.target_dirichlet_smoothing
        )  # fmt: skip
        found = {}
        for name, t in self.targets.items():
            if mu == 0:
                p = distributions.distribution(t.counts, laplace)
            else:
                ngrams = float(self.config.num_buckets if mu == "auto" else mu)
                p = distributions.dirichlet(t.counts, p_raw, ngrams)
            found[name] = distributions.log_ratio(p, p_raw)
        return found

    def tables(self) -> Float64:
        """Log ratios of all targets, float64[num_buckets, T], interleaved by bucket."""
        return scorers.log_weights(list(self.log_ratio.values())).tables

    @property
    def fingerprint(self) -> str:
        """32 hex digits that depend on every fact of the model and on nothing else."""
        digest = hashlib.sha256(json.dumps(self.facts(), sort_keys=True).encode())
        for part in (self.raw, *self.targets.values()):
            digest.update(np.ascontiguousarray(part.counts, "<i8").tobytes())
        return digest.hexdigest()[:32]

    def facts(self) -> dict[str, Any]:
        """All of the model but counts and matchings, as JSON has it."""
        parts = {RAW: self.raw, **{f"{TARGET} {n}": t for n, t in self.targets.items()}}
        totals = {
            name: [p.num_documents, p.num_null, p.num_blank, p.num_tokens]
            for name, p in parts.items()
        }
        return {
            "format_version": FORMAT_VERSION,
            "config": self.config.model_dump(),
            "single_target": self.single_target,
            "fitted_share": self.fitted_share,
            "unicode_version": self.unicode_version,
            "totals": totals,
        }

    def scored(
        self, df: DataFrame, *, matched: bool = True, text_hash: bool = False,
        quality: bool = False, keep: Sequence[str] | None = None,
    ) -> DataFrame:  # fmt: skip
        """`df` with weights, `match_columns`, `num_tokens` and more, in one pass over the text.

        matched : with `match_columns`, of a model that has learnt them
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
        refuse_columns(df, [*names, NUM_TOKENS, *([TEXT_HASH] if text_hash else []),
                             *(QUALITY if quality else [])])  # fmt: skip
        return passes.with_scores(
            df, config.text_column, scorers.joined(scoring), names, spec_of(config),
            self.unicode_version, text_hash=text_hash, quality=quality, keep=keep,
        )  # fmt: skip
