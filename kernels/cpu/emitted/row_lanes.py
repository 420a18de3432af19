"""Vectors over several short rows: lane l is place l % (count / rows) of row l // (count / rows).

Beside `lanes`, whose vectors lie along one row.  Steps and the number of rows are constants, so
that a load is no more than its loads and shuffles.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .lanes import I64, Lanes, LanesEmitter, first_case
from .vectors import element_pointer


def _constant(kind):
    return kind.literal_value if isinstance(kind, types.IntegerLiteral) else None


def _joined(emit, parts, picks):
    """Two vectors by two, until one is left; ``picks`` of the first round, then all."""
    builder = emit.builder
    while len(parts) > 1:
        length = parts[0].type.count
        lanes = picks or list(range(2 * length))
        picks = None
        parts = [
            builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)),
                                                          lanes))
            for low, high in zip(parts[::2], parts[1::2])
        ]  # fmt: skip
    return parts[0]


def _load_apart(emit, pointer, step):
    """Elements 0, step, 2 * step, ...: whole vectors, of which the last ends with the last one."""
    n, last = emit.count, (emit.count - 1) * step
    starts = [part * n for part in range(step - 1)] + [last - n + 1]
    owner = [sum(lane * step >= start + n for start in starts) for lane in range(n)]
    kept = None
    for i, start in enumerate(starts):
        part = emit.load(emit.builder.gep(pointer, [ir.Constant(I64, start)]), None, None)
        picks = [
            n + lane * step - start if owner[lane] == i
            else lane * step if i == 1 and owner[lane] == 0  # still where the first vector has it
            else lane
            for lane in range(n)
        ]  # fmt: skip
        kept = part if i == 0 else emit.builder.shuffle_vector(kept, part, emit.numbers(picks))
    return kept


@intrinsic
def rows_load(typing, array, offset, stride, rows, jump, like):
    """``rows`` rows, ``jump`` apart, of elements ``stride`` (constants) apart, all read.

    With several rows the stride is 1 or 2, and the element behind the last one of a row with
    stride 2 is read too.
    """
    step, count = _constant(stride), _constant(rows)
    if step is None or count is None or (step > 2 and count > 1):
        return None
    i = types.int64

    def generate(context, builder, signature, arguments):
        array, offset, _, _, jump, _ = arguments
        kind = signature.return_type
        whole = LanesEmitter(context, builder, kind)
        pointer = element_pointer(context, builder, signature.args[0], array, offset)
        if step == 2 and count == 1:
            return whole.load_every_second(pointer, lambda lanes: None, None)
        if step > 2:
            return _load_apart(whole, pointer, step)
        length = step * kind.count // count
        emit = LanesEmitter(context, builder, Lanes(kind.dtype, length))
        parts = []
        for row in range(count):
            parts.append(emit.load(pointer, None, None))
            if row + 1 < count:
                pointer = builder.gep(pointer, [jump])
        if count == 1:
            return parts[0]
        return _joined(emit, parts, list(range(0, 2 * length, 2)) if step == 2 else None)

    return Lanes(array.dtype, like.count)(array, i, stride, rows, i, like), generate


@intrinsic
def rows_store(typing, array, offset, rows, jump, end, value):
    """Writes the first ``end`` places of each row; rows are ``jump`` apart."""
    count = _constant(rows)
    if count is None:
        return None
    i = types.int64

    def generate(context, builder, signature, arguments):
        array, offset, _, jump, end, value = arguments
        kind = signature.args[5]
        length = kind.count // count
        emit = LanesEmitter(context, builder, Lanes(kind.dtype, length))
        first = element_pointer(context, builder, signature.args[0], array, offset)
        zero = ir.Constant(I64, 0)

        def write(mask):
            pointer = first
            for row in range(count):
                lanes = emit.numbers(range(row * length, (row + 1) * length))
                part = value if count == 1 else builder.shuffle_vector(value, value, lanes)
                emit.store(pointer, mask, part)
                pointer = builder.gep(pointer, [jump])

        first_case(builder, [(emit.covers(zero, end, length), lambda: write(None))],
                lambda: write(emit.between(zero, end)))  # fmt: skip
        return context.get_dummy_value()

    return types.void(array, i, rows, i, i, value), generate


@intrinsic
def places(typing, first, end, rows, like):
    """Which lanes have their place within the row in first..end-1."""
    count = _constant(rows)
    if count is None:
        return None
    i = types.int64

    def generate(context, builder, signature, arguments):
        emit = LanesEmitter(context, builder, signature.args[3])
        length = emit.count // count
        return emit.between(*arguments[:2], lambda n: [lane % length for lane in range(n)])

    return Lanes(types.boolean, like.count)(i, i, rows, like), generate


@intrinsic
def both(typing, a, b):
    """Where two comparisons hold."""
    return a(a, b), lambda context, builder, signature, arguments: builder.and_(*arguments)


@intrinsic
def either(typing, a, b):
    """The bits of two vectors of integers together, lane by lane."""
    return a(a, b), lambda context, builder, signature, arguments: builder.or_(*arguments)


@intrinsic
def plus(typing, a, b):
    """a + b of vectors of integers, lane by lane."""
    return a(a, b), lambda context, builder, signature, arguments: builder.add(*arguments)


@intrinsic
def times(typing, a, b):
    """a * b, lane by lane."""
    return a(a, b), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def in_range(typing, a, first, end):
    """Which lanes of a vector of integers lie in first..end-1."""

    def generate(context, builder, signature, arguments):
        a, first, end = arguments
        emit = LanesEmitter(context, builder, signature.args[0])
        return builder.icmp_unsigned(
            "<", builder.sub(a, emit.splat(first)), emit.splat(builder.sub(end, first))
        )

    return Lanes(types.boolean, a.count)(a, a.dtype, a.dtype), generate


@intrinsic
def packed_store(typing, array, offset, value, where):
    """Writes the lanes where a comparison held one behind the other; returns how many."""

    def generate(context, builder, signature, arguments):
        array, offset, value, where = arguments
        kind = signature.args[2]
        emit = LanesEmitter(context, builder, kind)
        pointer = element_pointer(context, builder, signature.args[0], array, offset)
        emit.call("compressstore", ir.VoidType(), [value, pointer, where])
        count = builder.ctpop(builder.bitcast(where, ir.IntType(kind.count)))
        return builder.zext(count, I64) if kind.count < 64 else count

    return types.int64(array, types.int64, value, where), generate
