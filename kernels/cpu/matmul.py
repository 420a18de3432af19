"""Matrix products and linear layers: the contract's functions, and plain loops for tiny sizes."""

from __future__ import annotations

from functools import partial

import numpy as np

from . import plans
from .convolution import columns
from .jit import array, bound, kernel, out, prange
from .products import linear
from .products.linear import row_of_sums
from .products.planned_product import NO_BIAS, NO_BIASES, better_turned, product


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


def linear_backward(dx, dw, db, dy, x, w, geometry, plan, workspace):
    program, dtype = plan.program, dy.dtype
    if program.blocks and _side_by_side(dx, dw, dy, x, w) and (db is None or _side_by_side(db)):
        sums = NO_BIAS[dtype] if db is None else db
        linear.gradients(dtype, plan.threads, dx, dw, sums, dy, x, w,
                         _scratch(workspace, dtype), *program.blocks, 0, 0)  # fmt: skip
        return
    if dx is not None and dx.size:
        matmul(dx[None], dy[None, None], w[None, None], None, None, program.to_x, workspace)
    if dw is not None and dw.size:
        matmul(dw[None], dy.T[None, None], x[None, None], None, None, program.to_w, workspace)
    if db is not None:
        columns.bias_gradient(dtype, program.bias_threads, db, dy[:, :, None, None, None])


def linear_backward_at_once(dy, x, w, plan):
    """`linear_backward` of arrays of these forms, as a function of (dx, dw, db, dy, x, w).

    None where it takes more than one call of a kernel.  The results lie in order.
    """
    if plan.program.blocks is None or not dy.size or not _side_by_side(dy, x, w):
        return None
    dtype, find, blocks = dy.dtype, partial(plans.workspace, plan), plan.program.blocks
    kernel, nothing = bound(linear.gradients, plan.threads, dtype), NO_BIAS[dtype]

    def run(dx, dw, db, dy, x, w):
        sums = nothing if db is None else db
        kernel(dx, dw, sums, dy, x, w, _scratch(find(), dtype), *blocks, 0, 0)

    return run


def matmul_backward_at_once(dy, a, b, to_a, to_b):
    """Both gradients of a product as a function of (da, db, dy, a, b), or None.

    dy (I, J), a (I, L) and b (L, J), or a batch of each; to_a and to_b are the plans of
    da = dy @ b^T and db = a^T @ dy, which lie in order.
    """
    made = np.empty(max(a.size, b.size), a.dtype)
    wide = [one.reshape(-1, 1, *one.shape[-2:]) if one.ndim == 3 else one[None, None]
            for one in (made[: a.size].reshape(a.shape), made[: b.size].reshape(b.shape), dy, a, b)]
    da, db, dy4, a4, b4 = wide
    turned = (better_turned(da[:, 0], dy4, b4.swapaxes(2, 3)),
              better_turned(db[:, 0], a4.swapaxes(2, 3), dy4))  # fmt: skip
    blocks = linear.blocks_of_both((to_a, to_b), turned)
    if blocks is None or not a.size or not b.size:
        return None
    plan, dtype = max(to_a, to_b, key=lambda plan: plan.workspace_bytes), dy.dtype
    find = partial(plans.workspace, plan)
    if dy.ndim == 3:
        kernel = bound(linear.gradients_of_batch, plan.threads, dtype)

        def run(da, db, dy, a, b):
            kernel(da, db, dy, a, b, _scratch(find(), dtype), *blocks, *turned)

        return run
    kernel, nothing = bound(linear.gradients, plan.threads, dtype), NO_BIAS[dtype]
    turned = turned[0], not turned[1]  # db^T = dy^T @ a

    def run_one(da, db, dy, a, b):
        kernel(da, db.T, nothing, dy, a, b.T, _scratch(find(), dtype), *blocks, *turned)

    return run_one


def _scratch(workspace, dtype):
    return NO_BIAS[dtype] if workspace is None else workspace.view(dtype)


def _side_by_side(*arrays) -> bool:
    """Do all lie in order, without gaps?"""
    return all([array.flags.c_contiguous for array in arrays])


@kernel(lambda F: (out(F, 3), array(F, 4), array(F, 4), array(F, 1)))
def sums_of_rows(y, a, b, bias):
    """y, one row at a time as a sum of rows of b: for machines without vectors, and tiny sizes."""
    for task in prange(y.shape[0] * y.shape[1]):
        row_of_sums(task, y, a, b, bias)
