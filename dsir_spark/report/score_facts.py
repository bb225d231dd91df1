"""The facts of a selection by a score, as plain values; no Spark, no NumPy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dsir_spark.report.facts import ENDS, LABELS, Check, Composition, Shortfall


@dataclass(frozen=True)
class OfScore:
    """What was selected by one score, all numbers as it was given."""

    name: str
    expression: str
    documents: int
    size: int | None  # sum of what the budget counts, where it counts sizes
    candidates: int
    low: float | None  # of the candidates, infinite ones included; None: there are none
    high: float | None
    selected_low: float | None
    selected_high: float | None
    mean: float | None  # of the candidates; None: there are none, or it is infinite
    selected_mean: float | None  # each document as often as it was selected
    amount: int | None  # of the budget, where documents may be selected more than once
    tied: int  # candidates with the score of the worst that was selected
    tied_selected: int
    spread: float  # standard deviation of what is sampled by, in a random sample; nats
    histogram: Mapping[str, Any] = field(repr=False)  # edges, candidates, selected, cut, label
    examples: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    @property
    def called(self) -> str:
        """As sentences name it."""
        return "the score" if self.name == "score" else f"score {self.name}"

    def repeated(self, unit: str) -> str:
        """What is selected with each document as often as it was, as sentences go on."""
        return "" if self.amount is None else f"; {self.amount:,} {unit}, repetitions among them"


@dataclass(frozen=True)
class ScoreRun:
    """Which run it is, and how rows competed."""

    id: str
    command: str
    started_at: str
    version: str
    method: str
    seed: int
    lower_is_better: bool
    normalize_score: str
    normalize_within: str | None

    @property
    def how(self) -> str:
        """How rows competed, in a sentence."""
        parts = [f"Method {self.method}"]
        parts += ["lower is better"] if self.lower_is_better else []
        if self.normalize_score != "none":
            within = f" within {self.normalize_within}" if self.normalize_within else ""
            parts.append(f"scores normalised by {self.normalize_score}{within}")
        return ", ".join(parts) + "."


def score_run_of(row: Mapping[str, Any]) -> ScoreRun:
    """Of a row of `runs`, as far as it is known."""
    own, started = json.loads(row["config"]), row["started_at"]
    return ScoreRun(
        row["run_id"], row["command"], f"{started:%Y-%m-%d %H:%M}", row["dsir_spark_version"],
        own["method"], own["seed"], own["lower_is_better"], own["normalize_score"],
        own["normalize_within"],
    )  # fmt: skip


@dataclass(frozen=True)
class ScoreFacts:
    """All that a report of `select` tells."""

    run: ScoreRun
    funnel: Mapping[str, int]
    scores: tuple[OfScore, ...]
    composition: tuple[Composition, ...]
    shortfall: Shortfall
    warnings: tuple[Check, ...] = ()

    @property
    def missing(self) -> str:
        """A sentence where the budget is not filled, else nothing."""
        return self.shortfall.sentence(self.selected, self.candidates)

    @property
    def candidates(self) -> int:
        """Rows that could be selected."""
        return self.funnel["candidates"]

    @property
    def selected(self) -> int:
        """Rows that were."""
        return self.funnel["selected"]

    def sentence(self, one: OfScore) -> str:
        """The verdict."""
        who = "" if one.name == "score" else f" for {one.name}"
        if not one.documents:
            return f"Nothing was selected{who}."
        share = one.documents / max(1, self.candidates)
        said = f"{one.documents:,} documents were selected{who}, {share:.1%} of the candidates"
        return f"{said}{one.repeated(self.shortfall.unit)}."

    def stages(self) -> list[dict[str, Any]]:
        """The funnel, without stages where nothing was lost."""
        return [
            {"stage": stage, "label": label, "count": self.funnel[stage]}
            for stage, label in LABELS.items()
            if stage in self.funnel and (self.funnel[stage] or stage in ENDS)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON knows it: lists, dicts, numbers, strings."""
        found = {
            "run": {**asdict(self.run), "model": ""},
            "verdict": [],
            "targets": [],
            "warnings": [asdict(w) for w in self.warnings],
            "funnel": self.stages(),
            "shortfall": self.shortfall.to_dict(self.selected, self.candidates),
            "composition": [asdict(c) for c in self.composition],
            "scores": [self._of(one) for one in self.scores],
        }
        return dict(json.loads(json.dumps(found)))

    def _of(self, one: OfScore) -> dict[str, Any]:
        ends = {"from": one.low, "to": one.high, "selected_from": one.selected_low,
                "selected_to": one.selected_high}  # fmt: skip
        # As texts: JSON has no infinity.
        own = asdict(one) | {name: shown(number) for name, number in ends.items()}
        own |= {"sentence": self.sentence(one), "how": self.run.how, "unit": self.shortfall.unit}
        return {n: v for n, v in own.items() if n not in (
            "low", "high", "selected_low", "selected_high")}  # fmt: skip

    def to_json(self) -> str:
        """`to_dict` as text that any encoding to UTF-8 takes."""
        text = json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()


def shown(number: float | None) -> str:
    """A score as a page shows it."""
    return "–" if number is None else f"{number:,.6g}"
