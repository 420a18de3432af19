"""Convolution, its transpose, and their gradients."""

from __future__ import annotations

from ..errors import ArgumentValueError
from ..geometry import conv_geometry, conv_transpose_geometry
from .call import Call, Steps
from .checks import canonical, check_shape, from_first, image_shape, out_tuple, wanted_results
from .settled import settled

_RESULTS = ("dx", "dw", "db")


def _shapes(x, w, layout):
    """x's shape as (N, C, ...) and w's, their ranks checked against each other."""
    x_shape = image_shape(x.shape, "x", layout)
    if w.ndim != x.ndim:
        raise ArgumentValueError(
            f"w must have as many axes as x ({x.ndim}), got shape {w.shape}: "
            "(K, C/G, window...) for conv, (C, K/G, window...) for conv_transpose"
        )
    if 0 in w.shape:
        raise ArgumentValueError(f"w has an empty axis: {w.shape}")
    return x_shape, w.shape


def _spatial(shape_of_three, axes):
    """The last ``axes`` of three lifted sizes: (1, H, W) -> (H, W)."""
    return tuple(shape_of_three[3 - axes :])


def _weights(w):
    return canonical(w, "channels_first")


@settled
def _conv(x, w, b, stride, padding, dilation, groups, layout):
    call = Call({"x": x, "w": w, "b": b}, optional=("b",))
    geometry = conv_geometry(
        *_shapes(x, w, layout), stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    if b is not None:
        check_shape(b, "b", (geometry.out_channels,), "one per output channel of w")
    y_shape = (geometry.batch, geometry.out_channels, *_spatial(geometry.out, x.ndim - 2))
    return call, geometry, from_first(y_shape, layout), call.plan("conv_forward", geometry)


@settled
def _conv_backward(dy, x, w, stride, padding, dilation, groups, layout, need):
    call = Call({"dy": dy, "x": x, "w": w})
    geometry = conv_geometry(
        *_shapes(x, w, layout), stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    y_shape = (geometry.batch, geometry.out_channels, *_spatial(geometry.out, x.ndim - 2))
    check_shape(dy, "dy", from_first(y_shape, layout), "that of conv's result")
    want_x, want_w, want_b = wanted = wanted_results(need, ("x", "w", "b"))
    plans = (
        call.plan("conv_dx", geometry) if want_x else None,
        call.plan("conv_dw", geometry) if want_w else None,
        call.plan("bias_gradient", geometry.y_shape) if want_b and not want_w else None,
    )
    return call, geometry, wanted, plans


def conv(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1,
         layout="channels_first", out=None):  # fmt: skip
    """Convolution (cross-correlation) of images with filters, plus a bias per output channel.

    Parameters
    ----------
    x : array (N, C, W), (N, C, H, W) or (N, C, D, H, W); channels behind with "channels_last"
    w : array (K, C/groups, S), (K, C/groups, R, S) or (K, C/groups, T, R, S), in both layouts
    b : array (K,), optional
    stride, dilation : int or one per spatial axis
    padding : int, one per spatial axis, one (before, after) per axis, "valid" or "same"
        "same" gives ceil(size / stride) outputs, the odd cell of padding behind the image.
    groups : int; output channels of a group read only that group's input channels
    layout : "channels_first" or "channels_last"; it concerns x and y
    out : array of y's shape and dtype to write to, optional

    Returns
    -------
    y : array (N, K, ...) of x's dtype: float32, float64, float16 or bfloat16
        size = floor((size + before + after - (window - 1) * dilation - 1) / stride) + 1

    Raises
    ------
    ArgumentTypeError, ArgumentValueError (a TypeError and a ValueError)
        For arrays, shapes or options that do not fit, before anything is computed.

    Notes
    -----
    Implicit im2col (the column matrix is never made): Chetlur et al. 2014, arXiv:1410.0759.
    3x3 and 5x5 windows may use Winograd's method under ``config.precision = "standard"``: Lavin &
    Gray 2016, arXiv:1509.09308.  ``gr.plan("conv", x, w)`` names the algorithm.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> x = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    >>> w = np.array([[[1, 0, -1]]], dtype=np.float32)
    >>> gr.conv(x, w, padding=1)
    array([[[-1., -2., -2., -2.,  3.]]], dtype=float32)
    """
    call, geometry, shape, plan = _conv(
        (x, w, b), (stride, padding, dilation, groups, layout), out
    )
    grouped = geometry.groups > 1
    y = call.result(shape, out, even=grouped)
    call.backend.conv.conv_forward(
        canonical(y, layout), canonical(call.even(x, grouped), layout), _weights(call.input(w)),
        call.input(b), geometry, plan, call.workspace(plan),
    )  # fmt: skip
    return call.finish(y)


def conv_backward(dy, x, w, *, stride=1, padding=0, dilation=1, groups=1,
                  layout="channels_first", need=("x", "w", "b"), out=None):  # fmt: skip
    """Gradients of ``conv``: of its input, its filters and its bias.

    Parameters
    ----------
    dy : array of conv's result's shape: the gradient that arrives there
    x, w, stride, padding, dilation, groups, layout : as ``conv`` was called with
    need : which gradients to compute, out of "x", "w", "b"
    out : tuple (dx, dw, db) of arrays to write to, None for one not wanted, optional

    Returns
    -------
    dx, dw, db : arrays of the shapes of x, w and (K,); None where not in ``need``
        dx sums, over every output that read an input, dy times the weight that joined the two;
        dw sums, over every place a filter visited, dy times the input it saw there.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arrays, shapes or options that do not fit, before anything is computed.

    Examples
    --------
    An input read by three windows collects from three; at the edge it collects from two.

    >>> import numpy as np, gradroute as gr
    >>> x, w = np.ones((1, 1, 4)), np.array([[[1.0, 2.0, 4.0]]])
    >>> dx, dw, db = gr.conv_backward(np.ones((1, 1, 4)), x, w, padding=1)
    >>> dx
    array([[[3., 7., 7., 6.]]])
    >>> dw, db
    (array([[[3., 4., 3.]]]), array([4.]))
    """
    call, geometry, wanted, plans = _conv_backward(
        (dy, x, w), (stride, padding, dilation, groups, layout, need), out
    )
    want_x, want_w, want_b = wanted
    out_x, out_w, out_b = out_tuple(out, wanted, _RESULTS)
    grouped = geometry.groups > 1
    dx = call.result(x.shape, out_x, "out[0] (dx)", even=grouped) if want_x else None
    dw = call.result(w.shape, out_w, "out[1] (dw)") if want_w else None
    db = call.result(w.shape[:1], out_b, "out[2] (db)") if want_b else None
    kernels, steps, (plan_x, plan_w, plan_b) = call.backend.conv, Steps(), plans
    dy5 = canonical(call.even(dy, grouped or want_b), layout)
    if want_x:
        steps.add(
            kernels.conv_dx, canonical(dx, layout), dy5, _weights(call.input(w)), None,
            geometry, plan_x, call.workspace(plan_x),
        )  # fmt: skip
    if want_w:
        steps.add(
            kernels.conv_dw, _weights(dw), db, dy5, canonical(call.even(x, grouped), layout),
            geometry, plan_w, call.workspace(plan_w),
        )  # fmt: skip
    elif want_b:
        steps.add(kernels.bias_gradient, db, dy5, plan_b, call.workspace(plan_b))
    steps.run()
    return call.finish_all(dx, dw, db)


def conv_transpose(x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1,
                   layout="channels_first", out=None):  # fmt: skip
    """Transposed convolution: the map that takes ``conv``'s dy to its dx, plus a bias.

    Parameters
    ----------
    x : array (N, C, W), (N, C, H, W) or (N, C, D, H, W); channels behind with "channels_last"
    w : array (C, K/groups, window...), in both layouts
    b : array (K,), optional
    stride, dilation, groups, layout : as in ``conv``
    padding : as in ``conv``; it crops the result.  "same" gives size * stride
    output_padding : int or one per spatial axis, below max(stride, dilation): cells added behind
    out : array of y's shape and dtype to write to, optional

    Returns
    -------
    y : array (N, K, ...); size = (size - 1) * stride - before - after
        + (window - 1) * dilation + 1 + output_padding

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arrays, shapes or options that do not fit, before anything is computed.

    Notes
    -----
    Dumoulin & Visin 2016, arXiv:1603.07285, section 4.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> x, w = np.array([[[1.0, 2.0]]]), np.array([[[1.0, 1.0, 1.0]]])
    >>> gr.conv_transpose(x, w, stride=2)
    array([[[1., 1., 3., 2., 2.]]])
    """
    call = Call({"x": x, "w": w, "b": b}, optional=("b",))
    x_shape, w_shape = _shapes(x, w, layout)
    geometry = conv_transpose_geometry(
        x_shape, w_shape, stride=stride, padding=padding,
        output_padding=output_padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    if b is not None:
        check_shape(b, "b", (geometry.in_channels,), "one per output channel: w.shape[1] * groups")
    y_shape = (geometry.batch, geometry.in_channels, *_spatial(geometry.size, x.ndim - 2))
    grouped = geometry.groups > 1
    y = call.result(from_first(y_shape, layout), out, even=grouped)
    call.backend.conv.conv_dx(
        canonical(y, layout), canonical(call.even(x, grouped), layout), _weights(call.input(w)),
        call.input(b), geometry, *call.scratch("conv_dx", geometry),
    )  # fmt: skip
    return call.finish(y)


def conv_transpose_backward(dy, x, w, *, stride=1, padding=0, output_padding=0, dilation=1,
                            groups=1, layout="channels_first", need=("x", "w", "b"),
                            out=None):  # fmt: skip
    """Gradients of ``conv_transpose``: of its input, its filters and its bias.

    Parameters
    ----------
    dy : array of conv_transpose's result's shape
    x, w and the options : as ``conv_transpose`` was called with
    need, out : as in ``conv_backward``

    Returns
    -------
    dx, dw, db : arrays of the shapes of x, w and (K,); None where not in ``need``

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arrays, shapes or options that do not fit, before anything is computed.

    Notes
    -----
    dx is a convolution of dy with w (Dumoulin & Visin 2016, arXiv:1603.07285).

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> x, w = np.array([[[1.0, 2.0]]]), np.array([[[1.0, 1.0, 1.0]]])
    >>> dx, dw, db = gr.conv_transpose_backward(np.ones((1, 1, 5)), x, w, stride=2)
    >>> dx, dw, db
    (array([[[3., 3.]]]), array([[[3., 3., 3.]]]), array([5.]))
    """
    call = Call({"dy": dy, "x": x, "w": w})
    x_shape, w_shape = _shapes(x, w, layout)
    geometry = conv_transpose_geometry(
        x_shape, w_shape, stride=stride, padding=padding,
        output_padding=output_padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    y_shape = (geometry.batch, geometry.in_channels, *_spatial(geometry.size, x.ndim - 2))
    check_shape(dy, "dy", from_first(y_shape, layout), "that of conv_transpose's result")
    want_x, want_w, want_b = wanted = wanted_results(need, ("x", "w", "b"))
    out_x, out_w, out_b = out_tuple(out, wanted, _RESULTS)
    grouped = geometry.groups > 1
    dx = call.result(x.shape, out_x, "out[0] (dx)", even=grouped) if want_x else None
    dw = call.result(w.shape, out_w, "out[1] (dw)") if want_w else None
    db = call.result((geometry.in_channels,), out_b, "out[2] (db)") if want_b else None
    kernels, steps = call.backend.conv, Steps()
    dy5 = canonical(call.even(dy, grouped or want_b), layout)
    if want_x:
        steps.add(
            kernels.conv_forward, canonical(dx, layout), dy5, _weights(call.input(w)), None,
            geometry, *call.scratch("conv_forward", geometry),
        )  # fmt: skip
    if want_w:  # seen from that convolution, x is the gradient and dy the image
        steps.add(
            kernels.conv_dw, _weights(dw), None, canonical(call.even(x, grouped), layout), dy5,
            geometry, *call.scratch("conv_dw", geometry),
        )  # fmt: skip
    if want_b:
        steps.add(kernels.bias_gradient, db, dy5, *call.scratch("bias_gradient", dy5.shape))
    steps.run()
    return call.finish_all(dx, dw, db)
