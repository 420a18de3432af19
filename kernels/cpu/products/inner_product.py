"""Products of few sums, both factors along the sum: inner products of rows as they lie.

    y[i, j] = sum over l of a[i, l] * b[j, l] + bias

A packed product would transpose one factor for a few tiles, which are not full.  Here lanes run
along the sum (inner_tile.py), and nothing is copied.  Factors that lie otherwise are, so that where
numbers lie changes no bit.
"""

from __future__ import annotations

from dataclasses import replace

from ..emitted.inner_tile import HEIGHT, WIDTH, inner_tile
from ..emitted.memory import load, step, store
from ..emitted.vectors import ITEMSIZE, LANES, fill_row
from ..jit import array, int64, kernel, out, prange

#: Sums of a tile, in whole cache lines: those of each thread.
CELLS = 64

#: Vectors of a sum: fewer are not worth adding up lanes.
LEAST_STEPS = 4

#: Multiply-adds of a product, beyond which packing is ahead.
MOST_WORK = 1 << 20


def plan(made, g, dtype):
    """``made``, the plan so far, as one of this algorithm for MatmulGeometry ``g``, or None."""
    work = g.rows * g.columns * g.inner
    if g.batch * g.summed != 1 or work > MOST_WORK or g.inner < LEAST_STEPS * LANES[dtype]:
        return None
    size = (made.threads * CELLS + (g.rows + g.columns) * g.inner) * ITEMSIZE[dtype]
    return replace(made, algorithm="inner", workspace_bytes=size,
                   blocking={"rows": HEIGHT, "columns": WIDTH})  # fmt: skip


def run(y, a, b, bias, plan, workspace):
    """y (I, J) = rows of a (I, L) times rows of b (J, L), + bias (1, J), or (1, 0)."""
    work, room = workspace.view(y.dtype), plan.threads * CELLS  # behind the sums: both factors
    rows = []
    for factor in (a, b):
        if factor.strides[1] != factor.itemsize:
            copy = work[room : room + factor.size].reshape(factor.shape)
            copy[...] = factor
            factor, room = copy, room + factor.size
        rows.append(factor)
    a, b = rows
    (I, J) = y.shape
    if _tiles(J, I) < _tiles(I, J):
        y, a, b, bias = y.T, b, a, bias.T
    products(y.dtype, plan.threads, y, a, b, bias, work, plan.threads)


def _tiles(rows, columns):
    return -(-rows // HEIGHT) * -(-columns // WIDTH)


@kernel(lambda F: (out(F, 2), array(F, 2), array(F, 2), array(F, 2), out(F, 1), int64))
def products(y, a, b, bias, work, slots):
    """y (I, J) = a (I, L) times b (J, L), + bias (I or 1, J or 1); threads share the tiles."""
    I, J = y.shape
    across = (J + WIDTH - 1) // WIDTH
    tasks = (I + HEIGHT - 1) // HEIGHT * across
    for slot in prange(slots):
        sums = slot * CELLS
        for task in range(slot * tasks // slots, (slot + 1) * tasks // slots):
            i, j = task // across * HEIGHT, task % across * WIDTH
            high, wide = min(HEIGHT, I - i), min(WIDTH, J - j)
            fill_row(work, sums, work.dtype.type(0), CELLS)
            inner_tile(high, wide, a, i * step(a, 0), step(a, 0), 0, b, j * step(b, 0), step(b, 0),
                       0, 1, a.shape[1], work, sums)  # fmt: skip
            for q in range(wide):
                for r in range(high):
                    value = load(work, sums + q * high + r)
                    if bias.size:
                        down_at = i + r if bias.shape[0] > 1 else 0
                        across_at = j + q if bias.shape[1] > 1 else 0
                        value += load(bias, down_at * step(bias, 0) + across_at * step(bias, 1))
                    store(y, (i + r) * step(y, 0) + (j + q) * step(y, 1), value)
