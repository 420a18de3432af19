"""Blocks for AMX tiles, which multiply 32 positions at a time, wherever rows and images end.

Of a block's positions those that are padding are multiplied for nothing: of an image of 7 x 7 with
a window of 5 x 5 it would be 72 of 121.  Therefore

- rows of several images lie side by side, [h][image][w]: a tap of another row is an offset as
  before, and no image needs rows of zeros between it and the next;
- the zeros behind a row are those before the next one.

For the loops a batch of planes is then one image of three axes, of which the second, the images,
has a window of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..convolution.blocks import Blocks, cut, lay
from ..convolution.regions import Axis, Phase, Tap, source_phases
from ..jit import helper
from .amx_tiles import SIDE


@dataclass(frozen=True)
class Beside:
    """The blocks, the axes in the order of the blocks, and that order."""

    blocks: Blocks
    axes: tuple[Axis, Axis, Axis]
    used: np.ndarray  # source phases in the buffer
    order: tuple[int, int, int, int]  # of the batch and the axes in arrays (N, C, D, H, W)

    @property
    def blocking(self):
        """How many images, and what part of each, a block has: as plans name it."""
        s = self.blocks
        sizes = dict(zip(self.order, (s.images, s.block_d, s.block_h, s.block_w)))
        return {"images": sizes[0], "block": (sizes[2], sizes[3], sizes[4])}

    def array(self, a):
        """(N, C, D, H, W) as the loops see it."""
        n, d, h, w = self.order
        return a.transpose(n, 1, d, h, w)

    def window(self, w):
        """(..., T, R, S) in the order of the blocks' axes; the images' axis has the window's 1."""
        own = [2 if axis == 0 else axis for axis in self.order[1:]]
        return w.transpose(*range(w.ndim - 3), *(w.ndim - 5 + axis for axis in own))


def beside(axes, source, batch, groups, channels, limit, shares, turn=False) -> Beside:
    """Blocks of at most ``limit`` positions, ``shares`` of them if there can be as many.

    ``source`` is the size of the array that is copied.  ``turn``: columns may lie side by side
    instead of rows, where taps reach along rows only.
    """
    order = (0, 2, 3, 4)
    if axes[0] == _alone(1):
        order = (2, 3, 0, 4)
        if turn and axes[1].reach == 0 and axes[1].span > 1 and axes[2].reach > 0:
            axes, order = (axes[0], axes[2], axes[1]), (2, 4, 0, 3)
    images, block = cut(axes, batch, max(1, limit // len(source_phases(axes))), groups, shares)
    images = -(-batch // -(-batch // images))
    whole = all(axis.split == 1 and axis.reach == 0 for axis in axes)
    if whole and len(source_phases(axes)) > 1 and block[1] < axes[1].span:
        row = block[2] * images
        most = max(block[1], min(axes[1].span, limit // len(source_phases(axes)) // row))
        block = block[0], _fullest(axes[1].span, row, most), block[2]
    if order[0]:
        axes, block = (axes[1], _alone(batch), axes[2]), (block[1], images, block[2])
        images = batch = 1
    shared = _shared(axes[2], source[order[3] - 2]) if block[2] == axes[2].span else 0
    made, used = lay(axes, batch, groups, channels, "float32", images, block, shared)
    return Beside(made, axes, used, order)


def _fullest(rows, row, most):
    """Rows of a block, at most ``most``, of which all blocks together fill the fewest tiles."""
    def tiles(held):
        return rows // held * -(-held * row // SIDE) + -(-rows % held * row // SIDE)

    return min(range(1, most + 1), key=lambda held: (tiles(held), -held))


def _alone(count):
    """An axis of which every element stands for itself."""
    return Axis(1, 0, count, 0, (Phase(0, 1, count, 0, (Tap(0, 0, 0),)),))


def _shared(axis, size):
    """How many positions at the ends of all phases' rows are padding."""
    row = axis.span + axis.reach
    ends = []
    for phase in {tap.phase for target in axis.phases for tap in target.taps}:
        before = -(-(axis.lead - phase) // axis.split)
        behind = row + (phase - axis.lead - size) // axis.split
        ends += [before, behind]
    return min(max(0, min(ends)), axis.reach)


@helper
def runs_of(images, depth, height, width, tile, s):
    """How a box of positions is multiplied, ``tile`` at a time.

    Positions of a run, runs, and how far apart the results of images and of their planes begin.
    One run through all is taken where its gaps are not more than what fills up a run a plane.
    """
    length = (height - 1) * s.row + width
    padded = (length + tile - 1) // tile * tile
    through = (images - 1) * s.volume + (depth - 1) * s.area + length
    if (through + tile - 1) // tile * tile <= images * depth * padded:
        return through, 1, s.volume, s.area
    return length, images * depth, depth * padded, padded
