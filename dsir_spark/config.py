"""Every option, its default and its allowed range, in one place.

`FeatureSpec` says what a text's features are, `FitConfig` how bucket distributions become a model,
`JobConfig` what one run does. All are frozen; `problems()` lists everything that is wrong at once.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dsir_spark import tokens
from dsir_spark.errors import ConfigError, in_range, one_of

HASHES = ("xxhash64", "sha256")
METHODS = ("sample", "top_k", "match")
ALLOCATIONS = ("joint", "sequential")
FORMATS = ("delta", "parquet", "json", "text", "csv")
MAX_BUCKETS = 1 << 24
MAX_SEED = (1 << 63) - 1
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def _is_int(value: object, low: int, high: int | None = None) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and low <= value and (high is None or value <= high)  # type: ignore[operator]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class FeatureSpec:
    """What is counted: n-grams of 1 to `ngrams` tokens, hashed to `num_buckets` buckets."""

    ngrams: int = 2
    num_buckets: int = 10_000
    tokenizer: str = "wordpunct"
    hash: str = "xxhash64"

    def problems(self) -> list[str]:
        """All that is wrong with the values, a sentence each."""
        found = []
        if not _is_int(self.ngrams, 1):
            found.append(in_range("ngrams", "a whole number >= 1", self.ngrams))
        if not _is_int(self.num_buckets, 1, MAX_BUCKETS):
            allowed = f"a whole number from 1 to {MAX_BUCKETS}"
            found.append(in_range("num_buckets", allowed, self.num_buckets))
        found += tokens.problems(self.tokenizer)
        if self.hash not in HASHES:
            found.append(one_of("hash", HASHES, self.hash))
        return found


@dataclass(frozen=True)
class FitConfig(FeatureSpec):
    """How raw and target become a model."""

    text_column: str = "text"
    id_column: str | None = "id"
    target_laplace_smoothing: float = 0.0
    num_tokens_to_fit: int | str = "all"

    def problems(self) -> list[str]:
        """All that is wrong with the values, a sentence each."""
        found = super().problems()
        if not isinstance(self.text_column, str) or not self.text_column:
            found.append(in_range("text_column", "the name of a column", self.text_column))
        if self.id_column is not None and (
            not isinstance(self.id_column, str) or not self.id_column
        ):
            found.append(in_range("id_column", "the name of a column, or none", self.id_column))
        smoothing = self.target_laplace_smoothing
        if not _is_number(smoothing) or not 0 <= smoothing < float("inf"):
            found.append(in_range("target_laplace_smoothing", "a number >= 0", smoothing))
        if self.num_tokens_to_fit not in ("all", "auto") and not _is_int(self.num_tokens_to_fit, 1):
            allowed = "all, auto or a whole number >= 1"
            found.append(in_range("num_tokens_to_fit", allowed, self.num_tokens_to_fit))
        return found

    @property
    def features(self) -> FeatureSpec:
        """The part that decides buckets."""
        return FeatureSpec(self.ngrams, self.num_buckets, self.tokenizer, self.hash)

    def to_json(self) -> str:
        """Canonical JSON: equal configs give equal strings."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def resample_problems(
    num_to_sample: Any,
    method: Any,
    seed: Any,
    min_example_length: Any,
    proportions: Mapping[str, float] | None,
    allocation: Any,
    names: tuple[str, ...] | None = None,
) -> list[str]:
    """All that is wrong with the options of a resampling; `names` are the targets, if known."""
    found = []
    if not _is_int(num_to_sample, 0):
        found.append(in_range("num_to_sample", "a whole number of documents >= 0", num_to_sample))
    if method not in METHODS:
        found.append(one_of("method", METHODS, method))
    if not _is_int(seed, -MAX_SEED - 1, MAX_SEED):
        found.append(in_range("seed", "a whole number of 64 bits", seed))
    if not _is_int(min_example_length, 0):
        allowed = "a whole number of tokens >= 0"
        found.append(in_range("min_example_length", allowed, min_example_length))
    if allocation not in ALLOCATIONS:
        found.append(one_of("allocation", ALLOCATIONS, allocation))
    if proportions is not None:
        found += _proportion_problems(proportions, names)
    return found


def match_problems(match_steps: Any, match_tokens: Any) -> list[str]:
    """All that is wrong with the options of a matched selection."""
    found = []
    if not _is_int(match_steps, 1, 64):
        found.append(in_range("match_steps", "a whole number from 1 to 64", match_steps))
    if match_tokens != "all" and not _is_int(match_tokens, 1):
        found.append(in_range("match_tokens", "all or a whole number of tokens", match_tokens))
    return found


