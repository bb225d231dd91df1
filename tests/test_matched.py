"""Matched selection: the loop against plain Python, the bound against every subset, Spark."""

from __future__ import annotations

import itertools
import json
import math
import random
import struct
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsir_spark import DSIR, job, matchings, tables
from dsir_spark.errors import ConfigError, DataError
from dsir_spark.features import (
    FeatureSpec,
    batches,
    buckets,
    buckets_in_order,
    count_ngrams,
    score,
    sums,
)
from dsir_spark.job_options import JobOptions
from dsir_spark.matchings import as_frame, learn_matchings, load_matchings
from dsir_spark.options import ResampleOptions
from dsir_spark.scoring import distributions, matched, matching, samples, scorers
from dsir_spark.scoring.documents import spec_of

EPS = 1e-10


def plain_frank_wolfe(documents, target, num_steps, budget):
    """The steps in plain Python: lists of counts in, sets of positions out."""
    raw = [sum(column) for column in zip(*documents, strict=True)]
    p = [c / sum(target) for c in target]
    q = [c / sum(raw) for c in raw]
    taken = []
    for t in range(num_steps):
        score = [sum(c * p[b] / (q[b] + EPS) for b, c in enumerate(d)) / sum(d) for d in documents]
        # Documents whose scores have the leading bits in common are taken together.
        lead = [struct.unpack("<q", struct.pack("<d", s))[0] >> 40 for s in score]
        chosen, size = [], 0
        for group in sorted(set(lead), reverse=True):
            members = [i for i in range(len(documents)) if lead[i] == group]
            together = sum(sum(documents[i]) for i in members)
            if chosen and size + together > budget:
                break
            chosen += members
            size += together
        counts = [sum(documents[i][b] for i in chosen) for b in range(len(p))]
        gamma = 2 / (t + 2)
        with_raw = [0.9 * c / sum(counts) + 0.1 * r / sum(raw)
                    for c, r in zip(counts, raw, strict=True)]  # fmt: skip
        q = [(1 - gamma) * a + gamma * b for a, b in zip(q, with_raw, strict=True)]
        taken.append(set(chosen))
    return taken, q


class Documents:
    """A sample in memory: int64[n, num_buckets]."""

    def __init__(self, documents):
        self.documents, self.sizes = documents, documents.sum(axis=1)

    def scores(self, tables):
        """Sums in the order of the buckets: the same bits for any tables beside."""
        total = np.zeros((len(self.documents), tables.shape[1]))
        for b, row in enumerate(tables):
            total += self.documents[:, [b]] * row
        return batches.means(total, self.sizes)

    def histograms(self, tables):
        return [matched.histogram(own, self.sizes) for own in self.scores(tables).T]

    def counts(self, tables, thresholds):
        return [
            self.documents[taken].sum(axis=0) for taken in (self.scores(tables) >= thresholds).T
        ]


def learn(documents, target, num_steps, budget):
    """Steps, counts of raw and the sample. budget : n-grams, or a function of `matched.learn`."""
    sample, raw = Documents(documents), documents.sum(axis=0)
    budgets = budget if callable(budget) else lambda *_: [budget]
    found = matched.learn({"t": target}, raw, num_steps, sample, budgets)
    return found["t"], raw, sample


def made_pool(seed, num_documents, num_buckets):
    rng = np.random.default_rng(seed)
    documents = rng.integers(0, 6, (num_documents, num_buckets))
    documents[:, 0] += 1
    return documents, rng.integers(1, 9, num_buckets)


@pytest.mark.parametrize("seed", range(5))
def test_the_loop_is_frank_wolfe(seed):
    documents, target = made_pool(seed, 40, 12)
    budget = int(documents.sum()) // 4
    matching, raw, _ = learn(documents, target, 8, budget)
    taken, q = plain_frank_wolfe(documents.tolist(), target.tolist(), 8, budget)
    for step, chosen in zip(matching.steps, taken, strict=True):
        assert (step.counts == documents[sorted(chosen)].sum(axis=0)).all()
    assert matching.mixtures(raw)[-1] == pytest.approx(np.array(q), rel=1e-12)
    keys, last = scorers.matched_keys(matching, target, raw).outputs
    assert keys.kind == "steps" and keys.thresholds == tuple(matching.thresholds)
    assert (last.kind, last.first) == ("mean", len(matching.steps))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 6), least=st.integers(1, 60),
       ruler=st.sampled_from([2, 4, 5]))
