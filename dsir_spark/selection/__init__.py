"""Scores become a selection: exact, seeded, out of memory.

A room each: `pool` (who competes), `keys` and `temperature` (scores with noise), `cuts` (where a
list ends), `allocation` (several targets), `quotas`, `copies` (and groups), `small` (pools that the
driver can hold), `selection` (the outcome), `find` (the way from one to the other) and `select`
(for any table). Nothing here knows a text, a bucket or a model.
"""

from dsir_spark.selection.cuts import Cut, exact_cuts
from dsir_spark.selection.find import find
from dsir_spark.selection.pool import Pool
from dsir_spark.selection.quotas import Quota
from dsir_spark.selection.select import select
from dsir_spark.selection.selection import Selection

__all__ = ["Cut", "Pool", "Quota", "Selection", "exact_cuts", "find", "select"]
