"""Writes docs/reference/tables.md out of the schemas and column names in the package.

Run it without arguments; a test holds the page to what it gives. A column without a meaning here
or in a comment of columns.py fails.
"""

from __future__ import annotations

import re
from pathlib import Path

from dsir_spark import columns, matchings, runs
from dsir_spark.scoring import stored

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "tables.md"
HEAD = """# Tables

<!-- Written by scripts/tables_page.py: change the schemas in dsir_spark and run it. -->

Delta tables under `--output`, a path or `catalog.schema`. Each is written in one commit, whose
record (`userMetadata`) holds the run. Columns of raw keep their names and types.

| table | a row is | written by |
|---|---|---|
| `model` | raw, or a target | `run`, `fit` |
| `match` | a step of a matched selection | `run` and `resample` with method `match` |
| `weights` | a document of raw, or a chunk of one | `run`, `weigh`, `resample` of `match` |
| `scores` | a document that `select` chooses from | `select` |
| `selected` | a selected document: all columns of raw, and scores | `run`, `resample`, `select` |
| `documents` | a whole document of which enough chunks were selected | with `--whole-documents` |
| `rejected` | a document that was left out | with `--rejected` |
| `report` | a report page | all that select, and `report` |
| `runs` | a run that began, and another when it ends (`state`) | every command that writes |

A commit is whole, but what is wrong with it shows after it: other rows than the cut holds, or files
of raw that changed meanwhile. Then the run fails and brings the version before back (Delta's
RESTORE; an empty table where there was none). Until then, a few seconds and as long as raw's files
take to list, readers of the latest version see the wrong one; where a run is killed just then,
until the same command goes on with it. Whoever must never see it reads the version on record:
`selected_version` in the last row of `runs` that has one, say
``SELECT * FROM delta.`/data/out/selected` VERSION AS OF 3``. To know before the commit would take
a second copy of the rows, or a second reading of raw.
"""
MODEL = """position: order, raw first
name: empty for raw, else the target's
counts: n-grams by bucket
num_documents: with a text
num_null: documents whose text is null
num_blank: documents whose text is blank
num_tokens: of all documents
facts: configuration, format and totals, as JSON
classifier: coefficients by bucket, of a target's classifier"""
MATCH = """target: name of the target
step: from 0
num_ngrams: budget of the step, in n-grams of the sample it learnt from
threshold: documents of at least this score were taken
raw_share: of raw in what was brought near to the target
buckets: those of which n-grams were taken, rising
counts: how many of each"""
RUNS = """run_id: of both rows of a run
command: run, fit, weigh, resample or select
started_at: UTC
dsir_spark_version: version of the package
config: options as given, as JSON
raw: place, format, and version or facts of the files, as JSON
target: the same of each target, by name; of `select`, a hash of the shares of `--group-share`
held_out: share of each target that was kept out of the fit, as JSON
decontaminate: the same of the texts to stay away from, and the tokens of an n-gram
model_fingerprint: 32 hex digits that depend on every fact of the model
table_fingerprint: of the tables of log ratios, bit by bit
seed: of the noise
num_to_sample: budget in documents
num_tokens_to_sample: budget in tokens or sizes
temperature: by target, what log weights were divided by
shortfall: part of the budget that was not used
selection: options and cuts, from which the selection is found again, as JSON
funnel: rows at each stage from raw to the selection
selected_by_target: documents by target
contaminated: documents by the text that they share an n-gram with
kl_reduction: by target, nats an n-gram
kl_reduction_random: the same of a random subset of equal size
effective_sample_size: by target, documents
kl_bound: by target, no selection of as many n-grams can pass it
classifier: AUC, log loss, calibration by target, as JSON
match: steps, thresholds, KL path and bounds by target, as JSON
match_version: Delta version of the table that the run wrote or read
scores: place of the table of scores, as `raw`
scores_version: as `match_version`
rejected_version: as `match_version`
model_version: as `match_version`
weights_version: as `match_version`
selected_version: as `match_version`
seconds: by stage
state: started or finished
notes: what was left out of the inputs, in sentences"""
REPORT = """run_id string: of the run
written_at timestamp: UTC
facts string: all facts of the page, as JSON"""
SCORES = """id: of raw
score: the number, or one for each named score; null and NaN are no candidates
normalized: what it was normalised to, with `--normalize-score`
copy_hash: of the value of `--copies-column` (struct of two bigints)"""
# Columns of weights and selections, whose meanings are the comments beside their names.
ADDED = ("LOG_WEIGHT", "LOG_ODDS", "PROBABILITY", "NUM_TOKENS", "TARGET", "TEXT_HASH",
         "CONTAMINATED_BY", "CONTENT_ID", "CHUNK_ID", "COPIES")  # fmt: skip
