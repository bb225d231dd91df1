"""What others build on: names, parameters, layers, and what Spark Connect does not have."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import dsir_spark
from dsir_spark import cli, config, session
from dsir_spark.errors import ConfigError, DSIRError, SessionError

PACKAGE = Path(dsir_spark.__file__).parent
MODULES = {p.stem: ast.parse(p.read_text(encoding="utf-8")) for p in PACKAGE.glob("*.py")}

# Each module may import those above it, none below.
LAYERS = [
    ["errors", "unicode_tables", "weights"],
    ["checks", "columns", "tokens"],
    ["config", "copies", "cuts", "kernels", "matched", "page"],
    ["features", "resample", "tables"],
    ["explain"],
    ["frames"],
    ["dsir"],
    ["job", "session", "demo_data"],
    ["report"],
    ["evidence"],
    ["cli"],
]


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dsir_spark"):
            inner = (node.module or "").removeprefix("dsir_spark").strip(".")
            yield from [inner] if inner else [alias.name for alias in node.names]


def test_imports_point_one_way():
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    assert set(level) == set(MODULES) - {"__init__"}
    for name, tree in MODULES.items():
        for other in set(imports(tree)) & set(level):
            assert name == "__init__" or level[other] < level[name], f"{name} imports {other}"


def test_kernels_know_neither_spark_nor_arrow():
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(MODULES["kernels"])
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not names & {"pyspark", "pyarrow"}


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


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_public_surface():
    assert dsir_spark.__all__ == ["DSIR", "DSIRModel", "ngram_counts"]
    assert parameters(dsir_spark.DSIR) == [
        "ngrams", "num_buckets", "tokenizer", "hash", "text_column", "id_column",
        "target_laplace_smoothing", "target_dirichlet_smoothing", "num_tokens_to_fit",
        "chunk_words",
    ]  # fmt: skip
    assert all(
        p.kind is p.KEYWORD_ONLY for p in inspect.signature(dsir_spark.DSIR).parameters.values()
    )
    assert parameters(dsir_spark.DSIR.fit) == ["self", "raw", "target"]
    model = dsir_spark.DSIRModel
    assert parameters(model.transform) == ["self", "df"]
    assert parameters(model.resample) == [
        "self", "raw", "num_to_sample", "num_tokens_to_sample", "size_column", "method", "seed",
        "min_example_length", "quality", "normalize", "temperature", "proportions", "allocation",
        "duplicates", "group_column", "max_per_group", "quota_column", "quotas",
        "quota_shortfall", "match_steps", "match_tokens", "weights",
    ]  # fmt: skip
    assert parameters(model.save) == ["self", "place", "spark", "overwrite", "run_id"]
    assert parameters(model.match) == [
        "self", "raw", "num_to_sample", "num_tokens_to_sample", "size_column", "match_steps",
        "match_tokens", "min_example_length", "proportions",
    ]  # fmt: skip
    assert parameters(model.load) == ["place", "spark", "version"]
    for thing in (dsir_spark.DSIR, model, dsir_spark.ngram_counts, dsir_spark.DSIR.fit,
                  model.transform, model.resample, model.save, model.load):  # fmt: skip
        assert inspect.getdoc(thing), thing


def test_every_option_is_a_flag_and_a_key():
    """Flags and keys of the YAML file have the same names and defaults in one place."""
    flags = {p.name for p in cli.cli.commands["run"].params}
    keys = {f for f in config.JobConfig.__dataclass_fields__ if f != "given"}
    assert flags - {"config_file", "master", "remote"} == keys
    for command in cli.cli.commands:
        assert CliRunner().invoke(cli.cli, [command, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    "options, said",
    [
        ({"num_buckets": 0}, "num_buckets"),
        ({"num_buckets": True}, "num_buckets"),
        ({"ngrams": 1.5}, "ngrams"),
        ({"num_to_sample": -1}, "num_to_sample"),
        ({"proportions": {"a": -1}}, "proportions"),
        ({"proportions": {"a": float("nan")}}, "proportions"),
        ({"target": {"a": "x", "b": "y"}, "proportions": {"a": 1}}, "exactly the targets a, b"),
        ({"target": {"a b": "x"}}, "letters, digits"),
        ({"target": {"a": "x", "A": "y"}}, "distinct"),
        ({"hash": "md5"}, "xxhash64"),
        ({"min_example_length": "long"}, "min_example_length"),
        ({"target_laplace_smoothing": -0.1}, "target_laplace_smoothing"),
        ({"num_tokens_to_fit": "some"}, "num_tokens_to_fit"),
        ({"keep": 5}, "keep"),
        ({"chunk_words": 0}, "chunk_words"),
        ({"whole_documents": 0.5}, "give chunk_words"),
        ({"where": ""}, "predicate"),
        ({"target_dirichlet_smoothing": "some"}, "target_dirichlet_smoothing"),
        ({"target_dirichlet_smoothing": 1, "target_laplace_smoothing": 1}, "not both"),
        ({"target_dirichlet_smoothing": 9, "method": "match"}, "match goes by the target's own"),
        ({"quota_shortfall": "report"}, "quota_shortfall is for quotas"),
        ({"raw_format": "orc"}, "parquet"),
        ({"overwrite": "yes"}, "true or false"),
    ],
)
def test_values_out_of_range_say_what_is_allowed(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        config.JobConfig.from_mapping(options)
    assert isinstance(caught.value, DSIRError)
    assert "\n" not in str(caught.value)


def test_yaml_mistakes_are_one_line(tmp_path, capsys):
    cases = {
        "seed: [1": "is not YAML",
        "- a": "must map options",
        "sede: 1\nngrams: 0": "unknown option sede",
    }
    for text, said in cases.items():
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit) as stopped:
            cli.main(["run", "--config", str(path)])
        assert stopped.value.code == 2
        err = capsys.readouterr().err.strip()
        assert said in err and "\n" not in err
    with pytest.raises(SystemExit):
        cli.main(["run", "--config", str(tmp_path / "none.yaml")])
    assert "cannot be read" in capsys.readouterr().err


def test_a_folder_and_several_mistakes_are_listed_at_once(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--ngrams", "0", "--num-buckets", "-5", "--min-example-length", "-1"])
    err = capsys.readouterr().err
    assert all(name in err for name in ("ngrams", "num_buckets", "min_example_length"))


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


def test_failed_downloads_are_one_line():
    said = session.start_failure("x\n:: UNRESOLVED DEPENDENCIES ::\n at y", "/tmp/log")
    assert "run once with network access" in said and "\n" not in said
    assert "boom" in session.start_failure("line\nboom\n", "/tmp/log")


def test_the_prerequisites_script_names_what_is_missing(tmp_path):
    script = PACKAGE.parent / "scripts" / "check_prerequisites.sh"
    done = subprocess.run(
        ["/bin/sh", str(script), str(tmp_path / "python")],
        capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1 and "Python 3.10" in done.stderr
    assert subprocess.run(["/bin/sh", str(script), sys.executable]).returncode == 0
