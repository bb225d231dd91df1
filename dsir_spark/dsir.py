"""Data Selection via Importance Resampling (Xie et al., NeurIPS 2023) on Spark DataFrames.

`DSIR(...).fit(raw, target)` gives a `DSIRModel`, which weighs documents (`transform`) and selects
them (`resample`). The session is the caller's; nothing is cached, and no text is shuffled.
"""

from __future__ import annotations

import dataclasses
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession

from dsir_spark import features, tables
from dsir_spark.columns import (
    CHUNK_COLUMNS,
    CONTAMINATED_BY,
    CONTENT_ID,
    TARGET,
    check_column,
    check_text_column,
    distinct,
    quoted,
    refuse_columns,
    refuse_own_names,
)
from dsir_spark.errors import ConfigError, DataError
from dsir_spark.features import FeatureSpec, tokenizers
from dsir_spark.matchings import learn_matchings
from dsir_spark.options import (
    FeatureOptions,
    FitOptions,
    OverlapOptions,
    ResampleOptions,
    takes,
    target_name_problems,
)
from dsir_spark.resampling import added_columns, find_selection, selected_rows
from dsir_spark.scoring import classifier, decontamination, linear, passes, stored
from dsir_spark.scoring.counts import count
from dsir_spark.scoring.documents import SLICES, documents, sampled, spec_of
from dsir_spark.scoring.model import RAW, Model

__all__ = ["DSIR", "DSIRModel", "ngram_counts"]

_SINGLE = "target"  # name of the single target's counts within a model
_ENOUGH_NGRAMS = 100_000  # a first sample of this size tells the n-grams in all of raw well enough


class DSIR:
    """Parameters of a selection; `fit` turns them and the data into a model."""

    @takes(FitOptions)
    def __init__(self, **options: Any) -> None:
        """Check the parameters.

        Parameters
        ----------
        {options}

        Raises
        ------
        ConfigError
            Listing all parameters that are out of range.
        """
        found = FitOptions.checked(options)
        linear.require(found.scorer)
        self.config = found.model_copy(update={"tokenizer": _known(found.tokenizer)})

    def fit(self, raw: DataFrame, target: DataFrame | Mapping[str, DataFrame]) -> DSIRModel:
        """The model of a raw corpus and one target, or several separate ones by name.

        Raises
        ------
        ColumnError
            The text or id column is missing or of another type.
        DataError
            Raw or a target has no token, or a target shares no bucket with raw.
        """
        refuse_own_names(raw, "raw")
        config, single = self.config, not isinstance(target, Mapping)
        targets = dict(target) if isinstance(target, Mapping) else {_SINGLE: target}
        if not single:
            problems = target_name_problems(tuple(targets))
            if problems or not targets:
                raise ConfigError.from_problems(problems or ["target must not be empty"])
        check_text_column(raw, config.text_column, "raw")
        for name, frame in targets.items():
            check_text_column(frame, config.text_column, f"target {name}")
        spec = spec_of(config)
        features.compile_kernels(spec)
        part, share = _part_to_fit(raw, config)
        if config.chunk_words is not None:
            part = documents(part, config)
        parts = {RAW: part} | {f"{TARGET} {name}": frame for name, frame in targets.items()}
        counted = count(parts, config.text_column, spec)
        model = DSIRModel(
            config=config,
            raw=counted[RAW],
            targets={name: counted[f"{TARGET} {name}"] for name in targets},
            single_target=single,
            fitted_share=share,
            unicode_version=unicodedata.unidata_version,
        )
        _check_fit(model)
        if config.scorer == "dsir":
            return model
        learnt = classifier.learn(raw, targets, config, model.raw, share, model.targets)
        return dataclasses.replace(model, classifiers=learnt)


def _part_to_fit(raw: DataFrame, config: FitOptions) -> tuple[DataFrame, float]:
    """Rows of raw to fit on and their share of the ids' hash space."""
    wanted = config.num_tokens_to_fit
    if wanted == "all":
        return raw, 1.0
    budget = 100_000 * config.num_buckets if wanted == "auto" else int(wanted)
    slices, found = 1, 0
    while slices < SLICES:
        sample = sampled(raw, config, "num_tokens_to_fit", slices)
        found = count({RAW: sample}, config.text_column, spec_of(config))[RAW].num_ngrams
        if found >= min(_ENOUGH_NGRAMS, budget):
            break
        slices *= 4
    if slices >= SLICES or found == 0:
        return raw, 1.0
    slices = min(SLICES, max(1, round(budget * slices / found)))
    return sampled(raw, config, "num_tokens_to_fit", slices), slices / SLICES


