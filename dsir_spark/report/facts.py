"""The facts of a run, as plain values: what all reports are templates over; no Spark, no NumPy.

`Facts` has three parts, in the order in which they are known: of the fit, of the weights, and of
the selection. `to_dict` is what `report.json`, the table `report` and the page are made of.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

LABELS = {
    "read": "read", "unparsed": "did not parse", "filtered": "left out by where",
    "null_id": "without id",
    "null_text": "without text", "blank": "blank", "contaminated": "contaminated",
    "too_short": "too short",
    "quality_length": "quality: length", "quality_repeating": "quality: repetition",
    "quality_informative": "quality: information", "quality_numeric": "quality: digits",
    "not_in_raw": "not in raw", "beyond_threshold": "beyond the threshold",
    "not_drawn": "not drawn", "without_score": "without a score", "without_size": "without a size",
    "duplicate_text": "further copies of a text", "over_max_per_group": "over max_per_group",
    "candidates": "candidates", "selected": "selected",
}  # fmt: skip
REASONS = LABELS | {"below_cut": "below the cut, or above a quota"}  # of rows rejected
ENDS = ("read", "candidates", "selected")  # of the funnel; all else is loss


def visible(text: Any) -> str:
    """Text on one line, with U+FFFD for what is no character to show: control, format, private,
    unassigned and invalid ones, which could act on a page or a terminal."""
    flat = " ".join(str(text).split())
    return "".join("\ufffd" if unicodedata.category(c).startswith("C") else c for c in flat)


@dataclass(frozen=True)
class Check:
    """What a check found, about a target, a column or (None) the run as a whole."""

    name: str
    found: float
    threshold: float
    sentence: str
    remedy: str
    about: str | None = None


@dataclass(frozen=True)
class OfTarget:
    """What is known of one target."""

    name: str

    @property
    def called(self) -> str:
        """As sentences name it."""
        return "the target" if self.name == "target" else f"target {self.name}"


@dataclass(frozen=True)
class FitTarget(OfTarget):
    """A target beside raw."""

    missed: float  # share of raw's n-grams in buckets that the target has nothing in
    kl: float  # KL(target || raw), nats
    cjk_share: float | None = None  # of Chinese, Japanese, Korean, Thai among letters of a sample
    auc: float | None = None  # of its classifier, on documents held out


@dataclass(frozen=True)
class FitFacts:
    """What is known before raw is weighed, and a sample of each target's texts."""

    targets: tuple[FitTarget, ...]
    smoothed: bool  # do buckets that a target has nothing in count for less than their absence?
    tokenizer: str
    wanted: float  # the budget
    there_is: float  # what raw holds of the same
    unit: str  # of both: documents, tokens
    texts: Mapping[str, list[bytes]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Composition:
    """The values of a column before and after, those with most selected documents first."""

    column: str
    # value, raw, raw_share, candidates (None where nobody counted), selected, selected_share
    rows: tuple[Mapping[str, Any], ...]
    values: int  # that the column has, of which the rows are the first

    @property
    def first(self) -> str:
        """The value most selected, as sentences name it."""
        return visible(self.rows[0]["value"])[:60]


@dataclass(frozen=True)
class WeightTarget(OfTarget):
    """How what documents are ranked by is spread."""

    spread: float  # standard deviation, nats
    correlation: float  # Spearman's, of the rank with the tokens of a document
    in_raw: int = 0  # documents that are texts of the target but for case and blanks
    in_raw_selected: int = 0


@dataclass(frozen=True)
class WeightFacts:
    """What the weights tell."""

    method: str
    candidates: int
    copies: int
    over: int  # rows above `max_per_group`
    read: int
    unparsed: int
    targets: tuple[WeightTarget, ...]
    composition: tuple[Composition, ...]
    sample: Any = field(repr=False, compare=False)  # a `candidates.Sample`
    # Documents of raw by the text that they share an n-gram with, the most first.
    contaminated: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOut:
    """What a compressor needs for text of a target that was not fitted on, in bits a byte."""

    bytes: int  # of the held-out text
    read: int  # bytes that it read before, of the selection and of a random one
    read_known: int  # of the target's other texts, as far as they go
    selected: float
    random: float
    known: float


@dataclass(frozen=True)
class TargetFacts(OfTarget):
    """What was selected for one target; KL reductions in nats an n-gram, None of nothing."""

    documents: int
    tokens: int
    kl_reduction: float | None
    kl_reduction_random: float | None
    random_documents: int | None  # of a random selection that its figure comes from; None: all
    bound: float | None
    bound_documents: int | None  # candidates that the bound comes from; None: all
    effective_sample_size: float  # documents
    median_length: float  # tokens
    target_length: float  # tokens of a document of the target itself, mean
    held_out: HeldOut | None = None
    detail: Mapping[str, Any] | None = None  # what the page shows, as JSON has it: `detail`

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
        if random is not None and kl == random:  # the same documents, where all were selected
            return f"{who} is no nearer to the target than a random one of equal size."
        if random is not None and kl < random:
            return f"{who} is further from the target than a random one of equal size."
        if kl <= 0:
            return f"{who} is further from the target than raw is."
        if share is None:
            return f"{who} is nearer to the target than a random one of equal size."
        how = "at least" if self.bound_documents is None else "about"
        return f"{who} reaches {how} {min(1.0, share):.0%} of what any selection could."

    def verdict(self) -> dict[str, Any]:
        """As JSON has it."""
        own = asdict(replace(self, detail=None)) | {"target": self.name}
        own |= {"sentence": self.sentence, "share_of_bound": self.share_of_bound}
        return {fact: own[fact] for fact in own if fact not in ("name", "detail")}


@dataclass(frozen=True)
class Shortfall:
    """What is missing to the budget."""

    number: int
    unit: str  # what the budget counts
    wanted: int  # the budget; 0: not known

    @property
    def share(self) -> float:
        """Of the budget."""
        return max(0, self.number) / max(1, self.wanted)

    def sentence(self, selected: int, candidates: int) -> str:
        """What is said of it where so many of the candidates were selected; nothing of none."""
        if self.number <= 0:
            return ""
        short = f"{self.number:,} {self.unit} short"
        if selected >= candidates:
            return f"Fewer candidates than asked for: all {selected:,} were selected, {short}."
        return (f"{short} of the budget: the next document would cross it, or quotas, groups or "
                "copies leave it open.")  # fmt: skip

    def to_dict(self, selected: int, candidates: int) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "sentence": self.sentence(selected, candidates)}


