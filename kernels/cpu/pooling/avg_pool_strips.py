"""Strips of windows side by side for average pooling: sums of taps over how many of them count.

Windows of 2 x 2 and 3 x 3, the frequent ones, are unrolled where all rows of their taps lie inside,
the latter also at the edges of a row: which lanes see a column of taps is worked out once.
"""

from __future__ import annotations

from numba.extending import intrinsic

from ..emitted.lanes import add, choose, splat_like
from ..emitted.memory import step
from ..emitted.row_lanes import rows_load, rows_store, times
from ..jit import inlined
from .window import lanes_inside


@intrinsic
def over(typing, a, b):
    """a / b, lane by lane."""
    return a(a, b), lambda context, builder, signature, arguments: builder.fdiv(*arguments)


def _any(stride, rows):
    @inlined
    def total_of(x, at, x_jump, first, last, W, taps, S, zeros):
        """The sums of windows of which some taps may lie outside."""
        t0, t1, r0, r1 = taps
        total = zeros
        for t in range(t0, t1):
            for r in range(r0, r1):
                here = at + t * step(x, 2) + r * step(x, 3) + first
                for s in range(S):
                    value = rows_load(x, here + s, stride, rows, x_jump, zeros)
                    start = first + s
                    if start < 0 or last + s >= W:
                        value = choose(lanes_inside(start, stride, W, rows, zeros), value, zeros)
                    total = add(total, value)
        return total

    return total_of


def _square(stride, rows, side):
    @inlined
    def total_of(x, at, x_jump, zeros):
        """The sums of windows of ``side`` rows of as many taps, all inside."""
        total = zeros
        for r in range(side):
            here = at + r * step(x, 3)
            for s in range(side):
                total = add(total, rows_load(x, here + s, stride, rows, x_jump, zeros))
        return total

    return total_of


def _edged(stride, rows):
    @inlined
    def total_of(x, at, x_jump, first, W, zeros):
        """The sums of windows of 3 x 3, columns of which may lie outside."""
        left = lanes_inside(first, stride, W, rows, zeros)
        middle = lanes_inside(first + 1, stride, W, rows, zeros)
        right = lanes_inside(first + 2, stride, W, rows, zeros)
        total = zeros
        for r in range(3):
            here = at + r * step(x, 3)
            value = rows_load(x, here, stride, rows, x_jump, zeros)
            total = add(total, choose(left, value, zeros))
            value = rows_load(x, here + 1, stride, rows, x_jump, zeros)
            total = add(total, choose(middle, value, zeros))
            value = rows_load(x, here + 2, stride, rows, x_jump, zeros)
            total = add(total, choose(right, value, zeros))
        return total

    return total_of


def strips_of(stride, rows):
    """``rows`` rows of windows side by side, ``stride`` apart; memory beyond a row may be read."""
    two, three = _square(stride, rows, 2), _square(stride, rows, 3)
    edged, some = _edged(stride, rows), _any(stride, rows)

    @inlined
    def strip(y, to, y_jump, x, at, x_jump, q, count, W, taps, S, before, side, area, wide, zeros):
        """``side``: that of a square window of which all rows lie inside, else 0."""
        first = q * stride - before
        last = first + (count - 1) * stride
        inner = first >= 0 and last + S <= W
        if side == 3 and inner:
            total = three(x, at + first, x_jump, zeros)
        elif side == 3:
            total = edged(x, at + first, x_jump, first, W, zeros)
        elif side == 2 and inner:
            total = two(x, at + first, x_jump, zeros)
        else:
            total = some(x, at, x_jump, first, last, W, taps, S, zeros)
        divisor = times(rows_load(wide, q, 1, rows, 0, zeros), splat_like(area, zeros))
        rows_store(y, to + q, rows, y_jump, count, over(total, divisor))

    return strip
