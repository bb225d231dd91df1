"""The plots of docs/evidence.md, in the style of the report's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dsir_spark.report.pictures import _STYLE

DPI = 130
BLUE, GREY, RED = "#1f5fa8", "#9aa1a9", "#b8432f"
SHOWN = {"DSIR": RED, "match 10^5, unigrams": BLUE}


def _drawn(place: Path, size: tuple[float, float], draw: Any) -> None:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained", dpi=DPI)
        draw(figure.subplots())
        figure.savefig(place)


def methods(bits: dict[str, dict[str, float]], targets: Sequence[str], place: Path) -> None:
    """Bits saved against random: a dot a target, a bar their mean."""
    rest = [m for m in bits if m != "random" and all(t in bits[m] for t in targets)]
    saved = {m: np.array([bits["random"][t] - bits[m][t] for t in targets]) for m in rest}
    order = sorted(saved, key=lambda m: saved[m].mean())

    def draw(axes: Any) -> None:
        for y, method in enumerate(order):
            axes.plot(saved[method], np.full(len(targets), y), "o", color=GREY, ms=3, alpha=0.7)
            color = SHOWN.get(method, "#22262b")
            axes.plot([saved[method].mean()] * 2, [y - 0.35, y + 0.35], color=color, lw=3)
        axes.axvline(0, color=GREY, lw=0.8)
        axes.set_yticks(range(len(order)), order)
        axes.set_xlabel("bits per byte of held-out text saved against random")

    _drawn(place, (7.5, 4.6), draw)


def correlation(pairs: Sequence[tuple[str, str, float, float]], place: Path) -> None:
    """Bits saved by KL reduction, a dot a method and target."""

    def draw(axes: Any) -> None:
        for method, _, x, y in pairs:
            axes.plot(x, y, "o", color=SHOWN.get(method, GREY), ms=4, alpha=0.8)
        for method, color in SHOWN.items():
            axes.plot([], [], "o", color=color, label=method)
        axes.plot([], [], "o", color=GREY, label="other methods")
        axes.set_xlabel("KL reduction beyond random's, nats (known half, 10,000 buckets)")
        axes.set_ylabel("bits per byte saved")
        axes.legend()

    _drawn(place, (6.4, 3.8), draw)


def shares(by: dict[str, dict[Any, dict[str, float]]], place: Path) -> None:
    """Bits per byte by share of raw, means over targets."""

    def draw(axes: Any) -> None:
        for method, own in by.items():
            x = sorted(own)
            y = [np.mean(list(own[v].values())) for v in x]
            axes.plot(x, y, "o-", color=SHOWN.get(method, GREY), ms=4, label=method)
        axes.set_xscale("log")
        axes.set_xticks(sorted(next(iter(by.values()))), minor=False)
        axes.xaxis.set_major_formatter("{x:g} %")
        axes.minorticks_off()
        axes.set_xlabel("of raw's bytes selected")
        axes.set_ylabel("bits per byte, held out")
        axes.legend()

    _drawn(place, (6.4, 3.4), draw)
