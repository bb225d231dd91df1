"""How rows that came to raw are added to a table that was made of it, and changed ones followed.

One commit with a record: for a model its counts anew, for weights the new rows alone, or where rows
changed all of them, of which those that stay are not weighed again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from dsir_spark import failures, tables
from dsir_spark.changes import CHANGE, VERSION
from dsir_spark.columns import quoted
from dsir_spark.dsir import DSIRModel
from dsir_spark.errors import DataError, DSIRError, TableError
from dsir_spark.features import NgramCounts
from dsir_spark.inputs import refuse_repeated
from dsir_spark.job_options import JobOptions
from dsir_spark.preflight import weighed
from dsir_spark.resampling import SENT_IDS
from dsir_spark.scoring import stored
from dsir_spark.scoring.counts import count
from dsir_spark.scoring.documents import documents, spec_of

_CAME, _WENT = ("insert", "update_postimage"), ("delete", "update_preimage")
_OF, _AT = "__dsir_of", "__dsir_at"


@dataclass(frozen=True)
class Adding:
    """Adds rows of raw to a table; it may be sent to a server, and so knows no session.

    raw : its identity, with the new rows
    where : predicate on its rows
    place : of the table
    base : the table as it was, which the rows are added to
    record : of the commit
    """

    raw: Mapping[str, Any]
    where: str | None
    place: str
    base: tables.Version
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict, kw_only=True)

    def __call__(self, batch: DataFrame, number: int) -> None:
        """Add the batch of a stream, which has to end where raw did when it was opened."""
        if number and batch.isEmpty():  # maintenance of raw gives batches of nothing
            return
        now = tables.delta_version(batch.sparkSession, self.raw["place"])
        if number or now is None or now.data != self.raw["delta_version"]:
            raise DataError(f"rows came to {self.raw['place']} while new ones were looked for: run "
                            "again")  # fmt: skip
        try:
            self.add(self.kept(batch))
        except DSIRError:
            raise
        except Exception as error:
            # Here, where it is still known what it was: a stream ends with a text.
            if (said := failures.told(error)) is None:
                raise
            raise DataError(said) from None

    def add(self, rows: DataFrame) -> None:
        """Add rows that came, of those that `where` keeps."""
        raise NotImplementedError

    def change(self, feed: DataFrame) -> None:
        """Follow rows that came, went or changed, by the change data feed.

        Raises
        ------
        TableError
            It is not known which rows of the table they are.
        """
        raise NotImplementedError

    def kept(self, rows: DataFrame) -> DataFrame:
        """The rows that `where` keeps."""
        return rows if self.where is None else rows.where(self.where)


@dataclass(frozen=True)
class Fitting(Adding):
    """Adds counts to raw's of a model."""

    model: DSIRModel = dataclasses.field(kw_only=True)

    def add(self, rows: DataFrame) -> None:
        self._write(rows, came=rows)

    def change(self, feed: DataFrame) -> None:
        came, went = (self.kept(feed).where(F.col(CHANGE).isin(*k)) for k in (_CAME, _WENT))
        self._write(feed, came=came, went=went)

    def _write(self, of: DataFrame, **frames: DataFrame) -> None:
        config, raw = self.model.config, self.model.raw
        if config.chunk_words is not None:
            frames = {name: documents(frame, config) for name, frame in frames.items()}
        counted = count(frames, config.text_column, spec_of(config))
        for name, found in counted.items():
            sign = 1 if name == "came" else -1
            parts = zip(vars(raw).values(), vars(found).values(), strict=True)
            raw = NgramCounts(*(a + sign * b for a, b in parts))
        model = dataclasses.replace(self.model, raw=raw)
        record = {**self.record, "model_fingerprint": model.fingerprint}
        frame = stored.as_frame(model, of.sparkSession)
        tables.write(frame, self.place, overwrite=True, record=record)


