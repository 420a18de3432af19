"""Tiles of a Winograd convolution computed again, as direct sums.

Where a tile reads an infinity or a NaN, or what it reads is so large that a transform overflows,
all of its outputs are infinite or NaN.  Only those that read such a pixel should be: such a tile is
computed once more from the pixels and the weights themselves.  Padding is multiplied, as zeros,
which does not show as long as the weights are finite.
"""

from __future__ import annotations

import numpy as np

from ..emitted.memory import step
from ..emitted.padded_rows import pad_row
from ..emitted.pixel_tile import pixel_tile
from ..emitted.strided_tile import address
from ..emitted.vectors import fill_row, finite_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import ROWS
from .pixel_vectors import write_box
from .winograd_program import LAYOUT, PATCH, read_window
from .winograd_transforms import POINTS

#: One tile in so many, at most: a tile costs about ten times what it does by way of transforms.
#: A single pixel is read by no more than four, or nine of a 5x5 window.
SHARE = 4


def run(v, u, w, work, marked, plan) -> bool:
    """Computes the ``marked`` tiles of v = u convolved with w + bias again.

    False, and v is to be computed otherwise, if that costs more, or the weights are not finite.
    """
    program, p = plan.program, plan.program.layout
    if marked.size > p.marks // SHARE:
        return False
    broken = np.zeros(1, np.int64)
    convolve(v.dtype, plan.threads, v, broken, u, w, work, marked, program.places, program.taps, p)
    return not broken[0]


@kernel(lambda F: (out(F, 5), out(int64, 1), array(F, 5), array(F, 6), out(F, 1), array(int64, 1),
                   array(int64, 1), array(int64, 1), LAYOUT))  # fmt: skip
def convolve(v, broken, u, w, work, marked, places, taps, p):
    """The marked tiles of v = w over u; broken[0] is 1 if weights that they need are not finite."""
    vectors = (p.rows + p.lanes - 1) // p.lanes
    tiles = p.planes * p.high * p.wide
    side, outputs = p.side, p.side * p.side
    for slot in prange(p.slots):
        at = p.slots_at + slot * p.slot
        patch = at + taps.size * p.lanes
        result = patch + (p.channels * PATCH + p.lanes - 1) // p.lanes * p.lanes
        for task in range(slot, p.groups * vectors, p.slots):
            g, k0 = task // vectors, task % vectors * p.lanes
            count, packed = min(p.lanes, p.rows - k0), False
            bias = p.bias_at + g * p.panels * p.columns + k0
            for i in range(marked.size):
                if marked[i] // tiles != g:
                    continue
                if not packed:
                    packed = True
                    _pack(work, at, w, g, k0, count, p)
                    if not finite_row(work, at, taps.size * p.lanes):
                        broken[0] = 1
                        break
                plane, y = marked[i] % tiles // (p.high * p.wide), marked[i] // p.wide % p.high
                h, x = side * y, side * (marked[i] % p.wide)
                _read(work, patch, u, plane, g, h - p.lead_h, x - p.lead_w, p)
                for first in range(0, outputs, ROWS):
                    pixel_tile(work.dtype.type(0), min(ROWS, outputs - first), 1,
                               address(work, patch), address(places, first), address(taps, 0),
                               taps.size, address(work, at), p.lanes,
                               address(work, result + first * p.lanes), p.lanes,
                               address(work, bias), 0)  # fmt: skip
                write_box(v, plane, p.depth, g * p.rows + k0, count, h, min(side, v.shape[3] - h),
                          x, min(side, v.shape[4] - x), work, result, side * p.lanes, p.lanes)


@helper
def _pack(work, to, w, g, k0, rows, p):
    """The filters of one vector of target channels: [channel][tap][lanes]."""
    each = p.window * p.window * p.lanes
    if rows < p.lanes:
        fill_row(work, to, work.dtype.type(0), p.channels * each)
    for c in range(p.channels):
        start = g * step(w, 0) + k0 * step(w, 1) + c * step(w, 2)
        read_window(work, to + c * each, w, start, rows, p)


@helper
def _read(work, to, u, plane, g, h0, w0, p):
    """What one tile reads of each channel of a group, with zeros outside the image."""
    zero = work.dtype.type(0)
    first = min(max(0, -w0), POINTS)
    end = max(first, min(POINTS, u.shape[4] - w0))
    start = (plane // p.depth * step(u, 0) + plane % p.depth * step(u, 2) + h0 * step(u, 3)
             + w0 * step(u, 4) + g * p.channels * step(u, 1))  # fmt: skip
    for c in range(p.channels):
        for y in range(POINTS):
            at = to + c * PATCH + y * POINTS
            if h0 + y < 0 or h0 + y >= u.shape[3]:
                fill_row(work, at, zero, POINTS)
            else:
                pad_row(work, at, u, start + c * step(u, 1) + y * step(u, 3), step(u, 4),
                        first, end, POINTS)  # fmt: skip
