"""Numbers worked out by hand: the question that this package grew out of, and its neighbours."""

import math

import numpy as np
import pytest

import gradroute as gr


@pytest.mark.parametrize(
    "x, expected",
    [
        ([3, 0, 4, 2, 0], [0, 0, 1.6, 0, 0]),  # both windows were won by the 4
        ([3, 0, 1, 2, 0], [0.7, 0, 0, 0.9, 0]),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_each_window_hands_its_whole_gradient_to_its_winner(backend, x, expected, dtype):
    x = np.array([[x]], dtype)
    dy = np.array([[[0.7, 0.9]]], dtype)
    _, winner = gr.max_pool(x, 3, stride=2)
    dx = gr.max_pool_backward(dy, winner, x.shape, 3, stride=2)
    np.testing.assert_allclose(dx, [[expected]], rtol=1e-15 if dtype == "float64" else 1e-7)
    np.testing.assert_array_equal(dx == 0, [[np.array(expected) == 0]])


# ---- a pool layer into fully connected neurons with gradients 2, 3 and 6 ------------------

IMAGE = np.array([[[[0.1, 0.7, 0.2, 0.3], [0.5, 0.4, 0.9, 0.6]]]])  # windows won by 0.7 and 0.9
POOLED = [0.7, 0.9]
WEIGHTS = [[0.5, -2.0], [-1.0, 0.125], [0.25, 3.0]]  # of each of the 3 neurons
BIAS = [0.2, -0.3, 0.1]
UPSTREAM = [2.0, 3.0, 6.0]
SLOPE = {  # from the output, by hand
    None: lambda y: 1.0,
    "relu": lambda y: 1.0 if y > 0 else 0.0,
    "leaky_relu": lambda y: 1.0 if y > 0 else 0.01,
    "elu": lambda y: 1.0 if y > 0 else y + 1.0,
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
    "softplus": lambda y: 1 - math.exp(-y),
}


@pytest.mark.parametrize("activation", SLOPE)
def test_a_pool_neuron_collects_gradient_times_slope_times_weight_from_every_neuron(
    backend, activation
):
    y, winner = gr.max_pool(IMAGE, 2)
    flat = y.reshape(1, 2)
    np.testing.assert_array_equal(flat, [POOLED])
    w, b = np.array(WEIGHTS), np.array(BIAS)
    out = gr.linear(flat, w, b, activation=activation)
    dflat, dw, db = gr.linear_backward(
        np.array([UPSTREAM]), flat, w, y=None if activation is None else out, activation=activation
    )
    expected = [0.0, 0.0]
    for upstream, slope_at, weights, neuron in zip(UPSTREAM, out[0], WEIGHTS, range(3)):
        before = upstream * SLOPE[activation](float(slope_at))
        assert db[neuron] == pytest.approx(before, rel=1e-12)
        for i in range(2):
            expected[i] += before * weights[i]
            assert dw[neuron, i] == pytest.approx(before * POOLED[i], rel=1e-12)
    np.testing.assert_allclose(dflat, [expected], rtol=1e-12)

    dx = gr.max_pool_backward(dflat.reshape(y.shape), winner, IMAGE.shape, 2)
    whole = np.zeros_like(IMAGE)
    whole[0, 0, 0, 1], whole[0, 0, 1, 2] = expected
    np.testing.assert_allclose(dx, whole, rtol=1e-12, atol=0)


def test_the_gradients_two_three_and_six_do_not_add_up_to_eleven(backend):
    dx, _, _ = gr.linear_backward(
        np.array([UPSTREAM]), np.array([POOLED]), np.array(WEIGHTS), need=("x",)
    )
    np.testing.assert_array_equal(dx, [[2 * 0.5 - 3 * 1.0 + 6 * 0.25, -2 * 2 + 3 * 0.125 + 6 * 3]])


# ---- a pool layer into a convolution ------------------------------------------------------


def test_a_corner_an_edge_and_an_inner_neuron_are_read_by_one_two_and_four_windows(backend):
    """Pool map 3x3, convolution 2x2: 4 windows; dy and w are powers of two and tell apart."""
    rng = np.random.default_rng(0)
    image = rng.permutation(36).reshape(1, 1, 6, 6).astype(float)
    pooled, winner = gr.max_pool(image, 2)
    w = np.array([[[[1.0, 2.0], [4.0, 8.0]]]])
    dy = np.array([[[[1.0, 16.0], [256.0, 4096.0]]]])
    dpool, _, _ = gr.conv_backward(dy, pooled, w, need=("x",))
    corner = 1 * 1  # the first window, through its first weight
    edge = 1 * 2 + 16 * 1  # two windows
    inner = 1 * 8 + 16 * 4 + 256 * 2 + 4096 * 1  # all four, each through another weight
    assert dpool[0, 0, 0, 0] == corner
    assert dpool[0, 0, 0, 1] == edge
    assert dpool[0, 0, 1, 1] == inner
    np.testing.assert_array_equal(
        dpool[0, 0],
        [[1, 18, 32], [4 + 256, inner, 16 * 8 + 4096 * 2], [256 * 4, 256 * 8 + 4096 * 4, 8 * 4096]],
    )
    dimage = gr.max_pool_backward(dpool, winner, image.shape, 2)
    assert np.count_nonzero(dimage) == 9
    for i, j in np.ndindex(3, 3):
        window = (0, 0, slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
        at = np.unravel_index(image[window].argmax(), (2, 2))
        assert dimage[window][at] == dpool[0, 0, i, j]


# ---- the documentation's own sentences ----------------------------------------------------


def test_the_winner_is_one_byte_inside_its_window(backend):
    x = np.array([[[[1, 5, 2, 9], [3, 4, 8, 7]]]], np.float32)
    y, winner = gr.max_pool(x, 2)
    assert y.tolist() == [[[[5, 9]]]] and winner.tolist() == [[[[1, 1]]]]
    assert winner.dtype == np.uint8
    index = gr.winner_to_index(winner, x.shape, 2)
    assert index.tolist() == [[[[1, 3]]]] and index.dtype == np.int64


def test_the_first_nan_wins(backend):
    nan = np.nan
    x = np.array([[[1.0, nan, 3.0, nan]]])
    assert gr.max_pool(x, 4)[1].item() == 1
    assert gr.max_pool(x, 4, ties="last")[1].item() == 1
    assert gr.max_pool(x, 4, nan="omit")[1].item() == 2
    y, winner = gr.max_pool(np.full((1, 1, 3), nan), 3, nan="omit")
    assert np.isnan(y).all() and winner.item() == 0


def test_padding_never_wins_not_even_among_minus_infinities(backend):
    x = np.full((1, 1, 2, 2), -np.inf)
    y, winner = gr.max_pool(x, 3, stride=1, padding=1)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(winner[0, 0], [[4, 3], [1, 0]])  # the first tap on the image


def test_the_average_never_counts_what_ceil_mode_adds(backend):
    x = np.array([[[1.0, 2.0, 3.0, 4.0, 5.0]]])
    assert gr.avg_pool(x, 2, ceil_mode=True).tolist() == [[[1.5, 3.5, 5.0]]]
    padded = gr.avg_pool(x, 3, stride=3, padding=1, ceil_mode=True)
    np.testing.assert_allclose(padded, [[[3 / 3, 12 / 3]]])
    alone = gr.avg_pool(x, 3, stride=3, padding=1, ceil_mode=True, count_include_pad=False)
    np.testing.assert_allclose(alone, [[[3 / 2, 12 / 3]]])


def test_same_pads_behind_first(backend):
    x, w = np.array([[[1.0, 2.0, 3.0, 4.0]]]), np.ones((1, 1, 2))
    assert gr.conv(x, w, padding="same").tolist() == [[[3, 5, 7, 4]]]
    assert gr.conv_transpose(x, w, padding="same", stride=2).shape == (1, 1, 8)


def test_unpooling_where_windows_collide_keeps_the_last(backend):
    x = np.array([[[1.0, 9.0, 2.0]]])
    _, winner = gr.max_pool(x, 2, stride=1)
    y = np.array([[[5.0, 7.0]]])
    assert gr.max_unpool(y, winner, x.shape, 2, stride=1).tolist() == [[[0, 7, 0]]]
    dx = np.array([[[1.0, 2.0, 3.0]]])
    assert gr.max_unpool_backward(dx, winner, x.shape, 2, stride=1).tolist() == [[[0, 2]]]
