"""Convolutions whose windows lie side by side: stride and window are equal, nothing is padded.

Each input element is read by one window at most, so that an image brought into the order of a
matrix (C*T*R*S, Z*P*Q) takes no more room than the image, and all three passes are those of a 1x1
window on C*T*R*S channels (pointwise.py).  With channels last the matrix is (Z*P*Q, T*R*S*C), and
the weights are brought into the same order.  Some images at a time, so that the caches hold them.

A window as large as the image (the last layers of a network as convolutions) makes the batch such a
matrix as it lies: nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ..emitted.interleaved import bring_turns_together, take_turns_apart
from ..emitted.memory import load, step, store
from ..emitted.padded_rows import pad_row
from ..emitted.transposition import transpose
from ..emitted.vectors import ITEMSIZE, VECTOR_BYTES, add_row, copy_row, fill_row
from ..jit import array, helper, int64, kernel, out, prange, triple
from ..products import pointwise
from .blocks import pieces_of
from .implicit_gemm import in_one_row

#: Bytes of the matrices of the images that are worked on at a time.
MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Program:
    products: tuple  # (first image, end, plan of the 1x1 convolution) of each piece of the batch
    window: tuple[int, int, int]
    shape: tuple[int, int, int]  # of a piece's matrices: images, channels, pixels
    joined: bool  # are small images one row of pixels?
    whole: bool  # does a window read a whole image?
    outputs: int  # K
    weights: int
    at: int  # bytes of the product's workspace; behind it what `_rooms` says
    size: int  # of the workspace, in bytes


def serves(g) -> bool:
    """Are there windows of more than one tap, equal to their strides, without padding?"""
    return (g.taps > 1 and g.window == g.stride and not any((*g.before, *g.after))
            and all(n == 1 or apart == 1 for n, apart in zip(g.window, g.dilation))
            and pointwise.serves(seen(g, g.batch)))  # fmt: skip


def whole(g) -> bool:
    """Does one window read all of an image?"""
    return (g.taps > 1 and g.window == g.size and g.out_plane == 1
            and not any((*g.before, *g.after)))  # fmt: skip


def seen(g, images):
    """The 1x1 convolution on so many images of ConvGeometry ``g`` in the order of matrices."""
    one, pixels = (1, 1, 1), g.out_plane
    if _joined(g) and not whole(g):
        images, pixels = 1, images * pixels
    return replace(g, size=(1, 1, pixels), window=one, out=(1, 1, pixels), stride=one,
                   dilation=one, batch=images, in_channels=g.in_channels * g.taps)  # fmt: skip


def _joined(g):
    return g.out_plane < pointwise.LEAST_PIXELS


def build(g, dtype, sums, plan) -> Program | None:
    """``plan`` makes the plan of a 1x1 convolution from its geometry; ``sums``: is it for dw?

    None where there are too many images.
    """
    channels, pixels = g.in_channels * g.taps, g.out_plane
    if whole(g):
        one = plan(seen(g, g.batch))
        at = -(-one.workspace_bytes // 64) * 64
        return Program(((0, g.batch, one),), g.window, (0, channels, 1), False, True, 0,
                       prod(g.w_shape), at, at + prod(g.w_shape) * ITEMSIZE[dtype])  # fmt: skip
    outputs = g.out_channels if _joined(g) else 0
    image = (channels + outputs) * pixels * ITEMSIZE[dtype]
    images = -(-g.batch // max(1, -(-g.batch * image // MOST_BYTES)))
    cuts = pieces_of(g.batch, images)
    if cuts is None:
        return None
    plans = {count: plan(seen(g, count)) for count in {end - n for n, end in cuts}}
    at = -(-max(one.workspace_bytes for one in plans.values()) // 64) * 64
    copies = 2 if sums and len(cuts) > 1 else 1
    size = at + images * image + copies * prod(g.w_shape) * ITEMSIZE[dtype]
    return Program(tuple((n, end, plans[end - n]) for n, end in cuts), g.window,
                   (images, channels, pixels), _joined(g), False, outputs, prod(g.w_shape), at,
                   size)  # fmt: skip


def convolve(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, T, R, S), plus bias, for the forward pass and dx.

    False, and v is to be computed otherwise, if the arrays lie otherwise, or the product says so.
    """
    program, forward = plan.program, plan.operation == "conv_forward"
    dtype, threads = v.dtype, plan.threads
    image, other = (u, v) if forward else (v, u)
    weights = w if forward else w.swapaxes(1, 2)  # (G, K/G, C/G, T, R, S)
    groups, K, C = weights.shape[:3]
    taps, size = weights[0, 0, 0].size, other.shape[2:]
    last, pixels = (_flat if program.whole else _lying)(image, other, groups)
    if pixels is None or not weights.flags.c_contiguous:
        return False
    work = workspace.view(dtype)
    if last:
        ordered = _rooms(program, work)[1].reshape(K, taps, C)
        swap(dtype, threads, ordered, weights.reshape(K, C, taps))
        weights = ordered
    weights = weights.reshape(groups, K, C * taps, 1, 1, 1)
    if not forward:
        weights = weights.swapaxes(1, 2)
        bias = np.tile(bias, taps) if last else np.repeat(bias, taps)
    if program.whole:
        pair = (other, pixels) if forward else (pixels, other)
        return pointwise.convolve(*pair, weights, bias, program.products[0][2], workspace)
    for n, end, product in program.products:
        some, matrices, outputs, rows = _matrices(program, last, work, pixels[n:end])
        if forward:
            gather(dtype, threads, some, image[n:end], program.window, size, last)
        elif rows is not None:
            copy(dtype, threads, rows, pixels[n:end])
        pair = (outputs, matrices) if forward else (matrices, outputs)
        if not pointwise.convolve(*pair, weights, bias, product, workspace):
            return False
        if not forward:
            spread(dtype, threads, image[n:end], some, bias, program.window, size, last)
        elif rows is not None:
            copy(dtype, threads, pixels[n:end], rows)
    return True


