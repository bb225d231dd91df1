"""Compiling: numba's `njit` with a cache on disk that may be missing, broken or full."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

_log = logging.getLogger("dsir_spark")


def _sources() -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of each file of this wing; nothing where it comes out of a zip file."""
    found = [(path, path.stat()) for path in sorted(Path(__file__).parent.glob("*.py"))]
    return tuple((path.name, stat.st_mtime_ns, stat.st_size) for path, stat in found)


_SOURCES = _sources()


class _Cache(FunctionCache):
    """numba's cache of one function, where a file that cannot be used costs a compilation, no more.

    What is compiled holds code of other files too, while numba sees a change of the function's own
    file only: here a change of any file of the wing makes a new entry.
    """

    def _index_key(self, *of: Any) -> Any:
        return super()._index_key(*of), _SOURCES

    def load_overload(self, *of: Any) -> Any:
        try:
            return super().load_overload(*of)
        except Exception as error:  # of a file that was cut off: EOFError, UnpicklingError, ...
            _log.warning("compiled code is made anew: its cache cannot be read (%r)", error)
            self._attempt(self.flush)
            return None

    def save_overload(self, *of: Any) -> None:
        self._attempt(super().save_overload, *of)

    def _attempt(self, write: Callable[..., Any], *of: Any) -> None:
        try:
            write(*of)
        except Exception as error:  # a full disk, or a folder that has lost its rights
            _log.warning("compiled code is not kept: its cache cannot be written (%r)", error)


def jit(function: Callable[..., Any], inline: str = "never") -> Any:
    """The function, compiled by numba for other compiled functions to call.

    It lets other threads run, and it can allocate nothing: all arrays are its caller's. So nobody
    need count who uses an array (`_nrt`), which costs two calls an array wherever a function calls
    another one, and took more than half of all the time.
    """
    return njit(_nrt=False, nogil=True, inline=inline)(function)


# Into the functions that call it: for the few that are called for each character.
inlined = functools.partial(jit, inline="always")


def kernel(function: Callable[..., Any]) -> Any:
    """A compiled function for Python to call, ready when first called with arguments of some types.

    Its code, with that of all that it calls, is kept on disk: beside its file, in the user's cache
    folder, or in NUMBA_CACHE_DIR; where none of them can be written, each process compiles anew.
    """
    compiled = jit(function)
    try:
        compiled._cache = _Cache(function)
    except RuntimeError:  # no folder can be written, or the code comes out of a zip file
        _log.debug("no place to keep the compiled code of %s", function.__name__)
    return compiled
