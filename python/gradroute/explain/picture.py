"""Explanations as pictures: from right to left, the way the gradient flows.

Consumers on the right, the neuron in its layer in the middle, and where a pool made the neuron,
the window that it came from on the left.  A line's width is the size of its term.  Sign is shown
twice, by colour (blue and orange, told apart by the colour-blind) and by line (solid and dashed);
the winner has a star as well as an outline, so all of it reads in grey.
"""

from __future__ import annotations

import os
import textwrap

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.patheffects import withStroke

from gradroute.errors import ArgumentValueError

from .grids import Grid, grid_of
from .numbers import show
from .text import notes, shown_rows, wrong_sum

PLUS, MINUS, NONE = "#2166ac", "#d95f02", "#888888"
_UNIT = 0.3  # inches for one unit of a panel
_HEIGHT = 15.0
_SIDE = 9.0  # the longer side of a grid
_WINDOWS = 4  # more windows than this would hide what they outline
#: (colour, line) of the windows drawn over a layer, and of the boxes of those who read through them
_WINDOW_STYLES = (("#1b9e77", "-"), ("#7570b3", "--"), ("#555555", "-."), ("#a6761d", ":"))
_HALO = [withStroke(linewidth=2, foreground="white")]


class Picture(Figure):
    """A matplotlib figure that notebooks show by itself."""

    def _repr_png_(self):
        import io

        data = io.BytesIO()
        self.savefig(data, format="png", dpi=80)
        return data.getvalue()


def save(figure, path):
    """Writes the figure if there is a path; the ending chooses the format."""
    if path is None:
        return figure
    kinds = sorted(figure.canvas.get_supported_filetypes())
    ending = os.path.splitext(os.fspath(path))[1][1:].lower()
    if ending not in kinds:
        raise ArgumentValueError(
            f"a picture's file name must end in one of {kinds}, got {os.fspath(path)!r}"
        )
    fixed = {"metadata": {"Date": None}} if ending == "svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": "gradroute"}):  # the same file for the same picture
        figure.savefig(path, dpi=120, facecolor="white", **fixed)
    return figure


def draw(explanations, path, *, rows):
    """One panel below the other, lines on one scale."""
    terms = [abs(row[4]) for e in explanations for row in shown_rows(e, rows)]
    largest = max((size for size in terms if size == size), default=0.0)
    sources = any(e.hand.source is not None for e in explanations)
    width = (_SIDE + 4 if sources else 0) + _SIDE + 23.5
    figure = Picture(figsize=(width * _UNIT, _HEIGHT * len(explanations) * _UNIT))
    for number, e in enumerate(explanations):
        axes = figure.add_axes((0, 1 - (number + 1) / len(explanations), 1, 1 / len(explanations)))
        axes.set_xlim(0, width)
        axes.set_ylim(0, _HEIGHT)
        axes.axis("off")
        _Panel(axes, e, largest, filled=number % 2 == 1).draw(sources, rows)
    return save(figure, path)


