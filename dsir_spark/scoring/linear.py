"""Scores that are learnt: an intercept, and a number for each bucket that n-grams are hashed to.

Features of a document are the shares of its n-grams by bucket, not their counts: a score is then a
mean over the n-grams, as that of the embeddings of n-grams in fastText, and says what a document is
about, not how long it is. A given score that goes with length is learnt from counts, where these
tell more of it. scikit-learn does the learning, on one machine, from a sample.
"""

from __future__ import annotations

import importlib.util
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dsir_spark.errors import ConfigError
from dsir_spark.scoring.distributions import Float64, Int64

LEAST = 50  # texts of each kind to learn from
# Strengths of the penalty that are tried, and the parts of a sample: by hash, of ten.
_STRENGTHS = (1.0, 10.0, 100.0, 1_000.0)
_WEAKER = (*_STRENGTHS, 10_000.0, 100_000.0)  # of a score that is as n-grams make it
_HELD_OUT, _TUNED = (0, 1), (2,)
_BINS = 10  # of the calibration


@dataclass(frozen=True, eq=False)
class Linear:
    """intercept + the mean (or sum) over a document's n-grams of the numbers of their buckets.

    table : float64[num_buckets]
    facts : how it does on documents that it was not learnt from, as JSON has it
    """

    table: Float64
    intercept: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["mean", "sum"] = "mean"


@dataclass(frozen=True, eq=False)
class Examples:
    """n documents in an order that no partitioning changes: that of hashes of their texts.

    shares : scipy's csr_matrix[n, num_buckets], of each document's n-grams by bucket
    sizes : float64[n], n-grams of each
    hashes : uint64[n], of the texts
    """

    shares: Any
    sizes: Float64
    hashes: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.hashes)

    def first(self, number: int) -> Examples:
        """The first documents, which are a random sample."""
        return Examples(self.shares[:number], self.sizes[:number], self.hashes[:number])

    @property
    def num_texts(self) -> int:
        """Different texts."""
        return len(np.unique(self.hashes))

    @property
    def enough(self) -> bool:
        """Are there LEAST different texts, and some in each of `parts`?"""
        learnt, tuned, held = map(len, self.parts())
        # Of one document held out nobody can say how well it is told.
        return self.num_texts >= LEAST and learnt > 0 and tuned > 0 and held > 1

    def parts(self) -> tuple[Int64, Int64, Int64]:
        """Documents to learn from, to choose the strength of the penalty by, and held out: copies
        of a text are in one of them."""
        part = (self.hashes % np.uint64(10)).astype(np.int64)
        held, tuned = np.isin(part, _HELD_OUT), np.isin(part, _TUNED)
        return np.flatnonzero(~held & ~tuned), np.flatnonzero(tuned), np.flatnonzero(held)


def require(scorer: str) -> None:
    """Raise a `ConfigError` where a scorer needs what is not installed."""
    if scorer != "dsir" and importlib.util.find_spec("sklearn") is None:
        raise ConfigError(
            f"{scorer} needs scikit-learn, which is not installed here: pip install "
            "'dsir-spark[classifier]'"
        )


def examples(
    hashes: Sequence[str], indices: Sequence[Any], counts: Sequence[Any], num_buckets: int
) -> tuple[Examples, Int64]:
    """Documents of at least one n-gram, sorted; and their places among those given (int64[n]).

    hashes : 32 hex digits of each text, `documents.content_id`
    indices, counts : buckets that occur in each, ascending, and how often
    """
    from scipy import sparse  # type: ignore[import-untyped, unused-ignore]

    order = sorted((i for i, own in enumerate(counts) if len(own)), key=lambda i: hashes[i])
    rows = [np.asarray(counts[i], np.float64) for i in order]
    sizes = np.array([row.sum() for row in rows])
    data = np.concatenate([np.zeros(0), *[row / row.sum() for row in rows]])
    columns = np.concatenate([np.zeros(0, np.int32), *[np.asarray(indices[i]) for i in order]])
    indptr = np.cumsum([0, *map(len, rows)])
    shares = sparse.csr_matrix((data, columns, indptr), (len(order), num_buckets))
    numbers = np.array([int(hashes[i][:16], 16) for i in order], np.uint64)
    return Examples(shares, sizes, numbers), np.array(order, np.int64)


