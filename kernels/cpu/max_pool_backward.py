"""The gradient of max pooling: every input gathers what the windows over it owe to it.

In row-major window order, so nothing is written twice and the bits do not depend on the number of
threads.  As in the forward pass a strip lies along the row or across the channels.  Along a row
with stride s, inputs of different position modulo s are read through different taps: each phase
is a strip of its own, and with stride 2 the two are stored interleaved.
"""

from __future__ import annotations

from .jit import array, boolean, helper, int64, kernel, out, prange, triple
from .lanes import add, choose, equal, lanes_load, lanes_store, splat, splat_like, store_pairs
from .max_pool import NARROW, WIDE, across_channels
from .memory import step
from .window import ceil_div, tap_at, windows_over


@helper
def _owed(total, dy, at, dy_lane, winner, name, name_lane, number, first, end):
    """``total`` plus the dy of the lanes whose winner is ``number``."""
    nothing = splat_like(dy.dtype.type(0), total)
    tap = splat_like(winner.dtype.type(number), total)
    names = lanes_load(winner, name, name_lane, first, end, tap)
    value = lanes_load(dy, at, dy_lane, first, end, nothing)
    return add(total, choose(equal(names, tap), value, nothing))


@helper
def _across(total, dy, at, winner, name, count, over, d, h, w, window, stride, dilation):
    """What ``count`` channels of the input (d, h, w), counted from the padding, are owed."""
    z0, z1, p0, p1, q0, q1 = over
    for z in range(z0, z1):
        t = tap_at(d - z * stride[0], dilation[0])
        for p in range(p0, p1):
            r = tap_at(h - p * stride[1], dilation[1])
            for q in range(q0, q1):
                s = tap_at(w - q * stride[2], dilation[2])
                if t >= 0 and r >= 0 and s >= 0:
                    total = _owed(
                        total,
                        dy, at + z * step(dy, 2) + p * step(dy, 3) + q * step(dy, 4), step(dy, 1),
                        winner, name + z * step(winner, 2) + p * step(winner, 3)
                        + q * step(winner, 4), step(winner, 1),
                        (t * window[1] + r) * window[2] + s, 0, count,
                    )  # fmt: skip
    return total


@helper
def _along(total, dy, at, winner, name, j, phase, over, d, h, count, window, stride, dilation):
    """What the inputs (j + lane) * stride + phase of a padded row are owed."""
    z0, z1, p0, p1, Q = over
    reach = (window[2] - 1) * dilation[2] - phase
    for z in range(z0, z1):
        t = tap_at(d - z * stride[0], dilation[0])
        for p in range(p0, p1):
            r = tap_at(h - p * stride[1], dilation[1])
            if t < 0 or r < 0:
                continue
            for back in range(-1 if reach < 0 else reach // stride[2], -1, -1):
                s = tap_at(phase + back * stride[2], dilation[2])
                first, end = max(0, back - j), min(count, Q + back - j)
                if s >= 0 and first < end:
                    q = j - back
                    total = _owed(
                        total, dy, at + z * step(dy, 2) + p * step(dy, 3) + q * step(dy, 4),
                        step(dy, 4), winner, name + z * step(winner, 2) + p * step(winner, 3)
                        + q * step(winner, 4), step(winner, 4),
                        (t * window[1] + r) * window[2] + s, first, end,
                    )  # fmt: skip
    return total


@helper
def _row_strip(dx, to, dy, at, winner, name, j, over, d, h, nothing, count,
               window, stride, dilation, before):  # fmt: skip
    """The inputs of ``count`` strides of a row, from padded position j * stride on."""
    W, w = dx.shape[4], j * stride[2] - before[2]
    here = to + w * step(dx, 4)
    if stride[2] == 2 and step(dx, 4) == 1:
        even = _along(nothing, dy, at, winner, name, j, 0, over, d, h, count, window, stride, dilation)
        odd = _along(nothing, dy, at, winner, name, j, 1, over, d, h, count, window, stride, dilation)
        store_pairs(dx, here, max(0, -w), min(2 * count, W - w), even, odd)
        return
    for phase in range(stride[2]):
        first = w + phase
        total = _along(
            nothing, dy, at, winner, name, j, phase, over, d, h, count, window, stride, dilation
        )
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
    for piece in prange(pieces):
        for row in range(rows * piece // pieces, rows * (piece + 1) // pieces):
            n, c, d, h = row // (H * D * channels), row // (H * D) % channels, row // H % D, row % H
            to = n * step(dx, 0) + c * step(dx, 1) + d * step(dx, 2) + h * step(dx, 3)
            at = n * step(dy, 0) + c * step(dy, 1)
            name = n * step(winner, 0) + c * step(winner, 1)
            d, h = d + before[0], h + before[1]
            z0, z1 = windows_over(d, stride[0], dilation[0], window[0], Z)
            p0, p1 = windows_over(h, stride[1], dilation[1], window[1], P)
            if not across:
                over = (z0, z1, p0, p1, Q)
                j, end = before[2] // stride[2], (W - 1 + before[2]) // stride[2] + 1
                while j < end:
                    if end - j > NARROW:
                        _row_strip(dx, to, dy, at, winner, name, j, over, d, h, splat(zero, WIDE),
                                   WIDE, window, stride, dilation, before)  # fmt: skip
                        j += WIDE
                    else:
                        _row_strip(dx, to, dy, at, winner, name, j, over, d, h, splat(zero, NARROW),
                                   NARROW, window, stride, dilation, before)  # fmt: skip
                        j += NARROW
                continue
            for i in range(W):
                q0, q1 = windows_over(i + before[2], stride[2], dilation[2], window[2], Q)
                over = (z0, z1, p0, p1, q0, q1)
                c = 0
                while c < C:
                    here, source = to + i * step(dx, 4) + c * step(dx, 1), at + c * step(dy, 1)
                    label = name + c * step(winner, 1)
                    if C - c > NARROW:
                        total = _across(splat(zero, WIDE), dy, source, winner, label,
                                        min(WIDE, C - c), over, d, h, i + before[2],
                                        window, stride, dilation)  # fmt: skip
                        lanes_store(dx, here, step(dx, 1), 0, C - c, total)
                        c += WIDE
                    else:
                        total = _across(splat(zero, NARROW), dy, source, winner, label,
                                        C - c, over, d, h, i + before[2],
                                        window, stride, dilation)  # fmt: skip
                        lanes_store(dx, here, step(dx, 1), 0, C - c, total)
                        c += NARROW


def max_pool_backward(dx, dy, winner, bad, geometry, plan, workspace):
    if bad == -1:
        g = geometry
        owed((dx.dtype.name, winner.dtype.name), plan.threads, dx, dy, winner,
             g.window, g.stride, g.dilation, g.before, across_channels(dx, dy), plan.threads)  # fmt: skip
