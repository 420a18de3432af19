"""dw as a matrix product that reduces over pixels.

    dw[k, (c, tap)] = sum over pixels of dy[k, pixel] * x[(c, tap), pixel]

Vectors run along (c, tap), so both factors are needed pixel-major.  Image by image (or several
small ones, or a band of a large one) the threads first copy the padded x and transpose dy into
panels; then each takes columns of (c, tap), transposes a short run of pixels of them at a time
into a scratch that stays in L1, and multiplies it with every panel of dy.  The scratch is all of
the im2col matrix that ever exists.

Few columns (first layers) are shared out by pixels too, into sums of their own that are added in
a fixed order at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from ..emitted.memory import load, step, store
from ..emitted.transposition import gather_transpose, transpose
from ..emitted.vectors import ITEMSIZE, LANES, copy_row, fill_row, finite_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import COLUMNS, ROWS, tile
from .bias_sums import add_pixels
from .blocks import BLOCKS, Blocks, blocks, fill, locate, tap_offsets
from .regions import pads, source_phases

#: Bytes of x and dy that are worked on at a time: what two L2 caches of 1 MiB hold.
BLOCK_BYTES = 1536 * 1024

#: Pixels of a scratch: with one panel of dy beside it, it fits a 48 KiB L1.
RUN_BYTES = 28 * 1024

#: Pieces that the second step falls into, at least, where there is the work for it.
PIECES = 16


class Reduction(NamedTuple):
    """What the compiled loops need to know beside the blocks.  Offsets count elements."""

    rows: int  # K of a group
    panel: int  # rows of a panel of dy
    step: int  # between pixels of a panel: whole vectors, so that transposition needs no masks
    taps: int
    columns: int  # of a tile
    strips: int  # of (c, tap) columns, one tile wide, in a group
    parts: int  # of the pixels, each with sums of its own
    run: int  # pixels of a scratch
    pixels: int  # of a block, at most
    slots: int
    bias_at: int  # the workspace: how many dy panels are not finite, x, the sums of dy's rows ...
    dy_at: int  # ... dy, sums, scratches
    sums_at: int
    slots_at: int


REDUCTION = types.NamedUniTuple(int64, len(Reduction._fields), Reduction)


@dataclass(frozen=True)
class Program:
    blocks: Blocks
    reduction: Reduction
    table: np.ndarray  # offset in the x buffer of each (channel, tap), padded to whole strips
    used: np.ndarray  # source phases in the buffer
    pads: bool
    size: int  # of the workspace, in elements


def build(axes, g, dtype, threads, budget) -> Program:
    """For ConvGeometry ``g``; ``budget`` is the number of bytes that x and dy may take."""
    columns, lanes, item = COLUMNS[dtype], LANES[dtype], ITEMSIZE[dtype]
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    panel = -(-rows // -(-rows // ROWS))
    step = -(-panel // lanes) * lanes
    dy_row = -(-rows // panel) * step
    phases = len(source_phases(axes))  # of x, which are as many positions for each of dy
    limit = phases * min(BLOCK_BYTES, budget) // (item * (dy_row + channels * phases))
    s, used = blocks(axes, g.batch, g.groups, channels, dtype, limit, 1)
    (_, _, offsets), = tap_offsets(axes, used, s)
    table = [c * s.plane + offset for c in range(channels) for offset in offsets]
    strips = -(-len(table) // columns)
    table += table[-1:] * (strips * columns - len(table))
    pixels = s.images * math.prod((s.block_d, s.block_h, s.block_w))
    run = RUN_BYTES // (item * columns)
    parts = min(-(-PIECES // strips), -(-pixels // run)) if strips < PIECES else 1
    bias_at = lanes + channels * s.plane + 2 * columns
    dy_at = bias_at + dy_row
    sums_at = dy_at + dy_row * pixels
    slots_at = sums_at + parts * strips * columns * rows
    reduction = Reduction(
        rows, panel, step, len(offsets), columns, strips, parts, run, pixels, threads,
        bias_at, dy_at, sums_at, slots_at,
    )  # fmt: skip
    size = slots_at + threads * run * columns
    return Program(s, reduction, np.array(table, np.int64), used, pads(axes, g.size), size)


def run(dw, db, dy, x, plan, workspace) -> bool:
    """dw, and db unless it is empty.

    False, and they are to be computed otherwise, if a dy that is not finite met padding.
    """
    p = plan.program
    work = workspace.view(dw.dtype)
    name = dw.dtype.name
    reduce(name, plan.threads, dw, db, dy, x, work, p.table, p.used, _STEPS[name], p.blocks,
           p.reduction)  # fmt: skip
    return not (p.pads and work[0])


#: A tile's table of offsets for B in a scratch: row after row.
_STEPS = {name: np.arange(RUN_BYTES // ITEMSIZE[name] // width, dtype=np.int64) * width
          for name, width in COLUMNS.items()}  # fmt: skip


@kernel(lambda F: (out(F, 5), out(F, 1), array(F, 5), array(F, 5), out(F, 1), array(int64, 1),
                   array(int64, 2), array(int64, 1), BLOCKS, REDUCTION))  # fmt: skip
def reduce(dw, db, dy, x, work, table, used, steps, s, p):
    """dw, and db if it is not empty, one block of x and dy after the other.

    work[0] counts panels of dy that are not finite.
    """
    pieces = ((s.span_d + s.block_d - 1) // s.block_d * ((s.span_h + s.block_h - 1) // s.block_h)
              * ((s.span_w + s.block_w - 1) // s.block_w))  # fmt: skip
    blocks = pieces * ((s.batch + s.images - 1) // s.images)
    panels = (p.rows + p.panel - 1) // p.panel
    sets = (s.channels + s.lanes - 1) // s.lanes  # of channels that are copied together
    infinite = 0
    for g in range(s.groups):
        fill_row(work, p.bias_at, work.dtype.type(0), p.dy_at - p.bias_at)
        for block in range(blocks):
            _, n0, images, d0, h0, w0 = locate(block * s.groups, s)
            pixels = (images * min(s.block_d, s.span_d - d0) * min(s.block_h, s.span_h - h0)
                      * min(s.block_w, s.span_w - w0))  # fmt: skip
            for task in prange(sets + panels):
                if task < sets:
                    c = task * s.lanes
                    fill(work, s.lanes + c * s.plane, x, used, g * s.channels + c,
                         min(s.lanes, s.channels - c), n0, images, d0, h0, w0, s)  # fmt: skip
                else:
                    panel = task - sets
                    at = p.dy_at + panel * p.pixels * p.step
                    _fill_panel(work, dy, g, panel, n0, images, d0, h0, w0, s, p)
                    if db.size:
                        add_pixels(work, p.bias_at + panel * p.step, at, p.step, pixels, p.step,
                                   s.lanes)  # fmt: skip
                    if not finite_row(work, at, pixels * p.step):
                        infinite += 1
            tasks = p.strips * p.parts
            for slot in prange(p.slots):
                for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
                    _multiply(work, table, steps, slot, task, pixels, block == 0,
                              images, d0, h0, w0, s, p)  # fmt: skip
        for k in prange(p.rows):
            _finish(dw, work, g, k, blocks == 0, p)
            if db.size:
                value = load(work, p.bias_at + k // p.panel * p.step + k % p.panel)
                store(db, (g * p.rows + k) * step(db, 0), value)
    store(work, 0, infinite)


@helper
def _fill_panel(work, dy, g, panel, n0, images, d0, h0, w0, s, p):
    """One panel of a block of dy: [pixel][row], with rows of the next panel up to p.step."""
    k = panel * p.panel
    rows = min(p.step, p.rows - k)
    depth, height = min(s.block_d, s.span_d - d0), min(s.block_h, s.span_h - h0)
    width = min(s.block_w, s.span_w - w0)
    to = p.dy_at + panel * p.pixels * p.step
    k_step, w_step = step(dy, 1), step(dy, 4)
    if rows < p.step:
        fill_row(work, to, dy.dtype.type(0), images * depth * height * width * p.step)
    for i in range(images):
        for z in range(d0, d0 + depth):
            for y in range(h0, h0 + height):
                start = ((n0 + i) * step(dy, 0) + (g * p.rows + k) * k_step + z * step(dy, 2)
                         + y * step(dy, 3) + w0 * w_step)  # fmt: skip
                if w_step == 1:
                    transpose(work, to, p.step, dy, start, k_step, rows, width, s.lanes)
                elif k_step == 1:
                    for q in range(width):
                        copy_row(work, to + q * p.step, dy, start + q * w_step, rows)
                else:
                    for q in range(width):
                        for r in range(rows):
                            value = load(dy, start + q * w_step + r * k_step)
                            store(work, to + q * p.step + r, value)
                to += width * p.step


@helper
def _multiply(work, table, steps, slot, task, pixels, fresh, images, d0, h0, w0, s, p):
    """One strip of columns over one part of the block's pixels, added to the part's sums."""
    strip, part = task % p.strips, task // p.strips
    height, width = min(s.block_h, s.span_h - h0), min(s.block_w, s.span_w - w0)
    depth = min(s.block_d, s.span_d - d0)
    scratch = p.slots_at + slot * p.run * p.columns
    sums = p.sums_at + task * p.rows * p.columns
    zero = work.dtype.type(0)
    if fresh:
        fill_row(work, sums, zero, p.rows * p.columns)
    first, end = pixels * part // p.parts, pixels * (part + 1) // p.parts
    runs = (end - first + p.run - 1) // p.run  # of about the same length
    longest = (end - first + runs - 1) // max(1, runs)
    while first < end:
        run = min(longest, end - first)
        at, pixel = 0, first
        while at < run:  # row by row
            q, row = pixel % width, pixel // width
            y, z, i = row % height, row // height % depth, row // (height * depth)
            count = min(width - q, run - at)
            source = s.lanes + i * s.volume + z * s.area + y * s.row + q
            for j in range(0, p.columns, s.lanes):
                gather_transpose(work, scratch + at * p.columns + j, p.columns,
                                 work, source, table, strip * p.columns + j, count, s.lanes)
            at += count
            pixel += count
        for k in range(0, p.rows, p.panel):
            rows = min(p.panel, p.rows - k)
            dy = p.dy_at + (k // p.panel * p.pixels + first) * p.step
            tile(rows, work, dy, p.step, work, scratch, steps, 0, run,
                 work, sums + k * p.columns, p.columns, work, 0, 1)  # fmt: skip
        first += run


@helper
def _finish(dw, work, g, k, empty, p):
    """Adds the parts' sums of one output channel and writes them to dw."""
    _, C, T, R, S = dw.shape
    to = (g * p.rows + k) * step(dw, 0)
    contiguous = (step(dw, 4) == 1 and step(dw, 3) == S and step(dw, 2) == R * S
                  and step(dw, 1) == p.taps)  # fmt: skip
    stride = p.strips * p.rows * p.columns
    for strip in range(p.strips):
        sums = p.sums_at + (strip * p.rows + k) * p.columns
        first = strip * p.columns
        for j in range(p.columns):
            for part in range(1, p.parts):
                store(work, sums + j, load(work, sums + j) + load(work, sums + part * stride + j))
        count = min(p.columns, C * p.taps - first)
        if empty:
            fill_row(work, sums, work.dtype.type(0), count)
        if contiguous:
            copy_row(dw, to + first, work, sums, count)
            continue
        c, t, r, q = first // p.taps, first % p.taps // (R * S), first // S % R, first % S
        for j in range(count):
            at = c * step(dw, 1) + t * step(dw, 2) + r * step(dw, 3) + q * step(dw, 4)
            store(dw, to + at, load(work, sums + j))
            q += 1  # counted, not divided: that takes longer than all else
            if q == S:
                q, r = 0, r + 1
            if r == R:
                r, t = 0, t + 1
            if t == T:
                t, c = 0, c + 1
