"""Facts of documents that the paper's quality rule (DSIR, appendix) goes by."""

from __future__ import annotations

import functools

import numpy as np

from dsir_spark.features import unicode_tables, words
from dsir_spark.features.passes import Documents, blocks
from dsir_spark.features.spec import Int64
from dsir_spark.features.splitting import split_words

# Names of the facts, which are columns of the weights table too.
QUALITY = ("most_frequent", "informative", "digits", "num_wordpunct")

# English words without a meaning of their own, and what `wordpunct` leaves of contractions.
STOP_WORDS = """
a about above after again against ain all am an and any are aren as at be because been before being
below between both but by can couldn d did didn do does doesn doing don down during each few for
from further had hadn has hasn have haven having he her here hers herself him himself his how i if
in into is isn it its itself just ll m ma me mightn more most mustn my myself needn no nor not now o
of off on once only or other our ours ourselves out over own re s same shan she should shouldn so
some such t than that the their theirs them themselves then there these they this those through to
too under until up ve very was wasn we were weren what when where which while who whom why will with
won wouldn y you your yours yourself yourselves
"""

def _tokens(documents: Documents) -> tuple[Int64, Int64]:
    """`words.hash_tokens` of all documents, and where each document's begin (int64[n + 1])."""
    indptr = np.zeros(len(documents.offsets), np.int64)
    parts = [np.zeros(0, np.int64)]
    for scratch, starts, lo, hi, *_ in blocks(documents, 1, indptr):
        parts.append(np.empty(hi - lo, np.int64))
        words.hash_tokens(scratch, starts, lo, hi, documents.unicode, parts[-1])
    return np.concatenate(parts), indptr


@functools.cache
def _stop_tokens() -> Int64:
    """`STOP_WORDS` as `words.hash_tokens`, sorted."""
    data = np.frombuffer(STOP_WORDS.encode(), np.uint8)
    offsets = np.array([0, len(data)])
    return np.sort(_tokens(Documents(data, offsets, unicode_tables.table(), split_words, 1))[0])


def facts(documents: Documents) -> Int64:
    """QUALITY of n documents, split by `split_words`: int64[n, 4]."""
    tokens, indptr = _tokens(documents)
    most = int(np.diff(indptr).max(initial=0))
    seen = np.zeros((3, 1 << (2 * most + 1).bit_length()), np.int64)
    found = np.zeros((len(indptr) - 1, len(QUALITY)), np.int64)
    words.gather(tokens, indptr, _stop_tokens(), seen, found)
    found[:, 3] = np.diff(indptr)
    return found
