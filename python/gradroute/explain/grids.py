"""The part of a layer that a picture shows: one plane, cut to what can be read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: More cells than this along a side are too small to hold a number.
CELLS = 10


@dataclass(frozen=True)
class Grid:
    """A plane of values as square cells; row 0 on top, as images are."""

    values: np.ndarray  # (rows, columns), all of the plane
    focus: tuple[int, int]
    rows: range  # those that are shown
    columns: range
    left: float
    top: float
    cell: float
    where: str  # which channel and slice this is, for the title
    leading: tuple[int, ...]  # the rest of the unit: what other units must share to be on it
    channels_last: bool

    def cells(self):
        """(row, column, value) of every cell shown."""
        for row in self.rows:
            for column in self.columns:
                yield row, column, float(self.values[row, column])

    def written(self) -> dict:
        """{(row, column): the value as text}, all with as many decimals as the largest needs."""
        sizes = [abs(value) for _, _, value in self.cells() if np.isfinite(value) and value]
        digits = 2 - math.floor(math.log10(max(sizes))) if sizes else 2
        if not 0 <= digits <= 4:
            return {(row, column): f"{value:.2g}" for row, column, value in self.cells()}
        digits = min(digits, 2) if max(sizes, default=1) >= 0.095 else digits
        return {
            (row, column): "0" if value == 0 else f"{value:.{digits}f}"
            for row, column, value in self.cells()
        }

    def corner(self, row, column) -> tuple[float, float]:
        """The lower left corner of a cell."""
        x = self.left + (column - self.columns.start) * self.cell
        return x, self.top - (row - self.rows.start + 1) * self.cell

    def middle(self, row, column) -> tuple[float, float]:
        x, y = self.corner(row, column)
        return x + self.cell / 2, y + self.cell / 2

    def shade(self, value) -> float:
        """0 for the smallest value on the plane, 1 for the largest."""
        low, high = np.nanmin(self.values), np.nanmax(self.values)
        if not np.isfinite([low, high, value]).all() or low == high:
            return 0.0
        return float((value - low) / (high - low))

    def place(self, unit) -> tuple[int, int] | None:
        """(row, column) of a unit of the same array, or None if it is not shown here."""
        leading, place = _taken_apart(tuple(unit), self.channels_last)
        shown = place[0] in self.rows and place[1] in self.columns
        return place if leading == self.leading and shown else None


def _taken_apart(unit, channels_last):
    """(channel and slice, (row, column))."""
    if len(unit) == 1:  # a vector: drawn as a column
        return (), (unit[0], 0)
    channel, position = (unit[-1], unit[:-1]) if channels_last else (unit[0], unit[1:])
    if len(position) == 1:  # lines from the side must not run through it: a column as well
        return (channel,), (position[0], 0)
    return (channel, *position[:-2]), position[-2:]


def grid_of(array, unit, channels_last, left, side, between, most=CELLS, keep=None) -> Grid:
    """The plane of ``array`` that ``unit`` is on, around it, in a box of this side.

    An array of two axes is taken as a plane itself when ``between`` (bottom, top) frames a map.
    ``keep`` (rows, axes): units that should be on it as well, if they fit.
    """
    if array.ndim == 2 and most != CELLS:
        values, leading, focus, where = array, (), unit, ""
    else:
        leading, focus = _taken_apart(unit, channels_last)
        where = "" if not leading else f", channel {leading[0]}"
        where += f", slice {leading[1]}" if len(leading) > 1 else ""
        moved = np.moveaxis(array, -1, 0) if channels_last and array.ndim > 1 else array
        values = moved[leading] if leading else moved[:, None]
        values = values[:, None] if values.ndim == 1 else values
    kept = [focus]
    if keep is not None:
        kept += [_taken_apart(tuple(u), channels_last)[1] for u in keep.tolist()]
    rows = _around(focus[0], [k[0] for k in kept], values.shape[0], most)
    columns = _around(focus[1], [k[1] for k in kept], values.shape[1], most)
    cut = [
        f"{name} {shown.start}-{shown.stop - 1} of {size}"
        for name, shown, size in zip(("rows", "columns"), (rows, columns), values.shape)
        if len(shown) < size
    ]
    where += f" ({', '.join(cut)})" if cut else ""
    bottom, top = between
    cell = min(side / max(len(rows), len(columns)), (top - bottom) / len(rows), side / 3)
    return Grid(values, focus, rows, columns, left, top, cell, where, leading, channels_last)


def _around(focus, kept, size, most) -> range:
    """At most ``most`` places with the focus in the middle, moved so that ``kept`` is on it."""
    if size <= most:
        return range(size)
    middle = (min(kept) + max(kept)) // 2 if max(kept) - min(kept) < most else focus
    start = min(max(middle - most // 2, 0), size - most)
    return range(start, start + most)
