"""Few weights, in vectors along channels: blocks of every kind, parts, strides of arrays."""

import numpy as np
import pytest
from passes import data, dw_of, dx_of, error, exact_passes

import gradroute as gr
from gradroute.kernels.cpu.amx import amx_tiles
from gradroute.kernels.cpu.emitted import vectors

pytestmark = [
    pytest.mark.usefixtures("without_columns"),
    pytest.mark.skipif(vectors.TARGET is None, reason="needs vector multiply-add"),
]

#: x's shape, w's shape, options: what a block of dw is made of there
BLOCKS = [
    ((3, 3, 40, 45), (20, 3, 3, 3), {"padding": 1}),  # rows of an image
    ((2, 2, 1500), (9, 2, 7), {"padding": 3}),  # a piece of a row
    ((70, 3, 6, 5), (17, 3, 3, 3), {"padding": 1}),  # several images
    ((1, 2, 9, 12, 11), (6, 2, 3, 2, 3), {"padding": (1, 0, 2)}),  # planes of an image
    ((2, 3, 61, 59), (40, 3, 11, 11), {"stride": 4, "padding": 2}),
    ((2, 4, 33, 35), (12, 2, 3, 3), {"stride": (2, 3), "dilation": (3, 2), "groups": 2}),
    ((9, 170, 1, 2), (5, 170, 1, 1), {}),
    ((4, 50, 13, 13), (48, 50, 2, 2), {"stride": 2}),
    # few output channels: x and dy change places
    ((3, 48, 20, 23), (3, 48, 3, 3), {"padding": 1}),
    ((2, 32, 30, 17), (1, 32, 5, 3), {"padding": (4, 0), "dilation": (1, 2)}),
    ((2, 15, 27, 18), (7, 15, 5, 4), {"padding": ((3, 0), (1, 3))}),
    ((2, 17, 4, 9, 8), (2, 17, 2, 3, 1), {"padding": (1, 2, 0)}),
    ((2, 16, 40, 9), (3, 16, 3, 3), {"padding": 3}),  # more padding than the window reaches
    # one vector of output channels: x's are brought side by side
    ((5, 16, 20, 23), (16, 16, 3, 3), {"padding": 1}),
    ((3, 24, 17, 9), (20, 12, 3, 3), {"padding": (1, 0), "stride": (2, 1), "groups": 2}),
    ((4, 9, 50), (8, 9, 5), {"padding": 2}),
    ((2, 8, 3, 33), (7, 8, 3, 3), {"padding": 1, "stride": (1, 3)}),
]

#: more weights than a cache holds, where other algorithms would copy ends of rows only
FAR_APART = [
    ((2, 96, 12, 8, 20), (4, 96, 5, 5, 2), {"stride": 4, "padding": (6, 6, 0), "dilation": 3}),
    ((3, 160, 12, 20, 6), (8, 160, 5, 5, 5), {"stride": 4, "padding": (0, 2, 2)}),
    ((1, 48, 16, 16, 16), (128, 24, 4, 4, 4),
     {"stride": 2, "padding": (0, 3, 3), "dilation": 3, "groups": 2}),
]  # fmt: skip

#: small images, of which the forward pass (and, at stride 1, dx) is a sum along channels
SMALL = [
    ((70, 30, 4, 4), (32, 30, 3, 3), {"padding": 1}),
    ((3, 31, 10, 10), (16, 31, 5, 5), {}),
    ((2, 30, 3, 4, 5), (15, 30, 2, 3, 2), {"padding": (1, 0, 1)}),
    ((3, 64, 7, 7), (60, 32, 3, 3), {"padding": 2, "dilation": 2, "groups": 2}),
    ((9, 170, 1, 2), (5, 170, 1, 1), {}),
    ((2, 16, 13, 20), (15, 16, 5, 5), {"padding": 2}),  # pixels of a row as rows of a tile
]

