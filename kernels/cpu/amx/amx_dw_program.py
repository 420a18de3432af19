"""The sizes of one dw as amx_dw.py runs it, worked out when the plan is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import int64, types

from ..convolution.blocks import tap_offsets
from ..convolution.regions import target_phases
from .amx_blocks import Beside, beside
from .amx_program import FLAGS, HALF, LANES, odd_lines, round_up
from .amx_tiles import DEPTH, PARTS, SIDE, STEP_BYTES

#: Bytes of x and dy, cut, that are worked on at a time: they stay in a 2 MiB L2 beside the sums.
BLOCK_BYTES = 1280 * 1024

#: but at least this many pixels: every block of them reads and writes all the sums.
BLOCK_PIXELS = 512

TILE = HALF * SIDE  # sums of these by a panel of output channels, for one tap


class Reduction(NamedTuple):
    """What the compiled loops need beside the blocks.  Offsets count float32."""

    rows: int  # K of a group
    channels: int  # C of a group
    channel_sets: int  # of HALF a block
    panels: int  # of SIDE output channels
    taps: int  # offsets at which a row of x is read
    pairs: int  # of (set, tap), side by side in this order: a block multiplies two
    half_row: int  # between rows of x
    half_part: int  # between parts of x
    count: int  # positions of a row of x in use
    dy_steps: int  # of a panel of dy, at most
    slots: int
    bias_at: int  # the workspace: flags, sums of dy's rows, x, dy, sums, slots
    x_at: int
    dy_at: int
    sums_at: int
    slots_at: int
    slot: int  # the rows of x, or the pixels of dy, before they are cut


REDUCTION = types.NamedUniTuple(int64, len(Reduction._fields), Reduction)


@dataclass(frozen=True)
class Program:
    beside: Beside
    reduction: Reduction
    offsets: np.ndarray  # of each tap, in positions
    inside: np.ndarray  # of each tap the rows where it reads more than padding: first, end
    size: int  # of the workspace, in bytes


def build(axes, g, threads, budget) -> Program:
    """For ConvGeometry ``g``; ``budget`` is the number of bytes that x and dy may take."""
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    per_position = 2 * PARTS * (round_up(channels, HALF) + round_up(rows, SIDE))
    limit = max(SIDE, min(max(BLOCK_BYTES // per_position, BLOCK_PIXELS), budget // per_position))
    made = beside(axes, g.size, g.batch, g.groups, channels, limit, 1, turn=True)
    s = made.blocks
    (_, _, offsets), = tap_offsets(made.axes, made.used, s)
    count = round_up(s.plane, DEPTH)
    half_row = 2 * odd_lines((count + 2 * DEPTH) // 2)
    sets, panels = -(-channels // HALF), -(-rows // SIDE)
    run = (s.block_h - 1) * s.row + s.block_w
    through = (s.images - 1) * s.volume + (s.block_d - 1) * s.area + run
    dy_steps = max(s.images * s.block_d * -(-run // DEPTH), -(-through // DEPTH))
    taps = len(offsets)
    pairs = -(-sets * taps // 2)
    bias_at = LANES + FLAGS * threads
    x_at = bias_at + panels * SIDE
    dy_at = x_at + PARTS * sets * HALF * half_row // 2 + DEPTH
    sums_at = dy_at + panels * dy_steps * STEP_BYTES // 4
    slots_at = sums_at + panels * pairs * 2 * TILE
    slot = SIDE * max(s.plane, dy_steps * DEPTH) + DEPTH
    reduction = Reduction(
        rows, channels, sets, panels, taps, pairs, half_row, sets * HALF * half_row, count,
        dy_steps, threads, bias_at, x_at, dy_at, sums_at, slots_at, slot,
    )  # fmt: skip
    return Program(made, reduction, np.array(offsets, np.int64), _inside(made, g.size),
                   4 * (slots_at + threads * slot))  # fmt: skip


def _inside(made, size):
    """Of every tap the first row at which it finds more than padding, and the one behind the last.

    Rows are positions along the blocks' first axis.
    """
    axis, size = made.axes[0], size[made.order[1] - 2]
    (_, taps), = target_phases(made.axes)
    rows = []
    for tap, _, _ in taps:
        offset = tap.shift * axis.split + tap.phase - axis.lead
        first, end = -(offset // axis.split), -((offset - size) // axis.split)
        rows.append([min(max(0, first), axis.span), max(0, min(end, axis.span))])
    return np.array(rows, np.int64)
