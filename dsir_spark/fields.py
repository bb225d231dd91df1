"""What an option is: types that read texts, the line that says what was wrong, keywords of it.

Flags and YAML give texts, which a field's type reads: no other place knows the types.
"""

from __future__ import annotations

import datetime
import difflib
import inspect
import json
import numbers
import re
import reprlib
import textwrap
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import Self

from dsir_spark.errors import ConfigError

MAX = (1 << 63) - 1  # of Spark's bigint
_WRITTEN = {False: "no", True: "yes", None: "null"}  # what YAML 1.1 reads as these
_F = TypeVar("_F", bound=Callable[..., Any])
# Of values in messages: a line, whatever was given.
_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 2, 60, 60


def _number(value: Any) -> Any:
    """A text that is a number (`1e6`, `0.5`) as one; all else as it is."""
    for kind in (int, float) if isinstance(value, str) else ():
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _whole(value: Any) -> Any:
    """A number without a fraction as an int: 1e6 is a million."""
    value = _number(value)
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if integral or (isinstance(value, float) and value.is_integer()):
        value = int(value)
        if not -MAX - 1 <= value <= MAX:
            raise ValueError(f"{_short.repr(value)} has more than 64 bits")
    return value


def _text(value: Any) -> Any:
    """A text; numbers and dates mean theirs. YAML 1.1 reads the language code `no` as False."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is no text; write it in quotes: {_WRITTEN[value]!r}")
    return str(value) if isinstance(value, int | float | datetime.date) else value


def by_text(value: Any) -> Any:
    """A mapping by texts, see `_text`; all else as it is."""
    if not isinstance(value, Mapping):
        return value
    for key in value:
        if key is None or isinstance(key, bool):
            raise ValueError(f"the key {key} is no text; write it in quotes: {_WRITTEN[key]!r}")
    return {_text(key): v for key, v in value.items()}


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Text = Annotated[str, BeforeValidator(_text), Field(min_length=1)]
ByText = BeforeValidator(by_text)


def option(
    default: Any,
    text: str,
    values: str = "",
    *,
    commands: tuple[str, ...],
    needed: tuple[str, ...] = (),
    **bounds: Any,
) -> Any:
    """A field: its default and its help.

    Parameters
    ----------
    values : what is allowed, where the type does not say it
    commands : that take it
    needed : commands that cannot do without
    bounds : pydantic's
    """
    extra: dict[str, Any] = {"allowed": values, "commands": commands, "needed": needed}
    return Field(default, description=text, json_schema_extra=extra, **bounds)


class Options(BaseModel):
    """Frozen options; made by `checked`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def checked(cls, values: Mapping[str, Any], names: tuple[str, ...] | None = None) -> Self:
        """Options of these values, defaults for the rest.

        Parameters
        ----------
        names : of the targets, where they are known and not an option themselves

        Raises
        ------
        ConfigError
            Listing unknown options, all values out of range and all contradictions.
        """
        return cls._read(values, lambda options: options.contradictions(names))

    @classmethod
    def _read(cls, values: Mapping[str, Any], more: Callable[[Self], list[str]]) -> Self:
        """See `checked`; `more` are the problems of options that are right one by one."""
        fields = cls.model_fields
        found = _unknown([str(k) for k in values if k not in fields], fields)
        known = {k: v for k, v in values.items() if k in fields}
        wrong: dict[str, list[str]] = {}
        try:
            options = cls.model_validate(known)
        except ValidationError as error:
            wrong = _sentences(fields, known, error)
            options = cls.model_validate({k: v for k, v in known.items() if k not in wrong})
        found += [sentence for name in known for sentence in wrong.get(name, [])]
        # What follows from a default that stands in for a wrong value is not the user's mistake.
        names = re.compile("|".join(rf"\b{n.replace('_', '[_-]')}\b" for n in wrong) or "(?!)")
        found += [sentence for sentence in more(options) if not names.search(sentence)]
        if found:
            raise ConfigError.from_problems(found)
        return options

    def contradictions(self, names: tuple[str, ...] | None) -> list[str]:
        """What is wrong with options that are right one by one, a sentence each."""
        return []

    def part(self, kind: type[_O]) -> _O:
        """The options of another class that these contain."""
        return kind.model_construct(
            _fields_set=self.model_fields_set & set(kind.model_fields),
            **{name: getattr(self, name) for name in kind.model_fields},
        )

    def to_json(self) -> str:
        """Canonical JSON: equal options give equal strings."""
        return json.dumps(self.model_dump(), sort_keys=True)


