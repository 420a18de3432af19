"""gr.nn against PyTorch's layers and optimisers, and what it refuses."""

import ml_dtypes
import numpy as np
import pytest
import torch
from networks import filled, images, small

import gradroute as gr
from gradroute.nn import (
    SGD,
    Activation,
    Adam,
    AvgPool,
    Conv,
    ConvTranspose,
    Flatten,
    Linear,
    MaxPool,
    Sequential,
)


# ---- against PyTorch ----------------------------------------------------------------------

T = torch.nn
PAIRS = {
    "conv": (
        lambda: {"a": Conv(2, 4, 3, stride=2, padding=1, groups=2)},
        lambda: T.Sequential(T.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)),
    ),
    "conv 5x3 dilated": (
        lambda: {"a": Conv(2, 3, (2, 3), dilation=(2, 1), bias=False)},
        lambda: T.Sequential(T.Conv2d(2, 3, (2, 3), dilation=(2, 1), bias=False)),
    ),
    "conv_transpose": (
        lambda: {"a": ConvTranspose(2, 4, 3, stride=2, padding=1, output_padding=1)},
        lambda: T.Sequential(T.ConvTranspose2d(2, 4, 3, 2, 1, 1)),
    ),
    "max_pool": (
        lambda: {"a": MaxPool(3, stride=2, padding=1), "b": Conv(2, 1, 2)},
        lambda: T.Sequential(T.MaxPool2d(3, 2, 1), T.Conv2d(2, 1, 2)),
    ),
    "avg_pool": (
        lambda: {"a": AvgPool(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)},
        lambda: T.Sequential(
            T.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        ),
    ),
    "linear": (
        lambda: {"a": Linear(6, 4), "act": Activation("tanh"), "b": Linear(4, 2, bias=False)},
        lambda: T.Sequential(T.Linear(6, 4), T.Tanh(), T.Linear(4, 2, bias=False)),
    ),
    "gelu and silu": (
        lambda: {"a": Activation("gelu"), "b": Conv(2, 2, 1), "c": Activation("silu")},
        lambda: T.Sequential(T.GELU(), T.Conv2d(2, 2, 1), T.SiLU()),
    ),
    "whole network": (
        lambda: {
            "conv": Conv(2, 4, 3, padding=1), "relu": Activation("relu"), "pool": MaxPool(2),
            "flat": Flatten(), "fc": Linear(36, 5),
        },
        lambda: T.Sequential(
            T.Conv2d(2, 4, 3, padding=1), T.ReLU(), T.MaxPool2d(2), T.Flatten(), T.Linear(36, 5)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PAIRS)
def test_a_network_computes_what_torch_computes(case, backend):
    ours, theirs = PAIRS[case]
    net, peer = Sequential(**ours(), seed=3, dtype="float64"), theirs().double()
    for mine, parameter in zip(net.parameters().values(), peer.parameters(), strict=True):
        assert mine.shape == tuple(parameter.shape)
        parameter.data = torch.from_numpy(mine.copy())
    x = images("float64")
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    expected = peer(leaf)
    dy = np.random.default_rng(4).standard_normal(tuple(expected.shape))
    expected.backward(torch.from_numpy(dy))

    y, dx = net.forward(x), net.backward(dy)

    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dx, leaf.grad.numpy(), rtol=1e-10, atol=1e-12)
    for mine, parameter in zip(net.gradients().values(), peer.parameters(), strict=True):
        np.testing.assert_allclose(mine, parameter.grad.numpy(), rtol=1e-10, atol=1e-12)


