"""The site: pages made from code are up to date, and each command and example on them runs.

Shell lines and Python of the README, the guides and the how-tos run in the order in which they
stand, a folder for each page, on small made tables.
"""

from __future__ import annotations

import re
import runpy
import shlex
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dsir_spark import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *(DOCS / f"{name}.md" for name in ("index", "quickstart", "tutorial", "databricks")),
    *sorted((DOCS / "howto").glob("*.md")),
]
# What is not run here, by how it begins, and what runs it.
ELSEWHERE = {
    "make ": "CI",
    "pip install ": "CI, from the clone",
    "%pip install ": "needs a workspace",
    "dbutils.": "needs a workspace",
    "databricks ": "needs a workspace; test_databricks.py runs the tasks",
    "cd databricks": "needs a workspace",
    "scripts/submit.sh ": "test_submit.py",
}


def blocks(path: Path) -> list[tuple[str, str]]:
    """Kind and text of each command and Python block of a page, in order."""
    found, inside, lines = [], None, list[str]()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if inside == "python":
                found.append(("python", "\n".join(lines)))
            inside, lines = (None if inside else line[3:].strip() or "text"), []
        elif inside:
            lines.append(line)
        elif line.startswith("        ") and found[-1][1].endswith("\\"):
            found[-1] = ("shell", f"{found[-1][1][:-1]} {line.strip()}")
        elif line.startswith("    ") and not line.startswith("     "):
            found.append(("shell", line.partition("#")[0].strip()))
    return found


def test_pages_made_from_code_are_what_they_give():
    script = runpy.run_path(str(ROOT / "scripts" / "tables_page.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"]()


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    places = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert len(places) > 20 and all((ROOT / place).exists() for place in places)


def test_each_command_is_run_or_said_to_run_elsewhere():
    every = [line for page in PAGES for kind, line in blocks(page) if kind == "shell"]
    ran = [line for line in every if line.startswith("dsir-spark ")]
    assert len(ran) > 25
    for line in every:
        assert line.startswith(("dsir-spark ", *ELSEWHERE)), line
    for start in ELSEWHERE:
        assert any(line.startswith(start) for line in every), start


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of tables with all columns and files that the pages name."""
    folder, rng, n = tmp_path_factory.mktemp("site"), np.random.default_rng(3), 300
    topics = {
        "law": "the court of appeal held that the contract was void and the claim failed",
        "code": "def return self import class for in range print value none true if else",
        "biomed": "patients were treated with placebo and the response rate was measured",
        "wiki": "the town lies on the river and was founded by settlers in the century",
    }
    words = {name: text.split() for name, text in topics.items()}

    def text(topic: str) -> str:
        return " ".join(rng.choice(words[topic], 120))

    topic = rng.choice(list(topics), n)
    columns = {
        "id": [f"d{i}" for i in range(n)], "text": [text(t) for t in topic], "topic": topic,
        "source": rng.choice(["wikipedia", "web", "books"], n), "loss": rng.normal(size=n),
        "domain": [f"site{i % 20}" for i in range(n)], "num_bytes": rng.integers(400, 900, n),
        "quality": rng.beta(2, 2, n), "toxicity": rng.beta(1, 5, n),
        "perplexity": rng.gamma(2, 30, n), "edu_rating": rng.integers(0, 6, n),
    }  # fmt: skip
    (folder / "corpus").mkdir()
    pq.write_table(pa.table(columns), folder / "corpus" / "part.parquet")
    for name in ("biomed", "code", "wiki"):
        texts = pa.table({"text": [text(name) for _ in range(20)]})
        pq.write_table(texts, folder / f"{name}.parquet")
    pq.write_table(pa.table({"text": columns["text"][:5]}), folder / "evaluation.parquet")
    (folder / "ratings").mkdir()
    rated = {"id": columns["id"], "rating": rng.integers(0, 6, n), "num_tokens": [120] * n}
    pq.write_table(pa.table(rated), folder / "ratings" / "part.parquet")
    return folder


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_commands_and_examples_of_a_page_run(spark, made, page, tmp_path, monkeypatch):
    for name in made.iterdir():
        (tmp_path / name.name).symlink_to(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.session, "build_session", lambda **_: spark)
    raw, biomed, code = (
        spark.read.parquet(str(made / n)) for n in ("corpus", "biomed.parquet", "code.parquet")
    )
    scope = {"spark": spark, "folder": str(tmp_path), "raw": raw, "pages": raw, "target": biomed,
             "biomed": biomed, "code": code}  # fmt: skip
    found = [b for b in blocks(page) if b[0] == "python" or b[1].startswith("dsir-spark ")]
    for kind, text in found:
        if kind == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile(text, str(page), "exec"), scope)
            for name in ("selected", "best", "chosen", "large", "mixed"):
                if name in scope:
                    assert scope[name].count() > 0
        else:
            cli.main(shlex.split(text)[1:])
            output = re.search(r"--output (\S+)", text)[1]
            if re.match(r"dsir-spark (run|select|resample) ", text):
                rows = spark.read.format("delta").load(str(tmp_path / output / "selected"))
                assert 0 < rows.count() <= 300
                # Where the command stands, whatever Spark's own current folder is.
                assert Path(output, "report", "_delta_log").exists()
