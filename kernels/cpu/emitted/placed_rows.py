"""A row whose elements lie anywhere, by a table of places, emitted as LLVM IR.

A table has whole vectors of places, -1 where there is no element.  Most rows of an image are runs
of neighbours even so: a second table says for each vector where its lane 0 would lie if all its
elements were neighbours, which one masked load then reads, APART where they are not, and NOTHING
where there are none.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import Emitter, const, element_pointer

APART, NOTHING = -(2**31), -(2**31) + 1


def tables(places, lanes):
    """(places of whole vectors, beginnings of vectors), int32, for rows (rows, count) of places.

    In both one row follows the other.
    """
    rows, count = places.shape
    padded = np.full((rows, -(-count // lanes) * lanes), -1, np.int32)
    padded[:, :count] = places
    vectors = padded.reshape(-1, lanes)
    exists, first = vectors >= 0, vectors - np.arange(lanes, dtype=np.int32)
    least = np.where(exists, first, np.iinfo(np.int32).max).min(1)
    most = np.where(exists, first, APART).max(1)
    begins = np.where(least == most, least, APART)
    begins[~exists.any(1)] = NOTHING
    return padded.ravel(), begins.astype(np.int32)


class _PlacedRow(Emitter):
    """Vectors of elements behind ``read`` at the places of a table."""

    def __init__(self, builder, dtype, read, places, begins):
        super().__init__(builder, dtype)
        self.read, self.places, self.begins = read, places, begins
        self.integers = ir.VectorType(ir.IntType(32), self.lanes)

    def vectors(self, count, use):
        """use(i, value, mask of the row's elements) of every vector at i that has elements, and

        use(i, None, mask) of the others.
        """
        b = self.builder
        with cgutils.for_range_slice(b, const(0), count, const(self.lanes), count.type) as (i, _):
            begin = b.load(b.gep(self.begins, [b.udiv(i, const(self.lanes))]))
            mask = self.first_lanes(b.sub(count, i))
            with b.if_else(b.icmp_signed("==", begin, self._int32(NOTHING))) as (none, some):
                with none:
                    use(i, None, mask)
                with some:
                    use(i, self._value(i, begin), mask)

    def _value(self, i, begin):
        b = self.builder
        at = b.bitcast(b.gep(self.places, [i]), self.integers.as_pointer())
        places = b.load(at, align=4)
        exists = b.icmp_signed(">=", places, ir.Constant(self.integers, [0] * self.lanes))
        with b.if_else(b.icmp_signed("==", begin, self._int32(APART))) as (apart, beside):
            with apart:
                gathered, gathered_in = self._gather(places, exists), b.block
            with beside:
                loaded = self.masked_load(self.at(self.read, b.sext(begin, ir.IntType(64))), exists)
                loaded_in = b.block
        value = b.phi(self.vector)
        value.add_incoming(gathered, gathered_in)
        value.add_incoming(loaded, loaded_in)
        return value

    def _gather(self, places, exists):
        b, kind = self.builder, ir.VectorType(ir.IntType(64), self.lanes)
        one = b.insert_element(ir.Constant(kind, ir.Undefined),
                               b.ptrtoint(self.read, ir.IntType(64)),
                               ir.Constant(ir.IntType(32), 0))  # fmt: skip
        start = self.shuffle(one, one, [0] * self.lanes)
        size = ir.Constant(kind, [self.size] * self.lanes)
        at = b.add(start, b.mul(b.sext(places, kind), size))
        pointers = b.inttoptr(at, ir.VectorType(self.read.type, self.lanes))
        gather = self.intrinsic(f"llvm.masked.gather.{self.suffix}.v{self.lanes}p0", self.vector,
                                pointers.type, ir.IntType(32), self.mask, self.vector)  # fmt: skip
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        return b.call(gather, [pointers, ir.Constant(ir.IntType(32), self.size), exists, zero])

    def _int32(self, value):
        return ir.Constant(ir.IntType(32), value)


def _row(context, builder, signature, arguments):
    """The row that is read and a pointer to where it goes."""
    target, to, source, start, places, first, begins, vector, _ = arguments
    kinds = signature.args
    write = element_pointer(context, builder, kinds[0], target, to)
    read = element_pointer(context, builder, kinds[2], source, start)
    row = _PlacedRow(builder, kinds[0].dtype, read,
                     element_pointer(context, builder, kinds[4], places, first),
                     element_pointer(context, builder, kinds[6], begins, vector))  # fmt: skip
    return row, write


def _signature(*kinds):
    target, source, places, begins, index = *kinds, types.intp
    return types.void(target, index, source, index, places, index, begins, index, index)


@intrinsic
def take_places(typing, target, to, source, start, places, first, begins, vector, count):
    """target[to + i] = source[start + places[first + i]] for i < count, or 0 where that is -1.

    begins[vector] is that of the first vector.
    """

    def generate(context, builder, signature, arguments):
        row, write = _row(context, builder, signature, arguments)
        zero = ir.Constant(row.vector, [0.0] * row.lanes)

        def use(i, value, mask):
            row.masked_store(zero if value is None else value, row.at(write, i), mask)

        row.vectors(arguments[-1], use)
        return context.get_dummy_value()

    return _signature(target, source, places, begins), generate


@intrinsic
def add_places(typing, target, to, source, start, places, first, begins, vector, count):
    """target[to + i] += source[start + places[first + i]] for i < count, where there is one."""

    def generate(context, builder, signature, arguments):
        row, write = _row(context, builder, signature, arguments)

        def use(i, value, mask):
            if value is not None:
                at = row.at(write, i)
                row.masked_store(builder.fadd(row.masked_load(at, mask), value), at, mask)

        row.vectors(arguments[-1], use)
        return context.get_dummy_value()

    return _signature(target, source, places, begins), generate
