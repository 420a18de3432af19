"""scatter_add on the GPU: see scatter.cu."""

from __future__ import annotations

from .launch import checked, flag_argument, launch_each, needs_wide, new_flag, options, runtime
from .structures import Strides3, c_int, c_wide, integers_of

_MODES = ("raise", "wrap", "clip")  # in the order of scatter.cu


def check_index(rows, index, size, mode, plan, workspace):
    bad = new_flag()
    args = (bad, rows, *integers_of(index), c_wide(size), c_int(_MODES.index(mode)))
    opts = options(wide=needs_wide(None, index))
    launch_each("scatter", "check_index", index.size, args, opts=opts)
    return checked(bad)


def scatter_add(out, rows, src, bad, geometry, plan, workspace):
    order = runtime().array_module().argsort(rows, kind="stable")
    args = (
        out, _strides(out), rows, order, src, _strides(src), flag_argument(bad),
        c_wide(geometry.count), c_wide(geometry.inner),
    )  # fmt: skip
    opts = options(out.dtype.name, needs_wide(None, out, src))
    launch_each("scatter", "scatter_add_sorted", src.size, args, opts=opts)


def scatter_add_atomic(out, rows, src, bad, geometry):
    """scatter_add by atomics, for float32 and float64: bits may differ from run to run.

    No public function uses it; it is here to be measured beside the deterministic one.
    """
    args = (
        out, _strides(out), rows, src, _strides(src), flag_argument(bad),
        c_wide(geometry.count), c_wide(geometry.inner),
    )  # fmt: skip
    opts = options(out.dtype.name, needs_wide(None, out, src))
    launch_each("scatter_atomic", "scatter_add_atomic", src.size, args, opts=opts)


def _strides(array):
    return Strides3(*(step // array.itemsize for step in array.strides))
