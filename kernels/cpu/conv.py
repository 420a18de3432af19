"""Convolution: the contract's functions, each a choice of the driver that the plan names."""

from __future__ import annotations

from . import columns, direct
from .matmul import NO_BIAS


def conv_forward(y, x, w, b, geometry, plan, workspace):
    dtype = y.dtype.name
    b = NO_BIAS[dtype] if b is None else b
    g = geometry
    direct.forward(dtype, plan.threads, y, x, w, b, g.stride, g.before, g.dilation, g.groups)


def conv_dx(dx, dy, w, b, geometry, plan, workspace):
    dtype = dx.dtype.name
    b = NO_BIAS[dtype] if b is None else b
    g = geometry
    direct.dx(dtype, plan.threads, dx, dy, w, b, g.stride, g.before, g.dilation, g.groups)


def conv_dw(dw, db, dy, x, geometry, plan, workspace):
    g = geometry
    direct.dw(dw.dtype.name, plan.threads, dw, dy, x, g.stride, g.before, g.dilation, g.groups)
    if db is not None:
        columns.bias_gradient(db.dtype.name, plan.threads, db, dy)


def bias_gradient(db, dy, plan, workspace):
    columns.bias_gradient(db.dtype.name, plan.threads, db, dy)


def im2col(cols, x, geometry, plan, workspace):
    g = geometry
    columns.im2col(cols.dtype.name, plan.threads, cols, x, g.stride, g.before, g.dilation)


def col2im(x, cols, geometry, plan, workspace):
    g = geometry
    columns.col2im(x.dtype.name, plan.threads, x, cols, g.stride, g.before, g.dilation)
