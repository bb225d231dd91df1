"""DSIR in plain Python, to be read beside the paper and to hold the fast code against.

A worked document, with `num_buckets=4` and buckets given by hand: the text "To be, to be." has the
tokens  to be , to be .  and, for ngrams=2, eleven n-grams: 6 of one token and 5 of two. If the log
ratios of the buckets are r = (0.5, -1, 0, 2) nats and the n-grams fall into them 4, 3, 3 and 1
times, its log weight is 4 * 0.5 - 3 * 1 + 3 * 0 + 1 * 2 = 1 nat.
"""

from __future__ import annotations

import hashlib
import math
import re

MASK = (1 << 64) - 1
P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)


# Han, kana, Hangul and Thai.
CJK = "\u0e01-\u0e3a\u0e40-\u0e5b\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7a3\ud7b0-\ud7ff"
CJK += "\uffa0-\uffdc\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
CJK += "\U0001aff0-\U0001b16f\u2e80-\u2fd5\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf"
CJK += "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"


def tokens(text, tokenizer="wordpunct"):
    """Lower-cased runs of letters, digits and _, or of anything else that is no blank.

    wordpunct_cjk: the same, each character of `CJK` by itself. bytes: each byte of the text. Any
    other tokenizer is a function.
    """
    if tokenizer == "bytes":
        return [bytes([b]) for b in text.encode()]
    if tokenizer == "wordpunct_cjk":
        return re.findall(rf"[{CJK}]|(?:(?![{CJK}])\w)+|(?:(?![{CJK}])[^\w\s])+", text.lower())
    if tokenizer == "wordpunct":
        return re.findall(r"\w+|[^\w\s]+", text.lower())
    return tokenizer(text)


def ngrams(words, n):
    """All n-grams of 1 to n tokens; token by token, those that end there, the shortest first."""
    # Bytes stand side by side, words with one blank between.
    blank = b"" if words and isinstance(words[0], bytes) else " "
    return [
        blank.join(words[i - m + 1 : i + 1])
        for i in range(len(words))
        for m in range(1, min(n, i + 1) + 1)
    ]


def rotl(x, r):
    return ((x << r) | (x >> (64 - r))) & MASK


def mix(x):
    return rotl(x * P2 & MASK, 31) * P1 & MASK


def xxhash64(data, seed=42):
    """XXH64 of bytes, as a signed 64-bit integer like Spark SQL's."""
    at = 0
    if len(data) >= 32:
        v = [seed + P1 + P2, seed + P2, seed, seed - P1]
        while at + 32 <= len(data):
            for lane in range(4):
                word = int.from_bytes(data[at + 8 * lane : at + 8 * lane + 8], "little")
                v[lane] = rotl((v[lane] + word * P2) & MASK, 31) * P1 & MASK
            at += 32
        h = sum(rotl(x & MASK, r) for x, r in zip(v, (1, 7, 12, 18), strict=True)) & MASK
        for x in v:
            h = ((h ^ mix(x)) * P1 + P4) & MASK
    else:
        h = (seed + P5) & MASK
    h = (h + len(data)) & MASK
    while at + 8 <= len(data):
        h = (rotl(h ^ mix(int.from_bytes(data[at : at + 8], "little")), 27) * P1 + P4) & MASK
        at += 8
    if at + 4 <= len(data):
        word = int.from_bytes(data[at : at + 4], "little")
        h = (rotl(h ^ (word * P1 & MASK), 23) * P2 + P3) & MASK
        at += 4
    for byte in data[at:]:
        h = rotl(h ^ (byte * P5 & MASK), 11) * P1 & MASK
    h = (h ^ (h >> 33)) * P2 & MASK
    h = (h ^ (h >> 29)) * P3 & MASK
    h ^= h >> 32
    return h - (1 << 64) if h >> 63 else h


def bucket(ngram, num_buckets, hash="xxhash64"):
    """Bucket of an n-gram: pmod(xxhash64(ngram), m), or int(sha256(ngram)) mod m."""
    data = ngram if isinstance(ngram, bytes) else ngram.encode()
    if hash == "sha256":
        return int(hashlib.sha256(data).hexdigest(), 16) % num_buckets
    return xxhash64(data) % num_buckets


