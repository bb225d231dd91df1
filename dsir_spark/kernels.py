"""From UTF-8 bytes to n-gram buckets, and from buckets to sums: plain loops on NumPy arrays.

One pass over a document lower-cases and splits a block of its bytes into `scratch`, where each
token stands behind one blank, so that every n-gram is a contiguous slice of bytes; hashes each
slice to a bucket; and hands the buckets to the consumer (`count`, `score` or `collect`). Scratch
memory is bounded by the block and the longest run of `ngrams` tokens, not by the document.

N-grams come in one order, whatever the batch: token i = 0, 1, ..., and for each i the n-grams that
end at token i, n = 1, 2, .... Floating-point sums follow that order, so a weight has the same bits
wherever it is computed (fastmath stays off).

Loops are plain, but for what processors do to many numbers or bytes at once and no loop says well:
that is written in the compiler's IR (`intrinsic`), for vectors of one width on all of them.

Only NumPy and numba here: no Arrow, no Spark, no str.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic, overload, register_jitable

from dsir_spark.unicode_tables import (
    CASED_BIT,
    CLASS_SHIFT,
    IGNORABLE_BIT,
    LOWER_MASK,
    OTHER,
    SINGLE,
    SPACE,
    SPECIAL_BIT,
    WORD,
)

XXHASH64, SHA256 = 0, 1
COUNT, SCORE, COLLECT, FACTS = 0, 1, 2, 3
# How a document's bytes are split: by the classes of its characters; each byte a token; or a list
# of tokens that are there already, each behind the byte 0xFF, which UTF-8 does not have.
BY_CLASS, BY_BYTE, LISTED = 0, 1, 2

_BLOCK = 16_384  # bytes of text between two flushes: scratch stays in the first-level cache
_GROWTH = 4  # bytes of scratch per byte of text at most: an invalid byte becomes a blank and U+FFFD
_CHUNKS = 32  # times 64 bytes of ASCII classified at once
_BUCKETS_AT_ONCE = 512  # n-grams hashed at once: their words stay in the first-level cache
_SHORT_RUN = 8  # bytes of ASCII between other text that are read one by one
_CACHE_BITS = 18  # slots of the sha256 cache, 64 bytes each
_CACHE_KEY = 32  # n-grams longer than this are hashed afresh

_SIGMA, _FINAL_SIGMA = 0x3A3, 0x3C2
_REPLACEMENT = 0xFFFD

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_PRIMES = (_P1, _P2, _P3, _P4, _P5)
_SEED = np.uint64(42)  # Spark SQL's xxhash64


def _jit(**options: Any) -> Callable[[Any], Any]:
    """`njit` with an on-disk cache where one can be written, without one elsewhere.

    numba refuses `cache=True` at import when neither the package folder nor the home folder is
    writable, or when the code comes out of a zip file.
    """

    def wrap(function: Any) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:
            return njit(**options)(function)

    return wrap


@intrinsic  # type: ignore[untyped-decorator]
def _borrowed(typingctx: Any, array: Any) -> Any:
    """The same array, which does not keep its memory alive.

    Counting who uses an array costs two locked instructions at each call that it is passed to: a
    fifteenth of all the time on documents of 300 tokens. The owner must be used after the last use
    of what is borrowed: see `_alive`.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(array)(context, builder, args[0])
        view.meminfo = ir.Constant(view.meminfo.type, None)
        return view._getvalue()

    return array(array), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _alive(typingctx: Any, array: Any) -> Any:
    """Nothing; an array that is passed here lives until here."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_dummy_value()

    return types.none(array), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _load64(typingctx: Any, array: Any, index: Any) -> Any:
    """Eight bytes from array[index] on as a little-endian uint64; no bounds check."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(64).as_pointer())
        value = builder.load(pointer)
        value.align = 1
        return value

    return types.uint64(array, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typingctx: Any, rows: Any, row: Any) -> Any:
    """Ask for the cache line of rows[row], of a contiguous array of 64-byte rows."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        at = builder.mul(args[1], ir.Constant(ir.IntType(64), 8))
        pointer = builder.bitcast(builder.gep(data, [at]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, flag, flag, flag])
        name = "llvm.prefetch.p0"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        read, near, data_cache = ir.Constant(flag, 0), ir.Constant(flag, 3), ir.Constant(flag, 1)
        builder.call(function, [pointer, read, near, data_cache])
        return context.get_dummy_value()

    return types.none(rows, types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _trailing_zeros(typingctx: Any, x: Any) -> Any:
    """Zero bits below the lowest one of a uint64; 64 of 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _hidden(typingctx: Any, number: Any) -> Any:
    """A uint64 of which the optimiser knows nothing.

    It makes two products of a constant and a number whose bits are rotated afterwards.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = ir.IntType(64)
        return builder.call(ir.InlineAsm(ir.FunctionType(one, [one]), "", "=r,0"), args)

    return types.uint64(types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _ones(typingctx: Any, x: Any) -> Any:
    """One bits of a uint64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _high64(typingctx: Any, data: Any, at: Any) -> Any:
    """Which of the 64 bytes from data[at] on are not ASCII: a uint64, bit i for byte i.

    Apart from `_classify64`, which is called in a branch that depends on it: the compiler moves
    masks of its own accord to where they are used, and moves them bit by bit.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.VectorType(ir.IntType(8), 64)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        text = builder.load(builder.bitcast(builder.gep(data, [args[1]]), wide.as_pointer()))
        text.align = 1
        high = builder.icmp_unsigned(">=", text, ir.Constant(wide, [0x80] * 64))
        return builder.bitcast(high, ir.IntType(64))

    return types.uint64(data, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _classify64(typingctx: Any, data: Any, at: Any, lowered: Any, to: Any) -> Any:
    """Lower-case 64 ASCII bytes from data[at] on into lowered[to:], blanks as 0x20; tell classes.

    Returns two uint64, bit i for byte i: letter, digit or _; blank. One vector operation each, of
    whatever width the processor has; no bounds check.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.VectorType(ir.IntType(8), 64)

        def array_of(i: int) -> Any:
            return context.make_array(signature.args[i])(context, builder, args[i]).data

        def constant(value: int) -> Any:
            return ir.Constant(wide, [value] * 64)

        def between(low: int, high: int, text: Any) -> Any:
            return builder.icmp_unsigned(
                "<=", builder.sub(text, constant(low)), constant(high - low)
            )

        def mask(bits: Any) -> Any:
            return builder.bitcast(bits, ir.IntType(64))

        source = builder.bitcast(builder.gep(array_of(0), [args[1]]), wide.as_pointer())
        text = builder.load(source)
        text.align = 1
        lower = builder.select(between(0x41, 0x5A, text), builder.or_(text, constant(0x20)), text)
        word = builder.or_(between(0x61, 0x7A, lower), between(0x30, 0x39, text))
        word = builder.or_(word, builder.icmp_unsigned("==", text, constant(0x5F)))
        blank = builder.or_(between(0x09, 0x0D, text), between(0x1C, 0x20, text))
        plain = builder.select(blank, constant(0x20), lower)
        place = builder.gep(array_of(2), [args[3]])
        store = builder.store(plain, builder.bitcast(place, wide.as_pointer()))
        store.align = 1
        masks = [mask(bits) for bits in (word, blank)]
        return context.make_tuple(builder, signature.return_type, masks)

    returns = types.UniTuple(types.uint64, 2)
    return returns(data, types.int64, lowered, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _copy64(typingctx: Any, source: Any, at: Any, target: Any, to: Any) -> Any:
    """target[to : to + 64] = source[at : at + 64]; no bounds check."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.VectorType(ir.IntType(8), 64).as_pointer()
        pointers = []
        for i in (0, 2):
            data = context.make_array(signature.args[i])(context, builder, args[i]).data
            pointers.append(builder.bitcast(builder.gep(data, [args[i + 1]]), wide))
        value = builder.load(pointers[0])
        value.align = 1
        store = builder.store(value, pointers[1])
        store.align = 1
        return context.get_dummy_value()

    return types.none(source, types.int64, target, types.int64), codegen


# Round constants of SHA-256 (FIPS 180-4, 4.2.2).
_K = np.array(
    """428a2f98 71374491 b5c0fbcf e9b5dba5 3956c25b 59f111f1 923f82a4 ab1c5ed5
       d807aa98 12835b01 243185be 550c7dc3 72be5d74 80deb1fe 9bdc06a7 c19bf174
       e49b69c1 efbe4786 0fc19dc6 240ca1cc 2de92c6f 4a7484aa 5cb0a9dc 76f988da
       983e5152 a831c66d b00327c8 bf597fc7 c6e00bf3 d5a79147 06ca6351 14292967
       27b70a85 2e1b2138 4d2c6dfc 53380d13 650a7354 766a0abb 81c2c92e 92722c85
       a2bfe8a1 a81a664b c24b8b70 c76c51a3 d192e819 d6990624 f40e3585 106aa070
       19a4c116 1e376c08 2748774c 34b0bcb5 391c0cb3 4ed8aa4a 5b9cca4f 682e6ff3
       748f82ee 78a5636f 84c87814 8cc70208 90befffa a4506ceb bef9a3f7 c67178f2""".split()
)
_K = np.array([int(k, 16) for k in _K], np.uint32)
_H0 = np.array(
    [
        0x6A09E667,
        0xBB67AE85,
        0x3C6EF372,
        0xA54FF53A,
        0x510E527F,
        0x9B05688C,
        0x1F83D9AB,
        0x5BE0CD19,
    ],
    np.uint32,
)


@intrinsic  # type: ignore[untyped-decorator]
def _sha256_short(typingctx: Any, buf: Any, start: Any, length: Any) -> Any:
    """The 8 words of sha256(buf[start : start + length]), for length <= 55, each as a uint64.

    One block by the instructions of x86, which take four rounds in two steps; reads 64 bytes. The
    halves of the state are (f, e, b, a) and (h, g, d, c), lowest lane first, as they want it.
    """
    four = ir.VectorType(ir.IntType(32), 4)
    bytes16 = ir.VectorType(ir.IntType(8), 16)
    i64 = ir.IntType(64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def call(name: str, *operands: Any) -> Any:
            kind = ir.FunctionType(four, [four] * len(operands))
            function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
            return builder.call(function, operands)

        def shuffle(a: Any, b: Any, *order: int) -> Any:
            lanes = ir.VectorType(ir.IntType(32), len(order))
            return builder.shuffle_vector(a, b, ir.Constant(lanes, list(order)))

        def splat(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(bytes16, ir.Undefined), value,
                                         ir.Constant(ir.IntType(32), 0))  # fmt: skip
            return shuffle(one, one, *[0] * 16)

        def words(i: int) -> Any:
            """Message words 4i to 4i + 3: text, the byte 0x80, zeros; big-endian."""
            at = builder.add(args[1], ir.Constant(i64, 16 * i))
            loaded = builder.load(builder.bitcast(builder.gep(data, [at]), bytes16.as_pointer()))
            loaded.align = 1
            lanes = ir.Constant(bytes16, list(range(16 * i, 16 * i + 16)))
            zero = ir.Constant(bytes16, [0] * 16)
            end = ir.Constant(bytes16, [0x80] * 16)
            text = builder.select(builder.icmp_unsigned("<", lanes, size), loaded, zero)
            text = builder.select(builder.icmp_unsigned("==", lanes, size), end, text)
            swapped = shuffle(text, text, *[j ^ 3 for j in range(16)])
            return builder.bitcast(swapped, four)

        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        size = splat(builder.trunc(args[2], ir.IntType(8)))
        w = [words(i) for i in range(4)]
        bits = builder.shl(builder.trunc(args[2], ir.IntType(32)), ir.Constant(ir.IntType(32), 3))
        w[3] = builder.insert_element(w[3], bits, ir.Constant(ir.IntType(32), 3))
        initial = [int(h) for h in _H0]
        feba = ir.Constant(four, [initial[j] for j in (5, 4, 1, 0)])
        hgdc = ir.Constant(four, [initial[j] for j in (7, 6, 3, 2)])
        first, second = feba, hgdc
        for t in range(16):
            if t >= 4:
                shifted = shuffle(w[t - 2], w[t - 1], 1, 2, 3, 4)
                partial = builder.add(call("llvm.x86.sha256msg1", w[t - 4], w[t - 3]), shifted)
                w.append(call("llvm.x86.sha256msg2", partial, w[t - 1]))
            k = ir.Constant(four, [int(k) for k in _K[4 * t : 4 * t + 4]])
            message = builder.add(w[t], k)
            hgdc = call("llvm.x86.sha256rnds2", hgdc, feba, message)
            feba = call("llvm.x86.sha256rnds2", feba, hgdc, shuffle(message, message, 2, 3, 0, 0))
        feba, hgdc = builder.add(feba, first), builder.add(hgdc, second)
        state = [
            builder.zext(builder.extract_element(half, ir.Constant(ir.IntType(32), lane)), i64)
            for half, lane in ((feba, 3), (feba, 2), (hgdc, 3), (hgdc, 2),
                               (feba, 1), (feba, 0), (hgdc, 1), (hgdc, 0))
        ]  # fmt: skip
        return context.make_tuple(builder, signature.return_type, state)

    return types.UniTuple(types.uint64, 8)(buf, types.int64, types.int64), codegen


# `_round` and `_finish` are written once and run twice: numba compiles them for one uint64, and
# Python runs them on `_Lanes` to write the same steps for `_WIDTH` numbers. A processor with
# narrower vectors takes a wide one in parts: while one part waits for a product, the others go on.
# Where vectors hold 4 numbers, 16 at once were a tenth faster than 8, and 32 no faster than 16.
_WIDTH = 16
_BEYOND = 2 * _WIDTH  # starts that vectors may read beyond the last one
_WIDE = ir.VectorType(ir.IntType(64), _WIDTH)
_LANE = ir.IntType(32)


def _splat(builder: Any, value: Any) -> Any:
    """`_WIDTH` times the same value, in compiler IR."""
    wide = ir.VectorType(value.type, _WIDTH)
    one = builder.insert_element(ir.Constant(wide, ir.Undefined), value, ir.Constant(_LANE, 0))
    order = ir.Constant(ir.VectorType(_LANE, _WIDTH), [0] * _WIDTH)
    return builder.shuffle_vector(one, one, order)


def _lanes_at(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Pointer to the lanes array[index : index + `_WIDTH`] of an array of 64-bit numbers."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _WIDE.as_pointer())


class _Lanes:
    """`_WIDTH` numbers of 64 bits in compiler IR, with Python's operators."""

    def __init__(self, builder: Any, value: Any, factors: dict[int, Any]) -> None:
        self.builder, self.value, self.factors = builder, value, factors

    def _new(self, value: Any) -> _Lanes:
        return _Lanes(self.builder, value, self.factors)

    def _of(self, other: Any) -> Any:
        return other.value if isinstance(other, _Lanes) else self.constant(other)

    @staticmethod
    def constant(number: Any) -> Any:
        return ir.Constant(_WIDE, [int(number)] * _WIDTH)

    def __add__(self, other: Any) -> _Lanes:
        return self._new(self.builder.add(self.value, self._of(other)))

    def __xor__(self, other: Any) -> _Lanes:
        return self._new(self.builder.xor(self.value, self._of(other)))

    def __or__(self, other: Any) -> _Lanes:
        return self._new(self.builder.or_(self.value, self._of(other)))

    def __and__(self, other: Any) -> _Lanes:
        return self._new(self.builder.and_(self.value, self._of(other)))

    def __lshift__(self, bits: Any) -> _Lanes:
        return self._new(self.builder.shl(self.value, self._of(bits)))

    def __rshift__(self, bits: Any) -> _Lanes:
        return self._new(self.builder.lshr(self.value, self._of(bits)))

    def __mul__(self, number: Any) -> _Lanes:
        return self._new(self.builder.mul(self.value, self.factors[int(number)]))


def _where(condition: Any, a: Any, b: Any) -> Any:
    return a._new(a.builder.select(condition, a.value, b.value))


def _at_least(x: Any, number: Any) -> Any:
    return x.builder.icmp_signed(">=", x.value, x.constant(number))


@overload(_where)
def _where_one(condition, a, b):
    return lambda condition, a, b: a if condition else b


@overload(_at_least)
def _at_least_one(x, number):
    return lambda x, number: x >= np.uint64(number)


@register_jitable
def _rotl(x, r):
    return (x << np.uint64(r)) | (x >> np.uint64(64 - r))


@register_jitable
def _round(h, word):
    """State of XXH64 after eight more bytes."""
    return _rotl(h ^ (_rotl(word * _P2, 31) * _P1), 27) * _P1 + _P4


@register_jitable
def _finish(h, tail, length):
    """XXH64 of the state after all whole words, and of the word that the rest stands in.

    The last 0-7 bytes are folded with selects rather than loops: token lengths are random, and a
    mispredicted branch costs more than the arithmetic it saves.
    """
    four = _at_least(length & np.uint64(4), 4)
    step = _rotl(h ^ ((tail & np.uint64(0xFFFFFFFF)) * _P1), 23) * _P2 + _P3
    h = _where(four, step, h)
    tail = _where(four, tail >> np.uint64(32), tail)
    left = length & np.uint64(3)
    for byte in range(3):
        value = (tail >> np.uint64(8 * byte)) & np.uint64(0xFF)
        step = _rotl(h ^ (value * _P5), 11) * _P1
        h = _where(_at_least(left, byte + 1), step, h)
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@_jit()
def _stripes(buf, start, length, seed):
    """State of XXH64 after the whole 32-byte stripes of a slice of at least 32 bytes."""
    v1 = seed + _P1 + _P2
    v2 = seed + _P2
    v3 = seed
    v4 = seed - _P1
    for at in range(start, start + length - 31, 32):
        v1 = _rotl(v1 + _load64(buf, at) * _P2, 31) * _P1
        v2 = _rotl(v2 + _load64(buf, at + 8) * _P2, 31) * _P1
        v3 = _rotl(v3 + _load64(buf, at + 16) * _P2, 31) * _P1
        v4 = _rotl(v4 + _load64(buf, at + 24) * _P2, 31) * _P1
    h = _rotl(v1, 1) + _rotl(v2, 7) + _rotl(v3, 12) + _rotl(v4, 18)
    for v in (v1, v2, v3, v4):
        h = (h ^ (_rotl(v * _P2, 31) * _P1)) * _P1 + _P4
    return h


@_jit(inline="always")
def _xxhash64(buf, start, length, seed):
    """XXH64 of buf[start : start + length]; reads up to 8 bytes beyond it.

    Algorithm: Yann Collet's specification of XXH64, as Spark SQL's `xxhash64` of a string.
    """
    h = _stripes(buf, start, length, seed) if length >= 32 else seed + _P5
    h += np.uint64(length)
    at = start + (length & ~31)
    end = start + length
    while at + 8 <= end:
        h = _round(h, _load64(buf, at))
        at += 8
    return _finish(h, _load64(buf, at), np.uint64(length))


def _below(whole: int) -> Any:
    """A function that hashes `_WIDTH` n-grams of fewer than 8 * whole bytes at once.

    It takes (words, at, starts, token, back, gap, lengths, keys, j, primes) and hashes n-grams j
    to j + `_WIDTH` - 1. N-gram i ends with token `token` + i and begins `back` tokens before it;
    its bytes from 8 * k on are words[k][at + i] (uint64). lengths[i] and keys[i] (uint64) receive
    its length and hash. Returned are bits of the n-grams that are longer, whose keys are of no use.
    All steps are taken for all lengths and selected: no branch.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def hash_lanes(
        typingctx: Any, words: Any, at: Any, starts: Any, token: Any, back: Any, gap: Any,
        lengths: Any, keys: Any, j: Any, primes: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i64 = ir.IntType(64)

            def load(kind: Any, array: Any, index: Any) -> Any:
                value = builder.load(_lanes_at(context, builder, kind, array, index))
                value.align = 8
                return value

            def store(lanes: _Lanes, i: int) -> None:
                to = _lanes_at(context, builder, signature.args[i], args[i], j)
                builder.store(lanes.value, to).align = 8

            words, at, starts, token, back, gap, _, _, j, primes = args
            factors = {
                int(prime): _splat(builder, builder.extract_value(primes, i))
                for i, prime in enumerate(_PRIMES)
            }
            last = builder.add(token, j)
            after = load(signature.args[2], starts, builder.add(last, ir.Constant(i64, 1)))
            begin = load(signature.args[2], starts, builder.sub(last, back))
            size = builder.sub(builder.sub(after, begin), _splat(builder, gap))
            length = _Lanes(builder, size, factors)
            first = builder.add(at, j)
            word = [
                load(signature.args[0].dtype, builder.extract_value(words, k), first)
                for k in range(whole)
            ]
            h = length + (_SEED + _P5)
            tail = _Lanes(builder, word[0], factors)
            for k in range(whole - 1):
                longer = _at_least(length, 8 * (k + 1))
                h = _where(longer, _round(h, _Lanes(builder, word[k], factors)), h)
                tail = _where(longer, _Lanes(builder, word[k + 1], factors), tail)
            store(length, 6)
            store(_finish(h, tail, length), 7)
            bits = builder.bitcast(_at_least(length, 8 * whole), ir.IntType(_WIDTH))
            return builder.zext(bits, i64)

        number = types.int64
        returns = types.uint64
        return returns(words, number, starts, number, number, number, lengths, keys, number,
                       primes), codegen  # fmt: skip

    return hash_lanes


_below_16, _below_24, _below_32 = _below(2), _below(3), _below(4)


@intrinsic  # type: ignore[untyped-decorator]
def _pmod_lanes(typingctx: Any, keys: Any, j: Any, modulus: Any, out: Any, to: Any) -> Any:
    """out[to : to + `_WIDTH`] = `pmod` of keys[j : j + `_WIDTH`] (uint64, read as int64).

    In floating point: processors divide no integers side by side, and convert only those of 32
    bits. Every product is exact for a divisor of at most 2^24, and quotients are off by one at
    most.

    modulus : float64 (m, 1 / m, 2^32 mod m)
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        keys, j, modulus, out, to = args
        wide = ir.VectorType(ir.DoubleType(), _WIDTH)
        half = ir.VectorType(ir.IntType(32), _WIDTH)
        zero = ir.Constant(wide, [0.0] * _WIDTH)
        whole = _Lanes.constant
        m, inverse, two32 = (_splat(builder, builder.extract_value(modulus, i)) for i in range(3))
        name = f"llvm.floor.v{_WIDTH}f64"
        kind = ir.FunctionType(wide, [wide])
        floor = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)

        def reduced(x: Any) -> Any:
            quotient = builder.call(floor, [builder.fmul(x, inverse)])
            return builder.fsub(x, builder.fmul(quotient, m))

        key = builder.load(_lanes_at(context, builder, signature.args[0], keys, j))
        key.align = 8
        high = builder.sitofp(builder.trunc(builder.lshr(key, whole(32)), half), wide)
        # A whole number below 2^52 in the last bits of the double 2^52 adds to it.
        bits52 = whole(0x4330000000000000)
        two52 = builder.bitcast(bits52, wide)
        low = builder.or_(builder.and_(key, whole(0xFFFFFFFF)), bits52)
        low = builder.fsub(builder.bitcast(low, wide), two52)
        r = reduced(builder.fadd(builder.fmul(reduced(high), two32), low))
        below = builder.fcmp_ordered("<", r, zero)
        r = builder.fadd(r, builder.select(below, m, zero))
        above = builder.fcmp_ordered(">=", r, m)
        r = builder.fsub(r, builder.select(above, m, zero))
        bucket = builder.and_(builder.bitcast(builder.fadd(r, two52), _WIDE), whole(0xFFFFFFFF))
        builder.store(bucket, _lanes_at(context, builder, signature.args[3], out, to)).align = 8
        return context.get_dummy_value()

    return types.none(keys, types.int64, modulus, out, types.int64), codegen


