"""Does a convolution go by way of its columns?  conv_plans.py asks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

from ..depthwise import depthwise_conv
from ..emitted.vectors import ITEMSIZE
from ..products.matmul_plans import affords, matmul_plan
from . import conv_costs, window_columns
from .tile_plans import for_any_threads

#: So many times less must it cost by the estimate than the others, which copy less.
AHEAD = 1.25

#: Groups are products of their own, and as many calls.
MOST_GROUPS = 8

#: Places in the table of a plan, which is kept: 4 MiB.
MOST_PLACES = 1 << 19


def columns_plan(found, build, made, g, dtype, settings, again, without, most):
    """The plan by way of columns, or None where it is not ahead of ``found``, ``build(made)``.

    Its workspace is ``most`` bytes at most, beside the weights, with all threads there are.
    ``without`` as in conv_plans.py.
    """
    if "columns" in without or depthwise_conv.serves(g):
        return None
    if g.groups > MOST_GROUPS or not g.batch or g.taps == 1 or g.taps * g.out_plane > MOST_PLACES:
        return None
    if window_columns.column_bytes(g, dtype) > window_columns.IMAGE_BYTES:
        return None
    if window_columns.pieces(g, dtype) is None:
        return None
    found = conv_costs.compared(found, made, build)
    if found.algorithm not in ("amx", "implicit_gemm", "patches", "pixel_major"):
        return None
    pair = _plan(replace(made, threads=conv_costs.THREADS), dtype, settings)
    product = window_columns.first_product(g, dtype, made.operation, pair)
    least = conv_costs.by_columns(g, product, dtype, made.operation == "conv_dw")
    if least * AHEAD >= conv_costs.cost(found, g, dtype):
        return None
    built = for_any_threads(
        lambda threads: window_columns.build(
            g, dtype, made.operation, _plan(replace(made, threads=threads), dtype, settings)),
        made, lambda built: (affords(settings, built.size)
                             and built.size - prod(g.w_shape) * ITEMSIZE[dtype] <= most),
    )  # fmt: skip
    if built is None:
        return None
    product = built.pieces[0][2]
    return replace(made, algorithm="columns", workspace_bytes=built.size, program=built,
                   blocking={"images": built.images, "product": product.algorithm,
                             **product.blocking},
                   otherwise=partial(again, settings, "columns"))  # fmt: skip


def _plan(made, dtype, settings):
    """Makes the plan of a product; the workspace is asked of the whole convolution."""
    unlimited = replace(settings, workspace_limit=None)
    return lambda product: matmul_plan(made, product, dtype, unlimited)
