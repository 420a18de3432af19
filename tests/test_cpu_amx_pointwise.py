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
