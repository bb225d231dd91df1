"""Options of features, fit and selection, each once: name, type, default, help, commands.

Flags, YAML keys, Python keywords, their docstrings and docs/options.md are made from these fields.
A selection by any score has more of them in `score_options`, what only commands take is in
`job_options`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import Field

from dsir_spark.errors import in_range
from dsir_spark.fields import ByText, Number, Options, Text, Whole, allowed, option, takes

# A field is two or three lines here, so that all of them are seen at once.
# fmt: off
__all__ = ["DOUBLES", "READING", "SELECTING", "FeatureOptions", "FitOptions", "Options",
           "OverlapOptions", "QualityRule", "ResampleOptions", "SelectOptions", "allowed",
           "part_of", "takes", "target_name_problems"]

_COLUMN = "the name of a column"
DOUBLES = 1 << 53  # above it they are not every whole number
READING = ("run", "fit", "weigh", "resample")  # commands that read raw by a model
SELECTING = ("run", "resample")  # those of them that select
_fit = functools.partial(option, commands=READING)
_input = functools.partial(option, commands=(*READING, "select"))
_resample = functools.partial(option, commands=SELECTING)
_select = functools.partial(option, commands=(*SELECTING, "select"))

Share = Annotated[Number, Field(ge=0, le=1)]
Bounds = Annotated[dict[Literal["min", "max"], Share], Field(min_length=1)]
Quotas = Annotated[dict[str, Share | Bounds], Field(min_length=1)]


@dataclass(frozen=True)
class QualityRule:
    """The paper's quality rule (DSIR, appendix): all bounds are strict, tokens `wordpunct`.

    tokens : between `min_tokens` and `max_tokens`
    share of the most frequent token : between `min_repeated` and `max_repeated`
    share of tokens neither stop words nor punctuation : between `min_informative` and the maximum
    share of tokens that are not digits : above `min_not_digits`
    """

    min_tokens: float = 40
    max_tokens: float = 500
    min_repeated: float = 0.02
    max_repeated: float = 0.2
    min_informative: float = 0.3
    max_informative: float = 0.7
    min_not_digits: float = 0.8


_BOUNDS = tuple(f.name for f in fields(QualityRule))


class FeatureOptions(Options):
    """How a text becomes n-gram buckets."""

    ngrams: Whole = _fit(
        1, "N-grams of 1 to N tokens are counted.", "a whole number from 1 to 1000", ge=1, le=1000)
    num_buckets: Whole = _fit(
        30_000, "Buckets that n-grams are hashed to.", f"a whole number from 1 to {1 << 24}",
        ge=1, le=1 << 24)
    tokenizer: str = _fit(
        "wordpunct", "wordpunct: lower-cased matches of \\w+|[^\\w\\s]+. wordpunct_cjk: the same, "
        "but each Han, kana, Hangul or Thai character is a token. bytes: each byte of the UTF-8 "
        "text. The path of a Hugging Face tokenizer.json (or hf:PATH): token ids; the model keeps "
        "the file's content. module:function: a function str -> list of str, at the speed of "
        "Python.", "a name, a path or module:function")
    allow_functions: bool = option(
        False, "Run a tokenizer that is module:function, also one that a model names.",
        commands=(*READING, "report", "explain"), exclude=True)
    hash: Literal["xxhash64", "sha256"] = _fit(
        "xxhash64", "Bucket of an n-gram: Spark SQL's pmod(xxhash64(ngram), num_buckets), or the "
        "reference package's int(sha256(ngram)) mod num_buckets.")
    text_column: Text = _input("text", "Column of the texts.", _COLUMN)

    def contradictions(self, names: tuple[str, ...] | None) -> list[str]:
        """See `Options.contradictions`; loads the tokenizer to see that it is one."""
        found = super().contradictions(names)
        if self.tokenizer != FeatureOptions.model_fields["tokenizer"].default:
            # Here, because selection knows options and no texts, and the start has to be quick.
            from dsir_spark.features import tokenizers

            found += tokenizers.problems(self.tokenizer, self.allow_functions)
        return found


class FitOptions(FeatureOptions):
    """How raw and target become a model."""

    id_column: Text | None = _input(
        "id", "Column of unique ids (string or integer); none: ids are made from the texts.",
        f"{_COLUMN}, or none")
    target_laplace_smoothing: Number = _fit(
        0.0, "Added to each bucket's count of a target before it becomes a distribution.",
        "a number >= 0", ge=0)
    target_dirichlet_smoothing: Annotated[Number, Ge(0)] | Literal["auto"] = _fit(
        0.0, "N-grams distributed like raw that are added to each target; auto: num_buckets.",
        "auto or a number of n-grams >= 0")
    num_tokens_to_fit: Annotated[Whole, Ge(1)] | Literal["all", "auto"] = _fit(
        "all", "About how many n-grams of raw to fit on, from a sample of its documents by the "
        "hash of their ids; auto: 100,000 x num_buckets.",
        "all, auto or a whole number >= 1")
    scorer: Literal["dsir", "classifier"] = _fit(
        "dsir", "What documents are selected by: log weights, or (classifier) the log odds of a "
        "logistic regression of the target against as much of raw; it needs scikit-learn.")
    chunk_words: Whole | None = _fit(
        None, "Weigh and select chunks of N tokens of raw.", "a whole number of tokens >= 1", ge=1)

    def contradictions(self, names: tuple[str, ...] | None) -> list[str]:
        """See `Options.contradictions`."""
        found = super().contradictions(names)
        if self.target_dirichlet_smoothing != 0 and self.target_laplace_smoothing != 0:
            found.append("give target_laplace_smoothing or target_dirichlet_smoothing, not both")
        return found


class SelectOptions(Options):
    """How rows are chosen by their scores."""

    num_to_sample: Whole | None = _select(
        None, "Documents to select; more than there are candidates selects all, with a warning.",
        "a whole number of documents >= 0", ge=0)
    num_tokens_to_sample: Whole | None = _select(
        None, "Tokens to select, instead of documents: the best documents that together have at "
        "most so many; the document that would cross the budget ends the list.",
        "a whole number of tokens >= 0", ge=0)
    size_column: Text | None = _select(
        None, "The budget is of this column's numbers, each rounded up, not of tokens. Null, "
        "negative, or 2^53 or more: no candidate.", _COLUMN)
    method: Literal["sample", "top_k"] = _select(
        "sample", "sample: without replacement in proportion to the weights (Gumbel top-k). "
        "top_k: the largest scores.")
    seed: Whole = _select(
        0, "Of the noise; the same seed selects the same documents anywhere.",
        "a whole number of 64 bits")
    temperature: Annotated[Number, Gt(0)] | Literal["auto"] = _select(
        1.0, "Scores are divided by it before the noise; auto: the smallest, not below 1 (0.01 of "
        "means), at which the effective sample size is the number wanted.",
        "auto or a number > 0")
    proportions: Annotated[dict[str, Annotated[Number, Ge(0)]] | None, ByText] = _select(
        None, "Shares of the budget among targets; by default each target's share of their "
        "n-grams.", "numbers >= 0, one a target")
    allocation: Literal["joint", "sequential"] = _select(
        "joint", "A document goes to one target at most. joint: pairs of document and target by "
        "falling key, whatever the order of the targets. sequential: target after target.")
    duplicates: Literal["drop", "keep"] = _resample(
        "drop", "drop: of texts that are equal but for case and white space only the one with the "
        "smallest id may be selected.")
    group_column: Text | None = _select(
        None, "The column that max_per_group is for: a domain, an author or a cluster.", _COLUMN)
    max_per_group: Whole | None = _select(
        None, "At most so many documents of equal value in group_column: its best. Null: no limit.",
        "a whole number of documents >= 1", ge=1)
    quota_column: Text | None = _select(None, "The column whose values quotas are for.", _COLUMN)
    quotas: Annotated[Literal["raw"] | Quotas | None, ByText] = _select(
        None, "Share of the budget for each value of quota_column: a number, or {min, max}; values "
        "not named compete for the rest. raw: every value keeps its share of the candidates.",
        "raw (as in raw) or a mapping of values to shares from 0 to 1, or to {min, max}")
    quota_shortfall: Literal["fill", "report"] = _select(
        "fill", "Where a value has too few documents for its share: values below their "
        "largest share, and those not named, fill it, or it stays open.")

    @property
    def sized(self) -> bool:
        """Is the budget a sum of sizes, not a number of documents?"""
        return self.num_tokens_to_sample is not None

    @property
    def budget(self) -> int:
        """Documents, or tokens, or whatever `size_column` counts."""
        return (self.num_tokens_to_sample if self.sized else self.num_to_sample) or 0

    def budget_of(self, candidates: int, size: Callable[[], int]) -> int:
        """The budget among so many candidates, of whose sizes `size` finds the sum."""
        return self.budget

    @property
    def quota_bounds(self) -> dict[str, tuple[float, float | None]]:
        """Smallest and largest share of each value; None: no largest."""
        given = self.quotas if isinstance(self.quotas, dict) else {}
        return {
            value: (q.get("min", 0.0), q.get("max")) if isinstance(q, dict) else (q, q)
            for value, q in given.items()
        }

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Columns that a selection goes by: a weights table must keep them."""
        named = (self.size_column, self.group_column, self.quota_column)
        return tuple(dict.fromkeys(c for c in named if c is not None))

    @property
    def _grouped(self) -> bool:
        return self.max_per_group is not None

    def contradictions(self, names: tuple[str, ...] | None) -> list[str]:
        """See `Options.contradictions`."""
        found = super().contradictions(names)
        if self.num_to_sample is not None and self.num_tokens_to_sample is not None:
            found.append("give num_to_sample or num_tokens_to_sample, not both")
        if self.size_column is not None and not self.sized:
            found.append("size_column is for a budget of sizes: give num_tokens_to_sample")
        if self.temperature != 1.0 and self.method != "sample":
            found.append(f"temperature is for method sample; method is {self.method!r}")
        if (self.group_column is None) != (not self._grouped):
            found.append("group_column and max_per_group belong together: give both or none")
        given = self.proportions
        if given is not None and not 0 < sum(given.values()) < 1e100:
            found.append(in_range("proportions", "of a sum above 0 and below 1e100", given))
        elif given is not None and names is not None and set(given) != set(names):
            values = f"given for exactly the targets {', '.join(names)}"
            found.append(in_range("proportions", values, ", ".join(given)))
        return found + self._of_quotas(names)

    def _of_quotas(self, names: tuple[str, ...] | None) -> list[str]:
        if (self.quota_column is None) != (self.quotas is None):
            return ["quota_column and quotas belong together: give both or none"]
        if self.quotas is None:
            if "quota_shortfall" in self.model_fields_set and self.quota_shortfall != "fill":
                return ["quota_shortfall is for quotas: give quota_column and quotas"]
            return []
        found = [
            f"quotas: {value!r} has min {low} above max {high}"
            for value, (low, high) in self.quota_bounds.items()
            if high is not None and low > high
        ]
        if names is not None and len(names) > 1 and self.allocation == "joint":
            found.append("quotas hold for each target's own documents, so targets choose one after "
                         "the other: give allocation sequential")
        least = sum(low for low, _ in self.quota_bounds.values())
        if least > 1 + 1e-9:
            found.append(f"the smallest shares of quotas sum to {least:g}; they must not pass 1")
        return found


