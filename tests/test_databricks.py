"""The bundle, the entry point as Databricks calls it, and the job in a session like serverless."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import serverless
import yaml

from dsir_spark import cli, places, plans
from dsir_spark.errors import ConfigError
from dsir_spark.features import Decontamination
from dsir_spark.options import FitOptions, ResampleOptions

ROOT = Path(__file__).parents[1]
BUNDLE = yaml.safe_load((ROOT / "databricks" / "databricks.yml").read_text(encoding="utf-8"))
JOBS = BUNDLE["resources"]["jobs"]


def filled(text: str, **given: str) -> str:
    """A value of the bundle with its variables in it."""
    values = {name: str(own.get("default", "")) for name, own in BUNDLE["variables"].items()}
    values |= given
    while "${" in text:
        text = re.sub(r"\$\{var\.(\w+)\}", lambda found: values[found[1]], text)
    return text


def arguments(job: str, **given: str) -> list[list[str]]:
    """Of each task: package, entry point, and parameters."""
    tasks = [task["python_wheel_task"] for task in JOBS[job]["tasks"]]
    return [[t["package_name"], t["entry_point"], *(filled(p, **given) for p in t["parameters"])]
            for t in tasks]  # fmt: skip


@pytest.mark.parametrize("job", JOBS)
def test_the_bundle_is_what_databricks_takes(job):
    """By the classes of Databricks' own package, made from the schema of bundles."""
    from databricks.bundles.jobs import Job

    made = Job.from_dict(JOBS[job])
    keys = {e.environment_key for e in made.environments}
    keys |= {c.job_cluster_key for c in made.job_clusters}
    for task in made.tasks:
        assert {task.environment_key or task.job_cluster_key} <= keys
        assert (task.environment_key is None) == bool(task.libraries)
    with pytest.raises(ValueError, match="Unexpected field"):
        Job.from_dict({**JOBS[job], "taks": []})
    assert BUNDLE.keys() == {"bundle", "variables", "artifacts", "resources", "targets"}
    assert set(re.findall(r"\$\{(?!var\.(\w+)\})", json.dumps(BUNDLE))) == set()


def test_both_jobs_run_the_same_and_with_options_that_there_are(monkeypatch):
    assert arguments("serverless") == arguments("classic")
    run, report = arguments("serverless", catalog="my-cat", schema="2026")
    monkeypatch.setattr(cli.startup, "is_local", lambda **_: False)
    with cli.cli.make_context("dsir-spark", run[2:]) as context:
        command = context.command.get_command(context, run[2])
        flags = command.make_context(run[2], run[3:]).params
    options, _ = cli._read("run", flags)
    assert (options.raw, options.output) == ("my-cat.2026.raw", "my-cat.2026")
    assert not options.report and options.overwrite and options.num_to_sample == 100_000
    assert report[2:] == ["report", "--output=my-cat.2026",
                          "--html=/Volumes/my-cat/2026/files/report.html"]  # fmt: skip


