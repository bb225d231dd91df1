"""The job through spark-submit on a standalone cluster that does not have the package."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
SUBMIT = str(ROOT / "scripts" / "submit.sh")
CLUSTER = str(ROOT / "scripts" / "cluster.sh")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of a Python that has all that dsir_spark requires, but not dsir_spark."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    # A path named in a .pth file is searched, but the .pth files in it (an editable install) not.
    Path(packages, "requirements.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    values = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    values |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYSPARK_PYTHON": str(python),
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PORT": str(_free_port()),
        "WORKER_MEMORY": "1g",
        "PYTHONWARNINGS": "ignore",
    }
    missing = subprocess.run([python, "-c", "import numba, dsir_spark"], cwd=folder, env=values,
                             capture_output=True, text=True)  # fmt: skip
    assert "No module named 'dsir_spark'" in missing.stderr
    return values


def _run(environment, config: Path, output: Path, *options: str,
         at_stage: Callable[[str], None] = lambda line: None) -> str:  # fmt: skip
    """What the job prints; `at_stage` is called with each line (spark-submit has one stream)."""
    settings = ("--driver-memory", "1g", "--conf", "spark.sql.shuffle.partitions=3",
                "--conf", "spark.databricks.delta.snapshotPartitions=2")  # fmt: skip
    # (Relative places are those of where the user stands.)
    process = subprocess.Popen(
        [SUBMIT, *options, *settings, "--", "run", "--config", str(config), "--output",
         str(output), "--seed", "3", "--no-report"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        cwd=config.parent,
    )  # fmt: skip
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        at_stage(line)
    assert process.wait(900) == 0, "".join(printed)[-3000:]
    return "".join(printed)


def _kill_executor(cluster: Path) -> None:
    """Kill one of a cluster's executors, once it has a Python worker that runs our code."""
    workers = {int(file.read_text()) for file in cluster.glob("*.pid")}
    for _ in range(300):
        listed = subprocess.run(["ps", "-ewwo", "pid,ppid,args"], capture_output=True, text=True)
        rows = [line.split(None, 2) for line in listed.stdout.splitlines()[1:]]
        executors = {int(pid) for pid, ppid, args in rows
                     if int(ppid) in workers and "ExecutorBackend" in args}  # fmt: skip
        busy = [int(ppid) for _, ppid, args in rows
                if "pyspark.daemon" in args and int(ppid) in executors]  # fmt: skip
        if busy:
            return os.kill(busy[0], signal.SIGKILL)
        time.sleep(0.1)
    raise AssertionError("no executor ran Python within half a minute")


@pytest.mark.spark
@pytest.mark.slow
def test_a_cluster_gives_the_bits_of_local_mode(tmp_path, environment):
    """Even though an executor is killed in each pass."""
    rows = [{"id": f"d{i}", "text": f"salt the soup {i % 17} {i} " * (20 + i % 9)}
            for i in range(4_000)]  # fmt: skip
    raw, target = tmp_path / "raw.jsonl", tmp_path / "target.jsonl"
    raw.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    target.write_text("".join(json.dumps(r) + "\n" for r in rows[:3400:170]), encoding="utf-8")
    config = tmp_path / "job.yaml"
    config.write_text("raw: raw.jsonl\ntarget: target.jsonl\nnum_to_sample: 31\n"
                      "method: sample\n", encoding="utf-8")  # fmt: skip
    folder = tmp_path / "cluster"
    started = subprocess.run([CLUSTER, "start", str(folder)], env=environment,
                             stdout=subprocess.PIPE, text=True, timeout=120)  # fmt: skip
    try:
        assert started.returncode == 0
        url = started.stdout.strip()
        before = ("checking that ids", "writing the model")  # a pass follows these stages
        printed = _run(
            environment, config, tmp_path / "there", "--master", url,
            "--conf", "spark.sql.files.maxPartitionBytes=32768",
            at_stage=lambda line: _kill_executor(folder) if line.startswith(before) else None,
        )  # fmt: skip
    finally:
        subprocess.run([CLUSTER, "stop", str(folder)], env=environment, check=True)
    assert "KL reduction" in printed
    _run(environment, config, tmp_path / "here", "--master", "local[1]")
    executors = list(folder.glob("worker-*/app-*/*/dsir_spark.zip"))
    assert len({zipped.parts[-4] for zipped in executors}) == 2, "both workers got the package"
    assert len(list(folder.glob("worker-*/app-*/*"))) >= 2 + 2, "two others came for those killed"
    for table in ("weights", "selected"):
        there, here = (pq.read_table(tmp_path / place / table).to_pylist()
                       for place in ("there", "here"))  # fmt: skip
        assert sorted(there, key=lambda r: r["id"]) == sorted(here, key=lambda r: r["id"])
    assert len(here) == 31


def test_scripts_say_how_they_are_used():
    for script in (SUBMIT, CLUSTER):
        done = subprocess.run([script], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("usage:")
