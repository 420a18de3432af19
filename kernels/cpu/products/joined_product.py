"""Forward and dx of 1 x 1 windows as one product with the pixels of all images.

    y[n, i, pixel] = sum over l of a[i, l] * x[n, l, pixel] + bias[i]

The columns of the product are pixels, image after image, so that images of 7 x 7 fill tiles and
share what is packed of a; a stride is taken out of x on the way.  A thread packs a block of
columns into strips one tile wide, as many terms of them as its L2 keeps; then panel after panel of
a passes by, and is written to the images when its sums are complete.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from numba import types

from ..convolution.implicit_gemm import in_one_row
from ..emitted.memory import load, step
from ..emitted.padded_rows import pad_row
from ..emitted.strided_tile import address, strided_tile
from ..emitted.vectors import ITEMSIZE, LANES, copy_row, fill_row
from ..jit import array, helper, int64, kernel, out, prange
from ..microkernel import COLUMNS, ROWS
from .matrix_product import asks_for_a, panel_of_a
from .product_blocks import BLOCK_BYTES, CHUNK, PIECE, SHORT_CHUNK, SLOTS_BYTES

#: Bytes of a row of a block's pixels: fewer make more of packing a, more leave less room for terms.
LEAST_BYTES, MOST_BYTES = 4096, 8192


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count elements."""

    rows: int  # of a block
    columns: int
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


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)

#: pixels that lie evenly; rows of them in a plane; elements between planes, rows and pixels
PLACES = types.UniTuple(int64, 5)


@dataclass(frozen=True)
class Program:
    layout: Layout
    stride: tuple[int, int, int]  # of the source
    size: int  # of the workspace, in elements


def serves(terms) -> bool:
    """Is a sum in one go short enough for its error?"""
    return terms <= PIECE


