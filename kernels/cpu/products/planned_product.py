"""A matrix product by the algorithm that its plan names, for matmul.py and for convolutions."""

from __future__ import annotations

import numpy as np

from ..amx import amx_matmul
from ..emitted.vectors import ITEMSIZE
from . import matrix_product, matrix_vector

NO_BIAS = {np.dtype(name): np.zeros(0, name) for name in ITEMSIZE}
NO_BIASES = {dtype: none[None] for dtype, none in NO_BIAS.items()}  # (1, J)


def product(plan, y, a, b, bias, workspace) -> bool:
    """y[i] = sum over e of a[i, e] @ b[i, e] + bias (I or 1, J or 1), as ``plan`` says.

    False, and y is to be computed otherwise, if the tiles' arithmetic is not for such data.
    """
    if plan.algorithm == "amx":
        return amx_matmul.run(y, a, b, bias, plan, workspace)
    if plan.algorithm == "matrix_vector":
        matrix_vector.run(y, a, b, bias, plan, workspace)
        return True
    program, work = plan.program, workspace.view(y.dtype)
    if better_turned(y, a, b):
        y, a, b = y.transpose(0, 2, 1), b.transpose(0, 1, 3, 2), a.transpose(0, 1, 3, 2)
        matrix_product.product(y.dtype, plan.threads, y, a, b, bias.T, work, program.turned)
    else:
        matrix_product.product(y.dtype, plan.threads, y, a, b, bias, work, program.blocking)
    return True


def better_turned(y, a, b):
    """Is y^T = b^T @ a^T less to transpose?  The bits are the same.

    The right factor wants contiguous rows and the left one takes either; so where both are
    contiguous along the sum, a small one is to be the right one, if y is small too.
    """
    item = y.itemsize
    if y.strides[2] != item and y.strides[1] == item:
        return True
    along_sum = a.strides[3] == item and b.strides[2] == item and b.strides[3] != item
    return along_sum and b.size > 2 * (a.size + y.size)
