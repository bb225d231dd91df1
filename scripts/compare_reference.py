"""dsir_spark beside the reference package: all methods on several targets, as Markdown tables.

Every other document of a target is held out: all methods know the same half, and the KL reduction
is taken on both. For each selection: share of its documents whose `source` is the target's domain,
KL reduction, and of matched selections the bound, and the share of it reached. Everyone gets the
same texts, number of documents and minimum length; all KL reductions are taken with one ruler
(xxhash64, word uni- and bigrams) over the candidates. The wall times are of whole jobs: the
reference reads JSON lines (written beforehand, outside its time) and writes JSON lines; dsir_spark
reads Parquet and writes Delta tables, KL reduction included. Spark's start is not timed.

    python scripts/compare_reference.py DATA [--targets biomed code] [--num-to-sample 2000]
                                        [--without-reference]

DATA holds raw/*.parquet (id, text, source) and target/NAME.parquet (text).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsir_spark import DSIR, DSIRModel, features, job
from dsir_spark.features import FeatureSpec, batches
from dsir_spark.job_options import JobOptions
from dsir_spark.matchings import learn_matchings
from dsir_spark.options import ResampleOptions
from dsir_spark.scoring import matched
from dsir_spark.scoring.distributions import distribution, kl_reduction, raw_share
from dsir_spark.session import build_session

STEPS = (8, 16, 32)
CHUNK_WORDS = 128
PUBLISHED = {"ngrams": 2, "num_buckets": 10_000}
SPEC = FeatureSpec(**PUBLISHED)

# Of the methods that go by the published weights, other than the published ones.
VARIANTS: dict[str, dict[str, Any]] = {
    "top-k": {"method": "top_k"},
    "mean of log ratios": {"normalize": "ngram"},
    "temperature auto": {"temperature": "auto"},
    "mean, temperature auto": {"normalize": "ngram", "temperature": "auto"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--num-to-sample", type=int, default=2_000)
    parser.add_argument("--min-example-length", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-reference", action="store_true")
    options = parser.parse_args()
    names = options.targets or sorted(p.stem for p in (options.data / "target").glob("*.parquet"))
    with tempfile.TemporaryDirectory() as scratch:
        compare(options, names, Path(scratch))


@dataclasses.dataclass
class Row:
    """A selection: its ids (of documents, once for each chunk), and what else is known of it."""

    counts: np.ndarray
    ids: list[str]
    seconds: float | None = None
    bound: float | None = None


def compare(options: argparse.Namespace, names: list[str], scratch: Path) -> None:
    pool = Pool(pq.read_table(options.data / "raw", columns=["id", "text", "source"]))
    files = [] if options.without_reference else pool.write_json_lines(scratch / "raw")
    spark = build_session(conf={"spark.sql.warehouse.dir": str(scratch / "warehouse")})
    spark.sparkContext.setLogLevel("ERROR")
    print(f"{len(pool.ids):,} documents, {pool.megabytes:.1f} MB; k = {options.num_to_sample:,}, "
          f"at least {options.min_example_length} tokens; seed {options.seed}; "
          f"{os.cpu_count()} cores, Python {platform.python_version()}, "
          f"Spark {spark.version}\n")  # fmt: skip
    warm_up(spark, scratch)
    print("| target | selection | documents of its domain | KL reduction, known half | "
          "held-out half | bound | share of it | job, s |\n"
          "|---|---|---:|---:|---:|---:|---:|---:|")  # fmt: skip
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    speed = []
    for name in names:
        halves, place = split(options.data / "target" / f"{name}.parquet", scratch, name)
        rows = selections(spark, options, pool, place, files, scratch / name)
        if "reference" in rows:
            speed.append(rows["reference"].seconds / rows["DSIR, as published"].seconds)
        for kind, row in rows.items():
            domain = float(np.mean([pool.source[i] == name for i in row.ids]))
            known, held = (kl_reduction(h, pool.raw_counts, row.counts) for h in halves)
            found.setdefault(kind, {})[name] = (domain, known, held)
            reached = "" if row.bound is None else f"{row.bound:+.4f} | {known / row.bound:.1%}"
            took = "" if row.seconds is None else f"{row.seconds:.1f}"
            print(f"| {name} | {kind} | {domain:.3f} | {known:+.4f} | {held:+.4f} | "
                  f"{reached or ' | '} | {took} |", flush=True)  # fmt: skip
    summary(names, found)
    if speed:
        print(f"\nWall time of the reference over that of dsir_spark's job as published: median "
              f"{statistics.median(speed):.1f} of {len(speed)} targets.")  # fmt: skip
    spark.stop()


def summary(names: list[str], found: dict[str, dict[str, tuple[float, float, float]]]) -> None:
    """The table of docs/concepts/method.md, of held-out halves, and the means of all."""
    shown = {"random": "random", "reference": "reference",
             "DSIR, as published": "dsir_spark, as published",
             "match, T = 16": "dsir_spark, match"}  # fmt: skip
    shown = {kind: label for kind, label in shown.items() if kind in found}
    print(f"\n| target | {' | '.join(shown.values())} |\n|---|{'---:|' * len(shown)}")
    for name in names:
        cells = [f"{found[kind][name][2]:+.3f}" for kind in shown]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| selection | documents of the domain, mean | KL reduction held out, mean | "
          "worse than random |\n|---|---:|---:|---:|")  # fmt: skip
    for kind, own in found.items():
        domain, _, held = (statistics.mean(column) for column in zip(*own.values(), strict=True))
        worse = sum(own[n][2] < found["random"][n][2] for n in names)
        print(f"| {kind} | {domain:.3f} | {held:+.4f} | {worse} of {len(names)} |")


def split(target: Path, scratch: Path, name: str) -> tuple[list[np.ndarray], Path]:
    """Bucket counts of the known and the held-out half, and the file of the known one."""
    texts = pq.read_table(target, columns=["text"])
    halves = [texts.take(list(range(start, len(texts), 2))) for start in (0, 1)]
    place = scratch / f"{name}.parquet"
    pq.write_table(halves[0], place)
    counts = [features.count_ngrams(h["text"].combine_chunks(), SPEC).counts for h in halves]
    return counts, place


def selections(
    spark, options: argparse.Namespace, pool: Pool, target: Path, files: list[str], scratch: Path
) -> dict[str, Row]:
    """All methods' selections for one target, by name."""
    common = {"num_to_sample": options.num_to_sample, "seed": options.seed,
              "min_example_length": options.min_example_length, "method": "sample"}  # fmt: skip
    raw = spark.read.parquet(str(options.data / "raw"))
    begin = time.perf_counter()
    place = {"raw": str(options.data / "raw"), "target": str(target), "output": str(scratch / "o")}
    job.run_all(spark, JobOptions.from_mapping(
        {**place, **PUBLISHED, **common, "report": False, "held_out": 0}
    ))  # fmt: skip
    seconds = time.perf_counter() - begin
    model = DSIRModel.load(str(scratch / "o" / "model"), spark=spark)
    table = spark.read.format("delta").load(str(scratch / "o" / "weights"))
    published = ids_of(spark.read.format("delta").load(str(scratch / "o" / "selected")))
    rows = {"random": pool.row(pool.random(options))}
    if files:
        rows["reference"] = pool.row(*theirs(options, target, files, scratch / "theirs"))
    rows["DSIR, as published"] = pool.row(published, seconds)
    for kind, own in VARIANTS.items():
        rows[kind] = pool.row(cut(model, raw, table, {**common, **own}))
    smooth = DSIR(**PUBLISHED, target_dirichlet_smoothing="auto")
    smooth = smooth.fit(raw, spark.read.parquet(str(target)))
    rows["Dirichlet smoothing auto"] = pool.row(cut(smooth, raw, None, common))
    rows[f"chunks of {CHUNK_WORDS} words"] = chunks(spark, pool, raw, target, common, rows)
    common = {**common, "method": "match"}
    longest = ResampleOptions.checked({**common, "match_steps": max(STEPS)})
    learnt = learn_matchings(model, raw, longest)
    (whole,) = learnt.matchings.values()
    for steps in STEPS:  # a longer search begins with the steps of a shorter one
        own = matched.Matching(whole.steps[:steps])
        part = dataclasses.replace(learnt, matchings={"target": own})
        weighed = scratch / f"match-{steps}"
        part.weigh(raw).write.parquet(str(weighed))
        keys = spark.read.parquet(str(weighed))
        row = pool.row(cut(part, raw, keys, common))
        row.bound = bound(part, keys, row.counts, options.min_example_length)
        rows[f"match, T = {steps}"] = row
    return rows


