"""dw of 1 x 1 windows, from images whose pixels lie side by side: inner products as they lie.

    dw[k, c] = sum over images and pixels of dy[n, k, p] * x[n, c, p]

Lanes run along the pixels (inner_tile.py), so dy is read as it lies, a run of pixels at a time
that stays in L2.  Of x a few rows at a time are copied, which stay in L1: arrays seldom begin where
a cache line does, and most loads are of these rows.  A stride is taken out of x before.

The runs are cut into parts, by sizes alone, that have sums of their own: a thread reads only its
parts' pixels, and the parts are added in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from numba import types

from .implicit_gemm import in_one_row
from .inner_tile import HEIGHT, WIDTH, inner_tile
from .jit import array, helper, int64, kernel, out, prange
from .memory import load, step, store
from .pointwise_strided import take
from .vectors import ITEMSIZE, LANES, add_row, copy_row, fill_row

#: Bytes of a run of pixels: HEIGHT rows of them take two thirds of a 48 KiB L1.
RUN_BYTES = 4096

#: Rows of dy that are multiplied with all of x before the next: a run of them stays in L2.
BLOCK_ROWS = 80 * WIDTH

#: Parts of the sum: more share better, but each is as large as dw.
PARTS = 8
PARTS_BYTES = 8 * 1024 * 1024

#: Images with fewer pixels leave too much of a row's last vector unused.
LEAST_PIXELS = 64


class Layout(NamedTuple):
    """What the compiled loops need to know.  Lengths count elements."""

    groups: int
    channels: int  # of a group
    rows: int  # K of a group
    pixels: int  # of an image
    run: int  # pixels of a run, which is part of an image ...
    images: int  # ... or some whole ones
    runs: int  # of an image, or 1
    heights: int  # of channels
    widths: int  # of output channels
    parts: int
    slots: int
    sums_at: int  # the workspace: x without its stride, sums of one group, slots
    slots_at: int
    part: int  # length of a part's sums
    slot: int  # length of a slot: HEIGHT rows
    row: int
    image: int  # of a row


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)


@dataclass(frozen=True)
class Program:
    layout: Layout
    stride: tuple[int, int, int]
    x_shape: tuple[int, ...] | None  # of the copy, if there is one
    size: int  # of the workspace, in elements


def serves(g) -> bool:
    """Is this a window of 1 without padding, with pixels enough to fill vectors?"""
    return g.taps == 1 and not any((*g.before, *g.after)) and g.out_plane >= LEAST_PIXELS


def build(g, dtype, threads) -> Program:
    channels, rows = g.in_channels // g.groups, g.out_channels // g.groups
    lanes, pixels, most = LANES[dtype], g.out_plane, RUN_BYTES // ITEMSIZE[dtype]
    runs = -(-pixels // most)
    run = -(-pixels // (runs * lanes)) * lanes
    images = max(1, min(g.batch, most // pixels))
    heights, widths = -(-channels // HEIGHT), -(-rows // WIDTH)
    part = heights * widths * HEIGHT * WIDTH
    affordable = max(1, PARTS_BYTES // (part * ITEMSIZE[dtype]))
    parts = min(PARTS, affordable, -(-g.batch // images) * runs)
    copies = g.stride != (1, 1, 1)
    shape = (g.batch, g.in_channels, 1, 1, pixels) if copies else None
    sums_at = -(-prod(shape or (0,)) // lanes) * lanes
    image = -(-min(run, pixels) // lanes) * lanes
    row = (images * image // lanes | 1) * lanes
    slots_at = sums_at + parts * part
    made = Layout(g.groups, channels, rows, pixels, run, images, runs, heights, widths, parts,
                  threads, sums_at, slots_at, part, HEIGHT * row, row, image)  # fmt: skip
    return Program(made, g.stride, shape, slots_at + threads * HEIGHT * row)


def run(dw, dy, x, plan, workspace) -> bool:
    """False, and nothing written, if an image's pixels do not lie side by side."""
    program, dtype = plan.program, dw.dtype
    work = workspace.view(dtype)
    dy = in_one_row(dy)
    if dy is None or not _side_by_side(dy):
        return False
    if program.x_shape is not None:
        copy = work[: prod(program.x_shape)].reshape(program.x_shape)
        take(dtype, plan.threads, copy, x, program.stride)
        x = copy
    else:
        x = in_one_row(x)
        if x is None or not _side_by_side(x):
            return False
    multiply(dtype, plan.threads, dw, dy, x, work, program.layout)
    return True


def _side_by_side(image):
    return image.strides[4] == image.itemsize


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 5), out(F, 1), LAYOUT))
def multiply(dw, dy, x, work, p):
    """dw, one group after the other."""
    batches = (x.shape[0] + p.images - 1) // p.images
    for g in range(p.groups):
        for slot in prange(p.slots):
            rows = p.slots_at + slot * p.slot
            for part in range(slot * p.parts // p.slots, (slot + 1) * p.parts // p.slots):
                sums = p.sums_at + part * p.part
                fill_row(work, sums, work.dtype.type(0), p.part)
                for run in range(part * batches * p.runs // p.parts,
                                 (part + 1) * batches * p.runs // p.parts):  # fmt: skip
                    n, pixel = run // p.runs * p.images, run % p.runs * p.run
                    images = min(p.images, x.shape[0] - n)
                    for k in range(0, p.rows, BLOCK_ROWS):
                        _block(dy, x, work, rows, sums, g, k, min(BLOCK_ROWS, p.rows - k),
                               n, images, pixel, min(p.run, p.pixels - pixel), p)  # fmt: skip
        for c in prange(p.heights):
            _finish(dw, work, g, c, p)


@helper
def _block(dy, x, work, rows, sums, g, k0, count, n, images, pixel, pixels, p):
    """Adds the products of ``count`` rows of dy with all of x, over one run of pixels."""
    for height in range(p.heights):
        c = height * HEIGHT
        high = min(HEIGHT, p.channels - c)
        for i in range(high):
            for image in range(images):
                start = (n + image) * step(x, 0) + (g * p.channels + c + i) * step(x, 1) + pixel
                copy_row(work, rows + i * p.row + image * p.image, x, start, pixels)
        for k in range(k0, k0 + count, WIDTH):
            start = n * step(dy, 0) + (g * p.rows + k) * step(dy, 1) + pixel
            to = sums + (height * p.widths + k // WIDTH) * (HEIGHT * WIDTH)
            inner_tile(high, min(WIDTH, p.rows - k), work, rows, p.row, p.image, dy, start,
                       step(dy, 1), step(dy, 0), images, pixels, work, to)  # fmt: skip


@helper
def _finish(dw, work, g, height, p):
    """The dw of a few channels: the parts' sums, one after the other."""
    each, c = HEIGHT * WIDTH, height * HEIGHT
    high = min(HEIGHT, p.channels - c)
    first = p.sums_at + height * p.widths * each
    for part in range(1, p.parts):
        add_row(work, first, work, first + part * p.part, p.widths * each)
    for k in range(p.rows):
        start = first + k // WIDTH * each + k % WIDTH * high
        to = (g * p.rows + k) * step(dw, 0) + c * step(dw, 1)
        if step(dw, 1) == 1:
            copy_row(dw, to, work, start, high)
        else:
            for i in range(high):
                store(dw, to + i * step(dw, 1), load(work, start + i))
