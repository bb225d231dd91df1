"""What is weighed: the documents of raw with an id, or their chunks; and samples of them by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import (
    CHUNK_COLUMNS,
    CHUNK_ID,
    CONTENT_ID,
    check_id_column,
    hashable,
    quoted,
    refuse_columns,
)
from dsir_spark.features import FeatureSpec
from dsir_spark.options import FitOptions
from dsir_spark.scoring import passes

SLICES = 1024  # samples take whole slices of the ids' hash space
_GRAINS = 1 << 20  # of the texts' hash space
_FEW, _SMALL = 4, 1 << 20  # frames; bytes of one


def spec_of(config: FitOptions) -> FeatureSpec:
    """What decides a text's features."""
    return FeatureSpec(config.ngrams, config.num_buckets, config.tokenizer, config.hash)


def id_name(config: FitOptions) -> str:
    """Name of the id column of weights and selections."""
    return CHUNK_ID if config.chunk_words is not None else config.id_column or CONTENT_ID


def content_id(text: Column) -> Column:
    """An id made from the text: 32 hex digits of two independent 64-bit hashes; null for null."""
    two = F.concat(F.hex(F.xxhash64(F.lit(1), text)), F.hex(F.xxhash64(F.lit(2), text)))
    return F.when(text.isNotNull(), F.lower(two))


def with_ids(raw: DataFrame, config: FitOptions) -> DataFrame:
    """`raw` with an id column: its own, or CONTENT_ID in front where it has none.

    Raises
    ------
    ColumnError
        The id column is missing or of another type, or `raw` has a CONTENT_ID already.
    """
    if config.id_column is not None:
        check_id_column(raw, config.id_column, "raw")
        return raw
    refuse_columns(raw, [CONTENT_ID])
    made = content_id(quoted(config.text_column)).alias(CONTENT_ID)
    return raw.select(made, *[quoted(c) for c in raw.columns])


def documents(raw: DataFrame, config: FitOptions) -> DataFrame:
    """`raw` with the column `id_name`: its documents, or a row for each of their chunks.

    Raises
    ------
    ColumnError
        As `with_ids`; a column of chunks would be added twice.
    """
    named = with_ids(raw, config)
    if config.chunk_words is None:
        return named
    refuse_columns(named, list(CHUNK_COLUMNS))
    ids = config.id_column or CONTENT_ID
    size, tokenizer = config.chunk_words, config.tokenizer
    return passes.chunked(named, config.text_column, ids, size, tokenizer)


def sampled(raw: DataFrame, config: FitOptions, salt: str, slices: int) -> DataFrame:
    """The rows of `raw` whose ids' hash is in the first `slices` of SLICES; all rows if all are.

    salt : samples of another salt are independent
    """
    if slices >= SLICES:
        return raw
    if config.id_column is None:
        ids = content_id(quoted(config.text_column))
    else:
        check_id_column(raw, config.id_column, "raw")
        ids = hashable(raw, config.id_column)
    return raw.where(F.pmod(F.xxhash64(F.lit(salt), ids), F.lit(SLICES)) < slices)


def split(target: DataFrame, text_column: str, share: float) -> tuple[DataFrame, DataFrame]:
    """A target's texts that a model is fitted on, and about this share that is held out.

    By the hash of the text: copies stay together, and it is the same on any machine.
    """
    if share <= 0:
        return target, target.limit(0)
    hashed = F.pmod(F.xxhash64(F.lit("held out"), quoted(text_column)), F.lit(_GRAINS))
    held = hashed < F.lit(round(share * _GRAINS))
    return target.where(~held), target.where(held)


def without_held_out(
    targets: Mapping[str, DataFrame], text_column: str, shares: Mapping[str, float]
) -> dict[str, DataFrame]:
    """What a model is fitted on of each target, by name."""
    return {name: split(frame, text_column, shares[name])[0] for name, frame in targets.items()}


def united(frames: Sequence[DataFrame]) -> DataFrame:
    """The rows of all frames, of the same columns; where they are many, small files in few tasks.

    A file is a task of its own, and each takes a twentieth of a second that a worker of Python
    spends on its start: of sixty targets' texts more than all else. How large a frame is Spark
    knows where it is not behind Connect.
    """
    if len(frames) <= _FEW:
        return reduce(DataFrame.union, frames)
    sizes = [_bytes_of(frame) for frame in frames]
    small = [f for f, size in zip(frames, sizes, strict=True) if size < _SMALL]
    large = [f for f, size in zip(frames, sizes, strict=True) if size >= _SMALL]
    if len(small) > 1:
        tasks = 1 + sum(size for size in sizes if size < _SMALL) // _SMALL
        small = [reduce(DataFrame.union, small).coalesce(tasks)]
    return reduce(DataFrame.union, large + small)


def _bytes_of(frame: DataFrame) -> int:
    """Bytes of the files that a frame is read from; _SMALL or more where they are not known."""
    plan = getattr(frame, "_jdf", None)
    if plan is None:
        return _SMALL
    # Not what Spark makes of them for the frame: it takes a text for twenty bytes, so that of a
    # file of many columns little would seem to be left.
    leaves = plan.queryExecution().analyzed().collectLeaves()
    sizes = (leaves.apply(i).stats().sizeInBytes() for i in range(leaves.size()))
    return sum(int(str(size)) for size in sizes)


def num_ngrams(num_tokens: Column, ngrams: int) -> Column:
    """N-grams of 1 to `ngrams` tokens in a document of so many tokens (bigint)."""
    # Not as a sum of the sizes, of which Spark would parse up to a thousand within each other.
    longest = F.least(num_tokens, F.lit(ngrams))
    return F.shiftright(longest * (2 * num_tokens - longest + 1), 1)