@_jit()
def _pmod(key, modulus):
    """`pmod` of one key (uint64, read as int64), as `_pmod_lanes`."""
    m = np.int64(modulus[0])
    r = np.int64(key) % m
    return r + m if r < 0 else r


@_jit(inline="always")
def _rotr32(x, r):
    return np.uint32((x >> np.uint32(r)) | (x << np.uint32(32 - r)))


@_jit()
def _sha256_block(w, state):
    """One compression: w (uint32[64], first 16 filled) into state (uint32[8])."""
    for t in range(16, 64):
        s0 = _rotr32(w[t - 15], 7) ^ _rotr32(w[t - 15], 18) ^ (w[t - 15] >> np.uint32(3))
        s1 = _rotr32(w[t - 2], 17) ^ _rotr32(w[t - 2], 19) ^ (w[t - 2] >> np.uint32(10))
        w[t] = np.uint32(w[t - 16] + s0 + w[t - 7] + s1)
    a, b, c, d = state[0], state[1], state[2], state[3]
    e, f, g, h = state[4], state[5], state[6], state[7]
    for t in range(64):
        s1 = _rotr32(e, 6) ^ _rotr32(e, 11) ^ _rotr32(e, 25)
        t1 = np.uint32(h + s1 + ((e & f) ^ (~e & g)) + _K[t] + w[t])
        s0 = _rotr32(a, 2) ^ _rotr32(a, 13) ^ _rotr32(a, 22)
        t2 = np.uint32(s0 + ((a & b) ^ (a & c) ^ (b & c)))
        h, g, f = g, f, e
        e = np.uint32(d + t1)
        d, c, b = c, b, a
        a = np.uint32(t1 + t2)
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d
    state[4] += e
    state[5] += f
    state[6] += g
    state[7] += h


