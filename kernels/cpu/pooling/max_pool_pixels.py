"""Max pooling with channels last: vectors are of channels, one window after the other.

For the usual rules of ties and NaN.  Windows of 2 x 2 and 3 x 3, the frequent ones, are unrolled
where all their taps lie inside.  The last vector of a pixel overlaps the one before it.
"""

from __future__ import annotations

import numpy as np

from ..emitted.lanes import beats, choose, lanes_load, lanes_store, splat, splat_like
from ..emitted.memory import step
from ..emitted.row_lanes import plus
from ..jit import WITH_WINNER, array, boolean, inlined, int64, kernel, out, prange, triple
from .max_pool_square import best_of_square
from .window import inner_windows, next_row, row_of, taps_inside

_WIDE, _NARROW = 16, 8  # lanes


def serves(*images) -> bool:
    """Do channels lie next to each other in all images?"""
    return all(image.strides[1] == image.itemsize for image in images)


@inlined
def _tap(x, at, count, worst):
    return lanes_load(x, at, 1, 0, count, worst)


def _square(side):
    """A vector of one frequent window: ``side`` rows of as many taps, all inside."""
    best_of = best_of_square(side, _tap)

    @inlined
    def vector(y, to, winner, name, x, at, count, worst, taps, jump, window, named):
        best, won = best_of(x, at, jump, count, winner, worst)
        lanes_store(y, to, 1, 0, count, best)
        if named:
            lanes_store(winner, name, 1, 0, count, won)

    return vector


@inlined
def _any(y, to, winner, name, x, at, count, worst, taps, jump, window, named):
    """A vector of a window of which ``taps`` lie inside the image."""
    t0, t1, r0, r1, s0, s1 = taps
    one = splat_like(winner.dtype.type(1), worst)
    first = splat_like(winner.dtype.type((t0 * window[1] + r0) * window[2] + s0), worst)
    best, won = worst, first
    for t in range(t0, t1):
        for r in range(r0, r1):
            number = splat_like(winner.dtype.type((t * window[1] + r) * window[2] + s0), worst)
            here = at + t * jump[0] + r * jump[1] + s0 * jump[2]
            for _ in range(s0, s1):
                value = lanes_load(x, here, 1, 0, count, worst)
                wins = beats(value, best, False, False)
                best, won = choose(wins, value, best), choose(wins, number, won)
                number = plus(number, one)
                here += jump[2]
    lanes_store(y, to, 1, 0, count, best)
    if named:
        lanes_store(winner, name, 1, 0, count, won)


def _pixels_of(vector):
    """All channels of windows side by side that see the same taps, by ``vector``."""

    @inlined
    def pixels(y, winner, x, places, hops, run, wide, narrow, taps, jump, window, named):
        (to, name, at), C = places, x.shape[1]
        for _ in range(run):
            if C >= _WIDE:
                for i in range(0, C, _WIDE):
                    c = min(i, C - _WIDE)
                    vector(y, to + c, winner, name + c, x, at + c, _WIDE, wide, taps, jump, window,
                           named)  # fmt: skip
            elif C >= _NARROW:
                for i in range(0, C, _NARROW):
                    c = min(i, C - _NARROW)
                    vector(y, to + c, winner, name + c, x, at + c, _NARROW, narrow, taps, jump,
                           window, named)  # fmt: skip
            else:
                vector(y, to, winner, name, x, at, C, narrow, taps, jump, window, named)
            to += hops[0]
            name += hops[1]
            at += hops[2]

    return pixels


_two, _three, _some = _pixels_of(_square(2)), _pixels_of(_square(3)), _pixels_of(_any)


@kernel(lambda F, I: (out(F, 5), out(I, 5), array(F, 5), triple, triple, triple, triple,
                      boolean, int64), variants=WITH_WINNER)  # fmt: skip
def largest_of_pixels(y, winner, x, window, stride, dilation, before, named, pieces):
    """y and winner of images that `serves`."""
    N, C, D, H, W = x.shape
    _, _, Z, P, Q = y.shape
    jump = (dilation[0] * step(x, 2), dilation[1] * step(x, 3), dilation[2] * step(x, 4))
    hops = (step(y, 4), step(winner, 4), stride[2] * step(x, 4))
    inner = inner_windows(W, window[2], stride[2], dilation[2], before[2], Q)
    rows = N * Z * P
    for piece in prange(pieces):
        worst = x.dtype.type(-np.inf)
        wide, narrow = splat(worst, _WIDE), splat(worst, _NARROW)
        first, end = rows * piece // pieces, rows * (piece + 1) // pieces
        n, _, z, p = row_of(first, 1, Z, P)
        for _ in range(first, end):
            to = n * step(y, 0) + z * step(y, 2) + p * step(y, 3)
            name = n * step(winner, 0) + z * step(winner, 2) + p * step(winner, 3)
            d, h = z * stride[0] - before[0], p * stride[1] - before[1]
            at = n * step(x, 0) + d * step(x, 2) + h * step(x, 3) - before[2] * step(x, 4)
            t0, t1 = taps_inside(d, dilation[0], D, window[0])
            r0, r1 = taps_inside(h, dilation[1], H, window[1])
            whole, q = (t0, t1, r0, r1) == (0, window[0], 0, window[1]), 0
            while q < Q:
                here = (to + q * hops[0], name + q * hops[1], at + q * hops[2])
                run, s0, s1 = 1, 0, window[2]
                if q < inner[0] or q >= inner[1]:
                    start = q * stride[2] - before[2]
                    s0, s1 = taps_inside(start, dilation[2], W, window[2])
                else:
                    run = inner[1] - q
                taps = (t0, t1, r0, r1, s0, s1)
                if whole and s1 - s0 == window[2] and window == (1, 2, 2):
                    _two(y, winner, x, here, hops, run, wide, narrow, taps, jump, window, named)
                elif whole and s1 - s0 == window[2] and window == (1, 3, 3):
                    _three(y, winner, x, here, hops, run, wide, narrow, taps, jump, window, named)
                else:
                    _some(y, winner, x, here, hops, run, wide, narrow, taps, jump, window, named)
                q += run
            n, _, z, p = next_row(n, 0, z, p, 1, Z, P)
