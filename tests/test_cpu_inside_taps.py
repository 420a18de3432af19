"""Sums of each pixel's own taps, beside the reference: classes, strides, groups, layouts, inf."""

import functools

import numpy as np
import pytest

import gradroute as gr
from gradroute.kernels.cpu.emitted import vectors

pytestmark = [
    pytest.mark.usefixtures("without_columns"),
    pytest.mark.skipif(
        vectors.TARGET is None or vectors.VECTOR_BYTES < 64,
        reason="narrower vectors are filled by short rows, too",
    ),
]

#: x's shape, w's shape, options, the passes that are served so in float64
CASES = {
    "a window nearly as large as the image": (
        (8, 48, 7, 7), (128, 48, 5, 5), {"padding": 2}, "conv conv_dx"),
    "rows without padding": ((3, 100, 9, 17), (104, 100, 1, 7), {}, "conv conv_dx"),
    "columns without padding": ((1, 112, 13, 11), (90, 112, 7, 1), {}, "conv conv_dx"),
    "many classes": ((21, 20, 12, 12), (30, 20, 5, 5), {}, "conv_dx"),
    "a stride": ((4, 64, 9, 9), (48, 64, 5, 5), {"stride": 2, "padding": 2}, "conv conv_dx"),
    "gaps between windows, uneven padding": (
        (5, 90, 9, 7), (80, 90, 4, 3), {"stride": (5, 2), "padding": ((2, 1), (0, 2))},
        "conv conv_dx"),
    "one image": ((1, 92, 14, 19), (90, 92, 3, 3), {"stride": 5}, "conv conv_dx"),
    "dilation": (
        (6, 88, 7, 8), (80, 88, 4, 3), {"dilation": (2, 1), "padding": (3, 1)}, "conv conv_dx"),
    "groups": ((6, 120, 6, 6), (112, 60, 5, 5), {"padding": 2, "groups": 2}, "conv conv_dx"),
    "three axes": (
        (2, 48, 5, 6, 5), (44, 48, 3, 4, 3), {"padding": (1, 0, 1)}, "conv conv_dx"),
    "one axis": ((9, 104, 10), (96, 104, 7), {"padding": 3}, "conv conv_dx"),
}  # fmt: skip


def _all(x, w, b, dy, options, layout="channels_first"):
    back = gr.conv_backward(dy, x, w, need="x", layout=layout, **options)[0]
    return gr.conv(x, w, b, layout=layout, **options), back


@functools.lru_cache(maxsize=None)
def _case(name):
    x_shape, w_shape, options, served = CASES[name]
    rng = np.random.default_rng(3)
    x, w, b = (rng.standard_normal(shape) for shape in (x_shape, w_shape, w_shape[0]))
    with gr.config(backend="reference"):
        dy = rng.standard_normal(gr.conv(x, w, **options).shape)
        exact = _all(x, w, b, dy, options)
    return (x, w, b, dy), options, served.split(), exact


@pytest.fixture(params=CASES)
def given(request):
    arrays, *others = _case(request.param)
    return [a.copy() for a in arrays], *others


def test_these_geometries_are_served_so(given):
    (x, w, *_), options, served, _ = given
    for threads in (1, 2):
        with gr.config(backend="numba", threads=threads):
            for operation in served:
                plan = gr.plan(operation, x, w, **options)
                assert plan.algorithm == "inside_taps"
                assert plan.blocking["classes"] >= 1


@pytest.mark.parametrize("dtype, most", (("float32", 1e-6), ("float64", 1e-14)))
def test_sums_are_exact_in_every_layout_and_alike_on_any_number_of_threads(given, dtype, most):
    arrays, options, _, exact = given
    arrays = [a.astype(dtype) for a in arrays]
    x, w, b, dy = arrays
    turned = np.ascontiguousarray(w[..., ::-1])[..., ::-1]  # taps against the memory's order
    apart = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (x, dy)]  # pixels side by side no more
    with gr.config(backend="numba", precision="strict", threads=2):
        found = _all(*arrays, options)
        others = [_all(x, turned, b, dy, options), _all(apart[0], w, b, apart[1], options)]
        back = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
        last = _all(back[0], w, b, back[1], options, "channels_last")
        into = np.full((*dy.shape[:-1], 2 * dy.shape[-1]), 7.0, dtype)
        gr.conv(x, w, b, out=into[..., ::2], **options)
    with gr.config(backend="numba", precision="strict", threads=1):
        alone = _all(*arrays, options)
    others += [[np.moveaxis(a, -1, 1) for a in last], (into[..., ::2], found[1])]
    assert (into[..., 1::2] == 7).all()
    for i, wanted in enumerate(exact):
        np.testing.assert_array_equal(found[i], alone[i])
        for one in (found[i], *(other[i] for other in others)):
            assert np.linalg.norm(one - wanted) <= most * np.linalg.norm(wanted)


@pytest.mark.parametrize("which, value", ((0, np.inf), (1, np.nan), (3, -np.inf)))
def test_what_is_not_finite_reaches_only_what_multiplies_it(given, which, value):
    arrays, options, _, _ = given
    arrays[which][(1 if which == 1 else 0, 0, *[0] * (arrays[which].ndim - 2))] = value
    with gr.config(backend="reference"), np.errstate(invalid="ignore"):
        exact = _all(*arrays, options)
    with gr.config(backend="numba"):
        for one, wanted in zip(_all(*arrays, options), exact):
            finite = np.isfinite(wanted)
            np.testing.assert_array_equal(np.isfinite(one), finite)
            np.testing.assert_allclose(one[finite], wanted[finite], rtol=1e-9, atol=1e-9)


def test_a_transposed_convolution_adds_its_bias_where_no_tap_reaches():
    rng = np.random.default_rng(1)
    x, w, b = (rng.standard_normal(shape) for shape in ((3, 90, 3, 4), (90, 92, 3, 3), 92))
    options = {"stride": 5, "output_padding": 1}
    with gr.config(backend="reference"):
        wanted = gr.conv_transpose(x, w, b, **options)
    with gr.config(backend="numba"):
        found = gr.conv_transpose(x, w, b, **options)
    assert np.linalg.norm(found - wanted) <= 1e-14 * np.linalg.norm(wanted)
    untouched = np.broadcast_to(b[:, None], (3, 92, wanted.shape[-1]))
    np.testing.assert_array_equal(found[:, :, 3], untouched)  # between windows: the bias itself


def test_a_workspace_limit_is_kept():
    x, w = np.ones((8, 48, 7, 7)), np.ones((128, 48, 5, 5))
    with gr.config(backend="numba"):
        size = gr.plan("conv", x, w, padding=2).workspace_bytes
        with gr.config(workspace_limit=size):
            assert gr.plan("conv", x, w, padding=2).algorithm == "inside_taps"
        with gr.config(workspace_limit=size - 1):
            less = gr.plan("conv", x, w, padding=2)
            assert less.algorithm != "inside_taps" and less.workspace_bytes < size