# Others, of some of these tables.
MORE = """match_key, match_score: what `match` ranks by, and what its bound is made of (double)
chunk, num_chunks: number of the chunk, from 0, of so many (int)
chunk_start, chunk_end: where it begins and ends in the text, characters (bigint)
most_frequent, informative, digits, num_wordpunct: `wordpunct` tokens, for `quality` (bigint)
num_selected_chunks: in `documents`, of `num_chunks` (bigint)"""


def types_of(schema: str) -> dict[str, str]:
    """Type of each column of a schema as Spark reads it from a text."""
    parts = re.split(r",(?![^<]*>)", " ".join(schema.split()))
    return {name: kind for name, kind in (part.split(None, 1) for part in parts)}


def meanings_of(lines: str) -> dict[str, str]:
    """What each column is, of lines `name: meaning`."""
    return {name: said for name, said in (line.split(": ", 1) for line in lines.splitlines())}


def table(types: dict[str, str], meanings: dict[str, str]) -> list[str]:
    """A row of Markdown for each column; they must be the same."""
    if types.keys() != meanings.keys():
        raise SystemExit(f"columns and meanings differ: {types.keys() ^ meanings.keys()}")
    rows = [f"| `{name}` | `{types[name]}` | {meanings[name]} |" for name in types]
    return ["| column | type | what it is |", "|---|---|---|", *rows, ""]


def added() -> list[str]:
    """The columns that weights and selections add, by the comments in columns.py."""
    source = (ROOT / "dsir_spark" / "columns.py").read_text(encoding="utf-8")
    said = dict(re.findall(r"^([A-Z_]+) = [^#\n]*# (.+)$", source, re.M))
    rows = [f"| `{getattr(columns, name)}` | {said[name]} |" for name in ADDED]
    for names, meant in meanings_of(MORE).items():
        called = ", ".join(f"`{name}`" for name in names.split(", "))
        rows.append(f"| {called} | {meant} |")
    return ["| column | what it is |", "|---|---|", *rows, ""]


def page() -> str:
    """The whole page."""
    report = meanings_of(REPORT)
    kinds = {name.split()[0]: name.split()[1] for name in report}
    lines = [HEAD, "## `model`", ""]
    lines += table(types_of(f"{stored._SCHEMA}, {stored._CLASSIFIER}"), meanings_of(MODEL))
    lines += ["## `match`", "", *table(types_of(matchings._SCHEMA), meanings_of(MATCH))]
    lines += [
        "## `weights`, `selected`", "",
        "The id, the columns named by `--keep`, and of these what the options ask for; with "
        "separate targets `_<target>` follows the names of weights, odds, probabilities "
        "and keys.", "",
        *added(),
    ]  # fmt: skip
    lines += ["## `scores`", "", "| column | what it is |", "|---|---|",
              *(f"| `{name}` | {said} |" for name, said in meanings_of(SCORES).items()), "",
              "`rejected` has these, or those of `weights`, and `stage`, `reason` and `number`: "
              "the score, or the tokens or the size that it is about. Of a pool of hundreds of "
              "megabytes, copies and rows above `max_per_group` that are below the cut as well are "
              "`below_cut`.", ""]  # fmt: skip
    lines += ["## `report`", "",
              *table(kinds, {n.split()[0]: said for n, said in report.items()})]  # fmt: skip
    lines += ["## `runs`", "", *table(types_of(runs.SCHEMA), meanings_of(RUNS))]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
