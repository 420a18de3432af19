"""The ONNX project's own backend tests, which nobody here wrote.

The counts are asserted, so that no case drops out unseen; the version of onnx is pinned with them.
"""

import pathlib
import warnings
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'gradroute[test]'")

import onnx  # noqa: E402
from onnx.backend.test.loader import load_model_tests  # noqa: E402
from onnx_adapter import attributes, run  # noqa: E402

NODE_COUNTS = {
    "Conv": 6, "ConvTranspose": 11, "MaxPool": 18, "MaxUnpool": 1, "AveragePool": 20,
    "GlobalAveragePool": 2, "GlobalMaxPool": 2, "Gemm": 11, "MatMul": 7, "ScatterElements": 1,
    "ScatterND": 1, "Col2Im": 5, "SoftmaxCrossEntropyLoss": 2,
}  # fmt: skip
CONVERTED_COUNTS = {"Conv": 26, "ConvTranspose": 2, "MaxPool": 8, "AveragePool": 7, "Linear": 2}

#: why a case of one of these operators is not run -> how many there are
EXCLUDED_COUNTS = {
    "part of a larger graph that expands another operator": 121,
    "8-bit integers: gradroute computes floats": 1,
    "writes into an image larger than the pool saw; max_unpool gives back the pool's own": 1,
    "overwrites, multiplies or takes extremes: scatter_add adds": 12,
    "reduction other than the mean": 12,
    "class weights or ignored labels": 18,
    "labels per pixel: softmax_cross_entropy takes (N, C)": 2,
}


def _load(kind):
    with warnings.catch_warnings():  # the generators of other operators overflow on purpose
        warnings.simplefilter("ignore")
        return load_model_tests(kind=kind)


def _graph(case):
    model = case.model or onnx.load(pathlib.Path(case.model_dir) / "model.onnx")
    return model.graph


def _exclusion(case, graph):
    """Why this case is not run, or None."""
    if len(graph.node) > 1:
        return "part of a larger graph that expands another operator"
    node = graph.node[0]
    name, options = node.op_type, attributes(node)
    inputs = case.data_sets[0][0]
    if name == "MaxPool" and inputs[0].dtype == np.uint8:
        return "8-bit integers: gradroute computes floats"
    if name == "MaxUnpool" and len(inputs) == 3:
        return "writes into an image larger than the pool saw; max_unpool gives back the pool's own"
    if name.startswith("Scatter") and options.get("reduction") != "add":
        return "overwrites, multiplies or takes extremes: scatter_add adds"
    if name == "SoftmaxCrossEntropyLoss":
        if options["reduction"] != "mean":
            return "reduction other than the mean"
        if len(inputs) == 3 or "ignore_index" in options:
            return "class weights or ignored labels"
        if inputs[0].ndim > 2:
            return "labels per pixel: softmax_cross_entropy takes (N, C)"
    return None


def _node_cases():
    """The cases that are run, and the reasons why others of the same operators are not."""
    cases, reasons = [], Counter()
    for case in _load("node"):
        graph = _graph(case)
        mine = [n.op_type for n in graph.node if n.op_type in NODE_COUNTS]
        if mine:
            reason = _exclusion(case, graph)
            if reason:
                reasons[reason] += 1
            else:
                cases.append((case, graph, mine[0], case.data_sets))
    return cases, reasons


def _read(folder, name):
    tensor = onnx.TensorProto()
    tensor.ParseFromString((folder / name).read_bytes())
    return onnx.numpy_helper.to_array(tensor)


def _stored(case):
    """The data sets of a case that lies in files."""
    found = []
    for folder in sorted(pathlib.Path(case.model_dir).glob("test_data_set_*")):
        inputs = len(list(folder.glob("input_*.pb")))
        outputs = len(list(folder.glob("output_*.pb")))
        found.append(
            (
                [_read(folder, f"input_{i}.pb") for i in range(inputs)],
                [_read(folder, f"output_{i}.pb") for i in range(outputs)],
            )
        )
    return found


def _converted_cases():
    cases = []
    for case in _load("pytorch-converted"):
        graph = _graph(case)
        names = {node.op_type for node in graph.node} & {*NODE_COUNTS}
        if names:
            family = "Linear" if "Linear" in case.name else names.pop()
            cases.append((case, graph, family, _stored(case)))
    return cases


NODE_CASES, EXCLUDED = _node_cases()
CONVERTED_CASES = _converted_cases()


def test_every_case_of_our_operators_is_run_or_excluded_for_a_reason():
    assert Counter(family for _, _, family, _ in NODE_CASES) == NODE_COUNTS
    assert len(NODE_CASES) == 87
    assert EXCLUDED == EXCLUDED_COUNTS


def test_every_case_that_came_from_pytorch_is_run():
    assert Counter(family for _, _, family, _ in CONVERTED_CASES) == CONVERTED_COUNTS
    assert len(CONVERTED_CASES) == 45
    assert all(data for _, _, _, data in CONVERTED_CASES)


@pytest.mark.parametrize("stored", NODE_CASES + CONVERTED_CASES, ids=lambda row: row[0].name)
def test_onnx_case(backend, stored):
    case, graph, _, data = stored
    for inputs, expected in data:
        found = run(graph, inputs)
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert one.dtype == other.dtype and one.shape == other.shape
            np.testing.assert_allclose(one, other, rtol=case.rtol, atol=case.atol)
