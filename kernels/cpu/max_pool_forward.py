"""The forward pass of max pooling: which of its kernels serves these arrays."""

from __future__ import annotations

import numpy as np

from . import max_pool_rows
from .max_pool import across_channels, largest

_NO_WINNER = np.empty((1, 1, 1, 1, 1), np.uint8)


def max_pool_forward(y, winner, x, geometry, ties, nan, plan, workspace):
    g, named, pieces = geometry, winner is not None, plan.threads
    if not named:
        winner = _NO_WINNER
    usual = ties == "first" and nan == "propagate"
    if usual and max_pool_rows.serves(y, winner, x, g, pieces):
        max_pool_rows.run(y, winner, x, g, named, pieces)
        return
    across = across_channels(x, y)
    rules = (named, ties == "last", nan == "omit")
    largest((y.dtype, winner.dtype), pieces, y, winner, x,
            g.window, g.stride, g.dilation, g.before, rules, across, pieces)  # fmt: skip
