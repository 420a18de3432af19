"""Winners: are they taps inside the image, and the same cells named by their plane index."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..emitted.memory import load, step, store
from ..jit import array, boolean, bound, helper, inlined, int64, kernel, out, prange, triple
from .max_pool import across_channels
from .window import inner_windows, next_row, row_of, tap_at, taps_inside

_MOVE = (triple, triple, triple, triple, triple)  # size, window, stride, dilation, before


@helper
def _axis_cell(o, tap, size, stride, dilation, before):
    """The position of a tap on one axis, or -1 where it lies outside."""
    at = o * stride - before + tap * dilation
    return at if 0 <= at < size else np.int64(-1)


@helper
def _cell(number, z, p, q, size, window, stride, dilation, before):
    """The plane index of tap ``number`` of the window (z, p, q), or -1 if that is no input."""
    if number < 0 or number >= window[0] * window[1] * window[2]:
        return np.int64(-1)
    t, r, s = number // (window[1] * window[2]), number // window[2] % window[1], number % window[2]
    d = _axis_cell(z, t, size[0], stride[0], dilation[0], before[0])
    h = _axis_cell(p, r, size[1], stride[1], dilation[1], before[1])
    w = _axis_cell(q, s, size[2], stride[2], dilation[2], before[2])
    return np.int64(-1) if min(d, h, w) < 0 else (d * size[1] + h) * size[2] + w


@helper
def _axis_tap(o, at, window, stride, dilation, before):
    """The tap that reads position ``at`` of one axis, or -1."""
    offset = at + before - o * stride
    if offset < 0 or offset > (window - 1) * dilation:
        return np.int64(-1)
    return tap_at(offset, dilation)


@helper
def _number(cell, z, p, q, size, window, stride, dilation, before):
    """The tap of the window (z, p, q) that reads a plane index, or -1 if none does."""
    if cell < 0 or cell >= size[0] * size[1] * size[2]:
        return np.int64(-1)
    d, h, w = cell // (size[1] * size[2]), cell // size[2] % size[1], cell % size[2]
    t = _axis_tap(z, d, window[0], stride[0], dilation[0], before[0])
    r = _axis_tap(p, h, window[1], stride[1], dilation[1], before[1])
    s = _axis_tap(q, w, window[2], stride[2], dilation[2], before[2])
    return np.int64(-1) if min(t, r, s) < 0 else (t * window[1] + r) * window[2] + s


@helper
def _at(array, n, c, z, p):
    return n * step(array, 0) + c * step(array, 1) + z * step(array, 2) + p * step(array, 3)


@kernel(lambda I: (out(int64, 1), array(I, 5), *_MOVE), variants=("uint8", "uint16", "uint32"))
def first_bad_winner(found, winner, size, window, stride, dilation, before):
    """found[piece] = the first winner of that piece of the rows that is no input, or -1."""
    N, C, Z, P, Q = winner.shape
    rows, pieces = N * C * Z * P, found.size
    for piece in prange(pieces):
        bad = np.int64(-1)
        for row in range(rows * piece // pieces, rows * (piece + 1) // pieces):
            n, c, z, p = row // (P * Z * C), row // (P * Z) % C, row // P % Z, row % P
            at = _at(winner, n, c, z, p)
            for q in range(Q):
                number = int64(load(winner, at + q * step(winner, 4)))
                if bad < 0 and _cell(number, z, p, q, size, window, stride, dilation, before) < 0:
                    bad = row * Q + q
        found[piece] = bad


@inlined
def largest_of(winner, at, count, stride):
    """The largest of a run of winners.  Vectorised where they lie side by side."""
    largest = np.int64(0)
    if stride == 1:
        top = winner.dtype.type(0)
        for i in range(count):
            value = load(winner, at + i)
            top = value if value > top else top
        largest = int64(top)
    else:
        for i in range(count):
            largest = max(largest, int64(load(winner, at + i * stride)))
    return largest


@inlined
def _taps_of(first, end, window, taps_inside_row):
    """Bit n of the result is tap n: those of columns first..end-1, in rows that lie inside."""
    one_row = (np.int64(1) << end) - (np.int64(1) << first)
    found = np.int64(0)
    for row in range(window[0] * window[1]):
        if taps_inside_row >> row & 1:
            found |= one_row << row * window[2]
    return found


@inlined
def _rows_of(z, p, size, window, stride, dilation, before):
    """Bit n of the result is row n of the window's taps, if that lies inside the image."""
    t0, t1 = taps_inside(z * stride[0] - before[0], dilation[0], size[0], window[0])
    r0, r1 = taps_inside(p * stride[1] - before[1], dilation[1], size[1], window[1])
    found = np.int64(0)
    for t in range(t0, t1):
        found |= ((np.int64(1) << r1) - (np.int64(1) << r0)) << t * window[1]
    return found


