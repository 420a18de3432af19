"""The matrix product: both factors packed for the register tile, block by block.

A task is a block of rows and columns of one product.  For each chunk of the sum it packs the
block of b into strips one tile wide, then panel after panel of a, and multiplies each panel with
every strip (Goto & van de Geijn, "Anatomy of high-performance matrix multiplication", 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from .jit import array, helper, int64, kernel, out, prange
from .memory import load, step, store
from .microkernel import COLUMNS, ROWS, tile
from .transposition import transpose
from .vectors import ITEMSIZE, LANES, copy_row, fill_row

NO_BIAS = {np.dtype(name): np.zeros(0, name) for name in ITEMSIZE}

#: Steps of the sum per chunk: a panel of a takes ROWS of them times an element, 14 KiB in float32.
CHUNK = 256

#: Rows and (float32) columns of a block: the packed block of b takes 512 KiB.
BLOCK = 512

_STEPS = {np.dtype(name): np.arange(CHUNK, dtype=np.int64) * width
          for name, width in COLUMNS.items()}  # fmt: skip


class Blocking(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count elements."""

    rows: int  # of a block
    columns: int
    panel: int
    width: int  # of a tile
    lanes: int
    chunk: int
    slots: int  # threads with memory of their own: zeros, a panel of a, strips of b, sums
    slot: int
    a_at: int
    b_at: int
    c_at: int


BLOCKING = types.NamedUniTuple(int64, len(Blocking._fields), Blocking)


@dataclass(frozen=True)
class Program:
    blocking: Blocking
    size: int  # of the workspace, in elements


