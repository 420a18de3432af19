"""Convolutions with windows of 1x1 as matrix products, in every layout of the images."""

import numpy as np
import pytest
from needs import needs_vectors
from pointwise import arrays, assert_only_its_channel_suffers, channels_last, dw, exact_dw

import gradroute as gr
from gradroute.config import available_threads
from gradroute.kernels.contract import Plan
from gradroute.kernels.cpu.amx import amx_matmul, amx_pointwise, amx_pointwise_dw, amx_tiles
from gradroute.kernels.cpu.products import (
    grouped_product,
    inner_product,
    pixel_rows,
    pixel_strips,
    planned_product,
    product_blocks,
)

pytestmark = needs_vectors

#: x, K, options: rows of every length modulo a vector, tiles part full, parts and pieces of sums
CASES = {
    "whole vectors": ((2, 16, 32, 32), 24, {}),
    "several images": ((5, 19, 13, 11), 17, {}),
    "a long sum": ((1, 16, 150, 161), 16, {}),
    "long sums of several images": ((9, 16, 91, 90), 18, {}),
    "many output channels": ((2, 16, 12, 12), 250, {}),
    "groups": ((2, 36, 21, 13), 40, {"groups": 2}),
    "stride 2": ((2, 17, 21, 24), 18, {"stride": 2}),
    "stride 3 and 1": ((2, 17, 40, 24), 18, {"stride": (3, 1)}),
    "groups and stride 2": ((3, 64, 31, 32), 48, {"stride": 2, "groups": 2}),
    "three axes": ((2, 17, 3, 8, 9), 18, {"stride": (2, 1, 1)}),
    "stride 2, channels for AMX": ((8, 96, 15, 27), 128, {"stride": 2}),
    "three axes, channels for AMX": ((2, 160, 4, 16, 17), 96, {"stride": (2, 1, 2)}),
    "few pixels": ((4, 40, 7, 7), 64, {}),
    "images of one pixel": ((9, 200, 1, 1), 5, {"stride": 2}),
    "one image of one pixel": ((1, 130, 1, 1), 140, {}),
    "long sums of small images": ((20, 600, 7, 7), 30, {}),
    "groups of small images and stride 2": ((9, 48, 13, 14), 66, {"stride": 2, "groups": 2}),
    "a stride and more terms than rows": ((2, 260, 25, 24), 40, {"stride": (2, 1)}),
    "small images for AMX": ((9, 160, 7, 7), 190, {}),
    "three small images for AMX": ((3, 256, 16, 8), 250, {"stride": (1, 2)}),
    "more terms than rows": ((3, 100, 13, 20), 16, {}),
    "planes of whole lines": ((5, 33, 40, 32), 24, {}),
    "planes of whole lines, more terms": ((5, 100, 40, 32), 16, {}),
}

