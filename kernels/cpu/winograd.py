"""The forward convolution and dx of 3 x 3 windows at stride 1 by Winograd's minimal filtering.

A tile of 4 x 4 outputs takes 36 products a channel instead of 144 (winograd_transforms.py has the
algebra).  A thread transforms a block of tiles, a vector of channels at a time, and then, for one
panel of target channels after the other,

1. has the weights transformed:                            U [point][channel][columns]
2. multiplies, a matrix product for each point:            M [point][tile][columns]
3. transforms back, a vector of target channels at a time, and writes the rows.

The transformed tiles V [point][channels / lanes][tile][lanes] are what the register tile
broadcasts, a vector of the sum at a time (`tile_of_vectors`).  U of a panel and M stay in L2.
Where all of U does, it is made once, and the threads share the blocks.  Where it does not, the
threads share the panels of a block, and each makes the U of a panel when it comes to it: four
times the size of the weights, it would cost more to write and read than to make.

What the transforms cancel is larger than what is left: the relative L2 error is 1e-6 to 4e-6 in
float32, ten times that of a direct sum, so precision="strict" goes another way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from .jit import array, helper, int64, kernel, out, prange
from .memory import load, step, store
from .microkernel import COLUMNS, ROWS, tile_of_vectors
from .pixel_vectors import read_box, write_box
from .transposition import transpose
from .vectors import ITEMSIZE, LANES, fill_row, finite_row
from .winograd_transforms import (
    POINTS,
    PRODUCTS,
    SIDE,
    WINDOW,
    transform_outputs,
    transform_signal,
    transform_window,
)

#: U is made once where it is at most this large, and stays in an L2 of 1 MiB or more.
KEPT_BYTES = 640 * 1024
#: V of a block beside a U that is kept in L2, and beside one that is made for every block.
BLOCK_BYTES = 512 * 1024
LARGE_BLOCK_BYTES = 12 * 1024 * 1024
#: CHUNK steps of a panel of U stay in L1.
CHUNK = 256


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count elements."""

    planes: int  # images x their depth
    depth: int
    groups: int
    channels: int  # of a group, of the source
    rows: int  # of a group, of the target
    lead_h: int  # source position of a target position's first tap, negated
    lead_w: int
    high: int  # tiles of a plane
    wide: int
    pieces: int  # blocks: parts of all planes, and of the tiles of each
    pieces_h: int
    pieces_w: int
    lanes: int
    columns: int
    panels: int  # of columns
    splits: int  # parts of the panels that are tasks of their own
    kept: int  # whether U is made beforehand
    strip: int  # between rows of a strip of pixels
    v_vector: int  # between vectors of channels
    v_point: int
    m_point: int
    u_point: int
    slots: int  # threads with a buffer of their own
    zeros_at: int  # the workspace: flags, zeros, bias, U if kept, slots
    bias_at: int
    u_at: int
    slots_at: int
    slot: int  # length of a slot: a strip, V, M, U of a panel unless kept
    v_at: int
    m_at: int
    own_u_at: int


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)


@dataclass(frozen=True)
class Program:
    layout: Layout
    table: np.ndarray  # offset of each channel in V
    flip: bool  # the window is read backwards
    size: int  # of the workspace, in elements


def serves(g) -> bool:
    """Is this a 3 x 3 window at stride 1, whose planes are independent?"""
    return (
        g.window == (1, WINDOW, WINDOW)
        and g.stride == g.dilation == (1, 1, 1)
        and g.before[0] == g.after[0] == 0
    )


