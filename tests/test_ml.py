"""DSIR as stages of `pyspark.ml`: fitted, kept and loaded within a Pipeline."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyspark
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import SQLTransformer

from dsir_spark import DSIR
from dsir_spark.errors import ColumnError, ConfigError
from dsir_spark.ml import DSIREstimator, DSIRTransformer
from dsir_spark.options import FitOptions

pytestmark = pytest.mark.spark
ROWS = [(i, f"word{i % 7} of raw number {i % 13}", False) for i in range(60)]
ROWS += [(100 + i, f"word{i % 3} of target", True) for i in range(20)]
ROWS += [(200, "neither of them", None)]
SCHEMA = "id int, body string, wanted boolean"
OPTIONS = {"num_buckets": 97, "ngrams": 1, "target_dirichlet_smoothing": "auto"}
CONNECT = """
import sys
sys.path.insert(0, sys.argv[1])
from dsir_spark.session import build_session
spark = build_session("connect", remote="local[2]")
import test_ml
found = test_ml.through_a_pipeline(spark)
try:
    test_ml.DSIREstimator().write().overwrite().save(sys.argv[2])
except Exception as error:
    print("NOT", type(error).__name__, str(error)[:100].replace(chr(10), " "))
print("FOUND", found)
"""


def through_a_pipeline(spark):
    """Weights by a pipeline that was stored before it was fitted, and again when it was."""
    frame = spark.createDataFrame(ROWS, SCHEMA)
    renamed = SQLTransformer(statement="SELECT id, wanted, body AS text FROM __THIS__")
    estimator = DSIREstimator(target_column="wanted", **OPTIONS)
    with tempfile.TemporaryDirectory() as folder:
        for kept in (Pipeline(stages=[renamed, estimator]), estimator):
            kept.save(f"{folder}/{type(kept).__name__}")
        again = DSIREstimator.load(f"{folder}/DSIREstimator")
        assert again.extractParamMap() == estimator.extractParamMap()
        fitted = Pipeline.load(f"{folder}/Pipeline").fit(frame)
        for _ in range(2):  # overwriting is Spark's, and ours with it
            fitted.write().overwrite().save(f"{folder}/fitted")
        rows = PipelineModel.load(f"{folder}/fitted").transform(frame).collect()
        assert rows == fitted.transform(frame).collect()
    return json.dumps([[r["id"], r["log_weight"].hex(), r["num_tokens"]] for r in rows])


@pytest.fixture(scope="module")
def expected(spark):
    """Weights of all rows by the model itself."""
    frame = spark.createDataFrame(ROWS, SCHEMA).withColumnRenamed("body", "text")
    model = DSIR(**OPTIONS).fit(frame.where("not wanted"), frame.where("wanted"))
    rows = model.transform(frame).collect()
    return [[r["id"], r["log_weight"].hex(), r["num_tokens"]] for r in rows]


def test_a_pipeline_weighs_as_the_model_does(spark, expected):
    assert json.loads(through_a_pipeline(spark)) == expected


@pytest.mark.slow
@pytest.mark.skipif(pyspark.__version__ < "4", reason="Spark 3.5 stores no pipeline under Connect")
def test_under_spark_connect_too(expected, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CONNECT, Path(__file__).parent, tmp_path],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "FOUND" in done.stdout, done.stderr[-3000:]
    assert json.loads(done.stdout.partition("FOUND")[2]) == expected
    assert "NOT" in done.stdout  # see the module's docstring


def test_parameters_are_the_options(spark):
    estimator = DSIREstimator(ngrams=3)
    assert {p.name for p in estimator.params} == {
        "target_column", *FitOptions.model_fields} - {"allow_functions"}  # fmt: skip
    assert estimator.copy({estimator.ngrams: 4}).getOrDefault("ngrams") == 4
    assert "Buckets that n-grams are hashed to. (default: 30000)" in estimator.explainParams()
    for options, says in (
        ({"ngrams": 0, "num_buckets": "x"}, "ngrams must be .*; num_buckets must be"),
        ({"tokenizer": "os:getcwd"}, "os:getcwd is a function"),
        ({"allow_functions": True}, "unknown parameter allow_functions"),
    ):
        with pytest.raises(ConfigError, match=says):
            DSIREstimator(**options)
    frame = spark.createDataFrame([("a", 1)], "text string, is_target int")
    with pytest.raises(ColumnError, match="'is_target' must be boolean; it is int"):
        estimator.fit(frame)
    with pytest.raises(ColumnError, match="wanted"):
        DSIREstimator(target_column="wanted").fit(frame)
    with pytest.raises(ConfigError, match="needs a model"):
        DSIRTransformer().transform(frame)


def test_a_stage_without_a_model_is_not_saved(spark, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    for save in (lambda: DSIRTransformer().save(str(tmp_path / "new")),
                 lambda: DSIRTransformer().write().overwrite().save(str(kept))):  # fmt: skip
        with pytest.raises(ConfigError, match="needs a model"):
            save()
    assert list(tmp_path.iterdir()) == [kept]
