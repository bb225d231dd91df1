"""A document's weight, split over its n-grams; and which n-grams of a corpus share a bucket.

Here n-grams are strings, which the kernels never make: for what a person reads, not for the passes.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dsir_spark.features import arrow as features
from dsir_spark.features import tokenizers, unicode_tables
from dsir_spark.features.spec import FeatureSpec, Float64

BY_PATTERN = ("wordpunct", "wordpunct_cjk")  # tokenizers that are a regular expression


@dataclass(frozen=True)
class Term:
    """One n-gram of a document.

    position, length : of its tokens: the first one's number, and how many
    bucket : that it falls into
    log_ratio : of the bucket, nats
    """

    ngram: str
    position: int
    length: int
    bucket: int
    log_ratio: float


@functools.cache
def pattern(tokenizer: str) -> re.Pattern[str]:
    """The regular expression whose matches in lower-cased text are the tokens."""
    if tokenizer == "wordpunct":
        return re.compile(r"\w+|[^\w\s]+")
    single = "".join(f"{chr(a)}-{chr(b)}" for a, b in unicode_tables.CJK_RANGES)
    return re.compile(rf"[{single}]|(?:(?![{single}])\w)+|(?:(?![{single}])[^\w\s])+")


def split(text: str | bytes, tokenizer: str) -> list[str]:
    """The tokens of a text, as the kernels make them; those of `bytes` as one character each."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    if tokenizer == "bytes":
        return [chr(b) for b in data]
    read = features.decoded(data)
    if tokenizer in BY_PATTERN:
        return pattern(tokenizer).findall(read.lower())
    return tokenizers.splitter(tokenizer)([read])[0]


def terms(text: str | bytes, log_ratio: Float64, spec: FeatureSpec) -> list[Term]:
    """The n-grams of a text in the order in which the kernel adds their log ratios.

    Bytes are read as the kernels read them: `arrow.decoded`.

    Adding `log_ratio` from left to right gives the document's log weight, to the last bit.
    """
    data = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    words = split(data, spec.tokenizer)
    found = features.buckets_in_order(pa.array([data], pa.large_binary()), spec).tolist()
    between = "" if spec.tokenizer == "bytes" else " "
    spans = [
        (at - n + 1, n) for at in range(len(words)) for n in range(1, min(spec.ngrams, at + 1) + 1)
    ]
    return [
        Term(between.join(words[at : at + n]), at, n, bucket, float(log_ratio[bucket]))
        for (at, n), bucket in zip(spans, found, strict=True)
    ]


def log_weight(found: Iterable[Term]) -> float:
    """The sum from left to right, nats."""
    total = 0.0
    for term in found:  # not sum(), which newer Pythons compensate
        total += term.log_ratio
    return total


def by_ngram(found: Iterable[Term]) -> list[tuple[Term, int, float]]:
    """Distinct n-grams with their number and their part of the weight, the largest part first."""
    counts = Counter(term.ngram for term in found)
    first = {term.ngram: term for term in reversed(list(found))}
    rows = [(first[g], n, n * first[g].log_ratio) for g, n in counts.items()]
    return sorted(rows, key=lambda r: (-abs(r[2]), r[0].ngram))


def token_parts(found: Sequence[Term], num_tokens: int) -> Float64:
    """What each token adds, float64[num_tokens] nats: its n-grams, each split over its tokens."""
    parts = np.zeros(num_tokens)
    for term in found:
        parts[term.position : term.position + term.length] += term.log_ratio / term.length
    return parts


class Sharers:
    """The n-grams of some texts by bucket: who shares it.

    texts : as many as one machine reads in a moment; nothing here scales, nor has to
    """

    def __init__(self, texts: Iterable[str], spec: FeatureSpec, wanted: Iterable[int]) -> None:
        self._found: dict[int, Counter[str]] = {bucket: Counter() for bucket in wanted}
        nothing = np.zeros(spec.num_buckets)
        for text in texts:
            for term in terms(text, nothing, spec):
                if term.bucket in self._found:
                    self._found[term.bucket][term.ngram] += 1

    def of(self, bucket: int, number: int = 3) -> list[tuple[str, float]]:
        """The most frequent n-grams of a bucket with their shares of it, the largest first."""
        counts = self._found.get(bucket, Counter())
        total = sum(counts.values())
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return [(ngram, n / total) for ngram, n in ordered[:number]]
