"""The look-alike of kernels/cuda/cupy_runtime.py: the same methods, on the CPU."""

from __future__ import annotations

import contextlib
import threading
import time

from . import arrays, library
from .build import CompileError, CompilerMissing, build
from .module import HostModule


class HostRuntime:
    """Pass it to ``gradroute.kernels.cuda.launch.use_runtime``.

    order, seed: in which order threads and blocks run, "ascending", "descending" or "random".
    """

    multiprocessors = 4
    capability = (8, 0)
    device_name = "CPU runner"
    _modules = {}

    def __init__(self, order="ascending", seed=1):
        self.order, self.seed = order, seed
        self.launched = []  # kernel names, in order
        self.flags, self.late = [], False
        self.module = library.make()

    def available(self):
        return None

    def array_module(self):
        return self.module

    def to_device(self, array):
        return arrays.device(array)

    def to_host(self, array):
        return array.get()

    def scratch(self, size):
        made = arrays.empty(size + size % 2, "uint8")
        made.memory.granule = 2  # bytes to the host, numbers of 2 to 8 bytes to the kernels
        return made

    def synchronize(self):
        pass

    def record_flag(self, flag):
        self.flags.append(flag)

    def flag_value(self, flag, wait):
        """None as long as ``late`` says that the device has not come that far."""
        assert any(flag is one for one in self.flags), "a flag without its event"
        return None if self.late and not wait else int(flag)

    def timed(self, run):
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3

    def function(self, file, opts, kernel):
        from gradroute.kernels.cuda import launch

        text, headers = launch.source(file), launch.headers()
        key = (file, opts, text)
        if key not in self._modules:
            self._modules[key] = HostModule(file, text, headers, opts)
        host = self._modules[key].kernel(kernel)

        def call(blocks, threads, args):
            self.launched.append(kernel)
            host(blocks, threads, args, order=self.order, seed=self.seed)

        return call


def build_ahead():
    """Starts compiling what a whole test run needs, on another core while the tests run."""

    def work():
        from gradroute.kernels.cuda import launch, plans

        with contextlib.suppress(CompilerMissing, CompileError):  # the test that needs it will say
            for dtype in launch.REALS:
                for file, dtypes, variants in plans.COMPILATIONS:
                    if dtype in dtypes:
                        opts = launch.options(dtype, **variants[0])
                        build(file, launch.source(file), launch.headers(), opts)

    threading.Thread(target=work, daemon=True).start()
