"""Does it train better models? Selections of equal size by every method, judged by held-out text.

    python scripts/evidence.py DATA --output FOLDER [--parts A D E F G H I B C job]
                               [--targets biomed] [--seeds 3] [--megabytes 4]

DATA is as `judging.corpus` says. Every other text of a target is held out. Parts:

A    bits per byte of the held-out half by PPM that has read each selection, all methods
B    word vectors of each selection, frozen; a linear classifier on each task's labels
C    a byte-level GPT trained on each selection
D    how KL reduction, and what else the report shows, goes with A and B
E    A by how much is selected
F    A by how many texts of the target are known
G    A by how much of raw is in what `match` brings near to a target
H    A by what was tried beside: `match` with a temperature, without near-copies, of words and
     sub-words together, in forms chosen for each target by a part of it kept aside; DSIR with a
     correction for length
I    A by n-grams and buckets
job  what the package's job over Spark selects beside what was judged, and what it costs

Each result is a line of FOLDER/PART.jsonl as soon as it is known: the same command goes on where
it ended. At the end tables are printed, and pictures drawn with `--pictures FOLDER`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from judging import shown
from judging.corpus import TASKS, Pool, Target, load
from judging.judges import Facts, Ppm, shuffled
from judging.methods import ALL_TARGETS, ONE_SEED, Choice

PARTS = ("A", "B", "C", "D", "E", "F", "G", "H", "I", "job")
# N-grams, buckets, Dirichlet smoothing (n-grams), percent of raw learnt from.
FORMS = (
    "match 2 10000", "sample 2 10000",
    "match 2 10000 10000", "match 2 100000 10000", "match 2 100000 100000",
    "match 2 30000", "match 2 100000", "match 2 300000", "match 2 1000000",
    "match 1 10000", "match 1 30000", "match 1 100000", "match 1 300000",
    "match 3 100000", "match 3 1000000", "match 2 100000 0 20",
    "sample 1 100000", "sample 2 100000",
)  # fmt: skip
SHARES = (0.5, 1, 2, 4, 8, 16, 32)  # percent of raw
RAW_SHARES = (0, 1, 10, 30)  # percent of raw in what is brought near to a target
DEFAULT = "match 1 30000"
TRIED = ("softened 1 1 30000", "softened 5 1 30000", "softened 20 1 30000", "apart 1 30000",
         "pieces 1 30000", "sample 2 10000", "long 2 10000")  # fmt: skip
# Of which one is chosen for each target (the method `auto`).
CHOSEN_FROM = ("match 1 10000", DEFAULT, "match 1 100000", "match 2 100000", "match 2 1000000")
SIZES = (5, 30, 300)  # texts of a target
TRAINED = ("random", "domain's own", "classifier, top-k", "DSIR", "match 10^4", "match 10^5",
           "match 10^5, unigrams")  # fmt: skip
# The GPT is trained on a selection alone, or goes on from one that was trained on as much of raw.
NEURAL = ("random", "classifier, top-k", "DSIR", DEFAULT)
NEURAL_TARGETS, SETTINGS = ("biomed", "code", "news"), ("alone", "continued")
JOBS = ("sample 2 10000", "match 2 10000", "match 2 100000", "match 1 100000")
BY_SHARE = ("match 10^5, unigrams", "DSIR", "random")
BY_SIZE = ("DSIR", "DSIR, Dirichlet auto", "match 10^4", "match 10^4, Dirichlet auto",
           "match 10^5", "match 10^5, unigrams")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="Where results are kept.")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--methods", nargs="*", help="Of parts A and I; default: all.")
    parser.add_argument("--seeds", type=int, default=3, help="Of methods with noise.")
    parser.add_argument("--megabytes", type=float, default=4.0, help="Of each selection.")
    parser.add_argument("--steps", type=int, default=400, help="Of the GPT, 3,072 tokens each.")
    parser.add_argument("--pictures", type=Path, help="Where to draw the plots.")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    evidence = Evidence(options)
    for part in options.parts:
        getattr(evidence, part.lower())()
    shown.show(options.output, options.parts, options.pictures)


class Rows:
    """The results of a part: a line of JSON each, found by what they are of."""

    def __init__(self, place: Path) -> None:
        self._place = place
        found = shown.rows(place)
        # Without a last line that was cut off.
        place.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
        self._known = {_key(row) for row in found}

    def missing(self, wanted: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """What is wanted and not there yet."""
        return (own for own in wanted if _key(own) not in self._known)

    def add(self, row: dict[str, Any]) -> None:
        with self._place.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        self._known.add(_key(row))


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("target", "method", "seed", "share", "size", "setting")
    return tuple(row.get(name) for name in names)


class Evidence:
    """The parts, over a pool and targets that are read when one of them needs them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.budget = int(options.megabytes * 1e6)
        self._loaded: tuple[Pool, dict[str, Target]] | None = None
        self.ppm = Ppm()

    def loaded(self) -> tuple[Pool, dict[str, Target]]:
        if self._loaded is None:
            self._loaded = load(self.options.data, self.options.targets)
            pool, targets = self._loaded
            facts = {
                "documents": len(pool.ids), "candidates": int(pool.candidate.sum()),
                "bytes": int(pool.bytes.sum()), "overlaps": pool.overlaps, "budget": self.budget,
                "targets": {n: [len(t.known), len(t.held)] for n, t in targets.items()},
            }  # fmt: skip
            place = self.options.output / "data.json"
            place.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        return self._loaded

    def choice(self, targets: dict[str, Target], budget: int | None = None) -> Choice:
        return Choice(self.loaded()[0], targets, budget or self.budget)

    def a(self) -> None:
        methods = self.options.methods or ALL_TARGETS
        self._judge("A", [
            {"target": t, "method": m, "seed": s}
            for m in methods for t in self.loaded()[1] for s in self._seeds(m)
        ])  # fmt: skip

    def h(self) -> None:
        targets = self.loaded()[1]
        self._judge("H", [{"target": t, "method": m, "seed": 1}
                          for m in (*TRIED, *CHOSEN_FROM) for t in targets])  # fmt: skip
        # Each form by every other known text, judged by the others: `shown` takes the best.
        inner = {
            n: dataclasses.replace(t, known=t.known.take(_every_other(t.known, 0)),
                                   held=t.known.take(_every_other(t.known, 1)), labels=None)
            for n, t in targets.items()
        }  # fmt: skip
        self._judge("H", [{"target": t, "method": m, "seed": 1, "setting": "inner"}
                          for m in CHOSEN_FROM for t in targets], self.choice(inner))  # fmt: skip

    def i(self) -> None:
        self._judge("I", [
            {"target": t, "method": m, "seed": 1}
            for m in self.options.methods or FORMS for t in self.loaded()[1]
        ])  # fmt: skip

    def e(self) -> None:
        plain = {n: t for n, t in self.loaded()[1].items() if n not in TASKS}
        for method, share in itertools.product(BY_SHARE, SHARES):
            budget = round(share / 100 * int(self.loaded()[0].bytes.sum()))
            wanted = [{"target": t, "method": method, "seed": 1, "share": share} for t in plain]
            self._judge("E", wanted, self.choice(plain, budget))

    def f(self) -> None:
        plain = {n: t for n, t in self.loaded()[1].items() if n not in TASKS}
        for size in SIZES:
            small = {n: t.first(size) for n, t in plain.items()}
            wanted = [{"target": t, "method": m, "seed": 1, "size": size}
                      for m in BY_SIZE for t in plain]  # fmt: skip
            self._judge("F", wanted, self.choice(small))

    def g(self) -> None:
        """Of a fiftieth of raw, and of much less."""
        for share, percent in itertools.product((2, 0.2, 0.02), RAW_SHARES):
            budget = round(share / 100 * int(self.loaded()[0].bytes.sum()))
            method = f"match 1 30000 0 100 {percent}"
            wanted = [{"target": t, "method": method, "seed": 1, "share": share}
                      for t in self.loaded()[1]]  # fmt: skip
            self._judge("G", wanted, self.choice(self.loaded()[1], budget))

    def b(self) -> None:
        from judging.training import f1_of

        tasks = {n: t for n, t in self.loaded()[1].items() if t.labels is not None}
        rows, choice = Rows(self.options.output / "B.jsonl"), self.choice(tasks)
        for row in rows.missing(
            {"target": t, "method": m, "seed": s} for m in TRAINED for t in tasks
            for s in range(1, self.options.seeds + 1)
        ):  # fmt: skip
            selection = choice.select(row["method"], row["target"], row["seed"])
            rows.add(row | {"f1": f1_of(selection, tasks[row["target"]], row["seed"])})

    def c(self) -> None:
        from judging import gpt

        plain = {n: t for n, t in self.loaded()[1].items() if n in NEURAL_TARGETS}
        rows, choice = Rows(self.options.output / "C.jsonl"), self.choice(plain)
        wanted = [*rows.missing(
            {"target": t, "method": m, "seed": s, "setting": how}
            for s in range(1, self.options.seeds + 1) for how in SETTINGS
            for m in NEURAL for t in plain
        )]  # fmt: skip
        first, steps = next(iter(plain)), self.options.steps
        bpe = gpt.Bpe(choice.select("random", first, 99).texts.to_pylist())

        @functools.lru_cache(maxsize=1)
        def read_raw(seed: int) -> gpt.Parameters:
            text = shuffled(choice.select("random", first, 100 + seed).texts)
            return gpt.trained(bpe.ids(text), steps, seed)

        @functools.lru_cache(maxsize=3)  # random's text is every target's
        def model(text: bytes, seed: int, how: str) -> gpt.Parameters:
            begin = read_raw(seed) if how == "continued" else None
            return gpt.trained(bpe.ids(text), steps, seed, begin)

        for row in wanted:
            text = shuffled(choice.select(row["method"], row["target"], row["seed"]).texts)
            trained = model(text, row["seed"], row["setting"])
            held = bpe.ids(shuffled(plain[row["target"]].held)[: gpt.HELD])
            rows.add(row | {"bits": gpt.bits(trained, held, bpe.bytes), "steps": steps})

    def job(self) -> None:
        from judging.job import compare

        rows = Rows(self.options.output / "job.jsonl")
        name = (self.options.targets or ["biomed"])[0]
        wanted = [*rows.missing({"target": name, "method": m, "seed": 1} for m in JOBS)]
        if wanted:
            compare(self.choice({name: self.loaded()[1][name]}), wanted, rows.add)

    def d(self) -> None:
        """Nothing to compute: `shown` reads A and B."""

    def _seeds(self, method: str) -> range:
        return range(1, 2 if method in ONE_SEED else self.options.seeds + 1)

    def _judge(self, part: str, wanted: list[dict[str, Any]], choice: Choice | None = None) -> None:
        """Judge what is not there yet by the held-out half of the choice's targets."""
        rows = Rows(self.options.output / f"{part}.jsonl")
        left = [*rows.missing(wanted)]
        if not left:
            return
        choice = choice or self.choice(self.loaded()[1])
        targets = choice.targets
        facts = Facts(choice)
        for row in left:
            begin = time.perf_counter()
            selection = choice.select(row["method"], row["target"], row["seed"])
            found = {"seconds": round(time.perf_counter() - begin, 2)}
            found["bits"] = self.ppm.bits(selection, targets[row["target"]])
            rows.add(row | found | facts.of(selection, targets[row["target"]]))


def _every_other(texts: pa.Array, first: int) -> pa.Array:
    return pa.array(range(first, len(texts), 2))


if __name__ == "__main__":
    main()
