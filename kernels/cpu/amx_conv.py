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
    begin,
    block,
    end,
    split_pairs,
    split_row,
)
from .amx_program import LAYOUT
from .implicit_gemm import _fill, _overlap, _write_row
from .jit import array, helper, int64, kernel, out, prange
from .memory import load, step, store
from .vectors import fill_row, finite_row

_FLAGS = 4  # not finite, largest weight, largest source element: bits, one trio a slot


def run(v, u, w, bias, plan, workspace) -> str:
    """v = u convolved with w (G, rows, channels, T, R, S) + bias.

    Returns "done", "repair" where v has elements that are not finite and must be computed
    directly, or "tiny" where the scale of the data is such that v is not good enough.
    """
    program = plan.program
    work = workspace[: program.size].view("float32")
    p = program.layout
    work[: p.packed_at] = 0
    pack("float32", plan.threads, work, w, program.phases, program.sources, p)
    convolve("float32", plan.threads, v, u, work, SHAPES, bias, program.table, program.phases,
             program.pairs, program.used, p)  # fmt: skip
    flags = work[_LANES : p.packed_at].reshape(-1, DEPTH)[:, :_FLAGS]
    broken, weight, source = flags.max(axis=0)[:3]
    if 0 < weight < TINY or 0 < source < TINY:
        return "tiny"
    return "repair" if broken else "done"


_LANES = 16


@kernel(lambda F: (out(F, 1), array(F, 6), array(int64, 2), array(int64, 3), LAYOUT),
        variants=("float32",))  # fmt: skip
def pack(work, w, phases, sources, p):
    """w (G, rows, channels, T, R, S) -> [G][panel][step][part][SIDE rows][DEPTH]."""
    tasks = p.groups * p.panels
    for slot in prange(p.slots):
        flags = 16 + slot * DEPTH
        scratch = p.slots_at + slot * p.slot
        largest = work.dtype.type(0)
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            g, panel = task // p.panels, task % p.panels
            for k in range(p.steps):
                to = (4 * p.packed_at) + (task * p.steps + k) * STEP_BYTES
                for i in range(SIDE):
                    row = panel * SIDE + i
                    _weights(work, scratch, w, g, row, sources, k, p)
                    for j in range(DEPTH):
                        largest = max(largest, abs(load(work, scratch + j)))
                    split_row(work, scratch, to + i * (2 * DEPTH))
        store(work, flags + 1, largest)


@helper
def _weights(work, scratch, w, g, row, sources, k, p):
    """The DEPTH weights of one row and step, zeros where there are none."""
    start = g * step(w, 0) + row * step(w, 1)
    for j in range(DEPTH):
        c = sources[k, j, 0]
        value = w.dtype.type(0)
        if c >= 0 and row < p.rows:
            value = load(w, start + c * step(w, 2) + sources[k, j, 1] * step(w, 3)
                         + sources[k, j, 2] * step(w, 4) + sources[k, j, 3] * step(w, 5))  # fmt: skip
        store(work, scratch + j, value)


@kernel(lambda F: (out(F, 5), array(F, 5), out(F, 1), array("uint8", 1), array(F, 1),
                   array(int64, 1), array(int64, 2), array(int64, 2), array(int64, 2), LAYOUT),
        variants=("float32",))  # fmt: skip
def convolve(v, u, work, shapes, bias, table, phases, pairs, used, p):
    """v = the packed weights over u; each slot is one thread's share of the blocks."""
    N = u.shape[0]
    across = (N + p.images - 1) // p.images
    down = (p.span_d + p.block_d - 1) // p.block_d
    high = (p.span_h + p.block_h - 1) // p.block_h
    wide = (p.span_w + p.block_w - 1) // p.block_w
    tasks = across * p.groups * down * high * wide
    for slot in prange(p.slots):
        begin(shapes)
        buffer = p.slots_at + slot * p.slot
        flags = 16 + slot * DEPTH
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            rest = task // p.groups
            g, n0 = task % p.groups, rest // (down * high * wide) * p.images
            d0 = rest // (high * wide) % down * p.block_d
            h0 = rest // wide % high * p.block_h
            w0 = rest % wide * p.block_w
            images = min(p.images, N - n0)
            _fill(work, buffer, u, used, n0, images, g, d0, h0, w0, p)
            _cut(work, buffer, flags, pairs, p)
            for phase in range(phases.shape[0]):
                _phase(v, work, buffer, flags, bias, table, phases, phase, n0, images, g,
                       d0, h0, w0, p)  # fmt: skip
        end()


@helper
def _cut(work, buffer, flags, pairs, p):
    """The block's rows of float32 as words of bfloat16 parts."""
    fill_row(work, buffer + p.channels * p.plane, work.dtype.type(0), p.plane)
    for i in range(pairs.shape[0]):
        words = buffer + p.words_at + i * p.word_plane
        split_pairs(work, buffer + pairs[i, 0], buffer + pairs[i, 1], words, p.part, p.word_count)


@helper
def _phase(v, work, buffer, flags, bias, table, phases, phase, n0, images, g, d0, h0, w0, p):
    """Every panel of weights over the part of the block that belongs to one target phase."""
    first_d, depth = _overlap(phases[phase, 6], phases[phase, 3], d0, p.block_d)
    first_h, height = _overlap(phases[phase, 7], phases[phase, 4], h0, p.block_h)
    first_w, width = _overlap(phases[phase, 8], phases[phase, 5], w0, p.block_w)
    if depth <= 0 or height <= 0 or width <= 0:
        return
    row = p.block_w + p.reach_w
    plane = (p.block_h + p.reach_h) * row
    volume = (p.block_d + p.reach_d) * plane
    start = buffer + p.words_at + (first_d - d0) * plane + (first_h - h0) * row + first_w - w0
    length = (height - 1) * row + width
    padded = (length + SIDE - 1) // SIDE * SIDE
    steps, before = phases[phase, 9], phases[phase, 10]
    vo = (n0 * step(v, 0)
          + (phases[phase, 0] + (first_d - phases[phase, 6]) * p.step_d) * step(v, 2)
          + (phases[phase, 1] + (first_h - phases[phase, 7]) * p.step_h) * step(v, 3)
          + (phases[phase, 2] + (first_w - phases[phase, 8]) * p.step_w) * step(v, 4))  # fmt: skip
    temp = buffer + p.temp_at
    for panel in range(p.panels):
        rows, k = min(SIDE, p.rows - panel * SIDE), g * p.rows + panel * SIDE
        a = 4 * p.packed_at + ((g * p.panels + panel) * p.steps + before) * STEP_BYTES
        for run in range(images * depth):
            source = start + run // depth * volume + run % depth * plane
            for j in range(0, length, SIDE):
                block(work, a, 0, 64, 1024, 2048, 4 * (source + j), 1, 4 * p.word_plane, 64,
                      4 * p.part, table, before, steps,
                      4 * (temp + run * padded + j), 4 * p.temp, 0)  # fmt: skip
        for run in range(images * depth):
            for y in range(height):
                at = temp + run * padded + y * row
                to = (vo + run // depth * step(v, 0) + k * step(v, 1)
                      + run % depth * p.step_d * step(v, 2) + y * p.step_h * step(v, 3))  # fmt: skip
                _finish_row(work, at, flags, bias, k, rows, width, p)
                _write_row(v, to, work, at, rows, width, p)


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