def _proportion_problems(
    proportions: Mapping[str, float], names: tuple[str, ...] | None
) -> list[str]:
    values = list(proportions.values())
    if not values or not all(_is_number(v) and 0 <= v < float("inf") for v in values):
        return [in_range("proportions", "numbers >= 0, one a target", dict(proportions))]
    found = []
    if sum(values) <= 0:
        found.append(in_range("proportions", "of a sum above 0", dict(proportions)))
    if names is not None and set(proportions) != set(names):
        allowed = f"given for exactly the targets {', '.join(names)}"
        found.append(in_range("proportions", allowed, ", ".join(proportions)))
    return found


def target_name_problems(names: tuple[str, ...]) -> list[str]:
    """Target names become column names: letters, digits, _ and -, distinct without their case."""
    found = [
        in_range("a target's name", "of letters, digits, _ and -", name)
        for name in names
        if not isinstance(name, str) or not _NAME.fullmatch(name)
    ]
    if not found and len({n.lower() for n in names}) < len(names):
        found.append(in_range("target names", "distinct (upper and lower case are one)", names))
    return found


def check(problems: list[str]) -> None:
    """Raise one `ConfigError` with all problems, if there are any."""
    if problems:
        raise ConfigError.from_problems(problems)


@dataclass(frozen=True)
class JobConfig(FitConfig):
    """One run of the job: inputs, output, and everything that decides the selection.

    `raw` and `target` are paths or table names; `target` may map names to several of them. A single
    one is the target named `target`, whose columns carry no name.
    """

    raw: str | None = None
    target: Mapping[str, str] = field(default_factory=dict)
    output: str | None = None
    raw_format: str | None = None
    target_format: str | None = None
    keep: tuple[str, ...] = ()
    num_to_sample: int | None = None
    method: str = "sample"
    seed: int = 0
    min_example_length: int = 100
    proportions: Mapping[str, float] | None = None
    allocation: str = "joint"
    match_steps: int = 16
    match_tokens: int | str = 20_000_000
    check_ids: bool = True
    overwrite: bool = False
    # Names of the options that were given and not defaulted.
    given: frozenset[str] = frozenset()

    @property
    def single_target(self) -> bool:
        """Is there one target without a name of its own?"""
        return tuple(self.target) == ("target",)

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> JobConfig:
        """A config from options by name (a YAML file with the command line on top).

        Raises
        ------
        ConfigError
            Listing unknown options and all values out of range.
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"given"}
        unknown = sorted(str(k) for k in options if k not in known)
        found = [f"unknown option {k}; options are {', '.join(sorted(known))}" for k in unknown]
        values = {k: v for k, v in options.items() if k in known}
        target = values.get("target")
        if isinstance(target, str):
            values["target"] = {"target": target}
        elif target is not None and not isinstance(target, Mapping):
            found.append(
                in_range("target", "a path or table, or a mapping of names to them", target)
            )
            del values["target"]
        keep = values.get("keep")
        if isinstance(keep, str):
            values["keep"] = (keep,)
        elif isinstance(keep, list | tuple):
            values["keep"] = tuple(str(k) for k in keep)
        elif keep is not None:
            found.append(in_range("keep", "a list of column names", keep))
            del values["keep"]
        proportions = values.get("proportions")
        if proportions is not None and not isinstance(proportions, Mapping):
            found.append(in_range("proportions", "a mapping of targets to numbers", proportions))
            del values["proportions"]
        config = cls(**values, given=frozenset(options))
        check(found + config.problems())
        return config

    def problems(self) -> list[str]:
        """All that is wrong with the values, a sentence each."""
        found = super().problems()
        for name in ("raw", "output"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                found.append(in_range(name, "a path or a table name", value))
        for name in ("raw_format", "target_format"):
            value = getattr(self, name)
            if value is not None and value not in FORMATS:
                found.append(one_of(name, FORMATS, value))
        names = tuple(self.target)
        found += target_name_problems(names)
        for name, place in self.target.items():
            if not isinstance(place, str) or not place:
                found.append(in_range(f"target {name}", "a path or a table name", place))
        found += resample_problems(
            0 if self.num_to_sample is None else self.num_to_sample,
            self.method,
            self.seed,
            self.min_example_length,
            self.proportions,
            self.allocation,
            names if names else None,
        )
        found += match_problems(self.match_steps, self.match_tokens)
        if self.method != "match":
            found += [
                f"{name} is for method match; method is {self.method!r}"
                for name in ("match_steps", "match_tokens")
                if name in self.given
            ]
        for name in ("check_ids", "overwrite"):
            if not isinstance(getattr(self, name), bool):
                found.append(in_range(name, "true or false", getattr(self, name)))
        return found

    def require(self, *names: str) -> None:
        """Raise a `ConfigError` that lists those of the options that are not given."""
        check(
            [
                f"--{name.replace('_', '-')} is missing: give it as a flag or in the config"
                for name in names
                if not getattr(self, name) and getattr(self, name) != 0
            ]
        )

    def fit_config(self) -> FitConfig:
        """The part that decides the model."""
        return FitConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(FitConfig)})