def cut(model: DSIRModel, raw, table, options: dict[str, Any]) -> list[str]:
    """Ids of a selection from a weights table, or, of None, with raw weighed on the way."""
    return ids_of(model.resample(raw, weights=table, **options))


def bound(model: DSIRModel, keys, selected: np.ndarray, least: int) -> float:
    """What no selection of as many n-grams can pass: a certificate for all of the pool, nats.

    keys : the weights table of the matched model
    selected : int64[num_buckets]
    least : tokens of a candidate
    """
    pool = keys.where(f"num_tokens >= {max(1, least)}").select("match_score", "num_tokens")
    scores, tokens = pool.toPandas().to_numpy().T
    found = matched.histogram(scores, batches.num_ngrams(tokens.astype(np.int64), SPEC.ngrams))
    p, p_raw = map(distribution, (model.targets["target"].counts, model.raw.counts))
    q = model.matchings["target"].mixtures(model.raw.counts)[-1]
    ngrams = int(selected.sum())
    best = matched.best_mean(found, ngrams)
    return matched.bound(p, p_raw, q, best, raw_share(ngrams, len(p)))


def ids_of(frame) -> list[str]:
    return [row["id"] for row in frame.select("id").collect()]


def chunks(
    spark, pool: Pool, raw, target: Path, common: dict[str, Any], rows: dict[str, Row]
) -> Row:
    """Chunks instead of documents, as many tokens as the published selection has."""
    model = DSIR(**PUBLISHED, chunk_words=CHUNK_WORDS).fit(raw, spark.read.parquet(str(target)))
    budget = sum(pool.tokens[i] for i in rows["DSIR, as published"].ids)
    own = {**common, "num_to_sample": None, "num_tokens_to_sample": budget}
    chosen = model.resample(raw, **own).select("id", "text").toPandas()
    counts = features.count_ngrams(pa.array(chosen["text"], pa.large_string()), SPEC).counts
    return Row(counts, list(chosen["id"]))


