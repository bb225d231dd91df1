"""The wall clock of whole commands, process start, report and all, beside the reference package.

    python scripts/bench.py --parts jobs --data RAW --target FILE [--rounds 3] [--copies 10]
                            [--many 60] [--num-to-sample 2000] [--kinds page] [--documents 200]

RAW holds Parquet files with the columns `id` and `text`, FILE the target. Each command is a process
of its own, with an output folder of its own; rounds go through all commands in turn, and medians
are told. The reference reads JSON lines that are written for it before; it writes no tables and no
report. `--copies` adds jobs on so many salted copies of raw (see `growth.salted`), for as many
times the documents; the reference's time there is that on one copy times the copies, which is kind:
it holds all weights in memory. `--many` adds a job of so many targets, each a part of FILE; with
`--documents`, raw is its first so many; with `--kinds`, only these commands are run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from compare_reference import write_lines

PUBLISHED = ("--method", "sample", "--ngrams", "2", "--num-buckets", "10000", "--held-out", "0")
KINDS = {
    "page": ("run, with its page", ()),
    "run": ("run", ("--no-report",)),
    "sample": ("run, sample", ("--method", "sample", "--no-report")),
    "published": ("run as published", (*PUBLISHED, "--no-report")),
}
MANY = "run, {} targets, with its page"
REFERENCE = "reference package"
THEIRS = """
import sys
from data_selection import HashedNgramDSIR
raw, target, out, k, cores = sys.argv[1:]
dsir = HashedNgramDSIR([raw], [target], cache_dir=out + "/cache", num_proc=int(cores))
dsir.fit_importance_estimator(num_tokens_to_fit="all")
dsir.compute_importance_weights()
dsir.resample(out + "/sample", int(k), cache_dir=out + "/resample")
"""


def jobs(options: argparse.Namespace, scratch: Path) -> None:
    """Run all and print the tables."""
    raw, target = options.data.resolve(), options.target.resolve()
    k, copies, many = options.num_to_sample, options.copies, options.many
    if options.documents:
        few = pq.read_table(raw).slice(0, options.documents)
        raw = scratch / "few.parquet"
        pq.write_table(few, raw)
    size = _salted(raw, scratch / "copies", copies) / copies
    lines = [write_lines(pq.read_table(place, columns=["text"]), scratch / f"{name}.jsonl")
             for name, place in (("raw", raw), ("target", target))]  # fmt: skip
    parts = _parts(target, scratch / "parts", many) if many else {}
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    stages: dict[tuple[str, int], list[float]] = defaultdict(list)
    for turn in range(options.rounds):
        for kind, own in (KINDS[name] for name in options.kinds):
            of = {1: raw} | ({copies: scratch / "copies"} if copies > 1 else {})
            for times, place in of.items():
                out = scratch / f"out-{turn}-{kind}-{times}"
                command = _run(place, [str(target)], out, k * times, own)
                seconds[kind, times].append(_timed(command, scratch))
                stages[kind, times].append(_fit_and_weigh(out))
        if parts:
            named = [f"{name}={place}" for name, place in parts.items()]
            command = _run(raw, named, scratch / f"many-{turn}", k, ())
            seconds[MANY.format(many), 1].append(_timed(command, scratch))
        out = scratch / f"theirs-{turn}"
        out.mkdir()
        theirs = [sys.executable, "-c", THEIRS, *lines, str(out), str(k), str(os.cpu_count())]
        seconds[REFERENCE, 1].append(_timed(theirs, scratch))
    _show(seconds, stages, size / 1e6)


def _show(
    seconds: dict[tuple[str, int], list[float]], stages: dict[tuple[str, int], list[float]],
    megabytes: float,
) -> None:  # fmt: skip
    reference = statistics.median(seconds[REFERENCE, 1])
    print("| command | raw, MB | wall, s (each round) | median, s | the reference's, over it |\n"
          "|---|---:|---:|---:|---:|")  # fmt: skip
    for (kind, times), own in seconds.items():
        each, median = ", ".join(f"{s:.1f}" for s in own), statistics.median(own)
        print(f"| {kind} | {megabytes * times:,.1f} | {each} | {median:.1f} | "
              f"{reference * times / median:.1f} |")  # fmt: skip
    for kind, _ in KINDS.values():
        own = sorted(times for k, times in seconds if k == kind)
        if len(own) < 2:
            continue
        more, passes = (
            statistics.median(of[kind, own[1]]) - statistics.median(of[kind, own[0]])
            for of in (seconds, stages)
        )
        gigabytes = megabytes * (own[1] - own[0]) / 1e3
        print(f"\n{kind}: a gigabyte more costs {more / gigabytes:.1f} s, {more / passes:.2f} "
              f"times what fit and weigh cost of it ({passes / gigabytes:.1f} s).")  # fmt: skip


def _run(
    raw: Path, targets: Sequence[str], out: Path, k: int, options: Sequence[str]
) -> list[str]:  # fmt: skip
    own = [flag for one in targets for flag in ("--target", one)]
    program = str(Path(sys.executable).with_name("dsir-spark"))
    return [program, "run", "--raw", str(raw), *own, "--output", str(out),
            "--num-to-sample", str(k), *options]  # fmt: skip


def _timed(command: Sequence[str], scratch: Path) -> float:
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=scratch)
    if done.returncode:
        sys.exit(done.stdout[-2_000:] + done.stderr[-2_000:])
    return time.perf_counter() - begin


def _fit_and_weigh(output: Path) -> float:
    """Seconds of both stages, from the job's record: the row that knows most of them."""
    rows = [dict(row) for part in (output / "runs").glob("*.parquet")
            for row in pq.read_table(part, columns=["seconds"])["seconds"].to_pylist()]  # fmt: skip
    stages = max(rows, key=len)
    return float(stages["fit"] + stages["weigh"])


def _salted(raw: Path, folder: Path, copies: int) -> int:
    """Write the copies, as `growth.salted` has them; bytes of text in all of them."""
    folder.mkdir(parents=True)
    table, total = pq.read_table(raw, columns=["id", "text"]), 0
    table = table.filter(pc.is_valid(table["text"]))
    for copy in range(copies):
        text = pc.replace_substring(table["text"], "\n", f" salt{copy}\n")
        text = pc.binary_join_element_wise(text, f" salt{copy}\n", "")
        ids = pc.binary_join_element_wise(table["id"].cast(pa.string()), f"-{copy}", "")
        pq.write_table(pa.table({"id": ids, "text": text}), folder / f"{copy:03}.parquet",
                       row_group_size=20_000)  # fmt: skip
        total += pc.sum(pc.binary_length(text)).as_py()
    return total


def _parts(target: Path, folder: Path, number: int) -> dict[str, Path]:
    folder.mkdir(parents=True)
    table = pq.read_table(target)
    found = {f"t{i:03}": folder / f"t{i:03}.parquet" for i in range(number)}
    for i, place in enumerate(found.values()):
        pq.write_table(table.take(list(range(i, len(table), number))), place)
    return found
