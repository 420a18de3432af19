"""Bias gradients beside dw: sums of dy, from the copies that the drivers of dw make of its blocks.

A driver adds each block that it has copied, while it is in the cache, to sums of its part of the
pixels, and the parts are added in order at the end.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..emitted.memory import load, step, store
from ..emitted.vectors import Emitter, const, element_pointer, sum_row
from ..jit import helper

#: Sums side by side: an addition takes four cycles, and two begin in each.
CHAINS = 8

#: Vectors that are added before they are added to the others: the error of a sum in order grows
#: with its length.
CHUNK = 256


@intrinsic
def add_vectors(typing, work, to, start, apart, count):
    """The vector work[to] += the vectors work[start + i*apart], i < count, summed beforehand."""

    def generate(context, builder, signature, arguments):
        work, to, start, apart, count = arguments
        e = Emitter(builder, signature.args[0].dtype)
        read = element_pointer(context, builder, signature.args[0], work, start)
        write = e.at(element_pointer(context, builder, signature.args[0], work, to), const(0))
        zero, kind = ir.Constant(e.vector, [0.0] * e.lanes), count.type
        total = cgutils.alloca_once_value(builder, zero)
        sums = [cgutils.alloca_once(builder, e.vector) for _ in range(CHAINS)]

        def add(target, i):
            at = e.at(read, builder.mul(i, apart))
            value = builder.load(at, align=e.size)
            builder.store(builder.fadd(builder.load(target), value), target)

        with cgutils.for_range_slice(builder, const(0), count, const(CHUNK), kind) as (first, _):
            left = builder.sub(count, first)
            chunk = builder.select(builder.icmp_signed("<", left, const(CHUNK)), left, const(CHUNK))
            end = builder.add(first, chunk)
            whole = builder.add(first, builder.and_(chunk, const(-CHAINS)))
            for target in sums:
                builder.store(zero, target)
            with cgutils.for_range_slice(builder, first, whole, const(CHAINS), kind) as (i, _):
                for j, target in enumerate(sums):
                    add(target, builder.add(i, const(j)))
            with cgutils.for_range_slice(builder, whole, end, const(1), kind) as (i, _):
                add(sums[0], i)
            values = [builder.load(target) for target in sums]
            while len(values) > 1:
                values = [builder.fadd(*pair) for pair in zip(values[::2], values[1::2])]
            builder.store(builder.fadd(builder.load(total), values[0]), total)
        value = builder.fadd(builder.load(write, align=e.size), builder.load(total))
        builder.store(value, write, align=e.size)
        return context.get_dummy_value()

    return types.void(work, *[types.intp] * 4), generate


@helper
def add_pixels(work, to, start, apart, pixels, channels, lanes):
    """work[to + k] += the sum of the pixels work[start + i*apart + k], by vectors of channels."""
    for k in range(0, channels, lanes):
        add_vectors(work, to + k, start + k, apart, pixels)


@helper
def add_rows(work, to, start, apart, pixels, channels):
    """work[to + k] += the sum of the row of pixels at work[start + k*apart]."""
    for k in range(channels):
        store(work, to + k, load(work, to + k) + sum_row(work, start + k * apart, pixels))


@helper
def write_sums(db, first, rows, work, at, parts, apart, lanes):
    """db[first : first + rows] = the parts' sums added up, ``apart`` elements from one to the next.

    They are whole vectors, and the first part's are overwritten.
    """
    add_pixels(work, at, at + apart, apart, parts - 1, rows, lanes)
    for k in range(rows):
        store(db, (first + k) * step(db, 0), load(work, at + k))
