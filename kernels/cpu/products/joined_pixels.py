"""The pixels that are the columns of a product (joined_product.py): packed, asked for, written.

Columns are pixels, image after image.  ``places`` says where they lie: pixels that lie evenly, rows
of them in a plane, elements between planes, rows and pixels.
"""

from __future__ import annotations

from numba import int64, types

from ..convolution.implicit_gemm import in_one_row
from ..emitted.memory import step
from ..emitted.padded_rows import pad_row, take_even
from ..emitted.strided_tile import address, copy_strips, run_from
from ..emitted.vectors import LINE, copy_row, fill_row
from ..jit import helper

PLACES = types.UniTuple(int64, 5)


def placed(y, x, stride):
    """(y, x, places of x's pixels), both as images (N, C, 1, 1, pixels) but for x with a stride.

    None where the pixels of y or x lie otherwise.
    """
    flat, item = stride == (1, 1, 1), y.itemsize
    target, source = in_one_row(y), in_one_row(x) if flat else x
    if target is None or source is None or not item == target.strides[4] == source.strides[4]:
        return None
    steps = [bytes_ // item * by for bytes_, by in zip(source.strides[2:], stride)]
    rows = (target.shape[4], 1) if flat else (y.shape[4], y.shape[3])
    return target, source, (*rows, *steps)


def run_bits(length, item):
    """log2 of the lines, a power of two, of a run of ``length`` numbers."""
    return max(0, (length * item + LINE // 2 - 1) // LINE).bit_length()


@helper
def columns_of(run, images, pixels, p):
    """(the first of a block's columns, their number): even numbers of strips for all blocks."""
    n, part, parts, total = 0, run, p.runs, images * pixels
    if p.pieces:
        n, part, parts, total = run // p.pieces, run % p.pieces, p.pieces, pixels
    strips = (total + p.width - 1) // p.width
    first, end = part * strips // parts * p.width, (part + 1) * strips // parts * p.width
    return n * pixels + first, min(end, total) - first


@helper
def side_by_side(places, pixels):
    """Are an image's pixels one row, and not every second of one?"""
    return places[0] == pixels and places[4] == 1


@helper
def _place(x, places, n, pixel):
    """The pixel of an image's channel 0."""
    row, q = pixel // places[0], pixel % places[0]
    return (n * step(x, 0) + row // places[1] * places[2] + row % places[1] * places[3]
            + q * places[4])  # fmt: skip


@helper
def pixel_at(x, places, pixels, term, j):
    """The address of column j of a term."""
    return address(x, term * step(x, 1) + _place(x, places, j // pixels, j % pixels))


@helper
def ahead_of(x, places, pixels, first, depth, j0, columns, p):
    """What `asked` takes: the runs of lines of ``depth`` terms of a block of columns.

    (where the first one begins, elements from row to row, runs of a row, those of an image, all of
    them); a row is what lies evenly of all channels.
    """
    n, pixel = j0 // pixels, j0 % pixels
    images, rows, row = 1, 1, 0
    if p.pieces == 0:
        images, pixel = (j0 + columns - 1) // pixels - n + 1, 0
    if places[0] < pixels:
        count = columns if p.pieces else pixels
        rows = (pixel % places[0] + count - 1) // places[0] + 1
        row = places[3] if places[1] > 1 else places[2]
        pixel -= pixel % places[0]
    start = first * step(x, 1) + _place(x, places, n, pixel)
    return start, row, depth, rows * depth, images * rows * depth


@helper
def asked(x, ahead, lines, p):
    """(address, hop, run, place, jump) of what a tile asks for when ``lines`` were asked for."""
    start, row, of_row, of_image, count = ahead
    at, run = lines >> p.bits, 1 << p.bits
    if at >= count:
        return 0, 0, run, 0, 0
    n, term, line = 0, at, 0
    if of_image < count:
        n, term = at // of_image, at % of_image
    if of_row < of_image:
        line, term = term // of_row, term % of_row
    begin = start + n * step(x, 0) + term * step(x, 1) + line * row
    return run_from(x, begin, step(x, 1), lines & (run - 1), p.bits, p.hop)


def strips_elements(depth, columns, chunk, width, item):
    """Of packed strips, a cache line apart, so that L1 can hold a term of all of them."""
    return depth * columns + -(-depth // chunk) * (columns // width) * (LINE // item)


@helper
def strip_at(base, k, terms, strip, strips, p):
    """Where the terms from ``k`` on of a strip are packed, ``terms`` of them being a chunk."""
    return (base + p.b_at + (k * strips + strip * terms) * p.width
            + (k // p.chunk * strips + strip) * (LINE // p.item))  # fmt: skip


@helper
def begin_at(places, pixels, j):
    """(image, plane, row, pixel of the row) of column j."""
    row = j % pixels // places[0]
    return j // pixels, row // places[1], row % places[1], j % pixels % places[0]


@helper
def pack_pixels(work, base, x, places, pixels, first, depth, j0, columns, p):
    """Terms of a block of columns: chunk after chunk, and in it strip after strip."""
    strips = (columns + p.width - 1) // p.width
    row, padded = base + p.row_at, strips * p.width
    start, begin = _place(x, places, j0 // pixels, j0 % pixels), begin_at(places, pixels, j0)
    one_row = side_by_side(places, pixels) and j0 % pixels + columns <= pixels
    whole = columns // p.width
    fill_row(work, row + columns, work.dtype.type(0), padded - columns)
    for k in range(0, depth, p.chunk):
        count = min(p.chunk, depth - k)
        to = strip_at(base, k, count, 0, strips, p)
        apart = strip_at(base, k, count, 1, strips, p) - to
        for term in range(count):
            channel, at = (first + k + term) * step(x, 1), to + term * p.width
            if one_row:
                copy_strips(work, at, apart, x, channel + start, whole)
                if whole < strips:
                    at, done = at + whole * apart, whole * p.width
                    copy_row(work, at, x, channel + start + done, columns - done)
                    fill_row(work, at + columns - done, work.dtype.type(0), padded - columns)
            else:
                take_row(work, row, x, channel, places, pixels, begin, columns)
                copy_strips(work, at, apart, work, row, strips)


@helper
def pack_strip(work, base, x, places, pixels, first, depth, j0, strip, columns, p):
    """What `pack_pixels` writes of one strip of a block."""
    strips, count = (columns + p.width - 1) // p.width, min(p.width, columns - strip * p.width)
    begin = begin_at(places, pixels, j0 + strip * p.width)
    for k in range(0, depth, p.chunk):
        terms = min(p.chunk, depth - k)
        to = strip_at(base, k, terms, strip, strips, p)
        for term in range(terms):
            at = to + term * p.width
            take_row(work, at, x, (first + k + term) * step(x, 1), places, pixels, begin, count)
            fill_row(work, at + count, work.dtype.type(0), p.width - count)


@helper
def take_row(work, to, x, channel, places, pixels, first, columns):
    """work[to:] = pixels of a channel, image after image, from ``first`` on: (n, plane, row, q)."""
    n, plane, row, q = first
    length, rows, between, apart, hop = places
    end, planes = to + columns, pixels // (length * rows)
    while to < end:
        count, lines = min(length - q, end - to), 1
        at = channel + n * step(x, 0) + plane * between + row * apart + q * hop
        if hop == 1:
            copy_row(work, to, x, at, count)
        elif hop == 2:
            if count == length:
                lines = min(rows - row, (end - to) // length)
            take_even(work, to, x, at, apart, lines, count)
        else:
            pad_row(work, to, x, at, hop, 0, count, count)
        to, q, row = to + lines * count, 0, row + lines
        if row == rows:
            plane, row = plane + 1, 0
            if plane == planes:
                n, plane = n + 1, 0


@helper
def write(y, i, rows, work, sums, j0, columns, p):
    """A panel of sums to its rows of the images."""
    pixels = y.shape[4]
    n, pixel, at = j0 // pixels, j0 % pixels, 0
    while at < columns:
        count = min(pixels - pixel, columns - at)
        to = n * step(y, 0) + i * step(y, 1) + pixel
        for row in range(rows):
            copy_row(y, to + row * step(y, 1), work, sums + row * p.columns + at, count)
        at, n, pixel = at + count, n + 1, 0
