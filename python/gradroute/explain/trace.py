"""One sample's way through a network and back, by the network's own backend, and nothing else.

A layer remembers nothing of a call, so the network's own kept arrays and gradients stay as they
are: explaining between a forward and a backward pass disturbs neither.
"""

from __future__ import annotations

import math

import numpy as np

import gradroute as gr
from gradroute import dispatch
from gradroute.errors import ArgumentTypeError, ArgumentValueError, IndexRangeError
from gradroute.options import integer

INPUT = "input"
ELEMENT_WISE = ("activate", "flatten")


def host(array) -> np.ndarray:
    """The array as a NumPy array; a CuPy array is copied, since looking at it was asked for."""
    if dispatch.library_of(array, "array") == "cupy":
        return dispatch.load("cuda").to_host(array)
    return array


def reals(array) -> np.ndarray:
    """The array on the host in float64, exactly."""
    return host(array).astype(np.float64)


class Trace:
    """Values and gradients of one sample at every layer.

    ``names[i]`` is "input" or a layer's name, ``values[i]`` its output (1, ...), ``kept[i]`` what
    that layer kept for its backward, ``gradients[i]`` the gradient of its output.  ``dy`` is the
    gradient at the network's output.
    """

    def __init__(self, net, x=None, *, dy=None, labels=None, sample=0, forward_only=False):
        self.net = check_network(net)
        self.layers = list(net.layers.values())
        self.names = [INPUT, *net.layers]
        if x is None and dy is None and labels is None:
            dy = net.last_dy
        x = _given_x(net, x)
        self.sample = _sample(sample, len(x))
        part = slice(self.sample, self.sample + 1)
        self.values, self.kept = [net.cast(x[part], "x")], [None]
        self._forward()
        self.labels, self.batch = None, len(x)
        if not forward_only:
            self.dy = self._gradient_at_the_end(dy, labels, part)
            self._backward()

    def _forward(self):
        from gradroute.nn.sequential import named

        for name, layer in self.net.layers.items():
            with named(name, layer):
                y, kept = layer.forward(self.values[-1])
            self.values.append(y)
            self.kept.append(kept)

    def _gradient_at_the_end(self, dy, labels, part):
        y = self.values[-1]
        if (dy is None) == (labels is None):
            raise ArgumentValueError(
                "give either dy= (the gradient at the network's output, of its shape) or labels= "
                "(the gradient is then that of the mean cross-entropy); without x=, dy and labels "
                "the gradient is that of the network's last backward pass"
            )
        if dy is not None:
            wanted = (self.batch, *y.shape[1:])
            if getattr(dy, "shape", wanted) != wanted:
                raise ArgumentValueError(
                    f"dy must have the shape of the network's output, {wanted}, got {dy.shape}"
                )
            dispatch.library_of(dy, "dy")
            return self.net.cast(dy[part], "dy")
        if np.shape(labels) != (self.batch,):
            raise ArgumentValueError(
                f"labels must hold one integer per sample, shape ({self.batch},), got "
                f"{np.shape(labels)}"
            )
        marks, classes = np.asarray(host(labels)), y.shape[-1]
        wrong = (marks < 0) | (marks >= classes) if marks.dtype.kind in "iu" else np.zeros(1)
        if wrong.any():  # also of a sample that is not the one explained: it is part of the mean
            raise IndexRangeError(
                f"labels[{int(wrong.argmax())}] is out of range: the network's output has "
                f"{classes} classes"
            )
        label = labels[part]
        if type(y) is not np.ndarray and dispatch.library_of(label, "labels") == "numpy":
            label = dispatch.load("cuda").to_device(label)
        _, dlogits = gr.softmax_cross_entropy(y, label)
        self.labels = int(host(label)[0])
        return dlogits / self.batch  # the other samples enter through the mean only

    def _backward(self):
        from gradroute.nn.sequential import named

        gradients = [self.dy]
        for name, layer, kept in zip(
            reversed(self.net.layers), reversed(self.layers), reversed(self.kept)
        ):
            with named(name, layer):
                gradients.append(layer.backward(gradients[-1], kept)[0])
        self.gradients = gradients[::-1]

    # ---- looking things up ----------------------------------------------------------------

    def index(self, layer) -> int:
        """The position of a layer's name in ``names``."""
        if not isinstance(layer, str):
            raise ArgumentTypeError(f"layer must be a name, got {layer!r}; {self.choices()}")
        if layer not in self.names:
            raise ArgumentValueError(f"there is no layer {layer!r}; {self.choices()}")
        return self.names.index(layer)

    def choices(self) -> str:
        """The layers one can name, with the units that each has."""
        units = [f"{name} {self.shape(i)}" for i, name in enumerate(self.names)]
        return "the layers and their units are " + ", ".join(units)

    def shape(self, index) -> tuple[int, ...]:
        """The shape of one sample at this layer: what a unit is an index into."""
        return tuple(self.values[index].shape[1:])

    def unit(self, index, unit) -> tuple[int, ...]:
        """The unit as a tuple of ints inside shape(index)."""
        name, shape = self.names[index], self.shape(index)
        where = f"layer {name!r} has units of shape {shape}"
        if isinstance(unit, (str, bytes)):
            raise ArgumentTypeError(f"unit must be a tuple of integers, got {unit!r}; {where}")
        items = tuple(unit) if np.ndim(unit) else (unit,)
        if len(items) != len(shape):
            raise ArgumentValueError(
                f"a unit of layer {name!r} has {len(shape)} indices, got {unit!r}; {where}"
            )
        for axis, (item, size) in enumerate(zip(items, shape)):
            if integer(item, "unit", at_least=0) >= size:
                raise IndexRangeError(
                    f"unit {unit!r} is outside layer {name!r}: index {axis} goes from 0 to "
                    f"{size - 1}; {where}"
                )
        return tuple(int(item) for item in items)

    def flat(self, index, unit) -> int:
        return int(np.ravel_multi_index(unit, self.shape(index)))

    def unflat(self, index, flat) -> tuple[int, ...]:
        return tuple(int(i) for i in np.unravel_index(flat, self.shape(index)))

    def label(self, index, unit) -> str:
        """A neuron's name: pool1[0,3,2]."""
        return f"{self.names[index]}[{','.join(map(str, unit))}]"

    def after(self, index) -> int:
        """The first position at or behind ``index`` whose layer is not element-wise.

        ``layers[i]`` makes ``values[i + 1]`` from ``values[i]``; len(layers) means: none is left.
        """
        while index < len(self.layers) and self.layers[index].kind in ELEMENT_WISE:
            index += 1
        return index

    def slopes(self, first, last) -> np.ndarray:
        """The product of the slopes of layers first..last-1, flat, in float64.

        Each slope is what the layer's own backward makes of a gradient of 1.
        """
        size = math.prod(self.values[first].shape)
        product = np.ones(size)
        for index in range(first, last):
            if self.layers[index].kind == "flatten":
                continue
            y = self.values[index + 1]
            ones = (y * 0).astype(y.dtype)
            ones[...] = 1
            slope, _ = self.layers[index].backward(ones, self.kept[index + 1])
            product *= reals(slope).reshape(-1)
        return product


def check_network(net):
    from gradroute.nn import Sequential

    if not isinstance(net, Sequential):
        raise ArgumentTypeError(f"net must be a gr.nn.Sequential, got {type(net).__name__}")
    return net


def check_weights(net) -> None:
    """Refuses a network in which there is nothing to weigh."""
    if not net.parameters():
        there = ", ".join(f"{n} ({type(layer).__name__})" for n, layer in net.layers.items())
        raise ArgumentValueError(
            "the network has no layer with weights, so no gradient is weighed in it; it needs a "
            f"Linear, Conv or ConvTranspose, and has {there or 'no layers at all'}"
        )


def _given_x(net, x):
    if x is not None:
        dispatch.library_of(x, "x")
        if x.ndim < 1 or len(x) < 1:
            raise ArgumentValueError(f"x must hold at least one sample, got shape {x.shape}")
        return x
    if net.last_x is None:
        raise ArgumentValueError(
            "give x=, the network's input: it has kept none from a forward pass"
        )
    return net.last_x


def _sample(sample, count) -> int:
    if integer(sample, "sample", at_least=0) >= count:
        raise IndexRangeError(f"sample {sample} is outside x: choose 0 to {count - 1}")
    return int(sample)
