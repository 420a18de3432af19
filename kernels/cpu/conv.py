"""Convolution: the contract's functions, each a choice of the driver that the plan names."""

from __future__ import annotations

from functools import partial

from . import plans
from .amx import amx_conv, amx_dw
from .convolution import (
    columns,
    direct,
    implicit_gemm,
    patches,
    phases,
    scattered_taps,
    weight_gradient,
    window_columns,
)
from .depthwise import depthwise_conv
from .matmul import NO_BIAS
from .pixel_major import inside_taps, pixel_conv, pixel_dw
from .products import pointwise
from .winograd import winograd_conv, winograd_dw

#: algorithm -> its driver, which returns False where the data is not for it
_CONVOLVE = {"amx": amx_conv.run, "columns": window_columns.convolve,
             "depthwise": depthwise_conv.run, "implicit_gemm": implicit_gemm.run,
             "inside_taps": inside_taps.run, "patches": patches.convolve,
             "pixel_major": pixel_conv.run, "pointwise": pointwise.convolve,
             "scattered_taps": scattered_taps.run, "winograd": winograd_conv.run}  # fmt: skip
_REDUCE = {"amx": amx_dw.run, "columns": window_columns.reduce, "depthwise": depthwise_conv.dw,
           "implicit_gemm": weight_gradient.run, "patches": patches.reduce,
           "pixel_major": pixel_dw.run, "pointwise": pointwise.reduce,
           "winograd": winograd_dw.run}  # fmt: skip
_CONVOLVE["phases"] = partial(phases.convolve, dict(_CONVOLVE))
_REDUCE["phases"] = partial(phases.reduce, dict(_REDUCE))


def _served(drivers, arrays, plan, workspace) -> bool:
    """Runs the plan's algorithm, or else the one it names for such data; False: neither can."""
    while plan is not None and plan.algorithm in drivers:
        if drivers[plan.algorithm](*arrays, plan, workspace):
            return True
        plan, workspace = plans.otherwise(plan)
    return False


def _laid(plan, *images):
    """The plan for images that lie as these do."""
    if plan.last is not None and all(image.strides[1] == image.itemsize for image in images):
        return plan.last
    return plan


def _grouped(w, geometry):
    """(K, C/G, T, R, S) -> (G, K/G, C/G, T, R, S)."""
    return w.reshape(geometry.groups, -1, *w.shape[1:])


def conv_forward(y, x, w, b, geometry, plan, workspace):
    dtype, g, plan = y.dtype, geometry, _laid(plan, y, x)
    b = NO_BIAS[dtype] if b is None else b
    if plan.algorithm == "direct" or not _served(
        _CONVOLVE, (y, x, _grouped(w, g), b), plan, workspace
    ):
        direct.forward(dtype, plan.threads, y, x, w, b, g.stride, g.before, g.dilation, g.groups)


def conv_dx(dx, dy, w, b, geometry, plan, workspace):
    dtype, g, plan = dx.dtype, geometry, _laid(plan, dx, dy)
    b = NO_BIAS[dtype] if b is None else b
    if plan.algorithm == "direct" or not _served(
        _CONVOLVE, (dx, dy, _grouped(w, g).swapaxes(1, 2), b), plan, workspace
    ):
        direct.dx(dtype, plan.threads, dx, dy, w, b, g.stride, g.before, g.dilation, g.groups)


def conv_dw(dw, db, dy, x, geometry, plan, workspace):
    g, threads, plan = geometry, plan.threads, _laid(plan, dy, x)
    db = NO_BIAS[dw.dtype] if db is None else db
    if dw.flags.c_contiguous:  # an axis of one tap may have any stride: drivers ask for dw's own
        dw = dw.reshape(-1).reshape(dw.shape)
    if plan.algorithm != "direct" and _served(_REDUCE, (dw, db, dy, x), plan, workspace):
        return
    direct.dw(dw.dtype, threads, dw, dy, x, g.stride, g.before, g.dilation, g.groups)
    if db.size:
        columns.bias_gradient(db.dtype, threads, db, dy)


def bias_gradient(db, dy, plan, workspace):
    columns.bias_gradient(db.dtype, plan.threads, db, dy)


def im2col(cols, x, geometry, plan, workspace):
    g = geometry
    columns.im2col(cols.dtype, plan.threads, cols, x, g.stride, g.before, g.dilation)


def col2im(x, cols, geometry, plan, workspace):
    g = geometry
    columns.col2im(x.dtype, plan.threads, x, cols, g.stride, g.before, g.dilation)
