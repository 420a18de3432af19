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

from numba import types

from ..convolution.bias_sums import add_pixels, add_rows, write_sums
from ..emitted.memory import load, step, store
from ..emitted.transposition import transpose
from ..emitted.vectors import add_row, copy_row, fill_row, finite_row
from ..jit import array, helper, int64, kernel, out, prange
from .amx_program import FLAGS, LANES
from .amx_runs import PLACES, RUNS, Runs, batches, cut, longest, runs, seen, stage
from .amx_squares import SQUARE, no_table
from .amx_tiles import DEPTH, PARTS, SHAPES, SIDE, STEP_BYTES, TINY, available, begin, block, end

#: Bytes of a run of the kept operand, cut: it stays in a 2 MiB L2 beside what passes.
KEPT_BYTES = 1024 * 1024

#: Pixels of a run: SIDE channels of them, as float32 and cut, take 160 KiB.
MOST_PIXELS = 512

#: Parts of the sum: more share better, but each is as large as dw, and is read again in the end.
SUMS = 8
SUMS_BYTES = 2 * 1024 * 1024

_NO_TABLE = no_table(MOST_PIXELS)


class Layout(NamedTuple):
    """What the compiled loops need to know.  Offsets count float32, where not said otherwise."""

    groups: int
    by_filter: int  # is it dy that passes, and x that is kept?
    passing: int  # channels of a group ...
    kept: int
    passing_panels: int  # ... and panels of SIDE of them
    kept_panels: int
    parts: int
    splits: int  # of the passing panels
    slots: int
    bias_at: int  # the workspace: flags, sums of dy of each part, sums of one group, slots
    sums_at: int
    slots_at: int
    slot: int  # kept operand, passing panel, rows to cut, a square
    panel: int  # length of a run of SIDE channels, cut
    passing_at: int
    stage_at: int
    square_at: int


LAYOUT = types.NamedUniTuple(int64, len(Layout._fields), Layout)


@dataclass(frozen=True)
class Program:
    layout: Layout
    runs: Runs
    stride: tuple[int, int, int]
    size: int  # of the workspace, in bytes