def shortfall_of(row: Mapping[str, Any]) -> Shortfall:
    """Of a row of `runs`, as far as it is known."""
    config, sized = json.loads(row["config"]), row.get("num_tokens_to_sample")
    unit = "documents" if sized is None else config.get("size_column") or "tokens"
    return Shortfall(row["shortfall"], unit, sized or row.get("num_to_sample") or 0)


@dataclass(frozen=True)
class SelectionFacts:
    """What is known when the documents are written."""

    method: str
    shortfall: Shortfall
    candidates: int
    selected: int
    median_length: float  # of the candidates, tokens
    targets: tuple[TargetFacts, ...]
    unread: float = 0.0  # share of the candidates looked at that have U+FFFD

    @property
    def missing(self) -> str:
        """A sentence where the budget is not filled, else nothing."""
        return self.shortfall.sentence(self.selected, self.candidates)


@dataclass(frozen=True)
class Run:
    """Which run it is."""

    id: str
    command: str
    started_at: str
    method: str
    seed: int
    model: str
    version: str
    min_example_length: int
    match: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # steps, as in `runs`
    classifier: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # as in `runs`
    unit: str = "documents"  # what is weighed and selected: these, or chunks of them


def run_of(row: Mapping[str, Any]) -> Run:
    """Of a row of `runs`, as far as it is known."""
    config, started = json.loads(row["config"]), row["started_at"]
    return Run(
        row["run_id"], row["command"], f"{started:%Y-%m-%d %H:%M}", config["method"], row["seed"],
        row["model_fingerprint"], row["dsir_spark_version"], config["min_example_length"],
        json.loads(row.get("match") or "{}"), json.loads(row.get("classifier") or "{}"),
        "chunks" if config.get("chunk_words") else "documents",
    )  # fmt: skip


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
        targets, matched = self.selection.targets, self.run.method == "match"
        return {
            "selected_by_target": {t.name: t.documents for t in targets},
            "kl_reduction": {t.name: t.kl_reduction for t in targets},
            "kl_reduction_random": {t.name: t.kl_reduction_random for t in targets},
            "effective_sample_size": {t.name: t.effective_sample_size for t in targets},
            # Of matched selections only: those of others are estimates, made for the page.
            "contaminated": dict(self.weights.contaminated) or None,
            "kl_bound": {t.name: t.bound for t in targets} if matched else None,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON knows it: lists, dicts, numbers, strings."""
        sample = len(self.weights.sample.ids)
        found = {
            "run": asdict(self.run),
            "verdict": [t.verdict() for t in self.selection.targets],
            "warnings": [asdict(w) for w in self.warnings],
            "funnel": [
                {"stage": stage, "label": label, "count": self.funnel[stage]}
                for stage, label in LABELS.items()
                if stage in self.funnel and (self.funnel[stage] or stage in ENDS)
            ],
            "shortfall": self.selection.shortfall.to_dict(
                self.selection.selected, self.selection.candidates
            ),
            "contaminated": [
                {"text": text, "documents": number}
                for text, number in self.weights.contaminated.items()
            ],
            "composition": [asdict(c) for c in self.weights.composition],
            "targets": [
                {**t.detail, "name": t.name, "spread": w.spread, "correlation": w.correlation,
                 "sample": sample}
                for w, t in zip(self.weights.targets, self.selection.targets, strict=True)
                if t.detail is not None
            ],
        }  # fmt: skip
        return dict(json.loads(json.dumps(found)))

    def to_json(self) -> str:
        """`to_dict` as text that any encoding to UTF-8 takes."""
        text = json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()
