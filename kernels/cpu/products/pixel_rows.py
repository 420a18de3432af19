"""dw of 1 x 1 windows with few weights: inner products of rows of pixels as they lie.

    dw[k, c] = sum over n and p of dy[n, k, p] * x[n, c, p]

Nothing is transposed.  The pixels are cut into parts, by sizes alone, that have sums of their own,
and a part is worked through some pixels at a time: of the operand with fewer channels (`kept`)
these stay in L2; a few rows of the other one (`passing`) stay in L1 while all of those pass by, so
that either is read from memory once.  The parts are added in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from numba import types

from ..emitted.inner_tile import HEIGHT, WIDTH, inner_tile
from ..emitted.memory import load, step, store
from ..emitted.vectors import ITEMSIZE, LANES, add_row, fill_row, sum_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import COLUMNS

#: Bytes of a row of pixels at a time: HEIGHT of them stay in L1 beside WIDTH others.
ROW_BYTES = 2048

#: Parts of the sum: an even share for threads; each is as large as dw.
PARTS = 16
PARTS_BYTES = 1024 * 1024

#: What part of a packed product's tiles the kept channels fill, beyond which it is ahead.
MOST_FILLED = 0.7

#: Weights, beyond which it is ahead too.
MOST_WEIGHTS = 64 * 64


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets count elements."""

    by_filter: int  # is it dy that passes, and x that is kept?
    run: int  # pixels at a time
    parts: int
    sums: int  # of a part: those of each pair of groups of rows lie side by side
    bias_at: int  # the workspace: sums of the parts, sums of dy of each part
    slots: int


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)


@dataclass(frozen=True)
class Program:
    layout: Layout
    size: int  # of the workspace, in elements


def serves(rows, channels, pixels, dtype) -> bool:
    """Are there few weights, which would leave much of a product's tiles empty, and long rows?"""
    kept, width = min(rows, channels), COLUMNS[dtype]
    filled = kept / (-(-kept // width) * width)
    return (filled <= MOST_FILLED and rows * channels <= MOST_WEIGHTS
            and pixels >= 4 * LANES[dtype])  # fmt: skip


def build(batch, rows, channels, pixels, dtype, threads) -> Program:
    item, lanes = ITEMSIZE[dtype], LANES[dtype]
    pieces = -(-pixels // (ROW_BYTES // item))
    run = -(-pixels // (pieces * lanes)) * lanes
    passing, kept = max(rows, channels), min(rows, channels)
    sums = -(-passing // HEIGHT) * -(-kept // WIDTH) * HEIGHT * WIDTH
    parts = 1
    while 2 * parts <= min(PARTS, batch * -(-pixels // run), PARTS_BYTES // (sums * item)):
        parts *= 2
    bias_at = parts * sums
    layout = Layout(int(rows >= channels), run, parts, sums, bias_at, threads)
    return Program(layout, bias_at + parts * rows)


def fits(dy, x) -> bool:
    """Do the pixels of both lie side by side?"""
    return dy.strides[2] == dy.itemsize == x.strides[2]


def run(dw, db, dy, x, plan, workspace):
    """dw (K, C) = sum over n of dy[n] (K, pixels) @ x[n]^T, and db (K) unless it is empty."""
    program, p = plan.program, plan.program.layout
    work = workspace.view(dw.dtype)[: program.size]
    passing, kept, target = (dy, x, dw) if p.by_filter else (x, dy, dw.T)
    products(dw.dtype, plan.threads, target, db, passing, kept, work, p)


@kernel(lambda F: (out(F, 2), out(F, 1), array(F, 3), array(F, 3), out(F, 1), LAYOUT))
def products(target, db, passing, kept, work, p):
    """target (rows of ``passing``, rows of ``kept``), which is dw or its transpose."""
    pieces = (kept.shape[2] + p.run - 1) // p.run
    count = kept.shape[0] * pieces
    fill_row(work, 0, work.dtype.type(0), work.shape[0])
    for slot in prange(p.slots):
        for part in range(slot * p.parts // p.slots, (slot + 1) * p.parts // p.slots):
            for piece in range(part * count // p.parts, (part + 1) * count // p.parts):
                _piece(work, db, passing, kept, part, piece // pieces, piece % pieces * p.run, p)
    for part in range(1, p.parts):
        add_row(work, 0, work, part * p.sums, p.sums)
        add_row(work, p.bias_at, work, p.bias_at + part * db.size, db.size)
    for k in range(db.size):
        store(db, k * step(db, 0), load(work, p.bias_at + k))
    I, J = target.shape
    at = 0
    for i in range(0, I, HEIGHT):
        for j in range(0, J, WIDTH):
            high, wide = min(HEIGHT, I - i), min(WIDTH, J - j)
            for b in range(wide):
                for a in range(high):
                    to = (i + a) * step(target, 0) + (j + b) * step(target, 1)
                    store(target, to, load(work, at + b * high + a))
            at += HEIGHT * WIDTH


@helper
def _piece(work, db, passing, kept, part, n, first, p):
    """Adds the products of some pixels of an image to the sums of a part."""
    pixels = min(p.run, kept.shape[2] - first)
    I, J = passing.shape[1], kept.shape[1]
    at = part * p.sums
    for i in range(0, I, HEIGHT):
        a = n * step(passing, 0) + i * step(passing, 1) + first
        for j in range(0, J, WIDTH):
            b = n * step(kept, 0) + j * step(kept, 1) + first
            inner_tile(min(HEIGHT, I - i), min(WIDTH, J - j), passing, a, step(passing, 1), 0,
                       kept, b, step(kept, 1), 0, 1, pixels, work, at)  # fmt: skip
            at += HEIGHT * WIDTH
        if p.by_filter and db.size:
            _add_bias(work, part, passing, a, i, min(HEIGHT, I - i), pixels, db, p)
    if not p.by_filter and db.size:
        b = n * step(kept, 0) + first
        _add_bias(work, part, kept, b, 0, J, pixels, db, p)


@helper
def _add_bias(work, part, dy, start, first, rows, pixels, db, p):
    """Adds rows of dy to its sums."""
    for k in range(rows):
        at = p.bias_at + part * db.size + first + k
        store(work, at, load(work, at) + sum_row(dy, start + k * step(dy, 1), pixels))
