"""Max pooling of images stored row by row, with horizontal strides of 1 and 2: most of them.

A strip is 16 windows: side by side in a row, or 8 of each of two rows, or 4 of four, where rows are
short.  It reads whole vectors wherever these lie between the first and the last element of x:
lanes beyond a row are computed and not stored.  The strips that hang over the left or right edge
of the image are built a second time, with masks for the taps outside.  The few strips at the very
ends of x are left to `max_pool`, and so are the rarer rules for ties and NaN.
"""

from __future__ import annotations

import numpy as np

from ..emitted.lanes import beats, choose, splat, splat_like
from ..emitted.memory import step
from ..emitted.row_lanes import both, plus, rows_load, rows_store
from ..jit import WITH_WINNER, array, boolean, inlined, int64, kernel, out, prange, triple
from .max_pool import line
from .max_pool_square import best_of_square
from .window import inner_windows, lanes_inside, next_row, row_of, taps_inside

_WIDTH = 16


def _strip(stride, rows, edged):
    """The strip of ``rows`` rows; with ``edged`` some lanes see taps outside the image."""

    @inlined
    def strip(y, winner, x, places_of, jumps, count, start, worst, taps, jump, window, width,
              named):  # fmt: skip
        (to, name, at), (y_jump, winner_jump, x_jump) = places_of, jumps
        t0, t1, r0, r1 = taps
        S, gap = window[2], jump[2]
        one = splat_like(winner.dtype.type(1), worst)
        number = splat_like(winner.dtype.type((t0 * window[1] + r0) * S), worst)
        best, won = worst, number
        if edged:
            for s in range(S - 1, -1, -1):
                tap = winner.dtype.type((t0 * window[1] + r0) * S + s)
                seen = lanes_inside(start + s * gap, stride, width, rows, worst)
                won = choose(seen, splat_like(tap, worst), won)
        for t in range(t0, t1):
            number = splat_like(winner.dtype.type((t * window[1] + r0) * S), worst)
            for r in range(r0, r1):
                source = at + t * jump[0] + r * jump[1]
                for s in range(S):
                    value = rows_load(x, source, stride, rows, x_jump, worst)
                    wins = beats(value, best, False, False)
                    if edged:
                        seen = lanes_inside(start + s * gap, stride, width, rows, worst)
                        wins = both(wins, seen)
                    best = choose(wins, value, best)
                    won = choose(wins, number, won)
                    number = plus(number, one)
                    source += gap
        rows_store(y, to, rows, y_jump, count, best)
        if named:
            rows_store(winner, name, rows, winner_jump, count, won)

    return strip


def _square(stride, rows, side):
    """The strip of one frequent window: ``side`` rows of as many taps, all inside."""

    @inlined
    def taps_of(x, at, x_jump, worst):
        return rows_load(x, at, stride, rows, x_jump, worst)

    best_of = best_of_square(side, taps_of)

    @inlined
    def strip(y, winner, x, places_of, jumps, count, worst, jump, named):
        (to, name, at), (y_jump, winner_jump, x_jump) = places_of, jumps
        best, won = best_of(x, at, jump, x_jump, winner, worst)
        rows_store(y, to, rows, y_jump, count, best)
        if named:
            rows_store(winner, name, rows, winner_jump, count, won)

    return strip


def strips_of(stride, rows):
    """Strips of ``rows`` rows of windows that are ``stride`` apart."""
    plain, edged = _strip(stride, rows, False), _strip(stride, rows, True)
    two, three = _square(stride, rows, 2), _square(stride, rows, 3)

    @inlined
    def strips(y, winner, x, places_of, jumps, Q, before, worst, taps, jump, window, width, inner,
               named):  # fmt: skip
        """All windows of ``rows`` rows; the last strip overlaps the one before it."""
        to, name, at = places_of
        lanes, q = _WIDTH // rows, 0
        all_taps = taps == (0, window[0], 0, window[1])
        while True:
            count = min(lanes, Q - q)
            here = (to + q, name + q, at + q * stride)
            if q < inner[0] or q + count > inner[1]:
                edged(y, winner, x, here, jumps, count, q * stride - before, worst, taps, jump,
                      window, width, named)  # fmt: skip
            elif window == (1, 3, 3) and all_taps:
                three(y, winner, x, here, jumps, count, worst, jump, named)
            elif window == (1, 2, 2) and all_taps:
                two(y, winner, x, here, jumps, count, worst, jump, named)
            else:
                plain(y, winner, x, here, jumps, count, q * stride - before, worst, taps, jump,
                      window, width, named)  # fmt: skip
            if q + lanes >= Q:
                break
            q = min(q + lanes, Q - lanes)

    return strips


_one_1, _two_1 = (strips_of(1, rows) for rows in (1, 2))
_one_2, _two_2, _four_2 = (strips_of(2, rows) for rows in (1, 2, 4))


