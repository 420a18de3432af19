"""Forward and dx of 1 x 1 windows as one product with the pixels of all images.

    y[n, i, pixel] = sum over l of a[i, l] * x[n, l, pixel] + bias[i]

The columns of the product are pixels, image after image, so that images of 7 x 7 fill tiles and
share what is packed of a; a stride is taken out of x on the way.  A thread packs a block of
columns into strips one tile wide, some of their terms at a time; then panel after panel of a
passes by.  There are two ways:

- Many pixels: a is packed once, by all threads, so that blocks may be small.  Then a block, its
  sums and the pixels that are packed next fit L2, and tiles ask for those meanwhile, run by run of
  lines, as packing would wait for them.  joined_strips.py has this way.
- Few: blocks are as large as L2 allows, as each of them packs a anew, panel by panel.  Sums go from
  the panel to the images when they are complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from numba import types

from ..emitted.memory import load, step
from ..emitted.strided_tile import address, strided_tile
from ..emitted.vectors import ITEMSIZE, LANES, LINE, fill_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import COLUMNS, ROWS
from .joined_pixels import (
    PLACES,
    columns_of,
    pack_pixels,
    placed,
    run_bits,
    strip_at,
    strips_elements,
    write,
)
from .joined_strips import shared_block
from .matrix_product import asks_for_a, pack_panel, panel_of_a
from .product_blocks import BLOCK_BYTES, CHUNK, PIECE, SHORT_CHUNK, SLOTS_BYTES

#: Bytes of a row of a block's pixels: fewer make more of packing a, more leave less room for terms.
LEAST_BYTES, MOST_BYTES = 4096, 8192

#: The same where a is packed once, and the least for blocks that do not end with images.
SHARED_BYTES, SHARED_LEAST_BYTES = 1792, 896

#: Bytes of a block's terms that are packed at a time, and of the lines where those lie that are
#: packed next.
SHARED_BLOCK = 896 * 1024

#: Blocks end with the image where that leaves less than one of so many lanes without a pixel:
#: strips across two images are packed, and their sums copied.
WITHIN = 32

#: Blocks of a thread from which on packing a once pays.
LEAST_BLOCKS = 3


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count elements."""

    rows: int  # of a block
    columns: int  # of one, at most
    pieces: int  # blocks of an image, or 0: blocks do not end with images
    runs: int  # blocks of columns
    splits: int  # blocks of rows: tasks of one block of columns
    panel: int
    width: int  # of a tile
    lanes: int
    item: int  # bytes of an element
    chunk: int  # terms of a panel of a at a time
    depth: int  # terms that are packed at a time: whole chunks, or all
    slots: int  # threads with memory of their own: a panel of a, a row of pixels, strips, sums
    slot: int
    row_at: int
    b_at: int
    c_at: int
    packed_at: int  # a, chunk by chunk and in it panel by panel; or 0: each block packs it
    bits: int  # log2 of the steps of a run of lines that tiles ask for
    hop: int  # elements from step to step


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)


@dataclass(frozen=True)
class Program:
    layout: Layout
    stride: tuple[int, int, int]  # of the source
    size: int  # of the workspace, in elements


def serves(terms) -> bool:
    """Is a sum in one go short enough for its error?"""
    return terms <= PIECE


def shares(batch, pixels, dtype, threads) -> bool:
    """Are there pixels enough for packing a once?"""
    return _blocks(batch, pixels, dtype, threads)[1] >= LEAST_BLOCKS * threads


