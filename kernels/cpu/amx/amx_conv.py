"""The forward convolution and dx on AMX tiles, without an im2col matrix.

As implicit_gemm.py, whose block of the source it uses: rows are output channels, columns are
pixels, and the sum runs over taps and channels, DEPTH channels a step.  Each block is cut once
into bfloat16 parts, two channels to a word as the tiles want them; after that a tile of it, for any
tap, is 16 rows at one offset.
"""

from __future__ import annotations

from ..convolution.blocks import BLOCKS, count, fill, locate, overlap, write_row
from ..emitted.memory import load, step, store
from ..emitted.vectors import fill_row, finite_row
from ..jit import array, helper, int64, kernel, out, prange
from .amx_blocks import runs_of
from .amx_program import FLAGS, PRODUCT
from .amx_tiles import (
    DEPTH,
    SHAPES,
    SIDE,
    STEP_BYTES,
    TINY,
    available,
    begin,
    block,
    end,
    split_pairs,
)
from .amx_weights import pack


def run(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, T, R, S) + bias.

    False, and v is to be computed otherwise, if it is not finite or the data's scale is tiny.
    """
    program, seen = plan.program, plan.program.beside
    work = workspace[: program.size].view("float32")
    s, p = seen.blocks, program.product
    v, u, w = seen.array(v), seen.array(u), seen.window(w)
    work[: p.packed_at] = 0
    pack("float32", plan.threads, work, w, program.places, s.groups, p)
    convolve("float32", plan.threads, v, u, work, SHAPES, bias, program.table, program.phases,
             program.inside, seen.used, count(s), s, p)  # fmt: skip
    flags = work[p.flags_at : p.packed_at].reshape(-1, FLAGS)
    broken, weight, source = flags[:, :3].max(axis=0)
    return not (broken or 0 < weight < TINY or 0 < source < TINY)


@kernel(lambda F: (out(F, 5), array(F, 5), out(F, 1), array("uint8", 1), array(F, 1),
                   array(int64, 1), array(int64, 2), array(int64, 3), array(int64, 2), int64,
                   BLOCKS, PRODUCT),
        variants=("float32",) if available() else ())  # fmt: skip
def convolve(v, u, work, shapes, bias, table, phases, inside, used, tasks, s, p):
    """v = the packed weights over u; each slot is one thread's share of blocks and panels."""
    shares = tasks * p.splits
    for slot in prange(p.slots):
        begin(shapes)
        buffer = p.slots_at + slot * p.slot
        flags = p.flags_at + slot * FLAGS
        # between and behind the rows too: what an earlier call left there is not this one's scale
        fill_row(work, buffer, work.dtype.type(0), DEPTH * s.plane)
        for task in range(slot * shares // p.slots, (slot + 1) * shares // p.slots):
            g, n0, images, d0, h0, w0 = locate(task % tasks, s)
            split = task // tasks
            for c in range(0, s.channels, DEPTH):
                channels = min(DEPTH, s.channels - c)
                fill(work, buffer, u, used, g * s.channels + c, channels, n0, images, d0, h0, w0, s)
                fill_row(work, buffer + channels * s.plane, work.dtype.type(0),
                         (DEPTH - channels) * s.plane)  # fmt: skip
                _cut(work, buffer, buffer + p.words_at + c // 2 * p.word_plane, flags, s, p)
            for phase in range(phases.shape[0]):
                _phase(v, work, buffer, flags, bias, table, phases, inside, phase, n0, images, g,
                       d0, h0, w0, split, s, p)  # fmt: skip
        end()


@helper
def _cut(work, buffer, words, flags, s, p):
    """DEPTH channels of the block as words of bfloat16 parts, two channels to a word."""
    largest = load(work, flags + 2)
    for i in range(DEPTH // 2):
        row = buffer + 2 * i * s.plane
        size = split_pairs(work, row, row + s.plane, words + i * p.word_plane,
                           p.part, p.word_count)  # fmt: skip
        largest = max(largest, size)
    store(work, flags + 2, largest)


@helper
def _phase(v, work, buffer, flags, bias, table, phases, inside, phase, n0, images, g,
           d0, h0, w0, split, s, p):  # fmt: skip
    """Every panel of weights over the part of the block that belongs to one target phase."""
    first_d, depth = overlap(phases[phase, 6], phases[phase, 3], d0, s.block_d)
    first_h, height = overlap(phases[phase, 7], phases[phase, 4], h0, s.block_h)
    first_w, width = overlap(phases[phase, 8], phases[phase, 5], w0, s.block_w)
    if depth <= 0 or height <= 0 or width <= 0:
        return
    start = buffer + p.words_at + (first_d - d0) * s.area + (first_h - h0) * s.row + first_w - w0
    length, runs, image, plane = runs_of(images, depth, height, width, SIDE, s)
    before = phases[phase, 9]
    vo = (n0 * step(v, 0)
          + (phases[phase, 0] + (first_d - phases[phase, 6]) * p.step_d) * step(v, 2)
          + (phases[phase, 1] + (first_h - phases[phase, 7]) * p.step_h) * step(v, 3)
          + (phases[phase, 2] + (first_w - phases[phase, 8]) * p.step_w) * step(v, 4))  # fmt: skip
    temp = buffer + p.temp_at
    for panel in range(split * p.panels // p.splits, (split + 1) * p.panels // p.splits):
        rows, k = min(SIDE, p.rows - panel * SIDE), g * p.rows + panel * SIDE
        a = 4 * p.packed_at + (g * p.panels + panel) * p.steps * STEP_BYTES
        for run in range(runs):
            source = start + run // depth * s.volume + run % depth * s.area
            to = temp + run // depth * image + run % depth * plane
            for j in range(0, length, SIDE):
                if runs > 1:
                    row = last = run % depth
                elif images > 1:
                    row, last = 0, depth - 1
                else:
                    row, last = j // s.area, min(depth, (j + SIDE - 1) // s.area + 1) - 1
                first, end = _steps(inside, phase, first_d + row, first_d + last)
                block(work, a, -p.entries, 64, 1024, 2048,
                      4 * (source + j), 1, 4 * p.word_plane, 64, 4 * p.part,
                      table, before + first, end - first,
                      4 * (to + j), 4 * p.temp, 0)  # fmt: skip
        for run in range(images * depth):
            for y in range(height):
                at = temp + run // depth * image + run % depth * plane + y * s.row
                to = (vo + run // depth * step(v, 0) + run % depth * p.step_d * step(v, 2)
                      + y * p.step_h * step(v, 3) + k * step(v, 1))  # fmt: skip
                _finish_row(work, at, flags, bias, k, rows, width, p)
                write_row(v, to, work, at, rows, width, p)


@helper
def _steps(inside, phase, row, last):
    """The first and the end of the steps that find more than padding for one of these rows."""
    first, end = inside[phase, row, 0], inside[phase, row, 1]
    for other in range(row + 1, last + 1):
        first, end = min(first, inside[phase, other, 0]), max(end, inside[phase, other, 1])
    return first, max(first, end)


@helper
def _finish_row(work, at, flags, bias, k, rows, width, p):
    """Adds the bias to a row of pixels of one panel, and notes what is not finite."""
    for i in range(rows):
        if bias.size:
            value = load(bias, (k + i) * step(bias, 0))
            for q in range(width):
                store(work, at + i * p.temp + q, load(work, at + i * p.temp + q) + value)
        if not finite_row(work, at + i * p.temp, width):
            store(work, flags, work.dtype.type(1))
