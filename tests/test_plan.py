"""gr.plan takes what the function it speaks of takes, and refuses what that refuses."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

import gradroute as gr

X, W, B = np.ones((2, 4, 6, 7)), np.ones((6, 4, 3, 3)), np.ones(6)
TRANSPOSED = np.ones((4, 6, 3, 3))
OUT, INDEX, SRC = np.ones((5, 40)), np.array([3, 0, 3]), np.ones((5, 3))

#: operation -> the function whose arguments it takes, and such arguments
OPERATIONS = {
    "conv": (gr.conv, (X, W, B)),
    "conv_dx": (gr.conv, (X, W, B)),
    "conv_dw": (gr.conv, (X, W)),
    "conv_transpose": (gr.conv_transpose, (X, TRANSPOSED, B)),
    "conv_transpose_dx": (gr.conv_transpose, (X, TRANSPOSED, B)),
    "conv_transpose_dw": (gr.conv_transpose, (X, TRANSPOSED)),
    "max_pool": (gr.max_pool, (X, 2)),
    "max_pool_backward": (gr.max_pool, (X, 2)),
    "avg_pool": (gr.avg_pool, (X, 2)),
    "avg_pool_backward": (gr.avg_pool, (X, 2)),
    "im2col": (gr.im2col, (X, 2)),
    "col2im": (gr.im2col, (X, 2)),
    "matmul": (gr.matmul, (np.ones((2, 1, 3, 4)), np.ones((5, 4, 6)))),
    "linear": (gr.linear, (np.ones((2, 3, 4)), np.ones((5, 4)), np.ones(5))),
    "scatter_add": (gr.scatter_add, (OUT.T, INDEX, SRC.T)),
}

operations = pytest.mark.parametrize("operation", OPERATIONS)


@operations
def test_every_option_of_the_function_is_taken(backend, operation):
    function, arguments = OPERATIONS[operation]
    options = {
        name: one.default
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY and name != "out"
    }
    function(*arguments, **options)
    plain = gr.plan(operation, *arguments)
    assert plain.backend == backend
    assert gr.plan(operation, *arguments, **options) == plain


@operations
def test_arrays_by_name_and_arrays_without_memory_are_taken(backend, operation):
    function, arguments = OPERATIONS[operation]
    forms = [
        SimpleNamespace(shape=one.shape, dtype=one.dtype.name) if hasattr(one, "shape") else one
        for one in arguments
    ]
    plain = gr.plan(operation, *arguments)
    assert gr.plan(operation, *forms) == plain
    assert gr.plan(operation, **dict(zip(inspect.signature(function).parameters, forms))) == plain


BAD = {
    "filters for other channels": ("conv", (X, np.ones((6, 5, 3, 3))), {}),
    "filters of another rank": ("conv", (X, np.ones((6, 4, 3))), {}),
    "filters without taps": ("conv", (X, np.ones((6, 4, 0, 3))), {}),
    "filters that are a number": ("conv", (X, 3), {}),
    "no filters": ("conv", (X, None), {}),
    "filters of another dtype": ("conv", (X, W.astype("float32")), {}),
    "integers": ("conv", (X.astype(int), W.astype(int)), {}),
    "a list": ("conv", (X.tolist(), W), {}),
    "a bias of another size": ("conv", (X, W, np.ones(4)), {}),
    "a bias of the inputs": ("conv_transpose", (X, TRANSPOSED, np.ones(4)), {}),
    "a flag that is a number": ("max_pool", (X, 2), {"ceil_mode": 1}),
    "a winner that is a number": ("max_pool", (X, 2), {"winner": 0}),
    "an unknown rule": ("max_pool", (X, 2), {"ties": "both"}),
    "a count that is a number": ("avg_pool", (X, 2), {"count_include_pad": 1}),
    "inner axes that differ": ("matmul", (np.ones((3, 4)), np.ones((5, 6))), {}),
    "a product of a number": ("matmul", (np.array(1.0), np.ones(3)), {}),
    "features that differ": ("linear", (np.ones((3, 4)), np.ones((5, 6))), {}),
    "an unknown activation": ("linear", (np.ones((3, 4)), np.ones((5, 4))), {"activation": "id"}),
    "an axis that out has not": ("scatter_add", (OUT, INDEX, SRC), {"axis": 2}),
    "an index of floats": ("scatter_add", (OUT, INDEX + 0.0, SRC), {"axis": 1}),
    "src of another shape": ("scatter_add", (OUT, INDEX, SRC.T), {"axis": 1}),
    "an unknown mode": ("scatter_add", (OUT, INDEX, SRC), {"axis": 1, "mode": "skip"}),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_the_function_refuses_is_refused(backend, bad):
    operation, arguments, options = BAD[bad]
    with pytest.raises(gr.GradrouteError) as error:
        OPERATIONS[operation][0](*arguments, **options)
    with pytest.raises(type(error.value)):
        gr.plan(operation, *arguments, **options)


@pytest.mark.parametrize("operation", (3, None, ["conv"]))
def test_what_is_no_name_of_an_operation_is_refused(operation):
    with pytest.raises(gr.GradrouteError, match="operation must be one of"):
        gr.plan(operation, X, W)


def test_an_axis_counted_from_the_end_has_the_plan_of_that_axis():
    out, index = np.ones((40, 300)), np.zeros(2000, np.int64)  # few enough for one thread
    for axis in (0, 1):
        plain = gr.plan("scatter_add", out, index, axis=axis)
        assert gr.plan("scatter_add", out, index, axis=axis - 2) == plain
