"""Max pooling of small planes: windows that are runs of memory, and planes on top of each other.

A window as wide as its image, as that of a global pool, is one run of memory.  A vector goes along
it, and at the end its lanes are compared with each other.

A plane of few short rows leaves most lanes of max_pool_rows.py empty.  Where its windows end with
it, the next plane goes on as its next rows would: several planes are then pooled as a tall one.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.cpython.unsafe.numbers import trailing_zeros
from numba.extending import intrinsic

from ..emitted.lanes import Lanes, LanesEmitter, beats, choose, lanes_load, splat, splat_like
from ..emitted.memory import load, store
from ..emitted.row_lanes import plus
from ..jit import WITH_WINNER, array, boolean, inlined, int64, kernel, out, prange

_WIDTH = 16  # lanes

#: Elements of a run that are worth a vector.
LONG = 10

#: Windows of a row and rows of windows below which planes are pooled together, and the rows that
#: they then have: enough for max_pool_rows.py to take four of them at a time.
SHORT_ROW, FEW_ROWS, TALL = 8, 16, 64


def _halved(emit, vector, better):
    """The best lane of a vector: halves against each other, ``better(other, vector)`` by lanes."""
    builder, count = emit.builder, emit.count
    while count > 1:
        count //= 2
        picks = [(lane + count) % emit.count for lane in range(emit.count)]
        other = builder.shuffle_vector(vector, vector, emit.numbers(picks))
        vector = builder.select(better(other, vector), other, vector)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


@intrinsic
def largest_lane(typing, values):
    """The largest of a vector's lanes, none of which is NaN."""

    def generate(context, builder, signature, arguments):
        emit = LanesEmitter(context, builder, signature.args[0])
        return _halved(emit, arguments[0], lambda a, b: builder.fcmp_ordered(">", a, b))

    return values.dtype(values), generate


@intrinsic
def _least_number(typing, values, top, numbers):
    """The least of the numbers whose lanes equal ``top``."""

    def generate(context, builder, signature, arguments):
        values, top, numbers = arguments
        emit = LanesEmitter(context, builder, signature.args[2])
        same = builder.fcmp_ordered("==", values, emit.splat(top))
        none = emit.splat(ir.Constant(emit.element, 2**31 - 1))
        chosen = builder.select(same, numbers, none)
        least = _halved(emit, chosen, lambda a, b: builder.icmp_signed("<", a, b))
        return builder.zext(least, ir.IntType(64))

    return types.int64(values, values.dtype, numbers), generate


@intrinsic
def _nans(typing, values):
    """Bit l is set where lane l is NaN."""

    def generate(context, builder, signature, arguments):
        found = builder.fcmp_unordered("uno", *arguments, *arguments)
        count = ir.IntType(signature.args[0].count)
        return builder.zext(builder.bitcast(found, count), ir.IntType(64))

    return types.int64(values), generate


@intrinsic
def _lane_numbers(typing, like):
    """0, 1, 2, ...: as many as ``like`` has lanes."""
    kind = Lanes(types.int32, like.count)

    def generate(context, builder, signature, arguments):
        return LanesEmitter(context, builder, kind).numbers(range(kind.count))

    return kind(like), generate


@inlined
def _place_of_largest(x, at, length, worst):
    """The first largest, or first NaN, of a run."""
    best, won = worst, _lane_numbers(worst)
    number, width = won, splat_like(np.int32(_WIDTH), worst)
    for i in range(0, length, _WIDTH):
        value = lanes_load(x, at + i, 1, 0, length - i, worst)
        wins = beats(value, best, False, False)
        best, won = choose(wins, value, best), choose(wins, number, won)
        number = plus(number, width)
    if _nans(best):
        for i in range(0, length, _WIDTH):
            found = _nans(lanes_load(x, at + i, 1, 0, length - i, worst))
            if found:
                return i + trailing_zeros(found)
    return _least_number(best, largest_lane(best), won)


@kernel(lambda F, I: (out(F, 5), out(I, 5), array(F, 5), int64, int64, int64, int64, boolean,
                      int64), variants=WITH_WINNER)  # fmt: skip
def largest_of_runs(y, winner, x, length, windows, plane, hop, named, pieces):
    """y and winner of contiguous arrays: each plane of x has ``windows`` runs, ``hop`` apart."""
    for piece in prange(pieces):
        worst = splat(x.dtype.type(-np.inf), _WIDTH)
        for number in range(y.size * piece // pieces, y.size * (piece + 1) // pieces):
            at = number // windows * plane + number % windows * hop
            place = _place_of_largest(x, at, length, worst)
            store(y, number, load(x, at + place))
            if named:
                store(winner, number, place)


@lru_cache(maxsize=256)
def runs(geometry):
    """(elements of a window, windows of a plane, elements of a plane, from window to window).

    None where windows are no runs of memory, or too short for vectors.
    """
    g = geometry
    whole = [taps == size for taps, size in zip(g.window, g.size)]
    axis = 0 if whole[1] else 1  # along which windows may move, if they fill the axes within
    reach = (g.out[axis] - 1) * g.stride[axis] + g.window[axis]
    if any(g.before) or not whole[2] or math.prod(g.size[:axis]) > 1 or reach > g.size[axis]:
        return None
    dilated = any(gap > 1 and taps > 1 for gap, taps in zip(g.dilation, g.window))
    if not LONG <= math.prod(g.window) < 2**31 - _WIDTH or dilated:
        return None
    within = math.prod(g.size[axis + 1 :])
    return math.prod(g.window), g.out[axis], g.plane, g.stride[axis] * within


@lru_cache(maxsize=256)
def stacked(geometry):
    """The geometry of several planes as one, each of which ends with its last windows; or None."""
    g = geometry
    (_, H, W), (_, P, Q) = g.size, g.out
    stride = H if P == 1 else g.stride[1]
    extent = (g.window[1] - 1) * g.dilation[1] + 1
    if any(g.before) or g.size[0] * g.window[0] > 1 or Q > SHORT_ROW or P >= FEW_ROWS:
        return None
    planes = g.batch * g.channels
    together = max([n for n in range(1, TALL // P + 1) if planes % n == 0], default=1)
    if P * stride != H or extent > stride or together == 1:
        return None
    return replace(g, batch=planes // together, channels=1, size=(1, together * H, W),
                   out=(1, together * P, Q), stride=(1, stride, g.stride[2]))  # fmt: skip
