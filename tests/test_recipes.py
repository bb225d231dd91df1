"""The commands of docs/recipes.md, as they stand there, against each method's published rule."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

import dsir_spark
from dsir_spark import cli

pytestmark = [pytest.mark.spark, pytest.mark.slow]  # the rules themselves: test_scores
PAGE = Path(dsir_spark.__file__).parents[1] / "docs" / "recipes.md"
COMMANDS = {
    re.search(r"--output out/(\w+)", line)[1]: shlex.split(line)[1:]
    for line in re.findall(r"^    dsir-spark (select .*)$", PAGE.read_text("utf-8"), re.M)
    for line in [f"x {line}"]
}
N, SEED = 400, 7
SHARES = {"0": 0.5, "1": 0.3, "2": 0.2}
ESTIMATES = {"a": 0.1, "b": 0.9, "c": 0.5}


@pytest.fixture(scope="module")
def docs(spark, tmp_path_factory):
    """The made tables in a folder, and docs.parquet as columns with `hash` and Gumbel noise."""
    rng, folder = np.random.default_rng(5), tmp_path_factory.mktemp("recipes")
    draws = {name: rng.normal(size=N) for name in (
        "loss_prior", "loss_conditional", "influence", "efficiency", "writing", "expertise",
        "facts", "education", "influence_qa", "influence_code", "influence_chat")}  # fmt: skip
    domain, toxicity = rng.choice(["a", "b", "c"], N, p=[0.6, 0.1, 0.3]), rng.beta(1, 3, N)
    topics = rng.choice(["t", "u"], N)
    columns = {
        "id": [f"d{i}" for i in range(N)], "text": [f"text {i}" for i in range(N)], **draws,
        "p_good": rng.beta(1, 2, N), "num_chars": rng.integers(1, 900, N),
        "num_tokens": rng.integers(1, 200, N), "cluster": rng.integers(0, 3, N),
        "rating": rng.integers(0, 6, N), "domain": domain, "year": rng.integers(2015, 2020, N),
        "toxicity": toxicity, "toxic": toxicity >= 0.5,
        "topic_format": [f"{a}|{b}" for a, b in zip(topics, domain, strict=True)],
        **{f"bucket_{c}": rng.integers(0, 20, N) for c in "abc"},
    }  # fmt: skip
    pq.write_table(pa.table(columns), folder / "docs.parquet")
    own = {name: columns[name] for name in ("id", "num_tokens", "domain")}
    own["estimate"] = [ESTIMATES[d] for d in domain]
    pq.write_table(pa.table(own), folder / "estimates.parquet")
    cells = sorted(set(columns["topic_format"]))
    mixture = {"topic_format": cells, "share": [float(i + 1) for i in range(len(cells))]}
    pq.write_table(pa.table(mixture), folder / "mixture.parquet")
    pq.write_table(pa.table({"cluster": [0] * 8 + [1] * 2}), folder / "target.parquet")
    (folder / "degradation.json").write_text(json.dumps(SHARES), encoding="utf-8")
    ids = spark.createDataFrame([(i,) for i in columns["id"]], "id string")
    hashes = ids.select(F.xxhash64(F.lit(SEED).cast("bigint"), "id")).collect()
    found = {name: np.array(column) for name, column in columns.items()}
    found["hash"] = np.array([row[0] for row in hashes])
    u = ((found["hash"].view(np.uint64) >> np.uint64(11)).astype(float) + 0.5) * 2.0**-53
    return folder, found | {"gumbel": -np.log(-np.log(u)), "pareto": u ** (-1 / 9) - 1, "u": u}


def best(keys, d, among=None):
    """Rows by falling key, of equal ones by the seed's hash."""
    rows = np.arange(N) if among is None else np.flatnonzero(among)
    return rows[np.lexsort((d["hash"][rows], keys[rows]))[::-1]]


def within(rows, sizes, budget):
    """The first rows that together stay within a budget."""
    return rows[np.cumsum(sizes[rows]) <= budget]


def whole(budget, shares):
    """Whole parts of a budget by largest remainder."""
    total = sum(shares.values())
    parts = {name: int(budget * share / total) for name, share in shares.items()}
    order = sorted(shares, key=lambda n: (parts[n] - budget * shares[n] / total, n))
    for name in order[: budget - sum(parts.values())]:
        parts[name] += 1
    return parts


def quality(d):
    return np.where(d["toxicity"] < 0.5, d["p_good"], -1)


def qurating(d):
    rating = d["writing"] + d["expertise"] + d["facts"] + d["education"]
    keys = (rating - rating.mean()) / rating.std() / 2 + d["gumbel"]
    tokens = {v: int(d["num_tokens"][d["domain"] == v].sum()) for v in "abc"}
    return np.concatenate([
        within(best(keys, d, d["domain"] == v), d["num_tokens"], part)
        for v, part in whole(9_000, tokens).items()
    ])  # fmt: skip


