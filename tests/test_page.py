"""The page of a run over hostile texts: its numbers, its safety, and what a browser shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import oracle
import pytest

from dsir_spark import DSIR, DSIRModel, cli, evidence, weights
from dsir_spark.errors import ColumnError, DataError

pytestmark = pytest.mark.spark
HOSTILE = [
    "<script>document.title = 'hacked'</script> <img src=x onerror=alert(1)> spice oven",
    "\u202eright to left\u2069 </p></div> {{ 7 * 7 }} {% raw %} spice oven &lt;b&gt;",
    "x" * 1_000_000 + " spice oven flour",
    "</svg></style><style>body{display:none}</style> $\\alpha$ spice flour \x00\x07",
]


def corpus():
    rng = np.random.default_rng(2)
    words = {"food": ["oven", "flour", "spice", "salt"], "<b>law": ["court", "clause", "tort"]}
    rows = [
        (f"d{i:03}", " ".join(rng.choice(words[s], 12)), s)
        for i, s in enumerate(["food", "<b>law"] * 60)
    ]
    rows += [(f"h<{i}>", (text + " ") * (1 if len(text) > 999 else 3), "<script>'\"")
             for i, text in enumerate(HOSTILE)]  # fmt: skip
    return rows, [(f"t{i}", " ".join(rng.choice(words["food"], 12)), "t") for i in range(9)]


@pytest.fixture(scope="module")
def done(spark, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("page")
    for name, rows in zip(("raw", "target"), corpus(), strict=True):
        spark.createDataFrame(rows, "id string, text string, `so.ur (ce)` string").coalesce(
            1
        ).write.parquet(str(folder / f"{name}.parquet"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.session, "build_session", lambda **_: spark)
        patch.setattr(spark, "stop", lambda: None)
        cli.main(["run", "--raw", str(folder / "raw.parquet"), "--target",
                  str(folder / "target.parquet"), "--output", str(folder / "out"),
                  "--num-to-sample", "40", "--method", "top_k", "--num-buckets", "97", "--keep",
                  "so.ur (ce)", "--min-example-length", "1"])  # fmt: skip
        evidence.write(spark, str(folder / "out"), str(folder / "many.html"), ["so.ur (ce)"], 100)
        yield folder


@pytest.fixture(scope="module")
def facts(done):
    """What the page was made of."""
    return json.loads((done / "out" / "report.json").read_text(encoding="utf-8"))


def test_the_numbers_are_those_of_the_oracle(spark, done, facts):
    rows, target = corpus()
    counts = {i: oracle.bucket_counts([t], 2, 97) for i, t, _ in rows}
    of_raw = [sum(c) for c in zip(*counts.values(), strict=True)]
    of_target = oracle.bucket_counts([t for _, t, _ in target], 2, 97)
    ratios = oracle.log_ratios(of_target, of_raw)
    ranked = sorted(((oracle.log_weight(t, ratios), i) for i, t, _ in rows), reverse=True)
    (verdict,), (shown,) = facts["verdict"], facts["targets"]

    def reduction(k):
        best = [sum(c) for c in zip(*[counts[i] for _, i in ranked[:k]], strict=True)]
        return oracle.kl_reduction(of_target, of_raw, best)

    assert verdict["kl_reduction"] == pytest.approx(reduction(40))
    assert len(shown["curve"]) > 3
    for point in shown["curve"]:
        assert point["kl_reduction"] == pytest.approx(reduction(point["documents"]))
    assert verdict["kl_reduction"] <= verdict["bound"]
    assert verdict["documents"] == 40
    assert verdict["tokens"] == sum(len(oracle.tokens(t)) for i, t, _ in rows
                                    if i in {i for _, i in ranked[:40]})  # fmt: skip
    assert sum(shown["weights"]["candidates"]) == 124
    assert sum(shown["weights"]["selected"]) == 40
    stages = {f["stage"]: f["count"] for f in facts["funnel"]}
    assert stages["read"] == 124 == stages["candidates"] + stages.get("duplicate_text", 0)
    (column,) = facts["composition"]
    assert {r["value"]: r["raw"] for r in column["rows"]} == {
        "food": 60, "<b>law": 60, "<script>'\"": 4,
    }  # fmt: skip
    assert sum(r["selected"] for r in column["rows"]) == 40


def test_no_selection_passes_the_bound(spark, done, facts):
    raw = spark.read.parquet(str(done / "raw.parquet"))
    model = DSIRModel.load(str(done / "out" / "model"), spark=spark)
    size = facts["verdict"][0]["tokens"]
    for method in ("match", "top_k"):
        options = {"num_tokens_to_sample": 3 * size, "min_example_length": 1, "method": method}
        chosen = model.resample(raw, **options)
        counted = model.count({"s": chosen})["s"].counts
        reached = weights.kl_reduction(model.targets["target"].counts, model.raw.counts, counted)
        assert reached <= facts["verdict"][0]["bound"]


def test_the_same_facts_as_a_table(spark, done, facts):
    rows = spark.read.format("delta").load(str(done / "out" / "report")).collect()
    assert facts in [json.loads(r["facts"]) for r in rows] and len(rows) >= 2
    assert {r["run_id"] for r in rows} == {facts["run"]["id"]}


def test_nothing_of_a_document_is_markup(done):
    text = (done / "many.html").read_text(encoding="utf-8")
    assert "<script" not in text and "<img" not in text and "\u202e" not in text
    shown = re.sub("<[^>]*>", "", text)
    assert "&lt;script&gt;document.title" in shown and "\ufffdright to left" in shown
    assert "{{ 7 * 7 }} {% raw %}" in shown
    assert "default-src 'none'" in text and "http://" not in text.replace("http://www.w3.org", "")
    assert len(text) < 2_000_000


def browser():
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.mark.skipif(browser() is None, reason="no Chromium on the path to open the page with")
def test_a_browser_shows_the_page_and_runs_nothing(done, tmp_path):
    page = (done / "many.html").as_uri()
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


def test_report_command_and_its_mistakes(spark, done, capsys, tmp_path):
    cli.main(["report", "--output", str(done / "out"), "--html", str(tmp_path / "p.html"),
              "--examples", "1"])  # fmt: skip
    assert f"page: {tmp_path / 'p.html'}" in capsys.readouterr().out
    assert (tmp_path / "p.json").exists()
    with pytest.raises(ColumnError, match="composition 'nope'"):
        evidence.write(spark, str(done / "out"), None, ["nope"])


def test_explain_splits_the_weight(spark, done, capsys):
    raw = spark.read.parquet(str(done / "raw.parquet"))
    model = DSIRModel.load(str(done / "out" / "model"), spark=spark)
    few = raw.where("id in ('d000', 'd001', 'h<1>')")
    expected = {r["id"]: r["log_weight"] for r in model.transform(few).collect()}
    found = dict.fromkeys(expected, 0.0)
    for row in model.explain(few).coalesce(1).collect():
        found[row["id"]] += row["log_ratio"]
        assert row["log_ratio"] == model.log_ratio["target"][row["bucket"]]
    assert found == expected
    cli.main(["explain", "--output", str(done / "out"), "--id", "d000", "--number", "5"])
    said = capsys.readouterr().out
    assert f"log weight {expected['d000']:+.4f} nats" in said and "in its bucket" in said
    with pytest.raises(DataError, match="no document with id 'none'"):
        evidence.explained(spark, str(done / "out"), ["none"])


def test_a_target_within_raw_is_told(spark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli.session, "build_session", lambda **_: spark)
    monkeypatch.setattr(spark, "stop", lambda: None)
    rows, target = corpus()
    rows = rows[:120] + [(f"copy{i}", t.upper(), "copy") for i, t, _ in target[:3]]
    for name, own in (("raw", rows), ("target", target)):
        spark.createDataFrame(own, "id string, text string, source string").write.parquet(
            str(tmp_path / f"{name}.parquet")
        )
    cli.main(["run", "--raw", f"{tmp_path}/raw.parquet", "--target", f"{tmp_path}/target.parquet",
              "--output", f"{tmp_path}/out", "--num-to-sample", "70", "--num-buckets", "9000",
              "--method", "top_k", "--min-example-length", "1"])  # fmt: skip
    captured = capsys.readouterr()
    assert "warning: The target is small for its buckets" in captured.err
    assert "70 of 123 documents are asked for" in captured.err
    facts = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    found = {w["name"]: w for w in facts["warnings"]}
    assert found["contamination"]["found"] == 3 and "close_to_all" in found


def test_a_plain_selection_has_fewer_warnings(spark):
    """The Python interface warns of nothing by itself."""
    rows, target = corpus()
    frames = [spark.createDataFrame(r, "id string, text string, s string") for r in (rows, target)]
    assert DSIR(num_buckets=97).fit(*frames).resample(
        frames[0], num_to_sample=5, min_example_length=1
    ).count() == 5  # fmt: skip
