"""The report as text for a terminal: funnel, KL reduction, warnings, composition, examples."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from dsir_spark.report import checks
from dsir_spark.report.facts import ENDS, LABELS, Check, Composition, Facts, TargetFacts, visible
from dsir_spark.report.score_facts import ScoreFacts
from dsir_spark.report.score_facts import shown as number

_ALWAYS = (*ENDS, "null_id", "null_text", "blank", "too_short", "duplicate_text")
_EXCERPT = 240  # characters of a document shown
_VALUES = 25  # of a column


def summary(facts: Facts | ScoreFacts) -> str:
    """Funnel, KL reduction, and warnings not told before, of the selection: what `run` prints."""
    if isinstance(facts, ScoreFacts):
        return _of_scores(facts)
    chosen = facts.selection
    return _joined(_head(facts), _notes(chosen.missing, checks.found(chosen)))


def full(facts: Facts | ScoreFacts) -> str:
    """`summary` with all warnings, composition and examples: what `report` prints."""
    if isinstance(facts, ScoreFacts):
        return _of_scores(facts)
    examples = [(t.name, t.detail["examples"]) for t in facts.selection.targets if t.detail]
    return _joined(
        _head(facts),
        _notes(facts.selection.missing, facts.warnings),
        _contaminated(facts.weights.contaminated),
        *[_composition(c, facts.run.unit) for c in facts.weights.composition],
        *[_examples(name, shown) for name, shown in examples if shown],
    )


def _of_scores(facts: ScoreFacts) -> str:
    """Funnel, scores, warnings and composition of a selection by scores."""
    run = facts.run
    rows = [(s["label"] if s["stage"] in ENDS else f"- {s['label']}", s["count"])
            for s in facts.stages()]  # fmt: skip
    head = [
        f"Run {run.id} ({run.command}, {run.started_at} UTC)",
        f"  {run.how} Seed {run.seed}",
        "",
        "Funnel (documents)",
        *[f"  {name:<28}{count:>14,}" for name, count in rows],
    ]
    unit = facts.shortfall.unit
    what = "share" if unit == "documents" else visible(unit)
    head_of = ("score", "documents", what, "selected from", "to", "candidates from", "to")
    lines: list[tuple[str, ...]] = [head_of]
    for s in facts.scores:
        share = f"{s.documents / max(1, s.candidates):.1%}" if s.size is None else f"{s.size:,}"
        ends = (s.selected_low, s.selected_high, s.low, s.high)
        lines.append((visible(s.name), f"{s.documents:,}", share, *map(number, ends)))
    numbers = ["Score", *table(lines)]
    numbers += [f"  {visible(s.name)}{s.repeated(unit)}" for s in facts.scores if s.amount]
    notes = _notes(facts.missing, facts.warnings)
    return _joined(head, numbers, notes, *[_composition(c) for c in facts.composition])


def _joined(*parts: Sequence[str]) -> str:
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(facts: Facts) -> list[str]:
    run, funnel = facts.run, facts.funnel
    labels = {**LABELS, "too_short": f"under {run.min_example_length} tokens"}
    rows = [
        (label if stage in ENDS else f"- {label}", funnel[stage])
        for stage, label in labels.items()
        if stage in funnel and (funnel[stage] or stage in _ALWAYS)
    ]
    return [
        f"Run {run.id} ({run.command}, {run.started_at} UTC)",
        f"  method {run.method}, seed {run.seed}, model {run.model}",
        "",
        f"Funnel ({run.unit})",
        *[f"  {name:<28}{count:>14,}" for name, count in rows],
        "",
        "KL reduction (nats an n-gram: KL(target || raw) - KL(target || selected))",
        *_numbers(facts.selection.targets, facts.selection.method == "match"),
        *_held_out(facts.selection.targets),
        *(_classifiers(run.classifier) if run.classifier else ()),
        *(_match_steps(run.match) if run.match and facts.selection.selected else ()),
    ]


def _numbers(targets: Sequence[TargetFacts], matched: bool) -> list[str]:
    """KL reductions; the effective sample size, where documents are drawn by their weights."""
    head = "target,documents,selected,random,effective sample size,bound,share of it"
    rows = [tuple(head.split(","))]
    for t in targets:
        about = "" if t.bound_documents is None else "~"
        share = "-" if t.share_of_bound is None else f"{about}{t.share_of_bound:.1%}"
        kl, random, bound = map(signed, (t.kl_reduction, t.kl_reduction_random, t.bound))
        number, size = f"{t.documents:,}", f"{t.effective_sample_size:,.1f}"
        rows.append((t.name, number, kl, random, size, about + bound, share))
    bounded = any(t.bound is not None for t in targets)
    last = slice(4, 4 if matched else 5)
    lines = table([(*row[:4], *(row[5:] if bounded else ()), *row[last]) for row in rows])
    samples = [t.random_documents for t in targets if t.random_documents is not None]
    if samples:
        lines.append(f"  random: from {max(samples):,} documents")
    estimates = [t.bound_documents for t in targets if t.bound_documents is not None]
    if bounded and estimates:
        lines.append(f"  ~: an estimate from {max(estimates):,} candidates")
    return lines


def _held_out(targets: Sequence[TargetFacts]) -> list[str]:
    """What a compressor needs for texts that were not fitted on."""
    judged = [(t.name, t.held_out) for t in targets if t.held_out is not None]
    if not judged:
        return []
    rows: list[tuple[str, ...]] = [("target", "held out", "selected", "random", "the target's own",
                                    "read before")]  # fmt: skip
    for name, of in judged:
        by = [f"{bits:.3f}" for bits in (of.selected, of.random, of.known)]
        rows.append((name, f"{of.bytes / 1e3:,.0f} kB", *by, f"{of.read / 1e3:,.0f} kB"))
    lines = ["", "Held-out text (bits a byte, PPM that has read as much of each: less is better)"]
    short = [of.read_known / of.read for _, of in judged if of.read_known < of.read]
    note = f"  the target's own: as far as it goes, {min(short):.0%} of that" if short else ""
    return [*lines, *table(rows), *([note] if note else [])]


def _classifiers(learnt: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How well target and raw are told apart, of documents that were not learnt from."""
    lines = ["", "Classifier of target against raw, on documents held out"]
    for name, facts in learnt.items():
        lines += _wrapped(
            f"{name}: AUC {facts['auc']:.3f}, calibration error {facts['calibration_error']:.3f}, "
            f"log loss {facts['log_loss']:.3f} nats, on {facts['documents']:,} of "
            f"{facts['num_target']:,} documents of the target and {facts['num_raw']:,} of raw",
            "  ", "    ",
        )  # fmt: skip
    return lines


