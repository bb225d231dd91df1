"""What a page shows of each target beside its numbers, from what the driver holds by now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsir_spark.report.drivers import decoded, drivers, pieces
from dsir_spark.report.facts import Detail, Example, Histogram
from dsir_spark.report.picked import Band, Picked, Row
from dsir_spark.report.sample import Sample, matched
from dsir_spark.report.scan import Documents
from dsir_spark.report.spectrum import Spectrum
from dsir_spark.report.texts import CHARACTERS, NUMBER
from dsir_spark.scoring.distributions import kl_reduction
from dsir_spark.scoring.documents import spec_of
from dsir_spark.scoring.model import Model
from dsir_spark.selection import Selection

_POINTS = 600  # documents of the sample that are drawn
_EXCERPT = 700  # characters shown of an example


def wanted(sample: Sample, shown: Picked, texts: bool) -> dict[Any, int]:
    """Characters of the text that are read of each document looked at.

    texts : is any text shown? If not, none leaves the executors
    """
    found: dict[Any, int] = dict.fromkeys(sample.ids, 0)
    found |= {i: 0 for own in shown.bands.values() for _, ids in own for i in ids}
    if texts:
        found |= dict.fromkeys(sample.ids[:NUMBER], CHARACTERS)
    for rows in shown.examples.values():
        found |= {row.id: max(found.get(row.id, 0), _EXCERPT + 1) for _, row in rows}
    return found


def details(
    model: Model,
    selection: Selection,
    spectrum: Spectrum,
    sample: Sample,
    shown: Picked,
    documents: Documents,
    texts: Mapping[str, Sequence[bytes]],
) -> list[Detail]:
    """Of each target.

    Parameters
    ----------
    texts : some of each target, in which n-grams are looked up
    """
    of_raw = [documents.texts[i] for i in sample.ids[:NUMBER] if i in documents.texts]
    moving = drivers(model, of_raw, texts)
    step = max(1, len(sample.ids) // _POINTS)
    found = []
    for t, (name, ratio) in enumerate(model.log_ratio.items()):
        edges, candidates, selected = spectrum.histogram(t)
        points = [
            (int(sample.num_tokens[i]), float(sample.ranks[i, t]), sample.ids[i] in shown.chosen)
            for i in range(0, len(sample.ids), step)
        ]
        up, down = moving[name]
        found.append(
            Detail(
                weights=Histogram(
                    tuple(edges), tuple(candidates), tuple(selected), sum(candidates),
                    _label(selection, t), _cut(selection, t),
                ),
                points=tuple(points),
                curve=_curve(model, name, shown.bands.get(t, ()), documents),
                sampled=len(of_raw) + len(texts.get(name, ())),
                up=up,
                down=down,
                examples=tuple(
                    _example(model, place, row, ratio, documents)
                    for place, row in shown.examples[t]
                ),
            )
        )  # fmt: skip
    return found


def _label(selection: Selection, t: int) -> str:
    matching = matched(selection)
    label = "log weight (nats)"
    if getattr(selection.options, "normalize", "none") == "ngram" and not matching:
        label = "mean log ratio (nats an n-gram)"
    if selection.temperatures[t] != 1.0 and not matching:
        label += f" / {selection.temperatures[t]:.3g}"
    return label


def _cut(selection: Selection, t: int) -> float | None:
    key = selection.cuts[t].key
    if matched(selection) or key is None or not np.isfinite(key):
        return None
    return float(key)


def _curve(
    model: Model, name: str, bands: Sequence[tuple[Band, Sequence[Any]]], documents: Documents
) -> tuple[tuple[int, float], ...]:
    """Documents and KL reduction of the best so many by key; the sample of a band stands for it."""
    total, number, curve = np.zeros(documents.num_buckets), 0, []
    for band, ids in bands:
        if not ids:
            break
        number += band.documents
        total = total + documents.total(ids) * (band.documents / len(ids))
        kl = kl_reduction(model.targets[name].counts, model.raw.counts, total)  # type: ignore[arg-type]
        if kl is not None:
            curve.append((number, kl))
    return tuple(curve)


def _example(model: Model, place: str, row: Row, ratio: Any, documents: Documents) -> Example:
    text, more = decoded(documents.texts.get(row.id, b""), _EXCERPT)
    parts = pieces(text, ratio, spec_of(model.config))
    return Example(
        place=place,
        id=str(row.id),
        key=row.key if np.isfinite(row.key) else None,
        log_weight=row.log_weight,
        num_tokens=row.num_tokens,
        pieces=parts,
        largest=max((abs(part) for _, part in parts), default=0.0),
        more=more,
    )
