"""One call's arrays on their way down to a kernel and back.

A `Call` knows which backend serves it, which dtype the caller uses and which one the kernels
compute in.  Inputs go down with `input` (copied only when the kernel could not read them),
results come back with `result` and `finish`.
"""

from __future__ import annotations

import numpy as np

from .. import alignment, dispatch
from ..config import config
from ..errors import ArgumentTypeError, ArgumentValueError, WorkspaceError
from .checks import raise_pending

_FLOATS = ("float64", "float32", "float16", "bfloat16")
_NATIVE = {np.dtype("float32"): "float32", np.dtype("float64"): "float64"}
_KINDS = {"i": "an integer", "u": "an integer", "b": "a bool", "c": "a complex", "O": "an object"}


def float_dtype(dtype, name: str) -> str:
    """The name of a float dtype this package computes in; others are refused."""
    found = _NATIVE.get(dtype)
    if found is not None:
        return found
    if not dtype.isnative:
        raise ArgumentTypeError(
            f"{name} is byte-swapped ({dtype}); pass {name}.astype({name}.dtype.newbyteorder('='))"
        )
    if dtype.name not in _FLOATS:
        kind = _KINDS.get(dtype.kind, "an unsupported")
        raise ArgumentTypeError(
            f"{name} must be float32, float64, float16 or bfloat16, got {kind} array of dtype "
            f"{dtype.name}; pass {name}.astype(np.float32)"
        )
    return dtype.name


def mixed_dtypes(first: str, array, name: str, other) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"{first} is {array.dtype} and {name} is {other.dtype}: all float arrays of a call must "
        f"share one dtype; pass {name}.astype({first}.dtype)"
    )


