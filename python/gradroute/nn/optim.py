"""Optimisers: they change a network's parameters in place and never rebind an array."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from gradroute.errors import ArgumentTypeError, ArgumentValueError


def _number(value, name, *, below=math.inf) -> float:
    if isinstance(value, (bool, str, bytes)) or np.ndim(value):
        raise ArgumentTypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ArgumentTypeError(f"{name} must be a number, got {value!r}") from None
    if not 0.0 <= number < below:  # also refuses NaN
        raise ArgumentValueError(f"{name} must be at least 0 and below {below}, got {value!r}")
    return number


class Optimiser(ABC):
    """Base: ``state`` holds one dict a kind of state, {parameter name: array}.

    ``lr`` may be assigned between steps.  For 16-bit networks the state is float32 and a step is
    computed in float32 and rounded once.  `Sequential.to` moves the state with the network.
    """

    def __init__(self, net, lr, *kinds):
        self.net = net
        self.lr = lr
        parameters = net.parameters()
        self.state = {
            kind: {name: _zeros_for(array) for name, array in parameters.items()} for kind in kinds
        }
        net.register(self)

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.net.register(self)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value):
        self._lr = _number(value, "lr")

    def move(self, to_library) -> None:
        """Applies ``to_library`` to every array of the state."""
        for arrays in self.state.values():
            for name, array in arrays.items():
                arrays[name] = to_library(array)

    def step(self) -> None:
        """One step along the gradients that the network holds now."""
        gradients = self.net.gradients()
        for name, parameter in self.net.parameters().items():
            # assigning through [...] rounds once where the state is wider than the parameter
            parameter[...] = parameter - self._change(name, gradients[name])

    @abstractmethod
    def _change(self, name, gradient):
        """What to take off one parameter; updates the state."""


def _zeros_for(parameter):
    """Zeros of the parameter's shape and library, in float32 where it has 16 bits."""
    dtype = np.float32 if parameter.dtype.itemsize == 2 else parameter.dtype
    return np.zeros_like(parameter, dtype=dtype)


class SGD(Optimiser):
    """Gradient descent with momentum: v = momentum * v + dw, w -= lr * v.

    Polyak, Some methods of speeding up the convergence of iteration methods, 1964, in the form
    of Sutskever et al., On the importance of initialization and momentum, 2013, with lr outside v.

    >>> import gradroute as gr
    >>> net = gr.nn.Sequential(fc=gr.nn.Linear(2, 1, bias=False), seed=0)
    >>> w = net.parameters()["fc.w"]
    >>> before = w.copy()
    >>> net.gradients()["fc.w"][...] = 1.0
    >>> gr.nn.SGD(net, 0.5).step()
    >>> (before - w).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, net, lr, momentum=0.9):
        self.momentum = _number(momentum, "momentum", below=1.0)
        super().__init__(net, lr, *(("v",) if self.momentum else ()))

    def _change(self, name, gradient):
        if not self.momentum:
            return self.lr * gradient
        v = self.state["v"][name]
        v *= self.momentum
        v += gradient
        return self.lr * v


class Adam(Optimiser):
    """Steps of about lr in every parameter, whatever the scale of its gradient.

    Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, algorithm 1.

    >>> import gradroute as gr
    >>> net = gr.nn.Sequential(fc=gr.nn.Linear(2, 1, bias=False), seed=0)
    >>> w = net.parameters()["fc.w"]
    >>> before = w.copy()
    >>> net.gradients()["fc.w"][...] = 100.0
    >>> gr.nn.Adam(net, 0.5).step()
    >>> (before - w).round(6).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, net, lr, betas=(0.9, 0.999), eps=1e-8):
        if np.ndim(betas) != 1 or len(betas) != 2:
            raise ArgumentValueError(f"betas must be two numbers, got {betas!r}")
        self.betas = tuple(_number(beta, "betas", below=1.0) for beta in betas)
        self.eps = _number(eps, "eps")
        self.steps = 0
        super().__init__(net, lr, "mean", "square")

    def step(self):
        self.steps += 1
        super().step()

    def _change(self, name, gradient):
        mean, square = self.state["mean"][name], self.state["square"][name]
        for average, beta, new in zip(
            (mean, square), self.betas, (gradient, gradient.astype(square.dtype) ** 2)
        ):
            average *= beta
            average += (1.0 - beta) * new
        first, second = (1.0 - beta**self.steps for beta in self.betas)
        return (self.lr / first) * mean / ((square / second) ** 0.5 + self.eps)
