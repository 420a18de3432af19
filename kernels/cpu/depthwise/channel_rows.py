"""A row of the tiles of channel_tile.py: what each is told of its place in the image."""

from __future__ import annotations

from ..emitted.memory import step
from ..emitted.vectors import VECTOR_BYTES
from ..jit import inlined
from .channel_tile import HIGH, SIDE, WIDE


def row_of_tiles(tile, up, down):
    """A helper for one of the intrinsics of channel_tile.py and one pair of strides.

    v are the targets and u the sources; ``unit`` is a row of tiles, counted through all images; the
    run of vectors begins with group g.  ``start`` is counted from the window's first tap.
    """
    high, wide = HIGH[up], WIDE[up]

    @inlined
    def tiles(v, u, order, dilation, before, work, weights, start, unit, G, KG, CG, T, g, groups,
              vectors):  # fmt: skip
        _, _, D, P, Q = v.shape
        taps = SIDE * SIDE * CG * (VECTOR_BYTES // v.itemsize)
        every, blocks = _apart(up, v, dilation), _blocks(high, up, v, dilation, before)
        n, z = unit // (D * every * blocks), unit // (every * blocks) % D
        row, residue = unit % blocks * high, unit // blocks % every
        p = row * every + residue if up == 1 else 2 * row - before[1]
        h = p * down - before[1] if up == 1 else row - 1
        here = min(groups * vectors, G - g)
        planes = progression(z, up, down, before[0], dilation[0], T, u.shape[2])
        uo = n * step(u, 0) + g * CG * step(u, 1) + planes[3] * step(u, 2) + h * step(u, 3)
        vo = n * step(v, 0) + g * KG * step(v, 1) + z * step(v, 2) + p * step(v, 3)
        apart = min(dilation[2], Q) if up == 1 else 1
        first = (vectors, here * CG, here * KG, groups * CG, groups * KG,
                 step(u, 3) * dilation[1], step(u, 4) * dilation[2], step(v, 3) * every,
                 step(v, 4) * apart,
                 _bits(h, dilation[1], high * down + SIDE - 1, u.shape[3]))  # fmt: skip
        there = _bits(p, every, high * up, P)
        last = (planes[2], planes[4] * step(u, 2), planes[1] * taps, CG, T * taps + taps // CG // 9,
                start - planes[0] * taps if start >= 0 else -1)  # fmt: skip
        count = (Q - 1) // apart + 1 if up == 1 else (Q - 1 + before[2]) // 2 + 1
        for side in range(apart):
            for column in range(0, count, wide):
                q = column * apart + side if up == 1 else 2 * column - before[2]
                s = q * down - before[2] if up == 1 else column - 1
                bits = (_bits(s, dilation[2], wide * down + SIDE - 1, u.shape[4]), there,
                        _bits(q, apart, wide * up, Q))  # fmt: skip
                tile(up, down, order, u, uo + s * step(u, 4), work, weights + planes[0] * taps,
                     v, vo + q * step(v, 4), first + bits + last)  # fmt: skip

    return tiles


@inlined
def units(high, up, v, dilation, before):
    """Rows of tiles of all images."""
    planes = v.shape[0] * v.shape[2]
    return planes * _apart(up, v, dilation) * _blocks(high, up, v, dilation, before)


@inlined
def _apart(up, v, dilation):
    """From one row of a tile to the next: under dilation a tile takes every so many."""
    return min(dilation[1], v.shape[3]) if up == 1 else 1


@inlined
def _blocks(high, up, v, dilation, before):
    """Rows of tiles of one plane, for each residue of its rows."""
    count = (v.shape[3] - 1) // _apart(up, v, dilation)
    if up == 2:
        count = (v.shape[3] - 1 + before[1]) // 2
    return count // high + 1


@inlined
def _bits(first, every, count, size):
    """Bit i: is first + i*every in 0..size-1?"""
    found = 0
    for i in range(count):
        if 0 <= first + i * every < size:
            found |= 1 << i
    return found


@inlined
def progression(o, up, down, before, dilation, window, size):
    """The taps of target ``o`` that read the source: (first, tap step, count, source, its step)."""
    first, tap_step, count, source, source_step = 0, 1, 0, 0, 0
    for tap in range(window):
        place = o * down - before + tap * dilation if up == 1 else o + before - tap * dilation
        if place % up or place < 0 or place // up >= size:
            continue
        place //= up
        if count == 0:
            first, source = tap, place
        elif count == 1:
            tap_step, source_step = tap - first, place - source
        count += 1
    return first, tap_step, count, source, source_step
