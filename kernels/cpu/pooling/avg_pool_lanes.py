"""Average pooling a vector at a time, for windows without dilation: most of them.

A vector lies along a row of windows, or across the channels where those lie next to each other. How
many taps of a window count is a product of one number for each axis, which are tabled.  Rows of few
windows go several at a time, and so do those of small planes at stride 1.  A global pool is a sum
over a run of memory.  (The gradient: avg_pool_shares.py.)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..emitted.lanes import add, choose, lanes_load, lanes_store, splat, splat_like
from ..emitted.memory import load, step, store
from ..emitted.row_lanes import times
from ..jit import array, inlined, int64, kernel, out, prange, triple
from ..products.matrix_vector import sum_of_lanes
from . import max_pool_flat, max_pool_quarters, max_pool_runs
from .avg_pool_strips import over, strips_of
from .max_pool import across_channels
from .max_pool_quarters import load_pair_rows
from .window import ceil_div, inner_windows, next_row, row_of, taps_inside

_WIDTH = 16  # lanes


@lru_cache(maxsize=256)
def counts(g, dtype, padding_counts):
    """For each axis how many taps of each of its windows count, and the inverses."""
    found = []
    for axis in range(3):
        taps = np.arange(g.out[axis])[:, None] * g.stride[axis] - g.before[axis]
        taps = taps + np.arange(g.window[axis])
        low, high = (-g.before[axis], g.after[axis]) if padding_counts else (0, 0)
        inside = (taps >= low) & (taps < g.size[axis] + high)
        counted = np.ones(g.out[axis] + _WIDTH, dtype)  # a vector may end beyond
        counted[: g.out[axis]] = inside.sum(axis=1)
        found.append(counted)
    return (*found, *(1 / counted for counted in found))


WINDOWS = (triple, triple, triple)  # window, stride, before


def tables(F):
    return (array(F, 1),) * 3


_one_1, _two_1 = strips_of(1, 1), strips_of(1, 2)
_one_2, _two_2, _four_2 = strips_of(2, 1), strips_of(2, 2), strips_of(2, 4)
_one_3, _one_4 = strips_of(3, 1), strips_of(4, 1)


@inlined
def _row(y, to, x, at, q, count, W, taps, S, stride, before, area, wide, zeros):
    """As a strip of one row, reading nothing that is not asked for, at any stride."""
    t0, t1, r0, r1 = taps
    total, first = zeros, q * stride - before
    last = first + (count - 1) * stride
    for t in range(t0, t1):
        for r in range(r0, r1):
            here = at + t * step(x, 2) + r * step(x, 3)
            for s in range(S):
                low, high, start = 0, count, first + s
                if start < 0:
                    low = ceil_div(-start, stride)
                if last + s >= W:
                    high = ceil_div(W - start, stride) if start < W else 0
                if low < high:
                    total = add(total, lanes_load(x, here + start, stride, low, high, zeros))
    divisor = times(lanes_load(wide, q, 1, 0, _WIDTH, zeros), splat_like(area, zeros))
    lanes_store(y, to + q, 1, 0, count, over(total, divisor))


@kernel(lambda F: (out(F, 5), array(F, 5), *WINDOWS, *tables(F), int64, int64))
def average_of_rows(y, x, window, stride, before, deep, high, wide, end_of_x, pieces):
    """y; the elements of a row lie next to each other, and the last of x is ``end_of_x``."""
    N, C, D, H, W = x.shape
    _, _, Z, P, Q = y.shape
    apart, S, x_jump, y_jump = stride[2], window[2], stride[1] * step(x, 3), step(y, 3)
    inner_p = inner_windows(H, window[1], stride[1], 1, before[1], P)
    together = 4 if Q <= 4 and apart == 2 else 2 if Q <= 8 and apart <= 2 else 1
    together = 1 if inner_p[1] - inner_p[0] < together else together
    planes = N * C * Z
    for piece in prange(pieces):
        zeros = splat(x.dtype.type(0), _WIDTH)
        first, end = planes * piece // pieces, planes * (piece + 1) // pieces
        n, c, z, _ = row_of(first, C, Z, 1)
        for _ in range(first, end):
            d, p = z * stride[0] - before[0], 0
            t0, t1 = taps_inside(d, 1, D, window[0])
            while p < P:
                rows, r0, r1 = 1, 0, window[1]
                if p < inner_p[0] or p >= inner_p[1]:
                    r0, r1 = taps_inside(p * stride[1] - before[1], 1, H, window[1])
                elif together > 1:
                    rows, p = together, min(p, inner_p[1] - together)
                h, taps = p * stride[1] - before[1], (t0, t1, r0, r1)
                to = n * step(y, 0) + c * step(y, 1) + z * step(y, 2) + p * step(y, 3)
                at = n * step(x, 0) + c * step(x, 1) + d * step(x, 2) + h * step(x, 3)
                square = window[0] == 1 and S == r1 - r0 == window[1]
                side = S if square else np.int64(0)
                area, lanes = load(deep, z) * load(high, p), _WIDTH // rows
                for q in range(0, Q, lanes):
                    count, start = min(lanes, Q - q), at + q * apart - before[2]
                    begin = start + t0 * step(x, 2) + r0 * step(x, 3)
                    behind = start + (t1 - 1) * step(x, 2) + (r1 - 1) * step(x, 3)
                    behind += (rows - 1) * x_jump + S + apart * lanes - 1
                    if begin < 0 or behind > end_of_x or apart > 4:
                        for row in range(rows):
                            _row(y, to + row * y_jump, x, at + row * x_jump, q, count, W, taps, S,
                                 apart, before[2], area, wide, zeros)  # fmt: skip
                    elif apart == 1 and rows == 1:
                        _one_1(y, to, y_jump, x, at, x_jump, q, count, W, taps, S, before[2], side,
                               area, wide, zeros)  # fmt: skip
                    elif apart == 1:
                        _two_1(y, to, y_jump, x, at, x_jump, q, count, W, taps, S, before[2], side,
                               area, wide, zeros)  # fmt: skip
                    elif apart == 3:
                        _one_3(y, to, y_jump, x, at, x_jump, q, count, W, taps, S, before[2], side,
                               area, wide, zeros)  # fmt: skip
                    elif apart == 4:
                        _one_4(y, to, y_jump, x, at, x_jump, q, count, W, taps, S, before[2], side,
                               area, wide, zeros)  # fmt: skip
                    elif rows == 1:
                        _one_2(y, to, y_jump, x, at, x_jump, q, count, W, taps, S, before[2], side,
                               area, wide, zeros)  # fmt: skip
                    elif rows == 2:
                        _two_2(y, to, y_jump, x, at, x_jump, q, count, W, taps, S, before[2], side,
                               area, wide, zeros)  # fmt: skip
                    else:
                        _four_2(y, to, y_jump, x, at, x_jump, q, count, W, taps, S, before[2],
                                side, area, wide, zeros)  # fmt: skip
                p += rows
            n, c, z, _ = next_row(n, c, z, 0, C, Z, 1)


@inlined
def _pixel(y, to, x, at, C, taps, divisor, zeros):
    """A window of all channels: row by row of its taps, the sums in y meanwhile."""
    t0, t1, r0, r1, s0, s1 = taps
    for t in range(t0, t1):
        for r in range(r0, r1):
            here = at + t * step(x, 2) + r * step(x, 3) + s0 * step(x, 4)
            begin, done = t == t0 and r == r0, t == t1 - 1 and r == r1 - 1
            for i in range(0, C, _WIDTH):
                count = min(_WIDTH, C - i)
                total = zeros if begin else lanes_load(y, to + i, 1, 0, count, zeros)
                for s in range(s1 - s0):
                    total = add(total, lanes_load(x, here + i + s * step(x, 4), 1, 0, count, zeros))
                lanes_store(y, to + i, 1, 0, count, over(total, divisor) if done else total)


@kernel(lambda F: (out(F, 5), array(F, 5), *WINDOWS, *tables(F), int64))
def average_of_pixels(y, x, window, stride, before, deep, high, wide, pieces):
    """y; channels lie next to each other."""
    N, C, D, H, W = x.shape
    _, _, Z, P, Q = y.shape
    for piece in prange(pieces):
        zeros = splat(x.dtype.type(0), _WIDTH)
        first, end = N * Z * P * Q * piece // pieces, N * Z * P * Q * (piece + 1) // pieces
        n, z, p, q = row_of(first, Z, P, Q)
        for _ in range(first, end):
            to = n * step(y, 0) + z * step(y, 2) + p * step(y, 3) + q * step(y, 4)
            d, h = z * stride[0] - before[0], p * stride[1] - before[1]
            w = q * stride[2] - before[2]
            at = n * step(x, 0) + d * step(x, 2) + h * step(x, 3) + w * step(x, 4)
            t0, t1 = taps_inside(d, 1, D, window[0])
            r0, r1 = taps_inside(h, 1, H, window[1])
            s0, s1 = taps_inside(w, 1, W, window[2])
            divisor = splat_like(load(deep, z) * load(high, p) * load(wide, q), zeros)
            _pixel(y, to, x, at, C, (t0, t1, r0, r1, s0, s1), divisor, zeros)
            n, z, p, q = next_row(n, z, p, q, Z, P, Q)


@kernel(lambda F: (out(F, 5), array(F, 5), int64, int64, int64, int64, int64))
def average_of_runs(y, x, length, windows, plane, hop, pieces):
    """y of contiguous arrays: each plane of x has ``windows`` runs, ``hop`` apart."""
    for piece in prange(pieces):
        zeros = splat(x.dtype.type(0), _WIDTH)
        for number in range(y.size * piece // pieces, y.size * (piece + 1) // pieces):
            at, total = number // windows * plane + number % windows * hop, zeros
            for i in range(0, length, _WIDTH):
                total = add(total, lanes_load(x, at + i, 1, 0, length - i, zeros))
            store(y, number, sum_of_lanes(total) / x.dtype.type(length))


@kernel(lambda F: (out(F, 5), array(F, 5), array(int64, 1), array(int64, 1), array(F, 1), int64,
                   int64))  # fmt: skip
def average_of_planes(y, x, bits, offsets, counted, plane, pieces):
    """y of contiguous arrays; the tables are those of `_planes`."""
    planes, taps, size = x.size // max(1, plane), offsets.size, x.size
    for piece in prange(pieces):
        zeros = splat(x.dtype.type(0), _WIDTH)
        for number in range(planes * piece // pieces, planes * (piece + 1) // pieces):
            for start in range(0, plane, _WIDTH):
                to, table, total = number * plane + start, start // _WIDTH * taps, zeros
                for tap in range(taps):
                    at = to + load(offsets, tap)
                    value = lanes_load(x, at, 1, max(0, -at), min(_WIDTH, size - at), zeros)
                    seen = max_pool_flat.of_bits(load(bits, table + tap), zeros)
                    total = add(total, choose(seen, value, zeros))
                total = over(total, lanes_load(counted, start, 1, 0, _WIDTH, zeros))
                lanes_store(y, to, 1, 0, min(_WIDTH, plane - start), total)


@lru_cache(maxsize=256)
def _planes(g, dtype, padding_counts):
    """For small planes at stride 1 of as many outputs as inputs (max_pool_flat.py): the bits of the

    lanes that see each tap, the taps' offsets, and how many taps of each window count; or None.
    """
    found = max_pool_flat.tables(g, g.winner_dtype)
    if found is None:
        return None
    deep, high, wide = counts(g, dtype, padding_counts)[:3]
    counted = np.ones(g.plane + _WIDTH, dtype)
    counted[: g.plane] = (deep[0] * np.outer(high[: g.out[1]], wide[: g.out[2]])).reshape(-1)
    return found[0], found[2], counted


@kernel(lambda F: (out(F, 5), array(F, 5), int64))
def average_of_quarters(y, x, pieces):
    """y of contiguous arrays, where windows of 2 x 2 lie in narrow rows (max_pool_quarters.py)."""
    blocks = (y.size + _WIDTH - 1) // _WIDTH
    for piece in prange(pieces):
        zeros, quarter = splat(x.dtype.type(0), _WIDTH), splat(x.dtype.type(0.25), _WIDTH)
        for block in range(blocks * piece // pieces, blocks * (piece + 1) // pieces):
            at = block * _WIDTH
            count = min(_WIDTH, y.size - at)
            a, b, c, d = load_pair_rows(x, 4 * at, y.shape[4], count, zeros)
            total = add(add(add(add(zeros, a), b), c), d)
            lanes_store(y, at, 1, 0, count, times(total, quarter))


# ---- which of them serve ------------------------------------------------------------------


def way_of(g, *images):
    """Across the "pixels"' channels, along "rows", or None: neither lies right."""
    if any(gap > 1 and taps > 1 for gap, taps in zip(g.dilation, g.window)):
        return None
    if across_channels(*images):
        return "pixels"
    return "rows" if all(a.strides[4] == a.itemsize for a in images) else None


def forward(y, x, g, padding_counts, threads):
    """Which kernel makes y, and what it takes behind y and x, if arrays of these forms lie right

    for vectors; else None.
    """
    contiguous = x.flags.c_contiguous and y.flags.c_contiguous
    runs = max_pool_runs.runs(g) if contiguous else None
    if runs is not None:
        return average_of_runs, (*runs, threads)
    way = way_of(g, y, x)
    if contiguous and way is not None and max_pool_quarters.narrow(g):
        return average_of_quarters, (threads,)
    if way is None:
        return None
    planes = _planes(g, y.dtype, padding_counts) if contiguous else None
    if planes is not None:
        return average_of_planes, (*planes, g.plane, threads)
    move = (g.window, g.stride, g.before, *counts(g, y.dtype, padding_counts)[:3])
    if way == "pixels":
        return average_of_pixels, (*move, threads)
    # with steps backwards memory ends where it does not seem to: no strip reads beyond a row
    last = -1 if min(x.strides) < 0 else sum((n - 1) * hop for n, hop in zip(x.shape, x.strides))
    return average_of_rows, (*move, last // x.itemsize, threads)
