"""dw of 1 x 1 windows on AMX tiles: the product of two images' channels, summed over their pixels.

    dw[k, c] = sum over images and pixels of dy[n, k, p] * x[n, c, p]

The pixels are cut into parts, by sizes alone, that have sums of their own, and a thread works
through its parts a run of pixels at a time: what one core has cut never goes to another.  Of the
operand with fewer channels (`kept`, in pairs of pixels, which takes a transposition) a run stays in
L2; of the other one (`passing`, in rows) SIDE channels at a time are cut and multiplied with all of
it.  The parts are added in order.  A stride is taken out of x on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import types

from .amx import (
    DEPTH,
    PARTS,
    SHAPES,
    SIDE,
    STEP_BYTES,
    TINY,
    available,
    begin,
    block,
    end,
    split_row_pairs,
    split_rows,
)
from .amx_program import FLAGS, LANES, round_up
from .implicit_gemm import in_one_row
from .jit import array, helper, int64, kernel, out, prange
from .memory import load, step, store
from .padded_rows import pad_row
from .strided_tile import address
from .transposition import transpose
from .vectors import add_row, copy_row, fill_row, finite_row

#: Bytes of a run of the kept operand, cut: it stays in a 2 MiB L2 beside what passes.
KEPT_BYTES = 1024 * 1024

#: Pixels of a run: SIDE channels of them, as float32 and cut, take 160 KiB.
MOST_PIXELS = 512

#: Parts of the sum: more share better, but each is as large as dw, and is read again in the end.
SUMS = 8
SUMS_BYTES = 2 * 1024 * 1024

_SQUARE = SIDE * SIDE

#: a packed operand is not found through the table of `block`, which reads it all the same
_NO_TABLE = np.zeros(MOST_PIXELS // DEPTH, np.int64)


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets count float32, where not said otherwise."""

    groups: int
    by_filter: int  # is it dy that passes, and x that is kept?
    passing: int  # channels of a group ...
    kept: int
    passing_panels: int  # ... and panels of SIDE of them
    kept_panels: int
    row: int  # pixels that lie evenly in dy and in x
    rows: int  # of a run
    pixels: int  # of an image
    run: int  # pixels of a run, which is part of an image ...
    images: int  # ... or some whole ones
    runs: int  # of an image, or 1
    parts: int
    splits: int  # of the passing panels
    slots: int
    sums_at: int  # the workspace: flags, sums of one group, slots
    slots_at: int
    slot: int  # kept operand, passing panel, rows to cut, a square
    panel: int  # length of a run of SIDE channels, cut
    passing_at: int
    stage_at: int
    stage: int  # between the rows to cut
    square_at: int


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)

#: rows of a plane, and the elements between planes, rows and pixels of a row
PLACES = types.UniTuple(int64, 4)


@dataclass(frozen=True)
class Program:
    layout: Layout
    stride: tuple[int, int, int]
    size: int  # of the workspace, in bytes


def serves(g) -> bool:
    """Is this a window of 1 without padding?"""
    return g.taps == 1 and not any((*g.before, *g.after))


