"""Max-unpooling, and the forms that a winner can take."""

from __future__ import annotations

from .checks import canonical, check_shape, given_shape, integer_array, refuse_bad_values
from .indices import IntegerCall, narrowed
from .windows import between_windows, checked_winner, pooled_shape, unravel, window_geometry

_max_unpool = between_windows("max_unpool_forward", True)
_max_unpool_backward = between_windows("max_unpool_backward", False)


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
    geometry = window_geometry(shape, window, stride, padding, dilation, ceil_mode)
    pooled = pooled_shape(geometry, len(shape) - 2, layout)
    check_shape(winner, "winner", pooled, "that of max_pool's result for this x_shape")
    index = call.result(pooled, out, dtype="int64")
    look = call.plan("check_winner", geometry)
    won, bad = checked_winner(call, winner, geometry, layout, look)
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
    geometry = window_geometry(shape, window, stride, padding, dilation, ceil_mode)
    pooled = pooled_shape(geometry, len(shape) - 2, layout)
    check_shape(index, "index", pooled, "that of max_pool's result for this x_shape")
    winner = call.result(pooled, out, dtype=geometry.winner_dtype)
    wide = canonical(narrowed(call, index, "int64", None), layout)
    pool = call.backend.pool
    bad = pool.check_index_in_window(
        wide, geometry, *call.scratch("check_index_in_window", geometry)
    )
    refuse_bad_values(
        call, bad, lambda position: f"index at (n, c, z, p, q) = "
        f"{unravel(position, geometry.y_shape)} is no tap of its window"
    )  # fmt: skip
    pool.index_to_winner(
        canonical(winner, layout), wide, bad, geometry, *call.scratch("index_to_winner", geometry)
    )
    return call.finish(winner)
