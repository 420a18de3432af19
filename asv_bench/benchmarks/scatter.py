"""scatter_add of rows and of scalars."""

import numpy as np

import gradroute as gr

from .common import BACKENDS, DTYPES, Benchmark, rows, values


class ScatterAdd(Benchmark):
    params = (BACKENDS, DTYPES, ["embedding:64k", "histogram:1M"])
    param_names = ("backend", "dtype", "shape")

    def prepare(self, dtype, shape):
        row = rows("scatter")[shape]
        inner = (row["inner"],) if row["inner"] else ()
        index = np.random.default_rng(1).integers(0, row["rows"], row["count"])
        index = self.send(index)
        src = self.send(values(2, (row["count"], *inner), dtype))
        out = self.send(np.zeros((row["rows"], *inner), dtype))
        return {"add": lambda: gr.scatter_add(out, index, src)}

    def time_add(self, *_):
        self.run("add")
