"""Matrix products, the linear layer, and their gradients."""

from __future__ import annotations

import functools
import math

import numpy as np

from ..errors import ArgumentValueError
from ..geometry import MatmulGeometry
from ..kernels.contract import SLOPE_FROM_OUTPUT
from .activation import check_activation, one_row
from .call import Call, Steps
from .checks import check_shape, out_tuple, wanted_results

# ---- what every product comes down to -----------------------------------------------------

#: made once for each size: a frozen dataclass takes as long as a small product
_geometry = functools.lru_cache(maxsize=4096)(MatmulGeometry)


def _add_product(steps, call, y, a, b, bias=None):
    """y (B, I, J) = sum over e of a (B, E, I, L) @ b (B, E, L, J) + bias (J,)."""
    if not y.size:  # though a may have any number of rows
        return
    batch, summed, rows, inner = a.shape
    geometry = _geometry(batch, summed, rows, b.shape[-1], inner)
    steps.add(
        call.backend.matmul.matmul, y, a, b, bias, geometry, *call.scratch("matmul", geometry)
    )


def _batched(call, array, batch, kept, summed):
    """(batch..., I, L) broadcast and grouped as (B, E, I, L): the axes kept, the axes summed."""
    if not batch:
        return array[None, None]
    lead = len(batch)
    library_shape = (*batch, *array.shape[-2:])
    missing = lead - (array.ndim - 2)
    array = array[(None,) * missing] if missing else array
    if all(n == 1 for n in array.shape[:lead]) and not summed:  # one matrix for the whole batch
        matrix = array[(0,) * lead]
        return _broadcast(call, matrix, (math.prod(batch), 1, *matrix.shape))
    array = _broadcast(call, array, library_shape).transpose(*kept, *summed, lead, lead + 1)
    kept_size = math.prod(batch[axis] for axis in kept)
    summed_size = math.prod(batch[axis] for axis in summed)
    return array.reshape(kept_size, summed_size, *array.shape[-2:])


def _broadcast(call, array, shape):
    return array if array.shape == shape else call.device_library.broadcast_to(array, shape)


def _batch_shape(a_shape, b_shape):
    """The batch axes of a product, by NumPy's broadcasting rule."""
    if a_shape[:-2] == b_shape[:-2]:
        return a_shape[:-2]
    try:
        return np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    except ValueError:
        raise ArgumentValueError(
            f"the batch axes of a {a_shape} and b {b_shape} do not broadcast together"
        ) from None


def _as_matrices(a, b):
    """a and b with at least two axes, as np.matmul sees 1-D operands; their shapes checked."""
    for name, operand in (("a", a), ("b", b)) if not (a.ndim and b.ndim) else ():
        if operand.ndim == 0:
            raise ArgumentValueError(f"{name} must have at least one axis, got a 0-d array")
    a2 = a[None, :] if a.ndim == 1 else a
    b2 = b[:, None] if b.ndim == 1 else b
    if a2.shape[-1] != b2.shape[-2]:
        raise ArgumentValueError(
            f"a's last axis must match b's {'only' if b.ndim == 1 else 'last but one'}: "
            f"a {a.shape}, b {b.shape}"
        )
    batch = _batch_shape(a2.shape, b2.shape)
    rows = () if a.ndim == 1 else (a2.shape[-2],)
    columns = () if b.ndim == 1 else (b2.shape[-1],)
    return a2, b2, batch, (*batch, *rows, *columns)


def _add_matrices(steps, call, made, a2, b2, batch, kept, summed):
    """The product of two (batch..., I, L) and (batch..., L, J) into ``made``, of any strides."""
    a4, b4 = _batched(call, a2, batch, kept, summed), _batched(call, b2, batch, kept, summed)
    matrices = (a4.shape[0], a4.shape[2], b4.shape[3])
    if made.flags.c_contiguous:
        _add_product(steps, call, made.reshape(matrices), a4, b4)
    elif made.ndim == 2 and a4.shape[0] == 1:
        _add_product(steps, call, made[None], a4, b4)
    else:  # a strided out: its batch axes may have no common stride
        whole = call.empty(matrices)
        _add_product(steps, call, whole, a4, b4)
        steps.add(_copy, made, whole.reshape(made.shape))


def _copy(to, array):
    to[...] = array


# ---- public -------------------------------------------------------------------------------


def matmul(a, b, *, out=None):
    """Matrix product by np.matmul's rules, 1-D operands and broadcasting included.

    Parameters
    ----------
    a : array (..., I, L) or (L,)
    b : array (..., L, J) or (L,)
    out : array of the result's shape and dtype to write to, optional

    Returns
    -------
    y : array (..., I, J), without the axis of an operand that was 1-D

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arrays that do not fit.

    Notes
    -----
    A register tile over packed panels: Goto & van de Geijn 2008, "Anatomy of high-performance
    matrix multiplication".

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> gr.matmul(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 10.0]))
    array([21., 43.])
    """
    call = Call({"a": a, "b": b})
    a2, b2, batch, shape = _as_matrices(a, b)
    y = call.result(shape, out)
    a2, b2 = _loaded(call, a, a2), _loaded(call, b, b2)
    steps = Steps()
    _add_matrices(steps, call, y, a2, b2, batch, tuple(range(len(batch))), ())
    steps.run()
    return call.finish(y)


