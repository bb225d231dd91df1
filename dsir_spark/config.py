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
NORMALIZE = ("none", "ngram")
DUPLICATES = ("drop", "keep")
SHORTFALLS = ("fill", "report")
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
    target_dirichlet_smoothing: float | str = 0.0
    num_tokens_to_fit: int | str = "all"
    chunk_words: int | None = None

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
        prior = self.target_dirichlet_smoothing
        if prior != "auto" and not (_is_number(prior) and 0 <= prior < float("inf")):  # type: ignore[operator]
            allowed = "auto or a number of n-grams >= 0"
            found.append(in_range("target_dirichlet_smoothing", allowed, prior))
        elif prior != 0 and smoothing != 0:
            found.append("give target_laplace_smoothing or target_dirichlet_smoothing, not both")
        if self.chunk_words is not None and not _is_int(self.chunk_words, 1):
            found.append(in_range("chunk_words", "a whole number of words >= 1", self.chunk_words))
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


@dataclass(frozen=True)
class QualityRule:
    """The paper's quality rule (DSIR, appendix): all bounds are strict.

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


@dataclass(frozen=True)
class ResampleConfig:
    """How documents are chosen by their weights."""

    num_to_sample: int | None = None
    num_tokens_to_sample: int | None = None
    size_column: str | None = None
    method: str = "sample"
    seed: int = 0
    min_example_length: int = 100
    quality: str | Mapping[str, float] | None = None
    normalize: str = "none"
    temperature: float | str = 1.0
    proportions: Mapping[str, float] | None = None
    allocation: str = "joint"
    duplicates: str = "drop"
    group_column: str | None = None
    max_per_group: int | None = None
    quota_column: str | None = None
    quotas: str | Mapping[str, Any] | None = None
    quota_shortfall: str = "fill"
    match_steps: int = 16
    match_tokens: int | str = "auto"

    @property
    def sized(self) -> bool:
        """Is the budget a sum of sizes, not a number of documents?"""
        return self.num_tokens_to_sample is not None

    @property
    def budget(self) -> int:
        """Documents, or tokens, or whatever `size_column` counts."""
        return int((self.num_tokens_to_sample if self.sized else self.num_to_sample) or 0)

    @property
    def rule(self) -> QualityRule | None:
        """The quality rule with the bounds given, or None."""
        if self.quality is None:
            return None
        return QualityRule(**({} if isinstance(self.quality, str) else dict(self.quality)))

    @property
    def quota_bounds(self) -> dict[str, tuple[float, float | None]]:
        """Smallest and largest share of each value; None: no largest."""
        given = self.quotas if isinstance(self.quotas, Mapping) else {}
        return {
            value: (q.get("min", 0.0), q.get("max")) if isinstance(q, Mapping) else (q, q)
            for value, q in given.items()
        }

    def resample_problems(self, names: tuple[str, ...] | None = None) -> list[str]:
        """All that is wrong with the values; `names` are the targets, if known."""
        found = []
        for name, unit in (("num_to_sample", "documents"), ("num_tokens_to_sample", "tokens")):
            value = getattr(self, name)
            if value is not None and not _is_int(value, 0):
                found.append(in_range(name, f"a whole number of {unit} >= 0", value))
        if self.num_to_sample is not None and self.sized:
            found.append("give num_to_sample or num_tokens_to_sample, not both")
        for name in ("size_column", "group_column", "quota_column"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                found.append(in_range(name, "the name of a column", value))
        if self.size_column is not None and not self.sized:
            found.append("size_column is for a budget of sizes: give num_tokens_to_sample")
        for name, allowed in (
            ("method", METHODS), ("allocation", ALLOCATIONS), ("normalize", NORMALIZE),
            ("duplicates", DUPLICATES), ("quota_shortfall", SHORTFALLS),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                found.append(one_of(name, allowed, getattr(self, name)))
        if not _is_int(self.seed, -MAX_SEED - 1, MAX_SEED):
            found.append(in_range("seed", "a whole number of 64 bits", self.seed))
        if not _is_int(self.min_example_length, 0):
            allowed_length = "a whole number of tokens >= 0"
            found.append(in_range("min_example_length", allowed_length, self.min_example_length))
        if self.proportions is not None:
            found += _proportion_problems(self.proportions, names)
        found += self._weight_problems() + _quality_problems(self.quality)
        found += self._group_problems() + self._quota_problems(names)
        found += match_problems(self.match_steps, self.match_tokens)
        return found

    def _weight_problems(self) -> list[str]:
        found = []
        t = self.temperature
        if t != "auto" and not (_is_number(t) and 0 < t < float("inf")):  # type: ignore[operator]
            found.append(in_range("temperature", "auto or a number > 0", t))
        elif t != 1.0 and self.method != "sample":
            found.append(f"temperature is for method sample; method is {self.method!r}")
        if self.normalize != "none" and self.method == "match":
            found.append("normalize is for methods sample and top_k; match scores means already")
        return found

    def _group_problems(self) -> list[str]:
        if (self.group_column is None) != (self.max_per_group is None):
            return ["group_column and max_per_group belong together: give both or none"]
        if self.max_per_group is not None and not _is_int(self.max_per_group, 1):
            allowed = "a whole number of documents >= 1"
            return [in_range("max_per_group", allowed, self.max_per_group)]
        return []

    def _quota_problems(self, names: tuple[str, ...] | None) -> list[str]:
        if (self.quota_column is None) != (self.quotas is None):
            return ["quota_column and quotas belong together: give both or none"]
        if self.quotas is None:
            return []
        found = []
        if names is not None and len(names) > 1 and self.allocation == "joint":
            found.append(
                "quotas hold for each target's own documents, so targets choose one after the "
                "other: give allocation sequential"
            )
        if isinstance(self.quotas, str):
            if self.quotas != "raw":
                allowed = "raw (as in raw) or a mapping of values to shares"
                found.append(in_range("quotas", allowed, self.quotas))
            return found
        allowed = "a share from 0 to 1, or {min: share, max: share}"
        if not isinstance(self.quotas, Mapping) or not self.quotas:
            return [*found, in_range("quotas", "raw or a mapping of values to shares", self.quotas)]
        for value, q in self.quotas.items():
            shares = list(q.values()) if isinstance(q, Mapping) else [q]
            keys = set(q) if isinstance(q, Mapping) else {"min"}
            right = bool(shares) and keys <= {"min", "max"}
            if not right or not all(_is_number(x) and 0 <= x <= 1 for x in shares):
                found.append(in_range(f"the quota of {value}", allowed, q))
            elif isinstance(q, Mapping) and q.get("min", 0) > q.get("max", 1):
                found.append(f"the quota of {value} has min {q['min']} above max {q['max']}")
        if not found:
            least = sum(low for low, _ in self.quota_bounds.values())
            if least > 1 + 1e-9:
                found.append(
                    f"the smallest shares of quotas sum to {least:g}; they must not pass 1"
                )
        return found


def _quality_problems(quality: Any) -> list[str]:
    if quality is None or quality == "paper":
        return []
    bounds = {f.name for f in dataclasses.fields(QualityRule)}
    if not isinstance(quality, Mapping):
        allowed = f"paper, or a mapping of bounds ({', '.join(sorted(bounds))}) to numbers"
        return [in_range("quality", allowed, quality)]
    unknown = sorted(str(k) for k in quality if k not in bounds)
    found = [f"quality has no bound {k}; bounds are {', '.join(sorted(bounds))}" for k in unknown]
    return found + [
        in_range(f"quality {name}", "a number", value)
        for name, value in quality.items()
        if not _is_number(value)
    ]


def match_problems(match_steps: Any, match_tokens: Any) -> list[str]:
    """All that is wrong with the options of a matched selection."""
    found = []
    if not _is_int(match_steps, 1, 64):
        found.append(in_range("match_steps", "a whole number from 1 to 64", match_steps))
    if match_tokens not in ("auto", "all") and not _is_int(match_tokens, 1):
        allowed = "auto, all or a whole number of n-grams"
        found.append(in_range("match_tokens", allowed, match_tokens))
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
class JobConfig(ResampleConfig, FitConfig):
    """One run of the job: inputs, output, and everything that decides the selection.

    `raw` and `target` are paths or table names; `target` may map names to several of them. A single
    one is the target named `target`, whose columns carry no name.
    """

    raw: str | None = None
    target: Mapping[str, str] = field(default_factory=dict)
    output: str | None = None
    raw_format: str | None = None
    target_format: str | None = None
    where: str | None = None
    keep: tuple[str, ...] = ()
    whole_documents: float | None = None
    check_ids: bool = True
    overwrite: bool = False
    report: bool = True
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
        found += self.resample_problems(names if names else None)
        if self.where is not None and (not isinstance(self.where, str) or not self.where.strip()):
            found.append(in_range("where", "a predicate of Spark SQL on raw's columns", self.where))
        share = self.whole_documents
        if share is not None and not (_is_number(share) and 0 < share <= 1):
            found.append(in_range("whole_documents", "a share of chunks above 0, to 1", share))
        elif share is not None and self.chunk_words is None:
            found.append("whole_documents is for chunks: give chunk_words")
        if self.method != "match":
            found += [
                f"{name} is for method match; method is {self.method!r}"
                for name in ("match_steps", "match_tokens")
                if name in self.given
            ]
        else:
            found += [
                f"{name} is for methods sample and top_k; match goes by the target's own counts"
                for name in ("target_laplace_smoothing", "target_dirichlet_smoothing")
                if name in self.given and getattr(self, name) != 0
            ]
        if self.quotas is None and "quota_shortfall" in self.given:
            found.append("quota_shortfall is for quotas: give quota_column and quotas")
        for name in ("check_ids", "overwrite", "report"):
            if not isinstance(getattr(self, name), bool):
                found.append(in_range(name, "true or false", getattr(self, name)))
        return found

    def require(self, *names: str, selects: bool = False) -> None:
        """Raise a `ConfigError` that lists those of the options that are not given.

        selects : is a budget needed too?
        """
        missing = [n for n in names if not getattr(self, n)]
        found = [
            f"--{name.replace('_', '-')} is missing: give it as a flag or in the config"
            for name in missing
        ]
        if selects and self.num_to_sample is None and not self.sized:
            found.append(
                "--num-to-sample is missing: give it, or --num-tokens-to-sample, as a flag or in "
                "the config"
            )
        check(found)

    def resample_config(self) -> ResampleConfig:
        """The part that decides the selection."""
        fields = dataclasses.fields(ResampleConfig)
        return ResampleConfig(**{f.name: getattr(self, f.name) for f in fields})

    def fit_config(self) -> FitConfig:
        """The part that decides the model."""
        return FitConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(FitConfig)})
