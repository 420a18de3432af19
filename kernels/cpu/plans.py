"""Which algorithm serves an operation on a geometry, and the scratch memory it needs.

A plan is made from sizes alone and cached by them; nothing is run or allocated.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache, partial

import numpy as np

from gradroute.alignment import aligned_array
from gradroute.config import available_threads
from gradroute.errors import WorkspaceError

from ..contract import Plan
from . import scatter_plans
from .convolution.conv_plans import KEPT_BYTES, conv_plan
from .emitted.vectors import TARGET
from .pooling import max_pool_axes
from .products import matrix_vector
from .products.matmul_plans import linear_plan, matmul_plan

#: Below this many multiply-adds (or elements) a parallel region costs more than it saves: the
#: region takes about 3 microseconds, in which one core does some 100,000 of them.
SERIAL_BELOW = 100_000

#: Times that a multiply-add takes an operation's step: pooling compares, and keeps who won; a loss
#: has its exponentials.
STEPS = {"max_pool_forward": 3, "max_pool_backward": 3,
         "avg_pool_forward": 2, "avg_pool_backward": 2, "softmax_cross_entropy": 8}  # fmt: skip

#: Below this many multiply-adds the loops of direct.py are done before a product has packed.
DIRECT_BELOW = 4_000


@dataclass(frozen=True)
class CpuPlan(Plan):
    """A plan with what the driver of its algorithm needs, worked out once."""

    program: object = field(default=None, compare=False, repr=False)
    #: makes the plan for data that this one's algorithm finds it cannot serve
    otherwise: object = field(default=None, compare=False, repr=False)
    #: the plan for images with channels last, where it is another one
    last: object = field(default=None, compare=False, repr=False)


def plan(operation, geometry, dtype, settings) -> Plan:
    """The plan for ``operation`` (a function of the contract) on ``geometry``.

    ``geometry`` is the operation's geometry; an element count or a shape for those without one.
    """
    make = _plan if settings.workspace_limit is None else _limited
    return make(operation, geometry, dtype, settings)


@lru_cache(maxsize=4096)
def _limited(operation, geometry, dtype, settings):
    """Under a limit the blocks of more threads are smaller, or another algorithm takes their place.

    So that sums are the same for any number of threads, the plan is that of all the threads there
    are, whether or not they all run it.
    """
    most = replace(settings, threads=max(settings.threads, available_threads()))
    return _run_by(_plan(operation, geometry, dtype, most), settings.threads)


def _run_by(part, threads):
    """``part``, a plan or what one holds, for ``threads`` threads at most to run."""
    if isinstance(part, CpuPlan):
        other = part.otherwise
        part = replace(part, threads=min(part.threads, threads),
                       otherwise=other and (lambda: _run_by(other(), threads)))  # fmt: skip
    if is_dataclass(part):
        held = {one.name: getattr(part, one.name) for one in fields(part)}
        return replace(part, **{name: _run_by(one, threads) for name, one in held.items()})
    if isinstance(part, tuple):
        held = [_run_by(one, threads) for one in part]
        return part._make(held) if hasattr(part, "_make") else tuple(held)
    return part


@lru_cache(maxsize=4096)
def _plan(operation, geometry, dtype, settings, without=frozenset()):
    """``without`` names the algorithms that the arrays at hand are not for."""
    work = _work(geometry)
    threads = 1 if work * STEPS.get(operation, 1) < SERIAL_BELOW else settings.threads
    made = CpuPlan("numba", operation, "direct", threads=threads)
    tiled = TARGET and work >= DIRECT_BELOW
    if operation in ("conv_forward", "conv_dx", "conv_dw"):

        def again(settings, refused=None):
            refusing = without | {refused} if refused else without
            return _plan(operation, geometry, dtype, settings, refusing)

        return conv_plan(made, geometry, dtype, settings, again, tiled, without)
    if operation == "matmul" and tiled:
        thin = matrix_vector.plan(made, geometry, dtype, settings)
        return thin or matmul_plan(made, geometry, dtype, settings)
    if operation == "linear_backward":
        return linear_plan(made, geometry, partial(_plan, dtype=dtype, settings=settings))
    if operation == "scatter_add":
        return scatter_plans.plan(made, geometry, dtype, settings)
    if operation == "max_pool_forward":
        return max_pool_axes.plan(made, geometry, dtype, settings)
    return made


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


#: The last workspace of each thread, of up to KEPT_BYTES, is kept for its next call: fresh memory
#: costs a page fault per 4 KiB, more than the arithmetic of a small layer.
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
    if size <= KEPT_BYTES:
        _kept.memory = memory = None  # not beside the one that takes its place
    try:
        whole = -(-size // 64) * 64  # a later call may see it as numbers of 8 bytes
        memory = aligned_array((whole,), np.dtype(np.uint8))
    except MemoryError:
        raise WorkspaceError(
            f"{plan.operation} ({plan.algorithm}) needs a workspace of {size} bytes, and there is "
            "not that much memory"
        ) from None
    if size <= KEPT_BYTES:
        _kept.memory = memory
    return memory
