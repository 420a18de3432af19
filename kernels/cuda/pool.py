"""Pooling on the GPU: see max_pool.cu, avg_pool.cu and winner.cu."""

from __future__ import annotations

import math

from .launch import checked, flag_argument, launch_each, needs_wide, new_flag, options
from .structures import Ends, c_int, strides_of, window_of


def _each(file, kernel, shape, arrays, args, geometry, dtype="float32"):
    """One thread per element of ``shape``; ``arrays`` decide whether offsets fit 32 bits."""
    opts = options(dtype, needs_wide(geometry, *arrays))
    launch_each(file, kernel, math.prod(shape), args, opts=opts)


def _winner(winner):
    """The three parameters by which kernels read or write a winner."""
    return winner, strides_of(winner), c_int(0 if winner is None else winner.itemsize)


# ---- max-pool -----------------------------------------------------------------------------


def max_pool_forward(y, winner, x, geometry, ties, nan, plan, workspace):
    args = (
        y, strides_of(y), *_winner(winner), x, strides_of(x), window_of(geometry),
        c_int(ties == "last"), c_int(nan == "omit"),
    )  # fmt: skip
    _each("max_pool", "max_pool_forward", y.shape, (y, winner, x), args, geometry, y.dtype.name)


def _by_winner(kernel, result, source, winner, bad, geometry):
    args = (
        result, strides_of(result), source, strides_of(source), *_winner(winner),
        flag_argument(bad), window_of(geometry),
    )  # fmt: skip
    arrays = (result, source, winner)
    _each("max_pool", kernel, result.shape, arrays, args, geometry, result.dtype.name)


def max_pool_backward(dx, dy, winner, bad, geometry, plan, workspace):
    _by_winner("max_pool_backward", dx, dy, winner, bad, geometry)


def max_unpool_forward(x, y, winner, bad, geometry, plan, workspace):
    _by_winner("max_unpool_forward", x, y, winner, bad, geometry)


def max_unpool_backward(dy, dx, winner, bad, geometry, plan, workspace):
    _by_winner("max_unpool_backward", dy, dx, winner, bad, geometry)


# ---- winners ------------------------------------------------------------------------------


def check_winner(winner, geometry, plan, workspace):
    bad = new_flag()
    args = (bad, *_winner(winner), window_of(geometry))
    _each("winner", "check_winner", winner.shape, (winner,), args, geometry)
    return checked(bad)


def winner_to_index(index, winner, bad, geometry, plan, workspace):
    args = (
        index, strides_of(index), *_winner(winner), flag_argument(bad), window_of(geometry)
    )  # fmt: skip
    _each("winner", "winner_to_index", winner.shape, (index, winner), args, geometry)


def check_index_in_window(index, geometry, plan, workspace):
    bad = new_flag()
    args = (bad, index, strides_of(index), window_of(geometry))
    _each("winner", "check_index_in_window", index.shape, (index,), args, geometry)
    return checked(bad)


def index_to_winner(winner, index, bad, geometry, plan, workspace):
    args = (
        *_winner(winner), index, strides_of(index), flag_argument(bad), window_of(geometry)
    )  # fmt: skip
    _each("winner", "index_to_winner", winner.shape, (winner, index), args, geometry)


# ---- average pool -------------------------------------------------------------------------


def _ends(geometry, count_include_pad):
    """Where counted cells stop on each axis: behind the input, or behind its padding."""
    if not count_include_pad:
        return Ends(*geometry.size)
    return Ends(*(size + after for size, after in zip(geometry.size, geometry.after)))


def avg_pool_forward(y, x, geometry, count_include_pad, plan, workspace):
    args = (
        y, strides_of(y), x, strides_of(x), window_of(geometry),
        _ends(geometry, count_include_pad), c_int(count_include_pad),
    )  # fmt: skip
    _each("avg_pool", "avg_pool_forward", y.shape, (y, x), args, geometry, y.dtype.name)


def avg_pool_backward(dx, dy, geometry, count_include_pad, plan, workspace):
    args = (
        dx, strides_of(dx), dy, strides_of(dy), window_of(geometry),
        _ends(geometry, count_include_pad), c_int(count_include_pad),
    )  # fmt: skip
    _each("avg_pool", "avg_pool_backward", dx.shape, (dx, dy), args, geometry, dx.dtype.name)
