"""Max pooling."""

from __future__ import annotations

import numpy as np

from .jit import array, boolean, helper, kernel, out, prange, triple
from .memory import load, step, store
from .window import tap_at, taps_inside, windows_over

_MOVE = (triple, triple, triple, triple)  # window, stride, dilation, before
_NO_WINNER = np.empty((1, 1, 1, 1, 1), np.uint8)


@helper
def _beats(value, best, last, omit):
    """Does the later element of a window win over the best one so far?"""
    if omit:
        return value > best or (best != best and value == value) or (
            last and (value == best or (value != value and best != best))
        )
    return best == best and (not value <= best or (last and value == best))


@kernel(lambda F, I: (out(F, 5), out(I, 5), array(F, 5), *_MOVE, boolean, boolean, boolean))
def largest(y, winner, x, window, stride, dilation, before, named, last, omit):
    N, C, D, H, W = x.shape
    _, _, Z, P, Q = y.shape
    for row in prange(N * C * Z * P):
        n, c, z, p = row // (P * Z * C), row // (P * Z) % C, row // P % Z, row % P
        to = n * step(y, 0) + c * step(y, 1) + z * step(y, 2) + p * step(y, 3)
        name = n * step(winner, 0) + c * step(winner, 1) + z * step(winner, 2) + p * step(winner, 3)
        d, h = z * stride[0] - before[0], p * stride[1] - before[1]
        t0, t1 = taps_inside(d, dilation[0], D, window[0])
        r0, r1 = taps_inside(h, dilation[1], H, window[1])
        for q in range(Q):
            w = q * stride[2] - before[2]
            s0, s1 = taps_inside(w, dilation[2], W, window[2])
            corner = n * step(x, 0) + c * step(x, 1)
            corner += d * step(x, 2) + h * step(x, 3) + w * step(x, 4)
            best, number = x.dtype.type(0), np.int64(-1)
            for t in range(t0, t1):
                for r in range(r0, r1):
                    at = corner + t * dilation[0] * step(x, 2) + r * dilation[1] * step(x, 3)
                    for s in range(s0, s1):
                        value = load(x, at + s * dilation[2] * step(x, 4))
                        if number < 0 or _beats(value, best, last, omit):
                            best, number = value, (t * window[1] + r) * window[2] + s
            store(y, to + q * step(y, 4), best)
            if named:
                store(winner, name + q * step(winner, 4), number)


@kernel(lambda F, I: (out(F, 5), array(F, 5), array(I, 5), *_MOVE))
def owed(dx, dy, winner, window, stride, dilation, before):
    N, C, D, H, W = dx.shape
    _, _, Z, P, Q = dy.shape
    for row in prange(N * C * D * H):
        n, c, d, h = row // (H * D * C), row // (H * D) % C, row // H % D, row % H
        to = n * step(dx, 0) + c * step(dx, 1) + d * step(dx, 2) + h * step(dx, 3)
        source, names = n * step(dy, 0) + c * step(dy, 1), n * step(winner, 0) + c * step(winner, 1)
        d, h = d + before[0], h + before[1]
        z0, z1 = windows_over(d, stride[0], dilation[0], window[0], Z)
        p0, p1 = windows_over(h, stride[1], dilation[1], window[1], P)
        for i in range(W):
            w = i + before[2]
            q0, q1 = windows_over(w, stride[2], dilation[2], window[2], Q)
            total = dy.dtype.type(0)
            for z in range(z0, z1):
                t = tap_at(d - z * stride[0], dilation[0])
                for p in range(p0, p1):
                    r = tap_at(h - p * stride[1], dilation[1])
                    at = source + z * step(dy, 2) + p * step(dy, 3)
                    name = names + z * step(winner, 2) + p * step(winner, 3)
                    for q in range(q0, q1):
                        s = tap_at(w - q * stride[2], dilation[2])
                        if t >= 0 and r >= 0 and s >= 0:
                            number = (t * window[1] + r) * window[2] + s
                            if load(winner, name + q * step(winner, 4)) == number:
                                total += load(dy, at + q * step(dy, 4))
            store(dx, to + i * step(dx, 4), total)


def max_pool_forward(y, winner, x, geometry, ties, nan, plan, workspace):
    g = geometry
    named = winner is not None
    if not named:
        winner = _NO_WINNER
    largest((y.dtype.name, winner.dtype.name), plan.threads, y, winner, x,
            g.window, g.stride, g.dilation, g.before, named, ties == "last", nan == "omit")  # fmt: skip


def max_pool_backward(dx, dy, winner, bad, geometry, plan, workspace):
    if bad == -1:
        g = geometry
        owed((dx.dtype.name, winner.dtype.name), plan.threads, dx, dy, winner,
             g.window, g.stride, g.dilation, g.before)  # fmt: skip
