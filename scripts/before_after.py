"""The package of another checkout beside this one, measured by turns in one run; a Markdown table.

    python scripts/before_after.py --before CHECKOUT --data FOLDER [--mb 60] [--rounds 5]
                                   [--rows 2000000] [--parts kernels narrow compile spark]
                                   [--check 0.85]

FOLDER holds Parquet files with a column `text`, of which the first `--mb` MB are taken. Each
version runs in processes of its own, which measure by turns, round after round, so that a slow
minute slows both. All figures are medians; `times as fast` compares the two of a round. What runs
on one core is timed in seconds of the processor, which other programs lengthen little. Parts:

kernels : text to weights and counts on one core, with the vectors of this processor
narrow : the same with vectors of 32 bytes (NUMBA_CPU_NAME=znver2 NUMBA_CPU_FEATURES=+sha)
compile : counting and scoring once in a new process, on an empty NUMBA_CACHE_DIR and on a full one
spark : a session a version on all cores; fit, weigh, and the cut of 1 in 100 of `--rows` made rows

`--check` fails where kernels weigh or count (xxhash64) at less than this share of the rate before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

AFTER = Path(__file__).resolve().parents[1]
NARROW = {"NUMBA_CPU_NAME": "znver2", "NUMBA_CPU_FEATURES": "+sha"}
PARTS = ("kernels", "narrow", "compile", "spark")
HELD = ("kernel: weigh, xxhash64", "kernel: count, xxhash64")
KERNELS = (*HELD, "kernel: weigh, sha256")
PASSES = ("Spark: fit", "Spark: weigh")
CUTS = ("Spark: cut", "Spark: cut, copies dropped")
SLOW = 8  # the slow sha256 is measured on so small a part of each batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--mb", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--check", type=float)
    parser.add_argument("--serve", choices=("kernels", "spark"), help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve or options.once:
        found = find_spec("dsir_spark").origin  # without importing it, which may be what is timed
        assert Path(found).is_relative_to(options.before), f"{found} is not of {options.before}"
    if options.serve:
        serve(*SERVED[options.serve](options.data, options.rows))
    elif options.once:
        print(json.dumps(load_once()))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            compare(options, Path(scratch))


def compare(options: argparse.Namespace, scratch: Path) -> None:
    megabytes = write_texts(options.data, scratch / "data", options.mb)
    before, after = (Version(place.resolve(), scratch) for place in (options.before, AFTER))
    print(f"{megabytes:.1f} MB of text; {options.rows:,} made rows; {options.rounds} rounds; "
          f"{os.cpu_count()} cores; Python {platform.python_version()}\n")  # fmt: skip
    print("| what | before | after | times as fast | from | to |\n|---|---:|---:|---:|---:|---:|")
    table = Table(before, after, options.rounds, options.rows)
    if "kernels" in options.parts:
        table.served("kernels", dict.fromkeys(KERNELS, "MB/s"))
    if "narrow" in options.parts and platform.machine() in ("x86_64", "AMD64"):
        table.served("kernels", dict.fromkeys(KERNELS, "MB/s"), ", 32 bytes", **NARROW)
    if "compile" in options.parts:
        table.first_calls()
    if "spark" in options.parts:
        write_weights(scratch / "data" / "weights.parquet", options.rows)
        units = dict.fromkeys(PASSES, "MB/s") | dict.fromkeys(CUTS, "M rows/s")
        table.served("spark", units)
    slow = [f"{what} at {ratio:.2f} of the rate before" for what, ratio in table.ratios.items()
            if what.startswith(HELD) and ratio < (options.check or 0)]  # fmt: skip
    if slow:
        sys.exit("error: " + "; ".join(slow))


class Table:
    """A row for each thing measured; `ratios`: how many times as fast after as before."""

    def __init__(self, before: Version, after: Version, rounds: int, rows: int) -> None:
        self.versions = {"before": before, "after": after}
        self.rounds, self.rows = rounds, rows
        self.ratios: dict[str, float] = {}

    def by_turns(self, run: Callable[[str], Any]) -> list[dict[str, Any]]:
        """What each round found for `before` and `after`, which take the first turn by turns."""
        names = list(self.versions)
        return [{name: run(name) for name in names[:: (-1) ** i]} for i in range(self.rounds)]

    def served(
        self, kind: str, units: dict[str, str], suffix: str = "", **environment: str
    ) -> None:
        """The rates of all that a server of each version measures, after runs that do not count."""
        with contextlib.ExitStack() as stack:
            servers = {
                name: stack.enter_context(Server(version, kind, self.rows, environment))
                for name, version in self.versions.items()
            }
            for what, unit in units.items():
                for server in servers.values():
                    server.rate(what)
                found = self.by_turns(lambda name, what=what: servers[name].rate(what))
                self.row(what + suffix, found, unit)

    def first_calls(self) -> None:
        """A new process and a new cache each time; then a new process again, with that cache."""

        def run(name: str) -> dict[str, float]:
            with tempfile.TemporaryDirectory(dir=self.versions[name].folder) as cache:
                return {f"{what}, {label}": seconds for label in ("empty cache", "full cache")
                        for what, seconds in self.versions[name].loaded(cache).items()}  # fmt: skip

        found = self.by_turns(run)
        for what in found[0]["after"]:
            self.row(what, [{name: r[name][what] for name in r} for r in found], "s")

    def row(self, label: str, rounds: list[dict[str, float]], unit: str) -> None:
        """Print what the rounds found."""
        middle = [statistics.median(r[name] for r in rounds) for name in ("before", "after")]
        ratios = [r["before"] / r["after"] if unit == "s" else r["after"] / r["before"]
                  for r in rounds]  # fmt: skip
        self.ratios[label] = statistics.median(ratios)
        cells = [f"{m:,.2f} {unit}" for m in middle]
        cells += [f"{r:.2f}" for r in (self.ratios[label], min(ratios), max(ratios))]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


class Version:
    """A checkout, the folder that its processes run in, and the environment that they have."""

    def __init__(self, place: Path, scratch: Path) -> None:
        if not (place / "dsir_spark").is_dir():
            sys.exit(f"error: there is no dsir_spark in {place}")
        self.place, self.data = place, scratch / "data"
        self.folder = Path(tempfile.mkdtemp(dir=scratch))
        self.environment = {
            **os.environ, "PYTHONPATH": str(place), "NUMBA_CACHE_DIR": str(self.folder / "compiled")
        }  # fmt: skip

    def command(self, *arguments: str) -> list[str]:
        """Of this script in another role, for this version."""
        places = ["--before", str(self.place), "--data", str(self.data)]
        return [sys.executable, __file__, *places, *arguments]

    def loaded(self, cache: str) -> dict[str, float]:
        """Seconds of `load_once`, with compiled code in that folder."""
        done = subprocess.run(
            self.command("--once"), capture_output=True, text=True, cwd=self.folder,
            env={**self.environment, "NUMBA_CACHE_DIR": cache},
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        return dict(json.loads(done.stdout))


class Server:
    """A process of a version that stays, and measures what it is asked for."""

    def __init__(self, version: Version, kind: str, rows: int, more: dict[str, str]) -> None:
        self.log = version.folder / f"{kind}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                version.command("--serve", kind, "--rows", str(rows)), text=True, stderr=log,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=version.folder,
                env={**version.environment, **more},
            )  # fmt: skip

    def rate(self, what: str) -> float:
        """Of one run, a second."""
        with contextlib.suppress(BrokenPipeError):  # its log says why
            print(what, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(self.log.read_text(errors="replace")[-3000:])
        return float(answer)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def write_texts(data: Path, place: Path, megabytes: float) -> float:
    """Texts of the folder in some files, with ids, and 500 of them as a target; MB written."""
    chosen: list[pa.Array] = []
    left = megabytes * 1e6
    for batch in ds.dataset(data, format="parquet").to_batches(columns=["text"]):
        texts = batch.column(0).drop_null().cast(pa.string())
        sizes = np.cumsum(pc.binary_length(texts), dtype=np.int64)
        chosen.append(texts.slice(0, int(np.searchsorted(sizes, left)) + 1))
        left -= sizes[-1] if len(sizes) else 0
        if left <= 0:
            break
    texts = pa.chunked_array(chosen)
    table = pa.table({"id": [f"d{i}" for i in range(len(texts))], "text": texts})
    (place / "raw").mkdir(parents=True)
    parts = 2 * (os.cpu_count() or 1)
    for part in range(parts):
        pq.write_table(table.take(np.arange(part, len(table), parts)),
                       place / "raw" / f"{part}.parquet")  # fmt: skip
    pq.write_table(table.slice(0, 500), place / "target.parquet")
    return size_of(texts)


def size_of(texts: pa.Array | pa.ChunkedArray) -> float:
    """MB of UTF-8 text."""
    return (pc.sum(pc.binary_length(texts)).as_py() or 0) / 1e6


def write_weights(place: Path, rows: int) -> None:
    """A weights table of made-up documents, no two alike."""
    draw = np.random.default_rng(1)
    high, low = (pa.array(draw.integers(-(1 << 62), 1 << 62, rows)) for _ in range(2))
    pq.write_table(pa.table({
        "id": pa.array([f"d{i}" for i in range(rows)]),
        "log_weight": 40 * draw.normal(size=rows),
        "num_tokens": draw.integers(100, 1000, rows),
        "text_hash": pa.StructArray.from_arrays([high, low], names=["high", "low"]),
    }), place, row_group_size=max(1, rows // 8))  # fmt: skip


# From here on: in a process of one version, whichever it is.

Clock = Callable[[], float]
Runs = dict[str, tuple[float, Callable[[], object]]]  # what is measured: how much, and the run


def serve(clock: Clock, runs: Runs) -> None:
    """Answer each name with a rate, a line each."""
    # Whatever else is printed here, by Spark or its workers, is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        amount, run = runs[line.strip()]
        begin = clock()
        run()
        print(amount / (clock() - begin), file=answers, flush=True)


def served_kernels(data: Path, rows: int) -> tuple[Clock, Runs]:
    from dsir_spark import features

    texts = pq.read_table(data / "raw", columns=["text"])["text"].combine_chunks()
    tables = np.random.default_rng(0).normal(size=(10_000, 1))
    usual, other = (features.FeatureSpec(2, 10_000, hash=h) for h in ("xxhash64", "sha256"))

    def weigh(batches: list[pa.Array], spec: Any) -> None:
        for batch in batches:
            features.score(batch, tables, spec)

    def count(batches: list[pa.Array]) -> None:
        for batch in batches:
            features.count_ngrams(batch, usual)

    batches = [texts.slice(i, 2_000) for i in range(0, len(texts), 2_000)]
    few = [batch.slice(0, len(batch) // SLOW + 1) for batch in batches]
    whole, part = size_of(texts), sum(map(size_of, few))
    runs = (
        (whole, partial(weigh, batches, usual)),
        (whole, partial(count, batches)),
        (part, partial(weigh, few, other)),
    )
    return time.process_time, dict(zip(KERNELS, runs, strict=True))


def served_spark(data: Path, rows: int) -> tuple[Clock, Runs]:
    from dsir_spark import DSIR
    from dsir_spark.session import build_session

    spark = build_session()
    spark.sparkContext.setLogLevel("ERROR")
    names = ("raw", "target.parquet", "weights.parquet")
    raw, target, weights = (spark.read.parquet(str(data / name)) for name in names)
    whole = size_of(pq.read_table(data / "raw", columns=["text"])["text"])
    published = DSIR(ngrams=2, num_buckets=10_000)  # what all versions had
    model = published.fit(target, target)  # any table of numbers costs the same
    weighed = model.weigh(raw).write.format("noop").mode("overwrite")
    keep = {"num_to_sample": rows // 100, "method": "sample", "seed": 1, "duplicates": "keep"}
    cut = partial(cutter(), model, weights)
    runs = (
        (whole, lambda: published.fit(raw, target)),
        (whole, weighed.save),
        (rows / 1e6, lambda: cut(keep)),
        (rows / 1e6, lambda: cut({**keep, "duplicates": "drop"})),
    )
    return time.perf_counter, dict(zip((*PASSES, *CUTS), runs, strict=True))


def cutter() -> Callable[[Any, Any, dict[str, Any]], object]:
    """What finds the cut-offs from a weights table."""
    try:
        from dsir_spark.options import ResampleOptions
        from dsir_spark.resampling import find_selection
    except ImportError:  # before there were wings
        from dsir_spark.config import ResampleConfig

        return lambda model, weights, own: model.select(weights, ResampleConfig(**own))
    return lambda model, weights, own: find_selection(
        model, weights, ResampleOptions.checked(own)
    )  # fmt: skip


def load_once() -> dict[str, float]:
    """Seconds that a worker waits: for numba, and for its first counts and weights."""
    import pyspark.sql  # noqa: F401 - a worker has it anyway

    begin = time.process_time()
    import numba  # noqa: F401

    loaded = time.process_time()
    from dsir_spark import features

    spec, texts = features.FeatureSpec(2, 10_000), pa.array(["a b", None])
    features.count_ngrams(texts, spec)
    features.score(texts, np.zeros((spec.num_buckets, 1)), spec)
    return {
        "import of numba": loaded - begin,
        "first call, without numba's import": time.process_time() - loaded,
    }


SERVED = {"kernels": served_kernels, "spark": served_spark}

if __name__ == "__main__":
    main()
