"""Matched selection: the loop against plain Python, the bound against every subset."""

from __future__ import annotations

import itertools
import json
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsir_spark import DSIR, cli, matched, weights
from dsir_spark.config import JobConfig
from dsir_spark.errors import ConfigError

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
        q = [(1 - gamma) * a + gamma * c / sum(counts) for a, c in zip(q, counts, strict=True)]
        taken.append(set(chosen))
    return taken, q


def totals(documents, tables):
    """Sums in the order of the buckets, as the kernel adds: the same bits for any tables beside."""
    found = np.zeros((len(documents), tables.shape[1]))
    for b, row in enumerate(tables):
        found += documents[:, [b]] * row
    return found


def learn(documents, target, num_steps, budget):
    """`matched.learn` over documents in memory: int64[n, num_buckets].

    budget : n-grams of a step, or a function as `matched.learn` takes it
    """
    sizes = documents.sum(axis=1)

    def scores(tables):
        return matched.means(totals(documents, tables), sizes)

    def histograms(tables):
        found = {}
        for s, size in zip(scores(tables)[:, 0], sizes, strict=True):
            at = int(matched.bins(np.array([s]))[0])
            n, total, low, high = found.get(at, (0, 0, np.inf, 0.0))
            found[at] = (n + 1, total + int(size), min(low, s), max(high, s))
        return [found]

    def counts(tables, above):
        return [documents[scores(tables)[:, 0] >= above[0]].sum(axis=0)]

    raw = documents.sum(axis=0)
    budgets = budget if callable(budget) else lambda *_: [budget]
    found = matched.learn({"t": target}, raw, num_steps, histograms, budgets, counts)
    return found["t"], raw, histograms


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
    tables = matching.tables(target, raw)
    scores = matched.means(totals(documents, tables[:, :-1]), documents.sum(axis=1))
    keys = matched.key_of(scores, matching.thresholds)
    expected = [sum(t + 1 for t, s in enumerate(taken) if i in s) for i in range(len(documents))]
    assert keys.tolist() == expected


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 6), least=st.integers(1, 60))
def test_no_subset_passes_the_bound(seed, steps, least):
    documents, target = made_pool(seed, 9, 5)
    matching, raw, histograms = learn(documents, target, steps, int(documents.sum()) // 3)
    q = matching.mixtures(raw)[-1]
    table = matching.tables(target, raw)[:, -1:]
    bound = matched.bound(target, raw, q, matched.best_mean(histograms(table)[0], least))
    for size in range(1, len(documents) + 1):
        for subset in itertools.combinations(documents, size):
            counts = np.sum(subset, axis=0)
            if counts.sum() >= least:
                assert weights.kl_reduction(target, raw, counts) <= bound + 1e-9


def test_no_subset_passes_the_bound_of_a_step():
    documents, target = made_pool(5, 9, 5)
    matching, raw, _ = learn(documents, target, 5, int(documents.sum()) // 3)
    bounds = matched.bound_path(matching, target, raw)
    assert len(bounds) == 5
    for step, bound in zip(matching.steps, bounds, strict=True):
        reductions = [
            weights.kl_reduction(target, raw, np.sum(subset, axis=0))
            for size in range(1, len(documents) + 1)
            for subset in itertools.combinations(documents, size)
            if np.sum(subset) >= step.counts.sum()
        ]
        assert reductions and max(reductions) <= bound + 1e-9
    assert min(bounds) < bounds[0]


def test_the_bound_is_nearly_reached():
    documents, target = made_pool(3, 4000, 20)
    budget = int(documents.sum()) // 10
    matching, raw, histograms = learn(documents, target, 32, budget)
    table = matching.tables(target, raw)[:, -1:]
    # A step takes whole bins, so a little less than its budget.
    least = min(int(step.counts.sum()) for step in matching.steps)
    best = matched.best_mean(histograms(table)[0], least)
    bound = matched.bound(target, raw, matching.mixtures(raw)[-1], best)
    p = weights.distribution(target)
    start = weights.kl_divergence(p, weights.distribution(raw))
    reached = start - weights.kl_divergence(p, matching.mixtures(raw)[-1])
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
    assert (np.diff(matched.bins(ordered)) >= 0).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_number_of_ngrams(n):
    from oracle import ngrams

    lengths = np.arange(6)
    expected = [len(ngrams(["w"] * k, n)) for k in lengths]
    assert matched.num_ngrams(lengths, n).tolist() == expected


def test_options_of_match_belong_to_match():
    with pytest.raises(ConfigError, match="match_steps is for method match"):
        JobConfig.from_mapping({"match_steps": 4, "method": "sample"})
    with pytest.raises(ConfigError, match=r"match_steps must be .* 64; got 0; match_tokens must"):
        JobConfig.from_mapping({"match_steps": 0, "match_tokens": "some", "method": "match"})


def corpus():
    rng = random.Random(5)
    kinds = [[f"{kind}{i}" for i in range(40)] for kind in "abc"]
    rows = []
    for i in range(300):
        words = rng.choices(kinds[i % 3], k=40) + rng.choices(kinds[0], k=rng.randrange(30))
        rows.append((f"d{i:03}", " ".join(words)))
    target = [(f"t{i}", " ".join(rng.choices(kinds[1] + kinds[0], k=60))) for i in range(20)]
    return rows, target


@pytest.mark.spark
def test_match_on_spark(spark):
    rows, held = corpus()
    schema = "id string, text string"
    raw, target = spark.createDataFrame(rows, schema), spark.createDataFrame(held, schema)
    model = DSIR(num_buckets=300, ngrams=1).fit(raw, target)
    options = {"num_to_sample": 60, "min_example_length": 10, "seed": 2}
    learnt = model.match(raw.repartition(5), 60, match_steps=6, min_example_length=10)
    again = model.match(raw.coalesce(1), 60, match_steps=6, min_example_length=10)
    for step, other in zip(
        learnt.matchings["target"].steps, again.matchings["target"].steps, strict=True
    ):
        assert step.threshold == other.threshold and (step.counts == other.counts).all()
    first = learnt.resample(raw.repartition(7), method="match", **options).collect()
    second = model.resample(raw, method="match", match_steps=6, **options)
    assert second.columns == ["id", "text", "log_weight", "num_tokens"]
    assert sorted(first) == sorted(second.collect()) and len(first) == 60
    reduction = {}
    for method in ("match", "sample"):
        chosen = learnt.resample(raw, method=method, **options)
        reduction[method] = learnt.kl_reduction(learnt.count({"s": chosen})["s"].counts)["target"]
    assert reduction["match"] > reduction["sample"]
    size = learnt.count({"s": second})["s"].num_ngrams
    bounds = learnt.kl_bounds(learnt.weigh(raw), {"target": size}, 10)
    assert 0.5 * bounds["target"] < reduction["match"] <= bounds["target"]


@pytest.mark.spark
def test_match_from_the_command_line(spark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli.session, "build_session", lambda **_: spark)
    monkeypatch.setattr(spark, "stop", lambda: None)
    rows, held = corpus()
    half = len(held) // 2
    for name, found in (("raw", rows), ("one", held[:half]), ("two", rows[2::30])):
        lines = [json.dumps({"id": i, "text": t}) for i, t in found]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    out = str(tmp_path / "out")
    common = ["--output", out, "--method", "match", "--match-steps", "4", "--num-to-sample", "50",
              "--min-example-length", "10"]  # fmt: skip
    cli.main(
        ["run", "--raw", str(tmp_path / "raw.jsonl"), "--target", f"one={tmp_path}/one.jsonl",
         "--target", f"two={tmp_path}/two.jsonl", "--num-buckets", "300", *common]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "share of it" in printed and "Steps of the matched selection" in printed
    selected = spark.read.format("delta").load(f"{out}/selected")
    assert selected.count() == 50
    assert {r["target"] for r in selected.collect()} == {"one", "two"}
    steps = spark.read.format("delta").load(f"{out}/match")
    assert steps.count() == 8
    run = spark.read.format("delta").load(f"{out}/runs").first()
    assert all(run["kl_reduction"][n] <= run["kl_bound"][n] for n in ("one", "two"))
    for learnt in json.loads(run["match"]).values():
        reached, bounds = learnt["kl_reduction"], learnt["kl_bound"]
        assert len(reached) == len(bounds) == 4
        assert f"{reached[-1]:+.4f} ({reached[-1] / bounds[-1]:.0%})" in printed
    cli.main(["resample", *common[:6], "--num-to-sample", "12", *common[8:]])
    assert spark.read.format("delta").load(f"{out}/selected").count() == 12
