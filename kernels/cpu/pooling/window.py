"""Which taps of a window lie inside the image, and which windows cover an input element."""

from __future__ import annotations

import math

import numpy as np

from ..emitted.row_lanes import places
from ..jit import inlined


@inlined
def ceil_div(positive, divisor):
    """Rounded up; the usual divisors without a division."""
    if divisor == 1:
        return positive
    return (positive + 1) >> 1 if divisor == 2 else (positive - 1) // divisor + 1


@inlined
def floor_div(value, divisor):
    """Rounded down, also below zero; the usual divisors without a division."""
    if divisor == 1:
        return value
    return value >> 1 if divisor == 2 else value // divisor


@inlined
def taps_inside(start, dilation, size, taps):
    """(first, end) of the taps of a window at ``start`` that lie inside 0..size-1."""
    first = 0 if start >= 0 else ceil_div(-start, dilation)
    end = 0 if start >= size else min(taps, floor_div(size - 1 - start, dilation) + 1)
    return first, end


@inlined
def lanes_inside(start, stride, size, rows, vector):
    """The lanes of a strip (``rows`` rows of windows side by side) that see a tap inside a row.

    ``start`` is where the first window's tap lies; the lanes are as many as ``vector`` has.
    """
    low = ceil_div(-start, stride) if start < 0 else 0
    high = ceil_div(size - start, stride) if start < size else 0
    return places(low, high, rows, vector)


@inlined
def inner_windows(size, window, stride, dilation, before, count):
    """(first, end) of the windows of an axis that lie wholly inside the image."""
    first = 0 if before == 0 else min(count, (before - 1) // stride + 1)
    room = size + before - (window - 1) * dilation - 1
    end = 0 if room < 0 else min(count, room // stride + 1)
    return first, max(first, end)


@inlined
def covering(position, stride, dilation, taps, count):
    """The windows that cover a position of the padded axis, in order: a walk.

    (first window, the tap through which it sees the position, how many windows, the step from
    window to window, the step back from tap to tap).  With dilation d and stride s a window sees
    the position if their distance is a multiple of d, which is so for every (d / gcd)-th one.
    """
    reach = position - (taps - 1) * dilation
    first = 0 if reach <= 0 else ceil_div(reach, stride)
    last = min(count - 1, floor_div(position, stride))
    if dilation == 1:
        return first, position - first * stride, max(0, last - first + 1), 1, stride
    common = math.gcd(stride, dilation)
    hop = dilation // common
    for window in range(first, min(last + 1, first + hop)):
        distance = position - window * stride
        if distance % dilation == 0:
            tap = distance // dilation
            return window, tap, (last - window) // hop + 1, hop, stride // common
    return 0, 0, 0, 1, 1


@inlined
def windows_over(position, stride, dilation, taps, count):
    """(first, end) of the windows that may cover a position of the padded axis.

    With a dilation above 1 some windows in between step over it: `tap_at` tells.
    """
    reach = position - (taps - 1) * dilation
    return 0 if reach <= 0 else ceil_div(reach, stride), min(count, floor_div(position, stride) + 1)


@inlined
def tap_at(offset, dilation):
    """The tap that lies ``offset`` behind a window's start, or -1 where the dilation skips it."""
    if dilation == 1:
        return offset
    return offset // dilation if offset % dilation == 0 else np.int64(-1)


@inlined
def row_of(number, channels, depth, height):
    """(n, c, z, p) of a row of an image, by its row-major number."""
    rest = number // height
    return rest // depth // channels, rest // depth % channels, rest % depth, number % height


@inlined
def next_row(n, c, z, p, channels, depth, height):
    """The row behind (n, c, z, p): counting is cheaper than dividing anew for every row."""
    p += 1
    if p == height:
        p = 0
        z += 1
        if z == depth:
            z = 0
            c += 1
            if c == channels:
                c = 0
                n += 1
    return n, c, z, p
