"""Depthwise 3x3 and 3x3 with few channels a group, forward and dx, of channels-last images.

The work is cut into rows of tiles (channel_tile.py) and runs of vectors of channels.  Weights are
brought into vectors by each thread for the runs that it serves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..emitted.memory import load, step, store
from ..emitted.vectors import LANES, VECTOR_BYTES, fill_row
from ..jit import FLOATS, Kernel, array, helper, inlined, int64, out, prange, triple
from .channel_rows import row_of_tiles, units
from .channel_tile import HIGH, PERMUTES, SIDE, tile
from .group_tile import group_tile

#: Vectors of channels that a tile goes through: their weights stay in the nearest caches.
RUN = 64


def serves(g, stride, dtype) -> bool:
    """3x3 windows whose groups fit a vector; dilation only without a stride."""
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    if g.window[1:] != (SIDE, SIDE) or max(rows, channels) > LANES[dtype]:
        return False
    return (stride == 1 or g.dilation[1:] == (1, 1)) and (PERMUTES or rows == channels == 1)


def workspace_elements(g, operation, dtype, threads) -> int:
    """The weights of one run for each thread."""
    channels = (g.out_channels if operation == "conv_dx" else g.in_channels) // g.groups
    return threads * min(RUN, vectors(g, dtype)) * (channels * g.taps + 1) * LANES[dtype]


def vectors(g, dtype):
    """Vectors of channels, each of as many whole groups as it holds."""
    largest = max(g.in_channels, g.out_channels) // g.groups
    return -(-g.groups // (LANES[dtype] // largest))


def alone(rows, channels, dtype):
    """Does a vector hold one group of so many channels, and no second one?"""
    return PERMUTES and LANES[dtype] // max(rows, channels) == 1


def turns(rows, channels, lanes):
    """Row i: the source lane for each target lane, in pieces of 4 bytes.

    Target lane k of a group is shown source channel (k + i) % channels of the same group.
    """
    lane = np.arange(lanes)
    group, k = lane // rows, lane % rows
    inside = group < lanes // max(rows, channels)
    found = np.where(inside, group * channels + (k + np.arange(channels)[:, None]) % channels, 0)
    pieces = VECTOR_BYTES // lanes // 4
    found = found[:, :, None] * pieces + np.arange(pieces)
    return np.ascontiguousarray(found.reshape(channels, -1).astype(np.int32))


def _planes(name, up, down, tile=tile):
    """The kernel for one pair of strides: v = u convolved with w, + b.

    w is (G, v's channels a group, u's channels a group, T, 3, 3).
    """
    tiles, high = row_of_tiles(tile, up, down), HIGH[up]

    def body(v, u, w, b, order, dilation, before, work, slots):
        G, KG, CG, T, _, _ = w.shape
        lanes = VECTOR_BYTES // v.itemsize
        groups, rows = lanes // max(KG, CG), units(high, up, v, dilation, before)
        vectors, start = (G - 1) // groups + 1, SIDE * SIDE * T * CG * lanes
        size, tasks = start + lanes, ((vectors - 1) // RUN + 1) * rows
        for slot in prange(slots):
            packed, weights = -1, slot * min(RUN, vectors) * size
            for task in range(slot * tasks // slots, (slot + 1) * tasks // slots):
                run = task // rows * RUN
                count = min(RUN, vectors - run)
                if run != packed:
                    for vector in range(count):
                        _pack(work, weights + vector * size, w, b, (run + vector) * groups, groups,
                              lanes)  # fmt: skip
                    packed = run
                tiles(v, u, order, dilation, before, work, weights, start, task % rows, G, KG, CG,
                      T, run * groups, groups, count)  # fmt: skip

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), array(F, 5), array(F, 6), array(F, 1),
                                   array("int32", 2), triple, triple, out(F, 1), int64),
                  FLOATS)  # fmt: skip


@helper
def _pack(work, to, w, b, first, groups, lanes):
    """A vector's weights: [t][turn][tap][lane], then what its sums begin with."""
    G, KG, CG, T, _, _ = w.shape
    fill_row(work, to, w.dtype.type(0), (SIDE * SIDE * T * CG + 1) * lanes)
    start = to + SIDE * SIDE * T * CG * lanes
    for g in range(min(groups, G - first)):
        for k in range(KG):
            lane = g * KG + k
            at = (first + g) * step(w, 0) + k * step(w, 1)
            for t in range(T):
                c = 0 if groups == 1 else k % CG
                for i in range(CG):
                    _pack_taps(work, to + (t * CG + i) * SIDE * SIDE * lanes + lane, lanes,
                               w, at + c * step(w, 2) + t * step(w, 3))  # fmt: skip
                    c = c + 1 if c + 1 < CG else 0
            if b.size:
                store(work, start + lane, load(b, ((first + g) * KG + k) * step(b, 0)))


@inlined
def _pack_taps(work, to, lanes, w, at):
    for r in range(SIDE):
        row, place = at + r * step(w, 4), to + r * SIDE * lanes
        store(work, place, load(w, row))
        store(work, place + lanes, load(w, row + step(w, 5)))
        store(work, place + 2 * lanes, load(w, row + 2 * step(w, 5)))


class Program(NamedTuple):
    """What a call needs to know."""

    kernel: Kernel
    order: np.ndarray


planes = _planes("channel_planes", 1, 1)
planes_down = _planes("channel_planes_down", 1, 2)
planes_up = _planes("channel_planes_up", 2, 1)
group_planes = _planes("group_planes", 1, 1, group_tile)
group_planes_down = _planes("group_planes_down", 1, 2, group_tile)
group_planes_up = _planes("group_planes_up", 2, 1, group_tile)

#: by the stride of targets and of sources, and whether a vector holds one group only
KERNELS = {(1, 1, False): planes, (1, 2, False): planes_down, (2, 1, False): planes_up,
           (1, 1, True): group_planes, (1, 2, True): group_planes_down,
           (2, 1, True): group_planes_up}  # fmt: skip


def build(g, stride, operation, dtype) -> Program:
    """The program for a geometry that this file serves."""
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    strides = 1, stride
    if operation == "conv_dx":
        rows, channels, strides = channels, rows, strides[::-1]
    kernel = KERNELS[(*strides, alone(rows, channels, dtype))]
    return Program(kernel, turns(rows, channels, LANES[dtype]))
