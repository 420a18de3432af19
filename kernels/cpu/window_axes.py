"""Which taps of a window read which source, along one axis: tables made once for a plan.

Along an axis the taps that reach a target lie evenly in the source, ``unit`` apart, at any stride,
dilation and direction.  Targets ``every`` apart see sources ``down * unit`` apart through the same
taps, so that a row of such targets is one convolution of stride ``down`` (row_tile_of_channels).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Axis(NamedTuple):
    """One axis of a forward pass, or of dx: target o reads the source ``first[o] + i*unit``
    through tap ``tap[o] + i*tap_step`` for i < ``count[o]``: row o of ``taps``."""

    taps: np.ndarray  # (targets, 3): first, tap, count
    unit: int
    tap_step: int
    every: int
    down: int


def axis(targets, sources, window, stride, before, dilation, transposed, inside=True) -> Axis:
    """The taps of each of ``targets``: only those ``inside`` the source, or all."""
    common = math.gcd(stride, dilation)
    if transposed:
        apart, unit = stride // common, dilation // common
        made = [_upwards(o, window, stride, before, dilation, apart) for o in range(targets)]
        found = Axis(np.array(made, np.int64).reshape(-1, 3), unit, -apart, stride * unit, 1)
    else:
        made = np.zeros((targets, 3), np.int64)
        made[:, 0], made[:, 2] = np.arange(targets) * stride - before, window
        found = Axis(made, dilation, 1, dilation // common, stride // common)
    if inside:
        _leave_out(found, sources)
    return found


def _upwards(o, window, stride, before, dilation, apart):
    """The taps of target ``o`` of dx, from the last one on: their sources ascend."""
    for tap in range(min(apart, window)):
        if (o + before - tap * dilation) % stride == 0:
            count = (window - 1 - tap) // apart + 1
            last = tap + (count - 1) * apart
            return (o + before - last * dilation) // stride, last, count
    return 0, 0, 0


def _leave_out(found, sources):
    """Taps that read outside the source go."""
    first, tap, count = found.taps.T
    low = np.maximum(-(first // found.unit), 0)
    end = np.minimum(count, (sources - 1 - first) // found.unit + 1)
    first += low * found.unit
    tap += low * found.tap_step
    count[:] = np.maximum(end - low, 0)
