"""MyGrad: automatic differentiation on NumPy.

Its graph lives for one backward pass, so a gradient's time includes the forward pass before it.
It has no groups, no padding in max_pool and no winner, and takes only strides that leave no rest.
"""

from __future__ import annotations

import importlib.util

from . import Peer, Run


class MyGrad(Peer):
    name = "mygrad"
    module = "mygrad"
    install = "python -m pip install mygrad"

    def __init__(self, threads: int):
        super().__init__(threads)
        import mygrad
        from mygrad.nnet.layers import conv_nd, max_pool

        self._mygrad, self._conv_nd, self._max_pool = mygrad, conv_nd, max_pool
        if importlib.util.find_spec("threadpoolctl"):
            import threadpoolctl

            self._limit = threadpoolctl.threadpool_limits(threads, user_api="blas")

    def _gradients(self, function, arrays, dy, wanted):
        """The gradients of ``function(*tensors)`` for the tensors at ``wanted``, given dy."""
        tensor = self._mygrad.tensor

        def call():
            tensors = [
                tensor(array, constant=i not in wanted, copy=False)
                for i, array in enumerate(arrays)
            ]
            function(*tensors).backward(dy)
            return [tensors[i].grad for i in wanted]

        return Run(call, list, "includes its forward pass")

    def _values(self, function):
        def call():
            with self._mygrad.no_autodiff:
                return function().data

        return call

    def _conv(self, case):
        stride, pad, dilation, groups = case.options.values()
        extents = ((taps - 1) * dilation + 1 for taps in (case["R"], case["S"]))
        sizes = (case["H"], case["W"])
        if groups != 1 or any((n + 2 * pad - e) % stride for n, e in zip(sizes, extents)):
            return None
        return lambda x, w: self._conv_nd(
            x, w, stride=stride, padding=pad, dilation=dilation
        )

    def conv_forward(self, case, inputs):
        conv = self._conv(case)
        return conv and Run(
            self._values(lambda: conv(inputs["x"], inputs["w"])), lambda y: [y]
        )

    def conv_dx(self, case, inputs):
        conv = self._conv(case)
        return conv and self._gradients(conv, (inputs["x"], inputs["w"]), inputs["dy"], (0,))

    def conv_dw(self, case, inputs):
        conv = self._conv(case)
        return conv and self._gradients(conv, (inputs["x"], inputs["w"]), inputs["dy"], (1,))

    def _pool(self, case):
        window, stride = case["window"], case["stride"]
        if case["padding"] or any((case[axis] - window) % stride for axis in "HW"):
            return None
        return lambda x: self._max_pool(x, (window, window), (stride, stride))

    def pool_forward(self, case, inputs):
        pool = self._pool(case)
        return pool and Run(
            self._values(lambda: pool(inputs["x"])), lambda y: [y], "y without the winner"
        )

    def pool_backward(self, case, inputs):
        pool = self._pool(case)
        return pool and self._gradients(pool, (inputs["x"],), inputs["dy"], (0,))

    def linear_backward(self, case, inputs):
        return self._gradients(
            lambda x, w: x @ w.T, (inputs["x"], inputs["w"]), inputs["dy"], (0, 1)
        )

    def matmul_backward(self, case, inputs):
        return self._gradients(
            self._mygrad.matmul, (inputs["a"], inputs["b"]), inputs["dy"], (0, 1)
        )
