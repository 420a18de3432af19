"""Scatter-add, and the check of the rows that its index names."""

from __future__ import annotations

import numpy as np

from .jit import array, int64, kernel, out, prange
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
    bring_inside(index.dtype.name, plan.threads, rows, found, index, size, _MODES.index(mode))
    bad = found[found >= 0]
    return int(bad[0]) if bad.size else -1


@kernel(lambda F: (out(F, 3), array(int64, 1), array(F, 3), int64))
def add_rows(out, rows, src, pieces):
    """out[a, rows[i], b] += src[a, i, b] in the order of i; a piece owns a range of rows."""
    A, R, B = out.shape
    for piece in prange(pieces):
        first, end = R * piece // pieces, R * (piece + 1) // pieces
        for a in range(A):
            for i in range(rows.size):
                row = load(rows, i * step(rows, 0))
                if first <= row < end:
                    to = a * step(out, 0) + row * step(out, 1)
                    at = a * step(src, 0) + i * step(src, 1)
                    for b in range(B):
                        here = to + b * step(out, 2)
                        store(out, here, load(out, here) + load(src, at + b * step(src, 2)))


def scatter_add(out, rows, src, bad, geometry, plan, workspace):
    if bad == -1:
        add_rows(out.dtype.name, plan.threads, out, rows, src, plan.threads)
