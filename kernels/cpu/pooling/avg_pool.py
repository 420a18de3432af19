"""Average pooling: a window's sum over the taps that count, and its share handed back.

The loops here are for dilated windows and images with gaps: avg_pool_lanes.py and
avg_pool_shares.py serve the others.
"""

from __future__ import annotations

from ..emitted.memory import load, step, store
from ..jit import array, boolean, bound, helper, kernel, out, prange, triple
from . import avg_pool_lanes, avg_pool_shares
from .window import tap_at, taps_inside, windows_over

# window, stride, dilation, before, after, count_include_pad
_MOVE = (triple, triple, triple, triple, triple, boolean)


@helper
def _counted(o, axis, size, window, stride, dilation, before, after, padding_counts):
    """How many taps of window ``o`` count on one axis."""
    start, length = o * stride[axis] - before[axis], size
    if padding_counts:
        start, length = o * stride[axis], size + before[axis] + after[axis]
    first, end = taps_inside(start, dilation[axis], length, window[axis])
    return end - first


@kernel(lambda F: (out(F, 5), array(F, 5), *_MOVE))
def average(y, x, window, stride, dilation, before, after, padding_counts):
    """y = sum of each window's inputs, row-major, / the taps that count."""
    N, C, D, H, W = x.shape
    _, _, Z, P, Q = y.shape
    for row in prange(N * C * Z * P):
        n, c, z, p = row // (P * Z * C), row // (P * Z) % C, row // P % Z, row % P
        to = n * step(y, 0) + c * step(y, 1) + z * step(y, 2) + p * step(y, 3)
        d, h = z * stride[0] - before[0], p * stride[1] - before[1]
        t0, t1 = taps_inside(d, dilation[0], D, window[0])
        r0, r1 = taps_inside(h, dilation[1], H, window[1])
        divisor = _counted(z, 0, D, window, stride, dilation, before, after, padding_counts)
        divisor *= _counted(p, 1, H, window, stride, dilation, before, after, padding_counts)
        for q in range(Q):
            w = q * stride[2] - before[2]
            s0, s1 = taps_inside(w, dilation[2], W, window[2])
            corner = n * step(x, 0) + c * step(x, 1)
            corner += d * step(x, 2) + h * step(x, 3) + w * step(x, 4)
            total = x.dtype.type(0)
            for t in range(t0, t1):
                for r in range(r0, r1):
                    at = corner + t * dilation[0] * step(x, 2) + r * dilation[1] * step(x, 3)
                    for s in range(s0, s1):
                        total += load(x, at + s * dilation[2] * step(x, 4))
            taps = divisor * _counted(
                q, 2, W, window, stride, dilation, before, after, padding_counts
            )
            store(y, to + q * step(y, 4), total / x.dtype.type(taps))


@kernel(lambda F: (out(F, 5), array(F, 5), *_MOVE))
def spread(dx, dy, window, stride, dilation, before, after, padding_counts):
    """dx = sum of dy / divisor over the windows that cover each input, row-major."""
    N, C, D, H, W = dx.shape
    _, _, Z, P, Q = dy.shape
    for row in prange(N * C * D * H):
        n, c, d, h = row // (H * D * C), row // (H * D) % C, row // H % D, row % H
        to = n * step(dx, 0) + c * step(dx, 1) + d * step(dx, 2) + h * step(dx, 3)
        source = n * step(dy, 0) + c * step(dy, 1)
        d, h = d + before[0], h + before[1]
        z0, z1 = windows_over(d, stride[0], dilation[0], window[0], Z)
        p0, p1 = windows_over(h, stride[1], dilation[1], window[1], P)
        for i in range(W):
            w = i + before[2]
            q0, q1 = windows_over(w, stride[2], dilation[2], window[2], Q)
            total = dy.dtype.type(0)
            for z in range(z0, z1):
                if tap_at(d - z * stride[0], dilation[0]) < 0:
                    continue
                deep = _counted(z, 0, D, window, stride, dilation, before, after, padding_counts)
                for p in range(p0, p1):
                    if tap_at(h - p * stride[1], dilation[1]) < 0:
                        continue
                    taps = deep * _counted(
                        p, 1, H, window, stride, dilation, before, after, padding_counts
                    )
                    at = source + z * step(dy, 2) + p * step(dy, 3)
                    for q in range(q0, q1):
                        if tap_at(w - q * stride[2], dilation[2]) >= 0:
                            wide = _counted(
                                q, 2, W, window, stride, dilation, before, after, padding_counts
                            )
                            total += load(dy, at + q * step(dy, 4)) / dy.dtype.type(taps * wide)
            store(dx, to + i * step(dx, 4), total)


def avg_pool_forward(y, x, geometry, count_include_pad, plan, workspace):
    avg_pool_forward_at_once(y, x, geometry, count_include_pad, plan)(y, x)


def avg_pool_backward(dx, dy, geometry, count_include_pad, plan, workspace):
    avg_pool_backward_at_once(dx, dy, geometry, count_include_pad, plan)(dx, dy)


def avg_pool_forward_at_once(y, x, geometry, count_include_pad, plan):
    """The forward pass of arrays of these forms as a function of them."""
    found = avg_pool_lanes.forward(y, x, geometry, count_include_pad, plan.threads)
    return _bound(found or (average, _move(geometry, count_include_pad)), plan, y.dtype)


def avg_pool_backward_at_once(dx, dy, geometry, count_include_pad, plan):
    """The gradient of arrays of these forms as a function of them."""
    found = avg_pool_shares.backward(dx, dy, geometry, count_include_pad, plan.threads)
    return _bound(found or (spread, _move(geometry, count_include_pad)), plan, dx.dtype)


def _move(g, count_include_pad):
    return g.window, g.stride, g.dilation, g.before, g.after, count_include_pad


def _bound(found, plan, dtype):
    kernel, rest = bound(found[0], plan.threads, dtype), found[1]
    return lambda made, given: kernel(made, given, *rest)
