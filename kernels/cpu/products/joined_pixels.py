"""The pixels that are the columns of a product (joined_product.py): packed, asked for, written.

Columns are pixels, image after image.  ``places`` says where they lie: pixels that lie evenly, rows
of them in a plane, elements between planes, rows and pixels.
"""

from __future__ import annotations

from numba import int64, types

from ..emitted.memory import step
from ..emitted.padded_rows import pad_row
from ..emitted.strided_tile import address
from ..emitted.vectors import copy_row, fill_row
from ..jit import helper

PLACES = types.UniTuple(int64, 5)


@helper
def _place(x, places, n, pixel):
    """The pixel of an image's channel 0."""
    row, q = pixel // places[0], pixel % places[0]
    return (n * step(x, 0) + row // places[1] * places[2] + row % places[1] * places[3]
            + q * places[4])  # fmt: skip


@helper
def ahead_of(x, places, pixels, first, depth, j0, columns, p):
    """What `asked` takes: the runs of lines of ``depth`` terms of a block of columns.

    (where the first one begins, elements from row to row, rows of a channel, those of an image,
    all of them); a row is what lies evenly.
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
    return start, row, rows, rows * depth, images * rows * depth


@helper
def asked(x, ahead, lines, p):
    """(address, hop, run, place, jump) of what a tile asks for when ``lines`` were asked for."""
    start, row, rows, of_image, count = ahead
    run = 1 << p.bits
    at, place = lines >> p.bits, lines & (run - 1)
    if at >= count:
        return 0, 0, run, 0, 0
    n, term, line = 0, at, 0
    if of_image < count:
        n, term = at // of_image, at % of_image
    if rows > 1:
        term, line = term // rows, term % rows
    jump = (row if rows > 1 else step(x, 1)) - (run - 1) * p.hop
    begin = start + n * step(x, 0) + term * step(x, 1) + line * row + place * p.hop
    return address(x, begin), p.hop, run, place, jump


@helper
def pack_pixels(work, base, x, places, pixels, first, depth, j0, columns, p):
    """Terms of a block of columns: chunk after chunk, and in it strip after strip."""
    strips = (columns + p.width - 1) // p.width
    row, padded = base + p.row_at, strips * p.width
    fill_row(work, row + columns, work.dtype.type(0), padded - columns)
    n, pixel = j0 // pixels, j0 % pixels
    start = _place(x, places, n, pixel)
    line, rows = pixel // places[0], places[1]
    begin = n, line // rows, line % rows, pixel % places[0]
    # one row of pixels side by side, and not every second of them
    lying = places[0] == pixels and places[4] == 1 and pixel + columns <= pixels
    whole = columns // p.width * p.width
    for k in range(0, depth, p.chunk):
        count, to = min(p.chunk, depth - k), base + p.b_at + k * padded
        for term in range(count):
            channel = (first + k + term) * step(x, 1)
            if lying:
                at = to + term * p.width
                for j in range(0, whole, p.width):
                    copy_row(work, at + j * count, x, channel + start + j, p.width)
                if whole < columns:
                    at += whole * count
                    copy_row(work, at, x, channel + start + whole, columns - whole)
                    fill_row(work, at + columns - whole, work.dtype.type(0), padded - columns)
            else:
                _take_row(work, row, x, channel, places, pixels, begin, columns)
                for j in range(0, padded, p.width):
                    copy_row(work, to + j * count + term * p.width, work, row + j, p.width)


@helper
def _take_row(work, to, x, channel, places, pixels, first, columns):
    """work[to:] = pixels of a channel, image after image, from ``first`` on: (n, plane, row, q)."""
    n, plane, row, q = first
    length, rows, between, apart, hop = places
    end, planes = to + columns, pixels // (length * rows)
    while to < end:
        count = min(length - q, end - to)
        at = channel + n * step(x, 0) + plane * between + row * apart + q * hop
        if hop == 1:
            copy_row(work, to, x, at, count)
        else:
            pad_row(work, to, x, at, hop, 0, count, count)
        to, q, row = to + count, 0, row + 1
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
