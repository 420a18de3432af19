"""db beside dw: what each driver of dw adds up while it has a block of dy at hand."""

import numpy as np
import pytest

import gradroute as gr
from gradroute.config import available_threads
from gradroute.kernels.cpu.amx import amx_tiles
from gradroute.kernels.cpu.emitted import vectors

pytestmark = pytest.mark.skipif(vectors.TARGET is None, reason="needs vector multiply-add")

#: the algorithm of dw ("standard", float32), x's shape, w's shape, options: several blocks each,
#: channels that fill no whole vectors
CASES = [
    ("pixel_major", (3, 3, 40, 45), (20, 3, 3, 3), {"padding": 1}),
    ("pixel_major", (70, 20, 6, 5), (34, 10, 3, 3), {"padding": 1, "groups": 2}),
    ("pixel_major", (3, 40, 22, 19), (8, 40, 3, 3), {"padding": 1}),
    ("winograd", (3, 33, 50, 46), (40, 33, 3, 3), {"padding": 1}),
    ("winograd", (2, 64, 3, 20, 18), (80, 32, 1, 3, 3), {"padding": (0, 1, 1), "groups": 2}),
    ("winograd", (1, 32, 5, 6000), (32, 32, 3, 3), {"padding": 1}),
    ("implicit_gemm", (2, 200, 30, 31), (50, 200, 3, 3), {"padding": 1, "stride": 2}),
    ("implicit_gemm", (3, 80, 26, 27), (220, 40, 5, 5), {"padding": 2, "groups": 2}),
    ("amx", (3, 64, 40, 41), (60, 64, 3, 3), {"padding": 1, "stride": 2}),
    ("amx", (2, 128, 5, 14, 14), (128, 64, 3, 3, 3), {"padding": 1, "groups": 2}),
    ("patches", (8, 3, 64, 80), (200, 3, 16, 16), {"stride": 16}),
    ("pointwise", (5, 64, 28, 27), (96, 64, 1, 1), {}),
    ("pointwise", (5, 96, 28, 27), (64, 96, 1, 1), {"stride": 2}),
    ("pointwise", (3, 256, 9, 9), (320, 128, 1, 1), {"groups": 2}),
    ("pointwise", (3, 40, 28, 28), (32, 40, 1, 1), {}),
    ("pointwise", (5, 36, 40, 31), (100, 18, 1, 1), {"groups": 2}),
    ("pointwise", (5, 50, 41, 31), (19, 50, 1, 1), {"stride": 2}),
]
LAYOUTS = ("channels_first", "channels_last")


def data(x_shape, w_shape, options, dtype, layout="channels_first"):
    generator = np.random.default_rng(6)
    x, w = generator.standard_normal(x_shape), generator.standard_normal(w_shape)
    with gr.config(backend="reference"):
        dy = generator.standard_normal(gr.conv(x, w, **options).shape)
    if layout == "channels_last":
        x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
    return [a.astype(dtype) for a in (dy, x, w)]


def exact(dy, layout):
    axis = 1 if layout == "channels_first" else dy.ndim - 1
    return dy.astype(np.longdouble).sum(tuple(i for i in range(dy.ndim) if i != axis))


def error(found, right):
    return np.linalg.norm(found - right) / np.linalg.norm(right)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype, most", [("float32", 5e-7), ("float64", 1e-15)])
@pytest.mark.parametrize("algorithm, x_shape, w_shape, options", CASES)
def test_the_sums_of_dy(algorithm, x_shape, w_shape, options, dtype, most, layout):
    dy, x, w = data(x_shape, w_shape, options, dtype, layout)
    options = {**options, "layout": layout}
    for precision in ("standard", "strict"):
        with gr.config(precision=precision):
            alone = gr.conv_backward(dy, x, w, need="w", **options)[1]
            dw, db = gr.conv_backward(dy, x, w, need=("w", "b"), **options)[1:]
            np.testing.assert_array_equal(dw, alone)
            assert error(db, exact(dy, layout)) < most
            for threads in {1, available_threads()}:
                with gr.config(threads=threads):
                    again = gr.conv_backward(dy, x, w, need=("w", "b"), **options)[2]
                    np.testing.assert_array_equal(again, db)


@pytest.mark.parametrize("algorithm, x_shape, w_shape, options", CASES)
def test_each_driver_is_among_the_cases(algorithm, x_shape, w_shape, options):
    if algorithm == "amx" and not amx_tiles.available():
        pytest.skip("without AMX other drivers serve these")
    dy, x, w = data(x_shape, w_shape, options, "float32")
    strict = "strict" if algorithm == "implicit_gemm" else "standard"
    with gr.config(precision=strict):
        assert gr.plan("conv_dw", x, w, **options).algorithm == algorithm


@pytest.mark.parametrize("algorithm, x_shape, w_shape, options", CASES)
def test_what_is_not_finite_reaches_its_own_channel(algorithm, x_shape, w_shape, options):
    dy, x, w = data(x_shape, w_shape, options, "float32")
    dy[1 % len(dy), 3, ..., 0, 2] = np.inf
    dy[0, 7, ..., 3, 1] = np.nan
    db = gr.conv_backward(dy, x, w, need=("w", "b"), **options)[2]
    assert db[3] == np.inf and np.isnan(db[7])
    assert np.isfinite(np.delete(db, (3, 7))).all()


@pytest.mark.parametrize("algorithm, x_shape, w_shape, options", CASES)
def test_it_is_written_where_out_says(algorithm, x_shape, w_shape, options):
    dy, x, w = data(x_shape, w_shape, options, "float32")
    dw, db = gr.conv_backward(dy, x, w, need=("w", "b"), **options)[1:]
    room = np.full(3 * len(db), np.nan, np.float32)
    gr.conv_backward(dy, x, w, need=("w", "b"), out=(None, np.empty_like(dw), room[::-3]),
                     **options)  # fmt: skip
    np.testing.assert_array_equal(room[::-3], db)
    assert np.isnan(room.reshape(-1, 3)[:, :2]).all()


SHAPES = [(3, 31, 29, 40), (2, 40, 33, 17), (1, 700, 65), (5, 7, 8, 9, 20)]


@pytest.mark.parametrize("dtype, most", [("float32", 4e-7), ("float64", 1e-15)])
@pytest.mark.parametrize("shape", SHAPES)
def test_channels_side_by_side_are_summed_as_vectors(shape, dtype, most):
    dy = np.random.default_rng(2).standard_normal(shape).astype(dtype)
    x = np.zeros((*shape[:-1], 2), dtype)
    w = np.zeros((shape[-1], 2, *[1] * (dy.ndim - 2)), dtype)
    options = {"layout": "channels_last", "need": "b"}
    db = gr.conv_backward(dy, x, w, **options)[2]
    assert error(db, exact(dy, "channels_last")) < most
    wide = np.zeros((*shape[:-2], 2 * shape[-2], shape[-1]), dtype)[..., ::2, :]
    wide[...] = dy
    np.testing.assert_array_equal(gr.conv_backward(wide, x, w, **options)[2], db)
    with gr.config(threads=1):
        np.testing.assert_array_equal(gr.conv_backward(dy, x, w, **options)[2], db)
    dy[0, 1, ..., 3] = np.nan
    db = gr.conv_backward(dy, x, w, **options)[2]
    assert np.isnan(db[3]) and np.isfinite(np.delete(db, 3)).all()
