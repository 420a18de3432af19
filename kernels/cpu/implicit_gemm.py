"""The forward convolution and dx as one matrix product, without an im2col matrix.

Rows are output channels, columns are pixels, and the sum runs over (channel, tap) through a
table of offsets into a padded copy of a block of the source (regions.py).  A thread takes a block
of images and rows at a time: copies it into its own buffer, which stays in L2, and multiplies
every panel of weights with it, a chunk of the sum at a time so that the panel stays in L1.

Where the source's rows are wider than the target's, the sums at the row's end are computed and
dropped: cheaper than cutting tiles at every row.
"""

from __future__ import annotations

from .direct import span
from .jit import array, helper, int64, kernel, out, prange
from .memory import load, step, store
from .microkernel import tile
from .program import LAYOUT
from .vectors import copy_row, fill_row, finite_row, transpose


def run(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, T, R, S) + bias.

    False, and nothing written, if a weight is not finite and would be multiplied with padding.
    """
    dtype, program = v.dtype.name, plan.program
    work = workspace.view(v.dtype)
    layout, phases = program.layout, program.phases
    pack(dtype, plan.threads, work, w, bias, phases, program.taps, layout)
    if program.pads and work[0]:
        return False
    convolve(dtype, plan.threads, v, u, work, program.table, phases, program.used, layout)
    return True


@kernel(lambda F: (out(F, 1), array(F, 6), array(F, 1), array(int64, 2), array(int64, 2), LAYOUT))
def pack(work, w, bias, phases, taps, p):
    """w (G, rows, channels, T, R, S) -> panels [phase][G][panel][channel, tap][row]; the bias.

    work[0] is 0 if all weights are finite.
    """
    groups, rows, channels = w.shape[:3]
    for k in range(groups * rows):
        value = load(bias, k * step(bias, 0)) if bias.size else w.dtype.type(0)
        store(work, p.bias_at + k, value)
    infinite = 0
    panels = (rows + p.panel - 1) // p.panel
    for task in prange(phases.shape[0] * groups * panels):
        phase, g, row = task // (groups * panels), task // panels % groups, task % panels * p.panel
        count, before = phases[phase, 9], phases[phase, 10]
        to = p.packed_at + channels * (groups * rows * before + (g * rows + row) * count)
        _pack_panel(work, to, w, g * step(w, 0) + row * step(w, 1), min(p.panel, rows - row),
                    taps, before, count, p)  # fmt: skip
        if not finite_row(work, to, channels * count * min(p.panel, rows - row)):
            infinite += 1
    store(work, 0, infinite)


@helper
def _pack_panel(work, to, w, start, rows, taps, before, count, p):
    """``rows`` weights side by side for each (channel, tap) of one phase."""
    _, _, channels, T, R, S = w.shape
    window = step(w, 5) == 1 and step(w, 4) == S and step(w, 3) == R * S and count == T * R * S
    if window and step(w, 2) == count:
        transpose(work, to, rows, w, start, step(w, 1), rows, channels * count, p.lanes)
        return
    for c in range(channels):
        at = start + c * step(w, 2)
        if window and count > 1:
            transpose(work, to + c * count * rows, rows, w, at, step(w, 1), rows, count, p.lanes)
            continue
        for tap in range(count):
            t, r, s = taps[before + tap, 0], taps[before + tap, 1], taps[before + tap, 2]
            source = at + t * step(w, 3) + r * step(w, 4) + s * step(w, 5)
            target = to + (c * count + tap) * rows
            if step(w, 1) == 1:
                copy_row(work, target, w, source, rows)
            else:
                for i in range(rows):
                    store(work, target + i, load(w, source + i * step(w, 1)))


@kernel(lambda F: (out(F, 5), array(F, 5), out(F, 1), array(int64, 1), array(int64, 2),
                   array(int64, 2), LAYOUT))  # fmt: skip
def convolve(v, u, work, table, phases, used, p):
    """v = the packed weights over u; each slot is one thread's share of the blocks."""
    N = u.shape[0]
    across = (N + p.images - 1) // p.images
    down = (p.span_d + p.block_d - 1) // p.block_d
    high = (p.span_h + p.block_h - 1) // p.block_h
    wide = (p.span_w + p.block_w - 1) // p.block_w
    tasks = across * p.groups * down * high * wide
    for slot in prange(p.slots):
        buffer = p.slots_at + slot * p.slot
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            rest = task // p.groups
            g, n0 = task % p.groups, rest // (down * high * wide) * p.images
            d0 = rest // (high * wide) % down * p.block_d
            h0 = rest // wide % high * p.block_h
            w0 = rest % wide * p.block_w
            images = min(p.images, N - n0)
            _fill(work, buffer, u, used, n0, images, g, d0, h0, w0, p)
            for phase in range(phases.shape[0]):
                _phase(v, work, buffer, table, phases, phase, n0, images, g, d0, h0, w0, p)


