"""dw at stride 1 by Winograd's minimal filtering.

    dw[k, c] = AT [ sum over tiles of (G dy GT) * (BT x B) ] A

A tile of gradients and the 6 x 6 pixels that they saw take 36 products: 4 x 4 of a 3 x 3 window
instead of 144, 2 x 2 of a 5 x 5 window instead of 100.  What transforms the products back is done
once for all tiles.  Block by block the threads

1. transform x, a vector of channels at a time:  V [point][channels / lanes][tile][lanes]
   and dy, a panel of output channels at a time: Y [point][panel][tile][columns]
2. multiply, a matrix product that sums over tiles at each point:  M [point][channel][K]

so that every sum has one owner and one order.  Where there are few tiles M is much larger than V
and Y: then it is that of a few channels and a panel at a time, and is transformed back while L2 has
it.  A tile that is not finite reaches all weights of its
channels, so that then the whole of dw is computed otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numba import types

from ..convolution.bias_sums import add_vectors, write_sums
from ..emitted.memory import load, step, store
from ..emitted.transposition import transpose
from ..emitted.vectors import ITEMSIZE, LANES, add_row, fill_row, finite_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import COLUMNS, ROWS, tile
from .pixel_vectors import read_box
from .winograd_program import block_of, cut, odd, part
from .winograd_transforms import (
    POINTS,
    PRODUCTS,
    side_of,
    transform_dw,
    transform_gradients,
    transform_signal,
)

#: V and Y of a block: in the L2 of two threads, or so much that M is read and written seldom.
BLOCK_BYTES = 3 * 1024 * 1024
LARGE_BLOCK_BYTES = 24 * 1024 * 1024
#: Bytes of M at a time where it would be TIMES_FACTORS larger than V and Y.
NEAR_BYTES = 320 * 1024
TIMES_FACTORS = 2
#: M is read and written once a block, so that a block should be this much larger.
TIMES_SUMS = 4
#: Where V, Y and M take more than this, rows of dw are summed part by part: memory that is not
#: kept between calls costs more than V made anew.
MOST_BYTES = 32 * 1024 * 1024
#: CHUNK tiles of a panel of Y stay in L1, and are summed by themselves: the error of a sum in
#: order grows with its length.
CHUNK = 128


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count elements."""

    planes: int  # images x their depth
    depth: int
    groups: int
    window: int  # taps, each way
    side: int  # gradients of a tile, each way
    channels: int  # of a group
    rows: int  # K of a group
    before_h: int
    before_w: int
    high: int  # tiles of a plane
    wide: int
    pieces: int  # blocks: parts of all planes, and of the tiles of each
    pieces_h: int
    pieces_w: int
    lanes: int
    columns: int
    vectors: int  # of channels
    panels: int  # of columns
    height: int  # channels of one register tile
    v_vector: int
    v_point: int
    y_panel: int
    y_point: int
    near: int  # squares of M at a time, or 0: all of it
    m_row: int
    m_point: int
    slots: int  # threads with a scratch of their own
    zeros_at: int  # the workspace: flags, zeros, the sums of dy of each plane, V, Y, M, slots
    bias_at: int
    v_at: int
    y_at: int
    m_at: int  # in a slot, if it is some squares
    slots_at: int
    slot: int


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)


@dataclass(frozen=True)
class Program:
    layout: Layout
    table: np.ndarray  # offset of each tile in a panel of Y
    size: int  # of the workspace, in elements


