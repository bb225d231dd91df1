"""The pictures of the page, drawn from its facts as JSON has them; matplotlib in, SVG out."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from dsir_spark.report.facts import visible

_F = TypeVar("_F", bound=Callable[..., Any])
_DARK, _LIGHT, _GREY, _ACCENT = "#22262b", "#cfd4da", "#9aa1a9", "#1f5fa8"
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f96",
    "axes.labelcolor": "#444a52",
    "xtick.color": "#444a52",
    "ytick.color": "#444a52",
    "svg.fonttype": "path",
    "svg.hashsalt": "dsir_spark",  # the same ids in every run
}


def _styled(function: _F) -> _F:
    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        with matplotlib.rc_context(_STYLE):
            return function(*args)

    return wrapped  # type: ignore[return-value]


@_styled
def svg(figure: Figure) -> str:
    """The figure as an element `<svg>`; the same bytes each time."""
    out = io.StringIO()
    # Metadata would name vocabularies by their addresses; a page without network has none.
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _figure(width: float = 5.2, height: float = 2.9) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _log_axis(axes: Any) -> None:
    """Logarithmic, labelled in whole numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0), numticks=8))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


@_styled
def weights_figure(facts: Mapping[str, Any]) -> Figure:
    """Documents by what they are ranked by: candidates and selected, and the cut."""
    figure, axes = _figure()
    edges = np.array(facts["edges"])
    axes.stairs(facts["candidates"], edges, fill=True, color=_LIGHT, label="candidates")
    axes.stairs(facts["selected"], edges, color=_DARK, linewidth=1.4, hatch="////",
                label="selected")  # fmt: skip
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:,.0f}"))
    if facts.get("cut") is not None and edges[0] <= facts["cut"] <= edges[-1]:
        axes.axvline(facts["cut"], color=_ACCENT, linestyle="--", label="cut (with noise)")
    axes.set_xlabel(facts["label"])
    axes.set_ylabel("documents")
    axes.legend(frameon=False)
    return figure


@_styled
def lengths_figure(facts: Mapping[str, Any]) -> Figure:
    """A sample of documents: tokens against what they are ranked by."""
    figure, axes = _figure()
    for chosen, marker, colour, label in (
        (False, ".", _GREY, "not selected"), (True, "x", _ACCENT, "selected"),
    ):  # fmt: skip
        points = [p for p in facts["points"] if p[2] == chosen]
        if points:
            axes.scatter([p[0] for p in points], [p[1] for p in points], s=14, marker=marker,
                         color=colour, linewidth=0.9, label=label)  # fmt: skip
    _log_axis(axes)
    axes.set_xlabel("tokens of the document")
    axes.set_ylabel(facts["label"])
    if facts["points"]:
        axes.legend(frameon=False)
    return figure


@_styled
def curve_figure(curve: Sequence[Mapping[str, float]], chosen: Mapping[str, Any]) -> Figure:
    """KL reduction of the best k documents, over k; `chosen`: the verdict of the selection."""
    figure, axes = _figure()
    axes.plot([c["documents"] for c in curve], [c["kl_reduction"] for c in curve], "o-",
              color=_DARK, markersize=3.5, label="best by key")  # fmt: skip
    if chosen.get("kl_reduction") is not None:
        axes.plot([chosen["documents"]], [chosen["kl_reduction"]], "s", color=_ACCENT,
                  markersize=7, label="this selection")  # fmt: skip
    for name, style, label in (
        ("kl_reduction_random", ":", "random"), ("bound", "--", "bound at this size"),
    ):  # fmt: skip
        if chosen.get(name) is not None:
            axes.axhline(chosen[name], color=_DARK, linestyle=style, linewidth=0.9, label=label)
    _log_axis(axes)
    axes.set_xlabel("documents selected")
    axes.set_ylabel("KL reduction (nats an n-gram)")
    axes.legend(frameon=False)
    return figure


@_styled
def composition_figure(column: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Shares of the values of a column before and after."""
    shown = list(rows[:14])[::-1]
    figure, axes = _figure(5.2, 0.8 + 0.27 * len(shown))
    at = np.arange(len(shown))
    axes.barh(at + 0.2, [100 * r["raw_share"] for r in shown], 0.38, color=_LIGHT, label="raw")
    axes.barh(at - 0.2, [100 * r["selected_share"] for r in shown], 0.38, color=_ACCENT,
              hatch="//", edgecolor="white", label="selected")  # fmt: skip
    axes.set_yticks(at, [visible(r["value"])[:28] for r in shown], parse_math=False)
    axes.set_xlabel("share of documents (%)")
    axes.set_ylabel(visible(column)[:28], parse_math=False)
    axes.legend(frameon=False, loc="lower right")
    return figure
