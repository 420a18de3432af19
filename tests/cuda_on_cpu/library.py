"""The look-alike of the ``cupy`` module: the functions that the package calls, on DeviceArrays."""

from __future__ import annotations

import time
import types

import numpy as np

from .arrays import DeviceArray, device, empty


def _full(shape, value, dtype):
    made = empty(shape, dtype)
    made[...] = value
    return made


def _zeros(shape, dtype="float64"):
    return _full(shape, 0, dtype)


def _asarray(array, dtype=None):
    if isinstance(array, DeviceArray):
        return array if dtype is None else array.astype(dtype)
    return device(np.asarray(array, dtype))


def _argsort(keys, kind=None):
    return device(np.argsort(keys.written(), kind="stable"))  # as CuPy's, whatever the kind


def _matmul(a, b, out=None):
    """cuBLAS sums 16-bit products in float32."""
    a, b = a.written(), b.written()
    wide = np.float32 if a.dtype.itemsize == 2 else a.dtype
    with np.errstate(all="ignore"):
        product = (a.astype(wide) @ b.astype(wide)).astype(a.dtype)
    if out is None:
        return device(product)
    out[...] = product
    return out


class _Event:
    """A moment on the host's clock: kernels have run when their launch returns."""

    done = True

    def record(self):
        self.moment = time.perf_counter()

    def synchronize(self):
        pass


def _elapsed_ms(start, stop):
    return (stop.moment - start.moment) * 1e3


def make():
    """A module to put in sys.modules["cupy"], or to hand out as the array module."""
    module = types.ModuleType("cupy")
    module.ndarray = DeviceArray
    module.empty, module.full, module.zeros = empty, _full, _zeros
    module.asarray, module.asnumpy = _asarray, lambda array: array.get()
    module.argsort, module.matmul = _argsort, _matmul
    module.broadcast_to = lambda a, shape: DeviceArray(np.broadcast_to(a.view, shape), a.memory)
    module.may_share_memory = lambda a, b: np.may_share_memory(a.view, b.view)
    module.cuda = types.SimpleNamespace(Event=_Event, get_elapsed_time=_elapsed_ms)
    return module
