"""dw with few weights: the whole of it stays in the cache while pixels stream by.

    dw[k, (c, tap)] = sum over pixels of dy[k, pixel] * x[c, pixel + tap]

Vectors run along k.  A thread takes a few hundred pixels at a time: copies what they read of x,
padded, transposes their dy, unless its channels lie side by side, and multiplies the two with the
tile of pixel_tile.py, which broadcasts x from where it lies, so that no column matrix exists, not
even a block of one.

Where output channels would leave most of a vector empty and input channels fill it (the last layer
of a network that makes images), x and dy change places, at stride 1: vectors run along c, every x
is multiplied with the dy around it, and the windows of dw are turned round.

The pixels fall into parts, each with sums of its own, which are added in order at the end: how many
parts there are depends on the geometry alone.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numba import types

from ..convolution import columns
from ..convolution.bias_sums import add_pixels, write_sums
from ..convolution.blocks import BLOCKS, Blocks
from ..convolution.regions import forward_axes, pads
from ..emitted.memory import load, step, store
from ..emitted.pixel_tile import TALL, pixel_tile, run_tile
from ..emitted.strided_tile import address
from ..emitted.transposition import transpose
from ..emitted.vectors import ITEMSIZE, LANES, add_row, copy_row, fill_row, finite_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import COLUMNS, ROWS
from .pixel_blocks import WHOLE, beside, copies, cut, fill_block, joined, pieces, tables

#: Bytes of a block's dy in the columns of one tile.  It need not fit the L1, which reads it in
#: order; large blocks copy fewer rows of x twice.
BLOCK_BYTES = 100 * 1024

#: More (channel, tap, output channel) than this do not stay in the cache.
WEIGHTS = 1 << 16

#: Sums, at most, where there are no more pixels than ``FEW``.
MOST, FEW = 1 << 23, 1 << 13

#: Parts of the pixels, at most, and multiply-adds of a part, at least.
PARTS = 16
PART_WORK = 200_000

#: Pixels of a part, at least: so many that its sums are hardly ever written.
LEAST = 512

#: So many times more of the vectors used that x and dy change places.
TURN_GAIN = 1.2

#: Sums that are added up and written without sharing the work.
FINISH_ALONE = 20_000


class Sums(NamedTuple):
    """What the compiled loops need to know beside the blocks of x.  Offsets count elements."""

    rows: int  # K of a group
    width: int  # rows up to whole vectors
    tile: int  # columns of a tile
    lanes: int
    weights: int  # (c, tap) of a group
    taps: int
    taps_first: int  # are sums in the order (tap, c)?
    run: int  # (c, tap) side by side in the copy of x, that is (tap, c); all of them: they are not
    panel: int  # of them in a tile
    tall: int  # and in a tile of one vector
    apart: int  # channels that the copy has side by side, if not as they lie in x, or 0
    depth: int  # Z, P and Q: pixels of an image
    height: int
    across: int
    images: int  # of a block, and its pixels
    block_d: int
    block_h: int
    block_w: int
    pixels: int
    stride_d: int  # in the padded copy of x
    stride_h: int
    stride_w: int
    parts: int  # of a group
    slots: int
    zeros_at: int  # the workspace: sums of each part of each group, zeros, the same sums of dy
    bias_at: int
    slots_at: int  # slots: x, then dy
    slot: int
    dy_at: int


SUMS = types.NamedUniTuple(int64, len(Sums._fields), Sums)


@dataclass(frozen=True)
class Program:
    blocks: Blocks
    sums: Sums
    places: np.ndarray  # offset in the copy of x of each (channel, tap)
    steps: np.ndarray  # and of each pixel of a block
    pads: bool
    size: int  # of the workspace, in elements
    beside: Program | None  # for x whose channels lie side by side
    sorted: Program | None = None  # for one whose channels are to be brought side by side
    turned: bool = False  # have x and dy changed places?


def serves(g) -> bool:
    """Do the sums stay in the cache, and is there a pixel?"""
    return 0 < math.prod(g.w_shape) // g.groups <= WEIGHTS and g.batch * g.out_plane > 0


def pays(g) -> bool:
    """Are there so few pixels that more sums than the cache holds are not read often?"""
    return 0 < g.batch * g.out_plane <= FEW and math.prod(g.w_shape) <= MOST


def build(g, dtype, threads) -> Program:
    """For ConvGeometry ``g``."""
    turned = _turns(g, dtype)
    g = _turned(g) if turned else g
    planes = replace(_build(g, dtype, threads, 1), turned=turned)
    if g.in_channels == g.groups:
        return planes
    channels = g.in_channels // g.groups
    pixels, sorted_ = _build(g, dtype, threads, channels), None
    if pixels.sums.taps_first and pixels.sums.width == LANES[dtype] <= 2 * channels:
        sorted_ = replace(pixels, sums=pixels.sums._replace(apart=channels))
    return replace(planes, beside=pixels, sorted=sorted_, size=max(planes.size, pixels.size))


def _turns(g, dtype):
    """Would input channels fill vectors, and output channels hardly?"""
    used, other = (n / (-(-n // LANES[dtype]) * LANES[dtype])
                   for n in (g.out_channels, g.in_channels))  # fmt: skip
    reach = [(n - 1) * apart for n, apart in zip(g.window, g.dilation)]
    return (g.groups == 1 and g.stride == (1, 1, 1) and other >= TURN_GAIN * used
            and all(map(operator.le, g.before, reach)))  # fmt: skip


def _turned(g):
    """The convolution over dy whose dw is that of ``g``, channels exchanged and windows turned."""
    before, after = ([(n - 1) * apart - more for n, apart, more in zip(g.window, g.dilation, pads)]
                     for pads in (g.before, g.after))  # fmt: skip
    return replace(g, size=g.out, out=g.size, before=tuple(before), after=tuple(after),
                   in_channels=g.out_channels, out_channels=g.in_channels)  # fmt: skip


def _build(g, dtype, threads, within):
    """``within``: channels that lie side by side in x."""
    lanes, across = LANES[dtype], COLUMNS[dtype]
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    width = -(-rows // lanes) * lanes
    limit = BLOCK_BYTES // (ITEMSIZE[dtype] * min(width, across))
    images, block = cut(g.batch, g.out, limit)
    s = copies(g, channels, g.before, g.out, images, block, lanes, within)
    length = channels * (g.window[2] if g.dilation[2] == 1 else 1)
    in_runs = within > 1 and length >= ROWS  # of shorter ones a tile would have few rows
    steps, places = tables(g, channels, images, block, s, within, in_runs)
    blocks = -(-g.batch // images) * pieces(g.out, block)
    parts = max(1, min(blocks, PARTS, g.batch * g.out_plane // LEAST,
                       g.multiply_adds // g.groups // PART_WORK))  # fmt: skip
    zeros_at = g.groups * parts * places.size * width
    bias_at = zeros_at + across
    slots_at = bias_at + g.groups * parts * width
    dy_at = s.channels * s.plane
    slot = dy_at + width * (steps.size + lanes)
    run, tall = (length, TALL) if in_runs else (places.size, ROWS)
    panel, high = (-(-run // -(-run // most)) for most in (ROWS, tall))
    apart = within if within > 1 and g.groups > 1 else 0
    sums = Sums(
        rows, width, across, lanes, places.size, g.taps, int(in_runs), run, panel, high, apart,
        *g.out, images, *block, steps.size, *g.stride[:2], g.stride[2] * within, parts, threads,
        zeros_at, bias_at, slots_at, slot, dy_at,
    )  # fmt: skip
    size = slots_at + threads * slot
    return Program(s, sums, places, steps, pads(forward_axes(g), g.size), size, None)


def run(dw, db, dy, x, plan, workspace) -> bool:
    """dw, and db unless it is empty.

    False, and dw is to be computed otherwise, if it is not finite and padding may be why."""
    p, pixels, turned = plan.program, None, plan.program.turned
    sums, given = db, dy
    if turned:
        dw = dw.swapaxes(0, 1)[:, :, ::-1, ::-1, ::-1]
        dy, x, sums = x, dy, np.empty(0, db.dtype)
    if p.beside is not None:
        pixels = beside(x, p.blocks.groups)
    if pixels is not None:
        x, p = pixels, p.beside
    elif p.sorted is not None and x.strides[4] == x.itemsize:
        p = p.sorted
    work, broken = workspace.view(dw.dtype), np.zeros(1, np.int64)
    reduce(dw.dtype, plan.threads, dw, sums, broken, dy, x, work, p.places, p.steps, WHOLE,
           p.blocks, p.sums)  # fmt: skip
    if turned and db.size:
        columns.bias_gradient(db.dtype, plan.threads, db, given)
    return not (p.pads and broken[0])


@kernel(lambda F: (out(F, 5), out(F, 1), out(int64, 1), array(F, 5), array(F, 5), out(F, 1),
                   array(int64, 1), array(int64, 1), array(int64, 2), BLOCKS, SUMS))  # fmt: skip
def reduce(dw, db, broken, dy, x, work, places, steps, whole, s, p):
    """dw, and db if it is not empty; broken[0] is 0 if all of dw is finite."""
    tasks = s.groups * p.parts
    fill_row(work, p.zeros_at, work.dtype.type(0), p.slots_at - p.zeros_at)
    for slot in prange(p.slots):
        if p.rows < p.width:  # lanes without a row are never written again; denormals are slow
            last = (p.rows - 1) // p.tile * p.tile
            fill_row(work, p.slots_at + slot * p.slot + p.dy_at + last * p.pixels,
                     work.dtype.type(0), (p.width - last) * p.pixels)  # fmt: skip
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            _sum_part(db.size, dy, x, work, places, steps, whole, slot, task, s, p)
    infinite = 0
    strips = (p.weights + p.lanes - 1) // p.lanes
    if tasks * p.weights * p.width <= FINISH_ALONE:
        infinite += _finish(dw, work, 0, s.groups, 0, strips, p)
    else:
        for slot in prange(p.slots):
            infinite += _finish(dw, work, slot, s.groups, slot * strips // p.slots,
                                (slot + 1) * strips // p.slots, p)  # fmt: skip
    broken[0] = infinite
    for g in range(s.groups if db.size else 0):
        write_sums(db, g * p.rows, p.rows, work, p.bias_at + g * p.parts * p.width, p.parts,
                   p.width, p.lanes)  # fmt: skip


@helper
def _sum_part(biased, dy, x, work, places, steps, whole, slot, task, s, p):
    """The sums of one part of one group's pixels."""
    high = (p.height + p.block_h - 1) // p.block_h
    wide = (p.across + p.block_w - 1) // p.block_w
    pieces = (p.depth + p.block_d - 1) // p.block_d * high * wide
    blocks = pieces * ((s.batch + p.images - 1) // p.images)
    g, part = task // p.parts, task % p.parts
    first, end = part * blocks // p.parts, (part + 1) * blocks // p.parts
    for block in range(first, end):
        n0, piece = block // pieces * p.images, block % pieces
        _add_block(biased, dy, x, work, places, steps, whole, p.slots_at + slot * p.slot,
                   task, block > first, g, n0,
                   piece // (high * wide) * p.block_d, piece // wide % high * p.block_h,
                   piece % wide * p.block_w, s, p)  # fmt: skip


@helper
def _add_block(biased, dy, x, work, places, steps, whole, buffer, task, resume, g, n0, d0, h0, w0,
               s, p):  # fmt: skip
    """Adds one block of pixels to a part's sums."""
    images = min(p.images, s.batch - n0)
    depth, height = min(p.block_d, p.depth - d0), min(p.block_h, p.height - h0)
    width = min(p.block_w, p.across - w0)
    pixels = images * depth * height * width
    fill_block(work, buffer, x, whole, p.apart, g, n0, images, d0 * p.stride_d, h0 * p.stride_h,
               w0 * p.stride_w, s)  # fmt: skip
    start = (n0 * step(dy, 0) + g * p.rows * step(dy, 1) + d0 * step(dy, 2) + h0 * step(dy, 3)
             + w0 * step(dy, 4))  # fmt: skip
    apart = step(dy, 4)
    images, depth, height, width = joined(dy, images, depth, height, width)
    for k in range(0, p.rows, p.tile):
        columns, to = min(p.tile, p.width - k), task * p.weights * p.width + k
        if biased or step(dy, 1) != 1 or p.rows < p.width or p.apart:
            packed = buffer + p.dy_at + k * p.pixels
            _pack(work, packed, columns, dy, start + k * step(dy, 1), min(columns, p.rows - k),
                  images, depth, height, width, p)  # fmt: skip
            if biased:
                add_pixels(work, p.bias_at + task * p.width + k, packed, columns, pixels, columns,
                           p.lanes)  # fmt: skip
            _add(work, to, columns, buffer, places, steps, 0, pixels, address(work, packed),
                 columns, resume, p)  # fmt: skip
            continue
        first = 0
        for i in range(images):
            for z in range(depth):
                for y in range(height):
                    at = start + k + i * step(dy, 0) + z * step(dy, 2) + y * step(dy, 3)
                    _add(work, to, columns, buffer, places, steps, first, width, address(dy, at),
                         apart, resume or first > 0, p)  # fmt: skip
                    first += width


@helper
def _add(work, to, columns, buffer, places, steps, first, pixels, dy, apart, resume, p):
    """Adds ``pixels`` pixels of a block, whose dy lie ``apart`` from the address ``dy`` on."""
    zero, vectors = work.dtype.type(0), columns // p.lanes
    high = p.tall if vectors == 1 else p.panel
    for run in range(0, p.weights, p.run):
        for row in range(run, run + p.run, high):
            rows, at = min(high, run + p.run - row), address(work, to + row * p.width)
            start, start_step = (at, p.width) if resume else (address(work, p.zeros_at), 0)
            if p.taps_first:
                run_tile(zero, rows, vectors, address(work, buffer + load(places, row)),
                         address(steps, first), pixels, dy, apart, at, p.width, start,
                         start_step)  # fmt: skip
            else:
                pixel_tile(zero, rows, vectors, address(work, buffer), address(places, row),
                           address(steps, first), pixels, dy, apart, at, p.width, start,
                           start_step)  # fmt: skip


@helper
def _pack(work, to, columns, dy, start, rows, images, depth, height, width, p):
    """``rows`` rows of a block of dy, pixel-major: [pixel][column]."""
    k_step, w_step = step(dy, 1), step(dy, 4)
    for i in range(images):
        for z in range(depth):
            for y in range(height):
                at = start + i * step(dy, 0) + z * step(dy, 2) + y * step(dy, 3)
                if w_step == 1:
                    transpose(work, to, columns, dy, at, k_step, rows, width, p.lanes)
                elif k_step == 1:
                    for q in range(width):
                        copy_row(work, to + q * columns, dy, at + q * w_step, rows)
                else:
                    for q in range(width):
                        for r in range(rows):
                            value = load(dy, at + q * w_step + r * k_step)
                            store(work, to + q * columns + r, value)
                to += width * columns


@helper
def _finish(dw, work, slot, groups, first, end, p):
    """Adds the parts' sums of the strips of (channel, tap) first..end-1 and writes them to dw.

    Returns 0 if all are finite.
    """
    infinite = 0
    for task in range(groups * first, groups * end):
        g, j = task % groups, task // groups * p.lanes
        count = min(p.lanes, p.weights - j)
        sums, part = (g * p.parts * p.weights + j) * p.width, p.weights * p.width
        if p.taps_first:
            sums = p.slots_at + slot * p.slot + p.dy_at
            for i in range(count):
                row = (j + i) % p.taps * (p.weights // p.taps) + (j + i) // p.taps
                at = (g * p.parts * p.weights + row) * p.width
                copy_row(work, sums + i * p.width, work, at, p.width)
                for other in range(1, p.parts):
                    add_row(work, sums + i * p.width, work, at + other * part, p.width)
        else:
            for other in range(1, p.parts):
                add_row(work, sums, work, sums + other * part, count * p.width)
        infinite += _write(dw, work, sums, g, j, count, p)
    return infinite


@helper
def _write(dw, work, sums, g, first, count, p):
    """The sums of ``count`` (channel, tap) from ``first`` on to dw; 0 if all are finite."""
    _, _, T, R, S = dw.shape
    k_step, infinite = step(dw, 0), 0
    to = g * p.rows * k_step
    rows_lie = (step(dw, 4) == 1 and step(dw, 3) == S and step(dw, 2) == R * S
                and step(dw, 1) == p.taps)  # fmt: skip
    if rows_lie:
        transpose(dw, to + first, k_step, work, sums, p.width, count, p.rows, p.lanes)
    for i in range(count):
        at, j = sums + i * p.width, first + i
        infinite += 1 - finite_row(work, at, p.rows)
        if rows_lie:
            continue
        c, t, r, q = j // p.taps, j // (R * S) % T, j // S % R, j % S
        tap = c * step(dw, 1) + t * step(dw, 2) + r * step(dw, 3) + q * step(dw, 4)
        for k in range(p.rows):
            store(dw, to + tap + k * k_step, load(work, at + k))
    return infinite
