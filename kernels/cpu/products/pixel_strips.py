"""The product of few rows or terms with images as they lie: memory's rate is what counts.

    y[n] = w @ x[n] + bias        (I, L) @ (L, pixels)

Nothing is packed: the register tile reads a strip of pixels, one tile wide, from each channel of
the image.  A panel of w passes along the strips of a block, which stay in L2, so that y is written
row by row, some pages at a time.  Meanwhile the tiles ask for the next block, one line a step:
channel by channel, each a run of lines, as the processor's own prefetching follows few streams, and
one line each of 64 channels are 64.

Strips begin where cache lines do, if those of all channels begin at the same pixels, as a vector
that crosses from one line to the next takes two loads: lines of x if there are many more loads than
stores, else of y.  An image's first strip begins with its first pixel, its last one ends with the
last, and they compute some pixels again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from numba import types

from ..emitted.memory import load, step
from ..emitted.strided_tile import address, panel_tile, run_from, strided_tile
from ..emitted.vectors import ITEMSIZE, LANES, LINE, fill_row
from ..jit import array, helper, inlined, int64, kernel, out, prange
from ..microkernel import COLUMNS, ROWS
from .matrix_product import pack

#: Bytes of a strip, beyond which L1 does not keep it while the rows pass by.
STRIP_BYTES = 32 * 1024

#: Weights, beyond which a packed product, whose blocks are used more often, is ahead.
MOST_WEIGHTS = 128 * 128

#: Bytes of a block of x: it stays in L2 beside the next one.
BLOCK_BYTES = 64 * 1024

#: Strips of a block at most, a power of two.
MOST_STRIPS = 32

#: Pixels of a batch from which on copying the weights pays.
PACKED_FROM = 4096

#: Strips ahead of the one that is multiplied, of which memory is asked for with fewer pixels.
AHEAD = 4

#: Loads that cross from one line to the next which cost as much as a store that does.
STORE_COST = 3


class Blocking(NamedTuple):
    """What the compiled loops need to know."""

    panel: int  # rows of a tile
    width: int
    item: int  # bytes of an element
    block: int  # strips that a panel of w passes along
    bits: int  # log2 of the lines of each channel that the tiles of a block ask for
    lanes: int
    packed: int  # are the weights copied, panel by panel?
    slots: int  # shares of the strips, a thread each


BLOCKING = types.NamedUniTuple(int64, len(Blocking._fields), Blocking)


@dataclass(frozen=True)
class Program:
    blocking: Blocking
    size: int  # of the workspace, in elements: the weights, panel by panel


def serves(rows, terms, pixels, dtype) -> bool:
    """Is there little to compute for what is read and written, in strips that L1 keeps?"""
    strip = terms * COLUMNS[dtype] * ITEMSIZE[dtype]
    return (pixels >= 4 * COLUMNS[dtype] and strip <= STRIP_BYTES
            and rows * terms <= MOST_WEIGHTS)  # fmt: skip


def build(rows, terms, pixels, dtype, threads) -> Program:
    """For ``pixels`` of a whole batch."""
    item, width = ITEMSIZE[dtype], COLUMNS[dtype]
    panel = -(-rows // -(-rows // ROWS))
    block = MOST_STRIPS
    while block > 1 and block * terms * width * item > BLOCK_BYTES:
        block //= 2
    bits = max(1, block * width * item // LINE).bit_length() - 1
    packed = int(pixels >= PACKED_FROM)
    blocking = Blocking(panel, width, item, block, bits, LANES[dtype], packed, threads)
    return Program(blocking, -(-rows // panel) * panel * terms * packed)


def fits(y, b) -> bool:
    """Do the pixels of both lie side by side?"""
    return y.strides[2] == y.itemsize == b.strides[2]


def run(y, a, b, bias, plan, workspace):
    """y (N, I, J) = a (I, L) @ b (N, L, J) + bias (I, or none)."""
    work = workspace.view(y.dtype)[: plan.program.size]
    product(y.dtype, plan.threads, y, a, b, bias, work, plan.program.blocking)


@kernel(lambda F: (out(F, 3), array(F, 2), array(F, 3), array(F, 1), out(F, 1), BLOCKING))
def product(y, a, b, bias, work, p):
    """Threads share the strips of all images."""
    L = b.shape[1]
    for panel in prange((y.shape[1] + p.panel - 1) // p.panel if p.packed else 0):
        i = panel * p.panel
        pack(work, i * L, p.panel, a, i * step(a, 0), step(a, 1), step(a, 0), L,
             min(p.panel, y.shape[1] - i), p.lanes)  # fmt: skip
    shift = _shift(y, b, p)
    strips = (y.shape[2] + shift + p.width - 1) // p.width
    total = y.shape[0] * strips
    for slot in prange(p.slots):
        at, end = _bound(slot, total, strips, p), _bound(slot + 1, total, strips, p)
        _share(y, a, b, bias, work, at, end, strips, shift, p)


@helper
def _shift(y, b, p):
    """How many pixels before an image strips begin, so that the others begin with a line."""
    channels = b.shape[1] >= STORE_COST * p.panel
    return _in_line(b, p) if channels else _in_line(y, p)


@helper
def _in_line(image, p):
    """The place in its line at which every channel begins; 0 if they differ."""
    line = LINE // p.item
    if step(image, 0) % line or step(image, 1) % line:
        return 0
    return address(image, 0) % LINE // p.item % p.width  # a strip may be half a line


@helper
def _start(strip, shift, pixels, p):
    """The first pixel of a strip."""
    return max(0, min(strip * p.width - shift, pixels - p.width))


@helper
def _bound(slot, total, strips, p):
    """Where a share begins: not between two strips of an image that overlap."""
    at = slot * total // p.slots
    if at % strips == 1:
        return at - 1
    return at + int(at % strips == strips - 1)


@helper
def _share(y, a, b, bias, work, at, end, strips, shift, p):
    """Strips ``at`` to ``end`` of all images, a block at a time."""
    while at < end:
        n, first = at // strips, at % strips
        last = min(first + p.block, strips, first + end - at)
        at += last - first
        later = at if at < end else at - 1  # the last block has nothing to ask for
        ahead = later // strips * step(b, 0) + _start(later % strips, shift, y.shape[2], p)
        asked = 0  # lines
        for i in range(0, y.shape[1], p.panel):
            for strip in range(first, last):
                j = _start(strip, shift, y.shape[2], p)
                _tile(y, a, b, bias, work, n, i, j, ahead, asked, p)
                asked += b.shape[1]


@inlined
def _tile(y, a, b, bias, work, n, i, j, ahead, asked, p):
    """A panel of w times the strip from pixel ``j`` on; asks for some of the block at ``ahead``."""
    L = b.shape[1]
    rows = min(p.panel, y.shape[1] - i)
    to = n * step(y, 0) + i * step(y, 1) + j
    if bias.size:
        for row in range(rows):
            fill_row(y, to + row * step(y, 1), load(bias, (i + row) * step(bias, 0)), p.width)
    source, resume = address(b, n * step(b, 0) + j), int(bias.size > 0)
    if not p.packed:
        strided_tile(y.dtype.type(0), rows, p.width, address(a, i * step(a, 0)), step(a, 1),
                     step(a, 0), source, step(b, 1), L, address(y, to), step(y, 1), resume,
                     source + AHEAD * p.width * p.item, step(b, 1))  # fmt: skip
        return
    fetched, stride, lines, place, jump = run_from(b, ahead, step(b, 1), asked, p.bits,
                                                   LINE // p.item)  # fmt: skip
    if asked >> p.bits >= L:  # all lines were asked for
        fetched, stride, jump = source, 0, 0
    panel_tile(y.dtype.type(0), rows, address(work, i * L), p.panel, source, step(b, 1), L,
               address(y, to), step(y, 1), resume, fetched, stride, lines, place, jump, 0)
