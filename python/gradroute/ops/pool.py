"""Max-pooling by its winners, and average pooling."""

from __future__ import annotations

import numpy as np

from .call import Call
from .checks import canonical, check_shape, from_first, given_shape, image_shape, out_tuple
from .settled import settled
from .windows import between_windows, check_rule, flag, pooled_shape, window_geometry


def _max_pool_at_once(found, arrays, options):
    """y and winner as one call of the backend's, where that has it."""
    call, geometry, shape, dtype, plan = found
    find = getattr(call.backend.pool, "max_pool_forward_at_once", None)
    layout, ties, nan = options[5:8]
    if find is None:
        return None
    new_y, new_winner = call.maker(shape), call.maker(shape, dtype) if dtype else lambda: None
    kernel = find(*(canonical(one, layout) for one in (new_y(), new_winner(), *arrays)), geometry,
                  ties, nan, plan)  # fmt: skip

    def run(x):
        y, won = new_y(), new_winner()
        kernel(canonical(y, layout), canonical(won, layout), canonical(x, layout))
        return y, won

    return run


@settled(ready=_max_pool_at_once)
def _max_pool(x, window, stride, padding, dilation, ceil_mode, layout, ties, nan, winner):
    """The dtype is that of the winner, None where it is not wanted."""
    call = Call({"x": x})
    geometry = window_geometry(
        image_shape(x.shape, "x", layout), window, stride, padding, dilation, ceil_mode
    )
    check_rule(ties, nan)
    dtype = np.dtype(geometry.winner_dtype) if flag(winner, "winner") else None
    plan = call.plan("max_pool_forward", geometry)
    return call, geometry, pooled_shape(geometry, x.ndim - 2, layout), dtype, plan


def max_pool(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False,
             layout="channels_first", ties="first", nan="propagate", winner=True,
             out=None):  # fmt: skip
    """The largest element of each window, and which one it was.

    Parameters
    ----------
    x : array (N, C, W), (N, C, H, W) or (N, C, D, H, W); channels behind with "channels_last"
    window : int or one per spatial axis
    stride : int or one per spatial axis; None is the window
    padding, dilation, layout : as in ``conv``; padding never wins
    ceil_mode : round the output size up, then drop a last window that starts behind the input
    ties : "first" | "last" among equal maxima, in row-major order
    nan : "propagate" (the first NaN wins) | "omit" (NaN ranks below -inf)
    winner : False returns (y, None)
    out : tuple (y, winner) of arrays to write to, None for one not wanted, optional

    Returns
    -------
    y : array (N, C, ...) of x's dtype
    winner : unsigned integers of y's shape: the winner's position inside its window, row-major;
        uint8 for windows of up to 256 taps, uint16 up to 65,536, else uint32

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arguments that do not fit, also where some window would see no input element.

    Notes
    -----
    Keeping the arg-max as the "switch" of the backward pass: Zeiler & Fergus 2014,
    arXiv:1311.2901.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> y, winner = gr.max_pool(np.array([[[3.0, 0.0, 4.0, 2.0, 0.0]]]), 3, stride=2)
    >>> y, winner
    (array([[[4., 4.]]]), array([[[2, 0]]], dtype=uint8))
    """
    call, geometry, shape, dtype, plan = _max_pool(
        (x,), (window, stride, padding, dilation, ceil_mode, layout, ties, nan, winner), out
    )
    if call.at_once is not None:
        return call.at_once(x)
    out_y, out_winner = out_tuple(out, (True, dtype is not None), ("y", "winner"))
    y = call.result(shape, out_y, "out[0] (y)")
    won = None
    if dtype is not None:
        won = call.result(shape, out_winner, "out[1] (winner)", dtype)
    call.backend.pool.max_pool_forward(
        canonical(y, layout), canonical(won, layout), canonical(call.input(x), layout),
        geometry, ties, nan, plan, call.workspace(plan),
    )  # fmt: skip
    return call.finish_all(y, won)


_max_pool_backward = between_windows("max_pool_backward", True)


def max_pool_backward(dy, winner, x_shape, window, *, stride=None, padding=0, dilation=1,
                      ceil_mode=False, layout="channels_first", out=None):  # fmt: skip
    """Gradient of ``max_pool``: each window hands all of its gradient to its winner.

    Parameters
    ----------
    dy : array of max_pool's result's shape
    winner : integers of the same shape, as ``max_pool`` returned them
    x_shape : the whole shape of max_pool's input, in the given layout
    window, stride, padding, dilation, ceil_mode, layout : as ``max_pool`` was called with
    out : array of shape x_shape and dy's dtype to write to, optional

    Returns
    -------
    dx : array of shape x_shape; an input that won several windows gets the sum, one that won
        none gets 0

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arguments that do not fit.
    IndexRangeError
        For a winner outside its window or on padding; nothing is written then.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> y, winner = gr.max_pool(np.array([[[3.0, 0.0, 4.0, 2.0, 0.0]]]), 3, stride=2)
    >>> gr.max_pool_backward(np.array([[[0.7, 0.9]]]), winner, (1, 1, 5), 3, stride=2)
    array([[[0. , 0. , 1.6, 0. , 0. ]]])
    """
    return _max_pool_backward(
        dy, "dy", winner, x_shape, window, stride, padding, dilation, ceil_mode, layout, out
    )


