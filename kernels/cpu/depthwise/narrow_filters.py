"""The gradient of a 3x3 window over planes whose rows fit a vector: beside narrow_planes.py.

A filter's nine sums, a lane for each column, stay in registers from the first image to the last.
"""

from __future__ import annotations

from ..emitted.lanes import add
from ..emitted.memory import step, store
from ..emitted.row_lanes import places
from ..jit import FLOATS, Kernel, array, inlined, int64, out, prange
from .narrow_lanes import (
    ROWS,
    columns,
    like_lanes,
    multiply_add,
    read,
    strip,
    sum_lanes,
    vector,
    window,
)


@inlined
def _along(sums, row, dy, where):
    """The sums of one row of the window, + dy times a source row."""
    return (multiply_add(row[0], dy, sums[0], where[0]),
            multiply_add(row[1], dy, sums[1], where[1]),
            multiply_add(row[2], dy, sums[2], where[2]))  # fmt: skip


def _filters(name, down, strips=False, part=1):
    """The kernel for one stride: dw (K, 1, 1, 3, 3), and db unless it is empty."""

    def body(dw, db, dy, x, top, left, groups):
        for k in prange(dw.shape[0]):
            zero = vector(dw.dtype.type(0), part)
            _filter(down, strips, dw, db, dy, x, top, left, groups, k, zero)

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), out(F, 1), array(F, 5), array(F, 5),
                                   int64, int64, int64), FLOATS)  # fmt: skip


@inlined
def _filter(down, strips, dw, db, dy, x, top, left, groups, k, zero):
    """One filter: its sums stay in registers from the first image to the last."""
    N, K, _, P, Q = dy.shape
    H, W = x.shape[3], x.shape[4]
    where, there = window(down, left, W, Q, zero), places(0, Q, 1, zero)
    sums, total = ((zero, zero, zero), (zero, zero, zero), (zero, zero, zero)), zero
    first = k // (K // groups) * step(x, 1) - left
    for n in range(N):
        yo, xo = n * step(dy, 0) + k * step(dy, 1), n * step(x, 0) + first
        if strips:
            width = strip(Q, zero)
            for p in range(0, P, ROWS):
                for q in range(0, Q, width):
                    count = min(width, Q - q)
                    sums = _image_down(sums, dy, yo + p * step(dy, 3) + q, min(ROWS, P - p),
                                       places(0, count, 1, zero), x, xo + 2 * q, H, top - 2 * p,
                                       window(2, left - 2 * q, W, count, zero), zero)  # fmt: skip
        elif down == 1:
            sums = _image(sums, dy, yo, P, there, x, xo, H, top, where, zero)
        else:
            sums = _image_down(sums, dy, yo, P, there, x, xo, H, top, where, zero)
        if db.size:
            for p in range(P):
                for q in range(0, Q, like_lanes(zero)):
                    there = places(0, Q - q, 1, zero)
                    total = add(total, read(dy, yo + p * step(dy, 3) + q, there, zero))
    to = k * step(dw, 0)
    _store_sums(dw, to, sums[0])
    _store_sums(dw, to + step(dw, 3), sums[1])
    _store_sums(dw, to + 2 * step(dw, 3), sums[2])
    if db.size:
        store(db, k * step(db, 0), sum_lanes(total))


@inlined
def _store_sums(dw, at, row):
    store(dw, at, sum_lanes(row[0]))
    store(dw, at + step(dw, 4), sum_lanes(row[1]))
    store(dw, at + 2 * step(dw, 4), sum_lanes(row[2]))


@inlined
def _image(sums, dy, yo, P, there, x, xo, H, top, where, zero):
    """Stride 1: a source row times the three rows of dy that it reaches, which move on with it."""
    upper, middle, lower = sums
    last, previous = zero, zero  # rows of dy of h + top - 2 and of h + top - 1
    if 0 <= top - 2 < P:
        last = read(dy, yo + (top - 2) * step(dy, 3), there, zero)
    if 0 <= top - 1 < P:
        previous = read(dy, yo + (top - 1) * step(dy, 3), there, zero)
    for h in range(min(H, P + 2 - top)):
        p, this = h + top, zero
        row = columns(1, x, xo + h * step(x, 3), where, zero)
        if p < P:
            this = read(dy, yo + p * step(dy, 3), there, zero)
            upper = _along(upper, row, this, where)
        if 0 <= p - 1 < P:
            middle = _along(middle, row, previous, where)
        if 0 <= p - 2:
            lower = _along(lower, row, last, where)
        last, previous = previous, this
    return upper, middle, lower


@inlined
def _image_down(sums, dy, yo, P, there, x, xo, H, top, where, zero):
    """Stride 2: a row of dy times three source rows, the last of which is the next one's first."""
    upper, middle, lower = sums
    row, h = (zero, zero, zero), -top
    if 0 <= h < H:
        row = columns(2, x, xo + h * step(x, 3), where, zero)
    for p in range(P):
        h = 2 * p - top
        this = read(dy, yo + p * step(dy, 3), there, zero)
        if 0 <= h < H:
            upper = _along(upper, row, this, where)
        if 0 <= h + 1 < H:
            row = columns(2, x, xo + (h + 1) * step(x, 3), where, zero)
            middle = _along(middle, row, this, where)
        if 0 <= h + 2 < H:
            row = columns(2, x, xo + (h + 2) * step(x, 3), where, zero)
            lower = _along(lower, row, this, where)
    return upper, middle, lower


#: The keys are those of narrow_planes.py.
KERNELS = {
    "same": _filters("narrow_filters", 1),
    "same half": _filters("narrow_filters_half", 1, part=2),
    "down": _filters("narrow_filters_down", 2),
    "down half": _filters("narrow_filters_down_half", 2, part=2),
    "strips": _filters("narrow_filters_strips", 2, strips=True),
}