def _blocks(batch, pixels, dtype, threads):
    """(blocks of an image or 0, all blocks) where a is packed once."""
    if -pixels % LANES[dtype] * WITHIN < pixels:
        pieces = -(-pixels * ITEMSIZE[dtype] // SHARED_BYTES)
        return pieces, batch * pieces
    size = batch * pixels * ITEMSIZE[dtype]
    runs = max(-(-size // SHARED_BYTES), min(size // SHARED_LEAST_BYTES, LEAST_BLOCKS * threads))
    return 0, runs + (-runs % threads if runs < 8 * threads else 0)


def _columns(pixels, blocks, width):
    """Columns of the largest of so many blocks: whole strips."""
    return -(-(-(-pixels // width)) // blocks) * width


def build(batch, rows, terms, pixels, stride, line, turned, dtype, threads) -> Program:
    """Images of ``pixels`` outputs each, in rows of ``line``.

    ``turned``: do the rows of a lie side by side?
    """
    if shares(batch, pixels, dtype, threads):
        return _shared(batch, rows, terms, pixels, stride, line, dtype, threads)
    width, lanes, item = COLUMNS[dtype], LANES[dtype], ITEMSIZE[dtype]
    most = max(LEAST_BYTES, min(MOST_BYTES, BLOCK_BYTES // terms)) // item
    count = -(-batch * pixels // most)
    if batch * pixels >= max(rows, 4 * width * threads) and count < 8 * threads:
        count += -count % threads
    columns = _columns(batch * pixels, count, width)
    splits = _splits(count, threads)
    chunk, cuts = _pieces(terms, (SHORT_CHUNK if turned else CHUNK)[dtype])
    _, pieces = _pieces(cuts, max(1, BLOCK_BYTES // (columns * chunk * item)))
    depth = min(terms, -(-cuts // pieces) * chunk)
    held = SLOTS_BYTES // (threads * columns * item) if pieces > 1 else rows
    splits = max(1, min(-(-rows // ROWS), max(splits, -(-rows // max(held, ROWS)))))
    share, panel = _panels(rows, splits)
    row_at = -(-panel * chunk // lanes) * lanes
    b_at = row_at + columns
    c_at = b_at + strips_elements(depth, columns, chunk, width, item)
    slot = c_at + (share if pieces > 1 else panel) * columns
    layout = Layout(share, columns, 0, count, -(-rows // share), panel, width, lanes, item, chunk,
                    depth, threads, slot, row_at, b_at, c_at, 0, 0, 0)  # fmt: skip
    return Program(layout, stride, threads * slot)


def _shared(batch, rows, terms, pixels, stride, line, dtype, threads):
    """The blocks where a is packed once."""
    width, lanes, item = COLUMNS[dtype], LANES[dtype], ITEMSIZE[dtype]
    pieces, runs = _blocks(batch, pixels, dtype, threads)
    columns = _columns(pixels if pieces else batch * pixels, pieces or runs, width)
    chunk, cuts = _pieces(terms, SHORT_CHUNK[dtype])
    block = (1 + stride[2]) * columns * chunk * item
    _, parts = _pieces(cuts, max(1, SHARED_BLOCK // block))
    depth = min(terms, -(-cuts // parts) * chunk)
    share, panel = _panels(rows, min(_splits(runs, threads), -(-rows // ROWS)))
    strided = stride != (1, 1, 1)
    length = (line - 1) * stride[2] + 1 if strided else min(columns, pixels)
    runs_of_lines = depth * (-(-columns // line) + 1 if strided else -(-columns // length))
    bits = run_bits(length, item)
    steps, repeated = -(-share // panel) * (columns // width) * depth, 0
    while repeated < 2 and runs_of_lines << (bits + repeated + 1) <= steps:
        repeated += 1  # each line is asked for 2 or 4 times, so that all take as long as the tiles
    b_at = columns
    c_at = b_at + strips_elements(depth, columns, chunk, width, item)
    slot = c_at + (0 if pieces else (share if depth < terms else panel) * columns)
    layout = Layout(share, columns, pieces, runs, -(-rows // share), panel, width, lanes, item,
                    chunk, depth, threads, slot, 0, b_at, c_at, threads * slot,
                    bits + repeated, LINE // item >> repeated)  # fmt: skip
    return Program(layout, stride, threads * slot + rows * terms)


def _splits(runs, threads):
    """Blocks of rows, so that threads have even shares."""
    return 1 if runs % threads == 0 or runs >= 8 * threads else threads


def _panels(rows, splits):
    """(rows of a block, of a panel)"""
    share = -(-rows // splits)
    panel = -(-share // -(-share // ROWS))
    return -(-share // panel) * panel, panel


def _pieces(count, most):
    """The size of even pieces of ``count`` of at most ``most``, and their number."""
    pieces = -(-count // most)
    return -(-count // pieces), pieces


def run(v, u, w, bias, program, threads, workspace) -> bool:
    """v = u convolved with w (rows, channels), plus bias; False if images lie otherwise."""
    found = placed(v, u, program.stride)
    if found is None:
        return False
    target, source, places = found
    product(v.dtype, threads, target, source, w[None, None], bias, workspace.view(v.dtype), places,
            program.layout)  # fmt: skip
    return True


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 4), array(F, 1), out(F, 1), PLACES, LAYOUT))
def product(y, x, a, bias, work, places, p):
    """y (N, I, 1, 1, pixels) = a (1, 1, I, L) @ the pixels of x that ``places`` names, + bias."""
    I, L = y.shape[1], a.shape[3]
    panels = (I + p.panel - 1) // p.panel * ((L + p.chunk - 1) // p.chunk if p.packed_at else 0)
    for task in prange(panels):
        _pack_weights(task, a, work, p)
    tasks = p.runs * p.splits
    for slot in prange(p.slots):
        before, end = -1, (slot + 1) * tasks // p.slots
        for task in range(slot * tasks // p.slots, end):
            run, split = task // p.splits, task % p.splits
            following = min(task + 1, end - 1) // p.splits
            if p.packed_at:
                shared_block(y, x, a, bias, work, places, slot * p.slot, run, split, run != before,
                             following, p)  # fmt: skip
            else:
                _block(y, x, a, bias, work, places, slot * p.slot, run, split, run != before, p)
            before = run


@helper
def _pack_weights(task, a, work, p):
    """One panel of one chunk of a."""
    I, L = a.shape[2], a.shape[3]
    panels = (I + p.panel - 1) // p.panel
    k, i = task // panels * p.chunk, task % panels * p.panel
    rows, depth = min(p.panel, I - i), min(p.chunk, L - k)
    pack_panel(work, p.packed_at + k * I + i * depth, a, i * step(a, 2) + k * step(a, 3), rows,
               depth, p)  # fmt: skip


@helper
def _block(y, x, a, bias, work, places, base, run, split, fresh, p):
    """Some rows of y for a block of columns; ``fresh``: was another one packed before?"""
    I, L, i0, pixels = y.shape[1], a.shape[3], split * p.rows, y.shape[4]
    end = min(I, i0 + p.rows)
    j0, columns = columns_of(run, y.shape[0], pixels, p)
    for first in range(0, L, p.depth):
        depth = min(p.depth, L - first)
        if fresh or p.depth < L:
            pack_pixels(work, base, x, places, pixels, first, depth, j0, columns, p)
        for i in range(i0, end, p.panel):
            rows = min(p.panel, end - i)
            sums = base + p.c_at + (i - i0 if p.depth < L else 0) * p.columns
            for row in range(rows if bias.size and first == 0 else 0):
                value = load(bias, (i + row) * step(bias, 0))
                fill_row(work, sums + row * p.columns, value, columns)
            for k in range(0, depth, p.chunk):
                count = min(p.chunk, depth - k)
                later = i + p.panel if i + p.panel < end and k + count == depth else i
                behind = first + (k + count) % depth
                _panel(work, base, sums, a, i * step(a, 2) + (first + k) * step(a, 3), k, rows,
                       columns, count, int(bias.size > 0 or first + k > 0),
                       address(a, later * step(a, 2) + behind * step(a, 3)), p)  # fmt: skip
            if first + depth == L:
                write(y, i, rows, work, sums, j0, columns, p)


@helper
def _panel(work, base, sums, a, a_at, k, rows, columns, depth, resume, next_a, p):
    """A panel of a times all strips, whose term k is the panel's first."""
    zero = work.dtype.type(0)
    panel, a_step, a_row = panel_of_a(work, base, a, a_at, rows, depth, columns, p)
    asks, first, apart, a_stride = asks_for_a(a, depth, p)
    next_a += first
    strips = (columns + p.width - 1) // p.width
    for strip in range(strips):
        ahead, stride = (next_a + strip * apart, a_stride) if strip < asks else (next_a, 0)
        strided_tile(zero, rows, min(p.width, columns - strip * p.width), panel, a_step, a_row,
                     address(work, strip_at(base, k, depth, strip, strips, p)), p.width, depth,
                     address(work, sums + strip * p.width), p.columns, resume, ahead,
                     stride)  # fmt: skip
