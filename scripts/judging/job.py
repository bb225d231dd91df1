"""The package's job over Spark beside what was judged: the same documents, and what they cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dsir_spark import job
from dsir_spark.job_options import JobOptions
from dsir_spark.session import build_session
from judging.corpus import MIN_TOKENS
from judging.methods import Choice

PARTS = 12


def compare(
    choice: Choice, wanted: list[dict[str, Any]], add: Callable[[dict[str, Any]], None]
) -> None:
    """Seconds of each run, and the share of its documents that the judged selection has."""
    (target,) = choice.targets.values()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pool = choice.pool
        raw = pa.table({"id": pool.ids, "text": pool.texts, "size": pool.bytes})
        (scratch / "raw").mkdir()
        size = -(-len(raw) // PARTS)
        for i in range(PARTS):
            pq.write_table(raw.slice(i * size, size), scratch / "raw" / f"part-{i:02}.parquet")
        pq.write_table(pa.table({"text": target.known}), scratch / "target.parquet")
        spark = build_session(conf={"spark.sql.warehouse.dir": str(scratch / "warehouse")})
        spark.sparkContext.setLogLevel("ERROR")
        _run(spark, scratch, choice.budget, "warm-up", "sample", 2, 10_000)
        for row in wanted:
            kind, ngrams, buckets = row["method"].split()
            begin = time.perf_counter()
            place = _run(spark, scratch, choice.budget, row["method"].replace(" ", "-"), kind,
                         int(ngrams), int(buckets))  # fmt: skip
            seconds = time.perf_counter() - begin
            found = {r["id"] for r in spark.read.format("delta").load(place).select("id").collect()}
            judged = set(pool.ids[choice.select(row["method"], target.name, row["seed"]).chosen])
            same = len(found & judged) / max(1, len(found | judged))
            add(row | {"seconds": seconds, "same": same, "documents": len(found)})
        spark.stop()


def _run(
    spark: Any, scratch: Path, budget: int, name: str, method: str, ngrams: int, num_buckets: int
) -> str:
    """A job; the place of what it selected."""
    job.run_all(spark, JobOptions.from_mapping({
        "raw": str(scratch / "raw"), "target": str(scratch / "target.parquet"),
        "output": str(scratch / name), "num_tokens_to_sample": budget, "size_column": "size",
        "keep": ["size"], "min_example_length": MIN_TOKENS, "seed": 1, "method": method,
        "ngrams": ngrams, "num_buckets": num_buckets, "report": False, "held_out": 0,
        **({"match_tokens": "all"} if method == "match" else {}),
    }))  # fmt: skip
    return str(scratch / name / "selected")
