"""How time and memory grow with the raw text and with the number of documents.

    python scripts/growth.py --data FOLDER [--scratch FOLDER] [--copies 1 10 100]
                             [--rows 1000000 10000000 100000000] [--shapes] [--plot FILE]

FOLDER holds Parquet files with the columns `id` and `text`. Text grows by copies, each with salt
words of its own between the others, so that no two copies are alike; the weights table is made up.
Every point is a process of its own with a local Spark on all cores and 2 GB of heap, so that peaks
of memory (resident, of driver, JVM and the largest Python worker) are those of the point. Prints
the tables of docs/performance.md and fits time ~ size^exponent.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import numpy as np

HEAP = "2g"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--copies", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--rows", type=int, nargs="*", default=[10**6, 10**7, 10**8])
    parser.add_argument("--shapes", action="store_true")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        kind, value = options.point
        print(json.dumps(POINTS[kind](value, options.data, options.scratch)))
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        options.scratch = Path(scratch)
        grow(options)


def grow(options: argparse.Namespace) -> None:
    text = [run_point(options, "text", str(c)) for c in options.copies]
    show("Raw text", "MB", text, ("fit", "transform"))
    rows = [run_point(options, "rows", str(n)) for n in options.rows]
    show("Weights table", "documents", rows, ("select",))
    if options.shapes:
        print("\n| shape of 1 GB of raw | fit, s | transform, s | JVM, MB | Python worker, MB |\n"
              "|---|---:|---:|---:|---:|")  # fmt: skip
        for shape in SHAPES:
            p = run_point(options, "shape", shape)
            print(f"| {SHAPES[shape]} | {p['fit']:.1f} | {p['transform']:.1f} | {p['jvm']:,.0f} | "
                  f"{p['worker']:,.0f} |", flush=True)  # fmt: skip
    if options.plot:
        plot(options.plot, text, rows)


def run_point(options: argparse.Namespace, kind: str, value: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--data", str(options.data),
               "--scratch", str(options.scratch), "--point", kind, value]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def show(title: str, unit: str, points: list[dict[str, float]], times: tuple[str, ...]) -> None:
    heads = [f"{t}, s" for t in times]
    print(f"\n| {title}, {unit} | {' | '.join(heads)} | driver, MB | JVM, MB | Python worker, MB |")
    print("|---:" * (len(times) + 4) + "|")
    for p in points:
        cells = [f"{p[t]:.1f}" for t in times] + [f"{p[m]:,.0f}" for m in MEMORY]
        print(f"| {p['size']:,.0f} | {' | '.join(cells)} |", flush=True)
    if len(points) > 1:
        for t in times:
            print(f"\ntime of {t} ~ size^{exponent(points, t):.2f}", flush=True)


MEMORY = ("driver", "jvm", "worker")


def exponent(points: list[dict[str, float]], what: str) -> float:
    """Slope of a straight line through the last two points on logarithmic axes.

    The first holds mostly what a query costs before it reads anything.
    """
    (a, b) = points[-2:]
    return float(np.log(b[what] / a[what]) / np.log(b["size"] / a["size"]))


class Peaks:
    """Peak resident memory (MB) of this process, its JVM and its largest Python worker."""

    def __init__(self) -> None:
        self.jvm = self.worker = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            parents, commands = {}, {}
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        parents[int(entry.name)] = int(
                            (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                        )
                        commands[int(entry.name)] = (entry / "cmdline").read_bytes()[:200]
                    except OSError:
                        continue
            own = {os.getpid()}
            while True:
                more = own | {p for p, parent in parents.items() if parent in own}
                if more == own:
                    break
                own = more
            for p in own - {os.getpid()}:
                peak = _peak(p)
                if b"java" in commands.get(p, b"").split(b"\0")[0]:
                    self.jvm = max(self.jvm, peak)
                else:
                    self.worker = max(self.worker, peak)

    def facts(self) -> dict[str, float]:
        self._stop.set()
        self._thread.join()
        driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        return {"driver": driver, "jvm": self.jvm, "worker": self.worker}


def _peak(process: int) -> float:
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1e3
    except OSError:
        pass
    return 0.0


def session():
    from dsir_spark.session import build_session

    spark = build_session(conf={"spark.driver.memory": HEAP})
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def timed(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def salted(spark, data: Path, copies: int):
    """The documents, `copies` times, with a word of the copy's own after every line.

    Copy after copy: side by side, two copies of a text would be compressed into little more than
    one, and a scan would cost less than it does of any real corpus.
    """
    from pyspark.sql import functions as F

    raw = spark.read.parquet(str(data)).select("id", "text").where(F.col("text").isNotNull())
    made = []
    for copy in range(copies):
        salt = F.lit(f" salt{copy}\n")
        text = F.concat(F.replace("text", F.lit("\n"), salt), salt).alias("text")
        made.append(raw.select(F.concat("id", F.lit(f"-{copy}")).alias("id"), text))
    return reduce(lambda a, b: a.union(b), made)


def measure_text(spark, place: str, peaks: Peaks) -> dict[str, float]:
    """Time of fit and transform over Parquet; the size is that of the UTF-8 text in MB."""
    from pyspark.sql import functions as F

    from dsir_spark import DSIR

    raw = spark.read.parquet(place)
    size = raw.agg(F.sum(F.octet_length("text"))).first()[0] / 1e6
    target = raw.limit(500)
    DSIR().fit(target, target)
    fit = timed(lambda: DSIR().fit(raw, target))
    model = DSIR().fit(target, raw.limit(100))
    weighed = model.transform(raw).select("id", "log_weight", "num_tokens")
    transform = timed(lambda: weighed.write.format("noop").mode("overwrite").save())
    return {"size": size, "fit": fit, "transform": transform, **peaks.facts()}


def text_point(value: str, data: Path, scratch: Path) -> dict[str, float]:
    place = str(scratch / "text")
    if int(value) > 1:
        write(value, data, place)
    else:
        place = str(data)
    spark = session()
    found = measure_text(spark, place, Peaks())
    spark.stop()
    shutil.rmtree(scratch / "text", ignore_errors=True)
    return found


def write(copies: str, data: Path, place: str) -> None:
    """In a process of its own, so that the peaks are those of what is measured."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import growth; spark = growth.session(); "
        "growth.salted(spark, sys.argv[2], int(sys.argv[3])).write.parquet(sys.argv[4])"
    )
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(data), copies,
                    place], check=True, capture_output=True)  # fmt: skip


