"""dw of 1 x 1 windows as one product with the pixels of all images.

    dw[k, c] = sum over n and p of dy[n, k, p] * x[n, c, pixel p]

Blocks of dw, and parts of the sum, are those of matrix_product.py.  But x is packed from where its
pixels lie, so that a stride is taken out on the way; and what is packed at a time, a unit, is some
rows of an image's pixels, or a few small images, as tiles read and write their sums once a unit.
Meanwhile tiles ask for what comes next, run by run of lines: for the next panel of dy, then for the
pixels that are packed next.

The rows of dy are read where they lie, unless they are those of several images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from numba import types

from gradroute.geometry import MatmulGeometry

from ..amx.amx_program import round_up
from ..emitted.memory import step
from ..emitted.strided_tile import address, run_from, runs_tile
from ..emitted.transposition import transpose
from ..emitted.vectors import ITEMSIZE, LINE, add_row, copy_row, fill_row
from ..jit import array, helper, int64, kernel, out, prange
from . import product_blocks
from .joined_pixels import PLACES, ahead_of, asked, begin_at, placed, run_bits, take_row
from .matrix_product import add_parts, block_at, blocks_of_product, rows_keep_apart, write_block
from .product_blocks import BLOCK_COLUMNS, CHUNK

#: Images of more pixels are not joined.
MOST_PIXELS = 128

#: Pixels of joined images, about, and bytes of a unit's pixels at most.
JOINED = 400
UNIT_BYTES = 1600 * 1024

#: Joining copies what a pixel has, channels of dy and of x, and saves reading and writing the sums
#: once an image: how many sums there have to be for each number copied, and beyond what L1 keeps.
SAVED, LEAST_SUMS = 5, 128 * 128


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count elements."""

    rows: int  # of a block of dw
    columns: int
    panel: int
    width: int  # of a tile
    lanes: int
    item: int  # bytes of an element
    parts: int  # of the sum
    stretches: int  # of a part
    units: int  # what is packed at a time, in all
    pieces: int  # units of an image, or 0: a unit is
    images: int  # so many images
    uncut: int  # pixels of one row, or vector, which units do not cut
    slots: int  # threads with memory of their own: rows of dy, of x, strips, sums
    slot: int
    apart: int  # rows of dy or x
    row_at: int
    b_at: int
    c_at: int
    total_at: int  # of the stretches
    parts_at: int
    bits: int  # log2 of the steps of a run of lines of x that tiles ask for
    hop: int  # elements from step to step
    left_bits: int  # the same of dy
    left_hop: int


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)


@dataclass(frozen=True)
class Program:
    layout: Layout
    stride: tuple[int, int, int]  # of x
    size: int  # of the workspace, in elements


def serves(g, rows, channels) -> bool:
    """Is there a stride to take out, or are images small beside dw?"""
    if g.out_plane == 1:
        return False
    least = max(LEAST_SUMS, SAVED * g.out_plane * (rows + channels))
    joins = g.out_plane < MOST_PIXELS and rows * channels >= least
    return joins or g.stride != (1, 1, 1)


