"""Matched selection beside DSIR's sample and a random subset, judged by held-out halves of targets.

    python scripts/compare_matched.py DATA [--targets biomed code] [--num-to-sample 2000]
                                      [--steps 16] [--tokens 20000000]

DATA holds raw/*.parquet (id, text, source) and target/NAME.parquet (text). Every other document of
a target is held out: the model knows one half, and the KL reduction is measured on both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from dsir_spark import DSIR, features, weights
from dsir_spark.config import ResampleConfig
from dsir_spark.job import random_subsets
from dsir_spark.session import build_session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--num-to-sample", type=int, default=2_000)
    parser.add_argument("--min-example-length", type=int, default=100)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    names = options.targets or sorted(p.stem for p in (options.data / "target").glob("*.parquet"))
    spark = build_session()
    spark.sparkContext.setLogLevel("ERROR")
    raw = spark.read.parquet(str(options.data / "raw")).select("id", "text", "source")
    print(f"k = {options.num_to_sample:,} documents of at least {options.min_example_length} "
          f"tokens, {options.steps} steps learnt on {options.tokens:,} n-grams; "
          "KL reduction in nats, half used / half held out\n")  # fmt: skip
    print("| target | random | sample | match | bound | share of it | domain | learning, s |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            compare(options, spark, raw, name, scratch)
    spark.stop()


def compare(options: argparse.Namespace, spark, raw, name: str, scratch: str) -> None:
    target = pq.read_table(options.data / "target" / f"{name}.parquet", columns=["text"])
    halves = []
    for start in (0, 1):
        half = target.take(list(range(start, len(target), 2)))
        pq.write_table(half, f"{scratch}/{start}.parquet")
        halves.append(features.count_ngrams(half["text"].combine_chunks(), DSIR().config.features))
    model = DSIR().fit(raw, spark.read.parquet(f"{scratch}/0.parquet"))
    size = {"min_example_length": options.min_example_length}
    begin = time.perf_counter()
    model = model.match(raw, options.num_to_sample, match_steps=options.steps,
                        match_tokens=options.tokens, **size)  # fmt: skip
    learning = time.perf_counter() - begin
    model.weigh(raw).write.parquet(f"{scratch}/weights")
    table = spark.read.parquet(f"{scratch}/weights")
    cells, chosen = {}, {}
    for method in ("sample", "match"):
        wanted = ResampleConfig(num_to_sample=options.num_to_sample, method=method,
                                seed=options.seed, duplicates="keep", **size)  # fmt: skip
        selection = model.select(table, wanted)
        chosen[method] = model.selected(raw, selection, table)
    chosen["random"] = random_subsets(model, raw, table, selection)["target"]
    counted = model.count({k: f.select("text") for k, f in chosen.items()},
                          options.min_example_length)  # fmt: skip
    for kind, found in counted.items():
        both = [weights.kl_reduction(h.counts, model.raw.counts, found.counts) for h in halves]
        cells[kind] = " / ".join(f"{r:+.3f}" for r in both)
    bound = model.kl_bounds(table, {"target": counted["match"].num_ngrams},
                            options.min_example_length)["target"]  # fmt: skip
    reached = model.kl_reduction(counted["match"].counts)["target"]
    domain = chosen["match"].where(f"source = '{name}'").count() / options.num_to_sample
    print(f"| {name} | {cells['random']} | {cells['sample']} | {cells['match']} | {bound:+.4f} | "
          f"{reached / bound:.1%} | {domain:.3f} | {learning:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
