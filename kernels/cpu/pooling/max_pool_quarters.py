"""The gradient of max pooling with 2 x 2 windows side by side: a vector of windows at a time.

Every input has one window, so dx is written once and nothing is added up: an input gets its
window's dy where its tap is the winner, else zero.  Of 16 windows that is four comparisons, and two
vectors for each of their two rows, interleaved from the taps.  A winner that is no tap harms
nothing here, so that winners can be checked on the way.  Where 16 windows are several rows of
a narrow plane, the rows' pieces are put in order on their way out.  With channels last the vector
is of channels, and each tap's goes to a pixel of its own.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..emitted.lanes import (
    LanesEmitter,
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
from ..emitted.vectors import element_pointer
from ..jit import WITH_WINNER, array, inlined, int64, kernel, out, prange
from .winners import largest_of

_WIDTH = 16  # lanes

#: Windows of a row that come several rows at a time.
_NARROW = (1, 2, 4, 8)


def serves(g) -> bool:
    """Do the 2 x 2 windows of a pool's geometry cover each plane exactly, side by side?"""
    sides = (1, 2, 2)
    covered = tuple(size == o * side for size, o, side in zip(g.size, g.out, sides))
    return (g.window == g.stride == sides and all(covered) and g.before == (0, 0, 0)
            and g.dilation[1:] == (1, 1))  # fmt: skip


@intrinsic
def store_pair_rows(typing, dx, offset, row, count, a, b, c, d):
    """Writes the inputs of ``count`` windows in rows of ``row``: a b over c d, from ``offset``."""

    def generate(context, builder, signature, arguments):
        dx, offset, row, count, *taps = arguments
        emit = LanesEmitter(context, builder, signature.args[4])
        pointer = element_pointer(context, builder, signature.args[0], dx, offset)
        n, i64 = emit.count, ir.IntType(64)
        pairs = [[builder.shuffle_vector(one, other, emit.numbers(
            [side + i // 2 + i % 2 * n for i in range(n)])) for side in (0, n // 2)]
            for one, other in (taps[:2], taps[2:])]  # fmt: skip
        for windows in _NARROW:
            with builder.if_then(builder.icmp_signed("==", row, ir.Constant(i64, windows))):
                for v in range(4):
                    above, below = (half[v // 2] for half in pairs)
                    picks = []
                    for e in range(v * n, v * n + n):
                        line, at = e // (4 * windows), e % (4 * windows)
                        lane = (line * 2 * windows + at % (2 * windows)) % n
                        picks.append(lane + (n if at >= 2 * windows else 0))
                    value = builder.shuffle_vector(above, below, emit.numbers(picks))
                    end = builder.sub(builder.mul(count, ir.Constant(i64, 4)),
                                      ir.Constant(i64, v * n))  # fmt: skip
                    here = builder.gep(pointer, [ir.Constant(i64, v * n)])
                    whole = builder.icmp_signed(">=", end, ir.Constant(i64, n))
                    with builder.if_else(whole) as (all_of_it, rest):
                        with all_of_it:
                            emit.store(here, None, value)
                        with rest:
                            emit.store(here, emit.between(ir.Constant(i64, 0), end), value)
        return context.get_dummy_value()

    i = types.int64
    return types.void(dx, i, i, i, a, b, c, d), generate


@inlined
def _taps(dy, at, winner, name, count, nothing):
    """What ``count`` windows owe to each of their four inputs."""
    value = add(lanes_load(dy, at, 1, 0, count, nothing), nothing)  # -0.0 arrives as 0.0
    names = lanes_load(winner, name, 1, 0, count, splat_like(winner.dtype.type(0), nothing))
    return (_owed(names, winner.dtype.type(0), value, nothing),
            _owed(names, winner.dtype.type(1), value, nothing),
            _owed(names, winner.dtype.type(2), value, nothing),
            _owed(names, winner.dtype.type(3), value, nothing))  # fmt: skip


@inlined
def _owed(names, tap, value, nothing):
    return choose(equal(names, splat_like(tap, nothing)), value, nothing)


_SIGNATURE = {
    "signature": lambda F, I: (out(F, 5), array(F, 5), array(I, 5), out(int64, 1), int64),
    "variants": WITH_WINNER,
}


@kernel(**_SIGNATURE)
def by_quarters(dx, dy, winner, found, pieces):
    """dx, from contiguous arrays of windows that `serves`; found[piece] = is a winner no tap?"""
    Q = dy.shape[4]
    rows = dy.size // max(1, Q)
    narrow = Q <= _WIDTH // 2 and _WIDTH % Q == 0  # one of _NARROW
    together = _WIDTH // Q if narrow else 1
    blocks = (rows + together - 1) // together
    for piece in prange(pieces):
        nothing = splat(dy.dtype.type(0), _WIDTH)
        first, last = blocks * piece // pieces, blocks * (piece + 1) // pieces
        run = min(rows, last * together) * Q - first * together * Q
        found[piece] = largest_of(winner, first * together * Q, run, 1) > 3
        for block in range(first, last):
            at = block * together * Q
            end = min(rows, (block + 1) * together) * Q
            to = 4 * at
            while at < end:
                count = min(_WIDTH, end - at)
                a, b, c, d = _taps(dy, at, winner, at, count, nothing)
                if narrow:
                    store_pair_rows(dx, to, Q, count, a, b, c, d)
                else:
                    store_pairs(dx, to, 0, 2 * count, a, b)
                    store_pairs(dx, to + 2 * Q, 0, 2 * count, c, d)
                at += _WIDTH
                to += 2 * _WIDTH


@kernel(**_SIGNATURE)
def by_channels(dx, dy, winner, found, pieces):
    """The same where channels lie next to each other in every array, across them."""
    _, C, Z, P, Q = dy.shape
    lines = dy.shape[0] * Z * P
    for piece in prange(pieces):
        nothing, top = splat(dy.dtype.type(0), _WIDTH), np.int64(0)
        for line in range(lines * piece // pieces, lines * (piece + 1) // pieces):
            n, z, p = line // (Z * P), line // P % Z, line % P
            at = n * step(dy, 0) + z * step(dy, 2) + p * step(dy, 3)
            name = n * step(winner, 0) + z * step(winner, 2) + p * step(winner, 3)
            to = n * step(dx, 0) + z * step(dx, 2) + 2 * p * step(dx, 3)
            dense = step(winner, 4) == C
            top = max(top, largest_of(winner, name, Q * C, 1) if dense else np.int64(0))
            for _ in range(Q):
                top = max(top, np.int64(0) if dense else largest_of(winner, name, C, 1))
                for i in range(0, C, _WIDTH):
                    count = min(_WIDTH, C - i)
                    a, b, c, d = _taps(dy, at + i, winner, name + i, count, nothing)
                    lanes_store(dx, to + i, 1, 0, count, a)
                    lanes_store(dx, to + i + step(dx, 4), 1, 0, count, b)
                    lanes_store(dx, to + i + step(dx, 3), 1, 0, count, c)
                    lanes_store(dx, to + i + step(dx, 3) + step(dx, 4), 1, 0, count, d)
                at += step(dy, 4)
                name += step(winner, 4)
                to += 2 * step(dx, 4)
        found[piece] = top > 3
