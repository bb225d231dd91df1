"""What others build on: names, parameters, layers, and what Spark Connect does not have."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import dsir_spark
from dsir_spark import dsir, failures, session
from dsir_spark.errors import SessionError
from dsir_spark.features import FeatureSpec
from dsir_spark.options import FitOptions, ResampleOptions

PACKAGE = Path(dsir_spark.__file__).parent
MODULES = {
    str(p.relative_to(PACKAGE).with_suffix("")).replace("/", "."): ast.parse(p.read_text("utf-8"))
    for p in sorted(PACKAGE.rglob("*.py"))
}
# What each part may import: parts above it only, and a wing its own rooms.
WINGS = {"features", "scoring", "selection", "report"}
_VALUES = "errors columns local_rows options score_options"
_MODEL = f"{_VALUES} features places tables history scoring selection resampling matchings"
MAY_IMPORT = {
    "errors": "",
    "features": "",
    "local_rows": "",
    "columns": "errors",
    "fields": "errors",
    "options": "errors fields features",
    "score_options": "errors fields options",
    "job_options": "errors fields options score_options",
    "labels": "",
    "failures": "",
    "quotes": "",
    "files": "errors local_rows",
    "reading": "errors columns failures quotes files",
    "places": "columns files",
    "tables": "errors columns failures files places",
    "history": "errors places tables",
    "scoring": f"{_VALUES} features",
    "selection": _VALUES,
    "resampling": f"{_VALUES} scoring selection",
    "matchings": f"{_VALUES} tables scoring resampling",
    "served": "errors features scoring",
    "mlflow_model": "errors columns features places tables history scoring served",
    "dsir": f"{_MODEL} mlflow_model",
    "distilled": "errors columns local_rows options features tables scoring",
    "ml": "errors columns options dsir",
    "report": f"{_MODEL} job_options dsir labels",
    "jvm": "",
    "session": "errors jvm",
    "progress": "",
    "demo_data": "",
    "inputs": "errors columns files reading places tables labels",
    "runs": "errors job_options places tables history labels",
    "preflight": f"{_MODEL} job_options dsir inputs runs",
    "recorded": f"{_MODEL} job_options dsir inputs runs preflight",
    "rejecting": "columns report inputs selection",
    "plans": "errors options features",
    "changes": "errors failures places",
    "additions": f"{_MODEL} job_options failures dsir inputs preflight changes",
    "increments": f"{_MODEL} job_options dsir inputs runs preflight recorded changes additions "
                  "plans",
    "score_job": f"{_MODEL} job_options fields dsir report inputs runs preflight rejecting",
    "reporting": f"{_MODEL} failures job_options dsir report inputs runs score_job",
    "job": f"{_MODEL} job_options dsir report inputs runs preflight recorded rejecting plans "
           "increments score_job reporting labels",
    "published": f"{_MODEL} job_options dsir report inputs reporting",
    "startup": "errors job_options places",
    "cli": "errors fields job_options jvm session progress failures startup places runs "
           "demo_data job score_job report published",
    "__main__": "cli",
}  # fmt: skip


def imports(name):
    """Parts of the package that a module imports, at its top or within a function."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names if alias.name.startswith("dsir_spark.")]
        elif isinstance(node, ast.ImportFrom) and node.module == "dsir_spark":
            found = [f"dsir_spark.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dsir_spark."):
            found = [node.module]
        else:
            continue
        for module in found:
            yield module.split(".")[1]


def test_imports_point_one_way():
    parts = list(MAY_IMPORT)
    for part, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= set(parts[: parts.index(part)]), part
    for name in set(MODULES) - {"__init__"}:
        part = name.split(".")[0]
        allowed = set(MAY_IMPORT[part].split()) | ({part} & WINGS) | {"__version__"}
        assert set(imports(name)) <= allowed, f"{name} imports {set(imports(name)) - allowed}"


