"""3x3 and 5x5 convolutions by Winograd's filtering: accuracy, blocks, and what is not for it."""

import numpy as np
import pytest
from needs import needs_vectors

import gradroute as gr
from gradroute.config import available_threads

#: AMX makes the sums of 5x5 windows before the transforms would be made
pytestmark = [needs_vectors, pytest.mark.usefixtures("without_amx")]

#: (N, C, H, W), (K, C/G, R, S), options: enough channels and tiles; the last tiles are part full
CASES = {
    "same": ((3, 32, 19, 22), (40, 32, 3, 3), {"padding": 1}),
    "no padding": ((6, 33, 16, 13), (32, 33, 3, 3), {}),
    "uneven and wide padding": ((3, 32, 17, 15), (32, 32, 3, 3), {"padding": ((3, 0), (1, 4))}),
    "groups": ((4, 64, 18, 16), (96, 32, 3, 3), {"padding": 1, "groups": 2}),
    "planes of three axes": ((2, 32, 3, 14, 11), (32, 32, 1, 3, 3), {"padding": (0, 1, 1)}),
    "one long row of tiles": ((1, 32, 5, 1500), (32, 32, 3, 3), {"padding": 1}),
    "weights made for every block": ((8, 112, 12, 12), (144, 112, 3, 3), {"padding": 1}),
    "weights kept, and too many for L2": ((2, 64, 64, 64), (64, 64, 3, 3), {"padding": 1}),
    "a sum of two chunks": ((4, 300, 16, 16), (32, 300, 3, 3), {"padding": 1}),
    "few tiles": ((9, 203, 7, 6), (147, 203, 3, 3), {"padding": 1}),
    "few tiles, groups": ((2, 192, 9, 11), (224, 96, 3, 3), {"padding": 1, "groups": 2}),
    "5x5 same": ((3, 48, 19, 22), (72, 48, 5, 5), {"padding": 2}),
    "5x5 no padding": ((3, 61, 42, 35), (96, 61, 5, 5), {}),
    "5x5 uneven and wide padding": ((3, 64, 17, 15), (64, 64, 5, 5), {"padding": ((5, 0), (1, 6))}),
    "5x5 groups": ((4, 128, 18, 16), (160, 64, 5, 5), {"padding": 2, "groups": 2}),
    "5x5 planes of three axes": ((2, 64, 3, 14, 11), (64, 64, 1, 5, 5), {"padding": (0, 2, 2)}),
    "5x5 one long row of tiles": ((1, 64, 5, 700), (64, 64, 5, 5), {"padding": 2}),
    "5x5 weights made for every block": ((8, 112, 12, 12), (144, 112, 5, 5), {"padding": 2}),
    "5x5 weights kept, and too many for L2": ((2, 48, 68, 66), (128, 48, 5, 5), {"padding": 2}),
    "5x5 a sum of two chunks": ((4, 300, 16, 16), (64, 300, 5, 5), {"padding": 2}),
}
OPERATIONS = ("conv", "conv_dx", "conv_dw")

#: fewer channels, whose dw goes another way
FEW = {
    "16 to 33": ((4, 16, 34, 30), (33, 16, 3, 3), {"padding": 1}),
    "50 to 20": ((9, 50, 12, 12), (20, 50, 3, 3), {}),
    "16 to 16, many tiles": ((16, 16, 50, 46), (16, 16, 3, 3), {"padding": 1}),
}


def arrays(name, seed=0, dtype=np.float32):
    x_shape, w_shape, options = CASES[name]
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(x_shape).astype(dtype),
            generator.standard_normal(w_shape).astype(dtype), options)  # fmt: skip


def gradients(like):
    return np.cos(np.arange(like.size, dtype=like.dtype)).reshape(like.shape)


def everything(x, w, options, bias=None):
    """y, dx and dw"""
    y = gr.conv(x, w, bias, **options)
    return y, *gr.conv_backward(gradients(y), x, w, **options)[:2]


