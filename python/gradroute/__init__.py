"""gradroute: accelerated kernels for the layers in which a gradient has to find its way back.

    import gradroute as gr
    y = gr.conv(x, w, b, padding=1)
    dx, dw, db = gr.conv_backward(dy, x, w, padding=1)

The same call runs on the CPU (Numba) or on a CUDA GPU (CuPy), chosen by the arrays and gr.config.
Importing the package imports neither: a backend is loaded by the first call that needs it.
"""

import sys as _sys
import warnings as _warnings

from . import errors
from ._version import __version__
from .config import config
from .dispatch import synchronize, which_backend
from .errors import GradrouteError
from .ops.activation import activate, activate_backward, softmax_cross_entropy
from .ops.columns import col2im, im2col
from .ops.conv import conv, conv_backward, conv_transpose, conv_transpose_backward
from .ops.linear import linear, linear_backward
from .ops.matmul import matmul, matmul_backward
from .ops.plan import plan
from .ops.pool import avg_pool, avg_pool_backward, max_pool, max_pool_backward
from .ops.scatter import scatter_add
from .ops.unpool import (
    index_to_winner,
    max_unpool,
    max_unpool_backward,
    winner_to_index,
)

# At the end: the package gradroute.explain holds the function of that name, which must win.
from .explain import compare, explain, route, shared  # noqa: E402

if not getattr(_sys, "_is_gil_enabled", lambda: True)():
    _warnings.warn(
        "gradroute has not been tested on a free-threaded Python: calls from several threads at "
        "once may go wrong",
        RuntimeWarning,
        stacklevel=2,
    )


def __getattr__(name):
    if name != "nn":  # imported when it is first named
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module(".nn", __name__)


def __dir__():
    return sorted([*globals(), "nn"])


__all__ = [
    "GradrouteError",
    "__version__",
    "activate",
    "activate_backward",
    "avg_pool",
    "avg_pool_backward",
    "col2im",
    "compare",
    "config",
    "conv",
    "conv_backward",
    "conv_transpose",
    "conv_transpose_backward",
    "errors",
    "explain",
    "im2col",
    "index_to_winner",
    "linear",
    "linear_backward",
    "matmul",
    "matmul_backward",
    "max_pool",
    "max_pool_backward",
    "max_unpool",
    "max_unpool_backward",
    "nn",
    "plan",
    "route",
    "scatter_add",
    "shared",
    "softmax_cross_entropy",
    "synchronize",
    "which_backend",
    "winner_to_index",
]
