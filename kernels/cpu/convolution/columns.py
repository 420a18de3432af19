"""im2col, its adjoint col2im, and the bias gradient: the memory-bound part of convolution."""

from __future__ import annotations

import numpy as np

from ..emitted.memory import load, step, store
from ..emitted.vectors import add_row, fill_row, sum_row
from ..jit import array, helper, int64, kernel, out, prange, triple
from .direct import span


@kernel(lambda F: (out(F, 8), array(F, 5), triple, triple, triple))
def im2col(cols, x, stride, before, dilation):
    """cols[n,c,t,r,s,z,p,q] = x at the position that the tap reads, 0 outside the image."""
    N, C, T, R, S, Z, P, Q = cols.shape
    for task in prange(N * C * T * R):
        n, c, t, r = task // (C * T * R), task // (T * R) % C, task // R % T, task % R
        base = n * step(cols, 0) + c * step(cols, 1) + t * step(cols, 2) + r * step(cols, 3)
        for s in range(S):
            for z in range(Z):
                d = z * stride[0] - before[0] + t * dilation[0]
                for p in range(P):
                    h = p * stride[1] - before[1] + r * dilation[1]
                    inside = 0 <= d < x.shape[2] and 0 <= h < x.shape[3]
                    at = base + s * step(cols, 4) + z * step(cols, 5) + p * step(cols, 6)
                    row = n * step(x, 0) + c * step(x, 1) + d * step(x, 2) + h * step(x, 3)
                    _copy_row(cols, at, x, row, Q, stride[2], s * dilation[2] - before[2], inside)


@helper
def _copy_row(cols, at, x, row, Q, stride, offset, inside):
    """One row of columns; all zero where the window's row lies outside the image."""
    first, end = span(offset, stride, x.shape[4], Q) if inside else (Q, Q)
    first = min(first, Q)
    zero = x.dtype.type(0)
    to = step(cols, 7)
    for q in range(first):
        store(cols, at + q * to, zero)
    start = row + offset * step(x, 4)
    for q in range(first, end):
        store(cols, at + q * to, load(x, start + q * stride * step(x, 4)))
    for q in range(max(first, end), Q):
        store(cols, at + q * to, zero)


@kernel(lambda F: (out(F, 5), array(F, 8), triple, triple, triple))
def col2im(x, cols, stride, before, dilation):
    """x = the sum of the columns that im2col reads from it; one thread owns a plane."""
    N, C, T, R, S, Z, P, Q = cols.shape
    _, _, D, H, W = x.shape
    for task in prange(N * C):
        plane = task // C * step(x, 0) + task % C * step(x, 1)
        columns = task // C * step(cols, 0) + task % C * step(cols, 1)
        beside = step(x, 4) == stride[2] == step(cols, 7) == 1
        for row in range(D * H):
            at = plane + row // H * step(x, 2) + row % H * step(x, 3)
            if step(x, 4) == 1:
                fill_row(x, at, x.dtype.type(0), W)
                continue
            for i in range(W):
                store(x, at + i * step(x, 4), x.dtype.type(0))
        for tap in range(T * R * S):
            t, r, s = tap // (R * S), tap // S % R, tap % S
            source = columns + t * step(cols, 2) + r * step(cols, 3) + s * step(cols, 4)
            offset = s * dilation[2] - before[2]
            first, end = span(offset, stride[2], W, Q)
            for z in range(Z):
                d = z * stride[0] - before[0] + t * dilation[0]
                for p in range(P):
                    h = p * stride[1] - before[1] + r * dilation[1]
                    if 0 <= d < D and 0 <= h < H:
                        at = plane + d * step(x, 2) + h * step(x, 3) + offset * step(x, 4)
                        row = source + z * step(cols, 5) + p * step(cols, 6)
                        if beside:
                            add_row(x, at + first, cols, row + first, end - first)
                            continue
                        for q in range(first, end):
                            i = at + q * stride[2] * step(x, 4)
                            store(x, i, load(x, i) + load(cols, row + q * step(cols, 7)))


