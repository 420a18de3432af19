"""The matrix product on AMX tiles, as amx_tiles.py explains it: three bfloat16 parts.

Both factors are cut into parts in the form that the tiles take: the left one in rows of DEPTH
terms, the right one in pairs of terms.  One factor is cut as a whole, by all threads, before they
multiply; of the other one each task cuts its own block, which stays in L2 while every panel of
the first passes by.  The sum is taken ``chunk`` terms at a time, and several products of a batch
at a time, as memory allows.

A 1x1 convolution is the product of its weights with each image as it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from numba import types

from ..emitted.memory import load, step, store
from ..emitted.strided_tile import address
from ..emitted.transposition import transpose
from ..emitted.vectors import add_row, copy_row, fill_row, finite_row
from ..jit import array, helper, inlined, int64, kernel, out, prange
from .amx_program import FLAGS, LANES, round_up
from .amx_squares import SQUARE, copy_rectangle, copy_square, no_table
from .amx_tiles import (
    DEPTH,
    PARTS,
    SHAPES,
    SIDE,
    STEP_BYTES,
    TINY,
    available,
    begin,
    block,
    end,
    split_row_pairs,
    split_rows,
    turned_block,
)

#: Terms of the sum at a time, at most: 32 steps, in which a panel takes 192 KiB.
CHUNK = 1024

#: Bytes of a task's own block, cut; a panel of the other factor lies in L2 beside it.
BLOCK_BYTES = 768 * 1024

#: Bytes of the factor that all tasks share, cut.
SHARED_BYTES = 24 * 1024 * 1024

#: Below this harmonic mean of rows and columns, or this many multiply-adds in all, cutting, and
#: handing what was cut from core to core, costs more than the tiles save.
LEAST_MEAN = 150
LEAST_WORK = 30_000_000

#: Terms of a sum below which the cutting takes longer than what it saves.
LEAST_INNER = 64

_NO_TABLE = no_table(CHUNK)

#: how the rows of a left factor lie: how many are one step apart, how many such runs make a batch,
#: elements from run to run and from batch to batch
PLACES = types.UniTuple(int64, 4)

#: every row one step behind the one before
EVENLY = (2**62, 1, 0, 0)


class Blocking(NamedTuple):
    """What the compiled loops need to know.  Offsets count float32."""

    turned: int  # is this y^T = b^T a^T?
    own_left: int  # is it the left factor of which a task cuts its own block?
    width: int  # rows or columns of that block
    chunk: int
    items: int  # of the batch at a time
    slots: int
    shared_at: int  # the workspace: flags, the shared factor, slots
    slots_at: int
    slot: int  # a task's own block, a square of float32 to cut, and one of sums
    square_at: int
    sums_at: int


BLOCKING = types.NamedUniTuple(int64, len(Blocking._fields), Blocking)


@dataclass(frozen=True)
class Program:
    blocking: Blocking
    size: int  # of the workspace, in bytes


def serves(g) -> bool:
    """Do MatmulGeometry ``g``'s rows and columns pay for cutting, and fill the tiles?"""
    mean = 2 * g.rows * g.columns / max(1, g.rows + g.columns)
    whole = round_up(g.rows, SIDE) * round_up(g.columns, SIDE) * round_up(g.inner, DEPTH)
    work = g.batch * g.summed * g.rows * g.columns * g.inner
    if work < LEAST_WORK or mean < LEAST_MEAN or g.inner < LEAST_INNER:
        return False
    return g.rows * g.columns * g.inner >= 0.7 * whole


