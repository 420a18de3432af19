"""Checks that several public functions share, and the reading of value checks."""

from __future__ import annotations

import threading

import numpy as np

from .. import dispatch
from ..errors import ArgumentTypeError, ArgumentValueError, IndexRangeError
from ..options import integer

_LAYOUTS = ("channels_first", "channels_last")
_TO_FIRST = {n: (0, n - 1, *range(1, n - 1)) for n in (3, 4, 5)}
_TO_LAST = {n: (0, *range(2, n), 1) for n in (3, 4, 5)}


class _Pending(threading.local):
    """The value checks of a thread that are still to be read; a list once there are any."""

    checks = ()


_pending = _Pending()


# ---- shapes -------------------------------------------------------------------------------


def check_layout(layout) -> None:
    if not isinstance(layout, str) or layout not in _LAYOUTS:
        raise ArgumentValueError(f"layout must be one of {list(_LAYOUTS)}, got {layout!r}")


def to_first(shape, layout):
    """An image shape as (N, C, ...): channels_last (N, ..., C) -> (N, C, ...)."""
    return shape if layout == "channels_first" else (shape[0], shape[-1], *shape[1:-1])


def from_first(shape, layout):
    """(N, C, ...) -> a shape in the caller's layout."""
    return shape if layout == "channels_first" else (shape[0], *shape[2:], shape[1])


def image_shape(shape, name: str, layout) -> tuple:
    """The shape of a batch of images as (N, C, ...), its rank checked."""
    check_layout(layout)
    if not 3 <= len(shape) <= 5:
        wanted = "(N, C, W), (N, C, H, W) or (N, C, D, H, W)"
        if layout == "channels_last":
            wanted = "(N, W, C), (N, H, W, C) or (N, D, H, W, C)"
        raise ArgumentValueError(
            f"{name} must be {wanted}, got shape {tuple(shape)}; an unbatched image is {name}[None]"
        )
    shape = to_first(tuple(shape), layout)
    if 0 in shape[1:]:
        raise ArgumentValueError(f"{name} has an empty axis: {shape} as (N, C, ...)")
    return shape


def given_shape(x_shape, layout) -> tuple:
    """The argument ``x_shape`` as (N, C, ...)."""
    try:
        shape = tuple(x_shape)
    except TypeError:
        raise ArgumentTypeError(
            f"x_shape must be a sequence of integers, got {x_shape!r}"
        ) from None
    return image_shape(tuple(integer(n, "x_shape", at_least=0) for n in shape), "x_shape", layout)


def canonical(array, layout):
    """The array seen as (N, C, D, H, W): a view."""
    if array is None:
        return None
    if layout == "channels_last":
        array = array.transpose(_TO_FIRST[array.ndim])
    if array.ndim == 4:
        return array[:, :, None]
    return array if array.ndim == 5 else array[:, :, None, None]


def check_shape(array, name: str, shape, why: str) -> None:
    if array.shape != shape:
        raise ArgumentValueError(f"{name} must have shape {shape} ({why}), got {array.shape}")


def wanted_results(need, names) -> tuple:
    """``need`` as one bool per name: ("x", "b") -> (True, False, True)."""
    try:
        wanted = {need} if isinstance(need, str) else set(need)
    except TypeError:
        raise ArgumentTypeError(f"need must be a sequence of {list(names)}, got {need!r}") from None
    if not wanted <= set(names):
        raise ArgumentValueError(f"need must be among {list(names)}, got {need!r}")
    return tuple(name in wanted for name in names)


def out_tuple(out, wanted, names) -> tuple:
    """``out`` of a function with several results: one array or None for each."""
    if out is None:
        return (None,) * len(names)
    if not isinstance(out, tuple) or len(out) != len(names):
        raise ArgumentTypeError(
            f"out must be a tuple of {len(names)}: ({', '.join(names)}), None for one not wanted"
        )
    for array, want, name in zip(out, wanted, names):
        if array is not None and not want:
            raise ArgumentValueError(
                f"out has an array for {name}, which this call does not compute"
            )
    return out


# ---- integer arrays and their values ------------------------------------------------------


def integer_array(array, name: str) -> None:
    """Refuses anything but an array of integers in native byte order."""
    dispatch.library_of(array, name)
    if array.dtype.kind not in "iu":
        raise ArgumentTypeError(f"{name} must be an array of integers, got dtype {array.dtype}")
    if not array.dtype.isnative:
        raise ArgumentTypeError(
            f"{name} is byte-swapped ({array.dtype}); pass "
            f"{name}.astype({name}.dtype.newbyteorder('='))"
        )


def refuse_bad_values(call, bad, message) -> None:
    """Raises IndexRangeError(message(position)) if a value check found something.

    On a GPU under value_checks="later" the flag stays on the device; `raise_pending` reads it.
    """
    if isinstance(bad, (int, np.integer)):
        position = int(bad)
    elif call.settings.value_checks == "later":
        _pending.checks = [*_pending.checks, (call.backend, bad, message)]
        return
    else:
        position = call.backend.flag_value(bad, True)
    if position >= 0:
        raise IndexRangeError(message(position))


def raise_pending(wait: bool) -> None:
    """Raises for deferred value checks that have been decided; with ``wait`` for all of them."""
    while _pending.checks:
        backend, bad, message = _pending.checks[0]
        position = backend.flag_value(bad, wait)
        if position is None:
            return
        _pending.checks = _pending.checks[1:]
        if position >= 0:
            raise IndexRangeError(message(position))
