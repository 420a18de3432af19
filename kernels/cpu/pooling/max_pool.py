"""Max pooling, in strips of windows side by side.

A strip is a run of windows that differ along one axis and see the same taps: along the row where
images are stored row by row, across the channels where those lie next to each other (channels
last).  The taps are walked in row-major order, with the best value and its position in registers.
The last strip of a run overlaps the one before it rather than being a short one: the same thread
writes the same values twice.
"""

from __future__ import annotations

import numpy as np

from ..emitted.lanes import beats, choose, lanes_load, lanes_store, splat, splat_like
from ..emitted.memory import step
from ..jit import WITH_WINNER, array, boolean, inlined, int64, kernel, out, prange, triple, types
from .window import inner_windows, next_row, row_of, taps_inside

WIDE, MIDDLE, NARROW = 16, 8, 4  # lanes of a strip


@inlined
def _strip(y, to, winner, name, x, at, lanes, count, worst, taps, jump, window, rules):
    """The largest element of ``count`` windows and its position; ``taps`` lie inside the image."""
    t0, t1, r0, r1, s0, s1 = taps
    named, last, omit = rules
    tap = (t0 * window[1] + r0) * window[2] + s0
    best, number = worst, splat_like(winner.dtype.type(tap), worst)
    for t in range(t0, t1):
        for r in range(r0, r1):
            tap = (t * window[1] + r) * window[2]
            here = at + t * jump[0] + r * jump[1] + s0 * jump[2]
            for s in range(s0, s1):
                value = lanes_load(x, here, lanes[2], 0, count, worst)
                wins = beats(value, best, last, omit)
                best = choose(wins, value, best)
                number = choose(wins, splat_like(winner.dtype.type(tap + s), worst), number)
                here += jump[2]
    lanes_store(y, to, lanes[0], 0, count, best)
    if named:
        lanes_store(winner, name, lanes[1], 0, count, number)


@inlined
def _strips(y, to, winner, name, x, at, lanes, count, worst, width, taps, jump, window, rules):
    """``count`` windows that see the same taps, in strips of ``width`` lanes."""
    done = 0
    while done < count:
        here = max(0, min(done, count - width))
        _strip(y, to + here * lanes[0], winner, name + here * lanes[1], x, at + here * lanes[2],
               lanes, min(width, count), worst, taps, jump, window, rules)  # fmt: skip
        done += width


@inlined
def line(y, to, winner, name, x, at, lanes, count, taps, jump, window, rules):
    """``count`` windows that see the same taps."""
    worst = x.dtype.type(np.nan) if rules[2] else x.dtype.type(-np.inf)
    if count >= WIDE:
        _strips(y, to, winner, name, x, at, lanes, count, splat(worst, WIDE), WIDE,
                taps, jump, window, rules)  # fmt: skip
    elif count >= MIDDLE:
        _strips(y, to, winner, name, x, at, lanes, count, splat(worst, MIDDLE), MIDDLE,
                taps, jump, window, rules)  # fmt: skip
    else:
        _strips(y, to, winner, name, x, at, lanes, count, splat(worst, NARROW), NARROW,
                taps, jump, window, rules)  # fmt: skip


@kernel(lambda F, I: (out(F, 5), out(I, 5), array(F, 5), triple, triple, triple, triple,
                      types.UniTuple(boolean, 3), boolean, int64),
        variants=WITH_WINNER)  # fmt: skip
def largest(y, winner, x, window, stride, dilation, before, rules, across, pieces):
    """y and winner; strips lie ``across`` the channels, or along the row."""
    N, C, D, H, W = x.shape
    _, _, Z, P, Q = y.shape
    jump = (dilation[0] * step(x, 2), dilation[1] * step(x, 3), dilation[2] * step(x, 4))
    inner_p = inner_windows(H, window[1], stride[1], dilation[1], before[1], P)
    inner_q = inner_windows(W, window[2], stride[2], dilation[2], before[2], Q)
    lanes = (step(y, 4), step(winner, 4), stride[2] * step(x, 4))
    if across:
        lanes = (step(y, 1), step(winner, 1), step(x, 1))
    channels = 1 if across else C
    rows = N * channels * Z * P
    for piece in prange(pieces):
        first, end = rows * piece // pieces, rows * (piece + 1) // pieces
        n, c, z, p = row_of(first, channels, Z, P)
        for _ in range(first, end):
            to = n * step(y, 0) + c * step(y, 1) + z * step(y, 2) + p * step(y, 3)
            name = n * step(winner, 0) + c * step(winner, 1)
            name += z * step(winner, 2) + p * step(winner, 3)
            d, h, w = z * stride[0] - before[0], p * stride[1] - before[1], -before[2]
            at = n * step(x, 0) + c * step(x, 1)
            at += d * step(x, 2) + h * step(x, 3) + w * step(x, 4)
            t0, t1 = taps_inside(d, dilation[0], D, window[0])
            r0, r1 = 0, window[1]
            if p < inner_p[0] or p >= inner_p[1]:
                r0, r1 = taps_inside(h, dilation[1], H, window[1])
            q = 0
            while q < Q:
                run, s0, s1 = 1, 0, window[2]
                if q < inner_q[0] or q >= inner_q[1]:
                    s0, s1 = taps_inside(w + q * stride[2], dilation[2], W, window[2])
                elif not across:
                    run = inner_q[1] - q
                line(y, to + q * step(y, 4), winner, name + q * step(winner, 4),
                     x, at + q * stride[2] * step(x, 4), lanes, C if across else run,
                     (t0, t1, r0, r1, s0, s1), jump, window, rules)  # fmt: skip
                q += run
            n, c, z, p = next_row(n, c, z, p, channels, Z, P)


def across_channels(*images):
    """Do strips lie best across the channels?  Where those are next to each other and rows not."""
    return all(image.strides[1] == image.itemsize for image in images) and any(
        image.strides[4] != image.itemsize for image in images
    )
