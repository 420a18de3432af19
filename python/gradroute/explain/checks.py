"""Is the sum of the rows right?  Asked twice: of the kernel, and of the network itself.

The kernel's own gradient comes out of the backend's backward pass.  The nudge asks the question
from the other end: the neuron's value is moved a little up and a little down, the rest of the
network runs again in float64 (on the reference backend, whatever backend is explained), and the
loss's change divided by the move is the gradient.  Where a maximum is shared by two inputs (a
tie) or an activation sits on its corner (a kink), up and down give different answers; that is
recognised by looking whether any winner or any side of a corner changed, and said.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

import gradroute as gr
from gradroute.config import config

from .numbers import show
from .trace import host, reals

#: Relative to the size of the terms: how far rounding can take two sums of a dtype apart; in
#: float64 it is the nudge that cannot do better (beside elu's bend its error falls with the move).
_BOUND = {"float64": 1e-6, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
_TF32_BOUND = 1e-2
#: The moves tried, relative to the neuron's value; smaller while something flips on the way.
_MOVES = (1e-4, 1e-5, 1e-6, 1e-7)
#: Activations with a corner at 0; the others are smooth (elu is, with alpha 1).
_CORNERS = ("relu", "leaky_relu")


@dataclass(frozen=True)
class Check:
    """One answer to compare the sum with.

    ``status`` is "ok", "tie", "kink", "rounding" (the network's dtype is too coarse here),
    "undefined" (not finite) or "differs"; ``note`` says more where it is not "ok".
    """

    name: str
    value: float
    status: str = "ok"
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.status != "differs"


def tolerance(trace, index, terms) -> float:
    """How far apart the sum, the kernel and the nudge may lie by rounding alone."""
    name = trace.net.dtype.name
    tf32 = name == "float32" and config.current().precision == "tf32"
    bound = _TF32_BOUND if tf32 else _BOUND[name]
    typical = float(np.sqrt(np.mean(reals(trace.gradients[index]) ** 2)))
    size = float(np.sqrt((terms["product"] ** 2).sum())) + typical
    # a slope near 0 is rounded beside 1, so what it multiplies counts too
    step = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1.2e-7}.get(name, 1e-12)
    sizes = np.abs(terms["product"]).sum() + np.abs(terms["upstream"] * terms["weight"]).sum()
    return bound * size + 4 * step * float(sizes)


def kernel_check(value, total, allowed) -> Check:
    """The kernel's gradient beside the sum of the rows."""
    if abs(value - total) <= allowed or (np.isnan(value) and np.isnan(total)):
        return Check("kernel", value)
    return Check(
        "kernel", value, "differs", f"the kernel's own gradient differs by {value - total:.3g}"
    )


# ---- the nudge ----------------------------------------------------------------------------


class _Rest:
    """The network behind a layer, in a dtype of its own on the reference backend."""

    def __init__(self, trace, index, dtype="float64"):
        self.trace, self.index = trace, index
        self.layers = [_in_dtype(layer, dtype) for layer in trace.layers[index:]]
        self.start = host(trace.values[index]).astype(dtype)
        self.dy = reals(trace.dy)

    def run(self, values):
        """(output, kept): one forward pass from these values on."""
        kept = []
        with gr.config(backend="reference"):
            for layer in self.layers:
                values, one = layer.forward(values)
                kept.append(one)
        return values, kept

    def loss(self, values):
        """(loss, size of what it was summed from, states), for one sample."""
        y, kept = self.run(values)
        if self.trace.labels is None:
            terms = self.dy * y
            return float(terms.sum()), float(np.abs(terms).sum()), self.states(kept)
        top = y.max()
        loss = np.log(np.exp(y - top).sum()) + top - y[0, self.trace.labels]
        size = 1 + 2 * np.abs(y).max()
        return float(loss) / self.trace.batch, size / self.trace.batch, self.states(kept)

    def states(self, kept):
        return [_state(layer, one) for layer, one in zip(self.layers, kept)]

    def gradient(self, flat) -> float:
        """The gradient at the neuron by this dtype's backward pass."""
        y, kept = self.run(self.start)
        dy = self.dy.astype(y.dtype)
        with gr.config(backend="reference"):
            if self.trace.labels is not None:
                label = np.array([self.trace.labels])
                dy = gr.softmax_cross_entropy(y, label)[1] / self.trace.batch
            for layer, one in zip(reversed(self.layers), reversed(kept)):
                dy, _ = layer.backward(dy, one)
        return float(dy.reshape(-1)[flat])

    def flip(self, these, those) -> tuple[str, str] | None:
        """(status, neuron) of the first place where two runs took another way; None: nowhere."""
        for i, (one, other) in enumerate(zip(these, those)):
            if one is None or np.array_equal(one, other):
                continue
            unit = tuple(int(k) for k in np.argwhere(one != other)[0][1:])
            status = "tie" if self.layers[i].kind == "max_pool" else "kink"
            return status, self.trace.label(self.index + i + 1, unit)
        return None


def _in_dtype(layer, dtype):
    new = copy.copy(layer)
    new.parameters = {name: host(a).astype(dtype) for name, a in layer.parameters.items()}
    return new


def _state(layer, kept):
    """Which way a layer went: the winners of a max-pool, the side of a corner; None if smooth."""
    if layer.kind == "max_pool":
        return host(kept[0])
    if layer.kind == "activate" and layer.name in _CORNERS:
        return host(kept[0]) > 0
    return None


def nudge_check(trace, index, flat, total, allowed) -> Check:
    """The loss's change per move of the neuron, in float64, beside the sum of the rows."""
    rest = _Rest(trace, index)
    with np.errstate(all="ignore"):
        return _nudge(rest, flat, total, allowed)


def _nudge(rest, flat, total, allowed) -> Check:
    start = rest.start.reshape(-1)
    middle, size, states = rest.loss(rest.start)
    scale = max(abs(start[flat]), float(np.sqrt(np.mean(start**2)))) or 1.0
    for move in _MOVES:
        sides, flip = [], None
        for sign in (-1, 1):
            moved = start.copy()
            moved[flat] += sign * move * scale
            loss, _, there = rest.loss(moved.reshape(rest.start.shape))
            sides.append((loss - middle) / (moved[flat] - start[flat]))
            flip = flip or rest.flip(states, there)
        below, above = sides
        value = float(below + above) / 2
        noise = allowed + 64 * np.finfo(float).eps * size / (move * scale)
        agrees = abs(value - total) <= noise
        if agrees and (flip is None or abs(above - below) <= 2 * noise):
            return Check("nudge", value)
    if not np.isfinite(value):
        note = "with a nudge the network's output is not finite, so it says nothing here"
        return Check("nudge", value, "undefined", note)
    if flip is not None:
        return Check("nudge", value, flip[0], _corner(*flip, below, above, total))
    return _why(rest, flat, value, total, states)


def _corner(status, neuron, below, above, total) -> str:
    what = {
        "tie": f"a tie: {neuron} has several largest inputs, and the slightest move picks another",
        "kink": f"a kink: {neuron} sits at 0, the corner of its activation",
    }[status]
    return (
        f"{what}; moved down the gradient is {show(below)}, moved up it is {show(above)}, "
        f"and the kernel's rule gives {show(total)}"
    )


def _why(rest, flat, value, total, states) -> Check:
    """Nothing flipped on the way and still they differ: rounding in the dtype, or worse."""
    trace = rest.trace
    ran = rest.states(trace.kept[rest.index + 1 :])
    flip = rest.flip(states, ran)
    if flip is not None:
        near = {"tie": "two inputs that are equal", "kink": "an input that is 0"}[flip[0]]
        note = (
            f"{flip[1]} has {near} within the rounding of {trace.net.dtype.name}: in float64 it "
            "goes the other way"
        )
        return Check("nudge", value, flip[0], note)
    exact = rest.gradient(flat)
    coarse = _Rest(trace, rest.index, trace.net.dtype).gradient(flat)
    gap = abs(value - total)
    if abs(exact - value) <= 1e-3 * gap + 1e-6 * abs(exact) and abs(coarse - exact) >= gap / 8:
        note = f"{trace.net.dtype.name} is too coarse here: float64 gives {value:.6g}"
        return Check("nudge", value, "rounding", note)
    return Check("nudge", value, "differs", f"the nudge test differs by {value - total:.3g}")
