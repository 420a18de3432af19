"""Forward and dx of 1 x 1 windows on AMX tiles, a run of pixels at a time.

    y[n, k, p] = sum over c of w[k, c] * x[n, c, p] + bias[k]

The weights are cut by all threads together.  Then a thread cuts a run of pixels, all channels of
it, which stays in its L2 while panel after panel of the weights passes by.  A run is part of an
image, or some whole small ones, which fill tiles together; a stride is taken out of x on the way.
Two channels at a time are read in order and cut at once; sums go from the tiles straight to y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from numba import types

from ..convolution.implicit_gemm import in_one_row
from ..emitted.memory import load, step, store
from ..emitted.padded_rows import pad_row
from ..emitted.strided_tile import address
from ..emitted.vectors import copy_row, fill_row
from ..jit import array, helper, inlined, int64, kernel, out, prange
from .amx_channel_pairs import every_second, split_channel_pair
from .amx_program import FLAGS, LANES
from .amx_runs import PLACES, RUNS, Runs, batches, cut, longest, runs, seen, stage
from .amx_squares import SQUARE, copy_square, no_table
from .amx_tiles import DEPTH, PARTS, SHAPES, SIDE, STEP_BYTES, TINY, available, begin, block, end

#: Bytes of a run, cut: it stays in a 2 MiB L2 beside a panel of weights.
KEPT_BYTES = 1280 * 1024

#: The same where the weights, cut, stay in L2, too, so that to read them again costs little: what
#: two runs leave of L2 is for lines of x and y on their way.
LIGHT_BYTES = 384 * 1024
LIGHT_WEIGHTS = 512 * 1024

#: Pixels of a run.
MOST_PIXELS = 800

#: Channels, beyond which a sum would be too long for one go.
MOST_CHANNELS = 1024

#: What a sum's magnitude must be below for certain: nothing on its way can be infinite or NaN.
LARGEST = 2.0**126

_NO_TABLE = no_table(MOST_CHANNELS)


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets count float32, where not said otherwise."""

    rows: int  # of y
    channels: int
    panels: int  # of SIDE rows
    steps: int  # of DEPTH channels
    splits: int  # of the panels: tasks of one run
    slots: int
    weights_at: int  # the workspace: flags, weights, slots
    slots_at: int
    slot: int  # a run, cut; SIDE channels to cut; a square to cut, and one of sums
    stage_at: int
    square_at: int
    sums_at: int


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)


@dataclass(frozen=True)
class Program:
    layout: Layout
    runs: Runs
    stride: tuple[int, int, int]  # of the source
    size: int  # of the workspace, in bytes


