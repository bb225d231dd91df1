"""The pictures of the page, drawn from its facts as JSON has them; matplotlib in, SVG out."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from dsir_spark.report.facts import visible

_DARK, _LIGHT, _GREY, _ACCENT = "#22262b", "#cfd4da", "#9aa1a9", "#1f5fa8"
_STYLE: dict[Any, Any] = {
    "font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#8a8f96", "axes.labelcolor": "#444a52", "xtick.color": "#444a52",
    "ytick.color": "#444a52", "legend.frameon": False, "svg.fonttype": "path",
    "svg.hashsalt": "dsir_spark",  # the same ids in every run
}  # fmt: skip


def svg(figure: Figure) -> str:
    """The figure as an element `<svg>`; the same bytes each time."""
    out = io.StringIO()
    # Metadata would name vocabularies by their addresses; a page without network has none.
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(_STYLE):
        figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _picture(draw: Callable[..., None]) -> Callable[..., Figure]:
    """A figure that a function draws on its axes, with a legend if anything has a label."""

    @functools.wraps(draw)
    def drawn(*facts: Any) -> Figure:
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=(5.2, 2.9), layout="constrained")
            axes = figure.subplots()
            draw(axes, *facts)
            if axes.get_legend_handles_labels()[0] and axes.get_legend() is None:
                axes.legend()
        return figure

    return drawn


def _log_axis(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0), numticks=8))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


@_picture
def weights_figure(axes: Any, facts: Mapping[str, Any]) -> None:
    """Documents by what they are ranked by: candidates and selected, and the cut."""
    edges, cut = np.array(facts["edges"]), facts.get("cut")
    hatched = {"color": _DARK, "linewidth": 1.4, "hatch": "////", "label": "selected"}
    axes.stairs(facts["candidates"], edges, fill=True, color=_LIGHT, label="candidates")
    axes.stairs(facts["selected"], edges, **hatched)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    if cut is not None and edges[0] <= cut <= edges[-1]:
        axes.axvline(cut, color=_ACCENT, linestyle="--",
                     label=facts.get("cut_label", "cut (with noise)"))  # fmt: skip
    axes.set(xlabel=facts["label"], ylabel="documents")


@_picture
def lengths_figure(axes: Any, facts: Mapping[str, Any]) -> None:
    """A sample of documents: tokens against what they are ranked by."""
    kinds = ((False, ".", _GREY, "not selected"), (True, "x", _ACCENT, "selected"))
    for chosen, marker, colour, label in kinds:
        points = [p for p in facts["points"] if p[2] == chosen]
        if points:
            tokens, ranks, _ = zip(*points, strict=True)
            style = {"marker": marker, "color": colour, "label": label}
            axes.scatter(tokens, ranks, s=14, linewidth=0.9, **style)
    _log_axis(axes)
    axes.set(xlabel="tokens of the document", ylabel=facts["label"])


@_picture
def curve_figure(
    axes: Any, curve: Sequence[Mapping[str, float]], chosen: Mapping[str, Any]
) -> None:  # fmt: skip
    """KL reduction of the best k documents, over k; `chosen`: the verdict of the selection."""
    sizes, reached = ([c[of] for c in curve] for of in ("documents", "kl_reduction"))
    axes.plot(sizes, reached, "o-", color=_DARK, markersize=3.5, label="best by key")
    if chosen.get("kl_reduction") is not None:
        here = chosen["documents"], chosen["kl_reduction"]
        axes.plot(*here, "s", color=_ACCENT, markersize=7, label="this selection")
    levels = (("kl_reduction_random", ":", "random"), ("bound", "--", "bound at this size"))
    for name, style, label in levels:
        if chosen.get(name) is not None:
            axes.axhline(chosen[name], color=_DARK, linestyle=style, linewidth=0.9, label=label)
    _log_axis(axes)
    axes.set(xlabel="documents selected", ylabel="KL reduction (nats an n-gram)")


@_picture
def composition_figure(axes: Any, column: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Shares of the values of a column before and after."""
    shown = list(rows[:14])[::-1]
    axes.figure.set_size_inches(5.2, 0.8 + 0.27 * len(shown))
    at = np.arange(len(shown))
    before, after = ([100 * r[f"{of}_share"] for r in shown] for of in ("raw", "selected"))
    hatched = {"color": _ACCENT, "hatch": "//", "edgecolor": "white", "label": "selected"}
    axes.barh(at + 0.2, before, 0.38, color=_LIGHT, label="raw")
    axes.barh(at - 0.2, after, 0.38, **hatched)
    axes.set_yticks(at, [visible(r["value"])[:28] for r in shown], parse_math=False)
    axes.set_xlabel("share of documents (%)")
    axes.set_ylabel(visible(column)[:28], parse_math=False)
    axes.legend(loc="lower right")
