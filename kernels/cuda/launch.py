"""The one door to the device: every kernel of this backend is compiled and started through here.

An operation's host code says ``launch("max_pool", "max_pool_forward", blocks, threads, args)``
and knows nothing of streams, caches or libraries.  Behind the door stands a runtime:
`cupy_runtime.CupyRuntime` on a machine with a GPU.  The tests put another in its place with
`use_runtime`, which runs the same .cu files on the CPU, so that everything on this side of the
door is executed without a GPU.
"""

from __future__ import annotations

import ctypes
import importlib.resources
import math
from contextlib import contextmanager
from functools import cache

from ..contract import Plan

#: offsets from here on are 64-bit: below, position + one grid's stride fits 31 bits
WIDE_FROM = 1 << 30
#: blocks of a grid-stride launch; each thread takes several elements beyond that
LARGEST_GRID = 1 << 16
#: threads per block of element-wise kernels
THREADS = 256

#: dtype name -> the C++ type of device.cuh
REALS = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "b16"}

_runtime = None


def runtime():
    """The runtime in use; CuPy's is made on first use, so that importing needs no CuPy."""
    global _runtime
    if _runtime is None:
        from .cupy_runtime import CupyRuntime

        _runtime = CupyRuntime()
    return _runtime


@contextmanager
def use_runtime(other):
    """Every launch inside the block goes to ``other``: the hook that the tests use.

    ``other`` has the methods of `cupy_runtime.CupyRuntime`.
    """
    global _runtime
    before, _runtime = _runtime, other
    try:
        yield other
    finally:
        _runtime = before


# ---- sources ------------------------------------------------------------------------------


@cache
def headers() -> dict:
    """Name -> text of every .cuh file of this folder."""
    return {
        entry.name: entry.read_text()
        for entry in importlib.resources.files(__package__).iterdir()
        if entry.name.endswith(".cuh")
    }


@cache
def source(name: str) -> str:
    """The text of a .cu file of this folder, named without its ending."""
    return (importlib.resources.files(__package__) / f"{name}.cu").read_text()


def options(dtype: str = "float32", wide: bool = False, **defines) -> tuple:
    """The -D options that choose one compilation of a source file."""
    chosen = [f"-DGR_REAL={REALS[dtype]}"]
    if wide:
        chosen.append("-DGR_WIDE")
    return (*chosen, *(f"-DGR_{name.upper()}={value}" for name, value in sorted(defines.items())))


# ---- sizes --------------------------------------------------------------------------------


def needs_wide(geometry, *arrays) -> bool:
    """Could an offset, an index or a position of this call leave 31 bits?"""
    positions = (0, 0, 0)  # how far from the first element windows reach, on (D, H, W)
    if geometry is not None:
        axes = zip(
            geometry.size, geometry.window, geometry.out,
            geometry.stride, geometry.dilation, geometry.before,
        )  # fmt: skip
        positions = [
            size + before + out * stride + window * dilation
            for size, window, out, stride, dilation, before in axes
        ]
        if max(geometry.taps, *positions) >= WIDE_FROM:
            return True
    return any(_reach(a, positions) >= WIDE_FROM for a in arrays if a is not None)


def _reach(array, positions) -> int:
    """The largest offset that a kernel may form in this array, also where it then reads nothing."""
    last = [n - 1 for n in array.shape]
    if array.ndim == 5:
        last[2:] = map(max, last[2:], positions)
    span = sum(abs(step) * n for step, n in zip(array.strides, last) if n > 0)
    return max(array.size, span // array.itemsize + 1)


def blocks_for(total: int, threads: int = THREADS) -> int:
    """Blocks of a grid-stride launch over ``total`` elements."""
    return min(-(-total // threads), LARGEST_GRID)


# ---- launching ----------------------------------------------------------------------------


def launch(file, kernel, blocks, threads, args, *, opts=()):
    """Starts ``kernel`` of ``file``.cu on the current stream, without waiting for it.

    blocks: an int or up to three; threads: an int.  args: device arrays, ctypes scalars and
    structures, None for a null pointer.  A grid without blocks is not started.
    """
    blocks = (blocks,) if isinstance(blocks, int) else tuple(blocks)
    blocks = (*blocks, 1, 1)[:3]
    if math.prod(blocks) == 0:
        return
    if math.prod(blocks[1:]) and max(blocks[1:]) > 65535:
        raise ValueError(f"{kernel}: {blocks} blocks exceed what CUDA allows on axes 1 and 2")
    runtime().function(file, opts, kernel)(blocks, (threads, 1, 1), args)


def launch_each(file, kernel, total, args, *, opts=(), threads=THREADS):
    """Starts an element-wise kernel, whose last parameter is the number of elements."""
    args = (*args, ctypes.c_longlong(total))
    launch(file, kernel, blocks_for(total, threads), threads, args, opts=opts)


def new_flag():
    """A value check's result before the check: -1, which is also the largest unsigned number."""
    return runtime().array_module().full((), -1, "int64")


def checked(bad):
    """A value check's flag, after its kernel was started: remembers when it can be read."""
    runtime().record_flag(bad)
    return bad


def flag_argument(bad):
    """``bad`` as a kernel takes it: a device flag, or a null pointer for "nothing is bad"."""
    return None if isinstance(bad, int) else bad


def plan_of(operation, algorithm="gather", workspace_bytes=0, **blocking) -> Plan:
    """A plan of this backend."""
    return Plan("cuda", operation, algorithm, workspace_bytes, 1, blocking)
