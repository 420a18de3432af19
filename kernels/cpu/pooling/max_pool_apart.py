"""Max pooling of images stored row by row, with horizontal strides of 3 and 4.

As max_pool_rows.py, one row of windows at a time; a kernel of its own, as few networks have such
strides and every strip that a kernel holds takes its time to compile.
"""

from __future__ import annotations

import numpy as np

from ..emitted.lanes import splat
from ..emitted.memory import step
from ..jit import WITH_WINNER, array, boolean, int64, kernel, out, prange, triple
from .max_pool_rows import strips_of, windows_one_by_one
from .window import inner_windows, next_row, row_of, taps_inside

_WIDTH = 16

_three, _four = strips_of(3, 1), strips_of(4, 1)


@kernel(lambda F, I: (out(F, 5), out(I, 5), array(F, 5), triple, triple, triple, triple,
                      boolean, int64, int64), variants=WITH_WINNER)  # fmt: skip
def largest_of_far_windows(y, winner, x, window, stride, dilation, before, named, last, pieces):
    """y and winner; the elements of a row lie next to each other, and ``last`` is x's last one."""
    N, C, D, H, W = x.shape
    _, _, Z, P, Q = y.shape
    jump = (dilation[0] * step(x, 2), dilation[1] * step(x, 3), dilation[2])
    inner_q = inner_windows(W, window[2], stride[2], dilation[2], before[2], Q)
    jumps, rows = (step(y, 3), step(winner, 3), np.int64(0)), N * C * Z * P
    # the furthest that a strip reads behind the first window of its row
    reach = jump[2] * (window[2] - 1) + stride[2] * (max(Q, _WIDTH) - 1) + 1
    for piece in prange(pieces):
        worst = splat(x.dtype.type(-np.inf), _WIDTH)
        first, end = rows * piece // pieces, rows * (piece + 1) // pieces
        n, c, z, p = row_of(first, C, Z, P)
        for _ in range(first, end):
            d, h = z * stride[0] - before[0], p * stride[1] - before[1]
            t0, t1 = taps_inside(d, dilation[0], D, window[0])
            r0, r1 = taps_inside(h, dilation[1], H, window[1])
            to = n * step(y, 0) + c * step(y, 1) + z * step(y, 2) + p * step(y, 3)
            name = n * step(winner, 0) + c * step(winner, 1)
            name += z * step(winner, 2) + p * step(winner, 3)
            at = n * step(x, 0) + c * step(x, 1) + d * step(x, 2) + h * step(x, 3) - before[2]
            here, taps = (to, name, at), (t0, t1, r0, r1)
            begin = at + t0 * jump[0] + r0 * jump[1]
            behind = at + (t1 - 1) * jump[0] + (r1 - 1) * jump[1] + reach
            if begin < 0 or behind > last:
                windows_one_by_one(y, winner, x, here, Q, stride[2], dilation[2], before[2], taps,
                                   jump, window, W, named)  # fmt: skip
            elif stride[2] == 3:
                _three(y, winner, x, here, jumps, Q, before[2], worst, taps, jump, window, W,
                       inner_q, named)  # fmt: skip
            else:
                _four(y, winner, x, here, jumps, Q, before[2], worst, taps, jump, window, W,
                      inner_q, named)  # fmt: skip
            n, c, z, p = next_row(n, c, z, p, C, Z, P)
