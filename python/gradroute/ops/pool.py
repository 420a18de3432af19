"""Max-pooling by its winners, unpooling, average pooling, and the forms a winner can take."""

from __future__ import annotations

from ..errors import ArgumentTypeError, ArgumentValueError
from ..geometry import pool_geometry
from .call import Call
from .checks import (
    canonical,
    check_shape,
    from_first,
    given_shape,
    image_shape,
    integer_array,
    out_tuple,
    refuse_bad_values,
)
from .indices import IntegerCall, narrowed


def _bool(value, name):
    if type(value).__name__ not in ("bool", "bool_"):
        raise ArgumentTypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _choice(value, name, choices):
    if not isinstance(value, str) or value not in choices:
        raise ArgumentValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def _geometry(shape, window, stride, padding, dilation, ceil_mode):
    return pool_geometry(
        shape, window=window, stride=stride, padding=padding, dilation=dilation,
        ceil_mode=_bool(ceil_mode, "ceil_mode"),
    )  # fmt: skip


def _pooled_shape(geometry, axes, layout):
    return from_first((*geometry.y_shape[:2], *geometry.out[3 - axes :]), layout)


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
    call = Call({"x": x})
    geometry = _geometry(
        image_shape(x.shape, "x", layout), window, stride, padding, dilation, ceil_mode
    )
    _choice(ties, "ties", ("first", "last"))
    _choice(nan, "nan", ("propagate", "omit"))
    keep = _bool(winner, "winner")
    out_y, out_winner = out_tuple(out, (True, keep), ("y", "winner"))
    shape = _pooled_shape(geometry, x.ndim - 2, layout)
    y = call.result(shape, out_y, "out[0] (y)")
    won = call.result(shape, out_winner, "out[1] (winner)", geometry.winner_dtype) if keep else None
    call.backend.pool.max_pool_forward(
        canonical(y, layout), canonical(won, layout), canonical(call.input(x), layout),
        geometry, ties, nan, *call.scratch("max_pool_forward", geometry),
    )  # fmt: skip
    return call.finish_all(y, won)


def _scatter_to_windows(operation, result_is_image):
    """The shared body of the functions that move values between an image and its winners."""

    def run(values, name, winner, x_shape, window, stride, padding, dilation, ceil_mode, layout,
            out):  # fmt: skip
        call = Call({name: values}, winner=winner)
        shape = given_shape(x_shape, layout)
        geometry = _geometry(shape, window, stride, padding, dilation, ceil_mode)
        pooled = _pooled_shape(geometry, len(shape) - 2, layout)
        whole = from_first(shape, layout)
        if result_is_image:
            check_shape(values, name, pooled, "that of max_pool's result for this x_shape")
        else:
            check_shape(values, name, whole, "x_shape")
        integer_array(winner, "winner")
        check_shape(winner, "winner", pooled, "that of max_pool's result for this x_shape")
        result = call.result(whole if result_is_image else pooled, out)
        won, bad = _checked_winner(call, winner, geometry, layout)
        getattr(call.backend.pool, operation)(
            canonical(result, layout), canonical(call.input(values), layout), won, bad,
            geometry, *call.scratch(operation, geometry),
        )  # fmt: skip
        return call.finish(result)

    return run


def _checked_winner(call, winner, geometry, layout):
    """The winner as kernels read it, and the flag of its value check."""
    won = canonical(narrowed(call, winner, geometry.winner_dtype, geometry.taps), layout)
    bad = call.backend.pool.check_winner(won, geometry, *call.scratch("check_winner", geometry))
    shape = geometry.y_shape

    def message(position):
        where = _unravel(position, shape)
        return (
            f"winner at (n, c, z, p, q) = {where} lies outside its window of "
            f"{geometry.taps} taps or on padding"
        )

    refuse_bad_values(call, bad, message)
    return won, bad


def _unravel(position, shape):
    where = []
    for size in reversed(shape):
        where.append(position % size)
        position //= size
    return tuple(reversed(where))


_max_pool_backward = _scatter_to_windows("max_pool_backward", True)
_max_unpool = _scatter_to_windows("max_unpool_forward", True)
_max_unpool_backward = _scatter_to_windows("max_unpool_backward", False)


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


def max_unpool(y, winner, x_shape, window, *, stride=None, padding=0, dilation=1,
               ceil_mode=False, layout="channels_first", out=None):  # fmt: skip
    """Puts every pooled value back where it was won; zero elsewhere.

    Parameters
    ----------
    y : array of max_pool's result's shape
    winner, x_shape, window and the options : as in ``max_pool_backward``

    Returns
    -------
    x : array of shape x_shape; where windows collide the last one in row-major order stays

    Raises
    ------
    ArgumentTypeError, ArgumentValueError, IndexRangeError
        As ``max_pool_backward``.

    Notes
    -----
    Zeiler & Fergus 2014, arXiv:1311.2901.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> y, winner = gr.max_pool(np.array([[[3.0, 0.0, 1.0, 2.0]]]), 2)
    >>> gr.max_unpool(y, winner, (1, 1, 4), 2)
    array([[[3., 0., 0., 2.]]])
    """
    return _max_unpool(
        y, "y", winner, x_shape, window, stride, padding, dilation, ceil_mode, layout, out
    )


