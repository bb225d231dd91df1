"""The outcome: for each target a cut, from which membership of a row follows by its own columns.

With quotas there are two more cuts for each of their values. Copies and rows above `max_per_group`
are the exception: they are found from all rows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import get_type_hints

from pydantic import TypeAdapter
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import COPIES, TARGET, as_text, comparable, quoted
from dsir_spark.options import ResampleOptions, SelectOptions
from dsir_spark.score_options import ScoreOptions
from dsir_spark.selection import copies, keys
from dsir_spark.selection.allocation import Rule
from dsir_spark.selection.cuts import Cut
from dsir_spark.selection.pool import (
    CANDIDATE,
    COPY,
    FOR,
    ID,
    NOISE,
    RANKS,
    VALUE,
    Pool,
    with_keys,
)
from dsir_spark.selection.quotas import Quotas, Repeat, most_copies, placed, taken_of, with_copies

LOSER = "__dsir_loser"  # id of a row that reaches a cut and is not selected
LOST_AT = "__dsir_lost_at"  # the stage at which it left
_BROADCAST_IDS = 5_000_000
_FACTS = ("cuts", "quotas", "temperatures", "funnel")


@dataclass(frozen=True)
class Selection:
    """Which rows are selected, as a predicate on the columns that the pool names.

    Selections are equal that have equal facts, whatever the pool's expressions.

    cuts : of each target, among its candidates outside the quotas' floors and caps
    quotas : of each target, for each value with a quota
    temperatures : of each target
    funnel : rows read, those that left at each stage, candidates, selected
    repeats : what is selected more than once
    losers : ids of copies and rows above `max_per_group` that reach a cut (and perhaps more), as
        LOSER, and LOST_AT; found again where the selection comes from a record
    """

    pool: Pool = dataclasses.field(compare=False)
    options: SelectOptions
    cuts: tuple[Cut, ...]
    quotas: tuple[Quotas, ...]
    temperatures: tuple[float, ...]
    funnel: dict[str, int]
    repeats: tuple[Repeat, ...] = ()
    losers: DataFrame | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def targets(self) -> tuple[str | None, ...]:
        """Names in the caller's order, or (None,)."""
        return self.pool.targets

    def _lists(self) -> list[list[Cut]]:
        """Of each target, the cuts of the lists that it takes."""
        return [[cut, *(q.floor for q in own)]
                for cut, own in zip(self.cuts, self.quotas, strict=True)]  # fmt: skip

    @property
    def num_documents(self) -> tuple[int, ...]:
        """Rows selected for each target."""
        return tuple(sum(c.num_documents for c in own) for own in self._lists())

    @property
    def size(self) -> tuple[int, ...] | None:
        """Sum of sizes selected for each target, where the budget is one of sizes."""
        if not self.options.sized:
            return None
        return tuple(sum(c.size or 0 for c in own) for own in self._lists())

    @property
    def num_selected(self) -> int:
        """Rows selected, over all targets."""
        return sum(self.num_documents)

    @property
    def amount(self) -> int:
        """What is selected of the budget, repetitions included."""
        once, sized = sum(self.size or self.num_documents), self.options.sized
        own = self.quotas[0]
        return once + taken_of(own, self.repeats, sized) - taken_of(own, (), sized)

    @property
    def repeats_rows(self) -> bool:
        """May a row be selected more than once?"""
        return most_copies(self.options) > 1

    def is_candidate(self) -> Column:
        """Could the row be selected, by itself (copies and groups apart)?"""
        return self.pool.stage(self.options.sized) == F.lit(CANDIDATE)

    def ranks(self) -> list[Column]:
        """What a row is ranked by for each target, before noise."""
        return self.pool.ranks(self.temperatures)

    def keys(self) -> list[Column]:
        """The key of a row for each target."""
        noise = self.noise()
        return [rank + noise for rank in self.ranks()]

    def key_for(self, target: Column) -> Column:
        """The key of a row for the target at a position (int, from 0)."""
        return F.array(*self.ranks())[target] + self.noise()

    def noise(self) -> Column:
        """What is added to a row's ranks."""
        return keys.noise(self.pool.noise, self.options.seed, self.pool.ids)

    def filter(self, frame: DataFrame, rows: DataFrame | None = None) -> DataFrame:
        """Rows of a frame that are selected; with several targets, `target` is added, and where
        they may be repeated, `copies`, how often.

        Parameters
        ----------
        frame : has the columns that the pool's expressions need
        rows : the table that the selection was found from; needed where copies are dropped or
            groups are limited
        """
        columns = [quoted(c) for c in frame.columns]
        chosen = self._placed(frame).where(F.col(FOR).isNotNull())
        if self.has_losers:
            if self.losers is None:
                if rows is None:
                    raise ValueError("copies and groups are found from all rows: give them as rows")
                object.__setattr__(self, "losers", self.with_losers(rows).losers)  # found once
            losers: DataFrame = self.losers  # type: ignore[assignment]
            few = self.funnel["duplicate_text"] + self.funnel["over_max_per_group"]
            losers = F.broadcast(losers) if few <= _BROADCAST_IDS else losers
            chosen = chosen.join(losers, F.col(ID) == F.col(LOSER), "left_anti")
        if self.targets != (None,):
            columns.append(F.array(*map(F.lit, self.targets))[F.col(FOR)].alias(TARGET))
        if self.repeats_rows:
            chosen = with_copies(chosen, self.repeats)
            columns.append(F.col(COPIES))
        return chosen.select(*columns)

    def rejected(self, frame: DataFrame) -> DataFrame:
        """Candidates of a frame that no target takes, whatever copies and groups say."""
        columns = [quoted(c) for c in frame.columns]
        return self._placed(frame).where(F.col(FOR).isNull()).select(*columns)

    def _placed(self, frame: DataFrame) -> DataFrame:
        """Candidates with ID, KEYS and FOR, the position of the target that each would go to, or
        null."""
        ranks = F.array(*self.ranks()).alias(RANKS)
        own = [self.pool.ties.alias(ID), self.noise().alias(NOISE), ranks]
        if any(self.quotas):
            own.append(as_text(frame, str(self.options.quota_column)).alias(VALUE))
        keyed = with_keys(frame.where(self.is_candidate()).select("*", *own), len(self.targets))
        rule = Rule(self.targets, (), self.options.sized, self.options.allocation == "joint")
        return placed(keyed, rule, self.cuts, self.quotas)

    @property
    def has_losers(self) -> bool:
        """Are there copies or rows above `max_per_group`, which rows alone do not show?"""
        dropped = self.pool.drops_copies(self.options) and self.funnel["duplicate_text"] > 0
        return dropped or self.funnel["over_max_per_group"] > 0

    def after(self, dropped: Mapping[str, int]) -> Selection:
        """With the rows, by stage, that were read and are not in the table selected from."""
        read = self.funnel["read"] + sum(dropped.values())
        return dataclasses.replace(self, funnel={**self.funnel, "read": read, **dropped})

    def with_losers(self, rows: DataFrame, repeated: DataFrame | None = None) -> Selection:
        """With `losers`, if there are any and they are not known; found when they are read.

        Parameters
        ----------
        rows : the table that the selection was found from
        repeated : `copies.repeated` of it, where copies are dropped and it is known
        """
        if not self.has_losers or self.losers is not None:
            return self
        ids, candidates = quoted(self.pool.id_column), rows.where(self.is_candidate())
        found, kept = [], candidates
        drops = self.pool.drops_copies(self.options)
        value = comparable(rows, str(self.pool.copies)) if drops else F.lit(None)
        dropped = drops and self.funnel["duplicate_text"]
        if repeated is None and dropped:
            own = candidates.select(ids.alias(ID), value.alias(COPY))
            repeated = copies.repeated(own, self.funnel["candidates"] + dropped)
        if repeated is not None:
            reaching = self._placed(rows).where(F.col(FOR).isNotNull())
            copied = reaching.join(repeated, value == F.col(COPY)).where(copies.is_copy(ids))
            found.append(copied.select(self.pool.ties, F.lit("duplicate_text")))
            kept = candidates.join(repeated, value == F.col(COPY), "left")
            kept = kept.where(~copies.is_copy(ids)).select(*[quoted(c) for c in rows.columns])
        if self.funnel["over_max_per_group"] > 0:
            # Of all candidates: the better ones of a group may be selected for no target.
            if self.pool.ids_from_content:
                kept = kept.dropDuplicates([self.pool.id_column])
            most = int(self.options.max_per_group or 0)
            group = as_text(rows, str(self.options.group_column))
            over = copies.limited(self._placed(kept), group, most)
            over = over.where(F.col(copies.OVER_LIMIT) & F.col(FOR).isNotNull())
            found.append(over.select(self.pool.ties, F.lit("over_max_per_group")))
        losers = reduce(DataFrame.union, found).toDF(LOSER, LOST_AT)
        return dataclasses.replace(self, losers=losers)

    def uniform_key(self) -> Column:
        """Key of a uniform random subset of the candidates: noise of a seed of its own, independent
        of the selection's."""
        return keys.uniform(self.options.seed ^ 0x5DEECE66D, self.pool.ids)

    def to_json(self) -> str:
        """All facts of the selection; the pool's expressions are the caller's to make again."""
        facts = {name: getattr(self, name) for name in (*_FACTS, "num_documents", "size")} | {
            "targets": self.targets,
            "options": self.options.model_dump(),
            "id_column": self.pool.id_column,
            "ids_from_content": self.pool.ids_from_content,
        } | ({"repeats": self.repeats} if self.repeats else {})
        return json.dumps(facts, default=dataclasses.asdict)

    @classmethod
    def from_json(cls, text: str, pool: Pool) -> Selection:
        """The selection that `to_json` wrote, of a pool of the same expressions."""
        facts, kinds = json.loads(text), get_type_hints(cls)
        given = facts["options"]
        told_by: dict[str, type[SelectOptions]]
        told_by = {"lower_is_better": ScoreOptions, "min_example_length": ResampleOptions}
        kind = next((told_by[name] for name in told_by if name in given), SelectOptions)
        options = kind.checked({k: v for k, v in given.items() if k in kind.model_fields})
        own = {name: TypeAdapter(kinds[name]).validate_python(facts[name]) for name in _FACTS}
        repeats = TypeAdapter(kinds["repeats"]).validate_python(tuple(facts.get("repeats", ())))
        return cls(pool, options, **own, repeats=repeats)
