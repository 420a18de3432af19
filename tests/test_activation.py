"""Activations against their formulas in Python's own mathematics, slopes against differences."""

import math

import numpy as np
import pytest
from compare import BOUND, assert_close
from values import exact, make

import gradroute as gr
from gradroute.kernels import contract

FROM_OUTPUT = ("relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus")
DTYPES = ("float64", "float32")


def _sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


FORMULA = {
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "sigmoid": _sigmoid,
    "tanh": math.tanh,
    "softplus": lambda x: math.log1p(math.exp(x)) if x < 30 else x + math.exp(-x),
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x * _sigmoid(x),
}


def inputs(dtype):
    special = [0.0, -0.0, 1e-6, -1e-6, 30.0, -30.0, 100.0, -100.0]
    return np.concatenate([make("normal", (57,)), special]).astype(dtype)


def test_the_table_of_formulas_is_complete():
    assert tuple(FORMULA) == contract.ACTIVATIONS
    assert FROM_OUTPUT == contract.SLOPE_FROM_OUTPUT


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMULA)
def test_activate_is_its_formula(backend, name, dtype):
    x = inputs(dtype)
    assert_close(gr.activate(x, name), [FORMULA[name](v) for v in x.tolist()], dtype)


@pytest.mark.parametrize("name", FORMULA)
def test_small_values_keep_their_digits(backend, name):
    x = np.array([1e-9, -1e-9, -20.0, -30.0])
    y = gr.activate(x, name)
    expected = np.array([FORMULA[name](v) for v in x.tolist()])
    np.testing.assert_allclose(y[:2], expected[:2], rtol=1e-12, atol=0)
    if name in ("sigmoid", "softplus", "silu"):
        np.testing.assert_allclose(y[2:], expected[2:], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", FORMULA)
def test_nan_stays_nan_and_large_values_do_not_overflow(backend, name):
    x = np.array([np.nan, 1e4, -1e4, 80.0, -80.0], np.float32)
    y = gr.activate(x, name)
    assert np.isnan(y[0]) and np.isfinite(y[1:]).all()
    slope = gr.activate_backward(np.ones_like(x), name, x=x)
    assert np.isfinite(slope[1:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMULA)
def test_slopes_are_the_differences_of_the_formula(backend, name, dtype):
    x = make("normal", (64,), dtype)
    x = x[np.abs(x) > 1e-3]  # away from the kinks
    dy = make("normal", x.shape, dtype, seed=1)
    h = 1e-5
    slope = [(FORMULA[name](v + h) - FORMULA[name](v - h)) / (2 * h) for v in x.tolist()]
    expected = exact(dy) * slope
    bound = max(1e-8, BOUND[dtype])
    found = {"x": gr.activate_backward(dy, name, x=x)}
    if name in FROM_OUTPUT:
        found["y"] = gr.activate_backward(dy, name, y=gr.activate(x, name))
    for dx in found.values():
        assert dx.dtype == dtype
        assert np.linalg.norm(dx - expected) <= bound * np.linalg.norm(expected)


@pytest.mark.parametrize("name, slope", [("relu", 0.0), ("leaky_relu", 0.01), ("elu", 1.0)])
def test_the_slope_at_zero_is_the_documented_one(backend, name, slope):
    zero, one = np.zeros(1), np.ones(1)
    assert gr.activate_backward(one, name, x=zero)[0] == slope
    assert gr.activate_backward(one, name, y=zero)[0] == slope


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 4), (0, 4), (1, 2, 3, 4, 2)])
def test_any_shape_is_kept(backend, shape):
    x = make("normal", shape, "float32")
    y = gr.activate(x, "tanh")
    assert_close(y, np.tanh(exact(x)), "float32")
    assert_close(gr.activate_backward(x, "tanh", y=y), exact(x) * (1 - exact(y) ** 2), "float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", FORMULA)
def test_16_bits_are_computed_wider(backend, name, dtype):
    pytest.importorskip("ml_dtypes")
    x = make("normal", (40,), dtype)
    assert_close(gr.activate(x, name), [FORMULA[name](float(v)) for v in x], x.dtype)


