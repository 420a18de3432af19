"""Which taps of a window read which source, along one axis: tables made once for a plan.

Along an axis the taps that reach a target lie evenly in the source, ``unit`` apart, at any stride,
dilation and direction.  Targets ``every`` apart see sources ``down * unit`` apart through the same
taps, so that a line of such targets is one convolution of stride ``down`` (line_tile.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .line_tile import LINE, UNROLLED


class Axis(NamedTuple):
    """One axis of a forward pass, or of dx: target o reads the source ``first + i*unit`` through
    tap ``tap + i*tap_step`` for i < ``count``: row o of ``taps``."""

    taps: np.ndarray  # (targets, 3): first, tap, count
    unit: int
    tap_step: int
    every: int
    down: int


def axis(targets, sources, window, stride, before, dilation, transposed, inside=True) -> Axis:
    """The taps of each of ``targets``: only those ``inside`` the source, or all."""
    taps = np.zeros((targets, 3), np.int64)
    if transposed:
        common = math.gcd(stride, dilation)
        apart, unit = stride // common, dilation // common
        for o in range(min(stride, targets)):
            taps[o::stride] = _upwards(o, window, stride, before, dilation, apart)
            taps[o::stride, 0] += np.arange(len(taps[o::stride]))
        found = Axis(taps, unit, -apart, stride * unit, 1)
    else:
        taps[:, 0], taps[:, 2] = np.arange(targets) * stride - before, window
        found = Axis(taps, dilation, 1, dilation, stride)
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


def lines(axis, targets, sources, length=LINE) -> np.ndarray:
    """The tiles of line_tile.py along an axis of all taps, a row each: (first source, target, first
    tap, taps, bits of the sources inside, bits of the targets, resume)."""
    found = []
    for o in range(min(axis.every, targets)):
        first, tap, taps = (int(number) for number in axis.taps[o])
        target = np.arange(o, targets, axis.every * length)
        source = first + np.arange(len(target)) * (length * axis.down * axis.unit)
        there, done = _bits(target, axis.every, length, targets), 0
        while done < taps or not done:
            piece = _piece(taps - done)
            at = source + done * axis.unit
            tile = np.empty((len(target), 7), np.int64)
            here = _bits(at, axis.unit, (length - 1) * axis.down + piece, sources) if taps else 0
            columns = (at, target, tap + done * axis.tap_step, piece, here, there, done > 0)
            for column, values in enumerate(columns):
                tile[:, column] = values
            found.append(tile)
            done += piece
    return np.concatenate(found)


def _piece(left):
    """How many taps of a line to unroll next: all, or pieces of about the same size."""
    if left in UNROLLED or not left:
        return max(left, 1)
    even = -(-left // max(2, -(-left // UNROLLED[-1])))
    return next(size for size in UNROLLED if size >= even)


def _bits(first, every, count, size):
    """Bit i: is first + i*every in 0..size-1?"""
    low = np.clip(-(first // every), 0, count)
    end = np.clip((size - 1 - first) // every + 1, low, count)
    return (1 << end) - (1 << low)
