"""A selection becomes facts, gathered once; text, page, JSON and tables are templates over them."""

from dsir_spark.report import checks
from dsir_spark.report.facts import REASONS, Facts, FitFacts, WeightFacts
from dsir_spark.report.gather import gather, gather_fit, gather_weights
from dsir_spark.report.page import as_frame, write
from dsir_spark.report.score_facts import ScoreFacts
from dsir_spark.report.scores import gather_scores
from dsir_spark.report.stored import as_stored, is_stored
from dsir_spark.report.text import full, summary
from dsir_spark.report.texts import explained

__all__ = [
    "REASONS", "Facts", "FitFacts", "ScoreFacts", "WeightFacts", "as_frame", "as_stored",
    "checks", "explained", "full", "gather", "gather_fit", "gather_scores", "gather_weights",
    "is_stored", "summary", "write",
]  # fmt: skip
