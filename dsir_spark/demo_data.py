"""Real text that any Python installation has, as a raw pool with kinds and three targets.

Raw: source files, docstrings, package descriptions, licences and texts of the standard library and
the installed packages. Targets: the licences, the scientific docstrings and the code of packages
that are left out of raw.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import shutil
import sysconfig
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Left out of raw: their texts are the targets.
SCIENTIFIC = ("numpy",)
CODE = ("click", "llvmlite", "py4j")
HELD_OUT = (*SCIENTIFIC, *CODE)

CODE_KIND, TEST, DOCSTRING, DESCRIPTION, LICENCE, TEXT = (
    "code", "test", "docstring", "description", "licence", "text",
)  # fmt: skip

_SHORTEST, _LONGEST = 1_000, 3_000  # characters of a passage
_SHORTEST_DOCSTRING = 200
_LARGEST_FILE = 2_000_000  # bytes; larger ones are tables, not texts
_PARTS = 8
_TEXT_SUFFIXES = (".txt", ".rst", ".md")
_LICENCE_NAME = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)
_TEST_PATH = re.compile(r"(^|/)(tests?|idle_test|test_[^/]*)/|/(test_[^/]*|[^/]*_test)\.py$")
# What opens a module, or follows the colon of a class or function. To parse the sources of a large
# installation takes a minute, and what this finds amiss is text as well.
_DOCSTRING = re.compile(
    r"""(?:\A|:[ \t]*(?:\#[^\n]*)?\n)(?:[ \t]*(?:\#[^\n]*)?\n)*[ \t]*[rRuU]?(\"{3}|'{3})(.*?)\1""",
    re.DOTALL,
)

_SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("kind", pa.string()), ("origin", pa.string())]
)


@dataclass(frozen=True)
class DemoData:
    """Where the demo's inputs are, and what raw holds.

    raw : folder of Parquet files with id, text, kind, origin
    targets : Parquet file of each target, by name
    documents, bytes : of raw (UTF-8 bytes of text)
    kinds : documents of raw by kind, the most frequent first
    """

    raw: Path
    targets: dict[str, Path]
    documents: int
    bytes: int
    kinds: dict[str, int]


def _hash(origin: str) -> str:
    return hashlib.sha1(origin.encode()).hexdigest()


@dataclass(frozen=True)
class _Document:
    text: str
    kind: str
    origin: str

    @property
    def key(self) -> str:
        return _hash(self.origin)

    @property
    def row(self) -> dict[str, str]:
        name = f"{self.kind}-{self.key[:16]}"
        return {"id": name, "text": self.text, "kind": self.kind, "origin": self.origin}


def build_demo_data(directory: Path, max_mb: float = 40.0) -> DemoData:
    """Write raw and targets under `directory`, replacing what is there.

    Parameters
    ----------
    max_mb : megabytes of text in raw; of a larger installation, the kinds there is most of are
        sampled by the hash of their origin, files first.

    Returns
    -------
    The same for the same installation: documents are ordered by a hash of their origin.
    """
    sources = list(_sources())
    left_out = [file for owner, files in sources if owner in HELD_OUT for file in files]
    others = [file for owner, files in sources if owner not in HELD_OUT for file in files]
    held_out = [d for path, origin in left_out for d in _documents(path, origin)]
    pool = _enough(others, 0.4e6 * max_mb)  # of code, tests, docstrings, some of it copies
    targets = {
        "licences": [d for d in held_out if d.kind == LICENCE],
        "scientific_docstrings": [
            d for d in held_out if d.kind == DOCSTRING and d.origin.startswith(SCIENTIFIC)
        ],
        "code": [d for d in held_out if d.kind == CODE_KIND and d.origin.startswith(CODE)],
    }
    seen = {text for documents in targets.values() for text in map(_folded, documents)}
    raw, size = _up_to(_distinct(pool, seen), max_mb * 1e6)
    shutil.rmtree(directory / "raw", ignore_errors=True)
    (directory / "raw").mkdir(parents=True)
    for part in range(_PARTS):
        _write(raw[part::_PARTS], directory / "raw" / f"part-{part}.parquet")
    places = {}
    for name, documents in targets.items():
        places[name] = directory / f"{name}.parquet"
        _write(_distinct(documents, set()), places[name])
    kinds = dict(Counter(d.kind for d in raw).most_common())
    return DemoData(directory / "raw", places, len(raw), size, kinds)


def _sources() -> Iterator[tuple[str, list[tuple[Path, str]]]]:
    """Owner, and its files with their names relative to where it is installed."""
    library = Path(sysconfig.get_path("stdlib"))
    owned = []
    for folder, names, files in os.walk(library):
        names[:] = sorted(n for n in names if n not in ("site-packages", "dist-packages"))
        owned += [(Path(folder, f), Path(folder, f).relative_to(library)) for f in sorted(files)]
    yield "python", [(path, f"python/{name.as_posix()}") for path, name in owned]
    installed = {d.metadata["Name"]: d for d in metadata.distributions() if d.metadata["Name"]}
    for name in sorted(installed):
        listed = installed[name].files or []
        inside = sorted((f for f in listed if ".." not in f.parts), key=str)
        yield name.lower(), [(Path(str(f.locate())), f.as_posix()) for f in inside]


