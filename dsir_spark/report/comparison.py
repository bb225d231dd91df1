"""The picture that a page opens with: a random selection, this one and the bound, on one scale.

Places are per cent of its width, so that a narrow page squeezes bars and not letters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

SHOWN = 60  # targets; the table has all
_LEFT, _WIDTH = 36.0, 44.0  # where bars begin and how far they go; names before, numbers behind
_LETTERS = 15  # of a name before its bar, which a narrow page has room for
_ROW = 22  # px


class Compared(NamedTuple):
    """What one target or score compares; None where there is no such number."""

    name: str  # empty: alone
    random: float | None
    own: float | None
    bound: float | None = None
    estimated: bool = False  # the bound
    worse: bool = False  # than random

    def known(self) -> Iterable[tuple[str, str, float]]:
        """Kind, label and number of each that there is."""
        bound = "bound, about" if self.estimated else "bound"
        labels = {"random": "random", "own": "this selection", "bound": bound}
        for kind, label in labels.items():
            if (value := getattr(self, kind)) is not None:
                yield kind, label, value


def of_verdicts(verdicts: Sequence[Mapping[str, Any]]) -> list[Compared]:
    """KL reductions of the targets."""
    return [
        Compared("" if len(verdicts) == 1 and v["target"] == "target" else v["target"],
                 v["kl_reduction_random"], v["kl_reduction"], v["bound"],
                 v["bound_documents"] is not None, not nearer(v))
        for v in verdicts
    ]  # fmt: skip


def of_scores(scores: Sequence[Mapping[str, Any]]) -> list[Compared]:
    """Mean scores. A random selection has on average that of the candidates."""
    return [
        Compared("" if s["name"] == "score" else s["name"], s["mean"], s["selected_mean"])
        for s in scores
        if s["mean"] is not None
    ]


def nearer(verdict: Mapping[str, Any]) -> bool:
    """Is the selection nearer to its target than a random one of equal size?"""
    return bool((verdict["kl_reduction"] or 0) > (verdict["kl_reduction_random"] or 0))


def picture(
    found: Sequence[Compared], form: Callable[[float | None], str], many: bool
) -> dict[str, Any]:  # fmt: skip
    """What the page draws: rows of bars from zero, and what they say in words; of `many` a row each
    with the bound behind the bar and random as a line, of few a row for each number."""
    found = found[:SHOWN]
    numbers = [0.0, *[value for one in found for _, _, value in one.known()]]
    low, length = min(numbers), (max(numbers) - min(numbers)) or 1.0

    def x(value: float) -> float:
        return _LEFT + _WIDTH * (value - low) / length

    def bar(one: Compared, kind: str, value: float) -> dict[str, Any]:
        kind = "worse" if kind == "own" and one.worse else kind
        return {"kind": kind, "x": x(min(0.0, value)), "width": _WIDTH * abs(value) / length}

    rows: list[dict[str, Any]] = []
    for one in found:
        own = [(text, bar(one, kind, value), form(value)) for kind, text, value in one.known()]
        if many:
            label = one.name if len(one.name) <= _LETTERS else f"{one.name[:7]}…{one.name[-7:]}"
            # The bound first, so behind.
            bars = [drawn for text, drawn, _ in reversed(own) if text != "random"]
            tick = None if one.random is None else x(one.random)
            rows.append({"label": label, "value": form(one.own), "bars": bars, "tick": tick})
            continue
        if one.name:
            rows.append({"label": one.name, "value": "", "bars": [], "tick": None})
        rows += [{"label": t, "value": v, "bars": [b], "tick": None} for t, b, v in own]
    said = [
        (f"{one.name}: " if one.name else "")
        + ", ".join(f"{label} {form(value)}" for _, label, value in one.known())
        for one in found
    ]
    rows = [{**row, "y": _ROW * i} for i, row in enumerate(rows)]
    return {"rows": rows, "zero": x(0.0), "height": _ROW * len(rows),
            "said": "; ".join(said), "shown": len(found)}  # fmt: skip
