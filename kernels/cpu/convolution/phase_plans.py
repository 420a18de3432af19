"""Does a convolution go by way of phases, or of views of what it reads?  conv_plans.py asks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ..products.matmul_plans import affords
from . import conv_costs, phases


def phases_plan(made, g, dtype, settings, again, plan, kept):
    """The plan by way of phases, or of less than the whole images, or None where it is behind.

    ``plan(threads, geometry, limit)`` plans without them under a workspace limit; a workspace of
    ``kept`` bytes is kept between calls.
    """
    axes, limit = phases.nearer(g), settings.workspace_limit
    if axes is None or not phases.serves(g, phases.geometry(g, axes)):
        return None
    compared = partial(plan, conv_costs.THREADS)
    built, one, most = phases.build(made.operation, g, axes, dtype, limit, kept, compared,
                                    conv_costs.by_phases)  # fmt: skip
    if built.inner.algorithm == "direct" or not affords(settings, built.size):
        return None
    if built.batches and built.size - built.inner.workspace_bytes > kept:
        return None  # a single phase is as large as that
    if not pay(built, one, compared(g, limit), g, dtype, kept):
        return None
    if made.threads != conv_costs.THREADS:
        built, one, _ = phases.build(made.operation, g, axes, dtype, limit, kept,
                                     partial(plan, made.threads), conv_costs.by_phases,
                                     [most])  # fmt: skip
        if not affords(settings, built.size):
            return None
    inner = built.inner
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
    fewer = one.multiply_adds <= (1 - phases.SPARED) * g.multiply_adds and not built.batches
    if fewer and plain.algorithm != "columns":
        return True
    costs = conv_costs.by_phases(built, one, dtype), conv_costs.cost(plain, g, dtype)
    if None in costs:
        return False
    phased, whole = (cost + conv_costs.fresh(size, kept)
                     for cost, size in zip(costs, (built.size, plain.workspace_bytes)))  # fmt: skip
    return phased < whole
