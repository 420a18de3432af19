"""Small networks and images that the tests of gr.nn share."""

import numpy as np

from gradroute.nn import Activation, Conv, Flatten, Linear, MaxPool, Sequential


def small(seed=0, dtype="float32", **more):
    return Sequential(
        conv=Conv(2, 4, 3, padding=1), relu=Activation("relu"), pool=MaxPool(2), flat=Flatten(),
        fc=Linear(4 * 3 * 3, 5), seed=seed, dtype=dtype, **more,
    )  # fmt: skip


def images(dtype="float32", batch=3, seed=1):
    return np.random.default_rng(seed).standard_normal((batch, 2, 6, 6)).astype(dtype)


def filled(seed=0, dtype="float32"):
    """A network with gradients in it."""
    net = small(seed, dtype)
    y = net.forward(images(dtype))
    net.backward(np.random.default_rng(2).standard_normal(y.shape))
    return net
