"""Depthwise windows of any size over channels-last images, forward and dx.

A line of targets is a row of pixels, a vector of channels each (line_tile.py).  3x3 windows and
groups of several channels have tiles of their own, which load less: channel_planes.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types

from ..emitted.memory import load, step, store
from ..emitted.transposition import transpose
from ..emitted.vectors import LANES, VECTOR_BYTES, fill_row
from ..jit import FLOATS, Kernel, array, helper, int64, out, prange
from .line_tile import row_tile
from .window_axes import axis, lines

#: Vectors of channels that a row of tiles goes through, and rows of a block: what the window reads
#: of them stays in L1.
RUN, ROWS = 2, 14


class Program(NamedTuple):
    """What a call needs to know."""

    kernel: Kernel
    planes: np.ndarray  # of each target plane and row: first source, first tap, taps
    rows: np.ndarray
    tiles: np.ndarray  # of a row of targets: window_axes.lines
    steps: tuple


def serves(g) -> bool:
    """One channel a group, in and out."""
    return g.groups == g.in_channels == g.out_channels


def workspace_elements(g, dtype) -> int:
    """The weights, and what sums begin with, as vectors."""
    return -(-g.groups // LANES[dtype]) * (g.taps + 1) * LANES[dtype]


def build(g, stride, operation) -> Program:
    """The program for a geometry that this file serves."""
    transposed = operation == "conv_dx"
    targets, sources = (g.size, g.out) if transposed else (g.out, g.size)
    d, h, w = (axis(*one, transposed, inside) for *one, inside in zip(
        targets, sources, g.window, (stride,) * 3, g.before, g.dilation,
        (True, True, False)))  # fmt: skip
    steps = (d.unit, d.tap_step, h.unit, h.tap_step, w.unit, w.tap_step, w.every)
    return Program(KERNELS[w.down], d.taps, h.taps, lines(w, targets[2], sources[2]), steps)


def _windows(name, down):
    """The kernel for one distance of sources: v = u convolved with w (G, 1, 1, T, R, S), + b."""

    def body(v, u, w, b, planes, rows, tiles, steps, work, slots):
        N, C, D, P, _ = v.shape
        T, R, S = w.shape[3:]
        lanes = VECTOR_BYTES // v.itemsize
        vectors, size = (C - 1) // lanes + 1, (T * R * S + 1) * lanes
        for vector in prange(vectors):
            _pack(work, vector * size, w, b, vector * lanes, lanes)
        runs, pieces = (vectors - 1) // RUN + 1, (P - 1) // ROWS + 1
        tasks = N * D * pieces * runs
        for slot in prange(slots):
            for task in range(slot * tasks // slots, (slot + 1) * tasks // slots):
                vector, p = task % runs * RUN, task // runs % pieces * ROWS
                n, z = task // (runs * pieces * D), task // (runs * pieces) % D
                c, weights = vector * lanes, vector * size
                uo = n * step(u, 0) + c * step(u, 1) + planes[z, 0] * step(u, 2)
                vo = n * step(v, 0) + c * step(v, 1) + z * step(v, 2)
                depth = planes[z, 2], steps[0] * step(u, 2), steps[1] * R * S * lanes, 1, 0, 0
                ends = min(RUN, vectors - vector), C - c, C - c, lanes, lanes, size, size - lanes
                for row in range(p, min(p + ROWS, P)):
                    up, to = uo + rows[row, 0] * step(u, 3), vo + row * step(v, 3)
                    first = planes[z, 1] * R * S + rows[row, 1] * S
                    across = (rows[row, 2], steps[2] * step(u, 3), steps[3] * S * lanes,
                              steps[4] * step(u, 4), steps[6] * step(v, 4),
                              steps[5] * lanes)  # fmt: skip
                    for tile in range(len(tiles)):
                        row_tile(down, tiles[tile, 3], u, up + tiles[tile, 0] * step(u, 4), work,
                                 weights, v, to + tiles[tile, 1] * step(v, 4),
                                 depth + across + ((first + tiles[tile, 2]) * lanes,
                                                   tiles[tile, 4], tiles[tile, 5], tiles[tile, 6])
                                 + ends)  # fmt: skip

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), array(F, 5), array(F, 6), array(F, 1),
                                   *[array("int64", 2)] * 3, types.UniTuple(int64, 7), out(F, 1),
                                   int64), FLOATS)  # fmt: skip


@helper
def _pack(work, to, w, b, c, lanes):
    """A vector's weights: [t][r][s][lane], then what its sums begin with."""
    C, _, _, T, R, S = w.shape
    here, taps = min(lanes, C - c), T * R * S
    if here < lanes:  # what is left over there may be slow to multiply
        fill_row(work, to, w.dtype.type(0), taps * lanes)
    at = c * step(w, 0)
    if step(w, 5) == 1 and step(w, 4) == S and step(w, 3) == R * S:
        transpose(work, to, lanes, w, at, step(w, 0), here, taps, lanes)
    else:
        for lane in range(here):
            for tap in range(taps):
                place = tap // (R * S) * step(w, 3) + tap // S % R * step(w, 4)
                value = load(w, at + lane * step(w, 0) + place + tap % S * step(w, 5))
                store(work, to + tap * lanes + lane, value)
    fill_row(work, to + taps * lanes, w.dtype.type(0), lanes)
    if b.size:
        for lane in range(here):
            store(work, to + taps * lanes + lane, load(b, (c + lane) * step(b, 0)))


#: by the distance of the sources of neighbouring targets
KERNELS = {1: _windows("channel_windows", 1), 2: _windows("channel_windows_down", 2)}
