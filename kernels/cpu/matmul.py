"""Matrix products and linear layers: the contract's functions, and plain loops for tiny sizes."""

from __future__ import annotations

import numpy as np

from . import amx_matmul, columns, linear, matrix_product, plans
from .jit import array, kernel, out, prange
from .memory import load, step, store
from .vectors import ITEMSIZE

NO_BIAS = {np.dtype(name): np.zeros(0, name) for name in ITEMSIZE}
NO_BIASES = {dtype: none[None] for dtype, none in NO_BIAS.items()}  # (1, J)


def matmul(y, a, b, bias, geometry, plan, workspace):
    """y[i] = sum over e of a[i, e] @ b[i, e], plus bias (contract.matmul)."""
    dtype = y.dtype
    matrix = NO_BIASES[dtype] if bias is None else bias[None]
    threads = plan.threads
    while plan is not None and plan.algorithm != "direct":
        if product(plan, y, a, b, matrix, workspace):
            return
        plan, workspace = plans.otherwise(plan)
    sums_of_rows(dtype, threads, y, a, b, NO_BIAS[dtype] if bias is None else bias)


def product(plan, y, a, b, bias, workspace) -> bool:
    """The same on tiles, with a bias (I or 1, J or 1); False, and y is to be computed otherwise,

    if the tiles' arithmetic is not for such data.
    """
    if plan.algorithm == "amx":
        return amx_matmul.run(y, a, b, bias, plan, workspace)
    program, work = plan.program, workspace.view(y.dtype)
    if _better_turned(y, a, b):
        y, a, b = y.transpose(0, 2, 1), b.transpose(0, 1, 3, 2), a.transpose(0, 1, 3, 2)
        matrix_product.product(y.dtype, plan.threads, y, a, b, bias.T, work, program.turned)
    else:
        matrix_product.product(y.dtype, plan.threads, y, a, b, bias, work, program.blocking)
    return True


def linear_backward(dx, dw, db, dy, x, w, geometry, plan, workspace):
    program, dtype = plan.program, dy.dtype
    if program.blocks:
        sums = NO_BIAS[dtype] if db is None else db
        if _side_by_side(dx, dw, sums, dy, x, w):
            linear.gradients(dtype, plan.threads, dx, dw, sums, dy, x, w, workspace.view(dtype),
                             *program.blocks)  # fmt: skip
            return
    if dx is not None and dx.size:
        matmul(dx[None], dy[None, None], w[None, None], None, None, program.to_x, workspace)
    if dw is not None and dw.size:
        matmul(dw[None], dy.T[None, None], x[None, None], None, None, program.to_w, workspace)
    if db is not None:
        columns.bias_gradient(dtype, program.bias_threads, db, dy[:, :, None, None, None])


def _side_by_side(*arrays) -> bool:
    """Do all lie in order, without gaps?"""
    return all([array.flags.c_contiguous for array in arrays])


def _better_turned(y, a, b):
    """Is y^T = b^T @ a^T less to transpose?  The bits are the same.

    The right factor wants contiguous rows and the left one takes either; so where both are
    contiguous along the sum, a small one is to be the right one, if y is small too.
    """
    item = y.itemsize
    if y.strides[2] != item and y.strides[1] == item:
        return True
    along_sum = a.strides[3] == item and b.strides[2] == item and b.strides[3] != item
    return along_sum and b.size > 2 * (a.size + y.size)


@kernel(lambda F: (out(F, 3), array(F, 4), array(F, 4), array(F, 1)))
def sums_of_rows(y, a, b, bias):
    """y, one row at a time as a sum of rows of b: for machines without vectors, and tiny sizes."""
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
