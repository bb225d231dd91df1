"""What a pass is sent, by arithmetic: Spark Connect takes plans of 128 MB and no larger.

The functions of a pass are within its plan, with their tables of numbers by bucket and the texts to
stay away from. Ids of a selection are not: they go from one table to another.
"""

from __future__ import annotations

from pyspark.sql import SparkSession

from dsir_spark.errors import ConfigError
from dsir_spark.features import Decontamination
from dsir_spark.options import FitOptions, ResampleOptions

MESSAGE = 128 << 20  # bytes of one message: Spark Connect's limit, and Databricks serverless's
_REST = 1 << 20  # what is in a plan besides: functions, expressions, names


def check(
    spark: SparkSession, fitted: FitOptions, num_targets: int, texts: Decontamination | None = None,
    options: ResampleOptions | None = None,
) -> None:  # fmt: skip
    """Refuse passes over raw that would be sent more than the session takes.

    Parameters
    ----------
    fitted : the model's options
    texts : those to stay away from
    options : of a selection, where the pass makes its keys: a matched one is sent the gradients of
        all its steps

    Raises
    ------
    ConfigError
        It says which option to lower, and to what.
    """
    if not type(spark).__module__.startswith("pyspark.sql.connect"):
        return
    steps = options.match_steps if options is not None and options.method == "match" else 0
    others = 1 + (fitted.scorer == "classifier") + (steps > 0)
    beside = _REST + sum(map(len, texts.texts if texts is not None else ()))
    column = 8 * fitted.num_buckets
    tables = column * (others + steps) * num_targets
    if tables + beside <= MESSAGE:
        return
    left = MESSAGE - beside
    lower = [f"num_buckets to {left * fitted.num_buckets // tables:,}"]
    if (most := left // (column * num_targets) - others) >= 1 and steps:
        lower.append(f"match_steps to {most}")
    if (most := left // (column * (others + steps))) >= 1:
        lower.append(f"the number of targets to {most}")
    if texts is not None and tables + _REST <= MESSAGE:
        lower.append(f"the texts of decontaminate by {tables - left:,} bytes")
    raise ConfigError(
        f"a pass over raw would be sent {(tables + beside) >> 20} MB, and Spark Connect takes "
        f"{MESSAGE >> 20}: {others + steps} tables a target of {fitted.num_buckets:,} buckets"
        f"{'' if texts is None else ', and the texts of decontaminate'}; lower "
        f"{', or '.join(lower)}"
    )
