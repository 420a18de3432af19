"""1 x 1 windows as one product with the pixels of all images (joined_product.py, joined_dw.py)."""

import numpy as np
import pytest
from needs import needs_vectors

import gradroute as gr

pytestmark = needs_vectors

#: x's shape, K, options
CASES = {
    "images of several blocks": ((2, 140, 37, 41), 150, {}),
    "an image, a block": ((9, 700, 12, 13), 30, {}),
    "one image": ((1, 300, 50, 50), 61, {}),
    "small images": ((70, 90, 6, 9), 50, {}),
    "small images, many terms": ((60, 2500, 7, 7), 20, {}),
    "stride 2": ((6, 130, 31, 54), 140, {"stride": 2}),
    "stride 2, small images": ((80, 200, 13, 14), 90, {"stride": 2}),
    "strides apart": ((3, 150, 40, 61), 70, {"stride": (1, 3)}),
    "volumes": ((3, 130, 5, 21, 16), 160, {"stride": (2, 1, 2)}),
    "signals": ((6, 170, 901), 140, {"stride": 2}),
    "groups": ((5, 360, 23, 24), 300, {"groups": 2}),
}


def _given(case, dtype):
    shape, K, options = case
    rng = np.random.default_rng(5)
    x = rng.standard_normal(shape).astype(dtype)
    w = rng.standard_normal((K, shape[1] // options.get("groups", 1), *[1] * (x.ndim - 2)))
    return x, (w / shape[1] ** 0.5).astype(dtype), rng.standard_normal(K).astype(dtype), options


def _close(found, right):
    most = 1e-5 if found.dtype == np.float32 else 1e-13
    np.testing.assert_allclose(found, right, rtol=most, atol=most)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_both_directions_are_those_of_the_reference(name, dtype):
    x, w, bias, options = _given(CASES[name], dtype)
    with gr.config(precision="strict", threads=2):
        blocking = gr.plan("conv", x, w, **options).blocking
        assert blocking["product"] == "joined" and blocking["packed once"]
        y = gr.conv(x, w, bias, **options)
        dx = gr.conv_backward(y, x, w, need="x", **options)[0]
    with gr.config(backend="reference"):
        wide = [array.astype(float) for array in (x, w, bias, y)]
        _close(y, gr.conv(*wide[:3], **options))
        _close(dx, gr.conv_backward(wide[3], *wide[:2], need="x", **options)[0])


#: the same, where one thread has as few blocks as would make two go another way
FEW = {
    "few images": ((4, 2500, 12, 12), 20, {}),
    "few images, stride 2": ((4, 2500, 24, 23), 40, {"stride": 2}),
    "one small image": ((1, 300, 25, 25), 40, {}),
}


@pytest.mark.parametrize("name", [*CASES, *FEW])
def test_bits_do_not_depend_on_threads_or_places(name):
    x, w, bias, options = _given({**CASES, **FEW}[name], "float64")
    y = gr.conv(x, w, bias, **options)
    with gr.config(threads=1):
        np.testing.assert_array_equal(gr.conv(x, w, bias, **options), y)
    room = np.full((len(y), y.shape[1] + 2, *y.shape[2:]), np.nan)
    apart = np.stack([x, x], axis=2)[:, :, 1]
    gr.conv(apart, np.ascontiguousarray(w.T).T, bias, out=room[:, 1:-1], **options)
    np.testing.assert_array_equal(room[:, 1:-1], y)
    assert np.isnan(room[:, [0, -1]]).all()


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("name", ["images of several blocks", "small images", "stride 2"])
def test_one_number_that_is_not_finite_reaches_its_pixel(name, value):
    x, w, bias, options = _given(CASES[name], "float64")
    x[1, 7, 4, 2] = value
    y = gr.conv(x, w, bias, **options)
    step = options.get("stride", 1)
    assert not np.isfinite(y[1, :, 4 // step, 2 // step]).any()
    y[1, :, 4 // step, 2 // step] = 0
    assert np.isfinite(y).all()


def test_a_limit_without_room_for_the_weights_goes_another_way():
    x, w, bias, options = _given(CASES["an image, a block"], "float64")
    y = gr.conv(x, w, bias)
    with gr.config(workspace_limit=100_000):
        assert gr.plan("conv", x, w).workspace_bytes <= 100_000
        _close(gr.conv(x, w, bias), y)


#: of dw: how its sum is cut, too
OF_DW = {
    "small images": ((9, 520, 7, 7), 530, {}),
    "many small images": ((300, 150, 3, 3), 140, {}),
    "groups of small images": ((12, 300, 3, 5), 340, {"groups": 2}),
    "stride 2, small images": ((80, 40, 13, 14), 90, {"stride": 2}),
    "stride 2, parts of the sum": ((6, 130, 31, 54), 140, {"stride": 2}),
    "strides apart": ((3, 50, 40, 61), 70, {"stride": (1, 3)}),
    "a long sum": ((1, 30, 300, 301), 60, {"stride": 2}),
    "a long sum of small images": ((90, 30, 13, 14), 600, {"stride": 2}),
    "a long sum of many channels": ((460, 1020, 3, 3), 1010, {}),
    "rows of dy that share cache sets": ((2, 70, 64, 64), 60, {"stride": 2}),
    "volumes": ((3, 30, 5, 21, 16), 60, {"stride": (2, 1, 2)}),
    "long rows": ((6, 60, 901), 30, {"stride": 2}),
}


def _dw(name, dtype):
    x, w, bias, options = _given(OF_DW[name], dtype)
    dy = np.random.default_rng(6).standard_normal(gr.conv(x, w, **options).shape).astype(dtype)
    return dy, x, w, options


def _gradients(dy, x, w, options, **more):
    return gr.conv_backward(dy, x, w, need=("w", "b"), **options, **more)[1:]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", OF_DW)
def test_dw_is_that_of_the_reference_whatever_the_threads(name, dtype):
    dy, x, w, options = _dw(name, dtype)
    with gr.config(precision="strict"):
        assert gr.plan("conv_dw", x, w, **options).blocking["product"] == "joined"
        found = _gradients(dy, x, w, options)
        with gr.config(threads=1):
            alone = _gradients(dy, x, w, options)
    with gr.config(backend="reference"):
        exact = _gradients(*(array.astype(float) for array in (dy, x, w)), options)
    for one, same, right in zip(found, alone, exact):
        np.testing.assert_array_equal(one, same)
        most = 1e-6 if dtype == "float32" else 2e-15
        assert np.linalg.norm(one - right) <= most * np.linalg.norm(right)


@pytest.mark.parametrize("name", OF_DW)
def test_the_bits_of_dw_do_not_depend_on_where_arrays_lie(name):
    dy, x, w, options = _dw(name, "float32")
    dw, db = _gradients(dy, x, w, options)
    room = np.full((*w.shape[:-1], 3), np.nan, w.dtype)[..., ::3]
    apart = [np.stack([one, one], axis=2)[:, :, 1] for one in (dy, x)]
    for images, out in ((apart, None), ((dy, x), (None, room, None))):
        for one, right in zip(_gradients(*images, w, options, out=out), (dw, db)):
            np.testing.assert_array_equal(one, right)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("name", ["small images", "stride 2, parts of the sum"])
def test_a_number_that_is_not_finite_reaches_the_weights_of_its_channel(name, value):
    dy, x, w, options = _dw(name, "float32")
    x[2, 19, 4, 2] = value
    dw, _ = _gradients(dy, x, w, options)
    assert not np.isfinite(dw[:, 19]).any()
    assert np.isfinite(np.delete(dw, 19, axis=1)).all()
