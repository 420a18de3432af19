"""The Numba backend: compiled loops for the CPU, one module per family of kernels."""

from . import activation, conv, matmul, pool, scatter
from .plans import plan, workspace

__all__ = ["activation", "conv", "matmul", "plan", "pool", "scatter", "workspace"]
