"""Vectors along channels: dx at a stride, and windows of which rows meet padding only."""

from dataclasses import replace

import numpy as np
import pytest
from passes import data, dx_of, error, exact_passes

import gradroute as gr
from gradroute.geometry import ConvGeometry
from gradroute.kernels.cpu.emitted import vectors
from gradroute.kernels.cpu.pixel_major import pixel_phases

pytestmark = [
    pytest.mark.usefixtures("without_columns"),
    pytest.mark.skipif(vectors.TARGET is None, reason="needs vector multiply-add"),
]

#: x, w, options: dx falls into phases, some of which no tap reads or have fewer rows
STRIDED = [
    ((2, 16, 11, 13), (24, 16, 3, 3), {"stride": 2, "padding": 1}),
    ((3, 32, 9, 10), (40, 16, 5, 4), {"stride": (3, 2), "padding": (2, 1), "groups": 2}),
    ((3, 16, 10, 9), (20, 16, 2, 2), {"stride": (3, 4), "padding": (1, 0)}),
    ((1, 16, 10, 12), (33, 16, 3, 2), {"stride": 2, "padding": 1, "dilation": 3}),
    ((1, 32, 7, 6, 12), (24, 32, 3, 2, 3), {"stride": 2, "padding": 1}),
    ((2, 16, 6, 61), (24, 16, 3, 4), {"stride": (4, 3), "padding": (1, 2)}),
    ((2, 48, 33), (24, 48, 4), {"stride": 3, "padding": 1}),
    # one phase, of fewer taps than the window
    ((2, 63, 1, 9), (39, 21, 2, 3),
     {"stride": (3, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 3}),
]  # fmt: skip


@pytest.mark.parametrize("x_shape, w_shape, options", STRIDED)
@pytest.mark.parametrize("dtype, most", (("float32", 1e-6), ("float64", 1e-14)))
def test_dx_at_a_stride_is_summed_phase_by_phase(x_shape, w_shape, options, dtype, most):
    x, w, dy, _ = data(x_shape, w_shape, options, dtype)
    exact = [a.astype(float) for a in (x, w, dy)]
    with gr.config(backend="reference"):
        dx = dx_of(exact[0], exact[1], exact[2], options)
    with gr.config(backend="numba", precision="strict", threads=2):
        assert gr.plan("conv_dx", x, w, **options).algorithm == "pixel_major"
        found = dx_of(x, w, dy, options)
        back = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
        last = dx_of(back[0], w, back[1], options, layout="channels_last")
        into = np.full((*x.shape[:-1], 2 * x.shape[-1]), 7.0, dtype)
        dx_of(x, w[..., ::-1].copy()[..., ::-1], dy, options, out=(into[..., ::2], None, None))
    with gr.config(backend="numba", precision="strict", threads=1):
        np.testing.assert_array_equal(found, dx_of(x, w, dy, options))
    assert error(found, dx) < most and error(np.moveaxis(last, -1, 1), dx) < most
    assert error(into[..., ::2], dx) < most and (into[..., 1::2] == 7).all()


@pytest.mark.parametrize("value", (np.inf, np.nan))
def test_dx_at_a_stride_multiplies_no_weight_with_padding(value):
    x, w, dy, _ = data((2, 16, 9, 11), (20, 16, 3, 3), {"stride": 2, "padding": 1}, "float32")
    w[3, 5, 0, 2] = value
    dy[1, 2, 0, 0] = value
    with gr.config(backend="reference"):
        exact = dx_of(x, w, dy, {"stride": 2, "padding": 1})
    with np.errstate(invalid="ignore"):
        found = dx_of(x, w, dy, {"stride": 2, "padding": 1})
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(exact))


#: x, w, options: more than a tenth of the window's rows meet padding only
PADDED = [
    ((5, 16, 8, 9), (32, 16, 5, 5), {}),
    ((3, 32, 7, 7), (16, 32, 5, 5), {"padding": 2}),
    ((2, 32, 6, 11), (48, 16, 7, 3), {"padding": (3, 1), "groups": 2}),
    ((2, 16, 5, 6, 7), (16, 16, 2, 4, 3), {"padding": (0, 2, 1)}),
    ((4, 16, 9, 9), (32, 16, 5, 5), {"padding": 4, "stride": 2}),
]


@pytest.mark.parametrize("x_shape, w_shape, options", PADDED)
@pytest.mark.parametrize("dtype, most", (("float32", 1e-6), ("float64", 1e-14)))
def test_rows_of_taps_that_only_meet_padding_are_left_out(x_shape, w_shape, options, dtype, most):
    x, w, dy, _ = data(x_shape, w_shape, options, dtype)
    b = np.random.default_rng(7).standard_normal(len(w)).astype(dtype)
    y, dx = exact_passes(x, w, b, dy, options)
    with gr.config(backend="numba", precision="strict", threads=2):
        plans = [gr.plan(operation, x, w, **options) for operation in ("conv", "conv_dx")]
        assert any(one.algorithm == "pixel_major" and one.program.product.by_rows for one in plans)
        found = gr.conv(x, w, b, **options), dx_of(x, w, dy, options)
        back = [np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)]
        last = (gr.conv(back[0], w, b, layout="channels_last", **options),
                dx_of(back[0], w, back[1], options, layout="channels_last"))  # fmt: skip
    with gr.config(backend="numba", precision="strict", threads=1):
        np.testing.assert_array_equal(found[0], gr.conv(x, w, b, **options))
        np.testing.assert_array_equal(found[1], dx_of(x, w, dy, options))
    assert error(found[0], y) < most and error(found[1], dx) < most
    assert error(np.moveaxis(last[0], -1, 1), y) < most
    assert error(np.moveaxis(last[1], -1, 1), dx) < most


@pytest.mark.parametrize("stride, dilation, before", [(1, 1, 0), (1, 1, 4), (2, 3, 5), (3, 2, 1)])
def test_rows_that_only_meet_padding_are_counted_without_a_walk_along_them(
    stride, dilation, before
):
    held, window = 7, 4
    out = (held + 2 * before - (window - 1) * dilation - 1) // stride + 1
    g = ConvGeometry(size=(1, held, 5), window=(1, window, 1), out=(1, out, 5),
                     stride=(1, stride, 1), dilation=(1, dilation, 1), before=(0, before, 0),
                     after=(0, before, 0), batch=1, in_channels=2, out_channels=3,
                     groups=1)  # fmt: skip
    inside = [0 <= row * stride + tap * dilation - before < held
              for row in range(out) for tap in range(window)]  # fmt: skip
    assert pixel_phases.valid_rows(pixel_phases.forward_cells(g), g.size) == np.mean(inside)
    far = replace(g, out=(1, 10**12, 5), before=(0, 10**11, 0))
    assert 0 < pixel_phases.valid_rows(pixel_phases.forward_cells(far), g.size) < 1e-9
