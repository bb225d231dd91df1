"""What the version of one file a stage selected, recorded: a redesign changes no bit of it.

All sets go through the functions that the job's stages call, one through the job and its tables.

`golden/selections.json` holds, for each set of options on one small pool, the model's fingerprint,
a digest of the bits of all weights, the selected ids, the cuts and the funnel.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from dsir_spark import DSIR, job
from dsir_spark.job_options import JobOptions
from dsir_spark.local_rows import from_arrow, to_arrow
from dsir_spark.matchings import learn_matchings
from dsir_spark.options import FitOptions, ResampleOptions
from dsir_spark.preflight import weighed
from dsir_spark.resampling import find_selection, selected_rows

GOLDEN = Path(__file__).parent / "golden" / "selections.json"
TOPICS = {
    "cooking": "boil the water add salt and stir the soup until it is thick then serve hot",
    "sailing": "hoist the sail and steer the boat against the wind until the harbour is near",
    "law": "the court finds that the claim of § 12 ( a ) is void , and orders 100 % of it",
    "odd": "ΑΣ naïve café 中文 試 한국어 ไทย İstanbul 😀 -- a_b 1984 don't",
}
COMMON = {
    "method": "sample", "ngrams": 2, "num_buckets": 211, "min_example_length": 5, "seed": 7,
    "duplicates": "drop",
}  # fmt: skip
ONE, TWO = {"target": "cooking"}, {"target": {"a": "cooking", "b": "sailing"}}
THREE = {"target": {"a": "cooking", "b": "sailing", "c": "law"}}
# Each with the inputs' folder in front of the targets' names.
SETS = {
    "sample": {**ONE, "num_to_sample": 40},
    "top_k_sha256": {**ONE, "num_to_sample": 40, "method": "top_k", "hash": "sha256", "ngrams": 3},
    "match": {**ONE, "num_to_sample": 40, "method": "match", "match_steps": 8},
    "tokens_temperature": {**ONE, "num_tokens_to_sample": 900, "temperature": "auto"},
    "sizes_quotas": {
        **ONE, "num_tokens_to_sample": 5000, "size_column": "size", "quota_column": "source",
        "quotas": {"law": {"min": 0.1, "max": 0.3}, "odd": 0.05}, "quota_shortfall": "report",
    },
    "quotas_of_two": {
        **TWO, "num_to_sample": 60, "quota_column": "source", "quotas": "raw",
        "allocation": "sequential",
    },
    "groups_means": {
        **ONE, "num_to_sample": 40, "group_column": "source", "max_per_group": 15,
        "normalize": "ngram", "temperature": 0.05,
    },
    "joint": {**THREE, "num_to_sample": 90, "proportions": {"a": 3, "b": 1, "c": 1}},
    "sequential_tokens": {
        **THREE, "num_tokens_to_sample": 2000, "allocation": "sequential", "duplicates": "keep",
    },
    "joint_tokens": {**THREE, "num_tokens_to_sample": 4000, "temperature": 3.5},
    "chunks_quality": {
        **ONE, "num_to_sample": 30, "chunk_words": 12,
        "quality": {"min_tokens": 4, "max_informative": 1.1, "max_repeated": 0.9},
    },
    "content_ids_cjk": {
        **ONE, "num_to_sample": 40, "id_column": None, "tokenizer": "wordpunct_cjk",
        "target_dirichlet_smoothing": "auto",
    },
    "joint_match": {**THREE, "num_to_sample": 90, "method": "match", "match_steps": 5},
}  # fmt: skip


def pool() -> list[tuple[str | None, str | None, str, int]]:
    """400 documents of four topics, some mixed; copies, nulls, blanks and short ones among them."""
    rng = random.Random(15)  # only random(), whose numbers no version of Python changes

    def words(topic: str, length: int) -> str:
        own = TOPICS[topic].split()
        return " ".join(own[int(rng.random() * len(own))] for _ in range(length))

    rows: list[tuple[str | None, str | None, str, int]] = []
    names = list(TOPICS)
    for i in range(400):
        topic = names[int(rng.random() ** 1.5 * 4)]
        text = words(topic, 4 + int(rng.random() * 40))
        if rng.random() < 0.3:
            text += ". " + words(names[int(rng.random() * 4)], 12)
        rows.append((f"d{i:03}", text, topic, int(rng.random() * 400)))
    for i in range(25):
        of = rows[int(rng.random() * 400)]
        rows.append((f"copy{i}", f"  {of[1].upper()} ", of[2], of[3]))  # type: ignore[union-attr]
    rows += [("null", None, "bad", 1), ("blank", " \n\u2003", "bad", 1), (None, "salt", "bad", 1)]
    return rows


def write_inputs(spark, folder: Path) -> None:
    schema = "id string, text string, source string, size bigint"
    frame = spark.createDataFrame(pool(), schema).coalesce(3)
    frame.write.mode("overwrite").parquet(str(folder / "raw"))
    rng = random.Random(16)
    for topic, words in TOPICS.items():
        own = words.split()
        lines = [[own[int(rng.random() * len(own))] for _ in range(25)] for _ in range(9)]
        texts = [(" ".join(line),) for line in lines]
        frame = spark.createDataFrame(texts, "text string").coalesce(1)
        frame.write.mode("overwrite").parquet(str(folder / topic))


def options_of(folder: Path, name: str) -> dict[str, object]:
    chosen = {**COMMON, **SETS[name]}
    target = chosen["target"]
    at = {k: str(folder / v) for k, v in target.items()} if isinstance(target, dict) else None
    return {**chosen, "raw": str(folder / "raw"), "target": at or str(folder / str(target)),
            "output": str(folder / "out" / name), "report": False}  # fmt: skip


def by_functions(spark, options: JobOptions) -> dict[str, object]:
    """What is recorded, without a table: weights are held, not read."""
    fit, chosen = options.part(FitOptions), options.part(ResampleOptions)
    raw, *targets = (spark.read.parquet(place) for place in (options.raw, *options.target.values()))
    named = dict(zip(options.target, targets, strict=True))
    model = DSIR(**fit.model_dump()).fit(raw, targets[0] if options.single_target else named)
    if chosen.method == "match":
        model = learn_matchings(model, raw, chosen)
    weights = weighed(model, raw, options)
    weights = from_arrow(spark, to_arrow(weights), weights.schema)
    selection = find_selection(model, weights, chosen)
    selected = selected_rows(model, raw, selection, weights, sent=True, unique_ids=True)
    return recorded(model.fingerprint, selection.to_json(), selection.funnel, weights, selected)


def by_older_rules(spark, options: JobOptions) -> dict[str, object]:
    """The same where Spark is not strict: all of 3.5, and clusters that are set so."""
    spark.conf.set("spark.sql.ansi.enabled", "false")
    try:
        return by_functions(spark, options)
    finally:
        spark.conf.unset("spark.sql.ansi.enabled")


def by_the_job(spark, options: JobOptions) -> dict[str, object]:
    """The same of a run, from its tables."""
    row = job.run_all(spark, options)
    tables = (spark.read.format("delta").load(f"{options.output}/{name}")
              for name in ("weights", "selected"))  # fmt: skip
    return recorded(row["model_fingerprint"], row["selection"], row["funnel"], *tables)


def recorded(fingerprint, cuts: str, funnel, weights, selected) -> dict[str, object]:
    weights = weights.drop("text_hash")
    ids = weights.columns[0]
    lines = sorted(
        "|".join(v.hex() if isinstance(v, float) else str(v) for v in row)
        for row in weights.select(ids, *[c for c in weights.columns if c != ids]).collect()
    )
    target = F.col("target") if "target" in selected.columns else F.lit("")
    chosen = selected.select(F.col(ids).alias("id"), target.alias("target")).collect()
    selection = json.loads(cuts)
    return {
        "fingerprint": fingerprint,
        "weights": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        "selected": sorted(f"{r['target']}:{r['id']}".lstrip(":") for r in chosen),
        "cuts": selection["cuts"],
        "temperatures": selection["temperatures"],
        "size": selection["size"],
        "funnel": {k: n for k, n in sorted(funnel.items()) if n},
    }


@pytest.fixture(scope="module")
def inputs(spark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    write_inputs(spark, folder)
    return folder


@pytest.mark.spark
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "made"),
    [*((name, by_functions) for name in SETS), ("joint_match", by_the_job),
     *((name, by_older_rules) for name in ("chunks_quality", "sizes_quotas", "content_ids_cjk"))],
)  # fmt: skip
def test_the_same_bits_as_before(spark, inputs, name, made):
    options = JobOptions.from_mapping(options_of(inputs, name))
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    assert made(spark, options) == expected
