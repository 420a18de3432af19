"""The Numba activations and loss against float64 formulas that do not cancel."""

import math

import numpy as np
import pytest

from gradroute.kernels.contract import ACTIVATIONS, SLOPE_FROM_OUTPUT, Plan
from gradroute.kernels.cpu import activation


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def cdf(x):
    return math.erfc(-x / math.sqrt(2)) / 2


VALUE = {
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "sigmoid": sigmoid,
    "tanh": math.tanh,
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
    "gelu": lambda x: x * cdf(x),
    "silu": lambda x: x * sigmoid(x),
}
SLOPE = {
    "relu": lambda x: float(x > 0),
    "leaky_relu": lambda x: 1.0 if x > 0 else 0.01,
    "elu": lambda x: 1.0 if x > 0 else math.exp(x),
    "sigmoid": lambda x: sigmoid(x) * sigmoid(-x),
    "tanh": lambda x: 1 / math.cosh(x) ** 2,
    "softplus": sigmoid,
    "gelu": lambda x: cdf(x) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    "silu": lambda x: sigmoid(x) * (1 + x * sigmoid(-x)),
}
PLAN = Plan("numba", "activate", "direct", threads=2)


def inputs():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.standard_normal(400) * s for s in (1e-6, 0.1, 1, 5)]).astype("f4")


def close(got, expected, ulps):
    expected = np.array(expected)
    error = np.abs(got - expected) / np.maximum(np.abs(expected), np.finfo(got.dtype).tiny)
    assert error.max() <= ulps * np.finfo(got.dtype).eps, error.max() / np.finfo(got.dtype).eps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_are_right_to_a_few_ulps(name, dtype):
    x = inputs().astype(dtype)
    y = np.empty_like(x)
    activation.activate(y, x, name, PLAN, None)
    # gelu: the tail of erfc multiplies the rounding of its argument by its square
    close(y, [VALUE[name](float(v)) for v in x], 300 if (name, dtype) == ("gelu", "float64") else 4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_right(name, dtype):
    x = inputs().astype(dtype)
    dy, dx = np.full_like(x, 2), np.empty_like(x)
    slope = 2 * np.array([SLOPE[name](float(v)) for v in x])
    activation.activate_backward(dx, dy, x, name, False, PLAN, None)
    tolerance = {"float32": 1e-6, "float64": 1e-14}[dtype]
    np.testing.assert_allclose(dx, slope, rtol=tolerance, atol=tolerance)
    if name in SLOPE_FROM_OUTPUT:
        y = np.empty_like(x)
        activation.activate(y, x, name, PLAN, None)
        activation.activate_backward(dx, dy, y, name, True, PLAN, None)
        np.testing.assert_allclose(dx, slope, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["elu", "sigmoid", "softplus", "silu"])
def test_values_keep_their_digits_down_to_the_smallest_numbers(name, dtype):
    x = -np.linspace(0, {"float32": 87, "float64": 708}[dtype], 1000).astype(dtype)
    y = np.empty_like(x)
    activation.activate(y, x, name, PLAN, None)
    close(y, [VALUE[name](float(v)) for v in x], 4)
    x = -np.linspace(*{"float32": (87, 104), "float64": (708, 746)}[dtype], 300).astype(dtype)
    y = np.empty_like(x)
    activation.activate(y, x, "sigmoid", PLAN, None)  # denormal: right to their last bit
    np.testing.assert_allclose(
        y, [sigmoid(float(v)) for v in x], 0, 1.01 * np.finfo(dtype).smallest_subnormal
    )


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 33])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_any_length_in_place_and_with_one_thread_gives_the_same_bits(name, size):
    x = inputs()[300 : 300 + size]
    one, other, in_place = np.empty_like(x), np.empty_like(x), x.copy()
    activation.activate(one, x, name, PLAN, None)
    activation.activate(other, x, name, Plan("numba", "activate", "direct"), None)
    activation.activate(in_place, in_place, name, PLAN, None)
    assert one.tobytes() == other.tobytes() == in_place.tobytes()
    close(one, [VALUE[name](float(v)) for v in x], 4) if size else None


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_stays_nan_and_large_inputs_do_not_overflow(name):
    x = np.array([np.nan, 1e4, -1e4, np.inf], "float32")
    y = np.empty_like(x)
    activation.activate(y, x, name, PLAN, None)
    assert np.isnan(y[0]) and not np.isnan(y[1:]).any()
    assert y[3] == (1 if name in ("sigmoid", "tanh") else np.inf)


def test_cross_entropy_is_stable_and_the_same_for_any_number_of_threads():
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((300, 7)) * 3).astype("float32")
    logits[0] += 1e4  # exp would overflow
    labels = rng.integers(0, 7, 300).astype("uint8")
    z = logits.astype("float64") - logits.max(axis=1, keepdims=True)
    share = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    expected = -np.log(share[np.arange(300), labels]).mean()
    share[np.arange(300), labels] -= 1
    results = []
    for threads in (1, 2):
        loss, dlogits = np.empty((), "float32"), np.empty_like(logits)
        plan = Plan("numba", "softmax_cross_entropy", "direct", threads=threads)
        activation.softmax_cross_entropy(loss, dlogits, logits, labels, -1, plan, None)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_allclose(dlogits, share / 300, rtol=1e-5, atol=1e-9)
        results.append(loss.tobytes() + dlogits.tobytes())
    assert results[0] == results[1]


def test_the_first_label_outside_is_reported():
    labels = np.array([0, 4, 2, 5, 9], "int32")
    assert activation.check_labels(labels, 10, PLAN, None) == -1
    assert activation.check_labels(labels, 5, PLAN, None) == 3
    assert activation.check_labels(-labels, 10, PLAN, None) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zeros_keep_their_sign_and_no_slope_exceeds_one(dtype):
    zeros = np.array([0.0, -0.0], dtype)
    y = np.empty_like(zeros)
    for name in ("elu", "tanh", "leaky_relu"):
        activation.activate(y, zeros, name, PLAN, None)
        assert (y == 0).all() and list(np.signbit(y)) == [False, True], name
    x = np.concatenate([np.linspace(-1e-2, 1e-2, 2001), np.geomspace(1e-8, 1, 999)]).astype(dtype)
    dx, dy = np.empty_like(x), np.full_like(x, np.finfo(dtype).max)
    activation.activate_backward(dx, dy, x, "tanh", False, PLAN, None)
    assert np.isfinite(dx).all()
