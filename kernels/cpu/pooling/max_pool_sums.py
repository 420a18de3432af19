"""The gradient of max pooling with channels last: inputs gather, a vector of channels at a time.

For many channels and at most two windows over an input along each axis, as 3 x 3 at stride 2 has
them: what a window owes is one comparison of winners and one addition, in row-major order of the
windows, and dx is written once.  (Others: max_pool_scatter.py; windows beside each other:
max_pool_quarters.py.)
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..emitted.lanes import add, choose, equal, lanes_load, lanes_store, splat, splat_like
from ..emitted.memory import load, step
from ..jit import WITH_WINNER, array, inlined, int64, kernel, out, prange, triple
from .window import next_row, row_of

_WIDE, _NARROW = 32, 16  # lanes

#: Channels from which it is faster than looking each winner's place up, two cycles a window.
#: What does not depend on channels takes as long as 40 of them.
MANY_CHANNELS = 64

#: Inputs of a window's own: beyond, most of the time goes into writing zeros and few sums.
FEW_INPUTS = 4


def serves(g) -> bool:
    """Does a pool's geometry have many channels, and few windows over each input?"""
    over = [(taps - 1) // hop + 1 for taps, hop in zip(g.window, g.stride)]
    dilated = any(gap > 1 and taps > 1 for gap, taps in zip(g.dilation, g.window))
    return (g.channels >= MANY_CHANNELS and g.window[0] == 1 and max(over) <= 2 and not dilated
            and math.prod(g.stride) <= FEW_INPUTS)  # fmt: skip


@lru_cache(maxsize=256)
def walks(g):
    """For each position of an axis the first window over it, the tap through which that sees it,

    and how many windows there are: one axis behind the other.
    """
    found = []
    for axis in range(3):
        position = np.arange(g.size[axis])[:, None] + g.before[axis]
        tap = position - np.arange(g.out[axis]) * g.stride[axis]
        seen = (tap >= 0) & (tap < g.window[axis])
        first = seen.argmax(axis=1)
        taps = np.take_along_axis(tap, first[:, None], axis=1)[:, 0]
        found.append(np.stack([first, taps, seen.sum(axis=1)], axis=1).reshape(-1))
    return np.concatenate(found).astype(np.int64)


@inlined
def _plus_owed(total, dy, at, winner, name, tap, count):
    """``total`` plus what one window owes to the inputs that it sees through a tap."""
    taps = splat_like(winner.dtype.type(tap), total)
    names = lanes_load(winner, name, 1, 0, count, taps)
    value = lanes_load(dy, at, 1, 0, count, total)
    return choose(equal(names, taps), add(total, value), total)


@inlined
def _vector(dx, to, dy, at, winner, name, tap, count, high, wide, backs, nothing):
    """A vector of inputs under ``high`` x ``wide`` windows, through taps ``backs`` apart."""
    total = nothing
    if high > 0 and wide > 0:
        total = _plus_owed(total, dy, at, winner, name, tap, count)
        if wide == 2:
            total = _plus_owed(total, dy, at + step(dy, 4), winner, name + step(winner, 4),
                               tap - backs[1], count)  # fmt: skip
        if high == 2:
            below, under, back = at + step(dy, 3), name + step(winner, 3), tap - backs[0]
            total = _plus_owed(total, dy, below, winner, under, back, count)
            if wide == 2:
                total = _plus_owed(total, dy, below + step(dy, 4), winner, under + step(winner, 4),
                                   back - backs[1], count)  # fmt: skip
    lanes_store(dx, to, 1, 0, count, total)


@kernel(lambda F, I: (out(F, 5), array(F, 5), array(I, 5), array(int64, 1), triple, triple, int64),
        variants=WITH_WINNER)  # fmt: skip
def owed_to_pixels(dx, dy, winner, over, window, stride, pieces):
    """dx; channels lie next to each other in all arrays, and ``over`` is the table of `walks`."""
    N, C, D, H, W = dx.shape
    rows = N * D * H
    for piece in prange(pieces):
        wide, narrow = splat(dy.dtype.type(0), _WIDE), splat(dy.dtype.type(0), _NARROW)
        backs = (stride[1] * window[2], stride[2])
        first, end = rows * piece // pieces, rows * (piece + 1) // pieces
        n, _, d, h = row_of(first, 1, D, H)
        for _ in range(first, end):
            line = 3 * (D + h)
            z, p, high = load(over, 3 * d), load(over, line), load(over, line + 2)
            high *= load(over, 3 * d + 2)
            number = load(over, line + 1) * window[2]
            to = n * step(dx, 0) + d * step(dx, 2) + h * step(dx, 3)
            from_ = n * step(dy, 0) + z * step(dy, 2) + p * step(dy, 3)
            label = n * step(winner, 0) + z * step(winner, 2) + p * step(winner, 3)
            for w in range(W):
                column = 3 * (D + H + w)
                q, tap, across = load(over, column), load(over, column + 1), load(over, column + 2)
                at, name, tap = from_ + q * step(dy, 4), label + q * step(winner, 4), tap + number
                c = 0
                while C - c > _NARROW:
                    c = min(c, C - _WIDE)
                    _vector(dx, to + c, dy, at + c, winner, name + c, tap, _WIDE, high, across,
                            backs, wide)  # fmt: skip
                    c += _WIDE
                if c < C:
                    c = C - _NARROW
                    _vector(dx, to + c, dy, at + c, winner, name + c, tap, _NARROW, high, across,
                            backs, narrow)  # fmt: skip
                to += step(dx, 4)
            n, _, d, h = next_row(n, 0, d, h, 1, D, H)
