"""gr.plan: which algorithm would serve a call, without running it."""

from __future__ import annotations

import inspect

import numpy as np

from .. import dispatch
from ..config import config
from ..errors import ArgumentTypeError, ArgumentValueError
from ..geometry import (
    MatmulGeometry,
    ScatterGeometry,
    conv_geometry,
    conv_transpose_geometry,
    im2col_geometry,
    pool_geometry,
)
from .call import float_dtype
from .checks import image_shape
from .matmul import _batch_shape

_FIRST = "channels_first"


def _conv(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1, layout=_FIRST):
    return conv_geometry(
        image_shape(x.shape, "x", layout), tuple(w.shape),
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip


def _conv_transpose(x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1,
                    layout=_FIRST):  # fmt: skip
    return conv_transpose_geometry(
        image_shape(x.shape, "x", layout), tuple(w.shape), stride=stride, padding=padding,
        output_padding=output_padding, dilation=dilation, groups=groups,
    )  # fmt: skip


def _pool(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, layout=_FIRST):
    return pool_geometry(
        image_shape(x.shape, "x", layout),
        window=window, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode,
    )  # fmt: skip


def _columns(x, window, *, stride=1, padding=0, dilation=1, layout=_FIRST):
    return im2col_geometry(
        image_shape(x.shape, "x", layout),
        window=window, stride=stride, padding=padding, dilation=dilation,
    )  # fmt: skip


def _matmul(a, b):
    a_shape, b_shape = tuple(a.shape), tuple(b.shape)
    a_shape = (1, *a_shape) if len(a_shape) == 1 else a_shape
    b_shape = (*b_shape, 1) if len(b_shape) == 1 else b_shape
    batch = int(np.prod(_batch_shape(a_shape, b_shape), dtype=np.int64))
    return MatmulGeometry(batch, 1, a_shape[-2], b_shape[-1], a_shape[-1])


def _linear(x, w, b=None, *, activation=None):
    rows = int(np.prod(x.shape[:-1], dtype=np.int64))
    return MatmulGeometry(1, 1, rows, w.shape[0], w.shape[1])


def _scatter(out, index, src=None, *, axis=0):
    count = int(np.prod(index.shape, dtype=np.int64))
    outer, inner = (int(np.prod(s, dtype=np.int64)) for s in (out.shape[:axis], out.shape[axis + 1 :]))
    return ScatterGeometry(outer, out.shape[axis], inner, count)


#: what the caller names -> (the kernel that serves it, the geometry of its arguments)
_OPERATIONS = {
    "conv": ("conv_forward", _conv),
    "conv_dx": ("conv_dx", _conv),
    "conv_dw": ("conv_dw", _conv),
    "conv_transpose": ("conv_dx", _conv_transpose),
    "conv_transpose_dx": ("conv_forward", _conv_transpose),
    "conv_transpose_dw": ("conv_dw", _conv_transpose),
    "max_pool": ("max_pool_forward", _pool),
    "max_pool_backward": ("max_pool_backward", _pool),
    "avg_pool": ("avg_pool_forward", _pool),
    "avg_pool_backward": ("avg_pool_backward", _pool),
    "im2col": ("im2col", _columns),
    "col2im": ("col2im", _columns),
    "matmul": ("matmul", _matmul),
    "linear": ("matmul", _linear),
    "scatter_add": ("scatter_add", _scatter),
}


def plan(operation, *arrays, **options):
    """The algorithm that would serve a call, with its blocking and workspace; nothing is run.

    Parameters
    ----------
    operation : "conv", "conv_dx", "conv_dw", "conv_transpose", "conv_transpose_dx",
        "conv_transpose_dw", "max_pool", "max_pool_backward", "avg_pool", "avg_pool_backward",
        "im2col", "col2im", "matmul", "linear" or "scatter_add"
    arrays : what the forward function takes; only .shape and .dtype are looked at
    options : the forward function's options

    Returns
    -------
    Plan with .backend, .algorithm, .blocking (dict), .workspace_bytes and .threads

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For an unknown operation, or arguments that do not fit it.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> x, w = np.zeros((8, 64, 56, 56), np.float32), np.zeros((64, 64, 1, 1), np.float32)
    >>> gr.plan("conv", x, w).backend
    'numba'
    """
    if operation not in _OPERATIONS:
        raise ArgumentValueError(
            f"operation must be one of {sorted(_OPERATIONS)}, got {operation!r}"
        )
    kernel, geometry_of = _OPERATIONS[operation]
    try:
        inspect.signature(geometry_of).bind(*arrays, **options)
    except TypeError as error:
        raise ArgumentTypeError(f"plan({operation!r}): {error}") from None
    for array in arrays[:1]:
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise ArgumentTypeError(f"plan({operation!r}) needs arrays with .shape and .dtype")
    kind = float_dtype(np.dtype(arrays[0].dtype), "the first array")
    library = "cupy" if type(arrays[0]).__module__.startswith("cupy") else "numpy"
    name = dispatch.name_for(library)
    if name != "cuda" and kind not in ("float32", "float64"):
        kind = "float32"
    found = dispatch.load(name).plan(kernel, geometry_of(*arrays, **options), kind, config.current())
    last = options.get("layout") == "channels_last"
    return last and getattr(found, "last", None) or found