def max_unpool_backward(dx, winner, x_shape, window, *, stride=None, padding=0, dilation=1,
                        ceil_mode=False, layout="channels_first", out=None):  # fmt: skip
    """Gradient of ``max_unpool``: each window reads the gradient at its winner.

    Parameters
    ----------
    dx : array of shape x_shape: the gradient that arrives at max_unpool's result
    winner, x_shape, window and the options : as in ``max_pool_backward``

    Returns
    -------
    dy : array of max_pool's result's shape; 0 for a window whose value another one overwrote

    Raises
    ------
    ArgumentTypeError, ArgumentValueError, IndexRangeError
        As ``max_pool_backward``.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> winner = np.array([[[0, 1]]], np.uint8)
    >>> gr.max_unpool_backward(np.array([[[5.0, 6.0, 7.0, 8.0]]]), winner, (1, 1, 4), 2)
    array([[[5., 8.]]])
    """
    return _max_unpool_backward(
        dx, "dx", winner, x_shape, window, stride, padding, dilation, ceil_mode, layout, out
    )


def winner_to_index(winner, x_shape, window, *, stride=None, padding=0, dilation=1,
                    ceil_mode=False, layout="channels_first", out=None):  # fmt: skip
    """Winners as positions inside the (n, c) plane, the form PyTorch uses.

    Parameters
    ----------
    winner, x_shape, window and the options : as in ``max_pool_backward``
    out : int64 array of winner's shape to write to, optional

    Returns
    -------
    index : int64 array of winner's shape, row-major in the plane.  ONNX adds (n*C + c) * plane.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError, IndexRangeError
        As ``max_pool_backward``.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> gr.winner_to_index(np.array([[[2, 0]]], np.uint8), (1, 1, 5), 3, stride=2)
    array([[[2, 2]]])
    """
    integer_array(winner, "winner")
    call = IntegerCall(winner, "winner")
    shape = given_shape(x_shape, layout)
    geometry = _geometry(shape, window, stride, padding, dilation, ceil_mode)
    pooled = _pooled_shape(geometry, len(shape) - 2, layout)
    check_shape(winner, "winner", pooled, "that of max_pool's result for this x_shape")
    index = call.result(pooled, out, dtype="int64")
    won, bad = _checked_winner(call, winner, geometry, layout)
    call.backend.pool.winner_to_index(
        canonical(index, layout), won, bad, geometry, *call.scratch("winner_to_index", geometry)
    )
    return call.finish(index)


def index_to_winner(index, x_shape, window, *, stride=None, padding=0, dilation=1,
                    ceil_mode=False, layout="channels_first", out=None):  # fmt: skip
    """The inverse of ``winner_to_index``: positions inside the plane as winners.

    Parameters
    ----------
    index : integers of max_pool's result's shape, as PyTorch's max_pool returns them
    x_shape, window and the options : as in ``max_pool_backward``
    out : array of the winner's dtype and index's shape to write to, optional

    Returns
    -------
    winner : unsigned integers of index's shape, as ``max_pool`` returns them

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arguments that do not fit.
    IndexRangeError
        For an index that is not one of its window's taps; nothing is written then.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> gr.index_to_winner(np.array([[[2, 2]]]), (1, 1, 5), 3, stride=2)
    array([[[2, 0]]], dtype=uint8)
    """
    integer_array(index, "index")
    call = IntegerCall(index, "index")
    shape = given_shape(x_shape, layout)
    geometry = _geometry(shape, window, stride, padding, dilation, ceil_mode)
    pooled = _pooled_shape(geometry, len(shape) - 2, layout)
    check_shape(index, "index", pooled, "that of max_pool's result for this x_shape")
    winner = call.result(pooled, out, dtype=geometry.winner_dtype)
    wide = canonical(narrowed(call, index, "int64", None), layout)
    pool = call.backend.pool
    bad = pool.check_index_in_window(
        wide, geometry, *call.scratch("check_index_in_window", geometry)
    )
    refuse_bad_values(
        call, bad, lambda position: f"index at (n, c, z, p, q) = "
        f"{_unravel(position, geometry.y_shape)} is no tap of its window"
    )  # fmt: skip
    pool.index_to_winner(
        canonical(winner, layout), wide, bad, geometry, *call.scratch("index_to_winner", geometry)
    )
    return call.finish(winner)


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
    call = Call({"x": x})
    geometry = _geometry(
        image_shape(x.shape, "x", layout), window, stride, padding, dilation, ceil_mode
    )
    include = _bool(count_include_pad, "count_include_pad")
    y = call.result(_pooled_shape(geometry, x.ndim - 2, layout), out)
    call.backend.pool.avg_pool_forward(
        canonical(y, layout), canonical(call.input(x), layout), geometry, include,
        *call.scratch("avg_pool_forward", geometry),
    )  # fmt: skip
    return call.finish(y)


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
    call = Call({"dy": dy})
    shape = given_shape(x_shape, layout)
    geometry = _geometry(shape, window, stride, padding, dilation, ceil_mode)
    include = _bool(count_include_pad, "count_include_pad")
    pooled = _pooled_shape(geometry, len(shape) - 2, layout)
    check_shape(dy, "dy", pooled, "that of avg_pool's result for this x_shape")
    dx = call.result(from_first(shape, layout), out)
    call.backend.pool.avg_pool_backward(
        canonical(dx, layout), canonical(call.input(dy), layout), geometry, include,
        *call.scratch("avg_pool_backward", geometry),
    )  # fmt: skip
    return call.finish(dx)