def reduce(dw, db, dy, x, plan, workspace) -> bool:
    """dw from dy and x, and db of dy if it has elements; False as `convolve`."""
    program, dtype, threads = plan.program, dw.dtype, plan.threads
    (K, C), taps = dw.shape[:2], dw[0, 0].size
    last, pixels = (_flat if program.whole else _lying)(x, dy, x.shape[1] // C)
    if pixels is None or not dw.flags.c_contiguous:
        return False
    work, shape = workspace.view(dtype), (K, C * taps, 1, 1, 1)
    _, ordered, part = _rooms(program, work)
    sums = (ordered if last else dw).reshape(shape)
    if program.whole:
        served = pointwise.reduce(sums, db, dy, pixels, program.products[0][2], workspace)
        if served and last:
            swap(dtype, threads, dw.reshape(K, C, taps), ordered.reshape(K, taps, C))
        return served
    part_db = np.empty_like(db)
    for n, end, product in program.products:
        some, matrices, outputs, rows = _matrices(program, last, work, pixels[n:end])
        gather(dtype, threads, some, x[n:end], program.window, dy.shape[2:], last)
        if rows is not None:
            copy(dtype, threads, rows, pixels[n:end])
        to = (part.reshape(shape), part_db) if n else (sums, db)
        if not pointwise.reduce(*to, outputs, matrices, product, workspace):
            return False
        if n:
            add(dtype, threads, sums, to[0])
            db += part_db
    if last:
        swap(dtype, threads, dw.reshape(K, C, taps), ordered.reshape(K, taps, C))
    return True


def _flat(image, other, groups):
    """(do channels lie side by side?, a batch of images that are windows as (N, C*taps, 1, 1, 1));

    that is None if one of them lies otherwise than in order.
    """
    rows, last = image, not image.flags.c_contiguous
    if last:
        rows = np.moveaxis(image, 1, -1)
    if other.strides[1] != other.itemsize or not rows.flags.c_contiguous or last and groups > 1:
        return last, None
    return last, rows.reshape(len(image), -1, 1, 1, 1)


def _lying(image, other, groups):
    """(do channels lie side by side?, ``other`` as (N, K, 1, 1, pixels)); that is None

    if one of them lies otherwise than matrices can be made of.
    """
    pixels, size, C = in_one_row(other), image.itemsize, image.shape[1]
    if pixels is None or image.strides[4] == size == pixels.strides[4]:
        return False, pixels
    last = groups == 1 and image.strides[1::3] == (size, C * size) and pixels.strides[1] == size
    return True, pixels if last else None


def _rooms(program, work):
    """Room for matrices and joined outputs, for w or dw in their order, for another piece's dw."""
    first = program.at // work.itemsize
    images, channels, pixels = program.shape
    end = first + images * (channels + program.outputs) * pixels
    ordered = end + program.weights
    return work[first:end], work[end:ordered], work[ordered : ordered + program.weights]


def _matrices(program, last, work, pixels):
    """x in the order of matrices, as (N, channels, 1, 1, pixels) and as the product takes it,

    ``pixels`` of the outputs as that takes them and, where that is a copy, the copy's images.
    """
    images, (_, L, P), K = len(pixels), program.shape, pixels.shape[1]
    room = _rooms(program, work)[0]
    room, behind = room[: images * L * P], room[images * L * P :]
    if last:
        made = room.reshape(images, 1, 1, P, L).transpose(0, 4, 1, 2, 3)
        return made, made, pixels, None
    if not program.joined:
        made = room.reshape(images, L, 1, 1, P)
        return made, made, pixels, None
    rows = behind[: images * K * P]
    x, y = (a.reshape(-1, images, 1, 1, P).swapaxes(0, 1) for a in (room, rows))
    return x, room.reshape(1, L, 1, 1, -1), rows.reshape(1, K, 1, 1, -1), y


@kernel(lambda F: (out(F, 5), array(F, 5), triple, triple, int64))
def gather(matrices, x, window, size, last):
    """matrices (N, C*T*R*S, or T*R*S*C if ``last``, 1, 1, Z*P*Q) = x (N, C, D, H, W)."""
    N, C = x.shape[:2]
    T, R, S = window
    Z, P, Q = size
    tasks = 1 if last else C
    for task in prange(N * tasks * Z * P):
        n, c, z, p = task // (tasks * Z * P), task // (Z * P) % tasks, task // P % Z, task % P
        for t in range(T):
            for r in range(R):
                at = (n * step(x, 0) + c * step(x, 1) + (z * T + t) * step(x, 2)
                      + (p * R + r) * step(x, 3))  # fmt: skip
                to = n * step(matrices, 0) + (z * P + p) * Q * step(matrices, 4)
                if last:
                    to += (t * R + r) * S * C
                    for q in range(Q):
                        copy_row(matrices, to + q * step(matrices, 4), x, at + q * S * C, S * C)
                else:
                    to += ((c * T + t) * R + r) * S * step(matrices, 1)
                    _take_row(matrices, to, step(matrices, 1), x, at, S, Q)


@helper
def _take_row(target, to, apart, source, start, S, Q):
    """Q windows of S elements side by side: each tap to a row of its own."""
    if S == 1:
        copy_row(target, to, source, start, Q)
    elif S == 2 or S == 4 or S == 8:
        take_turns_apart(target, to, apart, source, start, S, Q)
    elif S > 8:
        transpose(target, to, apart, source, start, S, Q, S, VECTOR_BYTES // target.itemsize)
    else:
        for s in range(S):
            pad_row(target, to + s * apart, source, start + s, S, 0, Q, Q)


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 1), triple, triple, int64))
def spread(x, matrices, bias, window, size, last):
    """The inverse of `gather`; what no window reads becomes the bias, if there is one, or 0."""
    N, C, D, H, W = x.shape
    T, R, S = window
    Z, P, Q = size
    channels = C if last else 1
    tasks = C // channels
    for task in prange(N * tasks * D * H):
        n, c, d, h = task // (tasks * D * H), task // (D * H) % tasks, task // H % D, task % H
        to = n * step(x, 0) + c * step(x, 1) + d * step(x, 2) + h * step(x, 3)
        z, p = d // T, h // R
        width = Q * S if z < Z and p < P else 0
        for i in range(channels if bias.size else 0):
            for w in range(width, W):
                store(x, to + i + w * step(x, 4), load(bias, i if last else c * T * R * S))
        if bias.size == 0:
            fill_row(x, to + width * channels, x.dtype.type(0), (W - width) * channels)
        if width == 0:
            continue
        at = n * step(matrices, 0) + (z * P + p) * Q * step(matrices, 4)
        if last:
            at += ((d - z * T) * R + h - p * R) * S * C
            for q in range(Q):
                copy_row(x, to + q * S * C, matrices, at + q * step(matrices, 4), S * C)
        else:
            at += ((c * T + d - z * T) * R + h - p * R) * S * step(matrices, 1)
            _put_row(x, to, matrices, at, step(matrices, 1), S, Q)


