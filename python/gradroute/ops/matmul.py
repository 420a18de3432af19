"""Matrix products and their gradients."""

from __future__ import annotations

import functools
import math

import numpy as np

from ..errors import ArgumentValueError
from ..geometry import MatmulGeometry
from .call import Call, Steps
from .checks import check_shape, out_tuple, wanted_results
from .settled import settled

# ---- what every product comes down to -----------------------------------------------------

#: made once for each size: a frozen dataclass takes as long as a small product
_geometry = functools.lru_cache(maxsize=4096)(MatmulGeometry)


def planned(call, batch, summed, rows, columns, inner):
    """The geometry of a product and its plan."""
    geometry = _geometry(batch, summed, rows, columns, inner)
    return geometry, call.plan("matmul", geometry)


def add_product(steps, call, y, a, b, bias=None, how=None):
    """y (B, I, J) = sum over e of a (B, E, I, L) @ b (B, E, L, J) + bias (J,)."""
    if not y.size:  # though a may have any number of rows
        return
    geometry, plan = how or planned(call, *a.shape[:3], b.shape[3], a.shape[3])
    steps.add(call.backend.matmul.matmul, y, a, b, bias, geometry, plan, call.workspace(plan))


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
    """a and b with at least two axes, as np.matmul sees 1-D operands."""
    return a[None, :] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b


def _product_shape(a, b):
    """The batch axes of a @ b and its whole shape; the operands' shapes are checked."""
    for name, operand in (("a", a), ("b", b)):
        if operand.ndim == 0:
            raise ArgumentValueError(f"{name} must have at least one axis, got a 0-d array")
    left = a.shape if a.ndim > 1 else (1, *a.shape)
    right = b.shape if b.ndim > 1 else (*b.shape, 1)
    if left[-1] != right[-2]:
        raise ArgumentValueError(
            f"a's last axis must match b's {'only' if b.ndim == 1 else 'last but one'}: "
            f"a {a.shape}, b {b.shape}"
        )
    batch = _batch_shape(left, right)
    rows = () if a.ndim == 1 else left[-2:-1]
    columns = () if b.ndim == 1 else right[-1:]
    return batch, (*batch, *rows, *columns)


def _add_matrices(steps, call, made, a2, b2, batch, kept, summed):
    """The product of two (batch..., I, L) and (batch..., L, J) into ``made``, of any strides."""
    a4, b4 = _batched(call, a2, batch, kept, summed), _batched(call, b2, batch, kept, summed)
    matrices = (a4.shape[0], a4.shape[2], b4.shape[3])
    if made.flags.c_contiguous:
        add_product(steps, call, made.reshape(matrices), a4, b4)
    elif (1, *made.shape) == matrices:
        add_product(steps, call, made[None], a4, b4)
    else:  # a strided out: its batch axes may have no common stride
        whole = call.empty(matrices)
        add_product(steps, call, whole, a4, b4)
        steps.add(copy_to, made, whole.reshape(made.shape))


def copy_to(to, array):
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
    call, batch, shape = _matmul((a, b), (), out)
    y = call.result(shape, out)
    a2, b2 = _as_matrices(call.input(a), call.input(b))
    steps = Steps()
    _add_matrices(steps, call, y, a2, b2, batch, tuple(range(len(batch))), ())
    steps.run()
    return call.finish(y)


@settled
def _matmul(a, b):
    call = Call({"a": a, "b": b})
    return call, *_product_shape(a, b)


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
    call, batch, wanted = _matmul_backward((dy, a, b), (need,), out)
    if call.at_once is not None:
        return call.at_once(dy, a, b)
    want_a, want_b = wanted
    out_a, out_b = out_tuple(out, wanted, ("da", "db"))
    da = call.result(a.shape, out_a, "out[0] (da)") if want_a else None
    db = call.result(b.shape, out_b, "out[1] (db)") if want_b else None
    a2, b2 = _as_matrices(call.input(a) if want_b else a, call.input(b) if want_a else b)
    matrices = (*batch, a2.shape[-2], b2.shape[-1])
    dy2, steps = call.input(dy).reshape(matrices), Steps()
    if want_a:
        _add_gradient(steps, call, da, a2.shape, dy2, b2.swapaxes(-1, -2), batch)
    if want_b:
        _add_gradient(steps, call, db, b2.shape, a2.swapaxes(-1, -2), dy2, batch)
    steps.run()
    return call.finish_all(da, db)


def _gradients_at_once(found, arrays, options):
    """da and db as one kernel call, where the backend has that and nothing was broadcast."""
    call, batch, wanted = found
    dy, a, b = arrays
    find = getattr(call.backend.matmul, "matmul_backward_at_once", None)
    if find is None or wanted != (True, True) or not 2 <= a.ndim == b.ndim or not dy.size:
        return None
    if not a.shape[:-2] == b.shape[:-2] == batch:
        return None
    stacked = len(batch) > 1
    if stacked and not (dy.flags.c_contiguous and a.flags.c_contiguous and b.flags.c_contiguous):
        return None
    (rows, inner), columns, count = a.shape[-2:], b.shape[-1], math.prod(batch)
    shapes = [(count, *one.shape[-2:]) if stacked else one.shape for one in arrays]
    dy, a, b = (one.reshape(shape) for one, shape in zip(arrays, shapes))
    kernel = find(dy, a, b, planned(call, count, 1, rows, inner, columns)[1],
                  planned(call, count, 1, inner, columns, rows)[1])  # fmt: skip
    if kernel is None:
        return None
    new_a, new_b = call.maker(arrays[1].shape), call.maker(arrays[2].shape)

    def run(dy, a, b):
        da, db = new_a(), new_b()
        if stacked:
            of_dy, of_a, of_b = shapes
            kernel(da.reshape(of_a), db.reshape(of_b), dy.reshape(of_dy), a.reshape(of_a),
                   b.reshape(of_b))  # fmt: skip
        else:
            kernel(da, db, dy, a, b)
        return da, db

    return run


@settled(ready=_gradients_at_once)
def _matmul_backward(dy, a, b, need):
    call = Call({"dy": dy, "a": a, "b": b})
    batch, shape = _product_shape(a, b)
    check_shape(dy, "dy", shape, "that of matmul's result")
    return call, batch, wanted_results(need, ("a", "b"))


def _add_gradient(steps, call, made, shape, left, right, batch):
    """left @ right into ``made``, summed over the batch axes along which it was broadcast."""
    if not batch:
        _add_matrices(steps, call, made, left, right, (), (), ())
        return
    own = (1,) * (len(batch) + 2 - len(shape)) + tuple(shape[:-2])
    summed = tuple(i for i, n in enumerate(batch) if own[i] == 1 and n != 1)
    kept = tuple(i for i in range(len(batch)) if i not in summed)
    _add_matrices(steps, call, made, left, right, batch, kept, summed)
