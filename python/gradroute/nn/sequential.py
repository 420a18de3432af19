"""Sequential: layers in a row, their parameters, and where those live."""

from __future__ import annotations

import copy
from types import MappingProxyType
from weakref import WeakSet

import numpy as np

from gradroute import dispatch
from gradroute.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    BackendError,
    GradrouteError,
)
from gradroute.options import integer

from . import weights
from .base import Layer

_DTYPES = ("float32", "float64", "float16", "bfloat16")


def _dtype(dtype) -> np.dtype:
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise ArgumentTypeError(f"dtype must be one of {list(_DTYPES)}, got {dtype!r}") from None
    if found.name not in _DTYPES or not found.isnative:
        raise ArgumentTypeError(f"dtype must be one of {list(_DTYPES)}, got {dtype!r}")
    return found


class Sequential:
    """Layers in a row, named by keyword.

    Parameters are drawn from ``seed`` (any non-negative integer): the same seed gives the same
    network.  x and dy are cast to ``dtype`` ("float32", "float64", "float16", or bfloat16 as a
    dtype object).  After `to("cupy")` a NumPy x or dy is copied to the GPU; results stay there.

    Layers keep references to the arrays of the last forward pass, so do not write to x or y
    before its backward pass.  One network serves one thread at a time.  A network can be pickled:
    what it keeps of a call stays behind.

    Raises ArgumentTypeError or ArgumentValueError for layers or options that cannot be used; an
    error inside a layer names that layer.

    >>> import numpy as np, gradroute as gr
    >>> net = gr.nn.Sequential(conv1=gr.nn.Conv(1, 8, 3, padding=1),
    ...                        relu1=gr.nn.Activation("relu"), pool1=gr.nn.MaxPool(2),
    ...                        flat=gr.nn.Flatten(), fc=gr.nn.Linear(128, 10), seed=0)
    >>> logits = net.forward(np.ones((5, 1, 8, 8)))
    >>> logits.shape, logits.dtype.name
    ((5, 10), 'float32')
    >>> loss, dlogits = gr.softmax_cross_entropy(logits, np.arange(5))
    >>> net.backward(dlogits).shape
    (5, 1, 8, 8)
    >>> list(net.gradients())
    ['conv1.w', 'conv1.b', 'fc.w', 'fc.b']
    """

    def __init__(self, /, *, seed=0, dtype="float32", **layers):
        self.dtype = _dtype(dtype)
        self._library = "numpy"
        self._layers = _checked(layers)
        self._optimisers = WeakSet()
        random = np.random.default_rng(integer(seed, "seed", at_least=0))
        for layer in layers.values():
            layer.initialise(random, self.dtype)
        self._reset()

    def _reset(self):
        """Gradients of zero for the parameters as they are now, and nothing kept of a call."""
        self._gradients = {
            name: np.zeros_like(array) for name, array in self.parameters().items()
        }
        self._forget()

    def _forget(self):
        self._kept = None
        self._y_shape = None
        self._dy = None

    @property
    def layers(self):
        """{name: layer} in order; read-only."""
        return MappingProxyType(self._layers)

    # ---- the two passes -------------------------------------------------------------------

    def forward(self, x, *, keep=True):
        """y of the last layer.  keep=False keeps nothing, for a pass that no backward follows."""
        self._forget()
        y, kept = self.cast(x, "x"), {}
        for name, layer in self._layers.items():
            with named(name, layer):
                y, kept[name] = layer.forward(y, keep)
        if keep:
            self._kept, self._y_shape = kept, y.shape
        return y

    def backward(self, dy, need_dx=True, accumulate=False):
        """dx of the last forward pass, or None with need_dx=False, which saves its computation.

        Overwrites the gradients, or adds to them with accumulate=True.  May be called again for
        the same forward pass.  Raises ArgumentValueError before a forward pass, and for a dy that
        does not have the shape of y.
        """
        if self._kept is None:
            raise ArgumentValueError("backward needs a forward pass (with keep=True) before it")
        dy = self.cast(dy, "dy")
        if dy.shape != self._y_shape:
            raise ArgumentValueError(
                f"dy must have the shape of y, {self._y_shape}, got {dy.shape}"
            )
        self._dy = dy
        waiting = sum(bool(layer.parameters) for layer in self._layers.values())
        for name, layer in reversed(self._layers.items()):
            if not (need_dx or waiting):
                break
            waiting -= bool(layer.parameters)
            with named(name, layer):
                dy, new = layer.backward(dy, self._kept[name], bool(need_dx or waiting))
            for part, array in new.items():
                gradient = self._gradients[f"{name}.{part}"]
                gradient[...] = gradient + array if accumulate else array
        return dy if need_dx else None

    @property
    def last_x(self):
        """x of the last forward pass if the first layer kept it (with weights it does), or None."""
        for name, layer in self._layers.items():
            return self._kept[name][0] if self._kept and layer.parameters else None

    @property
    def last_dy(self):
        """dy of the last backward pass, or None where none followed the last forward pass."""
        return self._dy

    def cast(self, array, name):
        """The array in the network's dtype and library."""
        library = dispatch.library_of(array, name)
        if array.dtype.kind in "cOSUMmV" and array.dtype.name != "bfloat16":
            raise ArgumentTypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
        if library != self._library:
            if library == "cupy":
                raise ArgumentTypeError(
                    f'{name} is a CuPy array and the parameters are NumPy arrays: net.to("cupy"), '
                    "or copy it to the host yourself with cupy.asnumpy"
                )
            return self._backend().to_device(np.asarray(array, dtype=self.dtype))
        return array.astype(self.dtype, copy=False)

    # ---- parameters -----------------------------------------------------------------------

    def parameters(self) -> dict:
        """{"conv1.w": array, ...}: the arrays themselves; writing to them changes the network."""
        return {
            f"{name}.{part}": array
            for name, layer in self._layers.items()
            for part, array in layer.parameters.items()
        }

    def gradients(self) -> dict:
        """{"conv1.w": array, ...}: the arrays that backward fills; zeros before the first."""
        return dict(self._gradients)

    def register(self, optimiser) -> None:
        """Makes `to` call ``optimiser.move`` as well."""
        self._optimisers.add(optimiser)

    @staticmethod
    def _backend():
        return dispatch.load("cuda")

    def to(self, library):
        """Moves parameters, gradients and optimiser state to "cupy" or "numpy" arrays.

        Returns self.  A forward pass is needed before the next backward.  Raises BackendError where
        there is no GPU to move to, saying what is missing.
        """
        if library not in ("cupy", "numpy"):
            raise ArgumentValueError(f'library must be "cupy" or "numpy", got {library!r}')
        if library == self._library:
            return self
        backend = self._backend()
        move = backend.to_device if library == "cupy" else backend.to_host
        moved = {name: move(array) for name, array in self.parameters().items()}
        gradients = {name: move(array) for name, array in self._gradients.items()}
        for name, layer in self._layers.items():  # all of it fitted: only now is anything changed
            layer.parameters = {part: moved[f"{name}.{part}"] for part in layer.parameters}
        self._gradients = gradients
        for optimiser in self._optimisers:
            optimiser.move(move)
        self._library = library
        self._forget()
        return self

    def copy(self, dtype=None) -> Sequential:
        """A network of its own with the same layers and parameters, cast to ``dtype`` if given."""
        new = copy.copy(self)
        new.dtype = self.dtype if dtype is None else _dtype(dtype)
        new._layers = {name: copy.copy(layer) for name, layer in self._layers.items()}
        for layer in new._layers.values():
            layer.parameters = {k: a.astype(new.dtype) for k, a in layer.parameters.items()}
        new._reset()
        return new

    def __getstate__(self):
        """For pickle and the copy module: what is kept of a call stays behind, and optimisers."""
        return {name: value for name, value in self.__dict__.items()
                if name not in ("_optimisers", "_kept", "_y_shape", "_dy")}  # fmt: skip

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._forget()
        self._optimisers = WeakSet()  # where one comes too, it registers itself

    # ---- files ----------------------------------------------------------------------------

    def _on_host(self, array):
        return array if self._library == "numpy" else self._backend().to_host(array)

    def save(self, path) -> None:
        """Writes the parameters to a .npz file, whole or not at all.

        Raises OSError where the file cannot be written.
        """
        weights.write(path, {name: self._on_host(a) for name, a in self.parameters().items()})

    def load(self, path) -> None:
        """Reads parameters that `save` wrote into the arrays of this network, cast to its dtype.

        Raises ArgumentValueError for a file that is no .npz file or does not fit, with the names
        that differ, before any parameter is changed; never unpickles.
        """
        parameters = self.parameters()
        found = weights.read(path)
        weights.check_fit(path, found, {name: array.shape for name, array in parameters.items()})
        for name, parameter in parameters.items():
            new = found[name].astype(self.dtype)
            parameter[...] = new if self._library == "numpy" else self._backend().to_device(new)

    def __repr__(self):
        lines = [f"    {name}={layer!r}," for name, layer in self._layers.items()]
        return "\n".join(["Sequential(", *lines, f"    dtype={self.dtype.name!r},", ")"])


def _checked(layers: dict) -> dict:
    """The layers under names that can be used, each of them an object of its own."""
    seen = {}
    for name, layer in layers.items():
        if not isinstance(layer, Layer):
            raise ArgumentTypeError(f"layer {name!r} must be a gr.nn layer, got {layer!r}")
        if name == "input" or not name or "." in name:
            raise ArgumentValueError(
                f'a layer cannot be called {name!r}: "input" is the network\'s own input, and '
                'dots separate a layer from its parameter, as in "conv1.w"'
            )
        if id(layer) in seen or layer.parameters:
            where = f" as {seen[id(layer)]!r}" if id(layer) in seen else ""
            raise ArgumentValueError(f"layer {name!r} is part of a network already{where}")
        seen[id(layer)] = name
    return dict(layers)


class named:
    """A context in which the package's own errors say which layer they came from."""

    def __init__(self, name, layer):
        self._where = f"layer {name!r} ({type(layer).__name__})"

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, GradrouteError) and not isinstance(error, BackendError):
            raise type(error)(f"{self._where}: {error}") from error
        return False
