"""Winners: are they taps inside the image, and the same cells named by their plane index."""

from __future__ import annotations

import numpy as np

from .jit import array, boolean, helper, inlined, int64, kernel, out, prange, triple
from .max_pool import across_channels
from .memory import load, step, store
from .window import inner_windows, next_row, row_of, tap_at

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
def _any_above(winner, at, count, stride, taps):
    """Does one of a run of winners name no tap?  Vectorised where they lie side by side."""
    largest = np.int64(0)
    if stride == 1:
        for i in range(count):
            largest = max(largest, int64(load(winner, at + i)))
    else:
        for i in range(count):
            largest = max(largest, int64(load(winner, at + i * stride)))
    return largest >= taps


@kernel(lambda I: (out(int64, 1), array(I, 5), *_MOVE, boolean),
        variants=("uint8", "uint16", "uint32"))  # fmt: skip
def any_bad_winner(found, winner, size, window, stride, dilation, before, across):
    """found[piece] = 1 if a winner of that piece is no input, else 0; in the order of memory.

    A window wholly inside the image only needs its winner to be a tap.
    """
    N, C, Z, P, Q = winner.shape
    taps = window[0] * window[1] * window[2]
    inner_z = inner_windows(size[0], window[0], stride[0], dilation[0], before[0], Z)
    inner_p = inner_windows(size[1], window[1], stride[1], dilation[1], before[1], P)
    inner_q = inner_windows(size[2], window[2], stride[2], dilation[2], before[2], Q)
    channels, width = (1, C) if across else (C, 1)
    rows, pieces = N * channels * Z * P, found.size
    for piece in prange(pieces):
        bad = False
        first, end = rows * piece // pieces, rows * (piece + 1) // pieces
        n, c, z, p = row_of(first, channels, Z, P)
        for _ in range(first, end):
            at = _at(winner, n, c, z, p)
            q0, q1 = Q, Q
            if inner_z[0] <= z < inner_z[1] and inner_p[0] <= p < inner_p[1]:
                q0, q1 = inner_q
            if across:
                for q in range(q0, q1):
                    here = at + q * step(winner, 4)
                    bad |= _any_above(winner, here, C, step(winner, 1), taps)
            else:
                bad |= _any_above(winner, at + q0 * step(winner, 4), q1 - q0, step(winner, 4), taps)
            for border in range(Q - (q1 - q0)):
                q = border if border < q0 else border + q1 - q0
                for i in range(width):
                    number = int64(load(winner, at + q * step(winner, 4) + i * step(winner, 1)))
                    cell = _cell(number, z, p, q, size, window, stride, dilation, before)
                    bad |= cell < 0
            n, c, z, p = next_row(n, c, z, p, channels, Z, P)
        found[piece] = bad


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


def check_winner(winner, geometry, plan, workspace):
    found = np.empty(plan.threads, np.int64)
    across = across_channels(winner)
    any_bad_winner(winner.dtype, plan.threads, found, winner, *_move(geometry), across)
    if not found.any():
        return -1
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
