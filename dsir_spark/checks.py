"""Named checks of a fit and of a selection: what they found, the threshold, and what to do.

Each is a function of plain facts that returns a `Check` where the threshold is passed, else None.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsir_spark import unicode_tables, weights

Int64 = np.ndarray[Any, np.dtype[np.int64]]
Float64 = np.ndarray[Any, np.dtype[np.float64]]

GUMBEL_SPREAD = math.pi / math.sqrt(6.0)  # standard deviation of Gumbel noise, nats
MISSED_MASS = 0.05
SAME = 0.01
SPREADS = 5.0
CORRELATION = 0.5
DOMINATES = 0.9
COPIES = 0.05
CLOSE = 0.5
CJK_SHARE = 0.2
_CJK = re.compile("[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in unicode_tables.CJK_RANGES) + "]")


class CheckWarning(UserWarning):
    """A check that a run found, before what it is about costs anything."""


@dataclass(frozen=True)
class Check:
    """A warning: its name, the number found and its threshold, a sentence, and what to do."""

    name: str
    found: float
    threshold: float
    sentence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.sentence} {self.remedy}"


def visible(text: Any) -> str:
    """Text on one line, with U+FFFD for what is no character to show: control, format, private,
    unassigned and invalid ones, which could act on a page or a terminal.
    """
    flat = " ".join(str(text).split())
    return "".join("\ufffd" if unicodedata.category(c).startswith("C") else c for c in flat)


def _first_upper(name: str) -> str:
    return name[:1].upper() + name[1:]


def small_target(name: str, target: Int64, raw: Int64, smoothed: bool) -> Check | None:
    """How much of raw falls into buckets that the target has nothing in."""
    missed = float(weights.distribution(raw)[target == 0].sum())
    if missed <= MISSED_MASS or smoothed:
        return None
    return Check(
        "small_target", missed, MISSED_MASS,
        f"{_first_upper(name)} is small for its buckets: {missed:.0%} of raw's n-grams fall where "
        f"it has none, and each costs a document up to {math.log(1e8):.0f} nats.",
        "Give target_dirichlet_smoothing auto, method match, fewer num_buckets or more target "
        "documents.",
    )  # fmt: skip


def nearly_the_same(name: str, target: Int64, raw: Int64) -> Check | None:
    """KL(target || raw)."""
    found = weights.kl_divergence(weights.distribution(target), weights.distribution(raw))
    if found >= SAME:
        return None
    return Check(
        "nearly_the_same", found, SAME,
        f"{_first_upper(name)} and raw are nearly the same: KL(target || raw) is {found:.4f} nats.",
        "There is little to select for; check that the right target is given.",
    )  # fmt: skip


def close_to_all(wanted: float, there_is: float, unit: str) -> Check | None:
    """The share of raw that is asked for."""
    if not there_is or wanted <= CLOSE * there_is:
        return None
    return Check(
        "close_to_all", wanted / there_is, CLOSE,
        f"{wanted:,.0f} of {there_is:,.0f} {unit} are asked for: most of raw is selected, "
        "whatever its weight.",
        "Ask for less, or give more raw text.",
    )  # fmt: skip


def one_token_of_a_sentence(name: str, share: float, tokenizer: str) -> Check | None:
    """Share of Chinese, Japanese, Korean and Thai among the letters of the texts."""
    if tokenizer != "wordpunct" or share <= CJK_SHARE:
        return None
    return Check(
        "one_token_of_a_sentence", share, CJK_SHARE,
        f"{share:.0%} of the letters of {name} are Chinese, Japanese, Korean or Thai, where "
        "tokenizer wordpunct makes one token of all that stands between two blanks.",
        "Give tokenizer wordpunct_cjk.",
    )  # fmt: skip


def cjk_share(texts: Iterable[str]) -> float:
    """Share of Chinese, Japanese, Korean and Thai among the letters of some texts; 0 of none."""
    letters = "".join(c for text in texts for c in text if c.isalpha())
    return len(_CJK.findall(letters)) / len(letters) if letters else 0.0


def top_k_in_disguise(name: str, spread: float, method: str) -> Check | None:
    """Standard deviation of what is sampled by against that of the noise."""
    if method != "sample" or spread <= SPREADS * GUMBEL_SPREAD:
        return None
    return Check(
        "top_k_in_disguise", spread, SPREADS * GUMBEL_SPREAD,
        f"The log weights for {name} spread over {spread:.0f} nats, the noise over "
        f"{GUMBEL_SPREAD:.1f}: this is top-k in disguise, drawn to extreme documents.",
        "Give method match, chunk_words, normalize ngram or temperature auto.",
    )  # fmt: skip


def follows_length(name: str, correlation: float) -> Check | None:
    """Rank correlation of what documents are ranked by with their tokens."""
    if not abs(correlation) > CORRELATION:
        return None
    which = "long" if correlation > 0 else "short"
    return Check(
        "follows_length", correlation, CORRELATION,
        f"The ranking for {name} follows length (rank correlation {correlation:+.2f}): {which} "
        "documents stand higher, whatever they say.",
        "Give method match, normalize ngram or chunk_words.",
    )  # fmt: skip


def dominates(column: str, value: str, selected: float, raw: float) -> Check | None:
    """Share of one value among the selected documents, where raw is not so."""
    if selected <= DOMINATES or raw > DOMINATES / 2:
        return None
    return Check(
        "dominates", selected, DOMINATES,
        f"{selected:.0%} of the selected documents have {column} {visible(value)[:60]!r}, "
        f"{raw:.0%} of raw.",
        f"If that is not wanted, give quotas on {column}.",
    )  # fmt: skip


def copies(dropped: int, candidates: int, kept: bool) -> Check | None:
    """Share of documents that are copies of others."""
    share = dropped / max(1, dropped + candidates)
    if share <= COPIES:
        return None
    what = "among what is selected" if kept else "and were left out"
    return Check(
        "copies", share, COPIES,
        f"{share:.0%} of the documents are copies of others {what}.",
        "Give duplicates drop." if kept else
        "Texts that differ in a few words pass: cluster near-duplicates and give max_per_group.",
    )  # fmt: skip


def contamination(name: str, in_raw: int, selected: int) -> Check | None:
    """Documents of raw whose text is one of the target's, but for case and white space."""
    if in_raw == 0:
        return None
    return Check(
        "contamination", in_raw, 0,
        f"{in_raw:,} documents of raw are texts of {name} itself; {selected:,} of them were "
        "selected.",
        "If the target is what you will evaluate on, leave them out of raw (where).",
    )  # fmt: skip


