"""Convolution with few channels per group: depthwise, and groups of a few channels.

Each plane of the result is the sum over its group's few source planes, a strip at a time
(strips.py), and is written where it lies: no copy, no packing, no workspace but the sums of dw.
"""

from __future__ import annotations

from .jit import Kernel, array, helper, out, prange, triple
from .memory import load, step, store
from .strips import LARGEST, PIECE, plane
from .vectors import TARGET, fill_row


def stride_of(g):
    """The stride that all axes with more than one output share: 1 or 2, or None."""
    found = {stride for stride, out in zip(g.stride, g.out) if out > 1} or {1}
    return found.pop() if len(found) == 1 and found <= {1, 2} else None


def serves(g) -> bool:
    """Is this a convolution for the kernels of this file?"""
    few = (g.in_channels // g.groups) * (g.out_channels // g.groups) <= 64
    small = max(*g.size, *g.out, *g.before, *g.dilation, *g.window) < LARGEST
    return TARGET is not None and small and g.groups > 1 and few and stride_of(g) is not None


def forward(y, x, w, b, g, plan, workspace) -> bool:
    """y = conv(x, w) + b; False, and nothing written, if the arrays' layout is not served."""
    if not (_rows_lie(x) and _rows_lie(y)):
        return False
    weights = w.reshape(g.groups, -1, *w.shape[1:])
    stride = stride_of(g)
    kernel = planes if stride == 1 else planes_down
    kernel(y.dtype.name, plan.threads, y, x, weights, b, g.dilation, g.before)
    return True


def dx(dx, dy, w, b, g, plan, workspace) -> bool:
    """dx = the gradient of conv's input (+ b)."""
    if not (_rows_lie(dx) and _rows_lie(dy)):
        return False
    weights = w.reshape(g.groups, -1, *w.shape[1:]).transpose(0, 2, 1, 3, 4, 5)
    if stride_of(g) == 1:  # the forward pass with the window turned round
        weights = weights[..., ::-1, ::-1, ::-1]
        before = tuple((size - 1) * dilation - before
                       for size, dilation, before in zip(g.window, g.dilation, g.before))  # fmt: skip
        planes(dx.dtype.name, plan.threads, dx, dy, weights, b, g.dilation, before)
    else:
        planes_up(dx.dtype.name, plan.threads, dx, dy, weights, b, g.dilation, g.before)
    return True


def _rows_lie(a):
    return a.strides[4] == a.itemsize or a.shape[4] == 1


@helper
def piece(left, most):
    """Rows or columns of the next piece of a window of which ``left`` remain."""
    return PIECE if left >= PIECE and most == PIECE else 1


def _planes(name, up, down):
    """The kernel for one pair of strides (see strips.py): v = u convolved with w, + b."""
    apart = up > 1

    def body(v, u, w, b, dilation, before):
        N, K, D, P, Q = v.shape
        _, KG, channels, T, R, S = w.shape
        high = PIECE if not apart or dilation[1] == 1 else 1
        wide = PIECE if not apart or dilation[2] == 1 else 1
        for task in prange(N * K):
            n, k = task // K, task % K
            uo = n * step(u, 0) + k // KG * channels * step(u, 1)
            wo = k // KG * step(w, 0) + k % KG * step(w, 1)
            start = load(b, k * step(b, 0)) if b.size else v.dtype.type(0)
            for z in range(D):
                vo = n * step(v, 0) + k * step(v, 1) + z * step(v, 2)
                resume = 0
                for t in range(T):
                    d = z * down - before[0] + t * dilation[0]
                    if apart:
                        d = z + before[0] - t * dilation[0]
                        if d % up:
                            continue
                        d //= up
                    if d < 0 or d >= u.shape[2]:
                        continue
                    for c in range(channels):
                        uc = uo + c * step(u, 1) + d * step(u, 2)
                        wc = wo + c * step(w, 2) + t * step(w, 3)
                        r = 0
                        while r < R:
                            rows = piece(R - r, high)
                            s = 0
                            while s < S:
                                columns = piece(S - s, wide)
                                _plane(v, vo, u, uc, w, wc, r, s, rows, columns, start,
                                       dilation, before, resume)  # fmt: skip
                                resume = 1
                                s += columns
                            r += rows
                if not resume:
                    for p in range(P):
                        fill_row(v, vo + p * step(v, 3), start, Q)

    @helper
    def _plane(v, vo, u, uo, w, wo, r, s, rows, columns, start, dilation, before, resume):
        """One piece of the window over a whole plane."""
        P, Q = v.shape[3], v.shape[4]
        top, left = before[1] - r * dilation[1], before[2] - s * dilation[2]
        every, first, end, column, last = dilation[1], 0, P, 0, Q
        if apart:
            every, first, end = 1, top // up, (P - 1 + top) // up + 1
            column, last = left // up, (Q - 1 + left) // up + 1
        at = wo + r * step(w, 4) + s * step(w, 5)
        for residue in range(min(every, end - first)):
            numbers = (step(u, 3), u.shape[3], u.shape[4], step(w, 4), step(w, 5),
                       step(v, 3), P, Q, column, last, first + residue, end,
                       top, left, every, dilation[2], resume)  # fmt: skip
            plane(up, down, rows, columns, u, uo, w, at, v, vo, start, numbers)

    body.__name__ = name
    return Kernel(body, lambda F: (out(F, 5), array(F, 5), array(F, 6), array(F, 1),
                                   triple, triple), ("float32", "float64"))  # fmt: skip


planes = _planes("planes", 1, 1)
planes_down = _planes("planes_down", 1, 2)
planes_up = _planes("planes_up", 2, 1)
