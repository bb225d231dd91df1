"""What it costs to add a hundredth to raw: `weigh` and `fit` of all beside those of what is new.

    python scripts/incremental.py --data FOLDER --target FILE [--copies 10] [--scratch FOLDER]
                                  [--kinds delta parquet]

FOLDER holds Parquet files with the columns `id` and `text`; raw is a Delta table, or a folder of
Parquet files, of so many copies of them, each document with a word of its own. Prints what each
command weighed or counted, the seconds of the processor that it took, and of the clock. The first
two start cold; the whole passes after are what to compare with. The weights and models of both ways
are compared row by row.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dsir_spark import job, session
from dsir_spark.job_options import JobOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--kinds", nargs="*", default=["delta", "parquet"])
    options = parser.parse_args()
    spark = session.build_session("incremental", master="local[2]")
    spark.sparkContext.setLogLevel("ERROR")
    print("| raw | command | documents | MB of text | processor, s | clock, s |\n"
          "|---|---|---:|---:|---:|---:|")  # fmt: skip
    for kind in options.kinds:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            measure(spark, kind, Path(scratch), options)
    spark.stop()


def measure(spark: SparkSession, kind: str, scratch: Path, options: argparse.Namespace) -> None:
    """Print the rows of a kind of raw."""
    raw, out, whole = (str(scratch / name) for name in ("raw", "out", "whole"))
    texts = spark.read.parquet(str(options.data)).select("id", "text")
    copies = spark.range(options.copies).withColumnRenamed("id", "copy")
    both = F.concat_ws("-", "id", "copy")
    rows = texts.crossJoin(F.broadcast(copies)).select(
        both.alias("id"), F.concat_ws(" ", "text", F.concat(F.lit("w"), F.hash(both))).alias("text")
    )
    of = F.pmod(F.xxhash64("id"), F.lit(101))
    parts = [rows.where(of > 0), rows.where(of == 0)]  # all, and a hundredth of it more

    def grow(part: Any) -> Any:
        part.write.format(kind).mode("append").save(raw)
        return part.agg(F.count("*"), F.sum(F.octet_length("text"))).first()

    def command(name: str, stage: Any, of: list[Any], output: str = out, **more: Any) -> None:
        rows_read, read = (sum(found[i] for found in of) for i in (0, 1))
        given = {"raw": raw, "raw_format": kind, "target": str(options.target), "output": output}
        before, begin = processor(), time.monotonic()
        stage(spark, JobOptions.from_mapping({**given, **more}))
        wall, busy = time.monotonic() - begin, processor() - before
        print(f"| {kind} | {name} | {rows_read:,} | {read / 1e6:,.1f} | {busy:.1f} | {wall:.1f} |",
              flush=True)  # fmt: skip

    first = grow(parts[0])
    command("fit, cold", job.fit, [first])
    command("weigh, cold", job.weigh, [first])
    new = grow(parts[1])
    shutil.copytree(scratch / "out", scratch / "whole")
    command("weigh --incremental", job.weigh, [new], incremental=True)
    command("weigh --incremental, nothing new", job.weigh, [], incremental=True)
    command("weigh", job.weigh, [first, new], whole, overwrite=True)
    command("fit --incremental", job.fit, [new], incremental=True)
    command("fit", job.fit, [first, new], whole, overwrite=True)
    for name in ("weights", "model"):
        a, b = (spark.read.format("delta").load(f"{place}/{name}") for place in (out, whole))
        assert a.count() == b.count() and a.exceptAll(b).isEmpty(), f"{name} differ"


def processor() -> float:
    """Seconds of the processor that this process and all below it took: the JVM, its workers."""
    own, ticks = {os.getpid()}, 0
    rows = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            rows.append((int(stat.parent.name), stat.read_text().rpartition(")")[2].split()))
    for _ in range(6):
        own |= {pid for pid, fields in rows if int(fields[1]) in own}
    for pid, fields in rows:
        ticks += sum(map(int, fields[11:15])) if pid in own else 0
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
