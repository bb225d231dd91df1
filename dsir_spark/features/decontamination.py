"""Texts that no selected document may share an n-gram with, as tasks are sent them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dsir_spark.features import arrow, overlap, passes


@dataclass(frozen=True)
class Decontamination:
    """Evaluation texts by id, and how many tokens in a row are too many to share with one.

    Texts of fewer tokens hold no such n-gram: nothing is looked for by them.

    ids, texts : of n texts, in the order of ids
    ngram : tokens
    """

    ids: tuple[str, ...]
    texts: tuple[bytes, ...]
    ngram: int

    def num_long(self, tokenizer: str) -> int:
        """Texts of at least `ngram` tokens, by which documents are looked for."""
        sizes = passes.token_counts(arrow.documents(_array(self.texts), tokenizer))
        return int(np.sum(sizes >= self.ngram))

    def contaminated_by(self, texts: pa.Array, tokenizer: str) -> pa.Array:
        """The id (string) of the text that has the first n-gram which a document shares with any;
        of several, the one whose id comes first. Null where there is none."""
        found = overlap.shared(arrow.documents(texts, tokenizer), _index(self, tokenizer))
        return pa.array(self.ids, pa.string()).take(pa.array(found, mask=found < 0))

    @functools.cached_property
    def digest(self) -> str:
        """Hex digits that depend on all of it."""
        facts = hashlib.sha256(repr((self.ids, self.ngram)).encode())
        for text in self.texts:
            facts.update(len(text).to_bytes(8, "little") + text)
        return facts.hexdigest()

    def __hash__(self) -> int:
        return hash(self.digest)


def _array(texts: Sequence[bytes]) -> pa.Array:
    return pa.array(texts, pa.large_binary())


@functools.lru_cache(maxsize=2)
def _index(of: Decontamination, tokenizer: str) -> overlap.Index:
    """Made once by each worker, whatever the number of its tasks and batches."""
    return overlap.index(arrow.documents(_array(of.texts), tokenizer), of.ngram)
