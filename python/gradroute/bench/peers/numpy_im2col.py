"""Plain NumPy as one writes it without a library: im2col, one matrix product, col2im.

Its products run on NumPy's BLAS, with as many threads as the other sides where threadpoolctl is
installed.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from . import Peer, Run


class Im2col(Peer):
    name = "numpy im2col"
    module = "numpy"
    install = "python -m pip install numpy"

    def __init__(self, threads: int):
        super().__init__(threads)
        if importlib.util.find_spec("threadpoolctl"):
            import threadpoolctl

            self._limit = threadpoolctl.threadpool_limits(threads, user_api="blas")

    # ---- convolution ----------------------------------------------------------------------

    def _columns(self, case, x):
        """(N, C, H, W) -> (G, C/G*R*S, N*P*Q), and P, Q"""
        r, s, groups = case["R"], case["S"], case["groups"]
        windows = _windows(x, (r, s), case["stride"], case["padding"], case["dilation"], 0)
        n, c, p, q = windows.shape[:4]
        cols = windows.transpose(1, 4, 5, 0, 2, 3)  # (C, R, S, N, P, Q): a copy below
        return cols.reshape(groups, c // groups * r * s, n * p * q), p, q

    def conv_forward(self, case, inputs):
        x, w = inputs["x"], inputs["w"]
        groups, k = case["groups"], case["K"]

        def call():
            cols, p, q = self._columns(case, x)
            y = w.reshape(groups, k // groups, -1) @ cols  # (G, K/G, N*P*Q)
            return np.ascontiguousarray(y.reshape(k, -1, p, q).swapaxes(0, 1))

        return Run(call, lambda y: [y])

    def conv_dw(self, case, inputs):
        x, w, dy = inputs["x"], inputs["w"], inputs["dy"]

        def call():
            cols, _, _ = self._columns(case, x)
            rows = dy.swapaxes(0, 1).reshape(case["groups"], -1, cols.shape[-1])
            return (rows @ cols.swapaxes(1, 2)).reshape(w.shape)

        return Run(call, lambda dw: [dw])

    def conv_dx(self, case, inputs):
        x_shape, w, dy = inputs["x"].shape, inputs["w"], inputs["dy"]
        (n, c, h, width), (k, _, r, s), (p, q) = x_shape, w.shape, dy.shape[2:]
        stride, pad, dilation, groups = case.options.values()

        def call():
            rows = dy.swapaxes(0, 1).reshape(groups, k // groups, n * p * q)
            cols = w.reshape(groups, k // groups, -1).swapaxes(1, 2) @ rows
            cols = cols.reshape(c, r, s, n, p, q)
            padded = np.zeros((c, n, h + 2 * pad, width + 2 * pad), dy.dtype)
            for i in range(r):
                for j in range(s):
                    top, left = i * dilation, j * dilation
                    view = padded[:, :, top : top + stride * p : stride,
                                  left : left + stride * q : stride]  # fmt: skip
                    view += cols[:, i, j]
            inner = padded[:, :, pad : pad + h, pad : pad + width]
            return np.ascontiguousarray(inner.swapaxes(0, 1))

        return Run(call, lambda dx: [dx])

    # ---- the others -----------------------------------------------------------------------

    def pool_forward(self, case, inputs):
        x, window, (stride, pad) = inputs["x"], case["window"], case.options.values()
        h, width = x.shape[2:]

        def call():
            windows = _windows(x, (window, window), stride, pad, 1, -np.inf)
            flat = windows.reshape(*windows.shape[:4], window * window)
            winner = flat.argmax(-1)
            return np.take_along_axis(flat, winner[..., None], -1)[..., 0], winner

        def read(result):
            y, winner = result
            rows = np.arange(y.shape[2])[:, None] * stride - pad + winner // window
            columns = np.arange(y.shape[3]) * stride - pad + winner % window
            return [y, rows * width + columns]

        return Run(call, read)

    def pool_backward(self, case, inputs):
        x_shape, dy, window = inputs["x"].shape, inputs["dy"], case["window"]
        stride, pad = case.options.values()
        (n, c, h, width), (p, q) = x_shape, dy.shape[2:]
        _, winner = self.pool_forward(case, inputs).call()

        def call():
            reach = window + stride
            padded = np.zeros((n, c, h + 2 * pad + reach, width + 2 * pad + reach), dy.dtype)
            for i in range(window):
                for j in range(window):
                    won = np.where(winner == i * window + j, dy, 0)
                    padded[:, :, i : i + stride * p : stride, j : j + stride * q : stride] += won
            return np.ascontiguousarray(padded[:, :, pad : pad + h, pad : pad + width])

        return Run(call, lambda dx: [dx])

    def linear_backward(self, case, inputs):
        x, w, dy = inputs["x"], inputs["w"], inputs["dy"]
        return Run(lambda: (dy @ w, dy.T @ x), list)

    def matmul_backward(self, case, inputs):
        a, b, dy = inputs["a"], inputs["b"], inputs["dy"]
        return Run(lambda: (dy @ b.swapaxes(-1, -2), a.swapaxes(-1, -2) @ dy), list)

    def scatter_add(self, case, inputs):
        out, index, src = inputs["out"].copy(), inputs["index"], inputs["src"]

        def call():
            np.add.at(out, index, src)
            return out

        return Run(call, lambda result: [result.copy()])


def _windows(x, window, stride, pad, dilation, fill):
    """(N, C, H, W) -> a (N, C, P, Q, R, S) view of the padded image."""
    if pad:
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=fill)
    extent = [(taps - 1) * dilation + 1 for taps in window]
    view = sliding_window_view(x, extent, axis=(2, 3))
    return view[:, :, ::stride, ::stride, ::dilation, ::dilation]
