"""One Spark session a run, started when a test first asks for it, with scratch under tmp."""

from __future__ import annotations

import os
import sys

import pytest

os.environ["PYSPARK_PYTHON"] = sys.executable


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    from dsir_spark.session import build_session

    scratch = tmp_path_factory.mktemp("spark")
    session = build_session(
        "tests",
        master="local[2]",
        conf={
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.warehouse.dir": str(scratch / "warehouse"),
            # With the second compiler, which a session of one job does without (session.py): the
            # many tests of one JVM took a quarter less time.
            "spark.driver.extraJavaOptions": f"-Dderby.system.home={scratch}",
            # Queries here are many and small: compiling each would take longer than running it.
            "spark.sql.codegen.wholeStage": "false",
            "spark.sql.codegen.factoryMode": "NO_CODEGEN",
            # VACUUM lists folders by so many tasks: 10,000 by default, two minutes of nothing.
            "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
        },
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()
