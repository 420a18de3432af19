"""The reference backend: NumPy, slow and obvious, and the oracle of every other backend.

Read it to see what an operation is.  Sums run in float64 and are rounded once, on assignment to
the output, so a float32 result is the exact one to the last bit or so and float64 is plain NumPy.
"""

from ..contract import Plan
from . import activation, conv, matmul, pool, scatter

__all__ = ["activation", "conv", "matmul", "plan", "pool", "scatter", "workspace"]

_BY_IM2COL = ("conv_forward", "conv_dx", "conv_dw")


def plan(operation, geometry, dtype, settings):
    """There is one way to compute each operation, whatever the sizes and the settings."""
    return Plan("reference", operation, "im2col" if operation in _BY_IM2COL else "direct")


def workspace(plan):
    """Scratch memory: none, NumPy allocates as it goes."""
    return None
