"""The weights of amx_conv.py, packed: a square of each part for every step, as tiles read them."""

from __future__ import annotations

from ..emitted.memory import step, store
from ..emitted.transposition import transpose
from ..emitted.vectors import fill_row
from ..jit import array, helper, int64, kernel, out, prange
from .amx_program import FLAGS, HALF, PRODUCT, TAPS, TURNED
from .amx_squares import copy_rectangle
from .amx_tiles import DEPTH, PARTS, SIDE, STEP_BYTES, available, split_row


@kernel(lambda F: (out(F, 1), array(F, 6), array(int64, 4), int64, PRODUCT),
        variants=("float32",) if available() else ())  # fmt: skip
def pack(work, w, places, groups, p):
    """w (G, rows, channels, T, R, S) -> [G][panel][step][part][SIDE rows][DEPTH].

    ``places``: which step's they are, of every DEPTH channels and tap; -1 for no step's.
    """
    chunks = places.shape[0]
    tasks = groups * p.panels * chunks * 2
    for slot in prange(p.slots):
        largest = work.dtype.type(0)
        for task in range(slot * tasks // p.slots, (slot + 1) * tasks // p.slots):
            rest = task // 2 // chunks
            size = _pack_half(work, p.slots_at + slot * p.slot, w, places, rest // p.panels,
                              rest % p.panels, task % 2, task // 2 % chunks, p)  # fmt: skip
            largest = max(largest, size)
        store(work, p.flags_at + slot * FLAGS + 1, largest)


@helper
def _pack_half(work, scratch, w, places, g, panel, half, chunk, p):
    """HALF rows and DEPTH channels of all taps, TAPS of them at a time; the largest magnitude."""
    first, taps = panel * SIDE + half * HALF, w.shape[3] * w.shape[4] * w.shape[5]
    rows, channels = max(0, min(HALF, p.rows - first)), min(DEPTH, w.shape[2] - chunk * DEPTH)
    start = g * step(w, 0) + first * step(w, 1) + chunk * DEPTH * step(w, 2)
    largest = work.dtype.type(0)
    if rows < HALF or channels < DEPTH:
        fill_row(work, scratch, largest, TAPS * HALF * DEPTH)
    for tap0 in range(0, taps, TAPS):
        count = min(TAPS, taps - tap0)
        if taps > 1 and _side_by_side(w):
            _turn_taps(work, scratch, w, start + tap0, rows, channels, count, p)
        else:
            for tap in range(count):
                t, r, s = _tap(w, tap0 + tap)
                at = start + t * step(w, 3) + r * step(w, 4) + s * step(w, 5)
                copy_rectangle(work, scratch + tap * HALF * DEPTH, w, at, step(w, 1), step(w, 2),
                               rows, channels)  # fmt: skip
        for tap in range(count):
            place = _place(places, chunk, w, tap0 + tap)
            if place < 0:
                continue
            to = (4 * p.packed_at + half * (HALF * 2 * DEPTH)
                  + ((g * p.panels + panel) * p.steps + place) * STEP_BYTES)
            for i in range(HALF):
                size = split_row(work, scratch + (tap * HALF + i) * DEPTH, to + i * (2 * DEPTH),
                                 STEP_BYTES // PARTS, DEPTH)  # fmt: skip
                largest = max(largest, size)
    return largest


@helper
def _tap(w, tap):
    """(t, r, s) of a tap."""
    return tap // w.shape[5] // w.shape[4], tap // w.shape[5] % w.shape[4], tap % w.shape[5]


@helper
def _place(places, chunk, w, tap):
    t, r, s = _tap(w, tap)
    if t < places.shape[1] and r < places.shape[2] and s < places.shape[3]:
        return places[chunk, t, r, s]
    return -1


@helper
def _side_by_side(w):
    """Do all taps of a filter lie side by side?"""
    taps, found = 1, True
    for axis in (5, 4, 3):
        found = found and (w.shape[axis] == 1 or step(w, axis) == taps)
        taps *= w.shape[axis]
    return found


@helper
def _turn_taps(work, scratch, w, start, rows, channels, taps, p):
    """scratch[tap][i][c] of taps that lie side by side."""
    row, channel = step(w, 1), step(w, 2)
    if channel <= row:
        for i in range(rows):
            transpose(work, scratch + i * DEPTH, HALF * DEPTH, w, start + i * row, channel,
                      channels, taps, p.lanes)  # fmt: skip
        return
    turned = scratch + TAPS * HALF * DEPTH
    for c in range(channels):
        transpose(work, turned + c * TURNED, HALF, w, start + c * channel, row, rows, taps, p.lanes)
    for tap in range(taps):
        transpose(work, scratch + tap * HALF * DEPTH, DEPTH, work, turned + tap * HALF, TURNED,
                  channels, rows, p.lanes)  # fmt: skip