def error(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("dtype, bound", [("float32", 3e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("name", CASES)
def test_the_error_to_a_direct_sum(name, dtype, bound):
    x, w, options = arrays(name, dtype=dtype)
    bias = np.linspace(-2, 2, len(w)).astype(dtype)
    for operation in OPERATIONS:
        assert gr.plan(operation, x, w, **options).algorithm == "winograd"
    with gr.config(precision="strict"):
        exact = everything(x.astype(float), w.astype(float), options, bias.astype(float))
    for found, right in zip(everything(x, w, options, bias), exact):
        assert error(found, right) < bound
        # nowhere far off either: every tile, and every output of it
        np.testing.assert_allclose(found, right, atol=20 * bound * np.abs(right).max())


@pytest.mark.parametrize("dtype, bound", [("float32", 3e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("name", FEW)
def test_few_channels_forward_and_dx(name, dtype, bound):
    x_shape, w_shape, options = FEW[name]
    rng = np.random.default_rng(2)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
    assert [gr.plan(operation, x, w, **options).algorithm == "winograd"
            for operation in OPERATIONS] == [True, True, False]  # fmt: skip
    with gr.config(precision="strict"):
        exact = everything(x.astype(float), w.astype(float), options)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    for image in (x, last):
        for found, right in zip(everything(image, w, options), exact):
            assert error(found, right) < bound


@pytest.mark.parametrize("name", CASES)
def test_layouts_strides_and_threads_give_the_same_bits(name):
    x, w, options = arrays(name)
    right = everything(x, w, options)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    spread = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)[..., ::2]
    spread[...] = x
    turned = np.ascontiguousarray(w[..., ::-1])[..., ::-1]
    for view, weights in ((last, w), (spread, w), (x, turned)):
        for found, wanted in zip(everything(view, weights, options), right):
            np.testing.assert_array_equal(found, wanted)
    for threads in {1, available_threads()}:
        with gr.config(threads=threads):
            for found, wanted in zip(everything(x, w, options), right):
                np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["same", "5x5 same"])
@pytest.mark.parametrize("out_last", [False, True])
def test_outputs_of_any_strides(out_last, name):
    x, w, options = arrays(name)
    y, dx, dw = everything(x, w, options)

    def room(like):
        if out_last:
            return np.moveaxis(np.full(np.moveaxis(like, 1, -1).shape, np.nan, like.dtype), -1, 1)
        return np.full((*like.shape[:-1], 2 * like.shape[-1]), np.nan, like.dtype)[..., ::2]

    np.testing.assert_array_equal(gr.conv(x, w, out=room(y), **options), y)
    outs = (room(dx), room(dw), None)
    found = gr.conv_backward(gradients(y), x, w, need=("x", "w"), out=outs, **options)
    np.testing.assert_array_equal(found[0], dx)
    np.testing.assert_array_equal(found[1], dw)


@pytest.mark.parametrize("name", ["same", "5x5 same"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("where", ["x", "w", "bias"])
def test_numbers_that_are_not_finite_reach_what_a_direct_sum_gives_them_to(value, where, name):
    x, w, options = arrays(name)
    bias = np.ones(len(w), np.float32)
    {"x": x[1, 3, 7], "w": w[1, 3, 1], "bias": bias}[where][2] = value
    with gr.config(backend="reference"):
        right = everything(x, w, options, bias)
    for found, wanted in zip(everything(x, w, options, bias), right):
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
        np.testing.assert_array_equal(np.isposinf(found), np.isposinf(wanted))
        np.testing.assert_array_equal(np.isneginf(found), np.isneginf(wanted))


#: one pixel of x each: inside a tile of 4 x 4, where four such tiles read it, at the image's border
PIXELS = {"inside": (1, 40, 5, 5), "in four tiles": (0, 1, 8, 8), "at the corner": (2, 33, 0, 21)}


def broken_tiles(right, first, side):
    """Which outputs lie in a tile with some output that is not finite; tiles from 0, 0."""
    bad = np.zeros(right.shape, bool)
    whole = ~np.isfinite(right).all(axis=1)
    for n, *_, y, x in np.argwhere(whole):
        y, x = y // side * side, x // side * side
        bad[n, first, ..., y : y + side, x : x + side] = True
    return bad


@pytest.mark.parametrize("window, side", [(3, 4), (5, 2)])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("pixel", PIXELS)
def test_a_pixel_that_is_not_finite_has_only_its_tiles_computed_again(
    pixel, value, dtype, layout, window, side
):
    generator = np.random.default_rng(3)
    x = generator.standard_normal((3, 64, 21, 22)).astype(dtype)
    w = generator.standard_normal((96, 32, window, window)).astype(dtype)
    bias = np.linspace(-1, 1, 96).astype(dtype)
    options = {"padding": window // 2, "groups": 2, "layout": layout}
    n, c, h, i = PIXELS[pixel]
    rows = slice(0, 48) if c < 32 else slice(48, 96)  # its group, in y

    def seen(a):
        return np.moveaxis(a, -1, 1) if layout == "channels_last" else a

    if layout == "channels_last":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    dy = np.ascontiguousarray(gr.conv(x, w, **options))
    dy_pixel = (n, 3 * c // 2, h, i)  # 96 channels against 64
    found = {"y": gr.conv(x, w, bias, **options),
             "dx": gr.conv_backward(dy, x, w, need="x", **options)[0]}  # fmt: skip
    seen(x)[n, c, h, i] = value
    seen(dy)[dy_pixel] = value
    assert gr.plan("conv", x, w, **options).algorithm == "winograd"
    assert gr.plan("conv_dx", x, w, **options).algorithm == "winograd"
    again = {"y": gr.conv(x, w, bias, **options),
             "dx": gr.conv_backward(dy, x, w, need="x", **options)[0]}  # fmt: skip
    with gr.config(backend="reference"):
        right = {"y": gr.conv(x, w, bias, **options),
                 "dx": gr.conv_backward(dy, x, w, need="x", **options)[0]}  # fmt: skip
    for name, group in (("y", rows), ("dx", slice(0, 32) if c < 32 else slice(32, 64))):
        exact, mine = seen(right[name]), seen(again[name])
        tiles = broken_tiles(exact, group, side)
        assert 0 < (~np.isfinite(exact)).sum() < tiles.sum() < tiles.size // 8
        np.testing.assert_array_equal(mine[~tiles], seen(found[name])[~tiles])
        # the others are infinite or NaN where a direct sum is, and else as close as one
        largest = np.abs(exact[np.isfinite(exact)]).max()
        error = largest * (1e-6 if dtype == "float32" else 1e-14)
        np.testing.assert_allclose(mine[tiles], exact[tiles], rtol=0, atol=error)


@pytest.mark.parametrize("name", ["same", "weights made for every block", "no padding",
                                  "5x5 same", "5x5 weights made for every block"])  # fmt: skip
def test_tiles_whose_transforms_overflow_are_computed_again(name):
    x, w, options = arrays(name)
    x[1, 2, 6, 6] = np.float32(3e38)
    w[:, 2] = 0.5  # so that every product stays finite
    found = gr.conv(x, w, **options)
    with gr.config(backend="reference"):
        exact = gr.conv(x.astype(float), w.astype(float), **options)
    assert np.isfinite(found).all() and np.abs(found).max() > 1e38
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-3)
    with gr.config(threads=1):
        np.testing.assert_array_equal(gr.conv(x, w, **options), found)


@pytest.mark.parametrize("name", ["uneven and wide padding", "5x5 uneven and wide padding"])
@pytest.mark.parametrize("view", ["spread", "turned weights"])
def test_tiles_computed_again_from_any_strides(view, name):
    x, w, options = arrays(name)
    x[1, 3, 7, 8] = x[0, 30, 0, 0] = np.nan
    right = gr.conv(x, w, **options)
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)[..., ::2]
    wide[...] = x
    turned = np.ascontiguousarray(w[..., ::-1])[..., ::-1]
    found = gr.conv(wide, w, **options) if view == "spread" else gr.conv(x, turned, **options)
    np.testing.assert_array_equal(found, right)
    with gr.config(backend="reference"):
        exact = gr.conv(x, w, **options)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
    assert 0 < np.isnan(exact).sum() < exact.size // 8


def test_a_weight_that_is_not_finite_reaches_only_its_group():
    generator = np.random.default_rng(5)
    x = generator.standard_normal((2, 256, 12, 12)).astype(np.float32)
    w = generator.standard_normal((256, 32, 3, 3)).astype(np.float32)
    w[70, 3, 0, 0] = np.inf  # on the padding at the edge; the other 7 groups are most of the tiles
    options = {"padding": 1, "groups": 8}
    assert gr.plan("conv", x, w, **options).algorithm == "winograd"
    with gr.config(backend="reference"):
        right = gr.conv(x, w, **options)
    found = gr.conv(x, w, **options)
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-3)
    assert np.isfinite(np.delete(found, 70, axis=1)).all() and np.isfinite(found[:, 70, 0]).all()


@pytest.mark.parametrize("name", ["same", "5x5 same"])
@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e36])
def test_extreme_scales_keep_their_accuracy(scale, name):
    x, w, options = arrays(name)
    x = np.clip(x, -1, 1) * np.float32(scale)
    w = w * np.float32(1e-3)
    with gr.config(precision="strict"):
        exact = everything(x.astype(np.float64), w.astype(np.float64), options)
    for found, right in zip(everything(x, w, options), exact):
        assert error(found, right) < 1e-5


@pytest.mark.parametrize("window", [3, 5])
def test_the_error_of_dw_hardly_grows_with_the_number_of_pixels(window):
    options = {"padding": window // 2}
    x = np.random.default_rng(0).standard_normal((4, 32, 128, 128)).astype(np.float32)
    dy = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    w = np.zeros((32, 32, window, window), np.float32)
    assert gr.plan("conv_dw", x, w, **options).algorithm == "winograd"
    found = gr.conv_backward(dy, x, w, need="w", **options)[1]
    with gr.config(precision="strict"):
        wide = (a.astype(float) for a in (dy, x, w))
        exact = gr.conv_backward(*wide, need="w", **options)[1]
    assert error(found, exact) < 3e-6


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("dtype, bound", [("float32", 3e-6), ("float64", 1e-14)])
def test_many_weights_are_summed_part_by_part(dtype, bound, window):
    generator, options = np.random.default_rng(2), {"padding": window // 2}
    batch = 12 if window == 3 else 4  # of fewer tiles not all products are kept at a time
    x = generator.standard_normal((batch, 300, 13, 13)).astype(dtype)
    w = np.zeros((650 if dtype == "float32" else 330, 300, window, window), dtype)
    plan = gr.plan("conv_dw", x, w, **options)
    assert plan.algorithm == "winograd" and plan.program.layout.rows < len(w)
    dy = generator.standard_normal((batch, len(w), 13, 13)).astype(dtype)
    with gr.config(precision="strict"):
        exact = gr.conv_backward(dy.astype(float), x.astype(float), w.astype(float), need="w",
                                 **options)[1]  # fmt: skip
    found = gr.conv_backward(dy, x, w, need="w", **options)[1]
    assert error(found, exact) < bound
    with gr.config(threads=1):
        np.testing.assert_array_equal(gr.conv_backward(dy, x, w, need="w", **options)[1], found)


@pytest.mark.parametrize("name", ["few tiles", "few tiles, groups"])
def test_the_products_of_few_tiles_are_not_kept(name):
    x, w, options = arrays(name)
    plan = gr.plan("conv_dw", x, w, **options)
    assert plan.algorithm == "winograd" and plan.workspace_bytes < 36 * w.size // 9 * w.itemsize


@pytest.mark.parametrize("name", ["same", "5x5 same"])
def test_what_would_not_gain_goes_another_way(name):
    x, w, options = arrays(name)

    def algorithm(x, w, **options):
        return gr.plan("conv", x, w, **options).algorithm

    with gr.config(precision="strict"):
        assert algorithm(x, w, **options) != "winograd"
    assert algorithm(x, w, stride=2) != "winograd"
    assert algorithm(x, w, dilation=2) != "winograd"
    assert algorithm(x[:, :8], w[:, :8], **options) != "winograd"
    assert algorithm(x[:, :, :5, :5], w) != "winograd"
    y = gr.conv(x, w, **options)
    with gr.config(workspace_limit=gr.plan("conv", x, w, **options).workspace_bytes - 1):
        assert algorithm(x, w, **options) != "winograd"
        np.testing.assert_allclose(gr.conv(x, w, **options), y, atol=1e-3)