@inlined
def _any_not_among(winner, at, count, stride, allowed):
    """Is one of a run of winners none of the taps whose bits are set?"""
    missing = np.int64(0)
    for i in range(count):
        missing |= ~(allowed >> (int64(load(winner, at + i * stride)) & 63))
    return (missing & 1) != 0


@kernel(lambda I: (out(int64, 1), array(I, 5), *_MOVE, boolean, boolean),
        variants=("uint8", "uint16", "uint32"))  # fmt: skip
def any_bad_winner(found, winner, size, window, stride, dilation, before, across, dense):
    """found[piece] = 1 if a winner of that piece is no input, else 0; in the order of memory.

    Every winner has to be a tap: that is one look at the largest.  A window that hangs over the
    edge of the image may name fewer, which are the bits of a mask if they are few enough.
    ``dense``: the winners are one run of memory.
    """
    N, C, Z, P, Q = winner.shape
    taps = window[0] * window[1] * window[2]
    inner_z = inner_windows(size[0], window[0], stride[0], dilation[0], before[0], Z)
    inner_p = inner_windows(size[1], window[1], stride[1], dilation[1], before[1], P)
    inner_q = inner_windows(size[2], window[2], stride[2], dilation[2], before[2], Q)
    channels, width, side = (1, C, step(winner, 1)) if across else (C, 1, 1)
    rows, pieces = N * channels * Z * P, found.size
    few = taps < 64
    all_inner = inner_z == (0, Z) and inner_p == (0, P) and inner_q == (0, Q)
    for piece in prange(pieces):
        first, end = rows * piece // pieces, rows * (piece + 1) // pieces
        bad = False
        if dense:
            run = Q * width
            bad = largest_of(winner, first * run, (end - first) * run, 1) >= taps
        n, c, z, p = row_of(first, channels, Z, P)
        for _ in range(0 if bad or (dense and all_inner) else end - first):
            at = _at(winner, n, c, z, p)
            if not dense and across:
                for q in range(Q):
                    bad |= largest_of(winner, at + q * step(winner, 4), C, side) >= taps
            elif not dense:
                bad |= largest_of(winner, at, Q, step(winner, 4)) >= taps
            inner = inner_z[0] <= z < inner_z[1] and inner_p[0] <= p < inner_p[1]
            seen = _rows_of(z, p, size, window, stride, dilation, before)
            q = 0
            while q < Q:
                here, run, s0, s1 = at + q * step(winner, 4), 1, 0, window[2]
                if q < inner_q[0] or q >= inner_q[1]:
                    start = q * stride[2] - before[2]
                    s0, s1 = taps_inside(start, dilation[2], size[2], window[2])
                else:
                    run = inner_q[1] - q
                    if inner:
                        q += run
                        continue
                allowed = _taps_of(s0, s1, window, seen) if few else np.int64(0)
                if few and not across:
                    bad |= _any_not_among(winner, here, run, step(winner, 4), allowed)
                for i in range(0 if few and not across else run):
                    place = here + i * step(winner, 4)
                    if few:
                        bad |= _any_not_among(winner, place, width, side, allowed)
                        continue
                    for j in range(width):
                        number = int64(load(winner, place + j * side))
                        cell = _cell(number, z, p, q + i, size, window, stride, dilation, before)
                        bad |= cell < 0
                q += run
            n, c, z, p = next_row(n, c, z, p, channels, Z, P)
        found[piece] = bad


