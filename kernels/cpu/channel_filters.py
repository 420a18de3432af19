"""The gradient of 3x3 windows over channels-last images: beside channel_planes.py.

Parts of the work, cut by sizes alone, have sums of their own, which are added in order.
"""

from __future__ import annotations

from .channel_planes import RUN
from .channel_walk import HIGH, SIDE, filter_walk
from .jit import FLOATS, Kernel, array, inlined, int64, out, prange, triple
from .memory import load, step, store
from .vectors import LANES, VECTOR_BYTES, add_row, fill_row

#: Parts that all work is cut into, at least where it has as many blocks of rows.
TASKS = 32


def vectors(g, dtype):
    """Vectors of channels, each of as many whole groups as it holds."""
    largest = max(g.out_channels, g.in_channels) // g.groups
    return -(-g.groups // (LANES[dtype] // largest))


def parts(g, stride, dtype):
    """Parts that the images' blocks of rows are cut into."""
    every = min(g.dilation[1], g.out[1])
    blocks = -(-(-(-g.out[1] // every)) // HIGH[1])
    runs = -(-vectors(g, dtype) // RUN)
    return max(1, min(g.batch * g.out[0] * every * blocks, TASKS // runs))


def workspace_elements(g, stride, dtype) -> int:
    """The sums of each part."""
    channels = g.in_channels // g.groups
    return parts(g, stride, dtype) * vectors(g, dtype) * (channels * g.taps + 1) * LANES[dtype]


def _filters(name, down):
    """The kernel for one stride: dw, and db unless it is empty.

    work[0] becomes the number of results that are infinite or NaN: 0 stood in for dy beyond the
    image, and may have been multiplied by an infinite x.
    """
    high = HIGH[1]

    def body(dw, db, dy, x, order, dilation, before, work, groups, parts):
        K, CG, T, _, _ = dw.shape
        N, _, Z, P, _ = dy.shape
        KG = K // groups
        lanes = VECTOR_BYTES // dw.itemsize
        held = lanes // max(KG, CG)
        vectors, every = (groups - 1) // held + 1, min(dilation[1], P)
        blocks = ((P - 1) // every) // high + 1
        units, size = N * Z * every * blocks, (SIDE * SIDE * T * CG + 1) * lanes
        for task in prange(((vectors - 1) // RUN + 1) * parts):
            run, part = task // parts * RUN, task % parts
            end, sums = min(run + RUN, vectors), part * vectors * size
            fill_row(work, sums + run * size, dw.dtype.type(0), (end - run) * size)
            for unit in range(part * units // parts, (part + 1) * units // parts):
                n, z = unit // (Z * every * blocks), unit // (every * blocks) % Z
                residue, row = unit // blocks % every, unit % blocks * high
                for vector in range(run, end):
                    _block(dw, db, dy, x, order, dilation, before, work, sums + vector * size,
                           n, z, residue, row, every, groups, vector * held, held)  # fmt: skip
        bad = 0
        for vector in prange(vectors):
            for part in range(1, parts):
                add_row(work, vector * size, work, (part * vectors + vector) * size, size)
            bad += _write(dw, db, work, vector * size, groups, vector * held, held, lanes)
        store(work, 0, dw.dtype.type(bad))

    @inlined
    def _block(dw, db, dy, x, order, dilation, before, work, sums, n, z, residue, row, every,
               groups, g, held):  # fmt: skip
        """One vector's channels of a block of rows of dy."""
        _, _, _, P, Q = dy.shape
        KG, CG, T = dw.shape[0] // groups, dw.shape[1], dw.shape[2]
        taps = SIDE * SIDE * (VECTOR_BYTES // dw.itemsize)
        here, wide = min(held, groups - g), min(dilation[2], Q)
        first = row * every + residue
        rows = (P - 1 - residue) // every + 1 - row
        xo = n * step(x, 0) + g * CG * step(x, 1)
        yo = n * step(dy, 0) + g * KG * step(dy, 1) + z * step(dy, 2) + first * step(dy, 3)
        for side in range(wide):
            columns = (Q - 1 - side) // wide + 1
            more = 1 if db.size else 0
            for pair in range(T * CG + 1):
                t, i = pair // CG, pair % CG
                d = z * down - before[0] + t * dilation[0]
                inside = t < T and 0 <= d < x.shape[2]
                if not inside and (more == 0 or pair < T * CG):
                    continue  # the last turn is for the sum of a dy that reads no source
                numbers = (here * CG, step(x, 3), step(x, 4), x.shape[3] if inside else 0,
                           x.shape[4], first * down - before[1], side * down - before[2],
                           dilation[1], dilation[2],
                           here * KG, step(dy, 3) * every, step(dy, 4) * wide, rows, columns, 0, 0,
                           columns + (SIDE - 1) // down, more)  # fmt: skip
                filter_walk(1, down, order, min(i, CG - 1) * order.shape[1],
                            x, xo + (d * step(x, 2) if inside else 0),
                            work, sums + (pair if inside else 0) * taps,
                            work, sums + T * CG * taps, dy, yo + side * step(dy, 4),
                            numbers)  # fmt: skip
                more = 0

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), out(F, 1), array(F, 5), array(F, 5), array("int32", 2),
                                   triple, triple, out(F, 1), int64, int64), FLOATS)  # fmt: skip


@inlined
def _write(dw, db, work, at, groups, first, held, lanes):
    """A vector's sums to where they belong; returns how many are infinite or NaN."""
    K, CG, T, R, S = dw.shape
    KG, bad = K // groups, 0
    for lane in range(min(held, groups - first) * KG):
        k = first * KG + lane
        for t in range(T):
            for i in range(CG):
                to = k * step(dw, 0) + (lane % KG + i) % CG * step(dw, 1) + t * step(dw, 2)
                place = at + (t * CG + i) * R * S * lanes + lane
                for r in range(R):
                    for s in range(S):
                        value = load(work, place + (r * S + s) * lanes)
                        bad += value - value != 0
                        store(dw, to + r * step(dw, 3) + s * step(dw, 4), value)
        if db.size:
            store(db, k * step(db, 0), load(work, at + R * S * T * CG * lanes + lane))
    return bad


filters = _filters("channel_filters", 1)
filters_down = _filters("channel_filters_down", 2)
