"""Max-pool with its winner, forward and backward; avg-pool."""

import gradroute as gr

from .common import BACKENDS, DTYPES, LAYOUTS, Benchmark, as_layout, rows, values

ROWS = ["alexnet:max_pool5", "cifar:max_pool1"]


class Pool(Benchmark):
    params = (BACKENDS, DTYPES, LAYOUTS, ROWS)
    param_names = ("backend", "dtype", "layout", "shape")

    def prepare(self, dtype, layout, shape):
        row = rows("pool")[shape]
        window = row["window"]
        options = {"stride": row["stride"], "padding": row["padding"], "layout": layout}
        x = as_layout(values(1, (row["N"], row["C"], row["H"], row["W"]), dtype), layout)
        x = self.send(x)
        y, winner = gr.max_pool(x, window, **options)
        dy = self.send(values(2, y.shape, dtype))
        return {
            "max forward": lambda: gr.max_pool(x, window, **options),
            "max backward": lambda: gr.max_pool_backward(dy, winner, x.shape, window, **options),
            "avg forward": lambda: gr.avg_pool(x, window, **options),
            "avg backward": lambda: gr.avg_pool_backward(dy, x.shape, window, **options),
        }

    def time_max_forward(self, *_):
        self.run("max forward")

    def time_max_backward(self, *_):
        self.run("max backward")

    def time_avg_forward(self, *_):
        self.run("avg forward")

    def time_avg_backward(self, *_):
        self.run("avg backward")


class PoolMemory(Pool):
    """Peak memory of the process, one byte of winner an output included."""

    params = (["numba"], ["float32"], LAYOUTS, ["vgg:max_pool1"])

    def check(self, rest):
        pass

    def peakmem_max_forward(self, *_):
        self.run("max forward")

    def peakmem_max_backward(self, *_):
        self.run("max backward")

    time_max_forward = time_max_backward = time_avg_forward = time_avg_backward = None
