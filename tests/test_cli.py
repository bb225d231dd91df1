"""Options, flags, YAML and exit codes: one declaration each, and told without Spark."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import logging
import os
import re
import runpy
import subprocess
import sys
import time
import types
import warnings
import webbrowser
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

import dsir_spark
from dsir_spark import cli, fields, progress, startup
from dsir_spark.errors import ConfigError, DataError, SessionError
from dsir_spark.features.tokenizers import TokenizerError
from dsir_spark.job_options import JobOptions, SelectJobOptions
from dsir_spark.options import FitOptions, ResampleOptions, SelectOptions, takes

ROOT = Path(dsir_spark.__file__).parents[1]
FIELDS = JobOptions.model_fields
TWO = {"target": {"a": "x", "b": "y"}}
SAMPLE = {"method": "sample"}
QUOTAS = {"quota_column": "lang"}


@pytest.mark.parametrize(
    "options, said",
    [
        ({"num_buckets": 0}, "num_buckets must be a whole number from 1 to 16777216; got 0"),
        ({"num_buckets": True}, "num_buckets must be"),
        ({"ngrams": 1.5}, "ngrams must be a whole number from 1 to 1000; got 1.5"),
        ({"ngrams": "x"}, "ngrams must be"),
        ({"num_to_sample": -1}, "num_to_sample must be a whole number of documents >= 0; got -1"),
        ({"num_to_sample": "1e30"}, "has more than 64 bits"),
        ({"num_tokens_to_sample": 2.5}, "num_tokens_to_sample must be"),
        ({"num_to_sample": 1, "num_tokens_to_sample": 1}, "not both"),
        ({"seed": 2**63}, "seed: 9223372036854775808 has more than 64 bits"),
        ({"proportions": {"a": -1}}, "proportions must be numbers >= 0, .*; got -1 for 'a'"),
        ({"proportions": {"a": float("nan")}}, "proportions must be"),
        ({"proportions": {"a": 0}}, "of a sum above 0"),
        ({"proportions": 5}, "proportions must be"),
        ({**TWO, "proportions": {"a": 1}}, "exactly the targets a, b; got 'a'"),
        ({"target": {"a b": "x"}}, "letters, digits"),
        ({"target": {"a": "x", "A": "y"}}, "distinct"),
        ({"target": {"a": ""}}, "target must be a path or table, .* got '' for 'a'"),
        ({"target": 5}, "target must be"),
        ({"raw": ""}, "raw must be a path or a table name; got ''"),
        ({"hash": "md5"}, "hash must be one of xxhash64, sha256; got 'md5'"),
        ({"tokenizer": "nope"}, "tokenizer must be one of wordpunct"),
        ({"tokenizer": "no_such_module_here:f", "allow_functions": True}, "cannot be imported"),
        ({"min_example_length": "long"}, "min_example_length must be"),
        ({"target_laplace_smoothing": -0.1}, "target_laplace_smoothing must be a number >= 0"),
        ({"target_laplace_smoothing": "inf"}, "target_laplace_smoothing must be"),
        ({"target_dirichlet_smoothing": "some"}, "must be auto or a number of n-grams >= 0"),
        ({"target_dirichlet_smoothing": 1, "target_laplace_smoothing": 1}, "not both"),
        ({"target_dirichlet_smoothing": 9, "method": "match"}, "match goes by the target's own"),
        ({"target_dirichlet_smoothing": 9, "num_to_sample": 5}, "match goes by the target's own"),
        ({"num_tokens_to_fit": "some"}, "num_tokens_to_fit must be all, auto or"),
        ({"temperature": "warm"}, "temperature must be auto or a number > 0; got 'warm'"),
        ({"temperature": 2, "method": "top_k"}, "temperature is for method sample"),
        ({"temperature": 2}, "temperature is for method sample; method is 'match'"),
        ({"normalize": "ngram", "method": "match"}, "normalize is for"),
        ({"match_steps": 65, "method": "match"}, "match_steps must be a whole number from 1 to 64"),
        ({"match_steps": 3, "method": "top_k"}, "match_steps is for method match"),
        ({"keep": 5}, "keep must be a list of column names; got 5"),
        ({"keep": [False]}, "keep: False is no text; write it in quotes: 'no'"),
        ({"keep": [""]}, "keep must be"),
        ({"text_column": None}, "text_column must be the name of a column; got None"),
        ({"id_column": True}, "id_column: True is no text; write it in quotes: 'yes'"),
        ({"chunk_words": 0}, "chunk_words must be"),
        ({"whole_documents": 0.5}, "give chunk_words"),
        ({"whole_documents": 0, "chunk_words": 5}, "whole_documents must be a share of chunks"),
        ({"decontaminate_ngram": 5}, "is for decontaminate: give the texts too"),
        ({"where": ""}, "where must be a predicate"),
        ({"where": " "}, "where must be a predicate"),
        ({"size_column": "bytes"}, "size_column is for a budget of sizes"),
        ({"group_column": "domain"}, "belong together"),
        ({"quality": "papr"}, "quality must be paper, or a mapping"),
        ({"quality": {"min_tokns": 1}}, "quality has no bound 'min_tokns'; bounds are min_tokens"),
        ({"quality": {"max_tokens": "x"}}, "got 'x' for 'max_tokens'"),
        ({"quotas": "raw"}, "belong together"),
        ({**QUOTAS, "quotas": "rw"}, "quotas must be raw"),
        ({**QUOTAS, "quotas": {}}, "quotas must be raw"),
        ({**QUOTAS, "quotas": {"en": 2}}, "got 2 for 'en'"),
        ({**QUOTAS, "quotas": {"en": {"mn": 0.1}}}, "got {'mn': 0.1} for 'en'"),
        ({**QUOTAS, "quotas": {"en": {}}}, "got {} for 'en'"),
        ({**QUOTAS, "quotas": {"en": {"min": 0.5, "max": 0.1}}}, "'en' has min 0.5 above max 0.1"),
        ({**QUOTAS, "quotas": {"en": 0.6, "de": 0.7}}, "sum to 1.3; they must not pass 1"),
        ({**QUOTAS, "quotas": {False: 0.1}}, "the key False is no text; .* in quotes: 'no'"),
        ({**QUOTAS, "quotas": {None: 0.1}}, "the key None is no text; .* in quotes: 'null'"),
        ({**TWO, **QUOTAS, "quotas": "raw"}, "give allocation sequential"),
        ({"quota_shortfall": "report"}, "quota_shortfall is for quotas"),
        ({"raw_format": "orc"}, "raw_format must be one of delta, parquet"),
        ({"overwrite": "yes"}, "overwrite must be true or false; got 'yes'"),
        ({"sede": 1}, "unknown option sede; did you mean seed?"),
        ({"num-to-sample": 1}, "did you mean num_to_sample?"),
        ({"spam": 1, False: 2}, "unknown option spam, False; options are allocation, allow_func"),
        ({"keep": [[["x"] * 99] * 99] * 99}, "keep must be"),
    ],
)
def test_values_out_of_range_say_what_is_allowed(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        JobOptions.from_mapping(options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_all_problems_are_told_at_once_and_none_that_only_follows():
    wrong = {"ngrams": 0, "num_buckets": -1, "metod": "x", "seed": "y", "num_to_sample": -5,
             **QUOTAS, "quotas": {"en": 2, "de": 3}}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        JobOptions.from_mapping(wrong, "run")
    said = str(caught.value).split("; ")
    heads = ("unknown option metod", "ngrams", "num_buckets", "seed", "num_to_sample", "quotas",
             "quotas", "--raw is missing", "--target is missing", "--output is")  # fmt: skip
    starts = [s for s in said if not s.startswith(("got", "did you"))]
    assert len(starts) == len(heads)
    assert all(s.startswith(h) for s, h in zip(starts, heads, strict=True))
    with pytest.raises(ConfigError) as caught:
        JobOptions.from_mapping({"size_column": "a", "num_tokens_to_sample": "x"})
    assert "size_column" not in str(caught.value)


@pytest.mark.parametrize(
    "given, meant",
    [
        ({"num_to_sample": "1e6"}, {"num_to_sample": 1_000_000}),
        ({"num_to_sample": 1e6}, {"num_to_sample": 1_000_000}),
        ({"seed": "-5", "min_example_length": "0"}, {"seed": -5, "min_example_length": 0}),
        ({**SAMPLE, "temperature": "0.5"}, {**SAMPLE, "temperature": 0.5}),
        ({**SAMPLE, "temperature": "auto"}, {**SAMPLE, "temperature": "auto"}),
        ({"target_dirichlet_smoothing": "auto"}, {"target_dirichlet_smoothing": "auto"}),
        ({"num_tokens_to_fit": "2e3"}, {"num_tokens_to_fit": 2000}),
        ({"text_column": 2019, "keep": [7]}, {"text_column": "2019", "keep": ("7",)}),
        ({"keep": "a"}, {"keep": ("a",)}),
        ({"target": "x"}, {"target": {"target": "x"}}),
        ({"quality": {"max_tokens": "1e3"}}, {"quality": {"max_tokens": 1000.0}}),
        (
            {**QUOTAS, "quotas": {2019: "0.5", "web": {"max": "0.1"}}},
            {**QUOTAS, "quotas": {"2019": 0.5, "web": {"max": 0.1}}},
        ),
    ],
)
def test_a_field_reads_texts(given, meant):
    found = JobOptions.from_mapping(given).model_dump(exclude_unset=True)
    assert found == meant
    assert [type(v) for v in found.values()] == [type(meant[k]) for k in found]


# --- one declaration ---------------------------------------------------------------------------


def test_every_option_is_a_flag_of_its_commands_and_a_key():
    session = {"config_file", "master", "remote", "conf"}
    own = {"explain": {"ids", "number"}}
    own["report"] = {"composition", "examples", "no_examples", "html", "opened"}
    for name, command in cli.cli.commands.items():
        every = (SelectJobOptions if name == "select" else JobOptions).model_fields
        shown = CliRunner().invoke(cli.cli, [name, "--help"])
        assert shown.exit_code == 0
        if name == "demo":
            continue
        flags = {p.name: p for p in command.params}
        declared = {n for n, f in every.items() if name in fields.extra(f, "commands")}
        assert flags.keys() == declared | session | own.get(name, set())
        for option in declared:
            assert str(every[option].description) in (flags[option].help or "")
    growing = {"incremental", "checkpoints"}  # of fit and weigh
    assert {p.name for p in cli.cli.commands["run"].params} >= FIELDS.keys() - growing
    assert "Default: 30000." in " ".join(CliRunner().invoke(cli.cli, ["fit", "-h"]).output.split())


@pytest.mark.parametrize("kind", [FitOptions, SelectOptions, ResampleOptions, JobOptions])
def test_a_declaration_is_whole(kind):
    for name, field in kind.model_fields.items():
        assert field.description and field.description.endswith("."), name
        assert fields.allowed(field) and fields.extra(field, "commands"), name
    assert kind.checked(kind().model_dump(exclude={"match_steps", "match_tokens"})) == kind()


def test_keywords_have_the_names_defaults_and_help_of_the_declarations():
    @takes(SelectOptions)
    def cut(frame, score="score", *, id_column="id", **options):
        """Cut.

        Parameters
        ----------
        {options}
        """
        return SelectOptions.checked(options)

    signature = inspect.signature(cut)
    assert list(signature.parameters) == [
        "frame", "score", *SelectOptions.model_fields, "id_column",
    ]  # fmt: skip
    assert signature.parameters["seed"].default == 0
    doc = inspect.getdoc(cut)
    assert "\nseed : a whole number of 64 bits, default 0\n    Of the noise" in doc
    assert cut(None, seed=3).seed == 3
    with pytest.raises(ConfigError, match="unknown option sede"):
        cut(None, sede=3)


@pytest.mark.parametrize(
    "function, kind", [("DSIR", FitOptions), ("DSIRModel.resample", ResampleOptions)]
)
def test_python_takes_the_same_options(function, kind):
    thing = dsir_spark
    for part in function.split("."):
        thing = getattr(thing, part)
    parameters = inspect.signature(thing).parameters
    names = [n for n in parameters if n in kind.model_fields]
    assert names == list(kind.model_fields)
    assert all(parameters[n].kind is inspect.Parameter.KEYWORD_ONLY for n in names)
    assert all(parameters[n].default == kind.model_fields[n].default for n in names)
    doc = inspect.getdoc(thing.__init__ if inspect.isclass(thing) else thing)
    assert all(f"\n{n} : " in doc for n in names)


def test_no_option_is_declared_twice():
    """The names of options with a default stand in the rooms of options alone."""
    for path in (ROOT / "dsir_spark").rglob("*.py"):
        tree, is_room = ast.parse(path.read_text(encoding="utf-8")), "options" in path.name
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not is_room:
                arguments = node.args.kwonlyargs if isinstance(node, ast.FunctionDef) else []
                names = [a.arg for a in arguments] + [
                    s.target.id for s in node.body
                    if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
                ]  # fmt: skip
                # What buckets go by has four names (`FeatureSpec`).
                assert len(set(names) & FIELDS.keys()) <= 4, f"{path.name}: {node.name}"


def test_the_page_of_options_is_what_the_declarations_give():
    script = runpy.run_path(str(ROOT / "scripts" / "options_table.py"))
    assert (ROOT / "docs" / "options.md").read_text(encoding="utf-8") == script["page"]()
    assert all(f"| `{name}` |" in script["page"]() for name in FIELDS)


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda p: p.stem)
def test_examples_of_config_show_the_defaults(path):
    values = startup.read_yaml(str(path))
    chosen = JobOptions.from_mapping(values, "run")
    own = {"raw", "target", "output", "num_to_sample", "proportions"}
    for name in chosen.given - own:
        assert getattr(chosen, name) == FIELDS[name].default, name
    commented = re.findall(r"^# (\w+): ", path.read_text(encoding="utf-8"), re.M)
    assert set(commented) <= FIELDS.keys()


# --- the command line, the job and Spark stood in for ------------------------------------------


@pytest.fixture
def job(monkeypatch, tmp_path):
    """What the command line would run: `called` with the options, `sessions` that it built."""
    module = types.ModuleType("dsir_spark.job")
    module.called, module.sessions = [], []
    module.written_places = lambda output, _: [f"{output}/model"]
    module.compile_kernels = lambda options: None

    def runs(name):
        def stage(spark, options, progress):
            module.called.append((name, options))
            with progress("counting"):
                pass
            logging.getLogger("dsir_spark").info("%s: %.1f s", "counting", 1.25)
            return {}

        return stage

    for name in ("run_all", "fit", "weigh", "resample_again", "select"):
        setattr(module, name, runs(name))
    module.write_report = lambda spark, facts, output, html: html or f"{output}/report.html"
    module.report_again = lambda spark, output, composition, examples, progress, functions: (
        f"{output} {composition} {examples}"
    )
    module.explain = lambda spark, output, ids, number, functions: f"{output} {ids} {number}"
    report = types.ModuleType("dsir_spark.report")
    report.text = types.SimpleNamespace(summary="in short {}".format, full="all {}".format)
    module.pages = []  # that it was asked whether they may be written
    report.page = types.SimpleNamespace(place_of=lambda *of: module.pages.append(of))
    monkeypatch.setitem(sys.modules, "dsir_spark.report", report)
    monkeypatch.setitem(sys.modules, "dsir_spark.job", module)
    monkeypatch.setattr(dsir_spark, "job", module, raising=False)
    monkeypatch.setattr(cli.session, "build_session", lambda **k: module.sessions.append(k))
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("raw", "t", "source=wiki"):
        (tmp_path / name).mkdir()
    return module


def ended(capsys, *arguments):
    """Exit code, and the lines on standard output and on standard error."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
        sys.exit(0)
    captured = capsys.readouterr()
    return stopped.value.code, captured.out.splitlines(), captured.err.splitlines()


