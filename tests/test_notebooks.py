"""The notebooks run from top to bottom, and are stored with what they show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def shown(notebook: dict) -> list[set[str]]:
    """Of each code cell: the kinds of its outputs, printed lines apart (libraries print too)."""
    return [
        {kind for out in cell["outputs"] if out["output_type"] != "stream"
         for kind in out.get("data", {out["output_type"]: None})}
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_with_its_pictures_and_no_path_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    kinds = set().union(*shown(json.loads(text)))
    assert "image/png" in kinds and "error" not in kinds
    assert "/tmp/" not in text and "/home/" not in text and "/root/" not in text


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_headless_and_shows_the_same(path, tmp_path):
    (tmp_path / path.name).write_bytes(path.read_bytes())
    execute = Path(sys.executable).parent / "jupyter-execute"
    done = subprocess.run(
        [execute, "--inplace", "--timeout=1200", "--kernel_name=python3", tmp_path / path.name],
        capture_output=True, text=True, timeout=1800, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    executed = json.loads((tmp_path / path.name).read_text(encoding="utf-8"))
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert shown(executed) == shown(stored)
