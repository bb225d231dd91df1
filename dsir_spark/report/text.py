"""The report as text for a terminal: funnel, KL reduction, warnings, composition, examples."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dsir_spark.report import checks
from dsir_spark.report.facts import (
    LABELS,
    Check,
    Composition,
    Detail,
    Facts,
    TargetFacts,
    visible,
)

_ALWAYS = ("null_id", "null_text", "blank", "too_short", "duplicate_text")
_ENDS = ("read", "candidates", "selected")
_WIDTH = 96
_EXCERPT = 240  # characters of a document shown
_VALUES = 25  # of a column


def summary(facts: Facts) -> str:
    """Funnel, KL reduction, and what the selection itself is check of: what `run` prints.

    Warnings of the fit and of the weights were told when they were found.
    """
    return _joined(_head(facts), _notes(facts, checks.found(facts.selection)))


def full(facts: Facts) -> str:
    """`summary` with all warnings, composition and examples: what `report` prints."""
    targets = [t for t in facts.selection.targets if t.detail is not None and t.detail.examples]
    return _joined(
        _head(facts),
        _notes(facts, facts.warnings),
        *[_composition(c) for c in facts.weights.composition],
        *[_examples(t.name, t.detail) for t in targets if t.detail is not None],
    )


def _joined(*parts: Sequence[str]) -> str:
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _head(facts: Facts) -> list[str]:
    run, funnel = facts.run, facts.funnel
    labels = {**LABELS, "too_short": f"under {run.min_example_length} tokens"}
    losses = [
        (f"- {label}", funnel[stage])
        for stage, label in labels.items()
        if stage not in _ENDS and stage in funnel and (funnel[stage] or stage in _ALWAYS)
    ]
    rows = [("read", funnel["read"]), *losses, *[(name, funnel[name]) for name in _ENDS[1:]]]
    lines = [
        f"Run {run.id} ({run.command}, {run.started_at} UTC)",
        f"  method {run.method}, seed {run.seed}, model {run.model}",
        "",
        "Funnel (documents)",
        *[f"  {name:<28}{count:>14,}" for name, count in rows],
        "",
        "KL reduction (nats an n-gram: KL(target || raw) - KL(target || selected))",
        *_numbers(facts.selection.targets),
    ]
    return [*lines, "", *_match_steps(run.match)] if run.match else lines


def _numbers(targets: Sequence[TargetFacts]) -> list[str]:
    bounded = any(t.bound is not None for t in targets)
    head = ["target", "documents", "selected", "random",
            *(["bound", "share of it"] if bounded else []), "effective sample size"]  # fmt: skip
    rows = []
    for t in targets:
        about = "~" if t.bound_documents is not None else ""
        bound = [about + _signed(t.bound),
                 "-" if t.share_of_bound is None else f"{about}{t.share_of_bound:.1%}"]  # fmt: skip
        rows.append(
            [t.name, f"{t.documents:,}", _signed(t.kl_reduction), _signed(t.kl_reduction_random),
             *(bound if bounded else []), f"{t.effective_sample_size:,.1f}"]
        )  # fmt: skip
    found = _table([head, *rows])
    samples = [t.random_documents for t in targets if t.random_documents is not None]
    if samples:
        found.append(f"  random: from {max(samples):,} documents")
    estimates = [t.bound_documents for t in targets if t.bound_documents is not None]
    if bounded and estimates:
        found.append(f"  ~: an estimate from {max(estimates):,} candidates")
    return found


def _match_steps(learnt: Mapping[str, Mapping[str, Any]]) -> list[str]:
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
        lines += _wrapped(f"{name}: {path}", "  ", "    ")
    return lines


def _notes(facts: Facts, warnings: Iterable[Check]) -> list[str]:
    notes = [facts.selection.missing] if facts.selection.missing else []
    notes += [str(g) for g in checks.grouped(warnings) if g.worst.name != "shortfall"]
    return [line for note in notes for line in _wrapped("Note: " + visible(note), "", "  ")]


def _composition(column: Composition) -> list[str]:
    """Share of each value of a column in raw and in the selection, most selected first."""
    shown = [
        [_one_line(v.value, 40), f"{v.raw:,}", f"{v.raw_share:.1%}", f"{v.selected:,}",
         f"{v.selected_share:.1%}"]
        for v in column.rows[:_VALUES]
    ]  # fmt: skip
    more = len(column.rows) - _VALUES
    return [
        f"Composition by {visible(column.column)} (documents)",
        *_table([[visible(column.column), "raw", "share", "selected", "share"], *shown]),
        *([f"  ... and {more} further values"] if more > 0 else []),
    ]


def _examples(name: str, detail: Detail) -> list[str]:
    lines, place = [f"Examples for {name} (key and log weight in nats)"], None
    for e in detail.examples:
        if e.place != place:
            lines.append(f"  {e.place}")
            place = e.place
        key = "-" if e.key is None else f"{e.key:,.2f}"
        lines.append(
            f"    {_one_line(e.id, 60)}  key {key}  log weight {e.log_weight:,.2f}  "
            f"{e.num_tokens:,} tokens"
        )
        lines += _wrapped(_one_line(e.text, _EXCERPT), " " * 8, " " * 8)
    return lines


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [c.rjust(w) for c, w in zip(others, widths[1:], strict=True)]
        lines.append("  " + "  ".join([first.ljust(widths[0]), *cells]))
    return lines


def _wrapped(text: str, first: str, then: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=then)


def _one_line(text: str, width: int) -> str:
    """A text on one line that is safe to print, cut at a width."""
    safe = visible(text)
    return safe if len(safe) <= width else safe[: width - 3] + "..."
