"""gradroute itself, through its public functions."""

from __future__ import annotations

import numpy as np

import gradroute as gr

from . import Peer, Run


def _last(image):
    """(N, C, H, W) -> contiguous (N, H, W, C)"""
    return np.ascontiguousarray(np.moveaxis(image, 1, -1))


class Ours(Peer):
    name = "gradroute"
    module = "gradroute"
    install = "python -m pip install gradroute"

    def __init__(self, threads: int, backend: str = "numba", layout: str = "channels_first"):
        super().__init__(threads)
        self.backend, self.layout = backend, layout
        if backend == "cuda":
            import cupy

            self._send, self._fetch = cupy.asarray, cupy.asnumpy
        else:
            self._send = self._fetch = np.asarray

    # ---- arrays in, arrays out ------------------------------------------------------------

    def _image(self, image):
        return self._send(_last(image) if self.layout == "channels_last" else image)

    def _read_image(self, image):
        image = self._fetch(image)
        return np.moveaxis(image, -1, 1) if self.layout == "channels_last" else image

    def _run(self, function, *arguments, read, **options):
        """Settings are in force around the timed call, not set inside it."""
        if self.backend == "cuda":

            def call():
                result = function(*arguments, **options)
                gr.synchronize()
                return result
        else:

            def call():
                return function(*arguments, **options)

        return Run(call, read)

    def settings(self):
        """The `with` block that the calls of this peer need."""
        if self.backend == "cuda":
            return gr.config(backend="auto")
        return gr.config(backend=self.backend, threads=self.threads)

    # ---- the operations -------------------------------------------------------------------

    def conv_forward(self, case, inputs):
        x, w = self._image(inputs["x"]), self._send(inputs["w"])
        return self._run(
            gr.conv, x, w, **case.options, layout=self.layout,
            read=lambda y: [self._read_image(y)],
        )  # fmt: skip

    def conv_dx(self, case, inputs):
        return self._conv_backward(case, inputs, "x", lambda r: [self._read_image(r[0])])

    def conv_dw(self, case, inputs):
        return self._conv_backward(case, inputs, "w", lambda r: [self._fetch(r[1])])

    def _conv_backward(self, case, inputs, need, read):
        x, w, dy = self._image(inputs["x"]), self._send(inputs["w"]), self._image(inputs["dy"])
        return self._run(
            gr.conv_backward, dy, x, w, **case.options, layout=self.layout, need=(need,), read=read
        )

    def pool_forward(self, case, inputs):
        window, options = case["window"], {**case.options, "layout": self.layout}
        x = self._image(inputs["x"])

        def read(result):
            y, winner = result
            index = gr.winner_to_index(winner, x.shape, window, **options)
            return [self._read_image(y), self._read_image(index)]

        return self._run(gr.max_pool, x, window, **options, read=read)

    def pool_backward(self, case, inputs):
        window, options = case["window"], {**case.options, "layout": self.layout}
        x, dy = self._image(inputs["x"]), self._image(inputs["dy"])
        _, winner = gr.max_pool(x, window, **options)
        return self._run(
            gr.max_pool_backward, dy, winner, x.shape, window, **options,
            read=lambda dx: [self._read_image(dx)],
        )  # fmt: skip

    def linear_backward(self, case, inputs):
        x, w, dy = (self._send(inputs[name]) for name in ("x", "w", "dy"))
        return self._run(gr.linear_backward, dy, x, w, need=("x", "w"), read=self._first_two)

    def matmul_backward(self, case, inputs):
        a, b, dy = (self._send(inputs[name]) for name in ("a", "b", "dy"))
        return self._run(gr.matmul_backward, dy, a, b, read=self._first_two)

    def _first_two(self, result):
        return [self._fetch(array) for array in result[:2]]

    def scatter_add(self, case, inputs):
        out, index, src = (self._send(inputs[name].copy()) for name in ("out", "index", "src"))
        return self._run(gr.scatter_add, out, index, src, read=lambda r: [self._fetch(r).copy()])
