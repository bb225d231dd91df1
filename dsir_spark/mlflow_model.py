"""A model in MLflow: logged as a `pyfunc` that `served` loads, with the run that it selected in."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from dsir_spark import __version__, history, places, served, tables
from dsir_spark.columns import NUM_TOKENS, classifier_columns, column_name
from dsir_spark.errors import ConfigError, TableError
from dsir_spark.features import tokenizers
from dsir_spark.scoring.model import Model

_NAME = "dsir"  # of the model within its run
_LONGEST = 500  # characters of a parameter


def log(
    model: Model, output: str | None, page: str | None, registered_model_name: str | None,
    spark: SparkSession | None,
) -> Any:  # fmt: skip
    """See `DSIRModel.to_mlflow`."""
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "to_mlflow needs mlflow, which is not installed here: pip install 'dsir-spark[mlflow]'"
        )
    if tokenizers.is_function(model.config.tokenizer):
        raise ConfigError(
            f"tokenizer {model.config.tokenizer} is a function, which a served model may not name"
        )
    row = _row(model, output, spark or tables.active_session()) if output else {}
    page = page or _page(output, row)
    if page and not Path(page).is_file():
        raise ConfigError(f"page {page} is no file")
    import mlflow

    with contextlib.ExitStack() as stack:
        if mlflow.active_run() is None:
            stack.enter_context(mlflow.start_run())
        given = {**json.loads(row.get("config", "{}")), **model.config.model_dump()}
        mlflow.log_params({n: _shown(v) for n, v in given.items() if v not in (None, (), [], {})})
        mlflow.log_metrics(dict(_numbers(row)))
        if row:
            mlflow.set_tag("dsir_spark.run_id", row["run_id"])
        for dataset, role in _inputs(row):
            mlflow.log_input(dataset, role)
        if page:
            mlflow.log_artifact(page)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        place = Path(folder, "model.parquet")
        pq.write_table(_table(model), place)
        extra = "" if model.config.tokenizer in tokenizers.NAMES else "[tokenizers]"
        return mlflow.pyfunc.log_model(
            name=_NAME,
            loader_module=served.__name__,
            data_path=str(place),
            signature=_signature(model),
            # Else MLflow would load the model in a process of its own to see what it imports.
            pip_requirements=[f"dsir-spark{extra}=={__version__}", "pandas"],
            registered_model_name=registered_model_name,
            metadata={"dsir_spark_fingerprint": model.fingerprint},
        )


def _row(model: Model, output: str, spark: SparkSession) -> dict[str, Any]:
    """The row of `runs` of the latest run that selected by the model."""
    own = F.col("model_fingerprint") == model.fingerprint
    row = history.latest(spark, output, own, F.col("selected_version").isNotNull())
    if row is None:
        raise TableError(f"no run at {places.within(output, history.RUNS)} has selected by this "
                         "model")  # fmt: skip
    return row


def _page(output: str | None, row: Mapping[str, Any]) -> str | None:
    """The report of a local output, where there is one and it is this run's."""
    found = Path(output.removeprefix("file:"), "report.html") if output else None
    own = found and found.is_file() and row["run_id"] in found.read_text(encoding="utf-8")
    return str(found) if own else None


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a run: `kl_reduction/<target>`, `funnel/<stage>`, `seconds/<stage>`, ..."""
    for name, found in row.items():
        if name == "contaminated" or not isinstance(found, dict):
            continue  # ids of texts are no names of metrics: of any characters, and not MLflow's
        for key, number in found.items():
            if number is not None and math.isfinite(number):
                yield f"{name}/{key}", float(number)


def _inputs(row: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """What the run read, by place and version, and as what."""
    from mlflow.data import delta_dataset_source, meta_dataset, spark_dataset_source

    if not row:
        return
    read = {name: json.loads(row[name]) for name in ("raw", "decontaminate") if row.get(name)}
    for name, at in json.loads(row["target"] or "{}").items():
        read["target" if name == "target" else f"target {name}"] = at
    for role, at in read.items():
        named, version = at["format"] == "table", at.get("delta_version")
        if version is not None:
            where = {"delta_table_name" if named else "path": at["place"]}
            source = delta_dataset_source.DeltaDatasetSource(**where, delta_table_version=version)
        else:
            where = {"table_name" if named else "path": at["place"]}
            source = spark_dataset_source.SparkDatasetSource(**where)
        # MLflow's source does not tell of version 0; files have a hash of names, sizes and times.
        known = [f"{n.replace('_', ' ')} {at[n]}" for n in ("delta_version", "listing") if n in at]
        yield meta_dataset.MetaDataset(source, role.replace(" ", "_"), "".join(known) or None), role


def _signature(model: Model) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    odds = [classifier_columns(name)[0] for name in model.names] if model.classifiers else []
    # Those of `transform` but for the probability, which takes the JVM.
    scores = [ColSpec("double", name) for name in (*model.weight_columns, *odds)]
    text = ColSpec("string", model.config.text_column)
    return ModelSignature(Schema([text]), Schema([*scores, ColSpec("long", NUM_TOKENS)]))


def _table(model: Model) -> pa.Table:
    """The rows that `served.load` reads."""
    names = list(model.targets)
    own = [
        [column_name(name), *([classifier_columns(name)[0]] if model.classifiers else [])]
        for name in model.names
    ]
    learnt = [model.classifiers[name].table if model.classifiers else None for name in names]
    parts = (model.raw, *model.targets.values())
    return pa.table({
        "name": ["", *names],
        "counts": pa.array([part.counts for part in parts], pa.list_(pa.int64())),
        "classifier": pa.array([None, *learnt], pa.list_(pa.float64())),
        "columns": pa.array([[], *own], pa.list_(pa.string())),
        "facts": [json.dumps(model.facts(), sort_keys=True, allow_nan=False)] * len(parts),
    })  # fmt: skip
