"""The only place that compiles: a body, a serial and a parallel build for each dtype, on first use.

A kernel is a plain function with `prange` over disjoint pieces of its outputs, so its bits do not
depend on how many threads share the pieces:

    @kernel(lambda F: (out(F, 1), array(F, 1), int64))
    def double(y, x, count):
        for i in prange(count):
            store(y, i, 2 * load(x, i))

    double(y.dtype, plan.threads, y, x, count)

`double.build("float32", parallel=False)` is the Numba function itself; other @njit code may call
it.  Explicit signatures give one build a dtype, whatever the memory layout, read-only or not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from functools import partial

import numba
from numba import float32, float64, int64, prange, types  # noqa: F401  (prange: for the kernels)
from numba.np.ufunc import parallel as numba_threads

from .cache import KernelCache
from .libraries import PartCompiler, WholeCompiler

boolean = types.boolean
triple = types.UniTuple(int64, 3)

#: every kernel of this backend, in order of definition: what `gradroute warmup` compiles
KERNELS: list[Kernel] = []

# error_model numpy: a division by zero gives inf, and needs no branch that stops vectorisation.
# No fastmath flag is used anywhere: each of them changes NaN, infinities, signed zeros or bits.
_OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False, "no_cfunc_wrapper": True}
#: only kernels are called from Python: the wrappers of helpers took a sixth of compiling
_WITHIN = {**_OPTIONS, "no_cpython_wrapper": True}


def array(dtype, ndim):
    """An input: any strides, read-only or not."""
    return types.Array(_numba_type(dtype), ndim, "A", readonly=True)


def out(dtype, ndim):
    """An output: any strides."""
    return types.Array(_numba_type(dtype), ndim, "A")


def _numba_type(dtype):
    return getattr(types, dtype) if isinstance(dtype, str) else dtype


def helper(function):
    """A function that kernels call; it is compiled into them and has no build of its own."""
    return numba.njit(pipeline_class=PartCompiler, **_WITHIN)(function)


def inlined(function):
    """A helper for inner loops: never a call, which would pass each array as fifteen words."""
    return numba.njit(forceinline=True, pipeline_class=PartCompiler, **_WITHIN)(function)


class Kernel:
    """A body and its builds.  ``variants`` are the dtype tuples that warmup compiles."""

    def __init__(self, body, signature, variants):
        self.name = body.__name__
        self.__doc__ = body.__doc__
        self.variants = variants
        self._body = body
        self._signature = signature
        self._builds = {}
        self._entries = {}
        KERNELS.append(self)

    def build(self, variant, parallel: bool):
        """The Numba function for one variant: a dtype or its name, or a tuple of them."""
        found = self._builds.get((variant, parallel))
        return found if found is not None else self._compile(variant, parallel)

    def _compile(self, variant, parallel):
        dtypes = variant if isinstance(variant, tuple) else (variant,)
        dtypes = tuple(one if isinstance(one, str) else one.name for one in dtypes)
        with _compiling, _uninterrupted():
            if (dtypes, parallel) in self._builds:
                self._builds[variant, parallel] = self._builds[dtypes, parallel]
                return self._builds[dtypes, parallel]
            signature = types.void(*self._signature(*dtypes))
            dispatcher = numba.njit(
                parallel=parallel, pipeline_class=WholeCompiler, **_OPTIONS
            )(self._body)
            module = self._body.__module__.rpartition(".")[2]
            mode = "parallel" if parallel else "serial"
            dispatcher._cache = KernelCache(f"{module}.{self.name}.{mode}", self._body)
            dispatcher.compile(signature)
            dispatcher.disable_compile()
            self._builds[dtypes, parallel] = self._builds[variant, parallel] = dispatcher
            return dispatcher

    def entry(self, variant, parallel):
        """The compiled function itself: the dispatcher would only look for its one signature,

        at a microsecond for every NamedTuple among the arguments.
        """
        (compiled,) = self.build(variant, parallel).overloads.values()
        entry = self._entries[variant, parallel] = compiled.entry_point
        return entry

    def __call__(self, variant, threads, *arguments):
        parallel = threads != 1 and may_share()
        entry = self._entries.get((variant, parallel)) or self.entry(variant, parallel)
        if parallel:
            call_parallel(entry, threads, arguments)
        else:
            entry(*arguments)


def call_parallel(build, threads, arguments):
    """Runs a parallel build with ``threads`` threads, and leaves Numba's own setting as it was.

    The threads have been started (`may_share`): `numba.get_num_threads` would make sure of it at
    every call, in half a microsecond.
    """
    threads = min(threads, numba.config.NUMBA_NUM_THREADS)
    before = numba_threads._get_num_threads()
    if before == threads:
        build(*arguments)
        return
    numba.set_num_threads(threads)
    try:
        build(*arguments)
    finally:
        numba.set_num_threads(before)


@contextlib.contextmanager
def _uninterrupted():
    """Ctrl-C waits until a kernel is complete, if Python's main thread, which it reaches, compiles.

    In the middle of it, it can leave Numba's tables without what they list, and every later call
    fails; or a callback of LLVM's swallows it.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda *given: came.append(given))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[-1])


# ---- which thread of which process may share its work -------------------------------------

_compiling = threading.RLock()
_layer = None  # Numba's threading layer, once it is known; "none" where there is none


def may_share() -> bool:
    """May this thread run a parallel build?  Both builds of a kernel give the same bits.

    Not in a child that was forked after the threads were started: GNU OpenMP ends the process
    there.  Under workqueue, which ends the process when two threads share their work at once,
    only the main thread may.
    """
    if _layer == "omp" or _layer == "tbb":
        return True
    if _layer is None:
        _find_layer()
        return may_share()
    return _layer == "workqueue" and threading.get_ident() == threading.main_thread().ident


def _find_layer():
    """Starts Numba's threads, as the first parallel call would."""
    global _layer
    with _compiling:
        if _layer is not None:
            return
        try:
            numba.get_num_threads()
            _layer = numba.threading_layer()
        except ValueError as error:  # the layer that was asked for is not installed
            _layer = "none"
            warnings.warn(
                f"gradroute: kernels run on one thread: {error}", RuntimeWarning, stacklevel=2
            )


def _before_fork():
    """A child must not inherit a compiler that is half way through a function."""
    _fork_waits.append(_compiling.acquire(timeout=60))


def _after_fork_in_parent():
    if _fork_waits.pop():
        _compiling.release()


def _after_fork_in_child():
    global _layer, _compiling
    _fork_waits.clear()
    _compiling = threading.RLock()
    if _layer is not None or getattr(numba_threads, "_is_initialized", True):
        _layer = "none"


_fork_waits = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


FLOATS = ("float32", "float64")
#: floats beside the winners of windows of up to 256 taps
WITH_WINNER = tuple((name, "uint8") for name in FLOATS)


def kernel(signature, variants=FLOATS):
    """Decorator: ``signature`` maps dtypes to the Numba types of the body's arguments."""
    return lambda body: Kernel(body, signature, variants)


def bound(kernel, threads, variant):
    """``kernel`` of settled dtypes and threads, for calls that are made again and again.

    A function of its arguments; with one thread it is the compiled one itself.
    """
    if threads > 1:
        return partial(kernel, variant, threads)
    return kernel.entry(variant, False)
