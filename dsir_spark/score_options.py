"""Options of a selection by any score: keywords of `dsir_spark.select`, flags of the command."""

from __future__ import annotations

import functools
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge
from typing_extensions import Self

from dsir_spark.errors import ConfigError
from dsir_spark.fields import ByText, Number, Text, Whole, option
from dsir_spark.options import SelectOptions, part_of

# fmt: off
_score = functools.partial(option, commands=("select",))
_COLUMN = "the name of a column"
_short = reprlib.Repr()

GroupShare = Annotated[dict[str, Annotated[Number, Ge(0)]] | Text | None, ByText]


class ScoreOptions(SelectOptions):
    """How rows are chosen by a score that somebody else made."""

    method: Literal["sample", "top_k", "random", "pareto"] = _score(  # type: ignore[assignment]
        "sample", "sample: without replacement in proportion to exp(score) (Gumbel top-k). top_k: "
        "the largest scores. random: any rows that have a score. pareto: rows whose draw of "
        "Pareto(9) exceeds 1 - score (GPT-3); with a budget, those that exceed it most.")
    duplicates: Literal["drop", "keep"] = _score(
        "drop", "drop: of rows of equal value in copies_column (in Python: copies) only the one "
        "with the smallest id may be selected.")
    lower_is_better: bool = _score(
        False, "The smallest scores are the best: losses, perplexities.")
    normalize_score: Literal["none", "z", "rank"] = _score(
        "none", "z: (score - mean) / standard deviation. rank: the share of rows that are worse, "
        "ties counted half. Among all rows that have a score; means leave out infinite ones.")
    normalize_within: Text | None = _score(
        None, "Normalise within each value of this column, not over all rows.", _COLUMN)
    threshold: Number | None = _score(
        None, "Rows with a score (as given) below it, or above it if lower is better, are no "
        "candidates.", "a number")
    group_share: GroupShare = _score(
        None, "Divide the budget among the values of group_column: as among the candidates (raw), "
        "as in the target's documents (target), by a mapping, or by a file of one (JSON, YAML) or "
        "a table (a column of group_column's name, and share); in Python by raw or a mapping. "
        "Shares need not sum to 1.",
        "raw, target, a path, a table or a mapping of values to numbers >= 0")
    max_copies: Whole = _score(
        1, "Where a value of group_column has less than its share, its documents are repeated, the "
        "best first, up to so often; `copies` says how often.", "a whole number >= 1", ge=1)
    quantile: Number | None = _score(
        None, "Select this share of the candidates, or, with size_column, of the sum of their "
        "sizes; with a budget the smaller of both.", "a share above 0, to 1", gt=0, le=1)

    @property
    def _grouped(self) -> bool:
        return super()._grouped or self.group_share is not None

    def _of_quotas(self, names: tuple[str, ...] | None) -> list[str]:
        # Shares become quotas when they are known.
        own = self.group_share is not None and self.quotas is None
        return [] if own else super()._of_quotas(names)

    def sharing(self, shares: Mapping[str, float] | str) -> Self:
        """With quotas that divide the budget by these shares.

        Raises
        ------
        ConfigError
            They sum to 0, or one is negative.
        """
        found: Any = shares
        if isinstance(shares, Mapping):
            total = sum(shares.values())
            if not 0 < total < math.inf or min(shares.values()) < 0:
                raise ConfigError("group_share must be numbers >= 0 of a sum above 0; got "
                                  f"{_short.repr(dict(shares))}")  # fmt: skip
            found = {value: share / total for value, share in shares.items()}
        return self.model_copy(update={"quota_column": self.group_column, "quotas": found})

    @property
    def sized(self) -> bool:
        """See `SelectOptions.sized`."""
        by_share = self.quantile is not None and self.size_column is not None
        return super().sized or by_share

    @property
    def unlimited(self) -> bool:
        """Are all candidates selected?"""
        return (self.num_to_sample, self.num_tokens_to_sample, self.quantile) == (None,) * 3

    def budget_of(self, candidates: int, size: Callable[[], int]) -> int:
        """See `SelectOptions.budget_of`."""
        if self.unlimited:
            return candidates
        given = [b for b in (self.num_to_sample, self.num_tokens_to_sample) if b is not None]
        if self.quantile is not None:
            given.append(part_of(size() if self.sized else candidates, self.quantile))
        return min(given)

    def contradictions(self, names: tuple[str, ...] | None) -> list[str]:
        """See `Options.contradictions`."""
        found = super().contradictions(names)
        if self.num_tokens_to_sample is not None and self.size_column is None:
            found.append("num_tokens_to_sample needs size_column: what a row's size is")
        if self.quantile is not None and self.size_column and self.num_to_sample is not None:
            found.append("quantile of size_column and num_to_sample count different things: give "
                         "num_tokens_to_sample")
        if self.unlimited and self.threshold is None and self.method != "pareto":
            found.append("how many? give num_to_sample, num_tokens_to_sample (with size_column), "
                         "quantile or threshold")
        if self.normalize_within is not None and self.normalize_score == "none":
            found.append("normalize_within is for normalize_score z or rank")
        if self.quotas is not None and self.quota_column != self.group_column:
            found += ["give group_share or quotas, not both"] if self.group_share else []
        if self.max_copies > 1 and self.group_share is None:
            found.append("max_copies is for shares of groups: give group_column and group_share")
        if self.group_share is not None and names is not None and len(names) > 1:
            found.append("group_share is for one score: give quotas and allocation sequential")
        if self.method == "pareto" and self.lower_is_better:
            found.append("method pareto goes by probabilities: give 1 - score, not lower_is_better")
        if self.method == "random" and self.normalize_score != "none":
            found.append("normalize_score changes nothing for method random: leave it out")
        if self.method == "random" and self.lower_is_better and self.threshold is None:
            found.append("lower_is_better changes nothing for method random without threshold: "
                         "leave it out")
        if names is not None and len(names) > 1:
            found += [f"{name} is for one score: say it by where" for name, is_given in (
                ("threshold", self.threshold is not None),
                ("method pareto", self.method == "pareto")) if is_given]
        return found
