"""A model logged to MLflow: loaded by its plain API, without Spark, it gives the bits of Spark."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsir_spark import DSIR, DSIRModel, job, mlflow_model, served
from dsir_spark.errors import ConfigError, TableError
from dsir_spark.features.tokenizers import TokenizerError
from dsir_spark.job_options import JobOptions

mlflow = pytest.importorskip("mlflow", reason="pip install 'dsir-spark[mlflow]'")
pytestmark = [
    pytest.mark.spark,
    # A folder as a store; and what mlflow calls of others.
    pytest.mark.filterwarnings("ignore:::mlflow", "ignore:.*filesystem tracking backend"),
]
SCHEMA = "id string, text string"
WORDS = "hoist the sail na\u00efve caf\u00e9 \u4e2d\u6587 1984 -- ! \u0391\u03a3 boil soup".split()
# Options, and whether there are two targets.
MODELS = [
    ({"tokenizer": "bytes", "target_dirichlet_smoothing": "auto"}, False),
    ({"ngrams": 3, "target_laplace_smoothing": 0.5, "scorer": "classifier"}, True),
]
# Another process, to which Spark is not installed.
LOAD = """
import json, sys
sys.modules["pyspark"] = None
import mlflow, pandas as pd
texts = json.loads(sys.argv[1])
for uri in sys.argv[2:]:
    model = mlflow.pyfunc.load_model(uri)
    found = model.predict(pd.DataFrame({"text": texts}))
    rows = found.astype(object).where(found.notna(), None).to_dict("records")
    print(json.dumps([{k: v.hex() if isinstance(v, float) else v for k, v in r.items()}
                      for r in rows]))
