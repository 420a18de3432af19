"""The forward pass of max pooling: which of its kernels serves these arrays."""

from __future__ import annotations

import numpy as np

from . import max_pool_rows, max_pool_runs
from .max_pool import across_channels, largest

_NO_WINNER = np.empty((1, 1, 1, 1, 1), np.uint8)


def max_pool_forward(y, winner, x, geometry, ties, nan, plan, workspace):
    g, named, pieces = geometry, winner is not None, plan.threads
    if not named:
        winner = _NO_WINNER
    if ties == "first" and nan == "propagate":
        if x.flags.c_contiguous and y.flags.c_contiguous and winner.flags.c_contiguous:
            runs = max_pool_runs.runs(g)
            if runs is not None:
                max_pool_runs.largest_of_runs((y.dtype, winner.dtype), pieces, y, winner, x, *runs,
                                              named, pieces)  # fmt: skip
                return
            y, winner, x, g = _stacked(y, winner, x, g, named)
        if max_pool_rows.serves(y, winner, x, g, pieces):
            max_pool_rows.run(y, winner, x, g, named, pieces)
            return
    across = across_channels(x, y)
    rules = (named, ties == "last", nan == "omit")
    largest((y.dtype, winner.dtype), pieces, y, winner, x,
            g.window, g.stride, g.dilation, g.before, rules, across, pieces)  # fmt: skip


def _stacked(y, winner, x, g, named):
    """The arrays and their geometry, small planes on top of each other."""
    tall = max_pool_runs.stacked(g)
    if tall is None:
        return y, winner, x, g
    shape = tall.y_shape
    winner = winner.reshape(shape) if named else winner
    return y.reshape(shape), winner, x.reshape(tall.x_shape), tall
