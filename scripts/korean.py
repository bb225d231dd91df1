"""Does a Korean target select Korean documents? `wordpunct` beside `wordpunct_cjk`, held-out half.

    python scripts/korean.py DATA [--num-to-sample 300] [--target-documents 300]

DATA/raw holds Parquet files with id, text and source. Documents whose id starts with `kowiki` are
split by the hash of their ids: `--target-documents` of them are the target and leave the pool, as
many are a held-out judge and leave it too, the rest stay in the pool. Kernels and NumPy, no Spark.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsir_spark import features
from dsir_spark.features import FeatureSpec
from dsir_spark.scoring.distributions import distribution, kl_reduction, log_ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--num-to-sample", type=int, default=300)
    parser.add_argument("--target-documents", type=int, nargs="+", default=[3, 30, 300])
    options = parser.parse_args()
    rows = pq.read_table(options.data / "raw", columns=["id", "text"]).to_pylist()
    korean = sorted((r for r in rows if r["id"].startswith("kowiki")),
                    key=lambda r: hashlib.sha1(r["id"].encode()).hexdigest())  # fmt: skip
    k = options.num_to_sample
    print("| target documents | tokenizer | Korean documents among the selected | "
          "KL reduction, held out (nats) | tokens a Korean document |")  # fmt: skip
    print("|---:|---|---:|---:|---:|")
    held = [r["text"] for r in korean[-300:]]
    for size in options.target_documents:
        target = [r["text"] for r in korean[:size]]
        gone = {r["id"] for r in (*korean[:size], *korean[-300:])}
        pool = [r for r in rows if r["id"] not in gone]
        for name in ("wordpunct", "wordpunct_cjk"):
            print(f"| {size} | {name} | {line(pool, target, held, k, name)} |", flush=True)


def line(pool: list[dict[str, str]], target: list[str], held: list[str], k: int, name: str) -> str:
    """Figures of the k documents of the largest log weights, of at least 100 tokens."""
    spec = FeatureSpec(2, 10_000, name)

    def counts(texts: list[str]) -> np.ndarray:
        return features.count_ngrams(pa.array(texts), spec).counts

    texts = [r["text"] for r in pool]
    raw = counts(texts)
    ratios = log_ratio(distribution(counts(target)), distribution(raw))
    scores, lengths = features.score(pa.array(texts), ratios[:, None], spec)
    ranked = np.where(lengths >= 100, scores[:, 0], -np.inf)
    chosen = np.argsort(-ranked, kind="stable")[:k]
    right = np.mean([pool[i]["id"].startswith("kowiki") for i in chosen])
    left = [i for i, r in enumerate(pool) if r["id"].startswith("kowiki")]
    reduction = kl_reduction(counts(held), raw, counts([texts[i] for i in chosen]))
    return f"{right:.3f} | {reduction:+.3f} | {np.median(lengths[left]):.0f}"


if __name__ == "__main__":
    main()