# n-grams of up to so many bytes are hashed by instruction. numba keeps compiled code apart by
# processor, so what the processor has may be asked when the module is read.
_SHA_BYTES = 55
if not binding.get_host_cpu_features().get("sha"):
    _SHA_BYTES = -1

    @_jit()
    def _sha256_short(buf, start, length):  # never called, but compiled
        zero = np.uint64(0)
        return zero, zero, zero, zero, zero, zero, zero, zero


@_jit()
def _sha256_mod(buf, start, length, powers, m, w, state):
    """int(sha256(buf[start : start + length])) mod m, for m <= 2^24.

    powers : uint64[8], 2^224, 2^192, ..., 2^0 mod m
    """
    if length <= _SHA_BYTES:
        digest = _sha256_short(buf, start, length)
        r = np.uint64(0)
        for t in range(8):
            r += digest[t] * powers[t]
        return np.int64(r % m)
    for t in range(8):  # a slice assignment costs as much as the rounds
        state[t] = _H0[t]
    blocks = (length + 8) // 64 + 1
    for block in range(blocks):
        for t in range(16):
            word = np.uint32(0)
            for j in range(4):
                at = block * 64 + t * 4 + j
                byte = np.uint32(0)
                if at < length:
                    byte = np.uint32(buf[start + at])
                elif at == length:
                    byte = np.uint32(0x80)
                word = np.uint32((word << np.uint32(8)) | byte)
            w[t] = word
        if block == blocks - 1:
            bits = np.uint64(length) * np.uint64(8)
            w[14] = np.uint32(bits >> np.uint64(32))
            w[15] = np.uint32(bits & np.uint64(0xFFFFFFFF))
        _sha256_block(w, state)
    r = np.uint64(0)
    for t in range(8):
        r += np.uint64(state[t]) * powers[t]
    return np.int64(r % m)


