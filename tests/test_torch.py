"""The same layers in PyTorch, an implementation by others: values and gradients agree."""

import numpy as np
import pytest
from compare import assert_close
from values import make

import gradroute as gr

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
functional = torch.nn.functional


def leaves(*arrays):
    return [torch.tensor(array, requires_grad=True) for array in arrays]


def gradients(y, dy, inputs):
    return [g.numpy() for g in torch.autograd.grad(y, inputs, torch.tensor(dy))]


CONVOLUTIONS = [
    ((2, 6, 9), (4, 3, 3), {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}),
    ((2, 4, 8, 7), (6, 4, 3, 3), {"padding": 1}),
    ((2, 4, 9, 8), (4, 1, 3, 2), {"stride": (2, 1), "padding": (1, 0), "groups": 4}),
    ((1, 2, 5, 6, 4), (3, 2, 2, 3, 2), {"stride": (1, 2, 1), "padding": (0, 1, 1)}),
]
TRANSPOSED = [
    ((2, 4, 6), (4, 2, 3), {"stride": 3, "output_padding": 2, "groups": 2}),
    ((2, 3, 5, 4), (3, 2, 3, 3), {"stride": 2, "padding": 1, "output_padding": (1, 0)}),
    ((1, 2, 3, 4, 3), (2, 3, 2, 3, 2), {"padding": (0, 1, 0), "dilation": (2, 1, 1)}),
]
POOLS = [
    ((2, 3, 11), 3, {"stride": 2, "padding": 1}),
    ((2, 3, 8, 9), 2, {}),
    ((2, 2, 9, 10), (3, 2), {"stride": (2, 3), "padding": (1, 0), "ceil_mode": True}),
    ((1, 2, 6, 5, 6), 3, {"stride": 2, "padding": 1, "ceil_mode": True}),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("x_shape, w_shape, options", CONVOLUTIONS)
def test_conv(backend, x_shape, w_shape, options, dtype):
    x, w = make("normal", x_shape, dtype), make("normal", w_shape, dtype, seed=1)
    b = make("normal", w_shape[:1], dtype, seed=2)
    inputs = leaves(x, w, b)
    y = getattr(functional, f"conv{len(x_shape) - 2}d")(*inputs, **options)
    assert_close(gr.conv(x, w, b, **options), y.detach().numpy(), dtype)
    dy = make("normal", tuple(y.shape), dtype, seed=3)
    found = gr.conv_backward(dy, x, w, **options)
    for one, other in zip(found, gradients(y, dy, inputs), strict=True):
        assert_close(one, other, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("x_shape, w_shape, options", TRANSPOSED)
def test_conv_transpose(backend, x_shape, w_shape, options, dtype):
    x, w = make("normal", x_shape, dtype), make("normal", w_shape, dtype, seed=1)
    b = make("normal", (w_shape[1] * options.get("groups", 1),), dtype, seed=2)
    inputs = leaves(x, w, b)
    y = getattr(functional, f"conv_transpose{len(x_shape) - 2}d")(*inputs, **options)
    assert_close(gr.conv_transpose(x, w, b, **options), y.detach().numpy(), dtype)
    dy = make("normal", tuple(y.shape), dtype, seed=3)
    found = gr.conv_transpose_backward(dy, x, w, **options)
    for one, other in zip(found, gradients(y, dy, inputs), strict=True):
        assert_close(one, other, dtype)


@pytest.mark.parametrize("kind", ["normal", "ties"])
@pytest.mark.parametrize("x_shape, window, options", POOLS)
def test_max_pool(backend, x_shape, window, options, kind):
    x = make(kind, x_shape)
    (leaf,) = leaves(x)
    pool = getattr(functional, f"max_pool{len(x_shape) - 2}d")
    y, index = pool(leaf, window, **options, return_indices=True)
    found, winner = gr.max_pool(x, window, **options)
    assert_close(found, y.detach().numpy(), "float64")
    np.testing.assert_array_equal(gr.winner_to_index(winner, x_shape, window, **options), index)
    dy = make("normal", found.shape, seed=3)
    dx = gr.max_pool_backward(dy, winner, x_shape, window, **options)
    assert_close(dx, gradients(y, dy, [leaf])[0], "float64")


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("x_shape, window, options", POOLS)
def test_avg_pool(backend, x_shape, window, options, include):
    x = make("normal", x_shape)
    (leaf,) = leaves(x)
    pool = getattr(functional, f"avg_pool{len(x_shape) - 2}d")
    y = pool(leaf, window, **options, count_include_pad=include)
    options = {**options, "count_include_pad": include}
    found = gr.avg_pool(x, window, **options)
    assert_close(found, y.detach().numpy(), "float64")
    dy = make("normal", found.shape, seed=3)
    dx = gr.avg_pool_backward(dy, x_shape, window, **options)
    assert_close(dx, gradients(y, dy, [leaf])[0], "float64")


def test_max_unpool(backend):
    x = make("normal", (2, 3, 6, 8))
    y, winner = gr.max_pool(x, 2)
    index = torch.tensor(gr.winner_to_index(winner, x.shape, 2))
    expected = functional.max_unpool2d(torch.tensor(y), index, 2)
    assert_close(gr.max_unpool(y, winner, x.shape, 2), expected.numpy(), "float64")


@pytest.mark.parametrize("x_shape", [(4, 5), (5,), (2, 3, 5)])
def test_linear(backend, x_shape):
    x, w, b = make("normal", x_shape), make("normal", (3, 5), seed=1), make("normal", (3,), seed=2)
    inputs = leaves(x, w, b)
    y = functional.linear(*inputs)
    assert_close(gr.linear(x, w, b), y.detach().numpy(), "float64")
    dy = make("normal", tuple(y.shape), seed=3)
    for one, other in zip(gr.linear_backward(dy, x, w), gradients(y, dy, inputs), strict=True):
        assert_close(one, other, "float64")


def test_matmul(backend):
    a, b = make("normal", (2, 1, 3, 4)), make("normal", (5, 4, 2), seed=1)
    inputs = leaves(a, b)
    y = torch.matmul(*inputs)
    dy = make("normal", tuple(y.shape), seed=3)
    found = gr.matmul_backward(dy, a, b)
    for one, other in zip(found, gradients(y, dy, inputs), strict=True):
        assert_close(one, other, "float64")


def test_im2col_is_unfold_and_col2im_is_fold(backend):
    x, options = make("normal", (2, 3, 6, 7)), {"padding": 1, "stride": 2, "dilation": 2}
    cols = functional.unfold(torch.tensor(x), 3, **options)
    assert_close(gr.im2col(x, 3, **options), cols.numpy(), "float64")
    image = functional.fold(cols, (6, 7), 3, **options)
    assert_close(gr.col2im(cols.numpy(), x.shape, 3, **options), image.numpy(), "float64")


def test_softmax_cross_entropy(backend):
    logits, labels = make("normal", (6, 5)), np.array([0, 4, 1, 3, 2, 2])
    (leaf,) = leaves(logits)
    loss = functional.cross_entropy(leaf, torch.tensor(labels))
    found, dlogits = gr.softmax_cross_entropy(logits, labels)
    assert_close(found, loss.detach().numpy(), "float64")
    assert_close(dlogits, torch.autograd.grad(loss, [leaf])[0].numpy(), "float64")


def test_scatter_add_is_index_add(backend):
    out, src = make("normal", (4, 3)), make("normal", (6, 3), seed=1)
    index = np.array([0, 3, 3, 1, 2, 0])
    expected = torch.tensor(out).index_add(0, torch.tensor(index), torch.tensor(src))
    assert_close(gr.scatter_add(out, index, src), expected.numpy(), "float64")


NAMES = {"relu": "relu", "leaky_relu": "leaky_relu", "elu": "elu", "sigmoid": "sigmoid",
         "tanh": "tanh", "softplus": "softplus", "gelu": "gelu", "silu": "silu"}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_activations(backend, name):
    x, dy = make("normal", (40,)), make("normal", (40,), seed=1)
    (leaf,) = leaves(x)
    y = getattr(functional, NAMES[name])(leaf)
    found = gr.activate(x, name)
    assert np.abs(found - y.detach().numpy()).max() < 1e-14
    assert np.abs(gr.activate_backward(dy, name, x=x) - gradients(y, dy, [leaf])[0]).max() < 1e-14
