"""Runs of pixels of a 1 x 1 window, from images in any layout to what AMX tiles multiply.

A run is part of an image, or some whole ones side by side.  A thread copies SIDE channels of it at
a time (`stage`), where a stride is taken out, and cuts the copy (`cut`) into packed steps of
SIDE x DEPTH, in rows or in pairs of rows.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import types

from ..convolution.implicit_gemm import in_one_row
from ..emitted.memory import step
from ..emitted.padded_rows import pad_row
from ..emitted.strided_tile import address
from ..emitted.transposition import transpose
from ..emitted.vectors import copy_row, fill_row
from ..jit import helper, int64
from .amx_program import LANES, round_up
from .amx_tiles import DEPTH, SIDE, split_row_pairs, split_rows


class Runs(NamedTuple):
    """How the pixels of a batch are cut."""

    row: int  # pixels that lie evenly in every image
    rows: int  # of a run
    pixels: int  # of an image
    run: int  # pixels of a run, which is part of an image ...
    images: int  # ... or some whole ones
    runs: int  # of an image, or 1
    stage: int  # between the rows of a copy


RUNS = types.NamedUniTuple(int64, len(Runs._fields), Runs)

#: rows of a plane, and the elements between planes, rows and pixels of a row
PLACES = types.UniTuple(int64, 4)


def runs(batch, out, stride, most) -> Runs:
    """For images of ``out`` (D, H, W) pixels, each ``stride`` pixels apart; ``most`` in a run."""
    pixels = out[0] * out[1] * out[2]
    if stride == (1, 1, 1):
        row, rows = round_up(-(-pixels // -(-pixels // most)), DEPTH), 1
    else:
        row = out[2]
        rows = _rows(out[0] * out[1], row, most)
    run = rows * row
    batches = -(-batch // max(1, min(batch, most // pixels)))
    if 1 < batches < min(batch, 8):
        batches += batches % 2  # two threads share an even number best
    images = -(-batch // batches)
    longest = round_up(images * min(run, pixels), DEPTH)
    return Runs(row, rows, pixels, run, images, -(-pixels // run), longest + LANES)


def _rows(count, row, most):
    """How many of ``count`` rows of pixels make a run, for which fewest squares are cut."""
    if count * row <= most:
        return count

    def cost(rows):
        whole, last = divmod(count, rows)
        squares = whole * -(-rows * row // SIDE) + -(-last * row // SIDE)
        return squares, whole + (last > 0), -(last or rows)

    return min(range(1, max(1, most // row) + 1), key=cost)


def longest(r) -> int:
    """Pixels of the longest of ``r``: Runs, in whole steps."""
    return r.stage - LANES


def batches(r, batch) -> int:
    """How many runs there are in all."""
    return -(-batch // r.images) * r.runs


def seen(image, stride, out, r, flat):
    """The image as `stage` reads it and the PLACES of its pixels; None if it is not as ``flat``.

    ``flat``: neither operand has a stride, so that an image is one row of pixels.
    """
    if flat:
        image = in_one_row(image)
        if image is None:
            return None
        apart = image.strides[4] // image.itemsize
        return image, (r.runs, 0, r.row * apart, apart)
    steps = [bytes_ // image.itemsize * by for bytes_, by in zip(image.strides[2:], stride)]
    return image, (out[1], *steps)


@helper
def stage(work, to, image, places, first, channels, run, images, pixels, r):
    """Copies a run of some channels side by side, with zeros behind the last channel and pixel.

    True if the copy is [pixel][channel], as where the channels of a pixel lie side by side; else
    each channel is a row.
    """
    zero, padded = work.dtype.type(0), (pixels + DEPTH - 1) // DEPTH * DEPTH
    by_pixel = step(image, 1) == 1 and places[3] != 1
    if channels < SIDE:
        fill_row(work, to, zero, SIDE * (padded if by_pixel else r.stage))
    elif by_pixel:
        fill_row(work, to + pixels * SIDE, zero, (padded - pixels) * SIDE)
    elif pixels < padded:
        for channel in range(channels):
            fill_row(work, to + channel * r.stage + pixels, zero, padded - pixels)
    n0, row0 = run // r.runs * r.images, run % r.runs * r.rows
    at = to
    for n in range(n0, n0 + images):
        start = n * step(image, 0) + first * step(image, 1)
        for row in range(row0, min(row0 + r.rows, (r.pixels + r.row - 1) // r.row)):
            width = min(r.row, r.pixels - row * r.row)
            source = start + row // places[0] * places[1] + row % places[0] * places[2]
            if by_pixel:
                for pixel in range(width):
                    copy_row(work, at + pixel * SIDE, image, source + pixel * places[3], channels)
                at += width * SIDE
            else:
                for channel in range(channels):
                    pad_row(work, at + channel * r.stage, image, source + channel * step(image, 1),
                            places[3], 0, width, width)  # fmt: skip
                at += width
    return by_pixel


@helper
def cut(work, target, pairs, turned, start, distance, square):
    """A square of work, SIDE rows ``distance`` apart, in bfloat16 parts; the largest magnitude.

    As rows, or as pairs of rows; ``turned`` transposes it before.  ``target`` counts bytes.
    """
    if turned:
        transpose(work, square, SIDE, work, start, distance, SIDE, SIDE, LANES)
        start, distance = square, SIDE
    if pairs:
        return split_row_pairs(work, target, address(work, start), 4 * distance)
    return split_rows(work, target, address(work, start), 4 * distance)
