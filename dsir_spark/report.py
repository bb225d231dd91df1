"""What was selected, and why, as text: funnel, KL reduction, composition, examples."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dsir_spark import checks, cuts, job, tables
from dsir_spark.checks import visible
from dsir_spark.columns import check_column, quoted
from dsir_spark.dsir import DSIRModel
from dsir_spark.errors import TableError
from dsir_spark.resample import NUM_TOKENS, TARGET, Selection, column_name

# Shown where there are any.
_LOSSES = {
    "filtered": "- left out by `where`",
    "quality_length": "- quality: length",
    "quality_repeating": "- quality: repetition",
    "quality_informative": "- quality: information",
    "quality_numeric": "- quality: digits",
    "without_size": "- without a size",
    "over_max_per_group": "- over max_per_group",
}
KEY = "__key"
_WIDTH = 96
_EXCERPT = 240  # characters of a document shown


@dataclass(frozen=True)
class Example:
    """A document shown: where it stands, and its numbers."""

    place: str
    id: Any
    key: float
    log_weight: float
    num_tokens: int
    text: str


def report(
    spark: SparkSession, output: str, composition: Sequence[str] = (), examples: int = 3
) -> str:
    """The report of the latest selection under `output`.

    Parameters
    ----------
    composition : columns of raw whose values are counted before and after
    examples : documents shown from the top, the middle and just below the cut, for each target

    Raises
    ------
    TableError
        There is no finished selection under `output`, or its raw table is gone or changed.
    ColumnError
        A column of `composition` is not in raw.
    """
    facts = latest_selection(spark, output)
    raw = recorded_raw(spark, facts)
    model = DSIRModel.load(
        tables.within(output, job.MODEL), spark=spark, version=facts["model_version"]
    )
    parts = [summary(facts)]
    parts += [_composition(spark, output, facts, raw, name) for name in composition]
    if examples > 0:
        selection = job.selection_from_json(facts["selection"])
        parts += [
            _examples_text(name, found)
            for name, found in _examples(spark, output, facts, raw, model, selection, examples)
        ]
    return "\n\n".join(parts)


def latest_selection(spark: SparkSession, output: str) -> dict[str, Any]:
    """The row of `runs` of the latest run that selected, as a dict.

    Raises
    ------
    TableError
        There is none.
    """
    runs = tables.within(output, job.RUNS)
    if not tables.exists(spark, runs):
        raise TableError(f"there is no run at {runs}: use `dsir-spark run` first")
    row = (
        tables.read(spark, runs, "delta")
        .where(F.col("selected_version").isNotNull())
        .orderBy(F.col("started_at").desc())
        .first()
    )
    if row is None:
        raise TableError(f"no run at {runs} has selected anything yet: use `dsir-spark resample`")
    return dict(row.asDict(recursive=True))


def recorded_raw(spark: SparkSession, facts: Mapping[str, Any]) -> DataFrame:
    """Raw as a run read it, without what its `where` left out; refused where it changed since."""
    recorded = json.loads(facts["raw"])
    where = json.loads(facts["config"]).get("where")
    kind = recorded["format"]
    own_kind = None if kind == "table" else kind
    if "delta_version" in recorded:
        version = recorded["delta_version"]
        frame = tables.read(spark, recorded["place"], kind, "raw", version=version)
        return frame if where is None else frame.where(where)
    found = job.open_input(spark, recorded["place"], own_kind, "raw", where)
    if found.identity != recorded:
        raise TableError(
            f"the files of raw at {recorded['place']} changed since the run: run again"
        )
    return found.frame


def summary(facts: Mapping[str, Any]) -> str:
    """Funnel, KL reduction and warnings of one row of `runs`."""
    config = json.loads(facts["config"])
    funnel = facts["funnel"]
    lines = [
        f"Run {facts['run_id']} ({facts['command']}, {facts['started_at']:%Y-%m-%d %H:%M} UTC)",
        f"  method {config['method']}, seed {facts['seed']}, model {facts['model_fingerprint']}",
        "",
        "Funnel (documents)",
        *_rows(
            [
                ("read", funnel["read"]),
                ("- without id", funnel["null_id"]),
                ("- without text", funnel["null_text"]),
                ("- blank", funnel["blank"]),
                (f"- under {config['min_example_length']} tokens", funnel["too_short"]),
                *[(label, funnel[name]) for name, label in _LOSSES.items() if funnel.get(name)],
                ("- further copies of a text", funnel["duplicate_text"]),
                ("candidates", funnel["candidates"]),
                ("selected", funnel["selected"]),
            ]
        ),
        "",
        "KL reduction (nats an n-gram: KL(target || raw) - KL(target || selected))",
        *_table(
            (
                "target",
                "documents",
                "selected",
                "random",
                *_bound_head(facts),
                "effective sample size",
            ),
            [
                (
                    name,
                    f"{facts['selected_by_target'][name]:,}",
                    _number(facts["kl_reduction"].get(name)),
                    _number(facts["kl_reduction_random"].get(name)),
                    *_bound_cells(facts, name),
                    f"{facts['effective_sample_size'].get(name, 0):,.1f}",
                )
                for name in facts["selected_by_target"]
            ],
        ),
    ]
    if facts.get("match"):
        lines += ["", *_match_steps(json.loads(facts["match"]))]
    notes = _notes(facts)
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _bound_head(facts: Mapping[str, Any]) -> tuple[str, ...]:
    return ("bound", "share of it") if facts.get("kl_bound") else ()


def _bound_cells(facts: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The bound of a matched selection, and how much of it was reached."""
    if not facts.get("kl_bound"):
        return ()
    bound, reached = facts["kl_bound"][name], facts["kl_reduction"].get(name)
    return _number(bound), "-" if reached is None or bound <= 0 else f"{reached / bound:.1%}"