#: Words of 64 taps for all cells of a plane, up to which they are tabled: half of L1.
MOST_WORDS = 2048


@lru_cache(maxsize=256)
def _allowed(geometry):
    """For each cell of a plane the taps that lie inside the image, as bits of words.

    None where all taps of all cells do, or the table would be large.
    """
    g = geometry
    words = -(-math.prod(g.window) // 64)
    if math.prod(g.out) * words > MOST_WORDS:
        return None
    inside = np.ones((1, 1), bool)  # (cells, taps)
    for axis in range(3):
        starts = np.arange(g.out[axis]) * g.stride[axis] - g.before[axis]
        at = starts[:, None] + np.arange(g.window[axis]) * g.dilation[axis]
        here = (at >= 0) & (at < g.size[axis])
        inside = inside[:, None, :, None] & here[None, :, None, :]
        inside = inside.reshape(inside.shape[0] * len(starts), -1)
    if inside.all():
        return None
    bits = np.zeros((len(inside), 64 * words), bool)
    bits[:, : inside.shape[1]] = inside
    return np.packbits(bits, axis=1, bitorder="little").view("<u8").astype(np.int64).reshape(-1)


@kernel(lambda I: (out(int64, 1), array(I, 5), array(int64, 1), int64),
        variants=("uint8", "uint16", "uint32"))  # fmt: skip
def any_bad_by_table(found, winner, allowed, words):
    """found[piece] = 1 if a winner of that piece of the planes is no input, else 0.

    winner is contiguous, and ``allowed`` the table of its planes.
    """
    cells = allowed.size // words
    planes, pieces = winner.size // cells, found.size
    for piece in prange(pieces):
        missing, all_bits = np.int64(0), np.int64(0)
        for plane in range(planes * piece // pieces, planes * (piece + 1) // pieces):
            at = plane * cells
            if words == 1:
                for i in range(cells):
                    number = int64(load(winner, at + i))
                    all_bits |= number
                    missing |= ~(load(allowed, i) >> (number & 63))
            else:
                for i in range(cells):
                    number = int64(load(winner, at + i))
                    word = min(number >> 6, words - 1)
                    all_bits |= (number >> 6) - word  # above 0 if it is no tap at all
                    missing |= ~(load(allowed, i * words + word) >> (number & 63))
        beyond = all_bits >> 6 if words == 1 else all_bits
        found[piece] = (missing & 1) != 0 or beyond != 0


@kernel(lambda I: (out(int64, 1), array(I, 5), array(int64, 1), int64),
        variants=("uint8", "uint16", "uint32"))  # fmt: skip
def any_bad_of_pixels(found, winner, allowed, words):
    """`any_bad_by_table` of winners that are one run of memory with channels last."""
    C, cells, pieces = winner.shape[1], allowed.size // words, found.size
    pixels = winner.shape[0] * cells
    for piece in prange(pieces):
        missing, beyond = np.int64(0), np.int64(0)
        for pixel in range(pixels * piece // pieces, pixels * (piece + 1) // pieces):
            at, table = pixel * C, pixel % cells * words
            if words == 1:
                taps = load(allowed, table)
                for c in range(C):
                    number = int64(load(winner, at + c))
                    beyond |= number >> 6
                    missing |= ~(taps >> (number & 63))
            else:
                for c in range(C):
                    number = int64(load(winner, at + c))
                    word = min(number >> 6, words - 1)
                    beyond |= (number >> 6) - word
                    missing |= ~(load(allowed, table + word) >> (number & 63))
        found[piece] = (missing & 1) != 0 or beyond != 0


@kernel(lambda I: (out(int64, 1), array(I, 5), *_MOVE), variants=("int64",))
def first_bad_index(found, index, size, window, stride, dilation, before):
    """found[piece] = the first index of that piece that its window does not read, or -1."""
    N, C, Z, P, Q = index.shape
    rows, pieces = N * C * Z * P, found.size
    for piece in prange(pieces):
        bad = np.int64(-1)
        for row in range(rows * piece // pieces, rows * (piece + 1) // pieces):
            n, c, z, p = row // (P * Z * C), row // (P * Z) % C, row // P % Z, row % P
            at = _at(index, n, c, z, p)
            for q in range(Q):
                cell = int64(load(index, at + q * step(index, 4)))
                if bad < 0 and _number(cell, z, p, q, size, window, stride, dilation, before) < 0:
                    bad = row * Q + q
        found[piece] = bad


@kernel(lambda I: (out(int64, 5), array(I, 5), *_MOVE), variants=("uint8", "uint16", "uint32"))
def cells_of_winners(index, winner, size, window, stride, dilation, before):
    """index = the plane index of each winner."""
    N, C, Z, P, Q = winner.shape
    for row in prange(N * C * Z * P):
        n, c, z, p = row // (P * Z * C), row // (P * Z) % C, row // P % Z, row % P
        at, to = _at(winner, n, c, z, p), _at(index, n, c, z, p)
        for q in range(Q):
            number = int64(load(winner, at + q * step(winner, 4)))
            cell = _cell(number, z, p, q, size, window, stride, dilation, before)
            store(index, to + q * step(index, 4), cell)


@kernel(lambda I: (out(I, 5), array(int64, 5), *_MOVE), variants=("uint8", "uint16", "uint32"))
def winners_of_cells(winner, index, size, window, stride, dilation, before):
    """winner = the tap through which each window reads its index."""
    N, C, Z, P, Q = winner.shape
    for row in prange(N * C * Z * P):
        n, c, z, p = row // (P * Z * C), row // (P * Z) % C, row // P % Z, row % P
        at, to = _at(index, n, c, z, p), _at(winner, n, c, z, p)
        for q in range(Q):
            cell = load(index, at + q * step(index, 4))
            number = _number(cell, z, p, q, size, window, stride, dilation, before)
            store(winner, to + q * step(winner, 4), number)


def _move(geometry):
    g = geometry
    return g.size, g.window, g.stride, g.dilation, g.before


def _first(found):
    """Pieces are in order, so the first that found anything found the first."""
    bad = found[found >= 0]
    return int(bad[0]) if bad.size else -1


def any_bad(winner, geometry, plan):
    """A function of winners of this form: is one of them no input of its window?"""
    threads, kind = plan.threads, winner.dtype
    dense, across, by_table = winner.flags.c_contiguous, False, any_bad_by_table
    if not dense:
        across = across_channels(winner)
        dense = across and winner.transpose(0, 2, 3, 4, 1).flags.c_contiguous
        by_table = any_bad_of_pixels
    allowed = _allowed(geometry) if dense else None
    if allowed is None:
        kernel, arguments = any_bad_winner, (*_move(geometry), across, dense)
    else:
        kernel, arguments = by_table, (allowed, allowed.size // math.prod(geometry.out))
    kernel = bound(kernel, threads, kind)

    def look(winner):
        found = np.empty(threads, np.int64)
        kernel(found, winner, *arguments)
        return any(found.tolist())

    return look


def check_winner(winner, geometry, plan, workspace):
    if not any_bad(winner, geometry, plan)(winner):
        return -1
    found = np.empty(plan.threads, np.int64)
    first_bad_winner(winner.dtype, plan.threads, found, winner, *_move(geometry))
    return _first(found)


def check_index_in_window(index, geometry, plan, workspace):
    found = np.empty(plan.threads, np.int64)
    first_bad_index(index.dtype, plan.threads, found, index, *_move(geometry))
    return _first(found)


def winner_to_index(index, winner, bad, geometry, plan, workspace):
    if bad == -1:
        cells_of_winners(winner.dtype, plan.threads, index, winner, *_move(geometry))


def index_to_winner(winner, index, bad, geometry, plan, workspace):
    if bad == -1:
        winners_of_cells(winner.dtype, plan.threads, winner, index, *_move(geometry))
