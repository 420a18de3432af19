"""The structures of geometry.cuh and conv.cuh, filled from a call's geometry.

They travel by value; the CPU runner compares their sizes with the compiled kernels'.
"""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_longlong


def _structure(name: str, fields: str):
    kinds = [(field, c_longlong) for field in fields.split()]
    return type(name, (Structure,), {"_fields_": kinds, "__module__": __name__})


Axis = _structure("Axis", "size window out stride dilation before")
Strides = _structure("Strides", "n c d h w")
ColumnStrides = _structure("ColumnStrides", "n c t r s z p q")
Ends = _structure("Ends", "d h w")
Strides3 = _structure("Strides3", "outer row inner")
WeightStrides = _structure("WeightStrides", "group out channel t r s")


class Window(Structure):
    _fields_ = [
        ("batch", c_longlong), ("channels", c_longlong),
        ("d", Axis), ("h", Axis), ("w", Axis),
    ]  # fmt: skip


class Conv(Structure):
    _fields_ = [
        ("batch", c_longlong), ("channels", c_longlong),
        ("out_channels", c_longlong), ("groups", c_longlong),
        ("d", Axis), ("h", Axis), ("w", Axis), ("transposed", c_longlong),
    ]  # fmt: skip


def axes_of(geometry):
    """The three axes of a geometry, (D, H, W)."""
    return [
        Axis(*values)
        for values in zip(
            geometry.size, geometry.window, geometry.out,
            geometry.stride, geometry.dilation, geometry.before,
        )
    ]  # fmt: skip


def window_of(geometry) -> Window:
    """A PoolGeometry as the kernels read it."""
    return Window(geometry.batch, geometry.channels, *axes_of(geometry))


def conv_of(geometry, transposed: bool) -> Conv:
    """A ConvGeometry as the kernels read it: from x to y, or ``transposed`` from dy to dx."""
    source, out = geometry.in_channels, geometry.out_channels
    if transposed:
        source, out = out, source
    groups = geometry.groups
    return Conv(
        geometry.batch, source // groups, out // groups, groups, *axes_of(geometry), transposed
    )


def weight_strides(w, geometry, transposed: bool) -> WeightStrides:
    """Strides of w (K, C/G, T, R, S) by the role of its channels in this direction."""
    k, c, *taps = (step // w.itemsize for step in w.strides)
    group = k * (geometry.out_channels // geometry.groups)
    return WeightStrides(group, *((c, k) if transposed else (k, c)), *taps)


def strides_of(array) -> Strides:
    """Strides of an (N, C, D, H, W) array in elements; zeros for None."""
    if array is None:
        return Strides()
    return Strides(*(step // array.itemsize for step in array.strides))


def c_int(value) -> ctypes.c_int:
    return ctypes.c_int(value)


def c_wide(value) -> c_longlong:
    return c_longlong(value)


def integers_of(array):
    """A 1-D integer array of any dtype as load_integer reads it: pointer, size, sign, step."""
    step = array.strides[0] // array.itemsize
    return array, c_int(array.itemsize), c_int(array.dtype.kind == "i"), c_wide(step)
