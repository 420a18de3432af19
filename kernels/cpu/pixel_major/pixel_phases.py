"""Phases: the pixels of a convolution that read their source through the same taps.

The forward pass has one.  In dx at a stride, input ``h = cell*stride + first`` is read by output
``cell + (first + before - tap*dilation) / stride`` where that is whole: each ``first`` has taps of
its own, and neighbouring cells read neighbouring outputs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Cells:
    """What the blocks of a source are made for: cells of pixels that begin at neighbours."""

    count: tuple[int, int, int]  # cells along each axis
    each: tuple[int, int, int]  # pixels of one
    lead: tuple[int, int, int]  # padding before what the first cell reads
    seen: object  # ConvGeometry whose stride, window and dilation are those of cells in the source
    axes: tuple  # for each axis its phases: (first, cells that have one, ((tap, position), ...))


def forward_cells(g) -> Cells:
    """Every pixel is a cell, and has all taps."""
    axes = tuple(((0, n, tuple((tap, tap) for tap in range(window))),)
                 for n, window in zip(g.out, g.window))  # fmt: skip
    return Cells(g.out, (1, 1, 1), g.before, g, axes)


def dx_cells(g) -> Cells | None:
    """None where no input is read at all along an axis."""
    axes = [_dx_phases(*axis)
            for axis in zip(g.window, g.size, g.stride, g.dilation, g.before)]  # fmt: skip
    reads = [[at for _, _, taps in axis for _, at in taps] for axis in axes]
    if not all(reads):
        return None
    least = [min(ats) for ats in reads]
    axes = tuple(tuple((first, count, tuple((tap, at - before) for tap, at in taps))
                       for first, count, taps in axis) for axis, before in zip(axes, least))
    window = tuple(max(ats) - before + 1 for ats, before in zip(reads, least))
    seen = replace(g, stride=(1, 1, 1), dilation=(1, 1, 1), window=window)
    count = tuple(-(-size // stride) for size, stride in zip(g.size, g.stride))
    each = tuple(map(min, g.stride, g.size))
    return Cells(count, each, tuple(-before for before in least), seen, axes)


def _dx_phases(window, size, stride, dilation, before):
    """(first, its cells, [(tap, output that the first of them reads by it)]) of each phase."""
    taps = {}
    for tap in range(window):
        first = (tap * dilation - before) % stride
        taps.setdefault(first, []).append((tap, (first + before - tap * dilation) // stride))
    return [(first, (size - 1 - first) // stride + 1, taps.get(first, []))
            for first in range(min(stride, size))]  # fmt: skip


def valid_rows(cells, source) -> float:
    """The part of all (row of a phase, tap row) whose tap row reads a row of the source.

    As if there were one, where there is none.
    """
    every, valid = 0, 0
    for _, count, pairs in cells.axes[1]:
        for _, at in pairs:
            first, stride = at * cells.seen.dilation[1] - cells.lead[1], cells.seen.stride[1]
            before, end = (max(0, -(-(edge - first) // stride)) for edge in (0, source[1]))
            every += count
            valid += min(count, end) - min(count, before)
    return max(valid, 1) / every


def phase_tables(cells, places, channels, by_rows):
    """(phases, taps, heights, steps) as arrays.

    ``places`` are the offsets of all (channel, position) in a copy of the source.  A phase is: its
    first pixel and its cells along D, H and W, its steps (one for each channel and tap) and those
    before it, its taps and those before it, its rows of taps and those before it.  ``taps`` has
    their places in the window, ``steps`` their offsets in the copy, ``heights`` where rows of taps
    read, beside what a cell's number leads to.  Steps are in the order (channel, tap), or (row of
    taps, channel, tap) if ``by_rows``, so that those of some rows lie together.
    """
    places = places.reshape(channels, *cells.seen.window)
    phases, taps, heights, steps = [], [], [], []
    steps_before = taps_before = 0
    for axes in itertools.product(*cells.axes):
        read = [[at for _, at in pairs] for _, _, pairs in axes]
        found = places[np.ix_(range(channels), *read)]
        window = np.stack(np.meshgrid(*([tap for tap, _ in pairs] for _, _, pairs in axes),
                                      indexing="ij"), -1)  # fmt: skip
        if by_rows:
            found, window = found.transpose(2, 0, 1, 3), window.swapaxes(0, 1)
        phases.append([*(first for first, _, _ in axes), *(count for _, count, _ in axes),
                       found.size, steps_before, math.prod(map(len, read)),
                       taps_before, len(read[1]), len(heights)])  # fmt: skip
        steps_before += found.size
        taps_before += math.prod(map(len, read))
        taps.append(window.reshape(-1, 3).astype(np.int64))
        heights += [at * cells.seen.dilation[1] - cells.lead[1] for at in read[1]]
        steps.append(found.ravel())
    return (np.array(phases, np.int64), np.concatenate(taps), np.array(heights, np.int64),
            np.concatenate(steps))  # fmt: skip
