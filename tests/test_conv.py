"""Convolution, transposed convolution, im2col and col2im against the list of reads."""

import numpy as np
import oracle
import pytest
from cases import CONV, CONV_TRANSPOSE
from compare import assert_close
from values import LAYOUTS, back, exact, make, shape_in, to

import gradroute as gr

DTYPES = ("float64", "float32")
HALVES = ("float16", "bfloat16")
by_name = {"ids": str}


def arrays(case, dtype, out_axis):
    """x, w, b of a case; out_axis is the axis of w that counts b's channels."""
    groups = case.options.get("groups", 1) if out_axis == 1 else 1
    x = make(case.kind, case.x, dtype, seed=1)
    w = make("normal", case.window, dtype, seed=2)
    return x, w, make("normal", (case.window[out_axis] * groups,), dtype, seed=3)


def check_forward(function, expected, case, dtype, layout, out_axis):
    x, w, b = arrays(case, dtype, out_axis)
    y = function(to(x, layout), w, b, **case.options, layout=layout)
    assert_close(back(y, layout), expected(*map(exact, (x, w, b)), **case.options), dtype)
    without = function(to(x, layout), w, **case.options, layout=layout)
    assert_close(back(without, layout), expected(exact(x), exact(w), **case.options), dtype)


def check_backward(function, forward, expected, case, dtype, layout, out_axis):
    x, w, b = arrays(case, dtype, out_axis)
    dy = make("normal", forward(exact(x), exact(w), **case.options).shape, dtype, seed=4)
    found = function(to(dy, layout), to(x, layout), w, **case.options, layout=layout)
    dx, dw, db = expected(*map(exact, (dy, x, w)), **case.options)
    assert_close(back(found[0], layout), dx, dtype)
    assert_close(found[1], dw, dtype)
    assert_close(found[2], db, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV, **by_name)
def test_conv_is_the_sum_over_its_reads(backend, case, dtype, layout):
    check_forward(gr.conv, oracle.conv, case, dtype, layout, 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV, **by_name)
def test_conv_backward_is_the_sum_over_its_reads(backend, case, dtype, layout):
    check_backward(gr.conv_backward, oracle.conv, oracle.conv_backward, case, dtype, layout, 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV_TRANSPOSE, **by_name)
def test_conv_transpose_is_the_sum_over_its_reads(backend, case, dtype, layout):
    check_forward(gr.conv_transpose, oracle.conv_transpose, case, dtype, layout, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV_TRANSPOSE, **by_name)
def test_conv_transpose_backward_is_the_sum_over_its_reads(backend, case, dtype, layout):
    check_backward(
        gr.conv_transpose_backward, oracle.conv_transpose, oracle.conv_transpose_backward,
        case, dtype, layout, 1,
    )  # fmt: skip


def _columns_last(cols, case):
    """(N, C*R*S, P*Q) -> (N, P*Q, R*S*C)"""
    taps = np.prod(case.window[2:], dtype=int)
    cols = cols.reshape(len(cols), case.x[1], taps, cols.shape[-1])
    return cols.transpose(0, 3, 2, 1).reshape(len(cols), cols.shape[-1], taps * case.x[1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONV, **by_name)
def test_im2col_lists_the_reads_and_col2im_adds_them_up(backend, case, dtype, layout):
    options = {name: value for name, value in case.options.items() if name != "groups"}
    window = case.window[2:]
    x = make(case.kind, case.x, dtype, seed=1)
    cols = gr.im2col(to(x, layout), window, **options, layout=layout)
    expected = oracle.im2col(exact(x), window, **options)
    last = layout == "channels_last"
    assert_close(cols, _columns_last(expected, case) if last else expected, dtype)

    cols = make("normal", expected.shape, dtype, seed=5)
    given = np.ascontiguousarray(_columns_last(cols, case)) if last else cols
    image = gr.col2im(given, shape_in(case.x, layout), window, **options, layout=layout)
    expected = oracle.col2im(exact(cols), case.x, window, **options)
    assert_close(back(image, layout), expected, dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["same 3x3", "stride 2", "depthwise", "1-D everything", "3-D"])
def test_conv_in_16_bits_is_rounded_once(backend, name, dtype):
    pytest.importorskip("ml_dtypes")
    case = next(case for case in CONV if case.name == name)
    check_forward(gr.conv, oracle.conv, case, dtype, "channels_first", 0)
    check_backward(
        gr.conv_backward, oracle.conv, oracle.conv_backward, case, dtype, "channels_first", 0
    )


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["stride 2", "groups"])
def test_conv_transpose_in_16_bits_is_rounded_once(backend, name, dtype):
    pytest.importorskip("ml_dtypes")
    case = next(case for case in CONV_TRANSPOSE if case.name == name)
    check_forward(gr.conv_transpose, oracle.conv_transpose, case, dtype, "channels_last", 1)
    check_backward(
        gr.conv_transpose_backward, oracle.conv_transpose, oracle.conv_transpose_backward,
        case, dtype, "channels_last", 1,
    )  # fmt: skip


# ---- what padding and non-finite weights reach --------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_weight_that_is_not_finite_reaches_only_the_outputs_that_read_through_it(
    backend, value, stride
):
    x = make("ties", (1, 2, 6, 6), "float32") + np.float32(0.5)
    w = make("ties", (2, 2, 3, 3), "float32")
    w[0, 1, 0, 0] = value  # the corner tap: it lies on padding for the first row and column
    y = gr.conv(x, w, padding=1, stride=stride)
    expected = oracle.conv(exact(x), exact(w), padding=1, stride=stride)
    assert np.isfinite(expected[0, 0, 0]).all() and not np.isfinite(expected[0, 0, 1:, 1:]).any()
    assert_close(y, expected, "float32")


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_leaves_taps_on_padding_alone(backend, value):
    x = make("ties", (1, 2, 5, 5), "float32") + np.float32(0.5)
    w = make("ties", (2, 2, 3, 3), "float32") + np.float32(0.5)
    dy = make("ties", (1, 2, 5, 5), "float32")
    dy[0, 0, 0, 0] = value  # this window's first row and column of taps lie on padding
    dx, dw, db = gr.conv_backward(dy, x, w, padding=1)
    expected = oracle.conv_backward(*map(exact, (dy, x, w)), padding=1)
    assert np.isfinite(expected[1][0, :, 0]).all()
    for found, wanted in zip((dx, dw, db), expected):
        assert_close(found, wanted, "float32")


# ---- need= --------------------------------------------------------------------------------


@pytest.mark.parametrize("need", [(), ("x",), ("w",), ("b",), ("b", "x"), ["w", "b"]])
@pytest.mark.parametrize(
    "backward, forward",
    [(gr.conv_backward, gr.conv), (gr.conv_transpose_backward, gr.conv_transpose)],
)
def test_what_is_not_needed_is_none_and_the_rest_is_the_same(backend, backward, forward, need):
    x, w = make("normal", (2, 3, 5, 6)), make("normal", (3, 3, 3, 3), seed=1)
    dy = make("normal", forward(x, w, padding=1).shape, seed=2)
    everything = backward(dy, x, w, padding=1)
    for name, found, whole in zip("xwb", backward(dy, x, w, padding=1, need=need), everything):
        if name in need:
            assert_close(found, whole, "float64")
        else:
            assert found is None
