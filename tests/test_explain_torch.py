"""gr.explain beside torch autograd: the same networks, every layer, neurons of every kind.

torch is asked for what each row claims: the gradient at the consumer, and the derivative of that
consumer with respect to the neuron.
"""

import numpy as np
import pytest

import gradroute as gr

torch = pytest.importorskip("torch")
F = torch.nn.functional

Conv, ConvTranspose, Linear = gr.nn.Conv, gr.nn.ConvTranspose, gr.nn.Linear
MaxPool, AvgPool, Activation, Flatten = (
    gr.nn.MaxPool, gr.nn.AvgPool, gr.nn.Activation, gr.nn.Flatten,
)  # fmt: skip


def _networks():
    """name -> (x shape, layers)"""
    last = {"layout": "channels_last"}
    return {
        "pool to conv to linear": ((2, 2, 8, 9), {
            "conv1": Conv(2, 4, 3, padding=1), "relu1": Activation("relu"), "pool1": MaxPool(2),
            "conv2": Conv(4, 6, 3, padding=1, stride=2, groups=2), "gelu2": Activation("gelu"),
            "flat": Flatten(), "fc": Linear(24, 5)}),
        "dilation and average": ((2, 3, 9, 8), {
            "conv1": Conv(3, 4, (2, 3), dilation=(3, 2), padding=(1, 2), bias=False),
            "silu1": Activation("silu"), "pool1": AvgPool(3, stride=2, padding=1),
            "flat": Flatten(), "tanh2": Activation("tanh"), "fc1": Linear(4 * 4 * 4, 6),
            "sigmoid": Activation("sigmoid"), "fc2": Linear(6, 3)}),
        "transposed and overlapping": ((1, 4, 3, 4), {
            "up": ConvTranspose(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
            "leaky": Activation("leaky_relu"), "pool": MaxPool(3, stride=1),
            "conv": Conv(6, 2, 2)}),
        "dilated max-pool with padding": ((1, 2, 7, 7), {
            "conv1": Conv(2, 2, 1), "pool": MaxPool(3, stride=2, dilation=2, padding=1),
            "elu": Activation("elu"), "up": ConvTranspose(2, 3, 2, dilation=2)}),
        "1-D": ((2, 2, 12), {
            "conv": Conv(2, 3, (3,), stride=2), "plus": Activation("softplus"),
            "pool": MaxPool((2,), stride=1), "fc": Linear(4, 3), "relu": Activation("relu")}),
        "3-D": ((1, 2, 4, 5, 4), {
            "conv": Conv(2, 2, (2, 3, 3), padding=(0, 1, 1)), "silu": Activation("silu"),
            "pool": AvgPool((2, 2, 2), stride=1, padding=1, count_include_pad=False),
            "top": MaxPool((2, 2, 2)), "flat": Flatten(), "fc": Linear(2 * 2 * 3 * 2, 3)}),
        "channels last": ((2, 8, 7, 2), {
            "conv1": Conv(2, 4, 3, padding=1, **last), "relu1": Activation("relu"),
            "pool1": MaxPool(3, stride=2, **last), "conv2": Conv(4, 4, 2, groups=2, **last),
            "avg": AvgPool(2, stride=1, **last), "flat": Flatten(), "fc": Linear(4, 3)}),
        "ends in an activation": ((3, 4), {
            "fc": Linear(4, 5), "gelu": Activation("gelu"), "silu": Activation("silu")}),
    }  # fmt: skip


NETWORKS = list(_networks())


class Twin:
    """The same network in torch: ``tensors`` and ``gradients`` hold each layer's output."""

    def __init__(self, net, x, dy=None, labels=None):
        value = torch.tensor(x, requires_grad=True)
        self.tensors = {"input": value}
        for name, layer in net.layers.items():
            value = _apply(layer, value)
            self.tensors[name] = value
        if labels is None:
            loss = (value * torch.tensor(dy)).sum()
        else:
            loss = F.cross_entropy(value, torch.tensor(labels))
        found = torch.autograd.grad(loss, list(self.tensors.values()), retain_graph=True)
        self.gradients = dict(zip(self.tensors, found))

    def gradient(self, layer, sample, unit):
        return self.gradients[layer][(sample, *unit)].item()

    def derivative(self, consumer, at, neuron, sample, unit):
        """d consumer[at] / d neuron[unit]."""
        output = self.tensors[consumer][(sample, *at)]
        found = torch.autograd.grad(output, self.tensors[neuron], retain_graph=True)
        return found[0][(sample, *unit)].item()


def _apply(layer, x):
    if layer.kind == "flatten":
        return x.flatten(1)
    if layer.kind == "activate":
        name = {"leaky_relu": lambda v: F.leaky_relu(v, 0.01), "tanh": torch.tanh}
        return name.get(layer.name, getattr(F, layer.name, None))(x)
    if layer.kind == "linear":
        w, b = (torch.tensor(a) for a in layer.parameters.values())
        return F.linear(x, w, b)
    options = dict(layer.options)
    last = options.pop("layout") == "channels_last"
    x = x.movedim(-1, 1) if last else x
    axes = x.ndim - 2
    if layer.kind in ("conv", "conv_transpose"):
        function = getattr(F, f"{layer.kind}{axes}d")
        b = layer.parameters.get("b")
        b = None if b is None else torch.tensor(b)
        y = function(x, torch.tensor(layer.parameters["w"]), b, **options)
    elif layer.kind == "max_pool":
        options = {k: v for k, v in options.items() if k not in ("ties", "nan")}
        y = getattr(F, f"max_pool{axes}d")(x, layer.window, **options)
    else:
        assert options.pop("dilation") == 1
        y = getattr(F, f"avg_pool{axes}d")(x, layer.window, **options)
    return y.movedim(1, -1) if last else y


def _case(name, dtype="float64", labels=False):
    shape, layers = _networks()[name]
    net = gr.nn.Sequential(**layers, seed=3, dtype=dtype)
    random = np.random.default_rng(5)
    x = random.standard_normal(shape).astype(dtype)
    y = net.forward(x, keep=False)
    if labels:
        return net, x, {"labels": random.integers(0, y.shape[1], len(x))}
    return net, x, {"dy": random.standard_normal(y.shape).astype(dtype)}


def _neurons(net, twin):
    """(layer, unit): the two far corners and some in between, of every layer."""
    random = np.random.default_rng(7)
    for layer, tensor in twin.tensors.items():
        shape = tuple(tensor.shape[1:])
        picked = {0, int(np.prod(shape)) - 1, *random.integers(0, np.prod(shape), 6).tolist()}
        for flat in sorted(picked):
            yield layer, tuple(int(i) for i in np.unravel_index(flat, shape))


@pytest.mark.parametrize("name", NETWORKS)
def test_sum_kernel_and_nudge_are_torchs_gradient(name, backend):
    net, x, end = _case(name)
    twin = Twin(net, x, **end)
    sample = len(x) - 1
    for layer, unit in _neurons(net, twin):
        e = gr.explain(net, layer, unit, x=x, sample=sample, **end)
        expected = twin.gradient(layer, sample, unit)
        assert e.total == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert e.kernel == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert e.nudge == pytest.approx(expected, rel=1e-6, abs=1e-8)
        assert [check.status for check in e.checks] == ["ok", "ok"]
        assert e.value == pytest.approx(twin.tensors[layer][(sample, *unit)].item())


@pytest.mark.parametrize("name", NETWORKS)
def test_each_row_is_the_consumers_gradient_times_its_derivative(name):
    net, x, end = _case(name)
    twin = Twin(net, x, **end)
    with gr.config(backend="reference"):
        for layer, unit in _neurons(net, twin):
            e = gr.explain(net, layer, unit, x=x, **end)
            terms = e.terms
            np.testing.assert_array_equal(
                terms["product"], terms["upstream"] * terms["slope"] * terms["weight"]
            )
            if e.reader is None:
                continue
            assert len(set(map(tuple, e.units.tolist()))) == len(e.units)
            for at, product in zip(map(tuple, e.units.tolist()), terms["product"]):
                derivative = twin.derivative(e.reader, at, layer, 0, unit)
                expected = twin.gradient(e.reader, 0, at) * derivative
                assert product == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_consumer_that_torch_finds_has_a_row(name):
    net, x, end = _case(name)
    twin = Twin(net, x, **end)
    random = np.random.default_rng(9)
    neurons = list(_neurons(net, twin))
    with gr.config(backend="reference"):
        for layer, unit in [neurons[i] for i in random.integers(0, len(neurons), 6)]:
            e = gr.explain(net, layer, unit, x=x, **end)
            if e.reader is None:
                continue
            output, neuron = twin.tensors[e.reader], twin.tensors[layer]
            # the reverse of the reverse: d(sum of output*v)/d neuron, as a function of v, is linear
            v = torch.zeros_like(output, requires_grad=True)
            (back,) = torch.autograd.grad(output, neuron, v, create_graph=True)
            (column,) = torch.autograd.grad(back[(0, *unit)], v)
            found = {tuple(at) for at in np.argwhere(column[0].numpy() != 0).tolist()}
            before = terms_before(net, e, twin)
            listed = set(map(tuple, e.units.tolist())) if before else set()
            assert found == listed


def terms_before(net, e, twin):
    """Is the slope between the neuron and its consumer other than 0?"""
    names = ["input", *net.layers]
    slope, index = 1.0, names.index(e.layer)
    while net.layers[names[index + 1]].kind in ("activate", "flatten"):
        before, after = twin.tensors[names[index]], twin.tensors[names[index + 1]]
        flat = int(np.ravel_multi_index(e.unit, twin.tensors[e.layer].shape[1:]))
        (found,) = torch.autograd.grad(after.sum(), before, retain_graph=True)
        slope *= found[0].reshape(-1)[flat].item()
        index += 1
    return slope


def test_upstream_is_the_gradient_behind_the_consumers_activation():
    net, x, end = _case("pool to conv to linear")
    twin = Twin(net, x, **end)
    with gr.config(backend="reference"):
        e = gr.explain(net, "pool1", (1, 1, 2), x=x, **end)
    for at, row in zip(map(tuple, e.units.tolist()), e.terms):
        assert row["upstream"] == pytest.approx(twin.gradient("gelu2", 0, at), rel=1e-12)
        before = twin.gradient("conv2", 0, at)
        assert row["upstream"] * row["slope"] == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_labels_mean_the_mean_cross_entropy_over_the_batch(backend, dtype):
    net, x, end = _case("pool to conv to linear", dtype, labels=True)
    twin = Twin(net, x, **end)
    close = {"rel": 1e-4, "abs": 1e-7} if dtype == "float32" else {"rel": 1e-9, "abs": 1e-12}
    for layer, unit in _neurons(net, twin):
        for sample in range(len(x)):
            e = gr.explain(net, layer, unit, x=x, sample=sample, **end)
            assert e.total == pytest.approx(twin.gradient(layer, sample, unit), **close)
            assert e.ok, e.text(width=100)
