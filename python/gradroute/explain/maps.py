"""Maps of a whole layer: how many windows read each neuron, and which neurons won their windows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gradroute.errors import ArgumentValueError

from .drawing import drawing
from .readers import channels_last, geometry_of, winners
from .trace import Trace, reals


def shared(net, layer, *, x=None):
    """How many windows of the next layer read each neuron of this one.

    net, layer and x are those of `explain`; only x's shape matters.  A linear layer is one window
    that reads all.  Returns a `Shared`, whose ``counts`` have the shape of the layer's output
    without the batch.  Raises ArgumentValueError for a layer that nothing but the loss reads.

    >>> import gradroute as gr
    >>> from gradroute.explain.examples import pool_to_conv
    >>> net, x, dy = pool_to_conv()
    >>> gr.shared(net, "pool", x=x).counts[0].tolist()
    [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]
    """
    trace = Trace(net, x, forward_only=True)
    index = trace.index(layer)
    at = trace.after(index)
    if at == len(trace.layers):
        raise ArgumentValueError(
            f"nothing but the loss reads layer {layer!r}; {trace.choices()}"
        )
    reader, shape = trace.layers[at], trace.shape(at)
    counts = _reads(reader, shape).reshape(trace.shape(index))
    each = trace.shape(at + 1)[-1] if reader.kind == "linear" else 1
    if reader.kind in ("conv", "conv_transpose"):
        each = reader.outputs // reader.groups
    return Shared(layer, trace.names[at + 1], counts, counts * each, channels_last(reader))


def _reads(reader, shape) -> np.ndarray:
    if reader.kind == "linear":
        return np.ones(shape, np.int64)
    geometry = geometry_of(reader, shape)
    # the axes are independent: counts per axis, multiplied
    size = geometry.out if reader.kind == "conv_transpose" else geometry.size
    total = np.ones((1, 1, 1), np.int64)
    for axis in range(3):
        count = _axis_reads(geometry, axis, size[axis], reader.kind == "conv_transpose")
        total = total * count.reshape([-1 if a == axis else 1 for a in range(3)])
    total = total.reshape(total.shape[4 - len(shape) :])
    total = total[..., None] if channels_last(reader) else total[None]
    return np.broadcast_to(total, shape).copy()


def _axis_reads(geometry, axis, size, transposed) -> np.ndarray:
    """Along one axis: how many windows read each cell (transposed: how many it reaches)."""
    taps = np.arange(geometry.window[axis])
    cells = np.arange(size)[:, None]
    stride, dilation, before = (
        getattr(geometry, name)[axis] for name in ("stride", "dilation", "before")
    )
    if transposed:
        reached = cells * stride - before + taps * dilation
        return ((reached >= 0) & (reached < geometry.size[axis])).sum(axis=1)
    start = cells + before - taps * dilation
    hit = (start % stride == 0) & (start >= 0) & (start // stride < geometry.out[axis])
    return hit.sum(axis=1)


class _Map:
    """What the two maps share: they are shown as planes, and act as the array of their counts."""

    def __array__(self, dtype=None, copy=None):
        return np.array(self.counts, dtype=dtype)

    def __getitem__(self, unit):
        return self.counts[unit]

    @property
    def shape(self):
        return self.counts.shape

    def text(self, *, width=None, channel=0) -> str:
        """One channel's plane as plain text for a terminal of this width."""
        from .planes import plain

        return plain(self, width=width, channel=channel)

    def __str__(self):
        return self.text()

    def __rich_console__(self, console, options):
        from .planes import styled

        yield styled(self, width=options.max_width)

    def _repr_html_(self):
        from .html import plane

        return plane(self)

    def plot(self, path=None, *, channel=0):
        """The picture as a matplotlib figure; saved to ``path`` (.png, .svg, .pdf) if given.

        Raises BackendError where matplotlib is missing.
        """
        return drawing("map_picture").draw_map(self, path, channel=channel)


@dataclass(frozen=True, eq=False)
class Shared(_Map):
    """``counts``: windows of ``reader`` that read each neuron of ``layer``; ``consumers``: that
    times the neurons of each window, which is how many rows `explain` lists (fewer for a max-pool,
    whose windows choose).
    """

    layer: str
    reader: str
    counts: np.ndarray = field(repr=False)
    consumers: np.ndarray = field(repr=False)
    channels_last: bool = False

    @property
    def title(self) -> str:
        return f"how many windows of {self.reader} read each neuron of {self.layer}"