# ---- softmax cross-entropy ----------------------------------------------------------------


def cross_entropy(logits, labels):
    """Row by row, with exact sums."""
    rows = []
    for z, label in zip(logits.tolist(), labels.tolist()):
        top = max(z)
        rows.append(math.log(math.fsum(math.exp(v - top) for v in z)) + top - z[label])
    return math.fsum(rows) / len(rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label_dtype", ["int64", "uint8", "int32"])
@pytest.mark.parametrize("shape", [(5, 3), (1, 1), (3, 1), (64, 10), (2, 100)])
def test_softmax_cross_entropy_and_its_slope(backend, shape, label_dtype, dtype):
    logits = 3 * make("normal", shape, dtype)
    labels = np.random.default_rng(0).integers(0, shape[1], shape[0]).astype(label_dtype)
    loss, dlogits = gr.softmax_cross_entropy(logits, labels)
    assert_close(loss, cross_entropy(logits, labels), dtype, floor=1e-3)
    share = np.exp(exact(logits))
    share /= share.sum(1, keepdims=True)
    share[np.arange(len(labels)), labels] -= 1
    assert_close(dlogits, share / len(labels), dtype, floor=1e-3)


def test_logits_of_any_size_do_not_overflow(backend):
    logits = np.array([[1e4, -1e4, 0], [-1e30, -1e30, -1e30], [88.0, 89.0, 90.0]], np.float32)
    loss, dlogits = gr.softmax_cross_entropy(logits, np.array([0, 1, 2]))
    expected = (0 + math.log(3) + math.log(1 + math.exp(-1) + math.exp(-2))) / 3
    assert loss.shape == () and abs(loss - expected) < 1e-6
    np.testing.assert_allclose(dlogits.sum(1), 0, atol=1e-7)


def test_the_gradient_of_a_row_does_not_depend_on_its_neighbours(backend):
    logits = make("normal", (6, 4), "float32")
    logits[3, 1] = np.nan
    loss, dlogits = gr.softmax_cross_entropy(logits, np.arange(6) % 4)
    assert np.isnan(loss) and np.isnan(dlogits[3]).all()
    assert np.isfinite(np.delete(dlogits, 3, axis=0)).all()


# ---- what is not finite -------------------------------------------------------------------

SPECIAL = np.array([-np.inf, -3, -0.0, 0.0, 0.5, 3, np.inf, np.nan])


@pytest.mark.parametrize("name", FORMULA)
def test_non_finite_numbers_mean_on_every_backend_what_they_mean_to_the_reference(backend, name):
    x, dy = (grid.reshape(-1) for grid in np.meshgrid(SPECIAL, SPECIAL))
    y = gr.activate(x, name)
    found = [y, gr.activate_backward(dy, name, x=x)]
    if name in FROM_OUTPUT:
        found.append(gr.activate_backward(dy, name, y=y))
    with gr.config(backend="reference"):
        y = gr.activate(x, name)
        expected = [y, gr.activate_backward(dy, name, x=x)]
        if name in FROM_OUTPUT:
            expected.append(gr.activate_backward(dy, name, y=y))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    with np.errstate(invalid="ignore"):  # and the slope multiplies: 0 * inf is NaN
        slope = gr.activate_backward(np.ones_like(x), name, x=x)
        np.testing.assert_allclose(found[1], dy * slope, rtol=1e-12)


def test_non_finite_logits_mean_on_every_backend_what_they_mean_to_the_reference(backend):
    rows = np.array([[0, 1, -np.inf], [np.inf, 0, 1], [-np.inf] * 3, [np.nan, 0, 0], [1, 2, 3]])
    labels = np.array([0, 1, 2, 1, 2])
    for row, label in zip(rows, labels):
        one, other = row[None].copy(), label[None]
        loss, dlogits = gr.softmax_cross_entropy(one, other)
        with gr.config(backend="reference"):
            expected = gr.softmax_cross_entropy(one, other)
        np.testing.assert_allclose(loss, expected[0], rtol=1e-12)
        np.testing.assert_allclose(dlogits, expected[1], rtol=1e-12, atol=1e-15)
