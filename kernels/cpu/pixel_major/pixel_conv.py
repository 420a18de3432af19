"""The forward convolution and dx where weights are few: vectors run along channels.

    y[pixel, k] = b[k] + sum over (c, tap) of x[c, pixel + tap] * w[(c, tap), k]

The weights are packed once and stay in the cache.  A thread takes a few hundred pixels at a time:
copies what they read of x, padded, sums up to ROWS pixels at once with the tile of
pixel_tile.py, and transposes the sums into y, unless its channels lie side by side: then sums are
what is to be written.  Where vectors run along pixels instead (implicit_gemm.py) the ends of rows
are computed for nothing, which costs most where rows are short; here it is lanes without an output
channel.

Where many of their taps only meet padding, pixels are summed row by row without those rows of taps.

dx at a stride has cells of as many inputs as the stride, each of which is read through taps of its
own: a phase.  All phases of a block are summed next to each other before anything is written, where
vectors along rows would write every other number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numba import types

from ..convolution.blocks import BLOCKS, Blocks
from ..emitted.memory import load, step, store
from ..emitted.pixel_tile import TALL, pixel_tile, run_tile
from ..emitted.strided_tile import address, copy_rows
from ..emitted.transposition import transpose
from ..emitted.vectors import ITEMSIZE, LANES, copy_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import COLUMNS, ROWS
from .pixel_blocks import WHOLE, beside, copies, cut, fill_block, joined, tables
from .pixel_phases import dx_cells, forward_cells, phase_tables, valid_rows
from .pixel_weights import pack

#: Bytes of a block's sums in the columns of one tile.
BLOCK_BYTES = 100 * 1024

#: More weights of a group than this do not stay in the cache.
WEIGHTS = 1 << 16


#: What is left of the vectors' use after sums have been transposed into the target.
GAIN = 0.9

#: And for dx at a stride, where vectors along rows would write every other number only.
STRIDED_GAIN = 1.15

#: Rows of pixels are summed one by one if not more of their taps' rows meet the source.
SKIPPED = 0.9

#: Steps of a sum beside which that is little, where else a source with a stride of more than 2
#: would be read element by element.
LONG = 300

#: Channels that are copied at a time: no more than copy_rows takes, and a part of every vector.
FEW = 2

#: Rows of a tile, at least, that are taken from pixels side by side, not found by a table.
LEAST_ROWS = 10


class Product(NamedTuple):
    """What the compiled loops need to know beside the source's blocks.  Offsets count elements."""

    rows: int  # target channels of a group
    width: int  # rows up to whole vectors
    tile: int  # columns of a tile
    lanes: int
    depth: int  # (source channel, tap): steps of the sum
    size_d: int  # cells of the target: pixels, but for dx at a stride
    size_h: int
    size_w: int
    images: int  # of a block, and its cells
    block_d: int
    block_h: int
    block_w: int
    stride_d: int  # of cells in the padded source
    stride_h: int
    stride_w: int
    step_d: int  # pixels of a cell
    step_h: int
    step_w: int
    source_h: int
    by_rows: int  # is a row of pixels summed by itself, without the taps that only meet padding?
    pads: int
    apart: int  # channels side by side of a group of several, or 0
    in_runs: int  # do the cells of a row lie side by side in the copy?
    slots: int
    packed_at: int  # the workspace: bias, packed weights; slots: source, then sums
    slots_at: int
    slot: int
    sums_at: int


PRODUCT = types.NamedUniTuple(int64, len(Product._fields), Product)


@dataclass(frozen=True)
class Program:
    blocks: Blocks
    product: Product
    places: np.ndarray  # offset in the copy of the source of each cell of a block
    steps: np.ndarray  # and of each (channel, tap) of each phase
    phases: np.ndarray  # as pixel_phases.py has them, and the taps
    taps: np.ndarray
    heights: np.ndarray
    size: int  # of the workspace, in elements
    beside: Program | None  # for a source whose channels lie side by side


#: And this many, times what vectors hold, are not packed by one thread while the other waits.
MOST = 1 << 23

#: Phases of dx beyond which their tables take longer to make than a small image to compute.
MOST_PHASES = 256


def fits(g, forward) -> bool:
    """Could it be asked?"""
    if not 0 < math.prod(g.w_shape) <= MOST or g.batch * math.prod(g.size) * g.out_plane == 0:
        return False
    if forward or g.stride == (1, 1, 1):
        return True
    return math.prod(map(min, g.stride, g.size)) <= MOST_PHASES and dx_cells(g) is not None


