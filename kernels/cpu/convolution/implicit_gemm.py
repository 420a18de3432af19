"""The forward convolution and dx as one matrix product, without an im2col matrix.

Rows are output channels, columns are pixels, and the sum runs over (channel, tap) through a
table of offsets into a padded copy of a block of the source (regions.py).  A thread takes a block
of images and rows at a time: copies it into its own buffer, which stays in L2, and multiplies
every panel of weights with it, a chunk of the sum at a time so that the panel stays in L1.

Where the source's rows are wider than the target's, the sums at the row's end are computed and
dropped: cheaper than cutting tiles at every row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from ..emitted.memory import load, step, store
from ..emitted.row_tile import tile_apart
from ..emitted.transposition import transpose
from ..emitted.vectors import ITEMSIZE, LANES, copy_row, finite_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import COLUMNS, ROWS
from .blocks import BLOCKS, Blocks, blocks, fill, locate, overlap, tap_offsets, write_row
from .regions import pads, source_phases

#: Bytes of the block that a thread keeps in its L2: half of the smallest L2 in use (1 MiB).
BLOCK_BYTES = 512 * 1024

#: ROWS * chunk weights fit half of a 48 KiB L1.
CHUNK_BYTES = 24 * 1024


#: Steps of a sum that cost as much as copying a vector of results from a temporary.
COPY = 10


class Product(NamedTuple):
    """What the compiled loops need to know beside the blocks.  Offsets count elements."""

    rows: int  # target channels of a group
    panel: int  # rows of a panel of weights
    chunk: int  # steps of the sum between tiles
    columns: int  # of a tile
    lanes: int
    step_d: int  # between target elements of a phase
    step_h: int
    step_w: int
    slots: int  # threads with a buffer of their own
    bias_at: int  # the workspace: whether weights are finite, bias, packed weights, slots
    packed_at: int
    slots_at: int
    slot: int  # length of a slot: its buffer, then its temporary
    temp_at: int
    temp: int  # between rows of the temporary


PRODUCT = types.NamedUniTuple(int64, len(Product._fields), Product)


@dataclass(frozen=True)
class Program:
    """Worked out once, when the plan is made."""

    blocks: Blocks
    product: Product
    table: np.ndarray  # offset of each (phase, channel, tap) in the buffer
    phases: np.ndarray  # first, count, base (3 each), taps, taps of the phases before
    taps: np.ndarray  # window position of each tap of each phase
    used: np.ndarray  # source phases in the buffer
    pads: bool
    flat: bool  # every image as one row: a window of 1 needs no other axes
    last: bool  # also for targets whose channels lie side by side
    size: int  # of the workspace, in elements


def build(axes, source, batch, groups, rows, channels, dtype, threads, budget, flat=False,
          last=True) -> Program:  # fmt: skip
    """``source`` is the source's size; ``rows`` and ``channels`` are those of one group.

    ``last`` tells whether to serve targets whose channels lie side by side.
    ``budget`` is the number of bytes that all threads' buffers may take together.
    """
    columns, lanes, item = COLUMNS[dtype], LANES[dtype], ITEMSIZE[dtype]
    split = len(source_phases(axes))  # as many positions for each of the temporary's
    limit = split * min(BLOCK_BYTES, budget // threads) // (item * (channels * split + ROWS))
    s, used = blocks(axes, batch, groups, channels, dtype, limit, 4 * threads)
    phases, taps, table = _tables(axes, used, s)
    panel = -(-rows // -(-rows // ROWS))
    depth = channels * int(max(1, phases[:, 9].max()))
    chunks = -(-depth * panel * item // CHUNK_BYTES)
    temp = (-(-(s.images * (s.volume + columns * s.block_d)) // lanes) | 1) * lanes
    packed_at = lanes + -(-groups * rows // lanes) * lanes
    slots_at = packed_at + -(-groups * rows * channels * len(taps) // lanes) * lanes
    temp_at = channels * s.plane + 2 * columns
    slot = temp_at + ROWS * temp + columns
    product = Product(
        rows, panel, -(-depth // chunks), columns, lanes,
        *(axis.phases[0].step for axis in axes),
        threads, lanes, packed_at, slots_at, slot, temp_at, temp,
    )  # fmt: skip
    size = slots_at + threads * slot
    return Program(s, product, table, phases, taps, used, pads(axes, source), flat, last, size)


def _tables(axes, used, s):
    phases, taps, table, before = [], [], [], 0
    for trio, all_taps, offsets in tap_offsets(axes, used, s):
        phases.append([*(p.first for p in trio), *(p.count for p in trio),
                       *(p.base for p in trio), len(all_taps), before])  # fmt: skip
        table += [c * s.plane + offset for c in range(s.channels) for offset in offsets]
        taps += [[tap.index for tap in three] for three in all_taps]
        before += len(all_taps)
    return (np.array(phases, np.int64), np.array(taps, np.int64).reshape(-1, 3),
            np.array(table, np.int64))  # fmt: skip


def run(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, T, R, S) + bias.

    False, and nothing written, if a weight is not finite and would be multiplied with padding, or
    if the program is for images in one row and these are not, or not for channels-last targets.
    """
    dtype, program = v.dtype, plan.program
    if not program.last and v.strides[1] == v.itemsize:
        return False
    if program.flat:
        v, u = in_one_row(v), in_one_row(u)
        if v is None or u is None:
            return False
    work = workspace.view(v.dtype)
    phases, product = program.phases, program.product
    pack(dtype, plan.threads, work, w, bias, phases, program.taps, product)
    if program.pads and work[0]:
        return False
    convolve(dtype, plan.threads, v, u, work, program.table, phases, program.used,
             program.blocks, product)  # fmt: skip
    return True


