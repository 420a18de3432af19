"""The forward pass of max pooling: which of its kernels serves these arrays."""

from __future__ import annotations

from functools import partial

import numpy as np

from .. import plans
from ..jit import bound
from . import max_pool_apart, max_pool_axes, max_pool_flat, max_pool_quarters, max_pool_rows
from . import max_pool_pixels, max_pool_runs
from .max_pool import across_channels, largest

_NO_WINNER = np.empty((1, 1, 1, 1, 1), np.uint8)


def max_pool_forward(y, winner, x, geometry, ties, nan, plan, workspace):
    max_pool_forward_at_once(y, winner, x, geometry, ties, nan, plan)(y, winner, x)


def max_pool_forward_at_once(y, winner, x, geometry, ties, nan, plan):
    """The forward pass of arrays of these forms as a function of them; winner may be None."""
    g, named, pieces = geometry, winner is not None, plan.threads
    if not named:
        winner = _NO_WINNER
    variant, tall = (y.dtype, winner.dtype), None
    usual = ties == "first" and nan == "propagate"
    if usual and x.flags.c_contiguous and y.flags.c_contiguous and winner.flags.c_contiguous:
        runs = max_pool_runs.runs(g)
        if runs is not None:
            kernel = bound(max_pool_runs.largest_of_runs, pieces, variant)
            return _call(kernel, named, (*runs, named, pieces))
        if max_pool_quarters.narrow(g):
            kernel = bound(max_pool_quarters.largest_of_quarters, pieces, variant)
            return _call(kernel, named, (named, pieces))
        if plan.algorithm == "by_axes":
            kernel = bound(max_pool_axes.largest_by_axes, pieces, variant)
            rest = partial(max_pool_axes.arguments, g, winner.dtype, y.dtype, pieces)
            return _call_by_axes(kernel, named, rest, plan)
        flat = max_pool_flat.tables(g, winner.dtype)
        if flat is not None:
            kernel = bound(max_pool_flat.largest_of_planes, pieces, variant)
            return _call(kernel, named, (*flat, g.plane, named, pieces))
        tall = max_pool_runs.stacked(g)
        if tall is not None:
            y, x, g = y.reshape(tall.y_shape), x.reshape(tall.x_shape), tall
            winner = winner.reshape(tall.y_shape) if named else winner
    if usual and max_pool_rows.serves(y, winner, x, g, pieces):
        kernel, rest = max_pool_rows.largest_of_rows, max_pool_rows.arguments(x, g, named, pieces)
        if g.stride[2] > 2:
            kernel = max_pool_apart.largest_of_far_windows
    elif usual and across_channels(x, y) and max_pool_pixels.serves(*([winner] if named else [])):
        kernel = max_pool_pixels.largest_of_pixels
        rest = (g.window, g.stride, g.dilation, g.before, named, pieces)
    else:
        rules = (named, ties == "last", nan == "omit")
        kernel = largest
        rest = (g.window, g.stride, g.dilation, g.before, rules, across_channels(x, y), pieces)
    return _call(bound(kernel, pieces, variant), named, rest, tall)


def _call(kernel, named, rest, tall=None):
    """``tall``: the geometry of small planes on top of each other."""

    def call(y, winner, x):
        winner = winner if named else _NO_WINNER
        if tall is not None:
            y, x = y.reshape(tall.y_shape), x.reshape(tall.x_shape)
            winner = winner.reshape(tall.y_shape) if named else winner
        kernel(y, winner, x, *rest)

    return call


def _call_by_axes(kernel, named, rest, plan):
    """``rest`` takes the workspace, which is this thread's."""

    def call(y, winner, x):
        winner = winner if named else _NO_WINNER
        kernel(y, winner, x, *rest(plans.workspace(plan)), named, plan.threads)

    return call