def _match_steps(learnt: Mapping[str, Any]) -> list[str]:
    """KL reduction after each step and its share of the bound, on what they were learnt from."""
    lines = ["Steps of the matched selection (KL reduction of the mixture after each, and share of",
             "the bound that the step gives, learnt)"]  # fmt: skip
    for name, facts in learnt.items():
        reached = facts["kl_reduction"]
        bounds = facts.get("kl_bound") or [0.0] * len(reached)  # runs of earlier versions
        path = " ".join(
            f"{kl:+.4f} ({kl / bound:.0%})" if bound > 0 else f"{kl:+.4f}"
            for kl, bound in zip(reached, bounds, strict=True)
        )
        lines += textwrap.wrap(f"{name}: {path}", _WIDTH, initial_indent="  ",
                               subsequent_indent="    ")  # fmt: skip
    return lines


def _notes(facts: Mapping[str, Any]) -> list[str]:
    notes = []
    funnel = facts["funnel"]
    if facts["shortfall"] and funnel["selected"] == funnel["candidates"]:
        notes.append(
            f"Fewer candidates than asked for: all {funnel['selected']:,} were selected, "
            f"{facts['shortfall']:,} {unit(facts)} short."
        )
    elif facts["shortfall"]:
        notes.append(
            f"{facts['shortfall']:,} {unit(facts)} short of the budget: the next document would "
            "cross it, or quotas leave it open."
        )
    for name, reduction in facts["kl_reduction"].items():
        size, chosen = (
            facts["effective_sample_size"].get(name, 0),
            facts["selected_by_target"][name],
        )
        found = (
            checks.worse_than_random(name, reduction, facts["kl_reduction_random"].get(name)),
            checks.few_effective(name, size, chosen, json.loads(facts["config"])["method"]),
        )
        notes += [str(check) for check in found if check is not None]
    return [line for note in notes for line in textwrap.wrap("Note: " + note, _WIDTH)]


def unit(facts: Mapping[str, Any]) -> str:
    """What the budget counts."""
    if facts.get("num_tokens_to_sample") is None:
        return "documents"
    return json.loads(facts["config"]).get("size_column") or "tokens"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _rows(rows: Sequence[tuple[str, int]]) -> list[str]:
    return [f"  {label:<28}{count:>14,}" for label, count in rows]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    lines = []
    for line in (head, *rows):
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells))
    return lines


def _selected(spark: SparkSession, output: str, facts: Mapping[str, Any]) -> DataFrame:
    place = tables.within(output, job.SELECTED)
    return tables.read(spark, place, "delta", version=facts["selected_version"])


