"""DSIR as published beside a selection, for the demo: nearer to the targets, or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dsir_spark.columns import TARGET, quoted
from dsir_spark.dsir import DSIR
from dsir_spark.inputs import recorded_raw, recorded_targets
from dsir_spark.job_options import JobOptions
from dsir_spark.report.text import signed, table
from dsir_spark.reporting import read_model
from dsir_spark.scoring.counts import count_named
from dsir_spark.scoring.distributions import kl_reduction
from dsir_spark.scoring.documents import spec_of, without_held_out


def beside(spark: SparkSession, options: JobOptions, run: Mapping[str, Any]) -> list[str]:
    """A table of KL reductions: random, DSIR as published, and what a `run` of several targets
    selected; all under the run's model, of as many documents.

    run : its row, with its facts
    """
    facts, shares = run["facts"], json.loads(run["held_out"])
    model = read_model(spark, str(options.output), run, functions=False, learnt=False)
    raw, targets = recorded_raw(spark, run), recorded_targets(spark, run["target"])
    text, seed = model.config.text_column, options.seed
    chosen = DSIR(
        ngrams=2, num_buckets=10_000, text_column=text, id_column=model.config.id_column
    ).fit(raw, without_held_out(targets, text, shares))
    rows = chosen.resample(
        raw, method="sample", num_to_sample=facts.selection.selected, seed=seed,
        min_example_length=facts.run.min_example_length,
        proportions={t.name: t.documents for t in facts.selection.targets},
    )  # fmt: skip
    named = rows.select(F.col(TARGET).alias("name"), quoted(text).cast("string").alias("text"))
    counted = count_named(named, [*targets], spec_of(model.config))
    lines = [("KL reduction (nats an n-gram)", "random", "as published", "selected")]
    for t in facts.selection.targets:
        of = model.targets[t.name].counts, model.raw.counts
        numbers = (t.kl_reduction_random, kl_reduction(*of, counted[t.name].counts), t.kl_reduction)
        lines.append((t.name, *map(signed, numbers)))
    return table(lines)
