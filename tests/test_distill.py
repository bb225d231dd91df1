"""A score of a sample, extended to all documents by their n-grams."""

from __future__ import annotations

import random
import warnings

import numpy as np
import oracle
import pytest
from scipy import stats

from dsir_spark import DSIR, distill, select
from dsir_spark.distilled import DistilledModel
from dsir_spark.errors import ColumnError, ConfigError, DataError, TableError

pytestmark = pytest.mark.spark
BUCKETS = 499
GOOD, DULL = "proof lemma theorem integral".split(), "buy cheap click offer now sale".split()
PLAIN = "the of and in to a is that it for on with as by at from this be are or".split()


def documents():
    """A rating by the share of some words, of which nobody is told, with noise; and a source that
    has nothing to do with it."""
    rng = random.Random(8)
    rows = []
    for i in range(900):
        p, q = rng.random() * 0.4, rng.random() * 0.4
        words = [rng.choice(GOOD if (u := rng.random()) < p else DULL if u < p + q else PLAIN)
                 for _ in range(rng.randrange(30, 120))]  # fmt: skip
        share = sum((w in GOOD) - (w in DULL) for w in words) / len(words)
        rows.append((f"d{i}", " ".join(words), 3 + 5 * share + rng.gauss(0, 0.2),
                     f"site {i % 3}", len(words)))  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def rated(spark):
    kind = "id string, text string, rating double, source string, length int"
    return spark.createDataFrame(documents(), kind).repartition(3)


def held_out(frame, score, known):
    """Rank correlation with what is known, of all documents, text by text."""
    found = {r["id"]: r[score] for r in frame.collect()}
    return stats.spearmanr([found[i] for i in known], list(known.values())).statistic


def test_log_weights_are_recovered(spark, rated):
    """Learnt from two thirds of the documents, and right for all the others."""
    target = rated.where("rating > 3.8")
    model = DSIR(num_buckets=97, target_dirichlet_smoothing="auto").fit(rated, target)
    weighed = rated.join(model.weigh(rated), "id")
    learnt = distill(weighed.where("pmod(hash(id), 3) > 0"), score="log_weight", num_buckets=97)
    assert learnt.facts["kind"] == "sum" and learnt.facts["rank_correlation"] > 0.99
    rest = weighed.where("pmod(hash(id), 3) = 0")
    known = {r["id"]: r["log_weight"] for r in rest.select("id", "log_weight").collect()}
    found = learnt.weigh(rated.select("id", "text"))
    assert held_out(found, "log_weight_distilled", known) > 0.99


def test_a_rating_made_of_words_it_was_not_told(spark, rated, tmp_path):
    sample = rated.where("pmod(hash(id), 3) = 0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learnt = distill(sample, score="rating", compare=["source", "length"],
                         ngrams=2, num_buckets=BUCKETS)  # fmt: skip
    facts = learnt.facts
    assert facts["rank_correlation"] > 0.9 and facts["r2"] > 0.8 and facts["kind"] == "mean"
    assert abs(facts["correlations"]["length"]) < 0.5 and facts["correlations"]["source"] < 0.5
    raw = rated.select("id", "text", "source").where("pmod(hash(id), 3) > 0")
    known = {i: rating for i, _, rating, _, _ in documents()}
    scored = learnt.weigh(raw, keep=["source", "ID", "SOURCE"])  # as Spark finds them
    assert scored.columns == ["id", "source", "rating_distilled", "num_tokens"]
    rows = {r["id"]: r["rating_distilled"] for r in scored.collect()}
    assert held_out(scored, "rating_distilled", {i: known[i] for i in rows}) > 0.9
    # By hand: an intercept and a mean over the n-grams.
    table = learnt.linear.table
    for i, text, *_ in documents()[:60]:
        if i in rows:
            own = np.mean([table[b] for b in oracle.buckets(text, 2, BUCKETS)])
            assert rows[i] == pytest.approx(learnt.linear.intercept + own, abs=1e-9)
    best = {r["id"] for r in select(scored, "rating_distilled", num_to_sample=40,
                                    method="top_k").select("id").collect()}  # fmt: skip
    assert best == set(sorted(rows, key=lambda i: -rows[i])[:40])
    again = distill(sample.repartition(7), score="rating", ngrams=2, num_buckets=BUCKETS)
    assert (again.linear.table == table).all()
    learnt.save(str(tmp_path / "m"), spark=spark)
    loaded = DistilledModel.load(str(tmp_path / "m"), spark=spark)
    assert {r["id"]: r["rating_distilled"] for r in loaded.weigh(raw).collect()} == rows
    assert loaded.facts == facts
    raw.write.format("delta").save(str(tmp_path / "raw"))
    with pytest.raises(TableError, match="is not a distilled model"):
        DistilledModel.load(str(tmp_path / "raw"), spark=spark)


def test_copies_of_other_scores_in_any_order(spark):
    rng, rows = random.Random(3), []
    for text in [" ".join(rng.choices(GOOD + DULL + PLAIN, k=30)) for _ in range(70)]:
        share = sum((w in GOOD) - (w in DULL) for w in text.split()) / 30
        rows += [(text, 3 + 5 * share + rng.gauss(0, 1), rng.choice("ab")) for _ in range(5)]
    tables = []
    for given in (rows, rows[::-1]):
        frame = spark.createDataFrame(given, "text string, rating double, site string")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            learnt = distill(frame, score="rating", compare=["site"], num_buckets=BUCKETS)
        tables.append((learnt.linear.table.tobytes(), learnt.facts))
    assert tables[0] == tables[1]


def test_what_is_little_is_warned_of(spark, rated):
    """Chance is no score; and a score of the source is told as one."""
    chance = rated.selectExpr("text", "pmod(hash(id, 'x'), 997) as luck")
    with pytest.warns(UserWarning, match="n-grams tell little of luck: the rank correlation is"):
        distill(chance, score="luck", ngrams=2, num_buckets=BUCKETS)
    sites = rated.selectExpr(
        "concat_ws(' ', text, source, source, source, source) as text", "source",
        "cast(substring(source, 6, 1) as int) + pmod(hash(id), 97) / 50.0 as rating",
    )
    with pytest.warns(UserWarning, match=r"goes with source \(.*\) more than with rating"):
        distill(sites, score="rating", compare=["source"], ngrams=2, num_buckets=BUCKETS)


@pytest.mark.parametrize(
    "options, error, said",
    [
        ({"score": "none"}, ColumnError, "score 'none' is not a column of the sample"),
        ({"score": "source"}, ColumnError, "score 'source' of the sample must be numeric"),
        ({"score": "rating", "compare": ["x"]}, ColumnError, "compare 'x' is not a column"),
        ({"score": "rating", "ngrams": 0}, ConfigError, "ngrams must be"),
        ({"score": "same"}, DataError, "900 different texts have one, of 1 values"),
        ({"score": "few"}, DataError, "6 different texts have one"),
        ({"score": "length", "text_column": "source"}, DataError, "3 different texts have one"),
    ],
)
def test_mistakes_are_one_line(rated, options, error, said):
    made = rated.selectExpr("*", "1 as same", "if(id < 'd103', rating, double('nan')) as few")
    with pytest.raises(error, match=said):
        distill(made, num_buckets=BUCKETS, **options)
