"""Columns: the names that the tables have, naming one of the user's exactly, and what it must be.

A user's name may hold dots, blanks and backticks; an error names the option, the frame and what is
there.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from pyspark.errors import AnalysisException, ParseException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark.errors import ColumnError

LOG_WEIGHT = "log_weight"  # log importance weight, nats (double); null where the text is null
LOG_ODDS = "log_odds"  # of the target against raw by a classifier, nats (double)
PROBABILITY = "probability"  # that of these log odds (double)
NUM_TOKENS = "num_tokens"  # tokens of the document (bigint); null where the text is null
TARGET = "target"  # name of the target that a document was selected for (string)
TEXT_HASH = "text_hash"  # of the text after folding case and blanks (struct of two bigints)
QUALITY = ("most_frequent", "informative", "digits")  # `wordpunct` tokens (bigint)
NUM_WORDPUNCT = "num_wordpunct"  # all of them (bigint), where `num_tokens` are of another tokenizer
CONTAMINATED_BY = "contaminated_by"  # id of a text that the document shares an n-gram with (string)
CONTENT_ID = "content_id"  # the id that is made from the text where the data has none (string)
CHUNK_ID = "chunk_id"  # the document's id, #, the chunk's number (string)
CHUNK_COLUMNS = (CHUNK_ID, "chunk", "num_chunks", "chunk_start", "chunk_end")
COPIES = "copies"  # how often a document is selected (int)
NUM_CHUNKS_SELECTED = "num_selected_chunks"  # of a whole document (bigint)

_STRINGS = (T.StringType, T.VarcharType, T.CharType)
# What reads the clock, which Spark takes for constants: calls as it writes them, and words of SQL;
# texts, where they become dates or times: at once, or as Spark writes it.
_CLOCK = re.compile(r"\b(now|current_date|current_time(stamp)?|localtime(stamp)?)\(")
_CLOCK_WORDS = re.compile(r"(?i)\b(now|curdate|current_(date|time)|localtime|unix_timestamp)")
_DAYS = r"\s*(now|today|tomorrow|yesterday)\b"
_DAY = re.compile(rf"(?i)['\"]{_DAYS}")
_TYPED = re.compile(rf"(?i)\b(?:date|timestamp(?:_[nl]tz)?)\s*['\"]{_DAYS}")
_CAST = re.compile(rf"(?i)(?:cast|to_date|to_timestamp\w*)\({_DAYS}[^()#,]*"
                   r"(?:,| as (?:date|timestamp))")  # fmt: skip
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]*`", re.DOTALL)


def column_name(target: str | None) -> str:
    """`log_weight`, or `log_weight_<target>` where targets are separate."""
    return LOG_WEIGHT if target is None else f"{LOG_WEIGHT}_{target}"


def classifier_columns(target: str | None) -> tuple[str, str]:
    """`log_odds` and `probability`, or these with `_<target>`: what a classifier says."""
    end = "" if target is None else f"_{target}"
    return LOG_ODDS + end, PROBABILITY + end


def match_columns(target: str | None) -> tuple[str, str]:
    """`match_key` and `match_score`, or these with `_<target>`: whole numbers that method match
    ranks by, and the mean score under the last gradient (double both)."""
    end = "" if target is None else f"_{target}"
    return f"match_key{end}", f"match_score{end}"


def quality_columns(tokenizer: str) -> tuple[str, ...]:
    """What the quality rule goes by beside `num_tokens`, which tell its length if `wordpunct`."""
    return QUALITY if tokenizer == "wordpunct" else (*QUALITY, NUM_WORDPUNCT)


def quoted(name: str) -> Column:
    """The column of exactly this name, dots and blanks included."""
    return F.col("`" + name.replace("`", "``") + "`")


def found(df: DataFrame, name: str) -> str | None:
    """The column that Spark finds by a name, as `df` spells it; None where there is none."""
    if name in df.columns:
        return name
    alike = [c for c in df.columns if c.lower() == name.lower()]
    exact = setting(df.sparkSession, "spark.sql.caseSensitive").lower() == "true"
    return alike[0] if len(alike) == 1 and not exact else None


def distinct(df: DataFrame, names: Sequence[str]) -> list[str]:
    """The names as given; of those by which Spark finds one column, the first."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(found(df, name) or name, name)
    return list(first.values())