def route(net, layer, *, x=None, sample=0):
    """Which neurons won the windows of a max-pool: the way its gradient takes.

    ``layer`` is the max-pool's name; the other arguments are those of `explain`.  Returns a
    `Route`.  Raises ArgumentValueError for a layer that is no max-pool, naming those that are.

    >>> import gradroute as gr
    >>> from gradroute.explain.examples import pool_to_linear
    >>> net, x, dy = pool_to_linear()
    >>> gr.route(net, "pool", x=x).counts[0].tolist()
    [[0, 0, 0, 0], [1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]
    """
    trace = Trace(net, x, sample=sample, forward_only=True)
    index = trace.index(layer)
    if index == 0 or trace.layers[index - 1].kind != "max_pool":
        pools = [n for n, made in zip(trace.names[1:], trace.layers) if made.kind == "max_pool"]
        raise ArgumentValueError(
            f"layer {layer!r} is no max-pool; "
            + (f"those of this network are {', '.join(pools)}" if pools else "there is none here")
        )
    pool, shape = trace.layers[index - 1], trace.shape(index - 1)
    winner, values = winners(pool, trace.kept[index]), reals(trace.values[index - 1])[0]
    last = channels_last(pool)
    counts, chosen, ties = _routed(
        geometry_of(pool, shape), _channels_first(winner, last), _channels_first(values, last)
    )
    counts = np.moveaxis(counts, 0, -1) if last else counts
    chosen, ties = (np.moveaxis(a, 0, len(shape) - 1) if last else a for a in (chosen, ties))
    if last:
        chosen = np.roll(chosen, -1, axis=-1)  # (channel, position) -> (position, channel)
    return Route(layer, trace.names[index - 1], counts, winner, chosen, ties, values, last)


def _channels_first(array, last):
    return np.moveaxis(array, -1, 0) if last else array


def _routed(geometry, winner, values):
    """(wins of each input, input chosen by each window, is it tied), all channels first.

    winner (C, ...windows) and values (C, ...inputs) have one to three spatial axes.
    """
    g, axes = geometry, winner.ndim - 1
    channels, image = len(winner), values.reshape(len(values), *g.size)
    winner = winner.reshape(channels, *g.out)
    channel = np.arange(channels)[:, None, None, None]
    windows = np.ogrid[tuple(map(slice, g.out))]
    starts = [o * s - before for o, s, before in zip(windows, g.stride, g.before)]
    taps = np.unravel_index(winner, g.window)
    cells = [start + tap * d for start, tap, d in zip(starts, taps, g.dilation)]
    counts = np.zeros(image.shape, np.int64)
    np.add.at(counts, (channel, *cells), 1)
    best = image[(channel, *cells)]
    equals = np.zeros(winner.shape, np.int64)
    for tap in np.ndindex(*g.window):
        read = [start + t * d for start, t, d in zip(starts, tap, g.dilation)]
        inside = np.ones((1, 1, 1), bool)
        for cell, size in zip(read, g.size):
            inside = inside & (cell >= 0) & (cell < size)
        clipped = [np.clip(cell, 0, size - 1) for cell, size in zip(read, g.size)]
        equals += inside & (image[(channel, *clipped)] == best)
    chosen = np.stack(np.broadcast_arrays(channel, *cells[3 - axes :]), axis=-1)
    windows = (channels, *g.out[3 - axes :])
    return (
        counts.reshape(values.shape),
        chosen.reshape(*windows, 1 + axes),
        (equals > 1).reshape(windows),
    )


@dataclass(frozen=True, eq=False)
class Route(_Map):
    """``counts``: how many windows of the max-pool ``layer`` each neuron of ``reader`` won; that
    many gradients reach it, added up.

    For each window: ``winner``, the position inside the window; ``chosen`` (..., axes), the unit
    that won; ``ties``, whether another input was as large.  ``several`` and ``none`` mark the
    inputs that won more than one window, and none.
    """

    layer: str
    reader: str
    counts: np.ndarray = field(repr=False)
    winner: np.ndarray = field(repr=False)
    chosen: np.ndarray = field(repr=False)
    ties: np.ndarray = field(repr=False)
    values: np.ndarray = field(repr=False)
    channels_last: bool = False

    @property
    def several(self) -> np.ndarray:
        return self.counts > 1

    @property
    def none(self) -> np.ndarray:
        return self.counts == 0

    @property
    def title(self) -> str:
        return f"how many windows of {self.layer} each neuron of {self.reader} won"