#: Numbers of dy from which on pixels whose channels lie side by side are summed as vectors, and
#: those of a part: parts, by sizes alone, have sums of their own.
BY_PIXEL = 1 << 14
PARTS = 16
#: Pixels that are summed by themselves: the error of a sum in order grows with its length.
CHUNK = 32


def bias_gradient(dtype, threads, db, dy):
    """db[k] = sum of dy[:, k], in whichever way dy is read in order."""
    N, K = dy.shape[:2]
    beside = dy.strides[1] == dy.itemsize and dy.size > N * K > N  # and not a matrix
    if dy.size < BY_PIXEL or not beside:
        sum_channels(dtype, threads, db, dy)
        return
    parts = min(PARTS, dy.size // K, dy.size // BY_PIXEL)
    sum_pixels(dtype, threads, db, dy, np.zeros(2 * parts * K, db.dtype), parts)


@kernel(lambda F: (out(F, 1), array(F, 5), out(F, 1), int64))
def sum_pixels(db, dy, sums, parts):
    """db of pixels whose channels lie side by side; sums (parts, 2, K): a chunk's and all, zero."""
    N, K, Z, P, Q = dy.shape
    zero, pixels = dy.dtype.type(0), N * Z * P * Q
    for part in prange(parts):
        chunk, total = 2 * part * K, (2 * part + 1) * K
        first, end = part * pixels // parts, (part + 1) * pixels // parts
        q, row = first % Q, first // Q
        for pixel in range(first, end):
            if q == Q:
                q, row = 0, row + 1
            at = (row // (Z * P) * step(dy, 0) + row // P % Z * step(dy, 2)
                  + row % P * step(dy, 3) + q * step(dy, 4))  # fmt: skip
            add_row(sums, chunk, dy, at, K)
            q += 1
            if (pixel - first) % CHUNK == CHUNK - 1 or pixel == end - 1:
                add_row(sums, total, sums, chunk, K)
                fill_row(sums, chunk, zero, K)
    for part in range(1, parts):
        add_row(sums, K, sums, (2 * part + 1) * K, K)
    for k in range(K):
        store(db, k * step(db, 0), load(sums, K + k))


_SIDE = 64  # columns of a matrix that one thread sums up


@kernel(lambda F: (out(F, 1), array(F, 5)))
def sum_channels(db, dy):
    """db channel by channel: row sums, then image sums, so that the error stays small."""
    N, K, Z, P, Q = dy.shape
    if Z * P * Q == 1 and step(dy, 1) == 1 and step(db, 0) == 1:  # a matrix: its rows side by side
        for block in prange((K + _SIDE - 1) // _SIDE):
            column_sums(db, dy, block * _SIDE, min(K, (block + 1) * _SIDE))
        return
    for k in prange(K):
        total = dy.dtype.type(0)
        for n in range(N):
            image = dy.dtype.type(0)
            for row in range(Z * P):
                at = (n * step(dy, 0) + k * step(dy, 1) + row // P * step(dy, 2)
                      + row % P * step(dy, 3))  # fmt: skip
                image += _row_sum(dy, at, Q)
            total += image
        store(db, k * step(db, 0), total)


@helper
def column_sums(db, dy, first, end):
    """db[k] = sum of dy[:, k] in order, for first <= k < end."""
    for k in range(first, end):
        store(db, k, db.dtype.type(0))
    for n in range(dy.shape[0]):
        row = n * step(dy, 0)
        for k in range(first, end):
            store(db, k, load(db, k) + load(dy, row + k))


@helper
def _row_sum(dy, at, count):
    if step(dy, 4) == 1:
        return sum_row(dy, at, count)
    total = dy.dtype.type(0)
    for q in range(count):
        total += load(dy, at + q * step(dy, 4))
    return total