#: large images whose output channels fill vectors: channels-last targets are summed along them
LAST = [
    ((3, 3, 40, 45), (32, 3, 3, 3), {"padding": 1}),
    ((2, 3, 61, 59), (48, 3, 11, 11), {"stride": 4, "padding": 2}),
    ((2, 4, 33, 35), (32, 2, 3, 3), {"stride": (2, 3), "dilation": (3, 2), "groups": 2}),
    ((2, 1, 900), (16, 1, 7), {"padding": 3}),  # pieces of a row
    ((2, 2, 9, 12, 11), (16, 2, 3, 2, 3), {"padding": (1, 0, 2), "stride": (1, 2, 1)}),
    ((2, 5, 40, 41), (48, 5, 1, 1), {}),  # of few channels
    ((2, 3, 41, 40), (32, 3, 1, 1), {"stride": 2}),
    ((3, 5, 40, 45), (16, 5, 3, 3), {"padding": 1}),  # one vector: copied as planes
]

#: channels last: groups of several channels, and strides at which every pixel of dx has taps
GROUPS = [
    ((5, 64, 7, 9), (64, 32, 3, 3), {"padding": 1, "groups": 2}),
    ((2, 54, 11, 12), (96, 18, 3, 5), {"padding": (1, 2), "stride": (1, 2), "groups": 3}),
    ((1, 40, 1, 33), (32, 20, 1, 7), {"padding": (0, 3), "dilation": (1, 2), "groups": 2}),
    ((2, 96, 1, 1), (96, 48, 3, 3), {"padding": 1, "groups": 2}),
    ((2, 32, 12, 45), (32, 16, 5, 3), {"padding": (2, 1), "groups": 2}),
]
STRIDES = [
    ((3, 16, 21, 32), (32, 16, 3, 3), {"padding": 1, "stride": 2}),
    ((1, 32, 19, 18), (16, 32, 5, 4), {"padding": (6, 0), "stride": (3, 2), "dilation": (2, 1)}),
    ((2, 16, 1, 40), (7, 16, 1, 5), {"padding": (0, 1), "stride": (1, 4)}),
    ((1, 32, 5, 6, 7), (9, 32, 2, 3, 3), {"padding": 1, "stride": (2, 1, 3)}),
    ((2, 48, 2, 9), (33, 16, 3, 4), {"padding": (2, 3), "stride": (2, 3), "groups": 3}),
]


@pytest.mark.parametrize("x_shape, w_shape, options", BLOCKS)
@pytest.mark.parametrize("dtype, most", (("float32", 4e-6), ("float64", 1e-14)))
def test_every_kind_of_block_gives_the_exact_gradient(x_shape, w_shape, options, dtype, most):
    x, w, dy, exact = data(x_shape, w_shape, options, dtype)
    with gr.config(backend="numba"):
        assert gr.plan("conv_dw", x, w, **options).algorithm == "pixel_major"
        assert error(dw_of(x, w, dy, options), exact) < most
        back = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
        last = dw_of(back[0], w, back[1], options, layout="channels_last")
        assert error(last, exact) < most
        apart = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (x, dy)]
        into = np.full((*w.shape[:-1], 2 * w.shape[-1]), 7.0, dtype)
        dw_of(apart[0], w, apart[1], options, out=(None, into[..., ::2], None))
        assert error(into[..., ::2], exact) < most
        assert (into[..., 1::2] == 7).all()


