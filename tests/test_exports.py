"""The recipes of docs/exports.md, as they stand there; each format opened by its own reader."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dsir_spark
from dsir_spark import job
from dsir_spark.job_options import JobOptions, SelectJobOptions

pytestmark = [
    pytest.mark.spark, pytest.mark.slow,
    # Of the packages that are exported to.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]  # fmt: skip
PAGE = (Path(dsir_spark.__file__).parents[1] / "docs" / "exports.md").read_text("utf-8")
TOKENS = 250  # a shard, here


def code(title: str) -> str:
    """The code of the page's beginning, of the order, and of one section."""
    sections = re.split(r"^## ", PAGE, flags=re.M)
    own = [s for s in sections if s.startswith(("# Exports", "Shards", title))]
    blocks = [b for s in own for b in re.findall(r"^```python\n(.*?)^```$", s, re.M | re.S)]
    assert len(blocks) == 4, title
    return "\n".join(blocks).replace("20_000_000", str(TOKENS))


@pytest.fixture(scope="module")
def selected(spark, tmp_path_factory):
    """A folder that a job selected 40 documents into."""
    rng, folder = random.Random(4), tmp_path_factory.mktemp("exports")
    words = "the sail na\u00efve \u4e2d\u6587 \"quoted\" back\\slash 1984 new\nline".split(" ")
    texts = [" ".join(rng.choices(words, k=rng.randrange(5, 60))) for _ in range(90)]
    ids = [f"page.{i}/a" for i in range(90)]  # keys of tar files may hold neither
    pq.write_table(pa.table({"id": ids, "text": texts}), folder / "raw.parquet")
    pq.write_table(pa.table({"text": texts[:20]}), folder / "target.parquet")
    job.run_all(spark, JobOptions.from_mapping({
        "raw": str(folder / "raw.parquet"), "target": str(folder / "target.parquet"),
        "output": str(folder / "out"), "num_to_sample": 40, "min_example_length": 3,
        "report": False,
    }))  # fmt: skip
    return folder


def run(spark, folder, title):
    """Run a recipe; its names."""
    # As in a notebook: functions of it are shipped by value.
    names = {"spark": spark, "__name__": "__main__"}
    exec(code(title).replace("/data/", f"{folder}/"), names)
    return names


def in_order(spark, folder):
    """Each shard's documents as (id, text, tokens), by the rule in SQL."""
    frame = spark.read.format("delta").load(str(folder / "out" / "selected"))
    n = max(1, round(sum(r["num_tokens"] for r in frame.collect()) / TOKENS))
    keyed = frame.selectExpr("id", "text", "num_tokens", "xxhash64('order', 1, id) AS k")
    found = [[] for _ in range(n)]
    for r in keyed.orderBy("k").collect():
        found[r["k"] % n].append((r["id"], r["text"], r["num_tokens"]))
    assert n > 3 and all(found)
    return found


def test_hugging_face(spark, selected):
    datasets = pytest.importorskip("datasets", reason="pip install 'dsir-spark[exports]'")
    row = run(spark, selected, "Hugging Face")["run"]
    found = datasets.load_dataset(
        str(selected / "hub"), split="train", cache_dir=str(selected / "cache")
    )
    expected = [d for shard in in_order(spark, selected) for d in shard]
    assert sorted(zip(found["id"], found["text"], found["num_tokens"], strict=True)) == sorted(
        expected
    )
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(str(selected / "hub" / "README.md"))
    assert card.data.configs == [{"config_name": "default", "data_files": "data/*.parquet"}]
    for said in (row["run_id"], "- selected: 40", f"target: {row['kl_reduction']['target']:+.3f}",
                 '"num_to_sample": 40'):  # fmt: skip
        assert said in card.text


def test_web_dataset(spark, selected):
    webdataset = pytest.importorskip("webdataset", reason="pip install 'dsir-spark[exports]'")
    index = run(spark, selected, "WebDataset")["index"]
    assert sum(r["documents"] for r in index) == 40
    for number, expected in enumerate(in_order(spark, selected)):
        path = str(selected / "wds" / f"{number:05}.tar")
        rows = webdataset.WebDataset(path, shardshuffle=False).decode()
        assert [(r["json"]["id"], r["txt"], r["json"]["num_tokens"]) for r in rows] == expected


def test_json_lines(spark, selected):
    zstandard = pytest.importorskip("zstandard")
    index = run(spark, selected, "JSON lines")["index"]
    for number, expected in enumerate(in_order(spark, selected)):
        path = selected / "jsonl" / f"{number:05}.jsonl.zst"
        with zstandard.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        assert [(r["id"], r["text"], r["num_tokens"]) for r in rows] == expected
        tokens = {r["path"]: r["tokens"] for r in index}[str(path)]
        assert tokens == sum(n for _, _, n in expected)


def test_what_select_chose_is_counted(spark, selected):
    """It has no count of tokens, and no KL reduction."""
    pytest.importorskip("huggingface_hub", reason="pip install 'dsir-spark[exports]'")
    job.select(spark, SelectJobOptions.from_mapping({
        "raw": str(selected / "raw.parquet"), "score": "length(text)", "num_to_sample": 30,
        "output": str(selected / "scored" / "out"), "report": False,
    }, "select"))  # fmt: skip
    names = run(spark, selected / "scored", "Hugging Face")
    card = (selected / "scored" / "hub" / "README.md").read_text("utf-8")
    assert "dsir_spark select" in card and "selected: 30" in card and "KL" not in card
    rows = names["shards"].collect()
    assert len(rows) == 30 and {r["num_tokens"] for r in rows} == {
        len(re.findall(r"\w+|[^\w\s]+", r["text"])) for r in rows
    }


def test_mosaic(spark, selected):
    streaming = pytest.importorskip("streaming", reason="mosaicml-streaming: gigabytes of torch")
    run(spark, selected, "MosaicML")
    rows = streaming.StreamingDataset(local=str(selected / "mds"), shuffle=False, batch_size=1)
    expected = [d for shard in in_order(spark, selected) for d in shard]
    found = [rows[i] for i in range(len(rows))]
    assert [(r["id"], r["text"], r["num_tokens"]) for r in found] == expected
