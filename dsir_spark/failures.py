"""What Spark reports of the user's data, files, rights and disk, as one line with a remedy.

Classic sessions raise a `Py4JJavaError` for whatever fails in a task, Connect an exception of its
own: both say why in a chain of messages, of which one names the file. What is not known here is a
bug of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FILE = re.compile(r"((?:file|s3a?|abfss?|gs|hdfs|dbfs|wasbs?):/[^\s,;]+)")


@dataclass(frozen=True)
class _Kind:
    """A kind of failure: what its messages hold, what it is, and what to do.

    Groups of the pattern may stand in what it is, by name.
    """

    pattern: str
    said: str
    remedy: str


_BROKEN = _Kind(r"is not a Parquet file|Could not read footer|CANNOT_READ_FOOTER|FAILED_READ_FILE"
                r"|CANNOT_READ_FILE|EOFException|ZipException|not in GZIP|MalformedInput|corrupt"
                r"|ZStandard|Premature EOF|Unexpected end", "is broken or not of its format",
                "take it out, or leave it out by --conf spark.sql.files.ignoreCorruptFiles=true")
# Frames of a stack in which a file is read; or none: Java leaves out those of an index that is
# often wrong, and in a task only decoders have such.
_READERS = (r"at org\.apache\.(parquet\.|hadoop\.io\.compress\.|spark\.sql\.execution\.datasources"
            r"\.(FileScanRDD|\w+\.\w*Reader))"
            r"|Lost task [^\n]*(ArrayIndexOutOfBounds|NegativeArraySize)Exception")  # fmt: skip
# Where Python failed on a worker: the last line of its stack, which names the exception.
_PYTHON = re.compile(r"PythonException.*^(?!org\.|java)(?:\w+\.)*(\w+(?:Error|Exception))\b",
                     re.S | re.M)  # fmt: skip
# What it names that is of the machine it runs on, and not of ours.
_OF_MACHINE = ("OSError", "PermissionError", "FileNotFoundError", "MemoryError",
               "_ArrayMemoryError", "ModuleNotFoundError", "PySparkImportError",
               "PySparkRuntimeError")  # fmt: skip
_DELTA = re.compile(r"(?:[\w.]+: )?(\[DELTA_\w+\][^\n]{,300})")
_GONE = "the JVM is gone"
# The first that fits, from the special to the general.
_KINDS = (
    _Kind(r"(?P<what>No module named '[\w.]+'|\[PACKAGE_NOT_INSTALLED\][^\n]{,99})",
          "a worker's Python lacks a package: {what}",
          "install dsir-spark there, or start by scripts/submit.sh"),
    _Kind(r'(?P<what>\[PYTHON_VERSION_MISMATCH\][^\n,]{,150}|Cannot run program "[^"]*")',
          "a worker has no such Python as the driver: {what}",
          "name one that all machines have by PYSPARK_PYTHON"),
    _Kind(r"(?P<what>ExecutorLostFailure[^\n]{1,200}|Python worker exited unexpectedly|Job \d+ "
          r"cancelled|SparkContext was shut down)",
          "a job was ended from outside: {what}", "logs say why; if memory was too small, give "
          "fewer cores, or on a cluster --conf spark.executor.memoryOverhead=4g"),
    _Kind(r'(?P<what>No FileSystem for scheme "?[\w-]+"?|Class [\w.]+FileSystem not found)',
          "Spark lacks what reads such a store: {what}", "give its package of the version of "
          "Spark's Hadoop, and its scheme, e.g. s3a: and "
          "--conf spark.jars.packages=org.apache.hadoop:hadoop-aws:VERSION"),
    _Kind(r"(?P<what>java\.net\.(Connect|UnknownHost|NoRouteToHost)Exception: [^\n;]{1,199}"
          r"|failed to connect to all addresses|DNS resolution failed)",
          "a machine cannot be reached: {what}", "check its address, and the network"),
    _Kind(r"(?P<what>\[DELTA_(UNSUPPORTED_FEATURES_FOR_READ|INVALID_PROTOCOL_VERSION)\]"
          r"[^\n]{,200})", "a table asks for another Delta: {what}",
          "read it by the Delta that wrote it, or drop the feature there"),
    # (Our own expressions are no text that Spark parses, or do not fail.)
    _Kind(r"(?s:(?P<what>\[[A-Z_.]+\] (?:(?!SQLSTATE).){1,200})(?:(?!SQLSTATE).)*"
          r"(?:SQLSTATE: (?:22|P0)\w+|bypass this error\.)\s+== SQL)",
          "an expression fails for a row: {what}",
          "write one that holds for all rows, e.g. by try_cast or try_divide"),
    _Kind(r"TIMESTAMP\(NANOS", "has times in nanoseconds, which Spark does not read",
          "give --conf spark.sql.legacy.parquet.nanosAsLong=true, or write microseconds"),
    _Kind(r"(?P<what>\[INVALID_CONF_VALUE[^\n]{,200}|spark\.\S+ should be \w+, but was [^\n]{,80})",
          "a setting of Spark is wrong: {what}", "give another by --conf"),
    _Kind(r"(?i)Conflicting[ _](directory[ _]structures|partition[ _]column[ _]names)",
          "folders named key=value lie beside others with files, of no data maybe",
          "move those, or name the data by a pattern (without the columns of its folders)"),
    _Kind(r"No space left on device|Disk quota exceeded", "there is no space left on a disk",
          "make room, or name another folder with --conf spark.local.dir=FOLDER or --output"),
    _Kind(r"AccessControlException|Permission denied|AccessDenied", "access is denied",
          "ask for the right to read, or to write there"),
    _Kind(r"Relative path in absolute URI", "a file's name holds a colon, which Hadoop cannot read",
          "rename it"),
    _Kind(r"DELTA_CANNOT_MODIFY_APPEND_ONLY", "rows of the table may only be added to",
          "set its property delta.appendOnly to false, or give another --output"),
    _Kind(r"CANNOT_CREATE_LOG_PATH|ParentNotDirectory|NotDirectoryException|Read-only file system"
          r"|Mkdirs failed|FileAlreadyExists|DELTA_PATH_DOES_NOT_EXIST.*write",
          "no table can be made there",
          "a file is in the way, or the right to write is missing: give another --output"),
    _Kind(r"FileNotFoundException|FILE_NOT_EXIST|does not exist|NoSuchKey|DELTA_FILE_NOT_FOUND",
          "a file is gone, deleted while it was read or, of an older version of a table, by VACUUM",
          "run again on data that stands still"),
    _Kind(r"(?:COLUMN_ALREADY_EXISTS|Found duplicate column)(?:[^`]*?(?P<name> `[^`]*`))?",
          "two columns of a row are named{name}, in one spelling or in upper and lower case",
          "take one out; of two spellings --conf spark.sql.caseSensitive=true keeps both"),
    _Kind(r"native zStandard|native ?[Ss]nappy|CODEC_NOT_AVAILABLE|codec .*not available",
          "is compressed in a way that this Spark does not read", "unpack it, or use Spark 4.1"),
    _Kind(r"PARQUET_COLUMN_DATA_TYPE_MISMATCH|SchemaColumnConvertNotSupported|PARQUET_TYPE_ILLEGAL"
          r"|Illegal Parquet type|CONVERT", "has a column of another type than the files before it",
          "write all files with one schema"),
    _BROKEN,
    _Kind(r"ConcurrentAppend|ConcurrentDelete|ConcurrentModification|ConcurrentWrite"
          r"|MetadataChanged|ProtocolChanged|DELTA_CONCURRENT", "another run wrote the same table",
          "let one run end before the next begins"),
    _Kind(r"MemoryError|Java heap space", "memory is too small for this job",
          "give --conf spark.driver.memory=8g (SPARK_DRIVER_MEMORY) or smaller --num-buckets"),
    _Kind(_GONE, "Spark's process ended before its job did",
          "if its memory was too small, give --conf spark.driver.memory=8g (SPARK_DRIVER_MEMORY)"),
    _Kind(r"larger than max|RESOURCE_EXHAUSTED|message larger", "a message of Spark is too large",
          "give fewer --num-buckets, --match-steps or targets"),
)  # fmt: skip


def is_of_spark(error: BaseException) -> bool:
    """Was it raised by Spark, in a task or in its driver?"""
    roots = [kind.__module__.split(".")[0] for kind in type(error).__mro__]
    return not {"pyspark", "py4j", "grpc"}.isdisjoint(roots)


def told(error: BaseException) -> str | None:
    """The line for a failure that the user can put right; None for one that is ours.

    Words alone prove nothing: what Python raised, here or on a worker, counts only where it is of
    the system's, or of what a machine lacks.
    """
    messages = list(_messages(error))
    whole = "\n".join(messages)
    python = _PYTHON.search(whole)
    if not messages or (python is not None and python.group(1) not in _OF_MACHINE):
        return None
    kind = next((kind for kind in _KINDS if re.search(kind.pattern, whole)), None)
    if kind is None and "PythonException" not in whole and re.search(_READERS, whole):
        kind = _BROKEN  # readers trip over broken bytes in ways without a name of their own
    if kind is None:
        return None
    named = _FILE.search(next((m for m in messages if _FILE.search(m)), ""))
    where = named.group(1).rstrip(".:)]") if named else ""
    held = re.search(kind.pattern, whole)
    said = kind.said.format(**held.groupdict("")) if held else kind.said
    said = f"{where or 'a file'} {said}" if said.startswith(("has", "is ")) else said
    at = f" ({where})" if where and where not in said else ""
    return f"{' '.join(said.split())}{at}: {kind.remedy}"


def of_delta(error: BaseException) -> str | None:
    """What Delta says where it refuses a write, with the name that it has for it."""
    found = map(_DELTA.match, _messages(error))
    return next((said[1] for said in found if said), None)


def _messages(error: BaseException) -> Iterator[str]:
    """Messages of an exception and its causes, those of the JVM too, the outermost first.

    Only of those that Spark or the system raised.
    """
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            return
        java = getattr(seen, "java_exception", None)
        if java is None and (is_of_spark(seen) or isinstance(seen, OSError | MemoryError)):
            yield f"{type(seen).__name__}: {seen}"
            origin = getattr(seen, "_origin", None)  # of the JVM
            java = origin and origin.getCause()
        for _ in range(20):
            if java is None:
                break
            try:
                said, java = str(java.toString()), java.getCause()
            except Exception:  # nobody is there to ask
                said, java = _GONE, None
            yield said
        seen = seen.__cause__ or seen.__context__
