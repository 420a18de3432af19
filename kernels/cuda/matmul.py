"""Matrix products on the GPU: cuBLAS, through CuPy."""

from __future__ import annotations

from .conv import bias_gradient
from .launch import runtime


def matmul(y, a, b, bias, geometry, plan, workspace):
    if 0 in (geometry.batch, geometry.rows, geometry.columns):
        return
    if 0 in (geometry.summed, geometry.inner):
        y[...] = 0
    elif geometry.summed == 1:
        _product(y, a[:, 0], b[:, 0])
    else:  # sum over e of a @ b is one product with a longer inner axis: (B, I, E*L) (B, E*L, J)
        long = geometry.summed * geometry.inner
        left = a.transpose(0, 2, 1, 3).reshape(geometry.batch, geometry.rows, long)
        _product(y, left, b.reshape(geometry.batch, long, geometry.columns))
    if bias is not None:
        y += bias


def _product(y, a, b):
    """y (B, I, J) = a (B, I, L) @ b (B, L, J)."""
    if len(y) == 1:  # CuPy hands a transposed matrix to cuBLAS as it is, but copies a batch of them
        y, a, b = y[0], a[0], b[0]
    runtime().array_module().matmul(a, b, out=y)


def linear_backward(dx, dw, db, dy, x, w, geometry, plan, workspace):
    if dx is not None:
        matmul(dx[None], dy[None, None], w[None, None], None, geometry.to_x, plan, None)
    if dw is not None:
        matmul(dw[None], dy.T[None, None], x[None, None], None, geometry.to_w, plan, None)
    if db is not None:
        bias_gradient(db, dy[:, :, None, None, None], plan, workspace)
