"""Any window with few channels a group over channels-first images: forward, and dx at stride 1.

A line of targets is a column, a vector wide (line_tile.py).  Sources and weights are read where
they lie, and every target is written once, whatever the window.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types

from ..emitted.memory import load, step
from ..emitted.vectors import LANES, VECTOR_BYTES
from ..jit import FLOATS, Kernel, array, int64, out, prange
from .line_tile import LINE, SHORT, column_tile
from .window_axes import axis, lines


class Program(NamedTuple):
    """What a call needs to know."""

    kernel: Kernel
    planes: np.ndarray  # of each target plane: first source, first tap, taps
    tiles: np.ndarray  # of a column of targets: window_axes.lines
    steps: tuple
    blocking: dict  # what a plan shows


def build(g, stride, operation, dtype) -> Program:
    """The program for a geometry that depthwise_conv.py serves; dx only at stride 1."""
    transposed = operation == "conv_dx"
    targets, sources = (g.size, g.out) if transposed else (g.out, g.size)
    d, h = (axis(targets[i], sources[i], g.window[i], stride, g.before[i], g.dilation[i],
                 transposed, i == 0) for i in range(2))  # fmt: skip
    before, spread = g.before[2], g.dilation[2]
    if transposed:  # the window turned round
        before, spread = -before, -spread
    halves = 2 if g.batch > 1 and targets[2] <= LANES[dtype] // 2 else 1
    steps = (d.unit, d.tap_step, h.unit, h.tap_step, h.every, before, spread)
    length = LINE if halves == 1 else SHORT
    return Program(KERNELS[stride, halves], d.taps, lines(h, targets[1], sources[1], length), steps,
                   {"rows": length, "images": _images(halves)})  # fmt: skip


def _images(halves):
    """Images that are summed at once: one, or two for each line of SHORT rows."""
    return 1 if halves == 1 else 2 * (LINE // SHORT)


def _windows(name, down, halves=1):
    """The kernel for one stride: v = u convolved with w, + b.

    w is (G, v's channels a group, u's channels a group, T, R, S).  With ``halves`` 2 a vector holds
    rows of two images.
    """
    images = _images(halves)

    def body(v, u, w, b, planes, tiles, steps, slots):
        N, K, D, _, Q = v.shape
        _, KG, CG, _, _, S = w.shape
        lanes = VECTOR_BYTES // v.itemsize
        tasks = (N + images - 1) // images * K * D
        for slot in prange(slots):
            for task in range(slot * tasks // slots, (slot + 1) * tasks // slots):
                z, k, n = task % D, task // D % K, task // (D * K) * images
                g, i = k // KG, k % KG
                beside = min(1, N - 1 - n)  # the last ones are summed twice if they are too few
                pair = min(2, N - 1 - n - beside)
                uo = n * step(u, 0) + g * CG * step(u, 1) + planes[z, 0] * step(u, 2)
                wo = g * step(w, 0) + i * step(w, 1) + planes[z, 1] * step(w, 3)
                vo = n * step(v, 0) + k * step(v, 1) + z * step(v, 2)
                start = load(b, k * step(b, 0)) if b.size else v.dtype.type(0)
                first = (planes[z, 2], steps[0] * step(u, 2), steps[1] * step(w, 3), CG, step(u, 1),
                         step(w, 2), S, steps[6], step(w, 5), steps[2] * step(u, 3),
                         steps[4] * step(v, 3), steps[3] * step(w, 4))  # fmt: skip
                others = (beside * step(u, 0), beside * step(v, 0), pair * step(u, 0),
                          pair * step(v, 0))  # fmt: skip
                for tile in range(len(tiles)):
                    up, to = uo + tiles[tile, 0] * step(u, 3), vo + tiles[tile, 1] * step(v, 3)
                    here = (tiles[tile, 2] * step(w, 4), tiles[tile, 4], tiles[tile, 5],
                            tiles[tile, 6])  # fmt: skip
                    for q in range(0, Q, lanes // halves):
                        column = q * down - steps[5]
                        columns = column, steps[6], u.shape[4], Q - q
                        column_tile(down, halves, tiles[tile, 3], u, up + column, w, wo, v,
                                    to + q, start, first + here + columns + others)  # fmt: skip

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), array(F, 5), array(F, 6), array(F, 1),
                                   array("int64", 2), array("int64", 2),
                                   types.UniTuple(int64, 7), int64), FLOATS)  # fmt: skip


#: by the stride, and the images in a vector
KERNELS = {
    (1, 1): _windows("column_windows", 1),
    (1, 2): _windows("column_windows_half", 1, halves=2),
    (2, 1): _windows("column_windows_down", 2),
    (2, 2): _windows("column_windows_down_half", 2, halves=2),
}
