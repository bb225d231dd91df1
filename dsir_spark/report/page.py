"""The report as one self-contained HTML page, made of its JSON: no network, no script.

Everything that comes from documents is escaped, control characters and marks that turn the
direction of writing are made visible, and a policy in the page forbids whatever might slip through.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
from pyspark.sql import DataFrame, SparkSession

from dsir_spark.errors import TableError
from dsir_spark.report import checks, comparison
from dsir_spark.report.facts import Check, Facts, visible
from dsir_spark.report.score_facts import ScoreFacts, shown

_MANY = 3  # more targets than this are folded
_APART = ("duplicate_text", "over_max_per_group")  # of candidates, known from all rows only
_BEGINNING = '{"composition": ['  # of the facts as JSON, whose keys are sorted
_PARTS = {"run", "funnel", "warnings"}  # that they have, among others
_PICTURED = 24  # targets with pictures; drawing one takes a quarter of a second


def place_of(output: str, html: str | None = None) -> str:
    """Where `write` writes the page.

    Raises
    ------
    TableError
        The JSON that is there, which would be written over, is no report.
    """
    if html is None:
        local = Path(output).is_dir()
        html = str(Path(output) / "report.html") if local else "dsir-report.html"
    beside = Path(html).with_suffix(".json")
    try:
        with open(beside, encoding="utf-8") as file:  # of other data its beginning alone
            begun = file.read(len(_BEGINNING)) == _BEGINNING
            ours = begun and json.loads(_BEGINNING + file.read()).keys() >= _PARTS
    except FileNotFoundError:
        return html
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise TableError(f"the facts are written beside the page, and {beside} is no report: move "
                         "it, or give the page another name by report --html")  # fmt: skip
    return html


def write(facts: Facts | ScoreFacts, output: str, html: str | None = None) -> str:
    """The path of the page, written with its facts as JSON beside it.

    Parameters
    ----------
    html : by default `report.html` under a local output, else `dsir-report.html` in the current
        folder

    Raises
    ------
    TableError
        It cannot be written there.
    """
    html = place_of(output, html)
    page, text = Path(html), render(facts.to_dict())
    try:
        page.write_text(text, encoding="utf-8", errors="replace")
        page.with_suffix(".json").write_text(facts.to_json(), encoding="utf-8")
    except OSError as error:
        raise TableError(f"cannot write the page {html}: {error.strerror or error}") from None
    return html


def as_frame(spark: SparkSession, facts: Facts | ScoreFacts) -> DataFrame:
    """The row of the table `report`: run_id, written_at, facts (JSON)."""
    row = (facts.run.id, datetime.datetime.now(datetime.timezone.utc), facts.to_json())
    schema = "run_id string, written_at timestamp, facts string"
    return spark.createDataFrame([row], schema).coalesce(1)


def _signed(x: float | None, n: int = 3) -> str:
    return "–" if x is None else f"{x:+.{n}f}".replace("-", "−")


def render(facts: Mapping[str, Any]) -> str:
    """The page of `to_dict()`, or of the JSON that it became; the same bytes each time."""
    # Drawing takes a second to load, which only those who write a page wait for.
    from dsir_spark.report import pictures

    def drawn(figure: Any) -> markupsafe.Markup:
        return markupsafe.Markup(pictures.svg(figure))  # with all labels escaped

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "visible": visible,
        # A piece keeps the blank between two tokens.
        "visible_piece": lambda text: " " if text.isspace() else visible(text),
        "signed": _signed,
        "percent": lambda x: "–" if x is None else f"{100 * x:.1f}\u00a0%",
        "change": lambda x: f"{100 * x:+.1f}\u00a0%".replace("-", "−"),
        "whole": lambda number: "–" if number is None else f"{number:,.0f}",
        "place": lambda share: f"{share:.2f}%",
        "shade": lambda part, largest: f"{0.5 * abs(part) / largest:.2f}",
    }
    verdicts, targets = facts["verdict"], [dict(t) for t in facts["targets"]]
    scores = facts.get("scores", ())
    chosen = {v["target"]: v for v in verdicts}
    for t in targets[:_PICTURED]:
        t["weights_picture"] = drawn(pictures.weights_figure(t["weights"]))
        t["lengths_picture"] = drawn(pictures.lengths_figure(t["lengths"]))
        if t["curve"]:
            t["curve_picture"] = drawn(pictures.curve_figure(t["curve"], chosen[t["name"]]))
    if many := len(verdicts) > _MANY:  # those that fail most, first
        verdicts = sorted(verdicts, key=lambda v: (v["share_of_bound"] is not None,
                                                   v["share_of_bound"] or 0.0))  # fmt: skip
    found, form = (
        (comparison.of_verdicts(verdicts), _signed) if verdicts
        else (comparison.of_scores(scores), shown)
    )  # fmt: skip
    compared = comparison.picture(found, form, many)
    warned = [Check(**w) for w in facts["warnings"]]
    largest = max((f["count"] for f in facts["funnel"]), default=0) or 1
    source = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        run=facts["run"], verdicts=verdicts, targets=targets, many=many,
        groups=checks.grouped(warned),
        contaminated=facts.get("contaminated", []),
        funnel=[{**f, "share": f["count"] / largest} for f in facts["funnel"]],
        composition=[{"values": len(c["rows"]), **c} for c in facts["composition"]],
        apart=[f["label"] for f in facts["funnel"] if f["stage"] in _APART],
        missing=checks.untold(facts.get("shortfall", {}).get("sentence", ""), warned),
        scores=[
            {**s, "picture": drawn(pictures.weights_figure(s["histogram"]))}
            for s in scores
        ],
        compared=compared, nearer=sum(map(comparison.nearer, verdicts)),
    )  # fmt: skip
