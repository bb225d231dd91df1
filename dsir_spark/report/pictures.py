"""The pictures of the page, drawn from its facts as JSON has them; matplotlib in, SVG out.

What a picture shows is said in words too: the label of its figure, for who cannot see it.
"""

from __future__ import annotations

import functools
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from dsir_spark.report.facts import visible

_DARK, _LIGHT, _GREY, _ACCENT = "#22262b", "#cfd4da", "#8a9199", "#1f5fa8"
_QUIET, _PAPER = "#5b626b", "#ffffff"
# What the page calls them, which has others in the dark.
_VARIABLES = {_DARK: "ink", _LIGHT: "pale", _GREY: "grey", _ACCENT: "accent", _QUIET: "quiet",
              _PAPER: "paper"}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": _GREY, "axes.labelcolor": _QUIET, "xtick.color": _QUIET,
    "ytick.color": _QUIET, "text.color": _DARK, "legend.frameon": False, "svg.fonttype": "path",
    "svg.hashsalt": "dsir_spark",  # the same ids in every run
}  # fmt: skip
# Room for a label and numbers of seven letters, which longer ones are shortened to (100k, 1e5). To
# find out how much each picture needs takes two thirds of what drawing it takes.
_MARGINS = {"left": 0.19, "right": 0.97, "bottom": 0.18, "top": 0.94}


def svg(figure: Figure) -> str:
    """The figure as an element `<svg>` in colours of the page, with what it says in words; the
    same bytes each time."""
    out = io.StringIO()
    # Metadata would name vocabularies by their addresses; a page without network has none.
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(_STYLE):
        figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    text = out.getvalue()
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    said = html.escape(visible(figure.get_label()))
    return f'<svg role="img" aria-label="{said}"' + text[text.index("<svg") + 4 :]


def _picture(draw: Callable[..., str]) -> Callable[..., Figure]:
    """A figure that a function draws on its axes, with a legend if anything has a label, and with
    what the function says of it."""

    @functools.wraps(draw)
    def drawn(*facts: Any) -> Figure:
        with matplotlib.rc_context(_STYLE):
            figure = Figure(figsize=(4.6, 2.7))
            axes = figure.subplots(gridspec_kw=_MARGINS)
            figure.set_label(draw(axes, *facts))
            if axes.get_legend_handles_labels()[0] and axes.get_legend() is None:
                axes.legend()
        return figure

    return drawn


def _middle(counts: Sequence[float], edges: Any) -> str:
    """Where the middle of what a histogram counts lies, in words."""
    if not sum(counts):
        return "none"
    at = int(np.searchsorted(np.cumsum(counts), sum(counts) / 2))
    return f"{sum(counts):,}, half of them below {edges[at + 1]:,.4g}"


def _log_axis(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 3.0), numticks=8))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


@_picture
def weights_figure(axes: Any, facts: Mapping[str, Any]) -> str:
    """Documents by what they are ranked by: candidates and selected, and the cut."""
    edges, cut = np.array(facts["edges"]), facts.get("cut")
    hatched = {"color": _DARK, "linewidth": 1.4, "hatch": "////", "label": "selected"}
    said = [f"candidates: {_middle(facts['candidates'], edges)}",
            f"selected: {_middle(facts['selected'], edges)}"]  # fmt: skip
    axes.stairs(facts["candidates"], edges, fill=True, color=_LIGHT, label="candidates")
    axes.stairs(facts["selected"], edges, **hatched)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    if cut is not None and edges[0] <= cut <= edges[-1]:
        label = facts.get("cut_label", "cut (with noise)")
        axes.axvline(cut, color=_ACCENT, linestyle="--", label=label)
        said.append(f"{label}: {cut:,.4g}")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set(xlabel=facts["label"], ylabel="documents")
    return f"Documents by {facts['label']}; {'; '.join(said)}"


@_picture
def lengths_figure(axes: Any, facts: Mapping[str, Any]) -> str:
    """A sample of documents: tokens against what they are ranked by."""
    said = []
    kinds = ((False, ".", _GREY, "not selected"), (True, "x", _ACCENT, "selected"))
    for chosen, marker, colour, label in kinds:
        points = [p for p in facts["points"] if p[2] == chosen]
        if points:
            tokens, ranks, _ = zip(*points, strict=True)
            style = {"marker": marker, "color": colour, "label": label}
            axes.scatter(tokens, ranks, s=14, linewidth=0.9, **style)
            said.append(f"{len(points):,} {label}: {min(tokens):,} to {max(tokens):,} tokens, "
                        f"{min(ranks):,.4g} to {max(ranks):,.4g}")  # fmt: skip
    _log_axis(axes)
    axes.ticklabel_format(axis="y", scilimits=(-3, 5))
    axes.set_xlabel("tokens of the document")
    label = axes.set_ylabel(facts["label"])  # a long one is made to go beside the axis
    label.set_fontsize(min(label.get_fontsize(), 340 / len(facts["label"])))
    return f"A sample of documents by tokens and {facts['label']}; {'; '.join(said)}"


@_picture
def curve_figure(
    axes: Any, curve: Sequence[Mapping[str, float]], chosen: Mapping[str, Any]
) -> str:  # fmt: skip
    """KL reduction of the best k documents, over k; `chosen`: the verdict of the selection."""
    said = [f"{c['documents']:,.0f} documents {c['kl_reduction']:+.3f}" for c in curve]
    sizes, reached = ([c[of] for c in curve] for of in ("documents", "kl_reduction"))
    axes.plot(sizes, reached, "o-", color=_DARK, markersize=3.5, label="best by key")
    if chosen.get("kl_reduction") is not None:
        here = chosen["documents"], chosen["kl_reduction"]
        axes.plot(*here, "s", color=_ACCENT, markersize=7, label="this selection")
        said.append(f"this selection, {here[0]:,} documents {here[1]:+.3f}")
    levels = (("kl_reduction_random", ":", "random"), ("bound", "--", "bound at this size"))
    for name, style, label in levels:
        if chosen.get(name) is not None:
            axes.axhline(chosen[name], color=_DARK, linestyle=style, linewidth=0.9, label=label)
            said.append(f"{label} {chosen[name]:+.3f}")
    _log_axis(axes)
    axes.set(xlabel="documents selected", ylabel="KL reduction (nats an n-gram)")
    return f"KL reduction in nats an n-gram of the best documents by key: {'; '.join(said)}"


@_picture
def composition_figure(axes: Any, column: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Shares of the values of a column before and after."""
    shown = list(rows[:14])[::-1]
    axes.figure.set_size_inches(4.6, 1.1 + 0.27 * len(shown))
    axes.figure.set_layout_engine("constrained")  # names are of any length
    at = np.arange(len(shown))
    before, after = ([100 * r[f"{of}_share"] for r in shown] for of in ("raw", "selected"))
    hatched = {"color": _ACCENT, "hatch": "//", "edgecolor": _PAPER, "label": "selected"}
    axes.barh(at + 0.2, before, 0.38, color=_LIGHT, label="raw")
    axes.barh(at - 0.2, after, 0.38, **hatched)
    axes.set_yticks(at, [visible(r["value"])[:28] for r in shown], parse_math=False)
    axes.set_xlabel("share of documents (%)")
    axes.set_ylabel(visible(column)[:28], parse_math=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    said = [f"{r['value']} {r['raw_share']:.1%} and {r['selected_share']:.1%}"
            for r in rows[: len(shown)]]  # fmt: skip
    return f"Shares of documents by {column}, of raw and of the selected: {'; '.join(said)}"
