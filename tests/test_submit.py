"""The job through spark-submit, on executors of their own that get the package shipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.spark
@pytest.mark.slow
def test_submit_to_a_cluster(tmp_path):
    rows = [{"id": f"d{i}", "text": f"salt the soup {i} " * 30} for i in range(50)]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    config = tmp_path / "job.yaml"
    config.write_text(
        f"raw: {raw}\ntarget: {raw}\noutput: {tmp_path / 'out'}\nnum_to_sample: 7\n",
        encoding="utf-8",
    )
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(tmp_path / "local"),
        "SPARK_WORKER_DIR": str(tmp_path / "work"),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [str(ROOT / "scripts" / "submit.sh"), "--master", "local-cluster[2,1,1024]",
         "--driver-memory", "1g", "--", "run", "--config", str(config), "--seed", "3"],
        capture_output=True, text=True, timeout=400, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "KL reduction" in done.stdout
    log = tmp_path / "out" / "runs" / "_delta_log" / "00000000000000000000.json"
    assert log.exists()


def test_submit_says_how_it_is_used():
    done = subprocess.run([str(ROOT / "scripts" / "submit.sh")], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")