def build(batch, rows, columns, inner, threads, own_left, shared_once=False) -> Program:
    """``shared_once``: the factor that all tasks share is the same for the whole batch."""
    own, shared = (rows, columns) if own_left else (columns, rows)
    panels = -(-shared // SIDE)
    most = min(CHUNK, max(DEPTH, SHARED_BYTES // (2 * PARTS * panels * SIDE) // DEPTH * DEPTH))
    chunk = round_up(-(-inner // -(-inner // most)), DEPTH)
    panel_bytes = chunk // DEPTH * STEP_BYTES
    items = batch if shared_once else min(batch, SHARED_BYTES // (panels * panel_bytes))
    items = max(1, items)
    own_panels = -(-own // SIDE)
    blocks = -(-own_panels // max(1, min(BLOCK_BYTES // panel_bytes, 8)))
    while items * blocks % threads and blocks < min(own_panels, 8 * threads):
        blocks += 1
    width = -(-own_panels // blocks) * SIDE
    shared_at = LANES + FLAGS * threads
    slots_at = shared_at + (1 if shared_once else items) * panels * panel_bytes // 4
    square_at = width // SIDE * panel_bytes // 4
    sums_at = square_at + SQUARE
    slot = sums_at + SQUARE
    made = Blocking(0, int(own_left), width, chunk, items, threads, shared_at, slots_at, slot,
                    square_at, sums_at)  # fmt: skip
    return Program(made, 4 * (slots_at + threads * slot))


def serves_images(g) -> bool:
    """Does a whole image of a 1x1 ConvGeometry ``g`` fill the tiles?"""
    return g.groups == 1 and g.out_plane >= 0.75 * round_up(g.out_plane, SIDE)


def run(y, a, b, bias, plan, workspace, places=EVENLY) -> bool:
    """y (B, I, J) = sum over e of a (B, E, I, L) @ b (B, E, L, J) + bias (I or 1, J or 1).

    The rows of a, or the columns of b where y lies column by column, are at PLACES.
    False, and y is to be computed otherwise, if it is not finite or the data's scale is tiny.
    """
    p = plan.program.blocking
    work = workspace[: plan.program.size].view("float32")
    work[: p.shared_at] = 0
    if y.strides[2] != y.itemsize and y.strides[1] == y.itemsize:  # y^T = b^T @ a^T
        y, a, b = y.transpose(0, 2, 1), b.transpose(0, 1, 3, 2), a.transpose(0, 1, 3, 2)
        bias, p = bias.T, p._replace(own_left=1 - p.own_left, turned=1)
    multiply("float32", plan.threads, y, a, b, bias, work, SHAPES, _NO_TABLE, places, p)
    broken, own, shared = work[LANES : p.shared_at].reshape(-1, FLAGS)[:, :3].max(axis=0)
    return not (broken or 0 < own < TINY or 0 < shared < TINY)


@kernel(lambda F: (out(F, 3), array(F, 4), array(F, 4), array(F, 2), out(F, 1),
                   array("uint8", 1), array(int64, 1), PLACES, BLOCKING),
        variants=("float32",) if available() else ())  # fmt: skip
def multiply(y, a, b, bias, work, shapes, table, places, p):
    """y = a @ b + bias, some products and some terms of their sums at a time."""
    B, I, J = y.shape
    _, E, _, L = a.shape
    panels = ((J if p.own_left else I) + SIDE - 1) // SIDE
    blocks = ((I if p.own_left else J) + p.width - 1) // p.width
    chunks = (L + p.chunk - 1) // p.chunk
    once = B == 1 or (step(b, 0) if p.own_left else step(a, 0)) == 0
    for n0 in range(0, B, p.items):
        items = min(p.items, B - n0)
        for part in range(E * chunks):
            e, l0 = part // chunks, part % chunks * p.chunk
            count = min(p.chunk, L - l0)
            cuts = panels * (1 if once else items)
            if once and n0 and E * chunks == 1:
                cuts = 0  # they are there already
            for slot in prange(p.slots):
                for cut in range(slot * cuts // p.slots, (slot + 1) * cuts // p.slots):
                    to = 4 * p.shared_at + cut * ((count + DEPTH - 1) // DEPTH) * STEP_BYTES
                    first = cut % panels * SIDE
                    stop = min(first + SIDE, J if p.own_left else I)
                    _cut(work, to, slot, 2, a, b, 1 - p.own_left, n0 + cut // panels, e, first,
                         stop, l0, count, places, p)  # fmt: skip
            tasks = items * blocks
            for slot in prange(p.slots):
                begin(shapes)
                for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
                    item = task // blocks
                    _task(y, a, b, bias, work, table, places, slot, n0 + item,
                          0 if once else item, e,
                          task % blocks * p.width, l0, count, part, E * chunks, p)  # fmt: skip
                end()


@helper
def _task(y, a, b, bias, work, table, places, slot, n, item, e, own, l0, count, part, parts, p):
    """A block of one factor, cut here, times the whole of the other one."""
    B, I, J = y.shape
    steps = (count + DEPTH - 1) // DEPTH
    size = steps * STEP_BYTES
    base = p.slots_at + slot * p.slot
    block_at, square, sums = 4 * base, base + p.square_at, base + p.sums_at
    own_end = min(own + p.width, I if p.own_left else J)
    _cut(work, block_at, slot, 1, a, b, p.own_left, n, e, own, own_end, l0, count, places, p)
    shared_end = J if p.own_left else I
    panels = (shared_end + SIDE - 1) // SIDE
    for shared in range(0, shared_end, SIDE):
        other = 4 * p.shared_at + (item * panels + shared // SIDE) * size
        for at in range(own, own_end, SIDE):
            mine = block_at + (at - own) // SIDE * size
            left, right, i, j = other, mine, shared, at
            if p.own_left:
                left, right, i, j = mine, other, at, shared
            rows, columns = min(SIDE, I - i), min(SIDE, J - j)
            to = n * step(y, 0) + i * step(y, 1) + j * step(y, 2)
            if p.turned:
                turned_block(work, left, 0, 64, 1024, STEP_BYTES // PARTS,
                             right, 0, 64, 1024, STEP_BYTES // PARTS,
                             table, 0, steps, 4 * sums, 4 * SIDE, 0)  # fmt: skip
            else:
                block(work, left, 0, 64, 1024, STEP_BYTES // PARTS,
                      right, 0, 64, 1024, STEP_BYTES // PARTS,
                      table, 0, steps, 4 * sums, 4 * SIDE, 0)  # fmt: skip
            if part:  # each chunk has sums of its own: their error grows with their length
                copy_square(work, square, y, to, step(y, 1), step(y, 2), rows, columns)
                add_row(work, sums, work, square, SQUARE)
            if part == parts - 1:
                if bias.size:
                    _add_bias(work, sums, bias, i, j, rows, columns)
                if not finite_row(work, sums, SQUARE):
                    store(work, LANES + slot * FLAGS, work.dtype.type(1))
            _write(y, to, work, sums, rows, columns)


@helper
def _cut(work, to, slot, flag, a, b, left, n, e, first, end, l0, count, places, p):
    """Rows ``first`` to ``end`` of a, or columns of b, in bfloat16 parts: panel after panel.

    Notes the largest magnitude.  Squares are taken along the shorter stride.
    """
    steps, panels = (count + DEPTH - 1) // DEPTH, (end - first + SIDE - 1) // SIDE
    if left:
        start, row, term = n * step(a, 0) + e * step(a, 1) + l0 * step(a, 3), step(a, 2), step(a, 3)
    else:
        start = n * step(b, 0) + e * step(b, 1) + l0 * step(b, 2) + first * step(b, 3)
        row, term = step(b, 3), step(b, 2)
    flags, largest = LANES + slot * FLAGS, work.dtype.type(0)
    square = p.slots_at + slot * p.slot + p.square_at
    for task in range(steps * panels):
        panel, k = task // steps, task % steps
        if abs(row) < abs(term):
            panel, k = task % panels, task // panels
        rows, terms = min(SIDE, end - first - panel * SIDE), min(DEPTH, count - k * DEPTH)
        target = to + (panel * steps + k) * STEP_BYTES
        whole = rows == SIDE and terms == DEPTH
        if left:
            at = start + _place(first + panel * SIDE, row, places) + k * DEPTH * term
            source, distance = address(a, at), 4 * row
            if (first + panel * SIDE) % places[0] + rows > places[0]:
                _copy_rows(work, square, a, start + k * DEPTH * term, first + panel * SIDE, rows,
                           row, term, terms, places)  # fmt: skip
                source, distance = address(work, square), 4 * DEPTH
            elif not whole or term != 1:
                copy_square(work, square, a, at, row, term, rows, terms)
                source, distance = address(work, square), 4 * DEPTH
            size = split_rows(work, target, source, distance)
        else:
            at = start + panel * SIDE * row + k * DEPTH * term
            source, distance = address(b, at), 4 * term
            if not whole or row != 1:
                copy_square(work, square, b, at, term, row, terms, rows)
                source, distance = address(work, square), 4 * SIDE
            size = split_row_pairs(work, target, source, distance)
        largest = max(largest, size)
    store(work, flags + flag, max(largest, load(work, flags + flag)))


@inlined
def _place(row, apart, places):
    """Elements from row 0 of a left factor to another one."""
    run, at = row // places[0], row % places[0]
    return at * apart + run % places[1] * places[2] + run // places[1] * places[3]


@helper
def _copy_rows(work, square, a, start, first, rows, row, term, terms, places):
    """A square of rows that do not lie evenly, with zeros behind the last of them."""
    if rows < SIDE or terms < DEPTH:
        fill_row(work, square, work.dtype.type(0), SQUARE)
    i = 0
    while i < rows:
        count = min(rows - i, places[0] - (first + i) % places[0])
        copy_rectangle(work, square + i * SIDE, a, start + _place(first + i, row, places), row,
                       term, count, terms)  # fmt: skip
        i += count


@helper
def _add_bias(work, sums, bias, i, j, rows, columns):
    for row in range(rows):
        if bias.shape[1] > 1 and step(bias, 1) == 1:
            add_row(work, sums + row * SIDE, bias, j, columns)
            continue
        for column in range(columns):
            at = (j + column) * step(bias, 1) if bias.shape[1] > 1 else (i + row) * step(bias, 0)
            to = sums + row * SIDE + column
            store(work, to, load(work, to) + load(bias, at if bias.size > 1 else 0))


@helper
def _write(y, to, work, sums, rows, columns):
    """A square of sums to its place in y."""
    if step(y, 2) == 1:
        for i in range(rows):
            copy_row(y, to + i * step(y, 1), work, sums + i * SIDE, columns)
    elif step(y, 1) == 1:
        transpose(y, to, step(y, 2), work, sums, SIDE, rows, columns, LANES)
    else:
        for i in range(rows):
            for j in range(columns):
                value = load(work, sums + i * SIDE + j)
                store(y, to + i * step(y, 1) + j * step(y, 2), value)
