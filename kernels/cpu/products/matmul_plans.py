"""Which algorithm serves a matrix product: plans.py asks, and convolutions that are products."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ..amx import amx_matmul, amx_tiles
from ..emitted.vectors import ITEMSIZE
from . import linear, product_blocks


def affords(settings, size) -> bool:
    """Is a workspace of ``size`` bytes within the limit?"""
    return settings.workspace_limit is None or size <= settings.workspace_limit


def matmul_plan(made, g, dtype, settings):
    """``made`` is the plan so far, of the plain loops, on MatmulGeometry ``g``."""
    if dtype == "float32" and settings.precision != "strict" and amx_matmul.serves(g):
        built = amx_matmul.build(g.batch, g.rows, g.columns, g.inner, made.threads,
                                 own_left=g.rows > g.columns)  # fmt: skip
        if amx_tiles.available() and affords(settings, built.size):
            return amx_plan(made, g, built, settings)
    built = product_blocks.build(g, dtype, made.threads)
    size = built.size * ITEMSIZE[dtype]
    if not affords(settings, size):
        return made  # the direct loops need none
    p = built.blocking
    blocking = {"rows": p.rows, "columns": p.columns, "panel": p.panel, "chunk": p.chunk,
                "parts": p.parts}  # fmt: skip
    return replace(made, algorithm="packed", workspace_bytes=size, blocking=blocking,
                   program=built)  # fmt: skip


def amx_plan(made, g, built, settings):
    """The plan of ``built``, an amx_matmul.Program for the product ``g``."""
    p = built.blocking
    blocking = {"tile": amx_tiles.TILE, "width": p.width, "chunk": p.chunk}
    other = partial(matmul_plan, made, g, "float32", replace(settings, precision="strict"))
    return replace(made, algorithm="amx", workspace_bytes=built.size, blocking=blocking,
                   program=built, otherwise=other)  # fmt: skip


def linear_plan(made, g, plan):
    """The gradients of a layer, LinearGeometry ``g``; ``plan(operation, geometry)`` plans each."""
    to_x, to_w = (
        plan("matmul", product) if name in g.need else None
        for name, product in (("x", g.to_x), ("w", g.to_w))
    )
    bias_threads = plan("bias_gradient", g.rows * g.features).threads
    built = linear.build(to_x, to_w, bias_threads)
    size = max([one.workspace_bytes for one in (to_x, to_w) if one], default=0)
    return replace(made, algorithm="together" if built.blocks else "apart", workspace_bytes=size,
                   program=built)  # fmt: skip
