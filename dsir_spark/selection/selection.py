"""The outcome: for each target a cut, from which membership of a row follows by its own columns.

With quotas there are two more cuts for each of their values. Copies and rows above `max_per_group`
are the exception: they are found from all rows.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import TARGET, quoted
from dsir_spark.options import ResampleOptions, SelectOptions
from dsir_spark.selection import copies, cuts, groups, keys, quotas
from dsir_spark.selection.allocation import FOR, Rule
from dsir_spark.selection.cuts import KEY, Cut
from dsir_spark.selection.pool import (
    CANDIDATE,
    COPY,
    ID,
    KEYS,
    NOISE,
    RANKS,
    SIZE,
    VALUE,
    Pool,
    group,
    with_keys,
)
from dsir_spark.selection.quotas import Quota

LOSER = "__dsir_loser"  # id of a row that reaches a cut and is not selected
_BROADCAST_IDS = 5_000_000
_FACTS = ("cuts", "quotas", "temperatures", "num_documents", "size", "funnel")


@dataclass(frozen=True)
class Selection:
    """Which rows are selected, as a predicate on the columns that the pool names.

    Selections are equal that have equal facts, whatever the pool's expressions.

    cuts : of each target, among its candidates outside the quotas' floors and caps
    quotas : of each target, for each value with a quota
    temperatures : of each target
    num_documents : rows selected for each target
    size : sum of sizes selected for each target, where the budget is one of sizes
    funnel : rows read, those that left at each stage, candidates, selected
    """

    pool: Pool = dataclasses.field(compare=False)
    options: SelectOptions
    cuts: tuple[Cut, ...]
    quotas: tuple[tuple[Quota, ...], ...]
    temperatures: tuple[float, ...]
    num_documents: tuple[int, ...]
    size: tuple[int, ...] | None
    funnel: dict[str, int]
    # Values that occur more than once, or ids of all copies and rows above the limit, as far as
    # they are known; found again where the selection comes from a record.
    repeated: DataFrame | None = dataclasses.field(default=None, compare=False, repr=False)
    losers: DataFrame | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def targets(self) -> tuple[str | None, ...]:
        """Names in the caller's order, or (None,)."""
        return self.pool.targets

    @property
    def num_selected(self) -> int:
        """Rows selected, over all targets."""
        return sum(self.num_documents)

    def is_candidate(self) -> Column:
        """Could the row be selected, by itself (copies and groups apart)?"""
        return self.pool.stage(self.options.sized) == F.lit(CANDIDATE)

    def ranks(self) -> list[Column]:
        """What a row is ranked by for each target, before noise."""
        return self.pool.ranks(self.temperatures)

    def keys(self) -> list[Column]:
        """The key of a row for each target."""
        noise = keys.noise(self.pool.noise, self.options.seed, self.pool.ids)
        return [rank + noise for rank in self.ranks()]

    def filter(self, frame: DataFrame, rows: DataFrame | None = None) -> DataFrame:
        """Rows of a frame that are selected; with several targets, `target` is added.

        Parameters
        ----------
        frame : has the columns that the pool's expressions need
        rows : the table that the selection was found from; needed where copies are dropped or
            groups are limited
        """
        columns = [quoted(c) for c in frame.columns]
        chosen = self._placed(frame).where(F.col(FOR).isNotNull())
        if self.has_losers:
            losers = self.losers
            if losers is None:
                if rows is None:
                    raise ValueError("copies and groups are found from all rows: give them as rows")
                losers = self._losers(rows)
            few = self.funnel["duplicate_text"] + self.funnel["over_max_per_group"]
            losers = F.broadcast(losers) if few <= _BROADCAST_IDS else losers
            chosen = chosen.join(losers, F.col(ID) == F.col(LOSER), "left_anti")
        if self.targets == (None,):
            return chosen.select(*columns)
        names = F.array(*[F.lit(t) for t in self.targets])
        return chosen.select(*columns, names[F.col(FOR)].alias(TARGET))

    def rejected(self, frame: DataFrame) -> DataFrame:
        """Candidates of a frame that no target takes, whatever copies and groups say."""
        columns = [quoted(c) for c in frame.columns]
        return self._placed(frame).where(F.col(FOR).isNull()).select(*columns)

    def _keyed(self, frame: DataFrame) -> DataFrame:
        """Candidates with ID and KEYS."""
        noise = keys.noise(self.pool.noise, self.options.seed, self.pool.ids).alias(NOISE)
        ranks = F.array(*self.ranks()).alias(RANKS)
        extra = []
        if any(self.quotas):
            extra = [quoted(str(self.options.quota_column)).cast("string").alias(VALUE)]
        own = frame.where(self.is_candidate())
        named = own.select("*", self.pool.ids.alias(ID), noise, ranks, *extra)
        return with_keys(named, len(self.targets))

    def _placed(self, frame: DataFrame) -> DataFrame:
        """Candidates with FOR, the position of the target that each would go to, or null."""
        keyed = self._keyed(frame)
        if not any(self.quotas):
            rule = Rule(self.targets, (), self.options.sized, self.options.allocation == "joint")
            return keyed.withColumn(FOR, rule.choice(self.cuts, F.col(KEYS), F.col(ID)))
        return quotas.placed(keyed, self.cuts, self.quotas)

    @property
    def has_losers(self) -> bool:
        """Are there copies or rows above `max_per_group`, which rows alone do not show?"""
        dropped = self.pool.drops_copies(self.options) and self.funnel["duplicate_text"] > 0
        return dropped or self.funnel["over_max_per_group"] > 0

    def _repeated_among(self, candidates: DataFrame) -> DataFrame | None:
        if not self.pool.drops_copies(self.options) or not self.funnel["duplicate_text"]:
            return None
        if self.repeated is None:
            n = self.funnel["candidates"] + self.funnel["duplicate_text"]
            value = quoted(str(self.pool.copies)).alias(COPY)
            named = candidates.select(self.pool.ids.alias(ID), value)
            object.__setattr__(self, "repeated", copies.repeated(named, n))
        return self.repeated

    def _losers(self, rows: DataFrame) -> DataFrame:
        """LOSER: ids of rows that reach a cut, but are copies, or too many of a group."""
        ids, own = self.pool.ids, rows.columns
        candidates = rows.where(self.is_candidate())
        found, kept = [], candidates
        repeated = self._repeated_among(candidates)
        if repeated is not None:
            copy = F.coalesce(ids > F.col(copies.FIRST), F.lit(False))
            same = quoted(str(self.pool.copies)) == F.col(COPY)
            reaching = self._placed(rows).where(F.col(FOR).isNotNull())
            found.append(reaching.join(repeated, same).where(copy).select(ids))
            kept = candidates.join(repeated, same, "left").where(~copy)
            kept = kept.select(*[quoted(c) for c in own])
        if self.funnel["over_max_per_group"] > 0:
            # Of all candidates: the better ones of a group may be selected for no target.
            if self.pool.ids_from_content:
                kept = kept.dropDuplicates([self.pool.id_column])
            most = int(self.options.max_per_group or 0)
            over = groups.limited(
                self._placed(kept), group(self.options), most,
                F.array_max(KEYS), ids,
            ).where(F.col(groups.OVER_LIMIT) & F.col(FOR).isNotNull())  # fmt: skip
            found.append(over.select(ids))
        return reduce(lambda a, b: a.union(b), found).toDF(LOSER)

    def uniform_key(self) -> Column:
        """Key of a uniform random subset of the candidates: noise of a seed of its own, independent
        of the selection's."""
        return keys.uniform(self.options.seed ^ 0x5DEECE66D, self.pool.ids)

    def uniform_cuts(self, rows: DataFrame, sizes: Sequence[int]) -> list[Cut]:
        """The cuts of uniform random subsets of the candidates, by `uniform_key`.

        Parameters
        ----------
        rows : the table that the selection was found from
        sizes : rows of each subset, or, where the budget is one of sizes, sums of them
        """
        columns = [self.pool.ids.alias(ID), self.uniform_key().alias(KEY)]
        if self.options.sized:
            columns.append(self.pool.whole_size().alias(SIZE))
        own = rows.where(self.is_candidate()).select(*columns)
        if self.pool.ids_from_content:
            own = own.dropDuplicates([ID])
        return cuts.exact_cuts(own, [(0, size) for size in sizes], self.options.sized)

    def effective_sample_size(
        self, rows: DataFrame, scores: Mapping[str | None, Column] | None = None
    ) -> dict[str | None, float]:
        """(sum w)^2 / sum w^2 over the candidates, in rows, for each target (Kish).

        w is exp of what is ranked by, temperature included, or of other scores (nats).
        """
        weights = self.ranks() if scores is None else list(scores.values())
        pairs = [
            F.struct(F.lit(t).alias("at"), w.cast("double").alias("w"))
            for t, w in enumerate(weights)
        ]
        pool = rows.where(self.is_candidate()).select(F.explode(F.array(*pairs)).alias("p"))
        # Sums of weights of about the same height, so that none overflows; one pass.
        height = F.floor(F.col("p.w") / F.lit(64.0)).alias("height")
        scaled = F.exp(F.col("p.w") - F.floor(F.col("p.w") / F.lit(64.0)) * F.lit(64.0))
        sums = pool.groupBy("p.at", height).agg(F.sum(scaled), F.sum(scaled * scaled)).collect()
        found = {}
        for t, name in enumerate(self.targets):
            own = [row[1:] for row in sums if row[0] == t]
            top = max((height for height, _, _ in own), default=0)
            # Far below the top a weight is 0 beside it.
            total = sum(s * math.exp(64.0 * (h - top)) for h, s, _ in own)
            squares = sum(q * math.exp(128.0 * (h - top)) for h, _, q in own)
            found[name] = total**2 / squares if squares else 0.0
        return found

    def to_json(self) -> str:
        """All facts of the selection; the pool's expressions are the caller's to make again."""
        facts = {
            name: [dataclasses.asdict(c) for c in self.cuts] if name == "cuts"
            else [[dataclasses.asdict(q) for q in own] for own in self.quotas] if name == "quotas"
            else getattr(self, name)
            for name in _FACTS
        }  # fmt: skip
        facts |= {
            "targets": self.targets,
            "options": self.options.model_dump(),
            "id_column": self.pool.id_column,
            "ids_from_content": self.pool.ids_from_content,
        }
        return json.dumps(facts)

    @classmethod
    def from_json(cls, text: str, pool: Pool) -> Selection:
        """The selection that `to_json` wrote, of a pool of the same expressions."""
        facts = json.loads(text)

        def cut(found: dict[str, Any] | None) -> Any:
            return None if found is None else Cut(**found)

        options = facts["options"]
        kind = ResampleOptions if "min_example_length" in options else SelectOptions
        known = {k: v for k, v in options.items() if k in kind.model_fields}
        return cls(
            pool, kind.checked(known),
            tuple(cut(found) for found in facts["cuts"]),
            tuple(
                tuple(Quota(q["value"], cut(q["floor"]), cut(q["cap"])) for q in own)
                for own in facts["quotas"]
            ),
            tuple(facts["temperatures"]), tuple(facts["num_documents"]),
            None if facts["size"] is None else tuple(facts["size"]), facts["funnel"],
        )  # fmt: skip
