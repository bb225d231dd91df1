"""Options of the commands: inputs, output, and what else only a run of the job takes.

They are declared as those of `options` are, of which they are made up.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field
from typing_extensions import Self

from dsir_spark.errors import ConfigError
from dsir_spark.fields import Number, Text, Whole, by_text, extra, option
from dsir_spark.options import (
    READING,
    SELECTING,
    FitOptions,
    ResampleOptions,
    target_name_problems,
)
from dsir_spark.score_options import ScoreOptions

# fmt: off
_COLUMN = "the name of a column"
_ALL = (*READING, "select", "report", "explain", "runs")
_WEIGHING = ("run", "weigh")
_input = functools.partial(option, commands=(*READING, "select"))
_resample = functools.partial(option, commands=SELECTING)
_selecting = functools.partial(option, commands=(*SELECTING, "select"))
_score = functools.partial(option, commands=("select",))
# Of `select`: options that change nothing without another.
_ONLY_WITH = {"duplicates": "copies_column", "scores_format": "scores", "target_format": "target",
              "threshold": "score"}
ALONE = "score"  # name of a score that was given without one

Format = Literal["delta", "parquet", "json", "text", "csv"]
Predicate = Annotated[Text, Field(pattern=r"\S")]
# A single target may stand for the mapping, a single column for the list.
Targets = Annotated[
    dict[str, Text],
    BeforeValidator(lambda v: {"target": v} if isinstance(v, str) else by_text(v)),
]
Columns = Annotated[
    tuple[Text, ...],
    BeforeValidator(lambda v: (v,) if isinstance(v, str) else tuple(v) if type(v) is list else v),
]
# A single score may stand for the mapping.
Scores = Annotated[
    dict[str, Text],
    BeforeValidator(lambda v: {ALONE: v} if isinstance(v, str) else by_text(v)),
]


class Loader(yaml.SafeLoader):
    """YAML whose numbers and dates stay texts as written, for the option's type to read."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the name is yaml's
        first: [(tag, form) for tag, form in forms if tag.endswith((":bool", ":null", ":merge"))]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                said = f"the key {key.value} is given twice"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
        return super().construct_mapping(node, deep)


