"""Convolution: forward, dx, dw, and the memory that each needs at its peak."""

import gradroute as gr

from .common import BACKENDS, DTYPES, LAYOUTS, Benchmark, as_layout, rows, values

ROWS = ["resnet_50:res4a_branch2b", "mobilenet:conv5_1/dw", "cifar:conv2"]


def conv_arrays(row, dtype, layout="channels_first"):
    """x, w, dy and the options for a row of conv.csv"""
    options = {name: row[name] for name in ("stride", "padding", "dilation", "groups")}
    x = values(1, (row["N"], row["C"], row["H"], row["W"]), dtype)
    w = values(2, (row["K"], row["C"] // row["groups"], row["R"], row["S"]), dtype)
    sizes = (
        (size + 2 * row["padding"] - (taps - 1) * row["dilation"] - 1) // row["stride"] + 1
        for size, taps in ((row["H"], row["R"]), (row["W"], row["S"]))
    )
    dy = values(3, (row["N"], row["K"], *sizes), dtype)
    return as_layout(x, layout), w, as_layout(dy, layout), {**options, "layout": layout}


class Conv(Benchmark):
    params = (BACKENDS, DTYPES, LAYOUTS, ROWS)
    param_names = ("backend", "dtype", "layout", "shape")

    def prepare(self, dtype, layout, shape):
        x, w, dy, options = conv_arrays(rows("conv")[shape], dtype, layout)
        x, w, dy = self.send(x), self.send(w), self.send(dy)
        return {
            "forward": lambda: gr.conv(x, w, **options),
            "dx": lambda: gr.conv_backward(dy, x, w, **options, need=("x",)),
            "dw": lambda: gr.conv_backward(dy, x, w, **options, need=("w",)),
        }

    def time_forward(self, *_):
        self.run("forward")

    def time_dx(self, *_):
        self.run("dx")

    def time_dw(self, *_):
        self.run("dw")


class ConvMemory(Conv):
    """Peak memory of the process; without the check, whose im2col would be the peak."""

    params = (["numba"], ["float32"], LAYOUTS, ["resnet_50:res2a_branch2b", "alexnet:conv2"])

    def check(self, rest):
        pass

    def peakmem_forward(self, *_):
        self.run("forward")

    def peakmem_dx(self, *_):
        self.run("dx")

    def peakmem_dw(self, *_):
        self.run("dw")

    time_forward = time_dx = time_dw = None
