"""DSIR for Spark: select, from a huge raw corpus, documents distributed like a target sample."""

from dsir_spark.dsir import DSIR, DSIRModel, ngram_counts

__all__ = ["DSIR", "DSIRModel", "ngram_counts"]
__version__ = "0.1.0"
