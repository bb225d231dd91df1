"""What `run` reads of raw, what it hands to Python, and its Spark jobs, by Spark's event log.

    python scripts/passes.py [--check] [--list]

Raw is made: 200,000 documents in eight Parquet files, so many that samples of fixed size weigh
little; two fifths of the bytes are columns that no pass needs but the copying of what is selected.
Read: bytes that tasks which scan raw read, over the size of the files. Handed over: bytes sent to
Python workers (texts with their ids, those of the target and of samples too; not the numbers that
the report counts in bins), over the size of raw's texts. A run needs two passes of the kernel; a
third where the selection is too large to be sent to the scan of raw as ids, for which the limit of
that is set to 0 here. `--check` fails on more than LIMITS and JOBS, `--list` shows the jobs by
stage.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsir_spark import job, resampling
from dsir_spark.job_options import JobOptions
from dsir_spark.session import build_session

FILES, DOCUMENTS, SELECTED = 8, 200_000, 1_000
# Read and handed over, and jobs without a page and with one.
LIMITS = {True: (4.0, 2.1), False: (5.0, 3.1)}  # is the selection sent as ids?
JOBS = {False: 29, True: 34}
_SENT_TO_PYTHON = "data sent to Python workers"
_BINS = "kind#"  # of what the report counts in bins: numbers of the weights, no texts


class Case(NamedTuple):
    method: str
    page: bool
    sent: bool = True

    def __str__(self) -> str:
        return f"{self.method}{', page' * self.page}{', found again' * (not self.sent)}"


CASES = [Case(method, page) for method in ("sample", "top_k", "match") for page in (False, True)]
CASES += [Case("sample", False, False), Case("sample", True, False)]


class Counted(NamedTuple):
    """Of one run: bytes read of raw, bytes handed to Python, and the labels of its jobs."""

    read: int
    handed: int
    jobs: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size, text = made(Path(folder))
        spans = run(Path(folder))
        events = [json.loads(line) for line in log_of(Path(folder))]
    print(f"raw: {size / 1e6:.1f} MB of Parquet, {text / 1e6:.1f} MB of text\n")
    print("| run | read / size | handed over / text | jobs | s |\n|---|---:|---:|---:|---:|")
    failed = []
    for case, (begin, end) in spans.items():
        found = counted(events, begin, end)
        numbers = found.read / size, found.handed / text, len(found.jobs)
        print("| {} | {:.2f} | {:.2f} | {} | {:.1f} |".format(case, *numbers, (end - begin) / 1e3))
        limits = (*LIMITS[case.sent], JOBS[case.page])
        if any(n > limit for n, limit in zip(numbers, limits, strict=True)):
            failed.append(f"{case}: {numbers} of {limits}")
        if options.list:
            for label, n in collections.Counter(found.jobs).items():
                print(f"    {n:3} {label}")
    if options.check and failed:
        sys.exit("error: more than the limits of read, handed over, jobs: " + "; ".join(failed))


def made(folder: Path) -> tuple[int, int]:
    """Write raw and target; bytes of raw's files and of its texts."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(map(chr, rng.integers(97, 123, n)))
                      for n in np.sort(rng.integers(2, 10, 5_000))])  # fmt: skip
    (folder / "raw").mkdir()
    size = 0
    for i in range(FILES):
        ids = np.arange(i, DOCUMENTS, FILES)
        rows = pa.table({
            "id": ids, "text": texts(rng, words, len(ids)),
            **{f"unused_{c}": binary(rng, len(ids), 80)
               for c in range(2)},
        })  # fmt: skip
        size += rows["text"].nbytes
        pq.write_table(rows, folder / "raw" / f"{i}.parquet", compression="zstd")
    target = pa.table({"text": texts(rng, words[:500], 300)})
    pq.write_table(target, folder / "target.parquet")
    return sum(f.stat().st_size for f in (folder / "raw").iterdir()), size


def texts(rng: np.random.Generator, words: np.ndarray, n: int) -> list[str]:
    """n texts of 40 to 130 words, frequent ones first in `words`."""
    lengths = rng.integers(40, 130, n)
    # Cubed, so that some words are frequent.
    drawn = words[(rng.random(lengths.sum()) ** 3 * len(words)).astype(int)]
    return [" ".join(own) for own in np.split(drawn, np.cumsum(lengths)[:-1])]


def binary(rng: np.random.Generator, n: int, width: int) -> pa.Array:
    """n random values, which no compression makes smaller."""
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), n, [None, pa.py_buffer(rng.bytes(n * width))]
    ).cast(pa.binary())


def run(folder: Path) -> dict[Case, tuple[int, int]]:
    """Begin and end of each run, milliseconds of the clock that Spark's events have."""
    (folder / "events").mkdir()
    spark = build_session(conf={
        "spark.eventLog.enabled": "true", "spark.eventLog.dir": f"file://{folder}/events",
        "spark.eventLog.rolling.enabled": "false", "spark.eventLog.compress": "false",
        "spark.sql.maxMetadataStringLength": "10000",  # places are told in full
        # What is read so from this machine's files is counted nowhere.
        "spark.hadoop.parquet.hadoop.vectored.io.enabled": "false",
    })  # fmt: skip
    spark.sparkContext.setLogLevel("ERROR")
    spans, sent = {}, resampling.SENT_IDS
    for case in CASES:
        options = JobOptions.checked({
            "raw": f"{folder}/raw", "target": f"{folder}/target.parquet",
            "output": f"{folder}/{len(spans)}", "num_to_sample": SELECTED, "method": case.method,
            "report": case.page, "min_example_length": 0,
            # A sample far smaller than raw, as it is of any raw of some size.
            **({"match_tokens": 200_000} if case.method == "match" else {}),
        })  # fmt: skip
        resampling.SENT_IDS = sent if case.sent else 0
        begin = time.time()
        row = job.run_all(spark, options)
        if case.page:
            job.write_report(spark, row["facts"], str(options.output))
        spans[case] = int(begin * 1e3), int(time.time() * 1e3)
        time.sleep(0.1)
    spark.stop()
    return spans


def log_of(folder: Path) -> Iterator[str]:
    for file in (folder / "events").iterdir():
        yield from file.read_text().splitlines()


def counted(events: list[dict[str, Any]], begin: int, end: int) -> Counted:
    """What Spark's events tell of the runs between two times."""
    scans, to_python = set[int](), set[int]()
    jobs, read, handed = [], 0, 0
    for event in events:
        kind = event["Event"].rpartition(".")[2]
        if kind == "SparkListenerSQLExecutionStart":
            for node in nodes(event["sparkPlanInfo"]):
                of_raw = "/raw]" in node["metadata"].get("Location", "")
                for metric in node["metrics"]:
                    if of_raw:
                        scans.add(metric["accumulatorId"])
                    if metric["name"] == _SENT_TO_PYTHON and _BINS not in node["simpleString"]:
                        to_python.add(metric["accumulatorId"])
        elif kind == "SparkListenerJobStart" and begin <= event["Submission Time"] <= end:
            own = event.get("Properties") or {}
            jobs.append(own.get("spark.job.description") or "other")
        elif kind == "SparkListenerTaskEnd" and begin <= event["Task Info"]["Launch Time"] <= end:
            sums = {a["ID"]: a.get("Update") for a in event["Task Info"]["Accumulables"]}
            if sums.keys() & scans:
                read += event["Task Metrics"]["Input Metrics"]["Bytes Read"]
            handed += sum(int(sums[i] or 0) for i in sums.keys() & to_python)
    return Counted(read, handed, jobs)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan["children"]:
        yield from nodes(child)


if __name__ == "__main__":
    main()
