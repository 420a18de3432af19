"""What the public pooling functions share: geometry, shapes, checked winners."""

from __future__ import annotations

from ..errors import ArgumentTypeError, ArgumentValueError
from ..geometry import pool_geometry
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
from .settled import settled


def flag(value, name):
    if type(value).__name__ not in ("bool", "bool_"):
        raise ArgumentTypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def choice(value, name, choices):
    if not isinstance(value, str) or value not in choices:
        raise ArgumentValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def check_rule(ties, nan):
    """Which of several maxima wins."""
    choice(ties, "ties", ("first", "last"))
    choice(nan, "nan", ("propagate", "omit"))


def window_geometry(shape, window, stride, padding, dilation, ceil_mode):
    return pool_geometry(
        shape, window=window, stride=stride, padding=padding, dilation=dilation,
        ceil_mode=flag(ceil_mode, "ceil_mode"),
    )  # fmt: skip


def pooled_shape(geometry, axes, layout):
    return from_first((*geometry.y_shape[:2], *geometry.out[3 - axes :]), layout)


def between_windows(operation, result_is_image):
    """The shared body of the functions that move values between an image and its winners."""

    def at_once(found, arrays, options):
        """The check of winners and the operation in one function, where the backend has that."""
        call, geometry, shape, look, plan = found
        find, layout = getattr(call.backend.pool, f"{operation}_at_once", None), options[-1]
        if find is None or arrays[1].dtype != geometry.winner_dtype:
            return None
        new = call.maker(shape)
        kernel = find(*(canonical(one, layout) for one in (new(), *arrays)), geometry, look, plan)
        if kernel is None:
            return None

        def whole(values, winner):
            result = new()
            bad = kernel(canonical(result, layout), canonical(values, layout),
                         canonical(winner, layout))  # fmt: skip
            if bad >= 0:
                refuse_bad_values(call, bad, _tells_where(geometry))
            return result

        return whole

    @settled(ready=at_once)
    def check(values, winner, name, x_shape, window, stride, padding, dilation, ceil_mode, layout):
        call = Call({name: values}, winner=winner)
        shape = given_shape(x_shape, layout)
        geometry = window_geometry(shape, window, stride, padding, dilation, ceil_mode)
        whole, pooled = from_first(shape, layout), pooled_shape(geometry, len(shape) - 2, layout)
        if result_is_image:
            check_shape(values, name, pooled, "that of max_pool's result for this x_shape")
        else:
            check_shape(values, name, whole, "x_shape")
        integer_array(winner, "winner")
        check_shape(winner, "winner", pooled, "that of max_pool's result for this x_shape")
        plans = call.plan("check_winner", geometry), call.plan(operation, geometry)
        return call, geometry, whole if result_is_image else pooled, *plans

    def run(values, name, winner, x_shape, window, stride, padding, dilation, ceil_mode, layout,
            out):  # fmt: skip
        call, geometry, shape, look, plan = check(
            (values, winner),
            (name, x_shape, window, stride, padding, dilation, ceil_mode, layout), out,
        )  # fmt: skip
        if call.at_once is not None:
            return call.at_once(values, winner)
        result = call.result(shape, out)
        won, bad = checked_winner(call, winner, geometry, layout, look)
        getattr(call.backend.pool, operation)(
            canonical(result, layout), canonical(call.input(values), layout), won, bad,
            geometry, plan, call.workspace(plan),
        )  # fmt: skip
        return call.finish(result)

    return run


def checked_winner(call, winner, geometry, layout, plan):
    """The winner as kernels read it, and the flag of its value check."""
    won = canonical(narrowed(call, winner, geometry.winner_dtype, geometry.taps), layout)
    bad = call.backend.pool.check_winner(won, geometry, plan, call.workspace(plan))
    if type(bad) is not int or bad >= 0:
        refuse_bad_values(call, bad, _tells_where(geometry))
    return won, bad


def _tells_where(geometry):
    """The message about a winner at a position."""

    def message(position):
        where = unravel(position, geometry.y_shape)
        return (
            f"winner at (n, c, z, p, q) = {where} lies outside its window of "
            f"{geometry.taps} taps or on padding"
        )

    return message


def unravel(position, shape):
    where = []
    for size in reversed(shape):
        where.append(position % size)
        position //= size
    return tuple(reversed(where))
