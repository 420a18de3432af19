"""What a call costs beside its arithmetic: import, compilation, and the layers above a kernel."""

import pathlib

import numpy as np

import gradroute as gr

OPERATIONS = ["conv", "conv_dx", "conv_dw", "max_pool", "max_pool_backward", "linear",
              "scatter_add"]  # fmt: skip


class Import:
    """A new process."""

    def timeraw_gradroute(self):
        return "import gradroute"

    def timeraw_numba_alone(self):
        return "import numba"


class FirstCall:
    """Processor seconds of `import gradroute` and an operation's first call in a new process.

    numpy and numba are imported before.  Cold is the call that compiles.
    """

    params = (OPERATIONS, ["cold", "cached"])
    param_names = ("operation", "cache")
    unit = "s"
    timeout = 600

    def setup_cache(self):
        """Compiles each operation once, into a folder of its own: {operation: seconds}."""
        return {operation: self._first(operation) for operation in OPERATIONS}

    setup_cache.timeout = 600

    def _first(self, operation):
        from gradroute.bench.itself import first_call

        return first_call(operation, pathlib.Path.cwd() / operation)  # asv's: the same one for all

    def track_seconds(self, cold, operation, cache):
        return cold[operation] if cache == "cold" else self._first(operation)


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
