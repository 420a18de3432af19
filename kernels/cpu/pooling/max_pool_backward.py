"""The gradient of max pooling: every input gathers what the windows over it owe to it.

For images that `max_pool_scatter` does not serve: few of them, or with gaps in memory.  In
row-major window order, so nothing is written twice and the bits do not depend on the number of
threads.  As in the forward pass a strip lies along the row or across the channels.  Along a row
with stride s, inputs of different position modulo s are read through different taps: each phase
is a strip of its own, and with stride 2 the two are stored interleaved.
"""

from __future__ import annotations

import numpy as np

from ..emitted.lanes import (
    add,
    choose,
    equal,
    lanes_load,
    lanes_store,
    splat,
    splat_like,
    store_pairs,
)
from ..emitted.memory import step
from ..jit import WITH_WINNER, array, boolean, bound, inlined, int64, kernel, out, prange, triple
from . import max_pool_scatter
from .max_pool import MIDDLE, WIDE, across_channels
from .window import ceil_div, covering, floor_div, next_row, row_of
from .winners import any_bad, check_winner


@inlined
def _gather(total, dy, at, winner, name, walks, window, count, row):
    """``total`` plus what the windows of three walks owe to a strip of inputs.

    ``row`` is below 0 for a strip across channels.  Else the windows lie along a row of that many,
    lane l sees window q + l, and those before 0 and at or behind ``row`` do not exist.
    """
    nothing = splat_like(dy.dtype.type(0), total)
    (z, t, deep, hop_z, back_t), (p, r, high, hop_p, back_r), (q, s, wide, hop_q, back_s) = walks
    dy_q, winner_q = (1, 1) if row >= 0 else (step(dy, 4), step(winner, 4))
    at += z * step(dy, 2) + p * step(dy, 3) + q * dy_q
    name += z * step(winner, 2) + p * step(winner, 3) + q * winner_q
    for i in range(deep):
        for j in range(high):
            here, label = at + j * hop_p * step(dy, 3), name + j * hop_p * step(winner, 3)
            number = (t * window[1] + r - j * back_r) * window[2] + s
            first, end = 0, count
            for k in range(wide):
                if row >= 0:
                    first, end = max(0, -q - k * hop_q), min(count, row - q - k * hop_q)
                tap = splat_like(winner.dtype.type(number), total)
                names = lanes_load(winner, label, 1, first, end, tap)
                value = lanes_load(dy, here, 1, first, end, nothing)
                total = add(total, choose(equal(names, tap), value, nothing))
                number -= back_s
                here += hop_q * dy_q
                label += hop_q * winner_q
        t -= back_t
        at += hop_z * step(dy, 2)
        name += hop_z * step(winner, 2)
    return total


@inlined
def _gather_pairs(dx, to, dy, at, winner, name, walks, j, nothing, count, window, before):
    """Inputs of a row two by two, from padded position 2*j on: window q sees them through taps
    2*(j - q) and 2*(j - q) + 1, so that one look at the window serves both."""
    (z, t, deep, hop_z, back_t), (p, r, high, hop_p, back_r) = walks
    Q, S = dy.shape[4], window[2]
    behind = (S - 1) // 2  # the furthest window that covers them
    at += z * step(dy, 2) + p * step(dy, 3) + j - behind
    name += z * step(winner, 2) + p * step(winner, 3) + j - behind
    even, odd = nothing, nothing
    for i in range(deep):
        for k in range(high):
            here, label = at + k * hop_p * step(dy, 3), name + k * hop_p * step(winner, 3)
            number = (t * window[1] + r - k * back_r) * S + 2 * behind
            for back in range(behind, -1, -1):
                first, end = max(0, back - j), min(count, Q - j + back)
                tap = splat_like(winner.dtype.type(number), nothing)
                # lanes beyond the row may name any tap: their value is 0
                names = lanes_load(winner, label, 1, first, end, tap)
                value = lanes_load(dy, here, 1, first, end, nothing)
                even = add(even, choose(equal(names, tap), value, nothing))
                if 2 * back + 1 < S:
                    tap = splat_like(winner.dtype.type(number + 1), nothing)
                    odd = add(odd, choose(equal(names, tap), value, nothing))
                number -= 2
                here += 1
                label += 1
        t -= back_t
        at += hop_z * step(dy, 2)
        name += hop_z * step(winner, 2)
    w = 2 * j - before
    store_pairs(dx, to + w, max(0, -w), min(2 * count, dx.shape[4] - w), even, odd)


@inlined
def _row_strip(dx, to, dy, at, winner, name, j, over, nothing, count, window, stride, dilation,
               before):  # fmt: skip
    """The inputs of ``count`` strides of a row, from padded position j * stride on."""
    if stride[2] == 2 and dilation[2] == 1 and step(dx, 4) == 1:
        _gather_pairs(dx, to, dy, at, winner, name, over, j, nothing, count, window, before[2])
        return
    (z, p), Q, W = over, dy.shape[4], dx.shape[4]
    back = (window[2] - 1) * dilation[2] // stride[2]  # the furthest window behind
    w = j * stride[2] - before[2]
    for phase in range(stride[2]):
        q, s, wide, hop, back_s = covering(
            back * stride[2] + phase, stride[2], dilation[2], window[2], back + 1
        )
        walk = (q + j - back, s, wide, hop, back_s)
        total = _gather(nothing, dy, at, winner, name, (z, p, walk), window, count, Q)
        first = w + phase
        low = 0 if first >= 0 else min(count, ceil_div(-first, stride[2]))
        high = 0 if first >= W else min(count, ceil_div(W - first, stride[2]))
        here = to + first * step(dx, 4)
        lanes_store(dx, here, stride[2] * step(dx, 4), low, high, total)