@pytest.mark.parametrize("x_shape, w_shape, options", FAR_APART)
@pytest.mark.parametrize("dtype, most", (("float32", 4e-6), ("float64", 1e-14)))
def test_small_images_of_large_strides_are_copied_by_rows(x_shape, w_shape, options, dtype, most):
    x, w, dy, exact = data(x_shape, w_shape, options, dtype)
    with gr.config(backend="reference"):
        y = gr.conv(x.astype(float), w.astype(float), **options)
    back = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
    with gr.config(backend="numba", threads=2):
        forward = gr.plan("conv", x, w, **options).algorithm
        overtaken = dtype == "float32" and not amx_tiles.available() and forward == "inside_taps"
        assert forward == "pixel_major" or overtaken
        assert gr.plan("conv_dw", x, w, **options).algorithm == "pixel_major"
        found = gr.conv(x, w, **options), dw_of(x, w, dy, options)
        last = (gr.conv(back[0], w, layout="channels_last", **options),
                dw_of(back[0], w, back[1], options, layout="channels_last"))  # fmt: skip
    with gr.config(backend="numba", threads=1):
        alone = gr.conv(x, w, **options), dw_of(x, w, dy, options)
    for one, same in zip(found, alone):
        np.testing.assert_array_equal(one, same)
    assert error(found[0], y) < most and error(found[1], exact) < most
    assert error(np.moveaxis(last[0], -1, 1), y) < most and error(last[1], exact) < most


@pytest.mark.parametrize("x_shape, w_shape, options", SMALL)
@pytest.mark.parametrize("dtype, most", (("float32", 1e-6), ("float64", 1e-14)))
def test_small_images_are_summed_exactly_in_every_layout(x_shape, w_shape, options, dtype, most):
    x, w, dy, _ = data(x_shape, w_shape, options, dtype)
    b = np.random.default_rng(5).standard_normal(len(w)).astype(dtype)
    y, dx = exact_passes(x, w, b, dy, options)
    with gr.config(backend="numba", precision="strict"):
        for operation in ("conv", "conv_dx"):
            plan = gr.plan(operation, x, w, **options)
            # narrower vectors are filled by short rows, too
            assert plan.algorithm == "pixel_major" or vectors.VECTOR_BYTES < 64
        assert error(gr.conv(x, w, b, **options), y) < most
        assert error(dx_of(x, w, dy, options), dx) < most
        back = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
        last = gr.conv(back[0], w, b, layout="channels_last", **options)
        assert error(np.moveaxis(last, -1, 1), y) < most
        last = dx_of(back[0], w, back[1], options, layout="channels_last")
        assert error(np.moveaxis(last, -1, 1), dx) < most
        turned = np.ascontiguousarray(w[..., ::-1])[..., ::-1]  # taps against the memory's order
        into = np.full((*y.shape[:-1], 2 * y.shape[-1]), 7.0, dtype)
        gr.conv(x, turned, b, out=into[..., ::2], **options)
        assert error(into[..., ::2], y) < most
        assert (into[..., 1::2] == 7).all()


@pytest.mark.parametrize("x_shape, w_shape, options", LAST)
@pytest.mark.parametrize("dtype, most", (("float32", 1e-6), ("float64", 1e-14)))
def test_channels_last_results_are_exact_in_arrays_of_any_strides(
    x_shape, w_shape, options, dtype, most
):
    x, w, dy, exact_dw = data(x_shape, w_shape, options, dtype)
    b = np.random.default_rng(5).standard_normal(len(w)).astype(dtype)
    x_last, dy_last = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
    with gr.config(backend="reference"):
        exact = gr.conv(*(a.astype(float) for a in (x, w, b)), **options)
    with gr.config(backend="numba"):
        y = gr.conv(x, w, b, **options)
        last = gr.conv(x_last, w, b, layout="channels_last", **options)
        assert error(y, exact) < most
        assert error(np.moveaxis(last, -1, 1), exact) < most
        # a target that is a part of wider rows and planes, a source whose rows lie apart
        inside = np.full([n + 2 for n in last.shape[:-1]] + [last.shape[-1] + 16], 7.0, dtype)
        box = inside[(slice(1, -1),) * (inside.ndim - 1) + (slice(len(w)),)]
        wide = np.repeat(x_last, 2, axis=-2)[..., ::2, :]
        gr.conv(wide, w, b, layout="channels_last", out=box, **options)
        np.testing.assert_array_equal(box, last)
        inside[(slice(1, -1),) * (inside.ndim - 1) + (slice(len(w)),)] = 7
        assert (inside == 7).all()
        one = dw_of(x_last, w, dy_last, options, layout="channels_last")
        box[...] = dy_last
        apart = dw_of(wide, w, box, options, layout="channels_last")
        assert error(one, exact_dw) < 4 * most
        np.testing.assert_array_equal(apart, one)
        _, both, db = gr.conv_backward(dy_last, x_last, w, need=("w", "b"),
                                       layout="channels_last", **options)  # fmt: skip
        np.testing.assert_array_equal(both, one)
        exact_db = dy.astype(float).sum(axis=(0, *range(2, dy.ndim)))
        assert error(db, exact_db) < 4 * most


