"""Squares of float32 on their way into AMX tiles: copied out of matrices of any strides."""

from __future__ import annotations

import numpy as np

from ..emitted.memory import load, store
from ..emitted.transposition import transpose
from ..emitted.vectors import copy_row, fill_row
from ..jit import helper
from .amx_program import LANES
from .amx_tiles import DEPTH, SIDE

SQUARE = SIDE * SIDE


def no_table(terms):
    """For sums of so many terms: a packed operand is not found through the table of `amx.block`,

    which reads it all the same.
    """
    return np.zeros(terms // DEPTH, np.int64)


@helper
def copy_square(work, to, source, start, row, column, rows, columns):
    """`copy_rectangle`, with zeros behind the last row or column of a square."""
    if rows < SIDE or columns < SIDE:
        fill_row(work, to, work.dtype.type(0), SQUARE)
    copy_rectangle(work, to, source, start, row, column, rows, columns)


@helper
def copy_rectangle(work, to, source, start, row, column, rows, columns):
    """work[to + i*SIDE + j] = source[start + i*row + j*column], read along the shorter stride."""
    if column == 1:
        for i in range(rows):
            copy_row(work, to + i * SIDE, source, start + i * row, columns)
    elif row == 1:
        transpose(work, to, SIDE, source, start, column, columns, rows, LANES)
    elif abs(column) < abs(row):
        for i in range(rows):
            for j in range(columns):
                store(work, to + i * SIDE + j, load(source, start + i * row + j * column))
    else:
        for j in range(columns):
            for i in range(rows):
                store(work, to + i * SIDE + j, load(source, start + i * row + j * column))