def setting(spark: SparkSession, name: str) -> str:
    """A setting of the session; empty where it has none, or does not tell.

    Databricks serverless refuses to be asked for most, whatever default is given.
    """
    try:
        return spark.conf.get(name, "") or ""
    except PySparkException:
        return ""


def hashable(df: DataFrame, name: str) -> Column:
    """An id column by which ids are hashed: whole numbers of any width as bigint.

    The hash depends on a number's width: an id must not change with the type it is read as.
    """
    kind = _type(df, name)
    if isinstance(kind, T.IntegralType):
        return quoted(name).cast("bigint")
    if isinstance(kind, T.DecimalType):  # unsigned of 64 bits come as decimal(20,0)
        bits = F.lit(Decimal(1 << 64))
        number = F.pmod(quoted(name), bits)
        return F.when(number >= bits / 2, number - bits).otherwise(number).cast("bigint")
    return quoted(name)


def wraps(df: DataFrame, name: str) -> bool:
    """May `hashable` order the ids of a column otherwise than they are?"""
    return isinstance(_type(df, name), T.DecimalType)


def comparable(df: DataFrame, name: str) -> Column:
    """A column by which rows are copies: strings and whole numbers, or structs of them, as they
    are, of all else a hash, so that whatever compares them finds the same rows equal."""
    plain = (*_STRINGS, T.IntegralType, T.StructType)
    as_it_is = all(isinstance(kind, plain) for kind in types_within(_type(df, name)))
    return quoted(name) if as_it_is else hashed(df, name)


def hashed(df: DataFrame, name: str) -> Column:
    """A hash of 128 bits of a column (struct of two bigints); null for null."""
    value = quoted(name)
    said = [value]
    if isinstance(_type(df, name), T.ArrayType | T.StructType):
        # Spark's hashes pass over nulls, and over where an array ends.
        said.append(F.to_json(F.struct(value), {"ignoreNullFields": "false"}))
    halves = {"high": F.xxhash64(*said), "low": F.xxhash64(F.lit(1), *said)}
    # Null by itself too: Arrow views no null as a struct of fields that are never null.
    own = [F.when(value.isNotNull(), half).alias(n) for n, half in halves.items()]
    return F.when(value.isNotNull(), F.struct(*own))


def summable(size: Column) -> Column:
    """A size, rounded up (bigint); null where it is none that can be summed."""
    # Any number can be a double, which tells whole ones apart up to 2^53; a NaN is the greatest.
    number = size.cast("double")
    return F.when((number >= 0) & (number < F.lit(2.0**53)), F.ceil(size).cast("bigint"))


def as_text(df: DataFrame, name: str) -> Column:
    """A column's values as strings; of bytes that are no UTF-8, their hexadecimal digits."""
    text = quoted(name).cast("string")
    if not isinstance(_type(df, name), (T.BinaryType, *_STRINGS)):
        return text
    value = text.cast("binary")  # a string may hold such bytes too: files are read as they are
    return F.when(F.encode(text, "UTF-8") == value, text).otherwise(F.hex(value))


def _type(df: DataFrame, name: str) -> T.DataType:
    return df.schema[str(found(df, name))].dataType


def types_within(kind: T.DataType) -> Iterator[T.DataType]:
    """A type and all types within it."""
    yield kind
    inner: list[T.DataType] = []
    if isinstance(kind, T.StructType):
        inner = [f.dataType for f in kind.fields]
    elif isinstance(kind, T.ArrayType):
        inner = [kind.elementType]
    elif isinstance(kind, T.MapType):
        inner = [kind.keyType, kind.valueType]
    for part in inner:
        yield from types_within(part)


def check_copies_column(df: DataFrame, name: str, owner: str, option: str) -> None:
    """Raise a `ColumnError` unless `df` has a column of this name whose values can be equal."""
    check_column(df, name, owner, option)
    kind = _type(df, name)
    # Spark compares these with nothing.
    if any(own.typeName() in ("map", "variant") for own in types_within(kind)):
        raise ColumnError(
            f"{option} {name!r} of {owner} must be of a type whose values can be equal; it is "
            f"{kind.simpleString()}: name another column, or a view that makes it a string"
        )


