"""Entry point for spark-submit: the command line of dsir-spark on the cluster's own session."""

from dsir_spark.cli import main

if __name__ == "__main__":
    main()
