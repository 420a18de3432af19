"""The Numba backend: compiled loops for the CPU, one module per family of kernels."""

from . import conv, matmul
from .plans import plan, workspace

__all__ = ["conv", "matmul", "plan", "workspace"]