@_jit(inline="always")
def _masked(word, size):
    """The first `size` bytes of a little-endian word; all of it for 8 and more, 0 below 1."""
    ones = np.uint64(0xFFFFFFFFFFFFFFFF)
    part = word & (ones >> np.uint64((64 - 8 * size) & 63))
    part = word if size >= 8 else part
    return part if size > 0 else np.uint64(0)


@_jit()
def _sha256_all(
    scratch, starts, token, words, at, lengths, keys, m, num_buckets, memo, out, to
):  # fmt: skip
    """out[to + j] = int(sha256(n-gram j)) mod num_buckets for m n-grams, behind a cache.

    Direct-mapped, and exact, since the whole n-gram is compared. N-grams that the cache does not
    hold are gathered first and hashed in one loop: no branch between two of them, so that the
    processor works on several at once. N-gram j stands at scratch[starts[token + j]]; words, at,
    lengths, keys are as in `_below`.

    memo : (cache, w, state) of `new_memo`; a row of the cache = length << 32 | bucket, then
        the n-gram's bytes padded with 0
    """
    cache, w, state = memo
    misses = np.empty(m, np.int64)
    masked = np.empty((m, 4), np.uint64)
    first, second, third, fourth = words
    divisor = np.uint64(num_buckets)
    powers = np.empty(8, np.uint64)
    powers[7] = np.uint64(1) % divisor
    for t in range(6, -1, -1):
        powers[t] = (powers[t + 1] * np.uint64(1 << 32)) % divisor
    for j in range(m):
        _prefetch(cache, keys[j] >> np.uint64(64 - _CACHE_BITS))
        length = np.int64(lengths[j])
        masked[j, 0] = _masked(first[np.uint64(at + j)], length)
        masked[j, 1] = _masked(second[np.uint64(at + j)], length - 8)
        masked[j, 2] = _masked(third[np.uint64(at + j)], length - 16)
        masked[j, 3] = _masked(fourth[np.uint64(at + j)], length - 24)
    missed = 0
    for j in range(m):
        slot = keys[j] >> np.uint64(64 - _CACHE_BITS)
        fact = cache[slot, 0]
        differs = (fact >> np.uint64(32)) ^ lengths[j]
        differs |= cache[slot, 1] ^ masked[j, 0]
        differs |= cache[slot, 2] ^ masked[j, 1]
        differs |= cache[slot, 3] ^ masked[j, 2]
        differs |= cache[slot, 4] ^ masked[j, 3]
        out[np.uint64(to + j)] = np.int64(fact & np.uint64(0xFFFFFFFF))
        misses[missed] = j
        missed += np.int64(differs != np.uint64(0))
    for i in range(missed):
        j = misses[i]
        begin, length = starts[np.uint64(token + j)], np.int64(lengths[j])
        out[np.uint64(to + j)] = _sha256_mod(scratch, begin, length, powers, divisor, w, state)
    for i in range(missed):
        j = misses[i]
        if lengths[j] <= np.uint64(_CACHE_KEY):
            slot = keys[j] >> np.uint64(64 - _CACHE_BITS)
            cache[slot, 0] = (lengths[j] << np.uint64(32)) | np.uint64(out[np.uint64(to + j)])
            for t in range(4):
                cache[slot, t + 1] = masked[j, t]