def check_expression(df: DataFrame, expression: Column | str, said: str) -> T.DataType:
    """The type of an expression over the columns of `df`.

    Parameters
    ----------
    said : how errors begin

    Raises
    ------
    ColumnError
        It does not hold for `df`, or changes from one reading to the next (`rand()`, `now()`).
    """
    try:
        # (Spark 3.5 parses at once, later ones when the schema is asked for.)
        column = F.expr(expression) if isinstance(expression, str) else expression
        # Under Connect, only the schema has it analysed.
        it = df.select(column.alias("it")).schema.fields[0]
        # Spark aggregates nothing that changes, and says so.
        df.agg(F.count(column)).schema  # noqa: B018
    except (AnalysisException, ParseException) as error:
        message = str(error).strip().splitlines()[0]
        if "NONDETERMINISTIC" in message or "nondeterministic" in message:
            message = "it is not deterministic, and every pass would see other rows"
        raise ColumnError(f"{said}: {message}") from None
    if call := _clock(df, expression, column):
        raise ColumnError(f"{said}: {call} is another at each pass: write the date itself")
    return it.dataType


def _clock(df: DataFrame, expression: Column | str, column: Column) -> str | None:
    """The call or the text by which an expression reads the clock, if it does.

    Spark's plan tells calls, in subqueries too, and texts that become dates; but texts have no
    quotes there. In the user's words they have, but what has no brackets may be a column.
    """
    worded = True
    if isinstance(expression, str):
        if typed := _TYPED.search(expression):
            return f"{typed[1]!r}"
        worded = _CLOCK_WORDS.search(_QUOTED.sub("", expression)) is not None
        if not worded and not _DAY.search(expression):
            return None
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        df.limit(0).select(column.alias("it")).explain("extended")
    plan = said.getvalue().partition("== Analyzed Logical Plan ==")[2]
    own = plan.partition("\n+- ")[0]  # without what `df` itself is made by
    if day := _CAST.search(own):
        return f"{day[1]!r}"
    call = _CLOCK.search(own) if worded else None
    return None if call is None else f"{call[1]}()"


def check_text_column(df: DataFrame, name: str, owner: str) -> None:
    """Raise a `ColumnError` unless `df` has a string column of this name."""
    _check_type(df, name, owner, "text_column", _STRINGS, "of type string")


def check_column(df: DataFrame, name: str, owner: str, option: str) -> None:
    """Raise a `ColumnError` that lists the columns there are unless `df` has this one."""
    if found(df, name) is None:
        raise ColumnError(
            f"{option} {name!r} is not a column of {owner}; columns are {', '.join(df.columns)}"
        )


def check_id_column(df: DataFrame, name: str, owner: str) -> None:
    """Raise a `ColumnError` unless `df` has an id column of string or integer type."""
    kinds = (*_STRINGS, T.IntegralType)
    _check_type(df, name, owner, "id_column", kinds, "of string or integer type")


def check_size_column(
    df: DataFrame, name: str, owner: str, option: str = "size_column"
) -> None:  # fmt: skip
    """Raise a `ColumnError` unless `df` has a numeric column of this name."""
    _check_type(df, name, owner, option, (T.NumericType,), "numeric")


def _check_type(
    df: DataFrame, name: str, owner: str, option: str, kinds: tuple[type, ...], said: str
) -> None:
    check_column(df, name, owner, option)
    kind = _type(df, name)
    whole = T.IntegralType in kinds and isinstance(kind, T.DecimalType) and kind.scale == 0
    if not whole and not isinstance(kind, kinds):
        raise ColumnError(
            f"{option} {name!r} of {owner} must be {said}; it is {kind.simpleString()}: name "
            "another column, or a view that casts it"
        )


def refuse_columns(df: DataFrame, names: Sequence[str], owner: str = "the data") -> None:
    """Raise a `ColumnError` if `df` has a column that would be added."""
    taken = {c.lower() for c in df.columns}
    clash = [n for n in names if n.lower() in taken]
    if clash:
        raise ColumnError(
            f"{owner} already has a column {', '.join(clash)}, which would be added: "
            "drop or rename it"
        )


def refuse_own_names(df: DataFrame, owner: str) -> None:
    """Raise a `ColumnError` if `df` has a column that is named as those made in passing are."""
    if own := [c for c in df.columns if c.lower().startswith("__dsir")]:
        raise ColumnError(
            f"{owner} has a column {', '.join(own)}: names that begin with __dsir are kept for "
            "columns made in passing: rename it"
        )