def build(g, threads) -> Program:
    channels, rows = g.in_channels // g.groups, g.out_channels // g.groups
    passing, kept = max(rows, channels), min(rows, channels)
    panels, kept_panels = -(-passing // SIDE), -(-kept // SIDE)
    pixels, most = g.out_plane, KEPT_BYTES // (2 * PARTS * SIDE * kept_panels)
    most = min(MOST_PIXELS, max(DEPTH, most // DEPTH * DEPTH))
    if g.stride == (1, 1, 1):
        runs = -(-pixels // most)
        row = round_up(-(-pixels // runs), DEPTH)
        run_rows = 1
    else:
        row = g.out[2]
        image_rows = pixels // row
        runs = -(-image_rows // max(1, most // row))
        run_rows = -(-image_rows // runs)
    run = run_rows * row
    runs = -(-pixels // run)
    images = max(1, min(g.batch, most // pixels))
    while images > 1 and -(-g.batch // images) % 2:
        images -= 1  # two threads share an even number best
    sums = panels * kept_panels * _SQUARE
    parts = max(1, min(SUMS, SUMS_BYTES // (4 * sums), -(-g.batch // images) * runs))
    splits = min(panels, -(-threads // parts))
    most = round_up(images * min(run, pixels), DEPTH)
    panel = most // DEPTH * STEP_BYTES // 4
    sums_at = LANES + FLAGS * threads
    slots_at = sums_at + parts * sums
    passing_at = kept_panels * panel
    stage_at, stage = passing_at + panel, most + LANES
    square_at = stage_at + SIDE * stage
    layout = Layout(g.groups, int(rows >= channels), passing, kept, panels, kept_panels, row,
                    run_rows, pixels, run, images, runs, parts, splits, threads, sums_at, slots_at,
                    square_at + _SQUARE, panel, passing_at, stage_at, stage, square_at)  # fmt: skip
    return Program(layout, g.stride, 4 * (slots_at + threads * layout.slot))


def run(dw, dy, x, plan, workspace) -> bool:
    """False, and dw is to be computed otherwise, if it is not finite, the data's scale is tiny, or

    the images of a window without stride are not rows of pixels at one distance.
    """
    program, p = plan.program, plan.program.layout
    work = workspace[: program.size].view("float32")
    work[: p.sums_at] = 0
    if program.stride == (1, 1, 1):
        dy, x = in_one_row(dy), in_one_row(x)
        if dy is None or x is None:
            return False
        places = [(p.runs, 0, p.row * one.strides[4] // 4, one.strides[4] // 4)
                  for one in (dy, x)]  # fmt: skip
    else:
        places = [(dy.shape[3], *(stride // 4 * one for stride, one in zip(image.strides[2:], by)))
                  for image, by in ((dy, (1, 1, 1)), (x, program.stride))]  # fmt: skip
    passing, kept = (dy, x) if p.by_filter else (x, dy)
    if not p.by_filter:
        places = places[::-1]
    multiply("float32", plan.threads, dw, passing, kept, work, SHAPES, _NO_TABLE, *places, p)
    broken, one, other = work[LANES : p.sums_at].reshape(-1, FLAGS)[:, :3].max(axis=0)
    return not (broken or 0 < one < TINY or 0 < other < TINY)


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 5), out(F, 1), array("uint8", 1),
                   array(int64, 1), PLACES, PLACES, LAYOUT),
        variants=("float32",) if available() else ())  # fmt: skip
def multiply(dw, passing, kept, work, shapes, table, passing_places, kept_places, p):
    """dw, one group after the other."""
    batches = (passing.shape[0] + p.images - 1) // p.images
    for g in range(p.groups):
        tasks = p.parts * p.splits
        for slot in prange(p.slots):
            begin(shapes)
            for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
                part, split = task // p.splits, task % p.splits
                first = part * batches * p.runs // p.parts
                for run in range(first, (part + 1) * batches * p.runs // p.parts):
                    _run(work, table, passing, kept, passing_places, kept_places, slot, g,
                         part, split, run, int(run > first), p)  # fmt: skip
            end()
        for slot in prange(p.slots):
            for panel in range(slot * p.passing_panels // p.slots,
                               (slot + 1) * p.passing_panels // p.slots):  # fmt: skip
                _finish(dw, work, slot, g, panel, p)


@helper
def _run(work, table, passing, kept, passing_places, kept_places, slot, g, part, split, run,
         resume, p):  # fmt: skip
    """Adds the products of a run of pixels to a part's sums."""
    at = p.slots_at + slot * p.slot
    images = min(p.images, passing.shape[0] - run // p.runs * p.images)
    pixels = images * min(p.run, p.pixels - run % p.runs * p.run)
    steps = (pixels + DEPTH - 1) // DEPTH
    for panel in range(p.kept_panels):
        by_pixel = _stage(work, at, kept, kept_places, g * p.kept + panel * SIDE,
                          min(SIDE, p.kept - panel * SIDE), run, images, pixels, p)  # fmt: skip
        _cut(work, at + panel * p.panel, at, slot, False, by_pixel, steps, p)
    for panel in range(split * p.passing_panels // p.splits,
                       (split + 1) * p.passing_panels // p.splits):  # fmt: skip
        by_pixel = _stage(work, at, passing, passing_places, g * p.passing + panel * SIDE,
                          min(SIDE, p.passing - panel * SIDE), run, images, pixels, p)  # fmt: skip
        _cut(work, at + p.passing_at, at, slot, True, by_pixel, steps, p)
        sums = p.sums_at + (part * p.passing_panels + panel) * p.kept_panels * _SQUARE
        for other in range(p.kept_panels):
            block(work, 4 * (at + p.passing_at), 0, 64, 1024, STEP_BYTES // PARTS,
                  4 * (at + other * p.panel), 0, 64, 1024, STEP_BYTES // PARTS,
                  table, 0, steps, 4 * (sums + other * _SQUARE), 4 * SIDE, resume)  # fmt: skip


@helper
def _stage(work, at, image, places, first, channels, run, images, pixels, p):
    """A run of some channels side by side, with zeros behind the last channel and pixel.

    True if it is [pixel][channel], as where the channels of a pixel lie side by side; else each
    channel is a row.
    """
    stage, zero = at + p.stage_at, work.dtype.type(0)
    by_pixel = step(image, 1) == 1 and places[3] != 1
    distance = SIDE if by_pixel else p.stage
    padded = (pixels + DEPTH - 1) // DEPTH * DEPTH
    if channels < SIDE:
        fill_row(work, stage, zero, SIDE * distance if not by_pixel else padded * SIDE)
    elif by_pixel:
        fill_row(work, stage + pixels * SIDE, zero, (padded - pixels) * SIDE)
    n0, row0 = run // p.runs * p.images, run % p.runs * p.rows
    start = n0 * step(image, 0) + first * step(image, 1)
    for n in range(images):
        to, done = stage + n * (pixels // images) * (SIDE if by_pixel else 1), 0
        for row in range(row0, row0 + p.rows):
            width = min(p.row, p.pixels - row * p.row)
            source = (start + n * step(image, 0) + row // places[0] * places[1]
                      + row % places[0] * places[2])  # fmt: skip
            if by_pixel:
                for pixel in range(width):
                    copy_row(work, to + (done + pixel) * SIDE, image, source + pixel * places[3],
                             channels)  # fmt: skip
            else:
                for channel in range(channels):
                    pad_row(work, to + done + channel * distance, image,
                            source + channel * step(image, 1), places[3], 0, width, width)  # fmt: skip
            done += max(0, width)
    if not by_pixel and pixels < padded:
        for channel in range(channels):
            fill_row(work, stage + channel * distance + pixels, zero, padded - pixels)
    return by_pixel


@helper
def _cut(work, to, at, slot, passing, by_pixel, steps, p):
    """What is staged, in bfloat16 parts: rows of pixels if it is passing, else pairs of pixels.

    Notes the largest magnitude.
    """
    stage, square = at + p.stage_at, at + p.square_at
    flag = LANES + slot * FLAGS + (1 if passing else 2)
    largest = load(work, flag)
    for k in range(steps):
        start = stage + k * DEPTH * (SIDE if by_pixel else 1)
        distance = SIDE if by_pixel else p.stage
        if passing == by_pixel:
            transpose(work, square, SIDE, work, start, distance, SIDE, SIDE, LANES)
            start, distance = square, SIDE
        target = 4 * to + k * STEP_BYTES
        if passing:
            size = split_rows(work, target, address(work, start), 4 * distance)
        else:
            size = split_row_pairs(work, target, address(work, start), 4 * distance)
        largest = max(largest, size)
    store(work, flag, largest)


@helper
def _finish(dw, work, slot, g, panel, p):
    """Adds the parts' sums of a passing panel, and writes them to dw."""
    each = p.kept_panels * _SQUARE
    sums = p.sums_at + panel * each
    for part in range(1, p.parts):
        add_row(work, sums, work, sums + part * p.passing_panels * each, each)
    if not finite_row(work, sums, each):
        store(work, LANES + slot * FLAGS, work.dtype.type(1))
    rows = min(SIDE, p.passing - panel * SIDE)
    row_axis = 0 if p.by_filter else 1
    row_step, column_step = step(dw, row_axis), step(dw, 1 - row_axis)
    start = g * (p.passing if p.by_filter else p.kept) * step(dw, 0) + panel * SIDE * row_step
    for other in range(p.kept_panels):
        columns = min(SIDE, p.kept - other * SIDE)
        source, to = sums + other * _SQUARE, start + other * SIDE * column_step
        if column_step == 1:
            for i in range(rows):
                copy_row(dw, to + i * row_step, work, source + i * SIDE, columns)
        elif row_step == 1:
            transpose(dw, to, column_step, work, source, SIDE, rows, columns, LANES)
        else:
            for i in range(rows):
                for j in range(columns):
                    store(dw, to + i * row_step + j * column_step, load(work, source + i * SIDE + j))
