"""One neuron's gradient, consumer by consumer: the rows, their sum, and where it goes next."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field

import numpy as np

from .checks import Check, kernel_check, nudge_check, tolerance
from .drawing import drawing
from .hands import Hand, hand_on
from .readers import Readers, geometry_of, readers
from .trace import Trace, check_network, check_weights, reals

_FIELDS = ("consumer", "upstream", "slope", "weight", "product")


def explain(net, layer, unit, *, x=None, dy=None, labels=None, sample=0):
    """Why one neuron's gradient is what it is: one row for each neuron that reads it.

    net is a `gr.nn.Sequential`; layer a layer's name, or "input"; unit the neuron's index in that
    layer's output without the batch axis, such as (channel, row, column).  x (N, ...) is the
    network's input (None: that of its last forward pass) and ``sample`` says which of the N.  The
    gradient at the network's output is dy (N, ...), or with labels (N,) that of the mean
    cross-entropy over the batch; without x, dy and labels that of its last backward pass.

    The consumers are the neurons of the next layer that is not element-wise: of a linear layer
    all of them, of a convolution or an average pool those whose window covers the neuron, of a
    max-pool those whose window it won.  Each row holds

        product = upstream * slope * weight

    ``weight`` joins the neuron and the consumer (1 for a max-pool, 1/divisor for an average),
    ``slope`` is the product of the slopes of all activations before and behind the consumer, and
    ``upstream`` is the gradient behind those.  The sum of all rows is the neuron's gradient.

    Returns an `Explanation`, whose numbers come from the backend's own kernels.  The sum is
    checked against the kernel's own gradient and against a nudge of the neuron in float64.

    Raises ArgumentValueError for a layer, unit or sample that is not there, naming the choices,
    and for a network without weights.

    >>> import numpy as np, gradroute as gr
    >>> net = gr.nn.Sequential(fc=gr.nn.Linear(2, 3, bias=False), dtype="float64")
    >>> net.parameters()["fc.w"][...] = [[0.5, 1.0], [-1.0, 0.25], [0.25, 0.0]]
    >>> e = gr.explain(net, "input", 0, x=np.ones((1, 2)), dy=np.array([[2.0, 3.0, 6.0]]))
    >>> e.terms["product"].tolist(), e.total
    ([1.0, -3.0, 1.5], -0.5)
    """
    check_weights(check_network(net))
    trace = Trace(net, x, dy=dy, labels=labels, sample=sample)
    return Explanation.of(trace, layer, unit)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What `gr.explain` found; print it, show it in a notebook, `plot` it, or use the numbers.

    ``terms`` is a structured array (rows,) with the fields consumer (str), upstream, slope,
    weight and product (float64).  ``units`` (rows, axes) are the consumers' indices in the output
    of the layer ``reader`` (None: only the loss reads the neuron), and ``taps`` (rows, spatial
    axes) the window positions through which they read, None without windows.  ``total`` is the
    sum of the products, ``kernel`` the backend's own gradient, ``nudge`` the change of the loss
    per move of the neuron; ``checks`` says how these compare.  ``losers`` are the windows of a
    max-pool that cover the neuron and chose another: pairs of unit and chosen unit.
    """

    layer: str
    unit: tuple[int, ...]
    sample: int
    value: float
    reader: str | None
    terms: np.ndarray
    units: np.ndarray
    taps: np.ndarray | None
    total: float
    checks: tuple[Check, Check]
    losers: tuple
    hand: Hand
    slopes: tuple[str, ...]
    # what pictures show: the layer's output for this sample, and the reader's window over it
    plane: np.ndarray = field(repr=False)
    channels_last: bool = field(default=False, repr=False)
    window: tuple | None = field(default=None, repr=False)  # (lengths, dilations)

    @classmethod
    def of(cls, trace: Trace, layer, unit) -> Explanation:
        index = trace.index(layer)
        unit = trace.unit(index, unit)
        flat = trace.flat(index, unit)
        at = trace.after(index)
        found, terms, slopes = _rows(trace, index, flat, at)
        total = float(terms["product"].sum())
        allowed = tolerance(trace, index, terms)
        kernel = float(reals(trace.gradients[index]).reshape(-1)[flat])
        plane = reals(trace.values[index])[0]
        end = at == len(trace.layers)
        return cls(
            layer=layer,
            unit=unit,
            sample=trace.sample,
            value=float(plane[unit]),
            reader=None if end else trace.names[at + 1],
            terms=terms,
            units=found.units,
            taps=found.taps,
            total=total,
            checks=(
                kernel_check(kernel, total, allowed),
                nudge_check(trace, index, flat, total, allowed),
            ),
            losers=tuple(
                (trace.label(at + 1, window), trace.label(at, winner))
                for window, winner in found.losers
            ),
            hand=hand_on(trace, index, unit, total),
            slopes=slopes,
            plane=plane,
            channels_last=_layout(trace, index) == "channels_last",
            window=None if end else _window(trace, index, at),
        )

    # ---- numbers --------------------------------------------------------------------------

    @property
    def kernel(self) -> float:
        """The gradient that the backend's own backward pass gives this neuron."""
        return self.checks[0].value

    @property
    def nudge(self) -> float:
        """The central difference of the loss in float64."""
        return self.checks[1].value

    @property
    def ok(self) -> bool:
        """Do sum, kernel and nudge agree, ties and kinks aside?"""
        return all(check.ok for check in self.checks)

    @property
    def name(self) -> str:
        return f"{self.layer}[{','.join(map(str, self.unit))}]"

    def largest(self, rows: int) -> tuple[np.ndarray, int, float]:
        """(positions, how many are left, their sum): the rows to show when not all can be.

        In their own order if all fit; else the largest, by size.
        """
        count = len(self.terms)
        if count <= rows:
            return np.arange(count), 0, 0.0
        size = np.abs(self.terms["product"])
        size = np.where(np.isnan(size), np.inf, size)  # a NaN is what one wants to see first
        chosen = np.argsort(-size, kind="stable")[: rows - 1]
        rest = np.ones(count, bool)
        rest[chosen] = False
        return chosen, int(rest.sum()), float(self.terms["product"][rest].sum())

    def to_dict(self) -> dict:
        """Everything as plain Python values that json.dumps takes."""
        return {
            "layer": self.layer,
            "unit": list(self.unit),
            "sample": self.sample,
            "value": self.value,
            "reader": self.reader,
            "total": self.total,
            "kernel": self.kernel,
            "nudge": self.nudge,
            "checks": [vars(check) for check in self.checks],
            "terms": [dict(zip(_FIELDS, row)) for row in self.terms.tolist()],
            "losers": [{"window": window, "chose": winner} for window, winner in self.losers],
            "hands_on": self.hand.text,
        }

    def to_csv(self, path=None) -> str:
        """The rows as CSV text with a header; also written to ``path`` if given."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_FIELDS)
        writer.writerows(self.terms.tolist())
        if path is not None:
            with open(path, "w", encoding="utf-8", newline="") as file:
                file.write(text.getvalue())
        return text.getvalue()

    # ---- rendered -------------------------------------------------------------------------

    def text(self, *, width=None, rows=12) -> str:
        """The explanation as plain text for a terminal of this width (None: the one at hand)."""
        from .text import plain

        return plain(self, width=width, rows=rows)

    def __str__(self):
        return self.text()

    def __repr__(self):
        return f"<explanation of {self.name}: {len(self.terms)} terms, sum {self.total:.6g}>"

    def __rich_console__(self, console, options):
        from .text import styled

        yield styled(self, width=options.max_width)

    def _repr_html_(self):
        from .html import page

        return page(self)

    def plot(self, path=None, *, rows=8):
        """The picture as a matplotlib figure; saved to ``path`` (.png, .svg, .pdf) if given.

        Raises BackendError where matplotlib is missing.
        """
        return drawing().draw([self], path, rows=rows)


# ---- the rows -----------------------------------------------------------------------------


def _rows(trace, index, flat, at) -> tuple[Readers, np.ndarray, tuple[str, ...]]:
    """The consumers of a neuron, their terms, and the names of the activations with a slope.

    ``at`` is the position of the layer that reads the neuron, len(trace.layers) at the end.
    """
    before = float(trace.slopes(index, at)[flat])
    if at == len(trace.layers):  # nothing is left but the loss itself
        found = Readers(np.array([[flat]]), np.ones(1))
        names = np.array(["loss"])
        upstream, behind = reals(trace.gradients[-1]).reshape(-1)[flat : flat + 1], np.ones(1)
        end = at
    else:
        end = trace.after(at + 1)
        x_shape, y_shape = trace.shape(at), trace.shape(at + 1)
        unit = trace.unflat(at, flat)
        found = readers(trace.layers[at], x_shape, y_shape, unit, trace.kept[at + 1])
        chosen = np.ravel_multi_index(tuple(found.units.T), y_shape)
        upstream = reals(trace.gradients[end]).reshape(-1)[chosen]
        behind = trace.slopes(at + 1, end)[chosen]
        named_taps = trace.layers[at].kind in ("conv", "conv_transpose")
        names = _names(trace.names[at + 1], found.units, found.taps if named_taps else None)
    length = max((len(name) for name in names), default=1)
    terms = np.empty(
        len(names), dtype=[("consumer", f"U{length}"), *((name, "f8") for name in _FIELDS[1:])]
    )
    terms["consumer"] = names
    terms["upstream"], terms["slope"], terms["weight"] = upstream, before * behind, found.weights
    terms["product"] = terms["upstream"] * terms["slope"] * terms["weight"]
    passed = [i for i in (*range(index, at), *range(at + 1, end)) if i < len(trace.layers)]
    slopes = tuple(trace.names[i + 1] for i in passed if trace.layers[i].kind == "activate")
    return found, terms, slopes


def _names(layer, units, taps) -> list[str]:
    """conv2[3,0,1] tap[2,0]: the consumer, and where in its window the neuron sits."""
    names = [f"{layer}[{','.join(map(str, unit))}]" for unit in units.tolist()]
    if taps is None:
        return names
    return [f"{name} tap[{','.join(map(str, tap))}]" for name, tap in zip(names, taps.tolist())]


def _layout(trace, index):
    """The layout of a layer's output: its own, or that of the layers around it."""
    order = [*range(index - 1, -1, -1), *range(index, len(trace.layers))]
    for i in order:
        layout = trace.layers[i].options.get("layout")
        if layout is not None:
            return layout
    return "channels_first"


def _window(trace, index, at):
    """(lengths, dilations) of the window that the layer ``at`` moves over this layer's output."""
    layer = trace.layers[at]
    if layer.kind not in ("conv", "max_pool", "avg_pool") or trace.shape(index) != trace.shape(at):
        return None
    geometry, axes = geometry_of(layer, trace.shape(at)), len(trace.shape(at)) - 1
    return geometry.window[3 - axes :], geometry.dilation[3 - axes :]
