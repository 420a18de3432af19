"""Arrays that stand for device memory: NumPy inside, and nothing of NumPy outside.

A `DeviceArray` offers what CuPy's arrays offer to the package, and no more: NumPy cannot read it
by accident, exactly as it cannot read a GPU's memory.  Each knows, byte by byte, what has been
written, so that reading what no kernel wrote is found.
"""

from __future__ import annotations

import sys

import numpy as np

UNWRITTEN, WRITTEN = 1, 2
ALIGNMENT = 256  # of every allocation, as CuPy's pool


class UnwrittenError(RuntimeError):
    """The host read device memory that nothing had written."""


def dtype_of(name):
    """np.dtype, and "bfloat16" once the caller has imported ml_dtypes."""
    if isinstance(name, str) and name == "bfloat16":
        return np.dtype(sys.modules["ml_dtypes"].bfloat16)
    return np.dtype(name)


class Memory:
    """One allocation: its bytes, and the state of each."""

    granule = None  # bytes that one access of a kernel may share with no other; None: an element

    def __init__(self, size):
        raw = np.full(size + ALIGNMENT, 0xFF, np.uint8)  # floats read as NaN, integers as -1
        start = -raw.ctypes.data % ALIGNMENT
        self.bytes = raw[start : start + size]
        self.states = np.full(size, UNWRITTEN, np.uint8)

    @property
    def address(self):
        return self.bytes.ctypes.data


class _Flags:
    def __init__(self, array):
        self.c_contiguous = array.flags.c_contiguous
        self.forc = array.flags.forc


class DeviceArray:
    """A view of device memory: shape, dtype, strides, and the methods that views need."""

    __module__ = "cupy"  # by which gr.plan knows arrays of a library that may not be imported
    __array__ = None
    __array_ufunc__ = None

    def __init__(self, view, memory):
        self.view, self.memory = view, memory

    shape = property(lambda self: self.view.shape)
    dtype = property(lambda self: self.view.dtype)
    strides = property(lambda self: self.view.strides)
    ndim = property(lambda self: self.view.ndim)
    size = property(lambda self: self.view.size)
    itemsize = property(lambda self: self.view.itemsize)
    nbytes = property(lambda self: self.view.nbytes)
    flags = property(lambda self: _Flags(self.view))
    T = property(lambda self: self.transpose())

    def __len__(self):
        return len(self.view)

    def _of(self, view):
        if np.may_share_memory(view, self.memory.bytes):
            return DeviceArray(view, self.memory)
        return device(view)  # a reshape that had to copy

    def transpose(self, *axes):
        return self._of(self.view.transpose(*axes))

    def reshape(self, *shape):
        self.check_written() if not self.flags.c_contiguous else None
        return self._of(self.view.reshape(*shape))

    def swapaxes(self, one, other):
        return self._of(self.view.swapaxes(one, other))

    def copy(self):
        return device(self.written())

    def __iadd__(self, other):
        self.view[...] = self.written() + other.written()
        return self

    def astype(self, dtype):
        self.check_written()
        return device(self.view.astype(dtype_of(dtype)))

    def __getitem__(self, key):
        return self._of(self.view[key])

    def __setitem__(self, key, value):
        if isinstance(value, DeviceArray):
            value.check_written()
            value = value.view
        target = self._of(self.view[key])
        target.view[...] = value
        target.mark_written()

    def min(self):
        return device(np.asarray(self.written().min()))

    def max(self):
        return device(np.asarray(self.written().max()))

    def __int__(self):
        return int(self.written())

    def __float__(self):
        return float(self.written())

    def get(self):
        """A NumPy copy, as CuPy's ``get``."""
        return self.written().copy()

    # ---- which bytes have been written ------------------------------------------------------

    def span(self):
        """(first byte, one past the last byte) of this view in its memory."""
        if not self.size:
            return 0, 0
        low, high = np.lib.array_utils.byte_bounds(self.view)
        return low - self.memory.address, high - self.memory.address

    def state_view(self):
        """The states of this view's elements, one per byte: (..., itemsize)."""
        offset = self.view.__array_interface__["data"][0] - self.memory.address
        return np.ndarray(
            (*self.shape, self.itemsize), np.uint8, self.memory.states, offset, (*self.strides, 1)
        )

    def mark_written(self):
        if self.size:
            self.state_view()[...] = WRITTEN

    def check_written(self):
        if self.size and (self.state_view() != WRITTEN).any():
            raise UnwrittenError(
                f"{int((self.state_view()[..., 0] != WRITTEN).sum())} of {self.size} elements of a "
                f"{self.dtype} array {self.shape} were read and never written"
            )

    def written(self):
        self.check_written()
        return self.view


def empty(shape, dtype="float64"):
    """Uninitialised device memory."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    dtype = dtype_of(dtype)
    memory = Memory(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    return DeviceArray(memory.bytes.view(dtype).reshape(shape), memory)


def device(array):
    """A copy of a NumPy array in device memory, with the same strides order."""
    array = np.asarray(array)
    copy = empty(array.shape, array.dtype)
    copy.view[...] = array
    copy.mark_written()
    return copy
