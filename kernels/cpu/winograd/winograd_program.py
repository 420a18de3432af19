"""The sizes of a convolution as winograd_conv.py runs it, worked out when the plan is made.

With what its kernels share: blocks of tiles, and windows as vectors of target channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from ..amx.amx_program import round_up
from ..emitted.memory import load, step, store
from ..emitted.transposition import transpose
from ..emitted.vectors import ITEMSIZE, LANES
from ..jit import helper, int64
from ..microkernel import COLUMNS, ROWS
from ..pixel_major.pixel_blocks import offsets
from .winograd_transforms import POINTS, PRODUCTS, WINDOWS, side_of

#: U is made once where it is at most this large, and stays in an L2 of 1 MiB or more.
KEPT_BYTES = 640 * 1024
#: Where there are READ_ABOVE times more tiles than target channels it may be so much larger, and is
#: read from further away: making it for every block costs more.
READ_BYTES, READ_ABOVE = 4 * 1024 * 1024, 8
#: Multiply-adds that take as long as transforming one number.
PRODUCTS_FOR_ONE = 45
#: V of a block beside a U that is kept in L2, and beside one that is made for every block.
BLOCK_BYTES = 512 * 1024
LARGE_BLOCK_BYTES = 12 * 1024 * 1024

#: pixels that a tile reads
PATCH = POINTS * POINTS


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count elements."""

    planes: int  # images x their depth
    depth: int
    groups: int
    window: int  # taps, each way
    side: int  # outputs of a tile, each way
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
    marks: int  # the workspace: a mark for each tile of each group ...
    zeros_at: int  # ... zeros, bias, U if kept, slots
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
    places: np.ndarray  # of each output of a tile in a PATCH ...
    taps: np.ndarray  # ... and, from there, of each (channel, tap)
    flip: bool  # the window is read backwards
    size: int  # of the workspace, in elements


def serves(g) -> bool:
    """Is this a window there are transforms for, at stride 1, whose planes are independent?"""
    return (
        g.window in [(1, window, window) for window in WINDOWS]
        and g.stride == g.dilation == (1, 1, 1)
        and g.before[0] == g.after[0] == 0
    )


def tiles(g, flip) -> tuple[int, float]:
    """How many tiles there are, and the part of their outputs that is used."""
    depth, high, wide = g.size if flip else g.out
    side = side_of(g.window[2])
    plane = -(-high // side) * -(-wide // side)
    return g.batch * depth * plane, high * wide / (plane * side * side)


def build(g, flip, dtype, threads, budget) -> Program:
    """The forward convolution of geometry ``g``, or with ``flip`` its dx.

    ``budget`` is the number of bytes that all threads' buffers may take together.
    """
    lanes, columns = LANES[dtype], COLUMNS[dtype]
    window = g.window[2]
    side = side_of(window)
    channels, rows = g.in_channels // g.groups, g.out_channels // g.groups
    target, lead = g.out, g.before[1:]
    if flip:
        channels, rows = rows, channels
        target, lead = g.size, tuple(window - 1 - before for before in lead)
    planes, item = g.batch * target[0], ITEMSIZE[dtype]
    grid = tuple(-(-length // side) for length in target[1:])
    panels, vectors = -(-rows // columns), -(-channels // lanes)
    u_point = odd(channels * columns // lanes, lanes)
    kept = _keeps(g.groups * panels * PRODUCTS * u_point * item, planes * math.prod(grid), rows)
    limit = min(BLOCK_BYTES if kept else LARGE_BLOCK_BYTES, budget * 3 // 4 // threads)
    limit = max(ROWS, limit // (item * PRODUCTS * vectors * lanes))
    shares = [1] if kept else [min(threads, panels), 1]
    splits, pieces = _shared((planes, *grid), limit, g.groups, panels, columns, threads, shares)
    images, high, wide = (-(-n // parts) for n, parts in zip((planes, *grid), pieces))
    count = images * high * wide
    strip = (side * wide + window - 1) * lanes
    v_point, m_point = odd(vectors * count, lanes), odd(count * columns // lanes, lanes)
    v_at = (side * high + window - 1) * strip
    m_at = v_at + PRODUCTS * v_point
    own_u_at = m_at + PRODUCTS * m_point
    slot = own_u_at + (0 if kept else PRODUCTS * u_point)
    slot = max(slot, again_elements(channels, window, lanes))
    marks = g.groups * planes * math.prod(grid)
    zeros_at = round_up(marks, lanes)
    bias_at = zeros_at + max(lanes, ROWS)
    u_at = bias_at + g.groups * panels * columns
    slots_at = u_at + (g.groups * panels * PRODUCTS * u_point if kept else 0)
    made = Layout(
        planes, target[0], g.groups, window, side, channels, rows, *lead, *grid, *pieces,
        lanes, columns, panels, splits, int(kept), strip, count * lanes, v_point, m_point,
        u_point, threads, marks, zeros_at, bias_at, u_at, slots_at, slot, v_at, m_at, own_u_at,
    )  # fmt: skip
    channel = np.arange(channels, dtype=np.int64)
    table = channel // lanes * (count * lanes) + channel % lanes
    taps = offsets((channels, window, window), (PATCH, POINTS, 1))
    if flip:
        taps = taps.reshape(channels, -1)[:, ::-1].ravel()
    places = offsets((side, side), (POINTS, 1))
    return Program(made, table, places, taps, flip, slots_at + threads * slot)


def _keeps(size, tiles, rows):
    """Is U, of ``size`` bytes, made once for all blocks?"""
    return size <= KEPT_BYTES or size <= READ_BYTES and tiles >= READ_ABOVE * rows


def _shared(shape, limit, groups, panels, columns, threads, possible):
    """(splits, pieces): how many threads share the panels of a block; how ``shape`` tiles are cut.

    Those who share a block all transform its pixels; those with blocks of their own, its weights.
    """
    def cut_for(splits):
        return cut(*shape, limit, threads // math.gcd(threads, groups * splits))

    def cost(splits):
        """Of the thread with most to do, for each channel and point: numbers that it transforms."""
        blocks, weights = math.prod(cut_for(splits)), -(-panels // splits) * columns
        tiles = math.prod(shape) / blocks
        each = tiles + weights + tiles * weights / PRODUCTS_FOR_ONE
        return -(-blocks * groups * splits // threads) * each

    splits = min(possible, key=cost)
    return splits, cut_for(splits)


def again_elements(channels, window, lanes):
    """What winograd_again.py needs: a vector of filters, the PATCH of each channel, a tile."""
    filters = channels * (window * window * lanes + PATCH)
    return round_up(filters, lanes) + side_of(window) ** 2 * lanes


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
def read_window(work, to, w, start, rows, p):
    """The window of one channel, its taps one after the other, ``rows`` target channels each."""
    if step(w, 5) == 1 and step(w, 4) == p.window:
        transpose(work, to, p.lanes, w, start, step(w, 1), rows, p.window * p.window, p.lanes)
        return
    for r in range(p.window):
        for s in range(p.window):
            at = start + r * step(w, 4) + s * step(w, 5)
            for k in range(rows):
                store(work, to + (r * p.window + s) * p.lanes + k, load(w, at + k * step(w, 1)))
