"""The facts of a run, as plain values: what all reports are templates over; no Spark, no NumPy.

`Facts` has three parts, in the order in which they are known: of the fit, of the weights, and of
the selection. `to_dict` is what `report.json`, the table `report` and the page are made of.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

LABELS = {
    "read": "read",
    "filtered": "left out by where",
    "null_id": "without id",
    "null_text": "without text",
    "blank": "blank",
    "too_short": "too short",
    "quality_length": "quality: length",
    "quality_repeating": "quality: repetition",
    "quality_informative": "quality: information",
    "quality_numeric": "quality: digits",
    "without_score": "without a score",
    "without_size": "without a size",
    "duplicate_text": "further copies of a text",
    "over_max_per_group": "over max_per_group",
    "candidates": "candidates",
    "selected": "selected",
}


def visible(text: Any) -> str:
    """Text on one line, with U+FFFD for what is no character to show: control, format, private,
    unassigned and invalid ones, which could act on a page or a terminal.
    """
    flat = " ".join(str(text).split())
    return "".join("\ufffd" if unicodedata.category(c).startswith("C") else c for c in flat)


@dataclass(frozen=True)
class Check:
    """What a check found: the number and its threshold, a sentence, and what to do.

    about : the target or the column that it is about
    """

    name: str
    found: float
    threshold: float
    sentence: str
    remedy: str
    about: str | None = None

    def __str__(self) -> str:
        return f"{self.sentence} {self.remedy}"


@dataclass(frozen=True)
class FitTarget:
    """One target beside raw.

    called : as sentences name it
    missed : share of raw's n-grams in buckets that the target has nothing in
    kl : KL(target || raw), nats
    cjk_share : share of Chinese, Japanese, Korean and Thai among the letters of a sample of its
        texts; None where it was not looked at
    """

    name: str
    called: str
    missed: float
    kl: float
    cjk_share: float | None = None


@dataclass(frozen=True)
class FitFacts:
    """What is known before raw is weighed.

    smoothed : do buckets that a target has nothing in count for less than their absence?
    wanted, there_is, unit : the budget, what raw holds of the same, and in what (documents, tokens)
    texts : a sample of each target's texts
    """

    targets: tuple[FitTarget, ...]
    smoothed: bool
    tokenizer: str
    wanted: float
    there_is: float
    unit: str
    texts: Mapping[str, list[bytes]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Value:
    """Documents of one value of a column; candidates: None where nobody counted."""

    value: str
    raw: int
    raw_share: float
    candidates: int | None
    selected: int
    selected_share: float


@dataclass(frozen=True)
class Composition:
    """The values of a column before and after, those with most selected documents first."""

    column: str
    rows: tuple[Value, ...]

    @property
    def name(self) -> str:
        """The column."""
        return self.column


@dataclass(frozen=True)
class WeightTarget:
    """How what documents are ranked by is spread.

    spread : standard deviation, nats
    correlation : Spearman's, of the rank with the tokens of a document
    in_raw, in_raw_selected : documents of raw that are texts of the target but for case and
        blanks, and those of them that are selected
    """

    name: str
    called: str
    spread: float
    correlation: float
    in_raw: int = 0
    in_raw_selected: int = 0


@dataclass(frozen=True)
class WeightFacts:
    """What is known before the selected documents are written.

    sample : candidates drawn at random, from which spread and correlation are; see `pool.Sample`
    """

    method: str
    candidates: int
    copies: int
    targets: tuple[WeightTarget, ...]
    composition: tuple[Composition, ...]
    sample: Any = field(repr=False, compare=False)


@dataclass(frozen=True)
class Histogram:
    """Documents in equal bins of what they are ranked by.

    edges : bins + 1
    cut : the key at which the selection ends; None where one key does not tell
    """

    edges: tuple[float, ...]
    candidates: tuple[int, ...]
    selected: tuple[int, ...]
    total: int
    label: str
    cut: float | None


@dataclass(frozen=True)
class Driver:
    """A bucket that moves weights: its log ratio, its shares, the n-grams found in it."""

    bucket: int
    log_ratio: float
    p_target: float
    p_raw: float
    ngrams: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Example:
    """A document shown.

    pieces : of the beginning of its text, and what each adds to the log weight, nats
    more : does the text go on?
    """

    place: str
    id: str
    key: float | None
    log_weight: float
    num_tokens: int
    pieces: tuple[tuple[str, float], ...]
    largest: float
    more: bool

    @property
    def text(self) -> str:
        """The beginning of the text."""
        return "".join(piece for piece, _ in self.pieces)


@dataclass(frozen=True)
class Detail:
    """What the page shows of one target beside its numbers.

    points : tokens, rank, and whether selected, of some documents of the sample
    curve : documents and KL reduction of the best so many by key
    sampled : texts in which the n-grams of `up` and `down` were looked for
    """

    weights: Histogram
    points: tuple[tuple[int, float, bool], ...]
    curve: tuple[tuple[int, float], ...]
    sampled: int
    up: tuple[Driver, ...]
    down: tuple[Driver, ...]
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class TargetFacts:
    """What was selected for one target.

    kl_reduction, kl_reduction_random, bound : nats an n-gram; None where nothing was selected
    random_documents : of a random selection that its figure comes from; None: all of them
    bound_documents : candidates that the bound comes from; None: all of them
    effective_sample_size, median_length : documents; tokens
    """

    name: str
    called: str
    documents: int
    tokens: int
    kl_reduction: float | None
    kl_reduction_random: float | None
    random_documents: int | None
    bound: float | None
    bound_documents: int | None
    effective_sample_size: float
    median_length: float
    detail: Detail | None = None

    @property
    def share_of_bound(self) -> float | None:
        """Of what any selection of its size could reach."""
        if self.kl_reduction is None or self.bound is None or self.bound <= 0:
            return None
        return self.kl_reduction / self.bound

    @property
    def sentence(self) -> str:
        """The verdict."""
        who = "The selection" if self.name == "target" else f"The selection for {self.name}"
        kl, random, share = self.kl_reduction, self.kl_reduction_random, self.share_of_bound
        if kl is None:
            return f"{who} is empty."
        if random is not None and kl <= random:
            return f"{who} is further from the target than a random one of equal size."
        if kl <= 0:
            return f"{who} is further from the target than raw is."
        if share is None:
            return f"{who} is nearer to the target than a random one of equal size."
        how = "at least" if self.bound_documents is None else "about"
        return f"{who} reaches {how} {min(1.0, share):.0%} of what any selection could."

    def verdict(self) -> dict[str, Any]:
        """As JSON has it."""
        own = asdict(self)
        del own["detail"], own["name"], own["called"]
        return {
            **own, "target": self.name, "sentence": self.sentence,
            "share_of_bound": self.share_of_bound,
        }  # fmt: skip


@dataclass(frozen=True)
class SelectionFacts:
    """What is known when the documents are written.

    shortfall, unit : what is missing to the budget, and what it counts
    median_length : of the candidates, tokens
    """

    method: str
    shortfall: int
    unit: str
    candidates: int
    selected: int
    median_length: float
    targets: tuple[TargetFacts, ...]

    @property
    def missing(self) -> str:
        """A sentence where the budget is not filled, else nothing."""
        if self.shortfall <= 0:
            return ""
        if self.selected == self.candidates:
            return (
                f"Fewer candidates than asked for: all {self.selected:,} were selected, "
                f"{self.shortfall:,} {self.unit} short."
            )
        return (
            f"{self.shortfall:,} {self.unit} short of the budget: the next document would cross "
            "it, or quotas leave it open."
        )


@dataclass(frozen=True)
class Run:
    """Which run it is; `match`: the steps of a matched selection by target, as `runs` has them."""

    id: str
    command: str
    started_at: str
    method: str
    seed: int
    model: str
    version: str
    min_example_length: int
    match: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """All that a report tells."""

    run: Run
    funnel: Mapping[str, int]
    fit: FitFacts
    weights: WeightFacts
    selection: SelectionFacts
    warnings: tuple[Check, ...]

    def row(self) -> dict[str, Any]:
        """The columns of the table `runs` that are known here: numbers by target."""
        targets = self.selection.targets
        matched = self.run.method == "match"
        return {
            "selected_by_target": {t.name: t.documents for t in targets},
            "kl_reduction": {t.name: t.kl_reduction for t in targets},
            "kl_reduction_random": {t.name: t.kl_reduction_random for t in targets},
            "effective_sample_size": {t.name: t.effective_sample_size for t in targets},
            # Of matched selections only: those of others are estimates, made for the page.
            "kl_bound": {t.name: t.bound for t in targets} if matched else None,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON knows it: lists, dicts, numbers, strings."""
        shown = (s for s in LABELS if s in self.funnel)
        found = {
            "run": asdict(self.run),
            "verdict": [t.verdict() for t in self.selection.targets],
            "warnings": [asdict(w) for w in self.warnings],
            "funnel": [
                {"stage": stage, "label": LABELS[stage], "count": self.funnel[stage]}
                for stage in shown
                if self.funnel[stage] or stage in ("read", "candidates", "selected")
            ],
            "composition": [asdict(c) for c in self.weights.composition],
            "targets": [
                self._target(t.detail, self.weights.targets[i])
                for i, t in enumerate(self.selection.targets)
                if t.detail is not None
            ],
        }
        return dict(json.loads(json.dumps(found)))

    def _target(self, detail: Detail, weighed: WeightTarget) -> dict[str, Any]:
        own = asdict(detail)
        return {
            **own,
            "name": weighed.name,
            "lengths": {"label": detail.weights.label, "points": own.pop("points")},
            "curve": [{"documents": k, "kl_reduction": kl} for k, kl in detail.curve],
            "correlation": weighed.correlation,
            "spread": weighed.spread,
            "sample": len(self.weights.sample.num_tokens),
        }

    def to_json(self) -> str:
        """`to_dict` as text that any encoding to UTF-8 takes."""
        text = json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()
