"""Rows that fit a vector: loads, stores and sums of registers, and what a window sees of a row.

Beside `lanes`, whose vectors have one number of lanes for all dtypes: here it is the machine's.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..emitted.lanes import Lanes, LanesEmitter
from ..emitted.row_lanes import places
from ..emitted.vectors import VECTOR_BYTES, element_pointer
from ..jit import inlined

#: Rows of the strips of a wide plane.
ROWS = 14


@intrinsic
def vector(typing, value, part):
    """A register of one value, or a half (part 2, a constant) of one."""
    if not isinstance(part, types.IntegerLiteral):
        return None
    kind = Lanes(value, VECTOR_BYTES * 8 // value.bitwidth // part.literal_value)

    def generate(context, builder, signature, arguments):
        return LanesEmitter(context, builder, kind).splat(arguments[0])

    return kind(value, part), generate


@intrinsic
def read(typing, source, offset, where, like):
    """The elements behind ``offset`` in the lanes of ``where``; the others are 0 and not read."""

    def generate(context, builder, signature, arguments):
        emit = LanesEmitter(context, builder, signature.return_type)
        pointer = element_pointer(context, builder, signature.args[0], *arguments[:2])
        return emit.load(pointer, arguments[2], ir.Constant(emit.vector, [0.0] * emit.count))

    return like(source, types.int64, where, like), generate


@intrinsic
def write(typing, target, offset, where, value):
    """Writes the lanes of ``where``."""

    def generate(context, builder, signature, arguments):
        emit = LanesEmitter(context, builder, signature.args[3])
        pointer = element_pointer(context, builder, signature.args[0], *arguments[:2])
        emit.store(pointer, arguments[2], arguments[3])
        return context.get_dummy_value()

    return types.void(target, types.int64, where, value), generate


@intrinsic
def multiply_add(typing, a, b, total, where):
    """total + a*b, rounded once, in the lanes of ``where``; total in the others."""

    def generate(context, builder, signature, arguments):
        a, b, total, where = arguments
        kind = ir.FunctionType(total.type, [total.type] * 3)
        size = 8 * LanesEmitter(context, builder, signature.args[2]).size
        name = f"llvm.fma.v{signature.args[2].count}f{size}"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.select(where, builder.call(function, [a, b, total]), total)

    return total(a, b, total, where), generate


@intrinsic
def every_second(typing, low, high, first):
    """Lane l is element 2*l + first of low and high side by side, or the last of these."""
    if not isinstance(first, types.IntegerLiteral):
        return None

    def generate(context, builder, signature, arguments):
        emit = LanesEmitter(context, builder, signature.return_type)
        most = 2 * emit.count - 1
        picks = [min(2 * lane + first.literal_value, most) for lane in range(emit.count)]
        return builder.shuffle_vector(*arguments[:2], emit.numbers(picks))

    return low(low, high, first), generate


@intrinsic
def interleaved(typing, even, odd, half):
    """even[0], odd[0], even[1], ... : the first register of them, or the second (half 1)."""
    if not isinstance(half, types.IntegerLiteral):
        return None

    def generate(context, builder, signature, arguments):
        emit = LanesEmitter(context, builder, signature.return_type)
        first = half.literal_value * emit.count // 2
        picks = [first + lane // 2 + lane % 2 * emit.count for lane in range(emit.count)]
        return builder.shuffle_vector(*arguments[:2], emit.numbers(picks))

    return even(even, odd, half), generate


@intrinsic
def sum_lanes(typing, value):
    """The sum of a register's lanes, by halves."""

    def generate(context, builder, signature, arguments):
        emit = LanesEmitter(context, builder, signature.args[0])
        (value,), width = arguments, emit.count // 2
        while width:
            other = emit.numbers([(lane + width) % emit.count for lane in range(emit.count)])
            value = builder.fadd(value, builder.shuffle_vector(value, value, other))
            width //= 2
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return value.dtype(value), generate


@intrinsic
def like_lanes(typing, like):
    """How many lanes a register has."""
    count = like.count
    return types.int64(like), lambda *_: ir.Constant(ir.IntType(64), count)


@inlined
def strip(Q, like):
    """Columns of a strip at stride 2, whose three columns of the window come of two registers."""
    count = (Q - 1) // (like_lanes(like) - 1) + 1
    return (Q - 1) // count + 1


@inlined
def window(down, left, W, Q, like):
    """For each column of the window the lanes that it reaches, then those to read at stride 2."""
    return (_lanes(down, left, W, Q, like), _lanes(down, left - 1, W, Q, like),
            _lanes(down, left - 2, W, Q, like), places(left, left + W, 1, like),
            places(left - like_lanes(like), left + W - like_lanes(like), 1, like))  # fmt: skip


@inlined
def _lanes(down, left, W, Q, like):
    """The targets q < Q with 0 <= q*down - left < W."""
    return places((left + down - 1) // down, min(Q, (W - 1 + left) // down + 1), 1, like)


@inlined
def columns(down, u, at, where, like):
    """A source row as each of the three columns of the window sees it."""
    if down == 1:
        return (read(u, at, where[0], like), read(u, at + 1, where[1], like),
                read(u, at + 2, where[2], like))  # fmt: skip
    low = read(u, at, where[3], like)
    high = read(u, at + like_lanes(like), where[4], like)
    return every_second(low, high, 0), every_second(low, high, 1), every_second(low, high, 2)
