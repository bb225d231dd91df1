"""What a text's features are: four values that decide every bucket."""

from __future__ import annotations

from dataclasses import dataclass

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
