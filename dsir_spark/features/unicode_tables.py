"""What the running Python says of each code point, as one table of 32-bit words.

The contract is `str.lower` and `re`'s `\\w` and `\\s` of the running interpreter, so the tables are
asked of the interpreter itself and not shipped: a kernel that reads them cannot disagree with it.
Workers with another `unicodedata.unidata_version` would lower and split some texts differently,
which is why the model records that version.
"""

from __future__ import annotations

import functools
import re
import sys

import numpy as np
import numpy.typing as npt

# Layout of a word: bits 0-20 the lower-case code point, bits 21-22 the class of the lower-case
# character, bit 23 case-ignorable, bit 24 cased and not case-ignorable, bit 25 needs a
# special case.
LOWER_MASK = 0x1FFFFF
CLASS_SHIFT = 21
SPACE, WORD, OTHER = 0, 1, 2
SINGLE = 3  # a token by itself, in `cjk_table` only
IGNORABLE_BIT = 1 << 23
CASED_BIT = 1 << 24
SPECIAL_BIT = 1 << 25

CAPITAL_SIGMA = 0x3A3  # lower-cases by context: final sigma at the end of a word
CAPITAL_I_WITH_DOT = 0x130  # the one character that lower-cases to two: i and U+0307

# Characters that `wordpunct_cjk` makes tokens, first and last of each range: letters, marks and
# digits of the Unicode scripts Han, Hiragana, Katakana, Hangul and Thai, where words are not (or,
# in Korean, not finely enough) set apart. Punctuation that they share with others is left out.
# Combining marks of Thai, and of kana and Hangul in decomposed form, are tokens like the letters:
# a letter with its mark is a bigram.
CJK_RANGES = (
    (0x0E01, 0x0E3A), (0x0E40, 0x0E5B),  # Thai
    (0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97F), (0xAC00, 0xD7A3), (0xD7B0, 0xD7FF),
    (0xFFA0, 0xFFDC),  # Hangul
    (0x3041, 0x3096), (0x3099, 0x309F), (0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF),
    (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F),  # kana
    (0x2E80, 0x2FD5), (0x3005, 0x3005), (0x3007, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFD),  # Han
)  # fmt: skip
_SURROGATES = range(0xD800, 0xE000)


def _classes(text: str) -> npt.NDArray[np.uint32]:
    """Class of each character of `text` (uint32, shape (len(text),))."""
    out = np.full(len(text), OTHER, np.uint32)
    for pattern, value in ((r"\s+", SPACE), (r"\w+", WORD)):
        for match in re.finditer(pattern, text):
            out[match.start() : match.end()] = value
    return out


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _text(points: npt.NDArray[np.uint32]) -> str:
    return points.tobytes().decode("utf-32-le")


def _sigma_is_final(before: str, points: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """For each code point: does the text `<before><code point>SIGMA` end in a final sigma?"""
    # The line feed is neither cased nor case-ignorable: it keeps the probes apart.
    row = np.array([ord(c) for c in f"{before}.\u03a3\n"], np.uint32)
    probes = np.tile(row, (len(points), 1))
    probes[:, len(before)] = points
    lowered = _code_points(_text(probes).lower()).reshape(probes.shape)
    return np.asarray(lowered[:, -2] == 0x3C2)


@functools.cache
def table() -> npt.NDArray[np.uint32]:
    """The word of every code point (uint32, shape (0x110000,)); surrogates are of class OTHER."""
    points = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    points[[*_SURROGATES, CAPITAL_I_WITH_DOT]] = 0x0A
    lowered = _text(points).replace("\u03a3", "\u03c3").lower()
    if len(lowered) != len(points):
        raise RuntimeError("this Python lower-cases a further character to two: please report it")
    words = _code_points(lowered) | (_classes(lowered) << np.uint32(CLASS_SHIFT))

    cased = _sigma_is_final("", points)
    words[cased] |= CASED_BIT
    words[_sigma_is_final("a", points) & ~cased] |= IGNORABLE_BIT
    for c in _SURROGATES:
        words[c] = 0xFFFD | OTHER << CLASS_SHIFT
    words[CAPITAL_SIGMA] |= SPECIAL_BIT
    words[CAPITAL_I_WITH_DOT] = 0x69 | WORD << CLASS_SHIFT | CASED_BIT | SPECIAL_BIT
    words.setflags(write=False)
    return np.asarray(words, np.uint32)


@functools.cache
def cjk_table() -> npt.NDArray[np.uint32]:
    """`table()` with the characters of `CJK_RANGES` of class SINGLE."""
    words = table().copy()
    for first, last in CJK_RANGES:
        words[first : last + 1] |= SINGLE << CLASS_SHIFT
    words.setflags(write=False)
    return np.asarray(words, np.uint32)
