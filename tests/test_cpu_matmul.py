"""Matrix products of the numba backend: every way that operands can lie, and both units."""

import itertools

import numpy as np
import pytest

import gradroute as gr
from gradroute.kernels.cpu.amx import amx_tiles
from gradroute.kernels.cpu.emitted import vectors

on_amx = pytest.mark.skipif(
    not amx_tiles.available(), reason="no AMX tiles on this processor or system"
)
on_vectors = pytest.mark.skipif(
    vectors.TARGET is None, reason="plain loops serve a machine without vector multiply-add"
)

#: (B, I, L, J): tiles that are not full, sums cut into parts, wide, tall and batched products,
#: several blocks of rows and of terms, a matrix and a vector
SIZES = [(1, 70, 45, 100), (1, 40, 5000, 37), (1, 33, 300, 1300), (5, 33, 70, 65), (1, 600, 30, 40),
         (1, 270, 4300, 240), (1, 1100, 600, 500), (1, 1, 300, 1200), (1, 70, 4500, 1),
         (3, 1, 77, 130), (5, 1300, 40, 1)]  # fmt: skip
#: enough for the AMX tiles, with rest in every direction; the second takes its sum in two goes
LARGE = [(1, 400, 300, 330), (1, 170, 1100, 250), (3, 200, 256, 230)]


def normal(shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def lying(array, how):
    """The same numbers with contiguous rows, contiguous columns, or neither."""
    if how == "columns":
        return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2)
    if how == "apart":
        wide = np.zeros((*array.shape[:-2], 2 * array.shape[-2], 3 * array.shape[-1]), array.dtype)
        wide[..., ::2, ::3] = array
        return wide[..., ::2, ::3]
    return array


