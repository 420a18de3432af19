"""The reference's gradients are the slopes of the reference's own forward functions.

Central differences in float64: (f(v + h) - f(v - h)) / 2h along every input, where f is the
forward function's output weighted with dy and summed.
"""

import numpy as np
import pytest
from cases import CONV, CONV_TRANSPOSE, POOL
from values import make

import gradroute as gr

STEP = 1e-5


@pytest.fixture(autouse=True)
def on_the_reference():
    with gr.config(backend="reference"):
        yield


def difference(forward, dy, array):
    """The slope of sum(dy * forward(array)) along every element of the array."""
    slope = np.zeros(array.shape)
    for here in np.ndindex(*array.shape):
        ends = []
        for sign in (1, -1):
            moved = array.copy()
            moved[here] += sign * STEP
            ends.append((forward(moved) * dy).sum())
        slope[here] = (ends[0] - ends[1]) / (2 * STEP)
    return slope


def assert_slope(found, forward, dy, array):
    expected = difference(forward, dy, array)
    size = max(np.abs(expected).max(initial=0), 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * size)


def _small(table, limit):
    return [case for case in table if case.kind == "normal" and np.prod(case.x) <= limit]


@pytest.mark.parametrize("case", _small(CONV, 200), ids=str)
def test_conv(case):
    x, w = make("normal", case.x), make("normal", case.window, seed=1)
    b = make("normal", case.window[:1], seed=2)
    dy = make("normal", gr.conv(x, w, **case.options).shape, seed=3)
    dx, dw, db = gr.conv_backward(dy, x, w, **case.options)
    assert_slope(dx, lambda v: gr.conv(v, w, b, **case.options), dy, x)
    assert_slope(dw, lambda v: gr.conv(x, v, b, **case.options), dy, w)
    assert_slope(db, lambda v: gr.conv(x, w, v, **case.options), dy, b)


@pytest.mark.parametrize("case", _small(CONV_TRANSPOSE, 100), ids=str)
def test_conv_transpose(case):
    x, w = make("normal", case.x), make("normal", case.window, seed=1)
    b = make("normal", (case.window[1] * case.options.get("groups", 1),), seed=2)
    dy = make("normal", gr.conv_transpose(x, w, **case.options).shape, seed=3)
    dx, dw, db = gr.conv_transpose_backward(dy, x, w, **case.options)
    assert_slope(dx, lambda v: gr.conv_transpose(v, w, b, **case.options), dy, x)
    assert_slope(dw, lambda v: gr.conv_transpose(x, v, b, **case.options), dy, w)
    assert_slope(db, lambda v: gr.conv_transpose(x, w, v, **case.options), dy, b)


@pytest.mark.parametrize("case", _small(POOL, 200), ids=str)
def test_pools(case):
    x = make("normal", case.x)
    y, winner = gr.max_pool(x, case.window, **case.options)
    dy = make("normal", y.shape, seed=1)
    dx = gr.max_pool_backward(dy, winner, x.shape, case.window, **case.options)
    assert_slope(dx, lambda v: gr.max_pool(v, case.window, **case.options)[0], dy, x)

    dx = gr.avg_pool_backward(dy, x.shape, case.window, **case.options)
    assert_slope(dx, lambda v: gr.avg_pool(v, case.window, **case.options), dy, x)

    dimage = make("normal", x.shape, seed=2)
    found = gr.max_unpool_backward(dimage, winner, x.shape, case.window, **case.options)
    assert_slope(
        found,
        lambda v: gr.max_unpool(v, winner, x.shape, case.window, **case.options), dimage, y,
    )  # fmt: skip


def test_im2col():
    x, options = make("normal", (2, 2, 4, 5)), {"padding": 1, "stride": 2}
    dcols = make("normal", gr.im2col(x, 3, **options).shape, seed=1)
    found = gr.col2im(dcols, x.shape, 3, **options)
    assert_slope(found, lambda v: gr.im2col(v, 3, **options), dcols, x)


@pytest.mark.parametrize("a_shape, b_shape", [((3, 4), (4, 2)), ((2, 1, 3, 4), (3, 4, 2))])
def test_matmul(a_shape, b_shape):
    a, b = make("normal", a_shape), make("normal", b_shape, seed=1)
    dy = make("normal", gr.matmul(a, b).shape, seed=2)
    da, db = gr.matmul_backward(dy, a, b)
    assert_slope(da, lambda v: gr.matmul(v, b), dy, a)
    assert_slope(db, lambda v: gr.matmul(a, v), dy, b)


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "elu", "sigmoid", "tanh",
                                        "softplus"])  # fmt: skip
def test_linear(activation):
    x, w, b = (make("normal", s, seed=i) for i, s in enumerate([(2, 3, 4), (5, 4), (5,)]))

    def layer(x, w, b):
        return gr.linear(x, w, b, activation=activation)

    y, dy = layer(x, w, b), make("normal", (2, 3, 5), seed=4)
    dx, dw, db = gr.linear_backward(dy, x, w, y=y, activation=activation)
    assert_slope(dx, lambda v: layer(v, w, b), dy, x)
    assert_slope(dw, lambda v: layer(x, v, b), dy, w)
    assert_slope(db, lambda v: layer(x, w, v), dy, b)


@pytest.mark.parametrize("name", ["gelu", "silu", "elu", "softplus", "tanh"])
def test_activate(name):
    x, dy = make("normal", (20,)), make("normal", (20,), seed=1)
    assert_slope(gr.activate_backward(dy, name, x=x), lambda v: gr.activate(v, name), dy, x)


def test_softmax_cross_entropy():
    logits, labels = make("normal", (4, 5)), np.array([0, 4, 2, 2])
    _, dlogits = gr.softmax_cross_entropy(logits, labels)
    assert_slope(dlogits, lambda v: gr.softmax_cross_entropy(v, labels)[0], 1.0, logits)


def test_scatter_add():
    src, index = make("normal", (6, 2)), np.array([0, 3, 3, 1, -1, 0])
    dout = make("normal", (4, 2), seed=1)
    found = dout[index]  # the gradient of adding is reading
    assert_slope(found, lambda v: gr.scatter_add(np.zeros((4, 2)), index, v), dout, src)
