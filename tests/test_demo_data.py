"""The demo's data: what is in it, and that it is the same each time."""

from __future__ import annotations

import ast

import pyarrow.parquet as pq
import pytest

from dsir_spark import demo_data

OWNERS = {"python", *demo_data.HELD_OUT, "pytest", "pyarrow", "numba"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Of these alone: a developer's installation holds ten times as much, which takes minutes."""
    some = [source for source in demo_data._sources() if source[0] in OWNERS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_data, "_sources", lambda: iter(some))
        return demo_data.build_demo_data(tmp_path_factory.mktemp("demo"), max_mb=8)


def test_raw_holds_labelled_text_and_no_path_of_this_machine(built):
    table = pq.read_table(built.raw)
    assert table.column_names == ["id", "text", "kind", "origin"]
    assert table.num_rows == built.documents == sum(built.kinds.values())
    texts = table["text"].to_pylist()
    assert sum(len(t.encode()) for t in texts) == built.bytes <= 8e6
    assert built.bytes > 7e6
    assert {"code", "docstring", "licence"} <= set(built.kinds)
    assert len(set(table["id"].to_pylist())) == table.num_rows
    assert len({" ".join(t.split()) for t in texts}) == table.num_rows
    assert not any(o.startswith("/") or ".." in o for o in table["origin"].to_pylist())


def test_targets_come_from_packages_that_raw_does_not_hold(built):
    assert set(built.targets) == {"licences", "scientific_docstrings", "code"}
    raw = pq.read_table(built.raw)
    folded = {" ".join(t.split()) for t in raw["text"].to_pylist()}
    assert not any(o.startswith("numpy/") for o in raw["origin"].to_pylist())
    for name, place in built.targets.items():
        table = pq.read_table(place)
        assert table.num_rows >= 10, name
        assert not folded & {" ".join(t.split()) for t in table["text"].to_pylist()}


def test_the_same_installation_gives_the_same_data(tmp_path, monkeypatch):
    """Of a few packages, in any order."""
    some = [source for source in demo_data._sources() if source[0] in ("click", "pytest", "numpy")]
    assert len(some) == 3
    found = []
    for sources in (some, some[::-1]):
        monkeypatch.setattr(demo_data, "_sources", lambda sources=sources: iter(sources))
        data = demo_data.build_demo_data(tmp_path / str(len(found)), max_mb=1)
        found.append((pq.read_table(data.raw), data.kinds))
    assert found[0][0].equals(found[1][0]) and found[0][1] == found[1][1]
    assert found[0][0].num_rows > 100


def test_docstrings_are_those_that_python_finds():
    long = ["\n\n    ".join([f"{x} says so.", *["It goes on: and on."] * 20]) for x in "ABCDE"]
    source = f'''# of this module

"""{long[0]}"""
class A:  # said
    # more
    r"""{long[1]}
    """
    def a(self,
          b):

        """{long[2]}"""
        text = """{long[3]}"""
        if b:
            return 1
    async def b(self) -> str:
        \'\'\'{long[4]}\'\'\'
'''
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    own = [ast.get_docstring(n) for n in ast.walk(ast.parse(source)) if isinstance(n, kinds)]
    assert len(own) == 4
    assert [d.text for d in demo_data._docstrings(source, "origin")] == own


def test_passages_keep_every_line():
    text = "".join(f"line {i}\n" + ("\n" if i % 9 == 0 else "") for i in range(2000))
    passages = list(demo_data._passages(text))
    assert "".join(" ".join(passages).split()) == "".join(text.split())
    assert max(map(len, passages)) <= 3000
    assert next(demo_data._passages("x" * 7000)) == "x" * 3000