@_jit()
def _decode(data, at, end):
    """The code point at data[at] and its length in bytes; a byte that is not part of a valid
    UTF-8 sequence within [at, end) reads as U+FFFD, length 1."""
    b0 = np.int64(data[at])
    if b0 < 0x80:
        return b0, 1
    size = 2 if b0 < 0xE0 else 3 if b0 < 0xF0 else 4
    if b0 < 0xC2 or b0 > 0xF4 or at + size > end:
        return np.int64(_REPLACEMENT), 1
    cp = b0 & (0x7F >> size)
    for j in range(1, size):
        b = np.int64(data[at + j])
        if b & 0xC0 != 0x80:
            return np.int64(_REPLACEMENT), 1
        cp = (cp << 6) | (b & 0x3F)
    overlong = (size == 3 and cp < 0x800) or (size == 4 and cp < 0x10000)
    if overlong or cp > 0x10FFFF or 0xD800 <= cp < 0xE000:
        return np.int64(_REPLACEMENT), 1
    return cp, size


@_jit()
def _lower_sigma(data, at, begin, end, unicode):
    """Lower case of the capital sigma at data[at], by its context in the document [begin, end).

    Final where a cased letter stands before it and none after it, case-ignorable characters
    skipped on both sides (Unicode, Final_Sigma; CPython's handle_capital_sigma).
    """
    j = at
    cased = False
    while j > begin:
        after = j
        j -= 1
        while j > begin and after - j < 4 and data[j] & 0xC0 == 0x80:
            j -= 1
        cp, size = _decode(data, j, end)
        if j + size != after:  # the byte before is no part of a valid sequence
            j = after - 1
            cp = np.int64(_REPLACEMENT)
        word = unicode[cp]
        if word & IGNORABLE_BIT == 0:
            cased = word & CASED_BIT != 0
            break
    if not cased:
        return 0x3C3
    j = at + 2
    while j < end:
        cp, size = _decode(data, j, end)
        j += size
        word = unicode[cp]
        if word & IGNORABLE_BIT == 0:
            return 0x3C3 if word & CASED_BIT != 0 else _FINAL_SIGMA
    return _FINAL_SIGMA


@_jit(inline="always")
def _encode(scratch, fill, cp):
    """Write cp as UTF-8 at scratch[fill]; the new fill."""
    if cp < 0x80:
        scratch[fill] = cp
        return fill + 1
    if cp < 0x800:
        scratch[fill] = 0xC0 | (cp >> 6)
        scratch[fill + 1] = 0x80 | (cp & 0x3F)
        return fill + 2
    if cp < 0x10000:
        scratch[fill] = 0xE0 | (cp >> 12)
        scratch[fill + 1] = 0x80 | ((cp >> 6) & 0x3F)
        scratch[fill + 2] = 0x80 | (cp & 0x3F)
        return fill + 3
    scratch[fill] = 0xF0 | (cp >> 18)
    scratch[fill + 1] = 0x80 | ((cp >> 12) & 0x3F)
    scratch[fill + 2] = 0x80 | ((cp >> 6) & 0x3F)
    scratch[fill + 3] = 0x80 | (cp & 0x3F)
    return fill + 4


@_jit(inline="always")
def _split_ascii(word, blank, size, lowered, at, scratch, fill, starts, count, previous):
    """`_split` of the `size` (1 to 64) ASCII bytes at lowered[at:], classes as by `_classify64`.

    What is written is the text without its blanks, and one blank before each token; so the place
    of a byte is the number of bytes of text before it, and of tokens up to it.
    Most tokens stand behind one blank already. The text is copied as it is, from each token on
    that does not: from 64 bytes, a handful of copies.
    """
    inside = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - size)
    one = np.uint64(1)
    word &= inside
    text = inside & ~blank
    other = text & ~word
    # A token starts where a class does; the last character's class goes on from chunk to chunk.
    begins = word & ~((word << one) | np.uint64(previous == WORD))
    begins |= other & ~((other << one) | np.uint64(previous == OTHER))
    left = begins & ~((blank << one) & (text << np.uint64(2)))
    _copy64(lowered, at, scratch, fill)
    while left != np.uint64(0):
        below = (left - one) & ~left
        left &= left - one
        to = fill + _ones(text & below) + _ones(begins & below) + 1
        scratch[np.uint64(to - 1)] = 0x20
        _copy64(lowered, at + _ones(below), scratch, to)
    left = begins
    while left != np.uint64(0):
        below = (left - one) & ~left
        left &= left - one
        fill += 1  # the blank before the token
        starts[np.uint64(count)] = fill + _ones(text & below)
        count += 1
    fill += _ones(text)
    last = one << np.uint64(size - 1)
    if word & last != np.uint64(0):
        return fill, count, np.int64(WORD)
    return fill, count, np.int64(OTHER if text & last != np.uint64(0) else SPACE)