@kernel(lambda F, I: (out(F, 5), array(F, 5), array(I, 5), triple, triple, triple, triple,
                      boolean, int64), variants=WITH_WINNER)  # fmt: skip
def owed(dx, dy, winner, window, stride, dilation, before, across, pieces):
    """dx; strips lie ``across`` the channels, or along the row.

    dy and winner have unit steps there.
    """
    N, C, D, H, W = dx.shape
    _, _, Z, P, Q = dy.shape
    channels = 1 if across else C
    rows = N * channels * D * H
    zero = dy.dtype.type(0)
    for piece in prange(pieces):
        first, end = rows * piece // pieces, rows * (piece + 1) // pieces
        n, c, d, h = row_of(first, channels, D, H)
        for _ in range(first, end):
            to = n * step(dx, 0) + c * step(dx, 1) + d * step(dx, 2) + h * step(dx, 3)
            at = n * step(dy, 0) + c * step(dy, 1)
            name = n * step(winner, 0) + c * step(winner, 1)
            over_z = covering(d + before[0], stride[0], dilation[0], window[0], Z)
            over_p = covering(h + before[1], stride[1], dilation[1], window[1], P)
            if across:
                for w in range(W):
                    over_q = covering(w + before[2], stride[2], dilation[2], window[2], Q)
                    over, i = (over_z, over_p, over_q), 0
                    while i < C:
                        here = to + w * step(dx, 4) + i * step(dx, 1)
                        from_, label = at + i * step(dy, 1), name + i * step(winner, 1)
                        if C - i > MIDDLE:
                            count = min(WIDE, C - i)
                            total = _gather(splat(zero, WIDE), dy, from_, winner, label, over,
                                            window, count, -1)  # fmt: skip
                            lanes_store(dx, here, step(dx, 1), 0, count, total)
                            i += WIDE
                        else:
                            total = _gather(splat(zero, MIDDLE), dy, from_, winner, label, over,
                                            window, C - i, -1)  # fmt: skip
                            lanes_store(dx, here, step(dx, 1), 0, C - i, total)
                            i += MIDDLE
            else:
                over = (over_z, over_p)
                j, last = floor_div(before[2], stride[2]), floor_div(W - 1 + before[2], stride[2])
                while j <= last:
                    if last - j >= MIDDLE:
                        _row_strip(dx, to, dy, at, winner, name, j, over, splat(zero, WIDE), WIDE,
                                   window, stride, dilation, before)  # fmt: skip
                        j += WIDE
                    else:
                        _row_strip(dx, to, dy, at, winner, name, j, over, splat(zero, MIDDLE),
                                   MIDDLE, window, stride, dilation, before)  # fmt: skip
                        j += MIDDLE
            n, c, d, h = next_row(n, c, d, h, channels, D, H)


def _with_unit_steps(image, axis):
    """The image, or a copy of it where neighbours on the axis are not next to each other."""
    if image.strides[axis] == image.itemsize or image.shape[axis] == 1:
        return image
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(image, axis, -1)), -1, axis)


def _walked(dx, dy, winner, geometry, pieces):
    """The walk of `max_pool_scatter`; None where images have gaps, or too few planes."""
    if dx.flags.c_contiguous:
        if geometry.batch * geometry.channels < pieces:
            return None
        if dy.flags.c_contiguous and winner.flags.c_contiguous:
            return max_pool_scatter.walk(geometry, True, False)
        if all(a.strides[4] == a.itemsize or a.shape[4] == 1 for a in (dy, winner)):
            return max_pool_scatter.walk(geometry, False, False)
    elif dx.transpose(0, 2, 3, 4, 1).flags.c_contiguous:
        if dy.strides[1] == dy.itemsize and winner.strides[1] == winner.itemsize:
            return max_pool_scatter.walk(geometry, False, True)
    return None


def max_pool_backward(dx, dy, winner, bad, geometry, plan, workspace):
    if bad != -1:
        return
    g, variant = geometry, (dx.dtype, winner.dtype)
    walked = _walked(dx, dy, winner, g, plan.threads)
    if walked is not None:
        found = (np.empty(plan.threads, np.int64),) if walked.checks else ()
        walked.kernel(variant, plan.threads, dx, dy, winner, *walked.arguments, *found,
                      plan.threads)  # fmt: skip
        return
    across = across_channels(dx, dy)
    dy, winner = (_with_unit_steps(image, 1 if across else 4) for image in (dy, winner))
    owed(variant, plan.threads, dx, dy, winner,
         g.window, g.stride, g.dilation, g.before, across, plan.threads)  # fmt: skip


def max_pool_backward_at_once(dx, dy, winner, geometry, look, plan):
    """The check of winners and the gradient of arrays of these forms, as a function of them.

    It returns what check_winner does; dx, if that is not -1, has any values.
    """
    walked = _walked(dx, dy, winner, geometry, plan.threads)
    if walked is None or not dy.size:
        return None
    threads, variant = plan.threads, (dx.dtype, winner.dtype)
    kernel = bound(walked.kernel, threads, variant)
    if walked.checks:

        def run(dx, dy, winner):
            found = np.empty(threads, np.int64)
            kernel(dx, dy, winner, found, threads)
            # any(found) would make a NumPy integer of each
            return check_winner(winner, geometry, look, None) if any(found.tolist()) else -1

        return run
    bad = any_bad(winner, geometry, look)

    def run_both(dx, dy, winner):
        if bad(winner):
            return check_winner(winner, geometry, look, None)
        kernel(dx, dy, winner, *walked.arguments, threads)
        return -1

    return run_both
