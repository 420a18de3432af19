"""About how long a convolution takes by a plan, to choose between two ways to compute the same.

Nanoseconds of two threads on the machine of docs/performance.md in float32: multiply-adds at the
rate of their unit, with what tiles compute for nothing at the ends of rows, and elements copied,
with the rims of blocks, which are copied several times.
"""

from __future__ import annotations

import math

from . import amx, winograd_program
from .microkernel import COLUMNS

#: A multiply-add by tiles and by vectors, forward (or dx) and dw.
TILES = {False: 0.003, True: 0.005}
VECTORS = {False: 0.006, True: 0.007}
WINOGRAD = 0.0057
#: A transformed number, one copied into a block, and one moved out of an image or back.
TRANSFORMED, COPIED, MOVED = 0.26, 0.17, 0.6
#: A byte of memory that the process has not touched before.
PAGES = 0.7


def cost(plan, g, dtype) -> float | None:
    """Of ``plan`` on ConvGeometry ``g``; None where it is not known."""
    if plan.algorithm == "winograd":
        return _winograd(g, plan.operation == "conv_dx", dtype)
    if plan.algorithm not in ("amx", "implicit_gemm", "pixel_major"):
        return None
    tiles = plan.algorithm == "amx"
    s = plan.program.beside.blocks if tiles else plan.program.blocks
    channels = g.in_channels if plan.operation != "conv_dx" else g.out_channels
    source = g.plane if plan.operation != "conv_dx" else g.out_plane
    block, reach = (s.block_d, s.block_h, s.block_w), (s.reach_d, s.reach_h, s.reach_w)
    rim = math.prod(b + r for b, r in zip(block, reach)) / math.prod(block)
    used = 1.0
    if plan.algorithm != "pixel_major":
        used = _used(s, amx.SIDE if tiles else COLUMNS[dtype])
    rate = (TILES if tiles else VECTORS)[plan.operation == "conv_dw"]
    return g.multiply_adds / used * rate + g.batch * channels * source * rim * COPIED


def _used(s, side):
    """The part of a block's columns that are results."""
    run = (s.block_h - 1) * s.row + s.block_w
    through = (s.images - 1) * s.volume + (s.block_d - 1) * s.area + run
    columns = min(-(-run // side) * s.images * s.block_d, -(-through // side)) * side
    return s.images * s.block_d * s.block_h * s.block_w / columns


def _winograd(g, flip, dtype):
    tiles, _ = winograd_program.tiles(g, flip)
    channels, rows = g.in_channels // g.groups, g.out_channels // g.groups
    points = winograd_program.PRODUCTS * g.groups
    multiplied = points * tiles * channels * rows
    transformed = points * (tiles * (channels + rows) + channels * rows)
    return multiplied * WINOGRAD + transformed * TRANSFORMED


def by_phases(built, one, dtype) -> float | None:
    """Of phases.Program ``built``, whose phases are convolutions of geometry ``one``."""
    found = cost(built.inner, one, dtype)
    if found is None or not built.batches:
        return found
    moved = built.batches * one.batch * (one.in_channels * one.plane
                                         + one.out_channels * one.out_plane)  # fmt: skip
    return built.batches * found + moved * MOVED


def fresh(size, kept) -> float:
    """Of a workspace of ``size`` bytes that is too large to be kept between calls."""
    return size * PAGES if size > kept else 0.0