class _Panel:
    """One explanation's part of a picture."""

    def __init__(self, axes, e, largest, filled):
        self.axes, self.e, self.largest, self.filled = axes, e, largest, filled

    def draw(self, sources, rows):
        left, e = 1.0, self.e
        head = f"{e.name}: value {show(e.value)}, gradient {show(e.total, sign=True)}"
        self._text(left, _HEIGHT - 0.9, head, size=12, weight="bold")
        checks = ", ".join(
            f"{label} {show(check.value, sign=True)} {check.status}"
            for check, label in zip(e.checks, ("the kernel says", "a nudge test says"))
        )
        self._text(left, _HEIGHT - 1.9, checks, size=8.5, color="#555555")
        self._notes(left, 170 if sources else 120)
        if sources:
            source = self._source(left)
            left += _SIDE + 4
        grid = self._neurons(left)
        if sources and source is not None:
            self._to_winner(grid, source)
        self._consumers(grid, left + _SIDE + 5, rows)

    def _notes(self, left, characters):
        """The sentences at the foot; what is above them starts at ``self.bottom``."""
        sentences = [line for text, _ in notes(self.e) for line in textwrap.wrap(text, characters)]
        for number, sentence in enumerate(reversed(sentences)):
            self._text(left, 0.6 + 0.65 * number, sentence, size=8.5)
        self.bottom = 0.6 + 0.65 * len(sentences) + 0.5

    def _between(self) -> tuple[float, float]:
        """Bottom and top of what is drawn between the head and the notes."""
        return self.bottom + 0.7, _HEIGHT - 3.6

    # ---- the grids ------------------------------------------------------------------------

    def _text(self, x, y, text, **how):
        how.setdefault("va", "center")
        return self.axes.text(x, y, text, **how)

    def _cells(self, grid: Grid, title, skip=None):
        self._text(grid.left, grid.top + 0.5, title, size=9.5, weight="bold")
        written = grid.written()
        longest = max((len(text) for text in written.values()), default=1)
        size = min(10.0, grid.cell * _UNIT * 72 * 0.85 / (0.64 * max(longest, 3)))
        for row, column, value in grid.cells():
            x, y = grid.corner(row, column)
            face = str(0.99 - 0.3 * grid.shade(value))
            self.axes.add_patch(
                Rectangle((x, y), grid.cell, grid.cell, facecolor=face, edgecolor="#999999", lw=0.6)
            )
            if size >= 4 and (row, column) != skip:
                self._text(
                    x + grid.cell / 2, y + grid.cell / 2, written[row, column], ha="center",
                    size=size, zorder=7, path_effects=_HALO,
                )  # fmt: skip
        return size

    def _outline(self, grid, row, column, **how):
        x, y = grid.corner(row, column)
        self.axes.add_patch(
            Rectangle((x, y), grid.cell, grid.cell, **{"fill": False, "zorder": 4, **how})
        )

    def _neurons(self, left) -> Grid:
        """The layer of the neuron, with the neuron outlined (or filled), and the windows on it."""
        e = self.e
        grid = grid_of(e.plane, e.unit, e.channels_last, left, _SIDE, self._between())
        size = self._cells(grid, f"{e.layer}{grid.where}", grid.focus if self.filled else None)
        row, column = grid.focus
        if self.filled:
            self._outline(grid, row, column, fill=True, facecolor="#333333", edgecolor="black")
            x, y = grid.middle(row, column)
            text = grid.written()[grid.focus]
            self._text(x, y, text, ha="center", size=size, color="white", zorder=5)
        else:
            self._outline(grid, row, column, edgecolor="black", lw=2.6)
        self._draw_windows(grid)
        return grid

    def _draw_windows(self, grid):
        """The windows that read the neuron, each a little smaller than the one before."""
        row, column = grid.focus
        places = self._windows()
        for number, (place, (high, wide)) in enumerate(places.items()):
            inset = 0.07 * grid.cell * (number + 1)
            x, y = grid.corner(row - place[0] + high - 1, column - place[1])
            colour, line = _WINDOW_STYLES[number]
            self.axes.add_patch(
                Rectangle(
                    (x + inset, y + inset), wide * grid.cell - 2 * inset,
                    high * grid.cell - 2 * inset, fill=False, lw=1.4, zorder=3,
                    edgecolor=colour, linestyle=line,
                )
            )  # fmt: skip
        if self.e.taps is not None and len(self.e.taps):
            count = len(set(map(tuple, self.e.taps.tolist())))
            many = f"{count:,} windows" if count > 1 else "1 window"
            _, y = grid.corner(grid.rows.stop - 1, column)
            self._text(grid.left, y - 0.5, f"read by {many} of {self.e.reader}", size=8.5)

    def _windows(self) -> dict:
        """{the neuron's place in a window: that window's extent}, in rows and columns."""
        e = self.e
        if e.window is None or e.taps is None or len(e.window[0]) > 2:
            return {}
        lengths, dilations = e.window
        extent = tuple([*((n - 1) * d + 1 for n, d in zip(lengths, dilations)), 1][:2])
        places = {self._place(tap): extent for tap in e.taps[::-1].tolist()}
        return dict(sorted(places.items(), reverse=True)) if len(places) <= _WINDOWS else {}

    def _place(self, tap) -> tuple[int, int]:
        """How far into its window, in rows and columns, a neuron read through this tap lies."""
        return tuple([*(t * d for t, d in zip(tap, self.e.window[1])), 0][:2])

    def _source(self, left) -> Grid | None:
        """What the pool saw: its window, and in a max-pool the winner with the whole gradient."""
        hand = self.e.hand
        if hand.source is None:
            return None
        focus = hand.winner or tuple(int(i) for i in hand.window[len(hand.window) // 2])
        grid = grid_of(
            hand.plane, focus, self.e.channels_last, left, _SIDE, self._between(),
            keep=hand.window,
        )  # fmt: skip
        size = self._cells(grid, f"{hand.source}{grid.where}")
        share = f"gets {show(self.e.total, sign=True)}"
        room = grid.cell * _UNIT * 72  # in points
        small = min(size * 0.72, room / (0.66 * (len(share) + 2)))
        for unit in hand.window.tolist():
            place = grid.place(unit)
            if place is None:
                continue
            won = tuple(unit) == hand.winner
            style = {"lw": 2.6} if won else {"lw": 1.2, "linestyle": ":"}
            self._outline(grid, *place, edgecolor="black", **style)
            if hand.winner is None:
                continue
            words = (f"★ {share}", "gets 0") if small >= 4.5 else ("★", "0")
            x, y = grid.middle(*place)
            self._text(
                x, y - 0.34 * grid.cell, words[0 if won else 1], ha="center",
                size=max(small, 4.5), weight="bold" if won else "normal", zorder=7,
                path_effects=_HALO,
            )  # fmt: skip
        if hand.winner is not None:
            _, y = grid.corner(grid.rows.stop - 1, 0)
            self._text(left, y - 0.5, f"★ the window's largest {share}, the others 0", size=8.5)
        return grid

    # ---- the lines ------------------------------------------------------------------------

    def _arrow(self, start, end, value, under=2):
        """A line whose width is the size of the term and whose colour and dashes are its sign."""
        share = abs(value) / self.largest if self.largest and value == value else 0.0
        colour = PLUS if value > 0 else MINUS if value < 0 else NONE
        self.axes.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=9 + 6 * share, shrinkA=0, shrinkB=0,
                lw=0.8 + 5.2 * min(share, 1.0), color=colour, zorder=under,
                linestyle="-" if value > 0 else (0, (2.2, 1.0)) if value < 0 else ":",
            )
        )  # fmt: skip

    def _to_winner(self, grid, source):
        hand = self.e.hand
        if hand.winner is None:
            return
        x, y = grid.corner(*grid.focus)
        to_x, to_y = source.corner(*source.focus)
        start, end = (x, y + grid.cell / 2), (to_x + source.cell, to_y + source.cell / 2)
        self._arrow(start, end, self.e.total, under=6)

    def _consumers(self, grid, left, rows):
        """The boxes on the right, with their term in figures, and a line to the neuron."""
        e = self.e
        found = shown_rows(e, rows)
        legend = "lines: solid is positive, dashed is negative, and the wider the larger"
        self._text(left, _HEIGHT - 1.9, legend, size=8, color="#555555")
        head = "upstream × slope × weight = product"
        self._text(left, _HEIGHT - 3.1, "who reads it", size=9.5, weight="bold")
        if not found:
            self._text(left, _HEIGHT / 2, "nobody sends it a gradient, so it gets 0", size=9.5)
            return
        self._text(left + 7.6, _HEIGHT - 3.1, head, size=8.5, color="#555555")
        step = min((_HEIGHT - 6.0 - self.bottom) / len(found), 2.2)
        x, y = grid.corner(*grid.focus)
        target = (x + grid.cell, y + grid.cell / 2)
        chosen = e.largest(rows)[0]
        styles = dict(zip(self._windows(), _WINDOW_STYLES))
        for number, (consumer, upstream, slope, weight, product) in enumerate(found):
            place = _HEIGHT - 3.9 - step * (number + 0.5)
            colour, line = "#999999", "-"
            if styles and number < len(chosen):
                colour, line = styles[self._place(e.taps[chosen[number]])]
            self.axes.add_patch(
                FancyBboxPatch(
                    (left, place - 0.36 * step), 7.0, 0.72 * step, facecolor="#f2f2f2",
                    boxstyle="round,pad=0,rounding_size=0.15", edgecolor=colour, lw=1.4,
                    linestyle=line,
                )
            )  # fmt: skip
            self._text(left + 3.5, place, consumer, ha="center", size=8.5)
            how = f"{upstream} × {slope} × {weight} = " if upstream else "= "
            self._text(left + 7.6, place, how + show(product, sign=True), size=9.5)
            self._arrow((left, place), target, product)
        place = _HEIGHT - 3.9 - step * len(found) - 0.6
        added = f"added up: {show(e.total, sign=True)}"
        self._text(left + 7.6, place, added, size=10.5, weight="bold")
        self._text(left, place - 0.9, wrong_sum(e), size=7.5, color="#555555")