def rows_point(value: str, data: Path, scratch: Path) -> dict[str, float]:
    from bench import made_weights, select

    spark = session()
    place = str(scratch / "weights")
    made_weights(spark, int(value)).write.parquet(place)
    peaks = Peaks()
    weights = spark.read.parquet(place)
    select(weights.limit(1000), 10)
    taken = timed(lambda: select(weights, int(value) // 100))
    found = {"size": float(value), "select": taken, **peaks.facts()}
    spark.stop()
    shutil.rmtree(place)
    return found


SHAPES = {
    "usual": "files of 30 to 100 MB, as Spark wrote them",
    "one": "one file",
    "tiny": "20,000 files",
    "long": "a document of 100 MB among the others",
    "skewed": "the long documents all in one file",
}


def shape_point(value: str, data: Path, scratch: Path) -> dict[str, float]:
    from pyspark.sql import functions as F

    place = str(scratch / "shape")
    spark = session()
    raw = salted(spark, data, 5)
    if value == "one":
        raw.coalesce(1).write.parquet(place)
    elif value == "tiny":
        raw.repartition(20_000).write.parquet(place)
    elif value == "long":
        raw.write.parquet(place)
        text = F.expr("repeat('A sentence of a very long document. ', 2800000 + int(id))")
        spark.range(1).select(F.lit("long").alias("id"), text.alias("text")).write.mode(
            "append").parquet(place)  # fmt: skip
    elif value == "skewed":
        long = F.length("text") > 10_000
        raw.where(long).coalesce(1).write.parquet(place)
        raw.where(~long).write.mode("append").parquet(place)
    else:
        raw.write.parquet(place)
    found = measure_text(spark, place, Peaks())
    spark.stop()
    shutil.rmtree(place)
    return found


POINTS = {"text": text_point, "rows": rows_point, "shape": shape_point}


def plot(place: Path, text: list[dict[str, float]], rows: list[dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), sharex="col", layout="constrained")
    for column, points, times, label in (
        (0, text, ("fit", "transform"), "raw text, MB"),
        (1, rows, ("select",), "documents in the weights table"),
    ):
        sizes = [p["size"] for p in points]
        for name, marker, line in zip((*times,), "os", ("-", "--"), strict=False):
            axes[0, column].loglog(sizes, [p[name] for p in points], marker=marker, ls=line,
                                   color="black", mfc="white", label=name)  # fmt: skip
        linear = [points[-1][times[-1]] * s / sizes[-1] for s in sizes]
        axes[0, column].loglog(sizes, linear, color="0.6", lw=1, label="linear")
        names = ("driver's Python", "JVM (heap 2 GB)", "largest Python worker")
        for name, what, marker in zip(names, MEMORY, "^os", strict=True):
            axes[1, column].semilogx(sizes, [p[what] for p in points], marker=marker,
                                     color="black", mfc="white", label=name)  # fmt: skip
        axes[0, column].set_ylabel("time, s")
        axes[1, column].set_ylabel("peak memory, MB")
        axes[1, column].set_ylim(bottom=0)
        axes[1, column].set_xlabel(label)
        for row in (0, 1):
            axes[row, column].legend(frameon=False, fontsize=8)
            axes[row, column].grid(alpha=0.3)
    figure.savefig(place, dpi=110)


if __name__ == "__main__":
    main()
