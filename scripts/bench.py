"""Rates and their ratios, measured side by side in one run; every figure quoted elsewhere is here.

    python scripts/bench.py [--data FOLDER] [--rounds 5] [--reference-mb 4] [--rows 10000000]
                            [--spark-mb 1000]
                            [--parts reference kernels tokenizers passes cuts scores]
                            [--check]
    python scripts/bench.py --parts jobs --data RAW --target FILE ...        (see jobs.py)

FOLDER holds Parquet files with a column `text`; without it, the demo's text is used. Rates are
medians over the rounds, in MB of UTF-8 text a second; spread is (largest - smallest) / median.
Hand-over: the text goes to Python by Arrow, nothing is done with it, and two zeros a document come
back; in rows (`mapInArrow`), as `fit` and `weigh` do, or to a function of a column, as `transform`.
Kernels and the reference run on one core, Spark on all, over as many copies of the text as make
`--spark-mb`. `--check` fails on a ratio under a third of what the project claims.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import math
import os
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from growth import salted
from jobs import KINDS, jobs
from pyspark.sql import functions as F

import dsir_spark
from dsir_spark import DSIR, features, selection
from dsir_spark.demo_data import build_demo_data
from dsir_spark.features import FeatureSpec, tokenizers
from dsir_spark.options import SelectOptions
from dsir_spark.scoring.documents import spec_of
from dsir_spark.scoring.linear import Linear
from dsir_spark.scoring.passes import _text_udf
from dsir_spark.selection import keys
from dsir_spark.session import build_session

SCAN = "Spark: scan in the JVM"
ROWS = "Spark: scan and Arrow hand-over, rows"
COLUMN = "Spark: scan and Arrow hand-over, column"
# The hand-over in rows with what the kernels do, of which nothing is given back.
SCORED, COUNTED = f"{ROWS}, and weighed", f"{ROWS}, and counted"
WEIGH, FIT = "Spark: weigh", "Spark: fit"

# Ratios claimed in README and docs/performance.md; `--check` fails under a third of each.
CLAIMS = {
    ("kernel: weigh, xxhash64", "reference: weigh"): 150,
    ("kernel: weigh, sha256", "reference: weigh"): 10,
    ("Spark: transform", "reference: weigh"): 60,
    (WEIGH, "reference: weigh"): 60,
    (FIT, "reference: weigh"): 60,
    ("Spark: transform", COLUMN): 0.5,
    (WEIGH, ROWS): 0.5,
    (FIT, ROWS): 0.5,
}

PARTS = ("reference", "kernels", "tokenizers", "passes", "cuts", "scores")
JOBS = "jobs"  # whole commands: for itself, since nothing else may run

ALPHABETS = {
    "German": ("abcdefghijklmnopqrstuvwxyz\u00e4\u00f6\u00fc\u00df", 7),
    "Greek": ("".join(map(chr, range(0x3B1, 0x3CA))), 7),
    "Chinese": ("".join(map(chr, range(0x4E00, 0x5600))), 12),
    "Korean": ("".join(map(chr, range(0xAC00, 0xB800))), 3),
}


class Table:
    """Rows of the table, in the order measured."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.rates: dict[str, list[float]] = {}  # of each round
        self.pairs: list[tuple[str, str]] = []
        self.starting = 0.0  # seconds that Python workers take

    def measure(
        self, label: str, amount: float, unit: str, run: Callable[[], object], warm_up: bool = True
    ) -> None:
        """Time `run`, after one warm-up; `amount` in units of `unit`."""
        self.measure_together(amount, unit, {label: run}, warm_up)

    def measure_together(
        self, amount: float, unit: str, runs: dict[str, Callable[[], object]], warm_up: bool = True
    ) -> None:
        """Time several by turns, round after round, so that a slow minute slows all of them."""
        if warm_up:
            for run in runs.values():
                run()
        for _ in range(self.rounds):
            for label, run in runs.items():
                begin = time.perf_counter()
                run()
                rate = amount / (time.perf_counter() - begin)
                self.rates.setdefault(label, []).append(rate)
        for label in runs:
            rates = self.rates[label]
            spread = (max(rates) - min(rates)) / statistics.median(rates)
            print(f"| {label} | {statistics.median(rates):,.1f} {unit}/s | {spread:.0%} |",
                  flush=True)  # fmt: skip

    def ratio(self, over: str, under: str) -> tuple[float, float, float]:
        """Median, smallest and largest ratio of the rounds, which are in step or are all pairs."""
        a, b = self.rates[over], self.rates[under]
        pairs = zip(a, b, strict=True) if len(a) == len(b) else itertools.product(a, b)
        found = [x / y for x, y in pairs]
        return statistics.median(found), min(found), max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reference-mb", type=float, default=4)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--spark-mb", type=float, default=1000)
    parser.add_argument("--parts", nargs="*", choices=(*PARTS, JOBS), default=PARTS)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--target", type=Path)
    for flag, given in (("--copies", 1), ("--many", 0), ("--num-to-sample", 2_000),
                        ("--documents", 0)):  # fmt: skip
        parser.add_argument(flag, type=int, default=given)
    parser.add_argument("--kinds", nargs="*", choices=tuple(KINDS), default=tuple(KINDS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if JOBS in options.parts:
            if options.parts != [JOBS] or not options.data or not options.target:
                parser.error("jobs is a part for itself, and needs --data and --target")
            jobs(options, Path(scratch))
            return
        folder = options.data or build_demo_data(Path(scratch) / "data", max_mb=20).raw
        bench(options, folder)


def bench(options: argparse.Namespace, folder: Path) -> None:
    texts = pq.read_table(folder, columns=["text"])["text"].combine_chunks()
    megabytes = sum(chunk.nbytes for chunk in [texts]) / 1e6
    spark = build_session()
    spark.sparkContext.setLogLevel("ERROR")
    print(f"{len(texts):,} documents, {megabytes:.1f} MB; {os.cpu_count()} cores; "
          f"Python {platform.python_version()}, Spark {spark.version}\n")  # fmt: skip
    print("| what | rate | spread |\n|---|---:|---:|")
    table = Table(options.rounds)
    if "reference" in options.parts:
        reference(table, texts, options.reference_mb)
    if "kernels" in options.parts:
        kernels(table, texts, megabytes)
    if "tokenizers" in options.parts:
        all_tokenizers(table, texts)
    if "passes" in options.parts:
        passes(table, spark, folder, megabytes, options)
    if "cuts" in options.parts:
        cuts(table, spark, options.rows)
    if "scores" in options.parts:
        by_score(table, spark, options.rows)
    whereabouts(table)
    ratios(table, options.check)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    java = Path(f"/proc/{spark.sparkContext._gateway.proc.pid}/status")
    held = [line.split()[1] for line in java.read_text().splitlines() if "VmHWM" in line]
    print(f"\nPeak memory of this process: {peak:,.0f} MB; of its JVM, which may take "
          f"{spark.conf.get('spark.driver.memory')}: {int(held[0]) / 1e3:,.0f} MB.")  # fmt: skip
    spark.stop()


def reference(table: Table, texts: pa.Array, megabytes: float) -> None:
    """The reference's features and weights of a sample of the texts, on one core."""
    try:
        from data_selection.hashed_ngram_dsir import get_ngram_counts
    except ImportError:
        print("| reference: weigh | not installed | |")
        return
    sample = [t for t in texts.to_pylist() if t]
    random.Random(0).shuffle(sample)
    chosen, size = [], 0
    for text in sample:
        if size >= megabytes * 1e6:
            break
        chosen.append(text)
        size += len(text.encode())
    ratios = np.random.default_rng(0).normal(size=10_000)
    label = "reference: weigh"
    table.measure(label, size / 1e6, "MB",
                  lambda: [np.dot(ratios, get_ngram_counts(t)) for t in chosen])  # fmt: skip


def kernels(table: Table, texts: pa.Array, megabytes: float) -> None:
    """The kernels over Arrow arrays of 10,000 documents, on one core."""
    tables = np.random.default_rng(0).normal(size=(10_000, 1))
    many = np.random.default_rng(0).normal(size=(10_000, 16))
    batches = [texts.slice(i, 10_000) for i in range(0, len(texts), 10_000)]
    for hash_name in ("xxhash64", "sha256"):
        spec = FeatureSpec(2, 10_000, hash=hash_name)
        table.measure(f"kernel: weigh, {hash_name}", megabytes, "MB",
                      lambda s=spec: [features.score(b, tables, s) for b in batches])  # fmt: skip
    spec = FeatureSpec(2, 10_000)
    table.measure("kernel: count, xxhash64", megabytes, "MB",
                  lambda: [features.count_ngrams(b, spec) for b in batches])  # fmt: skip
    table.measure("kernel: weigh, 16 targets", megabytes, "MB",
                  lambda: [features.score(b, many, spec) for b in batches])  # fmt: skip
    table.measure("kernel: sparse counts", megabytes, "MB",
                  lambda: [features.sparse_counts(b, spec) for b in batches])  # fmt: skip
    for language, made in made_up_texts().items():
        table.measure(f"kernel: weigh, made-up {language}", made.nbytes / 1e6, "MB",
                      lambda m=made: features.score(m, tables, spec))  # fmt: skip


def all_tokenizers(table: Table, texts: pa.Array) -> None:
    """Each tokenizer on one core, over the same texts and over made-up ones by language."""
    tables = np.random.default_rng(0).normal(size=(10_000, 1))
    sample = texts.slice(0, 20_000)
    few = texts.slice(0, 2_000)  # for what runs at the speed of Python
    made = made_up_texts()

    def weigh(label: str, batch: pa.Array, tokenizer: str) -> None:
        spec = FeatureSpec(2, 10_000, tokenizer)
        table.measure(f"tokenizer: {label}", batch.nbytes / 1e6, "MB",
                      lambda: features.score(batch, tables, spec))  # fmt: skip

    for name in tokenizers.NAMES:
        weigh(name, sample, name)
    for language, batch in made.items():
        for name in ("wordpunct", "wordpunct_cjk"):
            weigh(f"{name}, made-up {language}", batch, name)
    weigh("function (nltk.tokenize:wordpunct_tokenize)", few, "nltk.tokenize:wordpunct_tokenize")
    weigh("Hugging Face file, byte-pair, 5,000 ids", few, byte_pairs(few.to_pylist()))


def byte_pairs(texts: list[str | None]) -> str:
    """The content of a tokenizer file trained on these texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=5_000, show_progress=False)
    made.train_from_iterator((t for t in texts if t), trainer)
    return tokenizers.resolved(made.to_str())


def made_up_texts() -> dict[str, pa.Array]:
    """1,000 texts of 300 random words a language, ASCII first; the same in every run."""
    made = {}
    ascii_words = {"ASCII": ("abcdefghijklmnopqrstuvwxyz", 7)}
    for language, (alphabet, length) in {**ascii_words, **ALPHABETS}.items():
        rng = random.Random(1)
        words = ["".join(rng.choices(alphabet, k=rng.randrange(1, 2 * length)))
                 for _ in range(5_000)]  # fmt: skip
        made[language] = pa.array([" ".join(rng.choices(words, k=300)) for _ in range(1_000)])
    return made


def passes(
    table: Table, spark, folder: Path, megabytes: float, options: argparse.Namespace
) -> None:
    """Scans of the Parquet files by Spark, all cores; results are thrown away."""
    from pyspark.ml.feature import HashingTF, NGram, RegexTokenizer
    from pyspark.sql import types as T

    raw = spark.read.parquet(str(folder)).select("text")
    scratch = tempfile.TemporaryDirectory()
    raw.limit(500).write.parquet(f"{scratch.name}/target")
    target = spark.read.parquet(f"{scratch.name}/target")
    once, once_mb = raw, megabytes
    if megabytes < options.spark_mb:
        # What Spark takes for a query before it reads anything must not count.
        made = salted(spark, folder, math.ceil(options.spark_mb / megabytes)).select("text")
        made.write.parquet(f"{scratch.name}/raw")
        raw = spark.read.parquet(f"{scratch.name}/raw")
        megabytes = raw.agg(F.sum(F.octet_length("text"))).first()[0] / 1e6

    def consume(frame) -> None:
        frame.write.format("noop").mode("overwrite").save()

    def nothing(texts: pa.Array) -> pa.Array:
        zeros = pa.array(np.zeros(len(texts)))
        return pa.StructArray.from_arrays([zeros, zeros], names=["a", "b"])

    def after(use: Callable[[pa.Array], object]) -> Any:
        def used(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                use(batch.column(0))
                yield pa.RecordBatch.from_struct_array(nothing(batch.column(0)))

        return raw.mapInArrow(used, pair)

    pair = T.StructType([T.StructField("a", T.DoubleType()), T.StructField("b", T.DoubleType())])
    to_column = raw.select(_text_udf(nothing, pair)(F.col("text")).alias("r"))
    to_rows = after(lambda texts: None)
    few = target.withColumn("id", F.lit(0))
    model = DSIR(id_column="id").fit(few, few)  # any table of numbers costs the same
    transformed = model.transform(raw).select("log_weight", "num_tokens")
    named = raw.withColumn("id", F.monotonically_increasing_id())
    weighed = model.weigh(named, text_hash=False)
    with_hashes = model.weigh(named)
    # Of any numbers: what it costs does not depend on them.
    learnt = Linear(np.random.default_rng(1).normal(size=model.config.num_buckets), 0.0)
    classified = dataclasses.replace(model, classifiers={"target": learnt})
    classified = classified.weigh(named, text_hash=False)
    decontaminated = model.decontaminate(target).weigh(named, text_hash=False)
    spec, numbers = spec_of(model.config), learnt.table[:, None]
    scored = after(lambda texts: features.score(texts, numbers, spec))
    counted_only = after(lambda texts: features.count_ngrams(texts, spec))
    runs = {
        SCAN: lambda: consume(raw.select(F.octet_length("text"))),
        COLUMN: lambda: consume(to_column),
        "Spark: transform": lambda: consume(transformed),
        ROWS: lambda: consume(to_rows),
        SCORED: lambda: consume(scored),
        WEIGH: lambda: consume(weighed),
        "Spark: weigh, with hashes of the texts": lambda: consume(with_hashes),
        "Spark: weigh, with a classifier": lambda: consume(classified),
        "Spark: weigh, decontaminated": lambda: consume(decontaminated),
        COUNTED: lambda: consume(counted_only),
        FIT: lambda: DSIR().fit(raw, target),
    }
    table.measure_together(megabytes, "MB", runs)
    few = few.withColumn("id", F.monotonically_increasing_id())
    table.starting = starting(spark, lambda: consume(model.weigh(few, text_hash=False)))
    setting = "spark.sql.execution.arrow.maxRecordsPerBatch"
    usual = spark.conf.get(setting)
    for size in (500, 30_000):
        spark.conf.set(setting, size)
        table.measure(f"Spark: weigh, batches of {size:,} rows", megabytes, "MB",
                      lambda: consume(weighed))  # fmt: skip
    spark.conf.set(setting, usual)
    words = RegexTokenizer(inputCol="text", outputCol="w", pattern=r"\w+|[^\w\s]+", gaps=False)
    pairs = NGram(n=2, inputCol="w", outputCol="p")
    single = HashingTF(numFeatures=10_000, inputCol="w", outputCol="f1")
    double = HashingTF(numFeatures=10_000, inputCol="p", outputCol="f2")
    counted = double.transform(single.transform(pairs.transform(words.transform(once))))
    rounds, table.rounds = table.rounds, 1
    table.measure("Spark ML: RegexTokenizer + NGram + HashingTF", once_mb, "MB",
                  lambda: consume(counted.select("f1", "f2")))  # fmt: skip
    table.rounds = rounds
    scratch.cleanup()


def starting(spark, run: Callable[[], object]) -> float:
    """Seconds that new Python workers take until they can weigh: the first query less the next."""
    setting, seconds = "spark.sql.execution.pyspark.udf.faulthandler.enabled", []
    run()
    spark.conf.set(setting, "true")  # part of what Spark knows workers by, so that it starts others
    for _ in range(2):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    spark.conf.unset(setting)
    return seconds[0] - seconds[1]


def whereabouts(table: Table) -> None:
    """Where the time of a pass goes, in parts that add up; differences within each round."""
    steps = {WEIGH: (SCAN, ROWS, SCORED, WEIGH), FIT: (SCAN, ROWS, COUNTED, FIT)}
    if FIT not in table.rates:
        return
    parts = ("scan in the JVM", "hand-over to Python and back", "kernel", "all else: result, plan")
    found = {}
    for label, own in steps.items():
        seconds = np.array([1e3 / np.array(table.rates[step]) for step in own])
        found[label] = np.median(np.diff(seconds, axis=0, prepend=0), axis=1)
    print("\n| seconds a GB, all cores | weigh | fit |\n|---|---:|---:|")
    for part, *own in zip(parts, *found.values(), strict=True):
        print(f"| {part} | {own[0]:.2f} | {own[1]:.2f} |")
    print(f"| together | {found[WEIGH].sum():.2f} | {found[FIT].sum():.2f} |")
    print(f"\nNew workers take {table.starting:.1f} s, once, which is in none of these.")


def made_weights(spark, rows: int):
    """A weights table of made-up documents: log weights of normal distributions, 14 sources."""
    name = F.col("id")
    sources = F.array(*[F.lit(f"source {i}") for i in range(14)])
    return spark.range(rows).select(
        F.concat(F.lit("d"), name).alias("id"),
        (F.randn(1) * 40).alias("log_weight"),
        *[(F.randn(2 + t) * 30 * (1 + t / 2)).alias(f"log_weight_{t}") for t in range(3)],
        (F.pmod(F.hash(name), F.lit(900)) + 100).cast("bigint").alias("num_tokens"),
        sources[F.pmod(F.xxhash64(name), F.lit(14)).cast("int")].alias("source"),
        F.struct(F.xxhash64(name, F.lit(1)).alias("high"), name.alias("low")).alias("text_hash"),
    )


def select(weights, k: int, targets: tuple[str, ...] = (), duplicates: str = "keep"):
    """The cuts of a resampling of documents of at least 100 tokens, nothing written."""
    scores = {name: F.col(f"log_weight_{name}") for name in targets}
    pool = selection.Pool(
        "id", scores or {None: F.col("log_weight")}, copies="text_hash",
        stages=(("too_short", F.col("num_tokens") < 100),),
    )  # fmt: skip
    options = SelectOptions.checked({"num_to_sample": k, "seed": 1, "duplicates": duplicates})
    return selection.find(weights, pool, options)


def cuts(table: Table, spark, rows: int) -> None:
    """The exact cut over made-up weights, beside a global order."""
    with tempfile.TemporaryDirectory() as scratch:
        made_weights(spark, rows).write.parquet(f"{scratch}/weights")
        weights = spark.read.parquet(f"{scratch}/weights")
        select(weights.limit(1000), 10)
        rounds, table.rounds = table.rounds, min(2, table.rounds)
        k = rows // 100
        for size in (rows // 100_000, k, rows // 2):
            table.measure(f"cut: {size:,} of {rows:,}", rows / 1e6, "M documents",
                          lambda size=size: select(weights, size), False)  # fmt: skip
        three = ("0", "1", "2")
        for size in (k, rows // 2):
            table.measure(f"cut: {size:,} of {rows:,}, three targets", rows / 1e6, "M documents",
                          lambda size=size: select(weights, size, three), False)  # fmt: skip
        ordered = []
        for name in ("log_weight", *(f"log_weight_{t}" for t in three)):
            key = F.col(name) + keys.gumbel(1, F.col("id"))
            top = weights.select("id", key.alias("key")).orderBy(F.desc("key"), F.desc("id"))
            ordered.append(top.limit(k).write.format("noop").mode("overwrite"))
        label = f"orderBy().limit({k:,}) of {rows:,}"
        table.rounds = 1
        table.measure(f"cut: {k:,} of {rows:,}, copies dropped", rows / 1e6, "M documents",
                      lambda: select(weights, k, duplicates="drop"), False)  # fmt: skip
        table.measure(label, rows / 1e6, "M documents", ordered[0].save, False)
        table.measure(f"{label}, three targets", rows / 1e6, "M documents",
                      lambda: [o.save() for o in ordered[1:]], False)  # fmt: skip
        table.rounds = rounds
        for over in (f"cut: {k:,} of {rows:,}", f"cut: {k:,} of {rows:,}, three targets"):
            table.pairs.append((over, over.replace(f"cut: {k:,}", f"orderBy().limit({k:,})")))


def by_score(table: Table, spark, rows: int) -> None:
    """`select` by any score over made-up weights, beside `resample`'s cut of the same, in turn."""
    with tempfile.TemporaryDirectory() as scratch:
        made_weights(spark, rows).write.parquet(f"{scratch}/weights")
        weights = spark.read.parquet(f"{scratch}/weights")
        k, score, sized = rows // 100, "log_weight", {"size_column": "num_tokens"}
        shares = {"group_column": "source", "group_share": "raw"}
        own = {
            "method sample": {"num_to_sample": k},
            "method top_k, lower is better": {
                "num_to_sample": k, "method": "top_k", "lower_is_better": True},
            "a tenth of the tokens": {"quantile": 0.1, "method": "top_k", **sized},
            "as large a share of each source": {"num_to_sample": k, **shares},
        }  # fmt: skip
        resampled = f"cut: {k:,} of {rows:,}, in turn with `select`"
        runs: dict[str, Callable[[], object]] = {resampled: lambda: select(weights, k)}
        for label, given in own.items():
            runs[f"select: {label}, of {rows:,}"] = functools.partial(
                dsir_spark.select, weights, score, seed=1, **given
            )
        few = weights.limit(1000)
        for given in own.values():
            dsir_spark.select(few, score, **{**given, "seed": 1})
        rounds, table.rounds = table.rounds, min(3, table.rounds)
        table.measure_together(rows / 1e6, "M documents", runs, warm_up=False)
        # Ranks are exact: all scores are sorted, so of a tenth of the rows.
        ranked, label = spark.range(rows // 10).selectExpr("id"), "select: normalised by rank"
        ranked = ranked.withColumn(score, F.randn(1) * 40)
        table.rounds = 1
        table.measure(f"{label}, of {rows // 10:,}", rows / 1e7, "M documents", functools.partial(
            dsir_spark.select, ranked, score, num_to_sample=k // 10, normalize_score="rank",
            seed=1), warm_up=False)  # fmt: skip
        table.rounds = rounds
        table.pairs += [(label, resampled) for label in runs if label != resampled]


def ratios(table: Table, check: bool) -> None:
    print("\n| ratio | median | from | to |\n|---|---:|---:|---:|")
    pairs = [*CLAIMS, (WEIGH, COLUMN), *table.pairs,
             (WEIGH, "Spark ML: RegexTokenizer + NGram + HashingTF")]  # fmt: skip
    failed = []
    for over, under in pairs:
        if over not in table.rates or under not in table.rates:
            continue
        ratio, least, most = table.ratio(over, under)
        print(f"| {over} / {under} | {ratio:,.2f} | {least:,.2f} | {most:,.2f} |")
        if check and ratio < CLAIMS.get((over, under), 0) / 3:
            failed.append(f"{over} is {ratio:.2f} times {under}")
    if failed:
        sys.exit("error: under a third of what is claimed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