def test_no_subset_passes_the_bound(seed, steps, least, ruler):
    """Of documents in five buckets, measured on as many and on fewer."""
    documents, target = made_pool(seed, 9, 5)
    with mock.patch.object(distributions, "RULER", ruler):
        matching, raw, sample = learn(documents, target, steps, int(documents.sum()) // 3)
        table = matching.tables(target, raw)[:, -1:]
        best = matched.best_mean(sample.histograms(table)[0], least)
        for size in range(1, len(documents) + 1):
            for subset in itertools.combinations(documents, size):
                counts = np.sum(subset, axis=0)
                if counts.sum() >= least:
                    bound = bound_of(matching, target, raw, best, counts.sum())
                    assert distributions.kl_reduction(target, raw, counts) <= bound + 1e-9


def bound_of(matching, target, raw, best, ngrams):
    parts = distributions.distribution(target), distributions.distribution(raw)
    p, p_raw, q = map(distributions.on_ruler, (*parts, matching.mixtures(raw)[-1]))
    return matched.bound(p, p_raw, q, best, distributions.raw_share(ngrams, len(target)))


def test_the_ruler_has_the_buckets_of_a_model_of_as_many():
    texts = pa.array([f"of {i} words, w{i * i} is one" for i in range(2_000)])
    found = {n: count_ngrams(texts, FeatureSpec(2, n)).counts for n in (10_000, 30_000, 7)}
    assert (distributions.on_ruler(found[30_000]) == found[10_000]).all()
    assert (distributions.on_ruler(found[7]) == found[7]).all()
    table = np.arange(10_000.0)
    assert (distributions.from_ruler(table, 30_000) == np.tile(table, 3)).all()
    uneven = distributions.on_ruler(np.ones(10_001))
    assert uneven[0] == 2.0 and uneven.sum() == 10_001


def test_no_subset_passes_the_bound_of_a_step():
    documents, target = made_pool(5, 9, 5)
    matching, raw, _ = learn(documents, target, 5, int(documents.sum()) // 3)
    bounds = matched.bound_path(matching, target, raw)
    assert len(bounds) == 5
    for step, bound in zip(matching.steps, bounds, strict=True):
        reductions = [
            # With as much of raw as what was learnt.
            distributions.kl_reduction(target, raw, np.sum(subset, axis=0), 45)
            for size in range(1, len(documents) + 1)
            for subset in itertools.combinations(documents, size)
            if np.sum(subset) >= step.counts.sum()
        ]
        assert reductions and max(reductions) <= bound + 1e-9
    assert min(bounds) < bounds[0]


def test_the_bound_is_nearly_reached():
    documents, target = made_pool(3, 4000, 20)
    budget = int(documents.sum()) // 10
    matching, raw, sample = learn(documents, target, 32, budget)
    table = matching.tables(target, raw)[:, -1:]
    # A step takes whole bins, so a little less than its budget.
    least = min(int(step.counts.sum()) for step in matching.steps)
    best = matched.best_mean(sample.histograms(table)[0], least)
    p, p_raw = map(distributions.distribution, (target, raw))
    bound = matched.bound(p, p_raw, matching.mixtures(raw)[-1], best, matching.raw_share)
    start = distributions.kl_divergence(p, p_raw)
    reached = start - distributions.kl_divergence(p, matching.mixtures(raw)[-1])
    assert 0.95 * bound < reached <= bound


def test_a_budget_of_documents_finds_its_ngrams():
    """Documents of the target are ten times shorter than the others: so are budgets, in the end."""
    rng = np.random.default_rng(1)
    short = rng.integers(0, 3, (300, 10))
    short[:, :5] += 4
    long = rng.integers(0, 90, (300, 10))
    documents, target = np.concatenate([short, long]), short.sum(axis=0)
    wanted, asked = 60, []

    def budgets(histogram, lengths):
        asked.append(lengths)
        whole = sum(h[1] for h in histogram.values()) / len(documents)
        return [round(wanted * (whole if lengths is None else lengths[0]))]

    matching, _, _ = learn(documents, target, 12, budgets)
    assert asked[0] is None
    sizes = [step.num_ngrams for step in matching.steps]
    assert sizes[0] > 4 * sizes[-1]
    assert 0.5 * wanted < sizes[-1] / short.sum(axis=1).mean() < 1.5 * wanted


@given(st.lists(st.floats(0, 1e300), min_size=2, max_size=20))
def test_bins_keep_the_order(scores):
    ordered = np.sort(np.array(scores))
    assert (np.diff(batches.bins(ordered)) >= 0).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_number_of_ngrams(n):
    from oracle import ngrams

    lengths = np.arange(6)
    expected = [len(ngrams(["w"] * k, n)) for k in lengths]
    assert batches.num_ngrams(lengths, n).tolist() == expected


def corpus():
    rng = random.Random(5)
    kinds = [[f"{kind}{i}" for i in range(40)] for kind in "abc"]
    rows = []
    for i in range(300):
        words = rng.choices(kinds[i % 3], k=40) + rng.choices(kinds[0], k=rng.randrange(30))
        rows.append((f"d{i:03}", " ".join(words)))
    target = [(f"t{i}", " ".join(rng.choices(kinds[1] + kinds[0], k=60))) for i in range(20)]
    return rows, target


def test_a_key_counts_the_steps_that_took_the_document():
    """Of texts, through the arrays that the passes use."""
    rows, held = corpus()
    spec = FeatureSpec(ngrams=1, num_buckets=300)
    texts = pa.array([t for _, t in rows])
    target = count_ngrams(pa.array([t for _, t in held]), spec).counts
    documents = np.array([count_ngrams(texts.slice(i, 1), spec).counts for i in range(len(rows))])

    class Texts(Documents):
        def scores(self, tables):
            return batches.means(score(texts, tables, spec)[0], self.sizes)

    raw, budget = documents.sum(axis=0), int(documents.sum()) // 4
    found = matched.learn({"t": target}, raw, 5, Texts(documents), lambda *_: [budget])["t"]
    weights = scorers.log_weights([np.arange(300.0)])
    both = scorers.joined([weights, scorers.matched_keys(found, target, raw)])
    columns, num_tokens = both.apply(texts, spec)
    assert (columns[:, 0] == documents @ np.arange(300.0)).all()
    tables = found.tables(target, raw)
    taken, _ = plain_frank_wolfe(documents.tolist(), target.tolist(), 5, budget)
    expected = [sum(t + 1 for t, s in enumerate(taken) if i in s) for i in range(len(documents))]
    assert columns[:, 1].tolist() == expected
    means = documents @ tables[:, -1] / num_tokens
    assert columns[:, 2] == pytest.approx(means, rel=1e-12)


@pytest.mark.parametrize("num_buckets", [300, 100_000])
def test_buckets_of_documents_are_packed_and_unpacked(monkeypatch, num_buckets):
    """Also where a document is longer than a piece, and a text longer than what is hashed at once;
    scores have the bits of those of the texts."""
    monkeypatch.setattr(buckets, "_TEXT_BYTES", 100)
    monkeypatch.setattr(buckets, "_PIECE", 64)
    spec = FeatureSpec(2, num_buckets)
    rows = [t for _, t in corpus()[0][:20]]
    rows[3:3] = [None, "", "two words", "long " * 400]
    parts = [pa.record_batch([pa.array(rows[:9])], ["t"]), pa.record_batch([rows[9:]], ["t"])]
    found = pa.Table.from_batches(buckets.packed(parts, spec, 3))
    assert max(len(b) for b in found.column("buckets").to_pylist()) <= 64
    packed = zip(*[column.to_pylist() for column in found.columns], strict=True)
    own, indptr = buckets.unpacked(packed, spec)
    assert own.dtype == (np.uint16 if num_buckets == 300 else np.int32)
    long_enough = pa.array([t for t in rows if t is not None and len(t.split()) >= 3])
    assert own.tolist() == buckets_in_order(long_enough, spec).tolist()
    tables = np.random.default_rng(2).normal(size=(num_buckets, 2))
    total, counts = np.zeros((len(long_enough), 2)), np.zeros(num_buckets, np.int64)
    sums.add_scores(own, indptr, tables, total)
    assert (total == score(long_enough, tables, spec)[0]).all()
    chosen = np.arange(len(long_enough)) % 3 == 1
    sums.add_counts(own, indptr, chosen, counts)
    assert (counts == count_ngrams(long_enough.filter(pa.array(chosen)), spec).counts).all()


OPTIONS = {"num_to_sample": 60, "min_example_length": 10, "match_steps": 6, "method": "match"}


@pytest.mark.spark
def test_match_on_spark(spark):
    rows, held = corpus()
    schema = "id string, text string"
    raw, target = spark.createDataFrame(rows, schema), spark.createDataFrame(held, schema)
    model = DSIR(num_buckets=300, ngrams=1).fit(raw, target)
    learnt = learn_matchings(model, raw.repartition(5), ResampleOptions.checked(OPTIONS))
    first = learnt.resample(raw.repartition(7), seed=2, **OPTIONS).collect()
    second = model.resample(raw, seed=2, **OPTIONS)
    assert second.columns == ["id", "text", "log_weight", "num_tokens"]
    assert sorted(first) == sorted(second.collect()) and len(first) == 60
    texts = {i: t for i, t in rows}
    sampled = model.resample(raw, seed=2, **{**OPTIONS, "method": "sample"})
    counted = [
        count_ngrams(pa.array([texts[r["id"]] for r in chosen]), spec_of(model.config)).counts
        for chosen in (first, sampled.select("id").collect())
    ]
    of_raw, of_target = model.raw.counts, model.targets["target"].counts
    match, sample = (distributions.kl_reduction(of_target, of_raw, c) for c in counted)
    scored = learnt.weigh(raw).where("num_tokens >= 10").select("match_score", "num_tokens")
    scores, sizes = np.array(scored.collect()).T
    histogram = matched.histogram(scores, sizes.astype(np.int64))
    ngrams = int(counted[0].sum())
    best = matched.best_mean(histogram, ngrams)
    bound = bound_of(learnt.matchings["target"], of_target, of_raw, best, ngrams)
    assert sample < match and 0.5 * bound < match <= bound


@pytest.mark.spark
def test_a_budget_of_sizes_is_a_share_of_those_that_are_some(spark):
    sizes = [3.2, 6.0, None, -9.0, math.nan, math.inf, math.inf, 2.0**53]
    raw = spark.createDataFrame([(s,) for s in sizes], "size double")
    options = {"num_tokens_to_sample": 5, "size_column": "size"}
    none = mock.Mock()
    assert matching._wanted(raw, ResampleOptions.checked(options), none, 1.0) == 0.5


def as_bits(steps):
    return [(s.threshold, s.num_ngrams, s.counts.tolist()) for s in steps]


@pytest.mark.spark
def test_steps_are_the_same_from_memory_and_from_texts(spark, monkeypatch):
    """For several targets, in any partitioning; and a table of them comes back as it was."""
    rows, held = corpus()
    schema = "id string, text string"
    raw = spark.createDataFrame([*rows, ("null", None), ("short", "a0 b0")], schema)
    targets = {"one": spark.createDataFrame(held, schema), "two": raw.where("id < 'd040'")}
    model = DSIR(num_buckets=300).fit(raw, targets)
    options = ResampleOptions.checked({**OPTIONS, "match_tokens": 15_000, "match_steps": 3})
    monkeypatch.setattr(matchings, "_TASK_NUMBERS", 500)  # so that several tasks write them
    monkeypatch.setattr(samples, "_PART", 7)
    found = [learn_matchings(model, raw.repartition(5), options)]
    place = str(spark.conf.get("spark.sql.warehouse.dir")) + "/match"
    tables.write(as_frame(found[0], spark), place, overwrite=True)
    found.append(load_matchings(model, place, spark=spark))
    # Steps of before raw had a part in what they brought near to the target, all numbers of them.
    old, steps = f"{place}_old", {name: m.steps for name, m in found[0].matchings.items()}
    rows = [(name, t, s.num_ngrams, s.threshold, s.counts.tolist())
            for name, own in steps.items() for t, s in enumerate(own)]  # fmt: skip
    names = "target string, step int, num_ngrams bigint, threshold double, counts array<bigint>"
    tables.write(spark.createDataFrame(rows, names), old, overwrite=True)
    without = load_matchings(model, old, spark=spark).matchings["two"]
    assert without.raw_share == 0.0 and as_bits(without.steps) == as_bits(steps["two"])
    monkeypatch.setattr(matching, "HELD", 0)
    found.append(learn_matchings(model, raw.coalesce(1), options))
    for name in targets:
        own, *others = [as_bits(each.matchings[name].steps) for each in found]
        assert all(other == own for other in others)
        assert all(0 < sum(counts) < 15_000 for _, _, counts in own)
    none = ResampleOptions.checked({**OPTIONS, "min_example_length": 1000})
    with pytest.raises(DataError, match="no document has 1000 tokens"):
        learn_matchings(model, raw, none)
    with pytest.raises(ConfigError, match="give num_to_sample or num_tokens_to_sample"):
        model.resample(raw, method="match")


@pytest.mark.spark
def test_a_run_tells_the_steps_and_their_bounds(spark, tmp_path):
    rows, held = corpus()
    for name, found in (("raw", rows), ("one", held[:10]), ("two", rows[2::30])):
        lines = [json.dumps({"id": i, "text": t}) for i, t in found]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    targets = {name: str(tmp_path / f"{name}.jsonl") for name in ("one", "two")}
    places = {"raw": str(tmp_path / "raw.jsonl"), "target": targets, "output": f"{tmp_path}/out"}
    chosen = {**places, "method": "match", "match_steps": 4, "num_buckets": 300,
              "num_to_sample": 50, "min_example_length": 10, "report": False}  # fmt: skip
    done = job.run_all(spark, JobOptions.from_mapping(chosen))
    selected = spark.read.format("delta").load(f"{tmp_path}/out/selected")
    assert {r["target"] for r in selected.collect()} == {"one", "two"}
    assert spark.read.format("delta").load(f"{tmp_path}/out/match").count() == 8
    assert all(done["kl_reduction"][n] <= done["kl_bound"][n] for n in ("one", "two"))
    for learnt in json.loads(done["match"]).values():
        assert len(learnt["kl_reduction"]) == len(learnt["kl_bound"]) == 4
        assert 0 < learnt["kl_reduction"][-1] < learnt["kl_bound"][-1]