def build(g, dtype, threads) -> Program:
    """The blocks of MatmulGeometry ``g``: few enough to pack cheaply, enough to share."""
    width, lanes = COLUMNS[dtype], LANES[dtype]
    down = -(-g.rows // BLOCK)
    across = -(-g.columns // (BLOCK * 4 // ITEMSIZE[dtype]))
    while threads > 1 and g.batch * down * across < 4 * threads:
        if g.columns // across >= max(g.rows // down, 4 * width):
            across += 1
        elif g.rows // down >= 4 * ROWS:
            down += 1
        else:
            break
    rows = -(-max(g.rows, 1) // max(down, 1))
    columns = -(-max(g.columns, 1) // (max(across, 1) * width)) * width
    panel = -(-rows // -(-rows // ROWS))
    chunk = min(CHUNK, max(g.inner, 1))
    a_at = -(-ROWS // lanes) * lanes
    b_at = a_at + -(-ROWS * chunk // lanes) * lanes
    c_at = b_at + chunk * columns
    slot = c_at + rows * columns
    made = Blocking(rows, columns, panel, width, lanes, chunk, threads, slot, a_at, b_at, c_at)
    return Program(made, threads * slot)


def matmul(y, a, b, bias, geometry, plan, workspace):
    """y[i] = sum over e of a[i, e] @ b[i, e], plus bias (contract.matmul)."""
    dtype = y.dtype
    bias = NO_BIAS[dtype] if bias is None else bias
    if plan.algorithm == "direct":
        sums_of_rows(dtype, plan.threads, y, a, b, bias)
    else:
        product(dtype, plan.threads, y, a, b, bias, workspace.view(dtype), _STEPS[dtype],
                plan.program.blocking)  # fmt: skip


@kernel(lambda F: (out(F, 3), array(F, 4), array(F, 4), array(F, 1), out(F, 1), array(int64, 1),
                   BLOCKING))  # fmt: skip
def product(y, a, b, bias, work, steps, p):
    """y = a @ b + bias; each slot is one thread's share of the blocks."""
    B, I, J = y.shape
    down, across = (I + p.rows - 1) // p.rows, (J + p.columns - 1) // p.columns
    tasks = B * down * across
    for slot in prange(p.slots):
        fill_row(work, slot * p.slot, y.dtype.type(0), p.a_at)
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            n, rest = task // (down * across), task % (down * across)
            i0, j0 = rest % down * p.rows, rest // down * p.columns
            rows, columns = min(p.rows, I - i0), min(p.columns, J - j0)
            to = n * step(y, 0) + i0 * step(y, 1) + j0 * step(y, 2)
            # whole tiles go straight to y where its rows are contiguous, the others by way of work
            whole = columns // p.width * p.width if step(y, 2) == 1 else 0
            base = slot * p.slot
            _begin(y, to, whole, work, base, a, bias, rows, j0, columns, p)
            _block(y, to, whole, work, base, a, b, bias, n, i0, rows, j0, columns, steps, p)
            _write(y, to + whole * step(y, 2), work, base + p.c_at + whole, rows,
                   columns - whole, p)  # fmt: skip


@helper
def _begin(y, to, whole, work, base, a, bias, rows, j0, columns, p):
    """What the sums of a block begin with, unless the first tiles begin with zero themselves."""
    if bias.size:
        for i in range(rows):
            for j in range(whole):
                store(y, to + i * step(y, 1) + j, load(bias, (j0 + j) * step(bias, 0)))
            for j in range(whole, columns):
                value = load(bias, (j0 + j) * step(bias, 0))
                store(work, base + p.c_at + i * p.columns + j, value)
    elif a.shape[1] * a.shape[3] == 0:
        for i in range(rows):
            fill_row(y, to + i * step(y, 1), a.dtype.type(0), whole)
            fill_row(work, base + p.c_at + i * p.columns, a.dtype.type(0), columns)


@helper
def _block(y, to, whole, work, base, a, b, bias, n, i0, rows, j0, columns, steps, p):
    """The sums of one block: columns below ``whole`` in y, the others in the slot's memory."""
    _, E, _, L = a.shape
    resume = bias.size
    for part in range(E * ((L + p.chunk - 1) // p.chunk)):
        e, l0 = part % E, part // E * p.chunk
        depth = min(p.chunk, L - l0)
        start = n * step(b, 0) + e * step(b, 1) + l0 * step(b, 2) + j0 * step(b, 3)
        _pack_strips(work, base + p.b_at, b, start, depth, columns, p)
        start = n * step(a, 0) + e * step(a, 1) + i0 * step(a, 2) + l0 * step(a, 3)
        for i in range(0, rows, p.panel):
            count = min(p.panel, rows - i)
            _pack(work, base + p.a_at, count, a, start + i * step(a, 2), step(a, 3),
                  step(a, 2), depth, count, p.lanes)  # fmt: skip
            for j in range(0, columns, p.width):
                strip = base + p.b_at + j * depth
                if j < whole:
                    tile(count, work, base + p.a_at, count, work, strip, steps, 0, depth,
                         y, to + i * step(y, 1) + j, step(y, 1), work, base, resume)
                else:
                    sums = base + p.c_at + i * p.columns + j
                    tile(count, work, base + p.a_at, count, work, strip, steps, 0, depth,
                         work, sums, p.columns, work, base, resume)  # fmt: skip
        resume = 1


@helper
def _pack_strips(work, to, b, start, depth, columns, p):
    """A chunk of a block of b, strip after strip; whole rows are read in one go."""
    if step(b, 3) == 1:
        for at in range(depth):
            for j in range(0, columns, p.width):
                copy_row(work, to + j * depth + at * p.width, b, start + at * step(b, 2) + j,
                         min(p.width, columns - j))  # fmt: skip
    else:
        for j in range(0, columns, p.width):
            _pack(work, to + j * depth, p.width, b, start + j * step(b, 3), step(b, 2),
                  step(b, 3), depth, min(p.width, columns - j), p.lanes)  # fmt: skip


@helper
def _pack(work, to, width, source, start, depth_step, step, depth, count, lanes):
    """work[to + l*width + i] = source[l, i], l < depth, i < count: either axis contiguous."""
    if step == 1:
        for at in range(depth):
            copy_row(work, to + at * width, source, start + at * depth_step, count)
    elif depth_step == 1:
        transpose(work, to, width, source, start, step, count, depth, lanes)
    else:
        for at in range(depth):
            for i in range(count):
                value = load(source, start + at * depth_step + i * step)
                store(work, to + at * width + i, value)


@helper
def _write(y, to, work, sums, rows, columns, p):
    """A block of sums to its place in y."""
    if step(y, 2) == 1:
        for i in range(rows):
            copy_row(y, to + i * step(y, 1), work, sums + i * p.columns, columns)
    elif step(y, 1) == 1:
        transpose(y, to, step(y, 2), work, sums, p.columns, rows, columns, p.lanes)
    else:
        for i in range(rows):
            for j in range(columns):
                value = load(work, sums + i * p.columns + j)
                store(y, to + i * step(y, 1) + j * step(y, 2), value)


@kernel(lambda F: (out(F, 3), array(F, 4), array(F, 4), array(F, 1)))
def sums_of_rows(y, a, b, bias):
    """y, one row at a time as a sum of rows of b: for machines without vectors, and tiny sizes."""
    B, I, J = y.shape
    _, E, _, L = a.shape
    for task in prange(B * I):
        n, i = task // I, task % I
        row = n * step(y, 0) + i * step(y, 1)
        for j in range(J):
            start = load(bias, j * step(bias, 0)) if bias.size else a.dtype.type(0)
            store(y, row + j * step(y, 2), start)
        for e in range(E):
            for m in range(L):
                value = load(a, n * step(a, 0) + e * step(a, 1) + i * step(a, 2) + m * step(a, 3))
                other = n * step(b, 0) + e * step(b, 1) + m * step(b, 2)
                for j in range(J):
                    at = row + j * step(y, 2)
                    store(y, at, load(y, at) + value * load(b, other + j * step(b, 3)))
