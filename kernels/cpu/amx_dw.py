"""dw on AMX tiles: a matrix product that reduces over pixels.

    dw[(c, tap), k] = sum over pixels of x[c, pixel + tap] * dy[k, pixel]

Rows are input channels, columns output channels, and the sum runs along the rows of the padded
image, DEPTH pixels a step.  x lies in rows of bfloat16, where a tap is only another offset; dy is
packed two pixels to a word, with zeros where x's rows are wider.  Block by block the threads cut
both; then each takes blocks of (channels, output channels, tap) and adds to their sums, so that
every sum has one owner and one order.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from .amx import (
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
)
from .amx_program import FLAGS, LANES, odd_lines, round_up
from .bias_sums import add_rows, write_sums
from .blocks import BLOCKS, Blocks, blocks, fill, locate, tap_offsets
from .jit import array, helper, int64, kernel, out, prange
from .memory import load, step, store
from .transposition import transpose
from .vectors import copy_row, fill_row, finite_row

#: Bytes of x and dy, cut, that are worked on at a time: they stay in a 2 MiB L2 beside the sums.
BLOCK_BYTES = 1280 * 1024

#: but at least this many pixels: every block of them reads and writes all the sums.
BLOCK_PIXELS = 512

_SQUARE = SIDE * SIDE


class Reduction(NamedTuple):
    """What the compiled loops need beside the blocks.  Offsets count float32."""

    rows: int  # K of a group
    channels: int  # C of a group
    channel_sets: int  # of SIDE
    panels: int  # of SIDE output channels
    taps: int  # offsets at which a row of x is read
    half_row: int  # between rows of x
    half_part: int  # between parts of x
    count: int  # positions of a row of x in use
    dy_steps: int  # of a panel of dy, at most
    slots: int
    bias_at: int  # the workspace: flags, sums of dy's rows, x, dy, sums, slots
    x_at: int
    dy_at: int
    sums_at: int
    slots_at: int
    slot: int  # rows of float32, then the same rows cut
    stage: int  # between the rows of float32
    cut_at: int


REDUCTION = types.NamedUniTuple(int64, len(Reduction._fields), Reduction)


@dataclass(frozen=True)
class Program:
    blocks: Blocks
    reduction: Reduction
    offsets: np.ndarray  # of each tap, in positions
    used: np.ndarray  # source phases in the buffer
    size: int  # of the workspace, in bytes


#: a row of x is read DEPTH pixels after DEPTH pixels
_ALONG = np.arange(1 << 14, dtype=np.int64) * (2 * DEPTH)


def build(axes, g, threads, budget) -> Program:
    """For ConvGeometry ``g``; ``budget`` is the number of bytes that x and dy may take."""
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    per_position = 2 * PARTS * (round_up(channels, SIDE) + round_up(rows, SIDE))
    limit = max(SIDE, min(max(BLOCK_BYTES // per_position, BLOCK_PIXELS), budget // per_position))
    s, used = blocks(axes, g.batch, g.groups, channels, "float32", limit, 1)
    (_, _, offsets), = tap_offsets(axes, used, s)
    count = round_up(s.images * s.volume * len(used), DEPTH)
    half_row = 2 * odd_lines((count + 2 * DEPTH) // 2)
    sets, panels = -(-channels // SIDE), -(-rows // SIDE)
    run = (s.block_h - 1) * s.row + s.block_w
    dy_steps = max(s.images * s.block_d * -(-run // DEPTH), -(-s.images * s.volume // DEPTH))
    taps = len(offsets)
    bias_at = LANES + FLAGS * threads
    x_at = bias_at + panels * SIDE
    dy_at = x_at + PARTS * sets * SIDE * half_row // 2 + DEPTH
    sums_at = dy_at + panels * dy_steps * STEP_BYTES // 4
    slots_at = sums_at + taps * sets * panels * _SQUARE
    stage = round_up(max(s.plane, dy_steps * DEPTH), LANES) + DEPTH
    cut_at = SIDE * stage
    slot = cut_at + PARTS * SIDE * stage // 2 + DEPTH
    reduction = Reduction(
        rows, channels, sets, panels, taps, half_row, sets * SIDE * half_row, count,
        dy_steps, threads, bias_at, x_at, dy_at, sums_at, slots_at, slot, stage, cut_at,
    )  # fmt: skip
    return Program(s, reduction, np.array(offsets, np.int64), used, 4 * (slots_at + threads * slot))


def run(dw, db, dy, x, plan, workspace) -> bool:
    """dw, and db unless it is empty.

    False, and they are to be computed otherwise, if dw is not finite or the data's scale is tiny.
    """
    program = plan.program
    work = workspace[: program.size].view("float32")
    p = program.reduction
    work[: p.bias_at] = 0
    reduce("float32", plan.threads, dw, db, dy, x, work, SHAPES, _ALONG, program.offsets,
           program.used, _places(dw), _pieces(program.blocks), program.blocks, p)  # fmt: skip
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
                   array(int64, 1), int64, BLOCKS, REDUCTION),
        variants=("float32",) if available() else ())  # fmt: skip
def reduce(dw, db, dy, x, work, shapes, along, offsets, used, places, pieces, s, p):
    """dw, and db if it is not empty, one block of x and dy after the other."""
    zero = work.dtype.type(0)
    for slot in prange(p.slots):  # what lies between and behind the rows must be finite
        start = p.slots_at + slot * p.slot
        fill_row(work, start, zero, p.slot)
    fill_row(work, p.x_at, zero, p.dy_at - p.x_at)
    for g in range(s.groups):
        fill_row(work, p.bias_at, zero, p.x_at - p.bias_at)
        for piece in range(pieces):
            _, n0, images, d0, h0, w0 = locate(piece * s.groups, s)
            tasks = p.channel_sets + p.panels
            for slot in prange(p.slots):
                for task in range(slot, tasks, p.slots):
                    if task < p.channel_sets:
                        _cut_x(work, x, used, slot, g, task, n0, images, d0, h0, w0, s, p)
                    else:
                        _cut_dy(work, db.size, dy, slot, g, task - p.channel_sets, n0, images,
                                d0, h0, w0, s, p)  # fmt: skip
            tasks = p.channel_sets * p.panels * p.taps
            for slot in prange(p.slots):
                begin(shapes)
                for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
                    _multiply(work, along, offsets, task, piece, images, d0, h0, w0, s, p)
                end()
        tasks = p.channel_sets * p.panels
        for slot in prange(p.slots):
            for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
                _finish(dw, work, places, slot, g, task // p.panels, task % p.panels,
                        pieces == 0, p)  # fmt: skip
        if db.size:
            write_sums(db, g * p.rows, p.rows, work, p.bias_at, 1, 0, LANES)


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
def _runs(images, d0, height, width, s):
    """How many runs of pixels a block has, from one to the next in dy, and steps in each."""
    depth, length = min(s.block_d, s.span_d - d0), (height - 1) * s.row + width
    if depth == 1 and length == s.volume:  # no gaps: one run through all images
        return 1, length, (images * length + DEPTH - 1) // DEPTH
    steps = (length + DEPTH - 1) // DEPTH
    return images * depth, steps * DEPTH, steps


@helper
def _cut_dy(work, biased, dy, slot, g, panel, n0, images, d0, h0, w0, s, p):
    """SIDE rows of dy, spread to the width of x's rows, packed two pixels to a word."""
    stage = p.slots_at + slot * p.slot
    cut = 4 * (stage + p.cut_at)
    height, width = min(s.block_h, s.span_h - h0), min(s.block_w, s.span_w - w0)
    runs, distance, steps = _runs(images, d0, height, width, s)
    depth = min(s.block_d, s.span_d - d0)
    length = runs * steps * DEPTH
    gaps = width < s.row or step(dy, 4) != 1 or step(dy, 3) != width
    zero = work.dtype.type(0)
    flags = LANES + slot * FLAGS
    largest = load(work, flags + 2)
    for i in range(SIDE):
        k = panel * SIDE + i
        row = stage + i * p.stage
        if gaps or k >= p.rows:
            fill_row(work, row, zero, length)
        for part in range(images * depth if k < p.rows else 0):
            source = ((n0 + part // depth) * step(dy, 0) + (g * p.rows + k) * step(dy, 1)
                      + (d0 + part % depth) * step(dy, 2) + h0 * step(dy, 3)
                      + w0 * step(dy, 4))  # fmt: skip
            to = row + part * distance
            if not gaps:
                copy_row(work, to, dy, source, height * width)
                # up to where the next one starts, or the last one's steps end
                end = part * distance + distance if part + 1 < images * depth else length
                fill_row(work, to + height * width, zero, row + end - to - height * width)
                continue
            for y in range(height):
                at = source + y * step(dy, 3)
                if step(dy, 4) == 1:
                    copy_row(work, to + y * s.row, dy, at, width)
                else:
                    for q in range(width):
                        store(work, to + y * s.row + q, load(dy, at + q * step(dy, 4)))
        size = split_row(work, row, cut + 2 * i * p.stage, 2 * SIDE * p.stage, length)
        largest = max(largest, size)
    store(work, flags + 2, largest)
    if biased:
        add_rows(work, p.bias_at + panel * SIDE, stage, p.stage, length,
                 min(SIDE, p.rows - panel * SIDE))  # fmt: skip
    # [part][16 columns at a time][pair of pixels][column], each element a word of two pixels
    for k in range(length // DEPTH):
        to = p.dy_at + (panel * p.dy_steps + k) * (STEP_BYTES // 4)
        for part in range(PARTS):
            for half in range(2):
                source = cut // 4 + (part * SIDE + half * 16) * p.stage // 2 + k * (DEPTH // 2)
                transpose(work, to + (part * 2 + half) * 256, 16, work, source, p.stage // 2,
                          16, 16, LANES)  # fmt: skip


@helper
def _multiply(work, along, offsets, task, piece, images, d0, h0, w0, s, p):
    """Adds a block of pixels to the sums of one (channels, output channels, tap)."""
    others = p.channel_sets * p.taps
    if p.panels > others:  # the longer side outside: what it names stays in L2 meanwhile
        panel, rest = task // others, task % others
    else:
        panel, rest = task % p.panels, task // p.panels
    tap, first = rest % p.taps, rest // p.taps * SIDE
    height, width = min(s.block_h, s.span_h - h0), min(s.block_w, s.span_w - w0)
    runs, _, steps = _runs(images, d0, height, width, s)
    depth = min(s.block_d, s.span_d - d0)
    sums = 4 * (p.sums_at + (rest * p.panels + panel) * _SQUARE)
    for run in range(runs):
        at = run // depth * s.volume + run % depth * s.area + offsets[tap]
        x = 4 * p.x_at + 2 * (first * p.half_row + at)
        dy = 4 * p.dy_at + (panel * p.dy_steps + run * steps) * STEP_BYTES
        block(work, x, 1, 2 * p.half_row, 32 * p.half_row, 2 * p.half_part,
              dy, 0, 64, 1024, STEP_BYTES // PARTS,
              along, 0, steps, sums, 4 * SIDE, piece + run)  # fmt: skip


@helper
def _finish(dw, work, places, slot, g, channel_set, panel, empty, p):
    """Writes the sums of SIDE channels and SIDE output channels to dw, all their taps together."""
    taps = places.size
    first, k0 = channel_set * SIDE, panel * SIDE
    rows, channels = min(SIDE, p.rows - k0), min(SIDE, p.channels - first)
    sums = p.sums_at + (channel_set * p.taps * p.panels + panel) * _SQUARE
    tap_step = p.panels * _SQUARE
    to = (g * p.rows + k0) * step(dw, 0)
    for tap in range(p.taps):
        if empty:
            fill_row(work, sums + tap * tap_step, work.dtype.type(0), _SQUARE)
        elif not finite_row(work, sums + tap * tap_step, _SQUARE):
            store(work, LANES + slot * FLAGS, work.dtype.type(1))
    if taps == 1 and step(dw, 1) == 1:
        transpose(dw, to + first, step(dw, 0), work, sums, SIDE, channels, rows, LANES)
        return
    for k in range(rows):
        for i in range(channels):
            at = sums + i * SIDE + k
            filter_at = to + k * step(dw, 0) + (first + i) * step(dw, 1)
            for tap in range(taps):
                store(dw, filter_at + places[tap], load(work, at + tap * tap_step))