@helper
def _put_row(target, to, source, start, apart, S, Q):
    """The inverse of `_take_row`."""
    if S == 1:
        copy_row(target, to, source, start, Q)
    elif S == 2 or S == 4 or S == 8:
        bring_turns_together(target, to, source, start, apart, S, Q)
    elif S > 8:
        transpose(target, to, S, source, start, apart, S, Q, VECTOR_BYTES // target.itemsize)
    else:
        for s in range(S):
            for q in range(Q):
                store(target, to + q * S + s, load(source, start + s * apart + q))


@kernel(lambda F: (out(F, 3), array(F, 3)))
def swap(target, source):
    """target (K, B, A) = source (K, A, B), both without gaps."""
    K, A, B = source.shape
    for k in prange(K):
        transpose(target, k * A * B, A, source, k * A * B, B, A, B, VECTOR_BYTES // target.itemsize)


@kernel(lambda F: (out(F, 5), array(F, 5)))
def copy(target, source):
    """target = source, (N, K, 1, 1, pixels) both, whose pixels lie side by side."""
    N, K, _, _, pixels = source.shape
    for task in prange(N * K):
        n, k = task // K, task % K
        copy_row(target, n * step(target, 0) + k * step(target, 1),
                 source, n * step(source, 0) + k * step(source, 1), pixels)  # fmt: skip


@kernel(lambda F: (out(F, 5), array(F, 5)))
def add(target, source):
    """target (K, L, 1, 1, 1) += source, both without gaps."""
    K, L = target.shape[:2]
    for k in prange(K):
        add_row(target, k * L, source, k * L, L)