class JobOptions(ResampleOptions, FitOptions):
    """One run of the job: inputs, output, and everything that decides the selection.

    Places are paths or table names. A single target is the one named `target`, whose columns carry
    no name.
    """

    raw: Text | None = _input(
        None, "Raw corpus: a path or schema.table.", "a path or a table name",
        needed=("run", "fit", "select"))
    raw_format: Format | None = _input(None, "Of raw, if names do not tell.")
    where: Predicate | None = _input(
        None, "Spark SQL predicate on raw's columns: the rest is left out.",
        "a predicate of Spark SQL on raw's columns")
    target: Targets = _input(
        {}, "Target sample: a path or table; several with names are separate targets.",
        "a path or table, or a mapping of names to them", needed=("run", "fit"))
    target_format: Format | None = _input(None, "Of the targets, if names do not tell.")
    held_out: Annotated[Number, Field(ge=0, lt=1)] | Literal["auto"] = option(
        "auto", "Share of each target that is not fitted on, by the hash of its texts: the report "
        "shows how well a compressor predicts it after the selection. auto: a tenth where a target "
        "has 1,000 documents or more.", "auto or a share from 0 to below 1",
        commands=("run", "fit"))
    decontaminate: Text | None = option(
        None, "Texts that you evaluate on: documents that share an n-gram with one are no "
        "candidates.", "a path or a table name", commands=_WEIGHING)
    decontaminate_ngram: Whole = option(
        13, "Tokens of such an n-gram.", "a whole number >= 1", commands=_WEIGHING, ge=1)
    output: Text | None = option(
        None, "Where the tables go: a path or catalog.schema.", "a path or a schema",
        commands=_ALL, needed=_ALL)
    keep: Columns = option(
        (), "Columns of raw to keep in the table of weights or scores.", "a list of column names",
        commands=("run", "weigh", "select"))
    check_ids: bool = option(
        True, "Refuse ids that occur twice (shuffles hashes of ids).",
        commands=("run", "weigh", "select"))
    whole_documents: Number | None = _resample(
        None, "With chunks: also write documents of which this share was selected.",
        "a share of chunks above 0, to 1", gt=0, le=1)
    overwrite: bool = option(
        False, "Replace tables of an earlier run.", commands=("run", "fit", "weigh", "select"))
    incremental: bool = option(
        False, "Where the table is there: add what came to raw since it was written, and no more.",
        commands=("fit", "weigh"))
    checkpoints: Text | None = option(
        None, "Where streams of incremental keep what they were to read; else in the folder of the "
        "table, which catalogs may not allow.", "a path", commands=("fit", "weigh"))
    rejected: Whole | None = _selecting(
        None, "Also write the table `rejected`: up to so many rows of each stage of the funnel, by "
        "a hash of their ids, with the reason and its number.", "a whole number of rows >= 1", ge=1)
    report: bool = _selecting(True, "Write the report page at the end.")
    examples: bool = _selecting(True, "Show texts and n-grams in the report.")

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any], command: str | None = None) -> Self:
        """Options by name, of a YAML file and flags; those that the command needs must be there.

        Raises
        ------
        ConfigError
            As `checked`, and listing what is missing.
        """
        needed = [n for n, f in cls.model_fields.items() if command in extra(f, "needed")]
        return cls._read(options, lambda o: o.contradictions(None)
                         + o._missing(needed, command in SELECTING))

    def require(self, *names: str, budget: bool = False) -> None:
        """Raise a `ConfigError` that lists those of the options that are not given.

        budget : is a budget needed too?
        """
        if found := self._missing(names, budget):
            raise ConfigError.from_problems(found)

    def _missing(self, names: Sequence[str], budget: bool) -> list[str]:
        found = [f"--{name} is missing: give it as a flag or in the config"
                 for name in names if not getattr(self, name)]
        if budget and self.num_to_sample is None and not self.sized:
            found.append("--num-to-sample is missing: give it, or --num-tokens-to-sample, as a "
                         "flag or in the config")
        return found

    @property
    def single_target(self) -> bool:
        """Is there one target without a name of its own?"""
        return tuple(self.target) == ("target",)

    @property
    def given(self) -> set[str]:
        """Names of the options that were given and not defaulted."""
        return self.model_fields_set

    def contradictions(self, names: tuple[str, ...] | None) -> list[str]:
        """See `Options.contradictions`; the targets' names are among the options."""
        own = tuple(self.target)
        found = target_name_problems(own) + super().contradictions(own or names)
        usual = JobOptions.model_fields["decontaminate_ngram"].default
        if self.decontaminate is None and self.decontaminate_ngram != usual:
            found.append("decontaminate_ngram is for decontaminate: give the texts too")
        if self.incremental and self.overwrite:
            found.append("incremental adds to a table, overwrite replaces it: give one of them")
        if self.whole_documents is not None and self.chunk_words is None:
            found.append("whole_documents is for chunks: give chunk_words")
        if self.method != "match":
            found += [
                f"{name} is for method match; method is {self.method!r}"
                for name in ("match_steps", "match_tokens")
                if name in self.given
            ]
        elif "method" in self.given or self.budget:  # not of a mere fit
            found += [
                f"{name} is for methods sample and top_k; match goes by the target's own counts"
                for name in ("target_laplace_smoothing", "target_dirichlet_smoothing")
                if name in self.given and getattr(self, name) != 0
            ]
        return found


class SelectJobOptions(ScoreOptions, JobOptions):  # type: ignore[misc]
    """One run of the command `select`."""

    score: Scores = _score(
        {}, "Spark SQL over the columns of raw (or of scores), a number for each row, the larger "
        "the better; several with names share the budget.",
        "an expression of Spark SQL, or a mapping of names to them")
    scores: Text | None = _score(
        None, "A table of ids with scores: its rows are what is selected from, its columns what "
        "all options name; raw's rows are found by id.", "a path or a table name")
    scores_format: Literal["delta", "parquet", "json", "csv"] | None = _score(
        None, "Of scores, if names do not tell.")
    copies_column: Text | None = _score(
        None, "A column that is equal for copies (the text, or a hash of it): see duplicates.",
        _COLUMN)

    @property
    def names(self) -> tuple[str | None, ...]:
        """Of the scores; None for a single one without a name."""
        return (None,) if tuple(self.score) in ((), (ALONE,)) else tuple(self.score)

    def contradictions(self, names: tuple[str, ...] | None) -> list[str]:
        """See `Options.contradictions`; the scores' names are among the options."""
        own = tuple(self.score)
        named = names if self.names == (None,) else own
        found = target_name_problems(own) + super().contradictions(named)
        if (self.group_share == "target") != bool(self.target) or len(self.target) > 1:
            found.append("group_share target and one --target belong together: give both or none")
        if not self.score and self.method != "random":
            found.append("--score is missing: give it as a flag or in the config")
        if self.proportions is not None and self.names == (None,):
            found.append("proportions are shares of scores with names: give --score NAME=EXPR for "
                         "each, or leave proportions out")
        if self.id_column is None:
            found.append("select needs an id_column")
        found += [
            f"{name} is for {other}: give {other} too" for name, other in _ONLY_WITH.items()
            if name in self.given and getattr(self, name) is not None and not getattr(self, other)
        ]
        fields = type(self).model_fields
        return found + [
            f"{name} is no option of select" for name in sorted(self.given)
            if "select" not in extra(fields[name], "commands")
        ]
