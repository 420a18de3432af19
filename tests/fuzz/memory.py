"""Arrays whose neighbours are watched.

An array lies in a mapping of its own, between two pages that end the process when they are
touched: with its last byte before the one or its first behind the other.  What the mapping holds
beside the array's elements is a pattern that must still be there after the call.
"""

import ctypes
import math
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
CANARY = 0xC3
_libc = ctypes.CDLL(None, use_errno=True)


def _forbid(address):
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")


class Region:
    """``size`` bytes between two forbidden pages, at the end or at the start of what lies there."""

    def __init__(self, size, at_end):
        room = max(1, -(-size // PAGE)) * PAGE
        self._map = mmap.mmap(-1, room + 2 * PAGE)
        whole = np.frombuffer(self._map, np.uint8)
        _forbid(whole.ctypes.data)
        _forbid(whole.ctypes.data + PAGE + room)
        self.bytes = whole[PAGE : PAGE + room]
        self.bytes[:] = CANARY
        self.start = room - size if at_end else 0

    def view(self, shape, dtype, strides, offset=0):
        """Elements from ``offset`` bytes behind the start of the region's own bytes."""
        return np.ndarray(shape, dtype, self.bytes, self.start + offset, strides)

    def untouched_beside(self, view):
        """Is everything but the elements of the view still the pattern?"""
        rest = self.bytes.copy()
        if not view.size:
            return bool((rest == CANARY).all())
        offset = view.__array_interface__["data"][0] - self.bytes.ctypes.data
        each = (*view.shape, view.itemsize)
        np.ndarray(each, np.uint8, rest, offset, (*view.strides, 1))[...] = CANARY
        return bool((rest == CANARY).all())


def strides_of(rng, shape, itemsize):
    """Random strides without overlap: (strides, offset of element 0, bytes from first to last)."""
    pitch = itemsize
    plain = rng.random() < 0.4
    if not plain and rng.random() < 0.15:
        pitch += int(rng.integers(1, 4))  # a field of a packed record
    order = list(range(len(shape)))
    if not plain and rng.random() < 0.4:
        rng.shuffle(order)
    strides, offset, step = [0] * len(shape), 0, pitch
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
        if not plain and rng.random() < 0.2:
            step *= int(rng.integers(2, 4))
        if not plain and rng.random() < 0.3:
            step += pitch * int(rng.integers(0, 4))
    if not plain and rng.random() < 0.2:
        for axis, n in enumerate(shape):
            if n > 1 and rng.random() < 0.5:
                offset += strides[axis] * (n - 1)
                strides[axis] = -strides[axis]
    reach = itemsize + sum(abs(s) * (n - 1) for s, n in zip(strides, shape) if n > 1)
    return tuple(strides), offset, reach


def placed(rng, array):
    """The same elements somewhere else, in other strides: (view, its region)."""
    return _place(rng, array.shape, array.dtype, array)


def room_for(rng, shape, dtype):
    """Somewhere to write an array to: (view, its region)."""
    return _place(rng, shape, dtype, None)


def _place(rng, shape, dtype, values):
    dtype = np.dtype(dtype)
    if math.prod(shape) == 0:
        region = Region(0, True)
        return np.empty(shape, dtype), region
    strides, offset, reach = strides_of(rng, shape, dtype.itemsize)
    odd = int(rng.random() < 0.1)  # unaligned
    region = Region(reach + odd, bool(rng.random() < 0.7))
    view = region.view(shape, dtype, strides, offset + (odd if not region.start else 0))
    if values is not None:
        view[...] = values
    return view, region


def overlapping(rng, array, shape):
    """The array, and an out of this shape that shares some of its memory: (array, out, region)."""
    shift = int(rng.integers(0, 6))
    size = max(array.size, math.prod(shape)) + shift
    region = Region(size * array.itemsize, True)
    flat = region.view((size,), array.dtype, (array.itemsize,))
    ahead = bool(rng.random() < 0.5)
    view = flat[shift * ahead :][: array.size].reshape(array.shape)
    view[...] = array
    return view, flat[shift * (not ahead) :][: math.prod(shape)].reshape(shape), region
