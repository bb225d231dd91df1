"""`python -m dsir_spark`: the command, where no folder of scripts is on the PATH."""

from dsir_spark.cli import main

if __name__ == "__main__":
    main()
