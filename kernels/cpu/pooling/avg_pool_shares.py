"""The gradient of average pooling a vector at a time, for windows without dilation.

An input gathers its share of the windows over it, row-major.  As in avg_pool_lanes.py a vector lies
along a row or across the channels, and what a window counts is tabled: here the inverses, by which
its gradient is multiplied.  Along a row with stride s, s inputs see the same windows, but for the
furthest one, which only the first of them may see.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..emitted.lanes import (
    LanesEmitter,
    add,
    lanes_load,
    lanes_store,
    splat,
    splat_like,
    store_pairs,
)
from ..emitted.memory import load, step
from ..emitted.row_lanes import times
from ..emitted.vectors import element_pointer
from ..jit import array, inlined, int64, kernel, out, prange
from . import max_pool_quarters
from .avg_pool_lanes import WINDOWS, counts, tables, way_of
from .max_pool_quarters import store_four, store_pair_rows
from .window import floor_div, next_row, row_of, windows_over

_WIDTH, _HALF = 16, 8  # lanes

#: Strides of whose inputs all are written together; others are left to the plain loops.
_MOST_APART = 4


@intrinsic
def _store_strides(typing, array, offset, apart, first, end, left, more, fewer):
    """Writes the elements offset + e for first <= e < end, ``apart`` (a constant) for each lane:

    those of a lane up to number ``left`` are more's, the others fewer's.
    """
    if not isinstance(apart, types.IntegerLiteral):
        return None
    i = types.int64

    def generate(context, builder, signature, arguments):
        array, offset, _, first, end, left, more, fewer = arguments
        emit = LanesEmitter(context, builder, signature.args[6])
        pointer = element_pointer(context, builder, signature.args[0], array, offset)
        n, each, i64 = emit.count, apart.literal_value, ir.IntType(64)
        last = emit.splat(builder.trunc(left, ir.IntType(32)))
        for part in range(each):
            places = range(part * n, part * n + n)
            picks = emit.numbers([place // each for place in places])
            whose = builder.icmp_signed("<=", emit.numbers([p % each for p in places]), last)
            value = builder.select(whose, builder.shuffle_vector(more, more, picks),
                                   builder.shuffle_vector(fewer, fewer, picks))  # fmt: skip
            behind = ir.Constant(i64, part * n)
            mask = emit.between(builder.sub(first, behind), builder.sub(end, behind))
            emit.store(builder.gep(pointer, [behind]), mask, value)
        return context.get_dummy_value()

    return types.void(array, i, apart, i, i, i, more, fewer), generate


@kernel(lambda F: (out(F, 5), array(F, 5), int64))
def spread_to_quarters(dx, dy, pieces):
    """dx of contiguous arrays, where windows of 2 x 2 lie side by side (max_pool_quarters.py)."""
    Q = dy.shape[4]
    rows = dy.size // max(1, Q)
    narrow = Q <= _WIDTH // 2 and _WIDTH % Q == 0
    together = _WIDTH // Q if narrow else 1
    blocks = (rows + together - 1) // together
    for piece in prange(pieces):
        zeros, quarter = splat(dy.dtype.type(0), _WIDTH), splat(dy.dtype.type(0.25), _WIDTH)
        for block in range(blocks * piece // pieces, blocks * (piece + 1) // pieces):
            at, end = block * together * Q, min(rows, (block + 1) * together) * Q
            to = 4 * at
            for i in range(at, end, _WIDTH):
                count = min(_WIDTH, end - i)
                value = times(lanes_load(dy, i, 1, 0, count, zeros), quarter)
                if narrow:
                    store_pair_rows(dx, to, Q, count, value, value, value, value)
                else:
                    store_pairs(dx, to, 0, 2 * count, value, value)
                    store_pairs(dx, to + 2 * Q, 0, 2 * count, value, value)
                to += 2 * _WIDTH


@inlined
def _quarters(dx, to, dy, at, count, quarter, zeros):
    """What one window of ``count`` channels owes to its four inputs."""
    value = add(zeros, times(lanes_load(dy, at, 1, 0, count, zeros), quarter))
    store_four(dx, to, count, value, value, value, value)


@kernel(lambda F: (out(F, 5), array(F, 5), int64))
def spread_to_quarters_of_pixels(dx, dy, pieces):
    """The same where channels lie next to each other, across them."""
    _, C, Z, P, Q = dy.shape
    lines = dy.shape[0] * Z * P
    for piece in prange(pieces):
        zero, part = dy.dtype.type(0), dy.dtype.type(0.25)
        zeros, quarter = splat(zero, _WIDTH), splat(part, _WIDTH)
        few, quarter_of_few = splat(zero, _HALF), splat(part, _HALF)
        for line in range(lines * piece // pieces, lines * (piece + 1) // pieces):
            n, z, p = line // (Z * P), line // P % Z, line % P
            at = n * step(dy, 0) + z * step(dy, 2) + p * step(dy, 3)
            to = n * step(dx, 0) + z * step(dx, 2) + 2 * p * step(dx, 3)
            for _ in range(Q):
                if C >= _WIDTH:
                    for i in range(0, C, _WIDTH):
                        c = min(i, C - _WIDTH)
                        _quarters(dx, to + c, dy, at + c, _WIDTH, quarter, zeros)
                else:
                    for i in range(0, C, _HALF):
                        _quarters(dx, to + i, dy, at + i, min(_HALF, C - i), quarter_of_few, few)
                at += step(dy, 4)
                to += 2 * step(dx, 4)


@inlined
def _inputs(dx, to, dy, at, j, count, over, window, stride, before, deep, high, wide, zeros):
    """``count`` strides of a row of inputs, from padded position j * stride on."""
    (z0, z1, p0, p1), Q, S, apart = over, dy.shape[4], window[2], stride[2]
    furthest = (S - 1) // apart  # of the windows behind that see the first inputs of a stride
    more, fewer = zeros, zeros
    for b in range(furthest, -1, -1):
        first, end, total = max(0, b - j), min(count, Q - j + b), zeros
        if first >= end:
            continue
        for z in range(z0, z1):
            for p in range(p0, p1):
                here = at + z * step(dy, 2) + p * step(dy, 3) + j - b
                share = splat_like(load(deep, z) * load(high, p), zeros)
                total = add(total, times(lanes_load(dy, here, 1, first, end, zeros), share))
        total = times(total, lanes_load(wide, j - b, 1, first, end, zeros))
        more = add(more, total)
        if b < furthest:
            fewer = add(fewer, total)
    w, W = j * apart - before[2], dx.shape[4]
    left = (S - 1) % apart  # the last input of a stride that sees the furthest window
    if apart == 2:
        odd = more if left == 1 else fewer
        store_pairs(dx, to + w, max(0, -w), min(2 * count, W - w), more, odd)
        return
    low, top = max(0, -w), min(apart * count, W - w)
    if apart == 1:
        lanes_store(dx, to + w, 1, low, top, more)
    elif apart == 3:
        _store_strides(dx, to + w, 3, low, top, left, more, fewer)
    else:
        _store_strides(dx, to + w, 4, low, top, left, more, fewer)


@kernel(lambda F: (out(F, 5), array(F, 5), *WINDOWS, *tables(F), int64))
def spread_to_rows(dx, dy, window, stride, before, deep, high, wide, pieces):
    """dx; the elements of a row lie next to each other.  The tables are of inverses."""
    N, C, D, H, W = dx.shape
    _, _, Z, P, Q = dy.shape
    rows = N * C * D * H
    for piece in prange(pieces):
        zeros = splat(dy.dtype.type(0), _WIDTH)
        first, end = rows * piece // pieces, rows * (piece + 1) // pieces
        n, c, d, h = row_of(first, C, D, H)
        for _ in range(first, end):
            to = n * step(dx, 0) + c * step(dx, 1) + d * step(dx, 2) + h * step(dx, 3)
            at = n * step(dy, 0) + c * step(dy, 1)
            z0, z1 = windows_over(d + before[0], stride[0], 1, window[0], Z)
            p0, p1 = windows_over(h + before[1], stride[1], 1, window[1], P)
            last = floor_div(W - 1 + before[2], stride[2])
            for j in range(floor_div(before[2], stride[2]), last + 1, _WIDTH):
                _inputs(dx, to, dy, at, j, min(_WIDTH, last + 1 - j), (z0, z1, p0, p1), window,
                        stride, before, deep, high, wide, zeros)  # fmt: skip
            n, c, d, h = next_row(n, c, d, h, C, D, H)


@kernel(lambda F: (out(F, 5), array(F, 5), *WINDOWS, *tables(F), int64))
def spread_to_pixels(dx, dy, window, stride, before, deep, high, wide, pieces):
    """dx; channels lie next to each other.  The tables are of inverses."""
    N, C, D, H, W = dx.shape
    _, _, Z, P, Q = dy.shape
    for piece in prange(pieces):
        zeros = splat(dy.dtype.type(0), _WIDTH)
        first, end = N * D * H * W * piece // pieces, N * D * H * W * (piece + 1) // pieces
        n, d, h, w = row_of(first, D, H, W)
        for _ in range(first, end):
            to = n * step(dx, 0) + d * step(dx, 2) + h * step(dx, 3) + w * step(dx, 4)
            z0, z1 = windows_over(d + before[0], stride[0], 1, window[0], Z)
            p0, p1 = windows_over(h + before[1], stride[1], 1, window[1], P)
            q0, q1 = windows_over(w + before[2], stride[2], 1, window[2], Q)
            seen = z0 < z1 and p0 < p1 and q0 < q1
            for i in range(0, 0 if seen else C, _WIDTH):
                lanes_store(dx, to + i, 1, 0, min(_WIDTH, C - i), zeros)
            for z in range(z0, z1):
                for p in range(p0, p1):
                    at = n * step(dy, 0) + z * step(dy, 2) + p * step(dy, 3)
                    share, begin = load(deep, z) * load(high, p), z == z0 and p == p0
                    for i in range(0, C if q0 < q1 else 0, _WIDTH):
                        count = min(_WIDTH, C - i)
                        total = zeros if begin else lanes_load(dx, to + i, 1, 0, count, zeros)
                        for q in range(q0, q1):
                            part = lanes_load(dy, at + q * step(dy, 4) + i, 1, 0, count, zeros)
                            part = times(part, splat_like(share * load(wide, q), zeros))
                            total = add(total, part)
                        lanes_store(dx, to + i, 1, 0, count, total)
            n, d, h, w = next_row(n, d, h, w, D, H, W)


@kernel(lambda F: (out(F, 5), array(F, 5), int64, int64))
def spread_to_planes(dx, dy, plane, pieces):
    """dx of contiguous arrays, where one window is the whole plane."""
    for piece in prange(pieces):
        zeros = splat(dy.dtype.type(0), _WIDTH)
        for number in range(dy.size * piece // pieces, dy.size * (piece + 1) // pieces):
            value = splat_like(load(dy, number) / dy.dtype.type(plane), zeros)
            for i in range(0, plane, _WIDTH):
                lanes_store(dx, number * plane + i, 1, 0, min(_WIDTH, plane - i), value)


def backward(dx, dy, g, padding_counts, threads):
    """Which kernel makes dx, and what it takes behind dx and dy, if arrays of these forms lie

    right for vectors; else None.
    """
    contiguous, way = dx.flags.c_contiguous and dy.flags.c_contiguous, way_of(g, dx, dy)
    contiguous = contiguous and way is not None  # without dilation
    if contiguous and g.window == g.size and g.out == (1, 1, 1) and not any(g.before):
        return spread_to_planes, (g.plane, threads)
    if contiguous and max_pool_quarters.serves(g):
        return spread_to_quarters, (threads,)
    if way == "pixels" and max_pool_quarters.serves(g):
        return spread_to_quarters_of_pixels, (threads,)
    if way is None or (way == "rows" and g.stride[2] > _MOST_APART):
        return None
    kernel = spread_to_pixels if way == "pixels" else spread_to_rows
    tables = counts(g, dx.dtype, padding_counts)[3:]
    return kernel, (g.window, g.stride, g.before, *tables, threads)
