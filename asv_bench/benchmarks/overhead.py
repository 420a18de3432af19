"""What a call costs beside its arithmetic: import, compilation, and the layers above a kernel."""

import os
import subprocess
import sys
import tempfile

import numpy as np

import gradroute as gr

_FIRST_CALL = """
import os, time
import numpy as np, numba
import gradroute as gr
x, w = np.ones((2, 3, 9, 9), np.float32), np.ones((4, 3, 3, 3), np.float32)
y, dy = np.ones((2, 4, 7, 7), np.float32), np.ones((2, 4, 7, 7), np.float32)
winner = np.zeros((2, 3, 4, 4), np.uint8)
calls = {
    "conv": lambda: gr.conv(x, w),
    "conv_backward": lambda: gr.conv_backward(dy, x, w),
    "max_pool": lambda: gr.max_pool(x, 2),
    "max_pool_backward": lambda: gr.max_pool_backward(
        np.ones((2, 3, 4, 4), np.float32), winner, x.shape, 2),
    "linear": lambda: gr.linear(np.ones((3, 5), np.float32), np.ones((4, 5), np.float32)),
    "scatter_add": lambda: gr.scatter_add(np.zeros(9, np.float32), np.arange(5),
                                          np.ones(5, np.float32)),
}
start = time.perf_counter()
calls[os.environ["BENCHMARK_CALL"]]()
print(time.perf_counter() - start)
"""


class Import:
    """A new process."""

    def timeraw_gradroute(self):
        return "import gradroute"

    def timeraw_numba_alone(self):
        return "import numba"


class FirstCall:
    """Seconds of an operation's first call in a new process, imports aside."""

    params = (
        ["conv", "conv_backward", "max_pool", "max_pool_backward", "linear", "scatter_add"],
        ["cold", "cached"],
    )
    param_names = ("operation", "cache")
    unit = "s"
    timeout = 300

    def setup(self, operation, cache):
        self._folder = tempfile.TemporaryDirectory()
        if cache == "cached":
            self._first(operation)

    def teardown(self, operation, cache):
        self._folder.cleanup()

    def _first(self, operation):
        environment = dict(
            os.environ, NUMBA_CACHE_DIR=self._folder.name, BENCHMARK_CALL=operation
        )
        done = subprocess.run(
            [sys.executable, "-c", _FIRST_CALL], env=environment, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    def track_seconds(self, operation, cache):
        return self._first(operation)


class TinyCalls:
    """Inputs so small that the layers above the kernel are most of the call."""

    warmup_time = 0.1

    def setup(self):
        ones = np.ones
        self.x, self.w = ones((1, 1, 8, 8), np.float32), ones((1, 1, 3, 3), np.float32)
        self.y = gr.conv(self.x, self.w)
        assert self.y.shape == (1, 1, 6, 6) and (self.y == 9).all()
        self.pooled, self.winner = gr.max_pool(self.x, 2)
        assert (self.winner == 0).all()
        self.v, self.m = ones((1, 4), np.float32), ones((4, 4), np.float32)
        assert (gr.linear(self.v, self.m) == 4).all()
        gr.conv_backward(self.y, self.x, self.w)
        gr.max_pool_backward(self.pooled, self.winner, self.x.shape, 2)
        self.out, self.index = np.zeros(4, np.float32), np.arange(4)
        gr.scatter_add(self.out, self.index, self.v[0])
        assert (self.out == 1).all()

    def time_conv(self):
        gr.conv(self.x, self.w)

    def time_conv_backward(self):
        gr.conv_backward(self.y, self.x, self.w)

    def time_max_pool(self):
        gr.max_pool(self.x, 2)

    def time_max_pool_backward(self):
        gr.max_pool_backward(self.pooled, self.winner, self.x.shape, 2)

    def time_linear(self):
        gr.linear(self.v, self.m)

    def time_scatter_add(self):
        gr.scatter_add(self.out, self.index, self.v[0])

    def time_plan(self):
        gr.plan("conv", self.x, self.w)
