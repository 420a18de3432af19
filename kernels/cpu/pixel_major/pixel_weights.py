"""The weights of pixel_conv.py, packed for its tile: channels side by side."""

from __future__ import annotations

from ..emitted.memory import load, step, store
from ..emitted.transposition import transpose
from ..emitted.vectors import fill_row, finite_row
from ..jit import helper


@helper
def pack(work, w, bias, phases, taps, first, end, p):
    """Bias and weights of some groups: [group][columns of a tile][phase][step][column].

    Returns whether a weight is not finite.
    """
    rows, size = w.shape[1], p.width * p.depth
    if p.rows < p.width or bias.size == 0:  # lanes without a row, too: denormals are slow
        fill_row(work, first * p.width, work.dtype.type(0), (end - first) * p.width)
    if p.rows < p.width:
        fill_row(work, p.packed_at + first * size, work.dtype.type(0), (end - first) * size)
    for g in range(first, end):
        for k in range(rows if bias.size else 0):
            store(work, g * p.width + k, load(bias, (g * rows + k) * step(bias, 0)))
        for k in range(0, rows, p.tile):
            to, start = p.packed_at + (g * p.width + k) * p.depth, g * step(w, 0) + k * step(w, 1)
            columns, some = min(p.tile, p.width - k), min(p.tile, rows - k)
            if not p.by_rows:
                _pack_columns(work, to, w, start, columns, some, p)
            else:
                _pack_phases(work, to, w, start, columns, some, phases, taps)
    return not finite_row(work, p.packed_at + first * size, (end - first) * size)


@helper
def _pack_phases(work, to, w, start, columns, rows, phases, taps):
    """`_pack_columns` in the order of pixel_phases.phase_tables, by rows of taps."""
    k_step = step(w, 1)
    for phase in range(phases.shape[0]):
        count, before = phases[phase, 8], phases[phase, 9]
        beside = count // max(1, phases[phase, 10])  # taps of a row
        for first in range(before, before + count, max(1, beside)):
            for c in range(w.shape[2]):
                for i in range(first, first + beside):
                    at = (start + c * step(w, 2) + taps[i, 0] * step(w, 3)
                          + taps[i, 1] * step(w, 4) + taps[i, 2] * step(w, 5))  # fmt: skip
                    for k in range(rows):
                        store(work, to + k, load(w, at + k * k_step))
                    to += columns


@helper
def _pack_columns(work, to, w, start, columns, rows, p):
    """``rows`` weights side by side for each (channel, tap)."""
    _, _, channels, T, R, S = w.shape
    taps, k_step = T * R * S, step(w, 1)
    lie = step(w, 5) == 1 and step(w, 4) == S and step(w, 3) == R * S
    if lie and step(w, 2) == taps:
        transpose(work, to, columns, w, start, k_step, rows, channels * taps, p.lanes)
        return
    for c in range(channels):
        at = start + c * step(w, 2)
        if lie and taps > 1:
            transpose(work, to + c * taps * columns, columns, w, at, k_step, rows, taps, p.lanes)
            continue
        for tap in range(taps):
            t, r, q = tap // (R * S), tap // S % R, tap % S
            source = at + t * step(w, 3) + r * step(w, 4) + q * step(w, 5)
            target = to + (c * taps + tap) * columns
            for i in range(rows):
                store(work, target + i, load(w, source + i * k_step))