PLACES = ["--raw", "raw", "--target", "t", "--output", "out"]


@pytest.mark.parametrize(
    "flags, meant",
    [
        (["--seed", "7", "--no-report", "--overwrite"],
         {"seed": 7, "report": False, "overwrite": True}),
        (["--no-overwrite", "--check-ids"], {"overwrite": False, "check_ids": True}),
        (["--keep", "a", "--keep", "b"], {"keep": ("a", "b")}),
        (["--target", "x=s3://b/t"], {"target": {"target": "t", "x": "s3://b/t"}}),
        (["--target", "a=t", "--proportion", "a=1", "--proportion", "target=0.5"],
         {"target": {"target": "t", "a": "t"}, "proportions": {"a": 1.0, "target": 0.5}}),
        (["--quality", "paper"], {"quality": "paper"}),
        (["--quality", "paper", "--quality", "max_tokens=1e3"],
         {"quality": {"max_tokens": 1000.0}}),
        (["--quota-column", "c", "--quota", "raw"], {"quota_column": "c", "quotas": "raw"}),
        (["--quota-column", "c", "--quota", "a=b=0.2", "--quota", "w=..0.5", "--quota", "x=.1..",
          "--quota", "y=0.1..0.3", "--quota", "no=0"],
         {"quota_column": "c", "quotas": {"a=b": 0.2, "w": {"max": 0.5}, "x": {"min": 0.1},
                                          "y": {"min": 0.1, "max": 0.3}, "no": 0.0}}),
        (["--method", "sample", "--temperature", "auto"], {**SAMPLE, "temperature": "auto"}),
        (["--match-tokens", "1e6", "--method", "match"],
         {"match_tokens": 1_000_000, "method": "match"}),
    ],
)  # fmt: skip
def test_flags_mean_what_keys_mean(job, capsys, flags, meant):
    code, out, err = ended(capsys, "run", *PLACES, "--num-to-sample", "1e2", *flags)
    assert (code, out, err) == (0, ["tables: out/model"], ["counting: 1.2 s"])
    [(name, options)] = job.called
    places = {"raw": "raw", "target": {"target": "t"}, "output": "out", "num_to_sample": 100}
    assert name == "run_all" and options.model_dump(exclude_unset=True) == {**places, **meant}