_O = TypeVar("_O", bound=Options)


def _unknown(names: list[str], fields: Mapping[str, FieldInfo]) -> list[str]:
    near = {n: difflib.get_close_matches(n.replace("-", "_"), fields, 1) for n in names}
    found = [f"unknown option {n}; did you mean {close[0]}?" for n, close in near.items() if close]
    if other := [_short.repr(n)[1:-1] for n, close in near.items() if not close]:
        known = ", ".join(sorted(fields))
        found.append(f"unknown option {', '.join(other)}; options are {known}")
    return found


def _sentences(
    fields: Mapping[str, FieldInfo], values: Mapping[str, Any], error: ValidationError
) -> dict[str, list[str]]:
    """What is wrong with each option, a sentence for each key of a mapping that is wrong."""
    found: dict[str, dict[str | None, str]] = {}
    for e in error.errors():
        name, *place = map(str, e["loc"])
        value = values[name]
        inner = {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}
        key = next((p for p in place if p in inner), None)
        if e["type"] == "value_error":
            sentence = f"{name}: {str(e['msg']).removeprefix('Value error, ')}"
        else:
            got = _short.repr(value if key is None else inner[key])
            sentence = f"{name} must be {allowed(fields[name])}; got {got}"
            sentence += "" if key is None else f" for {key!r}"
        # A union tells what is wrong by each of its types: the first says it.
        found.setdefault(name, {}).setdefault(key, sentence)
    return {
        name: [s for key, s in told.items() if key is not None or len(told) == 1]
        for name, told in found.items()
    }


def extra(field: FieldInfo, name: str) -> Any:
    """`commands`, `needed` or `allowed` of a field."""
    return (field.json_schema_extra or {})[name]  # type: ignore[index]


def leaves(annotation: Any) -> list[Any]:
    """The words of a type's literals, and its types: `auto` and float, say."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return leaves(arguments[0])
    if origin is Literal:
        return list(arguments)
    if arguments and origin not in (dict, tuple):
        return [leaf for a in arguments for leaf in leaves(a)]
    return [] if annotation is type(None) else [origin or annotation]


def allowed(field: FieldInfo) -> str:
    """The sentence of a field's allowed values."""
    kinds = leaves(field.annotation)
    derived = "true or false" if kinds == [bool] else f"one of {', '.join(map(str, kinds))}"
    return str(extra(field, "allowed") or derived)


def default(field: FieldInfo) -> str:
    """The default as YAML has it; empty where there is none."""
    value = field.default
    return "" if value in (None, (), {}) else json.dumps(value).strip('"')


def takes(kind: type[Options]) -> Callable[[_F], _F]:
    """A function that takes the options of a class as keywords: its signature and docstring say so.

    The function has `**options`; in its docstring the line `{options}` becomes their numpydoc.
    """

    def wrap(function: _F) -> _F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        first = [p for p in own if p.kind is not p.KEYWORD_ONLY]
        keywords, lines = [], []
        for name, field in kind.model_fields.items():
            keywords.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
            )
            lines.append(f"{name} : {allowed(field)}, default {field.default!r}")
            lines += textwrap.wrap(str(field.description), 90, initial_indent="    ",
                                   subsequent_indent="    ")  # fmt: skip
        parameters = [*first, *keywords, *own[len(first) :]]
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        doc = inspect.getdoc(function) or ""
        function.__doc__ = doc.replace("{options}", "\n".join(lines))
        return function

    return wrap
