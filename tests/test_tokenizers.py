"""Each tokenizer against the oracle: in Python, through Spark, and as part of a model."""

from __future__ import annotations

import dataclasses
import importlib
import json
import random
import sys

import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_features import check, texts

from dsir_spark import DSIR, DSIRModel, cli, features, job, ngram_counts
from dsir_spark.errors import ConfigError, TableError
from dsir_spark.features import FeatureSpec, terms, tokenizers
from dsir_spark.features.tokenizers import TokenizerError
from dsir_spark.job_options import JobOptions
from dsir_spark.scoring import stored

FUNCTION = "tokens_of_a_test:halves"
MODULE = '''
def halves(text):
    """Tokens with blanks, bytes above 16 bits, and nothing in them."""
    middle = len(text) // 2
    return [text[:middle], text[middle:]] + text.split("a") if text else []

number = 3

def letters(text):
    return tuple(text)

def broken(text):
    raise RuntimeError("no luck")
'''


@pytest.fixture(scope="session", autouse=True)
def module_of_functions(tmp_path_factory):
    """A module that this process can import."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "tokens_of_a_test.py").write_text(MODULE, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def hugging_face(path):
    """A small byte-pair tokenizer, with the truncation and padding that a model's file has."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["the data of the weights"] * 5, trainer)
    made.enable_truncation(4)
    made.enable_padding(length=9)
    made.save(str(path))
    made.no_truncation()
    made.no_padding()
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(path, function of the oracle) of a Hugging Face file."""
    path = tmp_path_factory.mktemp("hf") / "tokenizer.json"
    made = hugging_face(path)
    return path, lambda text: [str(i) for i in made.encode(text).ids]


@settings(max_examples=100, deadline=None)
@given(texts, st.integers(1, 3))
def test_python_tokenizers(files, text, ngrams):
    content = tokenizers.resolved(str(files[0]))
    check(text, FeatureSpec(ngrams, 997, content), files[1])
    halves = importlib.import_module("tokens_of_a_test").halves
    check(text, FeatureSpec(ngrams, 997, FUNCTION), halves)


def test_long_tokens_of_a_function():
    halves = importlib.import_module("tokens_of_a_test").halves
    check("b" * 100_000 + "a" * 20_000, FeatureSpec(3, 1 << 24, FUNCTION), halves)


@pytest.mark.parametrize("tokenizer", ["wordpunct", "wordpunct_cjk", "bytes", FUNCTION])
@settings(max_examples=50, deadline=None)
@given(st.one_of(st.binary(max_size=40), texts))
def test_terms_add_up_to_the_weight_to_the_last_bit(tokenizer, text):
    """Of cut-off sequences too, which read as U+FFFD here as in the kernels."""
    spec = FeatureSpec(2, 997, tokenizer)
    table = np.random.default_rng(4).normal(size=(997, 1))
    data = text if isinstance(text, bytes) else text.encode()
    weight = features.score(pa.array([data], pa.binary()), table, spec)[0][0, 0]
    found = terms.terms(text, table[:, 0], spec)
    assert terms.log_weight(found) == weight
    if tokenizer != "bytes":
        ngrams = oracle.ngrams(terms.split(text, tokenizer), 2)
        assert [t.ngram for t in found] == ngrams
        assert [t.bucket for t in found] == [oracle.bucket(g, 997) for g in ngrams]


def test_korean_and_thai_by_hand():
    assert oracle.tokens("GPT-4\ub294 \ud55c\uad6d\uc5b4.", "wordpunct_cjk") == [
        "gpt", "-", "4", "\ub294", "\ud55c", "\uad6d", "\uc5b4", ".",
    ]  # fmt: skip
    assert oracle.tokens("\u0e01\u0e49\u0e32", "wordpunct_cjk") == ["\u0e01", "\u0e49", "\u0e32"]


@pytest.mark.parametrize(
    "tokenizer, said",
    [
        ("words", "must be one of wordpunct, wordpunct_cjk, bytes"),
        (3, "tokenizer must be "),
        ("no_such_module_here:f", "cannot be imported"),
        ("tokens_of_a_test:absent", "cannot be imported"),
        ("tokens_of_a_test:number", "is not a function"),
        ("tokens_of_a_test:letters", "must return a list of str"),
        ("tokens_of_a_test:broken", "no luck"),
        ("hf:/no/such/tokenizer.json", "cannot be read: No such file"),
    ],
)
def test_tokenizers_are_refused_at_once(tokenizer, said):
    with pytest.raises(ConfigError, match=said) as caught:
        DSIR(tokenizer=tokenizer, allow_functions=True)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tokenizers(tmp_path, monkeypatch, files):
    path = tmp_path / "tokenizer.json"
    for text, said in (("{", "is not a JSON file"), ("{}", "no Hugging Face tokenizer")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=said):
            DSIR(tokenizer=str(path))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"package tokenizers is missing here: pip install"):
        DSIR(tokenizer=str(files[0]))


def test_the_command_line_refuses_before_spark_starts(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", "--tokenizer", "shlex:split", "--raw", "a", "--target", "b",
                  "--output", "c", "--num-to-sample", "1"])  # fmt: skip
    assert stopped.value.code == 2
    assert "give --allow-functions" in capsys.readouterr().err


ROWS = [(f"d{i}", " ".join(random.Random(i).choices("\ud55c\uad6d data \u6f22\u5b57 of .".split(),
        k=30)) if i % 9 else None) for i in range(60)]  # fmt: skip


@pytest.mark.spark
@pytest.mark.filterwarnings("ignore:tokenizer .* is a Python function")
@pytest.mark.parametrize("kind", ["wordpunct_cjk", "bytes", "hf", "function"])
def test_model_and_selection_through_spark(spark, tmp_path, files, kind):
    """Fit, transform, features, selection and a model read again, against the oracle."""
    tokenizer, split = {
        "hf": (f"hf:{files[0]}", files[1]),
        # Of the standard library, so that any worker has it; these texts hold no quotes.
        "function": ("shlex:split", str.split),
    }.get(kind, (kind, kind))
    if kind == "hf":
        moved = tmp_path / "moved.json"
        moved.write_text(files[0].read_text(encoding="utf-8"), encoding="utf-8")
        tokenizer = f"hf:{moved}"
    if kind == "function":
        with pytest.warns(UserWarning, match="Python function"):
            DSIR(tokenizer=tokenizer, allow_functions=True)
    raw = spark.createDataFrame(ROWS, "id string, text string").coalesce(1)
    target = raw.where("id < 'd3'")
    options = {"num_buckets": 101, "ngrams": 2, "tokenizer": tokenizer, "allow_functions": True}
    model = DSIR(**options).fit(raw, target)
    assert model.fingerprint == DSIR(**options).fit(raw.repartition(3), target).fingerprint
    other = model.config.model_copy(update={"tokenizer": "wordpunct"})
    assert model.fingerprint != dataclasses.replace(model, config=other).fingerprint
    counts = [0] * 101
    for _, text in ROWS:
        for b in oracle.buckets(text, 2, 101, "xxhash64", split) if text else []:
            counts[b] += 1
    assert model.raw.counts.tolist() == counts
    if kind == "hf":
        moved.unlink()
    if kind == "function":  # a model from elsewhere runs nothing
        model.save(str(tmp_path / "model"), spark=spark)
        with pytest.raises(TokenizerError, match=r"shlex:split is a function, .*allow_f"):
            DSIRModel.load(str(tmp_path / "model"), spark=spark)
        again = DSIRModel.load(str(tmp_path / "model"), spark=spark, allow_functions=True)
    else:
        again = DSIRModel(**stored.read(stored.as_frame(model, spark), "model", False))
    assert again.fingerprint == model.fingerprint
    ratios = model.log_ratio["target"].tolist()
    expected = {}
    for i, text in ROWS:
        if text is not None:
            found = oracle.buckets(text, 2, 101, "xxhash64", split)
            weight = 0.0
            for b in found:  # not sum(), which newer Pythons compensate
                weight += ratios[b]
            expected[i] = (weight, len(oracle.tokens(text, split)))
    weighed = again.transform(raw).where("text is not null").collect()
    assert {r["id"]: (r["log_weight"], r["num_tokens"]) for r in weighed} == expected
    chosen = again.resample(raw, num_to_sample=7, method="sample", seed=3, min_example_length=5)
    ids = list(expected)
    assert {r["id"] for r in chosen.select("id").collect()} == oracle.gumbel_top_k(
        ids, [expected[i][0] for i in ids], 7, 3
    )
    if kind != "hf":
        first = ngram_counts(raw, **options).where("id = 'd1'").first()
        buckets = oracle.buckets(ROWS[1][1], 2, 101, "xxhash64", split)
        assert first["indices"] == sorted(set(buckets)) and sum(first["counts"]) == len(buckets)


@pytest.mark.spark
def test_a_stage_again_with_the_same_or_another_file(spark, tmp_path, files, capsys):
    """The job knows a file by its content: a copy elsewhere is the same tokenizer."""
    (tmp_path / "raw.jsonl").write_text(
        "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in ROWS), encoding="utf-8"
    )
    copy = tmp_path / "copy.json"
    copy.write_text(files[0].read_text(encoding="utf-8"), encoding="utf-8")
    data = str(tmp_path / "raw.jsonl")
    place = {"raw": data, "target": data, "output": str(tmp_path / "out"), "num_to_sample": 3,
             "min_example_length": 1, "report": False, "check_ids": False}  # fmt: skip
    first = job.fit(spark, JobOptions.from_mapping({**place, "tokenizer": str(files[0])}))
    again = job.weigh(spark, JobOptions.from_mapping({**place, "tokenizer": f"hf:{copy}"}))
    assert again["model_fingerprint"] == first["model_fingerprint"]
    assert spark.read.format("delta").load(f"{tmp_path}/out/weights").count() == 60
    with pytest.raises(TableError, match=r"tokenizer is 'a tokenizer file of .* and 'bytes' here"):
        job.resample_again(spark, JobOptions.from_mapping({**place, "tokenizer": "bytes"}))
