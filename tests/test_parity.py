"""The reference package on the same texts: equal counts, weights to 1e-9, the same top-k.

With nltk before 3.10: later ones split by the `regex` module, where a combining mark is part of a
word, and no longer as Python's `re` does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from dsir_spark import DSIR

pytestmark = pytest.mark.spark

SHARED = Path(os.environ.get("DSIR_DATA", Path(__file__).parents[2] / "shared" / "data"))
COMMON = "the a of to and in is it was for on that by with as".split()
TOPICS = {
    "cooking": "salt pan oven butter simmer whisk don't 250\u00b0C cr\u00e8me".split(),
    "sailing": "sail harbour wind keel tack jib anchor 12-knot \u0391\u03a3 \u0130zmir --".split(),
}


def toy(folder, rng, seed_rows=120):
    raw, target = [], []
    for i in range(seed_rows):
        words = COMMON + TOPICS["cooking" if i % 3 == 0 else "sailing"]
        length = rng.randrange(20, 200)
        raw.append({"id": f"d{i}", "text": " ".join(rng.choices(words, k=length))})
    for _ in range(12):
        target.append({"text": " ".join(rng.choices(COMMON + TOPICS["cooking"], k=80))})
    return write(folder / "raw.jsonl", raw), write(folder / "target.jsonl", target)


def shared_slice(folder, rng):
    import pyarrow.parquet as pq

    raw = pq.read_table(SHARED / "raw" / "part-000.parquet", columns=["id", "text"])
    target = pq.read_table(SHARED / "target" / "biomed.parquet", columns=["text"])
    return (
        write(folder / "raw.jsonl", raw.slice(0, 600).to_pylist()),
        write(folder / "target.jsonl", target.slice(0, 50).to_pylist()),
    )


def reference_toys(folder, rng):
    """The files that the reference package tests with; its raw texts get ids."""
    toys = SHARED / "reference_toy"
    rows = [json.loads(line) for line in (toys / "toy_pile_data.jsonl").open(encoding="utf-8")]
    rows = [{"id": f"d{i}", "text": row["contents"]} for i, row in enumerate(rows)]
    lines = (toys / "toy_target_data.jsonl").open(encoding="utf-8")
    target = [{"text": json.loads(line)["contents"]} for line in lines]
    return write(folder / "raw.jsonl", rows), write(folder / "target.jsonl", target)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.filterwarnings("ignore")  # the reference's own
@pytest.mark.parametrize(
    "inputs, ngrams", [(toy, 2), (toy, 3), (reference_toys, 2), (shared_slice, 3)]
)
def test_counts_weights_and_top_k(spark, tmp_path, inputs, ngrams):
    from data_selection import HashedNgramDSIR

    if inputs is not toy and not SHARED.exists():
        pytest.skip("no copy of the public test corpus beside the repository (DSIR_DATA)")
    raw_path, target_path = inputs(tmp_path, random.Random(3))
    rows = [json.loads(line) for line in raw_path.open(encoding="utf-8")]
    reference = HashedNgramDSIR(
        [str(raw_path)], [str(target_path)], cache_dir=str(tmp_path / "cache"), num_proc=1,
        ngrams=ngrams, min_example_length=30,
    )  # fmt: skip
    k = len(rows) // 6
    with contextlib.redirect_stderr(io.StringIO()):
        raw_counts = reference._fit_bow([str(raw_path)])
        target_counts = reference._fit_bow([str(target_path)])
        reference.fit_importance_estimator(num_tokens_to_fit="all")
        reference.compute_importance_weights()
        reference.resample(str(tmp_path / "top"), k, cache_dir=str(tmp_path / "c"), top_k=True)
    theirs = np.load(tmp_path / "cache" / "log_importance_weights" / "0.npy")
    top = {json.loads(line)["id"] for part in (tmp_path / "top").glob("**/*.jsonl")
           for line in part.open(encoding="utf-8")}  # fmt: skip

    raw = spark.createDataFrame([(r["id"], r["text"]) for r in rows], "id string, text string")
    with target_path.open(encoding="utf-8") as lines:
        texts = [(json.loads(line)["text"],) for line in lines]
    target = spark.createDataFrame(texts, "text string")
    model = DSIR(hash="sha256", ngrams=ngrams, num_buckets=10_000).fit(raw, target)
    assert (model.raw.counts == raw_counts).all()
    assert (model.targets["target"].counts == target_counts).all()
    ours = {r["id"]: r["log_weight"] for r in model.transform(raw).drop("text").collect()}
    for row, weight in zip(rows, theirs, strict=True):
        assert ours[row["id"]] == pytest.approx(weight, rel=1e-9, abs=1e-9), row["id"]
    chosen = model.resample(raw, num_to_sample=k, method="top_k", min_example_length=30)
    assert {r["id"] for r in chosen.select("id").collect()} == top
    assert len(top) == k > 0 and sys.modules["data_selection"].__version__ == "1.0.3"
