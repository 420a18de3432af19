"""Which algorithm serves an operation on a geometry, and the scratch memory it needs.

A plan is made from sizes alone and cached by them; nothing is run or allocated.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import numpy as np

from gradroute.alignment import aligned_array
from gradroute.errors import WorkspaceError

from ..contract import Plan
from . import amx, amx_matmul, linear, matrix_product
from .conv_plans import AMX_ABOVE, affords, conv_plan
from .vectors import ITEMSIZE, TARGET

#: Below this many multiply-adds (or elements) a parallel region costs more than it saves: the
#: region takes about 3 microseconds, in which one core does some 100,000 of them.
SERIAL_BELOW = 100_000

#: Times that a multiply-add takes an operation's step: pooling compares, and keeps who won.
STEPS = {"max_pool_forward": 3, "max_pool_backward": 3}

#: Below this many multiply-adds the loops of direct.py are done before a product has packed.
DIRECT_BELOW = 4_000


@dataclass(frozen=True)
class CpuPlan(Plan):
    """A plan with what the driver of its algorithm needs, worked out once."""

    program: object = field(default=None, compare=False, repr=False)
    #: makes the plan for data that this one's algorithm finds it cannot serve
    otherwise: object = field(default=None, compare=False, repr=False)


def plan(operation, geometry, dtype, settings) -> Plan:
    """The plan for ``operation`` (a function of the contract) on ``geometry``.

    ``geometry`` is the operation's geometry; an element count or a shape for those without one.
    """
    return _plan(operation, geometry, dtype, settings)


@lru_cache(maxsize=4096)
def _plan(operation, geometry, dtype, settings, without=None):
    """``without`` names an algorithm that the arrays at hand are not for."""
    work = _work(geometry)
    threads = 1 if work * STEPS.get(operation, 1) < SERIAL_BELOW else settings.threads
    made = CpuPlan("numba", operation, "direct", threads=threads)
    tiled = TARGET and work >= DIRECT_BELOW
    if operation in ("conv_forward", "conv_dx", "conv_dw"):
        again = partial(_plan, operation, geometry, dtype)
        return conv_plan(made, geometry, dtype, settings, again, tiled, without)
    if operation == "matmul" and tiled:
        return _matmul(made, geometry, dtype, settings)
    if operation == "linear_backward":
        return _linear_backward(made, geometry, dtype, settings)
    return made


def _matmul(made, g, dtype, settings):
    work, strict = _work(g), settings.precision == "strict"
    if dtype == "float32" and not strict and work >= AMX_ABOVE and amx_matmul.serves(g):
        built = amx_matmul.build(g.batch, g.rows, g.columns, g.inner, made.threads,
                                 own_left=g.rows > g.columns)  # fmt: skip
        if amx.available() and affords(settings, built.size):
            p = built.blocking
            blocking = {"tile": amx.TILE, "width": p.width, "chunk": p.chunk}
            other = partial(_plan, "matmul", g, dtype, replace(settings, precision="strict"))
            return replace(made, algorithm="amx", workspace_bytes=built.size, blocking=blocking,
                           program=built, otherwise=other)  # fmt: skip
    built = matrix_product.build(g, dtype, made.threads)
    size = built.size * ITEMSIZE[dtype]
    if not affords(settings, size):
        return made  # the direct loops need none
    p = built.blocking
    blocking = {"rows": p.rows, "columns": p.columns, "panel": p.panel, "chunk": p.chunk,
                "parts": p.parts}  # fmt: skip
    return replace(made, algorithm="packed", workspace_bytes=size, blocking=blocking,
                   program=built)  # fmt: skip


def _linear_backward(made, g, dtype, settings):
    products = [
        _plan("matmul", product, dtype, settings) if name in g.need else None
        for name, product in (("x", g.to_x), ("w", g.to_w))
    ]
    bias = _plan("bias_gradient", g.rows * g.features, dtype, settings)
    built = linear.build(*products, bias.threads)
    size = max([plan.workspace_bytes for plan in products if plan], default=0)
    return replace(made, algorithm="together" if built.blocks else "apart", workspace_bytes=size,
                   program=built)  # fmt: skip


def _work(geometry) -> int:
    """About how many elements or multiply-adds an operation touches."""
    if isinstance(geometry, int):
        return geometry
    if isinstance(geometry, tuple):
        return math.prod(geometry)
    if hasattr(geometry, "multiply_adds"):
        return geometry.multiply_adds
    if hasattr(geometry, "taps"):
        return geometry.batch * geometry.channels * geometry.out_plane * geometry.taps
    if hasattr(geometry, "summed"):
        g = geometry
        return g.batch * g.summed * g.rows * g.columns * g.inner
    return geometry.outer * geometry.count * geometry.inner


#: The last workspace of each thread is kept for its next call, up to this size: fresh memory
#: costs a page fault per 4 KiB, more than the arithmetic of a small layer.
KEPT_BYTES = 32 * 1024 * 1024
_kept = threading.local()


def otherwise(plan):
    """The plan for data that this one's algorithm cannot serve, with its workspace.

    None where there is no such plan, or no memory for it: the direct loops need none, and what
    this call or an earlier one of the same caller has written is not left half done.
    """
    other = plan.otherwise() if plan.otherwise else None
    try:
        return other, workspace(other) if other else None
    except WorkspaceError:
        return None, None


def workspace(plan):
    """The scratch memory a plan asks for: 64-byte aligned bytes, or None.

    It is valid until this thread's next call of workspace().
    """
    size = plan.workspace_bytes
    if not size:
        return None
    memory = getattr(_kept, "memory", None)
    if memory is not None and len(memory) >= size:
        return memory
    try:
        memory = aligned_array((size,), np.dtype(np.uint8))
    except MemoryError:
        raise WorkspaceError(
            f"{plan.operation} ({plan.algorithm}) needs a workspace of {size} bytes, and there is "
            "not that much memory"
        ) from None
    if size <= KEPT_BYTES:
        _kept.memory = memory
    return memory
