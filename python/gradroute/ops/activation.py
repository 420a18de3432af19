"""Element-wise activations, their slopes, and the softmax cross-entropy."""

from __future__ import annotations

from ..errors import ArgumentValueError
from ..kernels.contract import ACTIVATIONS, SLOPE_FROM_OUTPUT
from .call import Call
from .checks import check_shape, integer_array, out_tuple, refuse_bad_values
from .indices import carried
from .settled import settled


def check_activation(name) -> None:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ArgumentValueError(f"activation must be one of {list(ACTIVATIONS)}, got {name!r}")


def one_row(array):
    """(...) -> (size,), contiguous: a reshape alone may be a strided view."""
    row = array.reshape(-1)
    return row if row.flags.c_contiguous else row.copy()


def flat(call, array):
    """The array as kernels read it, in one row: (...) -> (size,)."""
    return one_row(call.input(array))


def flat_result(call, shape, out, name="out"):
    """A contiguous result and its one-row view; finish() copies it where ``out`` is strided."""
    made = call.result(shape, out, name)
    row = made if made.flags.c_contiguous else call.empty(shape)
    return made, row.reshape(-1)


def finish_flat(call, made, row):
    if not made.flags.c_contiguous:
        made[...] = row.reshape(made.shape)
    return call.finish(made)


def activate(x, name, *, out=None):
    """An activation function, element by element.

    Parameters
    ----------
    x : array of any shape
    name : "relu", "leaky_relu" (slope 0.01), "elu" (alpha 1), "sigmoid", "tanh", "softplus",
        "gelu" (the erf form) or "silu"
    out : array of x's shape and dtype to write to, optional

    Returns
    -------
    y : array of x's shape and dtype; NaN stays NaN

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For an array or a name that does not fit.

    Notes
    -----
    gelu: Hendrycks & Gimpel 2016, arXiv:1606.08415; elu: Clevert et al. 2015, arXiv:1511.07289;
    silu: Elfwing et al. 2017, arXiv:1702.03118.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> gr.activate(np.array([-1.0, 0.0, 2.0]), "leaky_relu")
    array([-0.01,  0.  ,  2.  ])
    """
    call, plan = _activate((x,), (name,), out)
    y, row = flat_result(call, x.shape, out)
    call.backend.activation.activate(row, flat(call, x), name, plan, call.workspace(plan))
    return finish_flat(call, y, row)


@settled
def _activate(x, name):
    call = Call({"x": x})
    check_activation(name)
    return call, call.plan("activate", x.size)


def activate_backward(dy, name, *, x=None, y=None, out=None):
    """Gradient of ``activate``: dy times the slope.

    Parameters
    ----------
    dy : array of the activation's shape
    name : as in ``activate``
    x, y : the activation's input or its output.  gelu and silu need x; the other six take their
        slope from y where it is given.
    out : array of dy's shape and dtype to write to, optional

    Returns
    -------
    dx : array of dy's shape and dtype.  relu's slope at 0 is 0.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arguments that do not fit, or where neither x nor y can give the slope.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> gr.activate_backward(np.array([5.0, 5.0]), "relu", y=np.array([0.0, 2.0]))
    array([0., 5.])
    """
    only_y = x is None
    call, from_output, plan = _activate_backward(
        (dy, y, None) if only_y else (dy, x, y), (name, only_y), out
    )
    dx, row = flat_result(call, dy.shape, out)
    call.backend.activation.activate_backward(
        row, flat(call, dy), flat(call, y if from_output else x), name, from_output, plan,
        call.workspace(plan),
    )  # fmt: skip
    return finish_flat(call, dx, row)


@settled
def _activate_backward(dy, one, other, name, only_y):
    """``one`` is y, where there is only that, else x, and ``other`` is y."""
    check_activation(name)
    x, y = (None, one) if only_y else (one, other)
    call = Call({"dy": dy, "x": x, "y": y}, optional=("x", "y"))
    if y is not None and name in SLOPE_FROM_OUTPUT:
        saved, argument, from_output = y, "y", True
    elif x is not None:
        saved, argument, from_output = x, "x", False
    else:
        which = "x or y" if name in SLOPE_FROM_OUTPUT else "x: its slope cannot be read off y"
        raise ArgumentValueError(f"activate_backward of {name!r} needs {which}")
    check_shape(saved, argument, dy.shape, "dy's")
    return call, from_output, call.plan("activate_backward", dy.size)


def softmax_cross_entropy(logits, labels, *, out=None):
    """Mean cross-entropy of softmax(logits) against class labels, and its gradient.

    Parameters
    ----------
    logits : array (N, C)
    labels : integer array (N,), each in 0..C-1
    out : tuple (loss, dlogits) of arrays to write to, None for one not wanted, optional

    Returns
    -------
    loss : 0-d array of logits' dtype: the mean over N (NaN for an empty batch)
    dlogits : array (N, C): (softmax(logits) - one_hot(labels)) / N

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arrays that do not fit.
    IndexRangeError
        For a label out of range; nothing is written then.

    Notes
    -----
    Computed with the row's maximum subtracted, so that no exponential overflows: Goodfellow,
    Bengio & Courville 2016, "Deep Learning", section 4.1.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> loss, dlogits = gr.softmax_cross_entropy(np.zeros((1, 4)), np.array([2]))
    >>> round(float(loss), 4), dlogits
    (1.3863, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    call, look, plan = _softmax_cross_entropy((logits, labels), (), out)
    out_loss, out_dlogits = out_tuple(out, (True, True), ("loss", "dlogits"))
    loss = call.result((), out_loss, "out[0] (loss)")
    dlogits = call.result(logits.shape, out_dlogits, "out[1] (dlogits)")
    classes = logits.shape[1]
    kernels, marks = call.backend.activation, carried(call, labels)
    bad = kernels.check_labels(marks, classes, look, call.workspace(look))
    refuse_bad_values(
        call, bad, lambda n: f"labels[{n}] is out of range: logits have {classes} classes"
    )
    kernels.softmax_cross_entropy(
        loss, dlogits, call.input(logits), marks, bad, plan, call.workspace(plan)
    )
    return call.finish_all(loss, dlogits)


@settled
def _softmax_cross_entropy(logits, labels):
    call = Call({"logits": logits}, labels=labels)
    integer_array(labels, "labels")
    if logits.ndim != 2 or logits.shape[1] < 1:
        raise ArgumentValueError(f"logits must be (N, C) with C >= 1, got shape {logits.shape}")
    check_shape(labels, "labels", logits.shape[:1], "one per row of logits")
    look = call.plan("check_labels", labels.size)
    return call, look, call.plan("softmax_cross_entropy", logits.shape)
