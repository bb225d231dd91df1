"""A text becomes n-gram buckets: all that an executor imports; NumPy, pyarrow and numba only."""

from dsir_spark.features.arrow import (
    NgramCounts,
    QualityFacts,
    buckets_in_order,
    compile_kernels,
    count_ngrams,
    decoded,
    quality_facts,
    score,
    sparse_counts,
    text_hashes,
)
from dsir_spark.features.chunking import chunks
from dsir_spark.features.decontamination import Decontamination
from dsir_spark.features.quality import QUALITY
from dsir_spark.features.spec import MAX_BUCKETS, FeatureSpec

__all__ = [
    "MAX_BUCKETS", "QUALITY", "Decontamination", "FeatureSpec", "NgramCounts", "QualityFacts",
    "buckets_in_order", "chunks", "compile_kernels", "count_ngrams", "decoded", "quality_facts",
    "score", "sparse_counts", "text_hashes",
]  # fmt: skip
