"""The forward convolution, and dx, where weights are few: vectors run along channels.

    y[pixel, k] = b[k] + sum over (c, tap) of x[c, pixel + tap] * w[(c, tap), k]

The weights are packed once and stay in the cache.  A thread takes a few hundred pixels at a time:
copies what they read of x, padded, sums up to ROWS pixels at once with the tile of
pixel_tile.py, and transposes the sums into y, unless its channels lie side by side: then sums are
what is to be written.  Where vectors run along pixels instead (implicit_gemm.py) the ends of rows
are computed for nothing, which costs most where rows are short; here it is lanes without an output
channel.

dx at a stride is one convolution at stride 1 for each position modulo the stride.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numba import types

from ..convolution.blocks import BLOCKS, Blocks, fill
from ..emitted.memory import load, step, store
from ..emitted.pixel_tile import pixel_tile
from ..emitted.strided_tile import address
from ..emitted.transposition import transpose
from ..emitted.vectors import ITEMSIZE, LANES, copy_row, fill_row, finite_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import COLUMNS, ROWS
from .pixel_blocks import WHOLE, beside, copies, cut, dx_phases, fill_pixels, joined, tables

#: Bytes of a block's sums in the columns of one tile.
BLOCK_BYTES = 100 * 1024

#: More weights of a group than this do not stay in the cache.
WEIGHTS = 1 << 16


#: What is left of the vectors' use after sums have been transposed into the target.
GAIN = 0.9

#: Steps of a sum beside which that is little, where else a source with a stride of more than 2
#: would be read element by element.
LONG = 300


class Product(NamedTuple):
    """What the compiled loops need to know beside the source's blocks.  Offsets count elements."""

    rows: int  # target channels of a group
    width: int  # rows up to whole vectors
    tile: int  # columns of a tile
    lanes: int
    depth: int  # (source channel, tap): steps of the sum
    size_d: int  # of the target
    size_h: int
    size_w: int
    images: int  # of a block, and its pixels
    block_d: int
    block_h: int
    block_w: int
    stride_d: int  # in the padded source
    stride_h: int
    stride_w: int
    pads: int
    apart: int  # channels side by side of a group of several, or 0
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
    places: np.ndarray  # offset in the copy of the source of each pixel of a block
    steps: np.ndarray  # and of each (channel, tap)
    size: int  # of the workspace, in elements
    beside: Program | None  # for a source whose channels lie side by side
    phases: tuple = ()  # of dx at a stride: pixels of the target, taps, the program of each


#: And this many, times what vectors hold, are not packed by one thread while the other waits.
MOST = 1 << 23


def fits(g, forward) -> bool:
    """Could it be asked?  dx only at stride 1."""
    return (forward or g.stride == (1, 1, 1)) and 0 < math.prod(g.w_shape) <= MOST and g.batch > 0


