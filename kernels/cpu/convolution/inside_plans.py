"""Does a convolution sum up each pixel's own taps only (inside_taps.py)?  conv_plans.py asks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ..emitted.vectors import ITEMSIZE
from ..pixel_major import inside_taps
from ..products.matmul_plans import affords
from . import conv_costs

#: So many times less must it cost by the estimate than each of these algorithms.
AHEAD = {"amx": 1.5, "columns": 1.25, "implicit_gemm": 1.15}


def inside_plan(found, build, made, g, dtype, settings, again):
    """The plan, or None where it is not ahead of ``found``, which is ``build(made)``.

    Arguments else as in conv_plans.py.
    """
    forward = made.operation == "conv_forward"
    found = conv_costs.compared(found, made, build)
    if found.algorithm not in AHEAD or not inside_taps.serves(g, dtype, forward):
        return None
    built = inside_taps.build(g, dtype, conv_costs.THREADS, forward)
    cost = conv_costs.cost(replace(found, algorithm="inside_taps", program=built), g, dtype)
    if cost * AHEAD[found.algorithm] >= conv_costs.cost(found, g, dtype):
        return None
    if made.threads != conv_costs.THREADS:
        built = inside_taps.build(g, dtype, made.threads, forward)
    size, p = built.size * ITEMSIZE[dtype], built.layout
    if not affords(settings, size):
        return None
    blocking = {"columns": p.tile, "images": p.images, "classes": len(built.tables.classes)}
    return replace(made, algorithm="inside_taps", workspace_bytes=size, blocking=blocking,
                   program=built, otherwise=partial(again, settings, "inside_taps"))  # fmt: skip
