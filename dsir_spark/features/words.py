"""Facts of words, compiled: which ones a document has, and how often."""

from __future__ import annotations

import numpy as np

from dsir_spark.features.hashes import SEED, xxhash64
from dsir_spark.features.jit import kernel
from dsir_spark.features.splitting import decode
from dsir_spark.features.unicode_tables import CLASS_SHIFT, OTHER

_WORD, _DIGITS, _PUNCTUATION = 0, 1, 2


@kernel
def hash_tokens(scratch, starts, lo, hi, unicode, out):
    """A number for each of tokens lo..hi-1 of a block, equal for equal tokens: int64[hi - lo].

    Its XXH64, the last two bits replaced by its kind: a word, digits 0 to 9 only, or punctuation.
    """
    for i in range(lo, hi):
        start, end = starts[i], starts[i + 1] - 1
        kind = _DIGITS
        for j in range(start, end):
            if scratch[j] < 0x30 or scratch[j] > 0x39:
                kind = _WORD
                break
        cp, _ = decode(scratch, start, end)
        if (np.int64(unicode[cp]) >> CLASS_SHIFT) & 3 == OTHER:
            kind = _PUNCTUATION
        key = xxhash64(scratch, start, end - start, SEED)
        out[i - lo] = np.int64(key & ~np.uint64(3)) | kind


@kernel
def gather(tokens, indptr, stops, seen, facts):
    """Facts of documents, from `hash_tokens`.

    Parameters
    ----------
    tokens : int64[*]
    indptr : int64[n + 1]
        Document d has tokens[indptr[d] : indptr[d + 1]].
    stops : int64[*]
        Tokens that are stop words, sorted.
    seen : int64[3, 2^k]
        Zeros; over twice as long as a document has tokens. An open hash table: a slot holds a
        token and how often it came; then, the slots in use.
    facts : int64[n, 4]
        Receives the first three of `quality.QUALITY`: the count of the most frequent token, tokens
        that are neither stop words nor punctuation, and tokens of digits only.
    """
    table, counts, used = seen
    mask = table.shape[0] - 1
    for d in range(indptr.shape[0] - 1):
        filled = 0
        for token in tokens[indptr[d] : indptr[d + 1]]:
            at = (token >> 2) & mask
            while counts[at] > 0 and table[at] != token:
                at = (at + 1) & mask
            if counts[at] == 0:
                table[at] = token
                used[filled] = at
                filled += 1
            counts[at] += 1
        for at in used[:filled]:
            token, n = table[at], counts[at]
            counts[at] = 0
            facts[d, 0] = max(facts[d, 0], n)
            if token & 3 == _DIGITS:
                facts[d, 2] += n
            if token & 3 != _PUNCTUATION:
                place = np.searchsorted(stops, token)
                if place == stops.shape[0] or stops[place] != token:
                    facts[d, 1] += n