@pytest.mark.parametrize("x_shape, w_shape, options", GROUPS + STRIDES)
@pytest.mark.parametrize("dtype, most", (("float32", 1e-6), ("float64", 1e-14)))
def test_groups_and_strides_with_channels_last_are_exact(x_shape, w_shape, options, dtype, most):
    x, w, dy, exact_dw = data(x_shape, w_shape, options, dtype)
    b = np.random.default_rng(5).standard_normal(len(w)).astype(dtype)
    y, dx = exact_passes(x, w, b, dy, options)
    found = []
    more = {"layout": "channels_last", **options}
    back, dy_back = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
    for threads in (1, 2):
        with gr.config(backend="numba", precision="strict", threads=threads):
            gradients = gr.conv_backward(dy_back, back, w, need=("x", "w", "b"), **more)
            found.append([gr.conv(back, w, b, **more), *gradients])
            wide = np.repeat(dy_back, 2, axis=-2)[..., ::2, :]
            np.testing.assert_array_equal(dx_of(back, w, wide, more), found[-1][1])
            np.testing.assert_array_equal(dw_of(back, w, wide, more), found[-1][2])
    for one, same in zip(*found):
        np.testing.assert_array_equal(one, same)
    actual, actual_dx, dw, db = found[0]
    assert error(np.moveaxis(actual, -1, 1), y) < most
    assert error(np.moveaxis(actual_dx, -1, 1), dx) < most
    assert error(dw, exact_dw) < 4 * most
    assert error(db, dy.astype(float).sum(axis=(0, *range(2, dy.ndim)))) < 4 * most


