"""What to warn of: a table of rules over the facts, and the loop that applies them.

A rule looks at the facts of the fit, of the weights or of the selection, whichever are known first,
so that a warning comes before what it is about costs anything.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dsir_spark.features import unicode_tables
from dsir_spark.report.facts import Check as Check
from dsir_spark.report.facts import FitFacts, SelectionFacts, WeightFacts, visible

GUMBEL_SPREAD = math.pi / math.sqrt(6.0)  # standard deviation of Gumbel noise, nats
_CJK = re.compile("[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in unicode_tables.CJK_RANGES) + "]")


class CheckWarning(UserWarning):
    """A check that a run found, before what it is about costs anything."""


@dataclass(frozen=True)
class Rule:
    """One check.

    of : what it is about: "targets" or "composition", one by one, or "" for the facts as a whole
    number : of the facts and one of these; None: the rule has nothing to say
    beyond : is the number of a warning above (">", in size) or below ("<") the threshold?
    sentence : of the facts, one of these and the number
    remedy : what to do; `{about}` is the name of the target or column
    """

    name: str
    of: str
    number: Callable[[Any, Any], float | None]
    beyond: str
    threshold: float
    sentence: Callable[[Any, Any, float], str]
    remedy: str

    def passed(self, number: float) -> bool:
        """Is the number beyond the threshold?"""
        if self.beyond == "<":
            return number < self.threshold
        return abs(number) > self.threshold


def found(facts: FitFacts | WeightFacts | SelectionFacts) -> tuple[Check, ...]:
    """What all rules over facts of this kind warn of."""
    checks = []
    for rule in RULES[type(facts)]:
        for one in getattr(facts, rule.of) if rule.of else (facts,):
            number = rule.number(facts, one)
            if number is None or not rule.passed(number):
                continue
            about = getattr(one, "name", None)
            checks.append(
                Check(
                    rule.name, float(number), rule.threshold,
                    rule.sentence(facts, one, number), rule.remedy.format(about=about), about,
                )
            )  # fmt: skip
    return tuple(checks)


@dataclass(frozen=True)
class Group:
    """Warnings of one kind, worst first."""

    warnings: tuple[Check, ...]

    @property
    def worst(self) -> Check:
        """The first of them."""
        return self.warnings[0]

    @property
    def likewise(self) -> str:
        """What the others are about, with their numbers."""
        rest = [f"{w.about} ({w.found:.3g})" for w in self.warnings[1:]]
        return f"Likewise: {', '.join(rest)}. " if rest else ""

    def __str__(self) -> str:
        return f"{self.worst.sentence} {self.likewise}{self.worst.remedy}"


def grouped(checks: Iterable[Check]) -> list[Group]:
    """Warnings by kind, in the order of the kinds; within a kind the one most beyond first."""
    kinds: dict[str, list[Check]] = {}
    for check in checks:
        kinds.setdefault(check.name, []).append(check)
    return [
        Group(tuple(sorted(own, key=lambda c: -abs(abs(c.found) - c.threshold))))
        for own in kinds.values()
    ]


def tell(checks: Iterable[Check]) -> None:
    """A `CheckWarning` for each kind."""
    for group in grouped(checks):
        warnings.warn(visible(group), CheckWarning, stacklevel=2)


def cjk_share(texts: Sequence[str]) -> float:
    """Share of Chinese, Japanese, Korean and Thai among the letters of some texts; 0 of none."""
    letters = "".join(c for text in texts for c in text if c.isalpha())
    return len(_CJK.findall(letters)) / len(letters) if letters else 0.0


def _dominated(_: WeightFacts, column: Any) -> float | None:
    """Share of the first value, where raw is not so."""
    if not column.rows or column.rows[0].raw_share > 0.45:
        return None
    return float(column.rows[0].selected_share)


def _gain(_: SelectionFacts, target: Any) -> float | None:
    if target.kl_reduction is None or target.kl_reduction_random is None:
        return None
    return float(target.kl_reduction - target.kl_reduction_random)


def _first_upper(name: str) -> str:
    return name[:1].upper() + name[1:]


RULES: dict[type, tuple[Rule, ...]] = {
    FitFacts: (
        Rule(
            "small_target", "targets", lambda f, t: None if f.smoothed else t.missed, ">", 0.05,
            lambda f, t, n: f"{_first_upper(t.called)} is small for its buckets: {n:.0%} of raw's "
            "n-grams fall where it has none, and each costs a document up to "
            f"{math.log(1e8):.0f} nats.",
            "Give target_dirichlet_smoothing auto, method match, fewer num_buckets or more target "
            "documents.",
        ),
        Rule(
            "nearly_the_same", "targets", lambda f, t: t.kl, "<", 0.01,
            lambda f, t, n: f"{_first_upper(t.called)} and raw are nearly the same: KL(target || "
            f"raw) is {n:.4f} nats.",
            "There is little to select for; check that the right target is given.",
        ),
        Rule(
            "one_token_of_a_sentence", "targets",
            lambda f, t: t.cjk_share if f.tokenizer == "wordpunct" else None, ">", 0.2,
            lambda f, t, n: f"{n:.0%} of the letters of {t.called} are Chinese, Japanese, Korean "
            "or Thai, where tokenizer wordpunct makes one token of all that stands between two "
            "blanks.",
            "Give tokenizer wordpunct_cjk.",
        ),
        Rule(
            "close_to_all", "", lambda f, _: f.wanted / f.there_is if f.there_is else None,
            ">", 0.5,
            lambda f, _, n: f"{f.wanted:,.0f} of {f.there_is:,.0f} {f.unit} are asked for: most "
            "of raw is selected, whatever its weight.",
            "Ask for less, or give more raw text.",
        ),
    ),
    WeightFacts: (
        Rule(
            "copies", "", lambda f, _: f.copies / max(1, f.copies + f.candidates), ">", 0.05,
            lambda f, _, n: f"{n:.0%} of the documents are copies of others and were left out.",
            "Texts that differ in a few words pass: cluster near-duplicates and give "
            "max_per_group.",
        ),
        Rule(
            "top_k_in_disguise", "targets",
            lambda f, t: t.spread if f.method == "sample" else None, ">", 5.0 * GUMBEL_SPREAD,
            lambda f, t, n: f"The log weights for {t.called} spread over {n:.0f} nats, the noise "
            f"over {GUMBEL_SPREAD:.1f}: this is top-k in disguise, drawn to extreme documents.",
            "Give method match, chunk_words, normalize ngram or temperature auto.",
        ),
        Rule(
            "follows_length", "targets",
            lambda f, t: t.correlation if f.method != "match" else None, ">", 0.5,
            lambda f, t, n: f"The ranking for {t.called} follows length (rank correlation "
            f"{n:+.2f}): {'long' if n > 0 else 'short'} documents stand higher, whatever they say.",
            "Give method match, normalize ngram or chunk_words.",
        ),
        Rule(
            "contamination", "targets", lambda f, t: t.in_raw, ">", 0.0,
            lambda f, t, n: f"{n:,} documents of raw are texts of {t.called} itself; "
            f"{t.in_raw_selected:,} of them were selected.",
            "If the target is what you will evaluate on, leave them out of raw (where).",
        ),
        Rule(
            "dominates", "composition", _dominated, ">", 0.9,
            lambda f, c, n: f"{n:.0%} of the selected documents have {c.column} "
            f"{visible(c.rows[0].value)[:60]!r}, {c.rows[0].raw_share:.0%} of raw.",
            "If that is not wanted, give quotas on {about}.",
        ),
    ),
    SelectionFacts: (
        Rule(
            "worse_than_random", "targets", _gain, "<", 0.0,
            lambda f, t, n: f"The selection for {t.called} is further from it than a random one of "
            "equal size.",
            "Whole documents are drawn to extremes: give method match, or look at the examples.",
        ),
        Rule(
            "few_effective", "targets",
            lambda f, t: t.effective_sample_size / t.documents
            if f.method == "sample" and t.documents > 1 else None, "<", 0.1,
            lambda f, t, n: f"The weights for {t.called} differ so much that {t.documents:,} "
            f"documents are worth {t.effective_sample_size:,.1f}: the sample is nearly the top of "
            "the list.",
            "Give temperature auto, or method match.",
        ),
        Rule(
            "short_first", "targets",
            lambda f, t: t.median_length / f.median_length
            if t.documents >= 10 and f.median_length else None, "<", 0.5,
            lambda f, t, n: f"Short documents come first: half of those selected for {t.called} "
            f"have at most {t.median_length:,.0f} tokens, half of the candidates "
            f"{f.median_length:,.0f} or more.",
            "Give min_example_length, method match or normalize ngram.",
        ),
        Rule(
            "shortfall", "",
            lambda f, _: f.shortfall if f.selected >= f.candidates else None, ">", 0.0,
            lambda f, _, n: f"Only {f.selected:,} documents were candidates: all were selected, "
            f"{n:,} {f.unit} short of the budget.",
            "Give more raw text, or look in the funnel where documents were lost.",
        ),
    ),
}  # fmt: skip
