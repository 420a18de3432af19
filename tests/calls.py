"""One ordinary call of every public function, for the rules that hold for all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from values import make, named

import gradroute as gr

_POOL = {"stride": 2, "padding": 1}
_IMAGE = (2, 3, 7, 8)
_WINDOW = (3, 3)


@dataclass(frozen=True)
class PublicCall:
    """``function(*arrays, **options)``; the arrays by argument name, in order."""

    name: str
    function: Callable
    floats: dict  # argument -> shape
    integers: dict  # argument -> array
    rest: tuple = ()  # positional arguments behind the arrays
    options: tuple = ()

    def __str__(self):
        return self.name

    def arrays(self, dtype="float64", seed=0):
        """Fresh arrays by argument name, in the order of the signature."""
        floats = {
            name: make("normal", shape, dtype, seed=seed + i)
            for i, (name, shape) in enumerate(self.floats.items())
        }
        made = {**floats, **{name: array.copy() for name, array in self.integers.items()}}
        return {name: made[name] for name in _ORDER if name in made}

    def __call__(self, arrays, **options):
        options = {**dict(self.options), **options}
        keyword = {name: arrays[name] for name in arrays if name in self.keywords()}
        positional = [array for name, array in arrays.items() if name not in keyword]
        return self.function(*positional, *self.rest, **keyword, **options)

    def keywords(self):
        """The arrays that are passed by name: those that a backward takes its slope from."""
        slopes = {gr.activate_backward: {"x", "y"}, gr.linear_backward: {"y"}}
        return slopes.get(self.function, set())


# the order of the arguments in every signature
_ORDER = ("out", "index", "src", "dy", "dx", "cols", "y", "logits", "labels", "winner", "x", "a",
          "w", "b")  # fmt: skip


def _call(name, function, floats, rest=(), *, integers=None, **options):
    return PublicCall(name, function, floats, integers or {}, rest, tuple(options.items()))


def _winner():
    return gr.max_pool(make("normal", _IMAGE), _WINDOW, **_POOL)


with gr.config(backend="reference"):
    _WINNER = _winner()[1]
    _INDEX = gr.winner_to_index(_WINNER, _IMAGE, _WINDOW, **_POOL)
_POOLED = _WINNER.shape
_W, _B = (4, 3, 3, 3), (4,)
_PLACES = (_IMAGE, _WINDOW)

CALLS = [
    _call("conv", gr.conv, {"x": _IMAGE, "w": _W, "b": _B}, padding=1),
    _call("conv strided", gr.conv, {"x": _IMAGE, "w": _W, "b": _B}, stride=2),
    _call("conv_backward", gr.conv_backward,
          {"dy": (2, 4, 7, 8), "x": _IMAGE, "w": _W}, padding=1),
    _call("conv_transpose", gr.conv_transpose,
          {"x": _IMAGE, "w": (3, 4, 3, 3), "b": _B}, padding=1, stride=2),
    _call("conv_transpose_backward", gr.conv_transpose_backward,
          {"dy": (2, 4, 13, 15), "x": _IMAGE, "w": (3, 4, 3, 3)}, padding=1, stride=2),
    _call("max_pool", gr.max_pool, {"x": _IMAGE}, (_WINDOW,), **_POOL),
    _call("max_pool_backward", gr.max_pool_backward,
          {"dy": _POOLED}, _PLACES, integers={"winner": _WINNER}, **_POOL),
    _call("winner_to_index", gr.winner_to_index,
          {}, _PLACES, integers={"winner": _WINNER}, **_POOL),
    _call("index_to_winner", gr.index_to_winner,
          {}, _PLACES, integers={"index": _INDEX}, **_POOL),
    _call("max_unpool", gr.max_unpool,
          {"y": _POOLED}, _PLACES, integers={"winner": _WINNER}, **_POOL),
    _call("max_unpool_backward", gr.max_unpool_backward,
          {"dx": _IMAGE}, _PLACES, integers={"winner": _WINNER}, **_POOL),
    _call("avg_pool", gr.avg_pool, {"x": _IMAGE}, (_WINDOW,), **_POOL),
    _call("avg_pool_backward", gr.avg_pool_backward, {"dy": _POOLED}, _PLACES, **_POOL),
    _call("matmul", gr.matmul, {"a": (6, 5, 7), "b": (6, 7, 4)}),
    _call("matmul broadcast", gr.matmul, {"a": (6, 5, 7), "b": (7, 4)}),
    _call("matmul_backward", gr.matmul_backward, {"dy": (6, 5, 4), "a": (6, 5, 7), "b": (7, 4)}),
    _call("linear", gr.linear, {"x": (6, 2, 7), "w": (4, 7), "b": (4,)}, activation="tanh"),
    _call("linear_backward", gr.linear_backward, {"dy": (6, 4), "x": (6, 7), "w": (4, 7)}),
    _call("linear_backward fused", gr.linear_backward,
          {"dy": (6, 4), "x": (6, 7), "w": (4, 7), "y": (6, 4)}, activation="tanh"),
    _call("scatter_add", gr.scatter_add, {"out": (6, 4), "src": (8, 4)},
          integers={"index": np.array([0, 5, 2, 2, -1, 3, 0, 2])}),
    _call("im2col", gr.im2col, {"x": _IMAGE}, (_WINDOW,), **_POOL),
    _call("col2im", gr.col2im, {"cols": (2, 27, 16)}, _PLACES, **_POOL),
    _call("activate", gr.activate, {"x": (5, 9)}, ("silu",)),
    _call("activate_backward", gr.activate_backward, {"dy": (5, 9), "x": (5, 9)}, ("gelu",)),
    _call("softmax_cross_entropy", gr.softmax_cross_entropy, {"logits": (6, 5)},
          integers={"labels": np.array([0, 4, 1, 3, 2, 2])}),
]  # fmt: skip

#: those whose results can go into out=
WITH_OUT = [call for call in CALLS if call.name != "scatter_add"]

# ---- ways an array can lie in memory ------------------------------------------------------


def _strided(array):
    """Every second element of a larger array, on the last axis."""
    whole = np.empty((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    whole[..., ::2] = array
    return whole[..., ::2]


def _padded_rows(array):
    whole = np.empty((*array.shape[:-1], array.shape[-1] + 3), array.dtype)
    whole[..., 1:-2] = array
    return whole[..., 1:-2]


def _backwards(array):
    """The same elements through negative strides."""
    flip = (slice(None, None, -1),) * array.ndim
    return array[flip].copy()[flip]


def _unaligned(array):
    raw = np.empty(array.nbytes + 1, np.uint8)
    moved = raw[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    assert array.itemsize == 1 or not moved.flags.aligned
    return moved


def _field(array):
    """One field of a packed record: strides that are no multiple of the element."""
    records = np.zeros(array.shape, [("tag", np.uint8), ("value", array.dtype)])
    records["value"] = array
    return records["value"]


def _read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


MEMORY = {
    "every second": _strided,
    "padded rows": _padded_rows,
    "backwards": _backwards,
    "Fortran order": lambda array: np.asfortranarray(array),
    "unaligned": _unaligned,
    "record field": _field,
    "read-only": _read_only,
}


def broadcast(array):
    """The first entry of the first axis, seen through a zero stride as all of them."""
    return np.broadcast_to(array[:1], array.shape)


def half(dtype):
    """The dtype of that name, or None where ml_dtypes is missing."""
    try:
        return named(dtype)
    except ImportError:
        return None
