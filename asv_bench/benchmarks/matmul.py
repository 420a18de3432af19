"""The backward passes of a fully connected layer and of a matrix product."""

import gradroute as gr

from .common import BACKENDS, DTYPES, Benchmark, rows, values


class Linear(Benchmark):
    params = (BACKENDS, DTYPES, ["digits:fc", "cifar:fc1", "resnet_50:fc"])
    param_names = ("backend", "dtype", "shape")

    def prepare(self, dtype, shape):
        row = rows("linear")[shape]
        x = self.send(values(1, (row["N"], row["in"]), dtype))
        w = self.send(values(2, (row["out"], row["in"]), dtype))
        dy = self.send(values(3, (row["N"], row["out"]), dtype))
        return {
            "forward": lambda: gr.linear(x, w),
            "backward": lambda: gr.linear_backward(dy, x, w),
        }

    def time_forward(self, *_):
        self.run("forward")

    def time_backward(self, *_):
        self.run("backward")


class Matmul(Benchmark):
    params = (BACKENDS, DTYPES, ["square:256", "tall", "attention:scores"])
    param_names = ("backend", "dtype", "shape")

    def prepare(self, dtype, shape):
        row = rows("matmul")[shape]
        batch = (row["B"],) if row["B"] > 1 else ()
        a = self.send(values(1, (*batch, row["I"], row["L"]), dtype))
        b = self.send(values(2, (*batch, row["L"], row["J"]), dtype))
        dy = self.send(values(3, (*batch, row["I"], row["J"]), dtype))
        return {
            "forward": lambda: gr.matmul(a, b),
            "backward": lambda: gr.matmul_backward(dy, a, b),
        }

    def time_forward(self, *_):
        self.run("forward")

    def time_backward(self, *_):
        self.run("backward")
