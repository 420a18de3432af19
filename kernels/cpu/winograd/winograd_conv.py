"""The forward convolution and dx at stride 1 by Winograd's minimal filtering.

A tile takes 36 products a channel: for 4 x 4 outputs of a 3 x 3 window instead of 144, for 2 x 2 of
a 5 x 5 window instead of 100 (winograd_transforms.py has the algebra).  A thread transforms a block
of tiles, a vector of channels at a time, and then, for one panel of target channels after another,

1. has the weights transformed:                            U [point][channel][columns]
2. multiplies, a matrix product for each point:            M [point][tile][columns]
3. transforms back, a vector of target channels at a time, and writes the rows.

The transformed tiles V [point][channels / lanes][tile][lanes] are what the register tile
broadcasts, a vector of the sum at a time (`tile_of_vectors`).  U of a panel and M stay in L2.
Where all of U does, or there are many more tiles than target channels, it is made once.  Else each
thread makes the U of a panel when it comes to it: four times the size of the weights, it would
cost more to write and read than to make.  The threads share the blocks, or, so that not each of
them makes all of U, the panels of every block.

What the transforms cancel is larger than what is left: the relative L2 error is 1e-6 to 4e-6 in
float32, ten times that of a direct sum, so precision="strict" goes another way.
"""

from __future__ import annotations

import numpy as np
from numba import types

from ..emitted.memory import step, store
from ..emitted.vectors import fill_row, finite_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import ROWS, tile_of_vectors
from . import winograd_again
from .pixel_vectors import read_box, write_box
from .winograd_program import LAYOUT, block_of, part, read_window
from .winograd_transforms import (
    POINTS,
    PRODUCTS,
    transform_outputs,
    transform_signal,
    transform_window,
)

#: CHUNK steps of a panel of U stay in L1.
CHUNK = 256


def run(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, 1, R, R) + bias.

    An infinity in what a tile reads reaches all of its outputs here: tiles that are not finite are
    computed again.  False, and v is to be computed otherwise, if they are many.
    """
    dtype, program = v.dtype, plan.program
    work, p = workspace[: program.size * v.itemsize].view(dtype), program.layout
    work[: p.u_at] = 0
    if bias.size:
        rows = work[p.bias_at : p.u_at].reshape(p.groups, -1)
        rows[:, : p.rows] = bias.reshape(p.groups, p.rows)
    if p.kept:
        pack(dtype, plan.threads, work, w, program.flip, p)
    convolve(dtype, plan.threads, v, u, w, work, program.table, program.flip, p)
    marked = np.flatnonzero(work[: p.marks])
    return not marked.size or winograd_again.run(v, u, w, work, marked, plan)


@kernel(lambda F: (out(F, 1), array(F, 6), types.boolean, LAYOUT))
def pack(work, w, flip, p):
    """w (G, rows, channels, 1, R, R) -> U [G][panel][point][channel][columns]."""
    tasks = p.groups * p.panels * p.channels
    for slot in prange(p.slots):
        scratch = p.slots_at + slot * p.slot
        for task in range(*part(slot, p.slots, tasks)):
            c, panel = task % p.channels, task // p.channels
            _weights(work, scratch, p.u_at + panel * PRODUCTS * p.u_point + c * p.columns,
                     w, flip, panel // p.panels, panel % p.panels, c, p)  # fmt: skip


@helper
def _weights(work, scratch, to, w, flip, g, panel, c, p):
    """U of one channel and one panel."""
    taps, row, column = p.window * p.window, p.window * p.lanes, p.lanes
    first = scratch
    if flip:
        first, row, column = scratch + (taps - 1) * p.lanes, -row, -column
    for k in range(0, p.columns, p.lanes):
        k0 = panel * p.columns + k
        count = min(p.lanes, p.rows - k0)
        if count < p.lanes:
            fill_row(work, scratch, work.dtype.type(0), taps * p.lanes)
        if count > 0:
            start = g * step(w, 0) + k0 * step(w, 1) + c * step(w, 2)
            read_window(work, scratch, w, start, count, p)
        transform_window(work, first, row, column, to + k, POINTS * p.u_point, p.u_point, 0,
                         p.window)  # fmt: skip


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 6), out(F, 1), array(int64, 1),
                   types.boolean, LAYOUT))  # fmt: skip
def convolve(v, u, w, work, table, flip, p):
    """v = w over u; each slot is one thread's share of the blocks and panels."""
    tasks = p.pieces * p.pieces_h * p.pieces_w * p.groups * p.splits
    for slot in prange(p.slots):
        at = p.slots_at + slot * p.slot
        # lanes without a channel: what an earlier call left there could be slow denormals
        fill_row(work, at, work.dtype.type(0), p.v_at)
        for task in range(*part(slot, p.slots, tasks)):
            split, rest = task * p.splits // tasks, task % (tasks // p.splits)
            g, rest = rest % p.groups, rest // p.groups
            block = block_of(rest, p)
            _signal(work, at, u, g, block, p)
            for panel in range(*part(split, p.splits, p.panels)):
                weights = at + p.own_u_at
                if p.kept:
                    weights = p.u_at + (g * p.panels + panel) * PRODUCTS * p.u_point
                else:
                    for c in range(p.channels):
                        _weights(work, at, weights + c * p.columns, w, flip, g, panel, c, p)
                _multiply(work, at, table, weights, block[1] * block[3] * block[5], p)
                _finish(v, work, at, g, panel * p.columns, block, p)


