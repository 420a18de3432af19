"""Convolution as its definition: a loop over taps that skips those outside the image.

The faster algorithms read padding as zeros and multiply it; where a weight (or, for dw, a dy) is
infinite or NaN that would put 0 * inf = NaN where the contract has nothing.  They look for such
values and hand those rare calls to these loops, which also serve any geometry whatever the
machine's vectors are.

The innermost loop runs along a row of the output, so that it vectorises where strides allow.
"""

from __future__ import annotations

from ..emitted.memory import load, step, store
from ..jit import array, helper, int64, kernel, out, prange, triple


@helper
def span(offset, stride, size, count):
    """The outputs o in 0..count-1 with 0 <= o*stride + offset < size, as (first, end)."""
    first = 0 if offset >= 0 else min((stride - 1 - offset) // stride, count)
    last = (size - 1 - offset) // stride  # floor, also below zero
    return first, max(first, min(last + 1, count))


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 5), array(F, 1),
                   triple, triple, triple, int64))  # fmt: skip
def forward(y, x, w, b, stride, before, dilation, groups):
    """y = conv(x, w) + b, one output row at a time; b is empty for none."""
    N, K, Z, P, Q = y.shape
    _, CG, T, R, S = w.shape
    for task in prange(N * K):
        n, k = task // K, task % K
        c0 = k // (K // groups) * CG
        start = load(b, k * step(b, 0)) if b.size else x.dtype.type(0)
        for z in range(Z):
            for p in range(P):
                yo = n * step(y, 0) + k * step(y, 1) + z * step(y, 2) + p * step(y, 3)
                for q in range(Q):
                    store(y, yo + q * step(y, 4), start)
                for t in range(T):
                    d = z * stride[0] - before[0] + t * dilation[0]
                    if d < 0 or d >= x.shape[2]:
                        continue
                    for r in range(R):
                        h = p * stride[1] - before[1] + r * dilation[1]
                        if h < 0 or h >= x.shape[3]:
                            continue
                        xo = n * step(x, 0) + d * step(x, 2) + h * step(x, 3)
                        for c in range(CG):
                            _forward_row(
                                y, yo, x, xo + (c0 + c) * step(x, 1), w,
                                k * step(w, 0) + c * step(w, 1) + t * step(w, 2) + r * step(w, 3),
                                Q, S, stride[2], before[2], dilation[2],
                            )  # fmt: skip


@helper
def _forward_row(y, yo, x, xo, w, wo, Q, S, stride, before, dilation):
    """Adds what one row of the window contributes to one row of y."""
    yq, xq = step(y, 4), step(x, 4) * stride
    for s in range(S):
        offset = s * dilation - before
        first, end = span(offset, stride, x.shape[4], Q)
        weight = load(w, wo + s * step(w, 4))
        xs = xo + offset * step(x, 4)
        if yq == 1 and xq == 1:
            for q in range(first, end):
                store(y, yo + q, load(y, yo + q) + weight * load(x, xs + q))
        else:
            for q in range(first, end):
                store(y, yo + q * yq, load(y, yo + q * yq) + weight * load(x, xs + q * xq))


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 5), array(F, 1),
                   triple, triple, triple, int64))  # fmt: skip
def dx(dx, dy, w, b, stride, before, dilation, groups):
    """dx = every dy * w that read it (+ b), one row of dx at a time: a gather, no two writers."""
    N, C, D, H, W = dx.shape
    K, CG, T, R, S = w.shape
    KG = K // groups
    for task in prange(N * C):
        n, c = task // C, task % C
        k0 = c // CG * KG
        start = load(b, c * step(b, 0)) if b.size else dy.dtype.type(0)
        for d in range(D):
            for h in range(H):
                xo = n * step(dx, 0) + c * step(dx, 1) + d * step(dx, 2) + h * step(dx, 3)
                for i in range(W):
                    store(dx, xo + i * step(dx, 4), start)
                for t in range(T):
                    z = _reader(d + before[0] - t * dilation[0], stride[0], dy.shape[2])
                    if z < 0:
                        continue
                    for r in range(R):
                        p = _reader(h + before[1] - r * dilation[1], stride[1], dy.shape[3])
                        if p < 0:
                            continue
                        yo = n * step(dy, 0) + z * step(dy, 2) + p * step(dy, 3)
                        wo = c % CG * step(w, 1) + t * step(w, 2) + r * step(w, 3)
                        for k in range(k0, k0 + KG):
                            _dx_row(dx, xo, dy, yo + k * step(dy, 1), w, wo + k * step(w, 0),
                                    stride[2], before[2], dilation[2])  # fmt: skip


@helper
def _reader(position, stride, count):
    """The output that reads this padded position through the window's first tap, or -1."""
    if position < 0 or position % stride or position // stride >= count:
        return -1
    return position // stride


@helper
def _dx_row(dx, xo, dy, yo, w, wo, stride, before, dilation):
    """Adds what one row of dy gives back to one row of dx."""
    xq, yq = step(dx, 4) * stride, step(dy, 4)
    for s in range(w.shape[4]):
        offset = s * dilation - before
        first, end = span(offset, stride, dx.shape[4], dy.shape[4])
        weight = load(w, wo + s * step(w, 4))
        xs = xo + offset * step(dx, 4)
        if xq == 1 and yq == 1:
            for q in range(first, end):
                store(dx, xs + q, load(dx, xs + q) + weight * load(dy, yo + q))
        else:
            for q in range(first, end):
                store(dx, xs + q * xq, load(dx, xs + q * xq) + weight * load(dy, yo + q * yq))


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 5), triple, triple, triple, int64))
def dw(dw, dy, x, stride, before, dilation, groups):
    """dw = dy * x summed over images and pixels, row sums first: one thread a (k, c) pair."""
    K, CG, T, R, S = dw.shape
    N, _, Z, P, Q = dy.shape
    zero = dy.dtype.type(0)
    for task in prange(K * CG):
        k, c = task // CG, task % CG
        xc = (k // (K // groups) * CG + c) * step(x, 1)
        for tap in range(T * R * S):
            t, r, s = tap // (R * S), tap // S % R, tap % S
            offset = s * dilation[2] - before[2]
            first, end = span(offset, stride[2], x.shape[4], Q)
            total = zero
            for n in range(N):
                image = zero
                for z in range(Z):
                    d = z * stride[0] - before[0] + t * dilation[0]
                    if d < 0 or d >= x.shape[2]:
                        continue
                    for p in range(P):
                        h = p * stride[1] - before[1] + r * dilation[1]
                        if h < 0 or h >= x.shape[3]:
                            continue
                        yo = n * step(dy, 0) + k * step(dy, 1) + z * step(dy, 2) + p * step(dy, 3)
                        xo = n * step(x, 0) + xc + d * step(x, 2) + h * step(x, 3)
                        row = zero
                        for q in range(first, end):
                            i = offset + q * stride[2]
                            row += load(dy, yo + q * step(dy, 4)) * load(x, xo + i * step(x, 4))
                        image += row
                total += image
            at = t * step(dw, 2) + r * step(dw, 3) + s * step(dw, 4)
            store(dw, k * step(dw, 0) + c * step(dw, 1) + at, total)
