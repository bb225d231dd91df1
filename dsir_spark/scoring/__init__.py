"""Buckets become scores: distributions, DSIR's log weights, matched keys; every scorer is tables
of numbers by bucket, which one pass over the text adds up (`passes.with_scores`)."""

from dsir_spark.errors import TableError

FORMAT_VERSION = 2  # the latest that is known: that of a model with classifiers, 1 of all others


def refuse_newer(found: int, place: str, again: str) -> None:
    """Raise a `TableError` where a model at `place` is of a format that is not known yet."""
    if found > FORMAT_VERSION:
        raise TableError(
            f"the model at {place} is of format {found}, this version of dsir_spark reads up to "
            f"{FORMAT_VERSION}: upgrade it or {again}"
        )