@_jit()
def _split(
    data, begin, at, stop, end, unicode, classes, lowered, scratch, fill, starts, count, previous
):  # fmt: skip
    """Lower-case and split data[at:stop] of the document [begin, end) into scratch.

    Returns (at, fill, count, previous): `starts[:count]` are the starts of the tokens so far, each
    with one blank before it; `previous` is the class of the last character, so that a token may go
    on in the next block. `at` passes `stop` by the rest of the last character at most.

    classes (uint64[2 * _CHUNKS]) and lowered (uint8[64 * _CHUNKS + 64]) are scratch. Writes up to
    64 bytes beyond the fill it returns.
    """
    # Where ASCII comes in short runs, 64 bytes at once cost more than they save: not again before
    # a run has shown itself to be long.
    run = _SHORT_RUN
    vectors = True
    while at < stop:
        if vectors:
            # All of a run first: a processor waits long for bytes that it has just written, where
            # it wrote them in other portions.
            chunks, size = 0, 64
            while chunks < _CHUNKS and size == 64:
                place = at + 64 * chunks
                if place + 64 > data.shape[0]:
                    break
                found = min(_trailing_zeros(_high64(data, place)), stop - place)
                if found < _SHORT_RUN:
                    break
                size = found
                word, blank = _classify64(data, place, lowered, 64 * chunks)
                classes[np.uint64(2 * chunks)] = word
                classes[np.uint64(2 * chunks + 1)] = blank
                chunks += 1
            for chunk in range(chunks):
                part = size if chunk == chunks - 1 else 64
                fill, count, previous = _split_ascii(
                    classes[np.uint64(2 * chunk)], classes[np.uint64(2 * chunk + 1)], part,
                    lowered, 64 * chunk, scratch, fill, starts, count, previous,
                )  # fmt: skip
                at += part
            if chunks > 0:
                continue
            vectors = False
            run = 0
        byte = data[at]
        if byte < 0x80:
            run += 1
            vectors = run >= _SHORT_RUN
            word = unicode[byte]
            kind = np.int64(word >> CLASS_SHIFT) & 3
            # Unconditional stores and conditional advances: no branch depends on the text.
            first = np.int64(kind != previous) & np.int64(kind != SPACE)
            scratch[fill] = 0x20
            fill += first
            starts[count] = fill
            count += first
            scratch[fill] = word & 0x7F
            fill += np.int64(kind != SPACE)
            previous = kind
            at += 1
            continue
        vectors = False
        run = 0
        cp, size = _decode(data, at, end)
        word = np.int64(unicode[cp])
        kind = (word >> CLASS_SHIFT) & 3
        lower = word & LOWER_MASK
        if cp == _SIGMA:
            lower = np.int64(_lower_sigma(data, at, begin, end, unicode))
        if kind != SPACE:
            if kind != previous or kind == SINGLE:
                scratch[fill] = 0x20
                fill += 1
                starts[count] = fill
                count += 1
            fill = _encode(scratch, fill, lower)
        previous = kind
        if word & SPECIAL_BIT != 0 and cp != _SIGMA:
            # U+0130 is i and a combining dot, which is no letter: a token of its own.
            scratch[fill] = 0x20
            starts[count] = fill + 1
            count += 1
            fill = _encode(scratch, fill + 1, 0x307)
            previous = np.int64(OTHER)
        at += size
    return at, fill, count, previous


@_jit()
def _split_bytes(data, at, stop, scratch, fill, starts, count):
    """Each byte of data[at:stop] as a token, none between them; the new fill and count."""
    for j in range(at, stop):
        scratch[fill] = data[j]
        starts[count] = fill
        fill += 1
        count += 1
    return fill, count


@_jit()
def _split_listed(data, at, stop, scratch, fill, starts, count):
    """Tokens of data[at:stop], each behind a byte 0xFF, into scratch; the new fill and count."""
    for j in range(at, stop):
        byte = data[j]
        if byte == 0xFF:
            scratch[fill] = 0x20
            starts[count] = fill + 1
            count += 1
        else:
            scratch[fill] = byte
        fill += 1
    return fill, count


@_jit()
def _hash_each(
    scratch, starts, gap, a, hi, n, limit, hash_kind, words, at, lengths, keys, longer, modulus,
    buckets, to,
):  # fmt: skip
    """Hash the n-grams of n + 1 tokens that end at tokens a..hi-1.

    Hashes go to keys (uint64[*]), from 0 on, and buckets by XXHASH64 to buckets[to:]. N-grams of
    `limit` bytes (16, 24 or 32) or more are hashed one by one.
    """
    m = hi - a
    over = 0
    primes = (_hidden(_P1), _hidden(_P2), _hidden(_P3), _hidden(_P4), _hidden(_P5))
    for j in range(0, m, _WIDTH):
        if limit == 16:
            left = _below_16(words, at, starts, a, n, gap, lengths, keys, j, primes)
        elif limit == 24:
            left = _below_24(words, at, starts, a, n, gap, lengths, keys, j, primes)
        else:
            left = _below_32(words, at, starts, a, n, gap, lengths, keys, j, primes)
        if hash_kind == XXHASH64:
            _pmod_lanes(keys, j, modulus, buckets, to + j)
        while left != np.uint64(0):
            longer[np.uint64(over)] = j + _trailing_zeros(left)
            over += 1
            left &= left - np.uint64(1)
    for i in range(over):
        j = longer[np.uint64(i)]
        if j < m:
            begin = starts[np.uint64(a + j - n)]
            keys[np.uint64(j)] = _xxhash64(scratch, begin, np.int64(lengths[np.uint64(j)]), _SEED)
            buckets[np.uint64(to + j)] = _pmod(keys[np.uint64(j)], modulus)


@_jit()
def _hash_ngrams(
    scratch, starts, gap, lo, hi, missing, ngrams, num_buckets, hash_kind, memo, lanes, buckets
):  # fmt: skip
    """Buckets of the n-grams that end at tokens lo..hi-1.

    The bucket of n + 1 tokens that end at token i is buckets[n * stride + i - lo], where stride is
    the length of `buckets` by `ngrams`.

    `gap` bytes stand between two tokens (0 or 1); starts[hi] must be the start of the next token
    (`gap` bytes past the end of token hi - 1).
    The first token of the document is number `missing` (0, or less where tokens were dropped):
    n-grams that reach before it do not exist.
    lanes : (4 x uint64[*] words, uint64[*] lengths, uint64[*] keys, int64[*] longer), scratch

    The first 32 bytes from each token on are loaded once, whatever number of n-grams start there.
    """
    words, lengths, keys, longer = lanes
    first, second, third, fourth = words
    base = max(lo - ngrams + 1, missing)
    # Nearly all n-grams are shorter than twice the mean.
    mean = (starts[np.uint64(hi)] - starts[np.uint64(base)]) // (hi - base) + 1
    for i in range(base, hi):
        start = starts[np.uint64(i)]
        to = np.uint64(i - base)  # unsigned: an index that numba need not wrap around
        first[to] = _load64(scratch, start)
        second[to] = _load64(scratch, start + 8)
        third[to] = _load64(scratch, start + 16)
    if mean * ngrams > 12 or hash_kind == SHA256:
        for i in range(base, hi):
            fourth[np.uint64(i - base)] = _load64(scratch, starts[np.uint64(i)] + 24)
    stride = buckets.shape[0] // ngrams
    m = np.float64(num_buckets)
    modulus = (m, 1.0 / m, np.float64((1 << 32) % num_buckets))
    for n in range(ngrams):
        a = max(lo, missing + n)
        if a >= hi:
            break
        at = a - n - base
        to = n * stride + a - lo
        limit = 16 if mean * (n + 1) <= 8 else 24 if mean * (n + 1) <= 12 else 32
        _hash_each(
            scratch, starts, gap, a, hi, n, limit, hash_kind, words, at, lengths, keys, longer,
            modulus, buckets, to,
        )  # fmt: skip
        if hash_kind == SHA256:
            _sha256_all(scratch, starts, a - n, words, at, lengths, keys, hi - a, num_buckets,
                        memo, buckets, to)  # fmt: skip


