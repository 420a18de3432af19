"""Figures other than time: the error to float64, and the fraction of the machine's ceiling."""

import time

import gradroute as gr

from . import conv
from .common import Benchmark, rows

SHAPES = ["resnet_50:res2a_branch2b", "mobilenet:conv7", "mobilenet:conv5_1/dw", "alexnet:conv2"]
OPERATIONS = ["forward", "dx", "dw"]


class Error(conv.Conv):
    """Relative L2 error of float32 to the reference backend in float64."""

    params = (["numba", "cuda"], ["float32"], ["standard", "strict"], SHAPES[:3], OPERATIONS)
    param_names = ("backend", "dtype", "precision", "shape", "operation")
    unit = "relative L2"
    time_forward = time_dx = time_dw = None

    def prepare(self, dtype, precision, shape, operation):
        calls = super().prepare(dtype, "channels_first", shape)
        return {operation: calls[operation]}

    def check(self, rest):
        pass  # the error is the benchmark

    def track_error(self, backend, dtype, precision, shape, operation):
        with gr.config(precision=precision):
            return self.errors((precision, shape, operation))[operation]


class Ceiling(Benchmark):
    """Time that the roofline allows, divided by the time taken: 1 is as fast as the machine.

    Both ceilings are measured before: multiply-adds in registers, and copying.
    """

    params = (["numba"], ["float32", "float64"], SHAPES, OPERATIONS)
    param_names = ("backend", "dtype", "shape", "operation")
    unit = "fraction of the ceiling"

    def setup_cache(self):
        from gradroute.bench.ceilings import ceilings
        from gradroute.config import available_threads

        return {dtype: ceilings(dtype, available_threads()) for dtype in self.params[1]}

    def setup(self, limits, *chosen):
        super().setup(*chosen)

    def prepare(self, dtype, shape, operation):
        row = rows("conv")[shape]
        x, w, dy, options = conv.conv_arrays(row, dtype)
        self._flops = 2 * dy.size * w[0].size
        self._bytes = x.nbytes + w.nbytes + dy.nbytes
        if operation == "forward":
            return {operation: lambda: gr.conv(x, w, **options)}
        need = (operation[1:],)
        return {operation: lambda: gr.conv_backward(dy, x, w, **options, need=need)}

    def track_fraction(self, limits, backend, dtype, shape, operation):
        limit = limits[dtype]
        allowed = max(self._flops / limit["flops"], self._bytes / limit["bytes"])
        times = []
        for _ in range(10):
            start = time.perf_counter()
            self.run(operation)
            times.append(time.perf_counter() - start)
        return allowed / sorted(times)[len(times) // 2]
