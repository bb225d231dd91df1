"""The pictures of the README, from the facts of a report: `make pictures` draws those of the demo.

    python scripts/pictures.py REPORT.json FOLDER [--target NAME]

Draws FOLDER/selected.png: what was selected before and after, where the cut lies, where more
documents stop helping; and, where a Chromium is on the path, FOLDER/page.png, the head of the page
beside REPORT.json.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.image as images
from matplotlib.figure import Figure

from dsir_spark.report import pictures

DPI = 130


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", help="Default: the first.")
    options = parser.parse_args()
    facts = json.loads(options.report.read_text(encoding="utf-8"))
    names = [t["name"] for t in facts["targets"]]
    name = options.target or names[0]
    if name not in names:
        sys.exit(f"error: no target {name!r} in {options.report}; targets are {', '.join(names)}")
    target = facts["targets"][names.index(name)]
    verdict = facts["verdict"][names.index(name)]
    first = facts["composition"][0]
    figures = [
        pictures.composition_figure(first["column"], first["rows"]),
        pictures.weights_figure(target["weights"]),
        pictures.curve_figure(target["curve"], verdict),
    ]
    side_by_side(figures, options.folder / "selected.png")
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser:
        screenshot(browser, options.report.with_suffix(".html"), options.folder / "page.png")


def side_by_side(figures: list[Figure], place: Path) -> None:
    drawn = []
    for figure in figures:
        figure.set_size_inches(4.6, 3.0)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=DPI)
        out.seek(0)
        drawn.append(images.imread(out))
    height, width = drawn[0].shape[:2]
    whole = Figure(figsize=(len(drawn) * width / DPI, height / DPI), dpi=DPI)
    for i, picture in enumerate(drawn):
        axes = whole.add_axes((i / len(drawn), 0, 1 / len(drawn), 1))
        axes.imshow(picture, interpolation="none")
        axes.axis("off")
    whole.savefig(place)


def screenshot(browser: str, report: Path, place: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--disable-background-networking", f"--user-data-dir={profile}",
             "--window-size=1180,1500", f"--screenshot={place}", report.resolve().as_uri()],
            capture_output=True, check=True, timeout=120,
        )  # fmt: skip


if __name__ == "__main__":
    main()
