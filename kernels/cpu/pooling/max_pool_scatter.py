"""The gradient of max pooling, window by window: each adds its dy to the input that won.

One thread owns an image (a plane of it, unless the channels lie next to each other) and walks its
windows in row-major order, so that every input adds up in that order.  The image is cleared just
ahead of the windows, while it is on its way into the cache.  A winner is a number of few bytes, so
where it lies is a look into a small table: two cycles a window, whatever the window's size.
(Windows of 2 x 2 side by side go 16 at a time: max_pool_quarters.py.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..emitted.lanes import lanes_store, splat
from ..emitted.memory import load, step, store
from ..jit import WITH_WINNER, array, inlined, int64, kernel, out, prange, triple
from . import max_pool_quarters, max_pool_sums
from .window import next_row, row_of

_WIDTH = 16  # lanes

#: Below so many windows a row its start costs more than they do: then all windows of a plane are
#: one run, if the plane is small enough to stay in L1 (its inputs are counted).
FEW_WINDOWS, SMALL_PLANE = 8, 4096

#: Planes whose windows come in turns: where windows overlap, one after the other has the same
#: winner, and each would wait for the sum of the one before.  So many windows over an input are
#: worth that in planes of longer rows.
_TOGETHER, MANY_OVER = 4, 16


def _signature(F, I):
    """dx, dy, winner, the places of the taps, extent of a window, stride, before, pieces"""
    return out(F, 5), array(F, 5), array(I, 5), array(int64, 1), triple, triple, triple, int64


@inlined
def _clear(dx, image, cleared, need, size):
    """Zeros from ``cleared`` at least to ``need`` of an image of ``size`` elements."""
    zeros = splat(dx.dtype.type(0), _WIDTH)
    while cleared < need:
        lanes_store(dx, image + cleared, 1, 0, min(_WIDTH, size - cleared), zeros)
        cleared += _WIDTH
    return cleared


@inlined
def _hand_back(dx, corner, places, winner, name, dy, at):
    """Adds one window's dy to its winner."""
    place = corner + load(places, int64(load(winner, name)))
    store(dx, place, load(dx, place) + load(dy, at))


@kernel(lambda F, I: (out(F, 5), array(F, 5), array(I, 5), array(int64, 1), array(int64, 1),
                      int64), variants=WITH_WINNER)  # fmt: skip
def by_planes(dx, dy, winner, corners, places, pieces):
    """dx of small planes, from contiguous arrays; ``corners`` says where a plane's windows lie."""
    N, C, D, H, W = dx.shape
    planes, size, windows = N * C, D * H * W, corners.size
    for piece in prange(pieces):
        plane, end = planes * piece // pieces, planes * (piece + 1) // pieces
        while plane < end:
            several = _TOGETHER if plane + _TOGETHER <= end else 1
            start, at = plane * size, plane * windows
            _clear(dx, start, 0, several * size, several * size)
            if several == _TOGETHER:
                for i in range(windows):
                    corner, here = start + load(corners, i), at + i
                    for _ in range(_TOGETHER):
                        _hand_back(dx, corner, places, winner, here, dy, here)
                        corner += size
                        here += windows
            else:
                for i in range(windows):
                    corner = start + load(corners, i)
                    _hand_back(dx, corner, places, winner, at + i, dy, at + i)
            plane += several


@kernel(_signature, variants=WITH_WINNER)
def by_rows(dx, dy, winner, places, extent, stride, before, pieces):
    """dx; a plane is one run of memory, and the windows of a row are next to each other."""
    N, C, D, H, W = dx.shape
    _, _, Z, P, Q = dy.shape
    for piece in prange(pieces):
        first, end = N * C * piece // pieces, N * C * (piece + 1) // pieces
        n, c, _, _ = row_of(first, C, 1, 1)
        for _ in range(first, end):
            start, cleared = n * step(dx, 0) + c * step(dx, 1), 0
            for z in range(Z):
                d, h = z * stride[0] - before[0], -before[1]
                above = (min(D, d + extent[0]) - 1) * H
                at = n * step(dy, 0) + c * step(dy, 1) + z * step(dy, 2)
                name = n * step(winner, 0) + c * step(winner, 1) + z * step(winner, 2)
                for _ in range(P):
                    need = (above + min(H, h + extent[1])) * W
                    cleared = _clear(dx, start, cleared, need, D * H * W)
                    corner = start + (d * H + h) * W - before[2]
                    for q in range(Q):
                        _hand_back(dx, corner, places, winner, name + q, dy, at + q)
                        corner += stride[2]
                    h += stride[1]
                    at += step(dy, 3)
                    name += step(winner, 3)
            _clear(dx, start, cleared, D * H * W, D * H * W)
            n, c, _, _ = next_row(n, c, 0, 0, C, 1, 1)


