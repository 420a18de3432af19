"""Depthwise convolution of channels-last images: lanes are channels, and no lane is at a border.

Several neighbouring pixels of one vector of channels are summed at once, so that a tap's weights
are loaded once for all of them.  Taps that fall outside the image are left out of the loops: a
pixel's taps on an axis are an arithmetic progression, at any stride and dilation and in both
directions, and pixels share a block where theirs are the same.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import array, helper, inlined, int64, kernel, out, prange, triple
from .memory import load, step, store
from .strips import PlaneEmitter
from .vectors import VECTOR_BYTES, const, fill_row, pointer

#: Pixels of a block: accumulators that hide the latency of a multiply-add, and a few more.
PIXELS = 8

#: Columns of the window that dw sums in one pass over a row, and pixels side by side in it.
COLUMNS, SIDE = 3, 2

_NUMBERS = types.UniTuple(types.int64, 13)


class _Pixels(PlaneEmitter):
    def __init__(self, builder, dtype, x, w, y, b, numbers):
        super().__init__(builder, dtype, ())
        self.x, self.w, self.y, self.b = x, w, y, b
        (self.channels, self.biased, self.x_step, self.y_step, *rest) = numbers
        self.axes = list(zip(rest[0::3], rest[1::3], rest[2::3]))  # count, x step, w step

    def emit(self, pixels):
        b = self.builder
        mask = self.first_lanes(self.channels)
        whole = b.icmp_signed(">=", self.channels, const(self.lanes))
        with b.if_else(whole) as (full, edge):
            with full:
                self._block(pixels, None)
            with edge:
                self._block(pixels, mask)

    def _block(self, pixels, mask):
        b = self.builder
        sums = [self.variable() for _ in range(pixels)]
        for total in sums:
            b.store(self.splat(ir.Constant(self.element, 0.0)), total)
        with b.if_then(b.icmp_signed("!=", self.biased, const(0))):
            start = self.read(self.b, const(0), mask)
            for total in sums:
                b.store(start, total)
        self._taps(self.axes, self.x, self.w, sums, mask)
        place = self.y
        for total in sums:
            self.write(b.load(total), place, const(0), mask)
            place = b.gep(place, [self.y_step])

    def _taps(self, axes, x, w, sums, mask):
        """A loop for each axis of the window, and in the innermost the pixels."""
        b = self.builder
        if axes:
            count, x_step, w_step = axes[0]
            with cgutils.for_range(b, count) as loop:
                x, w = (b.gep(at, [b.mul(loop.index, by)]) for at, by in ((x, x_step), (w, w_step)))
                self._taps(axes[1:], x, w, sums, mask)
            return
        weights = self.read(w, const(0), mask)
        for total in sums:
            value = self.read(x, const(0), mask)
            b.store(self.fma(value, weights, b.load(total), None), total)
            x = b.gep(x, [self.x_step])


@intrinsic
def _pixels(typing, pixels, x, xo, w, wo, y, yo, b, bo, numbers):
    """``pixels`` (a constant) neighbours of one vector of channels."""
    if not isinstance(pixels, types.IntegerLiteral):
        return None
    i = types.intp

    def generate(context, builder, signature, arguments):
        _, *rest, numbers = arguments
        places = (pointer(context, builder, signature.args[1 + at], *rest[at : at + 2])
                  for at in (0, 2, 4, 6))  # fmt: skip
        numbers = cgutils.unpack_tuple(builder, numbers)
        emitter = _Pixels(builder, signature.args[5].dtype, *places, numbers)
        emitter.emit(pixels.literal_value)
        return context.get_dummy_value()

    return types.void(pixels, x, i, w, i, y, i, b, i, _NUMBERS), generate


@inlined
def progression(o, up, down, before, dilation, window, size):
    """The taps of target ``o`` that read the source: (first, tap step, count, source, its step)."""
    first, tap_step, count, source, source_step = 0, 1, 0, 0, 0
    for tap in range(window):
        place = o * down - before + tap * dilation if up == 1 else o + before - tap * dilation
        if place % up or place < 0 or place // up >= size:
            continue
        place //= up
        if count == 0:
            first, source = tap, place
        elif count == 1:
            tap_step, source_step = tap - first, place - source
        count += 1
    return first, tap_step, count, source, source_step


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 4), array(F, 1), int64, int64,
                   triple, triple))  # fmt: skip
def rows(v, u, w, b, up, down, dilation, before):
    """v = u convolved with w (T, R, S, C) + b, a row at a time; up and down as in strips.py."""
    N, C, D, P, Q = v.shape
    T, R, S, _ = w.shape
    for task in prange(N * D * P):
        n, z, p = task // (D * P), task // P % D, task % P
        t0, t_step, t_count, d, d_step = progression(z, up, down, before[0], dilation[0], T,
                                                     u.shape[2])  # fmt: skip
        r0, r_step, r_count, h, h_step = progression(p, up, down, before[1], dilation[1], R,
                                                     u.shape[3])  # fmt: skip
        numbers = (t_count, d_step * step(u, 2), t_step * step(w, 0),
                   r_count, h_step * step(u, 3), r_step * step(w, 1))  # fmt: skip
        uo = n * step(u, 0) + d * step(u, 2) + h * step(u, 3)
        vo = n * step(v, 0) + z * step(v, 2) + p * step(v, 3)
        wo = t0 * step(w, 0) + r0 * step(w, 1)
        for f in range(min(up, Q)):
            q = f
            while q < Q:
                here = progression(q, up, down, before[2], dilation[2], S, u.shape[4])
                last = q + (PIXELS - 1) * up
                block = False
                if last < Q:
                    there = progression(last, up, down, before[2], dilation[2], S, u.shape[4])
                    block = here[0] == there[0] and 0 < here[2] == there[2]
                _vectors(v, vo + q * step(v, 4), u, uo + here[3] * step(u, 4), w,
                         wo + here[0] * step(w, 2), b, block, down * step(u, 4), up * step(v, 4),
                         numbers + (here[2], here[4] * step(u, 4), here[1] * step(w, 2)))  # fmt: skip
                q += PIXELS * up if block else up


@helper
def _vectors(v, vo, u, uo, w, wo, b, block, u_step, v_step, numbers):
    """All channels of one block of pixels, or of one pixel."""
    C, lanes = v.shape[1], VECTOR_BYTES // v.itemsize
    for c in range(0, C, lanes):
        every = (C - c, 1 if b.size else 0, u_step, v_step) + numbers
        bias = c if b.size else 0
        if block:
            _pixels(PIXELS, u, uo + c, w, wo + c, v, vo + c, b, bias, every)
        else:
            _pixels(1, u, uo + c, w, wo + c, v, vo + c, b, bias, every)


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
        places = (pointer(context, builder, signature.args[1 + at], *rest[at : at + 2])
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
