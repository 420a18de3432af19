"""Convolutions on AMX tiles: float32's accuracy, and the data that must go another way.

Skipped where the processor has no such tiles: there plans never choose them.
"""

import numpy as np
import pytest

import gradroute as gr
from gradroute.kernels.cpu.amx import amx_tiles

pytestmark = [pytest.mark.usefixtures("without_columns", "without_inside_taps"), pytest.mark.skipif(
    not amx_tiles.available(), reason="this processor, or this system, offers no AMX tiles"
)]  # fmt: skip

#: (N, C, H, W), (K, C/G, R, S), options: each has enough to multiply, and fills the tiles
CASES = {
    "same": ((2, 64, 20, 20), (64, 64, 5, 5), {"padding": 2}),
    "strided": ((2, 64, 25, 25), (64, 64, 3, 3), {"stride": 2, "padding": 1}),
    "stride beyond the window": ((2, 64, 60, 60), (64, 64, 3, 3), {"stride": 5}),
    "dilated groups": (
        (2, 128, 15, 17), (128, 64, 3, 3), {"padding": 2, "dilation": 2, "groups": 2}
    ),
    "no padding, images run on": ((3, 128, 9, 9), (96, 128, 2, 2), {}),
    "more weights than pixels": ((2, 256, 3, 3), (128, 256, 3, 3), {"padding": 1}),
    "uneven padding": ((1, 64, 21, 33), (48, 64, 3, 5), {"padding": ((0, 2), (3, 1))}),
    "rows share their padding": ((5, 48, 7, 7), (64, 48, 5, 5), {"padding": 2}),
    "taps along rows": ((3, 64, 11, 13), (64, 64, 1, 6), {}),
    "taps along columns": ((3, 64, 11, 13), (64, 64, 6, 1), {}),
    "rows that few taps reach": ((3, 80, 6, 9), (64, 80, 4, 4), {"padding": 3, "stride": 2}),
    "three axes": ((1, 64, 5, 9, 8), (32, 64, 2, 3, 3), {"padding": 1}),
}


def arrays(name, seed=0):
    x_shape, w_shape, options = CASES[name]
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(x_shape).astype(np.float32)
    w = generator.standard_normal(w_shape).astype(np.float32)
    return x, w, options


def everything(x, w, options, layout="channels_first"):
    y = gr.conv(x, w, layout=layout, **options)
    dy = np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape) + np.float32(0.5)
    return (y, *gr.conv_backward(dy, x, w, layout=layout, **options))


def error(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("name", CASES)
def test_the_error_is_that_of_a_direct_float32_sum(name):
    x, w, options = arrays(name)
    for operation in ("conv", "conv_dx", "conv_dw"):
        assert gr.plan(operation, x, w, **options).algorithm == "amx"
    with gr.config(backend="reference"):
        exact = everything(x.astype(np.float64), w.astype(np.float64), options)
    with gr.config(precision="strict"):
        direct = everything(x, w, options)
    for found, plain, right in zip(everything(x, w, options), direct, exact):
        assert error(found, right) <= max(2 * error(plain, right), 2e-7)


@pytest.mark.parametrize("name", CASES)
def test_channels_last_gives_the_same(name):
    x, w, options = arrays(name)
    y = gr.conv(x, w, **options)
    first = gr.conv_backward(y, x, w, **options)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    y_last = gr.conv(last, w, layout="channels_last", **options)
    np.testing.assert_array_equal(np.moveaxis(y_last, -1, 1), y)
    w_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(w, 1, -1)), -1, 1)
    dx, dw, db = gr.conv_backward(y_last, last, w_last, layout="channels_last", **options)
    np.testing.assert_array_equal(np.moveaxis(dx, -1, 1), first[0])
    np.testing.assert_array_equal(dw, first[1])


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 2, 1, 0)])
def test_dw_is_written_to_any_layout(order):
    x, w, options = arrays("rows share their padding")
    y = gr.conv(x, w, **options)
    right = gr.conv_backward(y, x, w, need="w", **options)[1]
    out = np.empty([w.shape[axis] for axis in order], w.dtype).transpose(np.argsort(order))
    gr.conv_backward(y, x, w, need="w", out=(None, out, None), **options)
    np.testing.assert_array_equal(out, right)


@pytest.mark.parametrize("name", CASES)
def test_one_and_two_threads_give_the_same_bits(name):
    x, w, options = arrays(name)
    with gr.config(threads=1):
        one = everything(x, w, options)
    for alone, shared in zip(one, everything(x, w, options)):
        np.testing.assert_array_equal(alone, shared)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", ["x", "w"])
def test_numbers_that_are_not_finite_reach_what_a_direct_sum_gives_them_to(value, where):
    x, w, options = arrays("same")
    (x if where == "x" else w)[1, 3, 1, 2] = value
    with gr.config(backend="reference"):
        right = everything(x, w, options)
    for found, wanted in zip(everything(x, w, options), right):
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
        np.testing.assert_array_equal(np.isposinf(found), np.isposinf(wanted))


@pytest.mark.parametrize("scale", [1e-30, 1e-36, 3e38])
def test_extreme_scales_keep_their_accuracy(scale):
    x, w, options = arrays("same")
    x = np.clip(x, -1, 1) * np.float32(scale)
    w = w * np.float32(1e-3)
    with gr.config(backend="reference"):
        exact = gr.conv(x.astype(np.float64), w.astype(np.float64), **options)
    assert error(gr.conv(x, w, **options), exact) < 1e-6


def test_integers_are_multiplied_exactly():
    generator = np.random.default_rng(0)
    x = generator.integers(-1000, 1000, (1, 32, 16, 16)).astype(np.float32)
    w = generator.integers(-7, 8, (64, 32, 5, 5)).astype(np.float32)
    assert gr.plan("conv", x, w, padding=2).algorithm == "amx"
    with gr.config(backend="reference"):
        exact = gr.conv(x.astype(np.float64), w.astype(np.float64), padding=2)
    np.testing.assert_array_equal(gr.conv(x, w, padding=2), exact)


def test_strict_and_float64_do_not_use_them():
    x, w, options = arrays("same")
    with gr.config(precision="strict"):
        assert gr.plan("conv", x, w, **options).algorithm != "amx"
    assert gr.plan("conv", x.astype(float), w.astype(float), **options).algorithm != "amx"


def test_a_workspace_limit_below_what_they_need_takes_another_way():
    x, w, options = arrays("same")
    y = gr.conv(x, w, **options)
    with gr.config(workspace_limit=gr.plan("conv", x, w, **options).workspace_bytes - 1):
        assert gr.plan("conv", x, w, **options).algorithm != "amx"
        assert error(gr.conv(x, w, **options), y) < 1e-6


def test_inputs_that_no_output_reads_have_no_gradient():
    x, w = np.zeros((16, 64, 14, 1), np.float32), np.ones((128, 64, 11, 1), np.float32)
    options = {"stride": (3, 2), "padding": (3, 9)}  # columns are read at odd places only
    dy = np.ones(gr.conv(x, w, **options).shape, np.float32)
    assert not gr.conv_backward(dy, x, w, need="x", **options)[0].any()
