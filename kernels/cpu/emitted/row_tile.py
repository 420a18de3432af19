"""The register tile whose vectors lie apart: two pieces of any two rows of an image.

Where sums are short, as in a first layer, writing them to a temporary and copying from there what
is no row's end costs as much as computing them.  Here each vector of a tile has a place of its own
in B and in C, and only as many elements of it as the row still has are written.
"""

from __future__ import annotations

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..jit import helper
from ..microkernel import ROWS, Tile
from .vectors import cases, const, element_pointer


class _Apart(Tile):
    def __init__(self, builder, dtype, rows, b_gap, c_gap, counts):
        super().__init__(builder, dtype, rows, table_of_a=False)
        self.b_gap, self.c_gap = b_gap, c_gap
        self.masks = [self.first_lanes(count) for count in counts]

    def _column(self, b, j):
        return self.at(b, self.builder.mul(self.b_gap, const(j)))

    def _cell(self, c, ldc, i, j):
        b = self.builder
        return self.at(c, b.add(b.mul(ldc, const(i)), b.mul(self.c_gap, const(j))))

    def _read(self, c, ldc, i, j):
        return self.masked_load(self._cell(c, ldc, i, j), self.masks[j])

    def _write(self, value, c, ldc, i, j):
        self.masked_store(value, self._cell(c, ldc, i, j), self.masks[j])


@intrinsic
def _tile_apart(typing, rows, a, ao, a_step, b, bo, b_gap, table, to, depth, c, co, c_gap, ldc,
                start, so, resume, counts):  # fmt: skip
    """A switch over ``rows`` with one emitted tile per case; see `tile_apart`."""
    i = types.intp
    signature = types.void(i, a, i, i, b, i, i, table, i, i, c, i, i, i, start, i, i, counts)

    def generate(context, builder, signature, arguments):
        rows, _, ao, a_step, _, bo, b_gap, _, to, depth, _, co, c_gap, ldc, *rest = arguments
        _, so, resume, counts = rest
        pa, pb, pt, pc, ps = (
            element_pointer(context, builder, signature.args[position], arguments[position], offset)
            for position, offset in ((1, ao), (4, bo), (7, to), (10, co), (14, so))
        )
        counts = cgutils.unpack_tuple(builder, counts)
        resumed = builder.icmp_signed("!=", resume, const(0))
        for count in cases(builder, rows, range(1, ROWS + 1)):
            emitter = _Apart(builder, signature.args[10].dtype, count, b_gap, c_gap, counts)
            emitter.emit(pa, a_step, pb, pt, depth, pc, ldc, ps, resumed)
        return context.get_dummy_value()

    return signature, generate


@helper
def tile_apart(rows, a, ao, a_step, b, bo, b_gap, table, to, depth, c, co, c_gap, ldc, start, so,
               resume, counts):  # fmt: skip
    """A tile (microkernel.py) whose vectors lie b_gap apart in B and c_gap in C.

    Of vector j only the first counts[j] elements of C are written or, if ``resume``, read.
    """
    _tile_apart(rows, a, ao, a_step, b, bo, b_gap, table, to, depth, c, co, c_gap, ldc, start, so,
                resume, counts)  # fmt: skip
