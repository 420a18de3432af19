"""Where a neuron's gradient goes next: what the layer that made the neuron does with it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .numbers import show
from .readers import divisor, geometry_of, split, window_of, winner_of
from .trace import reals


@dataclass(frozen=True, eq=False)
class Hand:
    """``text`` says it in a sentence; for a pool the rest is what a picture needs.

    ``source`` is the layer that feeds the pool, ``plane`` its output, ``window`` (rows, axes) the
    units of it that the pool's neuron read, and ``winner`` the one that a max-pool chose.
    """

    text: str
    source: str | None = None
    plane: np.ndarray | None = field(default=None, repr=False)
    window: np.ndarray | None = field(default=None, repr=False)
    winner: tuple[int, ...] | None = None
    tied: bool = False


def hand_on(trace, index, unit, total) -> Hand:
    """What happens to the gradient ``total`` of this neuron on its way to the network's input."""
    if index == 0:
        return Hand("this is the network's input: the gradient ends here")
    layer = trace.layers[index - 1]
    return _FOR_KIND[layer.kind](trace, index, unit, total, layer)


def _max_pool(trace, index, unit, total, layer) -> Hand:
    shape, plane = trace.shape(index - 1), reals(trace.values[index - 1])[0]
    window = window_of(layer, shape, unit)
    winner = winner_of(layer, shape, unit, trace.kept[index])
    values = plane[tuple(window.T)]
    is_winner = (window == winner).all(axis=1)
    others, best = values[~is_winner], plane[winner]
    tied = bool((others == best).any())
    if not len(others):
        compared = f"{show(best)}; it is alone there"
    elif tied:
        compared = f"{show(best)}, a tie: the {layer.options['ties']} of the largest wins"
    else:
        compared = f"{show(best)}; next {show(np.fmax.reduce(others))}"
    text = (
        f"hands all of {show(total, sign=True)} to {trace.label(index - 1, winner)}, its window's "
        f"largest ({compared})" + ("; the others get 0" if len(others) else "")
    )
    return Hand(text, trace.names[index - 1], plane, window, winner, tied)


def _avg_pool(trace, index, unit, total, layer) -> Hand:
    shape, plane = trace.shape(index - 1), reals(trace.values[index - 1])[0]
    window = window_of(layer, shape, unit)
    _, position = split(layer, unit)
    count = divisor(geometry_of(layer, shape), position, layer.options["count_include_pad"])
    text = (
        f"hands {show(total, sign=True)} / {count} = {show(total / count, sign=True)} to each of "
        f"the {len(window)} neurons of {trace.names[index - 1]} in its window"
    )
    return Hand(text, trace.names[index - 1], plane, window)


def _activate(trace, index, unit, total, layer) -> Hand:
    slope = float(trace.slopes(index - 1, index)[trace.flat(index, unit)])
    text = (
        f"hands {show(total, sign=True)} x slope {show(slope)} = {show(total * slope, sign=True)} "
        f"to {trace.label(index - 1, unit)}"
    )
    return Hand(text)


def _flatten(trace, index, unit, total, layer) -> Hand:
    same = trace.unflat(index - 1, trace.flat(index, unit))
    name = trace.label(index - 1, same)
    return Hand(f"is {name} under another name, and hands it {show(total, sign=True)}")


def _weighted(trace, index, unit, total, layer) -> Hand:
    source = trace.names[index - 1]
    text = f"hands {show(total, sign=True)} x their weight to the neurons of {source} that it read"
    if layer.bias:
        text += f", and {show(total, sign=True)} to its bias"
    return Hand(text)


_FOR_KIND = {
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "activate": _activate,
    "flatten": _flatten,
    "linear": _weighted,
    "conv": _weighted,
    "conv_transpose": _weighted,
}