def _loaded(call, original, matrix):
    """The operand as kernels read it, with the axes of its matrix form."""
    return call.input(original).reshape(matrix.shape) if matrix is not original else (
        call.input(original)
    )  # fmt: skip


def matmul_backward(dy, a, b, *, need=("a", "b"), out=None):
    """Gradients of ``matmul``: da = dy @ b^T and db = a^T @ dy, summed over broadcast axes.

    Parameters
    ----------
    dy : array of the product's shape
    a, b : as ``matmul`` was called with
    need : which gradients to compute, out of "a", "b"
    out : tuple (da, db) of arrays to write to, None for one not wanted, optional

    Returns
    -------
    da, db : arrays of the shapes of a and b; None where not in ``need``

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arrays that do not fit.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> da, db = gr.matmul_backward(np.array([1.0, 1.0]), np.eye(2), np.array([3.0, 4.0]))
    >>> da, db
    (array([[3., 4.],
           [3., 4.]]), array([1., 1.]))
    """
    call = Call({"dy": dy, "a": a, "b": b})
    a2, b2, batch, shape = _as_matrices(a, b)
    check_shape(dy, "dy", shape, "that of matmul's result")
    want_a, want_b = wanted = wanted_results(need, ("a", "b"))
    out_a, out_b = out_tuple(out, wanted, ("da", "db"))
    da = call.result(a.shape, out_a, "out[0] (da)") if want_a else None
    db = call.result(b.shape, out_b, "out[1] (db)") if want_b else None
    matrices = (*batch, a2.shape[-2], b2.shape[-1])
    dy2, steps = call.input(dy).reshape(matrices), Steps()
    if want_a:
        b2 = _loaded(call, b, b2)
        _add_gradient(steps, call, da, a2.shape, dy2, b2.swapaxes(-1, -2), batch)
    if want_b:
        a2 = _loaded(call, a, a2)
        _add_gradient(steps, call, db, _matrix_shape(b), a2.swapaxes(-1, -2), dy2, batch)
    steps.run()
    return call.finish_all(da, db)


def _matrix_shape(b):
    return (b.shape[0], 1) if b.ndim == 1 else b.shape


def _add_gradient(steps, call, made, shape, left, right, batch):
    """left @ right into ``made``, summed over the batch axes along which it was broadcast."""
    own = (1,) * (len(batch) + 2 - len(shape)) + tuple(shape[:-2])
    summed = tuple(i for i, n in enumerate(batch) if own[i] == 1 and n != 1)
    kept = tuple(i for i in range(len(batch)) if i not in summed)
    _add_matrices(steps, call, made, left, right, batch, kept, summed)


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
    call = Call({"x": x, "w": w, "b": b}, optional=("b",))
    rows, features = _linear_shapes(x, w)
    if b is not None:
        check_shape(b, "b", (features,), "one per row of w")
    if activation is not None:
        check_activation(activation)
    y = call.result((*x.shape[:-1], features), out)
    whole = y if y.flags.c_contiguous else call.empty(y.shape)
    steps = Steps()
    _add_product(
        steps, call, whole.reshape(1, rows, features), _rows(call, x, rows)[None, None],
        call.input(w).T[None, None], call.input(b),
    )  # fmt: skip
    if activation is not None:
        row = whole.reshape(-1)
        steps.add(
            call.backend.activation.activate, row, row, activation,
            *call.scratch("activate", row.shape[0]),
        )  # fmt: skip
    if whole is not y:
        steps.add(_copy, y, whole)
    steps.run()
    return call.finish(y)


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
    """(..., n) -> (rows, n)."""
    return call.input(array).reshape(rows, array.shape[-1])


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
    call = Call({"dy": dy, "x": x, "w": w, "y": y}, optional=("y",))
    rows, features = _linear_shapes(x, w)
    check_shape(dy, "dy", (*x.shape[:-1], features), "that of linear's result")
    if y is not None:
        check_shape(y, "y", dy.shape, "that of linear's result")
    if activation is not None:
        _check_slope(activation, y)
    want_x, want_w, want_b = wanted = wanted_results(need, ("x", "w", "b"))
    out_x, out_w, out_b = out_tuple(out, wanted, ("dx", "dw", "db"))
    dx = call.result(x.shape, out_x, "out[0] (dx)") if want_x else None
    dw = call.result(w.shape, out_w, "out[1] (dw)") if want_w else None
    db = call.result((features,), out_b, "out[2] (db)") if want_b else None
    dz, steps = _rows(call, dy, rows), Steps()
    if activation is not None:
        dz = _add_slope(steps, call, dz, y, activation, db)
    elif want_b:
        image = dz[:, :, None, None, None]  # rows as a batch of one-pixel images
        steps.add(
            call.backend.conv.bias_gradient, db, image,
            *call.scratch("bias_gradient", image.shape),
        )  # fmt: skip
    if want_x:
        whole = dx if dx.flags.c_contiguous else call.empty(x.shape)
        matrix = whole.reshape(1, rows, x.shape[-1])
        _add_product(steps, call, matrix, dz[None, None], call.input(w)[None, None])
        if whole is not dx:
            steps.add(_copy, dx, whole)
    if want_w:
        _add_product(steps, call, dw[None], dz.T[None, None], _rows(call, x, rows)[None, None])
    steps.run()
    return call.finish_all(dx, dw, db)


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
