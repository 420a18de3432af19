"""What every layer is, and the checks that their options share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from gradroute.errors import ArgumentTypeError, ArgumentValueError


class Layer(ABC):
    """Base of all layers.

    ``kind`` is the name of the gradroute function that does the work ("flatten" aside),
    ``options`` its keyword arguments, and ``parameters`` maps "w" and "b" to arrays once the layer
    is part of a network.
    """

    kind = ""

    def __init__(self, *shown, **options):
        self._shown = shown  # the positional arguments, for repr
        self.options = options
        self.parameters = {}

    def shapes(self) -> dict:
        """{"w": shape, "b": shape} of the parameters this layer has."""
        return {}

    @property
    def fan_in(self) -> float:
        """How many terms one output sums up; sets the scale of the first weights."""
        return 1.0

    def initialise(self, random: np.random.Generator, dtype) -> None:
        """Weights of variance 2 / fan_in, biases 0.

        He et al., Delving Deep into Rectifiers, 2015, section 2.2.
        """
        for name, shape in self.shapes().items():
            if name == "b":
                values = np.zeros(shape)
            else:
                values = random.standard_normal(shape) * math.sqrt(2.0 / self.fan_in)
            self.parameters[name] = values.astype(dtype)

    @abstractmethod
    def forward(self, x, keep: bool = True):
        """(y, kept); with keep=False kept is None, for a pass that no backward follows."""

    @abstractmethod
    def backward(self, dy, kept, need_dx: bool = True):
        """(dx or None, {"w": dw, "b": db}) for the call that ``kept`` came from."""

    def __repr__(self):
        shown = [repr(value) for value in self._shown]
        shown += [f"{name}={value!r}" for name, value in self.options.items()]
        return f"{type(self).__name__}({', '.join(shown)})"


def choice(value, name, choices):
    if not isinstance(value, str) or value not in choices:
        raise ArgumentValueError(f"{name} must be one of {list(choices)}, got {value!r}")
    return value


def flag(value, name) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)
