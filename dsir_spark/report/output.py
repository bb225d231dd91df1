"""Where a report goes: a page, its facts as JSON beside it, and a row of the table `report`."""

from __future__ import annotations

import datetime
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from dsir_spark.report.facts import Facts

_SCHEMA = "run_id string, written_at timestamp, facts string"


def write(facts: Facts, output: str, html: str | None = None) -> str:
    """The path of the page, written with its facts as JSON beside it.

    Parameters
    ----------
    html : by default `report.html` under a local output, else `dsir-report.html` in the current
        folder
    """
    # Drawing takes a second to load, which only those who write a page wait for.
    from dsir_spark.report import page

    if html is None:
        folder = Path(output)
        html = str(folder / "report.html") if folder.is_dir() else "dsir-report.html"
    shown = page.render(facts.to_dict())
    Path(html).write_text(shown, encoding="utf-8", errors="replace")
    Path(html).with_suffix(".json").write_text(facts.to_json(), encoding="utf-8")
    return html


def as_frame(spark: SparkSession, facts: Facts) -> DataFrame:
    """The row of the table `report`: run_id, written_at, facts (JSON)."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return spark.createDataFrame([(facts.run.id, now, facts.to_json())], _SCHEMA).coalesce(1)