@pytest.mark.parametrize("value", (np.inf, np.nan))
def test_padding_is_not_multiplied_into_strided_dx_with_channels_last(value):
    x_shape, w_shape, options = STRIDES[0]
    x, w, dy, _ = data(x_shape, w_shape, options, "float32")
    w[3, 2, 0, 0] = value
    with gr.config(backend="reference"), np.errstate(invalid="ignore"):
        wanted = dx_of(x.astype(float), w.astype(float), dy.astype(float), options)
    back, dy_back = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
    with gr.config(backend="numba"):
        actual = np.moveaxis(dx_of(back, w, dy_back, {"layout": "channels_last", **options}), -1, 1)
    finite = np.isfinite(wanted)
    assert finite.any() and not finite.all()
    np.testing.assert_array_equal(actual[~finite], wanted[~finite])
    np.testing.assert_allclose(actual[finite], wanted[finite], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", (np.inf, np.nan))
def test_padding_is_not_multiplied_into_channels_last_results(value):
    options = {"padding": 1}
    x, w, _, _ = data((2, 3, 20, 45), (32, 3, 3, 3), options, "float32")
    w[3, 2, 0, 0] = value
    with gr.config(backend="reference"), np.errstate(invalid="ignore"):
        wanted = gr.conv(x.astype(float), w.astype(float), **options)
    with gr.config(backend="numba"):
        last = gr.conv(np.ascontiguousarray(np.moveaxis(x, 1, -1)), w, layout="channels_last",
                       **options)  # fmt: skip
    actual, finite = np.moveaxis(last, -1, 1), np.isfinite(wanted)
    assert finite.any() and not finite.all()
    np.testing.assert_array_equal(actual[~finite], wanted[~finite])
    np.testing.assert_allclose(actual[finite], wanted[finite], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("x_shape, w_shape, options", SMALL)
def test_small_images_give_the_same_bits_on_any_number_of_threads(x_shape, w_shape, options):
    x, w, dy, _ = data(x_shape, w_shape, options, "float32")
    results = []
    for threads in (1, None):
        with gr.config(backend="numba", precision="strict", threads=threads):
            results.append((gr.conv(x, w, **options), dx_of(x, w, dy, options)))
    for alone, shared in zip(*results):
        np.testing.assert_array_equal(alone, shared)


@pytest.mark.parametrize("value", (np.inf, np.nan))
def test_padding_of_small_images_is_not_multiplied_with_weights_that_are_not_finite(value):
    x_shape, w_shape, options = SMALL[0]
    x, w, dy, _ = data(x_shape, w_shape, options, "float32")
    w[3, 2, 0, 0] = value
    exact = [a.astype(float) for a in (x, w, dy)]
    with gr.config(backend="reference"), np.errstate(invalid="ignore"):
        wanted = gr.conv(*exact[:2], **options), dx_of(*exact, options)
    with gr.config(backend="numba", precision="strict"):
        actual = gr.conv(x, w, **options), dx_of(x, w, dy, options)
    for one, other in zip(actual, wanted):
        finite = np.isfinite(other)
        assert finite.any() and not finite.all()
        np.testing.assert_array_equal(one[~finite], other[~finite])
        np.testing.assert_allclose(one[finite], other[finite], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("x_shape, w_shape, options", BLOCKS)
def test_the_parts_of_the_pixels_do_not_depend_on_the_threads(x_shape, w_shape, options):
    x, w, dy, _ = data(x_shape, w_shape, options, "float32")
    results = []
    for threads in (1, None):
        with gr.config(backend="numba", threads=threads):
            results.append(dw_of(x, w, dy, options))
    np.testing.assert_array_equal(*results)


def test_its_sums_err_no_more_than_a_direct_float32_sum():
    x, w, dy, exact = data((2, 2, 30, 30), (5, 2, 3, 3), {}, "float32")
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    columns = windows.transpose(1, 4, 5, 0, 2, 3).reshape(18, -1)  # (C*R*S, N*P*Q)
    rows = dy.transpose(1, 0, 2, 3).reshape(5, -1)
    direct = np.stack([np.add.accumulate(row * columns, axis=1)[:, -1] for row in rows])
    with gr.config(backend="numba", precision="strict"):
        ours = dw_of(x, w, dy, {})
    assert error(ours, exact) <= 2 * error(direct.reshape(w.shape), exact)


@pytest.mark.parametrize("value", (np.inf, np.nan))
@pytest.mark.parametrize("which", ("x", "dy"))
@pytest.mark.parametrize("channels", (3, 32))  # of 32 x and dy change places
def test_what_is_not_finite_reaches_the_weights_that_met_it_and_no_others(channels, which, value):
    options = {"padding": 3}
    x, w, dy, _ = data((2, channels, 20, 20), (6, channels, 5, 5), options, "float32")
    {"x": x, "dy": dy}[which][1, 2, 0, 0] = value
    with gr.config(backend="reference"), np.errstate(invalid="ignore"):
        wanted = dw_of(*(a.astype(float) for a in (x, w, dy)), options)
    with gr.config(backend="numba"):
        actual = dw_of(x, w, dy, options)
    finite = np.isfinite(wanted)
    assert finite.any() and not finite.all()
    np.testing.assert_array_equal(actual[~finite], wanted[~finite])
    np.testing.assert_allclose(actual[finite], wanted[finite], rtol=1e-4, atol=1e-4)
