"""Max pooling of small planes at stride 1 whose outputs are as many as their inputs.

There output i and what it reads through one tap lie equally far apart for all i, so that a vector
goes along a plane from row to row, and no lane is lost at rows' ends.  Which lanes see a tap inside
the image is a table of bits, the same for all planes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..emitted.lanes import Lanes, beats, choose, lanes_load, lanes_store, splat, splat_like
from ..emitted.memory import load
from ..emitted.row_lanes import both
from ..jit import WITH_WINNER, array, boolean, int64, kernel, out, prange

_WIDTH = 16  # lanes

#: Windows of a row from which max_pool_rows.py fills its vectors, and entries of a table.
LONG_ROW, MOST_ENTRIES = 32, 16384


@intrinsic
def of_bits(typing, bits, like):
    """Lane l is bit l."""

    def generate(context, builder, signature, arguments):
        count = signature.return_type.count
        narrow = builder.trunc(arguments[0], ir.IntType(count))
        return builder.bitcast(narrow, ir.VectorType(ir.IntType(1), count))

    return Lanes(types.boolean, like.count)(bits, like), generate


@lru_cache(maxsize=256)
def tables(geometry, winner_dtype):
    """`tables_of` a geometry of rows that max_pool_rows.py does not fill its vectors from."""
    return tables_of(geometry, winner_dtype) if geometry.size[2] < LONG_ROW else None


def tables_of(geometry, winner_dtype):
    """(bits of lanes for each vector and tap, each output's first tap inside, the taps' offsets).

    None where this is not for windows of that geometry.
    """
    g = geometry
    strips = -(-g.plane // _WIDTH)
    if g.stride != (1, 1, 1) or g.out != g.size or g.size[0] > 1:
        return None
    if g.window[0] > 1 or g.window == (1, 1, 1) or strips * g.taps > MOST_ENTRIES:
        return None
    places = [np.arange(n)[:, None] - before + np.arange(taps) * gap for n, before, taps, gap in
              zip(g.size[1:], g.before[1:], g.window[1:], g.dilation[1:])]  # fmt: skip
    inside = [(at >= 0) & (at < n) for at, n in zip(places, g.size[1:])]
    seen = inside[0][:, None, :, None] & inside[1][None, :, None, :]
    seen = seen.reshape(g.plane, g.taps)
    padded = np.zeros((strips * _WIDTH, g.taps), bool)
    padded[: g.plane] = seen
    lanes = padded.reshape(strips, _WIDTH, g.taps).transpose(0, 2, 1)
    bits = (lanes << np.arange(_WIDTH)).sum(axis=2)
    first = padded.argmax(axis=1).astype(winner_dtype)
    offsets = (places[0][0][:, None] * g.size[2] + places[1][0]).reshape(-1)
    return bits.astype(np.int64).reshape(-1), first, offsets.astype(np.int64)


@kernel(lambda F, I: (out(F, 5), out(I, 5), array(F, 5), array(int64, 1), array(I, 1),
                      array(int64, 1), int64, boolean, int64), variants=WITH_WINNER)  # fmt: skip
def largest_of_planes(y, winner, x, bits, first, offsets, plane, named, pieces):
    """y and winner of contiguous arrays; the three tables are those of `tables`."""
    planes, taps, size = x.size // max(1, plane), offsets.size, x.size
    for piece in prange(pieces):
        worst = splat(x.dtype.type(-np.inf), _WIDTH)
        none = splat_like(winner.dtype.type(0), worst)
        for number in range(planes * piece // pieces, planes * (piece + 1) // pieces):
            for start in range(0, plane, _WIDTH):
                to, count = number * plane + start, min(_WIDTH, plane - start)
                best, table = worst, start // _WIDTH * taps
                won = lanes_load(first, start, 1, 0, _WIDTH, none)
                for tap in range(taps):
                    seen = load(bits, table + tap)
                    if seen == 0:
                        continue
                    at = to + load(offsets, tap)
                    value = lanes_load(x, at, 1, max(0, -at), min(_WIDTH, size - at), worst)
                    wins = both(beats(value, best, False, False), of_bits(seen, worst))
                    best = choose(wins, value, best)
                    won = choose(wins, splat_like(winner.dtype.type(tap), worst), won)
                lanes_store(y, to, 1, 0, count, best)
                if named:
                    lanes_store(winner, to, 1, 0, count, won)
