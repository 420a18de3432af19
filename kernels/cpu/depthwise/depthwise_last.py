"""The gradient of a depthwise window over channels-last images: lanes are channels.

The sums of a few columns of the window go along a row of dy together, so that a vector of it is
loaded once for all of them.  Taps that fall outside the image are left out of the loops.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..emitted.memory import load, step, store
from ..emitted.vectors import VECTOR_BYTES, const, element_pointer, fill_row
from ..jit import array, helper, inlined, int64, kernel, out, prange, triple
from .strips import PlaneEmitter

#: Columns of the window that dw sums in one pass over a row, and pixels side by side in it.
COLUMNS, SIDE = 3, 2


class _RowSums(PlaneEmitter):
    """sums[s] += dy[q] * x[q*down + s*dilation] over the pixels q of a row; lanes are channels."""

    def __init__(self, builder, dtype, x, dy, sums, numbers):
        super().__init__(builder, dtype, ())
        self.x, self.dy, self.sums = x, dy, sums
        self.channels, self.count, self.x_step, self.dy_step, self.x_column, self.apart = numbers

    def emit(self, columns):
        b = self.builder
        whole = b.icmp_signed(">=", self.channels, const(self.lanes))
        with b.if_else(whole) as (full, edge):
            with full:
                self._row(columns, None)
            with edge:
                self._row(columns, self.first_lanes(self.channels))

    def _row(self, columns, mask):
        b = self.builder
        sums = [[self.variable() for _ in range(max(columns, 1))] for _ in range(SIDE)]
        for total in sum(sums, []):
            b.store(self.splat(ir.Constant(self.element, 0.0)), total)
        even = b.sub(self.count, b.srem(self.count, const(SIDE)))
        with cgutils.for_range_slice(b, const(0), even, const(SIDE), self.count.type) as (q, _):
            for side in range(SIDE):
                self._pixel(b.add(q, const(side)), sums[side], columns, mask)
        with cgutils.for_range_slice(b, even, self.count, const(1), self.count.type) as (q, _):
            self._pixel(q, sums[0], columns, mask)
        for s in range(max(columns, 1)):
            place = b.mul(self.apart, const(s))
            total = self.read(self.sums, place, None)
            for side in range(SIDE):
                total = b.fadd(total, b.load(sums[side][s]))
            self.write(total, self.sums, place, None)

    def _pixel(self, q, sums, columns, mask):
        b = self.builder
        dy = self.read(self.dy, b.mul(q, self.dy_step), mask)
        if not columns:
            b.store(b.fadd(b.load(sums[0]), dy), sums[0])
        place = b.mul(q, self.x_step)
        for s in range(columns):
            value = self.read(self.x, b.add(place, b.mul(self.x_column, const(s))), mask)
            b.store(self.fma(value, dy, b.load(sums[s]), None), sums[s])


@intrinsic
def _row_sums(typing, columns, x, xo, dy, yo, sums, so, numbers):
    """``columns`` (a constant) taps of a row, or 0: the sums of dy alone."""
    if not isinstance(columns, types.IntegerLiteral):
        return None
    i = types.intp

    def generate(context, builder, signature, arguments):
        _, *rest, numbers = arguments
        places = (element_pointer(context, builder, signature.args[1 + at], *rest[at : at + 2])
                  for at in (0, 2, 4))  # fmt: skip
        numbers = cgutils.unpack_tuple(builder, numbers)
        emitter = _RowSums(builder, signature.args[5].dtype, *places, numbers)
        emitter.emit(columns.literal_value)
        return context.get_dummy_value()

    numbers = types.UniTuple(types.int64, 6)
    return types.void(columns, x, i, dy, i, sums, i, numbers), generate


@kernel(lambda F: (out(F, 5), out(F, 1), array(F, 5), array(F, 5), out(F, 1), int64,
                   triple, triple))  # fmt: skip
def filters(dw, db, dy, x, work, down, dilation, before):
    """dw and db (unless it is empty), a vector of channels to a task, rows in order."""
    C, _, T, R, S = dw.shape
    N, _, Z, P, Q = dy.shape
    lanes = VECTOR_BYTES // dw.itemsize
    apart = T * R * S + 1  # vectors of a task: the taps, then the bias
    for task in prange((C + lanes - 1) // lanes):
        c, sums = task * lanes, task * apart * lanes
        fill_row(work, sums, dw.dtype.type(0), apart * lanes)
        for row in range(N * Z * P):
            n, z, p = row // (Z * P), row // P % Z, row % P
            yo = n * step(dy, 0) + c + z * step(dy, 2) + p * step(dy, 3)
            xo = n * step(x, 0) + c
            if db.size:
                numbers = (C - c, Q, 0, step(dy, 4), 0, 0)
                _row_sums(0, x, xo, dy, yo, work, sums + (apart - 1) * lanes, numbers)
            for t in range(T):
                d = z * down - before[0] + t * dilation[0]
                for r in range(R):
                    h = p * down - before[1] + r * dilation[1]
                    if 0 <= d < x.shape[2] and 0 <= h < x.shape[3]:
                        _row(dw, dy, yo, x, xo + d * step(x, 2) + h * step(x, 3), work,
                             sums + (t * R + r) * S * lanes, C - c, down, dilation[2],
                             before[2], lanes)  # fmt: skip
        for i in range(min(lanes, C - c)):
            for tap in range(T * R * S):
                at = tap // (R * S) * step(dw, 2) + tap // S % R * step(dw, 3)
                at += (c + i) * step(dw, 0) + tap % S * step(dw, 4)
                store(dw, at, load(work, sums + tap * lanes + i))
            if db.size:
                store(db, (c + i) * step(db, 0), load(work, sums + (apart - 1) * lanes + i))


@helper
def _row(dw, dy, yo, x, xo, work, sums, channels, down, dilation, before, lanes):
    """Adds one row of dy times one row of x to a row of the window's sums."""
    S, Q, W = dw.shape[4], dy.shape[4], x.shape[4]
    s = 0
    while s < S:
        columns = COLUMNS if S - s >= COLUMNS else 1
        # the outputs that all these columns have in common, then each column's own
        first, _ = _outputs(s * dilation - before, down, W, Q)
        _, end = _outputs((s + columns - 1) * dilation - before, down, W, Q)
        first = min(first, end)
        offset = xo + (first * down + s * dilation - before) * step(x, 4)
        numbers = (channels, end - first, down * step(x, 4), step(dy, 4), dilation * step(x, 4),
                   lanes)  # fmt: skip
        if columns == COLUMNS:
            _row_sums(COLUMNS, x, offset, dy, yo + first * step(dy, 4), work, sums + s * lanes,
                      numbers)  # fmt: skip
        else:
            _row_sums(1, x, offset, dy, yo + first * step(dy, 4), work, sums + s * lanes, numbers)
            s += 1
            continue
        for column in range(s, s + columns):
            low, high = _outputs(column * dilation - before, down, W, Q)
            for start, stop in ((low, min(high, first)), (max(low, end), high)):
                if start < stop:
                    offset = xo + (start * down + column * dilation - before) * step(x, 4)
                    numbers = (channels, stop - start, down * step(x, 4), step(dy, 4), 0, lanes)
                    _row_sums(1, x, offset, dy, yo + start * step(dy, 4), work,
                              sums + column * lanes, numbers)  # fmt: skip
        s += columns


@inlined
def _outputs(offset, stride, size, count):
    """The outputs o in 0..count-1 with 0 <= o*stride + offset < size, as (first, end)."""
    first = 0 if offset >= 0 else (stride - 1 - offset) // stride
    end = max(0, min((size - 1 - offset) // stride + 1, count))
    return min(first, end), end
