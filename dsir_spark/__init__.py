"""DSIR for Spark: select, from a huge raw corpus, documents distributed like a target sample."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsir_spark.distilled import distill
    from dsir_spark.dsir import DSIR, DSIRModel, ngram_counts
    from dsir_spark.selection import select

__all__ = ["DSIR", "DSIRModel", "distill", "ngram_counts", "select"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Only when asked for: a worker of a cluster imports `dsir_spark.features`, for which this file
    # runs too, and has neither the other wings nor the packages that they need.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = {"select": "selection", "distill": "distilled"}.get(name, "dsir")
    return getattr(importlib.import_module(f"dsir_spark.{room}"), name)
