"""One Spark session a run, started when a test first asks for it, with scratch under tmp."""

from __future__ import annotations

import os
import sys

import pytest

os.environ["PYSPARK_PYTHON"] = sys.executable
# With the JVM's second compiler, which a session of one job does without (session.py), the many
# tests of one JVM took a quarter less time; of what is called often only (five times the default),
# a tenth less than that.
_SECOND_COMPILER = (
    "-XX:Tier4InvocationThreshold=25000 -XX:Tier4MinInvocationThreshold=3000 "
    "-XX:Tier4CompileThreshold=75000 -XX:Tier4BackEdgeThreshold=200000"
)


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    from dsir_spark import jvm
    from dsir_spark.session import build_session

    # The collector that sessions take: with it test_select_job took a seventh less time.
    collector = jvm.flags({}).removeprefix(jvm.QUICK)
    scratch = tmp_path_factory.mktemp("spark")
    session = build_session(
        "tests",
        master="local[2]",
        conf={
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.warehouse.dir": str(scratch / "warehouse"),
            "spark.driver.extraJavaOptions": (
                f"{_SECOND_COMPILER}{collector} -Dderby.system.home={scratch}"
            ),
            # Queries here are many and small: compiling each would take longer than running it.
            "spark.sql.codegen.wholeStage": "false",
            "spark.sql.codegen.factoryMode": "NO_CODEGEN",
            # Each commit to a local disk starts twenty processes (chmod, readlink), 4 ms each: five
            # where the log has no checksums, Delta's and Hadoop's.
            "spark.databricks.delta.writeChecksumFile.enabled": "false",
            "spark.hadoop.fs.AbstractFileSystem.file.impl": "org.apache.hadoop.fs.local.RawLocalFs",
            # VACUUM lists folders by so many tasks: 10,000 by default, two minutes of nothing.
            "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",
        },
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def store(spark, tmp_path_factory):
    """A folder by another scheme, by Hadoop's view of it: it stands for s3a: and its like."""
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    folder = tmp_path_factory.mktemp("store")
    conf.set("fs.viewfs.mounttable.default.link./store", f"file:{folder}")
    return "viewfs:/store"