def _means_at_once(operation):
    """What `settled` calls to have an average pool, or its gradient, as one function."""

    def at_once(found, arrays, options):
        call, geometry, shape, include, plan = found
        find = getattr(call.backend.pool, f"{operation}_at_once", None)
        (given,), layout = arrays, options[-1]
        if find is None or call.whole(given) is not given:
            return None
        new = call.maker(shape)
        kernel = find(canonical(new(), layout), canonical(given, layout), geometry, include, plan)

        def run(given):
            made = new()
            kernel(canonical(made, layout), canonical(given, layout))
            return made

        return run

    return at_once


def avg_pool(x, window, *, stride=None, padding=0, dilation=1, ceil_mode=False,
             count_include_pad=True, layout="channels_first", out=None):  # fmt: skip
    """The mean of each window.

    Parameters
    ----------
    x, window, stride, padding, dilation, ceil_mode, layout : as in ``max_pool``
    count_include_pad : divide by the taps inside the padded input; False: inside the input.
        Cells that ceil_mode adds beyond the padding never count.
    out : array of y's shape and dtype to write to, optional

    Returns
    -------
    y : array (N, C, ...) of x's dtype

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arguments that do not fit, also where some window would see no input element.

    Notes
    -----
    LeCun et al. 1998, "Gradient-based learning applied to document recognition" (subsampling).

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> gr.avg_pool(np.array([[[1.0, 3.0, 5.0, 7.0]]]), 2)
    array([[[2., 6.]]])
    """
    call, geometry, shape, include, plan = _avg_pool(
        (x,), (window, stride, padding, dilation, ceil_mode, count_include_pad, layout), out
    )
    if call.at_once is not None:
        return call.at_once(x)
    y = call.result(shape, out, whole=True)
    call.backend.pool.avg_pool_forward(
        canonical(y, layout), canonical(call.whole(x), layout), geometry, include, plan,
        call.workspace(plan),
    )  # fmt: skip
    return call.finish(y)


@settled(ready=_means_at_once("avg_pool_forward"))
def _avg_pool(x, window, stride, padding, dilation, ceil_mode, count_include_pad, layout):
    call = Call({"x": x})
    geometry = window_geometry(
        image_shape(x.shape, "x", layout), window, stride, padding, dilation, ceil_mode
    )
    include = flag(count_include_pad, "count_include_pad")
    shape = pooled_shape(geometry, x.ndim - 2, layout)
    return call, geometry, shape, include, call.plan("avg_pool_forward", geometry)


def avg_pool_backward(dy, x_shape, window, *, stride=None, padding=0, dilation=1,
                      ceil_mode=False, count_include_pad=True, layout="channels_first",
                      out=None):  # fmt: skip
    """Gradient of ``avg_pool``: each window shares its gradient out equally.

    Parameters
    ----------
    dy : array of avg_pool's result's shape
    x_shape : the whole shape of avg_pool's input, in the given layout
    window and the options : as ``avg_pool`` was called with
    out : array of shape x_shape and dy's dtype to write to, optional

    Returns
    -------
    dx : array of shape x_shape

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arguments that do not fit.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> gr.avg_pool_backward(np.array([[[1.0, 4.0]]]), (1, 1, 4), 2)
    array([[[0.5, 0.5, 2. , 2. ]]])
    """
    call, geometry, shape, include, plan = _avg_pool_backward(
        (dy,), (x_shape, window, stride, padding, dilation, ceil_mode, count_include_pad, layout),
        out,
    )  # fmt: skip
    if call.at_once is not None:
        return call.at_once(dy)
    dx = call.result(shape, out, whole=True)
    call.backend.pool.avg_pool_backward(
        canonical(dx, layout), canonical(call.whole(dy), layout), geometry, include, plan,
        call.workspace(plan),
    )  # fmt: skip
    return call.finish(dx)


@settled(ready=_means_at_once("avg_pool_backward"))
def _avg_pool_backward(dy, x_shape, window, stride, padding, dilation, ceil_mode,
                       count_include_pad, layout):  # fmt: skip
    call = Call({"dy": dy})
    shape = given_shape(x_shape, layout)
    geometry = window_geometry(shape, window, stride, padding, dilation, ceil_mode)
    include = flag(count_include_pad, "count_include_pad")
    pooled = pooled_shape(geometry, len(shape) - 2, layout)
    check_shape(dy, "dy", pooled, "that of avg_pool's result for this x_shape")
    whole = from_first(shape, layout)
    return call, geometry, whole, include, call.plan("avg_pool_backward", geometry)