@helper
def _fill(work, buffer, u, used, n0, images, g, d0, h0, w0, p):
    """Copies one block of u, split into its phases, with zeros where it is padded."""
    C = p.channels
    depth = min(p.block_d, p.span_d - d0) + p.reach_d
    height = min(p.block_h, p.span_h - h0) + p.reach_h
    width = min(p.block_w, p.span_w - w0) + p.reach_w
    row = p.block_w + p.reach_w
    plane = (p.block_h + p.reach_h) * row
    volume = (p.block_d + p.reach_d) * plane
    zero = u.dtype.type(0)
    for f in range(used.shape[0]):
        left = w0 * p.split_w + used[f, 2] - p.lead_w
        first, end = span(left, p.split_w, u.shape[4], width)
        first = min(first, width)
        w_step = step(u, 4) * p.split_w
        for i in range(images):
            for z in range(depth):
                d = (z + d0) * p.split_d + used[f, 0] - p.lead_d
                for y in range(height):
                    h = (y + h0) * p.split_h + used[f, 1] - p.lead_h
                    to = buffer + (f * p.images + i) * volume + z * plane + y * row
                    if d < 0 or d >= u.shape[2] or h < 0 or h >= u.shape[3]:
                        for c in range(C):
                            fill_row(work, to + c * p.plane, zero, width)
                        continue
                    start = ((n0 + i) * step(u, 0) + g * C * step(u, 1) + d * step(u, 2)
                             + h * step(u, 3) + left * step(u, 4) + first * w_step)  # fmt: skip
                    if first > 0 or end < width:
                        for c in range(C):
                            fill_row(work, to + c * p.plane, zero, first)
                            fill_row(work, to + c * p.plane + end, zero, width - end)
                    _fill_row(work, to + first, u, start, w_step, end - first, p)


@helper
def _fill_row(work, to, u, start, w_step, width, p):
    """One row of every channel; channels last is a transposition."""
    c_step = step(u, 1)
    if w_step == 1:
        for c in range(p.channels):
            copy_row(work, to + c * p.plane, u, start + c * c_step, width)
    elif c_step == 1:
        transpose(work, to, p.plane, u, start, w_step, width, p.channels, p.lanes)
    else:
        for c in range(p.channels):
            for q in range(width):
                store(work, to + c * p.plane + q, load(u, start + c * c_step + q * w_step))


@helper
def _phase(v, work, buffer, table, phases, phase, n0, images, g, d0, h0, w0, p):
    """Every panel of weights over the part of the block that belongs to one target phase."""
    first_d, depth = _overlap(phases[phase, 6], phases[phase, 3], d0, p.block_d)
    first_h, height = _overlap(phases[phase, 7], phases[phase, 4], h0, p.block_h)
    first_w, width = _overlap(phases[phase, 8], phases[phase, 5], w0, p.block_w)
    if depth <= 0 or height <= 0 or width <= 0:
        return
    row = p.block_w + p.reach_w
    plane = (p.block_h + p.reach_h) * row
    volume = (p.block_d + p.reach_d) * plane
    b = buffer + (first_d - d0) * plane + (first_h - h0) * row + first_w - w0
    # runs of buffer positions that one tile after the other covers, as long as they can be
    length, runs, run_step = (height - 1) * row + width, depth, plane
    image_runs = True
    if height * row == plane or depth == 1:
        length, runs = (depth - 1) * plane + length, 1
        if images > 1 and depth * plane == volume and height * row == plane and width == row:
            length, image_runs = (images - 1) * volume + length, False
    padded = (length + p.columns - 1) // p.columns * p.columns
    total_runs = images * runs if image_runs else 1
    temp = buffer + p.temp_at
    count, before = phases[phase, 9], phases[phase, 10]
    K = count * p.channels
    vo = (n0 * step(v, 0)
          + (phases[phase, 0] + (first_d - phases[phase, 6]) * p.step_d) * step(v, 2)
          + (phases[phase, 1] + (first_h - phases[phase, 7]) * p.step_h) * step(v, 3)
          + (phases[phase, 2] + (first_w - phases[phase, 8]) * p.step_w) * step(v, 4))  # fmt: skip
    image_at = runs * padded if image_runs else volume
    depth_at = padded if runs > 1 else plane
    for k0 in range(0, p.rows, p.panel):
        rows = min(p.panel, p.rows - k0)
        k = g * p.rows + k0
        a = p.packed_at + p.channels * (p.groups * p.rows * before + k * count)
        chunk = 0
        while True:
            steps = min(p.chunk, K - chunk)
            for r in range(total_runs):
                source = b + r // runs * volume + r % runs * run_step
                for j in range(0, length, p.columns):
                    tile(rows, work, a + chunk * rows, rows, work, source + j,
                         table, before * p.channels + chunk, steps,
                         work, temp + r * padded + j, p.temp, work, p.bias_at + k, chunk)  # fmt: skip
            chunk += p.chunk
            if chunk >= K:
                break
        for i in range(images):
            for z in range(depth):
                for y in range(height):
                    at = temp + i * image_at + z * depth_at + y * row
                    to = (vo + i * step(v, 0) + k * step(v, 1) + z * p.step_d * step(v, 2)
                          + y * p.step_h * step(v, 3))  # fmt: skip
                    _write_row(v, to, work, at, rows, width, p)


@helper
def _overlap(base, count, start, block):
    """The part of base..base+count-1 inside start..start+block-1, as (first, how many)."""
    first = max(base, start)
    return first, min(base + count, start + block) - first


@helper
def _write_row(v, to, work, at, rows, width, p):
    """A row of pixels of one panel's channels from the temporary to the result."""
    w_step, k_step = p.step_w * step(v, 4), step(v, 1)
    if w_step == 1:
        for i in range(rows):
            copy_row(v, to + i * k_step, work, at + i * p.temp, width)
    elif k_step == 1:
        transpose(v, to, w_step, work, at, p.temp, rows, width, p.lanes)
    else:
        for i in range(rows):
            for q in range(width):
                store(v, to + i * k_step + q * w_step, load(work, at + i * p.temp + q))
