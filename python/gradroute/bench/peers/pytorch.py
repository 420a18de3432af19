"""PyTorch, in its default layout and in channels_last (weights and images converted before).

The backward passes are called as autograd calls them, one gradient at a time, so that nothing
is computed that was not asked for.
"""

from __future__ import annotations

from . import Peer, Run


class Default(Peer):
    name = "pytorch"
    module = "torch"
    install = "python -m pip install torch --index-url https://download.pytorch.org/whl/cpu"
    channels_last = False

    def __init__(self, threads: int, device: str = "cpu"):
        super().__init__(threads)
        import torch

        self._torch = torch
        self.device = device
        torch.set_num_threads(threads)
        # a comparison of float32 with float32: no TensorFloat-32 behind our back
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def _send(self, array):
        return self._torch.from_numpy(array).to(self.device)

    def _image(self, array):
        tensor = self._send(array)
        if self.channels_last:
            tensor = tensor.contiguous(memory_format=self._torch.channels_last)
        return tensor

    def _run(self, function, *arguments, pick=None):
        """``pick``: which of the returned tensors to read; None where one comes back."""
        torch, device = self._torch, self.device

        def call():
            with torch.inference_mode():
                result = function(*arguments)
            if device != "cpu":
                torch.cuda.synchronize()
            return result

        def read(result):
            tensors = [result] if pick is None else [result[i] for i in pick]
            return [tensor.cpu().contiguous().numpy() for tensor in tensors]

        return Run(call, read)

    # ---- the operations -------------------------------------------------------------------

    def conv_forward(self, case, inputs):
        x, w = self._image(inputs["x"]), self._image(inputs["w"])
        stride, padding, dilation, groups = case.options.values()
        conv = self._torch.nn.functional.conv2d
        return self._run(conv, x, w, None, stride, padding, dilation, groups)

    def conv_dx(self, case, inputs):
        return self._conv_backward(case, inputs, 0)

    def conv_dw(self, case, inputs):
        return self._conv_backward(case, inputs, 1)

    def _conv_backward(self, case, inputs, which):
        x, w, dy = (self._image(inputs[name]) for name in ("x", "w", "dy"))
        stride, padding, dilation, groups = case.options.values()
        mask = [which == 0, which == 1, False]
        return self._run(
            self._torch.ops.aten.convolution_backward,
            dy, x, w, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups,
            mask, pick=(which,),
        )  # fmt: skip

    def _pool_options(self, case):
        return [case["window"]] * 2, [case["stride"]] * 2, [case["padding"]] * 2, [1, 1], False

    def pool_forward(self, case, inputs):
        pool = self._torch.ops.aten.max_pool2d_with_indices
        return self._run(
            pool, self._image(inputs["x"]), *self._pool_options(case), pick=(0, 1)
        )

    def pool_backward(self, case, inputs):
        x, dy = self._image(inputs["x"]), self._image(inputs["dy"])
        options = self._pool_options(case)
        _, index = self._torch.ops.aten.max_pool2d_with_indices(x, *options)
        backward = self._torch.ops.aten.max_pool2d_with_indices_backward
        return self._run(backward, dy, x, *options, index)

    def linear_backward(self, case, inputs):
        x, w, dy = (self._send(inputs[name]) for name in ("x", "w", "dy"))
        return self._run(lambda: (dy.mm(w), dy.t().mm(x)), pick=(0, 1))

    def matmul_backward(self, case, inputs):
        a, b, dy = (self._send(inputs[name]) for name in ("a", "b", "dy"))
        return self._run(lambda: (dy @ b.mT, a.mT @ dy), pick=(0, 1))

    def scatter_add(self, case, inputs):
        out, index, src = (self._send(inputs[name].copy()) for name in ("out", "index", "src"))
        add = out.index_add_ if case["inner"] else out.scatter_add_
        run = self._run(add, 0, index, src)
        return Run(run.call, lambda result: [array.copy() for array in run.read(result)])


class ChannelsLast(Default):
    name = "pytorch channels_last"
    channels_last = True

    def prepare(self, case, inputs):
        """Only images have a layout: matrices and scatter are the default's rows."""
        return super().prepare(case, inputs) if case.family in ("conv", "pool") else None
