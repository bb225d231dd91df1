"""Judges that are trained on a selection: word vectors for tasks with labels, and a small GPT."""

from __future__ import annotations

import re
import warnings

import numpy as np
from gensim.models import Word2Vec
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from judging.corpus import Target, uniform
from judging.methods import Selection

MICRO = ("chemprot",)  # tasks whose F1 is micro-averaged (Gururangan et al. 2020)
DIMENSIONS, EPOCHS, LEAST = 64, 4, 3


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def f1_of(selection: Selection, target: Target, seed: int) -> float:
    """F1 on the held-out half of a linear classifier over mean word vectors of the selection.

    The classifier is trained on the labels of the known half; the vectors are not changed.
    """
    assert target.labels is not None
    order = np.argsort(uniform([str(i) for i in range(len(selection.chosen))], 0))
    texts = selection.texts.to_pylist()
    model = Word2Vec(
        [words(texts[i]) for i in order], vector_size=DIMENSIONS, epochs=EPOCHS, min_count=LEAST,
        seed=seed, workers=1, window=5, negative=5,
    )  # fmt: skip
    known, held = (_means(model, half.to_pylist()) for half in (target.known, target.held))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2_000, C=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier.fit(known, target.labels[0])
    average = "micro" if target.name in MICRO else "macro"
    return float(f1_score(target.labels[1], classifier.predict(held), average=average))


def _means(model: Word2Vec, texts: list[str]) -> np.ndarray:
    """The mean vector of each text's words that the model knows, float64[n, DIMENSIONS]."""
    found = np.zeros((len(texts), DIMENSIONS))
    index = model.wv.key_to_index
    for i, text in enumerate(texts):
        own = [index[w] for w in words(text) if w in index]
        if own:
            found[i] = model.wv.vectors[own].mean(axis=0)
    return found
