"""The forward convolution and dx on AMX tiles, without an im2col matrix.

As implicit_gemm.py, whose block of the source it uses: rows are output channels, columns are
pixels, and the sum runs over taps and channels, DEPTH channels a step.  Each block is cut once
into bfloat16 parts, two channels to a word as the tiles want them; after that a tile of it, for any
tap, is 16 rows at one offset.
"""

from __future__ import annotations

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
    split_pairs,
    split_row,
)
from .amx_blocks import runs_of
from .amx_program import FLAGS, PRODUCT
from .blocks import BLOCKS, count, fill, locate, overlap, write_row
from .jit import array, helper, int64, kernel, out, prange
from .memory import load, step, store
from .transposition import transpose
from .vectors import copy_row, fill_row, finite_row


def run(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, T, R, S) + bias.

    False, and v is to be computed otherwise, if it is not finite or the data's scale is tiny.
    """
    program, seen = plan.program, plan.program.beside
    work = workspace[: program.size].view("float32")
    s, p = seen.blocks, program.product
    v, u, w = seen.array(v), seen.array(u), seen.window(w)
    work[: p.packed_at] = 0
    pack("float32", plan.threads, work, w, program.sources, s.groups, p)
    convolve("float32", plan.threads, v, u, work, SHAPES, bias, program.table, program.phases,
             seen.used, count(s), s, p)  # fmt: skip
    flags = work[p.flags_at : p.packed_at].reshape(-1, FLAGS)
    broken, weight, source = flags[:, :3].max(axis=0)
    return not (broken or 0 < weight < TINY or 0 < source < TINY)


@kernel(lambda F: (out(F, 1), array(F, 6), array(int64, 2), int64, PRODUCT),
        variants=("float32",) if available() else ())  # fmt: skip
def pack(work, w, sources, groups, p):
    """w (G, rows, channels, T, R, S) -> [G][panel][step][part][SIDE rows][DEPTH]."""
    tasks = groups * p.panels * p.steps
    for slot in prange(p.slots):
        flags = p.flags_at + slot * FLAGS
        scratch = p.slots_at + slot * p.slot
        largest = work.dtype.type(0)
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            g, panel, k = task // p.steps // p.panels, task // p.steps % p.panels, task % p.steps
            start = g * step(w, 0) + panel * SIDE * step(w, 1)
            rows = min(SIDE, p.rows - panel * SIDE)
            if rows < SIDE or sources[k, 1] < DEPTH:
                fill_row(work, scratch, work.dtype.type(0), SIDE * DEPTH)
            at = (start + sources[k, 0] * step(w, 2) + sources[k, 2] * step(w, 3)
                  + sources[k, 3] * step(w, 4) + sources[k, 4] * step(w, 5))  # fmt: skip
            _square(work, scratch, w, at, rows, sources[k, 1], p)
            to = 4 * p.packed_at + task * STEP_BYTES
            for i in range(SIDE):
                size = split_row(work, scratch + i * DEPTH, to + i * (2 * DEPTH),
                                 STEP_BYTES // PARTS, DEPTH)  # fmt: skip
                largest = max(largest, size)
        store(work, flags + 1, largest)


@helper
def _square(work, scratch, w, start, rows, channels, p):
    """scratch[i, c] = one tap's weight of row i and channel c, read along the shorter stride."""
    row, channel = step(w, 1), step(w, 2)
    if channel == 1:
        for i in range(rows):
            copy_row(work, scratch + i * DEPTH, w, start + i * row, channels)
    elif row == 1:
        transpose(work, scratch, DEPTH, w, start, channel, channels, rows, p.lanes)
    elif channel < row:
        for i in range(rows):
            for c in range(channels):
                store(work, scratch + i * DEPTH + c, load(w, start + i * row + c * channel))
    else:
        for c in range(channels):
            for i in range(rows):
                store(work, scratch + i * DEPTH + c, load(w, start + i * row + c * channel))


@kernel(lambda F: (out(F, 5), array(F, 5), out(F, 1), array("uint8", 1), array(F, 1),
                   array(int64, 1), array(int64, 2), array(int64, 2), int64, BLOCKS, PRODUCT),
        variants=("float32",) if available() else ())  # fmt: skip
def convolve(v, u, work, shapes, bias, table, phases, used, tasks, s, p):
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
                _phase(v, work, buffer, flags, bias, table, phases, phase, n0, images, g,
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
def _phase(v, work, buffer, flags, bias, table, phases, phase, n0, images, g, d0, h0, w0, split,
           s, p):  # fmt: skip
    """Every panel of weights over the part of the block that belongs to one target phase."""
    first_d, depth = overlap(phases[phase, 6], phases[phase, 3], d0, s.block_d)
    first_h, height = overlap(phases[phase, 7], phases[phase, 4], h0, s.block_h)
    first_w, width = overlap(phases[phase, 8], phases[phase, 5], w0, s.block_w)
    if depth <= 0 or height <= 0 or width <= 0:
        return
    start = buffer + p.words_at + (first_d - d0) * s.area + (first_h - h0) * s.row + first_w - w0
    length, runs, image, plane = runs_of(images, depth, height, width, SIDE, s)
    steps, before = phases[phase, 9], phases[phase, 10]
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
                block(work, a, -p.entries, 64, 1024, 2048, 4 * (source + j), 1,
                      4 * p.word_plane, 64, 4 * p.part, table, before, steps,
                      4 * (to + j), 4 * p.temp, 0)  # fmt: skip
        for run in range(images * depth):
            for y in range(height):
                at = temp + run // depth * image + run % depth * plane + y * s.row
                to = (vo + run // depth * step(v, 0) + run % depth * p.step_d * step(v, 2)
                      + y * p.step_h * step(v, 3) + k * step(v, 1))  # fmt: skip
                _finish_row(work, at, flags, bias, k, rows, width, p)
                write_row(v, to, work, at, rows, width, p)


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