def _peer_of(array):
    return T.Parameter(torch.from_numpy(array.copy()))


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (lambda net: SGD(net, 0.1), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (lambda net: SGD(net, 0.1, momentum=0), lambda p: torch.optim.SGD(p, 0.1)),
        (lambda net: Adam(net, 0.01), lambda p: torch.optim.Adam(p, 0.01)),
    ],
    ids=["sgd with momentum", "sgd", "adam"],
)
def test_an_optimiser_walks_the_path_of_torchs(ours, theirs):
    net = small(dtype="float64")
    peers = {name: _peer_of(array) for name, array in net.parameters().items()}
    optimiser, peer = ours(net), theirs(list(peers.values()))
    random = np.random.default_rng(5)
    for _ in range(12):
        for name, gradient in net.gradients().items():
            gradient[...] = random.standard_normal(gradient.shape)
            peers[name].grad = torch.from_numpy(gradient.copy())
        optimiser.step()
        peer.step()
    for name, parameter in net.parameters().items():
        np.testing.assert_allclose(parameter, peers[name].detach().numpy(), rtol=1e-10)


# ---- parameters ---------------------------------------------------------------------------


def test_one_seed_gives_one_network_in_every_dtype():
    single, again, double, other = small(7), small(7), small(7, "float64"), small(8)
    for name, array in single.parameters().items():
        assert np.array_equal(array, again.parameters()[name])
        np.testing.assert_allclose(array, double.parameters()[name], rtol=1e-6)
    assert not np.array_equal(single.parameters()["fc.w"], other.parameters()["fc.w"])


@pytest.mark.parametrize(
    "layer, fan_in",
    [
        (Conv(16, 64, 3, groups=2), 8 * 9),
        (Linear(300, 200), 300),
        (ConvTranspose(32, 64, 4, stride=2), 32 * 4),
    ],
    ids=["conv", "linear", "conv_transpose"],
)
def test_first_weights_have_he_variance_and_biases_are_zero(layer, fan_in):
    parameters = Sequential(a=layer, seed=1).parameters()
    w = parameters["a.w"]
    assert abs(w.mean()) < 4 * w.std() / np.sqrt(w.size)
    np.testing.assert_allclose(w.var(), 2 / fan_in, rtol=0.05)
    assert not parameters["a.b"].any()


def test_views_are_live_and_never_rebound():
    net = small()
    parameters, gradients = net.parameters(), net.gradients()
    assert list(parameters) == list(gradients) == ["conv.w", "conv.b", "fc.w", "fc.b"]
    before = {name: array.copy() for name, array in parameters.items()}
    optimisers = [SGD(net, 0.1), Adam(net, 0.1)]
    for _ in range(2):
        y = net.forward(images())
        net.backward(np.ones_like(y))
        for optimiser in optimisers:
            optimiser.step()
    for name, array in parameters.items():
        assert array is net.parameters()[name] and gradients[name] is net.gradients()[name]
        assert not np.array_equal(array, before[name])
    parameters["fc.w"][...] = 0
    parameters["fc.b"][...] = 3
    assert (net.forward(images()) == 3).all()


def test_a_copy_shares_no_memory():
    net = filled()
    double = net.copy("float64")
    assert double.dtype == np.float64 and not double.gradients()["fc.w"].any()
    for name, array in double.parameters().items():
        assert np.array_equal(array, net.parameters()[name])
        array[...] = 0
    assert net.parameters()["fc.w"].any()


# ---- the two passes -----------------------------------------------------------------------


def test_backward_overwrites_gradients_unless_asked_to_accumulate():
    net = small(dtype="float64")
    y = net.forward(images())
    dy = np.random.default_rng(2).standard_normal(y.shape)
    net.backward(dy)
    once = {name: array.copy() for name, array in net.gradients().items()}
    net.backward(dy)
    for name, array in net.gradients().items():
        assert np.array_equal(array, once[name])
    net.backward(dy, accumulate=True)
    for name, array in net.gradients().items():
        assert np.array_equal(array, 2 * once[name])


