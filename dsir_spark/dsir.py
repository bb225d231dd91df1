"""Data Selection via Importance Resampling (Xie et al., NeurIPS 2023) on Spark DataFrames.

`DSIR(...).fit(raw, target)` gives a `DSIRModel`, which weighs documents (`transform`) and selects
them (`resample`). The session is the caller's; nothing is cached, and no text is shuffled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from dsir_spark import features, frames, matched, resample, tables, tokens, weights
from dsir_spark.columns import (
    check_column,
    check_id_column,
    check_size_column,
    check_text_column,
    quoted,
    refuse_columns,
)
from dsir_spark.config import (
    FeatureSpec,
    FitConfig,
    ResampleConfig,
    check,
    match_problems,
    target_name_problems,
)
from dsir_spark.copies import TEXT_HASH
from dsir_spark.errors import DataError, TableError
from dsir_spark.resample import (
    NUM_TOKENS,
    QUALITY,
    TARGET,
    Selection,
    column_name,
    match_column,
)

FORMAT_VERSION = 1
CONTENT_ID = "content_id"  # name of the id column that is made where the data has none
NUM_CHUNKS_SELECTED = "num_selected_chunks"
RAW = "raw"
_SINGLE = "target"  # name of the single target's counts within a model
_SLICES = 1024  # num_tokens_to_fit takes whole slices of the ids' hash space
# Sizes of the sample that `match` learns from, in n-grams: of what a step takes of it, for each
# bucket, and of all of it.
_STEP_NGRAMS, _MATCH_LEAST, _MATCH_MOST = 100, 20_000_000, 1_000_000_000
_ENOUGH_NGRAMS = 100_000  # a first sample of this size tells the n-grams in all of raw well enough

Int64 = np.ndarray[Any, np.dtype[np.int64]]
Float64 = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class BucketCounts:
    """Facts about one set of documents: n-grams by bucket (int64[num_buckets]) and totals."""

    counts: Int64
    num_documents: int
    num_null: int
    num_blank: int
    num_tokens: int

    @property
    def num_ngrams(self) -> int:
        """N-grams in all buckets."""
        return int(self.counts.sum())


class DSIR:
    """Parameters of a selection; `fit` turns them and the data into a model.

    Parameters
    ----------
    ngrams : int, default 2
        N-grams of 1 to `ngrams` tokens are counted.
    num_buckets : int, default 10_000
        Buckets that n-grams are hashed to.
    tokenizer : {"wordpunct", "wordpunct_cjk", "bytes"}, a path, or "module:function"
        wordpunct: lower-cased matches of ``\\w+|[^\\w\\s]+``. wordpunct_cjk: the same, but each
        character of `unicode_tables.CJK_RANGES` (Han, kana, Hangul, Thai; marks too) is a token.
        bytes: each byte of the UTF-8 text, case and blanks kept, and an n-gram is n adjacent
        bytes with nothing between. The path of a Hugging Face `tokenizer.json` (or "hf:PATH"):
        token ids, in decimal, without special tokens; the model keeps the file's content. A
        function str -> list of str by its import path, known to the model by that name: slow.
        N-grams of all but bytes are the tokens joined by one blank, in UTF-8.
    hash : {"xxhash64", "sha256"}
        Bucket of an n-gram: Spark SQL's ``pmod(xxhash64(ngram), num_buckets)``, or the reference
        package's ``int(sha256(ngram)) % num_buckets``.
    text_column, id_column : str
        `id_column` may be None: then an id is made from the text (`frames.content_id`).
    target_laplace_smoothing : float, default 0
        Added to each bucket's count of a target before it becomes a distribution.
    target_dirichlet_smoothing : float or "auto", default 0
        mu n-grams distributed like raw are added to each target: (counts + mu p_raw) / (n-grams +
        mu). Without it a bucket that a small target happens not to have costs a document up to 18
        nats. auto: `num_buckets`.
    num_tokens_to_fit : "all", "auto" or int
        About how many n-grams of raw to fit on: all, 100,000 x `num_buckets`, or this number, from
        a sample of the documents by the hash of their ids (see `DSIRModel.fitted_share`).
    chunk_words : int, optional
        Documents of raw are cut into chunks of so many words (`features.chunks`), and chunks are
        what is weighed and selected.

    Raises
    ------
    ConfigError
        Listing all parameters that are out of range.
    """

    def __init__(
        self,
        *,
        ngrams: int = 2,
        num_buckets: int = 10_000,
        tokenizer: str = "wordpunct",
        hash: str = "xxhash64",
        text_column: str = "text",
        id_column: str | None = "id",
        target_laplace_smoothing: float = 0.0,
        target_dirichlet_smoothing: float | str = 0.0,
        num_tokens_to_fit: int | str = "all",
        chunk_words: int | None = None,
    ) -> None:
        self.config = FitConfig(
            ngrams, num_buckets, tokenizer, hash, text_column, id_column,
            target_laplace_smoothing, target_dirichlet_smoothing, num_tokens_to_fit, chunk_words,
        )  # fmt: skip
        check(self.config.problems())
        self.config = dataclasses.replace(self.config, tokenizer=_known(tokenizer))

    def fit(self, raw: DataFrame, target: DataFrame | Mapping[str, DataFrame]) -> DSIRModel:
        """The model of a raw corpus and one target, or several separate ones by name.

        Raises
        ------
        ColumnError
            The text or id column is missing or of another type.
        DataError
            Raw or a target has no token, or a target shares no bucket with raw.
        """
        config = self.config
        if isinstance(target, Mapping):
            check(target_name_problems(tuple(target)) if target else ["target must not be empty"])
            targets = dict(target)
        else:
            targets = {_SINGLE: target}
        check_text_column(raw, config.text_column, "raw")
        for name, frame in targets.items():
            check_text_column(frame, config.text_column, f"target {name}")
        features.compile_kernels(config.features)
        part, share = self._part_to_fit(raw)
        if config.chunk_words is not None:
            part = _documents(part, config)
        parts = {RAW: part} | {f"{TARGET} {name}": frame for name, frame in targets.items()}
        counted = _count(parts, config)
        model = DSIRModel(
            config=config,
            raw=counted[RAW],
            targets={name: counted[f"{TARGET} {name}"] for name in targets},
            single_target=not isinstance(target, Mapping),
            fitted_share=share,
            unicode_version=unicodedata.unidata_version,
        )
        model.check_fit()
        return model

    def _part_to_fit(self, raw: DataFrame) -> tuple[DataFrame, float]:
        """Rows of raw to fit on and their share of the ids' hash space."""
        config = self.config
        wanted = config.num_tokens_to_fit
        if wanted == "all":
            return raw, 1.0
        budget = 100_000 * config.num_buckets if wanted == "auto" else int(wanted)
        ids = _id_column(raw, config)
        slice_of = F.pmod(F.xxhash64(F.lit("num_tokens_to_fit"), ids), F.lit(_SLICES))
        slices, found = 1, 0
        while slices < _SLICES:
            sample = raw.where(slice_of < slices)
            found = _count({RAW: sample}, config)[RAW].num_ngrams
            if found >= min(_ENOUGH_NGRAMS, budget):
                break
            slices *= 4
        if slices >= _SLICES or found == 0:
            return raw, 1.0
        slices = min(_SLICES, max(1, round(budget * slices / found)))
        return raw.where(slice_of < slices), slices / _SLICES


