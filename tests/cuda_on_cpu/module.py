"""Kernels of one compiled .cu file, called with DeviceArrays."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import re
import subprocess

import numpy as np

from .arrays import DeviceArray
from .build import build

ORDERS = ("ascending", "descending", "random")


class KernelError(RuntimeError):
    """A kernel broke a rule; the message names the rule, the thread and the source line."""


class HostModule:
    """One compilation of a .cu text; the call shape of a loaded CUDA module."""

    def __init__(self, name, text, headers, options):
        self.path = build(name, text, headers, tuple(options))
        self.lib = ctypes.CDLL(str(self.path))
        self.lib.gr_signature.restype = self.lib.gr_error.restype = ctypes.c_char_p
        self.lib.gr_alloc.restype = ctypes.c_void_p
        self.lib.gr_alloc.argtypes = [
            ctypes.c_size_t, ctypes.c_uint, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p
        ]  # fmt: skip
        self.lib.gr_free.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self.lib.gr_launch.argtypes = [
            ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_uint),
            ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t),
            ctypes.c_int, ctypes.c_int, ctypes.c_uint64,
        ]  # fmt: skip

    def kernel(self, name):
        signature = self.lib.gr_signature(name.encode())
        if signature is None:
            raise KernelError(f"no kernel {name!r} in {self.path.name}")
        parameters = [(p[0], int(p[1:])) for p in signature.decode().split()]
        return HostKernel(self, name, parameters, self.lib.gr_bound(name.encode()))

    def message(self):
        """The report of the last launch, with program counters turned into source lines."""
        text = self.lib.gr_error().decode().strip()
        return re.sub(r"@pc=([0-9a-f]+)", lambda m: self._line(m.group(1)), text)

    @functools.lru_cache(maxsize=None)  # noqa: B019 - modules live as long as the session
    def _line(self, address):
        command = ["addr2line", "-e", str(self.path), hex(int(address, 16) - 1)]
        try:
            found = subprocess.run(command, capture_output=True, text=True).stdout
        except OSError:  # no binutils
            found = f"pc {address}"
        return "at " + os.path.basename(found.split(" (")[0].strip())


class _Buffer:
    """A DeviceArray's bytes inside the runner's guarded memory, for one launch."""

    def __init__(self, lib, array, name, read_only):
        self.lib, self.array, self.read_only = lib, array, read_only
        low, high = array.span()
        low -= low % 256  # so that the address keeps its alignment
        self.low, self.states = low, np.zeros(high - low, np.uint8)
        self._elements(self.states)[...] = array.state_view()
        self.address = lib.gr_alloc(
            high - low, array.memory.granule or array.itemsize, name.encode(), read_only,
            self.states.ctypes.data_as(ctypes.c_char_p),
        )  # fmt: skip
        self.bytes = np.ctypeslib.as_array(
            (ctypes.c_uint8 * (high - low)).from_address(self.address)
        )
        self.bytes[...] = array.memory.bytes[low:high]

    def _elements(self, block):
        """The array's elements in a copy of its bytes, one byte at a time: (..., itemsize)."""
        offset = self._start()
        return np.ndarray(
            (*self.array.shape, self.array.itemsize), np.uint8, block, offset,
            (*self.array.strides, 1),
        )  # fmt: skip

    def _start(self):
        data = self.array.view.__array_interface__["data"][0]
        return data - self.array.memory.address - self.low

    @property
    def pointer(self):
        return ctypes.c_void_p(self.address + self._start())

    def finish(self):
        """Copies what the kernel wrote back to the array, and frees the guarded memory."""
        if not self.read_only:
            self._elements(self.array.memory.bytes[self.low :])[...] = self._elements(self.bytes)
        self.bytes = None
        self.lib.gr_free(self.address, self.states.ctypes.data)
        if not self.read_only:
            self.array.state_view()[...] = self._elements(self.states)


class HostKernel:
    """One kernel: ``kernel(blocks, threads, args, order="random")``."""

    def __init__(self, module, name, parameters, bound):
        self.module, self.name, self.parameters, self.bound = module, name, parameters, bound

    def __call__(self, blocks, threads, args, *, order="ascending", seed=1):
        lib, buffers = self.module.lib, []
        self._check_sizes(blocks, threads, args)
        try:
            values = [
                self._value(i, arg, kind, size, buffers)
                for i, (arg, (kind, size)) in enumerate(zip(args, self.parameters))
            ]
            pointers = [ctypes.addressof(value) for value in values]
            failed = lib.gr_launch(
                self.name.encode(), (ctypes.c_uint * 3)(*blocks), (ctypes.c_uint * 3)(*threads), 0,
                (ctypes.c_void_p * len(values))(*pointers),
                (ctypes.c_size_t * len(values))(*map(ctypes.sizeof, values)),
                len(values), ORDERS.index(order), seed,
            )  # fmt: skip
            message = f"{self.name}: {self.module.message()}" if failed else None
        finally:
            for buffer in buffers:
                buffer.finish()
        if failed:
            raise KernelError(message)

    def _check_sizes(self, blocks, threads, args):
        if len(args) != len(self.parameters):
            raise KernelError(f"{self.name}: {len(args)} arguments, {len(self.parameters)} taken")
        if min(*blocks, *threads) < 1 or max(blocks[1:]) > 65535 or threads[2] > 64:
            raise KernelError(f"{self.name}: CUDA has no launch of {blocks} x {threads}")
        if math.prod(threads) > self.bound:
            raise KernelError(
                f"{self.name}: {math.prod(threads)} threads, __launch_bounds__ is {self.bound}"
            )

    def _value(self, i, arg, kind, size, buffers):
        """One argument as the ctypes value whose bytes the kernel receives."""
        if kind in "pP":
            if arg is None:
                return ctypes.c_void_p(0)
            if not isinstance(arg, DeviceArray):
                given = type(arg).__name__
                raise KernelError(f"{self.name}: argument {i} is {given}, not a device array")
            if not arg.size:
                return ctypes.c_void_p(0)
            buffers.append(_Buffer(self.module.lib, arg, f"argument {i}", kind == "p"))
            return buffers[-1].pointer
        fits = {"i": "bBhHiIlLqQ", "f": "fd"}.get(kind)
        letter = getattr(arg, "_type_", "S") if isinstance(arg, ctypes._SimpleCData) else "S"
        if not isinstance(arg, (ctypes.Structure, ctypes._SimpleCData)) or (
            ctypes.sizeof(arg) != size or letter not in (fits or "S")
        ):
            known = hasattr(arg, "_fields_") or letter != "S"
            raise KernelError(
                f"{self.name}: argument {i} is {type(arg).__name__} of "
                f"{ctypes.sizeof(arg) if known else '?'} bytes, the kernel takes {kind}{size}"
            )
        return arg
