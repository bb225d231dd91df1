"""What processors do to many bytes at once and no loop says well, in the compiler's IR.

Vectors of one width on all processors: the compiler cuts them to what there is. Each function has
a twin in plain Python in `tests/test_simd.py`, which holds the two together. No bounds checks:
whoever calls makes room for 64 bytes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_BYTES = ir.VectorType(_BYTE, 64)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any, to: Any) -> Any:
    """Address of array[index], of an array of bytes, as a pointer to `to`."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), to.as_pointer())


def _load(context: Any, builder: Any, kind: Any, array: Any, index: Any, of: Any) -> Any:
    value = builder.load(_pointer(context, builder, kind, array, index, of))
    value.align = 1
    return value


def _store(context: Any, builder: Any, value: Any, kind: Any, array: Any, index: Any) -> None:
    builder.store(value, _pointer(context, builder, kind, array, index, value.type)).align = 1


@intrinsic
def load64(typingctx: Any, array: Any, index: Any) -> Any:
    """Eight bytes from array[index] on as a little-endian uint64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(context, builder, signature.args[0], *args, _WORD)

    return types.uint64(array, types.int64), codegen


@intrinsic
def copy64(typingctx: Any, source: Any, at: Any, target: Any, to: Any) -> Any:
    """target[to : to + 64] = source[at : at + 64]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = _load(context, builder, signature.args[0], args[0], args[1], _BYTES)
        _store(context, builder, value, signature.args[2], args[2], args[3])
        return context.get_dummy_value()

    return types.none(source, types.int64, target, types.int64), codegen


@intrinsic
def trailing_zeros(typingctx: Any, x: Any) -> Any:
    """Zero bits below the lowest one of a uint64; 64 of 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), codegen


@intrinsic
def ones(typingctx: Any, x: Any) -> Any:
    """One bits of a uint64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


@intrinsic
def beyond_ascii(typingctx: Any, data: Any, at: Any) -> Any:
    """Which of the 64 bytes from data[at] on are not ASCII: a uint64, bit i for byte i.

    Apart from `classify`, which is called in a branch that depends on it: the compiler moves masks
    of its own accord to where they are used, and moves them bit by bit.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        text = _load(context, builder, signature.args[0], *args, _BYTES)
        high = builder.icmp_unsigned(">=", text, ir.Constant(_BYTES, [0x80] * 64))
        return builder.bitcast(high, _WORD)

    return types.uint64(data, types.int64), codegen


@intrinsic
def classify(typingctx: Any, data: Any, at: Any, lowered: Any, to: Any) -> Any:
    """Lower-case 64 ASCII bytes from data[at] on into lowered[to:], blanks as 0x20; tell classes.

    Returns two uint64, bit i for byte i: letter, digit or _; blank.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def constant(value: int) -> Any:
            return ir.Constant(_BYTES, [value] * 64)

        def between(low: int, high: int, of: Any) -> Any:
            # One comparison: what is less than `low` wraps around and is more than `high`.
            return builder.icmp_unsigned(
                "<=", builder.sub(of, constant(low)), constant(high - low)
            )

        text = _load(context, builder, signature.args[0], args[0], args[1], _BYTES)
        upper = between(ord("A"), ord("Z"), text)
        lower = builder.select(upper, builder.or_(text, constant(0x20)), text)
        word = builder.or_(between(ord("a"), ord("z"), lower), between(ord("0"), ord("9"), text))
        word = builder.or_(word, between(ord("_"), ord("_"), text))
        blank = builder.or_(between(0x09, 0x0D, text), between(0x1C, 0x20, text))
        plain = builder.select(blank, constant(0x20), lower)
        _store(context, builder, plain, signature.args[2], args[2], args[3])
        masks = [builder.bitcast(mask, _WORD) for mask in (word, blank)]
        return context.make_tuple(builder, signature.return_type, masks)

    returns = types.UniTuple(types.uint64, 2)
    return returns(data, types.int64, lowered, types.int64), codegen
