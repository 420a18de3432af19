"""Max unpooling: values go back to where their winners sat; of two that collide the last stays."""

from __future__ import annotations

from ..emitted.memory import load, step, store
from ..jit import WITH_WINNER, array, helper, kernel, out, prange, triple
from .window import tap_at, windows_over

_MOVE = (triple, triple, triple, triple)  # window, stride, dilation, before


@helper
def _cell(number, z, p, q, window, stride, dilation, before):
    """(d, h, w) of tap ``number`` of the window (z, p, q)."""
    t, r, s = number // (window[1] * window[2]), number // window[2] % window[1], number % window[2]
    return (
        z * stride[0] - before[0] + t * dilation[0],
        p * stride[1] - before[1] + r * dilation[1],
        q * stride[2] - before[2] + s * dilation[2],
    )


@helper
def _at(array, d, h, w):
    return d * step(array, 2) + h * step(array, 3) + w * step(array, 4)


@kernel(lambda F, I: (out(F, 5), array(F, 5), array(I, 5), *_MOVE), variants=WITH_WINNER)
def scatter_winners(x, y, winner, window, stride, dilation, before):
    """x = y at the winners, the last window in row-major order stays; one thread owns a plane."""
    N, C, D, H, W = x.shape
    _, _, Z, P, Q = y.shape
    for plane in prange(N * C):
        n, c = plane // C, plane % C
        to = n * step(x, 0) + c * step(x, 1)
        source = n * step(y, 0) + c * step(y, 1)
        names = n * step(winner, 0) + c * step(winner, 1)
        for d in range(D):
            for h in range(H):
                for w in range(W):
                    store(x, to + _at(x, d, h, w), x.dtype.type(0))
        for z in range(Z):
            for p in range(P):
                for q in range(Q):
                    number = load(winner, names + _at(winner, z, p, q))
                    d, h, w = _cell(int(number), z, p, q, window, stride, dilation, before)
                    store(x, to + _at(x, d, h, w), load(y, source + _at(y, z, p, q)))


@kernel(lambda F, I: (out(F, 5), array(F, 5), array(I, 5), *_MOVE), variants=WITH_WINNER)
def gather_winners(dy, dx, winner, window, stride, dilation, before):
    """dy = dx at the winner, or 0 where a later window put its value over this one's."""
    N, C, Z, P, Q = dy.shape
    for row in prange(N * C * Z * P):
        n, c, z, p = row // (P * Z * C), row // (P * Z) % C, row // P % Z, row % P
        source = n * step(dx, 0) + c * step(dx, 1)
        names = n * step(winner, 0) + c * step(winner, 1)
        to = n * step(dy, 0) + c * step(dy, 1)
        for q in range(Q):
            number = load(winner, names + _at(winner, z, p, q))
            d, h, w = _cell(int(number), z, p, q, window, stride, dilation, before)
            value = load(dx, source + _at(dx, d, h, w))
            if _overwritten(
                winner, names, z, p, q, d + before[0], h + before[1], w + before[2],
                window, stride, dilation, (Z, P, Q),
            ):  # fmt: skip
                value = dx.dtype.type(0)
            store(dy, to + _at(dy, z, p, q), value)


@helper
def _overwritten(winner, names, z, p, q, d, h, w, window, stride, dilation, count):
    """Does a window behind (z, p, q) have the same winner, (d, h, w) of the padded image?"""
    _, z_end = windows_over(d, stride[0], dilation[0], window[0], count[0])
    p_first, p_end = windows_over(h, stride[1], dilation[1], window[1], count[1])
    q_first, q_end = windows_over(w, stride[2], dilation[2], window[2], count[2])
    for later_z in range(z, z_end):
        t = tap_at(d - later_z * stride[0], dilation[0])
        for later_p in range(p if later_z == z else p_first, p_end):
            r = tap_at(h - later_p * stride[1], dilation[1])
            same_row = later_z == z and later_p == p
            for later_q in range(q + 1 if same_row else q_first, q_end):
                s = tap_at(w - later_q * stride[2], dilation[2])
                if t >= 0 and r >= 0 and s >= 0:
                    number = (t * window[1] + r) * window[2] + s
                    at = names + _at(winner, later_z, later_p, later_q)
                    if load(winner, at) == number:
                        return True
    return False


def max_unpool_forward(x, y, winner, bad, geometry, plan, workspace):
    if bad == -1:
        g = geometry
        scatter_winners((x.dtype, winner.dtype), plan.threads, x, y, winner,
                        g.window, g.stride, g.dilation, g.before)  # fmt: skip


def max_unpool_backward(dy, dx, winner, bad, geometry, plan, workspace):
    if bad == -1:
        g = geometry
        gather_winners((dy.dtype, winner.dtype), plan.threads, dy, dx, winner,
                       g.window, g.stride, g.dilation, g.before)  # fmt: skip
