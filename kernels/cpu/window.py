"""Which taps of a window lie inside the image, and which windows cover an input element."""

from __future__ import annotations

import numpy as np

from .jit import helper


@helper
def ceil_div(positive, divisor):
    """Rounded up; the usual divisors without a division."""
    if divisor == 1:
        return positive
    return (positive + 1) >> 1 if divisor == 2 else (positive - 1) // divisor + 1


@helper
def taps_inside(start, dilation, size, taps):
    """(first, end) of the taps of a window at ``start`` that lie inside 0..size-1."""
    first = 0 if start >= 0 else (-start - 1) // dilation + 1
    end = 0 if start >= size else min(taps, (size - 1 - start) // dilation + 1)
    return first, end


@helper
def windows_over(position, stride, dilation, taps, count):
    """(first, end) of the windows that may cover a position of the padded axis.

    With a dilation above 1 some windows in between step over it: `tap_at` tells.
    """
    reach = position - (taps - 1) * dilation
    first = 0 if reach <= 0 else (reach - 1) // stride + 1
    return first, min(count, position // stride + 1)


@helper
def tap_at(offset, dilation):
    """The tap that lies ``offset`` behind a window's start, or -1 where the dilation skips it."""
    if dilation == 1:
        return offset
    return offset // dilation if offset % dilation == 0 else np.int64(-1)


@helper
def inner_windows(size, window, stride, dilation, before, count):
    """(first, end) of the windows of an axis that lie wholly inside the image."""
    first = 0 if before == 0 else min(count, (before - 1) // stride + 1)
    room = size + before - (window - 1) * dilation - 1
    end = 0 if room < 0 else min(count, room // stride + 1)
    return first, max(first, end)