@helper
def _signal(work, at, u, g, block, p):
    """V of a block."""
    first, images, h0, high, w0, wide = block
    side, more = p.side, p.window - 1
    for c in range(0, p.channels, p.lanes):
        to = at + p.v_at + c // p.lanes * p.v_vector
        for i in range(images):
            read_box(work, at, p.strip, p.lanes, u, first + i, p.depth, g * p.channels + c,
                     min(p.lanes, p.channels - c), side * h0 - p.lead_h, side * high + more,
                     side * w0 - p.lead_w, side * wide + more)  # fmt: skip
            for y in range(high):
                for x in range(wide):
                    start = at + side * (y * p.strip + x * p.lanes)
                    transform_signal(work, start, p.strip, p.lanes,
                                     to + ((i * high + y) * wide + x) * p.lanes,
                                     POINTS * p.v_point, p.v_point, 0)  # fmt: skip


@helper
def _multiply(work, at, table, weights, tiles, p):
    """M = V * U at every point, for one panel."""
    share = (tiles + ROWS - 1) // ROWS
    rows = (tiles + share - 1) // share
    for point in range(PRODUCTS):
        v, m = at + p.v_at + point * p.v_point, at + p.m_at + point * p.m_point
        u = weights + point * p.u_point
        for c in range(0, p.channels, CHUNK):
            for t in range(0, tiles, rows):
                tile_of_vectors(min(rows, tiles - t), work, v + t * p.lanes, table, c,
                                work, u + c * p.columns, p.columns, min(CHUNK, p.channels - c),
                                work, m + t * p.columns, p.columns, work, p.zeros_at,
                                c)  # fmt: skip


@helper
def _finish(v, work, at, g, k0, block, p):
    """One panel of a block of v from M; marks the tiles that are not finite."""
    first, images, h0, high, w0, wide = block
    side = p.side
    row = side * wide * p.lanes
    width = min(side * wide, v.shape[4] - side * w0)
    for k in range(0, min(p.columns, p.rows - k0), p.lanes):
        bias = p.bias_at + g * p.panels * p.columns + k0 + k
        for i in range(images):
            for y in range(high):
                for x in range(wide):
                    m = at + p.m_at + ((i * high + y) * wide + x) * p.columns + k
                    transform_outputs(work, m, POINTS * p.m_point, p.m_point,
                                      at + side * x * p.lanes, row, p.lanes, bias,
                                      p.window)  # fmt: skip
                h = side * (h0 + y)
                inside = min(side, v.shape[3] - h)
                mark = ((g * p.planes + first + i) * p.high + h0 + y) * p.wide + w0
                for r in range(inside):
                    if not finite_row(work, at + r * row, width * p.lanes):
                        _mark(work, mark, at + r * row, width, p)
                write_box(v, first + i, p.depth, g * p.rows + k0 + k,
                          min(p.lanes, p.rows - k0 - k), h, inside, side * w0, width,
                          work, at, row, p.lanes)  # fmt: skip


@helper
def _mark(work, mark, row, width, p):
    """Marks the tiles of a row of ``width`` pixels that are not finite."""
    for x in range(0, width, p.side):
        if not finite_row(work, row + x * p.lanes, min(p.side, width - x) * p.lanes):
            store(work, mark + x // p.side, work.dtype.type(1))
