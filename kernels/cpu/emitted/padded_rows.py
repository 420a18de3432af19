"""A row copied with zeros at its ends, emitted as LLVM IR: every vector is written once.

And rows of which every second element is taken, one behind the other.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import Emitter, const, element_pointer


class _PaddedRow(Emitter):
    """Vectors of every ``step``-th element, of which only first..end-1 exist."""

    def __init__(self, builder, dtype, read, step, first, end):
        super().__init__(builder, dtype)
        self.read, self.step, self.first, self.end = read, step, first, end

    def exists(self, i):
        """Do all elements of the vector at i exist?"""
        b = self.builder
        return b.and_(b.icmp_signed(">=", i, self.first),
                      b.icmp_signed("<=", b.add(i, const(self.lanes)), self.end))  # fmt: skip

    def inside(self, first, end):
        return self.builder.and_(self.first_lanes(end), self.builder.not_(self.first_lanes(first)))

    def neighbours(self, i, whole):
        if whole:
            return self.builder.load(self.at(self.read, i), align=self.size)
        b = self.builder
        mask = self.inside(b.sub(self.first, i), b.sub(self.end, i))
        return self.masked_load(self.at(self.read, i), mask)

    def every_second(self, i, whole):
        """Two loads, of which the second ends with the last element wanted, and a shuffle."""
        b, parts = self.builder, []
        for skipped in (0, self.lanes - 1):
            at = self.at(self.read, b.add(b.mul(i, const(2)), const(skipped)))
            if whole:
                parts.append(b.load(at, align=self.size))
                continue
            first = b.sub(b.mul(b.sub(self.first, i), const(2)), const(skipped))
            end = b.sub(b.mul(b.sub(self.end, i), const(2)), const(skipped + 1))
            parts.append(self.masked_load(at, self.inside(first, end)))
        low = list(range(0, self.lanes, 2))
        return self.shuffle(*parts, low + [self.lanes + 1 + lane for lane in low])

    def gathered(self, i, whole):
        b = self.builder
        mask = self.inside(b.sub(self.first, i), b.sub(self.end, i))
        kind = ir.VectorType(ir.IntType(64), self.lanes)
        lanes = ir.Constant(kind, list(range(self.lanes)))
        bytes_apart = self._integers(b.mul(self.step, const(self.size)))
        places = b.mul(b.add(lanes, self._integers(i)), bytes_apart)
        places = b.add(places, self._integers(b.ptrtoint(self.read, ir.IntType(64))))
        pointers = b.inttoptr(places, ir.VectorType(self.read.type, self.lanes))
        gather = self.intrinsic(f"llvm.masked.gather.{self.suffix}.v{self.lanes}p0", self.vector,
                                pointers.type, ir.IntType(32), self.mask, self.vector)  # fmt: skip
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        return b.call(gather, [pointers, ir.Constant(ir.IntType(32), self.size), mask, zero])

    def _integers(self, value):
        kind = ir.VectorType(ir.IntType(64), self.lanes)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value,
                                          ir.Constant(ir.IntType(32), 0))  # fmt: skip
        return self.shuffle(one, one, [0] * self.lanes)

    def copy(self, write, count, load):
        """The whole row with one of the three ways to load a vector."""
        b = self.builder

        def full(i):
            with b.if_else(self.exists(i)) as (whole, part):
                with whole:
                    b.store(load(i, True), self.at(write, i), align=self.size)
                with part:
                    b.store(load(i, False), self.at(write, i), align=self.size)

        def tail(i, mask):
            self.masked_store(load(i, False), self.at(write, i), mask)

        self.rows(count, full, tail)


@intrinsic
def pad_row(typing, target, to, source, start, step, first, end, count):
    """target[to + i] = source[start + i*step] for first <= i < end, 0 for the other i < count."""

    def generate(context, builder, signature, arguments):
        target, to, source, start, step, first, end, count = arguments
        write = element_pointer(context, builder, signature.args[0], target, to)
        read = element_pointer(context, builder, signature.args[2], source, start)
        row = _PaddedRow(builder, signature.args[0].dtype, read, step, first, end)
        done = builder.append_basic_block("row.done")
        other = builder.append_basic_block("row.gathered")
        switch = builder.switch(step, other)
        for size, load in ((1, row.neighbours), (2, row.every_second)):
            block = builder.append_basic_block(f"row.{size}")
            switch.add_case(const(size), block)
            builder.position_at_end(block)
            row.copy(write, count, load)
            builder.branch(done)
        builder.position_at_end(other)
        row.copy(write, count, row.gathered)
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    index = types.intp
    signature = types.void(target, index, source, index, index, index, index, index)
    return signature, generate


@intrinsic
def take_even(typing, target, to, source, start, step, rows, count):
    """target[to + row*count + i] = source[start + row*step + 2*i], row < rows, i < count.

    The masks are the same for all rows: a call for each would make them, and branch, every time.
    """

    def generate(context, builder, signature, arguments):
        target, to, source, start, step, rows, count = arguments
        write = element_pointer(context, builder, signature.args[0], target, to)
        read = element_pointer(context, builder, signature.args[2], source, start)
        with cgutils.for_range(builder, rows) as loop:
            line = builder.gep(read, [builder.mul(loop.index, step)])
            row = _PaddedRow(builder, signature.args[0].dtype, line, const(2), const(0), count)
            first = builder.gep(write, [builder.mul(loop.index, count)])
            row.rows(
                count,
                lambda i: builder.store(row.every_second(i, True), row.at(first, i),
                                        align=row.size),
                lambda i, mask: row.masked_store(row.every_second(i, False), row.at(first, i),
                                                 mask),
            )  # fmt: skip
        return context.get_dummy_value()

    return types.void(target, types.intp, source, *[types.intp] * 4), generate
