"""Real kills: the driver in and between all stages, Python workers and executors in each pass."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import AnalysisException

pytestmark = [pytest.mark.spark, pytest.mark.slow]
WORDS = {
    "cooking": "boil the water add salt and stir the soup until it is thick then serve it".split(),
    "sailing": "hoist the sail and steer the boat against the wind until the harbour".split(),
}
# What the command line logs when a stage ends, in order, and the table that holds it then.
STAGES = (
    ("checking that ids", None), ("counting n-grams", None), ("writing the model", "model"),
    ("weighing raw", "weights"), ("finding the cut", None), ("writing the selected", "selected"),
    ("measuring what", None),
)  # fmt: skip
ROWS = 60_000
# Kills come after this part of what a stage took before: within it, whether it takes three times as
# long, beside other tests, or little more than a third.
WITHIN = 1 / 3
CLI = [sys.executable, "-W", "ignore", "-m", "dsir_spark.cli"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Raw large enough for a pass to last some seconds, and a target."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(5)
    made = {topic: [" ".join(rng.choices(words, k=12)) for _ in range(500)]
            for topic, words in WORDS.items()}  # fmt: skip
    (folder / "raw").mkdir()
    for part in range(6):
        texts = [" ".join(rng.choices(made[("cooking", "sailing")[i % 2]], k=12))
                 for i in range(ROWS // 6)]  # fmt: skip
        ids = [f"d{part}-{i}" for i in range(len(texts))]
        pq.write_table(pa.table({"id": ids, "text": texts}), folder / "raw" / f"{part}.parquet")
    pq.write_table(pa.table({"text": made["cooking"][:200]}), folder / "target.parquet")
    return folder


def command(data, output, *more):
    return [
        *CLI, "run", "--raw", str(data / "raw"),
        "--target", str(data / "target.parquet"), "--output", str(output), "--num-to-sample",
        "900", "--method", "sample", "--seed", "3", "--no-report", "--min-example-length", "5",
        *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The output of a run that nothing disturbed, and the seconds of its stages."""
    output = tmp_path_factory.mktemp("whole") / "out"
    done = subprocess.run(command(data, output), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output, [float(re.search(rf"^{stage}.*: ([0-9.]+) s$", done.stderr, re.M)[1])
                    for stage, _ in STAGES]  # fmt: skip


def killed(arguments, stage, table, seconds, whole):
    """Run a command and kill it so many seconds after a stage has ended, or was found on record.

    whole : with the JVM; else that lives on for a moment and may write
    """
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)  # fmt: skip
    lines = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        there = line.partition("there already")[2]
        if line.startswith(stage) or (table and table in there):
            time.sleep(seconds)
            break
    assert process.poll() is None, lines
    (os.killpg if whole else os.kill)(process.pid, signal.SIGKILL)
    process.stderr.close()
    process.wait()
    return lines


def bits(spark, output):
    found = []
    for name in ("model", "weights", "selected"):
        rows = spark.read.format("delta").load(str(output / name)).collect()
        found.append(sorted(map(str, rows)))
    return found


class Reader(threading.Thread):
    """Polls the selected documents of an output, as somebody does who trains from them."""

    def __init__(self, spark, output):
        super().__init__(daemon=True)
        self.spark, self.output, self.seen, self.stop = spark, output, set(), threading.Event()

    def run(self):
        while not self.stop.wait(0.5):
            try:
                rows = self.spark.read.format("delta").load(str(self.output / "selected"))
                self.seen.add(frozenset(r["id"] for r in rows.select("id").collect()))
            except AnalysisException:  # nothing yet
                self.seen.add(frozenset())


def test_a_driver_killed_in_and_between_all_stages(spark, data, whole, tmp_path):
    """Killed thirteen times over an earlier selection, each time gone on with: the same bits."""
    undisturbed, took = whole
    expected = bits(spark, undisturbed)
    earlier = command(data, tmp_path / "out", "--num-buckets", "500")
    assert subprocess.run(earlier, capture_output=True).returncode == 0
    reader = Reader(spark, tmp_path / "out")
    first = {frozenset(r["id"] for r in spark.read.format("delta").load(
        str(tmp_path / "out" / "selected")).collect())}  # fmt: skip
    reader.start()
    arguments = command(data, tmp_path / "out", "--overwrite")
    logs = []
    for i, (stage, table) in enumerate(STAGES):
        for seconds in (0.0, took[i + 1] * WITHIN) if i < len(STAGES) - 1 else (0.0,):
            logs.append("".join(killed(arguments, stage, table, seconds, whole=i % 2 == 0)))
    ended = subprocess.run(arguments, capture_output=True, text=True)
    reader.stop.set()
    reader.join()
    assert ended.returncode == 0, ended.stderr
    assert bits(spark, tmp_path / "out") == expected
    last = frozenset(r["id"] for r in spark.read.format("delta").load(
        str(tmp_path / "out" / "selected")).collect())  # fmt: skip
    assert reader.seen <= first | {last} and len(reader.seen) == 2
    # Finished stages are not run again: each pass ended once, or again where its table was not
    # committed yet.
    assert "there already: model, weights, selected" in ended.stderr
    ends = "".join([*logs, ended.stderr])
    assert ends.count("\nweighing raw:") <= 2 and ends.count("\nwriting the selected") <= 2