def _check_fit(model: DSIRModel) -> None:
    """Raise a `DataError` where no weight can come of the counts."""
    owners = {RAW: model.raw}
    owners |= {TARGET if model.single_target else f"{TARGET} {n}": t for n, t in
               model.targets.items()}  # fmt: skip
    for owner, part in owners.items():
        if not part.num_documents:
            raise DataError(f"{owner} is empty: it has no documents")
        if not part.num_ngrams:
            raise DataError(
                f"{owner} has no tokens: of {part.num_documents} documents {part.num_null} have no "
                f"text and {part.num_blank} only blanks; check the text column"
            )
        if not np.any((part.counts > 0) & (model.raw.counts > 0)):
            raise DataError(
                f"{owner} shares no bucket with raw: the two have no word in common; check that "
                "the right data and text column are given"
            )


def _known(tokenizer: str) -> str:
    """The resolved tokenizer; a warning where it is a function of Python's speed."""
    if tokenizers.is_function(tokenizer):
        warnings.warn(
            f"tokenizer {tokenizer} is a Python function: expect a few MB/s a core at most, and "
            "fit again whenever its code changes, which the model cannot see",
            UserWarning,
            stacklevel=3,
        )
    return tokenizers.resolved(tokenizer)


@takes(FeatureOptions)
def ngram_counts(df: DataFrame, **options: Any) -> DataFrame:
    """`df` with each text's sparse vector of hashed n-gram counts.

    Adds `indices` (array<int>, the buckets that occur, ascending) and `counts` (array<int>, n-grams
    in each); both null where the text is null.

    Parameters
    ----------
    {options}

    Raises
    ------
    ConfigError
        Listing all parameters that are out of range.
    ColumnError
        The text column is missing or of another type, or an added name is taken.
    """
    found = FeatureOptions.checked(options)
    check_text_column(df, found.text_column, "the DataFrame")
    refuse_columns(df, ["indices", "counts"])
    refuse_own_names(df, "the DataFrame")
    spec = FeatureSpec(found.ngrams, found.num_buckets, _known(found.tokenizer), found.hash)
    return passes.with_ngram_counts(df, found.text_column, spec)