class Pool:
    """Texts, sources and lengths by id, and exact counts of any part."""

    def __init__(self, raw: pa.Table) -> None:
        self.ids = raw["id"].to_pylist()
        texts = raw["text"].to_pylist()
        self.rows = raw
        self.megabytes = sum(len(t.encode()) for t in texts) / 1e6
        self.source = dict(zip(self.ids, raw["source"].to_pylist(), strict=True))
        self.text_of = dict(zip(self.ids, texts, strict=True))
        array = pa.array(texts, pa.large_string())
        self.raw_counts = features.count_ngrams(array, SPEC).counts
        _, lengths = features.score(array, np.zeros((SPEC.num_buckets, 1)), SPEC)
        self.tokens = dict(zip(self.ids, lengths.tolist(), strict=True))

    def row(self, ids: list[str], seconds: float | None = None) -> Row:
        texts = pa.array([self.text_of[i] for i in ids], pa.large_string())
        return Row(features.count_ngrams(texts, SPEC).counts, ids, seconds)

    def random(self, options: argparse.Namespace) -> list[str]:
        """A uniform sample of the candidates."""
        ids = sorted(i for i, n in self.tokens.items() if n >= options.min_example_length)
        draw = np.random.default_rng(options.seed)
        return [ids[i] for i in draw.choice(len(ids), options.num_to_sample, replace=False)]

    def write_json_lines(self, folder: Path) -> list[str]:
        """A file a core, as the reference reads them."""
        folder.mkdir()
        parts = os.cpu_count() or 2
        return [write_lines(self.rows.take(list(range(part, len(self.rows), parts))),
                            folder / f"{part}.jsonl") for part in range(parts)]  # fmt: skip


def write_lines(rows: pa.Table, place: Path) -> str:
    with place.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows.to_pylist())
    return str(place)


def warm_up(spark, scratch: Path) -> None:
    """The first Delta table of a session takes ten seconds more than any other."""
    rows = [{"id": str(i), "text": "a b c"} for i in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), scratch / "warm.parquet")
    place = str(scratch / "warm.parquet")
    job.run_all(spark, JobOptions.from_mapping(
        {"raw": place, "target": place, "output": str(scratch / "warm"), "num_to_sample": 3,
         "min_example_length": 1}
    ))  # fmt: skip


def theirs(
    options: argparse.Namespace, target: Path, files: list[str], output: Path
) -> tuple[list[str], float]:
    """Ids that the reference samples, and the seconds it takes."""
    from data_selection import HashedNgramDSIR

    output.mkdir(parents=True)
    lines = write_lines(pq.read_table(target, columns=["text"]), output / "target.jsonl")
    np.random.seed(options.seed)
    with Path(os.devnull).open("w") as hidden, contextlib.redirect_stderr(hidden):
        begin = time.perf_counter()
        reference = HashedNgramDSIR(
            files, [lines], cache_dir=str(output / "cache"), num_proc=os.cpu_count(),
            min_example_length=options.min_example_length,
        )  # fmt: skip
        reference.fit_importance_estimator(num_tokens_to_fit="all")
        reference.compute_importance_weights()
        out = output / "sample"
        reference.resample(str(out), options.num_to_sample, cache_dir=f"{out}-c")
        seconds = time.perf_counter() - begin
    ids = [json.loads(line)["id"] for part in out.glob("**/*.jsonl")
           for line in part.read_text(encoding="utf-8").splitlines()]  # fmt: skip
    return ids, seconds


if __name__ == "__main__":
    main()
