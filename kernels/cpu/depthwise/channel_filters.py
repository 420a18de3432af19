"""The gradient of 3x3 windows over channels-last images: beside channel_planes.py.

Parts of the images, cut by sizes alone, have sums of their own, which are added in order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..emitted.memory import load, step, store
from ..emitted.vectors import ITEMSIZE, LANES, VECTOR_BYTES, add_row, fill_row
from ..jit import FLOATS, Kernel, array, inlined, int64, out, prange, triple
from .channel_planes import RUN, alone, turns, vectors
from .channel_rows import row_of_tiles, units
from .channel_tile import HIGH, SIDE, filter_tile
from .group_tile import group_filter_tile

#: Parts to cut images into, if each then has two rows of tiles at least.
PARTS = 32

#: Bytes of the sums of all parts, which are read again in the end, and parts to have even so.
SUMS_BYTES = 2 * 1024 * 1024
LEAST_PARTS = 8


class Program(NamedTuple):
    """What a call needs to know."""

    kernel: Kernel
    order: np.ndarray
    parts: int


def build(g, stride, operation, dtype) -> Program:
    """The program for a geometry that channel_planes.py serves."""
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    kernel = KERNELS[stride, alone(rows, channels, dtype)]
    return Program(kernel, turns(rows, channels, LANES[dtype]), _parts(g, dtype))


def _parts(g, dtype):
    every = min(g.dilation[1], g.out[1])
    rows = -(-(-(-g.out[1] // every)) // HIGH[1])
    most = max(LEAST_PARTS, min(PARTS, SUMS_BYTES // (_sums(g, dtype) * ITEMSIZE[dtype])))
    return max(1, min(g.batch * g.out[0] * every * rows // 2, most))


def _sums(g, dtype):
    """Those of a part: nine for each pair of channels and plane of the window, and dy's."""
    channels = g.in_channels // g.groups
    return vectors(g, dtype) * (channels * g.taps + 1) * LANES[dtype]


def workspace_elements(g, dtype) -> int:
    """The sums of each part."""
    return _parts(g, dtype) * _sums(g, dtype)


def _filters(name, down, filter_tile=filter_tile):
    """The kernel for one stride: dw, and db unless it is empty.

    work[0] becomes the number of results that are infinite or NaN: 0 stood in for dy beyond the
    image, and may have been multiplied by an infinite x.
    """
    tiles, high = row_of_tiles(filter_tile, 1, down), HIGH[1]

    def body(dw, db, dy, x, order, dilation, before, work, G, parts):
        K, CG, T, _, _ = dw.shape
        KG, lanes = K // G, VECTOR_BYTES // dw.itemsize
        groups, rows = lanes // max(KG, CG), units(high, 1, dy, dilation, before)
        vectors, size = (G - 1) // groups + 1, (SIDE * SIDE * T * CG + 1) * lanes
        start = size - lanes if db.size else -1
        for task in prange(((vectors - 1) // RUN + 1) * parts):
            run, part = task // parts * RUN, task % parts
            sums, count = (part * vectors + run) * size, min(RUN, vectors - run)
            fill_row(work, sums, dw.dtype.type(0), count * size)
            for unit in range(part * rows // parts, (part + 1) * rows // parts):
                tiles(dy, x, order, dilation, before, work, sums, start, unit, G, KG, CG, T,
                      run * groups, groups, count)  # fmt: skip
        bad = 0
        for vector in prange(vectors):
            for part in range(1, parts):
                add_row(work, vector * size, work, (part * vectors + vector) * size, size)
            count = min(groups, G - vector * groups)
            bad += _write(dw, db, work, vector * size, vector * groups, count, groups == 1, KG,
                          lanes)  # fmt: skip
        store(work, 0, dw.dtype.type(bad))

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), out(F, 1), array(F, 5), array(F, 5),
                                   array("int32", 2), triple, triple, out(F, 1), int64, int64),
                  FLOATS)  # fmt: skip


@inlined
def _write(dw, db, work, at, first, groups, alone, KG, lanes):
    """A vector's sums to where they belong; returns how many are infinite or NaN."""
    _, CG, T, _, _ = dw.shape
    bad = 0
    for g in range(groups):
        for k in range(KG):
            lane, to = at + g * KG + k, ((first + g) * KG + k) * step(dw, 0)
            for t in range(T):
                c = 0 if alone else k % CG
                for i in range(CG):
                    place = lane + (t * CG + i) * SIDE * SIDE * lanes
                    for tap in range(SIDE * SIDE):
                        value = load(work, place + tap * lanes)
                        bad += value - value != 0
                        store(dw, to + c * step(dw, 1) + t * step(dw, 2) + tap // SIDE * step(dw, 3)
                              + tap % SIDE * step(dw, 4), value)  # fmt: skip
                    c = c + 1 if c + 1 < CG else 0
            if db.size:
                value = load(work, lane + SIDE * SIDE * T * CG * lanes)
                store(db, ((first + g) * KG + k) * step(db, 0), value)
    return bad


filters = _filters("channel_filters", 1)
filters_down = _filters("channel_filters_down", 2)
group_filters = _filters("group_filters", 1, group_filter_tile)
group_filters_down = _filters("group_filters_down", 2, group_filter_tile)

#: by the stride, and whether a vector holds one group only
KERNELS = {(1, False): filters, (2, False): filters_down, (1, True): group_filters,
           (2, True): group_filters_down}  # fmt: skip
