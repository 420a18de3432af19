"""The blocks of a matrix product, from its sizes: what matrix_product.py computes at a time.

Results are blocks that threads share, and the sum is taken chunk by chunk.  Few sums of many terms
are cut into parts as sizes alone decide, so that bits do not depend on threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from numba import int64, types

from ..emitted.vectors import ITEMSIZE, LANES
from ..microkernel import COLUMNS, ROWS

#: Steps of the sum at a time: b's block has that many rows, and sums are read and written again
#: after as many.
CHUNK = {"float32": 256, "float64": 192}

#: The same where a is copied panel by panel, a few bytes of each of its rows: these lie in pages
#: of their own, of which L1 knows some 96.
SHORT_CHUNK = {"float32": 256, "float64": 128}

#: Where few sums are cut into parts, bytes of both factors that L1 keeps while every tile of the
#: sums takes them up, and the least steps that pay for reading and writing these.
NEAREST_BYTES = 32 * 1024
LEAST_CHUNK = 64

#: Rows of a block, for which its b is packed, and columns: b's packed block stays in L2.
BLOCK_ROWS = 1024
BLOCK_COLUMNS = 1024
BLOCK_BYTES = 1024 * 1024
SLOTS_BYTES = 16 * 1024 * 1024  # of the sums of one block for each thread

#: Terms of a sum in one go, about: a longer one is the sum of pieces.
PIECE = 4096

#: Terms of a part of a sum that is cut, and the bytes of the sums of all parts.
PART = 1024
PARTS_BYTES = 2 * 1024 * 1024
FEW_SUMS = 128 * 128  # more of them only if both factors are large: parts read each of them once
MOST_PARTS = 16  # a power of two, as their number is: threads share them evenly

#: Bytes of a factor, or of the result, that L2 has kept from before: no need to ask for it.
NEAR_BYTES = 1024 * 1024

class Blocking(NamedTuple):
    """What the compiled loops need to know.  Offsets and lengths count elements."""

    rows: int  # of a block
    columns: int
    panel: int
    width: int  # of a tile
    lanes: int
    item: int  # bytes of an element
    chunk: int
    short_chunk: int  # where a lies along its rows
    parts: int  # of the sum
    pieces: int  # of a part
    cuts: int  # of each product's terms: a piece is some of them
    asks_for_sums: int  # are those of the next panel asked for?
    slots: int  # threads with memory of their own: a panel of a, strips of b, sums
    slot: int
    b_at: int
    c_at: int
    total_at: int  # of the pieces
    parts_at: int


BLOCKING = types.NamedUniTuple(int64, len(Blocking._fields), Blocking)


@dataclass(frozen=True)
class Program:
    blocking: Blocking
    turned: Blocking  # of the transposed product
    size: int  # of the workspace, in elements


def build(g, dtype, threads) -> Program:
    """The blocks of MatmulGeometry ``g``, and of its transposed product."""
    parts = _parts(g, dtype)
    made, turned = (_blocking(g, rows, columns, parts, dtype, threads)
                    for rows, columns in ((g.rows, g.columns), (g.columns, g.rows)))  # fmt: skip
    of_parts = g.batch * parts if parts > 1 else 0
    size = max(p.parts_at + of_parts * rows * p.columns for p, rows in
               ((made, g.rows), (turned, g.columns)))  # fmt: skip
    return Program(made, turned, size)


def _parts(g, dtype):
    """Into how many parts the sums are cut: whole strips of either product have to fit."""
    width, terms = COLUMNS[dtype], g.summed * g.inner
    padded = max(g.rows * -(-g.columns // width), g.columns * -(-g.rows // width)) * width
    most = min(MOST_PARTS, PARTS_BYTES // max(1, g.batch * padded * ITEMSIZE[dtype]))
    small, large = sorted((g.rows, g.columns))
    if g.batch * g.rows * g.columns > FEW_SUMS and large > 4 * small:
        return 1
    parts = 1
    while 2 * parts <= min(most, terms // PART, g.summed if g.summed > 1 else terms):
        parts *= 2
    return parts


def _blocking(g, rows, columns, parts, dtype, threads):
    width, lanes, item = COLUMNS[dtype], LANES[dtype], ITEMSIZE[dtype]
    terms = g.summed * g.inner
    pieces = max(1, -(-terms // (parts * PIECE)))
    cuts = parts * pieces
    if g.summed > 1:
        cuts = max(1, -(-g.inner // PIECE))
        pieces = min(pieces, g.summed * cuts // parts)
    part = -(-max(g.inner, 1) // cuts)
    down = across = 1
    if parts == 1:
        sums = threads * max(width, min(columns, BLOCK_COLUMNS)) * (2 if pieces > 1 else 1)
        most = SLOTS_BYTES // (sums * item)
        down = max(1, -(-rows // min(BLOCK_ROWS, max(2 * ROWS, most))))
        across = max(1, -(-columns // BLOCK_COLUMNS))
        down, across = _shared(g.batch, down, across, rows, columns, width, threads)
    elif rows >= 4 * ROWS:
        down = max(1, min(threads // (g.batch * parts), rows // (2 * ROWS)))
    rows = -(-max(rows, 1) // down)
    columns = -(-max(columns, 1) // (across * width)) * width
    panel = -(-rows // -(-rows // ROWS))
    chunk = even(part, min(CHUNK[dtype], BLOCK_BYTES // (columns * item)))
    near = rows * part * item <= NEAR_BYTES
    short = chunk if near else even(part, SHORT_CHUNK[dtype])
    if parts > 1:
        nearest = NEAREST_BYTES // ((rows + columns) * item)
        short = min(short, even(part, max(LEAST_CHUNK, nearest)))
    far = g.batch * g.rows * g.columns * item > NEAR_BYTES
    asks = int(far and part >= 128 and columns >= 12 * width)  # else there is no time, or no tile
    longest = max(chunk, short)
    b_at = -(-ROWS * longest // lanes) * lanes
    c_at = b_at + longest * columns
    total_at = c_at + rows * columns
    slot = total_at + (rows * columns if pieces > 1 else 0)
    return Blocking(rows, columns, panel, width, lanes, item, chunk, short, parts, pieces, cuts,
                    asks, threads, slot, b_at, c_at, total_at, threads * slot)  # fmt: skip


def even(count, most):
    """The size of even pieces of ``count``: ``most`` each, or a third more if there is but one."""
    return -(-count // max(1, -((most - 3 * count) // (3 * most))))


def _shared(batch, down, across, rows, columns, width, threads):
    """Blocks that the threads can share evenly."""
    while batch * down * across % threads and batch * down * across < 8 * threads:
        if columns >= max(rows, 4 * width * across):  # b is packed once, and a seldom is
            across += 1
        elif rows >= 16 * ROWS * down:
            down += 1
        elif columns >= 4 * width * across:
            across += 1
        elif rows >= 2 * ROWS * down:
            down += 1
        elif columns >= 2 * width * across:
            across += 1
        else:
            break
    return down, across
