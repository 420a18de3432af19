"""Which algorithm serves a convolution on a geometry: plans.py asks.

``made`` is the plan so far, of the direct loops; ``again(settings, refused)`` makes another one of
the same convolution, for data that the algorithm ``refused`` finds it cannot serve.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

from ..amx import amx_dw_program, amx_program, amx_tiles
from ..depthwise import depthwise_conv
from ..emitted.vectors import ITEMSIZE
from ..pixel_major import pixel_dw
from ..products import pointwise
from ..products.matmul_plans import affords
from ..products.pointwise_plans import pointwise_plan
from ..winograd import winograd_dw, winograd_program
from . import column_plans, conv_costs, patches, phase_plans, regions, scattered_taps, tile_plans
from .inside_plans import inside_plan
from .tile_plans import BUFFER_BYTES, general_plan, pixel_major_ahead

#: Below this many multiply-adds cutting float32 into parts costs more than AMX saves.
AMX_ABOVE = 2_000_000

#: Below this many multiply-adds transforming the weights costs more than the products it saves.
WINOGRAD_ABOVE = 1_000_000

#: A workspace of up to this is kept between calls: what buffers may take, and as much for packed
#: weights and the phases of images.
KEPT_BYTES = 2 * BUFFER_BYTES


def conv_plan(made, g, dtype, settings, again, tiled, without):
    """``tiled``: is there enough to multiply for more than loops?  ``without`` names the algorithms

    that the arrays at hand are not for: those that have refused them, so that each is asked once.
    """
    found = _plan(made, g, dtype, settings, again, tiled, without)
    if tiled and "inside_taps" not in without and made.operation != "conv_dw":
        build = partial(_plan, g=g, dtype=dtype, settings=settings, again=again, tiled=tiled,
                        without=without)  # fmt: skip
        found = inside_plan(found, build, made, g, dtype, settings, again) or found
    last = depthwise_conv.serves_last(g, dtype) and not depthwise_conv.serves(g)
    if tiled and not without and last:
        last = _depthwise(found, g, dtype, settings)
        size = max(found.workspace_bytes, last.workspace_bytes)
        return replace(found, last=replace(last, workspace_bytes=size), workspace_bytes=size)
    return found


def _plan(made, g, dtype, settings, again, tiled, without):
    """For arrays in any layout."""
    if tiled and "phases" not in without:
        def plan(threads, one, limit):
            refused = {"phases"} if one == g else {"phases", "columns"}  # cut images have gaps
            return conv_plan(replace(made, threads=threads), one, dtype,
                             replace(settings, workspace_limit=limit), again, True,
                             without | refused)  # fmt: skip

        found = phase_plans.phases_plan(made, g, dtype, settings, again, plan, KEPT_BYTES)
        if found is not None:
            return found
    if tiled and not conv_costs.far(g):
        build = partial(_by_blocks, g=g, dtype=dtype, settings=settings, again=again,
                        without=without)  # fmt: skip
        found = build(made)
        made = column_plans.columns_plan(found, build, made, g, dtype, settings, again, without,
                                         BUFFER_BYTES) or found  # fmt: skip
    if depthwise_conv.serves(g):
        made = _depthwise(made, g, dtype, settings)
    return made


def _by_blocks(made, g, dtype, settings, again, without):
    """The plan of an algorithm that reads blocks of images."""
    operation = made.operation
    for algorithm, serves, build in _CHOICES:
        if algorithm not in without and serves(operation, g, dtype, settings):
            build = partial(build, g=g, dtype=dtype, settings=settings, again=again)
            found = build(made)
            if found is not None and affords(settings, found.workspace_bytes):
                return pixel_major_ahead(found, build, made, g, dtype, settings) or found
    return general_plan(made, g, dtype, settings, again)


def _depthwise(other, g, dtype, settings):
    """``other`` serves arrays in a layout that the depthwise kernels do not know."""
    elements = depthwise_conv.workspace_elements(g, other.operation, dtype, other.threads)
    size = elements * ITEMSIZE[dtype]
    if not affords(settings, size):
        return other
    built = depthwise_conv.build(g, other.operation, dtype)
    return replace(other, algorithm="depthwise", workspace_bytes=size, program=built,
                   blocking=built.blocking, otherwise=lambda: other)  # fmt: skip


def _pointwise_serves(operation, g, dtype, settings) -> bool:
    return pointwise.serves(g) and not depthwise_conv.serves(g)


def _pointwise(made, g, dtype, settings, again, single=True):
    tiles = _amx_serves(made.operation, g, dtype, settings)
    return pointwise_plan(made, g, dtype, settings, again, tiles, single)


def _patches_serves(operation, g, dtype, settings) -> bool:
    """Is each number of x multiplied often enough to pay for bringing it into another order?"""
    if depthwise_conv.serves(g):
        return False
    if patches.whole(g):
        return min(g.out_channels, g.in_channels * g.taps) // g.groups >= pointwise.LEAST_CHANNELS
    if not patches.serves(g):
        return False
    rows, terms = g.out_channels // g.groups, g.taps * g.in_channels // g.groups
    if operation == "conv_dw":
        return not pixel_dw.serves(g)
    if _amx_serves(operation, g, dtype, settings):
        return operation == "conv_forward" and rows >= 256
    return min(rows, terms) >= 192 if operation == "conv_forward" else rows >= 64


def _patches(made, g, dtype, settings, again):
    def product(seen):
        return _pointwise(made, seen, dtype, settings,
                          lambda new, refused=None: again(new, refused and "patches"),
                          single=not patches.whole(g))  # fmt: skip

    built = patches.build(g, dtype, made.operation == "conv_dw", product)
    if built is None:
        return None
    first = built.products[0][2]
    return replace(made, algorithm="patches", workspace_bytes=built.size, program=built,
                   blocking={"images": built.shape[0], **first.blocking},
                   otherwise=first.otherwise)  # fmt: skip


def _scattered_serves(operation, g, dtype, settings) -> bool:
    return operation == "conv_dx" and scattered_taps.serves(g)


def _scattered(made, g, dtype, settings, again):
    """None where the taps of an image are too many."""
    def product(seen):
        return _pointwise(made, seen, dtype, settings, again)

    built = scattered_taps.build(g, dtype, product, BUFFER_BYTES)
    if built is None:
        return None
    first = built.products[0]
    return replace(made, algorithm="scattered_taps", workspace_bytes=built.size, program=built,
                   blocking={"images": first[1], **first[2].blocking},
                   otherwise=partial(again, settings, "scattered_taps"))  # fmt: skip


def _winograd_serves(operation, g, dtype, settings) -> bool:
    """Do the products saved outweigh the transforms?  It takes channels, tiles, and full ones."""
    if settings.precision == "strict":
        return False
    if not winograd_program.serves(g) or g.multiply_adds < WINOGRAD_ABOVE:
        return False
    if g.window[2] > 3:  # a tile has fewer outputs to share its transforms among
        product = "amx" if _amx_serves(operation, g, dtype, settings) else "implicit_gemm"
        direct = conv_costs.direct_sums(g, product, operation == "conv_dw")
        return conv_costs.winograd(g, operation, dtype) < direct
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    tiles, filled = winograd_program.tiles(g, flip=operation == "conv_dx")
    least = 16
    if operation == "conv_dw":  # fewer tiles share what transforms a weight back
        least = 64 if _amx_serves(operation, g, dtype, settings) else 8
    if min(rows, channels) < 32:  # the transforms weigh more, and those of weights and sums most
        if min(rows, channels) < 16 or operation == "conv_dw":
            return False
        if g.groups > 1 and (min(rows, channels) < 24 or dtype != "float32"):
            return False  # each group has panels of its own, partly filled
        least = 64 if rows * channels >= 512 else 2048
    return tiles >= least and filled >= 0.5


def _winograd(made, g, dtype, settings, again):
    if made.operation == "conv_dw":
        built = winograd_dw.build(g, dtype, made.threads, BUFFER_BYTES)
    else:
        flip = made.operation == "conv_dx"
        built = winograd_program.build(g, flip, dtype, made.threads, BUFFER_BYTES)
    p = built.layout
    blocking = {"tile": (p.side, p.side), "columns": p.columns,
                "blocks": (p.pieces, p.pieces_h, p.pieces_w)}  # fmt: skip
    strict = partial(again, replace(settings, precision="strict"))
    return replace(made, algorithm="winograd", workspace_bytes=built.size * ITEMSIZE[dtype],
                   blocking=blocking, program=built, otherwise=strict)  # fmt: skip


def _amx_serves(operation, g, dtype, settings) -> bool:
    """Is there enough to multiply, and little enough padding to whole tiles, for AMX to win?"""
    if dtype != "float32" or settings.precision == "strict" or g.multiply_adds < AMX_ABOVE:
        return False
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    # a 1x1 window reads what it cuts once: with few channels that costs more than it saves
    least = 1
    if g.taps == 1 and operation == "conv_dw":
        least = 4 * amx_tiles.SIDE
    elif g.taps == 1:
        least = (1 if pointwise.serves(g) else 2) * amx_tiles.SIDE
    few = channels < amx_tiles.SIDE or channels == amx_tiles.SIDE and g.taps < 16
    if operation == "conv_dw" and g.taps > 1 and few and pixel_dw.serves(g):
        return False  # half of a register of channels: the vectors are as fast, and copy less
    full = min(_fill(rows), _fill(channels)) >= 0.7
    return full and min(rows, channels) >= least and amx_tiles.available()


def _fill(count):
    """The part of whole tiles that ``count`` rows make use of."""
    return count / (-(-count // amx_tiles.SIDE) * amx_tiles.SIDE)


def _amx(made, g, dtype, settings, again):
    built = _amx_program(made, g)
    strict = partial(again, replace(settings, precision="strict"))
    return built and replace(made, algorithm="amx", workspace_bytes=built.size, program=built,
                             blocking={"tile": amx_tiles.TILE, **built.beside.blocking},
                             otherwise=strict)  # fmt: skip


def _amx_program(made, g):
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    if made.operation == "conv_dw":
        return amx_dw_program.build(regions.forward_axes(g), g, made.threads, BUFFER_BYTES // 2)
    source = g.size
    if made.operation == "conv_dx":
        rows, channels, source = channels, rows, g.out
    usual, *cells = tile_plans.possible_axes(made.operation, g)
    if not all(map(regions.source_phases, (usual, *cells))):
        return None  # no output reads an input
    held = [(usual, amx_program.BLOCK_BYTES), *itertools.product(cells, amx_program.CELL_BYTES)]
    programs = [amx_program.build(axes, source, g.batch, g.groups, rows, channels, made.threads,
                                  BUFFER_BYTES, bytes_) for axes, bytes_ in held]  # fmt: skip
    return tile_plans.cheapest(programs, True)


#: what is tried before the register tile's general algorithms: name, is it ahead here?, its plan
_CHOICES = (
    ("pointwise", _pointwise_serves, _pointwise),
    ("patches", _patches_serves, _patches),
    ("scattered_taps", _scattered_serves, _scattered),
    ("winograd", _winograd_serves, _winograd),
    ("amx", _amx_serves, _amx),
)
