"""What to warn of: a table of rules over the facts, those of the fit, of the weights or of the
selection, whichever are known first, and the loop that applies them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from dsir_spark.features import unicode_tables
from dsir_spark.report.facts import (
    Check,
    Composition,
    FitFacts,
    SelectionFacts,
    WeightFacts,
    visible,
)
from dsir_spark.report.score_facts import ScoreFacts

_SHORT = 0.01  # of a budget: a last document that would cross it leaves less
_GUMBEL_SPREAD = math.pi / math.sqrt(6.0)  # standard deviation of Gumbel noise, nats
_CJK = re.compile("[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in unicode_tables.CJK_RANGES) + "]")


class CheckWarning(UserWarning):
    """A check that a run found, told as soon as it is known."""


class Rule(NamedTuple):
    """One check."""

    name: str
    of: str  # what it is about: "targets" or "composition", one by one, or "" for all facts
    number: Callable[[Any, Any], float | None]  # of the facts and one of these; None: no matter
    beyond: str  # is the number of a warning above (">", in size) or below ("<") the threshold?
    threshold: float
    sentence: str  # over the facts f, one of these t, the number n, side: "long" if it is above 0
    remedy: str  # what to do; `{about}` is the name of the target or column


def found(facts: FitFacts | WeightFacts | SelectionFacts | ScoreFacts) -> tuple[Check, ...]:
    """What all rules over facts of this kind warn of."""
    checks = []
    for rule in RULES[type(facts)]:
        for one in getattr(facts, rule.of) if rule.of else (facts,):
            n, least = rule.number(facts, one), rule.threshold
            if n is None or not (n < least if rule.beyond == "<" else abs(n) > least):
                continue
            about = getattr(one, "name", None) or getattr(one, "column", None)
            side = "long" if n > 0 else "short"
            said = rule.sentence.format(f=facts, t=one, n=n, side=side)
            said, remedy = said[:1].upper() + said[1:], rule.remedy.format(about=about)
            checks.append(Check(rule.name, float(n), least, said, remedy, about))
    return tuple(checks)


class Group(NamedTuple):
    """Warnings of one kind: the worst, and what the others are about, with their numbers."""

    worst: Check
    likewise: str

    def __str__(self) -> str:
        return f"{self.worst.sentence} {self.likewise}{self.worst.remedy}"


def grouped(checks: Iterable[Check]) -> list[Group]:
    """Warnings by kind, in the order of the kinds; within a kind the one most beyond first."""
    kinds: dict[str, list[Check]] = {}
    for check in checks:
        kinds.setdefault(check.name, []).append(check)
    groups = []
    for own in kinds.values():
        worst, *others = sorted(own, key=lambda c: -abs(abs(c.found) - c.threshold))
        rest = ", ".join(f"{c.about} ({c.found:.3g})" for c in others)
        groups.append(Group(worst, f"Likewise: {rest}. " if rest else ""))
    return groups


def untold(missing: str, told: Iterable[Check]) -> str:
    """What is said of a budget that is not filled, where no check says it."""
    return "" if any(missing in check.sentence for check in told) else missing


def tell(checks: Iterable[Check]) -> None:
    """A `CheckWarning` for each kind."""
    for group in grouped(checks):
        warnings.warn(visible(group), CheckWarning, stacklevel=2)


def cjk_share(texts: Iterable[str]) -> float:
    """Share of Chinese, Japanese, Korean and Thai among the letters of some texts; 0 of none."""
    letters = "".join(c for text in texts for c in text if c.isalpha())
    return len(_CJK.findall(letters)) / len(letters) if letters else 0.0


def _share_of_first(column: Composition) -> float | None:
    """Of the selected documents, where the value is not nearly all of raw already."""
    return (column.rows[0]["selected_share"]
            if column.rows and column.rows[0]["raw_share"] <= 0.45 else None)  # fmt: skip


# Sentences of more than one rule.
_DOMINATES = ("{n:.0%} of the selected documents have {t.column} {t.first!r}, "
              "{t.rows[0][raw_share]:.0%} of raw.")  # fmt: skip

RULES: dict[type, tuple[Rule, ...]] = {
    FitFacts: (
        Rule("small_target", "targets", lambda f, t: None if f.smoothed else t.missed, ">", 0.05,
            "{t.called} is small for its buckets: {n:.0%} of raw's n-grams fall where it has none, "
            f"and each costs a document up to {math.log(1e8):.0f} nats.",
            "Give target_dirichlet_smoothing auto, method match, fewer num_buckets or more target "
            "documents."),
        Rule("told_apart_by_chance", "targets", lambda f, t: t.auc, "<", 0.6,
            "The classifier hardly tells {t.called} from raw: its AUC is {n:.2f} on documents "
            "held out.",
            "Give more target documents, or scorer dsir."),
        Rule("nearly_the_same", "targets", lambda f, t: t.kl, "<", 0.01,
            "{t.called} and raw are nearly the same: KL(target || raw) is {n:.4f} nats.",
            "There is little to select for; check that the right target is given."),
        Rule("one_token_of_a_sentence", "targets",
            lambda f, t: t.cjk_share if f.tokenizer == "wordpunct" else None, ">", 0.2,
            "{n:.0%} of the letters of {t.called} are Chinese, Japanese, Korean or Thai, where "
            "tokenizer wordpunct makes one token of all that stands between two blanks.",
            "Give tokenizer wordpunct_cjk."),
        Rule("close_to_all", "",
            lambda f, _: f.wanted / f.there_is if f.there_is else None, ">", 0.5,
            "{f.wanted:,.0f} of {f.there_is:,.0f} {f.unit} are asked for: most of raw is "
            "selected, whatever its weight.",
            "Ask for less, or give more raw text."),
    ),
    WeightFacts: (
        Rule("unparsed", "", lambda f, _: f.unparsed / max(1, f.read), ">", 0.001,
            "{f.unparsed:,} of {f.read:,} rows of raw do not parse and were left out ({n:.1%}).",
            "Look at the files: one may be of another format, or not one JSON object a line."),
        Rule("copies", "",
            lambda f, _: f.copies / max(1, f.copies + f.over + f.candidates), ">", 0.05,
            "{n:.0%} of the documents are copies of others and were left out.",
            "Texts that differ in a few words pass: cluster near-duplicates and give "
            "max_per_group."),
        Rule("top_k_in_disguise", "targets",
            lambda f, t: t.spread if f.method == "sample" else None, ">", 5.0 * _GUMBEL_SPREAD,
            "The log weights for {t.called} spread over {n:.0f} nats, the noise over "
            f"{_GUMBEL_SPREAD:.1f}: this is top-k in disguise, drawn to extreme documents.",
            "Give method match, chunk_words, normalize ngram or temperature auto."),
        Rule("follows_length", "targets",
            lambda f, t: t.correlation if f.method != "match" else None, ">", 0.5,
            "The ranking for {t.called} follows length (rank correlation {n:+.2f}): {side} "
            "documents stand higher, whatever they say.",
            "Give method match, normalize ngram or chunk_words."),
        Rule("contamination", "targets", lambda f, t: t.in_raw, ">", 0.0,
            "{n:,} documents of raw are texts of {t.called} itself; {t.in_raw_selected:,} of them "
            "were selected.",
            "If the target is what you will evaluate on, leave them out: give decontaminate."),
        Rule("dominates", "composition",
            lambda f, c: _share_of_first(c), ">", 0.9, _DOMINATES,
            "If that is not wanted, give quotas on {about}."),
    ),
    SelectionFacts: (
        Rule("worse_than_random", "targets",
            lambda f, t: None if None in (t.kl_reduction, t.kl_reduction_random)
            else t.kl_reduction - t.kl_reduction_random, "<", 0.0,
            "The selection for {t.called} is further from it than a random one of equal size.",
            "Methods sample and top_k draw whole documents to extremes, match does not: look at "
            "the examples."),
        Rule("taught_less", "targets",
            lambda f, t: t.held_out.random - t.held_out.selected if t.held_out else None, "<", 0.0,
            "A compressor that has read the selection for {t.called} needs more bits for its "
            "held-out text ({t.held_out.selected:.3f} a byte) than after a random one "
            "({t.held_out.random:.3f}).",
            "Look at the examples: what they share with the target may be no more than its marks."),
        Rule("few_effective", "targets",
            lambda f, t: t.effective_sample_size / t.documents
            if f.method == "sample" and t.documents > 1 else None, "<", 0.1,
            "The weights for {t.called} differ so much that {t.documents:,} documents are worth "
            "{t.effective_sample_size:,.1f}: the sample is nearly the top of the list.",
            "Give temperature auto, or method match."),
        Rule("short_first", "targets",
            # A target of short documents asks for such.
            lambda f, t: t.median_length / min(f.median_length, t.target_length)
            if t.documents >= 10 and f.median_length and t.target_length else None, "<", 0.5,
            "Short documents come first: half of those selected for {t.called} have at most "
            "{t.median_length:,.0f} tokens, half of the candidates {f.median_length:,.0f} or more, "
            "the target's own {t.target_length:,.0f} in the mean.",
            "Give min_example_length, method match or normalize ngram."),
        Rule("not_utf8", "", lambda f, _: f.unread, ">", 0.01,
            "{n:.1%} of the documents of raw that were looked at have characters that could not be "
            "read (U+FFFD).",
            "Look at the files: convert those that are no UTF-8, e.g. by iconv."),
        Rule("shortfall", "",
            lambda f, _: f.shortfall.share, ">", _SHORT, "{f.missing}",
            "Give more raw text, or look in the funnel where documents were lost."),
    ),
    ScoreFacts: (
        Rule("unscored", "",
            lambda f, _: f.funnel["without_score"] / max(1, f.funnel["read"]), ">", 0.05,
            "{n:.0%} of the rows have no score (null or NaN) and could not be selected.",
            "Score them too, or give them a number (coalesce)."),
        Rule("ties", "scores",
            lambda f, t: (t.tied - t.tied_selected) * t.tied_selected / max(1, t.documents)
            / max(1, t.tied), ">", 0.05,
            "The cut goes through a crowd: {t.tied:,} candidates are equal to the worst "
            "selected by {t.called}, of which the seed chose {t.tied_selected:,}.",
            "Give a finer score, add another to it, or a threshold instead of a budget."),
        Rule("scores_spread", "scores",
            lambda f, t: t.spread if f.run.method == "sample" else None, ">",
            5.0 * _GUMBEL_SPREAD,
            "What is sampled by for {t.called} spreads over {n:.3g}, the noise over "
            f"{_GUMBEL_SPREAD:.1f}: this is top-k in disguise.",
            "Give temperature auto or a number, or normalize_score."),
        Rule("no_weight", "scores",
            lambda f, t: t.spread if f.run.method == "sample" and t.high != t.low else None,
            "<", 0.05,
            "What is sampled by for {t.called} spreads over {n:.3g}, the noise over "
            f"{_GUMBEL_SPREAD:.1f}: this is nearly a random sample.",
            "Give a temperature below 1, normalize_score, or method top_k."),
        Rule("group_dominates", "composition",
            lambda f, c: _share_of_first(c), ">", 0.9, _DOMINATES,
            "If that is not wanted, give quotas on {about}, or normalize_within it."),
        Rule("too_few", "",
            lambda f, _: f.shortfall.share, ">", _SHORT, "{f.missing}",
            "Give more rows, or look in the funnel where they were lost."),
    ),
}  # fmt: skip
