"""A Spark Connect session restricted as Databricks serverless is; run in a process of its own.

What the client sends passes a gate here, which refuses what serverless refuses: settings, persisted
frames, paths outside of volumes, large local data, plans above 128 MB. Started as a script it runs
tasks and notebooks in such a session: arguments are the folder of volumes, where `data` becomes the
demo's, and JSON of the tasks' arguments and the notebooks' paths.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import grpc

MESSAGE, LOCAL_DATA = 128 << 20, 1 << 20
WORKER_MB = 1_024  # of a Python worker's address space
# What a session may be asked, as Spark's own client does; Databricks tells less.
TOLD = re.compile(r"spark\.(sql|connect|python)\.(?!caseSensitive)")


class Gate(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor,
           grpc.StreamUnaryClientInterceptor):  # fmt: skip
    """Looks through requests before they leave.

    seen : of each kind how many passed, and bytes of the largest
    """

    def __init__(self, volumes: Path) -> None:
        self.volumes, self.seen, self.largest = str(volumes), dict[str, int](), 0

    def intercept_unary_unary(self, go_on, details, request):
        self.look(request)
        return go_on(details, request)

    intercept_unary_stream = intercept_unary_unary

    def intercept_stream_unary(self, go_on, details, requests):
        return go_on(details, map(self.looked, requests))

    def looked(self, request):
        self.look(request)
        return request

    def look(self, request) -> None:
        kind, size = type(request).__name__, request.ByteSize()
        self.seen[kind] = self.seen.get(kind, 0) + 1
        self.largest = max(self.largest, size)
        if size > MESSAGE:
            refuse(f"a message of {size} bytes")
        if kind == "ConfigRequest":
            self.look_at_settings(request.operation)
        if kind == "AnalyzePlanRequest" and "persist" in request.WhichOneof("analyze"):
            refuse("[NOT_SUPPORTED_WITH_SERVERLESS] PERSIST TABLE")
        self.walk(request)

    @staticmethod
    def look_at_settings(operation) -> None:
        asked = operation.WhichOneof("op_type")
        own = getattr(operation, asked)
        if asked in ("set", "unset"):
            refuse("[CONFIG_NOT_AVAILABLE] spark.conf.set")
        keys = [p.key for p in own.pairs] if asked == "get_with_default" else own.keys
        for key in keys:
            if not TOLD.match(key):
                refuse(f"[CONFIG_NOT_AVAILABLE] Configuration {key} is not available")

    def walk(self, message) -> None:
        """All parts of a plan."""
        for field, value in message.ListFields():
            if field.name == "local_relation" and value.ByteSize() > LOCAL_DATA:
                refuse(f"local data of {value.ByteSize()} bytes")
            if field.name == "checkpoint_command":
                refuse("checkpoints")
            several = value if hasattr(value, "append") or hasattr(value, "add") else [value]
            for one in several:
                if field.name in ("paths", "path"):
                    self.look_at_path(one)
                elif field.name in ("query", "sql") and isinstance(one, str):
                    for path in re.findall(r"`(/[^`]*)`", one):
                        self.look_at_path(path)
                if hasattr(one, "ListFields"):
                    self.walk(one)

    def look_at_path(self, path: str) -> None:
        if not path.startswith(self.volumes):
            refuse(f"the path {path}, which is in no volume")


def refuse(what: str) -> None:
    from pyspark.errors import AnalysisException

    raise AnalysisException(f"not on serverless: {what}")


SERVER = """
import sys
from dsir_spark.session import build_session
conf = dict(setting.split("=", 1) for setting in sys.argv[1:])
session = build_session(master="local[2]", conf=conf)
print("READY", flush=True)
sys.stdin.read()
"""


def served(scratch: Path) -> tuple[str, subprocess.Popen[str]]:
    """Address of a server as serverless is, and its process."""
    from dsir_spark import jvm

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    settings = {
        "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
        "spark.sql.artifact.isolation.enabled": "true",
        "spark.connect.grpc.binding.port": port,
        "spark.sql.ansi.enabled": "true",
        "spark.sql.warehouse.dir": scratch / "warehouse",
        "spark.driver.extraJavaOptions": f"{jvm.QUICK} -Dderby.system.home={scratch}",
        "spark.executor.pyspark.memory": f"{WORKER_MB}m",
    }
    # It is asked for by the client of 4.1 and later, which else makes one up.
    os.environ["SPARK_CONNECT_AUTHENTICATE_TOKEN"] = "tests"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER, *(f"{k}={v}" for k, v in settings.items())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line == "READY\n":
            return f"sc://localhost:{port}", process
    raise RuntimeError("the server did not start")


def gated(volumes: Path, address: str) -> Gate:
    """Sessions of this process are the server's and pass a gate, and it looks like Databricks."""
    from pyspark.sql.connect.client import core

    gate, channel = Gate(volumes), core.DefaultChannelBuilder.toChannel
    core.DefaultChannelBuilder.toChannel = lambda own: grpc.intercept_channel(channel(own), gate)
    os.environ |= {"SPARK_REMOTE": address, "DATABRICKS_RUNTIME_VERSION": "client.4"}
    return gate


def task(arguments: list[str]) -> None:
    """As Databricks runs a python_wheel_task: the entry point's function, found by its name."""
    package, entry_point, *parameters = arguments
    found = metadata.distribution(package).entry_points
    (function,) = {e.load() for e in found if e.name == entry_point}
    sys.argv = [package, *parameters]
    function()


def cells(notebook: str, volume: str) -> str:
    """The code of a notebook, its files in `volume`."""
    code = [c["source"] for c in json.loads(Path(notebook).read_text("utf-8"))["cells"]
            if c["cell_type"] == "code"]  # fmt: skip
    lines = "\n".join("".join(source) for source in code).splitlines()
    own = [line for line in lines if not line.startswith("%")]
    return "\n".join(own).replace("/Volumes/main/default/dsir", volume)


def main(volumes: str, todo: str) -> None:
    """Run it all in one session; the last line says what passed the gate."""
    folder, wanted = Path(volumes), json.loads(todo)
    address, server = served(folder.with_name("server"))
    gate = gated(folder, address)
    from dsir_spark import demo_data
    from dsir_spark.session import build_session

    # Once for all: it looks through the whole installation.
    data = demo_data.build_demo_data(folder / "data", max_mb=4)
    demo_data.build_demo_data = lambda *_, **__: data
    spark = build_session()
    for schema in wanted["schemas"]:
        spark.sql(f"CREATE SCHEMA {schema}").collect()
    for arguments in wanted["tasks"]:
        task(arguments)
    for notebook in wanted["notebooks"]:
        own = folder / Path(notebook).stem
        own.mkdir()
        exec(compile(cells(notebook, str(own)), notebook, "exec"), {"spark": spark})
    told = json.dumps({"seen": gate.seen, "largest": gate.largest})
    sys.stdout.write(f"GATE {told}\n")
    server.kill()
    server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
