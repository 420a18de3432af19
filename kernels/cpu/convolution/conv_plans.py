"""Which algorithm serves a convolution on a geometry: plans.py asks.

``made`` is the plan so far, of the direct loops; ``again(settings, refused)`` makes another one of
the same convolution, for data that the algorithm ``refused`` finds it cannot serve.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import lru_cache, partial

from gradroute.config import available_threads

from ..amx import amx_dw_program, amx_program, amx_tiles
from ..depthwise import depthwise_conv
from ..emitted.vectors import ITEMSIZE
from ..pixel_major import pixel_conv, pixel_dw
from ..products import pointwise
from ..products.matmul_plans import affords
from ..products.pointwise_plans import pointwise_plan
from ..winograd import winograd_dw, winograd_program
from . import (
    column_plans,
    conv_costs,
    implicit_gemm,
    patches,
    phase_plans,
    regions,
    scattered_taps,
    weight_gradient,
)
from .inside_plans import inside_plan

#: Below this many multiply-adds cutting float32 into parts costs more than AMX saves.
AMX_ABOVE = 2_000_000

#: Below this many multiply-adds transforming the weights costs more than the products it saves.
WINOGRAD_ABOVE = 1_000_000

#: So many times less must the pixel-major way cost by the estimate where others serve, too.
AHEAD = 1.5

#: Workspace beyond the packed weights, for all threads together.
BUFFER_BYTES = 32 * 1024 * 1024

#: A workspace of up to this is kept between calls: what buffers may take, and as much for packed
#: weights and the phases of images.
KEPT_BYTES = 2 * BUFFER_BYTES


def conv_plan(made, g, dtype, settings, again, tiled, without):
    """``tiled``: is there enough to multiply for more than loops?  ``without`` names the algorithms

    that the arrays at hand are not for: those that have refused them, so that each is asked once.
    """
    found = _plan(made, g, dtype, settings, again, tiled, without)
    if tiled and "inside_taps" not in without and made.operation != "conv_dw":
        pair = found
        if made.threads != 2:  # all numbers of threads agree
            pair = _plan(replace(made, threads=2), g, dtype, settings, again, tiled, without)
        found = inside_plan(pair, made, g, dtype, settings, again) or found
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
        blocks = lambda one: _by_blocks(one, g, dtype, settings, again, without)  # noqa: E731
        made = column_plans.columns_plan(made, g, dtype, settings, again, blocks, without,
                                         BUFFER_BYTES) or blocks(made)  # fmt: skip
    if depthwise_conv.serves(g):
        made = _depthwise(made, g, dtype, settings)
    return made


def _by_blocks(made, g, dtype, settings, again, without):
    """The plan of an algorithm that reads blocks of images."""
    operation = made.operation
    for algorithm, serves, build in _CHOICES:
        if algorithm not in without and serves(operation, g, dtype, settings):
            found = build(made, g, dtype, settings, again)
            if found is not None and affords(settings, found.workspace_bytes):
                other = _ahead(build, made, g, dtype, settings, again)
                return other or found
    general = _general
    if operation == "conv_dw":
        general = _pixel_dw if pixel_dw.serves(g) else _weight_gradient
    return (_ahead(general, made, g, dtype, settings, again)
            or general(made, g, dtype, settings, again))  # fmt: skip


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
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    tiles, filled = winograd_program.tiles(g, flip=operation == "conv_dx")
    # dw sums a product for each weight and point over all tiles: few tiles are not worth them
    least = 64 if operation == "conv_dw" else 16
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
    blocking = {"tile": (winograd_program.SIDE, winograd_program.SIDE), "columns": p.columns,
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
    usual, *cells = _axes(made.operation, g)
    if not regions.source_phases(usual):
        return None  # no output reads an input
    held = [(usual, amx_program.BLOCK_BYTES), *itertools.product(cells, amx_program.CELL_BYTES)]
    return _cheapest([amx_program.build(axes, source, g.batch, g.groups, rows, channels,
                                        made.threads, BUFFER_BYTES, bytes_)
                      for axes, bytes_ in held], True)  # fmt: skip


def _axes(operation, g):
    """What the axes of the forward pass or of dx can be, the usual ones first."""
    forward = operation == "conv_forward"
    usual = regions.forward_axes(g) if forward else regions.dx_axes(g)
    return [usual, *regions.cell_axes(g, forward)]


def _cheapest(programs, tiles):
    if len(programs) == 1:
        return programs[0]
    return min(programs, key=lambda program: conv_costs.of_program(program, tiles))


#: what is tried before the register tile's general algorithms: name, is it ahead here?, its plan
_CHOICES = (
    ("pointwise", _pointwise_serves, _pointwise),
    ("patches", _patches_serves, _patches),
    ("scattered_taps", _scattered_serves, _scattered),
    ("winograd", _winograd_serves, _winograd),
    ("amx", _amx_serves, _amx),
)


def _general(made, g, dtype, settings, again=None):
    """Vectors along channels, or along pixels and channels where targets are channels-last."""
    forward, found = made.operation == "conv_forward", None
    small = pixel_conv.serves(g, dtype, forward)
    if small or pixel_conv.serves_last(g, dtype, forward):
        found = _pixel_conv(made, g, dtype, settings)
    return found if small and found else _implicit_gemm(made, g, dtype, settings, last=found)


def _ahead(build, made, g, dtype, settings, again):
    """The pixel-major way where it is much ahead of what ``build`` makes, or None.

    The others split rows by the stride and pad blocks of few positions: of small images nothing
    but the ends of rows is left.  Decided for two threads, so that all numbers of them agree.
    """
    forward = made.operation == "conv_forward"
    other = _pixel_dw if made.operation == "conv_dw" else _pixel_conv
    if not (pixel_dw.pays(g) if other is _pixel_dw else pixel_conv.fits(g, forward)):
        return None
    pair = replace(made, threads=2)
    found, long = build(pair, g, dtype, settings, again), other(pair, g, dtype, settings)
    if not found or found.algorithm not in ("amx", "implicit_gemm") or not long:
        return None
    if long.algorithm != "pixel_major":
        return None
    if conv_costs.cost(long, g, dtype) * AHEAD >= conv_costs.cost(found, g, dtype):
        return None
    return other(made, g, dtype, settings)


def _for_any_threads(build, made, dtype, settings):
    """``build``'s program and its bytes, or (None, 0) where all threads there are have no room:

    what serves a call, and so its bits, must not depend on how many of them are asked for.
    """
    most = BUFFER_BYTES if settings.workspace_limit is None else settings.workspace_limit
    all_ = max(made.threads, available_threads())
    built = build(all_)
    if built.size * ITEMSIZE[dtype] > most:
        return None, 0
    if made.threads < all_:
        built = build(made.threads)
    return built, built.size * ITEMSIZE[dtype]


def _pixel_conv(made, g, dtype, settings):
    """None where there is no room for it."""
    forward = made.operation == "conv_forward"
    built, size = _for_any_threads(lambda threads: pixel_conv.build(g, dtype, threads, forward),
                                   made, dtype, settings)  # fmt: skip
    if built is None:
        return None
    p = built.product
    blocking = {"columns": p.tile, "images": p.images,
                "block": (p.block_d, p.block_h, p.block_w)}  # fmt: skip
    return replace(made, algorithm="pixel_major", workspace_bytes=size, blocking=blocking,
                   program=built)  # fmt: skip


def _pixel_dw(made, g, dtype, settings, again=None):
    built, size = _for_any_threads(lambda threads: pixel_dw.build(g, dtype, threads),
                                   made, dtype, settings)  # fmt: skip
    if built is None:
        return _weight_gradient(made, g, dtype, settings)
    p = built.sums
    blocking = {"panel": p.panel, "columns": p.tile, "parts": p.parts, "images": p.images,
                "block": (p.block_d, p.block_h, p.block_w)}  # fmt: skip
    return replace(made, algorithm="pixel_major", workspace_bytes=size, blocking=blocking,
                   program=built)  # fmt: skip


def _weight_gradient(made, g, dtype, settings, again=None):
    item, budget = ITEMSIZE[dtype], BUFFER_BYTES // 2
    if settings.workspace_limit is not None:
        budget = settings.workspace_limit // 2
    built = weight_gradient.build(regions.forward_axes(g), g, dtype, made.threads, max(1, budget))
    size = built.size * item
    if not affords(settings, size):
        return made  # the direct loops need none
    p, s = built.reduction, built.blocks
    blocking = {"panel": p.panel, "columns": p.columns, "run": p.run, "parts": p.parts,
                "images": s.images, "block": (s.block_d, s.block_h, s.block_w)}  # fmt: skip
    return replace(made, algorithm="implicit_gemm", workspace_bytes=size, blocking=blocking,
                   program=built)  # fmt: skip


@lru_cache(maxsize=4096)
def _implicit_gemm(made, g, dtype, settings, flat=True, last=None):
    """``flat``: a window of 1 may take every image as one row, if the arrays' strides allow it.

    ``last`` is the plan for targets whose channels lie side by side, if it is another.
    """
    flat = flat and _one_to_one(g)
    seen = replace(g, size=(1, 1, g.plane), out=(1, 1, g.plane)) if flat else g
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    source = seen.size
    if made.operation == "conv_dx":
        rows, channels, source = channels, rows, seen.out
    item, budget = ITEMSIZE[dtype], BUFFER_BYTES
    if settings.workspace_limit is not None:
        budget = settings.workspace_limit - math.prod(g.w_shape) * item - 1024
    programs = [implicit_gemm.build(axes, source, g.batch, g.groups, rows, channels, dtype,
                                    made.threads, max(budget, 1), flat, last is None)
                for axes in _axes(made.operation, seen)]  # fmt: skip
    programs = [built for built in programs if affords(settings, built.size * item)]
    if not programs:
        return made  # the direct loops need none
    built = _cheapest(programs, False)
    size, p, s = built.size * item, built.product, built.blocks
    blocking = {"panel": p.panel, "columns": p.columns, "chunk": p.chunk, "images": s.images,
                "block": (s.block_d, s.block_h, s.block_w)}  # fmt: skip
    otherwise = partial(_implicit_gemm, made, g, dtype, settings, False) if flat else None
    if last is not None:
        otherwise = lambda: last  # noqa: E731
    return replace(made, algorithm="implicit_gemm", workspace_bytes=size, blocking=blocking,
                   program=built, otherwise=otherwise)  # fmt: skip


def _one_to_one(g) -> bool:
    """Does every output element read one input element, its own?"""
    return g.window == g.stride == (1, 1, 1) and g.before == g.after == (0, 0, 0)
