"""What a text's features are: four values that decide every bucket; and the arrays of numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

MAX_BUCKETS = 1 << 24  # beyond it the kernels' floating-point remainder is not exact


@dataclass(frozen=True)
class FeatureSpec:
    """N-grams of 1 to `ngrams` tokens, hashed to `num_buckets` buckets.

    tokenizer : resolved (`tokenizers.resolved`): a name, the content of a tokenizer file, or
        module:function
    hash : "xxhash64" or "sha256"
    """

    ngrams: int
    num_buckets: int
    tokenizer: str = "wordpunct"
    hash: str = "xxhash64"