def _count(
    parts: dict[str, DataFrame], config: FitConfig, min_tokens: int = 0
) -> dict[str, BucketCounts]:
    text = quoted(config.text_column)
    found = frames.bucket_counts(dict.fromkeys(parts, text), parts, config.features, min_tokens)
    return {
        name: BucketCounts(
            counts,
            facts[frames.DOCUMENTS],
            facts[frames.NULL],
            facts[frames.BLANK],
            facts[frames.TOKENS],
        )
        for name, (counts, facts) in found.items()
    }


def _documents(raw: DataFrame, config: FitConfig) -> DataFrame:
    """What is weighed: `raw` with an id column, made from the text where it has none, or chunks."""
    if config.id_column is None:
        refuse_columns(raw, [CONTENT_ID])
        made = frames.content_id(quoted(config.text_column)).alias(CONTENT_ID)
        raw = raw.select(made, *[quoted(c) for c in raw.columns])
    else:
        check_id_column(raw, config.id_column, "raw")
    if config.chunk_words is None:
        return raw
    refuse_columns(raw, list(frames.CHUNK_COLUMNS))
    ids = config.id_column or CONTENT_ID
    return frames.chunked(raw, config.text_column, ids, config.chunk_words)


def _id_column(df: DataFrame, config: FitConfig) -> Column:
    if config.id_column is None:
        return frames.content_id(quoted(config.text_column))
    check_id_column(df, config.id_column, "raw")
    return quoted(config.id_column)


def ngram_counts(
    df: DataFrame,
    *,
    text_column: str = "text",
    ngrams: int = 2,
    num_buckets: int = 10_000,
    tokenizer: str = "wordpunct",
    hash: str = "xxhash64",
) -> DataFrame:
    """`df` with each text's sparse vector of hashed n-gram counts.

    Adds `indices` (array<int>, the buckets that occur, ascending) and `counts` (array<int>, n-grams
    in each); both null where the text is null.
    """
    spec = FeatureSpec(ngrams, num_buckets, tokenizer, hash)
    check(spec.problems())
    spec = dataclasses.replace(spec, tokenizer=_known(tokenizer))
    check_text_column(df, text_column, "the DataFrame")
    refuse_columns(df, ["indices", "counts"])
    return frames.with_ngram_counts(df, text_column, spec)