def build(batch, rows, terms, pixels, stride, turned, dtype, threads) -> Program:
    """Images of ``pixels`` outputs each; ``turned``: do the rows of a lie side by side?"""
    width, lanes, item = COLUMNS[dtype], LANES[dtype], ITEMSIZE[dtype]
    most = max(LEAST_BYTES, min(MOST_BYTES, BLOCK_BYTES // terms)) // item
    count = -(-batch * pixels // most)
    if batch * pixels >= max(rows, 4 * width * threads) and count < 8 * threads:
        count += -count % threads
    columns = -(-batch * pixels // (count * width)) * width
    runs = -(-batch * pixels // columns)
    splits = 1 if runs % threads == 0 or runs >= 8 * threads else threads
    chunk, cuts = _pieces(terms, (SHORT_CHUNK if turned else CHUNK)[dtype])
    _, pieces = _pieces(cuts, max(1, BLOCK_BYTES // (columns * chunk * item)))
    depth = min(terms, -(-cuts // pieces) * chunk)
    held = SLOTS_BYTES // (threads * columns * item) if pieces > 1 else rows
    splits = max(1, min(-(-rows // ROWS), max(splits, -(-rows // max(held, ROWS)))))
    share = -(-rows // splits)
    panel = -(-share // -(-share // ROWS))
    share = -(-share // panel) * panel
    row_at = -(-panel * chunk // lanes) * lanes
    b_at = row_at + columns
    c_at = b_at + depth * columns
    slot = c_at + (share if pieces > 1 else panel) * columns
    layout = Layout(share, columns, -(-rows // share), panel, width, lanes, item, chunk, depth,
                    threads, slot, row_at, b_at, c_at)  # fmt: skip
    return Program(layout, stride, threads * slot)


def _pieces(count, most):
    """The size of even pieces of ``count`` of at most ``most``, and their number."""
    pieces = -(-count // most)
    return -(-count // pieces), pieces


def run(v, u, w, bias, program, threads, workspace) -> bool:
    """v = u convolved with w (rows, channels), plus bias; False if images lie otherwise."""
    flat, item = program.stride == (1, 1, 1), v.itemsize
    target, source = in_one_row(v), in_one_row(u) if flat else u
    if target is None or source is None or not item == target.strides[4] == source.strides[4]:
        return False
    steps = [bytes_ // item * by for bytes_, by in zip(source.strides[2:], program.stride)]
    places = ((target.shape[4], 1) if flat else (v.shape[4], v.shape[3])) + tuple(steps)
    product(v.dtype, threads, target, source, w[None, None], bias, workspace.view(v.dtype), places,
            program.layout)  # fmt: skip
    return True


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 4), array(F, 1), out(F, 1), PLACES, LAYOUT))
def product(y, x, a, bias, work, places, p):
    """y (N, I, 1, 1, pixels) = a (1, 1, I, L) @ the pixels of x that ``places`` names, + bias."""
    runs = (y.shape[0] * y.shape[4] + p.columns - 1) // p.columns
    tasks = runs * p.splits
    for slot in prange(p.slots):
        before = -1
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            run, split = task // p.splits, task % p.splits
            _block(y, x, a, bias, work, places, slot * p.slot, run, split, run != before, p)
            before = run


@helper
def _block(y, x, a, bias, work, places, base, run, split, fresh, p):
    """Some rows of y for a block of columns; ``fresh``: was another one packed before?"""
    I, L, i0, j0 = y.shape[1], a.shape[3], split * p.rows, run * p.columns
    end = min(I, i0 + p.rows)
    columns = min(p.columns, y.shape[0] * y.shape[4] - j0)
    for first in range(0, L, p.depth):
        depth = min(p.depth, L - first)
        if fresh or p.depth < L:
            _pack_pixels(work, base, x, places, y.shape[4], first, depth, j0, columns, p)
        complete = first + depth == L
        for i in range(i0, end, p.panel):
            rows = min(p.panel, end - i)
            sums = base + p.c_at + (i - i0 if p.depth < L else 0) * p.columns
            if bias.size and first == 0:
                for row in range(rows):
                    value = load(bias, (i + row) * step(bias, 0))
                    fill_row(work, sums + row * p.columns, value, columns)
            for k in range(0, depth, p.chunk):
                count = min(p.chunk, depth - k)
                following = i + p.panel if i + p.panel < end and k + count == depth else i
                beyond = following * step(a, 2) + (first + (k + count) % depth) * step(a, 3)
                _panel(work, base, sums, a, i * step(a, 2) + (first + k) * step(a, 3), k, rows,
                       columns, count, int(bias.size > 0 or first + k > 0), address(a, beyond),
                       p)  # fmt: skip
            if complete:
                _write(y, i, rows, work, sums, j0, columns, p)


@helper
def _panel(work, base, sums, a, a_at, k, rows, columns, depth, resume, next_a, p):
    """A panel of a times all strips, whose term k is the panel's first."""
    zero = work.dtype.type(0)
    panel, a_step, a_row = panel_of_a(work, base, a, a_at, rows, depth, columns, p)
    asks, first, apart, a_stride = asks_for_a(a, depth, p)
    next_a += first
    strips = (columns + p.width - 1) // p.width
    b = base + p.b_at + k * strips * p.width
    for strip in range(strips):
        ahead, stride = (next_a + strip * apart, a_stride) if strip < asks else (next_a, 0)
        strided_tile(zero, rows, min(p.width, columns - strip * p.width), panel, a_step, a_row,
                     address(work, b), p.width, depth, address(work, sums + strip * p.width),
                     p.columns, resume, ahead, stride)  # fmt: skip
        b += p.width * depth


@helper
def _place(x, places, n, pixel):
    """The pixel of an image's channel 0."""
    row, q = pixel // places[0], pixel % places[0]
    return (n * step(x, 0) + row // places[1] * places[2] + row % places[1] * places[3]
            + q * places[4])  # fmt: skip


@helper
def _pack_pixels(work, base, x, places, pixels, first, depth, j0, columns, p):
    """Terms of a block of columns: chunk after chunk, and in it strip after strip."""
    strips = (columns + p.width - 1) // p.width
    row, padded = base + p.row_at, strips * p.width
    fill_row(work, row + columns, work.dtype.type(0), padded - columns)
    n, pixel = j0 // pixels, j0 % pixels
    start = _place(x, places, n, pixel)
    # one row of pixels side by side, and not every second of them
    lying = places[0] == pixels and places[4] == 1 and pixel + padded <= pixels
    for k in range(0, depth, p.chunk):
        count, to = min(p.chunk, depth - k), base + p.b_at + k * padded
        for term in range(count):
            channel = (first + k + term) * step(x, 1)
            if lying:
                for j in range(0, padded, p.width):
                    copy_row(work, to + j * count + term * p.width, x, channel + start + j, p.width)
            else:
                _take_row(work, row, x, channel, places, pixels, n, pixel, columns)
                for j in range(0, padded, p.width):
                    copy_row(work, to + j * count + term * p.width, work, row + j, p.width)


@helper
def _take_row(work, to, x, start, places, pixels, n, pixel, columns):
    """work[to:] = pixels of a channel, image after image."""
    end = to + columns
    while to < end:
        count = min(places[0] - pixel % places[0], end - to)
        at = start + _place(x, places, n, pixel)
        if places[4] == 1:
            copy_row(work, to, x, at, count)
        else:
            pad_row(work, to, x, at, places[4], 0, count, count)
        to, pixel = to + count, pixel + count
        if pixel == pixels:
            n, pixel = n + 1, 0


@helper
def _write(y, i, rows, work, sums, j0, columns, p):
    """A panel of sums to its rows of the images."""
    pixels = y.shape[4]
    n, pixel, at = j0 // pixels, j0 % pixels, 0
    while at < columns:
        count = min(pixels - pixel, columns - at)
        to = n * step(y, 0) + i * step(y, 1) + pixel
        for row in range(rows):
            copy_row(y, to + row * step(y, 1), work, sums + row * p.columns + at, count)
        at, n, pixel = at + count, n + 1, 0