"""


def made(n, words, seed):
    rng = random.Random(seed)
    return [(f"d{i}", " ".join(rng.choices(words, k=rng.randrange(4, 40)))) for i in range(n)]


RAW = [*made(300, WORDS, 1), ("null", None), ("blank", " ")]
TARGETS = {"a": made(60, WORDS[:5], 2), "b": made(60, WORDS[4:], 3)}


@pytest.fixture(scope="module")
def frames(spark):
    raw = spark.createDataFrame(RAW, SCHEMA)
    return raw, {name: spark.createDataFrame(rows, SCHEMA) for name, rows in TARGETS.items()}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")


def test_loaded_without_spark_it_gives_the_bits_of_transform(spark, frames, tmp_path):
    raw, targets = frames
    logged, expected = [], []
    for options, several in MODELS:
        model = DSIR(num_buckets=997, **options).fit(raw, targets if several else targets["a"])
        logged.append(model.to_mlflow(spark=spark))
        columns = [c for c in model.score_columns if "probability" not in c]
        assert logged[-1].signature.inputs.to_dict() == [
            {"type": "string", "name": "text", "required": True}]  # fmt: skip
        assert logged[-1].signature.outputs.input_names() == [*columns, "num_tokens"]
        rows = model.transform(raw).select(*columns, "num_tokens").collect()
        expected.append([{k: v.hex() if isinstance(v, float) else v for k, v in r.asDict().items()}
                         for r in rows])  # fmt: skip
    texts = json.dumps([row["text"] for row in raw.collect()])
    done = subprocess.run(
        [sys.executable, "-c", LOAD, texts, *[m.model_uri for m in logged]],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
    assert not list(tmp_path.rglob("*.pkl"))


def test_a_run_is_logged_with_its_options_numbers_inputs_and_page(spark, frames, tmp_path):
    frames[0].write.format("delta").save(str(tmp_path / "raw"))
    pq.write_table(pa.table({"text": [t for _, t in TARGETS["a"]]}), tmp_path / "a.parquet")
    output = tmp_path / "out"
    options = JobOptions.from_mapping({
        "raw": str(tmp_path / "raw"), "target": str(tmp_path / "a.parquet"), "output": str(output),
        "num_to_sample": 20, "min_example_length": 5, "num_buckets": 97, "report": False,
    })  # fmt: skip
    row = job.run_all(spark, options)
    (output / "report.html").write_text(f"<p>{row['run_id']}", encoding="utf-8")
    model = DSIRModel.load(str(output / "model"), spark=spark)
    info = model.to_mlflow(str(output), registered_model_name="mix", spark=spark)
    run = mlflow.get_run(info.run_id)
    assert run.data.params["num_to_sample"] == "20" and run.data.params["num_buckets"] == "97"
    assert run.data.metrics["kl_reduction/target"] == row["kl_reduction"]["target"]
    assert run.data.metrics["funnel/selected"] == 20
    assert run.data.tags["dsir_spark.run_id"] == row["run_id"]
    inputs = {i.tags[0].value: i.dataset for i in run.inputs.dataset_inputs}
    for role, file, digest in (
        ("raw", "raw", "delta version 0"),
        ("target", "a.parquet", "listing -?[0-9]+"),
    ):
        assert json.loads(inputs[role].source) == {"path": str(tmp_path / file)}
        assert re.fullmatch(digest, inputs[role].digest)
    assert "report.html" in [f.path for f in mlflow.MlflowClient().list_artifacts(info.run_id)]
    assert mlflow.pyfunc.load_model("models:/mix/1").metadata.metadata == {
        "dsir_spark_fingerprint": model.fingerprint}  # fmt: skip
    # The page of another run, as before a `resample --no-report`; ids that name no metric.
    assert mlflow_model._page(str(output), {"run_id": "0" * 32}) is None
    numbers = {"contaminated": {"q?1": 2}, "funnel": {"read": 3}}
    assert dict(mlflow_model._numbers(numbers)) == {"funnel/read": 3.0}
    with pytest.raises(TableError, match="has selected by this model"):
        DSIR(num_buckets=7).fit(*frames).to_mlflow(str(output), spark=spark)
    with pytest.raises(ConfigError, match=r"page .*nowhere\.html is no file"):
        model.to_mlflow(page="nowhere.html", spark=spark)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch, pytest.raises(ConfigError, match=r"install 'dsir-spark\[mlf"):
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        model.to_mlflow(spark=spark)


@pytest.mark.parametrize(
    "given, read",
    [
        (["ok", "a\ud83d", None], ["ok", "a?", None]),  # half a character, which has no UTF-8
        ([None, float("nan")], [None, None]),
        ([float("nan")], [None]),
        ([], []),
    ],
)
def test_texts_that_are_no_utf8_or_none_at_all(frames, tmp_path, given, read):
    import pandas as pd

    raw, targets = frames
    model = DSIR(num_buckets=997).fit(raw, targets["a"])
    pq.write_table(mlflow_model._table(model), tmp_path / "model.parquet")
    of = served.load(str(tmp_path / "model.parquet"))
    found = of.predict(pd.DataFrame({"text": given}))
    expected = of.predict(pd.DataFrame({"text": pd.Series(read, dtype=object)}))
    pd.testing.assert_frame_equal(found, expected)
    assert found["num_tokens"].isna().tolist() == [text is None for text in read]


@pytest.mark.parametrize(
    "change, error, says",
    [
        ({"format_version": 99}, TableError, "is of format 99, this version of dsir_spark reads"),
        ({"config": {"tokenizer": "os:getcwd"}}, TokenizerError, "os:getcwd is a function"),
        (None, TableError, "is not a model: it has columns"),
    ],
)
def test_what_is_no_model_of_ours_is_refused(tmp_path, change, error, says):
    facts = {"format_version": 1, "config": {}} | (change or {})
    columns = {"name": [""], **({"facts": [json.dumps(facts)]} if change else {})}
    pq.write_table(pa.table(columns), tmp_path / "model.parquet")
    with pytest.raises(error, match=says):
        served.load(str(tmp_path / "model.parquet"))


def test_a_tokenizer_of_code_is_not_logged(frames):
    with pytest.warns(UserWarning, match="is a Python function"):
        model = DSIR(num_buckets=7, tokenizer="shlex:split", allow_functions=True).fit(*frames)
    with pytest.raises(ConfigError, match="shlex:split is a function"):
        model.to_mlflow()
