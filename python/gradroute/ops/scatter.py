"""scatter_add: the one operation that adds into an array of the caller's."""

from __future__ import annotations

import math

import numpy as np

from ..errors import ArgumentTypeError, ArgumentValueError
from ..geometry import ScatterGeometry
from ..options import integer
from .call import Call, overlaps_itself
from .checks import check_shape, integer_array, refuse_bad_values
from .indices import carried
from .settled import settled

_MODES = ("raise", "wrap", "clip")


def scatter_add(out, index, src, *, axis=0, mode="raise"):
    """Adds slices of ``src`` into ``out`` at the places that ``index`` names, in place.

    Parameters
    ----------
    out : array; it is written to
    index : integer array of any shape: positions along ``axis``
    src : array of shape out.shape[:axis] + index.shape + out.shape[axis+1:]: np.take's rule, so
        a 1-D index is PyTorch's index_add_; element-wise scatter is the case of flat out and index
    axis : int
    mode : "raise" (negative indices count from the end), "wrap" or "clip", as np.take

    Returns
    -------
    out : the array that was passed; several slices for one place are all added, in order (the
        CPU sums large histograms by pieces of src, in order)

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        For arrays that do not fit.
    IndexRangeError
        For an index out of range under "raise"; nothing has been added then.

    Notes
    -----
    np.add.at's meaning, deterministic on every backend: no atomics.

    Examples
    --------
    >>> import numpy as np, gradroute as gr
    >>> gr.scatter_add(np.zeros(3), np.array([2, 0, 2]), np.array([1.0, 5.0, 10.0]))
    array([ 5.,  0., 11.])
    """
    call, geometry, look, plan = _scatter_add((out, src, index), (axis, mode))
    if call.at_once is not None and call.at_once(out, src, index):
        return out
    values = _source(call, src, out, geometry)
    rows, bad = _rows(call, index, geometry.rows, mode, out, look)
    target = _target(call, out, geometry)
    call.backend.scatter.scatter_add(
        target, rows, values, bad, geometry, plan, call.workspace(plan)
    )
    return _written_back(call, out, target)


def _at_once(found, arrays, options):
    """The check and the additions in one kernel, where the backend has that."""
    call, geometry, look, plan = found
    out, src, index = arrays
    find = getattr(call.backend.scatter, "scatter_add_at_once", None)
    if find is None or options[1] != "raise" or index.dtype != np.int64:
        return None
    if not (out.flags.c_contiguous and src.flags.c_contiguous and index.flags.c_contiguous):
        return None
    kernel = find(geometry, look, plan, out.dtype)
    to = geometry.outer, geometry.rows, geometry.inner
    at = geometry.outer, geometry.count, geometry.inner

    def run(out, src, index):
        """False, and nothing is done, where memory is shared."""
        if np.may_share_memory(src, out) or np.may_share_memory(index, out):
            return False
        bad = kernel(out.reshape(to), index.reshape(-1), src.reshape(at))
        if bad >= 0:
            refuse_bad_values(call, bad, _tells_where(index, geometry.rows))
        return True

    return run if kernel else None


@settled(ready=_at_once)
def _scatter_add(out, src, index, axis, mode):
    call = Call({"out": out, "src": src}, index=index)
    integer_array(index, "index")
    geometry = scatter_geometry(out, index, src, axis, mode)
    _check_target(call, out)
    plans = call.plan("check_index", index.size), call.plan("scatter_add", geometry)
    return call, geometry, *plans


def scatter_geometry(out, index, src, axis, mode):
    """The sizes of a call whose shapes fit; src may be None: not given."""
    axis = _axis(axis, out.ndim)
    if not isinstance(mode, str) or mode not in _MODES:
        raise ArgumentValueError(f"mode must be one of {list(_MODES)}, got {mode!r}")
    before, size, behind = out.shape[:axis], out.shape[axis], out.shape[axis + 1 :]
    if src is not None:
        shape = (*before, *index.shape, *behind)
        check_shape(src, "src", shape, "out.shape[:axis] + index.shape + out.shape[axis+1:]")
    if index.size and not size:
        raise ArgumentValueError(f"out's axis {axis} is empty: there is nothing to add to")
    return ScatterGeometry(math.prod(before), size, math.prod(behind), index.size)


def _axis(axis, ndim):
    if ndim < 1:
        raise ArgumentValueError("out must have at least one axis, got a 0-d array")
    shifted = axis + ndim if isinstance(axis, (int, np.integer)) and -ndim <= axis < 0 else axis
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise ArgumentTypeError(f"axis must be an integer, got {axis!r}")
    shifted = integer(int(shifted), "axis", at_least=0)
    if shifted >= ndim:
        raise ArgumentValueError(f"axis must be in {-ndim}..{ndim - 1}, got {axis}")
    return shifted


def _check_target(call, out):
    if call.library == "numpy" and not out.flags.writeable:
        raise ArgumentValueError("out is read-only")
    if overlaps_itself(out):
        raise ArgumentValueError("out has elements that share memory (a broadcast view)")


def _source(call, src, out, geometry):
    """src as (A, I, B), apart from out's memory."""
    values = call.input(src)
    shared = not call.moved and call.caller_library.may_share_memory(values, out)
    # the CPU reads single elements side by side
    apart = call.device_library is np and geometry.inner == 1 and not values.flags.c_contiguous
    if shared or apart:
        whole = call.empty(values.shape, values.dtype)
        whole[...] = values
        values = whole
    return values.reshape(geometry.outer, geometry.count, geometry.inner)


def _rows(call, index, size, mode, out, plan):
    """The index brought into 0..size-1, and the flag of its value check.

    The CPU's kernels read an int64 index as it is, if its entries lie side by side: eight bytes an
    entry that need not be written.
    """
    flat = carried(call, index.reshape(-1))
    as_is = call.device_library is np and mode == "raise" and flat.dtype == np.int64
    if as_is and flat.flags.c_contiguous and not np.may_share_memory(flat, out):
        rows = flat
    else:
        rows = call.empty(flat.shape, "int64")
    bad = call.backend.scatter.check_index(rows, flat, size, mode, plan, call.workspace(plan))
    if type(bad) is not int or bad >= 0:
        refuse_bad_values(call, bad, _tells_where(index, size))
    return rows, bad


def _tells_where(index, size):
    """The message about an index at a position."""

    def message(position):
        where = np.unravel_index(position, index.shape)
        return (
            f"index[{', '.join(map(str, where))}] is out of range: out's axis has {size} entries"
        )

    return message


def _target(call, out, geometry):
    """out as the kernel adds to it, (A, R, B): a view of it wherever there is one."""
    shape = (geometry.outer, geometry.rows, geometry.inner)
    plain = call.input(out)
    if plain.flags.c_contiguous:
        return plain.reshape(shape)
    if plain.ndim == 1:
        return plain[None, :, None]
    if plain.ndim == 2:
        return plain[None] if geometry.outer == 1 and plain.shape[0] == geometry.rows else (
            plain[:, :, None]
        )  # fmt: skip
    return plain.reshape(shape)  # a copy, which _written_back brings home


def _written_back(call, out, target):
    if call.moved:
        out[...] = call.backend.to_host(target).reshape(out.shape)
    elif not call.caller_library.may_share_memory(target, out):
        out[...] = target.reshape(out.shape)
    return out
