"""The one scan of raw that a report makes: n-gram counts and beginnings of some documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import CONTENT_ID, quoted
from dsir_spark.scoring import passes
from dsir_spark.scoring.documents import documents, spec_of, with_ids
from dsir_spark.scoring.model import Model
from dsir_spark.selection.rows import to_arrow

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Documents:
    """Some documents of raw, on the driver.

    at : id -> the number i of a document
    indptr, buckets, counts : int64[n + 1], int64[*] both: n-grams of document i by bucket are at
        indptr[i] to indptr[i + 1]
    texts : id -> the beginning of the text, in bytes, of those of which it was asked for
    """

    num_buckets: int
    at: Mapping[Any, int]
    indptr: Int64
    buckets: Int64
    counts: Int64
    texts: Mapping[Any, bytes]

    def _entries(self, ids: Sequence[Any]) -> tuple[Int64, Int64]:
        """Positions of the entries of these documents, and how many each has."""
        rows = np.array([self.at[i] for i in ids if i in self.at], np.int64)
        sizes = np.diff(self.indptr)[rows]
        first = np.repeat(self.indptr[rows] - (np.cumsum(sizes) - sizes), sizes)
        return first + np.arange(len(first)), sizes

    def total(self, ids: Sequence[Any]) -> Int64:
        """N-grams by bucket of these documents together, int64[num_buckets]."""
        own, _ = self._entries(ids)
        summed = np.bincount(self.buckets[own], self.counts[own], self.num_buckets)
        return summed.astype(np.int64)

    def means(self, ids: Sequence[Any], table: Float64) -> tuple[Float64, Int64]:
        """Mean of float64[num_buckets] over the n-grams of each document, and its n-grams."""
        own, sizes = self._entries(ids)
        rows = np.repeat(np.arange(len(sizes)), sizes)
        ngrams = np.bincount(rows, self.counts[own], len(sizes))
        sums = np.bincount(rows, self.counts[own] * table[self.buckets[own]], len(sizes))
        return sums / np.maximum(ngrams, 1), ngrams.astype(np.int64)


def read(model: Model, raw: DataFrame, wanted: Mapping[Any, int]) -> Documents:
    """The documents of some ids; one scan of raw, and the kernel on these rows alone.

    Parameters
    ----------
    wanted : id -> characters of the text to keep
    """
    rows = _of_ids(model, raw, wanted)
    text = quoted(model.config.text_column).cast("binary")
    # At most four bytes a character.
    beginning = F.when(F.col("chars") > 0, text.substr(F.lit(1), F.col("chars") * 4))
    spec = spec_of(model.config)
    counted = passes.with_ngram_counts(
        rows.select(F.col("id"), beginning.alias("beginning"), text.alias("text")), "text", spec
    ).select("id", "beginning", "indices", "counts")
    table = to_arrow(counted).combine_chunks()
    ids = table.column("id").to_pylist()
    # Of equal ids, which are made of equal texts, one.
    first = {one: i for i, one in reversed(list(enumerate(ids)))}
    keep = sorted(first.values(), key=lambda i: ids[i])
    table = table.take(keep)
    lists = table.column("indices").combine_chunks()
    values = table.column("counts").combine_chunks()
    texts = table.column("beginning").to_pylist()
    names = table.column("id").to_pylist()
    return Documents(
        num_buckets=spec.num_buckets,
        at={one: i for i, one in enumerate(names)},
        indptr=lists.offsets.to_numpy().astype(np.int64) - lists.offsets[0].as_py(),
        buckets=lists.flatten().to_numpy().astype(np.int64),
        counts=values.flatten().to_numpy().astype(np.int64),
        texts={one: text for one, text in zip(names, texts, strict=True) if text is not None},
    )


def _of_ids(model: Model, raw: DataFrame, wanted: Mapping[Any, int]) -> DataFrame:
    """The rows of raw of some ids, with `id` and `chars`; the ids are sent to every task."""
    config = model.config
    own = config.id_column or CONTENT_ID
    named = with_ids(raw, config)
    if config.chunk_words is not None:
        # Only the documents of these chunks are cut.
        of = sorted({str(one).rsplit("#", 1)[0] for one in wanted})
        sent = F.broadcast(raw.sparkSession.createDataFrame([(o,) for o in of], "of string"))
        named = named.join(sent, quoted(own).cast("string") == F.col("of"), "left_semi")
    rows = documents(named, config.model_copy(update={"id_column": own}))
    kind = rows.schema[model.id_name].dataType.simpleString()
    sent = raw.sparkSession.createDataFrame(list(wanted.items()), f"id {kind}, chars int")
    text = quoted(config.text_column)
    rows = rows.select(quoted(model.id_name).alias("own"), text)
    return rows.join(F.broadcast(sent), F.col("own") == F.col("id"))
