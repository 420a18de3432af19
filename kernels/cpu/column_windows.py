"""Any window with few channels a group over channels-first images, forward and dx at stride 1.

A line of targets is a column, a vector wide (line_tile.py): sources and weights are read where they
lie, so that there is no workspace.  Against strips.py, which loads a row's shifted vectors once for
a block of rows but sums windows in pieces of 3x3, a target is read and written once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types

from .channel_windows import _tiles
from .jit import FLOATS, Kernel, array, int64, out, prange
from .line_tile import column_tile
from .memory import load, step
from .vectors import VECTOR_BYTES
from .window_axes import axis


class Program(NamedTuple):
    kernel: Kernel
    planes: np.ndarray
    tiles: np.ndarray
    steps: tuple


def build(g, operation, dtype):
    transposed = operation == "conv_dx"
    targets, sources = (g.size, g.out) if transposed else (g.out, g.size)
    strides = [stride if out > 1 else 1 for stride, out in zip(g.stride, g.out)]
    d, h = (axis(targets[i], sources[i], g.window[i], strides[i], g.before[i], g.dilation[i],
                 transposed, i == 0) for i in range(2))  # fmt: skip
    before, spread = g.before[2], g.dilation[2]
    if transposed:  # at stride 1 the window turned round
        before, spread = -before, -spread
    steps = (d.unit, d.tap_step, h.unit, h.tap_step, h.every, before, spread)
    return Program(KERNELS[strides[2]], d.taps, _tiles(h, targets[1], sources[1]), steps)


def _windows(name, down):
    """The kernel for one stride: v = u convolved with w, + b.

    w is (G, v's channels a group, u's channels a group, T, R, S).
    """

    def body(v, u, w, b, planes, tiles, steps, slots):
        N, K, D, P, Q = v.shape
        W = u.shape[4]
        G, KG, CG, T, R, S = w.shape
        lanes = VECTOR_BYTES // v.itemsize
        for slot in prange(slots):
            for task in range(slot * N * K * D // slots, (slot + 1) * N * K * D // slots):
                z, k, n = task % D, task // D % K, task // (D * K)
                g, i = k // KG, k % KG
                uo = n * step(u, 0) + g * CG * step(u, 1) + planes[z, 0] * step(u, 2)
                wo = g * step(w, 0) + i * step(w, 1) + planes[z, 1] * step(w, 3)
                vo = n * step(v, 0) + k * step(v, 1) + z * step(v, 2)
                start = load(b, k * step(b, 0)) if b.size else v.dtype.type(0)
                first = (planes[z, 2], steps[0] * step(u, 2), steps[1] * step(w, 3), CG, step(u, 1),
                         step(w, 2), S, steps[6], step(w, 5), steps[2] * step(u, 3),
                         steps[4] * step(v, 3), steps[3] * step(w, 4))  # fmt: skip
                for tile in range(len(tiles)):
                    h, p, r = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2]
                    for q in range(0, Q, lanes):
                        column = q * down - steps[5]
                        column_tile(down, tiles[tile, 3], u, uo + h * step(u, 3) + column, w, wo, v,
                                    vo + p * step(v, 3) + q, start,
                                    first + (r * step(w, 4), tiles[tile, 4], tiles[tile, 5],
                                             tiles[tile, 6], column, steps[6], W, Q - q))  # fmt: skip

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), array(F, 5), array(F, 6), array(F, 1),
                                   array("int64", 2), array("int64", 2),
                                   types.UniTuple(int64, 7), int64), FLOATS)  # fmt: skip


KERNELS = {1: _windows("column_windows", 1), 2: _windows("column_windows_down", 2)}