def test_a_place_below_home_is_looked_for_there(job, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ended(capsys, "fit", "--raw=~/raw", "--target=~/t", "--output=~/out")[0] == 0
    _, _, err = ended(capsys, "fit", "--raw=~/none", "--target=~/t", "--output=~/out")
    assert err == ["error: raw: there is nothing at ~/none"]


def test_a_folder_named_like_a_pair_is_a_path(job, capsys):
    places = ["--raw", "raw", "--target", "source=wiki", "--output", "out"]
    assert ended(capsys, "fit", *places)[0] == 0
    assert job.called[0][1].target == {"target": "source=wiki"}
    code, _, err = ended(capsys, "fit", *PLACES, "--target", "source=wiki")
    assert code == 2 and "target is given twice; name them --target NAME=..." in err[0]


def test_flags_win_over_the_file_and_the_file_over_defaults(job, capsys, tmp_path):
    (tmp_path / "job.yaml").write_text(
        "raw: raw\ntarget: t\noutput: out\nnum_to_sample: 1e6\nseed: 3\nreport: no\n"
        "quota_column: lang\nquotas: {2019: .5, 007: 0.1, 1.10: 0.1}\nkeep: [1e3, 2024-01-02]\n",
        encoding="utf-8",
    )
    flags = ["--config", "job.yaml", "--seed", "9", "--conf", "a.b=c=d", "--conf", "e=f",
             "--master", "local[1]"]  # fmt: skip
    assert ended(capsys, "resample", *flags)[0] == 2  # there is no output to go on from
    assert ended(capsys, "run", *flags)[0] == 0
    [(_, options)] = job.called
    assert (options.num_to_sample, options.seed, options.report) == (1_000_000, 9, False)
    assert options.quotas == {"2019": 0.5, "007": 0.1, "1.10": 0.1}
    assert options.keep == ("1e3", "2024-01-02")
    # A whole run loads what later commands need; stages alone load less.
    place = {"master": "local[1]", "remote": None, "conf": {"a.b": "c=d", "e": "f"}}
    assert job.sessions == [place | {"record": True}]
    assert ended(capsys, "fit", *PLACES)[0] == 0
    assert not job.sessions[1]["record"]


@pytest.mark.parametrize(
    "text, said",
    [
        ("seed: [1", "is not YAML"),
        ("- a", "must map options to values; it is a list"),
        ("seed: 1\nseed: 2", "the key seed is given twice"),
        ("sede: 1\nngrams: 0", "unknown option sede; did you mean seed?; ngrams must be"),
        ("x: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("a: " + "[" * 3000, "is not YAML"),
        ("a: \x00", "is not YAML"),
        ("seed: !!int x", "is not YAML"),
        ("keep: [no]", "keep: False is no text; write it in quotes: 'no'"),
        ("proportions: {no: 1, en: 2}", "proportions: the key False is no text"),
        ("quotas: {~: 1}\nquota_column: x", "quotas: the key None is no text"),
        ("target: {on: x}", "target: the key True is no text; write it in quotes: 'yes'"),
        ("num_to_sample: many", "num_to_sample must be"),
        ("a: &a [1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b]\n"
         "d: &d [*c,*c,*c,*c,*c,*c,*c]\nraw: &e [*d,*d,*d,*d,*d,*d]\nkeep: [*e,*e,*e]",
         "raw must be a path"),
    ],
)  # fmt: skip
def test_yaml_mistakes_are_one_line(job, capsys, tmp_path, text, said):
    (tmp_path / "job.yaml").write_text(text, encoding="utf-8")
    code, out, err = ended(capsys, "run", "--config", "job.yaml")
    assert (code, out, len(err), job.sessions) == (2, [], 1, [])
    assert said in err[0] and len(err[0]) < 3000


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["run", "--config", "none.yaml"], "config none.yaml cannot be read: No such file"),
        (["run", "--config", "raw"], "is a directory"),
        (["run"], "--raw is missing: give it as a flag or in the config; --target is missing"),
        (["run", *PLACES], "--num-to-sample is missing: give it, or --num-tokens-to-sample"),
        (["resample", "--num-to-sample", "1"], "--output is missing"),
        (["report"], "--output is missing"),
        (["select", "--raw", "raw", "--output", "x", "--quantile", "2"],
         "quantile must be a share above 0, to 1; got '2'; --score is missing"),
        (["select", "--raw", "raw", "--output", "x", "--score", "q", "--threshold", "1", "--scores",
          "no"], "scores: there is nothing at no"),
        (["select", "--score", "a=q", "--score", "a=r"], "a is given twice; name them --score"),
        (["select", "--score", "a=q", "--score", "r=1", "--threshold", "1"], "is for one score"),
        (["explain", "--output", "raw"], "Missing option '--id'"),
        (["run", "--nope"], "No such option"),
        (["nope"], "No such command"),
        (["run", *PLACES, "--ngrams", "0", "--num-buckets", "-5", "--min-example-length", "-1"],
         "ngrams must be a whole number from 1 to 1000; got '0'; num_buckets must be"),
        (["run", "--quota", "x"], "give raw|VALUE=SHARE|VALUE=MIN..MAX"),
        (["run", "--quota", "x=1", "--quota", "x=2"], "each once"),
        (["run", "--quota", "raw", "--quota", "x=2"], "'raw': give raw|VALUE=SHARE"),
        (["run", "--proportion", "x"], "give NAME=NUMBER"),
        (["run", "--conf", "x"], "--conf 'x': give KEY=VALUE"),
        (["report", "--output", "x", "--examples", "101"], "101 is not in the range"),
        (["report", "--output", "x", "--html", "no/x.html"], "--html': there is no folder /"),
        (["report", "--output", "x", "--html", "x.json"], "are written beside the page, as .json"),
        (["fit", "--raw", "/no/such/place", "--target", "a=no", "--target", "b=t", "--output",
          "x"], "raw: there is nothing at /no/such/place; target a: there is nothing at no"),
        (["report", "--output", "none"], "there is no run at none: use `dsir-spark run`"),
        (["resample", "--output", "none", "--num-to-sample", "1"], "there is no run at none"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_before_spark_starts(job, capsys, arguments, said):
    code, out, err = ended(capsys, *arguments)
    assert (code, out, len(err), job.sessions) == (2, [], 1, [])
    assert err[0].startswith("error: ") and said in err[0]


@pytest.mark.parametrize(
    "change, environment",
    [
        ({"--raw": "hdfs:/raw"}, {}),
        ({"--raw": "some.table"}, {}),
        ({"--raw": "r*/x?"}, {}),
        ({"--raw": "gone", "--master": "spark://host:7077"}, {}),
        ({"--raw": "gone", "--remote": "sc://host"}, {}),
        ({"--raw": "gone", "--conf": "spark.hadoop.fs.defaultFS=hdfs://host"}, {}),
        ({"--raw": "gone"}, {"SPARK_REMOTE": "sc://host"}),
        ({"--raw": "gone"}, {"PYSPARK_GATEWAY_PORT": "1"}),
        ({"--raw": "gone"}, {"HADOOP_CONF_DIR": "/etc/hadoop"}),
    ],
)
def test_places_that_may_be_elsewhere_are_left_to_spark(
    job, capsys, monkeypatch, change, environment
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    flags = {"--target": "t", "--output": "out", **change}
    assert ended(capsys, "fit", *[part for pair in flags.items() for part in pair])[0] == 0


def worker_error():
    return RuntimeError(
        "Traceback\n  File x\ndsir_spark.features.tokenizers.TokenizerError: no tokenizers here\n"
    )


def analysis_error():
    from pyspark.errors import AnalysisException

    return AnalysisException("[COLUMN] no such column\nJVM stacktrace:\n...")


def on_python_worker(last):
    """As Spark tells what a Python function raised in a task."""
    from pyspark.errors import PySparkException

    return PySparkException(
        "Job aborted due to stage failure: Lost task 0.0: org.apache.spark.api.python."
        f"PythonException: Traceback (most recent call last):\n  File x\n{last}\n"
        "\tat org.apache.spark.api.python.BasePythonRunner\n"
    )


def end_of_file():
    return EOFError("the compiled code is cut off")


@pytest.mark.parametrize(
    "error, code, said",
    [
        (lambda: DataError("raw is empty"), 2, ["error: raw is empty"]),
        (lambda: SessionError("Java is missing"), 2, ["error: Java is missing"]),
        (lambda: TokenizerError("no such tokenizer"), 2, ["error: no such tokenizer"]),
        (worker_error, 2, ["error: on a worker: no tokenizers here"]),
        (analysis_error, 2, ["error: [COLUMN] no such column"]),
        (lambda: OSError("No space left on device"), 2,
         ["error: there is no space left on a disk: make room, or name another folder with "
          "--conf spark.local.dir=FOLDER or --output"]),
        (KeyboardInterrupt, 130, ["interrupted: nothing half-written is visible"]),
        (lambda: click.UsageError("so not"), 2, ["error: so not"]),
        (lambda: on_python_worker("OSError: [Errno 28] No space left on device"), 2,
         ["error: there is no space left on a disk: make room, or name another folder with "
          "--conf spark.local.dir=FOLDER or --output"]),
        (lambda: on_python_worker("ModuleNotFoundError: No module named 'numba'"), 2,
         ["error: a worker's Python lacks a package: No module named 'numba': install "
          "dsir-spark there, or start by scripts/submit.sh"]),
        (lambda: on_python_worker("Python worker exited unexpectedly\njava.io.EOFException"), 2,
         ["error: a job was ended from outside: Python worker exited unexpectedly: logs say why; "
          "if memory was too small, give fewer cores, or on a cluster "
          "--conf spark.executor.memoryOverhead=4g"]),
        (lambda: on_python_worker("x.PySparkRuntimeError: [PYTHON_VERSION_MISMATCH] 3.9"), 2,
         ["error: a worker has no such Python as the driver: [PYTHON_VERSION_MISMATCH] 3.9: name "
          "one that all machines have by PYSPARK_PYTHON"]),
        (lambda: MemoryError("of 9 GB"), 2,
         ["error: memory is too small for this job: give --conf spark.driver.memory=8g "
          "(SPARK_DRIVER_MEMORY) or smaller --num-buckets"]),
        (lambda: on_python_worker("KeyError: 'bucket does not exist'"), 1, None),
        (lambda: ValueError("boom"), 1, None),
        (lambda: ValueError("the array is corrupt: it does not exist"), 1, None),
        (end_of_file, 1, None),
    ],
)  # fmt: skip
def test_exit_codes(job, capsys, error, code, said):
    def fails(*_):
        raise error()

    job.run_all = fails
    found, out, err = ended(capsys, "run", *PLACES, "--num-to-sample", "1")
    err = [line for line in err if line]
    assert (found, out) == (code, [])
    if said is not None:
        assert err == said
    else:
        assert "Traceback" in err[0] and err[-1].startswith("error: this is a bug of dsir-spark")


def test_the_log_and_warnings_of_the_package_are_lines(job, capsys):
    def warns(*_):
        logging.getLogger("dsir_spark").warning("two\nlines")
        logging.getLogger("dsir_spark").debug("details")
        for module in ("dsir_spark.dsir", "dsir_spark.dsir", "numpy"):
            warnings.warn_explicit("few tokens", UserWarning, "x.py", 1, module=module)
        return {}

    job.fit = warns
    expected = (0, ["tables: out/model"], ["warning: two lines", "warning: few tokens"])
    for _ in range(2):  # a call leaves no handler behind
        assert ended(capsys, "fit", *PLACES) == expected
    assert not logging.getLogger("dsir_spark").handlers


def test_a_terminal_shows_the_tasks_of_a_stage(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    counts = types.SimpleNamespace(numCompletedTasks=1, numTasks=4)
    tracker = types.SimpleNamespace(
        getActiveStageIds=lambda: [7, 8], getStageInfo=lambda i: counts if i == 7 else None
    )
    spark = types.SimpleNamespace(_sc=types.SimpleNamespace(statusTracker=lambda: tracker))
    with progress.told(), progress.of(spark)("counting"):
        time.sleep(0.7)
        logging.getLogger("dsir_spark").warning("few tokens")
    clear = re.escape("\r\033[K")
    shown = f"({clear}counting: 1/4 tasks [01] s)+{clear}warning: few tokens\n({clear}.*)?{clear}"
    assert re.fullmatch(shown, terminal.getvalue())


def test_spark_connect_tells_of_its_tasks_itself():
    handlers = []
    spark = types.SimpleNamespace(
        registerProgressHandler=handlers.append, removeProgressHandler=handlers.remove
    )
    stage = types.SimpleNamespace(num_completed_tasks=3, num_tasks=4, done=False)
    with progress._tasks(spark) as tasks:
        assert tasks() == (0, 0)
        handlers[0]([stage, types.SimpleNamespace(done=True)], 1, None, False)
        assert tasks() == (3, 4)
        handlers[0]([stage], 0, None, True)
        assert tasks() == (0, 0)
    assert handlers == []


@pytest.mark.parametrize("done, tasks, seconds, in_all, rows, said", [
    (0, 0, 0, 7, 1000, "... 7 s"),
    (0, 40, 20, 21, 1000, "0/40 tasks 21 s"),
    (10, 40, 20, 25, None, "10/40 tasks 25 s, 60 s left"),
    (10, 40, 20, 25, 4_000_000, "about 1,000,000 of 4,000,000 rows, 50,000/s, 60 s left"),
    (1, 40, 300, 300, 8_000, "about 200 of 8,000 rows, 1/s, 3 h left"),
    (20, 40, 300, 300, 8_000, "about 4,000 of 8,000 rows, 13/s, 5 min left"),
])  # fmt: skip
def test_rows_done_rate_and_time_left(done, tasks, seconds, in_all, rows, said):
    assert progress.line("weighing", done, tasks, seconds, in_all, rows) == f"weighing: {said}"


ALONE = " (no browser here that could open it)"


def test_what_a_command_shows(job, capsys, monkeypatch):
    job.run_all = lambda *_: {"facts": 5}
    shown = ["in short 5", "page: out/report.html", "tables: out/model"]
    code, out, err = ended(capsys, "run", *PLACES, "--num-to-sample", "1")
    assert (code, out) == (0, shown) and re.fullmatch(r"writing the report page: \d\.\d s", err[0])
    _, out, err = ended(capsys, "run", *PLACES, "--num-to-sample", "1", "--no-report")
    assert (out, err) == ([shown[0], shown[2]], [])
    Path("out").mkdir()
    # What it was made of may be gone.
    Path("job.yaml").write_text("raw: gone/raw\noutput: out\nreport: no", encoding="utf-8")
    _, out, _ = ended(capsys, "report", "--config", "job.yaml", "--composition", "c")
    assert out == ["all out ('c',) None", "page: out/report.html"]
    _, out, _ = ended(capsys, "report", "--output", "out", "--html", "p", "--examples", "0")
    assert out == ["all out () 0", "page: p"]
    assert job.pages == [("out",), ("out", None), ("out", "p")]
    for there, browser, note in ((True, True, ""), (True, False, ALONE), (False, True, ALONE)):
        asked = []
        monkeypatch.setattr(webbrowser, "open", lambda at, b=browser, to=asked: to.append(at) or b)
        Path("p").unlink(missing_ok=True)
        if there:
            Path("p").touch()
        code, out, _ = ended(capsys, "report", "--output", "out", "--html", "p", "--open")
        assert (code, out[-1]) == (0, f"page: p{note}")
        assert asked == [Path("p").resolve().as_uri()] * there
    _, out, _ = ended(capsys, "explain", "--output", "out", "--id", "a", "--id", "b")
    assert out == ["out ('a', 'b') 20"]
    code, out, _ = ended(capsys)
    assert code == 0 and "run " in "".join(out)


@pytest.mark.parametrize("command", [["report", "--output", "raw"], ["--help"]])
def test_a_reader_that_is_gone_stops_no_command(job, monkeypatch, command):
    """As of `| head -1`; click's own help is all that ends by it."""
    pages, told, write = [], [], job.write_report
    job.write_report = lambda *of: pages.append(of) or write(*of)
    monkeypatch.setattr(cli.jvm, "ended", lambda well: told.append(well))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", nobody)
        with contextlib.suppress(SystemExit) if command == ["--help"] else contextlib.nullcontext():
            cli.main(command)
        patch.undo()
        progress.os.dup2(1, writing)  # where that help is flushed at last
    ends = command != ["--help"]
    assert (len(pages), told) == (int(ends), [ends])


def test_a_mistake_is_told_without_spark_or_compiled_code(tmp_path):
    (tmp_path / "job.yaml").write_text("sede: 1", encoding="utf-8")
    code = """
import sys
from dsir_spark import cli
heavy = {"pyspark", "numba", "matplotlib", "pandas", "pyarrow"}
for line in (["run", "--help"], ["run", "--ngrams", "0"], ["run", "--config", "job.yaml"], ["x"]):
    try:
        cli.main(line)
    except SystemExit as stopped:
        assert stopped.code == 2
    assert not heavy & set(sys.modules), (line, heavy & set(sys.modules))
try:
    cli.main(["run", "--raw", "x", "--target", "y", "--output", "z", "--num-to-sample", "1"])
except SystemExit as stopped:
    assert stopped.code == 2
assert not {"numba", "matplotlib", "dsir_spark.job"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 4 and lines[-1].startswith("error: raw: there is nothing at x")


@pytest.mark.parametrize("there", [True, False])
def test_pyspark_is_imported_before_a_second_thread_asks_for_it(tmp_path, there):
    code = f"""
import sys
from dsir_spark import cli, session
if not {there}:
    sys.modules["pyspark"] = None
    cli.main(["runs", "--output", "x", "--master", "spark://x:1"])
session.build_session = lambda: "pyspark.sql" in sys.modules
with cli._starting() as started:
    assert started.result()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if there else 2), done.stderr
    assert there or done.stderr.startswith("error: pyspark is not installed")


def test_the_package_is_the_command():
    done = subprocess.run([sys.executable, "-m", "dsir_spark", "--version"], capture_output=True)
    assert done.returncode == 0 and done.stdout.startswith(b"dsir-spark, version")


def test_yaml_is_read_by_a_loader_that_makes_plain_values_only():
    assert issubclass(startup.Loader, yaml.SafeLoader)