@dataclass(frozen=True)
class Weighing(Adding):
    """Adds rows to weights, made by the options that those were made by that are there."""

    model: DSIRModel = dataclasses.field(kw_only=True)
    options: JobOptions = dataclasses.field(kw_only=True)

    def refuse_unlike(self, rows: DataFrame, weights: DataFrame) -> None:
        """Raise a `TableError` where new rows have other columns than those that are there."""
        frames = (weighed(self.model, rows, self.options), weights)
        new, old = (dict(frame.dtypes) for frame in frames)
        differences = [
            f"{name} was {old.get(name, 'not there')} and is {new.get(name, 'not there')}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        ]
        if differences:
            raise TableError(f"the new weights do not fit to those at {self.place}: "
                             f"{', '.join(differences)}; run `weigh --overwrite`")  # fmt: skip

    def add(self, rows: DataFrame) -> None:
        spark = rows.sparkSession
        self._refuse_known(rows, tables.read(spark, self.place, version=self.base.latest))
        now = tables.delta_version(spark, self.place)
        if now is None or now.data != self.base.data:
            raise TableError(f"another run wrote {self.place} meanwhile: run again")
        # Of two from now on the later is refused, or skipped as made already: Delta does not say
        # so, and who looks at the record sees whose it is.
        tables.append(weighed(self.model, rows, self.options), self.place, self.record,
                      txnAppId="dsir_spark", txnVersion=self.base.latest)  # fmt: skip

    def change(self, feed: DataFrame) -> None:
        own = self.model.config.id_column
        if own is None:
            raise TableError("ids are made from the texts, of which copies have the same: which of "
                             "them went is not known")  # fmt: skip
        old = tables.read(feed.sparkSession, self.place, version=self.base.latest)
        went, feed = F.col(CHANGE).isin(*_WENT), self.kept(feed)
        events = feed.select(quoted(own).alias(_OF), VERSION, went.alias("went"))
        if not events.where(F.col("went") & F.col(_OF).isNull()).isEmpty():
            raise TableError("rows without an id went, and which is not known")
        if self.options.check_ids:
            self._refuse_doubled(events, old)
        of = quoted(own) == F.col(_OF)
        last = events.groupBy(_OF).agg(F.max(VERSION).alias(_AT))
        new = weighed(self.model, feed.where(~went), self.options, VERSION).join(last, of, "left")
        new = new.where(quoted(own).isNull() | (F.col(VERSION) == F.col(_AT)))
        stays = old.join(events.where("went").select(_OF).distinct(), of, "left_anti")
        frame = stays.unionByName(new.drop(VERSION, _OF, _AT))
        tables.write(frame, self.place, overwrite=True, record=self.record)

    def _refuse_known(self, rows: DataFrame, old: DataFrame) -> None:
        """Raise a `DataError` where an id comes twice, or is there already."""
        own = self.model.config.id_column
        if own is None or not self.options.check_ids:
            return
        new = rows.select(quoted(own).alias("id"))
        sent = F.broadcast(new) if new.count() <= SENT_IDS else new
        there = old.select(quoted(own).alias("id")).join(sent, "id", "left_semi").distinct()
        refuse_repeated(new.union(there), own, "raw")

    def _refuse_doubled(self, events: DataFrame, old: DataFrame) -> None:
        """The same after each commit of a feed."""
        own = str(self.model.config.id_column)
        step = F.when(F.col("went"), -1).otherwise(1).alias("n")
        there = old.select(quoted(own).alias("id"), F.lit(-1).alias(VERSION), F.lit(1).alias("n"))
        steps = events.select(F.col(_OF).alias("id"), VERSION, step)
        first = there.join(steps, "id", "left_semi").distinct()  # chunks have their document's id
        by_version = steps.union(first).groupBy("id", VERSION).agg(F.sum("n").alias("n"))
        so_far = F.sum("n").over(Window.partitionBy("id").orderBy(VERSION))
        twice = by_version.select("id", so_far.alias("n")).where("n > 1").select("id").distinct()
        refuse_repeated(twice.union(twice), own, "raw")