@_jit(inline="always")
def _consume(mode, buckets, lo, hi, missing, ngrams, tables, counts, total, row):
    """Fold `_hash_ngrams`' buckets into counts (COUNT) or total[row] += tables[bucket] (SCORE)."""
    stride = buckets.shape[0] // ngrams
    if mode == COUNT:
        for n in range(ngrams):
            for i in range(max(lo, missing + n), hi):
                counts[np.uint64(buckets[np.uint64(n * stride + i - lo)])] += 1
    elif tables.shape[1] == 1:
        acc = total[row, 0]
        full = min(max(lo, missing + 1), hi) if ngrams == 2 else hi
        for i in range(lo, full):
            for n in range(min(ngrams, i - missing + 1)):
                acc += tables[np.uint64(buckets[np.uint64(n * stride + i - lo)]), 0]
        for i in range(full - lo, hi - lo):  # twice as fast as a loop over two
            acc += tables[np.uint64(buckets[np.uint64(i)]), 0]
            acc += tables[np.uint64(buckets[np.uint64(stride + i)]), 0]
        total[row, 0] = acc
    else:
        for i in range(lo, hi):
            for n in range(min(ngrams, i - missing + 1)):
                bucket = np.uint64(buckets[np.uint64(n * stride + i - lo)])
                for t in range(tables.shape[1]):
                    total[row, t] += tables[bucket, t]


@_jit()
def _in_order(buckets, lo, hi, missing, ngrams, collected, gathered):
    """Append `_hash_ngrams`' buckets to collected[:gathered]; how many there are then."""
    stride = buckets.shape[0] // ngrams
    for i in range(lo, hi):
        for n in range(min(ngrams, i - missing + 1)):
            collected[gathered] = buckets[n * stride + i - lo]
            gathered += 1
    return gathered


@_jit()
def _classed(scratch, starts, gap, lo, hi, unicode, keys, out):
    """Hashes of tokens lo..hi-1 with their class in the last two bits."""
    for i in range(lo, hi):
        start = starts[i]
        end = starts[i + 1] - gap
        kind = np.uint64(1)
        for j in range(start, end):
            if scratch[j] < 0x30 or scratch[j] > 0x39:
                kind = np.uint64(0)
                break
        cp, _ = _decode(scratch, start, end)
        if (np.int64(unicode[cp]) >> CLASS_SHIFT) & 3 == OTHER:
            kind = np.uint64(2)
        out[i - lo] = np.int64((keys[i - lo] & ~np.uint64(3)) | kind)


@_jit()
def quality(tokens, indptr, stops, facts):
    """Facts of documents for the quality rule, from the tokens that mode FACTS collected.

    Parameters
    ----------
    tokens : int64[*]
    indptr : int64[n + 1]
    stops : int64[*]
        Tokens that are stop words, sorted.
    facts : int64[n, 3]
        Receives the count of the most frequent token, tokens that are neither stop words nor
        punctuation, and tokens of digits only.
    """
    slots = np.int64(1024)
    table = np.zeros(slots, np.int64)
    counts = np.zeros(slots, np.int64)
    used = np.empty(slots, np.int64)
    for d in range(indptr.shape[0] - 1):
        size = indptr[d + 1] - indptr[d]
        if 2 * size > slots:
            while 2 * size > slots:
                slots *= 2
            table = np.zeros(slots, np.int64)
            counts = np.zeros(slots, np.int64)
            used = np.empty(slots, np.int64)
        filled = 0
        most, informative, digits = np.int64(0), np.int64(0), np.int64(0)
        for i in range(indptr[d], indptr[d + 1]):
            token = tokens[i]
            at = (token >> 2) & (slots - 1)
            while counts[at] > 0 and table[at] != token:
                at = (at + 1) & (slots - 1)
            if counts[at] == 0:
                table[at] = token
                used[filled] = at
                filled += 1
            counts[at] += 1
        for j in range(filled):
            token, n = table[used[j]], counts[used[j]]
            counts[used[j]] = 0
            most = max(most, n)
            kind = token & 3
            if kind == 1:
                digits += n
            if kind != 2:
                at = np.searchsorted(stops, token)
                if at == stops.shape[0] or stops[at] != token:
                    informative += n
        facts[d, 0], facts[d, 1], facts[d, 2] = most, informative, digits


@_jit()
def text_hashes(data, offsets, unicode, out):
    """Two hashes of each text after folding: lower case, and one blank between words.

    Parameters
    ----------
    data, offsets, unicode
        As in `run`.
    out : int64[n, 2]
        XXH64 of the folded UTF-8 with the seeds 1 and 2.
    """
    scratch = np.empty(1 << 16, np.uint8)
    lowered = np.empty(128, np.uint8)
    one = np.uint64(1)
    for d in range(offsets.shape[0] - 1):
        begin, end = offsets[d], offsets[d + 1]
        at, fill = begin, 0
        gap = True  # the last byte written is a blank, or there is none
        run = _SHORT_RUN
        vectors = True
        while at < end:
            if fill + 64 * _GROWTH + 128 > scratch.shape[0]:
                scratch = _grown(scratch, fill, 2 * scratch.shape[0])
            if vectors and at + 64 <= data.shape[0]:
                size = min(_trailing_zeros(_high64(data, at)), end - at)
                if size >= _SHORT_RUN:
                    _, blank = _classify64(data, at, lowered, 0)
                    inside = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - size)
                    kept = inside & ~(blank & ((blank << one) | np.uint64(gap)))
                    if kept == inside:
                        _copy64(lowered, 0, scratch, fill)
                        fill += size
                    else:
                        left = kept
                        while left != np.uint64(0):
                            first = _trailing_zeros(left)
                            length = _trailing_zeros(~(left >> np.uint64(first)))
                            _copy64(lowered, first, scratch, fill)
                            fill += length
                            # Adding the lowest bit carries through the run and clears it.
                            left &= left + (one << np.uint64(first))
                    gap = blank & (one << np.uint64(size - 1)) != np.uint64(0)
                    at += size
                    continue
                vectors = False
                run = 0
            cp, size = _decode(data, at, end)
            run = run + 1 if cp < 0x80 else 0
            vectors = run >= _SHORT_RUN
            word = np.int64(unicode[cp])
            if (word >> CLASS_SHIFT) & 3 == SPACE:
                if not gap:
                    scratch[fill] = 0x20
                    fill += 1
                gap = True
            else:
                lower = word & LOWER_MASK
                if cp == _SIGMA:
                    lower = np.int64(_lower_sigma(data, at, begin, end, unicode))
                fill = _encode(scratch, fill, lower)
                if word & SPECIAL_BIT != 0 and cp != _SIGMA:
                    fill = _encode(scratch, fill, 0x307)
                gap = False
            at += size
        if gap and fill > 0:
            fill -= 1
        out[d, 0] = np.int64(_xxhash64(scratch, 0, fill, one))
        out[d, 1] = np.int64(_xxhash64(scratch, 0, fill, np.uint64(2)))


@_jit()
def _grown(array, used, size):
    """A longer copy of array with its first `used` items, at least `size` long."""
    longer = np.empty(max(size, 2 * array.shape[0]), array.dtype)
    longer[:used] = array[:used]
    return longer


