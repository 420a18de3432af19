"""dw of 1 x 1 windows as inner products of images as they lie."""

import numpy as np
import pytest
from pointwise import arrays, assert_only_its_channel_suffers, channels_last, dw, exact_dw

import gradroute as gr
from gradroute.config import available_threads
from gradroute.kernels.cpu import amx, vectors

pytestmark = pytest.mark.skipif(
    vectors.TARGET is None, reason="this processor has no vectors that the inner tile knows"
)

#: x, K, options: rows of every length modulo a vector, and tiles that are part full
CASES = {
    "whole vectors": ((2, 16, 32, 32), 24, {}),
    "several images in a run": ((5, 13, 9, 11), 7, {}),
    "several runs in an image": ((1, 9, 50, 61), 5, {}),
    "blocks of output channels": ((2, 8, 10, 10), 250, {}),
    "groups": ((2, 18, 21, 13), 20, {"groups": 2}),
    "stride 2": ((2, 11, 21, 24), 8, {"stride": 2}),
    "stride 3 and 1": ((2, 11, 40, 24), 8, {"stride": (3, 1)}),
    "three axes": ((2, 9, 3, 8, 9), 8, {"stride": (2, 1, 1)}),
    "one pair of channels": ((3, 1, 40, 40), 1, {}),
}


@pytest.mark.parametrize("dtype, bound", [("float32", 3e-7), ("float64", 1e-15)])
@pytest.mark.parametrize("name", CASES)
def test_the_error_is_below_that_of_a_sum_in_order(name, dtype, bound):
    dy, x, w, options = arrays(CASES[name], dtype)
    assert gr.plan("conv_dw", x, w, **options).algorithm == "pointwise"
    exact = exact_dw(dy, x, w, options)
    found = dw(dy, x, w, options)
    assert np.linalg.norm(found - exact) <= bound * np.linalg.norm(exact)


@pytest.mark.parametrize("name", CASES)
def test_threads_and_strides_do_not_change_a_bit(name):
    dy, x, w, options = arrays(CASES[name])
    right = dw(dy, x, w, options)
    room = np.full((*w.shape[:-1], 3), np.nan, w.dtype)[..., ::3]
    np.testing.assert_array_equal(dw(dy, x, w, options, out=(None, room, None)), right)
    apart = np.stack([x, x], axis=2)[:, :, 0]  # channels further apart
    np.testing.assert_array_equal(dw(dy, apart, w, options), right)
    for threads in {1, available_threads()}:
        with gr.config(threads=threads):
            np.testing.assert_array_equal(dw(dy, x, w, options), right)


@pytest.mark.parametrize("name", CASES)
def test_pixels_that_do_not_lie_side_by_side_go_another_way(name):
    dy, x, w, options = arrays(CASES[name])
    right = dw(dy, x, w, options)
    last = channels_last(dy, x)
    spread = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (dy, x)]
    for views in (last, spread, (dy, spread[1]), (last[0], x)):
        np.testing.assert_allclose(dw(*views, w, options), right, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_numbers_that_are_not_finite_reach_what_they_are_multiplied_into(value):
    assert_only_its_channel_suffers(value, CASES["several images in a run"])


STRIDED = {
    "stride 2, odd sizes": ((8, 96, 15, 27), 128, {"stride": 2}),
    "stride 2, even sizes": ((3, 128, 32, 16), 64 + 32, {"stride": 2}),
    "stride 3 and 1": ((2, 96, 31, 32), 96, {"stride": (3, 1)}),
    "three axes": ((2, 96, 4, 16, 17), 96, {"stride": (2, 1, 2)}),
}


@pytest.mark.skipif(not amx.available(), reason="the stride is taken out for the sake of AMX")
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", STRIDED)
def test_forward_and_dx_without_their_stride(name, last):
    x_shape, K, options = STRIDED[name]
    generator = np.random.default_rng(0)
    x = generator.standard_normal(x_shape).astype(np.float32)
    w = generator.standard_normal((K, x_shape[1], *[1] * (x.ndim - 2))).astype(np.float32)
    bias = generator.standard_normal(K).astype(np.float32)
    for operation in ("conv", "conv_dx"):
        assert gr.plan(operation, x, w, **options).algorithm == "pointwise"
    if last:
        (x,) = channels_last(x)

    def everything():
        y = gr.conv(x, w, bias, **options)
        dy = np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        turned = gr.conv_transpose(dy, w, np.ones(x.shape[1], np.float32), **options)
        return y, gr.conv_backward(dy, x, w, need="x", **options)[0], turned

    found = everything()
    with gr.config(precision="strict"):
        right = everything()
    with gr.config(threads=1):
        alone = everything()
    for one, wanted, same in zip(found, right, alone):
        assert np.linalg.norm(one - wanted) <= 2e-6 * np.linalg.norm(wanted)
        np.testing.assert_array_equal(one, same)
    x[1, 5] = np.inf
    y = gr.conv(x, w, bias, **options)
    assert not np.isfinite(y[1]).any() and np.isfinite(y[0]).all()
