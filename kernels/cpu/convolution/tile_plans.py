"""Plans of the register tile's general algorithms: conv_plans.py asks.

``made``, ``again``: as there.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache, partial

from gradroute.config import available_threads

from ..emitted.vectors import ITEMSIZE
from ..pixel_major import pixel_conv, pixel_dw
from ..products.matmul_plans import affords
from . import conv_costs, implicit_gemm, regions, weight_gradient

#: Workspace beyond the packed weights, for all threads together.
BUFFER_BYTES = 32 * 1024 * 1024

#: So many times less must the pixel-major way cost by the estimate where others serve, too.
AHEAD = 1.5


def possible_axes(operation, g):
    """What the axes of the forward pass or of dx can be, the usual ones first."""
    forward = operation == "conv_forward"
    usual = regions.forward_axes(g) if forward else regions.dx_axes(g)
    return [usual, *regions.cell_axes(g, forward)]


def cheapest(programs, tiles):
    if len(programs) == 1:
        return programs[0]
    return min(programs, key=lambda program: conv_costs.of_program(program, tiles))


def general_plan(made, g, dtype, settings, again):
    """What serves where nothing else does, or where it is much ahead of that."""
    build = _forward_or_dx
    if made.operation == "conv_dw":
        build = _pixel_dw if pixel_dw.serves(g) else _weight_gradient
    build = partial(build, g=g, dtype=dtype, settings=settings, again=again)
    found = build(made)
    return pixel_major_ahead(found, build, made, g, dtype, settings) or found


def _forward_or_dx(made, g, dtype, settings, again=None):
    """Vectors along channels, or along pixels and channels where targets are channels-last."""
    forward, found = made.operation == "conv_forward", None
    small = pixel_conv.serves(g, dtype, forward)
    if small or pixel_conv.serves_last(g, dtype, forward):
        found = _pixel_conv(made, g, dtype, settings)
    return found if small and found else _implicit_gemm(made, g, dtype, settings, last=found)


def pixel_major_ahead(found, build, made, g, dtype, settings):
    """The pixel-major way where it is much ahead of ``found``, which is ``build(made)``, or None.

    The others split rows by the stride and pad blocks of few positions: of small images nothing
    but the ends of rows is left.
    """
    dw, forward = made.operation == "conv_dw", made.operation == "conv_forward"
    if not (pixel_dw.pays(g) if dw else pixel_conv.fits(g, forward)):
        return None
    found = conv_costs.compared(found, made, build)
    if not found or found.algorithm not in ("amx", "implicit_gemm"):
        return None
    other = partial(_pixel_dw if dw else _pixel_conv, g=g, dtype=dtype, settings=settings)
    long = other(made)
    if not long or long.algorithm != "pixel_major":
        return None
    least = conv_costs.cost(conv_costs.compared(long, made, other), g, dtype)
    return long if least * AHEAD < conv_costs.cost(found, g, dtype) else None


def for_any_threads(build, made, fits):
    """``build(threads)``, or None where that of all threads there are does not fit:

    what serves a call, and so its bits, must not depend on how many of them are asked for.
    """
    most = max(made.threads, available_threads())
    built = build(most)
    if not fits(built):
        return None
    return built if made.threads == most else build(made.threads)


def _has_room(built, dtype, settings) -> bool:
    most = BUFFER_BYTES if settings.workspace_limit is None else settings.workspace_limit
    return built.size * ITEMSIZE[dtype] <= most


def _pixel_conv(made, g, dtype, settings):
    """None where there is no room for it."""
    forward = made.operation == "conv_forward"
    built = for_any_threads(lambda threads: pixel_conv.build(g, dtype, threads, forward), made,
                            partial(_has_room, dtype=dtype, settings=settings))  # fmt: skip
    if built is None:
        return None
    size, p = built.size * ITEMSIZE[dtype], built.product
    blocking = {"columns": p.tile, "images": p.images,
                "block": (p.block_d, p.block_h, p.block_w)}  # fmt: skip
    return replace(made, algorithm="pixel_major", workspace_bytes=size, blocking=blocking,
                   program=built)  # fmt: skip


def _pixel_dw(made, g, dtype, settings, again=None):
    built = for_any_threads(lambda threads: pixel_dw.build(g, dtype, threads), made,
                            partial(_has_room, dtype=dtype, settings=settings))  # fmt: skip
    if built is None:
        return _weight_gradient(made, g, dtype, settings)
    size, p = built.size * ITEMSIZE[dtype], built.sums
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
                for axes in possible_axes(made.operation, seen)]  # fmt: skip
    programs = [built for built in programs if affords(settings, built.size * item)]
    if not programs:
        return made  # the direct loops need none
    built = cheapest(programs, False)
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