def new_memo(hash_kind: int) -> Any:
    """Scratch of the hash: (cache, w, state).

    The sha256 cache must be kept for one num_buckets. Its rows are cache lines: aligned to 64
    bytes, so that a look-up touches one.
    """
    slots = 1 << _CACHE_BITS if hash_kind == SHA256 else 1
    memory = np.zeros(slots * 8 + 7, np.uint64)
    first = -(memory.ctypes.data // 8) % 8
    cache = memory[first : first + slots * 8].reshape(slots, 8)
    return cache, np.zeros(64, np.uint32), np.zeros(8, np.uint32)


@_jit()
def run(
    data, offsets, unicode, split_kind, ngrams, num_buckets, hash_kind, memo,
    mode, min_tokens, tables, counts, total, collected, indptr, num_tokens,
):  # fmt: skip
    """Pass over n documents; every output array is the caller's.

    Parameters
    ----------
    data : uint8[*]
        UTF-8 text of all documents; document d is data[offsets[d] : offsets[d + 1]].
    offsets : int64[n + 1]
    unicode : uint32[0x110000]
        `unicode_tables.table()`, or `cjk_table()`.
    split_kind : int64
        BY_CLASS, BY_BYTE (n-grams are slices of the text as it is) or LISTED.
    ngrams, num_buckets, hash_kind : int64
        hash_kind is XXHASH64 or SHA256.
    memo
        From `new_memo`.
    mode : int64
        COUNT: `counts[b]` += n-grams in bucket b, over documents of at least `min_tokens` tokens.
        SCORE: `total[d, t]` = sum over the n-grams of d of `tables[bucket, t]`.
        COLLECT: the buckets of d in order at `collected[indptr[d] : indptr[d + 1]]`.
        FACTS: `collected` holds, of each token, its 64-bit xxhash64 with the last bits replaced:
        0 a word, 1 digits only, 2 punctuation; `ngrams` must be 1.
    min_tokens : int64
    tables : float64[num_buckets, T]
    counts : int64[num_buckets]
    total : float64[n, T]
    collected : int64[*]
        Grown as needed: the array returned is the one to read.
    indptr : int64[n + 1]
    num_tokens : int64[n]
        Tokens of each document.

    Returns
    -------
    int64[*]
        `collected`, possibly reallocated.
    """
    own_scratch = np.empty(_BLOCK * _GROWTH + 128, np.uint8)
    own_starts = np.empty(_BLOCK + ngrams + _BEYOND, np.int64)
    own_lowered = np.empty(64 * _CHUNKS + 64, np.uint8)
    own_classes = np.empty(2 * _CHUNKS, np.uint64)
    gap = 0 if split_kind == BY_BYTE else 1
    at_once = max(1, _BUCKETS_AT_ONCE // ngrams)
    size = at_once + ngrams + _WIDTH
    own_lanes = np.empty((7, size), np.uint64)
    own_buckets = np.empty(size * ngrams, np.int64)
    scratch, starts = _borrowed(own_scratch), _borrowed(own_starts)
    lowered, classes = _borrowed(own_lowered), _borrowed(own_classes)
    buckets = _borrowed(own_buckets)
    words = (_borrowed(own_lanes[0]), _borrowed(own_lanes[1]), _borrowed(own_lanes[2]),
             _borrowed(own_lanes[3]))  # fmt: skip
    lanes = (words, _borrowed(own_lanes[4]), _borrowed(own_lanes[5]),
             _borrowed(own_lanes[6].view(np.int64)))  # fmt: skip
    data, unicode = _borrowed(data), _borrowed(unicode)
    tables, counts, total = _borrowed(tables), _borrowed(counts), _borrowed(total)
    memo = (_borrowed(memo[0]), _borrowed(memo[1]), _borrowed(memo[2]))
    gathered = 0
    # A document must be read whole before it is known to be long enough: its buckets wait here.
    waiting = mode >= COLLECT or (mode == COUNT and min_tokens > 0)
    if mode >= COLLECT:
        indptr[0] = 0
    for d in range(offsets.shape[0] - 1):
        begin, end = offsets[d], offsets[d + 1]
        at = begin
        fill, count, hashed, dropped = 0, 0, 0, 0
        previous = np.int64(SPACE)
        first = gathered
        while True:
            # Room for one more block, and for what is read and written beyond a token.
            if fill + _BLOCK * _GROWTH + 128 > scratch.shape[0]:
                keep = max(0, hashed - ngrams + 1)
                shift = starts[keep] - gap if keep < count else fill
                if shift > scratch.shape[0] // 2:
                    for j in range(fill - shift):
                        scratch[j] = scratch[shift + j]
                    for j in range(keep, count):
                        starts[j - keep] = starts[j] - shift
                    fill -= shift
                    count -= keep
                    hashed -= keep
                    dropped += keep
                else:
                    own_scratch = _grown(scratch, fill, 2 * scratch.shape[0])
                    scratch = _borrowed(own_scratch)
            if count + _BLOCK + _BEYOND > starts.shape[0]:
                keep = max(0, hashed - ngrams + 1)
                if keep > 0:
                    for j in range(keep, count):
                        starts[j - keep] = starts[j]
                    count -= keep
                    hashed -= keep
                    dropped += keep
                if count + _BLOCK + _BEYOND > starts.shape[0]:
                    own_starts = _grown(starts, count, count + _BLOCK + _BEYOND)
                    starts = _borrowed(own_starts)
            stop = min(at + _BLOCK, end)
            if split_kind == BY_BYTE:
                fill, count = _split_bytes(data, at, stop, scratch, fill, starts, count)
                at = stop
            elif split_kind == LISTED:
                fill, count = _split_listed(data, at, stop, scratch, fill, starts, count)
                at = stop
            else:
                at, fill, count, previous = _split(
                    data, begin, at, stop, end,
                    unicode, classes, lowered, scratch, fill, starts, count, previous,
                )  # fmt: skip
            # The last token may go on in the next block.
            ready = count if at >= end else count - 1
            starts[count] = fill + gap
            while hashed < ready:
                upto = min(ready, hashed + at_once)
                _hash_ngrams(
                    scratch, starts, gap, hashed, upto, -dropped,
                    ngrams, num_buckets, hash_kind, memo, lanes, buckets,
                )  # fmt: skip
                if mode == FACTS:
                    _classed(scratch, starts, gap, hashed, upto, unicode, lanes[2], buckets)
                if waiting:
                    most = gathered + (upto - hashed) * ngrams
                    if most > collected.shape[0]:
                        collected = _grown(collected, gathered, most)
                    gathered = _in_order(
                        buckets, hashed, upto, -dropped, ngrams, collected, gathered
                    )
                else:
                    _consume(
                        mode, buckets, hashed, upto, -dropped, ngrams, tables, counts, total, d
                    )
                hashed = upto
            if at >= end:
                break
        num_tokens[d] = dropped + count
        if mode >= COLLECT:
            indptr[d + 1] = gathered
        elif waiting:
            if num_tokens[d] >= min_tokens:
                for j in range(gathered):
                    counts[collected[j]] += 1
            gathered = first
    _alive(own_scratch)
    _alive(own_starts)
    _alive(own_lowered)
    _alive(own_classes)
    _alive(own_lanes)
    _alive(own_buckets)
    return collected


@_jit()
def sparse(collected, indptr, indices, values):
    """Sort each document's buckets and count equal ones.

    collected (int64[*]) is sorted in place by document; indices (int32[*]) and values (int32[*])
    receive the distinct buckets and their counts; indptr (int64[n + 1]) is rewritten to them.
    Returns the number of entries written.
    """
    filled = 0
    start = indptr[0]
    for d in range(indptr.shape[0] - 1):
        end = indptr[d + 1]
        own = np.sort(collected[start:end])
        start = end
        first = filled
        for j in range(own.shape[0]):
            if filled > first and indices[filled - 1] == own[j]:
                values[filled - 1] += 1
            else:
                indices[filled] = own[j]
                values[filled] = 1
                filled += 1
        indptr[d + 1] = filled
    return filled
