"""Which algorithm serves an operation on a geometry, and the scratch memory it needs.

A plan is made from sizes alone and cached by them; nothing is run or allocated.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..contract import Plan

#: Below this many multiply-adds (or elements) a parallel region costs more than it saves: the
#: region takes about 3 microseconds, in which one core does some 100,000 of them.
SERIAL_BELOW = 100_000


@lru_cache(maxsize=4096)
def plan(operation, geometry, dtype, settings) -> Plan:
    """The plan for ``operation`` (a function of the contract) on ``geometry``.

    ``geometry`` is the operation's geometry; an element count or a shape for those without one.
    """
    threads = 1 if _work(geometry) < SERIAL_BELOW else settings.threads
    return Plan("numba", operation, "direct", threads=threads)


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


def workspace(plan):
    """The scratch memory a plan asks for: 64-byte aligned bytes, or None."""
    if not plan.workspace_bytes:
        return None
    memory = np.empty(plan.workspace_bytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + plan.workspace_bytes]