def _match_steps(learnt: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """KL reduction after each step and its share of the bound, on what they were learnt from."""
    lines = ["", "Steps of the matched selection (KL reduction of the mixture after each, and share"
             " of", "the bound that the step gives, learnt)"]  # fmt: skip
    for name, facts in learnt.items():
        reached = facts["kl_reduction"]
        bounds = facts.get("kl_bound") or [0.0] * len(reached)  # runs of earlier versions
        path = " ".join(
            f"{kl:+.4f} ({kl / bound:.0%})" if bound > 0 else f"{kl:+.4f}"
            for kl, bound in zip(reached, bounds, strict=True)
        )
        lines += _wrapped(f"{name}: {path}", "  ", "    ")
    return lines


def _notes(missing: str, warnings: Sequence[Check]) -> list[str]:
    """What is warned of; and what is `missing` to the budget, where that is too little for it."""
    notes = [str(group) for group in checks.grouped(warnings)]
    notes += filter(None, [checks.untold(missing, warnings)])
    return [line for note in notes for line in _wrapped("Note: " + visible(note), "", "  ")]


def _contaminated(found: Mapping[str, int]) -> list[str]:
    """The texts that most documents share an n-gram with."""
    if not found:
        return []
    rows = [(_one_line(text, 60), f"{number:,}") for text, number in [*found.items()][:_VALUES]]
    more = len(found) - _VALUES
    return [
        "Contaminated: documents of raw that share an n-gram with a text of decontaminate",
        *table([("text", "documents"), *rows]),
        *([f"  ... and {more} further texts or more"] if more > 0 else []),
    ]


def _composition(column: Composition, unit: str = "documents") -> list[str]:
    """Share of each value of a column in raw and in the selection, most selected first."""
    if unit != "documents" and any(v["candidates"] is None for v in column.rows):
        unit = f"raw: documents, selected: {unit}"  # weights, which have the chunks, lack it
    name, more = visible(column.column), column.values - _VALUES
    rows = [
        (_one_line(v["value"], 40), f"{v['raw']:,}", f"{v['raw_share']:.1%}",
         f"{v['selected']:,}", f"{v['selected_share']:.1%}")
        for v in column.rows[:_VALUES]
    ]  # fmt: skip
    return [
        f"Composition by {name} ({unit})",
        *table([(name, "raw", "share", "selected", "share"), *rows]),
        *([f"  ... and {more} further values"] if more > 0 else []),
    ]


def _examples(name: str, examples: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"Examples for {name} (key and log weight in nats)"]
    for place, shown in itertools.groupby(examples, lambda e: e["place"]):
        lines.append(f"  {place}")
        for e in shown:
            key = "-" if e["key"] is None else f"{e['key']:,.2f}"
            weight = f"log weight {e['log_weight']:,.2f}  {e['num_tokens']:,} tokens"
            lines.append(f"    {_one_line(e['id'], 60)}  key {key}  {weight}")
            text = "".join(piece for piece, _ in e["pieces"])
            lines += _wrapped(_one_line(text, _EXCERPT), " " * 8, " " * 8)
    return lines


def signed(value: float | None) -> str:
    """A number with its sign; nothing as a dash."""
    return "-" if value is None else f"{value:+.4f}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column flush left, numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]


def _wrapped(text: str, first: str, then: str) -> list[str]:
    return textwrap.wrap(text, 96, initial_indent=first, subsequent_indent=then)


def _one_line(text: str, width: int) -> str:
    """A text on one line that is safe to print, cut at a width."""
    safe = visible(text)
    return safe if len(safe) <= width else safe[: width - 3] + "..."
