"""Texts for a person to read, on the driver: a few of some frames."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import quoted
from dsir_spark.selection.rows import to_arrow

NUMBER, CHARACTERS = 300, 5_000  # of a frame, in which n-grams are looked up, and of each text
_OF_ALL = 3_000  # of all frames together


def some_texts(
    frames: Mapping[str, tuple[DataFrame, float]], text_column: str
) -> dict[str, list[bytes]]:
    """The beginnings of a few texts of each frame: those of the least hashes, in one query.

    Parameters
    ----------
    frames : name -> the frame and about how many documents it has
    """
    if not frames:
        return {}
    text = quoted(text_column)
    number = min(NUMBER, max(30, _OF_ALL // len(frames)))
    hashed, parts = F.xxhash64(text), []
    for name, (frame, documents) in frames.items():
        # More than enough of them, without a sort.
        share = (number + 5 * math.sqrt(number)) / max(1.0, documents)
        most = min((1 << 63) - 1, int(share * 2.0**64) - (1 << 63))
        own = frame.where(text.isNotNull() & (hashed <= F.lit(most)))
        # Four bytes are a character at most.
        beginning = F.substring(text.cast("binary"), 1, 4 * CHARACTERS).alias("text")
        parts.append(own.select(F.lit(name).alias("name"), hashed.alias("hash"), beginning))
    found: dict[str, list[bytes]] = {name: [] for name in frames}
    rows = to_arrow(functools.reduce(DataFrame.union, parts)).to_pylist()
    for row in sorted(rows, key=lambda row: (row["hash"], row["text"])):
        found[row["name"]].append(row["text"])
    return {name: own[:number] for name, own in found.items()}