class ResampleOptions(SelectOptions):
    """How documents are chosen by their weights under a model."""

    method: Literal["sample", "top_k", "match"] = _resample(  # type: ignore[assignment]
        "match", "match: the subset whose n-grams together are closest to the target's. sample: "
        "without replacement in proportion to the weights (Gumbel top-k), as published with ngrams "
        "2 and num_buckets 10000. top_k: the largest weights. Where it is not given, weights that "
        "are there are selected from by the method that they were made for.")
    min_example_length: Whole = _resample(
        100, "Documents of fewer tokens are no candidates.", "a whole number of tokens >= 0", ge=0)
    quality: Annotated[Literal["paper"] | dict[str, Number] | None, ByText] = option(
        None, "The paper's quality rule, over wordpunct tokens, or with other bounds of "
        f"{', '.join(_BOUNDS)}. weigh keeps what it goes by.",
        "paper, or a mapping of bounds to numbers", commands=("run", "weigh", "resample"))
    normalize: Literal["none", "ngram"] = _resample(
        "none", "Rank by the sum of a document's log ratios, or (ngram) by their mean.")
    match_steps: Whole = _resample(
        16, "Steps of method match.", "a whole number from 1 to 64", ge=1, le=64)
    match_tokens: Annotated[Whole, Ge(1)] | Literal["auto", "all"] = _resample(
        "auto", "N-grams of raw that method match learns from.",
        "auto, all or a whole number of n-grams >= 1")

    @property
    def rule(self) -> QualityRule | None:
        """The quality rule with the bounds given, or None."""
        if self.quality is None:
            return None
        return QualityRule(**(self.quality if isinstance(self.quality, dict) else {}))

    def contradictions(self, names: tuple[str, ...] | None) -> list[str]:
        """See `Options.contradictions`."""
        found = super().contradictions(names)
        if self.normalize != "none" and self.method == "match":
            found.append("normalize is for methods sample and top_k; match scores means already")
        given = self.quality if isinstance(self.quality, dict) else {}
        known = ", ".join(_BOUNDS)
        return found + [
            f"quality has no bound {k!r}; bounds are {known}" for k in given if k not in _BOUNDS
        ]


class OverlapOptions(Options):
    """What documents may not share with given texts."""

    ngram: Whole = option(13, "Tokens of an n-gram.", "a whole number of tokens >= 1",
                          commands=(), ge=1)


def part_of(amount: int, share: float) -> int:
    """The whole part of a share of an amount."""
    if amount >= DOUBLES:
        return int(Fraction(str(share)) * amount)
    # A hair more than the product: 0.29 * 100 is below 29 in binary.
    return int(share * amount + 1e-6)


def target_name_problems(names: tuple[str, ...]) -> list[str]:
    """Target names become column names: letters, digits, _ and -, distinct without their case."""
    found = [
        in_range("a target's name", "of letters, digits, _ and -", name)
        for name in names
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name)
    ]
    if not found and len({n.lower() for n in names}) < len(names):
        found.append(in_range("target names", "distinct (upper and lower case are one)", names))
    return found
