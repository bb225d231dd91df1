"""The report as one self-contained HTML page, made of its JSON: no Spark, no network, no script.

Everything that comes from documents is escaped, control characters and marks that turn the
direction of writing are made visible, and a policy in the page forbids whatever might slip through.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import markupsafe

from dsir_spark.report import checks, pictures
from dsir_spark.report.facts import Check, visible

_MANY = 3  # more targets than this are folded
_PICTURED = 24  # targets with pictures; drawing one takes a quarter of a second


def render(facts: Mapping[str, Any]) -> str:
    """The page of `Facts.to_dict()`, or of the JSON that it became; the same bytes each time."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "visible": visible,
        # A piece keeps the blank between two tokens.
        "visible_piece": lambda text: " " if text.isspace() else visible(text),
        "signed": _signed,
        "percent": _percent,
        "whole": lambda number: f"{number:,.0f}",
        "shade": _shade,
    }
    source = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    verdicts = facts["verdict"]
    chosen = {v["target"]: v for v in verdicts}
    # Those that fail most, first.
    ordered = sorted(verdicts, key=lambda v: _rank(v["share_of_bound"]))
    largest = max((f["count"] for f in facts["funnel"]), default=0) or 1
    return environment.from_string(source).render(
        run=facts["run"],
        verdicts=ordered if len(verdicts) > _MANY else verdicts,
        groups=checks.grouped(Check(**w) for w in facts["warnings"]),
        funnel=[{**f, "share": f["count"] / largest} for f in facts["funnel"]],
        composition=[
            {**c, "picture": _drawn(pictures.composition_figure(c["column"], c["rows"]))}
            for c in facts["composition"]
        ],
        targets=[
            _pictured(t, chosen[t["name"]]) if i < _PICTURED else t
            for i, t in enumerate(facts["targets"])
        ],
        many=len(verdicts) > _MANY,
        nearer=sum((v["kl_reduction"] or 0) > (v["kl_reduction_random"] or 0) for v in verdicts),
    )


def _pictured(target: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    figures = {
        "weights_picture": pictures.weights_figure(target["weights"]),
        "lengths_picture": pictures.lengths_figure(target["lengths"]),
    }
    if target["curve"]:
        figures["curve_picture"] = pictures.curve_figure(target["curve"], verdict)
    return {**target, **{name: _drawn(figure) for name, figure in figures.items()}}


def _drawn(figure: Any) -> markupsafe.Markup:
    return markupsafe.Markup(pictures.svg(figure))  # matplotlib has escaped its labels


def _rank(share: float | None) -> float:
    return float("-inf") if share is None else share


def _shade(part: float, largest: float) -> str:
    strength = 0.0 if largest <= 0 else min(1.0, abs(part) / largest)
    return f"{0.5 * strength:.2f}"


def _signed(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"
