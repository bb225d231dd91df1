"""Raw and the targets' halves in the memory of one process, as texts and as the package's buckets.

DATA holds raw/*.parquet (id, text, source), target/NAME.parquet (text), and perhaps
dsp_targets/NAME.jsonl.gz (text, label). Every other text of a target is held out. What shares an
n-gram of 13 tokens with a held-out text is no part of raw.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from dsir_spark.features import FeatureSpec, arrow, chunking
from dsir_spark.features.buckets import bucket_type

OVERLAP = 13  # tokens: as Brown et al. (2020) look for texts of the tests in the training data
MIN_TOKENS = 100
CHUNK_WORDS = 128
# A multiple of every number of buckets that is tried: each bucket follows from one of these.
BASE = 3_000_000

# The eight tasks of the paper, and the part of raw that a person would choose for each.
TASKS = {
    "agnews": "news", "chemprot": "biomed", "citation_intent": "cs_papers",
    "helpfulness_proxy": "reviews", "hyperpartisan": "news", "imdb": "reviews",
    "rct_ebmnlp": "biomed", "sciie": "cs_papers",
}  # fmt: skip

Int64 = np.ndarray
Texts: TypeAlias = pa.Array


@dataclasses.dataclass(frozen=True)
class Target:
    """One target: the half that selects and the half that judges.

    domain : value of raw's `source` that a person would choose
    labels : of both halves, where the texts have any
    """

    name: str
    domain: str
    known: Texts
    held: Texts
    labels: tuple[list[str], list[str]] | None = None

    def first(self, size: int) -> Target:
        """The same with the first `size` known texts only."""
        return dataclasses.replace(self, known=self.known[:size])


class Documents:
    """Texts, hashed once for each length of n-grams and read off for any number of buckets."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.bytes = pc.binary_length(texts).to_numpy().astype(np.int64)
        self._at: tuple[int, int, np.ndarray] = (0, 0, np.empty(0))

    @functools.cached_property
    def tokens(self) -> Int64:
        return self._hashed(1)[2]

    @functools.lru_cache(maxsize=1)  # noqa: B019 - lives as long as the script
    def _hashed(self, ngrams: int) -> tuple[np.ndarray, Int64, Int64]:
        return arrow.collected_buckets(self.texts, FeatureSpec(ngrams, BASE))

    def buckets(self, ngrams: int, num_buckets: int) -> tuple[np.ndarray, Int64]:
        """Buckets of all n-grams, and where each text's begin."""
        found, indptr, _ = self._hashed(ngrams)
        if self._at[:2] != (ngrams, num_buckets):
            kind = bucket_type(num_buckets)
            # In pieces: a second array of int32 would not be small.
            own = np.empty(len(found), kind)
            for at in range(0, len(found), 1 << 24):
                own[at : at + (1 << 24)] = found[at : at + (1 << 24)] % num_buckets
            self._at = (ngrams, num_buckets, own)
        return self._at[2], indptr


class Pool(Documents):
    """Raw without what overlaps with a held-out text.

    candidate : bool[n]; of enough tokens, and the copy with the smallest id
    overlaps : documents that were left out, by target
    """

    def __init__(self, ids: Sequence[str], source: np.ndarray, texts: Texts) -> None:
        super().__init__(texts)
        self.ids, self.source = np.array(ids), source
        self.overlaps: dict[str, int] = {}
        self.candidate = (self.tokens >= MIN_TOKENS) & self._first_copies()

    def _first_copies(self) -> np.ndarray:
        hashes = arrow.text_hashes(self.texts)
        order = np.lexsort((self.ids, hashes[:, 1], hashes[:, 0]))
        again = np.all(hashes[order][1:] == hashes[order][:-1], axis=1)
        found = np.ones(len(order), bool)
        found[order[1:][again]] = False
        return found

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def uniform(self, seed: int) -> np.ndarray:
        """The package's noise, float64[n]: a function of (seed, id), in (0, 1)."""
        return uniform(self.ids, seed)

    @functools.cached_property
    def sketches(self) -> np.ndarray:
        """Of each text three minima of hashed tokens and pairs, as one number: texts of equal ones
        are taken for near-copies, which of texts with a Jaccard similarity s are s^3."""
        found, indptr, _ = self._hashed(2)
        out = np.zeros(len(self.texts), np.uint64)
        starts, some = indptr[:-1], np.diff(indptr) > 0
        for odd in (2_654_435_761, 2_246_822_519, 3_266_489_917):
            mixed = found.astype(np.uint32) * np.uint32(odd)
            mixed ^= mixed >> np.uint32(15)
            mixed *= np.uint32(odd ^ 0x9E3779B8)
            least = np.minimum.reduceat(mixed, starts[some]).astype(np.uint64)
            out[some] = out[some] * np.uint64(0x9E3779B97F4A7C15) + least + np.uint64(1)
        return out

    @functools.cached_property
    def chunks(self) -> Pool:
        """The chunks of 128 tokens of all texts, as a pool of their own."""
        texts, ids, source = [], [], []
        for at in range(0, len(self.texts), 10_000):
            lists = chunking.chunks(self.texts[at : at + 10_000], CHUNK_WORDS, "wordpunct")[2]
            sizes = pc.list_value_length(lists).to_numpy()
            texts.append(lists.flatten())
            for i, size in enumerate(sizes.tolist(), at):
                ids += [f"{self.ids[i]}#{c}" for c in range(size)]
                source += [self.source[i]] * size
        whole = pa.concat_arrays(texts).cast(pa.large_string())
        return Pool(ids, np.array(source), whole)


