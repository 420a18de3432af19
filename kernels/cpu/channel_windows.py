"""Any window with few channels a group, forward and dx, a vector of channels to a pixel.

Channels-last images are read and written where they lie.  Of channels-first images a thread
transposes blocks of rows of a vector's planes into its own memory and the sums back: sixteen planes
of 7x7 take 500 shuffles, and a 7x7 window over them 1400 multiply-adds of whole vectors, where rows
of 7 pixels would take 4100 of half vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types

from .channel_planes import turns, vectors
from .line_tile import LINE, UNROLLED, row_tile
from .channel_tile import PERMUTES
from .jit import FLOATS, Kernel, array, helper, inlined, int64, out, prange
from .memory import load, step, store
from .transposition import transpose
from .vectors import LANES, VECTOR_BYTES, fill_row
from .window_axes import axis

#: Bytes of the sources, and of the targets, of a block of rows that is transposed.
BLOCK_BYTES = 256 * 1024

#: Vectors of channels of channels-last images that a row of tiles goes through, and rows of a block.
RUN, ROWS = 2, 14


class Program(NamedTuple):
    """What a call needs to know."""

    kernels: tuple  # for channels-last images, and for channels-first ones or None
    order: np.ndarray
    planes: np.ndarray  # a row for each target plane and row: first source, first tap, taps
    rows: np.ndarray
    tiles: np.ndarray  # for each tile of a row of targets: _tiles
    blocks: np.ndarray  # of rows, for channels-first images: first and end of targets, of sources
    steps: tuple
    buffer: int  # elements for each thread
    size: int  # of the whole workspace, in elements


def serves(g, dtype) -> bool:
    """Groups that fit a vector."""
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    down = axis(1, 1, 1, _stride(g), 0, g.dilation[2], False).down
    return max(rows, channels) <= LANES[dtype] and (PERMUTES or rows == channels == 1) and down <= 2


def _stride(g):
    return g.stride[2] if g.out[2] > 1 else 1


def build(g, operation, dtype, threads) -> Program:
    """The program for a geometry that this file serves."""
    transposed, lanes = operation == "conv_dx", LANES[dtype]
    targets, sources = (g.size, g.out) if transposed else (g.out, g.size)
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    if transposed:
        rows, channels = channels, rows
    strides = [stride if out > 1 else 1 for stride, out in zip(g.stride, g.out)]
    axes = [axis(*one, transposed, inside) for *one, inside in zip(
        targets, sources, g.window, strides, g.before, g.dilation, (True, True, False))]  # fmt: skip
    d, h, w = axes
    flat = targets[0] == sources[0] == g.window[0] == 1 and not g.before[0]
    blocks = _blocks(h, targets, sources, VECTOR_BYTES)
    buffer = 0
    if flat:
        buffer = lanes * int((blocks[:, 1] - blocks[:, 0]).max() * targets[2]
                             + (blocks[:, 3] - blocks[:, 2]).max() * sources[2])  # fmt: skip
    taps = g.window[1] * g.window[2]
    steps = (d.unit, d.tap_step, h.unit, h.tap_step, w.unit, w.tap_step, w.every, buffer)
    size = vectors(g, dtype) * (channels * g.taps + 1) * lanes
    which = KERNELS[w.down]
    return Program(which if flat else (which[0], None), turns(rows, channels, lanes), d.taps,
                   h.taps, _tiles(w, targets[2], sources[2]), blocks,
                   steps, buffer, size + threads * buffer)  # fmt: skip


def _blocks(rows, targets, sources, vector):
    """Blocks of rows whose targets and sources fit BLOCK_BYTES: first and end of both."""
    found, p = [], 0
    while p < targets[1]:
        end, low, high = p, sources[1], 0
        while end < targets[1]:
            first, _, count = rows.taps[end]
            below = min(low, first) if count else low
            above = max(high, first + (count - 1) * rows.unit + 1) if count else high
            most = max((above - below) * sources[2], (end + 1 - p) * targets[2])
            if end > p and most * vector > BLOCK_BYTES:
                break
            low, high, end = below, above, end + 1
        found.append((p, end, min(low, high), high))
        p = end
    return np.array(found, np.int64)


def _tiles(axis, targets, sources):
    """Tiles of a row: (source and target column, first tap, kind, bits of sources, of targets,
    resume)."""
    found = []
    for f in range(min(axis.every, targets)):
        first, tap, taps = (int(number) for number in axis.taps[f])
        for k in range(0, (targets - 1 - f) // axis.every + 1, LINE):
            q, source, done = f + k * axis.every, first + k * axis.down * axis.unit, 0
            while done < taps or not done:
                piece = _piece(taps - done, UNROLLED)
                at = source + done * axis.unit
                bits = _bits(at, axis.unit, (LINE - 1) * axis.down + piece, sources)
                found.append((at, q, tap + done * axis.tap_step, piece,
                              bits if taps else 0, _bits(q, axis.every, LINE, targets),
                              done > 0))  # fmt: skip
                done += piece
    return np.array(found, np.int64)


def _piece(left, unrolled):
    """How many taps of a row to unroll next."""
    if left in unrolled:
        return left
    even = -(-left // -(-left // max(unrolled)))  # pieces of about the same size
    return max(size for size in unrolled if size <= max(even, 1))


def _bits(first, every, count, size):
    """Bit i: is first + i*every in 0..size-1?"""
    return sum(1 << i for i in range(count) if 0 <= first + i * every < size)


def _last(name, down):
    """The kernel for channels-last images and one stride along rows: v = u convolved with w, + b.

    w is (G, v's channels a group, u's channels a group, T, R, S).
    """

    def body(v, u, w, b, order, planes, rows, tiles, blocks, steps, work, slots):
        N, K, D, P, _ = v.shape
        G, KG, CG, T, R, S = w.shape
        lanes = VECTOR_BYTES // v.itemsize
        groups, taps = lanes // max(KG, CG), T * R * S * CG
        vectors, size = (G - 1) // groups + 1, (taps + 1) * lanes
        for vector in prange(vectors):
            _pack(work, vector * size, w, b, vector * groups, groups, lanes)
        runs, pieces = (vectors - 1) // RUN + 1, (P - 1) // ROWS + 1
        tasks = N * D * pieces * runs
        for slot in prange(slots):
            for task in range(slot * tasks // slots, (slot + 1) * tasks // slots):
                vector, p = task % runs * RUN, task // runs % pieces * ROWS
                n, z = task // (runs * pieces * D), task // (runs * pieces) % D
                count, g = min(RUN, vectors - vector), vector * groups
                here = min(groups * count, G - g)
                uo = n * step(u, 0) + g * CG * step(u, 1) + planes[z, 0] * step(u, 2)
                vo = n * step(v, 0) + g * KG * step(v, 1) + z * step(v, 2)
                first = (planes[z, 2], steps[0] * step(u, 2), steps[1] * CG * R * S * lanes,
                         count, here * CG, here * KG, groups * CG, groups * KG)  # fmt: skip
                weights = vector * size + planes[z, 1] * CG * R * S * lanes
                start = taps * lanes - planes[z, 1] * CG * R * S * lanes
                _rows(down, v, vo, step(v, 3), step(v, 4), u, uo, step(u, 3), step(u, 4), order,
                      rows, p, min(p + ROWS, P), tiles, steps, work, weights, start, size,
                      S * lanes, lanes, first)  # fmt: skip

    body.__name__ = name
    return _kernel(body)


def _first(name, down):
    """The same for channels-first images of one plane in depth."""

    def body(v, u, w, b, order, planes, rows, tiles, blocks, steps, work, slots):
        N, K, _, P, Q = v.shape
        G, KG, CG, T, R, S = w.shape
        W = u.shape[4]
        lanes = VECTOR_BYTES // v.itemsize
        groups, taps = lanes // max(KG, CG), R * S * CG
        vectors, size = (G - 1) // groups + 1, (taps + 1) * lanes
        for vector in prange(vectors):
            _pack(work, vector * size, w, b, vector * groups, groups, lanes)
        first = (1, 0, 0, 1, lanes, lanes, lanes, lanes)
        tasks = N * vectors * len(blocks)
        for slot in prange(slots):
            source = vectors * size + slot * steps[7]
            for task in range(slot * tasks // slots, (slot + 1) * tasks // slots):
                block, vector = task % len(blocks), task // len(blocks) % vectors
                n, g = task // (len(blocks) * vectors), vector * groups
                p, end, h, below = blocks[block]
                here = min(groups, G - g)
                target = source + (below - h) * W * lanes
                _read(work, source, u, n * step(u, 0) + g * CG * step(u, 1), h, below, here * CG,
                      lanes)  # fmt: skip
                _rows(down, work, target - p * Q * lanes, Q * lanes, lanes, work,
                      source - h * W * lanes, W * lanes, lanes, order, rows, p, end, tiles, steps,
                      work, vector * size, taps * lanes, size, S * lanes, lanes, first)  # fmt: skip
                _write(v, n * step(v, 0) + g * KG * step(v, 1), p, end, here * KG, work, target,
                       lanes)  # fmt: skip

    body.__name__ = name
    return _kernel(body)


def _kernel(body):
    return Kernel(body, lambda F: (out(F, 5), array(F, 5), array(F, 6), array(F, 1),
                                   array("int32", 2), *[array("int64", 2)] * 4,
                                   types.UniTuple(int64, 8), out(F, 1), int64), FLOATS)  # fmt: skip


@inlined
def _rows(down, v, vo, v_row, v_column, u, uo, u_row, u_column, order, rows, p, end, tiles, steps,
          work, weights, start, size, row_weights, tap_weights, first):  # fmt: skip
    """Rows p..end-1 of a run of vectors: all tiles of one, then the next."""
    of_rows, of_taps = steps[3] * row_weights, steps[5] * tap_weights
    for row in range(p, end):
        h, r, count = rows[row, 0], rows[row, 1], rows[row, 2]
        for tile in range(len(tiles)):
            w, q, s, kind = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2], tiles[tile, 3]
            row_tile(down, kind, u, uo + h * u_row + w * u_column, work, weights, v,
                     vo + row * v_row + q * v_column,
                     first[:3] + (1, 0, 0, count, steps[2] * u_row, of_rows,
                              steps[4] * u_column, steps[6] * v_column, of_taps,
                              r * row_weights + s * tap_weights, tiles[tile, 4], tiles[tile, 5],
                              tiles[tile, 6]) + first[3:] + (size, start))  # fmt: skip


@helper
def _pack(work, to, w, b, first, groups, lanes):
    """A vector's weights: [t][turn][r][s][lane], then what its sums begin with."""
    G, KG, CG, T, R, S = w.shape
    taps, here = R * S, min(groups, G - first)
    start = to + T * CG * taps * lanes
    fill_row(work, to if here < lanes else start, w.dtype.type(0),
             (T * CG * taps if here < lanes else 0) * lanes + lanes)  # fmt: skip
    flat = step(w, 5) == 1 and (R == 1 or step(w, 4) == S)
    for g in range(0, here, here if KG == CG == 1 else 1):
        for k in range(KG):
            lane = g * KG + k
            at = (first + g) * step(w, 0) + k * step(w, 1)
            for t in range(T):
                c = k if k < CG else k % CG
                for i in range(CG):
                    place = to + (t * CG + i) * taps * lanes + lane
                    tap = at + c * step(w, 2) + t * step(w, 3)
                    if flat:
                        transpose(work, place, lanes, w, tap, step(w, 0),
                                  here if KG == CG == 1 else 1, taps, lanes)  # fmt: skip
                    else:
                        _pack_taps(work, place, lanes, w, tap, here if KG == CG == 1 else 1)
                    c = c + 1 if c + 1 < CG else 0
    if b.size:
        for lane in range(here * KG):
            store(work, start + lane, load(b, (first * KG + lane) * step(b, 0)))


