"""The forms an option can take, the defaults, and gr.plan."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from cases import CONV, POOL
from compare import assert_same_bits
from values import make

import gradroute as gr

X, W = make("normal", (2, 4, 7, 9)), make("normal", (4, 2, 2, 3), seed=1)
SAME_MEANING = [
    ({}, {"stride": 1, "padding": 0, "dilation": 1}),
    ({"stride": 2}, {"stride": (2, 2)}),
    ({"stride": 2}, {"stride": np.int64(2)}),
    ({"stride": (2, 1)}, {"stride": [2, 1]}),
    ({"stride": (2, 1)}, {"stride": np.array([2, 1])}),
    ({"stride": (2, 1)}, {"stride": (np.uint8(2), np.int32(1))}),
    ({"padding": 1}, {"padding": (1, 1)}),
    ({"padding": 1}, {"padding": ((1, 1), (1, 1))}),
    ({"padding": (1, 2)}, {"padding": ((1, 1), (2, 2))}),
    ({"padding": ((0, 1), (2, 0))}, {"padding": [[0, 1], [2, 0]]}),
    ({"padding": ((0, 1), (2, 0))}, {"padding": np.array([[0, 1], [2, 0]])}),
    ({"padding": 0}, {"padding": "valid"}),
    ({"padding": "same"}, {"padding": ((0, 1), (1, 1))}),
    ({"dilation": 2}, {"dilation": [2, 2]}),
]


@pytest.mark.parametrize("one, other", SAME_MEANING, ids=str)
def test_two_ways_to_say_the_same(backend, one, other):
    both = [gr.conv(X, W, groups=2, **options) for options in (one, other)]
    assert_same_bits(*both)
    dy = np.ones_like(both[0])
    assert_same_bits(*(gr.conv_backward(dy, X, W, groups=2, **o) for o in (one, other)))


@pytest.mark.parametrize("window", [2, (2, 2), [2, 2], np.int8(2), np.array([2, 2])], ids=repr)
def test_a_window_and_a_shape_may_be_any_sequence_of_integers(backend, window):
    y, winner = gr.max_pool(X, 2, stride=2)
    assert_same_bits(gr.max_pool(X, window), (y, winner))
    expected = gr.max_pool_backward(y, winner, (2, 4, 7, 9), 2)
    for shape in ([2, 4, 7, 9], np.array(X.shape), X.shape):
        assert_same_bits(gr.max_pool_backward(y, winner, shape, window), expected)


def test_options_are_keywords_and_a_backward_takes_its_forward_s():
    pairs = [
        ("conv", "conv_backward"), ("conv_transpose", "conv_transpose_backward"),
        ("max_pool", "max_pool_backward"), ("max_pool", "winner_to_index"),
        ("max_pool", "index_to_winner"), ("max_pool", "max_unpool"),
        ("max_pool", "max_unpool_backward"), ("avg_pool", "avg_pool_backward"),
        ("im2col", "col2im"), ("linear", "linear_backward"),
    ]  # fmt: skip
    not_for_backward = {"ties", "nan", "winner"}
    for forward, backward in pairs:
        options = [
            {
                p.name: p.default
                for p in inspect.signature(getattr(gr, name)).parameters.values()
                if p.kind is p.KEYWORD_ONLY
            }
            for name in (forward, backward)
        ]
        for name, default in options[0].items():
            if name not in not_for_backward:
                assert options[1][name] == default, (backward, name)


def test_out_is_on_every_function_that_returns_arrays_except_scatter_add():
    functions = {
        name for name in gr.__all__
        if inspect.isfunction(getattr(gr, name))
        and getattr(gr, name).__module__.startswith("gradroute.ops")
    } - {"plan"}  # fmt: skip
    with_out = {n for n in functions if "out" in inspect.signature(getattr(gr, n)).parameters}
    assert len(functions) == 22
    assert functions == with_out
    parameter = inspect.signature(gr.scatter_add).parameters["out"]
    assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD


@pytest.mark.parametrize("case", [c for c in CONV if "same" in c.name or "1-D" in c.name], ids=str)
def test_plan_needs_only_shape_and_dtype(backend, case):
    x = SimpleNamespace(shape=case.x, dtype=np.dtype("float32"))
    w = SimpleNamespace(shape=case.window, dtype=np.dtype("float32"))
    for operation in ("conv", "conv_dx", "conv_dw"):
        plan = gr.plan(operation, x, w, **case.options)
        assert plan.backend == backend and isinstance(plan.algorithm, str) and plan.algorithm
        assert plan.workspace_bytes >= 0 and isinstance(plan.workspace_bytes, int)
        assert dict(plan.blocking) == plan.blocking
        assert plan == gr.plan(operation, np.zeros(case.x, "f4"), np.zeros(case.window, "f4"),
                               **case.options)  # fmt: skip


def test_plan_knows_the_other_operations_too(backend):
    case = next(case for case in POOL if case.name == "3x3 stride 2 padded")
    x = np.zeros(case.x, "float32")
    for name in ("max_pool", "avg_pool", "max_pool_backward", "avg_pool_backward", "im2col"):
        assert gr.plan(name, x, case.window, **case.options).backend == backend
    assert gr.plan("matmul", np.zeros((3, 4, 5)), np.zeros((5, 2))).backend == backend
    assert gr.plan("linear", np.zeros((4, 5)), np.zeros((2, 5))).backend == backend
    assert gr.plan("conv_transpose", X, np.zeros((4, 3, 2, 2)), stride=2).backend == backend
    assert gr.plan("scatter_add", np.zeros((5, 2)), np.zeros(7, int)).backend == backend


def test_the_number_of_threads_a_plan_names_is_never_above_the_setting(backend):
    with gr.config(threads=1):
        plan = gr.plan("conv", np.zeros((8, 16, 32, 32)), np.zeros((16, 16, 3, 3)), padding=1)
    assert plan.threads == 1
