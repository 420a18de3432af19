"""The matrix product."""

from __future__ import annotations

import numpy as np

from .jit import array, kernel, out, prange
from .memory import load, step, store

NO_BIAS = {name: np.zeros(0, name) for name in ("float32", "float64")}


def matmul(y, a, b, bias, geometry, plan, workspace):
    """y[i] = sum over e of a[i, e] @ b[i, e], plus bias (contract.matmul)."""
    dtype = y.dtype.name
    product(dtype, plan.threads, y, a, b, NO_BIAS[dtype] if bias is None else bias)


@kernel(lambda F: (out(F, 3), array(F, 4), array(F, 4), array(F, 1)))
def product(y, a, b, bias):
    """One row of y at a time, as a sum of rows of b."""
    B, I, J = y.shape
    _, E, _, L = a.shape
    for task in prange(B * I):
        n, i = task // I, task % I
        row = n * step(y, 0) + i * step(y, 1)
        for j in range(J):
            start = load(bias, j * step(bias, 0)) if bias.size else a.dtype.type(0)
            store(y, row + j * step(y, 2), start)
        for e in range(E):
            for m in range(L):
                value = load(a, n * step(a, 0) + e * step(a, 1) + i * step(a, 2) + m * step(a, 3))
                other = n * step(b, 0) + e * step(b, 1) + m * step(b, 2)
                for j in range(J):
                    at = row + j * step(y, 2)
                    store(y, at, load(y, at) + value * load(b, other + j * step(b, 3)))
