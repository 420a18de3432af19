"""Max pooling, forward and backward, in strips of lanes side by side.

A strip is a run of windows that differ along one axis: along the row where images are stored row
by row, across the channels where those lie next to each other (channels last).  The taps are
walked in row-major order with the best value and its position in registers.
"""

from __future__ import annotations

import numpy as np

from .jit import array, boolean, helper, int64, kernel, out, prange, triple
from .lanes import beats, both, choose, lanes_between, lanes_load, lanes_store, splat, splat_like
from .memory import step
from .window import ceil_div, inner_windows, taps_inside

_MOVE = (triple, triple, triple, triple)  # window, stride, dilation, before
_NO_WINNER = np.empty((1, 1, 1, 1, 1), np.uint8)
WIDE, NARROW = 16, 8  # lanes of a strip; the narrow one for the end of a row


@helper
def _lanes_inside(start, stride, size, count):
    """(first, end) of the lanes l < count with 0 <= start + l*stride < size."""
    first = 0 if start >= 0 else ceil_div(-start, stride)
    end = 0 if start >= size else min(count, ceil_div(size - start, stride))
    return first, max(first, end)


@helper
def _strip(
    y, to, y_lane, winner, name, name_lane, x, at, x_lane, count, worst,
    taps, jump, window, border, start, stride, size, named, last, omit,
):  # fmt: skip
    """The largest element of ``count`` windows; ``taps`` are those inside the image.

    In a ``border`` strip the windows lie along the row and some reach outside it: which lanes
    take part differs from tap to tap.  ``start`` is the position of lane 0's first tap.
    """
    t0, t1, r0, r1, s0, s1, dilation = taps
    best = worst
    number = splat_like(winner.dtype.type((t0 * window[1] + r0) * window[2] + s0), worst)
    if border:  # the first tap inside, for each lane
        for s in range(s1 - 1, s0 - 1, -1):
            first, end = _lanes_inside(start + s * dilation, stride, size, count)
            tap = splat_like(winner.dtype.type((t0 * window[1] + r0) * window[2] + s), worst)
            number = choose(lanes_between(first, end, worst), tap, number)
    for t in range(t0, t1):
        for r in range(r0, r1):
            row = at + t * jump[0] + r * jump[1]
            tap = (t * window[1] + r) * window[2]
            for s in range(s0, s1):
                first, end = 0, count
                if border:
                    first, end = _lanes_inside(start + s * dilation, stride, size, count)
                value = lanes_load(x, row + s * jump[2], x_lane, first, end, worst)
                wins = beats(value, best, last, omit)
                if border:
                    wins = both(wins, lanes_between(first, end, worst))
                best = choose(wins, value, best)
                number = choose(wins, splat_like(winner.dtype.type(tap + s), worst), number)
    lanes_store(y, to, y_lane, 0, count, best)
    if named:
        lanes_store(winner, name, name_lane, 0, count, number)


@helper
def _line(
    y, to, winner, name, x, at, count, lane, taps, jump, window, inner, start, stride, size,
    named, last, omit,
):  # fmt: skip
    """Strips over ``count`` windows side by side on the axis ``lane``."""
    y_lane, name_lane, x_lane = step(y, lane), step(winner, lane), step(x, lane) * stride
    worst = x.dtype.type(np.nan) if omit else x.dtype.type(-np.inf)
    done = 0
    while done < count:
        left = count - done
        border = done < inner[0] or min(count, done + WIDE) > inner[1]
        here, yo, wo, xo = (
            start + done * stride, to + done * y_lane, name + done * name_lane, at + done * x_lane
        )  # fmt: skip
        if left > NARROW:
            _strip(y, yo, y_lane, winner, wo, name_lane, x, xo, x_lane, min(left, WIDE),
                   splat(worst, WIDE), taps, jump, window, border, here, stride, size,
                   named, last, omit)  # fmt: skip
            done += WIDE
        else:
            _strip(y, yo, y_lane, winner, wo, name_lane, x, xo, x_lane, left,
                   splat(worst, NARROW), taps, jump, window, border, here, stride, size,
                   named, last, omit)  # fmt: skip
            done += NARROW


@kernel(lambda F, I: (out(F, 5), out(I, 5), array(F, 5), *_MOVE, boolean, boolean, boolean, boolean,
                      int64))  # fmt: skip
def largest(
    y, winner, x, window, stride, dilation, before, named, last, omit, across, pieces
):
    """y and winner; strips lie ``across`` the channels, or along the row."""
    N, C, D, H, W = x.shape
    _, _, Z, P, Q = y.shape
    jump = (
        dilation[0] * step(x, 2), dilation[1] * step(x, 3), dilation[2] * step(x, 4)
    )  # fmt: skip
    inner = inner_windows(W, window[2], stride[2], dilation[2], before[2], Q)
    channels = 1 if across else C
    rows = N * channels * Z * P
    for piece in prange(pieces):
        for row in range(rows * piece // pieces, rows * (piece + 1) // pieces):
            n, c, z, p = row // (P * Z * channels), row // (P * Z) % channels, row // P % Z, row % P
            to = n * step(y, 0) + c * step(y, 1) + z * step(y, 2) + p * step(y, 3)
            name = n * step(winner, 0) + c * step(winner, 1)
            name += z * step(winner, 2) + p * step(winner, 3)
            d, h, w = z * stride[0] - before[0], p * stride[1] - before[1], -before[2]
            at = n * step(x, 0) + c * step(x, 1)
            at += d * step(x, 2) + h * step(x, 3) + w * step(x, 4)
            t0, t1 = taps_inside(d, dilation[0], D, window[0])
            r0, r1 = taps_inside(h, dilation[1], H, window[1])
            if not across:
                taps = (t0, t1, r0, r1, 0, window[2], dilation[2])
                _line(y, to, winner, name, x, at, Q, 4, taps, jump, window, inner, w, stride[2], W,
                      named, last, omit)  # fmt: skip
                continue
            for q in range(Q):
                s0, s1 = 0, window[2]
                if q < inner[0] or q >= inner[1]:
                    s0, s1 = taps_inside(w + q * stride[2], dilation[2], W, window[2])
                taps = (t0, t1, r0, r1, s0, s1, dilation[2])
                _line(y, to + q * step(y, 4), winner, name + q * step(winner, 4),
                      x, at + q * stride[2] * step(x, 4), C, 1, taps, jump, window, (0, C), 0, 1, C,
                      named, last, omit)  # fmt: skip


def across_channels(*images):
    """Strips along the row read unit strides or every second element well; else the channels."""
    return all(image.strides[1] == image.itemsize for image in images) and any(
        image.strides[4] != image.itemsize for image in images
    )


def max_pool_forward(y, winner, x, geometry, ties, nan, plan, workspace):
    g = geometry
    named = winner is not None
    if not named:
        winner = _NO_WINNER
    largest((y.dtype.name, winner.dtype.name), plan.threads, y, winner, x,
            g.window, g.stride, g.dilation, g.before, named, ties == "last", nan == "omit",
            across_channels(x, y), plan.threads)  # fmt: skip
