"""The gradient of a window over one plane, emitted as LLVM IR: the companion of strips.py."""

from __future__ import annotations

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..emitted.vectors import const, element_pointer
from .strips import BLOCK, INT, NUMBERS, WHOLE, PlaneEmitter, switch


class _Filter(PlaneEmitter):
    """sums[r, s] += dy times the shifted x, over a plane: lanes are summed by the caller."""

    def __init__(self, builder, dtype, numbers, x, sums, bias, dy, down):
        super().__init__(builder, dtype, numbers)
        self.x, self.memory, self.bias, self.dy, self.down = x, sums, bias, dy, down

    def emit(self, rows, columns):
        """Whole blocks of rows, then the rows that are left one by one."""
        b, n = self.builder, self.n
        block = BLOCK[1] if rows < WHOLE else 2  # the sums of 5x5 leave few registers
        places = {(r, s): b.add(b.mul(n.weight_row, const(r)), b.mul(n.weight_column, const(s)))
                  for r in range(rows) for s in range(columns)}  # fmt: skip
        self.sums = {tap: self.variable() for tap in places}
        for tap, place in places.items():
            b.store(self.read(self.memory, place, None), self.sums[tap])
        self.total = self.variable()
        b.store(self.read(self.bias, const(0), None), self.total)
        step = b.mul(n.every, const(block))
        behind = b.sub(step, n.every)
        whole = cgutils.alloca_once_value(b, n.first)
        with cgutils.for_range_slice(b, n.first, b.sub(n.end, behind), step, INT) as (i, _):
            self._rows(i, block, rows, columns)
            b.store(b.add(i, step), whole)
        with cgutils.for_range_slice(b, b.load(whole), n.end, n.every, INT) as (i, _):
            self._rows(i, 1, rows, columns)
        for tap, place in places.items():
            self.write(b.load(self.sums[tap]), self.memory, place, None)
        with b.if_then(b.icmp_signed("!=", n.resume, const(0))):
            self.write(b.load(self.total), self.bias, const(0), None)

    def _rows(self, i, block, rows, columns):
        b, n = self.builder, self.n
        uses = {}
        for k in range(block):
            for r in range(rows):
                uses.setdefault(k * self.down + r, []).append((k, r))
        first = b.sub(b.mul(i, const(self.down)), n.top)
        sources = self.rows_from(self.x, first, n.source_row, n.every, uses)
        targets = self.rows_from(self.dy, i, n.target_row, n.every, range(block))
        with cgutils.for_range_slice(b, n.column, n.last, const(self.lanes), INT) as (j, _):
            found = self.columns(j, self.down, columns)
            there = self.inside(j, 1, n.target_columns)
            found = [(start, masks, b.and_(used, there)) for start, masks, used in found]

            def run(whole):
                mask = None if whole else there
                read = [(start, [None] * len(masks), None) if whole else (start, masks, used)
                        for start, masks, used in found]  # fmt: skip
                dy = [self.read(row, j, mask) for _, _, row in targets]
                for value in dy:
                    b.store(b.fadd(b.load(self.total), value), self.total)
                for distance, row, pointer in sources:
                    with b.if_then(b.icmp_unsigned("<", row, n.source_rows)):
                        self._multiply(pointer, uses[distance], read, dy)

            self.both_ways([used for _, _, used in found]
                           + [mask for _, masks, _ in found for mask in masks], run)  # fmt: skip

    def _multiply(self, row, uses, found, dy):
        for s, (start, masks, used) in enumerate(found):
            value = self.source(row, start, masks)
            for k, r in uses:
                total = self.sums[r, s]
                result = self.fma(value, dy[k], self.builder.load(total), used)
                self.builder.store(result, total)


@intrinsic
def filter_plane(typing, down, rows, columns, x, xo, sums, so, bias, bo, dy, yo, numbers):
    """Adds a plane of dy times x to the vectors of a filter's sums, and of dy to bias if resume.

    The sum of tap (r, s) lies at weight_row*r + weight_column*s behind so, and has one element
    a lane.
    """
    if not isinstance(down, types.IntegerLiteral):
        return None
    i = types.intp
    signature = types.void(down, i, i, x, i, sums, i, bias, i, dy, i, NUMBERS)

    def generate(context, builder, signature, arguments):
        _, rows, columns, *rest, numbers = arguments
        kinds = signature.args[3:]
        x, sums, bias, dy = (element_pointer(context, builder, kinds[at], *rest[at : at + 2])
                             for at in (0, 2, 4, 6))  # fmt: skip
        numbers = cgutils.unpack_tuple(builder, numbers)
        dtype = signature.args[9].dtype
        emitter = _Filter(builder, dtype, numbers, x, sums, bias, dy, down.literal_value)
        switch(builder, rows, columns, emitter.emit)
        return context.get_dummy_value()

    return signature, generate
