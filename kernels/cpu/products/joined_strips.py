"""Blocks of pixels whose weights are packed beforehand (joined_product.py), strip by strip.

A strip is as wide as a tile.  Most lie in one image: their sums go straight to y, and where the
image's pixels lie side by side the first panel's tiles read them there and pack them on the way,
for the panels behind it.  The others are packed before, and their sums go by way of the slot.
"""

from __future__ import annotations

from ..emitted.memory import load, step
from ..emitted.strided_tile import address, panel_tile, strided_tile
from ..emitted.vectors import LINE, fill_row
from ..jit import helper
from .joined_pixels import (
    ahead_of,
    asked,
    columns_of,
    pack_pixels,
    pack_strip,
    pixel_at,
    side_by_side,
    strip_at,
    write,
)

#: Steps from which on a run of lines has no end.
ENDLESS = 1 << 40


@helper
def shared_block(y, x, a, bias, work, places, base, run, split, fresh, following, p):
    """Some rows of y for a block of columns; ``fresh``: was another one packed before?

    ``following``: the block of columns after it.
    """
    I, L, i0, pixels = y.shape[1], a.shape[3], split * p.rows, y.shape[4]
    end = min(I, i0 + p.rows)
    block = columns_of(run, y.shape[0], pixels, p)
    behind = columns_of(following, y.shape[0], pixels, p)
    for first in range(0, L, p.depth):
        depth = min(p.depth, L - first)
        packs = fresh or p.depth < L
        if packs:
            _pack(work, base, x, places, pixels, first, depth, block, p)
        lines, more = 0, min(p.depth, L - first - depth)
        if more:
            ahead = ahead_of(x, places, pixels, first + depth, more, *block, p)
        else:
            ahead = ahead_of(x, places, pixels, 0, p.depth if following != run else 0, *behind, p)
        for i in range(i0, end, p.panel):
            rows = i, min(p.panel, end - i)
            sums = base + p.c_at + (i - i0 if p.depth < L else 0) * p.columns
            for k in range(0, depth, p.chunk):
                terms = first + k, min(p.chunk, depth - k), k
                later = i + p.panel if i + p.panel < end and k + terms[1] == depth else i
                next_term = first + (k + terms[1]) % depth
                next_panel = (p.packed_at + next_term * I
                              + later * min(p.chunk, L - next_term))  # fmt: skip
                lines = _panel(y, x, bias, work, places, base, sums, block, rows, terms,
                               next_panel, packs and i == i0, ahead, lines, L, p)  # fmt: skip


@helper
def _in_one_image(j, wide, pixels):
    return j % pixels + wide <= pixels


@helper
def _read_in_place(places, j, wide, pixels, p):
    """Do tiles of the first panel read a strip where it lies?"""
    return wide == p.width and side_by_side(places, pixels) and _in_one_image(j, wide, pixels)


@helper
def _pack(work, base, x, places, pixels, first, depth, block, p):
    """The strips that tiles do not pack."""
    j0, columns = block
    if not side_by_side(places, pixels):
        pack_pixels(work, base, x, places, pixels, first, depth, j0, columns, p)
        return
    for strip in range((columns + p.width - 1) // p.width):
        at = strip * p.width
        if not _read_in_place(places, j0 + at, min(p.width, columns - at), pixels, p):
            pack_strip(work, base, x, places, pixels, first, depth, j0, strip, columns, p)


@helper
def _panel(y, x, bias, work, places, base, sums, block, rows, terms, next_panel, packs, ahead,
           lines, L, p):  # fmt: skip
    """A packed panel of a times all strips; asks for what comes next.

    ``rows``: the first, and how many; ``terms``: the first, how many, and of them in the block the
    first.  ``packs``: are strips packed on the way?  ``lines`` of the pixels packed next were asked
    for before; returns how many are now.
    """
    zero = work.dtype.type(0)
    (i, high), (term, depth, k), (j0, columns), pixels = rows, terms, block, y.shape[4]
    panel = address(work, p.packed_at + term * y.shape[1] + i * depth)
    asks = (p.panel * p.item + LINE - 1) // LINE  # tiles that ask for the next panel
    apart = (p.panel + asks - 1) // asks
    strips = (columns + p.width - 1) // p.width
    resume = int(bias.size > 0 or term > 0)
    for strip in range(strips):
        j, wide = j0 + strip * p.width, min(p.width, columns - strip * p.width)
        inside, held = _in_one_image(j, wide, pixels), sums + strip * p.width
        to = j // pixels * step(y, 0) + i * step(y, 1) + j % pixels
        c, ldc = address(work, held), p.columns
        if inside:
            c, ldc = address(y, to), step(y, 1)
        for row in range(high if bias.size and term == 0 else 0):
            value = load(bias, (i + row) * step(bias, 0))
            if inside:
                fill_row(y, to + row * step(y, 1), value, wide)
            else:
                fill_row(work, held + row * p.columns, value, wide)
        b = address(work, strip_at(base, k, depth, strip, strips, p))
        source, b_step, packed = b, p.width, 0
        if packs and _read_in_place(places, j, wide, pixels, p):
            source, b_step, packed = pixel_at(x, places, pixels, term, j), step(x, 1), b
        if strip < asks:
            fetched = address(work, next_panel + strip * depth * apart)
            hop, run, place, jump = apart, ENDLESS, 0, 0
        else:
            fetched, hop, run, place, jump = asked(x, ahead, lines, p)
            if hop == 0:
                fetched = panel
            lines += depth
        if wide == p.width:
            panel_tile(zero, high, panel, high, source, b_step, depth, c, ldc, resume, fetched,
                       hop, run, place, jump, packed)  # fmt: skip
        else:
            strided_tile(zero, high, wide, panel, high, 1, b, p.width, depth, c, ldc, resume,
                         panel, 0)  # fmt: skip
        if term + depth == L and not inside:
            write(y, i, high, work, held, j, wide, p)
    return lines
