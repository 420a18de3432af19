"""Depthwise 3x3 and 3x3 with few channels a group, forward and dx, of channels-last images.

The work is cut into blocks of rows and runs of vectors of channels, and each vector of a block is
one walk (channel_walk.py).  Weights are brought into vectors by each thread for the runs it serves.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .channel_walk import HIGH, PERMUTES, SIDE, walk
from .jit import FLOATS, Kernel, array, helper, inlined, int64, out, prange, triple
from .memory import load, step, store
from .vectors import LANES, VECTOR_BYTES, fill_row

#: Vectors of channels that share a block of rows: 512 bytes, so that each pixel's are whole runs
#: of cache lines, and their weights stay in L1.
RUN = 8


def serves(g, stride, dtype) -> bool:
    """3x3 windows whose groups fit a vector; dilation only without a stride."""
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    if g.window[1:] != (SIDE, SIDE) or max(rows, channels) > LANES[dtype]:
        return False
    return (stride == 1 or g.dilation[1:] == (1, 1)) and (PERMUTES or rows == channels == 1)


def workspace_elements(g, operation, dtype, threads) -> int:
    """The weights of one run for each thread."""
    channels = (g.out_channels if operation == "conv_dx" else g.in_channels) // g.groups
    return threads * RUN * (channels * g.taps + 2) * LANES[dtype]


@lru_cache(maxsize=256)
def rotations(rows, channels, lanes):
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


def _planes(name, up, down):
    """The kernel for one pair of strides: v = u convolved with w (G, rows, channels, T, 3, 3), + b."""
    high = HIGH[up]

    def body(v, u, w, b, order, dilation, before, work, slots):
        N, _, D, P, _ = v.shape
        G, KG, CG, T, _, _ = w.shape
        lanes = VECTOR_BYTES // v.itemsize
        groups = lanes // max(KG, CG)
        vectors, every = (G - 1) // groups + 1, min(dilation[1], P)
        count = (P - 1) // every + 1 if up == 1 else (P - 1 + before[1]) // 2 + 1
        blocks = (count - 1) // high + 1
        units, size = N * D * every * blocks, (SIDE * SIDE * T * CG + 2) * lanes
        tasks = ((vectors - 1) // RUN + 1) * units
        for slot in prange(slots):
            packed, weights = -1, slot * RUN * size
            for task in range(slot * tasks // slots, (slot + 1) * tasks // slots):
                run, unit = task // units * RUN, task % units
                end = min(run + RUN, vectors)
                if run != packed:
                    for vector in range(run, end):
                        _pack(work, weights + (vector - run) * size, w, b, vector * groups, groups,
                              lanes)  # fmt: skip
                    packed = run
                n, z = unit // (D * every * blocks), unit // (every * blocks) % D
                residue, row = unit // blocks % every, unit % blocks * high
                for vector in range(run, end):
                    _block(v, u, w, order, dilation, before, work, weights + (vector - run) * size,
                           n, z, residue, row, every, vector * groups, groups)  # fmt: skip

    @inlined
    def _block(v, u, w, order, dilation, before, work, weights, n, z, residue, row, every, g, groups):
        """One vector's channels of a block of rows."""
        _, _, _, P, Q = v.shape
        G, KG, CG, T, _, _ = w.shape
        taps = SIDE * SIDE * (VECTOR_BYTES // v.itemsize)
        here = min(groups, G - g)
        uo, vo = n * step(u, 0) + g * CG * step(u, 1), n * step(v, 0) + g * KG * step(v, 1)
        vo += z * step(v, 2)
        rows, columns, first_row, top = P, Q, row - before[1], 2 * row - before[1]
        wide = 1
        if up == 1:
            wide, top = min(dilation[2], Q), 0
            first_row = (row * every + residue) * down - before[1]
            rows, vo = (P - 1 - residue) // every + 1 - row, vo + (row * every + residue) * step(v, 3)
        else:
            first_row = row
        for side in range(wide):
            steps, left, first_column = (Q - 1 + before[2]) // 2 + 1, -before[2], 0
            if up == 1:
                columns = (Q - 1 - side) // wide + 1
                steps, left = columns + (SIDE - 1) // down, -((SIDE - 1) // down)
                first_column = side * down - before[2]
            place = vo + side * step(v, 4)
            more = 0
            for pair in range(T * CG + 1):
                t, i = pair // CG, pair % CG
                d = z * down - before[0] + t * dilation[0]
                inside = t < T
                if up > 1:
                    d = z + before[0] - t * dilation[0]
                    inside = inside and d % up == 0
                    d //= up
                inside = inside and 0 <= d < u.shape[2]
                if not inside and (more or pair < T * CG):
                    continue  # the last turn is for targets that no source reaches
                numbers = (here * CG, step(u, 3), step(u, 4), u.shape[3] if inside else 0,
                           u.shape[4], first_row, first_column,
                           dilation[1] if up == 1 else 1, dilation[2] if up == 1 else 1,
                           here * KG, step(v, 3) * (every if up == 1 else 1),
                           step(v, 4) * wide, rows, columns, top, left, steps, more)  # fmt: skip
                walk(up, down, order, min(i, CG - 1) * order.shape[1],
                     u, uo + (d * step(u, 2) if inside else 0),
                     work, weights + (pair if inside else 0) * taps,
                     work, weights + T * CG * taps + more * taps // (SIDE * SIDE),
                     v, place, numbers)  # fmt: skip
                more = 1

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), array(F, 5), array(F, 6), array(F, 1), array("int32", 2),
                                   triple, triple, out(F, 1), int64), FLOATS)  # fmt: skip


@helper
def _pack(work, to, w, b, first, groups, lanes):
    """A vector's weights: [t][rotation][tap][lane], then what its sums begin with, then zeros."""
    G, KG, CG, T, R, S = w.shape
    fill_row(work, to, w.dtype.type(0), (R * S * T * CG + 2) * lanes)
    start = to + R * S * T * CG * lanes
    for lane in range(min(groups, G - first) * KG):
        g, k = first + lane // KG, lane % KG
        at = g * step(w, 0) + k * step(w, 1)
        for t in range(T):
            for i in range(CG):
                from_ = at + (k + i) % CG * step(w, 2) + t * step(w, 3)
                place = to + (t * CG + i) * R * S * lanes + lane
                for r in range(R):
                    for s in range(S):
                        value = load(w, from_ + r * step(w, 4) + s * step(w, 5))
                        store(work, place + (r * S + s) * lanes, value)
        if b.size:
            store(work, start + lane, load(b, (g * KG + k) * step(b, 0)))


planes = _planes("channel_planes", 1, 1)
planes_down = _planes("channel_planes_down", 1, 2)
planes_up = _planes("channel_planes_up", 2, 1)
