"""Max pooling, in strips of windows side by side.

A strip is a run of windows that differ along one axis: along the row where images are stored row
by row, across the channels where those lie next to each other (channels last).  The taps are
walked in row-major order, with the best value and its position in registers.
"""

from __future__ import annotations

import numpy as np

from .jit import array, boolean, inlined, int64, kernel, out, prange, triple, types
from .lanes import add, any_nan, beats, both, choose, greater, lanes_between, lanes_load
from .lanes import lanes_store, splat, splat_like
from .memory import step
from .window import ceil_div, inner_windows, next_row, row_of, taps_inside

_NO_WINNER = np.empty((1, 1, 1, 1, 1), np.uint8)
WIDE, NARROW = 16, 8  # lanes of a strip; the narrow one for the end of a row


@inlined
def _lanes_inside(start, stride, size, count):
    """(first, end) of the lanes l < count with 0 <= start + l*stride < size."""
    first = 0 if start >= 0 else min(count, ceil_div(-start, stride))
    end = 0 if start >= size else min(count, ceil_div(size - start, stride))
    return first, max(first, end)


@inlined
def _strip(
    y, to, winner, name, x, at, lanes, count, worst, taps, jump, window, border, row, rules
):
    """The largest element of ``count`` windows and its position.

    ``taps`` are those inside the image.  In a ``border`` strip the windows lie along a row and
    some reach outside it: which lanes take part differs from tap to tap.  ``row`` is then the
    position of lane 0's first tap, and the stride, dilation and size of the row.

    The usual strip is walked with the one comparison that numbers need.  If a NaN was among them
    (it, or inf - inf, leaves its mark on a sum) the strip is walked again by the full rule.
    """
    t0, t1, r0, r1, s0, s1 = taps
    start, stride, dilation, size = row
    named, last, omit = rules
    tap = (t0 * window[1] + r0) * window[2]
    best, number = worst, splat_like(winner.dtype.type(tap + s0), worst)
    if border:  # the first tap inside, for each lane
        for s in range(s1 - 1, s0 - 1, -1):
            first, end = _lanes_inside(start + s * dilation, stride, size, count)
            this = splat_like(winner.dtype.type(tap + s), worst)
            number = choose(lanes_between(first, end, worst), this, number)
    doubt = splat_like(x.dtype.type(1), worst)
    if not (border or last or omit):
        for t in range(t0, t1):
            for r in range(r0, r1):
                tap = (t * window[1] + r) * window[2]
                here = at + t * jump[0] + r * jump[1] + s0 * jump[2]
                for s in range(s0, s1):
                    value = lanes_load(x, here, lanes[2], 0, count, worst)
                    wins = greater(value, best)
                    doubt = add(doubt, value)
                    best = choose(wins, value, best)
                    number = choose(wins, splat_like(winner.dtype.type(tap + s), worst), number)
                    here += jump[2]
        if not any_nan(doubt):
            lanes_store(y, to, lanes[0], 0, count, best)
            if named:
                lanes_store(winner, name, lanes[1], 0, count, number)
            return
    for t in range(t0, t1):
        for r in range(r0, r1):
            tap = (t * window[1] + r) * window[2]
            here = at + t * jump[0] + r * jump[1] + s0 * jump[2]
            first, end = 0, count
            for s in range(s0, s1):
                if border:
                    first, end = _lanes_inside(start + s * dilation, stride, size, count)
                value = lanes_load(x, here, lanes[2], first, end, worst)
                wins = beats(value, best, last, omit)
                if border:
                    wins = both(wins, lanes_between(first, end, worst))
                best = choose(wins, value, best)
                number = choose(wins, splat_like(winner.dtype.type(tap + s), worst), number)
                here += jump[2]
    lanes_store(y, to, lanes[0], 0, count, best)
    if named:
        lanes_store(winner, name, lanes[1], 0, count, number)


@inlined
def _line(y, to, winner, name, x, at, lanes, count, taps, jump, window, inner, row, rules):
    """Strips over ``count`` windows side by side; those before and behind ``inner`` are border."""
    worst = x.dtype.type(np.nan) if rules[2] else x.dtype.type(-np.inf)
    start, stride, dilation, size = row
    done = 0
    while done < count:
        left = count - done
        border = done < inner[0] or min(count, done + WIDE) > inner[1]
        strip = (start + done * stride, stride, dilation, size)
        places = (to + done * lanes[0], name + done * lanes[1], at + done * lanes[2])
        if left > NARROW:
            _strip(y, places[0], winner, places[1], x, places[2], lanes, min(left, WIDE),
                   splat(worst, WIDE), taps, jump, window, border, strip, rules)  # fmt: skip
            done += WIDE
        else:
            _strip(y, places[0], winner, places[1], x, places[2], lanes, left,
                   splat(worst, NARROW), taps, jump, window, border, strip, rules)  # fmt: skip
            done += NARROW


@kernel(lambda F, I: (out(F, 5), out(I, 5), array(F, 5), triple, triple, triple, triple,
                      types.UniTuple(boolean, 3), boolean, int64))  # fmt: skip
def largest(y, winner, x, window, stride, dilation, before, rules, across, pieces):
    """y and winner; strips lie ``across`` the channels, or along the row."""
    N, C, D, H, W = x.shape
    _, _, Z, P, Q = y.shape
    jump = (dilation[0] * step(x, 2), dilation[1] * step(x, 3), dilation[2] * step(x, 4))
    inner_p = inner_windows(H, window[1], stride[1], dilation[1], before[1], P)
    inner_q = inner_windows(W, window[2], stride[2], dilation[2], before[2], Q)
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
            if across:
                lanes = (step(y, 1), step(winner, 1), step(x, 1))
                for q in range(Q):
                    s0, s1 = 0, window[2]
                    if q < inner_q[0] or q >= inner_q[1]:
                        s0, s1 = taps_inside(w + q * stride[2], dilation[2], W, window[2])
                    _line(y, to + q * step(y, 4), winner, name + q * step(winner, 4),
                          x, at + q * stride[2] * step(x, 4), lanes, C, (t0, t1, r0, r1, s0, s1),
                          jump, window, (0, C), (0, 1, 1, C), rules)  # fmt: skip
            else:
                lanes = (step(y, 4), step(winner, 4), stride[2] * step(x, 4))
                _line(y, to, winner, name, x, at, lanes, Q, (t0, t1, r0, r1, 0, window[2]),
                      jump, window, inner_q, (w, stride[2], dilation[2], W), rules)  # fmt: skip
            n, c, z, p = next_row(n, c, z, p, channels, Z, P)


def across_channels(*images):
    """Do strips lie best across the channels?  Where those are next to each other and rows not."""
    return all(image.strides[1] == image.itemsize for image in images) and any(
        image.strides[4] != image.itemsize for image in images
    )


def max_pool_forward(y, winner, x, geometry, ties, nan, plan, workspace):
    g = geometry
    rules = (winner is not None, ties == "last", nan == "omit")
    if winner is None:
        winner = _NO_WINNER
    largest((y.dtype.name, winner.dtype.name), plan.threads, y, winner, x,
            g.window, g.stride, g.dilation, g.before, rules,
            across_channels(x, y), plan.threads)  # fmt: skip
