"""Does a convolution go by way of phases, or of views of what it reads?  conv_plans.py asks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from . import conv_costs, phases
from .matmul_plans import affords


def phases_plan(made, g, dtype, settings, again, plan, kept):
    """The plan by way of phases, or of less than the whole images, or None where it is behind.

    ``plan(geometry, limit)`` plans without them under a workspace limit; a workspace of ``kept``
    bytes is kept between calls.
    """
    axes, limit = phases.nearer(g), settings.workspace_limit
    if axes is None or not phases.serves(g, phases.geometry(g, axes)):
        return None
    built, one = phases.build(made.operation, g, axes, dtype, limit, kept, plan)
    inner = built.inner
    if inner.algorithm == "direct" or not affords(settings, built.size):
        return None
    if built.batches and built.size - inner.workspace_bytes > kept:
        return None  # a single phase is as large as that
    if not pay(built, one, plan(g, limit), g, dtype, kept):
        return None
    blocking = {"by": inner.algorithm, "phases": phases.geometry(g, axes).dilation,
                "batches": built.batches, **inner.blocking}  # fmt: skip
    if settings.precision == "strict":
        other = partial(again, settings, "phases")
    else:
        other = partial(again, replace(settings, precision="strict"))
    return replace(made, algorithm="phases", workspace_bytes=built.size, blocking=blocking,
                   program=built, otherwise=other)  # fmt: skip


def pay(built, one, plain, g, dtype, kept) -> bool:
    """Is ``built``, whose phases are convolutions of geometry ``one``, ahead of ``plain``?"""
    if plain.algorithm == "direct":
        return True
    if one.multiply_adds <= (1 - phases.SPARED) * g.multiply_adds and not built.batches:
        return True
    costs = conv_costs.by_phases(built, one, dtype), conv_costs.cost(plain, g, dtype)
    if None in costs:
        return False
    phased, whole = (cost + conv_costs.fresh(size, kept)
                     for cost, size in zip(costs, (built.size, plain.workspace_bytes)))  # fmt: skip
    return phased < whole
