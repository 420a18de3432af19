"""dw on AMX tiles: a matrix product that reduces over pixels.

    dw[(c, tap), k] = sum over pixels of x[c, pixel + tap] * dy[k, pixel]

Rows are input channels, columns output channels, and the sum runs along the rows of the padded
images, which lie side by side (amx_blocks.py), DEPTH pixels a step.  x lies in rows of bfloat16,
where a tap is only another offset; dy is packed two pixels to a word, with zeros where x's rows
are wider.  Block by block the threads cut both; then each takes blocks of (channels, output
channels, tap) and adds to their sums, so that every sum has one owner and one order.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from ..convolution.bias_sums import add_pixels, write_sums
from ..convolution.blocks import BLOCKS, fill, locate
from ..emitted.memory import load, step, store
from ..emitted.padded_rows import pad_row
from ..emitted.strided_tile import address
from ..emitted.transposition import transpose
from ..emitted.vectors import fill_row, finite_row
from ..jit import array, helper, int64, kernel, out, prange
from .amx_blocks import runs_of
from .amx_dw_program import HALF, REDUCTION, TILE
from .amx_program import FLAGS, LANES
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
    split_row,
    split_row_pairs,
)

#: a row of x is read DEPTH pixels after DEPTH pixels
_ALONG = np.arange(1 << 14, dtype=np.int64) * (2 * DEPTH)


def run(dw, db, dy, x, plan, workspace) -> bool:
    """dw, and db unless it is empty.

    False, and they are to be computed otherwise, if dw is not finite or the data's scale is tiny.
    """
    program, seen = plan.program, plan.program.beside
    work = workspace[: program.size].view("float32")
    p = program.reduction
    work[: p.bias_at] = 0
    dw = seen.window(dw)
    reduce("float32", plan.threads, dw, db, seen.array(dy), seen.array(x), work, SHAPES, _ALONG,
           program.offsets, program.inside, seen.used, _places(dw), _pieces(seen.blocks),
           seen.blocks, p)  # fmt: skip
    broken, source, gradient = work[LANES : p.bias_at].reshape(-1, FLAGS)[:, :3].max(axis=0)
    return not (broken or 0 < source < TINY or 0 < gradient < TINY)


def _places(dw):
    """Where the taps of one filter lie in dw, in elements."""
    steps = [stride // dw.itemsize for stride in dw.strides[2:]]
    axes = [[i * step for i in range(n)] for n, step in zip(dw.shape[2:], steps)]
    taps = itertools.product(*axes)
    return np.array([sum(tap) for tap in taps], np.int64)


def _pieces(s):
    """Blocks of one group."""
    spans, block = (s.span_d, s.span_h, s.span_w), (s.block_d, s.block_h, s.block_w)
    return math.prod(-(-span // n) for span, n in zip(spans, block)) * -(-s.batch // s.images)


@kernel(lambda F: (out(F, 5), out(F, 1), array(F, 5), array(F, 5), out(F, 1),
                   array("uint8", 1), array(int64, 1), array(int64, 1), array(int64, 2),
                   array(int64, 2), array(int64, 1), int64, BLOCKS, REDUCTION),
        variants=("float32",) if available() else ())  # fmt: skip
def reduce(dw, db, dy, x, work, shapes, along, offsets, inside, used, places, pieces, s, p):
    """dw, and db if it is not empty, one block of x and dy after the other."""
    zero = work.dtype.type(0)
    for slot in prange(p.slots):  # what lies between and behind the rows must be finite
        fill_row(work, p.slots_at + slot * p.slot, zero, p.slot)
        _clear_x(work, slot, p)
    for g in range(s.groups):
        fill_row(work, p.bias_at, zero, p.x_at - p.bias_at)
        for piece in range(pieces):
            _, n0, images, d0, h0, w0 = locate(piece * s.groups, s)
            sets = (p.channel_sets + 1) // 2
            tasks = sets + p.panels
            for slot in prange(p.slots):
                for task in range(slot, tasks, p.slots):
                    if task < sets:
                        _cut_x(work, x, used, slot, g, task, n0, images, d0, h0, w0, s, p)
                    else:
                        _cut_dy(work, db.size, dy, slot, g, task - sets, n0, images,
                                d0, h0, w0, s, p)  # fmt: skip
            tasks = p.pairs * p.panels
            for slot in prange(p.slots):
                begin(shapes)
                for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
                    _multiply(work, along, offsets, inside, task, piece, images, d0, h0, w0,
                              s, p)  # fmt: skip
                end()
        tasks = p.channel_sets * p.panels
        for slot in prange(p.slots):
            for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
                _finish(dw, work, places, slot, g, task // p.panels, task % p.panels,
                        pieces == 0, p)  # fmt: skip
        if db.size:
            write_sums(db, g * p.rows, p.rows, work, p.bias_at, 1, 0, LANES)


@helper
def _clear_x(work, slot, p):
    """Zeros for channels that do not exist, and behind the rows of those that do."""
    rows, zero = p.channel_sets * HALF, work.dtype.type(0)
    for row in range(slot, PARTS * rows, p.slots):
        used = p.count if row % rows < p.channels else 0
        fill_row(work, p.x_at + (row * p.half_row + used) // 2, zero, (p.half_row - used) // 2)


@helper
def _cut_x(work, x, used, slot, g, task, n0, images, d0, h0, w0, s, p):
    """SIDE channels of x, padded, as rows of bfloat16 parts."""
    stage = p.slots_at + slot * p.slot
    first = task * SIDE
    channels = min(SIDE, p.channels - first)
    fill(work, stage, x, used, g * p.channels + first, channels, n0, images, d0, h0, w0, s)
    flags = LANES + slot * FLAGS
    largest = load(work, flags + 1)
    for i in range(channels):
        to = 4 * p.x_at + 2 * (first + i) * p.half_row
        size = split_row(work, stage + i * s.plane, to, 2 * p.half_part, p.count)
        largest = max(largest, size)
    store(work, flags + 1, largest)


@helper
def _cut_dy(work, biased, dy, slot, g, panel, n0, images, d0, h0, w0, s, p):
    """SIDE channels of dy, spread to the width of x's rows, packed two pixels to a word."""
    stage = p.slots_at + slot * p.slot
    first, zero = panel * SIDE, work.dtype.type(0)
    rows = min(SIDE, p.rows - first)
    depth, height, width = _box(d0, h0, w0, s)
    length, runs, image, plane = runs_of(images, depth, height, width, DEPTH, s)
    pixels = runs * ((length + DEPTH - 1) // DEPTH) * DEPTH
    if rows < SIDE:
        fill_row(work, stage, zero, pixels * SIDE)
    filled = 0  # [pixel][channel], with zeros up to the next row's first pixel
    for part in range(images * depth):
        for y in range(height):
            to = part // depth * image + part % depth * plane + y * s.row
            fill_row(work, stage + filled * SIDE, zero, (to - filled) * SIDE)
            filled = to + width
            source = ((n0 + part // depth) * step(dy, 0) + (g * p.rows + first) * step(dy, 1)
                      + (d0 + part % depth) * step(dy, 2) + (h0 + y) * step(dy, 3)
                      + w0 * step(dy, 4))  # fmt: skip
            _turn(work, stage + to * SIDE, dy, source, rows, width)
    fill_row(work, stage + filled * SIDE, zero, (pixels - filled) * SIDE)
    flags = LANES + slot * FLAGS
    largest = load(work, flags + 2)
    for k in range(pixels // DEPTH):
        to = 4 * p.dy_at + (panel * p.dy_steps + k) * STEP_BYTES
        at = address(work, stage + k * DEPTH * SIDE)
        largest = max(largest, split_row_pairs(work, to, at, 4 * SIDE))
    store(work, flags + 2, largest)
    if biased:
        add_pixels(work, p.bias_at + first, stage, SIDE, pixels, SIDE, LANES)


@helper
def _turn(work, to, dy, source, rows, width):
    """A row of pixels of some channels as [pixel][channel]."""
    if step(dy, 4) == 1 and step(dy, 1) != 1:
        transpose(work, to, SIDE, dy, source, step(dy, 1), rows, width, LANES)
        return
    for q in range(width):
        pad_row(work, to + q * SIDE, dy, source + q * step(dy, 4), step(dy, 1), 0, rows, rows)


@helper
def _box(d0, h0, w0, s):
    """Depth, height and width of the block that starts there."""
    depth, height = min(s.block_d, s.span_d - d0), min(s.block_h, s.span_h - h0)
    return depth, height, min(s.block_w, s.span_w - w0)


@helper
def _multiply(work, along, offsets, inside, task, piece, images, d0, h0, w0, s, p):
    """Adds a block of pixels to the sums of two (channels, tap), whose rows often share lines."""
    if p.panels > p.pairs:  # the longer side outside: what it names stays in L2 meanwhile
        panel, pair = task // p.pairs, task % p.pairs
    else:
        panel, pair = task % p.panels, task // p.panels
    last = p.channel_sets * p.taps - 1
    first, second = 2 * pair, min(2 * pair + 1, last)
    tap, other = first % p.taps, second % p.taps
    start = first // p.taps * HALF * p.half_row + offsets[tap]
    following = second // p.taps * HALF * p.half_row + offsets[other] - start
    depth, height, width = _box(d0, h0, w0, s)
    length, runs, _, _ = runs_of(images, depth, height, width, DEPTH, s)
    steps = (length + DEPTH - 1) // DEPTH
    top = max(0, min(inside[tap, 0], inside[other, 0]) - d0)
    bottom = min(depth, max(inside[tap, 1], inside[other, 1]) - d0)
    sums = 4 * (p.sums_at + (panel * p.pairs + pair) * 2 * TILE)
    for run in range(runs):
        before, behind = 0, steps
        if runs > 1 and not top <= run % depth < bottom or bottom <= top:
            behind = 0
        elif runs == 1 and images == 1:
            before = top * s.area // DEPTH
            behind = min(steps, (bottom * s.area + DEPTH - 1) // DEPTH)
        at = start + run // depth * s.volume + run % depth * s.area + before * DEPTH
        dy = 4 * p.dy_at + (panel * p.dy_steps + run * steps + before) * STEP_BYTES
        block(work, 4 * p.x_at + 2 * at, 1, 2 * p.half_row, 2 * following, 2 * p.half_part,
              dy, 0, 64, 1024, STEP_BYTES // PARTS,
              along, 0, behind - before, sums, 4 * SIDE, piece + run)  # fmt: skip


@helper
def _finish(dw, work, places, slot, g, channel_set, panel, empty, p):
    """Writes the sums of HALF channels and SIDE output channels to dw, all their taps together."""
    first, k0 = channel_set * HALF, panel * SIDE
    rows, channels = min(SIDE, p.rows - k0), min(HALF, p.channels - first)
    sums = p.sums_at + (panel * p.pairs * 2 + channel_set * p.taps) * TILE
    if empty:
        fill_row(work, sums, work.dtype.type(0), p.taps * TILE)
    elif not finite_row(work, sums, p.taps * TILE):
        store(work, LANES + slot * FLAGS, work.dtype.type(1))
    to = (g * p.rows + k0) * step(dw, 0) + first * step(dw, 1)
    if step(dw, 1) == 1:
        for tap in range(p.taps):
            transpose(dw, to + places[tap], step(dw, 0), work, sums + tap * TILE, SIDE,
                      channels, rows, LANES)  # fmt: skip
        return
    side_by_side = True
    for tap in range(p.taps):
        side_by_side = side_by_side and places[tap] == tap
    for i in range(channels):
        at, filters = sums + i * SIDE, to + i * step(dw, 1)
        if side_by_side:
            transpose(dw, filters, step(dw, 0), work, at, TILE, p.taps, rows, LANES)
            continue
        for tap in range(p.taps):
            for k in range(rows):
                value = load(work, at + tap * TILE + k)
                store(dw, filters + k * step(dw, 0) + places[tap], value)