def build(g, dtype, threads, budget) -> Program:
    """``budget`` is the number of bytes that V and Y may take."""
    made, parts = _build(g, dtype, threads, budget), 1
    panels = made.layout.panels
    while g.groups == 1 and _shared(made.layout) * ITEMSIZE[dtype] > MOST_BYTES and parts < panels:
        parts += 1
        rows = -(-panels // parts) * COLUMNS[dtype]
        made = _build(replace(g, out_channels=rows), dtype, threads, budget)
    return made


def _shared(p):
    """Elements of V, Y and M: how sums are cut must not depend on the number of threads."""
    return p.slots_at - p.v_at


def _build(g, dtype, threads, budget):
    lanes, columns, item = LANES[dtype], COLUMNS[dtype], ITEMSIZE[dtype]
    window = g.window[2]
    side = side_of(window)
    channels, rows = g.in_channels // g.groups, g.out_channels // g.groups
    planes = g.batch * g.size[0]
    grid = tuple(-(-length // side) for length in g.out[1:])
    vectors, panels = -(-channels // lanes), -(-rows // columns)
    m_point = odd(channels * panels * columns // lanes, lanes)
    wanted = max(BLOCK_BYTES, TIMES_SUMS * PRODUCTS * m_point * item)
    limit = min(wanted, LARGE_BLOCK_BYTES, budget)
    limit = max(1, limit // (item * PRODUCTS * (vectors * lanes + panels * columns)))
    pieces = cut(planes, *grid, limit, 1)
    images, high, wide = (-(-n // parts) for n, parts in zip((planes, *grid), pieces))
    count = images * high * wide
    v_point = odd(vectors * count, lanes)
    y_point = odd(panels * columns // lanes * count, lanes)
    height = next(n for n in (8, 4, 2, 1) if n <= ROWS and lanes % n == 0)
    near, m_row = 0, panels * columns
    if math.prod(pieces) == 1 and m_point > TIMES_FACTORS * (v_point + y_point):
        near = max(1, NEAR_BYTES // (PRODUCTS * height * columns * item))
        m_row, m_point = columns, odd(near * height * columns // lanes, lanes)
    zeros_at = lanes * threads
    bias_at = zeros_at + lanes
    v_at = bias_at + planes * panels * columns
    y_at = v_at + PRODUCTS * v_point
    m_at = y_at + PRODUCTS * y_point
    slots_at = m_at + PRODUCTS * m_point
    slot = max(window * window * lanes, height * columns)
    if near:
        m_at, slots_at = slot, m_at
        slot += PRODUCTS * m_point
    slot = max(slot, (side * high + window - 1) * (side * wide + window - 1) * lanes)
    made = Layout(
        planes, g.size[0], g.groups, window, side, channels, rows, *g.before[1:], *grid, *pieces,
        lanes, columns, vectors, panels, height, count * lanes, v_point, count * columns, y_point,
        near, m_row, m_point, threads, zeros_at, bias_at, v_at, y_at, m_at, slots_at, slot,
    )  # fmt: skip
    table = np.arange(CHUNK, dtype=np.int64) * columns
    return Program(made, table, slots_at + threads * slot)


def run(dw, db, dy, x, plan, workspace) -> bool:
    """dw, and db unless it is empty.

    False, and they are to be computed otherwise, if dw is not finite.
    """
    program = plan.program
    work, p = workspace[: program.size * dw.itemsize].view(dw.dtype), program.layout
    work[: p.bias_at] = 0
    if p.groups > 1:
        reduce(dw.dtype, plan.threads, dw, db, dy, x, work, program.table, p)
    for k in range(0, len(dw) if p.groups == 1 else 0, p.rows):
        rows = slice(k, k + p.rows)
        part = p._replace(rows=min(p.rows, len(dw) - k))
        reduce(dw.dtype, plan.threads, dw[rows], db[rows], dy[:, rows], x, work, program.table,
               part)  # fmt: skip
    return not work[: p.zeros_at : p.lanes].any()


@kernel(lambda F: (out(F, 5), out(F, 1), array(F, 5), array(F, 5), out(F, 1), array(int64, 1),
                   LAYOUT))  # fmt: skip
def reduce(dw, db, dy, x, work, table, p):
    """dw, and db if it is not empty, one group and one block of x and dy after the other."""
    squares = p.vectors * (p.lanes // p.height)
    halves = p.columns // p.lanes
    for g in range(p.groups):
        fill_row(work, p.bias_at, work.dtype.type(0), p.v_at - p.bias_at)
        for piece in range(p.pieces * p.pieces_h * p.pieces_w):
            block = block_of(piece, p)
            each = p.vectors + p.panels * halves
            transforms = block[1] * each
            for slot in prange(p.slots):
                at = p.slots_at + slot * p.slot
                for task in range(*part(slot, p.slots, transforms)):
                    i, vector = task // each, task % each
                    if vector < p.vectors:
                        _signal(work, at, x, g, i, vector, block, p)
                    else:
                        _gradients(work, at, db.size, dy, g, i, vector - p.vectors, block, p)
            tiles = block[1] * block[3] * block[5]
            tasks = PRODUCTS * squares
            if p.near:
                tasks = p.panels * ((squares + p.near - 1) // p.near)
            for slot in prange(p.slots):
                at = p.slots_at + slot * p.slot
                for task in range(*part(slot, p.slots, tasks)):
                    if p.near:
                        _at_once(dw, work, slot, table, g, task // p.panels, task % p.panels, tiles,
                                 p)  # fmt: skip
                    else:
                        _multiply(work, at, table, task // squares, task % squares, tiles, piece, p)
        if p.near == 0:
            for slot in prange(p.slots):
                for c in range(*part(slot, p.slots, p.channels)):
                    m = p.m_at + c * p.m_row
                    _finish(dw, work, slot, m, g, c, 0, p.rows, p)
        if db.size:
            width = p.panels * p.columns
            write_sums(db, g * p.rows, p.rows, work, p.bias_at, p.planes, width, p.lanes)


@helper
def _signal(work, at, x, g, i, vector, block, p):
    """V of one plane of the block and one vector of channels."""
    first, _, h0, high, w0, wide = block
    side, more = p.side, p.window - 1
    row = (side * wide + more) * p.lanes
    c = vector * p.lanes
    read_box(work, at, row, p.lanes, x, first + i, p.depth, g * p.channels + c,
             min(p.lanes, p.channels - c), side * h0 - p.before_h, side * high + more,
             side * w0 - p.before_w, side * wide + more)  # fmt: skip
    to = p.v_at + vector * p.v_vector + i * high * wide * p.lanes
    for y in range(high):
        for z in range(wide):
            transform_signal(work, at + side * (y * row + z * p.lanes), row, p.lanes,
                             to + (y * wide + z) * p.lanes, POINTS * p.v_point, p.v_point,
                             0)  # fmt: skip


@helper
def _gradients(work, at, biased, dy, g, i, vector, block, p):
    """Y of one plane of the block and one vector of output channels; zeros behind the last."""
    first, _, h0, high, w0, wide = block
    side = p.side
    row = side * wide * p.lanes
    k = vector * p.lanes
    rows = min(p.lanes, p.rows - k)
    if rows < p.lanes:
        fill_row(work, at, work.dtype.type(0), side * high * row)
    if rows > 0:
        read_box(work, at, row, p.lanes, dy, first + i, p.depth, g * p.rows + k, rows,
                 side * h0, side * high, side * w0, side * wide)  # fmt: skip
    to = (p.y_at + k // p.columns * p.y_panel + k % p.columns
          + i * high * wide * p.columns)  # fmt: skip
    bias = p.bias_at + (first + i) * p.panels * p.columns + k
    for y in range(high):
        if biased:
            add_vectors(work, bias, at + side * y * row, p.lanes, side * side * wide)
        for z in range(wide):
            transform_gradients(work, at + side * (y * row + z * p.lanes), row, p.lanes,
                                to + (y * wide + z) * p.columns, POINTS * p.y_point, p.y_point,
                                0, p.window)  # fmt: skip


@helper
def _multiply(work, at, table, point, square, tiles, piece, p):
    """A few rows of M at one point, plus this block's tiles."""
    c = square * p.height
    rows = min(p.height, p.channels - c)
    if rows <= 0:
        return
    m = p.m_at + point * p.m_point + c * p.m_row
    for panel in range(p.panels):
        _sum(work, at, table, point, c, rows, panel, tiles, m + panel * p.columns, piece == 0, p)


@helper
def _at_once(dw, work, slot, table, g, share, panel, tiles, p):
    """The windows of some squares of channels and a panel, by way of their M."""
    at = p.slots_at + slot * p.slot
    m, k, first = at + p.m_at, panel * p.columns, share * p.near * p.height
    end = min(first + p.near * p.height, p.channels)
    for point in range(PRODUCTS):
        for c in range(first, end, p.height):
            to = m + point * p.m_point + (c - first) * p.m_row
            _sum(work, at, table, point, c, min(p.height, end - c), panel, tiles, to, True, p)
    for c in range(first, end):
        _finish(dw, work, slot, m + (c - first) * p.m_row, g, c, k, min(p.columns, p.rows - k), p)


@helper
def _sum(work, at, table, point, c, rows, panel, tiles, m, fresh, p):
    """``rows`` rows of M from channel ``c`` on, of a panel, to work[m:], or added there."""
    v = p.v_at + point * p.v_point + c // p.lanes * p.v_vector + c % p.lanes
    y = p.y_at + point * p.y_point + panel * p.y_panel
    for t in range(0, tiles, CHUNK):
        count = min(CHUNK, tiles - t)
        if fresh and t == 0:
            tile(rows, work, v, p.lanes, work, y, table, 0, count, work, m, p.m_row, work,
                 p.zeros_at, 0)  # fmt: skip
            continue
        tile(rows, work, v + t * p.lanes, p.lanes, work, y + t * p.columns, table, 0, count, work,
             at, p.columns, work, p.zeros_at, 0)  # fmt: skip
        for i in range(rows):
            add_row(work, m + i * p.m_row, work, at + i * p.columns, p.columns)


@helper
def _finish(dw, work, slot, m, g, c, first, count, p):
    """The windows of one channel and ``count`` output channels from M; marks what is not finite."""
    at = p.slots_at + slot * p.slot
    finite, window, taps = True, p.window, p.window * p.window
    contiguous = step(dw, 4) == 1 and step(dw, 3) == window
    for k in range(0, count, p.lanes):
        rows = min(p.lanes, count - k)
        transform_dw(work, m + k, POINTS * p.m_point, p.m_point, at, window * p.lanes, p.lanes, 0,
                     window)  # fmt: skip
        finite = finite_row(work, at, taps * p.lanes) and finite
        to = (g * p.rows + first + k) * step(dw, 0) + c * step(dw, 1)
        if contiguous:
            transpose(dw, to, step(dw, 0), work, at, p.lanes, taps, rows, p.lanes)
            continue
        for tap in range(taps):
            for i in range(rows):
                store(dw, to + i * step(dw, 0) + tap // window * step(dw, 3)
                      + tap % window * step(dw, 4), load(work, at + tap * p.lanes + i))  # fmt: skip
    if not finite:
        store(work, slot * p.lanes, work.dtype.type(1))
