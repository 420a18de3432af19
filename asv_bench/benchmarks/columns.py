"""im2col and col2im on their own; convolution itself never makes the columns."""

import gradroute as gr

from .common import BACKENDS, DTYPES, LAYOUTS, Benchmark, as_layout, rows, values


class Columns(Benchmark):
    params = (BACKENDS, DTYPES, LAYOUTS, ["lenet:conv2", "cifar:conv2"])
    param_names = ("backend", "dtype", "layout", "shape")

    def prepare(self, dtype, layout, shape):
        row = rows("conv")[shape]
        window = (row["R"], row["S"])
        options = {name: row[name] for name in ("stride", "padding", "dilation")}
        options["layout"] = layout
        x = as_layout(values(1, (row["N"], row["C"], row["H"], row["W"]), dtype), layout)
        x = self.send(x)
        cols = gr.im2col(x, window, **options)
        return {
            "im2col": lambda: gr.im2col(x, window, **options),
            "col2im": lambda: gr.col2im(cols, x.shape, window, **options),
        }

    def time_im2col(self, *_):
        self.run("im2col")

    def time_col2im(self, *_):
        self.run("col2im")