class DSIRModel(Model):
    """What `DSIR.fit` found, a frozen value; see `Model` for its attributes."""

    def transform(self, df: DataFrame) -> DataFrame:
        """`df` with `log_weight` (or `log_weight_<target>` each), nats, and `num_tokens`.

        Of a model with scorer classifier also with `log_odds`, nats, and `probability`. Null where
        the text is null; 0 nats and 0 tokens where it has no token.

        Raises
        ------
        ColumnError
            The text column is missing or of another type, or an added name is taken.
        """
        refuse_own_names(df, "the DataFrame")
        return self.scored(df, matched=False)

    def weigh(
        self,
        raw: DataFrame,
        keep: Sequence[str] = (),
        *,
        text_hash: bool = True,
        quality: bool = False,
    ) -> DataFrame:
        """The weights table of `raw`: id, weights, `num_tokens` and columns to keep; no text.

        Of a model that was given texts by `decontaminate` also `contaminated_by`, their ids.

        Parameters
        ----------
        text_hash : bool
            Add `text_hash` (struct of two bigints), by which copies of a text are found.
        quality : bool
            Add `most_frequent`, `informative` and `digits` (`wordpunct` tokens, bigint), by which
            the paper's quality rule goes; where the model splits otherwise, `num_wordpunct` too.
        """
        refuse_own_names(raw, "raw")
        all_of_raw = documents(raw, self.config)
        for name in keep:
            check_column(raw, name, "raw", "keep")
        # In a weights table a column of this name is taken for what `decontaminate` found.
        refuse_columns(raw.select(*map(quoted, keep)), [CONTAMINATED_BY], "keep")
        chunks = CHUNK_COLUMNS[1:] if self.config.chunk_words is not None else ()
        own = (self.config.id_column or CONTENT_ID,) if chunks else ()
        first = (self.id_name, self.config.text_column)
        others = distinct(all_of_raw, (*first, *own, *chunks, *keep))[2:]
        kept = (self.id_name, *others)
        needed = all_of_raw.select(*[quoted(c) for c in (*kept, self.config.text_column)])
        scored = self.scored(
            needed, text_hash=text_hash, quality=quality, contaminated=True, keep=kept
        )
        return scored.select(
            quoted(self.id_name), *[quoted(c) for c in scored.columns if c not in kept],
            *[quoted(c) for c in others],
        )  # fmt: skip

    def decontaminate(self, texts: DataFrame, ngram: int = 13) -> DSIRModel:
        """The model by which no document is a candidate that shares an n-gram of `ngram` tokens
        with one of `texts`, the texts that something will be evaluated on.

        `weigh` says by which text in `contaminated_by` (string): its id, where `texts` has the
        model's id column, else one made from the text; of several, that of the document's first
        such n-gram. Tokens are compared themselves, never their hashes alone; chunks are looked at
        one by one. Texts of fewer tokens are compared with nothing: a warning counts them.

        Raises
        ------
        ConfigError
            `ngram` is no whole number of tokens >= 1.
        ColumnError
            The text column is missing or of another type.
        DataError
            No text has `ngram` tokens, or there are more texts than tasks can be sent.
        """
        ngram = OverlapOptions.checked({"ngram": ngram}).ngram
        known, notes = decontamination.read(texts, self.config, ngram)
        for note in notes:
            warnings.warn(note, UserWarning, stacklevel=2)
        return dataclasses.replace(self, decontamination=known)

    @takes(ResampleOptions)
    def resample(
        self, raw: DataFrame, *, weights: DataFrame | None = None, **options: Any
    ) -> DataFrame:
        """The selected documents: all columns of `raw`, the weights and `num_tokens`.

        The cut-offs are computed now, the rows when the result is used. With several targets,
        `target` names the one that a document was chosen for.

        Parameters
        ----------
        raw : DataFrame
            Ids must be unique: documents of one id get one noise.
        {options}
        weights : DataFrame, optional
            A table from `weigh` of the same raw, with the columns that the options name in `keep`,
            to be read instead of weighing raw anew; for method match, of the same matched model.
            Without a method, documents are selected by the one that these weights are for: match
            or else sample.

        Raises
        ------
        ConfigError
            Listing all options that are out of range or contradict each other.
        ColumnError
            A column that the options name is missing or of another type.
        DataError
            Quotas that these documents cannot fill; for method match, no candidate.
        """
        if weights is not None and not set(self.match_columns) <= set(weights.columns):
            options = {"method": "sample", **options}
        chosen = ResampleOptions.checked(options, tuple(self.targets))
        added = added_columns(self.config, self.names, chosen, self.decontamination is not None)
        refuse_columns(raw, added, "raw")
        refuse_own_names(raw, "raw")
        model = self
        if chosen.method == "match" and not self.matchings:
            model, weights = learn_matchings(self, raw, chosen), None
        table = weights
        if table is None:
            copies, quality = chosen.duplicates == "drop", chosen.quality is not None
            table = model.weigh(raw, chosen.needed_columns, text_hash=copies, quality=quality)
        selection = find_selection(model, table, chosen)
        return selected_rows(model, raw, selection, table, sent=weights is not None)

    def explain(self, df: DataFrame) -> DataFrame:
        """The log weights of the documents of `df`, split over their n-grams: a row for each.

        Columns: `id` (string), `position` and `length` of the n-gram in tokens, `ngram`, `bucket`,
        and `log_ratio` (or `log_ratio_<target>` each), nats. Added in the order of the rows of a
        document they give its log weight to the last bit. For a few documents: it runs at the
        speed of Python.
        """
        text_column = self.config.text_column
        check_text_column(df, text_column, "the DataFrame")
        ratios = {
            column.replace("log_weight", "log_ratio", 1): ratio
            for column, ratio in zip(self.weight_columns, self.log_ratio.values(), strict=True)
        }
        rows = documents(df, self.config)
        return passes.terms(rows, self.id_name, text_column, ratios, spec_of(self.config))

    def save(
        self, place: str, *, spark: SparkSession | None = None, overwrite: bool = False
    ) -> int:  # fmt: skip
        """Write the model as a Delta table; the table's version.

        Raises
        ------
        TableError
            There is something at `place` and `overwrite` is not given.
        """
        frame = stored.as_frame(self, spark or tables.active_session())
        return tables.write(frame, place, overwrite=overwrite, record=tables.OF_NO_RUN).data

    def to_mlflow(
        self, output: str | None = None, *, page: str | None = None,
        registered_model_name: str | None = None, spark: SparkSession | None = None,
    ) -> Any:  # fmt: skip
        """Log the model to MLflow as a `pyfunc` that needs no Spark; MLflow's `ModelInfo`.

        It takes the text column (string) and gives what `transform` adds, with the same bits, but
        for a classifier's `probability`. Logged into the active run, or one of its own.

        Parameters
        ----------
        output : str, optional
            Of a run that selected by the model, the latest of them: its options become parameters,
            its numbers metrics, what it read inputs with their versions.
        page : str, optional
            That run's report, an artifact; by default `report.html` of a local output, if it is.
        registered_model_name : str, optional
            Register the model under this name.

        Raises
        ------
        ConfigError
            mlflow is not installed, `page` is no file, or the tokenizer is a function.
        TableError
            No run at `output` selected by this model.
        """
        from dsir_spark import mlflow_model  # who does not call it need not have it

        return mlflow_model.log(self, output, page, registered_model_name, spark)

    @classmethod
    def load(
        cls, place: str, *, spark: SparkSession | None = None, version: int | None = None,
        allow_functions: bool = False,
    ) -> DSIRModel:  # fmt: skip
        """The model that `save` wrote.

        Parameters
        ----------
        allow_functions : bool
            May its tokenizer be a function, which is imported and run?

        Raises
        ------
        TableError
            There is no model, or one of a newer format.
        TokenizerError
            Its tokenizer is a function, and functions are not allowed.
        """
        frame = tables.read(spark or tables.active_session(), place, version=version)
        return cls(**stored.read(frame, place, allow_functions))
