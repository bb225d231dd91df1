"""Hostile texts through every tokenizer against the oracle, and broken files through every reader.

    python scripts/fuzz.py [--seed 1] [--texts 100000] [--files 500]

Prints what it tried and how long it took; ends with 1 where a count differs from the oracle's, or
where a file fails in a way that the command line would call a bug.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsir_spark import failures, features, inputs
from dsir_spark.errors import DSIRError
from dsir_spark.features import FeatureSpec

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import oracle
from test_features import HOSTILE

BATCH = 2_000
TOKENIZERS = ("wordpunct", "wordpunct_cjk", "bytes")


def hostile(rng: random.Random) -> str:
    """A text of characters that tokenizers get wrong, and of any others."""
    pieces = []
    for _ in range(rng.randrange(30)):
        kind = rng.random()
        if kind < 0.4:
            pieces.append(rng.choice(HOSTILE))
        elif kind < 0.6:
            point = rng.randrange(0x110000)
            pieces.append("\ufffd" if 0xD800 <= point < 0xE000 else chr(point))
        else:
            pieces.append(rng.choice(["the ", "A.", "\n", "\t", "x" * rng.randrange(70), "9,"]))
    return "".join(pieces)


def try_texts(rng: random.Random, number: int) -> int:
    """Texts whose bucket counts differ from the oracle's."""
    wrong = 0
    for first in range(0, number, BATCH):
        texts = [hostile(rng) for _ in range(min(BATCH, number - first))]
        for tokenizer in TOKENIZERS:
            spec = FeatureSpec(2, 997, tokenizer, rng.choice(["xxhash64", "sha256"]))
            counts = features.count_ngrams(pa.array(texts), spec).counts
            expected = np.zeros(997, np.int64)
            for text in texts:
                buckets = oracle.buckets(text, 2, 997, spec.hash, tokenizer)
                np.add.at(expected, np.array(buckets, np.int64), 1)
            if not np.array_equal(counts, expected):
                wrong += 1
                print(f"texts {first} to {first + len(texts)}, {spec}: counts differ")
    return wrong


def whole_files(folder: Path) -> list[Path]:
    """A file for each reader and compression."""
    rows = [{"id": f"d{i}", "text": f"salt the soup {i}", "n": i} for i in range(300)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = "id,text,n\n" + "".join(f'{r["id"]},"{r["text"]}",{r["n"]}\n' for r in rows)
    made = {"a.jsonl": lines, "a.jsonl.gz": gzip.compress(lines), "a.csv": table.encode(),
            "a.jsonl.bz2": bz2.compress(lines), "a.csv.gz": gzip.compress(table.encode()),
            "a.txt": lines, "a.txt.gz": gzip.compress(lines)}  # fmt: skip
    for name, content in made.items():
        (folder / name).write_bytes(content)
    for codec in ("snappy", "zstd", "gzip", "none"):
        path = folder / f"{codec}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, compression=codec)
    return sorted(folder.iterdir())


def try_files(rng: random.Random, number: int) -> int:
    """Files cut, or with bytes changed, that fail in a way that is not told in a line."""
    from dsir_spark.session import build_session

    spark = build_session("fuzz", master="local[2]", conf={"spark.sql.codegen.wholeStage": "false"})
    spark.sparkContext.setLogLevel("OFF")
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "whole").mkdir()
        files = whole_files(Path(place) / "whole")
        for i in range(number):
            path = rng.choice(files)
            content = bytearray(path.read_bytes())
            if rng.random() < 0.5:
                content = content[: rng.randrange(len(content))]
            else:
                for _ in range(rng.randrange(1, 20)):
                    content[rng.randrange(len(content))] = rng.randrange(256)
            folder = Path(place) / str(i)
            folder.mkdir()
            (folder / path.name).write_bytes(content)
            try:
                raw = inputs.open_input(spark, str(folder), None, "raw")
                raw.frame.selectExpr("max(struct(*))").collect()
                raw.count_dropped()
                outcomes["read"] += 1
            except DSIRError as error:
                outcomes["refused" if "\n" not in str(error) else "not a line"] += 1
            except Exception as error:
                told = failures.told(error)
                outcomes["told" if told else "a bug"] += 1
                if not told:
                    print(f"{path.name}, file {i}: {type(error).__name__} {str(error)[:300]}")
    spark.stop()
    print(", ".join(f"{kind}: {n}" for kind, n in sorted(outcomes.items())))
    return outcomes["a bug"] + outcomes["not a line"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=500)
    options = parser.parse_args()
    wrong = 0
    for name, number, tried in (("texts", options.texts, try_texts),
                                ("files", options.files, try_files)):  # fmt: skip
        begin = time.monotonic()
        found = tried(random.Random(options.seed), number)
        wrong += found
        print(f"{number:,} {name}, seed {options.seed}: {found} wrong, "
              f"{time.monotonic() - begin:.0f} s")  # fmt: skip
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
