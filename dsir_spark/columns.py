"""Columns of the user's: naming one exactly, and what it must be.

A name may hold dots, blanks and backticks; an error names the option, the frame and what is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dsir_spark.errors import ColumnError

_STRINGS = (T.StringType, T.VarcharType, T.CharType)


def quoted(name: str) -> Column:
    """The column of exactly this name, dots and blanks included."""
    return F.col("`" + name.replace("`", "``") + "`")


def check_text_column(df: DataFrame, name: str, owner: str) -> None:
    """Raise a `ColumnError` unless `df` has a string column of this name."""
    _check_type(df, name, owner, "text_column", _STRINGS, "of type string")


def check_column(df: DataFrame, name: str, owner: str, option: str) -> None:
    """Raise a `ColumnError` that lists the columns there are unless `df` has this one."""
    if name not in df.columns:
        raise ColumnError(
            f"{option} {name!r} is not a column of {owner}; columns are {', '.join(df.columns)}"
        )


def check_id_column(df: DataFrame, name: str, owner: str) -> None:
    """Raise a `ColumnError` unless `df` has an id column of string or integer type."""
    kinds = (*_STRINGS, T.IntegralType)
    _check_type(df, name, owner, "id_column", kinds, "of string or integer type")


def check_size_column(df: DataFrame, name: str, owner: str) -> None:
    """Raise a `ColumnError` unless `df` has a numeric column of this name."""
    _check_type(df, name, owner, "size_column", (T.NumericType,), "numeric")


def _check_type(
    df: DataFrame, name: str, owner: str, option: str, kinds: tuple[type, ...], said: str
) -> None:
    check_column(df, name, owner, option)
    found = df.schema[name].dataType
    if not isinstance(found, kinds):
        raise ColumnError(
            f"{option} {name!r} of {owner} must be {said}; "
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