def tiles(g, flip) -> tuple[int, float]:
    """How many tiles there are, and the part of their outputs that is used."""
    depth, high, wide = g.size if flip else g.out
    plane = -(-high // SIDE) * -(-wide // SIDE)
    return g.batch * depth * plane, high * wide / (plane * SIDE * SIDE)


def build(g, flip, dtype, threads, budget) -> Program:
    """The forward convolution of geometry ``g``, or with ``flip`` its dx.

    ``budget`` is the number of bytes that all threads' buffers may take together.
    """
    lanes, columns = LANES[dtype], COLUMNS[dtype]
    channels, rows = g.in_channels // g.groups, g.out_channels // g.groups
    target, lead = g.out, g.before[1:]
    if flip:
        channels, rows = rows, channels
        target, lead = g.size, tuple(WINDOW - 1 - before for before in lead)
    planes, item = g.batch * target[0], ITEMSIZE[dtype]
    grid = tuple(-(-length // SIDE) for length in target[1:])
    panels, vectors = -(-rows // columns), -(-channels // lanes)
    u_point = odd(channels * columns // lanes, lanes)
    kept = g.groups * panels * PRODUCTS * u_point * item <= KEPT_BYTES
    splits = 1 if kept else min(threads, panels)
    limit = min(BLOCK_BYTES if kept else LARGE_BLOCK_BYTES, budget * 3 // 4 // threads)
    limit = max(ROWS, limit // (item * PRODUCTS * vectors * lanes))
    pieces = cut(planes, *grid, limit, -(-threads // splits))
    images, high, wide = (-(-n // parts) for n, parts in zip((planes, *grid), pieces))
    count = images * high * wide
    strip = (SIDE * wide + WINDOW - 1) * lanes
    v_point, m_point = odd(vectors * count, lanes), odd(count * columns // lanes, lanes)
    v_at = (SIDE * high + WINDOW - 1) * strip
    m_at = v_at + PRODUCTS * v_point
    own_u_at = m_at + PRODUCTS * m_point
    slot = own_u_at + (0 if kept else PRODUCTS * u_point)
    zeros_at = lanes * threads
    bias_at = zeros_at + max(lanes, ROWS)
    u_at = bias_at + g.groups * panels * columns
    slots_at = u_at + (g.groups * panels * PRODUCTS * u_point if kept else 0)
    made = Layout(
        planes, target[0], g.groups, channels, rows, *lead, *grid, *pieces, lanes,
        columns, panels, splits, int(kept), strip, count * lanes, v_point, m_point, u_point,
        threads, zeros_at, bias_at, u_at, slots_at, slot, v_at, m_at, own_u_at,
    )  # fmt: skip
    channel = np.arange(channels, dtype=np.int64)
    table = channel // lanes * (count * lanes) + channel % lanes
    return Program(made, table, flip, slots_at + threads * slot)


def odd(vectors, lanes):
    """An odd number of vectors between points spreads them over all sets of the cache."""
    return (vectors | 1) * lanes


def cut(planes, high, wide, limit, shares):
    """Into how many parts all planes, and the tiles of a plane, are cut: blocks of ``limit`` tiles.

    A multiple of ``shares``, where there are so many tiles.
    """
    if high * wide <= limit and planes >= shares:
        return _parts(planes, limit // (high * wide), shares), 1, 1
    shares = -(-shares // planes)
    if wide <= limit:
        return planes, _parts(high, limit // wide, shares), 1
    return planes, high, _parts(wide, limit, -(-shares // high))


def _parts(count, limit, shares):
    return min(count, -(-count // (limit * shares)) * shares)


def run(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, 1, 3, 3) + bias.

    False, and v is to be computed otherwise, if it is not finite: here an infinity in a tile
    reaches all of its outputs.
    """
    dtype, program = v.dtype, plan.program
    work, p = workspace[: program.size * v.itemsize].view(dtype), program.layout
    work[: p.u_at] = 0
    if bias.size:
        rows = work[p.bias_at : p.u_at].reshape(p.groups, -1)
        rows[:, : p.rows] = bias.reshape(p.groups, p.rows)
    if p.kept:
        pack(dtype, plan.threads, work, w, program.flip, p)
    convolve(dtype, plan.threads, v, u, w, work, program.table, program.flip, p)
    return not work[: p.zeros_at : p.lanes].any()


@kernel(lambda F: (out(F, 1), array(F, 6), types.boolean, LAYOUT))
def pack(work, w, flip, p):
    """w (G, rows, channels, 1, 3, 3) -> U [G][panel][point][channel][columns]."""
    tasks = p.groups * p.panels * p.channels
    for slot in prange(p.slots):
        scratch = p.slots_at + slot * p.slot
        for task in range(*part(slot, p.slots, tasks)):
            c, panel = task % p.channels, task // p.channels
            _weights(work, scratch, p.u_at + panel * PRODUCTS * p.u_point + c * p.columns,
                     w, flip, panel // p.panels, panel % p.panels, c, p)  # fmt: skip


@helper
def _weights(work, scratch, to, w, flip, g, panel, c, p):
    """U of one channel and one panel."""
    taps, row, column = WINDOW * WINDOW, WINDOW * p.lanes, p.lanes
    first = scratch
    if flip:
        first, row, column = scratch + (taps - 1) * p.lanes, -row, -column
    for k in range(0, p.columns, p.lanes):
        k0 = panel * p.columns + k
        count = min(p.lanes, p.rows - k0)
        if count < p.lanes:
            fill_row(work, scratch, work.dtype.type(0), taps * p.lanes)
        if count > 0:
            start = g * step(w, 0) + k0 * step(w, 1) + c * step(w, 2)
            _window(work, scratch, w, start, count, p)
        transform_window(work, first, row, column, to + k, POINTS * p.u_point, p.u_point, 0)


@helper
def _window(work, to, w, start, rows, p):
    """The window of one channel, its taps one after the other, ``rows`` target channels each."""
    if step(w, 5) == 1 and step(w, 4) == WINDOW:
        transpose(work, to, p.lanes, w, start, step(w, 1), rows, WINDOW * WINDOW, p.lanes)
        return
    for r in range(WINDOW):
        for s in range(WINDOW):
            at = start + r * step(w, 4) + s * step(w, 5)
            for k in range(rows):
                store(work, to + (r * WINDOW + s) * p.lanes + k, load(w, at + k * step(w, 1)))


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 6), out(F, 1), array(int64, 1),
                   types.boolean, LAYOUT))  # fmt: skip
def convolve(v, u, w, work, table, flip, p):
    """v = w over u; each slot is one thread's share of the blocks and panels."""
    tasks = p.pieces * p.pieces_h * p.pieces_w * p.groups * p.splits
    for slot in prange(p.slots):
        at = p.slots_at + slot * p.slot
        # lanes without a channel: what an earlier call left there could be slow denormals
        fill_row(work, at, work.dtype.type(0), p.v_at)
        for task in range(*part(slot, p.slots, tasks)):
            split, rest = task * p.splits // tasks, task % (tasks // p.splits)
            g, rest = rest % p.groups, rest // p.groups
            block = block_of(rest, p)
            _signal(work, at, u, g, block, p)
            for panel in range(*part(split, p.splits, p.panels)):
                weights = at + p.own_u_at
                if p.kept:
                    weights = p.u_at + (g * p.panels + panel) * PRODUCTS * p.u_point
                else:
                    for c in range(p.channels):
                        _weights(work, at, weights + c * p.columns, w, flip, g, panel, c, p)
                _multiply(work, at, table, weights, block[1] * block[3] * block[5], p)
                if not _finish(v, work, at, g, panel * p.columns, block, p):
                    store(work, slot * p.lanes, work.dtype.type(1))


@helper
def block_of(piece, p):
    """(first plane, planes, first tile and tiles high, wide) of a block."""
    w0, w1 = part(piece % p.pieces_w, p.pieces_w, p.wide)
    piece = piece // p.pieces_w
    h0, h1 = part(piece % p.pieces_h, p.pieces_h, p.high)
    first, end = part(piece // p.pieces_h, p.pieces, p.planes)
    return first, end - first, h0, h1 - h0, w0, w1 - w0


@helper
def part(index, parts, count):
    """(first, end) of one of ``parts`` shares of ``count``."""
    return index * count // parts, (index + 1) * count // parts


@helper
def _signal(work, at, u, g, block, p):
    """V of a block."""
    first, images, h0, high, w0, wide = block
    for c in range(0, p.channels, p.lanes):
        to = at + p.v_at + c // p.lanes * p.v_vector
        for i in range(images):
            read_box(work, at, p.strip, p.lanes, u, first + i, p.depth, g * p.channels + c,
                     min(p.lanes, p.channels - c), SIDE * h0 - p.lead_h, SIDE * high + WINDOW - 1,
                     SIDE * w0 - p.lead_w, SIDE * wide + WINDOW - 1)  # fmt: skip
            for y in range(high):
                for x in range(wide):
                    start = at + SIDE * (y * p.strip + x * p.lanes)
                    transform_signal(work, start, p.strip, p.lanes,
                                     to + ((i * high + y) * wide + x) * p.lanes,
                                     POINTS * p.v_point, p.v_point, 0)  # fmt: skip


@helper
def _multiply(work, at, table, weights, tiles, p):
    """M = V * U at every point, for one panel."""
    share = (tiles + ROWS - 1) // ROWS
    rows = (tiles + share - 1) // share
    for point in range(PRODUCTS):
        v, m = at + p.v_at + point * p.v_point, at + p.m_at + point * p.m_point
        u = weights + point * p.u_point
        for c in range(0, p.channels, CHUNK):
            for t in range(0, tiles, rows):
                tile_of_vectors(min(rows, tiles - t), work, v + t * p.lanes, table, c,
                                work, u + c * p.columns, p.columns, min(CHUNK, p.channels - c),
                                work, m + t * p.columns, p.columns, work, p.zeros_at, c)  # fmt: skip


@helper
def _finish(v, work, at, g, k0, block, p):
    """One panel of a block of v from M; whether all of it is finite."""
    first, images, h0, high, w0, wide = block
    row = SIDE * wide * p.lanes
    width = min(SIDE * wide, v.shape[4] - SIDE * w0)
    finite = True
    for k in range(0, min(p.columns, p.rows - k0), p.lanes):
        bias = p.bias_at + g * p.panels * p.columns + k0 + k
        for i in range(images):
            for y in range(high):
                for x in range(wide):
                    m = at + p.m_at + ((i * high + y) * wide + x) * p.columns + k
                    transform_outputs(work, m, POINTS * p.m_point, p.m_point,
                                      at + SIDE * x * p.lanes, row, p.lanes, bias)  # fmt: skip
                h = SIDE * (h0 + y)
                inside = min(SIDE, v.shape[3] - h)
                for r in range(inside):
                    finite = finite_row(work, at + r * row, width * p.lanes) and finite
                write_box(v, first + i, p.depth, g * p.rows + k0 + k,
                          min(p.lanes, p.rows - k0 - k), h, inside, SIDE * w0, width,
                          work, at, row, p.lanes)  # fmt: skip
    return finite
