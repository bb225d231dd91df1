"""Reading the texts that no selected document may share an n-gram with."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import check_text_column, found, quoted
from dsir_spark.errors import DataError
from dsir_spark.features import Decontamination, tokenizers
from dsir_spark.options import FitOptions
from dsir_spark.scoring.documents import content_id

# All of the texts go to every task, and become some 50 bytes a token in each worker.
_MOST_BYTES = 1 << 26


def read(
    texts: DataFrame, config: FitOptions, ngram: int, owner: str = "decontaminate"
) -> tuple[Decontamination, list[str]]:
    """The texts, sorted by id, and what is to be told of them, in sentences.

    A text is known by the column that `config` has ids in, where the frame has it, else by an id
    that is made of the text.

    Raises
    ------
    ColumnError
        The text column is missing or of another type.
    DataError
        No text has `ngram` tokens, or they are more than tasks can be sent.
    """
    check_text_column(texts, config.text_column, owner)
    text = quoted(config.text_column)
    ids = content_id(text)
    if config.id_column is not None and (own := found(texts, config.id_column)) is not None:
        ids = F.coalesce(quoted(own).cast("string"), ids)
    rows = texts.where(text.isNotNull()).select(
        ids.alias("id"), text.cast("binary").alias("text")
    )
    [(size,)] = rows.agg(F.sum(F.octet_length("text"))).collect()
    if (size or 0) > _MOST_BYTES:
        raise DataError(
            f"decontaminate has {size:,} bytes of text, which every task would be sent; at most "
            f"{_MOST_BYTES:,} can be: give fewer texts, those that you evaluate on"
        )
    pairs = sorted((row["id"], bytes(row["text"])) for row in rows.collect())
    known = Decontamination(tuple(i for i, _ in pairs), tuple(t for _, t in pairs), ngram)
    long = known.num_long(tokenizers.resolved(config.tokenizer))
    if not long:
        raise DataError(
            f"decontaminate: none of {len(pairs):,} texts has {ngram} tokens, so that no document "
            "can share as many with one: give a smaller decontaminate_ngram, or other texts"
        )
    short = len(pairs) - long
    said = (f"{short:,} of {len(pairs):,} texts of decontaminate have fewer than {ngram} tokens: "
            "documents are not compared with them")  # fmt: skip
    return known, [said] if short else []
