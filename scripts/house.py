"""The table of the house: each file's lines, longest function and class, and what it imports.

    python scripts/house.py [--update]

Prints Markdown; with --update it stands in CONTRIBUTING.md between its markers.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dsir_spark"
BEGIN, END = "<!-- house: begin -->", "<!-- house: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--update", action="store_true")
    text = table()
    if not parser.parse_args().update:
        print(text)
        return
    page = ROOT / "CONTRIBUTING.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def table() -> str:
    """A row a file, wing by wing, and a sum."""
    files = sorted(PACKAGE.rglob("*.py"), key=lambda p: (len(p.parents), str(p)), reverse=True)
    wings = sorted({p.parent for p in files}, key=lambda p: (p == PACKAGE, str(p)))
    lines = ["| file | lines | longest function | longest class | imports of the package |",
             "|---|---:|---|---|---|"]  # fmt: skip
    total = 0
    for wing in wings:
        for path in sorted(p for p in files if p.parent == wing):
            source = path.read_text(encoding="utf-8")
            total += source.count("\n")
            lines.append(row(path, source))
    lines.append(f"| **{len(files)} files** | **{total:,}** | | | |")
    return "\n".join(lines)


def row(path: Path, source: str) -> str:
    tree = ast.parse(source)
    own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    functions = longest(tree, ast.FunctionDef)
    classes = longest(tree, ast.ClassDef)
    imported = ", ".join(sorted(imports(tree, own)))
    name = path.relative_to(PACKAGE).as_posix()
    return f"| `{name}` | {source.count(chr(10))} | {functions} | {classes} | {imported} |"


def longest(tree: ast.AST, kind: type[ast.FunctionDef] | type[ast.ClassDef]) -> str:
    """The longest definition of a kind and its lines, decorators apart."""
    found = [(n.end_lineno - n.lineno + 1, n.name) for n in ast.walk(tree) if isinstance(n, kind)]
    return f"{max(found)[0]} `{max(found)[1]}`" if found else ""


def imports(tree: ast.AST, own: str) -> set[str]:
    """Rooms of the package that a file imports, without `dsir_spark.` in front."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dsir_spark"):
            if node.module == "dsir_spark":
                found |= {alias.name for alias in node.names if not alias.name.startswith("_")}
            else:
                found.add(node.module.removeprefix("dsir_spark."))
    return found - {own.removeprefix("dsir_spark.")}


if __name__ == "__main__":
    main()