def worse_than_random(name: str, kl: float | None, random: float | None) -> Check | None:
    """KL reduction of the selection minus that of a random one of equal size."""
    if kl is None or random is None or kl >= random:
        return None
    return Check(
        "worse_than_random", kl - random, 0.0,
        f"The selection for {name} is further from it than a random one of equal size.",
        "Whole documents are drawn to extremes: give method match, or look at the examples.",
    )  # fmt: skip


def few_effective(name: str, size: float, chosen: int, method: str) -> Check | None:
    """Effective sample size of the weights against the documents selected."""
    if method != "sample" or chosen < 2 or size >= chosen / 10:
        return None
    return Check(
        "few_effective", size, chosen / 10,
        f"The weights for {name} differ so much that {chosen:,} documents are worth "
        f"{size:,.1f}: the sample is nearly the top of the list.",
        "Give temperature auto, or method match.",
    )  # fmt: skip


def shortfall(missing: int, unit: str, candidates: int, selected: int) -> Check | None:
    """What is missing to the budget though every candidate was taken."""
    if missing <= 0 or selected < candidates:
        return None
    return Check(
        "shortfall", missing, 0,
        f"Only {selected:,} documents were candidates: all were selected, {missing:,} {unit} "
        "short of the budget.",
        "Give more raw text, or look in the funnel where documents were lost.",
    )  # fmt: skip


def rank_correlation(a: Float64, b: Float64) -> float:
    """Spearman's, of float64[n] both; 0 where one of them is constant."""
    ranks = []
    for x in (a, b):
        _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2.0)[where])  # ties share a rank
    if len(a) < 3 or any(r.std() == 0 for r in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