def _enough(files: list[tuple[Path, str]], most: float) -> list[_Document]:
    """Documents of files, in an order by hash, until there are `most` characters of a kind: more
    would be read for nothing."""
    found, size = [], Counter[str]()
    for path, origin in sorted(files, key=lambda file: (_hash(file[1]), file[1])):
        for document in _documents(path, origin, {kind for kind in size if size[kind] >= most}):
            size[document.kind] += len(document.text)
            found.append(document)
    return found


def _documents(
    path: Path, origin: str, without: Collection[str] = ()
) -> Iterator[_Document]:  # fmt: skip
    """Documents of one file, but of some kinds: none where it is of no use."""
    kind = _kind(path, origin)
    kinds = {kind, DOCSTRING} if kind == CODE_KIND else {kind}
    text = None if kind is None or kinds <= set(without) else _read(path)
    if kind is None or text is None:
        return
    if DOCSTRING in kinds.difference(without):
        yield from _docstrings(text, origin)
    if kind in without:
        return
    if kind == DESCRIPTION:
        text = text.partition("\n\n")[2]  # the headers are no text
    for number, passage in enumerate(_passages(text)):
        if _is_text(passage):
            yield _Document(passage, kind, f"{origin}#{number}")


def _kind(path: Path, origin: str) -> str | None:
    """What a file holds, by its name; None: nothing of use."""
    name = path.name
    if name in ("top_level.txt", "entry_points.txt", "SOURCES.txt", "requires.txt"):
        return None
    if path.suffix == ".py":
        return TEST if _TEST_PATH.search(origin) else CODE_KIND
    if name == "METADATA" and ".dist-info" in origin:
        return DESCRIPTION
    if _LICENCE_NAME.search(name) and path.suffix != ".html":
        return LICENCE
    if path.suffix in _TEXT_SUFFIXES:
        return TEST if _TEST_PATH.search(origin) else TEXT
    return None


def _is_text(passage: str) -> bool:
    """Are most of its characters letters? Tables of numbers are no text to learn from."""
    return 2 * sum(map(str.isalpha, passage)) > len("".join(passage.split()))


def _read(path: Path) -> str | None:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _docstrings(source: str, origin: str) -> Iterator[_Document]:
    for own, found in enumerate(_DOCSTRING.finditer(source)):
        text = inspect.cleandoc(found[2])
        if len(text) >= _SHORTEST_DOCSTRING:
            for number, passage in enumerate(_passages(text, _SHORTEST_DOCSTRING)):
                yield _Document(passage, DOCSTRING, f"{origin}:{own}#{number}")


def _passages(text: str, shortest: int = _SHORTEST) -> Iterator[str]:
    """Cut at blank lines, or at a line's end where a paragraph is too long; short tails join."""
    passage = ""
    pieces = re.split(r"(?<=\n)(?=\s*\n)", text)
    for piece in (part for p in pieces for part in _short_pieces(p)):
        if passage.strip() and len(passage) + len(piece) > _LONGEST:
            yield passage.strip("\n")
            passage = ""
        passage += piece
        if len(passage) >= (_SHORTEST + _LONGEST) // 2:
            yield passage.strip("\n")
            passage = ""
    if len(passage.strip()) >= min(shortest, _SHORTEST // 4):
        yield passage.strip("\n")


def _short_pieces(piece: str) -> Iterator[str]:
    if len(piece) <= _LONGEST:
        yield piece
        return
    part = ""
    for line in piece.splitlines(keepends=True):
        for at in range(0, len(line), _LONGEST):
            cut = line[at : at + _LONGEST]
            if part and len(part) + len(cut) > _LONGEST:
                yield part
                part = ""
            part += cut
    yield part


def _folded(document: _Document) -> str:
    return " ".join(document.text.split())


def _distinct(documents: list[_Document], seen: set[str]) -> list[_Document]:
    """In the order of the hash of origin, the first of each text (white space folded)."""
    out = []
    for document in sorted(documents, key=lambda d: (d.key, d.origin)):
        text = _folded(document)
        if text not in seen:
            seen.add(text)
            out.append(document)
    return out


def _up_to(documents: list[_Document], most: float) -> tuple[list[_Document], int]:
    """At most `most` bytes: rare kinds whole, the others cut to equal shares of what is left."""
    by_kind: dict[str, list[tuple[_Document, int]]] = {}
    for d in documents:
        by_kind.setdefault(d.kind, []).append((d, len(d.text.encode())))
    kept, size = set(), 0
    sized = sorted(by_kind.values(), key=lambda found: sum(n for _, n in found))
    for i, found in enumerate(sized):
        left = (most - size) / (len(sized) - i)
        for document, length in found:
            if length > left:
                break
            left -= length
            size += length
            kept.add(document)
    return [d for d in documents if d in kept], size


def _write(documents: list[_Document], path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([d.row for d in documents], _SCHEMA), path)