def classify(target: Examples, raw: Examples) -> Linear:
    """The log odds of the target against raw where both are as likely: logistic regression.

    Its facts: `num_target`, `num_raw` (documents), `C`, and held out `documents`, `auc`,
    `log_loss`, `calibration_error` and `calibration`, a row for each tenth of probabilities in
    which there are documents: [mean probability, share of the target, documents].
    """
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped, unused-ignore]
    from sklearn.metrics import log_loss, roc_auc_score  # type: ignore[import-untyped, unused-ignore]

    both = Examples(
        sparse.vstack([target.shares, raw.shares], format="csr"),
        np.concatenate([target.sizes, raw.sizes]), np.concatenate([target.hashes, raw.hashes]),
    )  # fmt: skip
    labels = np.repeat([1, 0], [len(target), len(raw)])

    def fitted(strength: float) -> Any:
        return LogisticRegression(C=strength, class_weight="balanced", max_iter=1_000)

    def loss(model: Any, shares: Any, own: Any) -> float:
        return float(log_loss(own, model.predict_proba(shares)[:, 1], labels=[0, 1]))

    _, found, model, scaled = _best(both, both.shares, labels, _STRENGTHS, fitted, loss)
    held = both.parts()[2]
    p, own = model.predict_proba(scaled[held])[:, 1], labels[held]
    bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
    calibration = [
        [float(p[bins == b].mean()), float(own[bins == b].mean()), int((bins == b).sum())]
        for b in np.unique(bins)
    ]
    facts = {
        "num_target": len(target), "num_raw": len(raw), "C": model.C, "documents": len(held),
        "auc": float(roc_auc_score(own, p)), "log_loss": loss(model, scaled[held], own),
        "calibration_error": sum(abs(a - b) * n for a, b, n in calibration) / len(held),
        "calibration": calibration,
    }  # fmt: skip
    return Linear(found.table, found.intercept, facts)


def regress(of: Examples, values: Float64, compared: Mapping[str, Sequence[Any]]) -> Linear:
    """The expectation of a score: ridge regression, of shares or of counts, whichever is nearer.

    values : float64[n]
    compared : columns of n values each, numbers or others

    Its facts: `num_documents`, `alpha`, `kind`, and held out `documents`, `r2`, `rank_correlation`
    (Spearman's, with the score) and `correlations` of the prediction with what is compared: the
    rank correlation with numbers, the root of the explained share of variance by other values.
    """
    from scipy import sparse
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    def fitted(strength: float) -> Any:
        return Ridge(alpha=1.0 / strength, tol=1e-8)

    def loss(model: Any, rows: Any, own: Any) -> float:
        return float(np.mean((model.predict(rows) - own) ** 2))

    counts = sparse.diags(of.sizes) @ of.shares
    tried = {"mean": _best(of, of.shares, values, _WEAKER, fitted, loss),
             "sum": _best(of, counts.tocsr(), values, _WEAKER, fitted, loss)}  # fmt: skip
    kind: Literal["mean", "sum"] = "sum" if tried["sum"][0] < tried["mean"][0] else "mean"
    _, found, model, scaled = tried[kind]
    held = of.parts()[2]
    predicted, own = model.predict(scaled[held]), values[held]
    facts = {
        "num_documents": len(of), "alpha": model.alpha, "kind": kind, "documents": len(held),
        "r2": float(r2_score(own, predicted)), "rank_correlation": _spearman(predicted, own),
        "correlations": {
            name: _association(predicted, [column[i] for i in held])
            for name, column in compared.items()
        },
    }  # fmt: skip
    return Linear(found.table, found.intercept, facts, kind)


def _spearman(a: Float64, b: Float64) -> float:
    """Rank correlation; 0 where one of the two is constant."""
    from scipy import stats  # type: ignore[import-untyped, unused-ignore]

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(stats.spearmanr(a, b).statistic)


def _association(predicted: Float64, values: Sequence[Any]) -> float:
    """How far a prediction goes with a column: with numbers by rank, else by its groups' means."""
    known = [i for i, v in enumerate(values) if v is not None]
    own, kept = predicted[known], [values[i] for i in known]
    if len(kept) < 2 or np.ptp(own) == 0:
        return 0.0
    if all(isinstance(v, numbers.Number) and not isinstance(v, bool) for v in kept):
        return _spearman(own, np.array(kept, np.float64))
    _, group = np.unique([str(v) for v in kept], return_inverse=True)
    means = np.bincount(group, own) / np.bincount(group)
    return float(np.sqrt(np.var(means[group]) / np.var(own)))


def _best(
    of: Examples, rows: Any, labels: Any, strengths: Sequence[float],
    fitted: Callable[[float], Any], loss: Callable[[Any, Any, Any], float],
) -> tuple[float, Linear, Any, Any]:  # fmt: skip
    """The least loss on the part to choose by, of models with a penalty each; the model as it is
    kept, and as scikit-learn has it; and the rows that it was learnt from, scaled to a norm of 1 in
    the mean, which is what the penalties and tolerances of scikit-learn are meant for."""
    learnt, tuned, _ = of.parts()
    squares = rows[learnt].multiply(rows[learnt]).sum(axis=1)
    scale = 1.0 / float(np.sqrt(np.mean(squares)))
    scaled = rows * scale
    models: list[tuple[float, int, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterations: what comes of them is measured
        for strength in strengths:
            model = fitted(strength).fit(scaled[learnt], labels[learnt])
            models.append((loss(model, scaled[tuned], labels[tuned]), len(models), model))
    least, _, best = min(models)
    table = np.ascontiguousarray(np.ravel(best.coef_) * scale, np.float64)
    return least, Linear(table, float(np.ravel(best.intercept_)[0])), best, scaled
