"""Boxes of an image as vectors of channels: [row][pixel][lanes], a vector for each pixel.

What transforms pixels, and not channels, works on these without ever shuffling lanes.
"""

from __future__ import annotations

from ..emitted.memory import load, step, store
from ..emitted.transposition import transpose
from ..emitted.vectors import copy_row, fill_row
from ..jit import helper


@helper
def read_box(work, to, row, lanes, u, plane, depth, c0, channels, h0, high, w0, wide):
    """work[to + y*row + x*lanes + c] = u[n, c0 + c, d, h0 + y, w0 + x], zero outside the image.

    ``plane`` is n*depth + d; ``channels`` is at most ``lanes``, and lanes behind them are left.
    """
    zero = u.dtype.type(0)
    first = min(max(0, -w0), wide)
    end = max(first, min(wide, u.shape[4] - w0))
    base = (plane // depth * step(u, 0) + c0 * step(u, 1) + plane % depth * step(u, 2)
            + (w0 + first) * step(u, 4))  # fmt: skip
    c_step, w_step = step(u, 1), step(u, 4)
    for y in range(high):
        at, h = to + y * row, h0 + y
        if h < 0 or h >= u.shape[3]:
            fill_row(work, at, zero, wide * lanes)
            continue
        fill_row(work, at, zero, first * lanes)
        fill_row(work, at + end * lanes, zero, (wide - end) * lanes)
        start, inside = base + h * step(u, 3), at + first * lanes
        if w_step == 1:
            transpose(work, inside, lanes, u, start, c_step, channels, end - first, lanes)
        elif c_step == 1:
            for x in range(end - first):
                copy_row(work, inside + x * lanes, u, start + x * w_step, channels)
        else:
            for x in range(end - first):
                for c in range(channels):
                    store(work, inside + x * lanes + c, load(u, start + x * w_step + c * c_step))


@helper
def write_box(v, plane, depth, c0, channels, h0, high, w0, wide, work, start, row, lanes):
    """v[n, c0 + c, d, h0 + y, w0 + x] = work[start + y*row + x*lanes + c]; all inside the image."""
    c_step, w_step = step(v, 1), step(v, 4)
    base = (plane // depth * step(v, 0) + c0 * c_step + plane % depth * step(v, 2)
            + h0 * step(v, 3) + w0 * w_step)  # fmt: skip
    for y in range(high):
        to, at = base + y * step(v, 3), start + y * row
        if w_step == 1:
            transpose(v, to, c_step, work, at, lanes, wide, channels, lanes)
        elif c_step == 1:
            for x in range(wide):
                copy_row(v, to + x * w_step, work, at + x * lanes, channels)
        else:
            for x in range(wide):
                for c in range(channels):
                    store(v, to + x * w_step + c * c_step, load(work, at + x * lanes + c))
