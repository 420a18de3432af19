"""The columns of a convolution: im2col and its gradient."""

from __future__ import annotations

from ..geometry import im2col_geometry
from .call import Call
from .checks import canonical, check_shape, from_first, given_shape, image_shape


def _columns(cols, geometry, layout):
    """The matrix of columns seen as (N, C, T, R, S, Z, P, Q)."""
    n, c, *taps_and_out = geometry.cols_shape
    if layout == "channels_first":
        return cols.reshape(geometry.cols_shape)
    window, out = taps_and_out[:3], taps_and_out[3:]
    return cols.reshape((n, *out, *window, c)).transpose(0, 7, 4, 5, 6, 1, 2, 3)


def _columns_shape(geometry, layout):
    rows, places = geometry.channels * geometry.taps, geometry.out_plane
    pair = (rows, places) if layout == "channels_first" else (places, rows)
    return (geometry.batch, *pair)


def im2col(x, window, *, stride=1, padding=0, dilation=1, layout="channels_first", out=None):
    """The windows of a convolution laid out as the columns of a matrix.

    Parameters
    ----------
    x : array (N, C, W), (N, C, H, W) or (N, C, D, H, W); channels behind with "channels_last"
    window : int or one per spatial axis
    stride, padding, dilation, layout : as in ``conv``
    out : array of the result's shape and dtype to write to, optional

    Returns
    -------
    cols : array (N, C*R*S, P*Q), or (N, P*Q, R*S*C) with "channels_last"; padding reads as 0

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arrays, shapes or options that do not fit, before anything is computed.

    Notes
    -----
    Chellapilla, Puri & Simard 2006, "High performance convolutional neural networks for document
    processing".  ``conv`` itself never makes this matrix.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> gr.im2col(np.array([[[1.0, 2.0, 3.0, 4.0]]]), 2)
    array([[[1., 2., 3.],
            [2., 3., 4.]]])
    """
    call = Call({"x": x})
    geometry = im2col_geometry(
        image_shape(x.shape, "x", layout),
        window=window, stride=stride, padding=padding, dilation=dilation,
    )  # fmt: skip
    shape = _columns_shape(geometry, layout)
    cols = call.result(shape, out)
    # a reshape of a strided out would be a copy
    made = cols if cols.flags.c_contiguous else call.empty(shape)
    call.backend.conv.im2col(
        _columns(made, geometry, layout), canonical(call.input(x), layout),
        geometry, *call.scratch("im2col", geometry),
    )  # fmt: skip
    if made is not cols:
        cols[...] = made
    return call.finish(cols)


def col2im(cols, x_shape, window, *, stride=1, padding=0, dilation=1, layout="channels_first",
           out=None):  # fmt: skip
    """Adds columns back into an image: the gradient of ``im2col``.

    Parameters
    ----------
    cols : array (N, C*R*S, P*Q), or (N, P*Q, R*S*C) with "channels_last"
    x_shape : the image's whole shape, with batch and channels, in the given layout
    window, stride, padding, dilation, layout : as in ``im2col``
    out : array of the result's shape and dtype to write to, optional

    Returns
    -------
    x : array of shape x_shape; each element is the sum of the columns' entries that im2col would
        have read from it

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arrays, shapes or options that do not fit, before anything is computed.

    Notes
    -----
    Computed as a gather over the windows of each input, hence without write conflicts.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> gr.col2im(np.ones((1, 2, 3)), (1, 1, 4), 2)
    array([[[1., 2., 2., 1.]]])
    """
    call = Call({"cols": cols})
    shape = given_shape(x_shape, layout)
    geometry = im2col_geometry(
        shape, window=window, stride=stride, padding=padding, dilation=dilation
    )
    check_shape(cols, "cols", _columns_shape(geometry, layout), "im2col's for this x_shape")
    x = call.result(from_first(shape, layout), out)
    call.backend.conv.col2im(
        canonical(x, layout), _columns(call.input(cols), geometry, layout),
        geometry, *call.scratch("col2im", geometry),
    )  # fmt: skip
    return call.finish(x)
