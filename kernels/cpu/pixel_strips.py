"""The product of few rows or terms with images as they lie: memory's rate is what counts.

    y[n] = w @ x[n] + bias        (I, L) @ (L, pixels)

Nothing is packed: the register tile reads a strip of pixels, one tile wide, from each channel of
the image, and asks for a later strip meanwhile.  Which comes first is decided by what is larger:

- more terms than rows: the strip stays in L1 while all rows of w pass by, and x is read once;
- more rows: a panel of w passes along the strips of a block, which stay in L2, so that y is written
  row by row, some pages at a time.

The last strip of an image ends with its last pixel, and computes some pixels again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from numba import types

from .jit import array, helper, int64, kernel, out, prange
from .memory import load, step
from .microkernel import COLUMNS, ROWS
from .strided_tile import address, strided_tile
from .vectors import ITEMSIZE, fill_row

#: Bytes of a strip, beyond which L1 does not keep it while the rows pass by.
STRIP_BYTES = 32 * 1024

#: Weights, beyond which a packed product, whose blocks are used more often, is ahead.
MOST_WEIGHTS = 128 * 128

#: Bytes of a block of x that stays in L2.
BLOCK_BYTES = 256 * 1024

#: Strips ahead of the one that is multiplied, of which memory is asked for.
AHEAD = 4

LINE = 64


class Blocking(NamedTuple):
    """What the compiled loops need to know."""

    panel: int  # rows of a tile
    width: int
    item: int  # bytes of an element
    block: int  # strips that a panel of w passes along
    by_strip: int  # or do all panels pass by each strip?
    slots: int  # shares of the strips, a thread each


BLOCKING = types.NamedUniTuple(int64, len(Blocking._fields), Blocking)


@dataclass(frozen=True)
class Program:
    blocking: Blocking


def serves(rows, terms, pixels, dtype) -> bool:
    """Is there little to compute for what is read and written, in strips that L1 keeps?"""
    strip = terms * COLUMNS[dtype] * ITEMSIZE[dtype]
    return (pixels >= 4 * COLUMNS[dtype] and strip <= STRIP_BYTES
            and rows * terms <= MOST_WEIGHTS)  # fmt: skip


def build(rows, terms, dtype, threads) -> Program:
    item, width = ITEMSIZE[dtype], COLUMNS[dtype]
    panel = -(-rows // -(-rows // ROWS))
    block = max(1, min(32, BLOCK_BYTES // (terms * width * item)))
    return Program(Blocking(panel, width, item, block, int(terms > rows), threads))


def fits(y, b) -> bool:
    """Do the pixels of both lie side by side?"""
    return y.strides[2] == y.itemsize == b.strides[2]


def run(y, a, b, bias, plan):
    """y (N, I, J) = a (I, L) @ b (N, L, J) + bias (I, or none)."""
    product(y.dtype, plan.threads, y, a, b, bias, plan.program.blocking)


@kernel(lambda F: (out(F, 3), array(F, 2), array(F, 3), array(F, 1), BLOCKING))
def product(y, a, b, bias, p):
    """Threads share the whole strips of all images; an image's last one is with what follows it."""
    strips = y.shape[0] * (y.shape[2] // p.width)
    for slot in prange(p.slots):
        _share(y, a, b, bias, slot * strips // p.slots, (slot + 1) * strips // p.slots, p)


@helper
def _share(y, a, b, bias, at, end, p):
    """Strips ``at`` to ``end`` of all images, a block at a time."""
    strips = y.shape[2] // p.width
    while at < end:
        n, first = at // strips, at % strips
        count = min(p.block, strips - first, end - at)
        _block(y, a, b, bias, n, first, count, p)
        at += count


@helper
def _block(y, a, b, bias, n, first, count, p):
    """Some strips of one image."""
    I, J = y.shape[1:]
    rest = int(J % p.width > 0 and first + count == J // p.width)
    if p.by_strip:
        for strip in range(first, first + count + rest):
            for i in range(0, I, p.panel):
                _tile(y, a, b, bias, n, i, strip, i // p.panel % 2, p)
    else:
        for i in range(0, I, p.panel):
            for strip in range(first, first + count + rest):
                _tile(y, a, b, bias, n, i, strip, 0, p)


@helper
def _tile(y, a, b, bias, n, i, strip, line, p):
    """A panel of w times a strip.  It asks for a line of each channel of a later strip."""
    J, L = b.shape[2], b.shape[1]
    j = min(strip * p.width, J - p.width)
    rows = min(p.panel, y.shape[1] - i)
    to = n * step(y, 0) + i * step(y, 1) + j
    if bias.size:
        for row in range(rows):
            fill_row(y, to + row * step(y, 1), load(bias, (i + row) * step(bias, 0)), p.width)
    source = address(b, n * step(b, 0) + j)
    strided_tile(y.dtype.type(0), rows, p.width, address(a, i * step(a, 0)), step(a, 1),
                 step(a, 0), source, step(b, 1), L, address(y, to), step(y, 1), int(bias.size > 0),
                 source + AHEAD * p.width * p.item + line * LINE, step(b, 1))  # fmt: skip
