"""Matched selection by its options, judged by held-out halves of targets; means over the targets.

    python scripts/compare_matched.py DATA [--targets biomed code] [--num-to-sample 2000]
                                      [--parts sample budget small]

sample: how much of raw the steps have to be learnt from (`match_tokens`). budget: the share of the
bound that is reached with a budget in documents and in tokens. small: targets of a few documents,
beside DSIR with and without smoothing. DATA holds raw/*.parquet (id, text, source) and
target/NAME.parquet (text). `compare_reference.py` has each target and number of steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from compare_reference import PUBLISHED, Pool, bound, cut, split
from pyarrow import parquet as pq

from dsir_spark import DSIR, DSIRModel
from dsir_spark.matchings import learn_matchings
from dsir_spark.options import ResampleOptions
from dsir_spark.scoring.distributions import kl_reduction
from dsir_spark.session import build_session

SAMPLES: tuple[int | str, ...] = (1_000_000, 5_000_000, 20_000_000, "auto", "all")
SMALL = (5, 30, 300)
PARTS = ("sample", "budget", "small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--num-to-sample", type=int, default=2_000)
    parser.add_argument("--min-example-length", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    names = options.targets or sorted(p.stem for p in (options.data / "target").glob("*.parquet"))
    with tempfile.TemporaryDirectory() as folder:
        spark = build_session(conf={"spark.sql.warehouse.dir": f"{folder}/warehouse"})
        spark.sparkContext.setLogLevel("ERROR")
        found = Comparison(options, spark, names, Path(folder))
        if "sample" in options.parts:
            found.sample()
        if "budget" in options.parts:
            found.budget()
        if "small" in options.parts:
            found.small()
        spark.stop()


class Comparison:
    """The pool, the targets' halves, and what is measured on them."""

    def __init__(
        self, options: argparse.Namespace, spark, names: list[str], scratch: Path
    ) -> None:
        self.spark, self.scratch = spark, scratch
        self.pool = Pool(pq.read_table(options.data / "raw", columns=["id", "text", "source"]))
        self.raw = spark.read.parquet(str(options.data / "raw"))
        self.halves, self.places = {}, {}
        for name in names:
            target = options.data / "target" / f"{name}.parquet"
            self.halves[name], self.places[name] = split(target, scratch, name)
        self.common = {"num_to_sample": options.num_to_sample, "method": "sample",
                       "seed": options.seed,
                       "min_example_length": options.min_example_length}  # fmt: skip
        print(f"{len(self.pool.ids):,} documents, {self.pool.megabytes:.1f} MB; {len(names)} "
              f"targets; k = {options.num_to_sample:,}, at least {options.min_example_length} "
              f"tokens; seed {options.seed}")  # fmt: skip

    def reductions(self, name: str, ids: list[str]) -> tuple[float, float]:
        """KL reduction of a selection on the known and the held-out half."""
        counts = self.pool.row(ids).counts
        known, held = (kl_reduction(h, self.pool.raw_counts, counts) for h in self.halves[name])
        return known, held

    def match(self, model: DSIRModel, budget: dict[str, Any], **own: Any):
        """Ids, share of the bound and seconds of learning of a matched selection."""
        options = {**self.common, "num_to_sample": None, **budget, **own, "method": "match"}
        begin = time.perf_counter()
        model = learn_matchings(model, self.raw, ResampleOptions.checked(options))
        seconds = time.perf_counter() - begin
        place = self.scratch / f"keys-{time.monotonic_ns()}"
        model.weigh(self.raw).write.parquet(str(place))
        table = self.spark.read.parquet(str(place))
        ids = cut(model, self.raw, table, options)
        counts = self.pool.row(ids).counts
        most = bound(model, table, counts, self.common["min_example_length"])
        known = kl_reduction(model.targets["target"].counts, model.raw.counts, counts)
        return ids, (known or 0.0) / most, seconds

    def model(self, name: str, documents: int | None = None, **own: Any) -> DSIRModel:
        target = self.spark.read.parquet(str(self.places[name]))
        if documents is not None:
            few = pq.read_table(self.places[name]).slice(0, documents)
            place = self.scratch / f"{name}-{documents}.parquet"
            pq.write_table(few, place)
            target = self.spark.read.parquet(str(place))
        return DSIR(**PUBLISHED, **own).fit(self.raw, target)

    def sample(self) -> None:
        print("\n| n-grams learnt from | KL reduction, known half | held-out half | "
              "share of the bound | learning, s |\n|---:|---:|---:|---:|---:|")  # fmt: skip
        models = {name: self.model(name) for name in self.halves}
        for size in SAMPLES:
            rows = []
            for name, model in models.items():
                budget = {"num_to_sample": self.common["num_to_sample"]}
                ids, share, seconds = self.match(model, budget, match_tokens=size)
                rows.append((*self.reductions(name, ids), share, seconds))
            known, held, share, seconds = (statistics.mean(c) for c in zip(*rows, strict=True))
            label = size if isinstance(size, str) else f"{size:,}"
            print(f"| {label} | {known:+.4f} | {held:+.4f} | {share:.1%} | {seconds:.0f} |",
                  flush=True)  # fmt: skip

    def budget(self) -> None:
        print("\n| target | share of the bound, budget in documents | as many tokens |\n"
              "|---|---:|---:|")  # fmt: skip
        for name in self.halves:
            model = self.model(name)
            budget = {"num_to_sample": self.common["num_to_sample"]}
            ids, by_documents, _ = self.match(model, budget)
            tokens = sum(self.pool.tokens[i] for i in ids)
            _, by_tokens, _ = self.match(model, {"num_tokens_to_sample": tokens})
            print(f"| {name} | {by_documents:.1%} | {by_tokens:.1%} |", flush=True)

    def small(self) -> None:
        heads = ("random", "DSIR", "DSIR, Dirichlet smoothing auto", "match")
        print(f"\n| target documents | {' | '.join(heads)} |\n|---:|{'---:|' * len(heads)}")
        candidates = sorted(i for i, n in self.pool.tokens.items()
                            if n >= self.common["min_example_length"])  # fmt: skip
        for size in SMALL:
            rows = []
            for name in self.halves:
                draw = np.random.default_rng(self.common["seed"])
                chosen = draw.choice(len(candidates), self.common["num_to_sample"], replace=False)
                plain = self.model(name, size)
                smooth = self.model(name, size, target_dirichlet_smoothing="auto")
                ids = [
                    [candidates[i] for i in chosen],
                    cut(plain, self.raw, None, self.common),
                    cut(smooth, self.raw, None, self.common),
                    self.match(plain, {"num_to_sample": self.common["num_to_sample"]})[0],
                ]
                rows.append([self.reductions(name, own)[1] for own in ids])
            means = [f"{statistics.mean(c):+.3f}" for c in zip(*rows, strict=True)]
            print(f"| {size} | {' | '.join(means)} |", flush=True)


if __name__ == "__main__":
    main()