def in_one_row(image):
    """An image (N, C, D, H, W) as (N, C, 1, 1, D*H*W), or None where that takes a copy."""
    n, c, *size = image.shape
    row = image.reshape(n, c, 1, 1, math.prod(size))
    return row if np.may_share_memory(row, image) or not image.size else None


@kernel(lambda F: (out(F, 1), array(F, 6), array(F, 1), array(int64, 2), array(int64, 2), PRODUCT))
def pack(work, w, bias, phases, taps, p):
    """w (G, rows, channels, T, R, S) -> panels [phase][G][panel][channel, tap][row]; the bias.

    work[0] is 0 if all weights are finite.
    """
    groups, rows, channels = w.shape[:3]
    for k in range(groups * rows):
        value = load(bias, k * step(bias, 0)) if bias.size else w.dtype.type(0)
        store(work, p.bias_at + k, value)
    infinite = 0
    panels = (rows + p.panel - 1) // p.panel
    for task in prange(phases.shape[0] * groups * panels):
        phase, g, row = task // (groups * panels), task // panels % groups, task % panels * p.panel
        count, before = phases[phase, 9], phases[phase, 10]
        to = p.packed_at + channels * (groups * rows * before + (g * rows + row) * count)
        _pack_panel(work, to, w, g * step(w, 0) + row * step(w, 1), min(p.panel, rows - row),
                    taps, before, count, p)  # fmt: skip
        if not finite_row(work, to, channels * count * min(p.panel, rows - row)):
            infinite += 1
    store(work, 0, infinite)


@helper
def _pack_panel(work, to, w, start, rows, taps, before, count, p):
    """``rows`` weights side by side for each (channel, tap) of one phase."""
    _, _, channels, T, R, S = w.shape
    lanes = p.lanes
    window = step(w, 5) == 1 and step(w, 4) == S and step(w, 3) == R * S and count == T * R * S
    if window and step(w, 2) == count:
        transpose(work, to, rows, w, start, step(w, 1), rows, channels * count, lanes)
        return
    for c in range(channels):
        at = start + c * step(w, 2)
        if window and count > 1:
            transpose(work, to + c * count * rows, rows, w, at, step(w, 1), rows, count, lanes)
            continue
        for tap in range(count):
            t, r, s = taps[before + tap, 0], taps[before + tap, 1], taps[before + tap, 2]
            source = at + t * step(w, 3) + r * step(w, 4) + s * step(w, 5)
            target = to + (c * count + tap) * rows
            if step(w, 1) == 1:
                copy_row(work, target, w, source, rows)
            else:
                for i in range(rows):
                    store(work, target + i, load(w, source + i * step(w, 1)))


@kernel(lambda F: (out(F, 5), array(F, 5), out(F, 1), array(int64, 1), array(int64, 2),
                   array(int64, 2), BLOCKS, PRODUCT))  # fmt: skip
