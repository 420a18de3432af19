"""The phases of dilated images: copied out of them as a batch of small ones, and back.

Image cell ``apart*a + base + dilation*i`` of an axis is cell i of its phase a, or nothing where it
lies outside the image; the phases of all axes and images are one batch, those along W side by side.
A call moves some units of it, each the phases of one image, D and H (and a part of those along W).
"""

from __future__ import annotations

from typing import NamedTuple

from numba import types

from ..emitted.memory import load, step, store
from ..emitted.padded_rows import pad_row
from ..emitted.transposition import transpose
from ..emitted.vectors import copy_row, fill_row, finite_row, spread_even
from ..jit import array, helper, inlined, int64, kernel, out, prange
from .direct import span

#: Phases along W from which on a row is transposed rather than gathered phase by phase.
TRANSPOSED = 4


class Move(NamedTuple):
    """What the compiled loops need to know."""

    dilation_d: int
    dilation_h: int
    dilation_w: int
    apart_d: int  # between the first cells of neighbouring phases
    apart_h: int
    apart_w: int
    base_d: int
    base_h: int
    base_w: int
    size_d: int  # of the small images
    size_h: int
    size_w: int
    wide: int  # phases along W in a unit
    parts: int  # units that make up all of them
    units: int  # of the whole batch
    last: int  # whether channels lie side by side in the small images
    lanes: int


MOVE = types.NamedUniTuple(int64, len(Move._fields), Move)


@helper
def _unit(u, m):
    """(n, phase along D, along H, first one along W, how many) of a unit; none behind the last."""
    a, rest = u % m.parts * m.wide, u // m.parts
    wide = min(m.wide, m.dilation_w - a) if u < m.units else 0
    n = rest // m.dilation_h // m.dilation_d
    return n, rest // m.dilation_h % m.dilation_d, rest % m.dilation_h, a, wide


@helper
def _tasks(C, m):
    """Of a unit: its phases where channels lie side by side, else its channels."""
    return m.wide if m.last else C


