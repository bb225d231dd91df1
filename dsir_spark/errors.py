"""What went wrong, where, what was found, what is allowed, what to do: in one line.

Everything that a user can put right is a `DSIRError`; the command line prints its text and exits
with 2. Any other exception is ours and exits with 1.
"""

from __future__ import annotations

from collections.abc import Iterable


class DSIRError(Exception):
    """Base of all errors that the user can put right."""


class ConfigError(DSIRError, ValueError):
    """An option has a value that is not allowed, or options contradict each other."""

    @classmethod
    def from_problems(cls, problems: Iterable[str]) -> ConfigError:
        """All problems of a configuration in one error, so that one round puts them right."""
        return cls("; ".join(problems))


class ColumnError(DSIRError, KeyError):
    """A column is missing, of another type, or in the way."""

    # KeyError shows the repr of its argument; users read the sentence.
    __str__ = Exception.__str__


class DataError(DSIRError, ValueError):
    """The data cannot be selected from: empty, without tokens, or ids not unique."""


class TableError(DSIRError, ValueError):
    """A path or table is missing, unreadable, in the way, or belongs to something else."""


class SessionError(DSIRError, RuntimeError):
    """Spark cannot be started here: Java, packages or Delta's jars are missing."""


def in_range(name: str, allowed: str, got: object) -> str:
    """The sentence for an option outside its range."""
    return f"{name} must be {allowed}; got {got!r}"