def text_hash(text):
    """Two hashes of a text, case and white space folded."""
    folded = " ".join(text.lower().split()).encode()
    return [xxhash64(folded, 1), xxhash64(folded, 2)]


def quality_facts(text, stop_words):
    """Occurrences of the most frequent token; tokens neither stop words nor punctuation; digits;
    and all."""
    words = tokens(text)
    return (
        max((words.count(w) for w in words), default=0),
        sum(re.match(r"\w", w) is not None and w not in stop_words for w in words),
        sum(re.fullmatch("[0-9]+", w) is not None for w in words),
        len(words),
    )


def buckets(text, n=2, num_buckets=10_000, hash="xxhash64", tokenizer="wordpunct"):
    """Buckets of a text's n-grams, in order."""
    return [bucket(g, num_buckets, hash) for g in ngrams(tokens(text, tokenizer), n)]


def bucket_counts(texts, n=2, num_buckets=10_000, hash="xxhash64"):
    """N-grams of all texts by bucket."""
    counts = [0] * num_buckets
    for text in texts:
        for b in buckets(text, n, num_buckets, hash):
            counts[b] += 1
    return counts


def distribution(counts, laplace=0.0):
    total = sum(counts) + laplace * len(counts)
    return [(c + laplace) / total for c in counts]


def log_ratios(target_counts, raw_counts, laplace=0.0):
    """log(p_target + 1e-8) - log(p_raw + 1e-8) of each bucket, nats."""
    pairs = zip(distribution(target_counts, laplace), distribution(raw_counts), strict=True)
    return [math.log(t + 1e-8) - math.log(r + 1e-8) for t, r in pairs]


def log_weight(text, ratios, n=2, hash="xxhash64"):
    """Log importance weight: the sum of the log ratios of a text's n-grams, left to right."""
    total = 0.0
    for b in buckets(text, n, len(ratios), hash):
        total += ratios[b]
    return total


def uniform(seed, id):
    """u in (0, 1), as Spark SQL's xxhash64(seed, id) gives it for a bigint and a string."""
    first = xxhash64((seed & MASK).to_bytes(8, "little"))
    h = xxhash64(id.encode(), first & MASK) & MASK
    return ((h >> 11) + 0.5) * 2.0**-53


def sampling_key(weight, seed, id):
    """Log weight plus Gumbel noise."""
    return weight - math.log(-math.log(uniform(seed, id)))


def gumbel_top_k(ids, log_weights, k, seed):
    """The k largest (key, then id)."""
    keyed = sorted(((sampling_key(w, seed, i), i) for i, w in zip(ids, log_weights, strict=True)))
    return {i for _, i in keyed[len(keyed) - k :]}


def kl(p, q):
    """KL(p || q) in nats with 1e-10 inside the logs."""
    return sum(a * (math.log(a + 1e-10) - math.log(b + 1e-10)) for a, b in zip(p, q, strict=True))


def kl_reduction(target_counts, raw_counts, selected_counts):
    """KL(target || raw) - KL(target || selected), the paper's metric, with as many n-grams like
    raw's in what is selected as there are buckets."""
    p, raw, selected = map(distribution, (target_counts, raw_counts, selected_counts))
    of_raw = len(raw) / (sum(selected_counts) + len(raw))
    mixed = [(1 - of_raw) * s + of_raw * r for s, r in zip(selected, raw, strict=True)]
    return kl(p, raw) - kl(p, mixed)


def chunks(text, size, pattern):
    """First and last character of each chunk of `size` tokens of a text, by a token's pattern."""
    spans = [m.span() for m in pattern.finditer(text)]
    starts = [a for a, _ in spans[size::size]]
    ends = [b for _, b in spans[size - 1 : len(spans) - 1 : size]]
    return list(zip([0, *starts], [*ends, len(text)], strict=True))