@inlined
def _pack_taps(work, to, lanes, w, at, count):
    R, S = w.shape[4], w.shape[5]
    for g in range(count):
        for r in range(R):
            for s in range(S):
                value = load(w, at + g * step(w, 0) + r * step(w, 4) + s * step(w, 5))
                store(work, to + (r * S + s) * lanes + g, value)


@helper
def _read(work, to, u, at, h, end, planes, lanes):
    """Rows h..end-1 of up to ``lanes`` planes: (plane, row, column) -> (row, column, lane)."""
    W = u.shape[4]
    if planes < lanes:  # what is left over in the others may be slow to multiply
        fill_row(work, to, u.dtype.type(0), (end - h) * W * lanes)
    if step(u, 3) == W:
        _across(work, to, u, at + h * W, step(u, 1), planes, (end - h) * W, lanes)
    else:
        for row in range(h, end):
            _across(work, to + (row - h) * W * lanes, u, at + row * step(u, 3), step(u, 1), planes,
                    W, lanes)  # fmt: skip


@inlined
def _across(work, to, u, at, apart, planes, count, lanes):
    """A run of pixels; the last block begins early enough to be whole."""
    whole = count - count % lanes
    if planes < lanes or count < lanes:
        transpose(work, to, lanes, u, at, apart, planes, count, lanes)
        return
    transpose(work, to, lanes, u, at, apart, lanes, whole, lanes)
    if whole < count:
        transpose(work, to + (count - lanes) * lanes, lanes, u, at + count - lanes, apart, lanes,
                  lanes, lanes)  # fmt: skip


@helper
def _write(v, at, p, end, planes, work, start, lanes):
    """The way back of _read."""
    Q = v.shape[4]
    if step(v, 3) == Q:
        _back(v, at + p * Q, step(v, 1), planes, work, start, (end - p) * Q, lanes)
    else:
        for row in range(p, end):
            _back(v, at + row * step(v, 3), step(v, 1), planes, work,
                  start + (row - p) * Q * lanes, Q, lanes)  # fmt: skip


@inlined
def _back(v, at, apart, planes, work, start, count, lanes):
    whole = count - count % lanes
    if planes < lanes or count < lanes:
        transpose(v, at, apart, work, start, lanes, count, planes, lanes)
        return
    transpose(v, at, apart, work, start, lanes, whole, lanes, lanes)
    if whole < count:
        transpose(v, at + count - lanes, apart, work, start + (count - lanes) * lanes, lanes,
                  lanes, lanes, lanes)  # fmt: skip


#: by the step of tiles along rows: for channels-last and for channels-first images
KERNELS = {
    1: (_last("channel_windows_last", 1), _first("channel_windows_first", 1)),
    2: (_last("channel_windows_last_down", 2), _first("channel_windows_first_down", 2)),
}
