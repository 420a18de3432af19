"""What the public pooling functions share: geometry, shapes, checked winners."""

from __future__ import annotations

from ..errors import ArgumentTypeError, ArgumentValueError
from ..geometry import pool_geometry
from ..options import GeometryOf
from .call import Call
from .checks import (
    canonical,
    check_shape,
    from_first,
    given_shape,
    integer_array,
    refuse_bad_values,
)
from .indices import narrowed


def flag(value, name):
    if type(value).__name__ not in ("bool", "bool_"):
        raise ArgumentTypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def choice(value, name, choices):
    if not isinstance(value, str) or value not in choices:
        raise ArgumentValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def window_geometry(shape, window, stride, padding, dilation, ceil_mode):
    return pool_geometry(
        shape, window=window, stride=stride, padding=padding, dilation=dilation,
        ceil_mode=flag(ceil_mode, "ceil_mode"),
    )  # fmt: skip


def pooled_shape(geometry, axes, layout):
    return from_first((*geometry.y_shape[:2], *geometry.out[3 - axes :]), layout)


_PLAIN_SHAPES = {(int,) * rank for rank in (3, 4, 5)}


@GeometryOf
def _shapes(x_shape, *, window, stride, padding, dilation, ceil_mode, layout):
    shape = given_shape(x_shape, layout)
    geometry = window_geometry(shape, window, stride, padding, dilation, ceil_mode)
    return geometry, from_first(shape, layout), pooled_shape(geometry, len(shape) - 2, layout)


def backward_shapes(x_shape, window, stride, padding, dilation, ceil_mode, layout):
    """The geometry, the image's shape and the windows' in the caller's layout: looked up."""
    if type(x_shape) is not tuple or tuple(map(type, x_shape)) not in _PLAIN_SHAPES:
        x_shape = from_first(given_shape(x_shape, layout), layout)
    return _shapes(
        x_shape, window=window, stride=stride, padding=padding, dilation=dilation,
        ceil_mode=ceil_mode, layout=layout,
    )  # fmt: skip


def between_windows(operation, result_is_image):
    """The shared body of the functions that move values between an image and its winners."""

    def run(values, name, winner, x_shape, window, stride, padding, dilation, ceil_mode, layout,
            out):  # fmt: skip
        call = Call({name: values}, winner=winner)
        geometry, whole, pooled = backward_shapes(
            x_shape, window, stride, padding, dilation, ceil_mode, layout
        )
        if result_is_image:
            check_shape(values, name, pooled, "that of max_pool's result for this x_shape")
        else:
            check_shape(values, name, whole, "x_shape")
        integer_array(winner, "winner")
        check_shape(winner, "winner", pooled, "that of max_pool's result for this x_shape")
        result = call.result(whole if result_is_image else pooled, out)
        won, bad = checked_winner(call, winner, geometry, layout)
        getattr(call.backend.pool, operation)(
            canonical(result, layout), canonical(call.input(values), layout), won, bad,
            geometry, *call.scratch(operation, geometry),
        )  # fmt: skip
        return call.finish(result)

    return run


def checked_winner(call, winner, geometry, layout):
    """The winner as kernels read it, and the flag of its value check."""
    won = canonical(narrowed(call, winner, geometry.winner_dtype, geometry.taps), layout)
    bad = call.backend.pool.check_winner(won, geometry, *call.scratch("check_winner", geometry))
    shape = geometry.y_shape

    def message(position):
        where = unravel(position, shape)
        return (
            f"winner at (n, c, z, p, q) = {where} lies outside its window of "
            f"{geometry.taps} taps or on padding"
        )

    refuse_bad_values(call, bad, message)
    return won, bad


def unravel(position, shape):
    where = []
    for size in reversed(shape):
        where.append(position % size)
        position //= size
    return tuple(reversed(where))
