"""Documents that are buckets already: put in order, added up and counted; compiled."""

from __future__ import annotations

import numpy as np

from dsir_spark.features.jit import kernel


@kernel
def in_order(rows, lo, hi, before, first, last, indptr, buckets, borders):
    """From the rows of `hash_ngrams` to buckets in the order of the n-grams, document by document.

    Parameters
    ----------
    rows : int32[ngrams, *]
    lo, hi, before, first, last, indptr
        Of the block, as `passes.Block` and `passes.blocks` tell them.
    buckets : int32[*]
        Receives the buckets, without those of n-grams that reach into the document before.
    borders : int64[*]
        borders[d - first] and borders[d - first + 1] become the borders of those of document d.
    """
    ngrams = rows.shape[0]
    found = 0
    for d in range(first, last + 1):
        begin = indptr[d] - before
        end = indptr[d + 1] - before if d < last else hi
        full = min(max(begin + ngrams - 1, lo), end)  # from here on, each token ends all n-grams
        for i in range(max(begin, lo), full):
            for n in range(i - begin + 1):
                buckets[np.uint64(found)] = rows[n, np.uint64(i - lo)]
                found += 1
        for n in range(ngrams):
            at = found + n
            for i in range(full, end):
                buckets[np.uint64(at)] = rows[n, np.uint64(i - lo)]
                at += ngrams
        found += ngrams * (end - full)
        borders[d - first + 1] = found


@kernel
def add_scores(buckets, indptr, tables, total):
    """total[d] += tables[b] for the buckets b of each document d, one after another.

    Parameters
    ----------
    buckets : `bucket_type`[*]
    indptr : int64[n + 1]
        Document d is buckets[indptr[d] : indptr[d + 1]].
    tables : float64[num_buckets, T]
    total : float64[n, T]
    """
    for d in range(indptr.shape[0] - 1):
        if tables.shape[1] == 1:  # twice as fast as below: the sum is not stored each time
            acc = total[d, 0]
            for j in range(indptr[d], indptr[d + 1]):
                acc += tables[np.uint64(buckets[np.uint64(j)]), 0]
            total[d, 0] = acc
        elif tables.shape[1] == 2:
            acc, other = total[d, 0], total[d, 1]
            for j in range(indptr[d], indptr[d + 1]):
                bucket = np.uint64(buckets[np.uint64(j)])
                acc += tables[bucket, 0]
                other += tables[bucket, 1]
            total[d, 0], total[d, 1] = acc, other
        else:
            for j in range(indptr[d], indptr[d + 1]):
                bucket = np.uint64(buckets[np.uint64(j)])
                for t in range(tables.shape[1]):
                    total[d, t] += tables[bucket, t]


@kernel
def add_counts(buckets, indptr, chosen, counts):
    """counts[b] += 1 for the buckets b of each document that is chosen.

    chosen : bool[n]; counts : int64[num_buckets]; the others as in `add_scores`
    """
    for d in range(indptr.shape[0] - 1):
        if chosen[d]:
            for j in range(indptr[d], indptr[d + 1]):
                counts[np.uint64(buckets[np.uint64(j)])] += 1
