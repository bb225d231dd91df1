"""Facts of small runs against brute force, and the page of hostile texts in a browser."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import shutil
import subprocess
import uuid
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
from pyspark.sql import functions as F

from dsir_spark import DSIR, dsir, labels, report
from dsir_spark.errors import DataError, TableError
from dsir_spark.job_options import JobOptions
from dsir_spark.local_rows import from_arrow, to_arrow
from dsir_spark.options import FitOptions, ResampleOptions
from dsir_spark.report import candidates, detail
from dsir_spark.scoring.counts import count
from dsir_spark.scoring.distributions import kl_reduction
from dsir_spark.scoring.documents import documents, spec_of

pytestmark = pytest.mark.spark
COLUMN = "so.ur (ce)"
HOSTILE = [
    "<script>document.title = 'hacked'</script> <img src=x onerror=alert(1)> spice oven",
    "\u202eright to left\u2069 </p></div> {{ 7 * 7 }} {% raw %} spice oven &lt;b&gt;",
    "x" * 1_000_000 + " spice oven flour",
    "</svg></style><style>body{display:none}</style> $\\alpha$ spice flour \x00\x07",
]
WORDS = {"food": ["oven", "flour", "spice", "salt"], "<b>law": ["court", "clause", "tort"]}


def corpus():
    rng = np.random.default_rng(2)
    rows = [
        (f"d{i:03}", " ".join(rng.choice(WORDS[s], 12)), s)
        for i, s in enumerate(["food", "<b>law"] * 60)
    ]
    rows += [(f"h<{i}>", (text + " ") * (1 if len(text) > 999 else 3), "<script>'\"")
             for i, text in enumerate(HOSTILE)]  # fmt: skip
    food, law = (
        [(f"t{i}", " ".join(rng.choice(WORDS[s], 12)), "t") for i in range(9)] for s in WORDS
    )
    return rows, food, law


def finished(spark, folder, raw, targets, stored=False, **chosen):
    """What `report.gather` takes, of a run over these frames; stored: read from tables of Delta,
    not from memory, of which queries are quicker."""
    single = not isinstance(targets, dict)
    options = JobOptions.from_mapping(
        {"num_buckets": 97, "ngrams": 2, "method": "sample", "min_example_length": 1,
         "output": str(folder), "keep": [COLUMN], "raw": "-",
         "target": "-" if single else dict.fromkeys(targets, "-"), **chosen}
    )  # fmt: skip
    fit, resample = options.part(FitOptions), options.part(ResampleOptions)
    model = DSIR(**fit.model_dump()).fit(raw, targets)
    named = {"target": targets} if single else targets
    if resample.method == "match":
        model = dsir.learn_matchings(model, raw, resample)

    def table(name, frame):
        if not stored:
            return from_arrow(spark, to_arrow(frame), frame.schema)
        writer = frame.write.format("delta").option("delta.columnMapping.mode", "name")
        writer.save(f"{folder}/{name}")
        return spark.read.format("delta").load(f"{folder}/{name}")

    weights = table("weights", model.weigh(raw, (*options.keep, *resample.needed_columns)))
    selection = dsir.find_selection(model, weights, resample)
    selected = table("selected", dsir.selected_rows(model, raw, selection, weights))
    short = resample.budget - sum(selection.size or selection.num_documents)
    run = {
        "run_id": "r1", "command": "run", "started_at": datetime.datetime(2026, 1, 2, 3, 4),
        "dsir_spark_version": "0", "config": options.to_json(), "seed": options.seed,
        "model_fingerprint": model.fingerprint, "shortfall": short, "funnel": selection.funnel,
    }  # fmt: skip
    return {
        "run": run, "model": model, "raw": raw, "weights": weights, "selected": selected,
        "selection": selection, "targets": named, "composition": options.keep,
    }  # fmt: skip


@pytest.fixture(scope="module")
def frames(spark):
    schema = f"id string, text string, `{COLUMN}` string"
    return [spark.createDataFrame(rows, schema).coalesce(1) for rows in corpus()]


@pytest.fixture(scope="module")
def done(spark, frames, tmp_path_factory):
    """A finished run, with the facts of its page."""
    folder = tmp_path_factory.mktemp("report")
    run = finished(spark, folder, *frames[:2], True, num_to_sample=40, method="top_k")
    facts = report.gather(**run, examples=100)
    html = report.write(facts, str(folder))
    return SimpleNamespace(run=run, facts=facts, html=folder / "report.html", given=html)


def test_the_numbers_are_those_of_the_oracle(done):
    rows, target, _ = corpus()
    counts = {i: oracle.bucket_counts([t], 2, 97) for i, t, _ in rows}
    of_raw = [sum(c) for c in zip(*counts.values(), strict=True)]
    of_target = oracle.bucket_counts([t for _, t, _ in target], 2, 97)
    ratios = oracle.log_ratios(of_target, of_raw)
    ranked = sorted(((oracle.log_weight(t, ratios), i) for i, t, _ in rows), reverse=True)
    facts = json.loads(done.facts.to_json())
    (verdict,), (shown,) = facts["verdict"], facts["targets"]

    def reduction(k):
        best = [sum(c) for c in zip(*[counts[i] for _, i in ranked[:k]], strict=True)]
        return oracle.kl_reduction(of_target, of_raw, best)

    assert verdict["kl_reduction"] == pytest.approx(reduction(40))
    assert len(shown["curve"]) > 3
    for point in shown["curve"]:
        assert point["kl_reduction"] == pytest.approx(reduction(point["documents"]))
    assert verdict["kl_reduction"] <= verdict["bound"] and verdict["bound_documents"] is None
    assert verdict["documents"] == 40
    lengths = {i: len(oracle.tokens(t)) for i, t, _ in rows}
    assert verdict["tokens"] == sum(lengths[i] for _, i in ranked[:40])
    assert verdict["median_length"] == np.median([lengths[i] for _, i in ranked[:40]])
    assert sum(shown["weights"]["candidates"]) == 124
    assert sum(shown["weights"]["selected"]) == 40
    assert [e["id"] for e in shown["examples"]][:40] == [i for _, i in ranked[:40]]
    stages = {f["stage"]: f["count"] for f in facts["funnel"]}
    assert stages["read"] == 124 == stages["candidates"] + stages.get("duplicate_text", 0)
    (column,) = facts["composition"]
    assert {r["value"]: r["raw"] for r in column["rows"]} == {
        "food": 60, "<b>law": 60, "<script>'\"": 4,
    }  # fmt: skip
    assert sum(r["selected"] for r in column["rows"]) == 40


CASES = [
    {"num_to_sample": 30, "seed": 3, "normalize": "ngram", "temperature": 2.0,
     "min_example_length": 12},
    {"num_tokens_to_sample": 300, "method": "top_k", "several": True},
    {"num_to_sample": 20, "several": True, "allocation": "sequential", "method": "match"},
    {"num_to_sample": 30, "method": "match", "match_steps": 4, "quota_column": COLUMN,
     "quotas": {"<b>law": 0.5}},
    {"num_to_sample": 30, "chunk_words": 5, "id_column": None},
    {"num_to_sample": 0},
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_facts_of_all_kinds_of_runs(spark, frames, tmp_path, case):
    """Random subset, effective sample size and counts are those of brute force."""
    chosen = dict(case)
    raw, food, law = frames
    targets = {"food": food, "law": law} if chosen.pop("several", False) else food
    if "id_column" in case:  # copies that another value comes with
        raw = raw.union(raw.withColumn(COLUMN, F.lit("0")))
    run = finished(spark, tmp_path, raw, targets, **chosen)
    model, selection, weights = run["model"], run["selection"], run["weights"]
    facts = report.gather(**run)
    found = facts.selection.targets
    (column,), of = facts.weights.composition, run["selected"].groupBy(f"`{COLUMN}`")
    assert {r["value"]: r["selected"] for r in column.rows if r["selected"]} == dict(
        of.count().collect())  # fmt: skip
    sizes = selection.size or selection.num_documents
    pool = documents(raw, model.config)
    of_id = model.id_name
    candidates = weights.where(selection.is_candidate())
    whole = selection.pool.whole_size() if selection.size else F.lit(1)
    drawn = candidates.select(of_id, selection.uniform_key(), whole).distinct().collect()
    drawn.sort(key=lambda r: r[1], reverse=True)
    reached = np.cumsum([r[2] for r in drawn])
    for t, (target, size) in enumerate(zip(found, sizes, strict=True)):
        subset = pool.where(pool[of_id].isin([r[0] for r in drawn[: (reached <= size).sum()]]))
        if "id_column" in case:
            subset = subset.dropDuplicates([of_id])
        counted = count({"s": subset}, "text", spec_of(model.config))["s"].counts
        expected = kl_reduction(model.targets[target.name].counts, model.raw.counts, counted)
        assert target.kl_reduction_random == (expected and pytest.approx(expected))
        assert target.documents == selection.num_documents[t]
        shown = target.detail
        assert sum(shown["weights"]["selected"]) == target.documents
        if target.kl_reduction is not None:
            assert target.kl_reduction <= target.bound + 1e-9
            assert len({point["documents"] for point in shown["curve"]}) == len(shown["curve"]) >= 3
        assert {e["place"] for e in shown["examples"]} <= set(detail.PLACES)
    matched = case.get("method") == "match"
    ranks = [F.col(c) for c in model.weight_columns] if matched else selection.ranks()
    for target, *scores in zip(found, *candidates.select(*ranks).collect(), strict=True):
        w = np.exp(np.array(scores) - max(scores))
        assert target.effective_sample_size == pytest.approx(w.sum() ** 2 / (w * w).sum())
    assert sum(v["selected"] for v in facts.weights.composition[0].rows) == selection.num_selected
    assert (facts.row()["kl_bound"] is None) != matched and "KL reduction" in report.full(facts)
    if case in CASES[:3]:
        plain = report.gather(**run, page=False)
        assert plain.row() == facts.row() and report.summary(plain) == report.summary(facts)
    report.write(facts, str(tmp_path))


def test_samples_stand_for_many_documents(spark, frames, tmp_path, monkeypatch):
    """What is looked at is bounded, said to be a sample, and near what all documents give."""
    raw, food, _ = frames
    run = finished(spark, tmp_path, raw, food, num_to_sample=60, seed=5)
    exact = report.gather(**run).selection.targets[0]
    monkeypatch.setattr(candidates, "SAMPLED", 30)
    monkeypatch.setattr(detail, "CURVE_DOCUMENTS", 60)
    facts = report.gather(**run)
    found = facts.selection.targets[0]
    assert found.kl_reduction == exact.kl_reduction
    drawn = len(facts.weights.sample.ids)
    assert 30 <= drawn < 90 and found.bound_documents == drawn and exact.bound_documents is None
    if drawn < 60:
        assert found.random_documents == drawn
    assert found.bound == pytest.approx(exact.bound, abs=0.2)
    near, curve = (
        {p["documents"]: p["kl_reduction"] for p in t.detail["curve"]} for t in (exact, found)
    )
    assert max(curve) == max(near) and len(curve) > 3
    assert all(kl == pytest.approx(near[k], abs=0.2) for k, kl in curve.items() if k in near)
    assert f"~: an estimate from {drawn} candidates" in report.summary(facts)
    assert "reaches about" in found.sentence or found.kl_reduction <= found.kl_reduction_random


def jobs_of(spark, gather):
    group = uuid.uuid4().hex
    spark.sparkContext.setJobGroup(group, group)
    gather()
    spark.sparkContext.setJobGroup("others", "others")
    return len(spark.sparkContext.statusTracker().getJobIdsForGroup(group))


def test_queries_of_other_threads_are_named_as_those_of_this_one(spark):
    def jobs():
        with labels.described(spark, "a stage"), labels.threads(spark) as aside:
            name = aside.submit(spark.sparkContext.getLocalProperty, "spark.job.description")
            aside.submit(spark.range(1).collect).result()
            assert name.result() == "a stage"
            with labels.described(spark, "a part of it"):
                pass
            assert spark.sparkContext.getLocalProperty("spark.job.description") == "a stage"

    assert jobs_of(spark, jobs) == 1


def test_few_jobs_however_many_targets(spark, frames, done, tmp_path):
    raw, food, law = frames
    names = {name: food if i % 2 else law for i, name in enumerate("abcdef")}
    many = finished(spark, tmp_path, raw, names, True, num_to_sample=40)
    fit = report.gather_fit(many["model"], many["selection"].options, names)
    for run in (done.run, many):
        arguments = (run["model"], run["selection"], run["weights"], run["targets"], [COLUMN])
        weighed = report.gather_weights(*arguments)
        known = {"weighed": weighed, "fit": fit if run is many else done.facts.fit}
        assert jobs_of(spark, lambda r=run, k=known: report.gather(**r, **k)) <= 18
        assert jobs_of(spark, lambda r=run, k=known: report.gather(**r, **k, page=False)) <= 10


def test_no_selection_passes_the_bound(frames, done):
    verdict, model = done.facts.selection.targets[0], done.run["model"]
    for method in ("match", "top_k"):
        chosen = model.resample(
            frames[0], num_tokens_to_sample=3 * verdict.tokens, min_example_length=1, method=method
        )
        counted = count({"s": chosen}, "text", spec_of(model.config))["s"].counts
        reached = kl_reduction(model.targets["target"].counts, model.raw.counts, counted)
        assert reached <= verdict.bound


def test_the_row_of_the_table_is_the_json_beside_the_page(spark, done):
    (row,) = report.as_frame(spark, done.facts).collect()
    beside = done.html.with_suffix(".json").read_text(encoding="utf-8")
    assert row["run_id"] == "r1" and json.loads(row["facts"]) == json.loads(beside)
    assert json.loads(beside)["run"]["started_at"] == "2026-01-02 03:04"


def test_nothing_of_a_document_is_markup(done):
    text = done.html.read_text(encoding="utf-8")
    assert "<script" not in text and "<img" not in text and "\u202e" not in text
    shown = re.sub("<[^>]*>", "", text)
    assert "&lt;script&gt;document.title" in shown and "\ufffdright to left" in shown
    assert "{{ 7 * 7 }} {% raw %}" in shown
    assert "default-src 'none'" in text and "http://" not in text.replace("http://www.w3.org", "")
    assert len(text) < 2_000_000
    assert report.write(done.facts, str(done.html.parent)) == done.given
    assert done.html.read_text(encoding="utf-8") == text


def test_without_examples_no_text_is_on_the_page(done, tmp_path):
    facts = report.gather(**done.run, examples=0)
    report.write(facts, "", str(tmp_path / "page.html"))
    written, page = (tmp_path / "page.json").read_text("utf-8"), str(tmp_path / "page.html")
    for theirs in ("", '{"id": 1}\n{"id": 2}\n', '{"composition": []}', written[:-9], "\xff"):
        (tmp_path / "page.json").write_text(theirs, "latin-1")
        with pytest.raises(TableError, match=r"page\.json is no report: move it, or give the page"):
            report.write(facts, "", page)
        assert (tmp_path / "page.json").read_text("latin-1") == theirs
    (tmp_path / "page.json").write_text(written, "utf-8")
    report.write(facts, "", page)
    for name in ("page.html", "page.json"):
        shown = (tmp_path / name).read_text(encoding="utf-8")
        assert not [word for word in (*WORDS["food"], "court", "right to") if word in shown]


def browser():
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.mark.skipif(browser() is None, reason="no Chromium on the path to open the page with")
def test_a_browser_shows_the_page_and_runs_nothing(done, tmp_path):
    page = done.html.as_uri()
    common = [browser(), "--headless", "--no-sandbox", "--disable-gpu",
              f"--user-data-dir={tmp_path}/profile"]  # fmt: skip
    shown = subprocess.run([*common, "--dump-dom", page], capture_output=True, text=True,
                           timeout=120, check=True).stdout  # fmt: skip
    assert "<title>dsir_spark: what was selected</title>" in shown
    assert "document.title" in re.sub("<[^>]*>", "", shown) and "<script" not in shown
    assert shown.count("<svg") >= 4 and "display:none" not in shown.split("</head>")[0]
    image = tmp_path / "page.png"
    subprocess.run([*common, f"--screenshot={image}", page], capture_output=True, timeout=120,
                   check=True)  # fmt: skip
    assert image.stat().st_size > 20_000


def test_explain_splits_the_weight(spark, frames, done):
    raw, model = frames[0], done.run["model"]
    few = raw.where("id in ('d000', 'd001', 'h<1>')")
    expected = {r["id"]: r["log_weight"] for r in model.transform(few).collect()}
    found = dict.fromkeys(expected, 0.0)
    for row in model.explain(few).coalesce(1).collect():
        found[row["id"]] += row["log_ratio"]
        assert row["log_ratio"] == model.log_ratio["target"][row["bucket"]]
    assert found == expected
    said = report.explained(model, raw, ["d000"], 5)
    assert f"log weight {expected['d000']:+.4f} nats" in said and "in its bucket" in said
    with pytest.raises(DataError, match="no document with id 'none'"):
        report.explained(model, raw, ["none"])
    broken = few.selectExpr("id", "cast(unhex('6f76656e20ff20e2826f76') as string) as text")
    weight = broken.where("id = 'd000'")
    (row,) = model.transform(weight).collect()
    assert f"log weight {row['log_weight']:+.4f} nats" in report.explained(model, weight, ["d000"])


def test_what_is_wrong_is_told(spark, frames, tmp_path):
    rows, target, _ = corpus()
    rows = rows[:120] + [(f"copy{i}", t.upper(), "copy") for i, t, _ in target[:3]]
    raw = spark.createDataFrame(rows, frames[0].schema)
    run = finished(
        spark, tmp_path, raw, frames[1], num_to_sample=70, method="top_k", num_buckets=9_000
    )
    fitted = dataclasses.replace(run["model"].raw, num_documents=60)  # raw has grown since
    run["model"] = dataclasses.replace(run["model"], raw=fitted)
    facts = report.gather(**run, page=False)
    found = {w.name: w for w in facts.warnings}
    assert found["contamination"].found == 3 and (
        "3 of them were selected" in found["contamination"].sentence
    )
    assert "The target is small for its buckets" in found["small_target"].sentence
    assert "70 of 123 documents are asked for" in found["close_to_all"].sentence


def test_short_junk_before_long_documents_is_told(spark, frames, tmp_path):
    rng = np.random.default_rng(3)
    rows = [(f"j{i}", "oven flour", "junk") for i in range(40)]
    rows += [
        (f"l{i}", " ".join(rng.choice(WORDS["food"] + WORDS["<b>law"] * 2, 40)), "long")
        for i in range(80)
    ]
    raw = spark.createDataFrame(rows, frames[0].schema)
    run = finished(
        spark, tmp_path, raw, frames[1], num_to_sample=30, duplicates="keep", method="top_k"
    )
    facts = report.gather(**run, page=False)
    (found,) = [w for w in facts.warnings if w.name == "short_first"]
    assert "min_example_length" in found.remedy
    assert "Short documents come first" in report.summary(facts)
