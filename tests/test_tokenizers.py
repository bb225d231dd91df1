"""Each tokenizer against the oracle, in the kernels, through Spark, and as part of a model."""

from __future__ import annotations

import importlib
import json
import random
import sys

import numpy as np
import oracle
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_features import HOSTILE, SPEC

from dsir_spark import DSIR, DSIRModel, cli, features, job, ngram_counts, tokens
from dsir_spark.config import FeatureSpec, JobConfig
from dsir_spark.errors import ConfigError, TableError

CJK = "\u6f22\u5b57\u30ab\u3099\u304c\uff76\ud55c\uae00\u1112\u1161\u0e01\u0e49\u0e33\u0e3f\u0e52"
CJK += "\u3001\u30fb\u3000\u3400\U00020000\U0001b000\u0e00\u0e3b\ud7a4\uffdd"
texts = st.text(st.one_of(st.sampled_from(HOSTILE + CJK), st.characters(codec="utf-8")))

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


def check(text, tokenizer, split, ngrams, hash="xxhash64"):
    spec = FeatureSpec(ngrams, SPEC.num_buckets, tokenizer, hash)
    indices, counts = features.sparse_counts(pa.array([None, text]), spec)
    expected: dict[int, int] = {}
    for b in oracle.buckets(text, ngrams, spec.num_buckets, hash, split):
        expected[b] = expected.get(b, 0) + 1
    assert dict(zip(indices[1].as_py(), counts[1].as_py(), strict=True)) == expected
    assert indices[0].as_py() is None
    assert features.count_ngrams(pa.array([text]), spec).num_tokens == len(
        oracle.tokens(text, split)
    )


@settings(max_examples=300, deadline=None)
@given(texts, st.integers(1, 5), st.sampled_from(["xxhash64", "sha256"]))
@example(CJK + "abc" + CJK, 2, "xxhash64")
@example("\u6f22a\u03a3\u5b57.\u3002\u0130\u0e01\u0307", 2, "xxhash64")
def test_compiled_tokenizers(text, ngrams, hash):
    check(text, "wordpunct_cjk", "wordpunct_cjk", ngrams, hash)
    check(text, "bytes", "bytes", ngrams, hash)


@settings(max_examples=100, deadline=None)
@given(texts, st.integers(1, 3))
def test_python_tokenizers(files, text, ngrams):
    content = tokens.resolved(str(files[0]))
    check(text, content, files[1], ngrams)
    halves = importlib.import_module("tokens_of_a_test").halves
    check(text, FUNCTION, halves, ngrams)


def test_cjk_of_every_code_point():
    every = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    rows = [" ".join(f"a{chr(c)}{chr(c)}" for c in every[i : i + 4096])
            for i in range(0, len(every), 4096)]  # fmt: skip
    _, found = features.score(pa.array(rows), np.zeros((7, 1)),
                              FeatureSpec(1, 7, "wordpunct_cjk"))  # fmt: skip
    assert found.tolist() == [len(oracle.tokens(r, "wordpunct_cjk")) for r in rows]


@pytest.mark.parametrize("tokenizer", ["wordpunct_cjk", "bytes"])
@pytest.mark.parametrize("ngrams", [1, 5])
def test_long_documents(tokenizer, ngrams):
    for text in ("\u6f22" * 20_000, "a\u6f22" * 9_000 + "\u03a3", "word \u0e01\u0e49 " * 4_000):
        check(text, tokenizer, tokenizer, ngrams)


def test_long_tokens_of_a_function():
    halves = importlib.import_module("tokens_of_a_test").halves
    check("b" * 100_000 + "a" * 20_000, FUNCTION, halves, 3)


def test_bytes_that_are_no_utf8_stay_as_they_are():
    data = b"\xff\xfe a\x00\x80"
    spec = FeatureSpec(2, SPEC.num_buckets, "bytes")
    found = features.sparse_counts(pa.array([data], pa.binary()), spec)[0][0].as_py()
    grams = oracle.ngrams([bytes([b]) for b in data], 2)
    assert set(found) == {oracle.bucket(g, spec.num_buckets) for g in grams}


def test_korean_and_thai_by_hand():
    assert oracle.tokens("GPT-4\ub294 \ud55c\uad6d\uc5b4.", "wordpunct_cjk") == [
        "gpt", "-", "4", "\ub294", "\ud55c", "\uad6d", "\uc5b4", ".",
    ]  # fmt: skip
    assert oracle.tokens("\u0e01\u0e49\u0e32", "wordpunct_cjk") == ["\u0e01", "\u0e49", "\u0e32"]


@pytest.mark.parametrize(
    "tokenizer, said",
    [
        ("words", "must be one of wordpunct, wordpunct_cjk, bytes"),
        (3, "must be one of"),
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
        DSIR(tokenizer=tokenizer)
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
        cli.main(["run", "--tokenizer", "no_such_module_here:f", "--raw", "a", "--target", "b",
                  "--output", "c", "--num-to-sample", "1"])  # fmt: skip
    assert stopped.value.code == 2
    assert "cannot be imported" in capsys.readouterr().err


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
            DSIR(tokenizer=tokenizer)
    raw = spark.createDataFrame(ROWS, "id string, text string").repartition(3)
    target = raw.where("id < 'd3'")
    options = {"num_buckets": 101, "tokenizer": tokenizer}
    model = DSIR(**options).fit(raw, target)
    assert model.fingerprint == DSIR(**options).fit(raw.repartition(1), target).fingerprint
    assert model.fingerprint != DSIR(num_buckets=101).fit(raw, target).fingerprint
    counts = [0] * 101
    for _, text in ROWS:
        for b in oracle.buckets(text, 2, 101, "xxhash64", split) if text else []:
            counts[b] += 1
    assert model.raw.counts.tolist() == counts
    model.save(str(tmp_path / "model"), spark=spark)
    if kind == "hf":
        moved.unlink()
    again = DSIRModel.load(str(tmp_path / "model"), spark=spark)
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
    chosen = again.resample(raw, num_to_sample=7, seed=3, min_example_length=5)
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
             "min_example_length": 1}  # fmt: skip
    job.run_all(spark, JobConfig.from_mapping({**place, "tokenizer": str(files[0])}))
    again = job.resample_again(spark, JobConfig.from_mapping({**place, "tokenizer": f"hf:{copy}"}))
    assert again["funnel"]["selected"] == 3
    with pytest.raises(TableError, match=r"tokenizer is 'a tokenizer file of .* and 'bytes' here"):
        job.resample_again(spark, JobConfig.from_mapping({**place, "tokenizer": "bytes"}))
