"""Are the sdist and the wheel in a folder what could be published? Says what is not, and exits 1.

    python scripts/check_dist.py dist python3.10 python3.13

What they hold is compared with the package, versions with each other and with CHANGELOG.md. Then,
for each Python, the wheel is installed alone in an empty environment, away from the checkout: its
executors' part has to work without Spark, and with the extra a small demo has to run.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tarfile
import tempfile
import time
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "dsir_spark"
WITH_SDIST = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"}
# A bucket that anyone can check in SQL, and nothing but what executors need.
ALONE = """
import importlib.util, pathlib, pyarrow as pa
from dsir_spark import features
import dsir_spark
assert pathlib.Path(dsir_spark.__file__).is_relative_to(pathlib.Path.cwd()), dsir_spark.__file__
assert importlib.util.find_spec("pyspark") is None
buckets, _ = features.sparse_counts(pa.array(["to be"]), features.FeatureSpec(2, 10_000))
print("features without Spark: buckets of 'to be'", buckets.to_pylist())
"""


def package_files() -> set[str]:
    """What the package is made of, by the checkout."""
    found = (p for p in (ROOT / PACKAGE).rglob("*") if p.is_file() and p.suffix != ".pyc")
    kernels = re.compile(r"\.nb[ic]$")  # compiled on first use, beside the modules
    return {str(p.relative_to(ROOT)) for p in found if not kernels.search(p.name)}


def check_contents(wheel: Path, sdist: Path) -> None:
    """Raise where a file is missing or too many, or where versions differ."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = message_from_bytes(
            archive.read(next(n for n in names if n.endswith(".dist-info/METADATA")))
        )
    inside = {n for n in names if ".dist-info/" not in n}
    assert inside == package_files(), f"wheel: {sorted(inside ^ package_files())}"
    assert wheel.name.endswith("-py3-none-any.whl"), wheel.name
    with tarfile.open(sdist) as archive:
        files = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    files = {n for n in files if ".egg-info/" not in n} - {"PKG-INFO", "setup.cfg"}
    assert files == package_files() | WITH_SDIST, (
        f"sdist: {sorted(files ^ (package_files() | WITH_SDIST))}"
    )
    source = (ROOT / PACKAGE / "__init__.py").read_text("utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = {
        "metadata": metadata["Version"],
        "__version__": re.search(r'__version__ = "(.*)"', source)[1],
        "CHANGELOG.md": re.search(r"^## (\S+)", changes, re.M)[1],
    }
    assert len(set(versions.values())) == 1, versions


def run(*command: str | Path, where: str, ends_with: int = 12) -> None:
    """Run a command in a folder, its last lines shown; raise with all of them where it fails."""
    done = subprocess.run(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)  # fmt: skip
    lines = done.stdout.splitlines()
    print("\n".join(f"    {line}" for line in lines[-ends_with if done.returncode == 0 else 0 :]))
    done.check_returncode()


def try_wheel(wheel: Path, python: str, extra: str) -> None:
    """Install the wheel in an empty environment of a Python, and use it there."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dsir-dist-") as folder:
        version = subprocess.check_output([python, "--version"], text=True).strip()
        print(f"{version}: the wheel alone", flush=True)
        run(python, "-m", "venv", folder, where=folder)
        bin_ = Path(folder).resolve() / "bin"
        install = (bin_ / "python", "-m", "pip", "install", "--quiet",
                   "--disable-pip-version-check")  # fmt: skip
        run(*install, wheel, where=folder)
        run(bin_ / "python", "-I", "-c", ALONE, where=folder)
        run(bin_ / "dsir-spark", "--version", where=folder)
        print(f"{version}: the demo, with [{extra}]", flush=True)
        run(*install, f"{wheel}[{extra}]", where=folder)
        run(bin_ / "dsir-spark", "demo", "--max-mb", "2", "--num-to-sample", "50", where=folder)
        assert (Path(folder) / "dsir-demo" / "tables" / "report.html").stat().st_size > 100_000
    print(f"{version}: done in {time.monotonic() - begin:.0f} s", flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("python", nargs="*")
    parser.add_argument("--extra", default="spark", help="the one with Spark and Delta")
    given = parser.parse_args()
    (wheel,), (sdist,) = (list(given.folder.resolve().glob(e)) for e in ("*.whl", "*.tar.gz"))
    check_contents(wheel, sdist)
    print(f"{wheel.name}, {sdist.name}: files and versions are right")
    for python in given.python:
        try_wheel(wheel, python, given.extra)


if __name__ == "__main__":
    main()
