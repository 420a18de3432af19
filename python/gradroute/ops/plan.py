"""gr.plan: which algorithm would serve a call, without running it."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass

import numpy as np

from .. import dispatch
from ..config import config
from ..errors import ArgumentTypeError, ArgumentValueError
from ..geometry import (
    MatmulGeometry,
    conv_geometry,
    conv_transpose_geometry,
    im2col_geometry,
)
from .activation import check_activation
from .call import float_dtype, mixed_dtypes
from .checks import check_shape, image_shape
from .conv import _shapes
from .linear import _linear_shapes
from .matmul import _product_shape
from .scatter import scatter_geometry
from .windows import check_rule, flag, window_geometry

_FIRST = "channels_first"


@dataclass(frozen=True)
class _Form:
    """All that a check may look at in an array that need not be one."""

    shape: tuple
    dtype: np.dtype

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return math.prod(self.shape)


#: the arguments that are arrays; the first of a call decides its dtype and library
_ARRAYS = ("x", "w", "a", "b", "out", "index", "src")
_OPTIONAL = ("b", "src")


def _form(array, name):
    try:
        return _Form(tuple(array.shape), np.dtype(array.dtype))
    except (AttributeError, TypeError):
        raise ArgumentTypeError(
            f"{name} must have a .shape and a .dtype of NumPy's, got {type(array).__name__}"
        ) from None


def _check_bias(b, outputs):
    if b is not None:
        check_shape(b, "b", (outputs,), "one per output of w")


def _conv(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1, layout=_FIRST):
    geometry = conv_geometry(
        *_shapes(x, w, layout),
        stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    _check_bias(b, geometry.out_channels)
    return geometry


def _conv_transpose(x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1,
                    layout=_FIRST):  # fmt: skip
    geometry = conv_transpose_geometry(
        *_shapes(x, w, layout), stride=stride, padding=padding,
        output_padding=output_padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    _check_bias(b, geometry.in_channels)
    return geometry


def _max_pool(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False, layout=_FIRST,
              ties="first", nan="propagate", winner=True):  # fmt: skip
    check_rule(ties, nan)
    flag(winner, "winner")
    shape = image_shape(x.shape, "x", layout)
    return window_geometry(shape, window, stride, padding, dilation, ceil_mode)


def _avg_pool(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False,
              count_include_pad=True, layout=_FIRST):  # fmt: skip
    flag(count_include_pad, "count_include_pad")
    shape = image_shape(x.shape, "x", layout)
    return window_geometry(shape, window, stride, padding, dilation, ceil_mode)


def _columns(x, window, *, stride=1, padding=0, dilation=1, layout=_FIRST):
    return im2col_geometry(
        image_shape(x.shape, "x", layout),
        window=window, stride=stride, padding=padding, dilation=dilation,
    )  # fmt: skip


def _matmul(a, b):
    batch, _ = _product_shape(a, b)
    rows = 1 if a.ndim == 1 else a.shape[-2]
    columns = 1 if b.ndim == 1 else b.shape[-1]
    return MatmulGeometry(math.prod(batch), 1, rows, columns, a.shape[-1])


def _linear(x, w, b=None, *, activation=None):
    rows, features = _linear_shapes(x, w)
    _check_bias(b, features)
    if activation is not None:
        check_activation(activation)
    return MatmulGeometry(1, 1, rows, features, w.shape[1])


def _scatter(out, index, src=None, *, axis=0, mode="raise"):
    if index.dtype.kind not in "iu":
        raise ArgumentTypeError(f"index must be an array of integers, got dtype {index.dtype}")
    return scatter_geometry(out, index, src, axis, mode)


#: what the caller names -> (the kernel that serves it, the geometry of its arguments)
_OPERATIONS = {
    "conv": ("conv_forward", _conv),
    "conv_dx": ("conv_dx", _conv),
    "conv_dw": ("conv_dw", _conv),
    "conv_transpose": ("conv_dx", _conv_transpose),
    "conv_transpose_dx": ("conv_forward", _conv_transpose),
    "conv_transpose_dw": ("conv_dw", _conv_transpose),
    "max_pool": ("max_pool_forward", _max_pool),
    "max_pool_backward": ("max_pool_backward", _max_pool),
    "avg_pool": ("avg_pool_forward", _avg_pool),
    "avg_pool_backward": ("avg_pool_backward", _avg_pool),
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
    if not isinstance(operation, str) or operation not in _OPERATIONS:
        raise ArgumentValueError(
            f"operation must be one of {sorted(_OPERATIONS)}, got {operation!r}"
        )
    kernel, geometry_of = _OPERATIONS[operation]
    try:
        bound = inspect.signature(geometry_of).bind(*arrays, **options)
    except TypeError as error:
        raise ArgumentTypeError(f"plan({operation!r}): {error}") from None
    given = {
        name: bound.arguments[name] for name in _ARRAYS
        if name in bound.arguments and not (name in _OPTIONAL and bound.arguments[name] is None)
    }  # fmt: skip
    forms = {name: _form(array, name) for name, array in given.items()}
    bound.arguments.update(forms)
    first = next(iter(forms))  # every operation has one
    kind = float_dtype(forms[first].dtype, first)
    for name, form in forms.items():
        if name != "index" and form.dtype != forms[first].dtype:
            raise mixed_dtypes(first, forms[first], name, form)
    library = "cupy" if type(given[first]).__module__.startswith("cupy") else "numpy"
    name = dispatch.name_for(library)
    if name != "cuda" and kind not in ("float32", "float64"):
        kind = "float32"
    geometry = geometry_of(*bound.args, **bound.kwargs)
    found = dispatch.load(name).plan(kernel, geometry, kind, config.current())
    last = options.get("layout") == "channels_last"
    return last and getattr(found, "last", None) or found
