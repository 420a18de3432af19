"""Matrix products on the GPU: cuBLAS, through CuPy."""

from __future__ import annotations

from .launch import runtime


def matmul(y, a, b, bias, geometry, plan, workspace):
    library = runtime().array_module()
    if 0 in (geometry.batch, geometry.rows, geometry.columns):
        return
    if 0 in (geometry.summed, geometry.inner):
        y[...] = 0
    elif geometry.summed == 1:
        y[...] = library.matmul(a[:, 0], b[:, 0])
    else:  # sum over e of a @ b is one product with a longer inner axis: (B, I, E*L) (B, E*L, J)
        long = geometry.summed * geometry.inner
        left = a.transpose(0, 2, 1, 3).reshape(geometry.batch, geometry.rows, long)
        right = b.reshape(geometry.batch, long, geometry.columns)
        y[...] = library.matmul(left, right)
    if bias is not None:
        y[...] = y + bias