def test_texts_are_read_without_spark_and_kernels_without_arrow():
    own = {"numpy", "numba", "llvmlite", "pyarrow", "tokenizers", "dsir_spark"}
    for name, tree in MODULES.items():
        if not name.startswith("features"):
            continue
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
        found = {
            root.split(".")[0]
            for n in nodes
            for root in ([a.name for a in n.names] if isinstance(n, ast.Import) else [n.module])
        }
        assert found <= own | set(sys.stdlib_module_names), name
        assert not {"numba", "pyarrow"} <= found, f"{name} is a kernel and knows Arrow"


BANNED = {"rdd", "sparkContext", "_jvm", "_jdf", "cache", "persist", "broadcast", "checkpoint"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"session"}))
def test_only_what_spark_connect_has(name):
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Attribute):
            at = f"{name}.py:{node.lineno}"
            # functools.cache is no cached frame, and F.broadcast is a hint for a join.
            other = isinstance(node.value, ast.Name) and node.value.id in ("functools", "F")
            assert other or node.attr not in BANNED, at
            assert not (node.attr == "set" and isinstance(node.value, ast.Attribute)
                        and node.value.attr == "conf"), at  # fmt: skip


FIT = """ngrams num_buckets tokenizer allow_functions hash text_column id_column
target_laplace_smoothing target_dirichlet_smoothing num_tokens_to_fit scorer chunk_words""".split()
RESAMPLE = """num_to_sample num_tokens_to_sample size_column method seed min_example_length quality
normalize temperature proportions allocation duplicates group_column max_per_group quota_column
quotas quota_shortfall match_steps match_tokens""".split()
MODEL = dsir_spark.DSIRModel


@pytest.mark.parametrize(
    "function, own, options",
    [
        (dsir_spark.DSIR, "", FIT),
        (dsir_spark.DSIR.fit, "self raw target", []),
        (dsir_spark.ngram_counts, "df text_column ngrams num_buckets tokenizer hash "
         "allow_functions", []),
        (dsir_spark.distill, "sample score compare text_column id_column ngrams num_buckets "
         "tokenizer hash allow_functions", []),
        (MODEL.transform, "self df", []),
        (MODEL.weigh, "self raw keep text_hash quality", []),
        (MODEL.resample, "self raw weights", RESAMPLE),
        (MODEL.decontaminate, "self texts ngram", []),
        (MODEL.explain, "self df", []),
        (MODEL.to_mlflow, "self output page registered_model_name spark", []),
        (MODEL.save, "self place spark overwrite", []),
        (MODEL.load, "place spark version allow_functions", []),
    ],
)
def test_public_surface(function, own, options):
    found = inspect.signature(function).parameters
    assert sorted(found) == sorted([*own.split(), *options])
    doc = inspect.getdoc(function if own else function.__init__)
    for name in options:
        assert found[name].kind is inspect.Parameter.KEYWORD_ONLY
        field = (FitOptions if function is dsir_spark.DSIR else ResampleOptions).model_fields[name]
        assert found[name].default == field.default
        assert f"\n{name} : " in doc, f"help does not tell of {name}"
    assert doc and "{options}" not in doc


def test_features_have_no_defaults_of_their_own():
    """Those of the n-grams are the options'; features knows no options."""
    own = {f.name: f.default for f in dataclasses.fields(FeatureSpec)}
    usual = {n: FitOptions.model_fields[n].default for n in ("tokenizer", "hash")}
    assert own == {"ngrams": dataclasses.MISSING, "num_buckets": dataclasses.MISSING, **usual}


def test_public_names():
    assert dsir_spark.__all__ == ["DSIR", "DSIRModel", "distill", "ngram_counts", "select"]
    assert all(callable(getattr(dsir_spark, name)) for name in dsir_spark.__all__)
    verbs = {n for n, f in inspect.getmembers(MODEL, callable) if not n.startswith("_")}
    assert verbs == {"transform", "weigh", "decontaminate", "resample", "explain", "save", "load",
                     "to_mlflow", "tables", "scored", "facts"}  # fmt: skip
    with pytest.raises(AttributeError):
        dsir_spark.nothing  # noqa: B018
    assert dsir.DSIR is dsir_spark.DSIR