def build(g, rows, channels, stride, threads) -> Program:
    """For ConvGeometry ``g``; ``stride`` is that of the source's pixels."""
    panels, steps = -(-rows // SIDE), -(-channels // DEPTH)
    share = -(-g.batch * g.out_plane // threads)
    pixel = 2 * PARTS * DEPTH * steps  # bytes, cut
    light = LIGHT_BYTES // pixel
    if panels * steps * STEP_BYTES > LIGHT_WEIGHTS or g.out_plane < 2 * light:
        light = MOST_PIXELS
    most = max(DEPTH, min(light, MOST_PIXELS, share, KEPT_BYTES // pixel))
    r = runs(g.batch, g.out, stride, most)
    count = batches(r, g.batch)
    splits = 1 if count % threads == 0 or count >= 8 * threads else min(panels, threads)
    weights_at = LANES + FLAGS * threads
    slots_at = weights_at + panels * steps * STEP_BYTES // 4
    stage_at = longest(r) // SIDE * steps * STEP_BYTES // 4
    square_at = stage_at + SIDE * r.stage
    sums_at = square_at + SQUARE
    layout = Layout(rows, channels, panels, steps, splits, threads, weights_at, slots_at,
                    sums_at + SQUARE, stage_at, square_at, sums_at)  # fmt: skip
    return Program(layout, r, stride, 4 * (slots_at + threads * layout.slot))


def run(v, u, w, bias, plan, workspace):
    """v = u convolved with w (rows, channels) plus bias; v's pixels lie without a stride.

    None if the images do not lie right; False if v is not finite or the data's scale is tiny.
    """
    program, p = plan.program, plan.program.layout
    flat = program.stride == (1, 1, 1)
    target, source = in_one_row(v), seen(u, program.stride, v.shape[2:], program.runs, flat)
    if target is None or target.strides[4] != target.itemsize or source is None:
        return None
    work = workspace[: program.size].view("float32")
    work[: p.weights_at] = 0
    multiply("float32", plan.threads, target, source[0], w, bias, work, SHAPES, _NO_TABLE,
             source[1], program.runs, p)  # fmt: skip
    one, other = work[LANES : p.weights_at].reshape(-1, FLAGS)[:, 1:3].max(axis=0)
    small = 0 < one < TINY or 0 < other < TINY
    return bool(float(one) * float(other) * p.channels < LARGEST) and not small


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 2), array(F, 1), out(F, 1),
                   array("uint8", 1), array(int64, 1), PLACES, RUNS, LAYOUT),
        variants=("float32",) if available() else ())  # fmt: skip
def multiply(y, x, w, bias, work, shapes, table, places, r, p):
    """y (N, K, 1, 1, pixels) = w (K, C) @ the pixels of x that ``places`` names."""
    for slot in prange(p.slots):
        for panel in range(slot * p.panels // p.slots, (slot + 1) * p.panels // p.slots):
            _cut_weights(work, w, slot, panel, p)
    tasks = (x.shape[0] + r.images - 1) // r.images * r.runs * p.splits
    for slot in prange(p.slots):
        begin(shapes)
        before = -1
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            run, split = task // p.splits, task % p.splits
            _run(y, x, bias, work, table, places, slot, run, split, run != before, r, p)
            before = run
        end()


@helper
def _cut_weights(work, w, slot, panel, p):
    """SIDE rows of weights, step after step."""
    square, flag = p.slots_at + slot * p.slot + p.square_at, LANES + slot * FLAGS + 1
    rows, largest = min(SIDE, p.rows - panel * SIDE), load(work, flag)
    for k in range(p.steps):
        terms = min(DEPTH, p.channels - k * DEPTH)
        at = panel * SIDE * step(w, 0) + k * DEPTH * step(w, 1)
        copy_square(work, square, w, at, step(w, 0), step(w, 1), rows, terms)
        to = 4 * p.weights_at + (panel * p.steps + k) * STEP_BYTES
        largest = _larger(largest, cut(work, to, False, False, square, SIDE, square))
    store(work, flag, largest)


@inlined
def _larger(one, other):
    """The larger of two magnitudes; NaN, if one of them is."""
    return one if one != one or other <= one else other


@helper
def _run(y, x, bias, work, table, places, slot, run, split, fresh, r, p):
    """A part of the panels of weights times a run of pixels, which is cut if ``fresh``."""
    base = p.slots_at + slot * p.slot
    images = min(r.images, x.shape[0] - run // r.runs * r.images)
    each = min(r.run, r.pixels - run % r.runs * r.run)  # pixels of an image
    pixels = images * each
    if fresh:
        _cut_run(work, x, places, base, slot, run, images, pixels, r, p)
    first = run // r.runs * r.images * step(y, 0) + run % r.runs * r.run
    size = p.steps * STEP_BYTES
    to_y = address(y, 0) - address(work, 0)  # bytes
    for panel in range(split * p.panels // p.splits, (split + 1) * p.panels // p.splits):
        row = panel * SIDE
        rows = min(SIDE, p.rows - row)
        for at in range(0, pixels, SIDE):
            to = first + row * step(y, 1) + at
            whole = rows == SIDE and images == 1 and at + SIDE <= pixels
            sums, apart = (to_y + 4 * to, step(y, 1)) if whole else (4 * (base + p.sums_at), SIDE)
            for i in range(rows if bias.size else 0):
                value = load(bias, (row + i) * step(bias, 0))
                if whole:
                    fill_row(y, to + i * step(y, 1), value, SIDE)
                else:
                    fill_row(work, base + p.sums_at + i * SIDE, value, SIDE)
            block(work, 4 * p.weights_at + panel * size, 0, 64, 1024, STEP_BYTES // PARTS,
                  4 * base + at // SIDE * size, 0, 64, 1024, STEP_BYTES // PARTS,
                  table, 0, p.steps, sums, 4 * apart, int(bias.size > 0))  # fmt: skip
            if not whole:
                _write(y, to - at, work, base + p.sums_at, rows, at, min(at + SIDE, pixels), each)


@helper
def _cut_run(work, x, places, base, slot, run, images, pixels, r, p):
    """All channels of a run, square after square; notes the largest magnitude."""
    flag = LANES + slot * FLAGS + 2
    largest = load(work, flag)
    if step(x, 1) == 1 and places[3] != 1:
        for k in range(p.steps):
            size = _cut_pixels(work, x, places, base, k, run, images, pixels, r, p)
            largest = _larger(largest, size)
    else:
        size = _cut_pairs(work, x, places, base, run, images, pixels, r, p)
        largest = _larger(largest, size)
    store(work, flag, largest)


@helper
def _cut_pixels(work, x, places, base, k, run, images, pixels, r, p):
    """DEPTH channels of pixels whose channels lie side by side."""
    largest = work.dtype.type(0)
    stage(work, base + p.stage_at, x, places, k * DEPTH, min(DEPTH, p.channels - k * DEPTH), run,
          images, pixels, r)  # fmt: skip
    for at in range(0, pixels, SIDE):
        size = cut(work, 4 * base + (at // SIDE * p.steps + k) * STEP_BYTES, True, True,
                   base + p.stage_at + at * SIDE, SIDE, base + p.square_at)  # fmt: skip
        largest = _larger(largest, size)
    return largest


@helper
def _cut_pairs(work, x, places, base, run, images, pixels, r, p):
    """Channels two by two: from where they lie if their pixels are a row, or from a copy in L1."""
    row0 = run % r.runs * r.rows
    rows = min(r.rows, (r.pixels + r.row - 1) // r.row - row0)
    plane, line = row0 // places[0], row0 % places[0]
    start = run // r.runs * r.images * step(x, 0) + plane * places[1] + line * places[2]
    straight = places[3] == 1 and images == 1 and rows == 1
    even = places[3] == 2 and line + rows <= places[0] and (row0 + rows) * r.row <= r.pixels
    stage_at, zeros = base + p.stage_at, base + p.stage_at + 2 * r.stage
    fill_row(work, zeros, work.dtype.type(0), r.stage)
    largest, half = work.dtype.type(0), DEPTH // 2
    for pair in range(p.steps * half):
        one, other = address(work, stage_at), address(work, stage_at + r.stage)
        at = start + 2 * pair * step(x, 1)
        count = min(2, p.channels - 2 * pair)
        if straight:
            one, other = address(x, at), address(x, at + step(x, 1))
        elif even:
            for i in range(count):
                for n in range(images):
                    source = address(x, at + i * step(x, 1) + n * step(x, 0))
                    every_second(work, stage_at + i * r.stage + n * rows * r.row, source,
                                 4 * places[2], r.row, rows)  # fmt: skip
        else:
            for i in range(count):
                channel = at - plane * places[1] - line * places[2] + i * step(x, 1)
                _copy_rows(work, stage_at + i * r.stage, x, places, channel, row0, rows, images, r)
        if count < 1:
            one = address(work, zeros)
        if count < 2:
            other = address(work, zeros)
        to = 4 * base + pair // half * STEP_BYTES + pair % half * 64
        size = split_channel_pair(work, to, one, other, pixels, p.steps * STEP_BYTES)
        largest = _larger(largest, size)
    return largest


@helper
def _copy_rows(work, to, x, places, channel, row0, rows, images, r):
    """Rows of pixels of a channel, side by side."""
    for n in range(images):
        for row in range(row0, row0 + rows):
            width = min(r.row, r.pixels - row * r.row)
            source = channel + row // places[0] * places[1] + row % places[0] * places[2]
            pad_row(work, to, x, source, places[3], 0, width, width)
            to += width
        channel += step(x, 0)


@helper
def _write(y, to, work, sums, rows, at, end, each):
    """A square of sums to pixels ``at`` to ``end`` of a run, of which each image has ``each``."""
    while at < end:
        count = min(end, (at // each + 1) * each) - at
        start = to + at // each * step(y, 0) + at % each
        for i in range(rows):
            copy_row(y, start + i * step(y, 1), work, sums + i * SIDE, count)
        sums += count
        at += count
