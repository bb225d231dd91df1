"""What decides: the buckets that move weights most, and the parts of a text that do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dsir_spark.features import FeatureSpec, arrow, terms
from dsir_spark.report.facts import Driver
from dsir_spark.scoring.distributions import distribution
from dsir_spark.scoring.documents import spec_of
from dsir_spark.scoring.model import Model

Float64 = npt.NDArray[np.float64]

_SHOWN = 12


def drivers(
    model: Model, texts_raw: Sequence[bytes], texts: Mapping[str, Sequence[bytes]]
) -> dict[str, tuple[tuple[Driver, ...], tuple[Driver, ...]]]:
    """Of each target the buckets that raise and that lower weights most, by share of n-grams times
    log ratio, with the n-grams found there in some texts of the target, and of raw."""
    p_raw, spec = distribution(model.raw.counts), spec_of(model.config)
    shares = {name: distribution(t.counts) for name, t in model.targets.items()}
    up, down = {}, {}
    for name, ratio in model.log_ratio.items():
        rising = np.argsort(-(shares[name] * ratio), kind="stable")[:_SHOWN]
        falling = np.argsort(p_raw * ratio, kind="stable")[:_SHOWN]
        up[name] = [int(b) for b in rising if ratio[b] > 0]
        down[name] = [int(b) for b in falling if ratio[b] < 0]
    of_raw = _sharers(texts_raw, spec, {b for own in down.values() for b in own})
    found = {}
    for name, ratio in model.log_ratio.items():
        of_target = _sharers(texts.get(name, ()), spec, set(up[name]))
        found[name] = tuple(
            tuple(
                Driver(b, float(ratio[b]), float(shares[name][b]), float(p_raw[b]),
                       tuple(sharers.of(b)))
                for b in own
            )
            for own, sharers in ((up[name], of_target), (down[name], of_raw))
        )  # fmt: skip
    return found  # type: ignore[return-value]


def _sharers(texts: Iterable[bytes], spec: FeatureSpec, wanted: set[int]) -> terms.Sharers:
    return terms.Sharers(map(arrow.decoded, texts), spec, wanted)


def pieces(text: str, ratio: Float64, spec: FeatureSpec) -> tuple[tuple[str, float], ...]:
    """The text in pieces, with what each token adds to the weight (nats); 0 between them."""
    if spec.tokenizer not in terms.BY_PATTERN:
        return ((text, 0.0),)
    spans = [m.span() for m in terms.pattern(spec.tokenizer).finditer(text)]
    found = terms.terms(text, ratio, spec)
    parts = terms.token_parts(found, len(terms.split(text, spec.tokenizer)))
    if len(parts) != len(spans):  # lower-casing made or joined a token
        return ((text, 0.0),)
    shown, at = [], 0
    for (start, end), part in zip(spans, parts.tolist(), strict=True):
        if start > at:
            shown.append((text[at:start], 0.0))
        shown.append((text[start:end], part))
        at = end
    return tuple(shown) if at == len(text) else (*shown, (text[at:], 0.0))


def decoded(beginning: bytes, characters: int) -> tuple[str, bool]:
    """At most so many characters, as the kernels read the bytes; and whether there are more."""
    text = arrow.decoded(beginning)
    return text[:characters], len(text) > characters