def weborganizer(d):
    cells = sorted(set(d["topic_format"].tolist()))
    parts = whole(8_000, {cell: float(i + 1) for i, cell in enumerate(cells)})
    return np.concatenate([
        within(best(d["p_good"], d, d["topic_format"] == cell), d["num_tokens"], part)
        for cell, part in parts.items()
    ])  # fmt: skip


def correlations(d):
    filled = np.concatenate([
        within(best(np.zeros(N), d, d["domain"] == v), d["num_tokens"], int(0.4 * 12_000))
        for v in sorted(ESTIMATES, key=ESTIMATES.get, reverse=True)
    ])  # fmt: skip
    return within(filled, d["num_tokens"], 12_000)


def crisp(d):
    """Documents of each cluster at the target's frequency, over again where there are too few."""
    drawn = []
    for cluster, part in ((0, 240), (1, 60)):
        rows = best(d["u"], d, d["cluster"] == cluster)
        drawn += np.resize(rows, min(part, 4 * len(rows))).tolist()
    return drawn


def stratified(d):
    parts = whole(60, {v: float((d["domain"] == v).sum()) for v in "abc"})
    return np.concatenate([best(d["u"], d, d["domain"] == v)[:k] for v, k in parts.items()])


ORACLES = {
    "color": lambda d: np.argsort(d["loss_conditional"] - d["loss_prior"])[:60],
    "preselect": lambda d: within(best(d["p_good"], d), d["num_chars"],
                                  0.1 * d["num_chars"].sum()),
    "mates": lambda d: np.argsort(d["influence"] / 0.5 - d["gumbel"])[:60],
    "paser": lambda d: np.concatenate([
        best(d["efficiency"], d, (d["cluster"] == int(c)) & (d["efficiency"] >= 0))[:k]
        for c, k in (("0", 30), ("1", 18), ("2", 12))]),
    "dclm": lambda d: np.argsort(-d["p_good"])[: N // 10],
    "fineweb": lambda d: within(best(d["u"], d, d["rating"] >= 3), d["num_tokens"], 5_000),
    "qurating": qurating,
    "nemotron": lambda d: np.flatnonzero(
        np.max([d[f"bucket_{c}"] for c in "abc"], axis=0) >= 12),
    "weborganizer": weborganizer,
    "crisp": crisp,
    "correlations": correlations,
    "less": lambda d: np.argsort(
        -np.max([d[f"influence_{t}"] for t in ("qa", "code", "chat")], axis=0))[: N // 20],
    "guide": lambda d: np.flatnonzero(quality(d) >= 0.3),
    "gpt3": lambda d: np.flatnonzero(d["pareto"] > 1 - d["p_good"]),
    "random": lambda d: best(d["u"], d)[:60],
    "stratified": stratified,
}  # fmt: skip


def test_each_recipe_has_a_command_and_each_command_an_oracle():
    assert COMMANDS.keys() == ORACLES.keys()
    named = re.findall(r"^\| \[?([\w' -]+)", PAGE.read_text("utf-8").split("## ")[0], re.M)
    assert len(named) == len(ORACLES) + 2  # random and stratified are one, with two of `run`


@pytest.mark.parametrize("name", ORACLES)
def test_a_recipe_selects_by_the_published_rule(spark, docs, monkeypatch, capsys, name):
    folder, d = docs
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cli.session, "build_session", lambda **_: spark)
    # Spark's own current folder is another than this process's.
    output = ["--output", str(folder / "out" / name)]
    cli.main([*COMMANDS[name], *output, *([] if name == "guide" else ["--no-report"])])
    rows = spark.read.format("delta").load(str(folder / "out" / name / "selected"))
    found = Counter()
    for row in rows.collect():
        found[row["id"]] += row["copies"] if name == "crisp" else 1
    right = Counter(d["id"][list(ORACLES[name](d))].tolist())
    assert found == right and 10 < len(found) < N - 10
    if name == "guide":
        report = json.loads((folder / "out" / "guide" / "report.json").read_text("utf-8"))
        for column in report["composition"]:
            values = [str(v).lower() for v in d[column["column"]].tolist()]
            kept = [values[int(i[1:])] for i in found]
            assert {r["value"]: (r["raw"], r["selected"]) for r in column["rows"]} == {
                v: (values.count(v), kept.count(v)) for v in values}  # fmt: skip
        assert math.isclose(sum(r["selected_share"] for r in column["rows"]), 1)
        assert "Composition by year" in capsys.readouterr().out