def build(batch, rows, channels, pixels, stride, line, dtype, threads) -> Program:
    """dw (rows, channels) of images of ``pixels`` outputs each, in rows of ``line``."""
    item = ITEMSIZE[dtype]
    product = MatmulGeometry(1, batch, rows, channels, pixels)
    p = product_blocks.build(product, dtype, threads).blocking
    strided = stride != (1, 1, 1)
    pieces, images, uncut, depth = _units(batch, channels, pixels, line if strided else pixels, p,
                                           dtype)  # fmt: skip
    units = batch * pieces or -(-batch // images)
    stretches = max(1, min(p.pieces, units // p.parts))
    apart = round_up(depth, p.lanes) + LINE // item
    row_at = apart * p.panel
    b_at = row_at + apart * p.lanes
    c_at = b_at + depth * p.columns
    total_at = c_at + (p.rows * p.columns if stretches > 1 else 0)
    slot = round_up(total_at + (p.rows * p.columns if p.parts == 1 else 0), p.lanes)
    run = (line - 1) * stride[2] + 1 if strided else min(depth, pixels)
    left = depth if pieces else p.panel * pixels
    left_bits = run_bits(left, item)
    layout = Layout(p.rows, p.columns, p.panel, p.width, p.lanes, item, p.parts, stretches, units,
                    pieces, images, uncut, threads, slot, apart, row_at, b_at, c_at, total_at,
                    threads * slot, run_bits(run, item), LINE // item, left_bits,
                    -(-left >> left_bits))  # fmt: skip
    of_parts = p.parts * rows * p.columns if p.parts > 1 else 0
    return Program(layout, stride, threads * slot + of_parts)


def _units(batch, channels, pixels, line, p, dtype):
    """(units of an image or 0, images of a unit, pixels that units do not cut, pixels of a unit)"""
    joined = pixels < MOST_PIXELS
    most = JOINED if joined else CHUNK[dtype]
    # not of a block's columns: units, between which a sum is cut, must not depend on threads
    columns = p.columns if p.parts > 1 else min(channels, BLOCK_COLUMNS)
    most = max(p.width, min(most, UNIT_BYTES // (columns * ITEMSIZE[dtype])))
    if joined:
        images = product_blocks.even(batch // p.parts, max(1, most // pixels))
        return 0, images, pixels, images * pixels
    line = line if line <= most else p.lanes
    lines = -(-pixels // line)
    pieces = -(-lines // product_blocks.even(lines, most // line))
    return pieces, 1, line, -(-lines // pieces) * line


def run(dw, dy, x, program, threads, workspace) -> bool:
    """dw (rows, channels) from dy and x; False if images lie otherwise."""
    found = placed(dy, x, program.stride)
    if found is None:
        return False
    left, source, places = found
    product(dw.dtype, threads, dw[None], left[:, :, 0, 0], source, workspace.view(dw.dtype), places,
            program.layout)  # fmt: skip
    return True


@kernel(lambda F: (out(F, 3), array(F, 3), array(F, 5), out(F, 1), PLACES, LAYOUT))
def product(dw, dy, x, work, places, p):
    """dw (1, K, C) = sum over n of dy[n] (K, pixels) @ the pixels of x that ``places`` names."""
    tasks = blocks_of_product(dw, p)
    for slot in prange(p.slots):
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            _block(task, slot * p.slot, dw, dy, x, work, places, p)
    if p.parts > 1:
        for slot in prange(p.slots):
            add_parts(slot, dw, work, dy[0, :0], p)


@helper
def _block(task, base, dw, dy, x, work, places, p):
    """One block of dw, or a part of its sums."""
    part, i0, rows, j0, columns = block_at(task, dw, p)
    block, to = (i0, rows, j0, columns), i0 * step(dw, 1) + j0 * step(dw, 2)
    if p.parts * p.stretches == 1 and step(dw, 2) == 1:
        _stretch(address(dw, to), step(dw, 1), dy, x, work, places, base, block, 0, p)
        return
    total = base + p.total_at
    if p.parts > 1:
        total = p.parts_at + (part * dw.shape[1] + i0) * p.columns
    for stretch in range(p.stretches):
        sums = base + p.c_at if stretch else total
        _stretch(address(work, sums), p.columns, dy, x, work, places, base, block,
                 part * p.stretches + stretch, p)  # fmt: skip
        for row in range(rows if stretch else 0):
            add_row(work, total + row * p.columns, work, sums + row * p.columns, columns)
    if p.parts == 1:
        write_block(dw, to, work, total, p.columns, rows, columns, p)


@helper
def _stretch(to, ldc, dy, x, work, places, base, block, stretch, p):
    """The sums of a block over some units, at the address ``to``."""
    count = p.parts * p.stretches
    first, end = stretch * p.units // count, (stretch + 1) * p.units // count
    for unit in range(first, end):
        following = min(unit + 1, end - 1)
        _unit(to, ldc, dy, x, work, places, base, block, unit, following, int(unit > first), p)


@helper
def _pixels_of(unit, dy, p):
    """(image, first pixel, pixels) of a unit."""
    N, _, pixels = dy.shape
    if p.pieces == 0:
        return unit * p.images, 0, min(p.images, N - unit * p.images) * pixels
    n, piece = unit // p.pieces, unit % p.pieces
    rows = (pixels + p.uncut - 1) // p.uncut
    first, end = piece * rows // p.pieces * p.uncut, (piece + 1) * rows // p.pieces * p.uncut
    return n, first, min(end, pixels) - first


@helper
def _unit(to, ldc, dy, x, work, places, base, block, unit, following, resume, p):
    """Adds the products of a unit's pixels; asks for those of the ``following`` one."""
    i0, rows, j0, columns = block
    pixels = dy.shape[2]
    n, first, depth = _pixels_of(unit, dy, p)
    _pack(work, base, x, places, n, first, depth, pixels, j0, columns, p)
    behind, other, count = _pixels_of(following, dy, p)
    ahead = ahead_of(x, places, pixels, j0, columns if following != unit else 0,
                     behind * pixels + other, count, p)  # fmt: skip
    start, lines = n * step(dy, 0) + i0 * step(dy, 1) + first, 0
    for i in range(0, rows, p.panel):
        high = min(p.panel, rows - i)
        later = start + (i + p.panel) * step(dy, 1)
        if i + p.panel >= rows:
            later = behind * step(dy, 0) + i0 * step(dy, 1) + other
        lines = _panel(to + i * ldc * p.item, ldc, dy, start + i * step(dy, 1), work, base, high,
                       depth, columns, resume, later, x, ahead, lines, p)  # fmt: skip


@helper
def _panel(to, ldc, dy, start, work, base, rows, depth, columns, resume, later, x, ahead, lines,
           p):  # fmt: skip
    """A panel of dy times all strips.

    ``lines`` of the pixels packed next were asked for before; returns how many are now.
    """
    zero = work.dtype.type(0)
    a, a_row = address(dy, start), step(dy, 1)
    if p.pieces == 0 or not rows_keep_apart(a_row, columns, p):
        _copy_rows(work, base, dy, start, rows, depth, p)
        a, a_row = address(work, base), p.apart
    apart, runs = (step(dy, 1), rows) if p.pieces else (step(dy, 0), p.images)
    for strip in range((columns + p.width - 1) // p.width):
        if strip * depth >> p.left_bits < runs:
            fetched, hop, run, place, jump = run_from(dy, later, apart, strip * depth, p.left_bits,
                                                      p.left_hop)  # fmt: skip
        else:
            fetched, hop, run, place, jump = asked(x, ahead, lines, p)
            if hop == 0:
                fetched = a
            lines += depth
        runs_tile(zero, rows, min(p.width, columns - strip * p.width), a, 1, a_row,
                  address(work, base + p.b_at + strip * p.width * depth), p.width, depth,
                  to + strip * p.width * p.item, ldc, resume, fetched, hop, run, place,
                  jump)  # fmt: skip
    return lines


@helper
def _copy_rows(work, to, dy, start, rows, depth, p):
    """work[to:] = a panel of dy, its rows ``apart``."""
    pixels = dy.shape[2]
    for row in range(rows):
        source, done = start + row * step(dy, 1), 0
        while done < depth:
            count = min(pixels, depth - done)
            copy_row(work, to + row * p.apart + done, dy, source, count)
            source, done = source + step(dy, 0), done + count


@helper
def _pack(work, base, x, places, n, first, depth, pixels, j0, columns, p):
    """A unit's pixels, strip after strip: some channels' rows side by side, then transposed.

    The last strip is filled up with zeros: what lay there may be denormal, which is slow.
    """
    row_at, begin = base + p.row_at, begin_at(places, pixels, n * pixels + first)
    for j in range(0, columns, p.lanes):
        count = min(p.lanes, columns - j)
        for c in range(count):
            channel = (j0 + j + c) * step(x, 1)
            take_row(work, row_at + c * p.apart, x, channel, places, pixels, begin, depth)
        to = base + p.b_at + j // p.width * p.width * depth + j % p.width
        transpose(work, to, p.width, work, row_at, p.apart, count, depth, p.lanes)
        behind = j % p.width + count
        if j + count == columns:
            for at in range(depth if behind < p.width else 0):
                fill_row(work, to - j % p.width + behind + at * p.width, work.dtype.type(0),
                         p.width - behind)  # fmt: skip