#: how the images lie: x, and dy
LAYOUTS = {
    "channels first": (False, False),
    "channels last": (True, True),
    "x alone channels last": (True, False),
    "dy alone channels last": (False, True),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


def _everything(dy, x, w, bias, options, layout):
    """y, dx, dw and a transposed convolution with a bias, of images that lie as ``layout`` says."""
    x, dy = (channels_last(a)[0] if last else a for a, last in zip((x, dy), layout))
    dx, dw_, _ = gr.conv_backward(dy, x, w, need=("x", "w"), **options)
    kept = {**options, "output_padding": _left_over(x, dy, options)}
    turned = gr.conv_transpose(dy, w, bias[: x.shape[1]], **kept)
    return gr.conv(x, w, bias[: w.shape[0]], **options), dx, dw_, turned


def _left_over(x, dy, options):
    """The output padding with which a transposed convolution gives all of x's shape."""
    strides = np.broadcast_to(options.get("stride", 1), x.ndim - 2)
    return tuple(int(n - (m - 1) * s - 1) for n, m, s in zip(x.shape[2:], dy.shape[2:], strides))


def _given(case, dtype):
    dy, x, w, options = arrays(case, dtype)
    generator = np.random.default_rng(1)
    w = generator.standard_normal(w.shape).astype(dtype)
    return dy, x, w, generator.standard_normal(600).astype(dtype), options


@pytest.mark.parametrize("precision", ["standard", "strict"])
@pytest.mark.parametrize("dtype, bound", [("float32", 1.5e-6), ("float64", 4e-15)])
def test_every_pass_in_every_layout(case, layout, dtype, bound, precision):
    dy, x, w, bias, options = _given(case, dtype)
    for operation in ("conv", "conv_dx", "conv_dw"):
        assert gr.plan(operation, x, w, **options).algorithm == "pointwise"
    with gr.config(backend="reference"):
        wide = (a.astype(float) for a in (dy, x, w, bias))
        exact = _everything(*wide, options, LAYOUTS["channels first"])
    with gr.config(precision=precision):
        found = _everything(dy, x, w, bias, options, layout)
        with gr.config(threads=1):
            alone = _everything(dy, x, w, bias, options, layout)
    for one, wanted, same in zip(found, exact, alone):
        assert np.linalg.norm(one - wanted) <= bound * np.linalg.norm(wanted)
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_error_of_dw_is_that_of_a_sum_of_one_piece_in_order(case, dtype):
    dy, x, w, options = arrays(case, dtype)
    terms = min(dy.size // dy.shape[1], product_blocks.PIECE)
    bound = np.finfo(dtype).eps / 4 * np.sqrt(terms)
    exact = exact_dw(dy, x, w, options)
    for views in ((dy, x), channels_last(dy, x)):
        error = np.linalg.norm(dw(*views, w, options) - exact)
        assert error <= bound * np.linalg.norm(exact)


def test_strides_do_not_change_a_bit(case):
    dy, x, w, options = arrays(case)
    right = dw(dy, x, w, options)
    room = np.full((*w.shape[:-1], 3), np.nan, w.dtype)[..., ::3]
    np.testing.assert_array_equal(dw(dy, x, w, options, out=(None, room, None)), right)
    apart = np.stack([x, x], axis=2)[:, :, 0]  # channels further apart
    np.testing.assert_array_equal(dw(dy, apart, w, options), right)
    for threads in {1, available_threads()}:
        with gr.config(threads=threads):
            np.testing.assert_array_equal(dw(dy, x, w, options), right)


def test_pixels_at_other_distances_go_another_way(case):
    dy, x, w, options = arrays(case)
    right = dw(dy, x, w, options)
    y = gr.conv(x, w, **options)
    spread = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (dy, x)]
    for views in (spread, (dy, spread[1]), (spread[0], x)):
        np.testing.assert_allclose(dw(*views, w, options), right, rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(gr.conv(spread[1], w, **options), y, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_numbers_that_are_not_finite_reach_what_they_are_multiplied_into(value, layout):
    assert_only_its_channel_suffers(value, CASES["several images"])
    dy, x, w, bias, options = _given(CASES["stride 2, channels for AMX"], "float32")
    x[1, 5, 4, 6] = value
    y = _everything(dy, x, w, bias, options, layout)[0]
    assert not np.isfinite(y[1, :, 2, 3]).any()
    y[1, :, 2, 3] = 0
    assert np.isfinite(y).all()


@pytest.mark.skipif(not amx_tiles.available(), reason="this processor has no AMX")
@pytest.mark.parametrize("name", ["stride 2, channels for AMX", "small images for AMX"])
def test_runs_of_pixels_leave_numbers_that_tiles_cannot_take_to_vectors(name):
    dy, x, w, bias, options = _given(CASES[name], "float32")
    assert "run" in gr.plan("conv", x, w, **options).blocking
    tiny = np.float32(2.0**-100)
    with gr.config(backend="reference"):
        exact = gr.conv(x.astype(float), w.astype(float), **options)
    np.testing.assert_allclose(gr.conv(x * tiny, w, **options), exact * tiny, rtol=2e-3,
                               atol=1e-5 * tiny)  # fmt: skip
    w[3] = np.inf
    y = gr.conv(x, w, **options)
    assert not np.isfinite(y[:, 3]).any() and np.isfinite(np.delete(y, 3, axis=1)).all()


@pytest.mark.parametrize("K, C, side", [(64, 40, 7), (250, 300, 11)])
def test_small_images_are_columns_of_one_product(K, C, side):
    generator = np.random.default_rng(2)
    x, w = generator.standard_normal((9, C, side, side)), generator.standard_normal((K, C, 1, 1))
    blocking = gr.plan("conv", x, w).blocking
    assert blocking["product"] == "joined" and blocking["columns"] > side * side
    right = gr.conv(x, w)
    room = np.full((9, K + 2, side, side + 1), np.nan)
    views = room[:, 1:-1, :, :side], np.full((9, K + 2, side, side), np.nan)[:, 1:-1]
    for y in views:  # rows apart go another way, images apart do not
        np.testing.assert_allclose(gr.conv(x, w, out=y), right, rtol=1e-13, atol=1e-12)
    assert np.isnan(room[:, [0, -1]]).all() and np.isnan(room[..., side]).all()
    x[4, 3, 2, 1] = np.inf
    y = gr.conv(x, w)
    assert not np.isfinite(y[4, :, 2, 1]).any()
    y[4, :, 2, 1] = 0
    assert np.isfinite(y).all()


def test_few_channels_are_read_as_they_lie_whatever_the_distances_between_them():
    dy, x, w, bias, options = _given(CASES["more terms than rows"], "float32")
    assert gr.plan("conv", x, w, **options).blocking["product"] == "strips"
    right = gr.conv(x, w, bias[:16], **options)
    apart = np.stack([x, x], axis=2)[:, :, 1]
    turned = np.ascontiguousarray(w.T).T
    np.testing.assert_array_equal(gr.conv(apart, turned, bias[:16], **options), right)
    room = np.full((3, 18, *right.shape[2:]), np.nan, np.float32)
    gr.conv(x, w, bias[:16], out=room[:, 1:17], **options)
    np.testing.assert_array_equal(room[:, 1:17], right)
    assert np.isnan(room[:, 0]).all() and np.isnan(room[:, 17]).all()


@pytest.mark.parametrize("name", ["planes of whole lines", "planes of whole lines, more terms"])
def test_strips_give_the_same_bits_wherever_in_a_line_images_begin(name):
    dy, x, w, bias, options = _given(CASES[name], "float32")
    bias = bias[: len(w)]
    assert gr.plan("conv", x, w, **options).blocking["product"] == "strips"
    right = gr.conv(x, w, bias, **options)
    for at, to in ((4, 0), (0, 9), (15, 4)):
        image, room = (np.full(a.size + 32, np.nan, np.float32) for a in (x, right))
        image = image[at : at + x.size].reshape(x.shape)
        image[:] = x
        y = room[to : to + right.size].reshape(right.shape)
        gr.conv(image, w, bias, out=y, **options)
        np.testing.assert_array_equal(y, right)
        assert np.isnan(room[:to]).all() and np.isnan(room[to + y.size :]).all()


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("shape, stride", [((1, 256, 700), 2), ((3, 256, 1, 500), (1, 3))], ids=str)
def test_a_single_row_with_a_stride(shape, stride, dtype):
    """Its outputs are a row, too, but what they read does not lie side by side."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal(shape).astype(dtype)
    w = rng.standard_normal((260, 256) + (1,) * (len(shape) - 2)).astype(dtype)
    with gr.config(backend="numba", precision="strict"):
        y = gr.conv(x, w, stride=stride)
        backward = gr.conv_backward(y, x, w, stride=stride)
    with gr.config(backend="reference"):
        exact = [a.astype("float64") for a in (x, w, y)]
        wanted = gr.conv(*exact[:2], stride=stride)
        slopes = gr.conv_backward(exact[2], *exact[:2], stride=stride)
    for found, expected in zip((y, *backward), (wanted, *slopes)):
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < (1e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("dtype, bound", (("float32", 1e-6), ("float64", 1e-14)))
def test_groups_with_channels_last_take_blocks_of_pixels_in_turn(dtype, bound):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2, 41, 43, 192)).astype(dtype)
    w, b = generator.standard_normal((120, 64, 1, 1)).astype(dtype), generator.standard_normal(120)
    options, b = {"groups": 3, "layout": "channels_last"}, b.astype(dtype)
    exact = [a.astype(float) for a in (x, w, b)]
    with gr.config(backend="reference"):
        wanted = [gr.conv(*exact, **options), gr.conv(*exact[:2], **options)]
    wide = np.repeat(x, 2, axis=1)[:, ::2]  # rows of pixels apart: no matrix
    for source in (x, wide):
        made = []
        for threads in (1, 2):
            with gr.config(backend="numba", precision="strict", threads=threads):
                made.append([gr.conv(source, w, b, **options), gr.conv(source, w, **options)])
        for alone, shared, y in zip(*made, wanted):
            np.testing.assert_array_equal(alone, shared)
            assert np.linalg.norm(alone - y) < bound * np.linalg.norm(y)


@pytest.fixture
def ran(monkeypatch):
    """The plans of the products that ran, in order."""
    plans = []

    def noted(run):
        def wrapper(*arguments):
            plans.extend(one for one in arguments if isinstance(one, Plan))
            return run(*arguments)

        return wrapper

    for driver in (amx_pointwise, amx_pointwise_dw, grouped_product, inner_product, pixel_rows,
                   pixel_strips):  # fmt: skip
        monkeypatch.setattr(driver, "run", noted(driver.run))
    monkeypatch.setattr(amx_matmul, "run", noted(amx_matmul.run))
    monkeypatch.setattr(planned_product, "product", noted(planned_product.product))
    return plans


@pytest.mark.parametrize("precision", ["standard", "strict"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_plan_told_channels_last_names_the_product_that_runs(case, dtype, precision, ran):
    dy, x, w, options = arrays(case, dtype)
    dy, x = (np.moveaxis(a, 1, -1).copy() for a in (dy, x))
    options = {**options, "layout": "channels_last"}
    with gr.config(precision=precision):
        calls = {"conv": lambda: gr.conv(x, w, **options),
                 "conv_dx": lambda: gr.conv_backward(dy, x, w, need="x", **options),
                 "conv_dw": lambda: gr.conv_backward(dy, x, w, need="w", **options)}  # fmt: skip
        for operation, call in calls.items():
            ran.clear()
            call()
            blocking = gr.plan(operation, x, w, **options).blocking
            assert {"product": ran[0].algorithm, **ran[0].blocking} == blocking, operation