class Call:
    """One call of a public function on float arrays of one dtype and one library."""

    __slots__ = ("library", "backend", "dtype", "compute", "settings", "moved", "inputs", "_as_is",
                 "_out")  # fmt: skip

    #: the whole call in one function, where one was made ready (settled.py)
    at_once = None

    def __init__(self, arrays: dict, optional=(), **others):
        """``arrays`` are the float arrays by argument name; others may be of any dtype.

        Those named in ``optional`` may be None: not given.
        """
        self.settings = config.current()
        names = iter(arrays.items())
        first, array = next(names)
        self.library = dispatch.library_of(array, first)
        self.dtype = array.dtype
        kind = float_dtype(array.dtype, first)
        for name, other in names:
            if other is None and name in optional:
                continue
            if type(other) is not np.ndarray or self.library != "numpy":
                dispatch.library_of(other, name)
                dispatch.common_library({first: array, name: other})
            if other.dtype != self.dtype:
                float_dtype(other.dtype, name)
                raise mixed_dtypes(first, array, name, other)
        if others:
            dispatch.common_library({first: array, **others})
        backend = dispatch.name_for(self.library)
        self.backend = dispatch.load(backend)
        self.moved = backend == "cuda" and self.library == "numpy"
        # Numba has no 16-bit floats: on the CPU they are computed in float32 and rounded once.
        self.compute = kind if backend == "cuda" or kind in ("float32", "float64") else "float32"
        self._as_is = self.compute == kind
        self.inputs = [a for a in (*arrays.values(), *others.values()) if a is not None]
        self._out = []
        raise_pending(wait=False)

    # ---- down -----------------------------------------------------------------------------

    def input(self, array):
        """The array as the kernels read it: their dtype, aligned, on their device."""
        if array is None:
            return None
        if self.library == "numpy":
            if type(array) is not np.ndarray:
                array = array.view(np.ndarray)
            if not self._as_is:
                array = array.astype(self.compute)
            elif not readable(array):
                array = np.array(array, order="C")
        return self.backend.to_device(array) if self.moved else array

    def even(self, array, needed=True):
        """``input``, and a copy where the last axis has gaps between its elements.

        Sums along it would go through other instructions, in another order: the same numbers are
        to give the same bits wherever they lie.
        """
        return self._lying(array, _even) if needed else self.input(array)

    def whole(self, array):
        """``input``, and a copy where the array is not one piece of memory: as `even`."""
        return self._lying(array, _whole)

    def _lying(self, array, right):
        """``input``, or a copy of an array that does not lie ``right``."""
        array = self.input(array)
        return array if right(array) else self.device_library.array(array, order="C")

    def empty(self, shape, dtype=None):
        """New memory where the kernels compute, of their dtype unless another is named."""
        dtype = dtype or self.compute
        new = self.device_library
        try:
            return (alignment if new is np else new).empty(shape, dtype)
        except ValueError:
            raise ArgumentValueError(
                f"an array of shape {tuple(shape)} and dtype {dtype} has more bytes than 64 bits "
                "can count"
            ) from None
        except MemoryError:
            raise WorkspaceError(
                f"there is not enough memory for an array of shape {tuple(shape)} and dtype {dtype}"
            ) from None

    @property
    def device_library(self):
        """The array library of the memory that the kernels compute in."""
        return np if self.library == "numpy" and not self.moved else self.backend.array_module()

    @property
    def caller_library(self):
        """The array library of the caller's own arrays."""
        return np if self.library == "numpy" else self.backend.array_module()

    def plan(self, operation: str, geometry):
        """How one kernel call is served, within config.workspace_limit."""
        plan = self.backend.plan(operation, geometry, self.compute, self.settings)
        limit = self.settings.workspace_limit
        if limit is not None and plan.workspace_bytes > limit:
            raise WorkspaceError(
                f"{operation} needs {plan.workspace_bytes} bytes of workspace, config."
                f"workspace_limit is {limit}"
            )
        return plan

    def workspace(self, plan):
        """The scratch memory of one kernel call, its last argument; the plan is the one before."""
        return self.backend.workspace(plan) if plan.workspace_bytes else None

    def scratch(self, operation: str, geometry):
        """The plan and the workspace of one kernel call, its last two arguments."""
        plan = self.plan(operation, geometry)
        return plan, self.workspace(plan)

    # ---- back -----------------------------------------------------------------------------

    def result(self, shape, out=None, name="out", dtype=None, even=False, whole=False):
        """Memory for a result: the caller's ``out`` where the kernel can write to it directly.

        ``even``: not to one whose last axis has gaps; ``whole``: not to one with any (see the
        methods of these names).
        """
        wanted = self.dtype if dtype is None else np.dtype(dtype)
        made, direct = None, False
        if out is not None:
            self._check_out(out, shape, wanted, name)
            direct = (
                not self.moved
                and (dtype is not None or self._as_is)
                and (self.library != "numpy" or readable(out))
                and not (even and not _even(out))
                and not (whole and not _whole(out))
                and not any(self._overlap(out, other) for other in self.inputs)
            )
        if direct:
            made = out if type(out) is np.ndarray or self.library != "numpy" else np.asarray(out)
        else:
            made = self.empty(shape, dtype)
        self._out.append((made, out, wanted, direct))
        return made

    def _check_out(self, out, shape, dtype, name):
        if dispatch.library_of(out, name) != self.library:
            raise ArgumentTypeError(f"{name} must be a {self.library} array, as the inputs are")
        if out.dtype != dtype:
            raise ArgumentTypeError(f"{name} must have dtype {dtype}, got {out.dtype}")
        if out.shape != tuple(shape):
            raise ArgumentValueError(f"{name} must have shape {tuple(shape)}, got {out.shape}")
        if self.library == "numpy" and not out.flags.writeable:
            raise ArgumentValueError(f"{name} is read-only")
        if overlaps_itself(out):
            raise ArgumentValueError(f"{name} has elements that share memory (a broadcast view)")
        if any(other is not None and self._overlap(out, other) for _, other, _, _ in self._out):
            raise ArgumentValueError(f"{name} shares memory with another result of this call")

    def _overlap(self, one, other) -> bool:
        return bool(self.caller_library.may_share_memory(one, other))

    def finish(self, made):
        """The caller's view of one result: in its dtype and library, in ``out`` if it was given."""
        for one, out, dtype, direct in self._out:  # half the time of next() over a generator
            if one is made:
                break
        if direct:
            return out
        value = self.backend.to_host(made) if self.moved else made
        if out is None and value.dtype == dtype:
            return value
        with np.errstate(all="ignore"):  # beyond 16 bits' range lies infinity
            if out is None:
                return value.astype(dtype)
            out[...] = value
            return out

    def finish_all(self, *made):
        """finish() for several results; None stays None."""
        # what takes memory comes before what writes to an out
        done = {None: None}
        for given in (False, True):
            for one, out, _, _ in self._out:
                if (out is not None) is given:
                    done[id(one)] = self.finish(one)
        return tuple([done[None if one is None else id(one)] for one in made])


class Steps:
    """The kernel calls of one public call, run when all of them have their memory.

    A MemoryError then comes before anything has been written to an ``out``.
    """

    __slots__ = ("_steps",)

    def __init__(self):
        self._steps = []

    def add(self, kernel, *arguments):
        self._steps.append((kernel, arguments))

    def run(self):
        for kernel, arguments in self._steps:
            kernel(*arguments)


def _even(array) -> bool:
    return array.ndim == 0 or array.shape[-1] == 1 or array.strides[-1] == array.itemsize


def _whole(array) -> bool:
    """Is the array one piece of memory?"""
    return array.flags.c_contiguous


def readable(array) -> bool:
    """Is every element aligned, and a whole number of elements away from the first?

    Not so for a view at an odd address, or a field of a packed record.
    """
    flags = array.flags
    if not flags.aligned:
        return False
    if flags.c_contiguous:
        return True
    size = array.itemsize
    return not any(stride % size for stride in array.strides)


def overlaps_itself(array) -> bool:
    """Might two elements of the array share memory?  Exact for slices, transposes, broadcasts."""
    if array.flags.c_contiguous or array.size <= 1:
        return False
    axes = sorted((abs(step), n) for step, n in zip(array.strides, array.shape) if n > 1)
    reach = array.itemsize
    for step, n in axes:
        if step < reach:
            return True
        reach += step * (n - 1)
    return False
