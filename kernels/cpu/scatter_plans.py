"""How threads share a scatter-add: plans.py asks.

No two threads may own the same element of out, and each element adds up in the order of i.  Four
ways to share: a thread owns some of the outer slices; or some of the rows, and picks their entries
out of the index, so that each row of src is read once; or, where there are few rows or very long
ones, some of the columns; or, where rows are single elements and so few that looking at their
entries twice costs more than adding them, one thread owns all.  (1M rows of 64 into 50k, two
threads: 22 ms by rows, 32 by columns, which reads src in pieces of 128 bytes.)

Where many entries share few elements, the entries are cut into pieces, by sizes alone, that are
summed on their own.
"""

from __future__ import annotations

from dataclasses import replace

from .emitted.vectors import ITEMSIZE
from .products.matmul_plans import affords

OUTER, COLUMNS, ROWS = range(3)
WIDTH = 16  # lanes
BLOCK = 2048  # entries from which a thread picks its own before it adds them
FEW_BYTES = 256 * 1024  # rows of single elements that one thread adds up
_MANY = 4  # entries an element, from which on a piece has its own sums; 16 if they leave L2
_NEAR = 64 * 1024  # elements that stay in L2, a piece's and the sums of all
_PIECE = 16 * 1024  # entries of a piece at least
FEW_SUMS = 4096  # elements of longer rows for which pieces of the entries are summed alike
_MOST_PIECES = 16  # a power of two, as their number is: threads share them evenly


def plan(made, g, dtype, settings):
    """``made``, the plan so far, with the way that serves ScatterGeometry ``g``.

    ``program`` is (pieces, elements of a piece's sums), or the way that threads share rows.
    """
    item, pieces = ITEMSIZE[dtype], _pieces(g)
    apart = -(-g.rows * g.inner // WIDTH) * WIDTH + WIDTH  # no line of two threads
    if pieces > 1 and affords(settings, pieces * apart * item):
        return replace(made, algorithm="pieces", workspace_bytes=pieces * apart * item,
                       blocking={"pieces": pieces}, program=(pieces, apart))  # fmt: skip
    way, size = _way(g, made.threads, item), 0
    if way == ROWS and g.inner == 1:
        size = BLOCK * made.threads * (8 + item)
        if not affords(settings, size):
            way, size = OUTER, 0
    if way == OUTER:  # no more pieces than slices: a single one needs no second thread
        made = replace(made, threads=min(made.threads, max(1, g.outer)))
    name = ("direct", "columns", "rows")[way]
    return replace(made, algorithm=name, workspace_bytes=size, program=way)


def _pieces(g):
    """The pieces of a histogram's entries, or of rows for few sums; 1 where none is called for."""
    pieces = 1
    if g.outer == 1 and (g.inner == 1 or g.rows * g.inner <= FEW_SUMS):
        many = _MANY if g.rows * g.inner <= _NEAR else 4 * _MANY
        least = max(_PIECE // max(1, g.inner), many * g.rows)
        while 2 * pieces <= min(_MOST_PIECES, g.count // least):
            pieces *= 2
    return pieces


def _way(g, threads, itemsize):
    if threads == 1 or g.outer >= 4 * threads:
        return OUTER
    if g.inner == 1 and g.outer * g.rows * itemsize <= FEW_BYTES:
        return OUTER
    few_rows = g.rows < 8 * threads and g.inner >= WIDTH * threads
    if few_rows or g.inner >= 1024:
        return COLUMNS
    return ROWS
