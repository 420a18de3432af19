"""Max pooling with large windows at stride 1: along the rows first, then down the columns.

The largest of a window is the largest of its rows' largest ones, and the first of those that are
equal is the first in row-major order too: R + S comparisons instead of R * S.  What each row found
stays in the workspace, plane by plane, with rows of -inf above and below it.  Vectors go along a
plane from row to row as in max_pool_flat.py, whose tables tell which lanes see a tap.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from ..emitted.lanes import beats, choose, lanes_load, lanes_store, splat, splat_like
from ..emitted.memory import load
from ..emitted.row_lanes import both, plus
from ..jit import WITH_WINNER, array, boolean, int64, kernel, out, prange
from . import max_pool_flat

_WIDTH = 16  # lanes

#: Elements of the largest plane: what its rows found lies in L2.
LARGEST_PLANE = 16384


def plan(made, geometry, dtype, settings):
    """``made``, or the plan of this way for large windows of one plane: as many outputs as inputs,

    no dilation from row to row, and room for what rows found.
    """
    g = geometry
    R, S = g.window[1:]
    large = g.window[0] == 1 and R * S > 2 * (R + S) and g.plane <= LARGEST_PLANE
    flat = g.stride == (1, 1, 1) and g.out == g.size and g.size[0] == 1 and g.dilation[1] == 1
    if not (large and flat and g.batch) or tables(g, g.winner_dtype) is None:
        return made
    itemsize = np.dtype(dtype).itemsize + np.dtype(g.winner_dtype).itemsize
    size = made.threads * _margins(g)[0] * itemsize
    if settings.workspace_limit is not None and size > settings.workspace_limit:
        return made
    return replace(made, algorithm="by_axes", workspace_bytes=size, last=made)


@lru_cache(maxsize=256)
def tables(geometry, winner_dtype):
    """What max_pool_flat.py's tables are for windows of one row; and each output's first tap."""
    g = geometry
    row = replace(g, window=(1, 1, g.window[2]), dilation=(1, 1, g.dilation[2]),
                  before=(0, 0, g.before[2]), after=(0, 0, g.after[2]))  # fmt: skip
    found = max_pool_flat.tables_of(row, winner_dtype)
    if found is None:
        return None
    bits, along, offsets = found
    above = np.maximum(0, g.before[1] - np.arange(g.plane) // g.size[2])
    first = along.copy()
    first[: g.plane] += (above * g.window[2]).astype(winner_dtype)
    return bits, along, first, offsets


def _margins(geometry):
    """(elements of a plane's rows in the workspace, those above it)."""
    _, _, W = geometry.size
    rows = geometry.size[1] + geometry.window[1] - 1
    return rows * W + _WIDTH, geometry.before[1] * W


def arguments(geometry, winner_dtype, dtype, pieces, workspace):
    """What `largest_by_axes` takes behind the arrays, but for ``named`` and ``pieces``."""
    each, above = _margins(geometry)
    split = pieces * each * dtype.itemsize
    best = workspace[:split].view(dtype)
    won = workspace[split : split + pieces * each * winner_dtype.itemsize].view(winner_dtype)
    return (best, won, *tables(geometry, winner_dtype), *geometry.window[1:], above)


@kernel(lambda F, I: (out(F, 5), out(I, 5), array(F, 5), out(F, 1), out(I, 1), array(int64, 1),
                      array(I, 1), array(I, 1), array(int64, 1), int64, int64, int64, boolean,
                      int64), variants=WITH_WINNER)  # fmt: skip
def largest_by_axes(y, winner, x, best_of, won_by, bits, along, first, offsets, R, S, above,
                    named, pieces):  # fmt: skip
    """y and winner of contiguous arrays; the tables are those of `tables`."""
    _, _, _, H, W = x.shape
    plane, size, each = H * W, x.size, best_of.size // pieces
    planes = size // max(1, plane)
    for piece in prange(pieces):
        worst, start = splat(x.dtype.type(-np.inf), _WIDTH), piece * each
        none = splat_like(winner.dtype.type(0), worst)
        row = splat_like(winner.dtype.type(S), worst)
        for i in range(0, each, _WIDTH):
            lanes_store(best_of, start + i, 1, 0, min(_WIDTH, each - i), worst)
            lanes_store(won_by, start + i, 1, 0, min(_WIDTH, each - i), none)
        for number in range(planes * piece // pieces, planes * (piece + 1) // pieces):
            for i in range(0, plane, _WIDTH):
                here, count, table = number * plane + i, min(_WIDTH, plane - i), i // _WIDTH * S
                best, won = worst, lanes_load(along, i, 1, 0, _WIDTH, none)
                for s in range(S):
                    at = here + load(offsets, s)
                    value = lanes_load(x, at, 1, max(0, -at), min(_WIDTH, size - at), worst)
                    wins = beats(value, best, False, False)
                    wins = both(wins, max_pool_flat.of_bits(load(bits, table + s), worst))
                    best = choose(wins, value, best)
                    won = choose(wins, splat_like(winner.dtype.type(s), worst), won)
                lanes_store(best_of, start + above + i, 1, 0, count, best)
                lanes_store(won_by, start + above + i, 1, 0, count, won)
            for i in range(0, plane, _WIDTH):
                to, count = number * plane + i, min(_WIDTH, plane - i)
                best, won = worst, lanes_load(first, i, 1, 0, _WIDTH, none)
                r0 = max(0, (above - i - _WIDTH + 1) // W)
                r1 = min(R, (above + plane - i + W - 1) // W)
                lower, at = splat_like(winner.dtype.type(r0 * S), worst), start + i + r0 * W
                for _ in range(r0, r1):
                    value = lanes_load(best_of, at, 1, 0, _WIDTH, worst)
                    wins = beats(value, best, False, False)
                    names = plus(lanes_load(won_by, at, 1, 0, _WIDTH, none), lower)
                    best, won = choose(wins, value, best), choose(wins, names, won)
                    lower = plus(lower, row)
                    at += W
                lanes_store(y, to, 1, 0, count, best)
                if named:
                    lanes_store(winner, to, 1, 0, count, won)
