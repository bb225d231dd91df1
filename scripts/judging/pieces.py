"""Sub-words of a byte-level BPE; and beside hashed words, in one range of buckets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TOKENS = 8_192  # beside words
_BATCH = 2_000  # texts


def learnt(texts: Sequence[str], tokens: int) -> Tokenizer:
    """A vocabulary of so many sub-words."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=tokens, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe


def found(bpe: Tokenizer, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Sub-words of all texts (uint16), below TOKENS, and where each text's begin (int64)."""
    parts = [np.zeros(0, np.uint16)]
    for at in range(0, len(texts), _BATCH):
        own = bpe.encode_batch_fast(texts[at : at + _BATCH].to_pylist())
        parts += [np.array(one.ids, np.uint16) for one in own]
    return np.concatenate(parts), np.cumsum([len(part) for part in parts])


def joined(
    words: np.ndarray, indptr: np.ndarray, num_buckets: int, pieces: np.ndarray, borders: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each text's words and then its sub-words, whose buckets follow upon `num_buckets`."""
    both = indptr + borders
    out = np.empty(both[-1], np.int32)
    shift = np.repeat(borders[:-1], np.diff(indptr))
    out[np.arange(len(words)) + shift] = words
    shift = np.repeat(indptr[1:], np.diff(borders))
    out[np.arange(len(pieces)) + shift] = pieces.astype(np.int32) + num_buckets
    return out, both