def error(actual, wanted):
    return np.linalg.norm(actual - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("sizes", SIZES)
def test_the_bits_do_not_depend_on_how_operands_lie_or_on_threads(sizes, dtype):
    B, I, L, J = sizes
    a, b = normal((B, I, L), dtype), normal((B, L, J), dtype, 1)
    with gr.config(backend="numba", precision="strict", threads=1):
        first = gr.matmul(a, b)
    assert error(first, a.astype("f8") @ b.astype("f8")) < (1e-6 if dtype == "float32" else 1e-14)
    ways = itertools.product(("rows", "columns", "apart"), repeat=3)
    for (of_a, of_b, of_out), threads in zip(ways, itertools.cycle((None, 1))):
        out = lying(np.empty_like(first), of_out)
        with gr.config(backend="numba", precision="strict", threads=threads):
            gr.matmul(lying(a, of_a), lying(b, of_b), out=out)
        np.testing.assert_array_equal(out, first)


@on_vectors
def test_a_long_sum_of_few_results_is_cut_into_parts_by_sizes_alone():
    a, b = np.empty((64, 8192), "float32"), np.empty((8192, 64), "float32")
    for threads in (1, None):
        with gr.config(backend="numba", threads=threads):
            assert gr.plan("matmul", a, b).blocking["parts"] == 8
    with gr.config(backend="numba", precision="strict"):
        assert gr.plan("matmul", a, np.empty((8192, 640), "float32")).blocking["parts"] == 1
        square = np.empty((256, 6000), "float64"), np.empty((6000, 256), "float64")
        assert gr.plan("matmul", *square).blocking["parts"] == 4


def test_a_strict_product_errs_at_most_twice_as_much_as_a_float32_sum_in_order():
    a, b = normal((60, 3000)), normal((3000, 50), seed=1)
    wanted, in_order = a.astype("f8") @ b.astype("f8"), np.zeros((60, 50), "float32")
    for k in range(a.shape[1]):
        in_order += a[:, k, None] * b[k]
    with gr.config(backend="numba", precision="strict"):
        assert error(gr.matmul(a, b), wanted) <= 2 * error(in_order, wanted)


@on_amx
@pytest.mark.parametrize("sizes", LARGE)
def test_tiles_give_float32s_accuracy_and_the_same_bits_on_any_number_of_threads(sizes):
    B, I, L, J = sizes
    a, b = normal((B, I, L)), normal((B, L, J), seed=1)
    wanted = a.astype("f8") @ b.astype("f8")
    for of_a, of_b in itertools.product(("rows", "columns"), repeat=2):
        found = []
        for threads in (1, None):
            with gr.config(backend="numba", threads=threads):
                assert gr.plan("matmul", a, b).algorithm == "amx"
                found.append(gr.matmul(lying(a, of_a), lying(b, of_b)))
        np.testing.assert_array_equal(*found)
        assert error(found[0], wanted) < 1e-6


@on_amx
def test_tiles_serve_linear_layers_with_bias_and_sums_over_a_batch():
    x, w, b = normal((300, 500)), normal((700, 500), seed=1), normal((700,), seed=2)
    with gr.config(backend="numba"):
        wanted = x.astype("f8") @ w.T.astype("f8") + b
        assert error(gr.linear(x, w, b[::-1][::-1]), wanted) < 1e-6
        assert error(gr.linear(x, w, b, out=np.empty((700, 300), "float32").T), wanted) < 1e-6
        a, shared, dy = normal((4, 256, 250)), normal((250, 200), seed=1), normal((4, 256, 200))
        assert gr.plan("matmul", a, shared).algorithm == "amx"
        da, db = gr.matmul_backward(dy, a, shared)
    assert error(da, dy.astype("f8") @ shared.T) < 1e-6
    assert error(db, np.einsum("nij,nik->jk", a.astype("f8"), dy)) < 1e-6


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("rows, inner", ((30, 20), (100, 700), (15, 6000)))
def test_a_strip_of_any_width_writes_its_columns_and_no_others(rows, inner, dtype):
    for columns in (1, 3, 8, 9, 15, 16, 17, 24, 31, 32, 33, 45):
        a, b = normal((rows, inner), dtype), normal((inner, columns), dtype, seed=1)
        wanted = a.astype("f8") @ b
        bound = 2e-6 if dtype == "float32" else 1e-13
        for right in (b, np.asfortranarray(b)):
            held = np.full((rows + 2, columns + 40), np.inf, dtype)
            out = held[1:-1, 7 : 7 + columns]
            with gr.config(backend="numba", precision="strict"):
                gr.matmul(a, right, out=out)
            assert error(out, wanted) < bound
            out[...] = np.inf
            assert np.isposinf(held).all()


@on_amx
@pytest.mark.parametrize("value", (np.inf, -np.inf, np.nan))
def test_tiles_leave_non_finite_numbers_to_direct_sums(value):
    a, b = normal((300, 300)), normal((300, 400), seed=1)
    a[3, 5] = value
    b[5, 7] = 0
    with gr.config(backend="numba"):
        y = gr.matmul(a, b)
    with np.errstate(all="ignore"):
        wanted = a.astype("f8") @ b.astype("f8")
    assert np.isnan(y[3, 7])
    np.testing.assert_array_equal(np.isnan(y), np.isnan(wanted))
    np.testing.assert_array_equal(y[np.isinf(wanted)], wanted[np.isinf(wanted)])


@on_amx
@pytest.mark.parametrize("scale", (1e-25, 1e-41))
def test_tiles_leave_tiny_numbers_to_direct_sums(scale):
    a, b = normal((320, 320)) * np.float32(scale), normal((320, 320), seed=1)
    with gr.config(backend="numba"):
        y = gr.matmul(a, b)
    with gr.config(backend="numba", precision="strict"):
        np.testing.assert_array_equal(y, gr.matmul(a, b))


@on_amx
def test_a_workspace_limit_is_kept():
    a, b = normal((400, 400)), normal((400, 400), seed=1)
    with gr.config(backend="numba"):
        free = gr.plan("matmul", a, b).workspace_bytes
    for limit in (0, free // 4, free):
        with gr.config(backend="numba", workspace_limit=limit):
            assert gr.plan("matmul", a, b).workspace_bytes <= limit
            assert error(gr.matmul(a, b), a.astype("f8") @ b) < 2e-6


@on_amx
@pytest.mark.parametrize("layout", ("channels_first", "channels_last"))
@pytest.mark.parametrize("shape, out", [((9, 128, 28, 28), 96), ((4, 300, 10, 16), 330)])
def test_pointwise_convolutions_are_products_on_the_images_as_they_lie(shape, out, layout):
    x, w, b = normal(shape), normal((out, shape[1], 1, 1), seed=1), normal((out,), seed=2)
    wanted = np.einsum("nchw,kc->nkhw", x.astype("f8"), w[:, :, 0, 0]) + b[:, None, None]
    dy = normal(wanted.shape, seed=3)
    wanted_dx = np.einsum("nkhw,kc->nchw", dy.astype("f8"), w[:, :, 0, 0])
    if layout == "channels_last":
        x, dy, wanted, wanted_dx = (
            np.ascontiguousarray(np.moveaxis(array, 1, -1)) for array in (x, dy, wanted, wanted_dx)
        )
    found = []
    for threads in (1, None):
        with gr.config(backend="numba", threads=threads):
            plan = gr.plan("conv", x, w, layout=layout)
            assert (plan.algorithm, plan.blocking["product"]) == ("pointwise", "amx")
            y = gr.conv(x, w, b, layout=layout)
            found.append((y, gr.conv_backward(dy, x, w, need=("x",), layout=layout)[0]))
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)
    assert error(found[0][0], wanted) < 1e-6 and error(found[0][1], wanted_dx) < 1e-6
    with gr.config(backend="numba"):  # images that are no whole rows
        apart = lying(x, "apart")
        assert error(gr.conv(apart, w, b, layout=layout), wanted) < 2e-6


#: (N, in, out): one function for all gradients; one thread; parts of a long sum; tiny; a unit each
LAYERS = [(64, 400, 120), (64, 128, 10), (9000, 40, 30), (5, 8, 4), (400, 300, 330)]


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("sizes", LAYERS)
def test_a_layer_s_gradients_have_the_same_bits_together_and_apart(sizes, dtype):
    rows, inputs, features = sizes
    arrays = [normal(shape, dtype, seed) for seed, shape in
              enumerate(((rows, features), (rows, inputs), (features, inputs)))]  # fmt: skip
    dy, x, w = arrays
    with gr.config(backend="reference"):
        wanted = gr.linear_backward(*arrays)
    for threads in (1, 2):
        with gr.config(backend="numba", threads=threads):
            together = gr.linear_backward(*arrays)
            apart = [gr.linear_backward(*arrays, need=(name,))[i] for i, name in enumerate("xwb")]
            gaps = [np.repeat(array, 2, axis=1)[:, ::2] for array in arrays]
            outs = [np.repeat(array, 2, axis=0)[::2] for array in (x, w)]
            gr.linear_backward(*gaps, need=("x", "w"), out=(*outs, None))
        for found, alone, right in zip(together, apart, wanted):
            np.testing.assert_array_equal(found, alone)
            assert error(found, right) < (1e-5 if dtype == "float32" else 1e-13)
        for found, whole in zip(outs, together):
            np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("ways", [("rows",) * 3, ("columns", "rows", "columns"),
                                  ("rows", "columns", "columns"), ("apart",) * 3])  # fmt: skip
@pytest.mark.parametrize(
    "sizes", [(64, 64, 64), (5, 6, 7), (200, 33, 10), (7, 300, 90), (9, 30, 20, 45),
              (2, 3, 40, 50, 60), (50, 4, 3, 5), (1, 300, 1), (9000, 3, 30)], ids=str
)  # fmt: skip
def test_both_gradients_of_a_product_have_the_same_bits_at_once_and_apart(sizes, ways, dtype):
    batch, (I, L, J) = sizes[:-3], sizes[-3:]
    shapes = ((I, J), (I, L), (L, J))
    dy, a, b = (lying(normal((*batch, *shape), dtype, seed), way)
                for seed, (shape, way) in enumerate(zip(shapes, ways)))  # fmt: skip
    with gr.config(backend="reference"):
        wanted = gr.matmul_backward(dy, a, b)
    with gr.config(backend="numba"):
        apart = gr.matmul_backward(dy, a, b, need="a")[0], gr.matmul_backward(dy, a, b, need="b")[1]
    for threads in (None, 1):
        with gr.config(backend="numba", threads=threads):
            for _ in range(2):  # the second call is one that was settled
                at_once = gr.matmul_backward(dy, a, b)
                for found, alone, right in zip(at_once, apart, wanted):
                    np.testing.assert_array_equal(found, alone)
                    assert error(found, right) < (1e-6 if dtype == "float32" else 1e-14)


@on_vectors
def test_one_function_serves_both_products_of_a_layer_unless_they_go_other_ways():
    from gradroute.geometry import LinearGeometry
    from gradroute.kernels.cpu import plans

    def algorithm(rows, features, inputs, need):
        geometry = LinearGeometry(rows, features, inputs, need)
        return plans.plan("linear_backward", geometry, "float64", gr.config.current()).algorithm

    assert algorithm(64, 10, 128, "xwb") == algorithm(64, 10, 128, "xw") == "together"
    assert algorithm(64, 10, 128, "xb") == algorithm(9000, 30, 40, "xw") == "apart"