def _known(tokenizer: str) -> str:
    """The resolved tokenizer; a warning where it is a function of Python's speed."""
    if tokens.is_function(tokenizer):
        warnings.warn(
            f"tokenizer {tokenizer} is a Python function: expect a few MB/s a core at most, and "
            "fit again whenever its code changes, which the model cannot see",
            UserWarning,
            stacklevel=3,
        )
    return tokens.resolved(tokenizer)


@dataclass(frozen=True, eq=False)
class DSIRModel:
    """Bucket counts of raw and targets, and all that follows from them.

    Attributes
    ----------
    config : the parameters it was fitted with
    raw, targets : `BucketCounts` of raw (of the part fitted on) and of each target by name
    single_target : was `target` one DataFrame (columns without the target's name)?
    fitted_share : share of the ids' hash space that raw's counts come from
    unicode_version : `unicodedata.unidata_version` of the Python that fitted
    matchings : what `match` learnt for each target; empty for a model that only fitted
    """

    config: FitConfig
    raw: BucketCounts
    targets: Mapping[str, BucketCounts]
    single_target: bool
    fitted_share: float
    unicode_version: str
    matchings: Mapping[str, matched.Matching] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> tuple[str | None, ...]:
        """Names of the targets as columns know them; (None,) for a single target."""
        return (None,) if self.single_target else tuple(self.targets)

    @property
    def weight_columns(self) -> list[str]:
        """Names of the columns that `transform` adds, without `num_tokens`."""
        return [column_name(name) for name in self.names]

    @property
    def log_ratio(self) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """Log ratio of each bucket in nats, float64[num_buckets], by target."""
        p_raw = weights.distribution(self.raw.counts)
        return {
            name: weights.log_ratio(self._p_target(t.counts, p_raw), p_raw)
            for name, t in self.targets.items()
        }

    def _p_target(self, counts: Int64, p_raw: Float64) -> Float64:
        mu = self.config.target_dirichlet_smoothing
        if mu == 0:
            return weights.distribution(counts, self.config.target_laplace_smoothing)
        return weights.dirichlet(
            counts, p_raw, float(self.config.num_buckets if mu == "auto" else mu)
        )

    @property
    def fingerprint(self) -> str:
        """32 hex digits that depend on every fact of the model and on nothing else."""
        digest = hashlib.sha256(json.dumps(self._facts(), sort_keys=True).encode())
        for part in (self.raw, *self.targets.values()):
            digest.update(np.ascontiguousarray(part.counts, "<i8").tobytes())
        return digest.hexdigest()[:32]

    def tables(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Log ratios of all targets, float64[num_buckets, T], interleaved by bucket."""
        return np.ascontiguousarray(np.stack(list(self.log_ratio.values()), axis=1))

    def check_fit(self) -> None:
        """Raise a `DataError` where no weight can come of the counts."""
        if not self.raw.num_ngrams:
            raise DataError(_without_tokens("raw", self.raw))
        for name, target in self.targets.items():
            owner = "target" if self.single_target else f"target {name}"
            if not target.num_ngrams:
                raise DataError(_without_tokens(owner, target))
            if not np.any((target.counts > 0) & (self.raw.counts > 0)):
                raise DataError(
                    f"{owner} shares no bucket with raw: the two have no word in common; check "
                    "that the right data and text column are given"
                )

    def transform(self, df: DataFrame) -> DataFrame:
        """`df` with `log_weight` (or `log_weight_<target>` each), nats, and `num_tokens`.

        Null where the text is null; 0 nats and 0 tokens where it has no token.

        Raises
        ------
        ColumnError
            The text column is missing or of another type, or an added name is taken.
        """
        return dataclasses.replace(self, matchings={}).scored(df)

    def explain(self, df: DataFrame) -> DataFrame:
        """The log weights of the documents of `df`, split over their n-grams: a row for each.

        Columns: `id` (string), `position` and `length` of the n-gram in tokens, `ngram`, `bucket`,
        and `log_ratio` (or `log_ratio_<target>` each), nats. Added in the order of the rows of a
        document they give its log weight to the last bit. For a few documents: it runs at the
        speed of Python.
        """
        check_text_column(df, self.config.text_column, "the DataFrame")
        ratios = {
            column.replace("log_weight", "log_ratio", 1): ratio
            for column, ratio in zip(self.weight_columns, self.log_ratio.values(), strict=True)
        }
        return frames.terms(
            self.documents(df), self.id_name, self.config.text_column, ratios, self.config.features
        )

    def match(
        self,
        raw: DataFrame,
        num_to_sample: int | None = None,
        *,
        num_tokens_to_sample: int | None = None,
        size_column: str | None = None,
        match_steps: int = 16,
        match_tokens: int | str = "auto",
        min_example_length: int = 100,
        proportions: Mapping[str, float] | None = None,
    ) -> DSIRModel:
        """This model with the steps of matched selection, learnt from a sample of `raw`.

        Two passes over the sample a step, for all targets at once.

        Parameters
        ----------
        num_to_sample : int
            Documents that will be selected: a step takes the same share of the candidates'
            n-grams.
        num_tokens_to_sample, size_column
            As in `resample`, instead of documents.
        match_steps : int
            Steps of Frank-Wolfe.
        match_tokens : int, "auto" or "all"
            Size of the sample of documents (by a hash of their ids), in n-grams, nearly. auto: so
            many that a step takes 100 for each bucket, from 20 million to a billion;
            docs/matched.md has what less costs.
        min_example_length, proportions
            As in `resample`.

        Raises
        ------
        ConfigError
            An option is out of range.
        DataError
            No document of the sample is a candidate.
        """
        problems = match_problems(match_steps, match_tokens)
        if (num_to_sample is None) == (num_tokens_to_sample is None):
            problems.append("give num_to_sample or num_tokens_to_sample: one of them")
        check(problems)
        config = self.config
        # fitted_share: raw's counts are of that part only.
        in_raw = self.raw.num_ngrams / self.fitted_share
        if num_to_sample is not None:
            wanted = num_to_sample * self.fitted_share / max(1, self.raw.num_documents)
        elif size_column is None:
            wanted = (num_tokens_to_sample or 0) * self.fitted_share / max(1, self.raw.num_tokens)
        else:
            check_size_column(raw, size_column, "raw")
            sizes = F.sum(F.ceil(quoted(size_column)))
            wanted = (num_tokens_to_sample or 0) / max(1, raw.agg(sizes).first()[0] or 0)  # type: ignore[index]
        parts = self._shares(proportions)
        if match_tokens == "auto":
            step = max(1.0, min(1.0, wanted) * min(p for p in parts if p > 0) * in_raw)
            least = in_raw * _STEP_NGRAMS * config.num_buckets / step
            match_tokens = int(min(max(least, _MATCH_LEAST), _MATCH_MOST))
        share = 1.0 if match_tokens == "all" else min(1.0, int(match_tokens) / in_raw)
        slices = max(1, round(share * _SLICES))
        sample = raw
        if slices < _SLICES:
            ids = _id_column(raw, config)
            sample = raw.where(F.pmod(F.xxhash64(F.lit("match"), ids), F.lit(_SLICES)) < slices)
        if config.chunk_words is not None:
            sample = _documents(sample, config)
        texts = sample.select(quoted(config.text_column).cast("string").alias("text"))

        def budgets(histogram: matched.Histogram, lengths: Float64 | None) -> list[int]:
            documents = sum(h[0] for h in histogram.values())
            ngrams = sum(h[1] for h in histogram.values())
            if not documents:
                raise DataError(
                    f"no document has {min_example_length} tokens, the min_example_length"
                )
            if num_to_sample is None:
                # Of the candidates', which are fewer than all of raw's.
                whole = min(1.0, wanted * in_raw * slices / _SLICES / ngrams) * ngrams
                return [max(1, round(whole * part)) for part in parts]
            chosen = min(documents, num_to_sample * slices / _SLICES)
            means = [ngrams / documents] * len(parts) if lengths is None else lengths.tolist()
            return [
                max(1, round(min(ngrams, chosen * part * mean)))
                for part, mean in zip(parts, means, strict=True)
            ]

        spec = config.features
        found = matched.learn(
            {name: t.counts for name, t in self.targets.items()},
            self.raw.counts,
            match_steps,
            lambda scoring: frames.score_histograms(texts, scoring, spec, min_example_length),
            budgets,
            lambda scoring, above: frames.counts_above(
                texts, scoring, above, spec, min_example_length
            ),
        )
        return dataclasses.replace(self, matchings=found)

    def _shares(self, proportions: Mapping[str, float] | None) -> list[float]:
        """Share of each target in what is selected; they sum to 1."""
        given = proportions or {name: float(t.num_ngrams) for name, t in self.targets.items()}
        total = sum(given.values())
        return [given[name] / total for name in self.targets]

    @property
    def match_columns(self) -> list[str]:
        """Columns of a matched model's weights: key, and score under the last gradient, by turn."""
        return _match_columns(self.names)

    def scored(
        self, df: DataFrame, *, text_hash: bool = False, quality: bool = False,
        keep: Sequence[str] | None = None,
    ) -> DataFrame:  # fmt: skip
        """`df` with weights, `match_columns`, `num_tokens` and more, in one pass over the text.

        keep : columns of `df` that the result has (`frames.with_scores`); by default every one
        """
        check_text_column(df, self.config.text_column, "the DataFrame")
        names = [*self.weight_columns, *(self.match_columns if self.matchings else [])]
        refuse_columns(df, [*names, NUM_TOKENS, *([TEXT_HASH] if text_hash else []),
                             *(QUALITY if quality else [])])  # fmt: skip
        frames.warn_of_other_unicode(self.unicode_version)
        if not self.matchings:
            return frames.with_scores(
                df, self.config.text_column, self.tables(), names, self.config.features,
                self.unicode_version, text_hash=text_hash, quality=quality, keep=keep,
            )  # fmt: skip
        paths = [
            self.matchings[name].tables(t.counts, self.raw.counts)
            for name, t in self.targets.items()
        ]
        scoring = np.ascontiguousarray(np.concatenate([self.tables(), *paths], axis=1))
        thresholds = [self.matchings[name].thresholds for name in self.targets]
        ngrams = self.config.ngrams

        def finish(totals: Float64, num_tokens: Int64) -> Float64:
            at = len(thresholds)
            columns = [totals[:, :at]]
            means = matched.means(totals, matched.num_ngrams(num_tokens, ngrams))
            for above in thresholds:
                last = at + len(above)
                keys = matched.key_of(means[:, at:last], above)
                columns.append(np.stack([keys, means[:, last]], axis=1))
                at = last + 1
            return np.concatenate(columns, axis=1)

        return frames.with_scores(
            df, self.config.text_column, scoring, names, self.config.features,
            self.unicode_version, finish, text_hash=text_hash, quality=quality, keep=keep,
        )  # fmt: skip

    def kl_bounds(
        self, weights_table: DataFrame, ngrams: Mapping[str, int], min_example_length: int
    ) -> dict[str, float]:
        """What the KL reduction of no selection of at least so many n-grams can pass, in nats.

        Certificates for the whole pool, from a matched model's weights table; one pass.

        ngrams : n-grams selected for each target (`matched.best_mean`)
        """
        tokens = F.col(NUM_TOKENS)
        size = resample.num_ngrams(tokens, self.config.ngrams)
        pool = weights_table.where(tokens >= max(1, min_example_length))
        bounds = {}
        for name, column in zip(self.targets, self.match_columns[1::2], strict=True):
            score = quoted(column)
            rows = (
                pool.groupBy(F.floor(F.log(score) * 4096).alias("bin"))
                .agg(F.count("*"), F.sum(size), F.min(score), F.max(score))
                .collect()
            )
            # Documents of score 0 fall into no bin: they are the last.
            histogram = {-(1 << 60) if r[0] is None else r[0]: tuple(r[1:]) for r in rows}
            matching, target = self.matchings[name], self.targets[name]
            q = matching.mixtures(self.raw.counts)[-1]
            best = matched.best_mean(histogram, max(1, ngrams[name]))
            bounds[name] = matched.bound(target.counts, self.raw.counts, q, best)
        return bounds

    def save_matchings(self, place: str, *, spark: SparkSession, run_id: str | None = None) -> None:
        """Write what `match` learnt as a Delta table, a row a step, in one commit.

        Columns: `target`, `step` (from 0), `num_ngrams` (the budget), `threshold` (mean of
        p_target / q over a document's n-grams), `counts` (array<bigint>, n-grams taken by bucket).
        """
        rows = [
            (name, t, step.num_ngrams, step.threshold, step.counts.tolist())
            for name, m in self.matchings.items()
            for t, step in enumerate(m.steps)
        ]
        schema = (
            "target string, step int, num_ngrams bigint, threshold double, counts array<bigint>"
        )
        frame = spark.createDataFrame(rows, schema).coalesce(1)
        tables.write(frame, place, overwrite=True, run_id=run_id)

    def load_matchings(
        self, place: str, *, spark: SparkSession, version: int | None = None
    ) -> DSIRModel:
        """This model with the steps that `save_matchings` wrote."""
        rows = tables.read(spark, place, "delta", version=version).orderBy("target", "step")
        steps: dict[str, list[matched.Step]] = {}
        for r in rows.collect():
            step = matched.Step(r["threshold"], np.array(r["counts"], np.int64), r["num_ngrams"])
            steps.setdefault(r["target"], []).append(step)
        found = {name: matched.Matching(tuple(steps[name])) for name in self.targets}
        return dataclasses.replace(self, matchings=found)

    def documents(self, raw: DataFrame) -> DataFrame:
        """What is weighed: `raw` with the column `id_name`; its chunks, if the model has any."""
        return _documents(raw, self.config)

    @property
    def id_name(self) -> str:
        """Name of the id column of weights and selection."""
        if self.config.chunk_words is not None:
            return frames.CHUNK_ID
        return self.config.id_column or CONTENT_ID

    def weigh(
        self,
        raw: DataFrame,
        keep: tuple[str, ...] = (),
        *,
        text_hash: bool = True,
        quality: bool = False,
    ) -> DataFrame:
        """The weights table of `raw`: id, weights, `num_tokens` and columns to keep; no text.

        Parameters
        ----------
        text_hash : bool
            Add `text_hash` (struct of two bigints), by which copies of a text are found.
        quality : bool
            Add `most_frequent`, `informative` and `digits` (tokens, bigint), by which the paper's
            quality rule goes.
        """
        documents = self.documents(raw)
        for name in keep:
            check_column(raw, name, "raw", "keep")
        chunks = frames.CHUNK_COLUMNS[1:] if self.config.chunk_words is not None else ()
        own = (self.config.id_column or CONTENT_ID,) if chunks else ()
        first = (self.id_name, self.config.text_column)
        others = [c for c in dict.fromkeys((*own, *chunks, *keep)) if c not in first]
        text = self.config.text_column
        needed = documents.select(*[quoted(c) for c in (self.id_name, *others, text)])
        scored = self.scored(
            needed, text_hash=text_hash, quality=quality, keep=(self.id_name, *others)
        )
        columns = [
            self.id_name, *self.weight_columns, *(self.match_columns if self.matchings else []),
            NUM_TOKENS, *([TEXT_HASH] if text_hash else []), *(QUALITY if quality else []),
            *others,
        ]  # fmt: skip
        return scored.select(*[quoted(c) for c in columns])

    def select(self, weights_table: DataFrame, options: ResampleConfig) -> Selection:
        """The cut-offs of a resampling, found from a weights table alone (see `resample`)."""
        problems = options.resample_problems(tuple(self.targets))
        if options.num_to_sample is None and not options.sized:
            problems.append("give num_to_sample or num_tokens_to_sample")
        check(problems)
        shares: dict[str | None, float] = {None: 1.0}
        if not self.single_target:
            own = self._shares(options.proportions)
            shares = dict(zip(self.targets, own, strict=True))
        return resample.select(
            weights_table,
            targets=self.names,
            shares=shares,
            options=options,
            id_column=self.id_name,
            ngrams=self.config.ngrams,
            ids_from_content=self.config.id_column is None,
        )

    def selected(self, raw: DataFrame, selection: Selection, weights_table: DataFrame) -> DataFrame:
        """The rows of `raw` that a selection holds: a second scan, filtered by the cut-offs.

        weights_table : the one that the selection was found from
        """
        matched_too = selection.method == "match"
        model = self if matched_too else dataclasses.replace(self, matchings={})
        quality = selection.options.quality is not None
        scored = model.scored(self.documents(raw), quality=quality)
        chosen = selection.filter(scored, weights_table)
        chosen = chosen.drop(*(self.match_columns if matched_too else []),
                             *(QUALITY if quality else []))  # fmt: skip
        return chosen if self.config.id_column is not None else _first_copies(chosen, self.id_name)

    def whole_documents(self, raw: DataFrame, selected: DataFrame, share: float) -> DataFrame:
        """The documents of `raw` of which at least this share of chunks is in `selected`.

        All columns of raw, and `num_selected_chunks` and `num_chunks`.
        """
        ids = self.config.id_column or CONTENT_ID
        found = selected.groupBy(quoted(ids).alias("__dsir_of")).agg(
            F.count("*").alias(NUM_CHUNKS_SELECTED), F.first("num_chunks").alias("num_chunks")
        )
        found = found.where(F.col(NUM_CHUNKS_SELECTED) >= F.lit(share) * F.col("num_chunks"))
        own = _documents(raw, dataclasses.replace(self.config, chunk_words=None))
        # Text is not shuffled: the ids go to it, unless they are too many to be sent around.
        few = selected.count() <= resample._BROADCAST_IDS
        joined = own.join(F.broadcast(found) if few else found, quoted(ids) == F.col("__dsir_of"))
        return joined.drop("__dsir_of")

    def resample(
        self,
        raw: DataFrame,
        *,
        num_to_sample: int | None = None,
        num_tokens_to_sample: int | None = None,
        size_column: str | None = None,
        method: str = "sample",
        seed: int = 0,
        min_example_length: int = 100,
        quality: str | Mapping[str, float] | None = None,
        normalize: str = "none",
        temperature: float | str = 1.0,
        proportions: Mapping[str, float] | None = None,
        allocation: str = "joint",
        duplicates: str = "drop",
        group_column: str | None = None,
        max_per_group: int | None = None,
        quota_column: str | None = None,
        quotas: str | Mapping[str, Any] | None = None,
        quota_shortfall: str = "fill",
        match_steps: int = 16,
        match_tokens: int | str = "auto",
        weights: DataFrame | None = None,
    ) -> DataFrame:
        """The selected documents: all columns of `raw`, the weights and `num_tokens`.

        The cut-offs are computed now, the rows when the result is used. With several targets,
        `target` names the one that a document was chosen for.

        Parameters
        ----------
        raw : DataFrame
            Ids must be unique: documents of one id get one noise.
        num_to_sample : int
            Documents; more than there are candidates selects all, with a warning.
        num_tokens_to_sample : int
            Tokens, instead of documents: the best documents that together have at most so many.
            The document that would cross the budget ends the list.
        size_column : str
            Numeric column of raw whose sum (each rounded up) the budget is of, instead of tokens:
            bytes, or a model's own token count. Null or negative: no candidate.
        method : {"sample", "top_k", "match"}
            Sampling without replacement in proportion to the weights (Gumbel top-k), the
            documents of the largest weights, or the subset whose n-grams together are closest to
            the target's (`match`; docs/matched.md).
        seed : int
            Of the noise; the same seed selects the same documents anywhere.
        min_example_length : int
            Documents of fewer tokens are no candidates.
        quality : "paper" or mapping of bounds to numbers, optional
            The paper's quality rule; a mapping changes bounds of `config.QualityRule`.
        normalize : {"none", "ngram"}
            Rank by the sum of a document's log ratios, or by their mean.
        temperature : float or "auto"
            Log weights are divided by it before the noise; auto: the smallest, not below 1 (0.01
            of means), at which the effective sample size is the number of documents wanted.
        proportions : mapping of target to number, optional
            Shares of the budget among targets; by default each target's share of their n-grams.
        allocation : {"joint", "sequential"}
            A document goes to one target at most. Joint: pairs of document and target by falling
            key, whatever the order of the targets. Sequential: target after target.
        duplicates : {"drop", "keep"}
            Drop: of the candidates whose texts are equal after folding case and white space only
            the one with the smallest id may be selected.
        group_column, max_per_group : str, int
            At most so many documents of equal value in this column: its best. Null: no limit.
        quota_column, quotas : str, and "raw" or a mapping of values to shares
            Share of the budget for each value of a column (as a string): a number, or {"min": ...,
            "max": ...}; values that are not named compete for the rest. raw: every value keeps its
            share of the candidates.
        quota_shortfall : {"fill", "report"}
            Where a value has too few documents for its share: the others fill it, or it stays open.
        match_steps, match_tokens
            Of method match, as in `match`; unused where the model has learnt already.
        weights : DataFrame, optional
            A table from `weigh` of the same raw, with the columns that the options name in `keep`,
            to be read instead of weighing raw anew; for method match, of the same matched model.

        Raises
        ------
        ConfigError
            Listing all options that are out of range or contradict each other.
        ColumnError
            A column that the options name is missing or of another type.
        DataError
            Quotas that these documents cannot fill.
        """
        options = ResampleConfig(
            num_to_sample=num_to_sample, num_tokens_to_sample=num_tokens_to_sample,
            size_column=size_column, method=method, seed=seed,
            min_example_length=min_example_length, quality=quality, normalize=normalize,
            temperature=temperature, proportions=proportions, allocation=allocation,
            duplicates=duplicates, group_column=group_column, max_per_group=max_per_group,
            quota_column=quota_column, quotas=quotas, quota_shortfall=quota_shortfall,
            match_steps=match_steps, match_tokens=match_tokens,
        )  # fmt: skip
        check(options.resample_problems(tuple(self.targets)))
        refuse_columns(raw, added_columns(self.config, self.names, options), "raw")
        model = self
        if method == "match" and not self.matchings:
            model, weights = self.matched(raw, options), None
        if weights is None:
            weights = model.weigh(
                raw, needed_columns(options),
                text_hash=duplicates == "drop", quality=quality is not None,
            )  # fmt: skip
        return model.selected(raw, model.select(weights, options), weights)

    def matched(self, raw: DataFrame, options: ResampleConfig) -> DSIRModel:
        """`match` with these options."""
        return self.match(
            raw, options.num_to_sample, num_tokens_to_sample=options.num_tokens_to_sample,
            size_column=options.size_column, match_steps=options.match_steps,
            match_tokens=options.match_tokens, min_example_length=options.min_example_length,
            proportions=options.proportions,
        )  # fmt: skip

    def count(
        self, parts: Mapping[str, DataFrame], min_example_length: int = 0
    ) -> dict[str, BucketCounts]:
        """Exact bucket counts of named sets of documents, in one job.

        Only documents of at least `min_example_length` tokens count.
        """
        for name, frame in parts.items():
            check_text_column(frame, self.config.text_column, name)
        return _count(dict(parts), self.config, min_example_length)

    def kl_reduction(self, selected: Int64) -> dict[str, float | None]:
        """KL(target || raw) - KL(target || selected) in nats for each target, of bucket counts."""
        return {
            name: weights.kl_reduction(t.counts, self.raw.counts, selected)
            for name, t in self.targets.items()
        }

    def _facts(self) -> dict[str, Any]:
        parts = {RAW: self.raw, **{f"{TARGET} {n}": t for n, t in self.targets.items()}}
        totals = {
            name: [p.num_documents, p.num_null, p.num_blank, p.num_tokens]
            for name, p in parts.items()
        }
        return {
            "format_version": FORMAT_VERSION,
            "config": dataclasses.asdict(self.config),
            "single_target": self.single_target,
            "fitted_share": self.fitted_share,
            "unicode_version": self.unicode_version,
            "totals": totals,
        }

    def save(
        self, place: str, *, spark: SparkSession | None = None, overwrite: bool = False,
        run_id: str | None = None,
    ) -> None:  # fmt: skip
        """Write the model as a Delta table: a row for raw and each target, in one commit.

        Columns: `name`, `counts` (array<bigint>, n-grams by bucket), totals, and `facts` (JSON).

        Raises
        ------
        TableError
            There is something at `place` and `overwrite` is not given.
        """
        session = spark or tables.active_session()
        facts = json.dumps(self._facts(), sort_keys=True)
        rows = [
            (order, name, part.counts.tolist(), part.num_documents, part.num_null, part.num_blank,
             part.num_tokens, facts)
            for order, (name, part) in enumerate({"": self.raw, **self.targets}.items())
        ]  # fmt: skip
        schema = (
            "position int, name string, counts array<bigint>, num_documents bigint, "
            "num_null bigint, num_blank bigint, num_tokens bigint, facts string"
        )
        frame = session.createDataFrame(rows, schema).coalesce(1)
        tables.write(frame, place, overwrite=overwrite, run_id=run_id)

    @classmethod
    def load(
        cls, place: str, *, spark: SparkSession | None = None, version: int | None = None
    ) -> DSIRModel:
        """The model that `save` wrote.

        Raises
        ------
        TableError
            There is no model, or one of a newer format.
        """
        session = spark or tables.active_session()
        frame = tables.read(session, place, "delta", version=version)
        if "facts" not in frame.columns:
            raise TableError(f"{place} is not a model: it has columns {', '.join(frame.columns)}")
        rows = frame.orderBy("position").collect()
        facts = json.loads(rows[0]["facts"])
        if facts["format_version"] > FORMAT_VERSION:
            raise TableError(
                f"the model at {place} is of format {facts['format_version']}, this version of "
                f"dsir_spark reads up to {FORMAT_VERSION}: upgrade it or fit again"
            )
        parts = [
            BucketCounts(np.array(r["counts"], np.int64), r["num_documents"], r["num_null"],
                         r["num_blank"], r["num_tokens"])
            for r in rows
        ]  # fmt: skip
        return cls(
            config=FitConfig(**facts["config"]),
            raw=parts[0],
            targets={r["name"]: part for r, part in zip(rows[1:], parts[1:], strict=True)},
            single_target=facts["single_target"],
            fitted_share=facts["fitted_share"],
            unicode_version=facts["unicode_version"],
        )


def _match_columns(targets: Sequence[str | None]) -> list[str]:
    keys = map(match_column, targets)
    return [c for key in keys for c in (key, key.replace("match_key", "match_score", 1))]


def added_columns(
    config: FitConfig, targets: Sequence[str | None], options: ResampleConfig
) -> list[str]:
    """What a selection adds to the columns of raw, some of it in passing.

    targets : as in `DSIRModel.names`
    """
    added = [*map(column_name, targets), NUM_TOKENS]
    if options.method == "match":
        added += _match_columns(targets)
    added += QUALITY if options.quality is not None else ()
    added += [CONTENT_ID] if config.id_column is None else []
    added += frames.CHUNK_COLUMNS if config.chunk_words is not None else ()
    return added if tuple(targets) == (None,) else [*added, TARGET]


def needed_columns(options: ResampleConfig) -> tuple[str, ...]:
    """Columns of raw that a selection goes by: the weights table must keep them."""
    named = (options.size_column, options.group_column, options.quota_column)
    return tuple(dict.fromkeys(c for c in named if c is not None))


def _first_copies(chosen: DataFrame, id_column: str) -> DataFrame:
    """One row of each content id: the copies' own columns decide, whatever the partitioning."""
    order = F.to_json(F.struct(*[quoted(c) for c in chosen.columns]))
    copies = Window.partitionBy(quoted(id_column)).orderBy(order)
    columns = [quoted(c) for c in chosen.columns]
    return (
        chosen.withColumn("__copy", F.row_number().over(copies))
        .where("__copy = 1")
        .select(*columns)
    )


def _without_tokens(owner: str, part: BucketCounts) -> str:
    if part.num_documents == 0:
        return f"{owner} is empty: it has no documents"
    return (
        f"{owner} has no tokens: of {part.num_documents} documents {part.num_null} have no text "
        f"and {part.num_blank} only blanks; check the text column"
    )