@inlined
def windows_one_by_one(y, winner, x, places_of, Q, stride, dilation, before, taps, jump, window,
                        width, named):  # fmt: skip
    """A row of windows at an end of x, where nothing may be read that is not asked for."""
    to, name, at = places_of
    t0, t1, r0, r1 = taps
    for q in range(Q):
        s0, s1 = taps_inside(q * stride - before, dilation, width, window[2])
        line(y, to + q, winner, name + q, x, at + q * stride, (1, 1, 1), 1,
             (t0, t1, r0, r1, s0, s1), jump, window, (named, False, False))  # fmt: skip


@kernel(lambda F, I: (out(F, 5), out(I, 5), array(F, 5), triple, triple, triple, triple,
                      boolean, int64, int64), variants=WITH_WINNER)  # fmt: skip
def largest_of_rows(y, winner, x, window, stride, dilation, before, named, last, pieces):
    """y and winner; the elements of a row lie next to each other, and ``last`` is x's last one."""
    N, C, D, H, W = x.shape
    _, _, Z, P, Q = y.shape
    worst = splat(x.dtype.type(-np.inf), _WIDTH)
    jump = (dilation[0] * step(x, 2), dilation[1] * step(x, 3), dilation[2])
    inner_p = inner_windows(H, window[1], stride[1], dilation[1], before[1], P)
    inner_q = inner_windows(W, window[2], stride[2], dilation[2], before[2], Q)
    x_jump = stride[1] * step(x, 3)
    jumps = (step(y, 3), step(winner, 3), x_jump)
    together = 4 if Q <= 4 and stride[2] == 2 else 2 if Q <= 8 else 1
    together = 1 if inner_p[1] - inner_p[0] < together else together
    # the furthest that a strip reads behind the first window of its rows
    reach = jump[2] * (window[2] - 1) + stride[2] * (max(Q, _WIDTH) - 1) + 1
    for piece in prange(pieces):
        first, end = N * C * Z * piece // pieces, N * C * Z * (piece + 1) // pieces
        n, c, z, _ = row_of(first, C, Z, 1)
        for _ in range(first, end):
            d = z * stride[0] - before[0]
            t0, t1 = taps_inside(d, dilation[0], D, window[0])
            p = 0
            while p < P:
                rows, r0, r1 = 1, 0, window[1]
                if p < inner_p[0] or p >= inner_p[1]:
                    r0, r1 = taps_inside(p * stride[1] - before[1], dilation[1], H, window[1])
                elif together > 1:
                    rows, p = together, min(p, inner_p[1] - together)
                h = p * stride[1] - before[1]
                to = n * step(y, 0) + c * step(y, 1) + z * step(y, 2) + p * step(y, 3)
                name = n * step(winner, 0) + c * step(winner, 1) + z * step(winner, 2)
                name += p * step(winner, 3)
                at = n * step(x, 0) + c * step(x, 1) + d * step(x, 2) + h * step(x, 3) - before[2]
                here, taps = (to, name, at), (t0, t1, r0, r1)
                begin = at + t0 * jump[0] + r0 * jump[1]
                behind = at + (t1 - 1) * jump[0] + (r1 - 1) * jump[1] + (rows - 1) * x_jump + reach
                if begin < 0 or behind > last:
                    for row in range(rows):
                        here = (to + row * jumps[0], name + row * jumps[1], at + row * x_jump)
                        windows_one_by_one(y, winner, x, here, Q, stride[2], dilation[2],
                                            before[2], taps, jump, window, W, named)  # fmt: skip
                elif stride[2] == 1:
                    if rows == 1:
                        _one_1(y, winner, x, here, jumps, Q, before[2], worst, taps, jump, window,
                               W, inner_q, named)  # fmt: skip
                    else:
                        _two_1(y, winner, x, here, jumps, Q, before[2], worst, taps, jump, window,
                               W, inner_q, named)  # fmt: skip
                elif rows == 1:
                    _one_2(y, winner, x, here, jumps, Q, before[2], worst, taps, jump, window,
                           W, inner_q, named)  # fmt: skip
                elif rows == 2:
                    _two_2(y, winner, x, here, jumps, Q, before[2], worst, taps, jump, window,
                           W, inner_q, named)  # fmt: skip
                else:
                    _four_2(y, winner, x, here, jumps, Q, before[2], worst, taps, jump, window,
                            W, inner_q, named)  # fmt: skip
                p += rows
            n, c, z, _ = next_row(n, c, z, 0, C, Z, 1)


def serves(y, winner, x, geometry, pieces):
    """Rows of neighbours, and enough images to share; strides of 3 and 4: max_pool_apart.py."""
    g = geometry
    near = g.stride[2] <= 2 and g.batch * g.channels * g.out[0] >= pieces
    if not near and g.stride[2] not in (3, 4):
        return False
    if x.flags.c_contiguous and y.flags.c_contiguous and winner.flags.c_contiguous:
        return True
    rows = all(a.strides[4] == a.itemsize for a in (y, winner, x))
    return rows and min(x.strides) >= 0


def arguments(x, geometry, named, pieces):
    """What `largest_of_rows` takes beside the arrays."""
    g, last = geometry, x.size - 1
    if not x.flags.c_contiguous:
        last = sum((n - 1) * hop for n, hop in zip(x.shape, x.strides)) // x.itemsize
    return g.window, g.stride, g.dilation, g.before, named, last, pieces