def _composition(
    spark: SparkSession, output: str, facts: Mapping[str, Any], raw: DataFrame, column: str
) -> str:
    """Share of each value of a column in raw and in the selection, largest change first."""
    check_column(raw, column, "raw", "composition")
    value = quoted(column).cast("string").alias("value")
    before = {r["value"]: r["count"] for r in raw.groupBy(value).count().collect()}
    selected = _selected(spark, output, facts)
    after = {r["value"]: r["count"] for r in selected.groupBy(value).count().collect()}
    all_before, all_after = sum(before.values()), max(1, sum(after.values()))
    order = sorted(before, key=lambda v: (-after.get(v, 0), -before[v], str(v)))
    shown = [
        (
            _one_line(str(v), 40),
            f"{before[v]:,}",
            f"{before[v] / all_before:.1%}",
            f"{after.get(v, 0):,}",
            f"{after.get(v, 0) / all_after:.1%}",
        )
        for v in order[:25]
    ]
    more = [f"  ... and {len(order) - 25} further values"] if len(order) > 25 else []
    head = (column, "raw", "share", "selected", "share")
    return "\n".join([f"Composition by {column} (documents)", *_table(head, shown), *more])


def _examples(
    spark: SparkSession,
    output: str,
    facts: Mapping[str, Any],
    raw: DataFrame,
    model: DSIRModel,
    selection: Selection,
    number: int,
) -> list[tuple[str, list[Example]]]:
    weights = tables.read(
        spark, tables.within(output, job.WEIGHTS), "delta", version=facts["weights_version"]
    )
    found = []
    for t, name in enumerate(selection.targets):
        places = example_rows(weights, selection, t, number)
        if not places:
            continue
        texts = texts_of(raw, model, [row[selection.id_column] for _, row in places])
        shown = [
            Example(
                place,
                row[selection.id_column],
                row[KEY],
                row[column_name(name)],
                row[NUM_TOKENS],
                texts.get(row[selection.id_column], ""),
            )
            for place, row in places
        ]
        found.append((name or TARGET, shown))
    return found


def example_rows(
    weights: DataFrame, selection: Selection, t: int, number: int
) -> list[tuple[str, Any]]:
    """Rows of the weights table of one target: (place, row with the key under KEY)."""
    name = selection.targets[t]
    ids = quoted(selection.id_column)
    chosen = selection.filter(weights, weights)
    if name is not None:
        chosen = chosen.where(F.col(TARGET) == F.lit(name))
    chosen = chosen.withColumn(KEY, selection.keys()[t])
    falling, rising = [F.desc(KEY), ids.desc()], [F.asc(KEY), ids.asc()]
    rows = [("top", r) for r in chosen.orderBy(*falling).limit(number).collect()]
    selected = selection.num_documents[t]
    if selected > 3 * number:
        pool = chosen.select(ids.alias(cuts.ID), F.col(KEY).alias(cuts.KEY))
        middle = cuts.exact_cut(pool, selected // 2)
        if middle is not None:
            upper = chosen.where(~middle.reached_by(F.col(KEY), ids))
            rows += [("middle", r) for r in upper.orderBy(*falling).limit(number).collect()]
        last = chosen.orderBy(*rising).limit(number).collect()[::-1]
        rows += [("just above the cut", r) for r in last]
    rejected = selection.rejected(weights).withColumn(KEY, selection.keys()[t])
    rows += [("below the cut", r) for r in rejected.orderBy(*falling).limit(number).collect()]
    by_chance = rejected.orderBy(F.xxhash64(F.lit("a random one"), ids)).limit(1).collect()
    rows += [("rejected, at random", r) for r in by_chance]
    return rows


def texts_of(
    raw: DataFrame, model: DSIRModel, ids: list[Any], characters: int = 4 * _EXCERPT
) -> dict[Any, str]:
    """The beginnings of documents by their ids."""
    identified = model.documents(raw)
    text = F.substring(quoted(model.config.text_column), 1, characters).alias("excerpt")
    rows = identified.where(quoted(model.id_name).isin(ids)).select(quoted(model.id_name), text)
    return {r[0]: r[1] for r in rows.collect()}


def _examples_text(name: str, examples: Sequence[Example]) -> str:
    lines = [f"Examples for {name} (key and log weight in nats)"]
    place = None
    for e in examples:
        if e.place != place:
            lines.append(f"  {e.place}")
            place = e.place
        lines.append(
            f"    {_one_line(str(e.id), 60)}  key {e.key:,.2f}  log weight {e.log_weight:,.2f}  "
            f"{e.num_tokens:,} tokens"
        )
        excerpt = textwrap.wrap(_one_line(e.text, _EXCERPT), _WIDTH - 8)
        lines += [f"        {line}" for line in excerpt]
    return "\n".join(lines)


def _one_line(text: str, width: int) -> str:
    """A text on one line that is safe to print, cut at a width."""
    safe = visible(text)
    return safe if len(safe) <= width else safe[: width - 3] + "..."