def test_without_need_dx_the_gradients_are_the_same_and_the_first_layers_stay_idle(monkeypatch):
    net = Sequential(pool=AvgPool(1), conv=Conv(2, 3, 3), act=Activation("tanh"), seed=0)
    y = net.forward(images())
    assert net.backward(np.ones_like(y)).shape == (3, 2, 6, 6)
    full = {name: array.copy() for name, array in net.gradients().items()}
    wanted = []
    conv_backward = gr.conv_backward
    monkeypatch.setattr(
        gr, "conv_backward", lambda *a, need, **k: wanted.append(need) or
        conv_backward(*a, need=need, **k),
    )  # fmt: skip
    monkeypatch.setattr(gr, "avg_pool_backward", lambda *a, **k: pytest.fail("not needed"))
    assert net.backward(np.ones_like(y), need_dx=False) is None
    assert wanted == [("w", "b")]
    for name, array in net.gradients().items():
        assert np.array_equal(array, full[name])


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint8", "bool", ">f4"])
def test_x_and_dy_are_cast_to_the_dtype_of_the_network(dtype):
    net = small()
    x = (images() > 0).astype(dtype)
    y = net.forward(x)
    assert y.dtype == np.float32
    assert np.array_equal(y, net.forward(x.astype("float32")))
    assert net.backward(np.ones(y.shape, dtype)).dtype == np.float32


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_a_16_bit_network_trains_with_float32_state(dtype):
    net = small(dtype=dtype)
    optimisers = [SGD(net, 0.01), Adam(net, 0.001)]
    labels = np.array([0, 3, 4])
    losses = []
    for _ in range(30):
        loss, dlogits = gr.softmax_cross_entropy(net.forward(images()), labels)
        net.backward(dlogits, need_dx=False)
        for optimiser in optimisers:
            optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert {array.dtype for array in net.parameters().values()} == {np.dtype(dtype)}
    assert {a.dtype.name for kind in optimisers[1].state.values() for a in kind.values()} == {
        "float32"
    }


def test_each_layer_keeps_only_what_backward_needs():
    net = Sequential(
        conv=Conv(2, 4, 3, padding=1), relu=Activation("relu"), pool=MaxPool(2),
        gelu=Activation("gelu"), avg=AvgPool(3), flat=Flatten(), fc=Linear(4, 5),
    )  # fmt: skip
    seen, x = {}, images()
    for name, layer in net.layers.items():
        y, kept = layer.forward(x)
        seen[name] = (x, y, kept)
        x = y
    for name in ("conv", "gelu", "fc"):
        given, _, kept = seen[name]
        assert len(kept) == 1 and kept[0] is given, f"{name} keeps x and nothing else"
    _, y, kept = seen["relu"]
    assert len(kept) == 1 and kept[0] is y
    given, y, (winner, shape) = seen["pool"]
    assert winner.dtype == np.uint8 and winner.shape == y.shape and shape == given.shape
    assert seen["avg"][2] == (seen["avg"][0].shape,)
    assert seen["flat"][2] == (seen["flat"][0].shape,)
    assert all(layer.forward(seen[n][0], False)[1] is None for n, layer in net.layers.items())


def test_an_empty_batch_passes_through():
    net = small()
    y = net.forward(images(batch=0))
    assert y.shape == (0, 5) and net.backward(y).shape == (0, 2, 6, 6)
    assert not any(array.any() for array in net.gradients().values())


