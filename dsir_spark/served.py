"""A model as MLflow serves it: texts to log weights by the kernels alone, with neither Spark nor
MLflow. What `mlflow_model` logs names this module as its loader.

What is loaded is one Parquet file of counts, a row for raw and each target: `name`, `counts`
(list<int64>, by bucket), `classifier` (list<double>, by bucket, or null), `columns` (list<string>,
the scores of a target) and `facts` (string, the JSON of `Model.facts`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsir_spark.errors import TableError
from dsir_spark.features import FeatureSpec, batches, compile_kernels, tokenizers
from dsir_spark.scoring import distributions, refuse_newer, scorers
from dsir_spark.scoring.linear import Linear


@dataclass(frozen=True, eq=False)
class ServedModel:
    """What weighs texts.

    columns : names of the scores, in the order of `scoring`
    unicode_version : of the fit; another one is warned of
    """

    columns: tuple[str, ...]
    scoring: batches.Scoring
    spec: FeatureSpec
    text_column: str
    unicode_version: str

    def predict(self, data: Any, params: Any = None) -> Any:
        """The scores of each text (double) and `num_tokens` (bigint), as a pandas DataFrame with
        the index of `data`, one too; the bits of `DSIRModel.transform`. Null where the text is."""
        # As bytes, for half a character (a lone surrogate) is no UTF-8, which Arrow wants; as
        # objects, for what is all null would be numbers.
        encode = methodcaller("encode", "utf-8", "replace")
        encoded = data[self.text_column].map(encode, na_action="ignore").astype(object)
        texts = pa.array(encoded, pa.large_binary(), from_pandas=True)
        found = batches.score_struct(texts, self.scoring, self.spec, self.unicode_version)
        table = pa.Table.from_struct_array(found).rename_columns([*self.columns, "num_tokens"])
        return table.to_pandas(integer_object_nulls=True).set_index(data.index)


def load(place: str) -> ServedModel:
    """The model of a Parquet file; nothing in it is executed.

    Raises
    ------
    TableError
        It is no model, or one of a newer format.
    TokenizerError
        Its tokenizer is a function.
    """
    table = pq.read_table(place)
    if "facts" not in table.column_names:
        raise TableError(f"{place} is not a model: it has columns {table.column_names}")
    rows = table.to_pylist()
    facts = json.loads(rows[0]["facts"])
    refuse_newer(facts["format_version"], place, "log the model again")
    config = facts["config"]
    tokenizers.refuse_function(config["tokenizer"], "a served model may name none: its tokenizer")
    spec = FeatureSpec(config["ngrams"], config["num_buckets"], config["tokenizer"], config["hash"])
    compile_kernels(spec)
    raw, *targets = rows
    p_raw = distributions.distribution(np.array(raw["counts"], np.int64))
    how = config["target_laplace_smoothing"], config["target_dirichlet_smoothing"]
    smoothed = [
        distributions.smoothed(np.array(t["counts"], np.int64), p_raw, *how) for t in targets
    ]
    scoring = [scorers.log_weights([distributions.log_ratio(p, p_raw) for p in smoothed])]
    learnt = [
        Linear(np.array(t["classifier"]), facts["classifiers"][t["name"]]["intercept"])
        for t in targets if t["classifier"] is not None
    ]  # fmt: skip
    if learnt:
        scoring.append(scorers.linear(learnt))
    return ServedModel(
        tuple(t["columns"][i] for i in range(len(scoring)) for t in targets),
        scorers.joined(scoring),
        spec,
        config["text_column"],
        facts["unicode_version"],
    )


def _load_pyfunc(place: str) -> ServedModel:
    """What MLflow calls to load a model."""
    return load(place)
