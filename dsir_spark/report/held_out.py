"""Held-out text of the targets, read by a compressor after the selection: what no method optimised.

A part of each target is kept out of the fit. PPM, which predicts a byte from those before it, reads
as much text of the selection, of a random one and of the target's other texts; the bits a byte that
it then needs for the held-out part say what each has taught it. It shares no feature with what
selects; how well it does as a judge is in docs/evidence.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pyppmd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dsir_spark.columns import TARGET, quoted
from dsir_spark.report.facts import HeldOut, TargetFacts
from dsir_spark.report.texts import some_texts
from dsir_spark.scoring.documents import split
from dsir_spark.scoring.model import Model

DOCUMENTS = 600  # of each source, read to texts.CHARACTERS characters
_TARGETS = 10  # that are measured: those for which most is selected
_READ = 1 << 20  # bytes of each source at most
_HELD_OUT = 1 << 18  # bytes of the held-out part at most
_ORDER, _MEMORY = 6, 1 << 26  # of PPM, variant I


def bits(primed: bytes, text: bytes) -> float:
    """Bits a byte of `text` for PPM that has read `primed`."""
    encoder = pyppmd.Ppmd8Encoder(_ORDER, _MEMORY)
    encoder.encode(primed)
    return 8 * len(encoder.encode(text) + encoder.flush()) / len(text)


def judged(
    found: Sequence[TargetFacts], model: Model, targets: Mapping[str, DataFrame],
    shares: Mapping[str, float], selected: DataFrame, random: Sequence[bytes],
) -> list[TargetFacts]:  # fmt: skip
    """The facts with the numbers of each target that has a held-out part and selected text.

    Parameters
    ----------
    targets : by name, those whose texts can be read, whole
    shares : of each target, kept out of the fit
    selected : the table
    random : beginnings of documents of a random selection; DOCUMENTS of them are read
    """
    text, numbers = model.config.text_column, {t.name: t.documents for t in found}
    known = [n for n in targets if shares.get(n, 0.0) > 0 and numbers[n]]
    frames: dict[str, tuple[DataFrame, float]] = {}
    for name in sorted(known, key=lambda n: -numbers[n])[:_TARGETS]:
        size, share = model.targets[name].num_documents, shares[name]
        kept, out = split(targets[name], text, share)
        own: Column = F.lit(True) if model.single_target else F.col(TARGET) == F.lit(name)
        frames[f"known {name}"] = kept.select(quoted(text)), float(size)
        frames[f"held {name}"] = out.select(quoted(text)), size * share / (1 - share)
        frames[f"selected {name}"] = selected.where(own).select(quoted(text)), float(numbers[name])
    read = some_texts(frames, text, DOCUMENTS)
    measured = {}
    for name in (n for n in targets if f"held {n}" in frames):
        held = _joined(read[f"held {name}"], _HELD_OUT)
        sources = [_joined(t, _READ) for t in (read[f"selected {name}"], random[:DOCUMENTS])]
        size = min(map(len, sources))
        if not held or not size:
            continue
        sources.append(_joined(read[f"known {name}"], size))
        by = [bits(source[:size], held) for source in sources]
        measured[name] = HeldOut(len(held), size, len(sources[-1]), *by)
    return [replace(t, held_out=measured.get(t.name)) for t in found]


def _joined(texts: Iterable[bytes], most: int) -> bytes:
    return b"\n".join(texts)[:most]