def test_channels_last_is_a_layout_like_the_other():
    first = Sequential(c=Conv(2, 4, 3), p=MaxPool(2), seed=1, dtype="float64")
    last = Sequential(
        c=Conv(2, 4, 3, layout="channels_last"), p=MaxPool(2, layout="channels_last"),
        seed=1, dtype="float64",
    )  # fmt: skip
    x = images("float64")
    y, other = first.forward(x), last.forward(x.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(other.transpose(0, 3, 1, 2), y, rtol=1e-12)
    dx, dother = first.backward(y), last.backward(other)
    np.testing.assert_allclose(dother.transpose(0, 3, 1, 2), dx, rtol=1e-12, atol=1e-14)


# ---- what is refused ----------------------------------------------------------------------


def test_backward_needs_a_forward_pass_that_kept_something():
    net = small()
    with pytest.raises(gr.GradrouteError, match="forward"):
        net.backward(np.zeros((3, 5)))
    y = net.forward(images(), keep=False)
    with pytest.raises(ValueError, match="forward"):
        net.backward(y)


def test_a_dy_of_another_shape_is_refused_before_any_gradient_changes():
    net = filled()
    before = {name: array.copy() for name, array in net.gradients().items()}
    with pytest.raises(gr.GradrouteError, match=r"dy .*\(3, 5\).*\(5, 3\)"):
        net.backward(np.zeros((5, 3)))
    for name, array in net.gradients().items():
        assert np.array_equal(array, before[name])


def test_an_error_inside_a_layer_names_the_layer():
    with pytest.raises(gr.GradrouteError, match=r"layer 'conv' \(Conv\).*channels"):
        small().forward(np.zeros((1, 3, 6, 6)))
    with pytest.raises(ValueError, match=r"layer 'fc' \(Linear\)"):
        small().forward(np.zeros((1, 2, 8, 8)))


@pytest.mark.parametrize(
    "x", [[[1.0]], np.zeros((1, 2, 6, 6), complex), np.full((1, 2, 6, 6), None)],
    ids=["list", "complex", "object"],
)  # fmt: skip
def test_x_must_be_an_array_of_real_numbers(x):
    with pytest.raises(gr.GradrouteError, match="x must"):
        small().forward(x)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Conv(2, 4, 0), "window"),
        (lambda: Conv(2, 4, (3, 3, 3, 3)), "window"),
        (lambda: Conv(0, 4, 3), "in_channels"),
        (lambda: Conv(2, 4.0, 3), "out_channels"),
        (lambda: Conv(3, 4, 3, groups=2), "groups.*in_channels"),
        (lambda: Conv(2, 4, 3, stride=0), "stride"),
        (lambda: Conv(2, 4, 3, stride=(1, 1, 1)), "stride"),
        (lambda: Conv(2, 4, 3, padding="full"), "padding"),
        (lambda: Conv(2, 4, 3, dilation=-1), "dilation"),
        (lambda: Conv(2, 4, 3, layout="NHWC"), "layout"),
        (lambda: Conv(2, 4, 3, bias="no"), "bias"),
        (lambda: ConvTranspose(2, 4, 3, output_padding=-1), "output_padding"),
        (lambda: MaxPool(2, ties="middle"), "ties"),
        (lambda: MaxPool(2, nan="skip"), "nan"),
        (lambda: AvgPool(2, count_include_pad=None), "count_include_pad"),
        (lambda: Linear(True, 4), "in_features"),
        (lambda: Activation("swish"), "relu"),
        (lambda: Sequential(a=Flatten), "'a' must be a gr.nn layer"),
        (lambda: Sequential(input=Flatten()), "input"),
        (lambda: Sequential(**{"a.b": Flatten()}), "a.b"),
        (lambda: Sequential(a=Flatten(), seed=-1), "seed"),
        (lambda: Sequential(a=Flatten(), seed=1.5), "seed"),
        (lambda: Sequential(a=Flatten(), dtype="int32"), "dtype.*float32"),
        (lambda: Sequential(a=Flatten(), dtype="floaty"), "dtype.*float32"),
        (lambda: small().to("torch"), "library.*cupy"),
        (lambda: SGD(small(), -1), "lr"),
        (lambda: SGD(small(), float("nan")), "lr"),
        (lambda: SGD(small(), "fast"), "lr"),
        (lambda: SGD(small(), 0.1, momentum=1), "momentum"),
        (lambda: Adam(small(), 0.1, betas=0.9), "betas"),
    ],
)
def test_bad_options_are_refused_by_name(make, match):
    with pytest.raises(gr.GradrouteError, match=match) as refused:
        make()
    assert isinstance(refused.value, (ValueError, TypeError))


def test_a_layer_belongs_to_one_place():
    layer = Linear(2, 2)
    with pytest.raises(gr.GradrouteError, match="'b'.*already as 'a'"):
        Sequential(a=layer, b=layer)
    Sequential(a=layer)
    with pytest.raises(gr.GradrouteError, match="part of a network"):
        Sequential(a=layer)
