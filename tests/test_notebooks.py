"""The notebooks run from top to bottom on the session they find."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"


@pytest.mark.spark
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebook(spark, path, capsys):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names = {"spark": spark}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "outputs are not committed"
            exec("".join(cell["source"]), names)
    assert "nats" in capsys.readouterr().out
