"""Tokenizers that are not compiled: a Hugging Face file, or a function of the user's.

`tokenizer` is one of `NAMES`, which the kernels know; the path of a `tokenizer.json` (plain, or as
`hf:PATH`), read once and from then on represented by its content; or `module:function`, a function
of a text (str) that returns its tokens (list of str). A token of a Hugging Face file is a token id
in decimal digits, so that the n-gram of the ids 101 and 7592 is the text `101 7592`.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("wordpunct", "wordpunct_cjk", "bytes")
Splitter = Callable[[list[str]], list[list[str]]]
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_PROBE = "To be, or not to be: 42."


class TokenizerError(ValueError):
    """A tokenizer that cannot be had here, in one sentence that says what to do."""


def is_function(tokenizer: str) -> bool:
    """Is it the import path of a function?"""
    return not tokenizer.startswith("hf:") and _FUNCTION.fullmatch(tokenizer) is not None


def resolved(tokenizer: str) -> str:
    """The tokenizer without a path: of a Hugging Face file its content, as canonical JSON.

    Raises
    ------
    TokenizerError
        It is neither a name, nor a readable tokenizer file, nor an importable function.
    """
    if tokenizer in NAMES:
        return tokenizer
    if is_function(tokenizer):
        _function(tokenizer)
        return tokenizer
    if not tokenizer.startswith("{"):
        if not tokenizer.startswith("hf:") and not tokenizer.endswith(".json"):
            raise TokenizerError(_allowed(tokenizer))
        path = tokenizer.removeprefix("hf:")
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise TokenizerError(f"tokenizer {path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise TokenizerError(f"tokenizer {path} is not a JSON file: {error}") from None
        tokenizer = json.dumps(content, sort_keys=True, ensure_ascii=False)
    _hugging_face(tokenizer)
    return tokenizer


def refuse_function(tokenizer: str, owner: str) -> None:
    """Raise a `TokenizerError` if the tokenizer is a function: code that somebody else may name."""
    if is_function(tokenizer):
        raise TokenizerError(
            f"{owner} {tokenizer} is a function, whose module would be imported and run here: if "
            "you trust it, give --allow-functions (allow_functions=True)"
        )


def problems(tokenizer: str, functions: bool) -> list[str]:
    """What is wrong with the tokenizer, found by loading it; a sentence, or none.

    functions : may it be one?
    """
    try:
        if not functions:
            refuse_function(tokenizer, "tokenizer")
        resolved(tokenizer)
    except TokenizerError as error:
        return [str(error)]
    return []


def shown(tokenizer: str) -> str:
    """The tokenizer in a few characters, for messages."""
    return tokenizer if len(tokenizer) < 80 else f"a tokenizer file of {len(tokenizer)} characters"


@functools.lru_cache(maxsize=4)
def splitter(tokenizer: str) -> Splitter:
    """Texts to lists of tokens by a resolved tokenizer; loaded once a process."""
    if is_function(tokenizer):
        function = _function(tokenizer)
        return lambda texts: [_checked(tokenizer, function(text)) for text in texts]
    encoder = _hugging_face(tokenizer)

    def split(texts: list[str]) -> list[list[str]]:
        found = encoder.encode_batch(texts, add_special_tokens=False)
        return [[str(i) for i in encoding.ids] for encoding in found]

    return split


def _allowed(got: object) -> str:
    return (
        f"tokenizer must be one of {', '.join(NAMES)}, the path of a Hugging Face tokenizer.json "
        f"(or hf:PATH), or a function as module:function; got {got!r}"
    )


def _checked(name: str, found: Any) -> list[str]:
    if isinstance(found, list) and all(isinstance(token, str) for token in found):
        return found
    raise TokenizerError(f"tokenizer {name} must return a list of str; it returned {found!r:.80}")


def _function(name: str) -> Callable[[str], list[str]]:
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise TokenizerError(
            f"tokenizer {name} cannot be imported ({type(error).__name__}: {error}): the module "
            "must be importable on the driver and on every worker"
        ) from None
    if not callable(function):
        kind = type(function).__name__
        raise TokenizerError(f"tokenizer {name} is not a function; it is a {kind}")
    try:
        found = function(_PROBE)
    except Exception as error:
        raise TokenizerError(
            f"tokenizer {name} fails on {_PROBE!r} ({type(error).__name__}: {error})"
        ) from None
    _checked(name, found)
    return function  # type: ignore[no-any-return]


def _hugging_face(content: str) -> Any:
    # Spark runs a Python worker a core already, and threads of tokenizers do not survive a fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tokenizers import Tokenizer  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise TokenizerError(
            "the tokenizer is a Hugging Face file, for which the package tokenizers is missing "
            "here: pip install 'dsir-spark[tokenizers]' on the driver and on every worker"
        ) from None
    try:
        found = Tokenizer.from_str(content)
    except Exception as error:
        raise TokenizerError(f"the file is no Hugging Face tokenizer: {error}") from None
    # A document's features are those of all of its text.
    found.no_truncation()
    found.no_padding()
    return found
