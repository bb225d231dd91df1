"""Learning the steps of a matched selection on Spark: from how large a sample, for which
budgets."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import check_size_column, quoted, summable
from dsir_spark.errors import DataError
from dsir_spark.features import buckets
from dsir_spark.options import FitOptions, ResampleOptions
from dsir_spark.scoring import matched
from dsir_spark.scoring.counts import BucketCounts
from dsir_spark.scoring.distributions import Float64
from dsir_spark.scoring.documents import SLICES, documents, sampled, spec_of
from dsir_spark.scoring.samples import HELD, ReadSample, hashed

# Sizes of the sample, in n-grams: of what a step takes of it, for each bucket, and of all of it.
_STEP_NGRAMS, _LEAST, _MOST = 100, 20_000_000, 1_000_000_000
# A sample that cannot be held is read twice a step. Before that a step takes as few as these for
# each bucket: docs/evidence.md judges steps of some 24 (3 lose nearly half of what more
# buckets bring).
_FEW_NGRAMS = 30


def learn(
    raw: DataFrame,
    config: FitOptions,
    options: ResampleOptions,
    of_raw: BucketCounts,
    fitted_share: float,
    targets: Mapping[str, BucketCounts],
) -> dict[str, matched.Matching]:
    """The steps for each target, learnt from a sample of `raw` by the hash of ids.

    Parameters
    ----------
    options : its budget, of documents or sizes; a step takes the same share of the sample
    of_raw, targets : as fitted, of the part `fitted_share` of raw

    Raises
    ------
    DataError
        No document of the sample is a candidate.
    """
    parts = shares(targets, options.proportions)
    in_raw = of_raw.num_ngrams / fitted_share
    wanted = _wanted(raw, options, of_raw, fitted_share)
    slices = _slices(options, config, in_raw, wanted, min(p for p in parts if p > 0))
    sample = sampled(raw, config, "match", slices)
    if config.chunk_words is not None:
        sample = documents(sample, config)
    texts = sample.select(quoted(config.text_column).cast("string").alias("text"))
    spec, least = spec_of(config), options.min_example_length
    size = in_raw * slices / SLICES * buckets.bucket_type(spec.num_buckets).itemsize
    kind = hashed if size <= HELD else ReadSample

    def budgets(histogram: matched.Histogram, lengths: Float64 | None) -> list[int]:
        candidates = sum(h[0] for h in histogram.values())
        ngrams = sum(h[1] for h in histogram.values())
        if not candidates:
            raise DataError(f"no document has {least} tokens, the min_example_length")
        if options.num_to_sample is None:
            # Of the candidates', which are fewer than all of raw's.
            whole = min(1.0, wanted * in_raw * slices / SLICES / ngrams) * ngrams
            return [max(1, round(whole * part)) for part in parts]
        chosen = min(candidates, options.num_to_sample * slices / SLICES)
        means = [ngrams / candidates] * len(parts) if lengths is None else lengths.tolist()
        return [
            max(1, round(min(ngrams, chosen * part * mean)))
            for part, mean in zip(parts, means, strict=True)
        ]

    return matched.learn(
        {name: t.counts for name, t in targets.items()}, of_raw.counts, options.match_steps,
        kind(texts, spec, least), budgets,
    )  # fmt: skip


def shares(
    targets: Mapping[str, BucketCounts], proportions: Mapping[str, float] | None
) -> list[float]:
    """Share of each target in what is selected, by default of their n-grams; they sum to 1."""
    given = proportions or {name: float(t.num_ngrams) for name, t in targets.items()}
    total = sum(given.values())
    return [given[name] / total for name in targets]


def _wanted(
    raw: DataFrame, options: ResampleOptions, of_raw: BucketCounts, fitted_share: float
) -> float:
    """Share of raw that will be selected: of its documents, tokens or sizes."""
    if options.num_to_sample is not None:
        return options.num_to_sample * fitted_share / max(1, of_raw.num_documents)
    if options.size_column is None:
        return options.budget * fitted_share / max(1, of_raw.num_tokens)
    check_size_column(raw, options.size_column, "raw")
    size = summable(quoted(options.size_column)).cast("decimal(38,0)")
    [(total,)] = raw.agg(F.sum(size)).collect()
    return float(options.budget / max(1, total or 0))


def _slices(
    options: ResampleOptions, config: FitOptions, in_raw: float, wanted: float, part: float
) -> int:
    """Size of the sample in slices of SLICES; `part` is the smallest target's share."""
    tokens = options.match_tokens
    if tokens == "all":
        return SLICES
    if tokens == "auto":
        step = max(1.0, min(1.0, wanted) * part * in_raw)
        wanted_ngrams, few = (
            in_raw * each * config.num_buckets / step for each in (_STEP_NGRAMS, _FEW_NGRAMS)
        )
        held = 0.95 * HELD / buckets.bucket_type(config.num_buckets).itemsize
        least = min(wanted_ngrams, max(few, held))
        tokens = int(min(max(least, _LEAST), _MOST))
    return max(1, round(min(1.0, tokens / in_raw) * SLICES))
