"""The fully connected layer and its gradients."""

from __future__ import annotations

import itertools
import math

from ..errors import ArgumentValueError
from ..geometry import LinearGeometry
from ..kernels.contract import SLOPE_FROM_OUTPUT
from .activation import check_activation, one_row
from .call import Call, Steps
from .checks import check_shape, out_tuple, wanted_results
from .matmul import add_product, copy_to, planned
from .settled import settled


def linear(x, w, b=None, *, activation=None, out=None):
    """A fully connected layer: y = activation(x @ w^T + b).

    Parameters
    ----------
    x : array (..., in), any number of leading axes
    w : array (out, in)
    b : array (out,), optional
    activation : a name that ``activate`` takes, or None
    out : array of y's shape and dtype to write to, optional

    Returns
    -------
    y : array (..., out) of x's dtype

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arrays or names that do not fit.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> gr.linear(np.array([1.0, 2.0]), np.array([[1.0, 1.0], [0.0, -3.0]]), activation="relu")
    array([3., 0.])
    """
    call, rows, features, plans = _linear((x, w, b), (activation,), out)
    product, slope = plans
    y = call.result((*x.shape[:-1], features), out)
    whole = y if y.flags.c_contiguous else call.empty(y.shape)
    steps = Steps()
    add_product(
        steps, call, whole.reshape(1, rows, features), _rows(call, x, rows)[None, None],
        call.input(w).T[None, None], call.input(b), product,
    )  # fmt: skip
    if activation is not None:
        row = whole.reshape(-1)
        steps.add(
            call.backend.activation.activate, row, row, activation, slope, call.workspace(slope)
        )
    if whole is not y:
        steps.add(copy_to, y, whole)
    steps.run()
    return call.finish(y)


@settled
def _linear(x, w, b, activation):
    call = Call({"x": x, "w": w, "b": b}, optional=("b",))
    rows, features = _linear_shapes(x, w)
    if b is not None:
        check_shape(b, "b", (features,), "one per row of w")
    product, slope = planned(call, 1, 1, rows, features, x.shape[-1]), None
    if activation is not None:
        check_activation(activation)
        slope = call.plan("activate", rows * features)
    return call, rows, features, (product, slope)


def _linear_shapes(x, w):
    """The number of rows that x has, and of features that w gives."""
    if x.ndim < 1:
        raise ArgumentValueError("x must be (..., in), got a 0-d array")
    if w.ndim != 2:
        raise ArgumentValueError(f"w must be (out, in), got shape {w.shape}")
    if x.shape[-1] != w.shape[1]:
        raise ArgumentValueError(
            f"x's last axis must be w's in: x {x.shape} has {x.shape[-1]}, w {w.shape} has "
            f"{w.shape[1]}"
        )
    return math.prod(x.shape[:-1]), w.shape[0]


def _rows(call, array, rows):
    """(..., n) -> (rows, n), as the kernels read it."""
    return _matrix(call.input(array), rows)


def _matrix(array, rows):
    return array if array.ndim == 2 else array.reshape(rows, array.shape[-1])


