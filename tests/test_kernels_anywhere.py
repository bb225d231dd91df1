"""The same bits on any processor, and whatever has become of the cache of compiled code."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numba import config
from numba.core import caching
from test_features import HOSTILE

from dsir_spark import features
from dsir_spark.features import FeatureSpec, jit

PROCESSORS = {
    "generic": {"NUMBA_CPU_NAME": "generic"},
    "haswell": {"NUMBA_CPU_NAME": "haswell"},
    "znver2 with sha": {"NUMBA_CPU_NAME": "znver2", "NUMBA_CPU_FEATURES": "+sha"},
}
SPECS = [FeatureSpec(ngrams=3, num_buckets=997), FeatureSpec(2, 997, hash="sha256"),
         FeatureSpec(2, 1 << 24, "bytes")]  # fmt: skip


def digest() -> str:
    """Of all that the kernels make of a sample of texts."""
    rng = np.random.default_rng(1)
    letters = [*HOSTILE, *"the quick brown fox, jumps. " * 3]
    rows = ["".join(rng.choice(letters, size)) for size in rng.integers(0, 300, 60)]
    texts = pa.array([*rows, "x" * 100_000, "word " * 20_000, None])
    found = hashlib.sha256()
    for spec in SPECS:
        tables = rng.normal(size=(spec.num_buckets, 1))
        counts = features.count_ngrams(texts, spec).counts
        for array in (*features.score(texts, tables, spec), counts):
            found.update(array.tobytes())
    found.update(features.text_hashes(texts).tobytes())
    found.update(features.quality_facts(texts).informative.tobytes())
    return found.hexdigest()


@pytest.mark.slow
def test_any_processor(tmp_path):
    """Each is another process, compiles everything, and they run side by side."""
    command = [sys.executable, "-c", "import test_kernels_anywhere as t; print(t.digest())"]
    folders = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    started = {
        name: subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **settings, "PYTHONPATH": folders,
                 "NUMBA_CACHE_DIR": str(tmp_path / name)},
        )
        for name, settings in PROCESSORS.items()
    }  # fmt: skip
    found = {name: process.communicate() for name, process in started.items()}
    assert {name: out.strip() or err for name, (out, err) in found.items()} == dict.fromkeys(
        PROCESSORS, digest()
    )


SOURCE = "def outer(x):\n    return inner(x) + 1\n\ndef inner(x):\n    return 2 * x\n"


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """A new process, as far as numba's cache goes: a function that calls another one, compiled."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "made.py").write_text(SOURCE, encoding="utf-8")

    def fresh():
        made = importlib.util.spec_from_file_location("made", tmp_path / "made.py")
        module = importlib.util.module_from_spec(made)
        made.loader.exec_module(module)
        module.inner = jit.jit(module.inner)
        module.outer = jit.kernel(module.outer)
        return module

    return fresh


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("size", [0, 30])
def test_files_that_were_cut_off(compiled, tmp_path, caplog, kind, size):
    assert compiled().outer(3) == 7
    files = [*(tmp_path / "cache").rglob(f"*.{kind}")]
    assert len(files) == 1
    for file in files:
        os.truncate(file, size)
    assert compiled().outer(3) == 7
    assert "made anew" in caplog.text
    again = compiled()
    assert again.outer(3) == 7  # and the files have been put right
    assert again.outer.stats.cache_hits and not again.outer.stats.cache_misses


def test_a_full_disk(compiled, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    assert compiled().outer(3) == 7
    assert "No space left" in caplog.text


def test_no_folder_can_be_written(compiled, monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    made = compiled()
    assert made.outer(3) == 7
    assert not made.outer.stats.cache_path


def test_a_change_of_any_file_makes_other_code(compiled, monkeypatch):
    compiled().outer(3)
    monkeypatch.setattr(jit, "_SOURCES", (("hashes.py", 0, 0),))
    again = compiled()
    again.outer(3)
    assert again.outer.stats.cache_misses
