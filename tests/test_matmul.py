"""Matrix products against einsum in float64, and linear layers against their two steps."""

import numpy as np
import pytest
from cases import LINEAR, MATMUL
from compare import assert_close
from values import exact, make

import gradroute as gr

DTYPES = ("float64", "float32")
HALVES = ("float16", "bfloat16")


def product(a, b):
    """np.matmul's rules without np.matmul: rows times columns, summed."""
    a, b = exact(a), exact(b)
    left = a[None] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    with np.errstate(invalid="ignore"):
        y = (left[..., :, None, :] * np.swapaxes(right, -1, -2)[..., None, :, :]).sum(-1)
    y = y[..., 0, :] if a.ndim == 1 else y
    return y[..., 0] if b.ndim == 1 else y


def slopes(dy, a, b):
    """da and db from the definition: one unit of a or b at a time (the product is linear)."""
    found = []
    for which, array in enumerate((a, b)):
        gradient = np.zeros(array.shape)
        for here in np.ndindex(*array.shape):
            unit = np.zeros(array.shape)
            unit[here] = 1
            change = product(unit, b) if which == 0 else product(a, unit)
            gradient[here] = (change * dy).sum()
        found.append(gradient)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("a_shape, b_shape", MATMUL)
def test_matmul_is_rows_times_columns(backend, a_shape, b_shape, dtype):
    a, b = make("normal", a_shape, dtype), make("normal", b_shape, dtype, seed=1)
    expected = product(a, b)
    assert expected.shape == np.matmul(a, b).shape
    assert_close(gr.matmul(a, b), expected, dtype)


