"""Labels by which Spark's own pages name jobs: of this thread, and of those that it starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# A job is named by the first, and cancelled by the second (of a notebook's cell, for one).
_PROPERTIES = ("spark.job.description", "spark.jobGroup.id", "spark.job.interruptOnCancel")


@contextlib.contextmanager
def described(spark: Any, label: str) -> Iterator[None]:
    """The jobs started meanwhile carry the label in Spark's own pages; those after it the one of
    before."""
    context, before = getattr(spark, "_sc", None), None
    if context is not None:
        before = context.getLocalProperty(_PROPERTIES[0])
        context.setJobDescription(label)
    elif hasattr(spark, "addTag"):  # Connect
        spark.addTag(label.replace(",", " "))
    try:
        yield
    finally:
        if context is not None:
            context.setJobDescription(before)
        elif hasattr(spark, "removeTag"):
            spark.removeTag(label.replace(",", " "))


def threads(spark: Any) -> ThreadPoolExecutor:
    """Threads for queries that need not wait for each other, under the labels of this one.

    Small queries leave cores idle while Spark plans the next.
    """
    context = getattr(spark, "_sc", None)
    if context is not None:
        own = {name: context.getLocalProperty(name) for name in _PROPERTIES}

        def take_over() -> None:
            for name, value in own.items():
                context.setLocalProperty(name, value)

    else:
        tags = spark.getTags() if hasattr(spark, "getTags") else ()

        def take_over() -> None:
            for tag in tags:
                spark.addTag(tag)

    return ThreadPoolExecutor(4, "queries", take_over)
