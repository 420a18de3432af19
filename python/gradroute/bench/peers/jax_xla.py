"""JAX on the CPU: every operation jitted with its operands as arguments, gradients by jax.vjp.

XLA computes from dy only what the wanted gradient needs.  There is no max-pool that gives the
winner: the forward pass returns y alone, and the backward pass looks for the winner again.
scatter_add is functional, so each call writes a whole new out.
"""

from __future__ import annotations

import os

import numpy as np

from . import Peer, Run


class Jax(Peer):
    name = "jax"
    module = "jax"
    install = "python -m pip install jax"

    def __init__(self, threads: int):
        super().__init__(threads)
        # read by XLA when its thread pool is made, at the first use in this process
        os.environ.setdefault("NPROC", str(threads))
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax

        jax.config.update("jax_enable_x64", True)  # or float64 inputs become float32
        self._jax = jax

    def _run(self, function, *arrays, note=""):
        jax = self._jax
        compiled, sent = jax.jit(function), [jax.numpy.asarray(array) for array in arrays]

        def call():
            return jax.block_until_ready(compiled(*sent))

        def read(result):
            return [np.asarray(array) for array in jax.tree.leaves(result)]

        return Run(call, read, note)

    def _conv(self, case):
        stride, pad, dilation, groups = case.options.values()

        def conv(x, w):
            return self._jax.lax.conv_general_dilated(
                x, w, (stride, stride), [(pad, pad)] * 2, rhs_dilation=(dilation, dilation),
                feature_group_count=groups, dimension_numbers=("NCHW", "OIHW", "NCHW"),
            )  # fmt: skip

        return conv

    def conv_forward(self, case, inputs):
        return self._run(self._conv(case), inputs["x"], inputs["w"])

    def conv_dx(self, case, inputs):
        conv, vjp = self._conv(case), self._jax.vjp
        return self._run(
            lambda dy, x, w: vjp(lambda x: conv(x, w), x)[1](dy),
            inputs["dy"], inputs["x"], inputs["w"],
        )  # fmt: skip

    def conv_dw(self, case, inputs):
        conv, vjp = self._conv(case), self._jax.vjp
        return self._run(
            lambda dy, x, w: vjp(lambda w: conv(x, w), w)[1](dy),
            inputs["dy"], inputs["x"], inputs["w"],
        )  # fmt: skip

    def _pool(self, case):
        lax, window, (stride, pad) = self._jax.lax, case["window"], case.options.values()

        def pool(x):
            return lax.reduce_window(
                x, -np.inf, lax.max, (1, 1, window, window), (1, 1, stride, stride),
                [(0, 0), (0, 0), (pad, pad), (pad, pad)],
            )  # fmt: skip

        return pool

    def pool_forward(self, case, inputs):
        return self._run(self._pool(case), inputs["x"], note="y without the winner")

    def pool_backward(self, case, inputs):
        pool, vjp = self._pool(case), self._jax.vjp
        return self._run(
            lambda dy, x: vjp(pool, x)[1](dy), inputs["dy"], inputs["x"],
            note="finds the winner again",
        )  # fmt: skip

    def linear_backward(self, case, inputs):
        return self._run(
            lambda dy, x, w: (dy @ w, dy.T @ x), inputs["dy"], inputs["x"], inputs["w"]
        )

    def matmul_backward(self, case, inputs):
        return self._run(
            lambda dy, a, b: (dy @ b.mT, a.mT @ dy), inputs["dy"], inputs["a"], inputs["b"]
        )

    def scatter_add(self, case, inputs):
        return self._run(
            lambda out, index, src: out.at[index].add(src),
            inputs["out"], inputs["index"], inputs["src"], note="writes a new out",
        )  # fmt: skip