def linear_backward(dy, x, w, *, y=None, activation=None, need=("x", "w", "b"), out=None):
    """Gradients of ``linear``: of its input, its weights and its bias.

    Parameters
    ----------
    dy : array (..., out): the gradient that arrives at linear's result
    x, w : as ``linear`` was called with
    y : linear's result, where an activation was used: its slope is taken from there
    activation : as ``linear`` was called with
    need : which gradients to compute, out of "x", "w", "b"
    out : tuple (dx, dw, db) of arrays to write to, None for one not wanted, optional

    Returns
    -------
    dx, dw, db : arrays of the shapes of x, w and (out,); None where not in ``need``.
        With dz = dy * slope: dx = dz @ w, dw = dz^T @ x, db = the sum of dz over all rows.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arrays or names that do not fit; gelu and silu cannot take their slope from y.

    Examples
    --------
    Three outputs with gradients 2, 3 and 6: the input's gradient is not their sum.

    >>> import numpy as np, gradroute as gr
    >>> w = np.array([[0.5], [-1.0], [0.25]])
    >>> dx, dw, db = gr.linear_backward(np.array([2.0, 3.0, 6.0]), np.array([1.0]), w)
    >>> dx
    array([-0.5])
    """
    call, rows, wanted, geometry, plan = _linear_backward((dy, x, w, y), (activation, need), out)
    if call.at_once is not None:
        return call.at_once(dy, x, w)
    want_x, want_w, want_b = wanted
    out_x, out_w, out_b = out_tuple(out, wanted, ("dx", "dw", "db"))
    dx = call.result(x.shape, out_x, "out[0] (dx)") if want_x else None
    dw = call.result(w.shape, out_w, "out[1] (dw)") if want_w else None
    db = call.result(w.shape[:1], out_b, "out[2] (db)") if want_b else None
    dz, steps = _rows(call, dy, rows), Steps()
    if activation is not None:
        dz = _add_slope(steps, call, dz, y, activation, db)
    if plan is not None:
        whole = dx
        if want_x and not dx.flags.c_contiguous:
            whole = call.empty(x.shape)
        steps.add(
            call.backend.matmul.linear_backward, _matrix(whole, rows) if want_x else None, dw,
            db if activation is None else None, dz, _rows(call, x, rows) if want_w else None,
            call.input(w) if want_x else None, geometry, plan, call.workspace(plan),
        )  # fmt: skip
        if whole is not dx:
            steps.add(copy_to, dx, whole)
    steps.run()
    return call.finish_all(dx, dw, db)


def _gradients_at_once(found, arrays, options):
    """dx, dw and perhaps db as one kernel call, where the backend has that."""
    call, rows, (want_x, want_w, want_b), _, plan = found
    dy, x, w = arrays[:3]
    find = getattr(call.backend.matmul, "linear_backward_at_once", None)
    if find is None or not (want_x and want_w) or options[0] is not None:
        return None
    kernel = find(_matrix(dy, rows), _matrix(x, rows), w, plan)
    if kernel is None:
        return None
    plain = x.ndim == 2
    new_x, new_w, new_b = call.maker(x.shape), call.maker(w.shape), call.maker(w.shape[:1])

    def run(dy, x, w):
        dx, dw, db = new_x(), new_w(), new_b() if want_b else None
        if plain:
            kernel(dx, dw, db, dy, x, w)
        else:
            kernel(_matrix(dx, rows), dw, db, _matrix(dy, rows), _matrix(x, rows), w)
        return dx, dw, db

    return run


@settled(ready=_gradients_at_once)
def _linear_backward(dy, x, w, y, activation, need):
    call = Call({"dy": dy, "x": x, "w": w, "y": y}, optional=("y",))
    rows, features = _linear_shapes(x, w)
    check_shape(dy, "dy", (*x.shape[:-1], features), "that of linear's result")
    if y is not None:
        check_shape(y, "y", dy.shape, "that of linear's result")
    if activation is not None:
        _check_slope(activation, y)
    wanted = wanted_results(need, ("x", "w", "b"))
    left = "".join(itertools.compress("xwb" if activation is None else "xw", wanted))
    geometry = LinearGeometry(rows, features, x.shape[-1], left)
    plan = call.plan("linear_backward", geometry) if left else None
    return call, rows, wanted, geometry, plan


def _check_slope(activation, y):
    check_activation(activation)
    if activation not in SLOPE_FROM_OUTPUT:
        raise ArgumentValueError(
            f"linear_backward cannot take {activation!r}'s slope from y: call linear without an "
            f"activation and gr.activate_backward(dy, {activation!r}, x=...) on its result"
        )
    if y is None:
        raise ArgumentValueError(f"linear_backward needs y, linear's result, for {activation!r}")


def _add_slope(steps, call, dy, y, activation, db):
    """The gradient in front of the activation, as dy (rows, out); fills db where it is wanted."""
    dz, kernels = call.empty(dy.shape), call.backend.activation
    dy, y = one_row(dy), one_row(call.input(y))
    if db is None:
        steps.add(
            kernels.activate_backward, dz.reshape(-1), dy, y, activation, True,
            *call.scratch("activate_backward", dy.size),
        )  # fmt: skip
    else:
        steps.add(
            kernels.linear_slope, dz, db, dy.reshape(dz.shape), y.reshape(dz.shape), activation,
            *call.scratch("linear_slope", dz.shape),
        )  # fmt: skip
    return dz