@pytest.mark.parametrize("parameters, code", [
    (["--version"], None), (["run", "--help"], None), ([], None), (["run", "--nope"], 2),
    (["run", "--raw=main.a.raw"], 2),
])  # fmt: skip
def test_a_task_that_went_well_raises_nothing(monkeypatch, capsys, parameters, code):
    """Databricks takes SystemExit for a failure, whatever its code: click raises it by default."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    if code is None:
        serverless.task([*arguments("serverless")[0][:2], *parameters])
        assert "dsir-spark" in capsys.readouterr().out
    else:
        with pytest.raises(SystemExit) as found:
            serverless.task([*arguments("serverless")[0][:2], *parameters])
        assert found.value.code == code and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("place, parts, quoted", [
    ("main.prod.raw", ["main", "prod", "raw"], "main.prod.raw"),
    ("corpus.`text`", ["corpus", "text"], "corpus.`text`"),
    ("main-1.2024_data.raw", ["main-1", "2024_data", "raw"], "`main-1`.`2024_data`.raw"),
    ("`my-cat`.`2024`.`we``ird`", ["my-cat", "2024", "we`ird"], "`my-cat`.`2024`.`we``ird`"),
    ("my-cat.2024.it's", ["my-cat", "2024", "it's"], "`my-cat`.`2024`.`it's`"),
    ('a."b c".d', None, None), ("a.b.c.d", None, None),
    ("/Volumes/my-cat/2024/files/raw", None, None),
])  # fmt: skip
def test_names_of_three_levels(place, parts, quoted):
    assert places.is_path(place) == (parts is None)
    if parts:
        assert places.parts(place) == parts and places.quoted_name(place) == quoted
        assert places.parts(places.within(place, "model")) == [*parts, "model"]


class Connected:
    """Stands for a session of Spark Connect: only its class is looked at."""


Connected.__module__ = "pyspark.sql.connect.session"
MATCH = {"num_to_sample": 1, "method": "match"}
SAMPLE = {**MATCH, "method": "sample"}


@pytest.mark.parametrize("fitted, targets, texts, options, said", [
    ({"num_buckets": 10**6}, 8, None, SAMPLE, None),
    ({"num_buckets": 10**6}, 1, None, {**MATCH, "match_steps": 14}, None),
    ({"num_buckets": 10**6}, 1, None, MATCH,
     "18 tables a target of 1,000,000 buckets; lower num_buckets to 924,785, or match_steps to 14"),
    ({"num_buckets": 10**5}, 10, None, MATCH,
     "lower num_buckets to 92,478, or match_steps to 14, or the number of targets to 9"),
    ({"num_buckets": 10**6, "scorer": "classifier"}, 9, None, SAMPLE,
     "2 tables a target of 1,000,000 buckets; lower num_buckets to 924,785, or the number of "
     "targets to 8"),
    ({"num_buckets": 10**6}, 9, 60 << 20, SAMPLE,
     "and the texts of decontaminate; lower num_buckets to 975,758, or the number of targets to "
     "8, or the texts of decontaminate by 1,745,408 bytes"),
])  # fmt: skip
def test_what_a_plan_cannot_hold_is_told_before_the_first_pass(
    fitted, targets, texts, options, said
):
    known = None if texts is None else Decontamination(("a",), (b"x" * texts,), 13)
    given = FitOptions.checked(fitted), targets, known
    chosen = ResampleOptions.checked(options, ("target",))
    plans.check(object(), *given, chosen)  # a classic session has no such limit
    if said is None:
        plans.check(Connected(), *given, chosen)
    else:
        with pytest.raises(ConfigError, match=re.escape(said)):
            plans.check(Connected(), *given, chosen)


@pytest.mark.spark
@pytest.mark.slow
def test_job_report_and_notebooks_run_as_on_serverless(tmp_path):
    """Their own checks apart: what the gate refuses raises, and Python workers have a gigabyte."""
    volume = tmp_path / "volumes"
    volume.mkdir()
    data = volume / "data"
    given = {"raw": f"{data}/raw", "target": f"{data}/scientific_docstrings.parquet",
             "catalog": "spark_catalog", "schema": "dsir_2026", "volume": str(volume),
             "num_to_sample": "200"}  # fmt: skip
    run, report = arguments("serverless", **given)
    weigh = [*run[:2], "weigh", "--output=spark_catalog.dsir_2026", "--overwrite",
             f"--decontaminate={data}/licences.parquet"]  # fmt: skip
    again = [*run[:2], "resample", "--output=spark_catalog.dsir_2026", "--num-to-sample=50",
             "--method=sample", "--no-report"]  # fmt: skip
    score = [*run[:2], "select", f"--raw={data}/raw", "--score=length(text)", "--num-to-sample=50",
             "--output=spark_catalog.scores", "--no-report"]  # fmt: skip
    todo = {
        "schemas": ["spark_catalog.dsir_2026", "spark_catalog.scores"],
        "tasks": [run, report, weigh, again, score],
        "notebooks": sorted(map(str, (ROOT / "notebooks").glob("*.ipynb"))),
    }
    script = Path(serverless.__file__)
    done = subprocess.run([sys.executable, "-W", "ignore", script, volume, json.dumps(todo)],
                          capture_output=True, text=True, timeout=1800, cwd=tmp_path)  # fmt: skip
    said = [line for line in done.stderr.splitlines() if not line.lstrip().startswith("at ")]
    assert done.returncode == 0, "\n".join(said)[-3000:]
    passed = json.loads(done.stdout.rpartition("GATE ")[2])
    assert passed["seen"]["ExecutePlanRequest"] > 100 and passed["largest"] < serverless.MESSAGE
    page = (volume / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
