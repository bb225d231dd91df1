"""A classifier beside DSIR: scikit-learn's scores on the same features, in the pass that weighs."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import sys

import numpy as np
import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from dsir_spark import DSIR, DSIRModel, job
from dsir_spark.errors import ConfigError, DataError
from dsir_spark.job_options import JobOptions
from dsir_spark.report import text as printed
from dsir_spark.scoring import linear

BUCKETS = 211
KINDS = {
    "cooking": "boil the water add salt and stir the soup until it is thick".split(),
    "sailing": "hoist the sail and steer the boat against the wind to port".split(),
}


def made(number, seed, shares):
    """Documents whose words come from the two kinds by some share of the first."""
    rng = random.Random(seed)
    rows = []
    for i in range(number):
        p = rng.choice(shares)
        words = [rng.choice(KINDS["cooking" if rng.random() < p else "sailing"])
                 for _ in range(rng.randrange(5, 40))]  # fmt: skip
        rows.append((f"{seed}-{i:03}", " ".join(words)))
    return rows


RAW = [*made(700, 1, (0.1, 0.5, 0.9)), ("null", None), ("blank", " "), ("word", "unheard")]
TARGET = made(300, 2, (0.9,))


def features(texts):
    """Share of each document's n-grams by bucket, float64[n, BUCKETS]."""
    counts = np.array([oracle.bucket_counts([text], 2, BUCKETS) for text in texts], float)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def test_what_is_learnt_is_scikit_learns():
    """Of documents in the order of their hashes, rows scaled to norm 1, the best of four C."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss, roc_auc_score

    rng, parts = np.random.default_rng(3), []
    for rows in (TARGET, RAW[:700]):
        texts = [text for _, text in rows]
        hashes = [f"{rng.integers(1 << 62):016x}{i:016x}" for i in range(len(texts))]
        counts = np.array([oracle.bucket_counts([text], 2, BUCKETS) for text in texts])
        indices = [np.flatnonzero(own) for own in counts]
        given = [own[at] for own, at in zip(counts, indices, strict=True)]
        shuffled = rng.permutation(len(texts))
        mixed = [[x[i] for i in shuffled] for x in (hashes, indices, given)]
        found, order = linear.examples(*mixed, BUCKETS)
        assert [hashes[shuffled[i]] for i in order] == sorted(hashes)
        by_hash = sorted(range(len(texts)), key=lambda i: hashes[i])
        parts.append((found, features(texts)[by_hash], np.array([int(hashes[i][:16], 16) % 10
                                                                 for i in by_hash])))  # fmt: skip
    learnt = linear.classify(parts[0][0], parts[1][0].first(300))
    x = np.concatenate([parts[0][1], parts[1][1][:300]])
    y = np.repeat([1, 0], 300)
    part = np.concatenate([parts[0][2], parts[1][2][:300]])
    x *= 1 / math.sqrt(np.mean((x[part > 2] ** 2).sum(axis=1)))
    models = [LogisticRegression(C=c, class_weight="balanced", max_iter=1000)
              .fit(x[part > 2], y[part > 2]) for c in (1, 10, 100, 1000)]  # fmt: skip
    losses = [log_loss(y[part == 2], m.predict_proba(x[part == 2])[:, 1]) for m in models]
    best = models[int(np.argmin(losses))]
    assert learnt.facts["C"] == best.C
    given = features(text for _, text in TARGET)
    odds = best.decision_function(given * x[0].sum())  # of shares, which sum to 1, as scaled
    assert learnt.intercept + given @ learnt.table == pytest.approx(odds, abs=1e-4)
    held = part < 2
    assert learnt.facts["documents"] == held.sum()
    auc = roc_auc_score(y[held], best.predict_proba(x[held])[:, 1])
    assert learnt.facts["auc"] == pytest.approx(auc, abs=1e-6) and 0.7 < auc < 1
    assert learnt.facts["calibration_error"] < 0.3
    assert sum(n for _, _, n in learnt.facts["calibration"]) == held.sum()


@pytest.fixture(scope="module")
def frames(spark):
    kind = "id string, text string"
    return spark.createDataFrame(RAW, kind), spark.createDataFrame(TARGET, kind)


@pytest.fixture(scope="module")
def model(frames):
    return DSIR(num_buckets=BUCKETS, ngrams=2, scorer="classifier").fit(*frames)


@pytest.mark.spark
def test_scores_are_scikit_learns_on_the_same_features(frames, model):
    """To 1e-9: the model's coefficients in an estimator of scikit-learn's."""
    from sklearn.linear_model import LogisticRegression

    raw, _ = frames
    known = LogisticRegression()
    learnt = model.classifiers["target"]
    known.classes_, known.intercept_ = np.array([0, 1]), np.array([learnt.intercept])
    known.coef_ = learnt.table[None, :]
    texts = [text or "" for _, text in RAW]
    odds, p = known.decision_function(features(texts)), known.predict_proba(features(texts))[:, 1]
    plain = DSIR(num_buckets=BUCKETS, ngrams=2).fit(*frames).weigh(raw).collect()
    plain = {r["id"]: r for r in plain}
    rows = {r["id"]: r for r in model.weigh(raw).collect()}
    for i, (name, text) in enumerate(RAW):
        row = rows[name]
        assert row["log_weight"] == plain[name]["log_weight"]
        if text is None:
            assert row["log_odds"] is None and row["probability"] is None
        else:
            assert row["log_odds"] == pytest.approx(odds[i], abs=1e-9)
            assert row["probability"] == pytest.approx(p[i], abs=1e-9)
    assert rows["blank"]["log_odds"] == learnt.intercept
    assert model.transform(raw).columns == ["id", "text", "log_weight", "log_odds", "num_tokens",
                                            "probability"]  # fmt: skip
    facts = learnt.facts
    assert facts["num_target"] == facts["num_raw"] == 300 and 0.7 < facts["auc"] < 1


@pytest.mark.spark
def test_a_classifier_selects_and_is_kept(spark, frames, model, tmp_path):
    raw, target = frames
    odds = {r["id"]: r["log_odds"] for r in model.weigh(raw).collect()}
    options = {"num_to_sample": 50, "method": "sample", "min_example_length": 2, "seed": 5}
    best = sorted((i for i in odds if i not in ("null", "blank", "word")), key=lambda i: -odds[i])
    top = model.resample(raw, **{**options, "method": "top_k"})
    assert {r["id"] for r in top.collect()} == set(best[:50])
    # The discriminative variant: log odds as log weights, the noise that of any other score.
    expected = oracle.gumbel_top_k(best, [odds[i] for i in best], 50, 5)
    drawn = {r["id"] for r in model.resample(raw, **options).collect()}
    assert drawn == set(expected) != set(best[:50])
    model.save(str(tmp_path / "model"), spark=spark)
    loaded = DSIRModel.load(str(tmp_path / "model"), spark=spark)
    assert loaded.fingerprint == model.fingerprint
    assert loaded.classifiers["target"].facts == model.classifiers["target"].facts
    assert (loaded.classifiers["target"].table == model.classifiers["target"].table).all()
    again = DSIR(num_buckets=BUCKETS, ngrams=2, scorer="classifier").fit(raw.repartition(5), target)
    assert again.fingerprint == model.fingerprint
    assert DSIR(num_buckets=BUCKETS, ngrams=2).fit(raw, target).fingerprint != model.fingerprint
    for more, said in (({"method": "match"}, "match goes by counts"),
                       ({"normalize": "ngram"}, "log odds are of means")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            model.resample(raw, **{**options, **more})
    with pytest.raises(DataError, match=r"raw has \d+ and target 9: give more, or scorer dsir"):
        DSIR(num_buckets=BUCKETS, ngrams=2, scorer="classifier").fit(raw, target.limit(9))


@pytest.mark.parametrize(
    "hashes, enough",
    [
        (range(50), True),
        (range(49), False),
        ([*range(49), *range(49)], False),  # copies
        ([10 * i + i % 8 + 2 for i in range(80)], False),  # none held out
        ([10 * i + (0, 1, 3)[i % 3] for i in range(90)], False),  # none to choose by
        ([10 * i + i % 3 for i in range(90)], False),  # none to learn from
    ],
)
def test_a_part_of_few_texts_is_too_little(hashes, enough):
    own = np.array(list(hashes), np.uint64)
    assert linear.Examples(np.zeros((len(own), 1)), np.ones(len(own)), own).enough == enough


@pytest.mark.spark
@pytest.mark.parametrize("different", [1, 2, 5])
def test_a_target_of_copies_is_one_line(frames, different):
    raw, target = frames
    copies = target.limit(different).withColumn("id", F.explode(F.sequence(F.lit(1), F.lit(60))))
    with pytest.raises(DataError, match=rf"needs 50 different .* and target {different}: give"):
        DSIR(num_buckets=BUCKETS, scorer="classifier").fit(raw, copies)


@pytest.mark.spark
def test_what_is_known_of_a_classifier_is_json(model):
    known = dataclasses.replace(model.classifiers["target"], facts={"auc": math.nan})
    broken = dataclasses.replace(model, classifiers={"target": known})
    for name in ("classifier_facts", "fingerprint"):
        with pytest.raises(ValueError, match="not JSON compliant"):
            getattr(broken, name)


def test_without_scikit_learn_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"classifier needs scikit-learn, .*pip install"):
        DSIR(scorer="classifier")
    DSIR()


@pytest.mark.spark
@pytest.mark.slow
def test_job_with_a_classifier_of_each_target(spark, tmp_path):
    def write(name, rows):
        place = str(tmp_path / f"{name}.parquet")
        pq.write_table(pa.Table.from_pylist([{"id": i, "text": t} for i, t in rows]), place)
        return place

    given = {
        "raw": write("raw", RAW), "output": str(tmp_path / "out"), "num_to_sample": 40,
        "target": {"a": write("a", TARGET), "b": write("b", made(90, 4, (0.2,)))},
        "num_buckets": BUCKETS, "min_example_length": 5, "scorer": "classifier", "seed": 1,
        "method": "sample",
    }  # fmt: skip
    row = job.run_all(spark, JobOptions.from_mapping(given))
    learnt = json.loads(row["classifier"])
    assert [learnt[n]["num_target"] for n in "ab"] == [300, 90] and learnt["b"]["num_raw"] == 90
    shown = printed.full(row["facts"])
    assert f"a: AUC {learnt['a']['auc']:.3f}" in shown
    job.write_report(spark, row["facts"], given["output"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert ">Classifier</h2>" in page
    chosen = spark.read.format("delta").load(f"{given['output']}/selected")
    assert chosen.columns == ["id", "text", "log_weight_a", "log_weight_b", "log_odds_a",
                              "probability_a", "log_odds_b", "probability_b", "num_tokens",
                              "target"]  # fmt: skip
    assert chosen.count() == 40
    again = {k: given[k] for k in ("output", "min_example_length")}
    more = job.resample_again(spark, JobOptions.from_mapping(
        {**again, "num_to_sample": 30, "method": "top_k"}))  # fmt: skip
    assert more["classifier"] == row["classifier"] and more["funnel"]["selected"] == 30
    with pytest.raises(ConfigError, match="match goes by counts"):
        job.resample_again(spark, JobOptions.from_mapping(
            {**again, "num_to_sample": 3, "method": "match"}))  # fmt: skip