def build(g, threads) -> Program:
    channels, rows = g.in_channels // g.groups, g.out_channels // g.groups
    passing, kept = max(rows, channels), min(rows, channels)
    panels, kept_panels = -(-passing // SIDE), -(-kept // SIDE)
    most = KEPT_BYTES // (2 * PARTS * SIDE * kept_panels)
    r = runs(g.batch, g.out, g.stride, min(MOST_PIXELS, max(DEPTH, most // DEPTH * DEPTH)))
    sums = panels * kept_panels * SQUARE
    parts = max(1, min(SUMS, SUMS_BYTES // (4 * sums), batches(r, g.batch)))
    splits = min(panels, -(-threads // parts))
    panel = longest(r) // DEPTH * STEP_BYTES // 4
    bias_at = LANES + FLAGS * threads
    sums_at = bias_at + parts * SIDE * -(-rows // SIDE)
    slots_at = sums_at + parts * sums
    passing_at = kept_panels * panel
    stage_at = passing_at + panel
    square_at = stage_at + SIDE * r.stage
    layout = Layout(g.groups, int(rows >= channels), passing, kept, panels, kept_panels, parts,
                    splits, threads, bias_at, sums_at, slots_at, square_at + SQUARE, panel,
                    passing_at, stage_at, square_at)  # fmt: skip
    return Program(layout, r, g.stride, 4 * (slots_at + threads * layout.slot))


def run(dw, db, dy, x, plan, workspace) -> bool:
    """dw, and db unless it is empty.

    False, and they are to be computed otherwise, if dw is not finite, the data's scale is tiny, or
    the images of a window without stride are not rows of pixels at one distance.
    """
    program, p = plan.program, plan.program.layout
    work = workspace[: program.size].view("float32")
    work[: p.bias_at] = 0
    flat, pixels = program.stride == (1, 1, 1), dy.shape[2:]
    views = (seen(dy, (1, 1, 1), pixels, program.runs, flat),
             seen(x, program.stride, pixels, program.runs, flat))  # fmt: skip
    if None in views:
        return False
    (passing, passing_places), (kept, kept_places) = views if p.by_filter else views[::-1]
    multiply("float32", plan.threads, dw, db, passing, kept, work, SHAPES, _NO_TABLE,
             passing_places, kept_places, program.runs, p)  # fmt: skip
    broken, one, other = work[LANES : p.bias_at].reshape(-1, FLAGS)[:, :3].max(axis=0)
    return not (broken or 0 < one < TINY or 0 < other < TINY)


@kernel(lambda F: (out(F, 5), out(F, 1), array(F, 5), array(F, 5), out(F, 1),
                   array("uint8", 1), array(int64, 1), PLACES, PLACES, RUNS, LAYOUT),
        variants=("float32",) if available() else ())  # fmt: skip
def multiply(dw, db, passing, kept, work, shapes, table, passing_places, kept_places, r, p):
    """dw, and db if it is not empty, one group after the other."""
    count = (passing.shape[0] + r.images - 1) // r.images * r.runs
    panels = (db.size // p.groups + SIDE - 1) // SIDE  # of dy, if db is wanted
    for g in range(p.groups):
        fill_row(work, p.bias_at, work.dtype.type(0), p.sums_at - p.bias_at)
        tasks = p.parts * p.splits
        for slot in prange(p.slots):
            begin(shapes)
            for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
                part, split = task // p.splits, task % p.splits
                first = part * count // p.parts
                for run in range(first, (part + 1) * count // p.parts):
                    _run(work, table, passing, kept, passing_places, kept_places, slot, g,
                         panels, part, split, run, int(run > first), r, p)  # fmt: skip
            end()
        for slot in prange(p.slots):
            for panel in range(slot * p.passing_panels // p.slots,
                               (slot + 1) * p.passing_panels // p.slots):  # fmt: skip
                _finish(dw, work, slot, g, panel, p)
        if panels:
            rows = db.size // p.groups
            write_sums(db, g * rows, rows, work, p.bias_at, p.parts, panels * SIDE, LANES)


@helper
def _run(work, table, passing, kept, passing_places, kept_places, slot, g, panels, part, split,
         run, resume, r, p):  # fmt: skip
    """Adds the products of a run of pixels to a part's sums, and those of dy to its sums of dy."""
    at = p.slots_at + slot * p.slot
    images = min(r.images, passing.shape[0] - run // r.runs * r.images)
    pixels = images * min(r.run, r.pixels - run % r.runs * r.run)
    steps = (pixels + DEPTH - 1) // DEPTH
    bias = p.bias_at + part * panels * SIDE
    for panel in range(p.kept_panels):
        by_pixel = stage(work, at + p.stage_at, kept, kept_places, g * p.kept + panel * SIDE,
                         min(SIDE, p.kept - panel * SIDE), run, images, pixels, r)  # fmt: skip
        if panels and not p.by_filter and split == 0:
            _add(work, bias + panel * SIDE, at + p.stage_at, by_pixel, pixels, r)
        _cut(work, at + panel * p.panel, at, slot, True, by_pixel, steps, r, p)
    for panel in range(split * p.passing_panels // p.splits,
                       (split + 1) * p.passing_panels // p.splits):  # fmt: skip
        by_pixel = stage(work, at + p.stage_at, passing, passing_places,
                         g * p.passing + panel * SIDE, min(SIDE, p.passing - panel * SIDE),
                         run, images, pixels, r)  # fmt: skip
        if panels and p.by_filter:
            _add(work, bias + panel * SIDE, at + p.stage_at, by_pixel, pixels, r)
        _cut(work, at + p.passing_at, at, slot, False, by_pixel, steps, r, p)
        sums = p.sums_at + (part * p.passing_panels + panel) * p.kept_panels * SQUARE
        for other in range(p.kept_panels):
            block(work, 4 * (at + p.passing_at), 0, 64, 1024, STEP_BYTES // PARTS,
                  4 * (at + other * p.panel), 0, 64, 1024, STEP_BYTES // PARTS,
                  table, 0, steps, 4 * (sums + other * SQUARE), 4 * SIDE, resume)  # fmt: skip


@helper
def _add(work, to, start, by_pixel, pixels, r):
    """Adds what is staged, SIDE channels of dy, to their sums."""
    if by_pixel:
        add_pixels(work, to, start, SIDE, pixels, SIDE, LANES)
    else:
        add_rows(work, to, start, r.stage, pixels, SIDE)


@helper
def _cut(work, to, at, slot, pairs, by_pixel, steps, r, p):
    """What is staged, in steps of pixels: pairs of them, or rows.  Notes the largest magnitude."""
    flag = LANES + slot * FLAGS + (2 if pairs else 1)
    largest = load(work, flag)
    for k in range(steps):
        start = at + p.stage_at + k * DEPTH * (SIDE if by_pixel else 1)
        size = cut(work, 4 * to + k * STEP_BYTES, pairs, pairs != by_pixel, start,
                   SIDE if by_pixel else r.stage, at + p.square_at)  # fmt: skip
        largest = max(largest, size)
    store(work, flag, largest)


@helper
def _finish(dw, work, slot, g, panel, p):
    """Adds the parts' sums of a passing panel, and writes them to dw."""
    each = p.kept_panels * SQUARE
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
        source, to = sums + other * SQUARE, start + other * SIDE * column_step
        if column_step == 1:
            for i in range(rows):
                copy_row(dw, to + i * row_step, work, source + i * SIDE, columns)
        elif row_step == 1:
            transpose(dw, to, column_step, work, source, SIDE, rows, columns, LANES)
        else:
            for i in range(rows):
                for j in range(columns):
                    value = load(work, source + i * SIDE + j)
                    store(dw, to + i * row_step + j * column_step, value)
