"""1 x 1 windows on AMX tiles: runs and parts of the pixels, in every layout."""

import numpy as np
import pytest
from pointwise import arrays, assert_only_its_channel_suffers, channels_last, dw, exact_dw

import gradroute as gr
from gradroute.kernels.cpu.amx import amx_tiles

pytestmark = pytest.mark.skipif(
    not amx_tiles.available(), reason="this processor, or this system, offers no AMX tiles"
)

#: x, K, options: runs that end inside a step, tiles that are part full, both operands passing
CASES = {
    "several runs in an image": ((2, 128, 30, 41), 160, {}),
    "several images in a run": ((7, 256, 7, 9), 128, {}),
    "tiles part full": ((3, 152, 17, 23), 184, {}),
    "one image": ((1, 128, 40, 40), 128, {}),
    "groups": ((4, 256, 14, 14), 256, {"groups": 2}),
    "dw as large as the pixels": ((3, 512, 7, 7), 1024, {}),
    "stride 2": ((4, 160, 29, 31), 128, {"stride": 2}),
    "stride 2, a short last run": ((2, 128, 56, 56), 128, {"stride": 2}),
    "stride 3 and 1": ((3, 128, 40, 11), 128, {"stride": (3, 1)}),
    "three axes": ((2, 128, 4, 13, 14), 160, {"stride": (2, 1, 2)}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_error_is_that_of_a_direct_float32_sum(name):
    dy, x, w, options = arrays(CASES[name])
    plan = gr.plan("conv_dw", x, w, **options)
    assert plan.blocking["product"] == "amx" and "run" in plan.blocking
    exact = exact_dw(dy, x, w, options)
    error = np.linalg.norm(dw(dy, x, w, options) - exact)
    assert error <= 5e-7 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", CASES)
def test_threads_and_layouts_do_not_change_a_bit(name):
    dy, x, w, options = arrays(CASES[name])
    right = dw(dy, x, w, options)
    last = channels_last(dy, x)
    for views in ((dy, last[1]), (last[0], x), last):
        np.testing.assert_array_equal(dw(*views, w, options), right)
    turned = np.moveaxis(np.empty((w.shape[1], *w.shape[2:], w.shape[0]), w.dtype), -1, 0)
    for out in (np.full((*w.shape[:-1], 3), np.nan, w.dtype)[..., ::3], turned):
        np.testing.assert_array_equal(dw(dy, x, w, options, out=(None, out, None)), right)
    with gr.config(threads=1):
        np.testing.assert_array_equal(dw(dy, x, w, options), right)


@pytest.mark.parametrize("name", ["several runs in an image", "stride 2"])
def test_pixels_at_uneven_distances_are_served_too(name):
    dy, x, w, options = arrays(CASES[name])
    wider = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 3)])[..., : x.shape[-1]]
    np.testing.assert_allclose(dw(dy, wider, w, options), dw(dy, x, w, options), rtol=1e-4,
                               atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_numbers_that_are_not_finite_reach_what_they_are_multiplied_into(value):
    assert_only_its_channel_suffers(value, CASES["several images in a run"])


def test_tiny_numbers_keep_their_accuracy():
    dy, x, w, options = arrays(CASES["one image"])
    x, dy = x * np.float32(1e-25), dy * np.float32(1e-5)
    exact = exact_dw(dy, x, w, options)
    assert np.linalg.norm(dw(dy, x, w, options) - exact) <= 1e-6 * np.linalg.norm(exact)


#: x, K, stride: rows that squares of pixels cross, images of odd height, rows that they do not
STRIDED = {
    "rows of 28": ((4, 192, 56, 56), 160, 2),
    "odd sizes": ((5, 160, 43, 57), 192, (2, 3)),
    "rows only": ((2, 160, 50, 64), 160, (2, 1)),
    "signals": ((3, 160, 5001), 160, 3),
}


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("bias", (False, True))
def test_with_channels_last_every_few_pixels_are_read_where_they_lie(name, bias):
    shape, K, stride = STRIDED[name]
    _, x, w, options = arrays((shape, K, {"stride": stride}))
    w[...] = np.random.default_rng(2).standard_normal(w.shape)
    b = np.arange(K, dtype=w.dtype) if bias else None
    assert gr.plan("conv", x, w, **options).blocking["product"] == "amx"
    with gr.config(backend="reference"):
        exact = gr.conv(*(a if a is None else a.astype(float) for a in (x, w, b)), **options)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    found = gr.conv(last, w, b, layout="channels_last", **options)
    assert np.linalg.norm(np.moveaxis(found, -1, 1) - exact) <= 5e-7 * np.linalg.norm(exact)
    with gr.config(threads=1):
        np.testing.assert_array_equal(gr.conv(last, w, b, layout="channels_last", **options), found)
    last[1, 0, ..., 7] = np.inf  # one pixel of a signal, a row of an image
    y = gr.conv(last, w, b, layout="channels_last", **options)
    touched = np.zeros(y.shape, bool)
    touched[1, 0] = True
    assert not np.isfinite(y[touched]).any()
    np.testing.assert_allclose(y[~touched], found[~touched], rtol=1e-4, atol=1e-4)

#: x, K, stride: runs of an image that end inside a square, several images in a run, an odd channel
#: and channels short of a step, a stride of two with odd rows, one row, one panel of weights
FORWARD = {
    "rows of 28": ((2, 192, 56, 56), 160, 2),
    "odd sizes": ((3, 161, 43, 57), 70, 2),
    "images of several runs": ((2, 63, 70, 81), 64, 1),
    "several images in a run": ((7, 128, 7, 9), 96, 1),
    "one panel of weights": ((3, 64, 120, 121), 32, 1),
    "one row": ((2, 96, 1, 3000), 64, (1, 2)),
    "three axes": ((4, 128, 4, 13, 14), 160, (3, 3, 1)),
}


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("bias", (False, True))
def test_forward_and_dx_by_runs_of_pixels(name, bias):
    shape, K, stride = FORWARD[name]
    _, x, w, options = arrays((shape, K, {"stride": stride}))
    generator = np.random.default_rng(2)
    w[...] = generator.standard_normal(w.shape)
    b = generator.standard_normal(K).astype(w.dtype) if bias else None
    blocking = gr.plan("conv", x, w, **options).blocking
    assert blocking["product"] == "amx" and "run" in blocking
    found = gr.conv(x, w, b, **options)
    dy = generator.standard_normal(found.shape).astype(x.dtype)
    dx = gr.conv_backward(dy, x, w, need="x", **options)[0]
    with gr.config(backend="reference"):
        exact = gr.conv(*(a if a is None else a.astype(float) for a in (x, w, b)), **options)
        exact_dx = gr.conv_backward(*(a.astype(float) for a in (dy, x, w)), need="x", **options)[0]
    assert np.linalg.norm(found - exact) <= 5e-7 * np.linalg.norm(exact)
    assert np.linalg.norm(dx - exact_dx) <= 5e-7 * np.linalg.norm(exact_dx)
    last = channels_last(x)[0]
    wider = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 3)])[..., : x.shape[-1]]
    with gr.config(threads=1):
        np.testing.assert_array_equal(gr.conv(x, w, b, **options), found)
        np.testing.assert_array_equal(gr.conv_backward(dy, x, w, need="x", **options)[0], dx)
    for other in (last, wider):
        y = gr.conv(other, w, b, **options)
        np.testing.assert_allclose(y, found, rtol=1e-4, atol=1e-4)
    turned = x[..., ::-1]
    right = gr.conv(np.ascontiguousarray(turned), w, b, **options)
    np.testing.assert_allclose(gr.conv(turned, w, b, **options), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", (np.nan, -np.nan, np.inf, np.float32(3e38)))
def test_numbers_that_are_not_finite_reach_their_pixels_only(value):
    _, x, w, options = arrays(((2, 128, 40, 61), 96, {}))
    w[...] = np.random.default_rng(2).standard_normal(w.shape)
    right = gr.conv(x, w)
    x[1, 5, 7, 9] = value
    y = gr.conv(x, w)
    touched = np.zeros(y.shape, bool)
    touched[1, :, 7, 9] = True
    assert not (y[touched] == right[touched]).any()
    np.testing.assert_allclose(y[~touched], right[~touched], rtol=1e-4, atol=1e-4)
