"""Selections of equal size by every method: the package's own scores, learning and noise, and the
baselines of the field.

What `dsir_spark` does over Spark is done here by the same functions in one process (kernels,
`scoring.scorers`, `scoring.matched.learn`, `selection.temperature`), so that hundreds of selections
take minutes; the part `job` of `evidence.py` holds some of them to what the job selects.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from dsir_spark.features import FeatureSpec, arrow, batches, sums
from dsir_spark.scoring import matched
from dsir_spark.scoring.distributions import dirichlet, distribution, log_ratio
from dsir_spark.scoring.samples import HeldSample
from dsir_spark.selection import temperature
from judging import pieces
from judging.corpus import MIN_TOKENS, Documents, Pool, Target, gumbel, uniform

Key = np.ndarray  # float64[n], the largest are selected; -inf for what is none of the candidates
STEPS = 16


@dataclass(frozen=True)
class Selection:
    """Documents of a pool, or its chunks, in no telling order."""

    pool: Documents
    chosen: np.ndarray

    @property
    def texts(self) -> pa.Array:
        return self.pool.texts.take(pa.array(self.chosen))


class Choice:
    """Every method's keys over one pool, for some targets and one budget in bytes."""

    def __init__(self, pool: Pool, targets: Mapping[str, Target], budget: int) -> None:
        self.pool, self.targets, self.budget = pool, dict(targets), budget
        self.at = {name: t for t, name in enumerate(self.targets)}

    def select(self, method: str, target: str, seed: int) -> Selection:
        """By the method of this name in METHODS; or, as `match 2 100000`, with its n-grams and
        buckets."""
        if method in METHODS:
            return METHODS[method](self, target, seed)
        kind, *numbers = method.split()
        return self.cut(getattr(self, kind)(target, seed, *map(int, numbers)))

    def cut(self, key: Key, pool: Pool | None = None) -> Selection:
        """The best that together have at most the budget; the one that would cross it ends it."""
        pool = pool or self.pool
        key = np.where(pool.candidate, key, -np.inf)
        # Of 200 MB some 2 %: not all has to be sorted.
        order = np.argsort(-key, kind="stable")
        order = order[np.isfinite(key[order])]
        fits = np.cumsum(pool.bytes[order]) <= self.budget
        chosen = order[: int(np.argmin(fits)) if not fits.all() else len(order)]
        return Selection(pool, np.sort(chosen))

    # The package's: sums, means and steps over bucket tables.

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def log_weights(
        self, ngrams: int, num_buckets: int, mu: float = 0.0, chunks: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log weights of all targets, float64[n, T], and n-grams of each document."""
        pool = self.pool.chunks if chunks else self.pool
        buckets, indptr = pool.buckets(ngrams, num_buckets)
        p_raw = distribution(np.bincount(buckets, minlength=num_buckets))
        ratios = []
        for target in self.targets.values():
            counts = counts_of(target.known, ngrams, num_buckets)
            p = dirichlet(counts, p_raw, mu) if mu else distribution(counts)
            ratios.append(log_ratio(p, p_raw))
        total = np.zeros((len(indptr) - 1, len(ratios)))
        sums.add_scores(buckets, indptr, np.ascontiguousarray(np.stack(ratios, 1)), total)
        return total, np.diff(indptr)

    @functools.lru_cache(maxsize=2)  # noqa: B019
    def match_keys(
        self, ngrams: int, num_buckets: int, mu: float = 0.0, percent: int = 100,
        of_raw: int = round(100 * matched.RAW_SHARE), with_pieces: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """Match keys of all targets, float64[n, T], 0 to STEPS (STEPS + 1) / 2.

        mu : n-grams distributed like raw that are added to each target
        percent : of the documents that the steps are learnt from
        of_raw : percent of raw in what is brought near to a target
        with_pieces : of sub-words too, in buckets of their own
        """
        pool, names = self.pool, list(self.targets)
        buckets, indptr = pool.buckets(ngrams, num_buckets)
        counts = {n: counts_of(t.known, ngrams, num_buckets) for n, t in self.targets.items()}
        if with_pieces:
            buckets, indptr, counts = self._beside_pieces(buckets, indptr, counts)
            num_buckets += pieces.TOKENS
        raw, sizes = np.bincount(buckets, minlength=num_buckets), np.diff(indptr)
        own = pool.tokens >= MIN_TOKENS

        def held(chosen: np.ndarray) -> _Learning:
            borders = np.concatenate([[0], np.cumsum(sizes[chosen])])
            return _Learning(buckets[np.repeat(chosen, sizes)], borders, num_buckets, len(names))

        if mu:  # in thousandths of an n-gram, for learning counts whole numbers
            more = 1_000 * mu * distribution(raw)
            counts = {n: np.rint(1_000 * c + more).astype(np.int64) for n, c in counts.items()}
        learnt_from = own & (pool.uniform(99) < percent / 100)
        share = self.budget / int(pool.bytes.sum())
        budget = round(share * len(buckets) * learnt_from.sum() / own.sum())
        sample = held(learnt_from)
        # A budget of sizes is one of n-grams as it is: lengths need not be found out.
        found = matched.learn(
            counts, raw, STEPS, sample, lambda *_: [budget] * len(names), of_raw / 100
        )
        if percent < 100:
            sample = held(own)
            paths = [m.tables(counts[n], raw) for n, m in found.items()]
            for t in range(STEPS):
                tables = np.ascontiguousarray(np.stack([path[:, t] for path in paths], axis=1))
                sample.take(tables, np.array([m.thresholds[t] for m in found.values()]))
        keys = np.zeros((len(pool.ids), len(names)))
        keys[own] = sample.keys
        return keys

    def sample(self, target: str, seed: int, ngrams: int, num_buckets: int, mu: float = 0) -> Key:
        weights, _ = self.log_weights(ngrams, num_buckets, mu)
        return weights[:, self.at[target]] + gumbel(self.pool.uniform(seed))

    def match(self, target: str, seed: int, *setting: int) -> Key:
        """setting : as `match_keys` has it"""
        return self.match_keys(*setting)[:, self.at[target]] + self.pool.uniform(seed)

    def _beside_pieces(
        self, buckets: np.ndarray, indptr: np.ndarray, counts: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """With sub-words learnt from a hundredth of raw, in buckets after those that there are."""
        drawn = np.flatnonzero(self.pool.uniform(98) < 0.01)
        texts = self.pool.texts.take(pa.array(drawn)).to_pylist()
        bpe = pieces.learnt(texts, pieces.TOKENS)
        first = len(next(iter(counts.values())))
        buckets, indptr = pieces.joined(
            buckets, indptr, first, *pieces.found(bpe, self.pool.texts)
        )
        for name, target in self.targets.items():
            own, _ = pieces.found(bpe, target.known)
            more = np.bincount(own, minlength=pieces.TOKENS)
            counts = {**counts, name: np.concatenate([counts[name], more])}
        return buckets, indptr, counts

    def pieces(self, target: str, seed: int, *setting: int) -> Key:
        """As `match`, of words and sub-words together."""
        found = self.match_keys(*setting, with_pieces=True)
        return found[:, self.at[target]] + self.pool.uniform(seed)

    def softened(self, target: str, seed: int, noise: int, *setting: int) -> Key:
        """Match keys under Gumbel noise of so many steps' width: a temperature."""
        own = self.match_keys(*setting)[:, self.at[target]]
        return own + noise * gumbel(self.pool.uniform(seed))

    def apart(self, target: str, seed: int, *setting: int) -> Key:
        """Match keys, of near-copies only the best: of equal `pool.sketches`."""
        key = np.where(self.pool.candidate, self.match(target, seed, *setting), -np.inf)
        order = np.lexsort((-key, self.pool.sketches))
        of = self.pool.sketches[order]
        key[order[1:][of[1:] == of[:-1]]] = -np.inf
        return key

    def long(self, target: str, seed: int, ngrams: int, num_buckets: int) -> Key:
        """As `sample`, with the log ratio of Poisson probabilities of a document's tokens, whose
        means are the target's and raw's."""
        lengths = Documents(self.targets[target].known).tokens, self.pool.tokens
        own, of_raw = (float(np.mean(n)) for n in lengths)
        more = self.pool.tokens * np.log(own / of_raw) - (own - of_raw)
        return self.sample(target, seed, ngrams, num_buckets) + more

    def chunked(self, target: str, seed: int) -> Selection:
        chunks = self.pool.chunks
        weights, _ = self.log_weights(2, 10_000, chunks=True)
        return self.cut(weights[:, self.at[target]] + gumbel(chunks.uniform(seed)), chunks)

    def warm(self, target: str, seed: int, mean: bool) -> Selection:
        """Temperature auto: of sums, or of means."""
        weights, sizes = self.log_weights(2, 10_000)
        score = weights[:, self.at[target]] / (np.maximum(sizes, 1) if mean else 1)
        own, size = self.pool.candidate, int(self.pool.bytes[self.pool.candidate].sum())
        found = temperature.histograms_of(score[own][:, None])
        floor = 0.01 if mean else 1.0
        (t,) = temperature.found(found, int(own.sum()), self.budget, size, [1.0], floor)
        return self.cut(score / t + gumbel(self.pool.uniform(seed)))

    def moore_lewis(self, target: str, seed: int) -> Selection:
        """Difference of cross-entropies a n-gram, the smallest first."""
        weights, sizes = self.log_weights(2, 10_000)
        return self.cut(weights[:, self.at[target]] / np.maximum(sizes, 1))

    # Baselines without importance weights.

    def random(self, target: str, seed: int) -> Selection:
        return self.cut(self.pool.uniform(seed))

    def stratified(self, target: str, seed: int) -> Selection:
        """As many bytes of each source, at random within it."""
        key = np.full(len(self.pool.ids), -np.inf)
        u, sources = self.pool.uniform(seed), np.unique(self.pool.source)
        for source in sources:
            own = np.flatnonzero((self.pool.source == source) & self.pool.candidate)
            order = own[np.argsort(-u[own])]
            # By the share of an equal part that is full when the document comes.
            key[order] = -np.cumsum(self.pool.bytes[order]) * len(sources) / self.budget
        return self.cut(key)

    def domain(self, target: str, seed: int) -> Selection:
        """What a person would choose: the source that the target belongs to, at random."""
        own = self.pool.source == self.targets[target].domain
        return self.cut(np.where(own, self.pool.uniform(seed), -np.inf))

    def known(self, target: str, seed: int) -> Selection:
        """The known half of the target itself, as far as it goes: the ceiling."""
        own = Documents(self.targets[target].known)
        order = np.argsort(uniform([str(i) for i in range(len(own.texts))], seed))
        return Selection(own, np.sort(order[np.cumsum(own.bytes[order]) <= self.budget]))

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def log_odds(self, target: str) -> np.ndarray:
        """Of being target rather than raw, by logistic regression on hashed counts, float64[n].

        Features are a text's shares of 10,000 buckets of uni- and bigrams; of the target's known
        half and as many texts of raw.
        """
        buckets, indptr = self.pool.buckets(2, 10_000)
        known = self.targets[target].known
        drawn = np.argsort(self.pool.uniform(len(known)))[: len(known)]
        texts = pa.concat_arrays([known, self.pool.texts.take(pa.array(drawn))])
        model = LogisticRegression(C=100.0, max_iter=1_000)
        model.fit(shares(texts), np.repeat([1, 0], [len(known), len(drawn)]))
        total = np.zeros((len(indptr) - 1, 1))
        sums.add_scores(buckets, indptr, np.ascontiguousarray(SCALE * model.coef_.T), total)
        return batches.means(total, np.diff(indptr))[:, 0] + model.intercept_[0]

    def classifier(self, target: str, seed: int) -> Selection:
        return self.cut(self.log_odds(target))

    def pareto(self, target: str, seed: int) -> Selection:
        """GPT-3's noisy threshold, probability + Pareto(9) > t, with t as the budget has it."""
        noise = self.pool.uniform(seed) ** (-1 / 9) - 1
        return self.cut(1 / (1 + np.exp(-self.log_odds(target))) + noise)

    def discriminative(self, target: str, seed: int) -> Selection:
        """The classifier's log odds as log importance weights."""
        return self.cut(self.log_odds(target) + gumbel(self.pool.uniform(seed)))


class _Learning(HeldSample):
    """A sample that keeps the match keys of its documents while steps are learnt."""

    def __init__(
        self, held: np.ndarray, indptr: np.ndarray, num_buckets: int, targets: int
    ) -> None:
        super().__init__(held, indptr, num_buckets)
        self.keys, self._step = np.zeros((len(indptr) - 1, targets)), 0

    def take(self, tables: np.ndarray, thresholds: np.ndarray) -> None:
        """Add to the keys what the next step takes."""
        self._step += 1
        self.keys += self._step * (self.scores(tables) >= thresholds[:, None]).T

    def counts(self, tables: np.ndarray, thresholds: np.ndarray) -> list[np.ndarray]:
        self.take(tables, thresholds)
        return super().counts(tables, thresholds)


# Shares are small numbers; by so much they are of the size that scikit-learn's defaults are for.
SCALE = 100.0


def shares(texts: pa.Array) -> sparse.csr_matrix:
    """Shares of 10,000 buckets in each text's n-grams, times SCALE."""
    buckets, indptr, _ = arrow.collected_buckets(texts, FeatureSpec(2, 10_000))
    sizes = np.diff(indptr)
    values = np.repeat(SCALE / np.maximum(sizes, 1), sizes)
    found = sparse.csr_matrix((values, buckets, indptr), (len(sizes), 10_000))
    found.sum_duplicates()
    return found


def counts_of(texts: pa.Array, ngrams: int, num_buckets: int) -> np.ndarray:
    """N-grams by bucket, int64[num_buckets]."""
    return arrow.count_ngrams(texts, FeatureSpec(ngrams, num_buckets)).counts


# Every method by its name in the tables; those of one seed have no noise that matters.
METHODS: dict[str, Callable[[Choice, str, int], Selection]] = {
    "random": Choice.random,
    "stratified": Choice.stratified,
    "domain's own": Choice.domain,
    "Moore-Lewis": Choice.moore_lewis,
    "classifier, top-k": Choice.classifier,
    "classifier, Pareto": Choice.pareto,
    "discriminative": Choice.discriminative,
    "DSIR, unigrams": lambda c, t, s: c.cut(c.sample(t, s, 1, 10_000)),
    "DSIR": lambda c, t, s: c.cut(c.sample(t, s, 2, 10_000)),
    "DSIR, chunks": Choice.chunked,
    "DSIR, temperature auto": lambda c, t, s: c.warm(t, s, mean=False),
    "DSIR, mean, temperature auto": lambda c, t, s: c.warm(t, s, mean=True),
    "DSIR, Dirichlet auto": lambda c, t, s: c.cut(c.sample(t, s, 2, 10_000, 10_000)),
    "match 10^4": lambda c, t, s: c.cut(c.match(t, s, 2, 10_000)),
    "match 10^5": lambda c, t, s: c.cut(c.match(t, s, 2, 100_000)),
    "match 10^5, unigrams": lambda c, t, s: c.cut(c.match(t, s, 1, 100_000)),
    "match 10^4, Dirichlet auto": lambda c, t, s: c.cut(c.match(t, s, 2, 10_000, 10_000)),
    "known half (ceiling)": Choice.known,
}
ALL_TARGETS = tuple(m for m in METHODS if "Dirichlet" not in m)
ONE_SEED = (
    "Moore-Lewis", "classifier, top-k", "match 10^4", "match 10^5", "match 10^5, unigrams",
    "known half (ceiling)",
)  # fmt: skip
