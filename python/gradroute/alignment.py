"""New memory that begins where a cache line does.

NumPy's own begins 16 bytes behind such a place, so that where rows are whole lines every 64-byte
store of a vector crosses from one line to the next.
"""

from __future__ import annotations

import ctypes
import math

import numpy as np

from .kept_memory import KEPT_FROM, lent

LINE = 64

#: Results below this many bytes stay in the cache; finding the line takes half a microsecond.
ALIGNED_FROM = 256 * 1024


def aligned_array(shape, dtype: np.dtype) -> np.ndarray:
    """A new C-contiguous array, its first element at a multiple of 64 bytes."""
    size = math.prod(shape) * dtype.itemsize + LINE
    memory = np.empty(size, np.uint8) if size < KEPT_FROM else lent(size)
    # by way of a ctypes object: half the time of memory.ctypes or its __array_interface__
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % LINE
    return np.ndarray(shape, dtype, memory, start)


def empty(shape, dtype) -> np.ndarray:
    """np.empty, at a multiple of 64 bytes where the array is large."""
    dtype = np.dtype(dtype)
    if ALIGNED_FROM <= math.prod(shape) * dtype.itemsize < 2**62:  # np.empty tells of more
        return aligned_array(shape, dtype)
    return np.empty(shape, dtype)
