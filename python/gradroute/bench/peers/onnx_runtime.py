"""ONNX Runtime: what an inference engine has.  dx of a convolution is ConvTranspose; there is no
operator for dw, nor for the backward pass of a pool."""

from __future__ import annotations

import importlib.util

import numpy as np

from . import Peer, Run


class OnnxRuntime(Peer):
    name = "onnxruntime"
    module = "onnxruntime"
    install = "python -m pip install onnxruntime onnx"

    @classmethod
    def missing(cls):
        there = all(importlib.util.find_spec(module) for module in ("onnxruntime", "onnx"))
        return None if there else cls.install

    def _run(self, nodes, arrays: dict, results: list[str], read=list):
        """A session over ``nodes`` with ``arrays`` as its inputs."""
        import onnxruntime
        from onnx import helper

        values = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in arrays.items()
        ]
        some_float = next(array.dtype for array in arrays.values() if array.dtype.kind == "f")
        kinds = [np.dtype("int64") if name == "index_out" else some_float for name in results]
        outputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), None)
            for name, kind in zip(results, kinds)
        ]
        graph = helper.make_graph(nodes, "case", values, outputs)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        # its workers would go on spinning into the next side's calls
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return Run(lambda: session.run(results, arrays), read)

    @staticmethod
    def _node(op, inputs, outputs, **attributes):
        from onnx import helper

        return helper.make_node(op, inputs, outputs, **attributes)

    @staticmethod
    def _conv_attributes(case):
        stride, pad, dilation, groups = case.options.values()
        return {
            "kernel_shape": [case["R"], case["S"]], "strides": [stride] * 2, "pads": [pad] * 4,
            "dilations": [dilation] * 2, "group": groups,
        }  # fmt: skip

    def conv_forward(self, case, inputs):
        node = self._node("Conv", ["x", "w"], ["y"], **self._conv_attributes(case))
        return self._run([node], {name: inputs[name] for name in ("x", "w")}, ["y"])

    def conv_dx(self, case, inputs):
        stride, pad, dilation, _ = case.options.values()
        extra = [
            size - ((out - 1) * stride + (taps - 1) * dilation + 1 - 2 * pad)
            for size, out, taps in zip(
                inputs["x"].shape[2:], inputs["dy"].shape[2:], (case["R"], case["S"])
            )
        ]
        attributes = {**self._conv_attributes(case), "output_padding": extra}
        node = self._node("ConvTranspose", ["dy", "w"], ["dx"], **attributes)
        return self._run([node], {name: inputs[name] for name in ("dy", "w")}, ["dx"])

    def pool_forward(self, case, inputs):
        stride, pad = case.options.values()
        x = inputs["x"]
        node = self._node(
            "MaxPool", ["x"], ["y", "index_out"], kernel_shape=[case["window"]] * 2,
            strides=[stride] * 2, pads=[pad] * 4,
        )  # fmt: skip

        def read(result):
            y, index = result
            return [y, index % (x.shape[2] * x.shape[3])]  # ONNX counts through the batch

        return self._run([node], {"x": x}, ["y", "index_out"], read)

    def linear_backward(self, case, inputs):
        nodes = [
            self._node("Gemm", ["dy", "w"], ["dx"]),
            self._node("Gemm", ["dy", "x"], ["dw"], transA=1),
        ]
        arrays = {name: inputs[name] for name in ("x", "w", "dy")}
        return self._run(nodes, arrays, ["dx", "dw"])

    def matmul_backward(self, case, inputs):
        axes = list(range(inputs["a"].ndim))
        axes[-2:] = axes[:-3:-1]
        nodes = [
            self._node("Transpose", ["b"], ["bt"], perm=axes),
            self._node("MatMul", ["dy", "bt"], ["da"]),
            self._node("Transpose", ["a"], ["at"], perm=axes),
            self._node("MatMul", ["at", "dy"], ["db"]),
        ]
        arrays = {name: inputs[name] for name in ("a", "b", "dy")}
        return self._run(nodes, arrays, ["da", "db"])