def uniform(ids: Sequence[str], seed: int) -> np.ndarray:
    """((xxhash64(seed, id) >>> 11) + 0.5) * 2^-53, as `selection.keys` has it in Spark."""
    first = xxhash.xxh64_intdigest(seed.to_bytes(8, "little", signed=True), 42)
    hashes = np.array([xxhash.xxh64_intdigest(i.encode(), first) for i in ids], np.uint64)
    u = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.minimum(u, 1.0 - 2.0**-53)


def gumbel(u: np.ndarray) -> np.ndarray:
    return -np.log(-np.log(u))


def load(data: Path, names: Sequence[str] | None = None) -> tuple[Pool, dict[str, Target]]:
    """Raw without the held-out texts of all targets, and of the targets those that are named."""
    targets = {t.name: t for t in [*_targets(data), *_tasks(data)]}
    unknown = sorted(set(names or ()) - set(targets))
    if unknown:
        raise SystemExit(f"error: no target {', '.join(unknown)}; there are {', '.join(targets)}")
    raw = pq.read_table(data / "raw", columns=["id", "text", "source"])
    texts = raw["text"].cast(pa.large_string()).combine_chunks()
    source = np.array(raw["source"].to_pylist())
    ids = np.array(raw["id"].to_pylist())
    clean, overlaps = _clean(texts, targets)
    pool = Pool(ids[clean], source[clean], texts.filter(pa.array(clean)))
    pool.overlaps = overlaps | {"all together": int(np.sum(~clean))}
    return pool, {n: t for n, t in targets.items() if not names or n in names}


def _targets(data: Path) -> list[Target]:
    found = []
    for place in sorted((data / "target").glob("*.parquet")):
        texts = pq.read_table(place)["text"].to_pylist()
        found.append(_halves(place.stem, place.stem, texts, None))
    return found


def _tasks(data: Path) -> list[Target]:
    found = []
    for name, domain in TASKS.items():
        place = data / "dsp_targets" / f"{name}.jsonl.gz"
        if place.exists():
            with gzip.open(place, "rt", encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines]
            labels = None if "label" not in rows[0] else [str(r["label"]) for r in rows]
            found.append(_halves(name, domain, [r["text"] for r in rows], labels))
    return found


def _halves(name: str, domain: str, texts: list[str], labels: list[str] | None) -> Target:
    known, held = (pa.array(own, pa.large_string()) for own in (texts[0::2], texts[1::2]))
    return Target(name, domain, known, held, labels and (labels[0::2], labels[1::2]))


def _clean(texts: Texts, targets: dict[str, Target]) -> tuple[np.ndarray, dict[str, int]]:
    """Which texts share no n-gram of OVERLAP tokens with a held-out text; how many do, a target."""
    hashes, owner = _long_ngrams(texts)
    order = np.argsort(hashes, kind="stable")
    hashes, owner = hashes[order], owner[order]
    clean, overlaps = np.ones(len(texts), bool), {}
    for name, target in targets.items():
        wanted = np.unique(_long_ngrams(target.held)[0])
        low, high = np.searchsorted(hashes, wanted), np.searchsorted(hashes, wanted, "right")
        hit = [owner[a:b] for a, b in zip(low, high, strict=True) if b > a]
        found = np.unique(np.concatenate(hit)) if hit else np.empty(0, np.int64)
        overlaps[name] = len(found)
        clean[found] = False
    return clean, overlaps


def _long_ngrams(texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each run of OVERLAP tokens, uint64[*], and the text that it is in, int32[*]."""
    tokens, indptr, _ = arrow.collected_buckets(texts, FeatureSpec(1, 1 << 24))
    owner = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(indptr))
    size = len(tokens) - OVERLAP + 1
    if size <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int32)
    found = np.zeros(size, np.uint64)
    for n in range(OVERLAP):
        found *= np.uint64(0x9E3779B97F4A7C15)
        found += tokens[n : n + size].astype(np.uint64) + np.uint64(1)
    whole = owner[:size] == owner[OVERLAP - 1 :]
    return found[whole], owner[:size][whole]
