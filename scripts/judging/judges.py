"""Judges that share no feature with the methods: bits per byte of a compressor, tasks, a GPT."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyppmd

from dsir_spark.scoring.distributions import distribution, kl_divergence, log_ratio
from judging.corpus import Target, uniform
from judging.methods import Choice, Selection, counts_of

ORDER, MEMORY = 6, 1 << 28
RULERS = (10_000, 100_000)  # buckets of uni- and bigrams in which KL reductions are taken


def shuffled(texts: pa.Array) -> bytes:
    """The texts in an order by hash, each ended by a line feed."""
    order = np.argsort(uniform([str(i) for i in range(len(texts))], 0))
    return "".join(f"{text}\n" for text in texts.take(pa.array(order)).to_pylist()).encode()


def compressed(data: bytes) -> int:
    return len(pyppmd.compress(data, max_order=ORDER, mem_size=MEMORY))


class Ppm:
    """Bits per byte of held-out text by PPM of order 6 that has read a selection before.

    It goes on learning while it reads the held-out text, as every compressor does: differences
    between selections are smaller than they would be of a frozen model.
    """

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}

    def bits(self, selection: Selection, target: Target) -> float:
        if target.name not in self._held:
            self._held[target.name] = shuffled(target.held)
        primed, held = shuffled(selection.texts), self._held[target.name]
        return (compressed(primed + held) - compressed(primed)) * 8 / len(held)


def reduction(target: np.ndarray, raw: np.ndarray, selected: np.ndarray) -> float:
    """KL(target || raw) - KL(target || selected) in nats, on all buckets that there are."""
    p, before, after = map(distribution, (target, raw, selected))
    return kl_divergence(p, before) - kl_divergence(p, after)


class Facts:
    """What the report shows of a selection, for the part D."""

    def __init__(self, choice: Choice) -> None:
        self._raw = {b: np.bincount(choice.pool.buckets(2, b)[0], minlength=b)
                     for b in reversed(RULERS)}  # fmt: skip
        self._halves: dict[tuple[str, int], list[np.ndarray]] = {}

    def of(self, selection: Selection, target: Target) -> dict[str, float]:
        found: dict[str, float] = {"documents": len(selection.chosen)}
        found["bytes"] = int(selection.pool.bytes[selection.chosen].sum())
        for size in RULERS:
            if (target.name, size) not in self._halves:
                own = [counts_of(t, 2, size) for t in (target.known, target.held)]
                self._halves[target.name, size] = own
            counts = counts_of(selection.texts, 2, size)
            for half, own in zip(("known", "held"), self._halves[target.name, size], strict=True):
                found[f"kl_{half}_{size}"] = reduction(own, self._raw[size], counts)
            if size == RULERS[0]:
                known, raw = (distribution(c) for c in (self._halves[target.name, size][0],
                                                        self._raw[size]))  # fmt: skip
                found["log_ratio"] = float(log_ratio(known, raw) @ distribution(counts))
        if hasattr(selection.pool, "source"):
            own = selection.pool.source[selection.chosen] == target.domain
            found["domain"] = float(own.mean())
        return found