def test_java_versions_are_read():
    assert session.java_version('openjdk version "17.0.9" 2023-10-17') == 17
    assert session.java_version('java version "1.8.0_392"') == 8
    assert session.java_version('openjdk version "21" 2023-09-19') == 21
    assert session.java_version("not a java") is None


def test_missing_and_old_java_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SessionError, match="Java is missing: install a JDK 17"):
        session.build_session()
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    with pytest.raises(SessionError, match="Java 17 or newer is needed, found 11"):
        session.build_session()


def test_a_jvm_that_is_gone_is_told_in_a_line():
    class Gone(Exception):
        __module__ = "py4j.protocol"

        class java_exception:
            @staticmethod
            def toString():
                raise ConnectionRefusedError

    assert "Spark's process ended" in failures.told(Gone())


def test_failed_downloads_are_one_line():
    said = session.start_failure("x\n:: UNRESOLVED DEPENDENCIES ::\n at y", "/tmp/log")
    assert "run once with network access" in said and "\n" not in said
    assert "boom" in session.start_failure("line\nboom\n", "/tmp/log")


@pytest.mark.parametrize("said, failures, tries", [
    ("download failed: x.jar", 1, 2), ("download failed: x.jar", 2, 2),
    ("UNRESOLVED DEPENDENCIES", 1, 1),
])  # fmt: skip
def test_a_jar_whose_download_broke_off_is_asked_for_again(capfd, said, failures, tries):
    tried = []

    def start():
        tried.append(said)
        if len(tried) <= failures:
            os.write(2, said.encode())
            raise RuntimeError("no JVM")
        return "a session"

    builder = SimpleNamespace(getOrCreate=start)
    if failures < tries:
        assert session._start(builder) == "a session"
    else:
        with pytest.raises(SessionError, match="cannot be downloaded"):
            session._start(builder)
    assert len(tried) == tries and not any(capfd.readouterr())



def test_a_first_start_says_that_it_downloads(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "dsir_spark")
    monkeypatch.setattr(session, "_start", lambda builder: None)
    own, package = {"spark.jars.ivy": str(tmp_path)}, session.delta_package()
    session.build_session(master="local[1]", conf=own)
    assert [r.message for r in caplog.records if "downloads Delta's jars" in r.message]
    caplog.clear()
    group, name, version = package.split(":")
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / f"{group}_{name}-{version}.jar").touch()
    session.build_session(master="local[1]", conf=own)
    assert not caplog.records


def test_only_a_session_on_this_machine_is_warmed(monkeypatch):
    asked = []
    at_once = lambda target, daemon: SimpleNamespace(start=target)  # noqa: E731
    monkeypatch.setattr(session.threading, "Thread", at_once)
    for master in (None, "spark://there:7077", "local[2]"):
        context = SimpleNamespace(master=master) if master else None
        write = functools.partial(lambda m, *_: asked.append(m), master)
        session.warm(SimpleNamespace(_sc=context, createDataFrame=write))
    assert asked == ["local[2]"]


def test_the_prerequisites_script_names_what_is_missing(tmp_path):
    script = PACKAGE.parent / "scripts" / "check_prerequisites.sh"
    done = subprocess.run(
        ["/bin/sh", str(script), str(tmp_path / "python")],
        capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1 and "Python 3.10" in done.stderr
    assert subprocess.run(["/bin/sh", str(script), sys.executable]).returncode == 0


def test_rooms_are_small():
    """No file above 400 lines, no class above 250, no function above 60."""
    most = {ast.ClassDef: 250, ast.FunctionDef: 60}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path.name
        for node in ast.walk(ast.parse(text)):
            if type(node) in most:
                lines = node.end_lineno - node.lineno + 1
                assert lines <= most[type(node)], f"{path.name}: {node.name}"
