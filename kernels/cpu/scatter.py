"""Scatter-add, and the check of the rows that its index names."""

from __future__ import annotations

import numpy as np

from numba.cpython.unsafe.numbers import trailing_zeros

from .jit import array, inlined, int64, kernel, out, prange
from .lanes import add, lanes_load, lanes_store, splat, within
from .memory import load, step, store

_INTEGERS = ("int64", "int32", "uint8")
_MODES = ("raise", "wrap", "clip")


@kernel(lambda I: (out(int64, 1), out(int64, 1), array(I, 1), int64, int64), variants=_INTEGERS)
def bring_inside(rows, found, index, size, mode):
    """rows = index in 0..size-1; found[piece] = the first that mode "raise" refuses, or -1."""
    pieces = found.size
    for piece in prange(pieces):
        bad = np.int64(-1)
        for i in range(index.size * piece // pieces, index.size * (piece + 1) // pieces):
            given = load(index, i * step(index, 0))
            row = int64(given)  # a uint64 beyond int64 turns negative, and given stays positive
            huge = given > 0 and row < 0
            if mode == 0:
                outside = huge or row < -size or row >= size
                if outside and bad < 0:
                    bad = i
                row = 0 if outside else (row + size if row < 0 else row)
            elif mode == 1:
                row = row % size
                if huge:  # what int64 made negative gets its 2**64 back
                    row = (row + 4 * (2**62 % size)) % size
            else:
                row = size - 1 if huge else min(max(row, 0), size - 1)
            store(rows, i * step(rows, 0), row)
        found[piece] = bad


def check_index(rows, index, size, mode, plan, workspace):
    found = np.empty(plan.threads, np.int64)
    bring_inside(index.dtype, plan.threads, rows, found, index, size, _MODES.index(mode))
    bad = found[found >= 0]
    return int(bad[0]) if bad.size else -1


# ---- the additions ------------------------------------------------------------------------
#
# No two threads may own the same element of out, and each element adds up in the order of i.
# Three ways to share: a thread owns some of the outer slices; or some of the rows, and picks their
# entries out of the index, so that each row of src is read once; or, where there are few rows or
# very long ones, some of the columns.  (1M rows of 64 into 50k, two threads: 22 ms by rows, 32 by
# columns, which reads src in pieces of 128 bytes.)

OUTER, COLUMNS, ROWS = range(3)
_WIDTH = 16  # lanes


@inlined
def _add_run(out, to, src, at, count):
    """``count`` elements of a row of src, onto those of out."""
    out_b, src_b = step(out, 2), step(src, 2)
    zeros = splat(out.dtype.type(0), _WIDTH)
    if count < _WIDTH or out_b != 1 or src_b != 1:
        for b in range(count):
            here = to + b * out_b
            store(out, here, load(out, here) + load(src, at + b * src_b))
        return
    for b in range(0, count, _WIDTH):
        end = count - b
        total = lanes_load(out, to + b, 1, 0, end, zeros)
        total = add(total, lanes_load(src, at + b, 1, 0, end, zeros))
        lanes_store(out, to + b, 1, 0, min(end, _WIDTH), total)


@inlined
def _add_owned_rows(out, rows, src, a, first, end):
    """The entries of the index that name a row in first..end-1, found sixteen at a time."""
    to, at = a * step(out, 0), a * step(src, 0)
    out_r, src_i, B = step(out, 1), step(src, 1), out.shape[2]
    nothing = splat(np.int64(-1), _WIDTH)
    for i in range(0, rows.size, _WIDTH):
        named = lanes_load(rows, i * step(rows, 0), step(rows, 0), 0, rows.size - i, nothing)
        left = within(named, np.int64(first), np.int64(end))
        while left:
            entry = i + trailing_zeros(left)
            left &= left - 1
            row = load(rows, entry * step(rows, 0))
            if B == 1:
                here = to + row * out_r
                store(out, here, load(out, here) + load(src, at + entry * src_i))
            else:
                _add_run(out, to + row * out_r, src, at + entry * src_i, B)


@kernel(lambda F: (out(F, 3), array(int64, 1), array(F, 3), int64, int64))
def add_rows(out, rows, src, way, pieces):
    """out[a, rows[i], b] += src[a, i, b] in the order of i; each piece owns a part of out."""
    A, R, B = out.shape
    for piece in prange(pieces):
        a0, a1, b0, b1 = 0, A, 0, B
        if way == OUTER:
            a0, a1 = A * piece // pieces, A * (piece + 1) // pieces
        if way == COLUMNS:  # cut between vectors
            vectors = (B + _WIDTH - 1) // _WIDTH
            b0 = vectors * piece // pieces * _WIDTH
            b1 = min(B, vectors * (piece + 1) // pieces * _WIDTH)
        for a in range(a0, a1):
            if way == ROWS:
                _add_owned_rows(out, rows, src, a, R * piece // pieces, R * (piece + 1) // pieces)
                continue
            to, at = a * step(out, 0) + b0 * step(out, 2), a * step(src, 0) + b0 * step(src, 2)
            for i in range(rows.size):
                row = load(rows, i * step(rows, 0))
                _add_run(out, to + row * step(out, 1), src, at + i * step(src, 1), b1 - b0)


def _way(geometry, threads):
    if threads == 1 or geometry.outer >= 4 * threads:
        return OUTER
    few_rows = geometry.rows < 8 * threads and geometry.inner >= _WIDTH * threads
    if few_rows or geometry.inner >= 1024:
        return COLUMNS
    return ROWS


def scatter_add(out, rows, src, bad, geometry, plan, workspace):
    if bad == -1:
        way = _way(geometry, plan.threads)
        add_rows(out.dtype, plan.threads, out, rows, src, way, plan.threads)
