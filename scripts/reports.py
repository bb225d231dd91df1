"""The report page of each target of a folder, and a line on what each says.

    python scripts/reports.py DATA OUTPUT [--targets biomed code] [--method sample]
                              [--num-to-sample 2000]

DATA holds raw/*.parquet (id, text, source) and target/NAME.parquet (text). Writes
OUTPUT/NAME/report.html.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from dsir_spark import job
from dsir_spark.job_options import JobOptions
from dsir_spark.report.checks import CheckWarning
from dsir_spark.session import build_session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--targets", nargs="*")
    parser.add_argument("--method", choices=("sample", "top_k", "match"), default="sample")
    parser.add_argument("--num-to-sample", type=int, default=2_000)
    options = parser.parse_args()
    names = options.targets or sorted(p.stem for p in (options.data / "target").glob("*.parquet"))
    warnings.simplefilter("ignore", CheckWarning)  # they are in the reports
    spark = build_session(conf={"spark.sql.warehouse.dir": str(options.output / "warehouse")})
    spark.sparkContext.setLogLevel("ERROR")
    for name in names:
        output = str(options.output / name)
        run = job.run_all(spark, JobOptions.from_mapping({
            "raw": str(options.data / "raw"), "output": output, "keep": ["source"],
            "target": str(options.data / "target" / f"{name}.parquet"), "overwrite": True,
            "num_to_sample": options.num_to_sample, "method": options.method, "seed": 1,
            "ngrams": 2, "num_buckets": 10_000, "held_out": 0,
        }))  # fmt: skip
        job.write_report(spark, run["facts"], output)
        say(name, run["facts"].to_dict())
    spark.stop()


def say(name: str, facts: dict) -> None:
    (verdict,), (target,), (sources,) = (facts[k] for k in ("verdict", "targets", "composition"))
    print(f"{name}: {verdict['sentence']} KL reduction {verdict['kl_reduction']:+.3f}, random "
          f"{verdict['kl_reduction_random']:+.3f}, bound {verdict['bound']:+.3f} nats")  # fmt: skip
    chosen = [f"{r['value']} {r['selected_share']:.0%}" for r in sources["rows"][:4]]
    print(f"  sources: {', '.join(chosen)}; {verdict['tokens']:,} tokens; rank correlation of "
          f"weight and length {target['correlation']:+.2f}")  # fmt: skip
    curve = [f"{p['documents']:,.0f}: {p['kl_reduction']:+.3f}" for p in target["curve"]]
    print(f"  best k: {'; '.join(curve)}")
    for side in ("up", "down"):
        ngrams = [d["ngrams"][0][0] for d in target[side] if d["ngrams"]]
        print(f"  {side}: {' | '.join(ngrams)}")
    for warning in facts["warnings"]:
        print(f"  {warning['name']}: {warning['sentence']}")
    print(flush=True)


if __name__ == "__main__":
    main()