@helper
def _task(task, first, C, m):
    """What `_unit` says of a task's unit, the task's number in it, and where small has it."""
    tasks, volume = _tasks(C, m), m.size_d * m.size_h * m.size_w * C
    unit, number = task // tasks, task % tasks
    at = unit * m.wide * volume + number * (volume if m.last else volume // C)
    return _unit(first + unit, m), number, at


@inlined
def _inside(a, i, dilation, apart, base, size):
    """The image's cell that is cell i of phase a, or -1."""
    cell = dilation * i + apart * a + base
    return cell if 0 <= cell < size else -1


@inlined
def _row(image, n, c, ad, ah, i, j, m):
    """(is it in the image?, where it begins there) of row (i, j) of a phase along D and H."""
    d = _inside(ad, i, m.dilation_d, m.apart_d, m.base_d, image.shape[2])
    h = _inside(ah, j, m.dilation_h, m.apart_h, m.base_h, image.shape[3])
    start = n * step(image, 0) + c * step(image, 1) + d * step(image, 2) + h * step(image, 3)
    return d >= 0 and h >= 0, start


@kernel(lambda F: (out(F, 1), out(int64, 1), array(F, 5), int64, int64, MOVE))
def gather(small, infinite, image, first, units, m):
    """``units`` units from ``first`` on to small, with zeros for what lies outside the image.

    infinite[0], if there is one, is how many pieces hold numbers that are not finite.
    """
    C = image.shape[1]
    volume = m.size_d * m.size_h * m.size_w * C
    found = 0
    for task in prange(units * _tasks(C, m)):
        (n, ad, ah, a0, wide), number, to = _task(task, first, C, m)
        if m.last:
            _gather_pixels(small, to, image, n, ad, ah, a0 + number, number < wide, m)
            if infinite.size:
                found += 1 - finite_row(small, to, volume)
        else:
            _gather_rows(small, to, volume, image, n, number, ad, ah, a0, wide, m)
            for a in range(m.wide if infinite.size else 0):
                found += 1 - finite_row(small, to + a * volume, volume // C)
    if infinite.size:
        infinite[0] = found


@helper
def _gather_pixels(small, to, image, n, ad, ah, a, exists, m):
    """One phase, the channels of a pixel side by side."""
    C, zero = image.shape[1], image.dtype.type(0)
    for i in range(m.size_d):
        for j in range(m.size_h):
            inside, start = _row(image, n, 0, ad, ah, i, j, m)
            for k in range(m.size_w):
                w = _inside(a, k, m.dilation_w, m.apart_w, m.base_w, image.shape[4])
                if exists and inside and w >= 0:
                    copy_row(small, to, image, start + w * step(image, 4), C)
                else:
                    fill_row(small, to, zero, C)
                to += C


@helper
def _gather_rows(small, to, phase, image, n, c, ad, ah, a0, wide, m):
    """One channel of ``wide`` phases, whose copies lie ``phase`` elements apart."""
    zero = image.dtype.type(0)
    for i in range(m.size_d):
        for j in range(m.size_h):
            inside, start = _row(image, n, c, ad, ah, i, j, m)
            at = to + (i * m.size_h + j) * m.size_w
            exist = wide if inside else 0
            for a in range(exist, m.wide):
                fill_row(small, at + a * phase, zero, m.size_w)
            if exist > 0:
                _gather_row(small, at, phase, image, start, a0, exist, m)


@helper
def _whole(image, a0, wide, m):
    """(first, end) of the cells that lie inside the image in all of ``wide`` phases."""
    return span_of_all(a0 * m.apart_w + m.base_w, (a0 + wide - 1) * m.apart_w + m.base_w,
                       m.dilation_w, image.shape[4], m.size_w)  # fmt: skip


@helper
def span_of_all(low, high, dilation, size, count):
    """The cells i of 0..count-1 with 0 <= i*dilation + low and i*dilation + high < size."""
    first, _ = span(low, dilation, size, count)
    _, end = span(high, dilation, size, count)
    return first, max(first, end)


@helper
def _gather_row(small, at, phase, image, start, a0, wide, m):
    """A row of the image into a row of each of ``wide`` phases."""
    apart, zero = step(image, 4), image.dtype.type(0)
    base = a0 * m.apart_w + m.base_w
    if m.dilation_w < TRANSPOSED or apart != 1 or m.apart_w != 1:
        for a in range(wide):
            offset = base + a * m.apart_w
            first, end = span(offset, m.dilation_w, image.shape[4], m.size_w)
            pad_row(small, at + a * phase, image, start + offset * apart, m.dilation_w * apart,
                    first, end, m.size_w)  # fmt: skip
        return
    first, end = _whole(image, a0, wide, m)
    transpose(small, at + first, phase, image, start + base + first * m.dilation_w, m.dilation_w,
              end - first, wide, m.lanes)  # fmt: skip
    for k in range(m.size_w):
        if first <= k < end:
            continue
        for a in range(wide):
            w = base + a + k * m.dilation_w
            value = load(image, start + w) if 0 <= w < image.shape[4] else zero
            store(small, at + a * phase + k, value)


@kernel(lambda F: (out(F, 5), out(int64, 1), array(F, 1), int64, int64, MOVE))
def scatter(image, infinite, small, first, units, m):
    """The way back: ``units`` units of small, from ``first`` on, to where they came from."""
    C = image.shape[1]
    volume = m.size_d * m.size_h * m.size_w * C
    found = 0
    for task in prange(units * _tasks(C, m)):
        (n, ad, ah, a0, wide), number, start = _task(task, first, C, m)
        if not m.last:
            for a in range(wide):
                found += 1 - finite_row(small, start + a * volume, volume // C)
            _scatter_rows(image, n, number, ad, ah, a0, wide, small, start, volume, m)
        elif number < wide:
            found += 1 - finite_row(small, start, volume)
            _scatter_pixels(image, n, ad, ah, a0 + number, small, start, m)
    infinite[0] = found


@helper
def _scatter_pixels(image, n, ad, ah, a, small, start, m):
    C = image.shape[1]
    for i in range(m.size_d):
        for j in range(m.size_h):
            inside, to = _row(image, n, 0, ad, ah, i, j, m)
            for k in range(m.size_w):
                w = _inside(a, k, m.dilation_w, m.apart_w, m.base_w, image.shape[4])
                if inside and w >= 0:
                    copy_row(image, to + w * step(image, 4), small, start, C)
                start += C


@helper
def _scatter_rows(image, n, c, ad, ah, a0, wide, small, start, phase, m):
    for i in range(m.size_d):
        for j in range(m.size_h):
            inside, to = _row(image, n, c, ad, ah, i, j, m)
            if inside and wide > 0:
                at = start + (i * m.size_h + j) * m.size_w
                _scatter_row(image, to, small, at, phase, a0, wide, m)


@helper
def _scatter_row(image, to, small, at, phase, a0, wide, m):
    """A row of each of ``wide`` phases into a row of the image."""
    apart, dilation = step(image, 4), m.dilation_w
    base = a0 * m.apart_w + m.base_w
    first, end = 0, 0
    if apart == 1 and m.apart_w == 1 and dilation > 2:
        first, end = _whole(image, a0, wide, m)
        transpose(image, to + base + first * dilation, dilation, small, at + first, phase, wide,
                  end - first, m.lanes)  # fmt: skip
    for a in range(wide):
        offset = base + a * m.apart_w
        low, high = span(offset, dilation, image.shape[4], m.size_w)
        if apart * dilation == 1:
            copy_row(image, to + offset + low, small, at + a * phase + low, high - low)
        elif apart * dilation == 2:
            spread_even(image, to + (offset + low * dilation) * apart, small,
                        at + a * phase + low, high - low)  # fmt: skip
        else:
            for k in range(low, high):
                if first <= k < end:
                    continue
                store(image, to + (offset + k * dilation) * apart, load(small, at + a * phase + k))
