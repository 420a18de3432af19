"""Maps as pictures: one channel of a layer as a grid of counts."""

from __future__ import annotations

from matplotlib.patches import Rectangle

from .grids import grid_of
from .picture import Picture, save
from .planes import key, plane_of


def draw_map(found, path, *, channel):
    """One channel of a map as a grid: darker where the count is larger; hatched: a tied window."""
    counts = plane_of(found, found.counts, channel)
    grid = grid_of(counts, tuple(n // 2 for n in counts.shape), False, 1.0, 12.0, (2.5, 14.5), 24)
    figure = Picture(figsize=(6.4, 5.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 19)
    axes.set_ylim(0, 16)
    axes.axis("off")
    more = f", channel {channel}" if found.counts.ndim > 1 else ""
    axes.text(1, 15.4, found.title + more, size=9.5, weight="bold", va="center")
    tied = _tied(found, channel, counts.shape)
    size = min(11.0, grid.cell * 5.4 / 16 * 72 * 0.45)
    for row, column, count in grid.cells():
        x, y = grid.corner(row, column)
        mark = tied is not None and tied[row, column]
        axes.add_patch(
            Rectangle(
                (x, y), grid.cell, grid.cell, facecolor=str(0.99 - 0.4 * grid.shade(count)),
                edgecolor="#777777", lw=0.6, hatch="///" if mark else None,
            )
        )  # fmt: skip
        axes.text(
            *grid.middle(row, column), str(int(count)), ha="center", va="center", size=size,
            weight="bold" if count > 1 else None,
        )  # fmt: skip
    sentences = [sentence for sentence in key(found) if sentence]
    if tied is not None and tied.any():
        sentences.append("hatched: won a tied window")
    for number, sentence in enumerate(sentences):
        axes.text(1, 1.9 - 0.6 * number, sentence, size=7.5, va="center")
    return save(figure, path)


def _tied(found, channel, shape):
    """Which inputs won a window that was tied; None for a map without winners."""
    if not hasattr(found, "ties"):
        return None
    marks = found.counts * 0
    for unit in found.chosen[found.ties]:
        marks[tuple(unit)] = 1
    return plane_of(found, marks, channel).reshape(shape) > 0