def test_weigh_and_resample_killed(spark, data, whole, tmp_path):
    """In their passes, over the tables of an earlier run: nothing changes until they end."""
    undisturbed, took = whole
    before = bits(spark, undisturbed)
    budget = ["--num-to-sample", "400", "--no-report", "--min-example-length", "5"]
    places = [tmp_path / "there", tmp_path / "out"]
    for place in places:
        shutil.copytree(undisturbed, place)
    weigh, select = [[*CLI, "weigh", "--overwrite", "--output"], [*CLI, "resample", *budget,
                                                                  "--output"]]  # fmt: skip
    done = subprocess.run([*select, str(places[0])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = str(places[1])
    killed([*weigh, out], "checking that ids", None, took[3] * WITHIN, whole=True)
    assert bits(spark, places[1]) == before
    done = subprocess.run([*weigh, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert bits(spark, places[1]) == before
    for seconds, together in ((0.0, True), (took[5] * WITHIN, False)):
        killed([*select, out], "finding the cut", None, seconds, whole=together)
        assert bits(spark, places[1]) in (before, bits(spark, places[0]))
    done = subprocess.run([*select, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert bits(spark, places[1]) == bits(spark, places[0]) != before


def test_workers_killed_in_each_pass_and_tasks_run_twice(spark, data, whole, tmp_path):
    """Python workers die under retried tasks, with speculation on: the same bits."""
    more = ["--master", "local[2,8]", "--conf", "spark.speculation=true", "--conf",
            "spark.speculation.multiplier=1",
            "--conf", "spark.sql.files.maxPartitionBytes=400000"]  # fmt: skip
    process = subprocess.Popen(command(data, tmp_path / "out", *more), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    deaths = 0
    while process.poll() is None:
        time.sleep(1.5)
        workers = python_workers(process.pid)
        if workers and deaths < 6:
            os.kill(workers[-1], signal.SIGKILL)
            deaths += 1
    assert process.stderr is not None
    assert process.returncode == 0, process.stderr.read()[-3000:]
    assert deaths >= 2
    assert bits(spark, tmp_path / "out") == bits(spark, whole[0])


def python_workers(parent):
    """Processes of pyspark's workers below a process, the daemon that forks them first."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    below, found = {parent}, []
    for _ in range(5):
        below |= {int(pid) for pid, ppid, _ in rows if int(ppid) in below}
    for pid, _, args in rows:
        if int(pid) in below and "pyspark.daemon" in args:
            found.append(int(pid))
    return found


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many kilobytes; skips where that is not allowed."""
    mounted = []

    def mount(kilobytes):
        place = tmp_path / f"disk{kilobytes}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs",
                               str(place)], capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            pytest.skip(f"mounting a small disk needs the right to: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_disk_that_fills_under_the_compiled_code(small_disk):
    code = (
        "from dsir_spark import features\n"
        "import pyarrow as pa\n"
        "spec = features.FeatureSpec(2, 100)\n"
        "print(features.count_ngrams(pa.array(['salt the soup']), spec).counts.sum())\n"
    )
    values = {**os.environ, "NUMBA_CACHE_DIR": str(small_disk(8))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=values)
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr
    assert "compiled code is not kept" in done.stderr


def test_a_disk_that_fills_at_each_table(data, small_disk):
    """One line, exit 2."""
    stopped = []
    for kilobytes in (8, 120, 1_000, 4_400):
        output = small_disk(kilobytes) / "out"
        done = subprocess.run(command(data, output), capture_output=True, text=True)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if done.returncode:
            assert (done.returncode, len(lines)) == (2, 1), done.stderr[-3000:]
            assert "no space left" in lines[0], lines
            stopped.append(kilobytes)
    assert len(stopped) >= 3
