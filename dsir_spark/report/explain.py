"""The weights of documents, split over their n-grams, as text."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame

from dsir_spark.columns import quoted
from dsir_spark.errors import DataError
from dsir_spark.features import arrow, terms
from dsir_spark.report.facts import visible
from dsir_spark.report.texts import some_texts
from dsir_spark.scoring.documents import documents, spec_of
from dsir_spark.scoring.model import Model


def explained(model: Model, raw: DataFrame, ids: Sequence[str], number: int = 20) -> str:
    """The weights of documents of raw under the model: the `number` n-grams that move each most.

    Raises
    ------
    DataError
        Raw has no document of an id.
    """
    spec = spec_of(model.config)
    # As bytes: what is no UTF-8 is read here as the kernels read it.
    text = quoted(model.config.text_column).cast("binary").alias("text")
    named = quoted(model.id_name).cast("string")
    found = documents(raw, model.config).where(named.isin(list(ids))).select(
        named.alias("id"), text
    )  # fmt: skip
    texts = {r["id"]: r["text"] for r in found.collect()}
    absent = [i for i in ids if texts.get(i) is None]
    if absent:
        raise DataError(f"raw has no document with {model.id_name} {absent[0]!r} and a text")
    parts = {
        (i, name): terms.terms(bytes(texts[i]), ratio, spec)
        for i in ids
        for name, ratio in model.log_ratio.items()
    }
    rows = {key: terms.by_ngram(own)[:number] for key, own in parts.items()}
    shown = {term.bucket for own in rows.values() for term, _, _ in own}
    in_raw = model.raw.num_documents / model.fitted_share
    others = some_texts({"raw": (raw, in_raw)}, model.config.text_column)["raw"]
    sharers = terms.Sharers(map(arrow.decoded, others), spec, shown)
    lines = []
    for (i, name), own in rows.items():
        whose = "" if model.single_target else f" for {name}"
        lines += [
            f"{visible(i)}: log weight{whose} {terms.log_weight(parts[i, name]):+.4f} nats, the "
            f"sum over {len(parts[i, name]):,} n-grams; the {len(own)} that move it most:",
            f"  {'part':>9}  {'times':>5}  {'log ratio':>9}  {'bucket':>8}  n-gram"
            f"{'':<24}  in its bucket",
            *[_line(*row, sharers) for row in own],
        ]
    return "\n".join(lines)


def _line(term: terms.Term, times: int, part: float, sharers: terms.Sharers) -> str:
    sharing = ", ".join(f"{visible(g)[:24]} {share:.0%}" for g, share in sharers.of(term.bucket))
    return (
        f"  {part:>+9.3f}  {times:>5}  {term.log_ratio:>+9.3f}  {term.bucket:>8}  "
        f"{visible(term.ngram)[:30]:<30}  {sharing or '-'}"
    )
