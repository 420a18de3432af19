"""Scatter-add, and the check of the rows that its index names."""

from __future__ import annotations

import math

import numpy as np
from numba.cpython.unsafe.numbers import trailing_zeros

from .emitted.lanes import add, choose, lanes_load, lanes_store, splat, splat_like, within
from .emitted.memory import load, step, store
from .emitted.row_lanes import in_range, packed_store, plus
from .emitted.vectors import add_row, fill_row
from .jit import array, inlined, int64, kernel, out, prange
from .scatter_plans import BLOCK, COLUMNS, OUTER, ROWS, WIDTH

_INTEGERS = ("int64", "int32", "uint8")
_MODES = ("raise", "wrap", "clip")
_NOTHING = np.empty(0, np.uint8)


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


@kernel(lambda I: (out(int64, 1), array(I, 1), int64), variants=("int64",))
def all_inside(found, index, size):
    """found[piece] = 1 if all indices of that piece lie in -size..size-1, else 0."""
    pieces = found.size
    for piece in prange(pieces):
        outside = False
        for i in range(index.size * piece // pieces, index.size * (piece + 1) // pieces):
            row = load(index, i * step(index, 0))
            outside |= row < -size or row >= size
        found[piece] = not outside


def check_index(rows, index, size, mode, plan, workspace):
    if rows is index:
        found = np.empty(plan.threads, np.int64)
        all_inside(index.dtype, plan.threads, found, index, size)
        if all(found.tolist()):  # found.all() takes a microsecond
            return -1
        rows = np.empty(index.shape, np.int64)
    found = np.empty(plan.threads, np.int64)
    bring_inside(index.dtype, plan.threads, rows, found, index, size, _MODES.index(mode))
    bad = found[found >= 0]
    return int(bad[0]) if bad.size else -1


# ---- the additions ------------------------------------------------------------------------


@inlined
def _row(rows, i, size):
    """The row that entry i names."""
    row = load(rows, i * step(rows, 0))
    return row + size if row < 0 else row


@inlined
def _from_end(named, size):
    """Vectors of rows, the negative ones counted from the end."""
    negative = in_range(named, np.int64(-size), np.int64(0))
    return choose(negative, plus(named, splat_like(np.int64(size), named)), named)


@inlined
def _add_run(out, to, src, at, count):
    """``count`` elements of a row of src, onto those of out."""
    out_b, src_b = step(out, 2), step(src, 2)
    zeros = splat(out.dtype.type(0), WIDTH)
    if count < WIDTH or out_b != 1 or src_b != 1:
        for b in range(count):
            here = to + b * out_b
            store(out, here, load(out, here) + load(src, at + b * src_b))
        return
    for b in range(0, count, WIDTH):
        end = count - b
        total = lanes_load(out, to + b, 1, 0, end, zeros)
        total = add(total, lanes_load(src, at + b, 1, 0, end, zeros))
        lanes_store(out, to + b, 1, 0, min(end, WIDTH), total)


@inlined
def _add_owned_rows(out, rows, src, a, first, end):
    """The entries of the index that name a row in first..end-1, found sixteen at a time."""
    to, at = a * step(out, 0), a * step(src, 0)
    R, B = out.shape[1], out.shape[2]
    nothing = splat(np.int64(-R - 1), WIDTH)
    for i in range(0, rows.size, WIDTH):
        named = lanes_load(rows, i * step(rows, 0), step(rows, 0), 0, rows.size - i, nothing)
        left = within(_from_end(named, R), np.int64(first), np.int64(end))
        while left:
            entry = i + trailing_zeros(left)
            left &= left - 1
            row = _row(rows, entry, R)
            _add_run(out, to + row * step(out, 1), src, at + entry * step(src, 1), B)


@inlined
def _add_owned_elements(out, rows, src, a, first, end, my_rows, my_values, mine):
    """The same where a row is one element: a block's entries are packed first, then added."""
    to, at = a * step(out, 0), a * step(src, 0)
    R = out.shape[1]
    zeros, nothing = splat(out.dtype.type(0), WIDTH), splat(np.int64(-R - 1), WIDTH)
    for block in range(0, rows.size, BLOCK):
        stop, kept = min(rows.size, block + BLOCK), mine
        for i in range(block, stop, WIDTH):
            named = _from_end(lanes_load(rows, i, 1, 0, stop - i, nothing), R)
            value = lanes_load(src, at + i, 1, 0, stop - i, zeros)
            owned = in_range(named, np.int64(first), np.int64(end))
            packed_store(my_rows, kept, named, owned)
            kept += packed_store(my_values, kept, value, owned)
        for k in range(mine, kept):
            here = to + load(my_rows, k) * step(out, 1)
            store(out, here, load(out, here) + load(my_values, k))


@inlined
def _add_elements(out, to, out_r, rows, first, end, size, src, at):
    """The entries first..end-1, where a row is one element."""
    for i in range(first, end):
        row = load(rows, i)
        here = to + (row + ((row >> 63) & size)) * out_r  # without a branch: negative ones too
        store(out, here, load(out, here) + load(src, at + i))


@kernel(lambda F: (out(F, 3), array(int64, 1), array(F, 3), out(int64, 1), out(F, 1), int64, int64))
def add_rows(out, rows, src, my_rows, my_values, way, pieces):
    """out[a, rows[i], b] += src[a, i, b] in the order of i; each piece owns a part of out.

    my_rows and my_values are scratch of a block for each piece.  With rows of single elements
    the index and src are contiguous.
    """
    A, R, B = out.shape
    for piece in prange(pieces):
        a0, a1, b0, b1 = 0, A, 0, B
        if way == OUTER:
            a0, a1 = A * piece // pieces, A * (piece + 1) // pieces
        if way == COLUMNS:  # cut between vectors
            vectors = (B + WIDTH - 1) // WIDTH
            b0 = vectors * piece // pieces * WIDTH
            b1 = min(B, vectors * (piece + 1) // pieces * WIDTH)
        for a in range(a0, a1):
            first, end = R * piece // pieces, R * (piece + 1) // pieces
            if way == ROWS and B == 1:
                _add_owned_elements(out, rows, src, a, first, end, my_rows, my_values,
                                    piece * BLOCK)  # fmt: skip
                continue
            if way == ROWS:
                _add_owned_rows(out, rows, src, a, first, end)
                continue
            to, at = a * step(out, 0) + b0 * step(out, 2), a * step(src, 0) + b0 * step(src, 2)
            if B == 1:
                if step(out, 1) == 1:
                    _add_elements(out, to, 1, rows, 0, rows.size, R, src, at)
                else:
                    _add_elements(out, to, step(out, 1), rows, 0, rows.size, R, src, at)
                continue
            for i in range(rows.size):
                row = _row(rows, i, R)
                _add_run(out, to + row * step(out, 1), src, at + i * step(src, 1), b1 - b0)


@kernel(lambda F: (out(F, 3), array(int64, 1), array(F, 3), out(F, 2)))
def add_pieces(out, rows, src, sums):
    """out[0, rows[i]] += src[0, i]: a piece of the entries has its own sums, added in order.

    They begin with -0.0, which changes nothing that it is added to.  rows is contiguous, as is src
    where its rows are single elements, and sums is (pieces, elements of out or more).
    """
    _, R, B = out.shape
    pieces, apart = sums.shape[0], step(sums, 0)
    for piece in prange(pieces):
        first, end = rows.size * piece // pieces, rows.size * (piece + 1) // pieces
        fill_row(sums, piece * apart, out.dtype.type(-0.0), R * B)
        if B == 1:
            _add_elements(sums, piece * apart, 1, rows, first, end, R, src, 0)
            continue
        for i in range(first, end):
            to = piece * apart + _row(rows, i, R) * B
            if step(src, 2) == 1:
                add_row(sums, to, src, i * step(src, 1), B)
            else:
                for b in range(B):
                    value = load(src, i * step(src, 1) + b * step(src, 2))
                    store(sums, to + b, load(sums, to + b) + value)
    for piece in range(1, pieces):
        add_row(sums, 0, sums, piece * apart, R * B)
    for r in range(R):
        for b in range(B):
            total, here = load(sums, r * B + b), r * step(out, 1) + b * step(out, 2)
            # what nothing was added to keeps its bits
            if total != 0 or math.copysign(1.0, total) > 0:
                store(out, here, load(out, here) + total)


@kernel(lambda F: (out(int64, 1), out(F, 3), array(int64, 1), array(F, 3)))
def add_if_inside(found, out, rows, src):
    """found[0] = 0, and the additions, if all rows are inside; else 1, and nothing.

    All arrays are contiguous.
    """
    A, R, B = out.shape
    outside = False
    for i in range(rows.size):
        row = load(rows, i)
        outside |= row < -R or row >= R
    found[0] = outside
    for a in range(0 if outside else A):
        to, at = a * step(out, 0), a * step(src, 0)
        if B == 1:
            _add_elements(out, to, 1, rows, 0, rows.size, R, src, at)
            continue
        for i in range(rows.size):
            _add_run(out, to + _row(rows, i, R) * B, src, at + i * B, B)


def scatter_add_at_once(geometry, look, plan, dtype):
    """The check of an int64 index and the additions, as a function of (out, rows, src).

    It returns what check_index does under "raise", and has added nothing if that is not -1.  All
    arrays are contiguous.  None where threads share the work.
    """
    if plan.threads > 1 or look.threads > 1 or plan.algorithm == "pieces":
        return None
    kernel = add_if_inside.entry(dtype, False)

    def run(out, rows, src):
        found = np.empty(1, np.int64)
        kernel(found, out, rows, src)
        return check_index(rows, rows, geometry.rows, "raise", look, None) if found[0] else -1

    return run


def scatter_add(out, rows, src, bad, geometry, plan, workspace):
    if bad != -1:
        return
    if plan.algorithm == "pieces":
        pieces, apart = plan.program
        sums = workspace[: pieces * apart * out.itemsize].view(out.dtype).reshape(pieces, apart)
        add_pieces(out.dtype, plan.threads, out, rows, src, sums)
        return
    work, room = (_NOTHING, 0) if workspace is None else (workspace, BLOCK * plan.threads)
    my_rows = work[: room * 8].view(np.int64)
    my_values = work[room * 8 : room * (8 + out.itemsize)].view(out.dtype)
    add_rows(out.dtype, plan.threads, out, rows, src, my_rows, my_values, plan.program,
             plan.threads)  # fmt: skip
