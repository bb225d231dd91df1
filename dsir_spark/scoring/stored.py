"""A model as a table: a row for raw and each target."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from dsir_spark.errors import TableError
from dsir_spark.features import tokenizers
from dsir_spark.local_rows import from_arrow, with_arrays
from dsir_spark.options import FitOptions
from dsir_spark.scoring import refuse_newer
from dsir_spark.scoring.counts import BucketCounts
from dsir_spark.scoring.linear import Linear
from dsir_spark.scoring.model import Model

_SCHEMA = (
    "position int, name string, counts array<bigint>, num_documents bigint, num_null bigint, "
    "num_blank bigint, num_tokens bigint, facts string"
)
_TOTALS = ("num_documents", "num_null", "num_blank", "num_tokens")
_CLASSIFIER = "classifier array<double>"


def as_frame(model: Model, spark: SparkSession) -> DataFrame:
    """The rows of a model.

    Columns: `name`, `counts` (array<bigint>, n-grams by bucket), totals, `facts` (JSON), and of a
    model that has classifiers `classifier` (array<double>, by bucket).
    """
    facts = json.dumps(model.facts(), sort_keys=True, allow_nan=False)
    parts = [model.raw, *model.targets.values()]
    columns: dict[str, Any] = {
        "position": pa.array(range(len(parts)), pa.int32()),
        "name": ["", *model.targets],
        "counts": [part.counts for part in parts],
        **{total: [getattr(part, total) for part in parts] for total in _TOTALS},
        "facts": [facts] * len(parts),
    }
    schema = _SCHEMA
    if model.classifiers:
        columns["classifier"] = [None, *(model.classifiers[name].table for name in model.targets)]
        schema = f"{_SCHEMA}, {_CLASSIFIER}"
    return from_arrow(spark, pa.table(columns), schema).coalesce(1)


def read(frame: DataFrame, place: str, allow_functions: bool) -> dict[str, Any]:
    """The attributes of the model whose rows a table has.

    Raises
    ------
    TableError
        It is no model, a damaged one, or one of a newer format.
    TokenizerError
        Its tokenizer is a function, and functions are not allowed.
    """
    if not {"position", "name", "counts", *_TOTALS, "facts"} <= set(frame.columns):
        raise TableError(f"{place} is not a model: it has columns {', '.join(frame.columns)}")
    rows = with_arrays(frame)
    damaged = TableError(
        f"the model at {place} is damaged: its {len(rows)} rows are not the ones that it was saved "
        "with; restore the table, or fit again"
    )
    if len(rows) < 2 or {r["position"] for r in rows} != set(range(len(rows))):
        raise damaged
    rows.sort(key=lambda r: r["position"])
    facts = json.loads(rows[0]["facts"])
    refuse_newer(facts["format_version"], place, "fit again")
    config = config_of(facts, place, allow_functions)
    parts = [
        BucketCounts(r["counts"], *(r[total] for total in _TOTALS)) for r in rows
    ]
    names = [r["name"] for r in rows]
    found: dict[str, Any] = {
        "config": config,
        "raw": parts[0],
        "targets": dict(zip(names[1:], parts[1:], strict=True)),
        **{n: facts[n] for n in ("single_target", "fitted_share", "unicode_version")},
    }
    learnt = facts.get("classifiers", {})
    vectors = [r["counts"] for r in rows] + [r.get("classifier") for r in rows[1:] if learnt]
    whole = {np.size(vector) for vector in vectors} == {config.num_buckets}
    if not whole or Model(**found).facts()["totals"] != facts["totals"]:
        raise damaged
    classifiers = {
        # JSON was sorted by name, targets are in their own order.
        name: Linear(row["classifier"], learnt[name].pop("intercept"), learnt[name])
        for name, row in zip(names[1:], rows[1:], strict=True) if learnt
    }  # fmt: skip
    return {**found, "classifiers": classifiers}


def config_of(facts: Mapping[str, Any], place: str, allow_functions: bool) -> FitOptions:
    """The options on a model's record.

    Raises
    ------
    TokenizerError
        The tokenizer is a function, and functions are not allowed.
    """
    if not allow_functions:
        owner = f"the tokenizer of the model at {place},"
        tokenizers.refuse_function(facts["config"]["tokenizer"], owner)
    # As it was written: 97 is not 97.0 to the fingerprint.
    return FitOptions.model_construct(**facts["config"])
