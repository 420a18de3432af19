"""Integer arrays on their way to a kernel: indices, labels, winners."""

from __future__ import annotations

import numpy as np

from .. import dispatch
from ..config import config
from ..errors import IndexRangeError
from .call import Call, readable
from .checks import raise_pending


class IntegerCall(Call):
    """A call without float arrays; plans are made for float32, which nothing depends on."""

    __slots__ = ()

    def __init__(self, array, name):
        self.settings = config.current()
        self.library = dispatch.library_of(array, name)
        backend = dispatch.name_for(self.library)
        self.backend = dispatch.load(backend)
        self.moved = backend == "cuda" and self.library == "numpy"
        self.dtype, self.compute, self._as_is = array.dtype, "float32", True
        self.inputs = [array]
        self._out = []
        raise_pending(wait=False)


def narrowed(call, array, dtype, below):
    """An integer array in the dtype that the kernels read, on their device.

    ``below``: values must be in 0..below-1 to survive the cast; the check here reads only arrays
    of another dtype than the kernels', whose values the cast could change.
    """
    wanted = np.dtype(dtype)
    if array.dtype == wanted:
        return carried(call, array)
    if below is not None and array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= below:
            raise IndexRangeError(
                f"winner must name one of the window's {below} taps, 0..{below - 1}, got values "
                f"from {low} to {high}"
            )
    return carried(call, array.astype(wanted))


def carried(call, array):
    """The array aligned, as a plain array, and on the device that computes."""
    if call.library == "numpy":
        if not readable(array):
            array = np.array(array, order="C")
        array = array if type(array) is np.ndarray else array.view(np.ndarray)
    return call.backend.to_device(array) if call.moved else array
