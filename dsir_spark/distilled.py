"""A score that is known for a sample, extended to a whole corpus at the speed of DSIR's weights."""

from __future__ import annotations

import json
import math
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dsir_spark import features, tables
from dsir_spark.columns import (
    NUM_TOKENS,
    check_column,
    check_size_column,
    check_text_column,
    distinct,
    quoted,
    refuse_columns,
    refuse_own_names,
)
from dsir_spark.errors import DataError, TableError
from dsir_spark.features import tokenizers
from dsir_spark.local_rows import from_arrow
from dsir_spark.options import FeatureOptions, FitOptions, takes
from dsir_spark.scoring import classifier, linear, passes, scorers, stored
from dsir_spark.scoring.documents import documents, id_name, spec_of

__all__ = ["DistilledModel", "distill"]

_MOST = 100_000  # documents to learn from
_MOST_BYTES = 200_000_000  # of their text
_LOW = 0.5  # a rank correlation below it is warned of
_SCHEMA = "facts string, table array<double>"


@dataclass(frozen=True, eq=False)
class DistilledModel:
    """What `distill` learnt, a frozen value.

    config : the features it was learnt with
    score : the column that it stands in for
    linear : intercept, table and facts of `linear.regress`
    unicode_version : `unicodedata.unidata_version` of the Python that learnt
    """

    config: FitOptions
    score: str
    linear: linear.Linear
    unicode_version: str

    @property
    def column(self) -> str:
        """Name of the column that `transform` adds: `<score>_distilled`."""
        return f"{self.score}_distilled"

    @property
    def facts(self) -> dict[str, Any]:
        """How it does on documents held out: `r2`, `rank_correlation`, `correlations`, ..."""
        return dict(self.linear.facts)

    def transform(self, df: DataFrame, keep: Sequence[str] | None = None) -> DataFrame:
        """`df` with the score (double) and `num_tokens`, null where the text is null.

        keep : columns of `df` that the result has; by default every one
        """
        check_text_column(df, self.config.text_column, "the DataFrame")
        refuse_columns(df, [self.column, NUM_TOKENS])
        refuse_own_names(df, "the DataFrame")
        return passes.with_scores(
            df, self.config.text_column, scorers.linear([self.linear]), [self.column],
            spec_of(self.config), self.unicode_version, keep=keep,
        )  # fmt: skip

    def weigh(self, raw: DataFrame, keep: Sequence[str] = ()) -> DataFrame:
        """The scores of `raw`, to be selected by (`select`): id, score, `num_tokens` and columns to
        keep; no text."""
        rows = documents(raw, self.config)
        for name in keep:
            check_column(raw, name, "raw", "keep")
        text = self.config.text_column
        kept = distinct(rows, (id_name(self.config), *keep))
        needed = rows.select(*[quoted(c) for c in distinct(rows, (*kept, text))])
        return self.transform(needed, kept)

    def save(
        self, place: str, *, spark: SparkSession | None = None, overwrite: bool = False
    ) -> int:  # fmt: skip
        """Write the model as a Delta table of one row; the table's version."""
        facts = {
            "distilled": self.score, "config": self.config.model_dump(), "facts": self.facts,
            "intercept": self.linear.intercept, "unicode_version": self.unicode_version,
        }  # fmt: skip
        row = {"facts": [json.dumps(facts, sort_keys=True)], "table": [self.linear.table]}
        frame = from_arrow(spark or tables.active_session(), pa.table(row), _SCHEMA)
        return tables.write(frame.coalesce(1), place, overwrite=overwrite).data

    @classmethod
    def load(
        cls, place: str, *, spark: SparkSession | None = None, allow_functions: bool = False
    ) -> DistilledModel:  # fmt: skip
        """The model that `save` wrote.

        allow_functions : may its tokenizer be a function, which is imported and run?

        Raises
        ------
        TableError
            There is no such model.
        TokenizerError
            Its tokenizer is a function, and functions are not allowed.
        """
        frame = tables.read(spark or tables.active_session(), place)
        row = frame.first() if frame.columns == ["facts", "table"] else None
        if row is None:
            raise TableError(f"{place} is not a distilled model")
        facts = json.loads(row["facts"])
        config = stored.config_of(facts, place, allow_functions)
        learnt = linear.Linear(
            np.array(row["table"]), facts["intercept"], facts["facts"], facts["facts"]["kind"]
        )
        return cls(config, facts["distilled"], learnt, facts["unicode_version"])


