"""The gradient of max pooling: every input gathers what the windows over it owe to it.

In row-major window order, so nothing is written twice and the bits do not depend on the number of
threads.  As in the forward pass a strip lies along the row or across the channels.  Along a row
with stride s, inputs of different position modulo s are read through different taps: each phase
is a strip of its own, and with stride 2 the two are stored interleaved.
"""

from __future__ import annotations

from .jit import array, boolean, inlined, int64, kernel, out, prange, triple
from .lanes import add, choose, equal, lanes_load, lanes_store, splat, splat_like, store_pairs
from .max_pool import NARROW, WIDE, across_channels
from .memory import step
from .window import ceil_div, covering, floor_div, next_row, row_of


@inlined
def _gather(total, dy, at, winner, name, walks, lanes, window, count, row):
    """``total`` plus what the windows of three walks owe to a strip of inputs.

    ``row`` is below 0 for a strip across channels.  Else the windows lie along a row of that many,
    lane l sees window q + l, and those before 0 and at or behind ``row`` do not exist.
    """
    nothing = splat_like(dy.dtype.type(0), total)
    (z, t, deep, hop_z, back_t), (p, r, high, hop_p, back_r), (q, s, wide, hop_q, back_s) = walks
    at += z * step(dy, 2) + p * step(dy, 3) + q * step(dy, 4)
    name += z * step(winner, 2) + p * step(winner, 3) + q * step(winner, 4)
    for i in range(deep):
        for j in range(high):
            from_, label = at + j * hop_p * step(dy, 3), name + j * hop_p * step(winner, 3)
            number = (t * window[1] + r - j * back_r) * window[2] + s
            first, end = 0, count
            for k in range(wide):
                if row >= 0:
                    here = q + k * hop_q
                    first, end = max(0, -here), min(count, row - here)
                tap = splat_like(winner.dtype.type(number), total)
                names = lanes_load(winner, label, lanes[1], first, end, tap)
                value = lanes_load(dy, from_, lanes[0], first, end, nothing)
                total = add(total, choose(equal(names, tap), value, nothing))
                number -= back_s
                from_ += hop_q * step(dy, 4)
                label += hop_q * step(winner, 4)
        t -= back_t
        at += hop_z * step(dy, 2)
        name += hop_z * step(winner, 2)
    return total


@inlined
def _row_strip(dx, to, dy, at, winner, name, j, over, nothing, count, window, stride, dilation,
               before):  # fmt: skip
    """The inputs of ``count`` strides of a row, from padded position j * stride on."""
    (z, p), Q, W = over, dy.shape[4], dx.shape[4]
    lanes = (step(dy, 4), step(winner, 4))
    back = (window[2] - 1) * dilation[2] // stride[2]  # the furthest window behind
    w = j * stride[2] - before[2]
    here = to + w * step(dx, 4)
    if stride[2] == 2 and step(dx, 4) == 1:
        q, s, wide, hop, step_s = covering(2 * back, 2, dilation[2], window[2], back + 1)
        walk = (q + j - back, s, wide, hop, step_s)
        even = _gather(nothing, dy, at, winner, name, (z, p, walk), lanes, window, count, Q)
        q, s, wide, hop, step_s = covering(2 * back + 1, 2, dilation[2], window[2], back + 1)
        walk = (q + j - back, s, wide, hop, step_s)
        odd = _gather(nothing, dy, at, winner, name, (z, p, walk), lanes, window, count, Q)
        store_pairs(dx, here, max(0, -w), min(2 * count, W - w), even, odd)
        return
    for phase in range(stride[2]):
        q, s, wide, hop, step_s = covering(
            back * stride[2] + phase, stride[2], dilation[2], window[2], back + 1
        )
        walk = (q + j - back, s, wide, hop, step_s)
        total = _gather(nothing, dy, at, winner, name, (z, p, walk), lanes, window, count, Q)
        first = w + phase
        low = 0 if first >= 0 else ceil_div(-first, stride[2])
        high = 0 if first >= W else min(count, ceil_div(W - first, stride[2]))
        lanes_store(dx, here + phase * step(dx, 4), stride[2] * step(dx, 4), low, high, total)


@kernel(lambda F, I: (out(F, 5), array(F, 5), array(I, 5), triple, triple, triple, triple,
                      boolean, int64))  # fmt: skip
def owed(dx, dy, winner, window, stride, dilation, before, across, pieces):
    """dx; strips lie ``across`` the channels, or along the row."""
    N, C, D, H, W = dx.shape
    _, _, Z, P, Q = dy.shape
    channels = 1 if across else C
    rows = N * channels * D * H
    zero = dy.dtype.type(0)
    lanes = (step(dy, 1), step(winner, 1))
    for piece in prange(pieces):
        first, end = rows * piece // pieces, rows * (piece + 1) // pieces
        n, c, d, h = row_of(first, channels, D, H)
        for _ in range(first, end):
            to = n * step(dx, 0) + c * step(dx, 1) + d * step(dx, 2) + h * step(dx, 3)
            at = n * step(dy, 0) + c * step(dy, 1)
            name = n * step(winner, 0) + c * step(winner, 1)
            over_z = covering(d + before[0], stride[0], dilation[0], window[0], Z)
            over_p = covering(h + before[1], stride[1], dilation[1], window[1], P)
            if across:
                for w in range(W):
                    over_q = covering(w + before[2], stride[2], dilation[2], window[2], Q)
                    over, i = (over_z, over_p, over_q), 0
                    while i < C:
                        here = to + w * step(dx, 4) + i * step(dx, 1)
                        from_, label = at + i * step(dy, 1), name + i * step(winner, 1)
                        if C - i > NARROW:
                            count = min(WIDE, C - i)
                            total = _gather(splat(zero, WIDE), dy, from_, winner, label, over,
                                            lanes, window, count, -1)  # fmt: skip
                            lanes_store(dx, here, step(dx, 1), 0, count, total)
                            i += WIDE
                        else:
                            total = _gather(splat(zero, NARROW), dy, from_, winner, label, over,
                                            lanes, window, C - i, -1)  # fmt: skip
                            lanes_store(dx, here, step(dx, 1), 0, C - i, total)
                            i += NARROW
            else:
                over = (over_z, over_p)
                j, last = floor_div(before[2], stride[2]), floor_div(W - 1 + before[2], stride[2])
                while j <= last:
                    if last - j >= NARROW:
                        _row_strip(dx, to, dy, at, winner, name, j, over, splat(zero, WIDE), WIDE,
                                   window, stride, dilation, before)  # fmt: skip
                        j += WIDE
                    else:
                        _row_strip(dx, to, dy, at, winner, name, j, over, splat(zero, NARROW),
                                   NARROW, window, stride, dilation, before)  # fmt: skip
                        j += NARROW
            n, c, d, h = next_row(n, c, d, h, channels, D, H)


def max_pool_backward(dx, dy, winner, bad, geometry, plan, workspace):
    if bad == -1:
        g = geometry
        owed((dx.dtype.name, winner.dtype.name), plan.threads, dx, dy, winner, g.window, g.stride,
             g.dilation, g.before, across_channels(dx, dy), plan.threads)  # fmt: skip