@pytest.mark.parametrize("a_shape, b_shape", [*MATMUL, ((1, 500, 8), (8,)), ((8,), (1, 8, 5))])
def test_an_out_with_gaps_receives_the_product_and_nothing_beside_it(backend, a_shape, b_shape):
    a, b = make("normal", a_shape), make("normal", b_shape, seed=1)
    expected = product(a, b)
    memory = np.full((3, *expected.shape, 2), 7.0)
    inside = np.zeros(memory.shape, bool)
    inside[1, ..., 0] = True
    gr.matmul(a, b, out=memory[1, ..., 0])
    assert_close(memory[1, ..., 0], expected, "float64")
    assert (memory[~inside] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("a_shape, b_shape", [pair for pair in MATMUL if max(pair[0]) < 30])
def test_matmul_backward_sums_over_what_was_broadcast(backend, a_shape, b_shape, dtype):
    a, b = make("normal", a_shape, dtype), make("normal", b_shape, dtype, seed=1)
    dy = make("normal", product(a, b).shape, dtype, seed=2)
    da, db = gr.matmul_backward(dy, a, b)
    for found, wanted in zip((da, db), slopes(exact(dy), exact(a), exact(b))):
        assert_close(found, wanted, dtype)


@pytest.mark.parametrize("need", [(), ("a",), ("b",), ["b", "a"]])
def test_a_product_gradient_that_is_not_needed_is_none(backend, need):
    a, b = make("normal", (3, 4)), make("normal", (2, 4, 5))
    dy = make("normal", (2, 3, 5), seed=1)
    everything = gr.matmul_backward(dy, a, b)
    for name, found, whole in zip("ab", gr.matmul_backward(dy, a, b, need=need), everything):
        if name in need:
            assert_close(found, whole, "float64")
        else:
            assert found is None


@pytest.mark.parametrize("kind", ["nan", "inf", "one_inf"])
@pytest.mark.parametrize("sizes", [(5, 7, 6), (20, 40, 33)])
def test_non_finite_numbers_reach_exactly_their_rows_and_columns(backend, kind, sizes):
    rows, inner, columns = sizes
    a, b = make("normal", (rows, inner), "float32"), make("normal", (inner, columns), "float32")
    special = make(kind, (rows, inner), "float32")
    a[:2][~np.isfinite(special[:2])] = np.inf
    b[:, 3] = make(kind, (inner,), "float32")
    assert_close(gr.matmul(a, b), product(a, b), "float32")


@pytest.mark.parametrize("dtype", HALVES)
def test_products_in_16_bits_are_rounded_once(backend, dtype):
    pytest.importorskip("ml_dtypes")
    a, b = make("normal", (6, 33), dtype), make("normal", (33, 7), dtype, seed=1)
    assert_close(gr.matmul(a, b), product(a, b), a.dtype)
    dy = make("normal", (6, 7), dtype, seed=2)
    da, db = gr.matmul_backward(dy, a, b)
    assert_close(da, product(dy, b.T), a.dtype)
    assert_close(db, product(a.T, dy), a.dtype)


# ---- linear -------------------------------------------------------------------------------


def _linear_arrays(x_shape, out, bias, dtype):
    x, w = make("normal", x_shape, dtype), make("normal", (out, x_shape[-1]), dtype, seed=1)
    return x, w, make("normal", (out,), dtype, seed=2) if bias else None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("x_shape, out, bias", LINEAR)
def test_linear_is_x_times_w_transposed_plus_b(backend, x_shape, out, bias, dtype):
    x, w, b = _linear_arrays(x_shape, out, bias, dtype)
    expected = product(x, w.T) + (exact(b) if bias else 0)
    assert_close(gr.linear(x, w, b), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("x_shape, out, bias", LINEAR)
def test_linear_backward_sums_over_every_leading_axis(backend, x_shape, out, bias, dtype):
    x, w, _ = _linear_arrays(x_shape, out, bias, dtype)
    dy = make("normal", (*x_shape[:-1], out), dtype, seed=3)
    dx, dw, db = gr.linear_backward(dy, x, w)
    rows, inputs = exact(dy).reshape(-1, out), exact(x).reshape(-1, x_shape[-1])
    assert_close(dx, product(dy, w), dtype)
    assert_close(dw, product(rows.T, inputs), dtype)
    assert_close(db, rows.sum(0), dtype)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus"])
def test_a_fused_activation_is_the_two_steps(backend, name):
    x, w, b = _linear_arrays((4, 5), 3, True, "float64")
    y = gr.linear(x, w, b, activation=name)
    assert_close(y, gr.activate(gr.linear(x, w, b), name), "float64")
    dy = make("normal", (4, 3), seed=3)
    found = gr.linear_backward(dy, x, w, y=y, activation=name)
    expected = gr.linear_backward(gr.activate_backward(dy, name, y=y), x, w)
    for one, other in zip(found, expected):
        assert_close(one, other, "float64")


@pytest.mark.parametrize("shape, out", [((130, 3), 40), ((2, 150, 3), 1), ((0, 3), 4), ((3,), 70)])
def test_the_bias_gradient_sums_the_slopes_of_every_row(backend, shape, out):
    x, w, _ = _linear_arrays(shape, out, False, "float32")
    y = make("normal", (*shape[:-1], out), "float32", seed=3)
    dy = make("normal", y.shape, "float32", seed=4)
    wide = np.zeros((out, 2), "f")
    _, dw, db = gr.linear_backward(
        dy, x, w, y=y, activation="tanh", need=("w", "b"), out=(None, None, wide[:, 1])
    )
    dz = (exact(dy) * (1 - exact(y) ** 2)).reshape(-1, out)
    assert_close(db, dz.sum(0), "float32")
    assert_close(dw, product(dz.T, exact(x).reshape(-1, 3)), "float32")
    np.testing.assert_array_equal(wide[:, 0], 0)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_activations_whose_slope_is_not_in_y_go_forward_only(backend, name):
    x, w, b = _linear_arrays((4, 5), 3, True, "float64")
    y = gr.linear(x, w, b, activation=name)
    assert_close(y, gr.activate(gr.linear(x, w, b), name), "float64")
    with pytest.raises(ValueError, match=r"activate_backward.*x="):
        gr.linear_backward(y, x, w, y=y, activation=name)


@pytest.mark.parametrize("need", [(), ("x",), ("w",), ("b",), ("x", "b")])
def test_a_linear_gradient_that_is_not_needed_is_none(backend, need):
    x, w, _ = _linear_arrays((4, 5), 3, True, "float64")
    dy = make("normal", (4, 3), seed=3)
    everything = gr.linear_backward(dy, x, w)
    for name, found, whole in zip("xwb", gr.linear_backward(dy, x, w, need=need), everything):
        if name in need:
            assert_close(found, whole, "float64")
        else:
            assert found is None
