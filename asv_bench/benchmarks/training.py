"""One step of training: forward, loss, backward, optimiser."""

import numpy as np

import gradroute as gr

from .common import BACKENDS, DTYPES, TOLERANCE, Benchmark, relative_error, values

BATCH = 64


def lenet(dtype):
    """LeCun et al., Proceedings of the IEEE 86(11), 1998, with max-pools and ReLU."""
    nn = gr.nn
    return nn.Sequential(
        conv1=nn.Conv(1, 6, 5, padding=2), relu1=nn.Activation("relu"), pool1=nn.MaxPool(2),
        conv2=nn.Conv(6, 16, 5), relu2=nn.Activation("relu"), pool2=nn.MaxPool(2),
        flat=nn.Flatten(), fc1=nn.Linear(400, 120), relu3=nn.Activation("relu"),
        fc2=nn.Linear(120, 84), relu4=nn.Activation("relu"), fc3=nn.Linear(84, 10),
        seed=0, dtype=dtype,
    )  # fmt: skip


def cifar(dtype):
    """Two convolutions, two pools, two fully connected layers: the cifar rows of the shapes."""
    nn = gr.nn
    return nn.Sequential(
        conv1=nn.Conv(3, 32, 3, padding=1), relu1=nn.Activation("relu"), pool1=nn.MaxPool(2),
        conv2=nn.Conv(32, 64, 3, padding=1), relu2=nn.Activation("relu"), pool2=nn.MaxPool(2),
        flat=nn.Flatten(), fc1=nn.Linear(4096, 256), relu3=nn.Activation("relu"),
        fc2=nn.Linear(256, 10), seed=0, dtype=dtype,
    )  # fmt: skip


NETWORKS = {"lenet": (lenet, (BATCH, 1, 28, 28)), "cifar": (cifar, (BATCH, 3, 32, 32))}


class Training(Benchmark):
    params = (BACKENDS, DTYPES, list(NETWORKS))
    param_names = ("backend", "dtype", "network")

    def prepare(self, dtype, network):
        build, shape = NETWORKS[network]
        net, x = build(dtype), values(1, shape, dtype)
        labels = np.random.default_rng(2).integers(0, 10, BATCH)
        if self.backend == "cuda":
            net.to("cupy")
            labels = self.send(labels)
        optimiser = gr.nn.SGD(net, 0.01)

        def step():
            loss, dlogits = gr.softmax_cross_entropy(net.forward(x), labels)
            net.backward(dlogits, need_dx=False)
            optimiser.step()
            return loss

        self._net = net
        return {"step": step}

    def check(self, rest):
        """The parameters after one step, against the reference's in float64."""
        self.calls["step"]()
        got = [self.fetch(array) for array in self._net.parameters().values()]
        backend, net, self.backend = self.backend, self._net, "reference"
        with gr.config(backend="reference"):
            # the same start: parameters drawn in float32 differ from those drawn in float64
            calls = self.prepare("float64", *rest)
            fresh = NETWORKS[rest[0]][0](self.dtype).parameters()
            for name, array in self._net.parameters().items():
                array[...] = fresh[name]
            calls["step"]()
            wanted = list(self._net.parameters().values())
        self.backend, self._net = backend, net
        error = relative_error(got, wanted)
        assert error <= TOLERANCE[self.dtype], f"a step: relative error {error:.1e}"

    def time_step(self, *_):
        self.run("step")
