"""Buckets become scores: distributions, DSIR's log weights, matched keys; every scorer is tables
of numbers by bucket, which one pass over the text adds up (`passes.with_scores`)."""

FORMAT_VERSION = 2  # the latest that is known: that of a model with classifiers, 1 of all others
