"""dx of few channels by products of all taps, beside the reference."""

import numpy as np
import pytest
from needs import needs_vectors

import gradroute as gr

pytestmark = needs_vectors

#: x, K, window, options
CASES = {
    "one channel": ((3, 1, 14, 17), 20, (3, 3), {"padding": 1}),
    "three channels, stride 2": ((2, 3, 31, 29), 33, (7, 7), {"stride": 2, "padding": 3}),
    "gaps between windows": ((5, 2, 23, 26), 16, (2, 3), {"stride": (3, 4)}),
    "dilation": ((2, 1, 20, 21), 17, (5, 3), {"padding": 2, "dilation": 2}),
    "no padding": ((40, 1, 9, 8), 24, (5, 5), {}),
    "one axis": ((3, 3, 190), 16, (9,), {"padding": 4}),
    "three axes": ((2, 1, 6, 9, 10), 18, (2, 3, 3), {"padding": (0, 1, 1)}),
    "pieces of a batch": ((9, 3, 96, 90), 16, (5, 5), {"padding": 2}),
}


@pytest.fixture(params=CASES)
def given(request):
    x_shape, K, window, options = CASES[request.param]
    generator = np.random.default_rng(0)
    x, w = np.zeros(x_shape), generator.standard_normal((K, x_shape[1], *window))
    dy = generator.standard_normal(gr.conv(x, w, **options).shape)
    return dy, x, w, generator.standard_normal(x_shape[1]), options


def _both(dy, x, w, bias, options):
    """dx, and the transposed convolution with a bias."""
    dx = gr.conv_backward(dy, x, w, need="x", **options)[0]
    return dx, gr.conv_transpose(dy, w, bias, **options)


@pytest.mark.parametrize("precision", ["standard", "strict"])
@pytest.mark.parametrize("dtype, bound", [("float32", 1e-6), ("float64", 2e-15)])
def test_dx_of_few_channels_is_the_sum_of_its_taps(given, dtype, bound, precision):
    options = given[-1]
    with gr.config(backend="reference"):
        exact = _both(*given)
    dy, x, w, bias = (a.astype(dtype) for a in given[:-1])
    with gr.config(precision=precision):
        assert gr.plan("conv_dx", x, w, **options).algorithm == "scattered_taps"
        found = _both(dy, x, w, bias, options)
        with gr.config(threads=1):
            alone = _both(dy, x, w, bias, options)
        last = np.moveaxis(np.ascontiguousarray(np.moveaxis(dy, 1, -1)), -1, 1)
        other = _both(last, x, w, bias, options)  # goes another way
    for one, same, way, wanted in zip(found, alone, other, exact):
        assert np.linalg.norm(one - wanted) <= bound * np.linalg.norm(wanted)
        assert np.linalg.norm(way - wanted) <= bound * np.linalg.norm(wanted)
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_output_gradient_that_is_not_finite_reaches_its_own_window_only(given, value):
    dy, x, w, bias, options = given
    dy[(1, 3, *[0] * (dy.ndim - 2))] = value
    with gr.config(backend="reference"):
        exact = _both(dy, x, w, bias, options)
    for one, wanted in zip(_both(dy, x, w, bias, options), exact):
        np.testing.assert_array_equal(np.isfinite(one), np.isfinite(wanted))


def test_the_result_may_lie_anywhere():
    dy = np.random.default_rng(1).standard_normal((4, 16, 12, 12))
    x, w = np.zeros((4, 1, 12, 12)), np.random.default_rng(2).standard_normal((16, 1, 3, 3))
    right = gr.conv_backward(dy, x, w, need="x", padding=1)[0]
    room = np.full((4, 1, 12, 25), np.nan)
    for view in (room[..., :24:2], room[..., 1:13]):
        found = gr.conv_backward(dy, x, w, need="x", padding=1, out=(view, None, None))[0]
        np.testing.assert_allclose(found, right, rtol=1e-13, atol=1e-13)
    assert np.isnan(room[..., 24]).all()


def test_taps_that_take_more_than_the_workspace_are_left_to_other_ways():
    x = np.broadcast_to(np.float32(0), (1, 3, 1000, 1000))
    w = np.zeros((16, 3, 5, 5), np.float32)
    plan = gr.plan("conv_dx", x, w, padding=2)
    assert plan.algorithm != "scattered_taps" and plan.workspace_bytes <= 33 * 2**20
