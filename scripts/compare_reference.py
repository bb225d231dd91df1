"""dsir_spark beside the reference package on one pool and several targets, as a Markdown table.

For each target: the share of the selected documents whose `source` is the target's domain, the KL
reduction, and the wall time, for samples and top-k of both and for a random subset. Everyone gets
the same texts, k and minimum length; all KL reductions are taken with one ruler (xxhash64, word
uni- and bigrams). The reference reads JSON lines (written beforehand, outside its time); the job of
dsir_spark reads Parquet and writes Delta tables, KL reduction included. Spark's start is not timed.

    python scripts/compare_reference.py DATA [--targets biomed code] [--num-to-sample 2000]

DATA holds raw/*.parquet (id, text, source) and target/NAME.parquet (text).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsir_spark import features, job, weights
from dsir_spark.config import FeatureSpec, JobConfig
from dsir_spark.session import build_session

SPEC = FeatureSpec()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--num-to-sample", type=int, default=2_000)
    parser.add_argument("--min-example-length", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    names = options.targets or sorted(p.stem for p in (options.data / "target").glob("*.parquet"))
    with tempfile.TemporaryDirectory() as scratch:
        compare(options, names, Path(scratch))


def compare(options: argparse.Namespace, names: list[str], scratch: Path) -> None:
    raw = pq.read_table(options.data / "raw", columns=["id", "text", "source"])
    pool = Pool(raw)
    files = write_json_lines(raw, scratch / "raw", os.cpu_count() or 2)
    spark = build_session(conf={"spark.sql.warehouse.dir": str(scratch / "warehouse")})
    megabytes = sum(len(t.encode()) for t in pool.texts) / 1e6
    print(f"{len(pool.ids):,} documents, {megabytes:.1f} MB; k = {options.num_to_sample:,}, "
          f"at least {options.min_example_length} tokens; seed {options.seed}; "
          f"{os.cpu_count()} cores, Python {platform.python_version()}, "
          f"Spark {spark.version}\n")  # fmt: skip
    warm_up(spark, scratch)
    print("| target | pool | selection | domain share | KL reduction (nats) | wall time (s) |")
    print("|---|---:|---|---:|---:|---:|")
    speed = []
    for name in names:
        target = options.data / "target" / f"{name}.parquet"
        found = ours(spark, options, target, scratch / "ours" / name)
        found |= theirs(options, target, files, scratch / "theirs" / name)
        found["random"] = (random_ids(spark, options, scratch / "ours" / name), None)
        speed.append(found["reference sample"][1] / found["dsir_spark sample"][1])
        share = f"{np.mean([s == name for s in pool.source.values()]):.3f}"
        counts = pool.counts(pq.read_table(target)["text"].to_pylist())
        label = name
        for kind, (ids, seconds) in found.items():
            right = np.mean([pool.source[i] == name for i in ids])
            reduction = weights.kl_reduction(counts, pool.raw_counts, pool.counts_of(ids))
            took = "" if seconds is None else f"{seconds:.1f}"
            print(f"| {label} | {share} | {kind} | {right:.3f} | {reduction:+.4f} | {took} |")
            sys.stdout.flush()
            label = share = ""
    print(f"\nWall time of the reference's sample over that of dsir_spark's: median "
          f"{statistics.median(speed):.1f} of {len(speed)} targets.")  # fmt: skip
    spark.stop()


class Pool:
    """Texts and sources by id, and exact counts of any part."""

    def __init__(self, raw: pa.Table) -> None:
        self.ids = raw["id"].to_pylist()
        self.texts = raw["text"].to_pylist()
        self.source = dict(zip(self.ids, raw["source"].to_pylist(), strict=True))
        self.text_of = dict(zip(self.ids, self.texts, strict=True))
        self.raw_counts = self.counts(self.texts)

    def counts(self, texts: list[str]) -> np.ndarray:
        return features.count_ngrams(pa.array(texts, pa.large_string()), SPEC).counts

    def counts_of(self, ids: list[str]) -> np.ndarray:
        return self.counts([self.text_of[i] for i in ids])


def write_json_lines(raw: pa.Table, folder: Path, parts: int) -> list[str]:
    folder.mkdir()
    rows = raw.to_pylist()
    for part in range(parts):
        with (folder / f"{part}.jsonl").open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows[part::parts])
    return [str(folder / f"{part}.jsonl") for part in range(parts)]


def warm_up(spark, scratch: Path) -> None:
    """The first Delta table of a session takes ten seconds more than any other."""
    rows = [{"id": str(i), "text": "a b c"} for i in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), scratch / "warm.parquet")
    place = str(scratch / "warm.parquet")
    job.run_all(spark, JobConfig.from_mapping(
        {"raw": place, "target": place, "output": str(scratch / "warm"), "num_to_sample": 3,
         "min_example_length": 1}
    ))  # fmt: skip


def ours(spark, options, target: Path, output: Path) -> dict[str, tuple[list[str], float]]:
    common = {
        "output": str(output),
        "num_to_sample": options.num_to_sample,
        "min_example_length": options.min_example_length,
        "seed": options.seed,
    }
    found = {}
    begin = time.perf_counter()
    whole = {**common, "raw": str(options.data / "raw"), "target": str(target)}
    job.run_all(spark, JobConfig.from_mapping(whole))
    found["dsir_spark sample"] = (selected_ids(spark, output), time.perf_counter() - begin)
    begin = time.perf_counter()
    job.resample_again(spark, JobConfig.from_mapping({**common, "method": "top_k"}))
    found["dsir_spark top_k (same weights)"] = (
        selected_ids(spark, output),
        time.perf_counter() - begin,
    )
    return found


def selected_ids(spark, output: Path) -> list[str]:
    rows = spark.read.format("delta").load(str(output / "selected")).select("id").collect()
    return [row["id"] for row in rows]


def random_ids(spark, options, output: Path) -> list[str]:
    table = spark.read.format("delta").load(str(output / "weights"))
    rows = table.where(f"num_tokens >= {options.min_example_length}").select("id").collect()
    ids = sorted(row["id"] for row in rows)
    chosen = np.random.default_rng(options.seed).choice(
        len(ids), options.num_to_sample, replace=False
    )
    return [ids[i] for i in chosen]


def theirs(options, target: Path, files: list[str], output: Path):
    from data_selection import HashedNgramDSIR

    output.mkdir(parents=True)
    lines = write_json_lines(pq.read_table(target, columns=["text"]), output / "target", 1)
    np.random.seed(options.seed)
    with Path(os.devnull).open("w") as hidden, contextlib.redirect_stderr(hidden):
        begin = time.perf_counter()
        reference = HashedNgramDSIR(
            files, lines, cache_dir=str(output / "cache"), num_proc=os.cpu_count(),
            min_example_length=options.min_example_length,
        )  # fmt: skip
        reference.fit_importance_estimator(num_tokens_to_fit="all")
        reference.compute_importance_weights()
        found = {}
        for kind, top_k in (("reference sample", False), ("reference top_k (same weights)", True)):
            out = output / ("top_k" if top_k else "sample")
            reference.resample(str(out), options.num_to_sample, cache_dir=f"{out}-c", top_k=top_k)
            ids = [json.loads(line)["id"] for part in out.glob("**/*.jsonl")
                   for line in part.read_text(encoding="utf-8").splitlines()]  # fmt: skip
            found[kind] = (ids, time.perf_counter() - begin)
            begin = time.perf_counter()
    return found


if __name__ == "__main__":
    main()