@takes(FeatureOptions)
def distill(
    sample: DataFrame,
    *,
    score: str,
    compare: Sequence[str] = (),
    id_column: str | None = "id",
    **options: Any,
) -> DistilledModel:
    """A model of a score on hashed n-grams (ridge regression), to score a corpus with.

    A fifth of the texts is held out: a warning says where n-grams tell little of the score, and
    where the prediction goes with a column of `compare` more than with it. Needs scikit-learn.

    Parameters
    ----------
    sample : DataFrame
        Texts with their score; at most 100,000 are learnt from, drawn by the hash of the text.
    score : str
        Column of numbers; rows without one are left out.
    compare : sequence of str
        Columns: a source, a length, a topic.
    id_column : str or None
        Of what is to be scored; None: ids are made from the texts.
    {options}

    Raises
    ------
    ConfigError
        Parameters out of range, or scikit-learn is not installed.
    ColumnError
        A column is missing or of another type.
    DataError
        Fewer than 50 different texts with a score, none in a part of them, or all of one score.
    """
    FeatureOptions.checked(options)
    config = FitOptions.checked({**options, "id_column": id_column})
    linear.require("distill")
    config = config.model_copy(update={"tokenizer": tokenizers.resolved(config.tokenizer)})
    check_text_column(sample, config.text_column, "the sample")
    check_size_column(sample, score, "the sample", "score")
    for name in compare:
        check_column(sample, name, "the sample", "compare")
    features.compile_kernels(spec_of(config))
    parts = [("", _drawn(sample, config, score))]
    examples, rows = classifier.collect(parts, config, score, *compare)[""]
    values = np.array([float(row[score]) for row in rows])
    if not examples.enough or np.ptp(values) == 0:
        raise DataError(
            f"score {score!r}: {examples.num_texts:,} different texts have one, of "
            f"{len(np.unique(values)):,} values; it takes {linear.LEAST} such texts, some of them "
            "to choose by and some to hold out, by their hash, and two values"
        )
    compared = {name: [row[name] for row in rows] for name in compare}
    learnt = linear.regress(examples, values, compared)
    _warn(score, learnt.facts)
    return DistilledModel(config, score, learnt, unicodedata.unidata_version)


def _drawn(sample: DataFrame, config: FitOptions, score: str) -> DataFrame:
    """The rows to learn from: those with a text and a finite score, or a share of them."""
    number, text = quoted(score).cast("double"), quoted(config.text_column)
    finite = number.isNotNull() & ~F.isnan(number) & (F.abs(number) < F.lit(math.inf))
    known = sample.where(text.isNotNull() & finite)
    [(n, size)] = known.agg(F.count("*"), F.sum(F.octet_length(text))).collect()
    share = min(1.0, _MOST / max(1, n), _MOST_BYTES / max(1, size or 0))
    return classifier.drawn(known, config.model_copy(update={"id_column": None}), share, "distill")


def _warn(score: str, facts: Any) -> None:
    own = facts["rank_correlation"]
    if own < _LOW:
        warnings.warn(
            f"n-grams tell little of {score}: the rank correlation is {own:.2f} and R2 "
            f"{facts['r2']:.2f} on {facts['documents']:,} texts held out; give more texts, or do "
            "not select by it",
            UserWarning, stacklevel=3,
        )  # fmt: skip
    for name, found in facts["correlations"].items():
        if abs(found) > abs(own):
            warnings.warn(
                f"what is learnt of {score} goes with {name} ({found:.2f}) more than with {score} "
                f"({own:.2f}): it may sort by {name}; compare within its values",
                UserWarning, stacklevel=3,
            )  # fmt: skip