def serves(g, dtype, forward) -> bool:
    """Do few weights meet images whose rows would leave vectors along them partly empty?"""
    rows, size = g.out_channels // g.groups, g.out
    reach = (g.window[2] - 1) * g.dilation[2]
    if forward:
        reach //= g.stride[2]
    elif g.stride != (1, 1, 1):
        return False
    else:
        rows, size = g.in_channels // g.groups, g.size
    if not 0 < math.prod(g.w_shape) // g.groups <= WEIGHTS or g.batch * math.prod(size) == 0:
        return False
    run = (size[0] * size[1] - 1) * (size[2] + reach) + size[2]
    used = math.prod(size) / (-(-run // COLUMNS[dtype]) * COLUMNS[dtype])
    lanes = rows / (-(-rows // LANES[dtype]) * LANES[dtype])
    if forward and g.stride[2] > 2 and g.taps * g.in_channels // g.groups >= LONG:
        return lanes >= GAIN
    if g.taps == 1 and math.prod(size) >= COLUMNS[dtype]:
        return False  # rows run into one another there
    return used < GAIN * lanes


def serves_last(g, dtype, forward) -> bool:
    """Are weights few, and lanes full, so that it is ahead wherever targets are channels-last?"""
    if not forward and g.stride != (1, 1, 1) and dx_phases(g) is None:
        return False
    rows = (g.out_channels if forward else g.in_channels) // g.groups
    few = 0 < math.prod(g.w_shape) // g.groups <= WEIGHTS
    return few and g.batch > 0 and rows % LANES[dtype] == 0


def build(g, dtype, threads, forward) -> Program:
    """For ConvGeometry ``g``; its dx where not ``forward``."""
    if not forward and g.stride != (1, 1, 1):
        phases = [(at, taps, build(seen, dtype, threads, False)) for at, taps, seen in dx_phases(g)]
        first = phases[0][2]
        return replace(first, phases=tuple(phases), size=max(one.size for *_, one in phases))
    channels = (g.in_channels if forward else g.out_channels) // g.groups
    planes = _build(g, dtype, threads, forward, 1)
    if channels == 1:
        return planes
    pixels = _build(g, dtype, threads, forward, channels)
    return replace(planes, beside=pixels, size=max(planes.size, pixels.size))


def _build(g, dtype, threads, forward, within):
    """``within``: channels that lie side by side in the source."""
    lanes = LANES[dtype]
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    source, target, lead = g.size, g.out, g.before
    if not forward:  # the forward pass over dy with every window turned round
        rows, channels, source, target = channels, rows, target, source
        lead = [(n - 1) * apart - before for n, apart, before in zip(g.window, g.dilation, lead)]
    width = -(-rows // lanes) * lanes
    columns = min(width, COLUMNS[dtype])
    limit = BLOCK_BYTES // (ITEMSIZE[dtype] * columns)
    shared = g.batch * math.prod(target) // (4 * threads)
    images, block = cut(g.batch, target, max(1, min(limit, max(shared, 4 * ROWS))))
    s = copies(g, channels, lead, target, images, block, lanes, within)
    places, steps = tables(g, channels, images, block, s, within)
    if not forward:
        steps = steps.reshape(channels, -1)[:, ::-1].ravel()
    reach = [(n - 1) * apart for n, apart in zip(g.window, g.dilation)]
    pads = any(before > 0 or (n - 1) * stride + more - before >= held
               for before, n, stride, more, held in zip(lead, target, g.stride, reach, source))
    packed_at = g.groups * width
    slots_at = packed_at * (1 + steps.size)
    sums_at = s.channels * s.plane
    slot = sums_at + columns * (places.size + lanes)
    apart = within if within > 1 and g.groups > 1 else 0
    product = Product(
        rows, width, COLUMNS[dtype], lanes, steps.size, *target, images, *block, *g.stride[:2],
        g.stride[2] * within, int(pads), apart, threads, packed_at, slots_at, slot, sums_at,
    )  # fmt: skip
    return Program(s, product, places, steps, slots_at + threads * slot, None)


def run(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, T, R, S) + bias.

    False, and nothing written, if a weight is not finite and would be multiplied with padding.
    """
    program = plan.program
    if not program.phases:
        return _run(v, u, w, bias, program, plan.threads, workspace)
    return all(_run(v[:, :, d, h, q], u, w[..., t, r, s], bias, one, plan.threads, workspace)
               for (d, h, q), (t, r, s), one in program.phases)  # fmt: skip


def _run(v, u, w, bias, p, threads, workspace):
    pixels = None
    if p.beside is not None:
        pixels = beside(u, p.blocks.groups)
    if pixels is not None:
        u, p = pixels, p.beside
    work, broken = workspace.view(v.dtype), np.zeros(1, np.int64)
    convolve(v.dtype, threads, v, broken, u, w, bias, work, p.places, p.steps, WHOLE,
             p.blocks, p.product)  # fmt: skip
    return not broken[0]


@kernel(lambda F: (out(F, 5), out(int64, 1), array(F, 5), array(F, 6), array(F, 1), out(F, 1),
                   array(int64, 1), array(int64, 1), array(int64, 2), BLOCKS, PRODUCT))  # fmt: skip
def convolve(v, broken, u, w, bias, work, places, steps, whole, s, p):
    """v, or broken[0] = 1 and nothing: see run."""
    high = (p.size_h + p.block_h - 1) // p.block_h
    wide = (p.size_w + p.block_w - 1) // p.block_w
    pieces = (p.size_d + p.block_d - 1) // p.block_d * high * wide
    tasks = pieces * ((s.batch + p.images - 1) // p.images) * s.groups
    if _pack(work, w, bias, p) and p.pads:
        broken[0] = 1
        tasks = 0
    for slot in prange(p.slots):
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            g, block = task % s.groups, task // s.groups
            n0, piece = block // pieces * p.images, block % pieces
            _block(v, u, work, places, steps, whole, p.slots_at + slot * p.slot, g, n0,
                   piece // (high * wide) * p.block_d, piece // wide % high * p.block_h,
                   piece % wide * p.block_w, s, p)  # fmt: skip


@helper
def _pack(work, w, bias, p):
    """Bias and weights to the workspace: [group][columns of a tile][(channel, tap)][column].

    Returns whether a weight is not finite.
    """
    groups, rows = w.shape[:2]
    if p.rows < p.width or bias.size == 0:  # lanes without a row, too: denormals are slow
        fill_row(work, 0, work.dtype.type(0), p.slots_at)
    for g in range(groups):
        for k in range(rows if bias.size else 0):
            store(work, g * p.width + k, load(bias, (g * rows + k) * step(bias, 0)))
        for k in range(0, rows, p.tile):
            _pack_columns(work, p.packed_at + (g * p.width + k) * p.depth, w,
                          g * step(w, 0) + k * step(w, 1), min(p.tile, p.width - k),
                          min(p.tile, rows - k), p)  # fmt: skip
    return not finite_row(work, p.packed_at, p.slots_at - p.packed_at)


@helper
def _pack_columns(work, to, w, start, columns, rows, p):
    """``rows`` weights side by side for each (channel, tap)."""
    _, _, channels, T, R, S = w.shape
    taps, k_step = T * R * S, step(w, 1)
    lie = step(w, 5) == 1 and step(w, 4) == S and step(w, 3) == R * S
    if lie and step(w, 2) == taps:
        transpose(work, to, columns, w, start, k_step, rows, channels * taps, p.lanes)
        return
    for c in range(channels):
        at = start + c * step(w, 2)
        if lie and taps > 1:
            transpose(work, to + c * taps * columns, columns, w, at, k_step, rows, taps, p.lanes)
            continue
        for tap in range(taps):
            t, r, q = tap // (R * S), tap // S % R, tap % S
            source = at + t * step(w, 3) + r * step(w, 4) + q * step(w, 5)
            target = to + (c * taps + tap) * columns
            for i in range(rows):
                store(work, target + i, load(w, source + i * k_step))


@helper
def _block(v, u, work, places, steps, whole, buffer, g, n0, d0, h0, w0, s, p):
    """One block of the target, every channel of one group."""
    images = min(p.images, s.batch - n0)
    depth, height = min(p.block_d, p.size_d - d0), min(p.block_h, p.size_h - h0)
    width = min(p.block_w, p.size_w - w0)
    if p.apart:
        fill_pixels(work, buffer, u, g, p.apart, n0, images, d0 * p.stride_d, h0 * p.stride_h,
                    w0 * p.stride_w, s)  # fmt: skip
    else:
        fill(work, buffer, u, whole, g * s.channels, s.channels, n0, images, d0 * p.stride_d,
             h0 * p.stride_h, w0 * p.stride_w, s)  # fmt: skip
    to = (n0 * step(v, 0) + g * p.rows * step(v, 1) + d0 * step(v, 2) + h0 * step(v, 3)
          + w0 * step(v, 4))  # fmt: skip
    sums, apart = buffer + p.sums_at, step(v, 4)
    images, depth, height, width = joined(v, images, depth, height, width)
    for k in range(0, p.rows, p.tile):
        columns = min(p.tile, p.width - k)
        if step(v, 1) != 1 or p.rows < p.width:
            _sum(work, 0, images * depth * height * width, address(work, sums), columns, columns,
                 buffer, places, steps, g * p.width + k, p)  # fmt: skip
            _write(v, to + k * step(v, 1), work, sums, columns, min(columns, p.rows - k), images,
                   depth, height, width, p)  # fmt: skip
            continue
        first = 0
        for i in range(images):
            for z in range(depth):
                for y in range(height):
                    at = to + k + i * step(v, 0) + z * step(v, 2) + y * step(v, 3)
                    _sum(work, first, width, address(v, at), apart, columns, buffer, places, steps,
                         g * p.width + k, p)  # fmt: skip
                    first += width


@helper
def _sum(work, first, pixels, to, apart, columns, buffer, places, steps, k, p):
    """The sums of ``pixels`` pixels in ``columns`` channels from k on, which is of all groups.

    They go to the address ``to``, those of pixels ``apart`` from one another.
    """
    zero = work.dtype.type(0)
    weights, bias = address(work, p.packed_at + k * p.depth), address(work, k)
    tiles = (pixels + ROWS - 1) // ROWS
    for i in range(tiles):  # of about the same height
        begin, end = i * pixels // tiles, (i + 1) * pixels // tiles
        pixel_tile(zero, end - begin, columns // p.lanes, address(work, buffer),
                   address(places, first + begin), address(steps, 0), p.depth, weights, columns,
                   to + begin * apart * work.itemsize, apart, bias, 0)  # fmt: skip


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
