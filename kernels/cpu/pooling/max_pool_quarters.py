"""Max pooling with 2 x 2 windows side by side, above all its gradient: a vector at a time.

Every input has one window, so dx is written once and nothing is added up: an input gets its
window's dy where its tap is the winner, else zero.  Of 16 windows that is four comparisons, and two
vectors for each of their two rows, interleaved from the taps.  A winner that is no tap harms
nothing here, so that winners can be checked on the way.  Where 16 windows are several rows of
a narrow plane, the rows' pieces are put in order on their way out.  With channels last the vector
is of channels, and each tap's goes to a pixel of its own.  The forward pass of narrow planes goes
the same way back.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..emitted.lanes import (
    LanesEmitter,
    add,
    beats,
    choose,
    equal,
    lanes_load,
    lanes_store,
    splat,
    splat_like,
    store_pairs,
    within,
)
from ..emitted.memory import step
from ..emitted.row_lanes import either
from ..emitted.vectors import element_pointer
from ..jit import WITH_WINNER, array, boolean, inlined, int64, kernel, out, prange
from .winners import largest_of

_WIDTH, _HALF = 16, 8  # lanes

#: Windows of a row that come several rows at a time.
_NARROW = (1, 2, 4, 8)


def narrow(g) -> bool:
    """Does the forward pass of windows that `serves` take several of their rows at a time?"""
    return g.out[2] in _NARROW and serves(g)


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


@intrinsic
def load_pair_rows(typing, x, offset, row, count, fill):
    """The four taps of ``count`` windows in rows of ``row``, as `store_pair_rows` writes them."""

    def generate(context, builder, signature, arguments):
        x, offset, row, count, fill = arguments
        emit = LanesEmitter(context, builder, signature.args[4])
        pointer = element_pointer(context, builder, signature.args[0], x, offset)
        n, i64 = emit.count, ir.IntType(64)

        def whole():
            starts = [builder.gep(pointer, [ir.Constant(i64, v * n)]) for v in range(4)]
            return [emit.load(start, None, None) for start in starts]

        def part():
            end = builder.mul(count, ir.Constant(i64, 4))
            parts = []
            for v in range(4):
                mask = emit.between(ir.Constant(i64, 0), builder.sub(end, ir.Constant(i64, v * n)))
                start = builder.gep(pointer, [ir.Constant(i64, v * n)])
                parts.append(emit.load(start, mask, fill))
            return parts

        full = builder.icmp_signed(">=", count, ir.Constant(i64, n))
        with builder.if_else(full) as (all_of_it, rest):
            with all_of_it:
                ones, one_block = whole(), builder.block
            with rest:
                others, other_block = part(), builder.block
        lines = []
        for one, other in zip(ones, others):
            phi = builder.phi(emit.vector)
            phi.add_incoming(one, one_block)
            phi.add_incoming(other, other_block)
            lines.append(phi)
        # even and odd elements of 4 n, each in two vectors
        sides = [[builder.shuffle_vector(lines[h], lines[h + 1], emit.numbers(
            [2 * i + side for i in range(n)])) for h in (0, 2)] for side in (0, 1)]  # fmt: skip
        found = [emit.vector(ir.Undefined)] * 4
        for windows in _NARROW:
            same = builder.icmp_signed("==", row, ir.Constant(i64, windows))
            before = builder.block
            with builder.if_then(same):
                taps = []
                for below in (0, 1):
                    # window w of line w // windows: in its pair of rows above, or below
                    picks = [w // windows * 2 * windows + below * windows + w % windows
                             for w in range(n)]  # fmt: skip
                    taps += [builder.shuffle_vector(*side, emit.numbers(picks)) for side in sides]
                within = builder.block
            joined = []
            for old, new in zip(found, taps):
                phi = builder.phi(emit.vector)
                phi.add_incoming(old, before)
                phi.add_incoming(new, within)
                joined.append(phi)
            found = joined
        return context.make_tuple(builder, signature.return_type, found)

    i = types.int64
    return types.UniTuple(fill, 4)(x, i, i, i, fill), generate


@inlined
def _better(a, b, one, other):
    wins = beats(b, a, False, False)
    return choose(wins, b, a), choose(wins, other, one)


@kernel(lambda F, I: (out(F, 5), out(I, 5), array(F, 5), boolean, int64), variants=WITH_WINNER)
def largest_of_quarters(y, winner, x, named, pieces):
    """y and winner of contiguous arrays, where windows that `serves` lie in narrow rows."""
    Q = y.shape[4]
    blocks = (y.size + _WIDTH - 1) // _WIDTH
    for piece in prange(pieces):
        worst = splat(x.dtype.type(-np.inf), _WIDTH)
        names = (splat_like(winner.dtype.type(0), worst), splat_like(winner.dtype.type(1), worst),
                 splat_like(winner.dtype.type(2), worst), splat_like(winner.dtype.type(3), worst))
        for block in range(blocks * piece // pieces, blocks * (piece + 1) // pieces):
            at = block * _WIDTH
            count = min(_WIDTH, y.size - at)
            a, b, c, d = load_pair_rows(x, 4 * at, Q, count, worst)
            top, upper = _better(a, b, names[0], names[1])
            bottom, lower = _better(c, d, names[2], names[3])
            best, won = _better(top, bottom, upper, lower)
            lanes_store(y, at, 1, 0, count, best)
            if named:
                lanes_store(winner, at, 1, 0, count, won)


@inlined
def _taps(dy, at, winner, name, count, nothing):
    """What ``count`` windows owe to each of their four inputs, and their winners."""
    value = add(lanes_load(dy, at, 1, 0, count, nothing), nothing)  # -0.0 arrives as 0.0
    names = lanes_load(winner, name, 1, 0, count, splat_like(winner.dtype.type(0), nothing))
    return (names, _owed(names, winner.dtype.type(0), value, nothing),
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
                _, a, b, c, d = _taps(dy, at, winner, at, count, nothing)
                if narrow:
                    store_pair_rows(dx, to, Q, count, a, b, c, d)
                else:
                    store_pairs(dx, to, 0, 2 * count, a, b)
                    store_pairs(dx, to + 2 * Q, 0, 2 * count, c, d)
                at += _WIDTH
                to += 2 * _WIDTH


@inlined
def store_four(dx, to, count, a, b, c, d):
    """``count`` channels of the four pixels of a window, the first at ``to``."""
    below = to + step(dx, 3)
    lanes_store(dx, to, 1, 0, count, a)
    lanes_store(dx, to + step(dx, 4), 1, 0, count, b)
    lanes_store(dx, below, 1, 0, count, c)
    lanes_store(dx, below + step(dx, 4), 1, 0, count, d)


@inlined
def _window(dx, to, dy, at, winner, name, count, nothing, bits):
    """What a window of ``count`` channels owes its four inputs; ``bits`` and those of winners."""
    names, a, b, c, d = _taps(dy, at, winner, name, count, nothing)
    store_four(dx, to, count, a, b, c, d)
    return either(bits, names)


@kernel(**_SIGNATURE)
def by_channels(dx, dy, winner, found, pieces):
    """The same where channels lie next to each other in every array, across them.

    The last vector of a pixel overlaps the one before it.
    """
    _, C, Z, P, Q = dy.shape
    lines = dy.shape[0] * Z * P
    for piece in prange(pieces):
        wide, narrow = splat(dy.dtype.type(0), _WIDTH), splat(dy.dtype.type(0), _HALF)
        many = splat_like(winner.dtype.type(0), wide)  # the bits of all winners
        few = splat_like(winner.dtype.type(0), narrow)
        for line in range(lines * piece // pieces, lines * (piece + 1) // pieces):
            n, z, p = line // (Z * P), line // P % Z, line % P
            at = n * step(dy, 0) + z * step(dy, 2) + p * step(dy, 3)
            name = n * step(winner, 0) + z * step(winner, 2) + p * step(winner, 3)
            to = n * step(dx, 0) + z * step(dx, 2) + 2 * p * step(dx, 3)
            for _ in range(Q):
                if C >= _WIDTH:
                    for i in range(0, C, _WIDTH):
                        c = min(i, C - _WIDTH)
                        many = _window(dx, to + c, dy, at + c, winner, name + c, _WIDTH, wide, many)
                elif C >= _HALF:
                    few = _window(dx, to, dy, at, winner, name, _HALF, narrow, few)
                    c = C - _HALF
                    few = _window(dx, to + c, dy, at + c, winner, name + c, _HALF, narrow, few)
                else:
                    few = _window(dx, to, dy, at, winner, name, C, narrow, few)
                at += step(dy, 4)
                name += step(winner, 4)
                to += 2 * step(dx, 4)
        taps = winner.dtype.type(0), winner.dtype.type(4)
        found[piece] = within(many, *taps) != 0xFFFF or within(few, *taps) != 0xFF
