"""Columns of the user's: naming one exactly, and what it must be.

A name may hold dots, blanks and backticks; an error names the option, the frame and what is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark.errors import ColumnError


def quoted(name: str) -> Column:
    """The column of exactly this name, dots and blanks included."""
    return F.col("`" + name.replace("`", "``") + "`")


def check_text_column(df: DataFrame, name: str, owner: str) -> None:
    """Raise a `ColumnError` unless `df` has a string column of this name."""
    check_column(df, name, owner, "text_column")
    found = df.schema[name].dataType
    if not isinstance(found, T.StringType | T.VarcharType | T.CharType):
        raise ColumnError(
            f"text_column {name!r} of {owner} must be of type string; "
            f"it is {found.simpleString()}: cast it or name another column"
        )


def check_column(df: DataFrame, name: str, owner: str, option: str) -> None:
    """Raise a `ColumnError` that lists the columns there are unless `df` has this one."""
    if name not in df.columns:
        raise ColumnError(
            f"{option} {name!r} is not a column of {owner}; columns are {', '.join(df.columns)}"
        )


def check_id_column(df: DataFrame, name: str, owner: str) -> None:
    """Raise a `ColumnError` unless `df` has an id column of string or integer type."""
    check_column(df, name, owner, "id_column")
    found = df.schema[name].dataType
    if not isinstance(found, T.StringType | T.VarcharType | T.CharType | T.IntegralType):
        raise ColumnError(
            f"id_column {name!r} of {owner} must be of string or integer type; "
            f"it is {found.simpleString()}: cast it or name another column"
        )


def check_size_column(df: DataFrame, name: str, owner: str) -> None:
    """Raise a `ColumnError` unless `df` has a numeric column of this name."""
    check_column(df, name, owner, "size_column")
    found = df.schema[name].dataType
    if not isinstance(found, T.NumericType):
        raise ColumnError(
            f"size_column {name!r} of {owner} must be numeric; "
            f"it is {found.simpleString()}: cast it or name another column"
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