def serves(g, dtype, forward) -> bool:
    """Do few weights meet images whose rows would leave vectors along them partly empty?"""
    if not 0 < math.prod(g.w_shape) // g.groups <= WEIGHTS or not fits(g, forward):
        return False
    rows, size, gain = g.out_channels // g.groups, g.out, GAIN
    reach = (g.window[2] - 1) * g.dilation[2] // (g.stride[2] if forward else 1)
    if not forward:
        rows, size = g.in_channels // g.groups, g.size
        if g.stride != (1, 1, 1):
            cells, gain = dx_cells(g), STRIDED_GAIN
            size, reach = cells.count, cells.seen.window[2] - 1
    run = (size[0] * size[1] - 1) * (size[2] + reach) + size[2]
    used = math.prod(size) / (-(-run // COLUMNS[dtype]) * COLUMNS[dtype])
    lanes = rows / (-(-rows // LANES[dtype]) * LANES[dtype])
    if forward and g.stride[2] > 2 and g.taps * g.in_channels // g.groups >= LONG:
        return lanes >= GAIN
    if g.taps == 1 and math.prod(size) >= COLUMNS[dtype]:
        return False  # rows run into one another there
    return used < gain * lanes


def serves_last(g, dtype, forward) -> bool:
    """Are weights few, and lanes full, so that it is ahead wherever targets are channels-last?"""
    rows = (g.out_channels if forward else g.in_channels) // g.groups
    few = 0 < math.prod(g.w_shape) // g.groups <= WEIGHTS
    return few and rows % LANES[dtype] == 0 and fits(g, forward)


def build(g, dtype, threads, forward) -> Program:
    """For ConvGeometry ``g``; its dx where not ``forward``."""
    channels = (g.in_channels if forward else g.out_channels) // g.groups
    planes = _build(g, dtype, threads, forward, 1)
    if channels == 1 or planes.product.in_runs and planes.product.width == LANES[dtype]:
        return planes  # of which channels that lie side by side are brought into planes
    pixels = _build(g, dtype, threads, forward, channels)
    return replace(planes, beside=pixels, size=max(planes.size, pixels.size))


def _build(g, dtype, threads, forward, within):
    """``within``: channels that lie side by side in the source."""
    lanes = LANES[dtype]
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    cells, source = forward_cells(g) if forward else dx_cells(g), g.size
    if not forward:
        rows, channels, source = channels, rows, g.out
    seen, each = cells.seen, math.prod(cells.each)
    width = -(-rows // lanes) * lanes
    columns = min(width, COLUMNS[dtype])
    limit = BLOCK_BYTES // (ITEMSIZE[dtype] * columns * each)
    shared = g.batch * math.prod(cells.count) // (4 * threads)
    images, block = cut(g.batch, cells.count, max(1, min(limit, max(shared, 4 * ROWS // each))))
    s = copies(seen, channels, cells.lead, cells.count, images, block, lanes, within)
    places, every = tables(seen, channels, images, block, s, within)
    strided = not forward and g.stride != (1, 1, 1)
    by_rows = strided or valid_rows(cells, source) < SKIPPED
    phases, taps, heights, steps = phase_tables(cells, every, channels, by_rows)
    reach = [(n - 1) * apart for n, apart in zip(seen.window, seen.dilation)]
    pads = any(before > 0 or (n - 1) * stride + more - before >= held
               for before, n, stride, more, held
               in zip(cells.lead, cells.count, seen.stride, reach, source))  # fmt: skip
    packed_at = g.groups * width
    slots_at = packed_at * (1 + steps.size)
    sums_at = s.channels * s.plane
    slot = sums_at + columns * (places.size * each + lanes)
    apart = within if within > 1 and g.groups > 1 else 0
    in_runs = within == seen.stride[2] == 1 and block[2] >= LEAST_ROWS
    product = Product(
        rows, width, COLUMNS[dtype], lanes, steps.size, *cells.count, images, *block,
        *seen.stride[:2], seen.stride[2] * within, *cells.each, source[1], int(by_rows), int(pads),
        apart, int(in_runs), threads, packed_at, slots_at, slot, sums_at,
    )  # fmt: skip
    size = slots_at + threads * slot
    return Program(s, product, places, steps, phases, taps, heights, size, None)


def run(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, T, R, S) + bias.

    False, and nothing written, if a weight is not finite and would be multiplied with padding.
    """
    p, pixels = plan.program, None
    if p.beside is not None:
        pixels = beside(u, p.blocks.groups)
    if pixels is not None:
        u, p = pixels, p.beside
    work, broken = workspace.view(v.dtype), np.zeros(1, np.int64)
    convolve(v.dtype, plan.threads, v, broken, u, w, bias, work, p.places, p.steps, p.phases,
             p.taps, p.heights, WHOLE, p.blocks, p.product)  # fmt: skip
    return not broken[0]


@kernel(lambda F: (out(F, 5), out(int64, 1), array(F, 5), array(F, 6), array(F, 1), out(F, 1),
                   array(int64, 1), array(int64, 1), array(int64, 2), array(int64, 2),
                   array(int64, 1), array(int64, 2), BLOCKS, PRODUCT))  # fmt: skip
def convolve(v, broken, u, w, bias, work, places, steps, phases, taps, heights, whole, s, p):
    """v, or broken[0] = 1 and nothing: see run."""
    high = (p.size_h + p.block_h - 1) // p.block_h
    wide = (p.size_w + p.block_w - 1) // p.block_w
    pieces = (p.size_d + p.block_d - 1) // p.block_d * high * wide
    tasks = pieces * ((s.batch + p.images - 1) // p.images) * s.groups
    infinite = 0
    if s.groups == 1:
        infinite += pack(work, w, bias, phases, taps, 0, 1, p)
    else:
        for slot in prange(p.slots):
            infinite += pack(work, w, bias, phases, taps, slot * s.groups // p.slots,
                             (slot + 1) * s.groups // p.slots, p)  # fmt: skip
    if infinite and p.pads:
        broken[0] = 1
        tasks = 0
    for slot in prange(p.slots):
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            g, block = task % s.groups, task // s.groups
            n0, piece = block // pieces * p.images, block % pieces
            _block(v, u, work, places, steps, phases, heights, whole, p.slots_at + slot * p.slot,
                   g, n0, piece // (high * wide) * p.block_d, piece // wide % high * p.block_h,
                   piece % wide * p.block_w, s, p)  # fmt: skip


@helper
def _block(v, u, work, places, steps, phases, heights, whole, buffer, g, n0, d0, h0, w0, s, p):
    """One block of the target, every channel of one group."""
    images = min(p.images, s.batch - n0)
    fill_block(work, buffer, u, whole, p.apart, g, n0, images, d0 * p.stride_d, h0 * p.stride_h,
               w0 * p.stride_w, s)  # fmt: skip
    first_d, first_h, first_w = d0 * p.step_d, h0 * p.step_h, w0 * p.step_w
    depth = min(p.block_d * p.step_d, v.shape[2] - first_d)
    height = min(p.block_h * p.step_h, v.shape[3] - first_h)
    width = min(p.block_w * p.step_w, v.shape[4] - first_w)
    to = (n0 * step(v, 0) + g * p.rows * step(v, 1) + first_d * step(v, 2)
          + first_h * step(v, 3) + first_w * step(v, 4))  # fmt: skip
    sums, apart = buffer + p.sums_at, step(v, 4)
    straight = step(v, 1) == 1 and p.rows == p.width
    if p.by_rows:
        for k in range(0, p.rows, p.tile):
            columns = min(p.tile, p.width - k)
            if straight:
                _phases(address(v, to + k), step(v, 0), step(v, 2), step(v, 3), apart, columns,
                        work, buffer, places, steps, phases, heights, images, d0, h0, w0,
                        g * p.width + k, p)  # fmt: skip
                continue
            _phases(address(work, sums), depth * height * width * columns,
                    height * width * columns, width * columns, columns, columns, work, buffer,
                    places, steps, phases, heights, images, d0, h0, w0, g * p.width + k,
                    p)  # fmt: skip
            pieces = joined(v, images, depth, height, width)
            _write(v, to + k * step(v, 1), work, sums, columns, min(columns, p.rows - k), *pieces,
                   p)  # fmt: skip
        return
    run = width
    images, depth, height, width = joined(v, images, depth, height, width)
    for k in range(0, p.rows, p.tile):
        columns, row = min(p.tile, p.width - k), g * p.width + k
        weights = p.packed_at + row * p.depth
        if not straight:
            _sum(work, 0, images * depth * height * width, run, address(work, sums), columns,
                 columns, buffer, places, steps, 0, p.depth, row, weights, p)  # fmt: skip
            _write(v, to + k * step(v, 1), work, sums, columns, min(columns, p.rows - k), images,
                   depth, height, width, p)  # fmt: skip
            continue
        first = 0
        for i in range(images):
            for z in range(depth):
                for y in range(height):
                    at = to + k + i * step(v, 0) + z * step(v, 2) + y * step(v, 3)
                    _sum(work, first, width, run, address(v, at), apart, columns, buffer, places,
                         steps, 0, p.depth, row, weights, p)  # fmt: skip
                    first += width


@helper
def _phases(to, v_image, v_plane, v_row, apart, columns, work, buffer, places, steps, phases,
            heights, images, d0, h0, w0, k, p):  # fmt: skip
    """The sums of all phases of a block, row by row to where they belong from address ``to`` on.

    Of the window's rows only those that meet rows of the source: they are neighbours.
    """
    for phase in range(phases.shape[0]):
        depth = min(p.block_d, phases[phase, 3] - d0)
        height = min(p.block_h, phases[phase, 4] - h0)
        width = min(p.block_w, phases[phase, 5] - w0)
        rows, before = phases[phase, 10], phases[phase, 11]
        each = phases[phase, 6] // max(1, rows)  # steps of a row of taps
        start = phases[phase, 0] * v_plane + phases[phase, 1] * v_row + phases[phase, 2] * apart
        for row in range(images * depth * height if min(depth, height, width) > 0 else 0):
            i, z, y = row // (depth * height), row // height % depth, row % height
            at = start + i * v_image + z * p.step_d * v_plane + y * p.step_h * v_row
            first = ((i * p.block_d + z) * p.block_h + y) * p.block_w
            low, high, h = 0, rows, (h0 + y) * p.stride_h
            while low < high and not 0 <= h + heights[before + low] < p.source_h:
                low += 1
            while low < high and not 0 <= h + heights[before + high - 1] < p.source_h:
                high -= 1
            skipped = phases[phase, 7] + low * each
            _sum(work, first, width, width, to + at * work.itemsize, p.step_w * apart, columns,
                 buffer, places, steps, skipped, (high - low) * each, k,
                 p.packed_at + k * p.depth + skipped * columns, p)  # fmt: skip


@helper
def _sum(work, first, pixels, run, to, apart, columns, buffer, places, steps, before, count, k,
         weights, p):  # fmt: skip
    """The sums of ``pixels`` pixels, rows of ``run``, in ``columns`` channels from k on.

    k is that of all groups.  Each has ``count`` steps, behind ``before`` others.  They go to the
    address ``to``, those of pixels ``apart`` from one another.
    """
    zero, bias = work.dtype.type(0), address(work, k)
    if count == 0:  # no tap reads them
        for at in range(0, columns * work.itemsize, FEW * work.itemsize):
            copy_rows(zero, to + at, apart, bias + at, 0, pixels, FEW)
        return
    weights, by = address(work, weights), apart * work.itemsize
    vectors = columns // p.lanes
    high = TALL // vectors
    tiles = (run + high - 1) // high
    if p.in_runs and run >= LEAST_ROWS * tiles:
        for row in range(0, pixels, run):
            for i in range(tiles):
                begin, end = row + i * run // tiles, row + (i + 1) * run // tiles
                run_tile(zero, end - begin, vectors,
                         address(work, buffer + load(places, first + begin)),
                         address(steps, before), count, weights, columns, to + begin * by, apart,
                         bias, 0)  # fmt: skip
        return
    tiles = (pixels + ROWS - 1) // ROWS
    for i in range(tiles):  # of about the same height
        begin, end = i * pixels // tiles, (i + 1) * pixels // tiles
        pixel_tile(zero, end - begin, vectors, address(work, buffer),
                   address(places, first + begin), address(steps, before), count, weights, columns,
                   to + begin * by, apart, bias, 0)  # fmt: skip


@helper
def _write(v, to, work, sums, columns, rows, images, depth, height, width, p):
    """The sums of ``rows`` channels, [pixel][column], to the target."""
    k_step, w_step = step(v, 1), step(v, 4)
    for i in range(images):
        for z in range(depth):
            for y in range(height):
                at = to + i * step(v, 0) + z * step(v, 2) + y * step(v, 3)
                if w_step == 1:
                    transpose(v, at, k_step, work, sums, columns, width, rows, p.lanes)
                elif k_step == 1:
                    for q in range(width):
                        copy_row(v, at + q * w_step, work, sums + q * columns, rows)
                else:
                    for q in range(width):
                        for r in range(rows):
                            value = load(work, sums + q * columns + r)
                            store(v, at + q * w_step + r * k_step, value)
                sums += width * columns
