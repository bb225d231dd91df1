"""The smallest run of scripts/evidence.py: matched is better than random by what is held out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dsir_spark.demo_data import build_demo_data

pytestmark = pytest.mark.slow  # the demo's data, and two starts: a minute

SCRIPT = Path(__file__).parents[1] / "scripts" / "evidence.py"
TARGETS = ("scientific_docstrings", "licences")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Rows of part A of random and matched selections of 400 KB, by method and target."""
    folder = tmp_path_factory.mktemp("evidence")
    demo = build_demo_data(folder / "demo", max_mb=12)
    raw = pq.read_table(demo.raw)
    for place in ("raw", "target"):
        (folder / place).mkdir()
    pq.write_table(raw.rename_columns(
        ["source" if c == "kind" else c for c in raw.column_names]), folder / "raw" / "0.parquet"
    )  # fmt: skip
    for name in TARGETS:
        pq.write_table(pq.read_table(demo.targets[name]), folder / "target" / f"{name}.parquet")
    command = [sys.executable, SCRIPT, folder, "--output", folder / "out", "--parts", "A",
               "--methods", "random", "match 10^4", "--megabytes", "0.4",
               "--seeds", "1"]  # fmt: skip
    for _ in range(2):  # the second run finds everything there
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "| match 10^4 |" in done.stdout
    lines = (folder / "out" / "A.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_each_result_is_there_once(results):
    found = sorted((r["method"], r["target"]) for r in results)
    assert found == sorted((m, t) for m in ("random", "match 10^4") for t in TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_matched_is_better_than_random(results, target):
    by = {r["method"]: r for r in results if r["target"] == target}
    assert by["match 10^4"]["bits"] < by["random"]["bits"] - 0.01
    assert by["match 10^4"]["kl_held_10000"] > by["random"]["kl_held_10000"]
    assert by["match 10^4"]["bytes"] <= 400_000
    assert by["match 10^4"]["bytes"] == pytest.approx(by["random"]["bytes"], rel=0.02)