def convolve(v, u, work, table, phases, used, s, p):
    """v = the packed weights over u; each slot is one thread's share of the blocks."""
    high = (s.span_h + s.block_h - 1) // s.block_h
    wide = (s.span_w + s.block_w - 1) // s.block_w
    tasks = ((s.span_d + s.block_d - 1) // s.block_d * high * wide
             * ((s.batch + s.images - 1) // s.images) * s.groups)  # fmt: skip
    for slot in prange(p.slots):
        buffer = p.slots_at + slot * p.slot
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            g, n0, images, d0, h0, w0 = locate(task, s)
            for c in range(0, s.channels, s.lanes):  # few at a time: each is in a page of its own
                fill(work, buffer + c * s.plane, u, used, g * s.channels + c,
                     min(s.lanes, s.channels - c), n0, images, d0, h0, w0, s)  # fmt: skip
            for phase in range(phases.shape[0]):
                _phase(v, work, buffer, table, phases, phase, n0, images, g, d0, h0, w0, s, p)


@helper
def _phase(v, work, buffer, table, phases, phase, n0, images, g, d0, h0, w0, s, p):
    """Every panel of weights over the part of the block that belongs to one target phase."""
    first_d, depth = overlap(phases[phase, 6], phases[phase, 3], d0, s.block_d)
    first_h, height = overlap(phases[phase, 7], phases[phase, 4], h0, s.block_h)
    first_w, width = overlap(phases[phase, 8], phases[phase, 5], w0, s.block_w)
    if depth <= 0 or height <= 0 or width <= 0:
        return
    row, plane, volume = s.row, s.area, s.volume
    b = buffer + (first_d - d0) * plane + (first_h - h0) * row + first_w - w0
    # runs of buffer positions that one tile after the other covers, as long as they can be
    length, runs, run_step = (height - 1) * row + width, depth, plane
    image_runs = True
    if height * row == plane or depth == 1:
        length, runs = (depth - 1) * plane + length, 1
        if images > 1 and depth * plane == volume and height * row == plane and width == row:
            length, image_runs = (images - 1) * volume + length, False
    padded = (length + p.columns - 1) // p.columns * p.columns
    total_runs = images * runs if image_runs else 1
    temp = buffer + p.temp_at
    count, before = phases[phase, 9], phases[phase, 10]
    to = (n0 * step(v, 0)
          + (phases[phase, 0] + (first_d - phases[phase, 6]) * p.step_d) * step(v, 2)
          + (phases[phase, 1] + (first_h - phases[phase, 7]) * p.step_h) * step(v, 3)
          + (phases[phase, 2] + (first_w - phases[phase, 8]) * p.step_w) * step(v, 4))  # fmt: skip
    image_at = runs * padded if image_runs else volume
    depth_at = padded if runs > 1 else plane
    straight, high, wide = False, height, width
    if p.step_w * step(v, 4) == 1:
        if width == row and p.step_h * step(v, 3) == width:  # rows run into one another in both
            high, wide = 1, width * height
        straight = wide > width or _rows_pay(width, row, count * s.channels,
                                             images * depth * height, p)  # fmt: skip
    every = (p.lanes, p.lanes)
    for k0 in range(0, p.rows, p.panel):
        rows = min(p.panel, p.rows - k0)
        k = g * p.rows + k0
        a = p.packed_at + s.channels * (s.groups * p.rows * before + k * count)
        for chunk in range(0, max(1, count * s.channels), p.chunk):
            steps = min(p.chunk, count * s.channels - chunk)
            if straight:
                _rows(v, to + k * step(v, 1), work, b, a + chunk * rows, rows, table,
                      before * s.channels + chunk, steps, p.bias_at + k, chunk, images, depth,
                      high, wide, s, p)  # fmt: skip
                continue
            for r in range(total_runs):
                source = b + r // runs * volume + r % runs * run_step
                for j in range(0, length, p.columns):
                    tile_apart(rows, work, a + chunk * rows, rows, work, source + j, p.lanes,
                               table, before * s.channels + chunk, steps, work,
                               temp + r * padded + j, p.lanes, p.temp, work, p.bias_at + k, chunk,
                               every)  # fmt: skip
        for i in range(0 if straight else images):
            for z in range(depth):
                for y in range(height):
                    at = temp + i * image_at + z * depth_at + y * row
                    start = (to + i * step(v, 0) + k * step(v, 1) + z * p.step_d * step(v, 2)
                             + y * p.step_h * step(v, 3))  # fmt: skip
                    write_row(v, start, work, at, rows, width, p)


@helper
def _rows_pay(width, row, steps, rows, p):
    """Are whole vectors of every row cheaper than running on over rows' ends and copying the sums?

    Counted in steps of a vector; a vector copied takes about as long as COPY of them.
    """
    straight = (width + p.lanes - 1) // p.lanes * p.lanes * steps
    return rows == 1 or straight <= row * steps + COPY * width


@helper
def _rows(v, to, work, b, a, rows, table, first, steps, bias, chunk, images, depth, height, width,
          s, p):  # fmt: skip
    """A chunk of one panel's sums, row by row to where they belong: two vectors a tile."""
    waiting, source, target = 0, 0, 0  # a vector that waits for another, and where it lies
    for i in range(images):
        for z in range(depth):
            for y in range(height):
                row = b + i * s.volume + z * s.area + y * s.row
                at = (to + i * step(v, 0) + z * p.step_d * step(v, 2)
                      + y * p.step_h * step(v, 3))  # fmt: skip
                for q in range(0, width, p.lanes):
                    count = min(p.lanes, width - q)
                    if waiting == 0:
                        waiting, source, target = count, row + q, at + q
                        continue
                    tile_apart(rows, work, a, rows, work, source, row + q - source, table, first,
                               steps, v, target, at + q - target, step(v, 1), work, bias, chunk,
                               (waiting, count))  # fmt: skip
                    waiting = 0
    if waiting:
        tile_apart(rows, work, a, rows, work, source, 0, table, first, steps, v, target, 0,
                   step(v, 1), work, bias, chunk, (waiting, 0))  # fmt: skip