@inlined
def _clear_pixels(dx, image, cleared, need, first, end):
    """The same for pixels, of which the channels first..end-1 are cleared."""
    C = dx.shape[1]
    if end - first == C:
        _clear(dx, image, cleared * C, need * C, need * C)
        return max(cleared, need)
    zeros = splat(dx.dtype.type(0), _WIDTH)
    for pixel in range(cleared, need):
        for c in range(first, end, _WIDTH):
            lanes_store(dx, image + pixel * C + c, 1, 0, min(_WIDTH, end - c), zeros)
    return max(cleared, need)


@kernel(_signature, variants=WITH_WINNER)
def by_pixels(dx, dy, winner, places, extent, stride, before, pieces):
    """dx; channels lie next to each other in every array, and an image of dx is one run.

    Where there are fewer images than pieces each is shared, by whole vectors of its channels.
    """
    N, C, D, H, W = dx.shape
    _, _, Z, P, Q = dy.shape
    parts = 1 if N >= pieces else (pieces + N - 1) // max(1, N)
    vectors = (C + _WIDTH - 1) // _WIDTH
    for piece in prange(pieces):
        for share in range(N * parts * piece // pieces, N * parts * (piece + 1) // pieces):
            n, part, cleared = share // parts, share % parts, 0
            c0 = vectors * part // parts * _WIDTH
            c1 = min(C, vectors * (part + 1) // parts * _WIDTH)
            start = n * step(dx, 0)
            for line in range(Z * P if c0 < c1 else 0):
                z, p = line // P, line % P
                d, h = z * stride[0] - before[0], p * stride[1] - before[1]
                need = ((min(D, d + extent[0]) - 1) * H + min(H, h + extent[1])) * W
                cleared = _clear_pixels(dx, start, cleared, need, c0, c1)
                at = n * step(dy, 0) + z * step(dy, 2) + p * step(dy, 3)
                name = n * step(winner, 0) + z * step(winner, 2) + p * step(winner, 3)
                corner = start + ((d * H + h) * W - before[2]) * C
                for _ in range(Q):
                    for c in range(c0, c1):
                        _hand_back(dx, corner + c, places, winner, name + c, dy, at + c)
                    corner += stride[2] * C
                    at += step(dy, 4)
                    name += step(winner, 4)
            _clear_pixels(dx, start, cleared, D * H * W, c0, c1)


def _grid(counts, steps, start=0):
    """start + the places of a grid's cells in row-major order, ``steps`` apart on each axis."""
    axes = (np.arange(count) * hop for count, hop in zip(counts, steps))
    z, p, q = np.meshgrid(*axes, indexing="ij")
    return (start + z + p + q).reshape(-1).astype(np.int64)


@dataclass(frozen=True)
class Walk:
    """Which kernel walks the windows, and its arguments beside the arrays and their pieces."""

    kernel: object
    arguments: tuple
    checks: bool = False  # does it tell, too, whether all winners are taps?


@lru_cache(maxsize=256)
def walk(geometry, contiguous, across) -> Walk:
    """How the windows of a geometry are walked; ``contiguous``: all arrays are."""
    g = geometry
    if (contiguous or across) and max_pool_quarters.serves(g):
        quarters = max_pool_quarters.by_channels if across else max_pool_quarters.by_quarters
        return Walk(quarters, (), True)
    if across and max_pool_sums.serves(g):
        return Walk(max_pool_sums.owed_to_pixels, (max_pool_sums.walks(g), g.window, g.stride))
    D, H, W = g.size
    pixel = g.channels if across else 1
    steps = (H * W * pixel, W * pixel, pixel)
    places = _grid(g.window, tuple(d * hop for d, hop in zip(g.dilation, steps)))
    few = g.out[2] < FEW_WINDOWS or g.taps >= MANY_OVER * math.prod(g.stride)
    if contiguous and few and D * H * W <= SMALL_PLANE and not across:
        start = -sum(b * hop for b, hop in zip(g.before, steps))
        corners = _grid(g.out, tuple(s * hop for s, hop in zip(g.stride, steps)), start)
        return Walk(by_planes, (corners, places))
    extent = tuple((taps - 1) * gap + 1 for taps, gap in zip(g.window, g.dilation))
    return Walk(by_pixels if across else by_rows, (places, extent, g.stride, g.before))
