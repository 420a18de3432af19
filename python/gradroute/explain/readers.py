"""Who reads a neuron: the consumers of one input of a layer, and the weight each reads it with.

Window layers are counted from the input's side.  Output o reads input i through tap r when
i = o*stride - before + r*dilation, so for each tap there is at most one o: all of them are listed
by trying every tap, axis by axis, without looking at the windows that do not reach the neuron.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradroute.geometry import conv_geometry, conv_transpose_geometry, pool_geometry
from gradroute.options import lift

from .trace import host, reals

_WINDOW = ("stride", "padding", "dilation")


@dataclass(frozen=True)
class Readers:
    """The consumers of one neuron, in row-major order.

    ``units`` (rows, axes): each consumer's index in its layer's output.  ``taps`` (rows, spatial
    axes): the window position through which it reads, or None where there is no window.
    ``weights`` (rows,) float64.  ``losers``: indices of the windows of a max-pool that cover the
    neuron and chose another, as (unit, winner's flat position in the input).
    """

    units: np.ndarray
    weights: np.ndarray
    taps: np.ndarray | None = None
    losers: tuple = ()


def readers(layer, x_shape, y_shape, unit, kept) -> Readers:
    """Who reads ``unit`` of the input of ``layer``; shapes are one sample's, without the batch."""
    return _FOR_KIND[layer.kind](layer, x_shape, y_shape, unit, kept)


# ---- windows ------------------------------------------------------------------------------


def channels_last(layer) -> bool:
    return layer.options.get("layout") == "channels_last"


def split(layer, unit) -> tuple[int, tuple]:
    """A unit of a window layer as its channel and its position (D, H, W)."""
    channel, position = (unit[-1], unit[:-1]) if channels_last(layer) else (unit[0], unit[1:])
    return int(channel), lift(tuple(int(p) for p in position), 0)


def joined(layer, channels, positions, axes) -> np.ndarray:
    """The reverse: units (rows, 1 + axes) from channels (rows,) and positions (rows, 3)."""
    channels, positions = np.asarray(channels)[:, None], np.asarray(positions)[:, 3 - axes :]
    order = (positions, channels) if channels_last(layer) else (channels, positions)
    return np.concatenate(order, axis=1)


def geometry_of(layer, shape):
    """The window geometry of a layer on one sample of this shape."""
    first = (shape[-1], *shape[:-1]) if channels_last(layer) else shape
    x_shape = (1, *first)
    options = layer.options
    if layer.kind in ("conv", "conv_transpose"):
        names = (*_WINDOW, "groups", *(("output_padding",) * (layer.kind == "conv_transpose")))
        build = conv_geometry if layer.kind == "conv" else conv_transpose_geometry
        w_shape = layer.parameters["w"].shape
        return build(x_shape, w_shape, **{name: options[name] for name in names})
    names = (*_WINDOW, "ceil_mode")
    return pool_geometry(x_shape, window=layer.window, **{name: options[name] for name in names})


def covering(geometry, position) -> tuple[np.ndarray, np.ndarray]:
    """(outputs, taps), both (rows, 3): the windows that read this input, in row-major order."""
    pairs = []
    for axis, cell in enumerate(position):
        taps = np.arange(geometry.window[axis])[::-1]  # the last tap belongs to the first window
        starts = cell + geometry.before[axis] - taps * geometry.dilation[axis]
        outputs = starts // geometry.stride[axis]
        hit = (starts % geometry.stride[axis] == 0) & (outputs >= 0)
        hit &= outputs < geometry.out[axis]
        pairs.append((outputs[hit], taps[hit]))
    return _every(pairs)


def covered(geometry, position) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, taps), both (rows, 3): the input cells that the window at this output reads."""
    pairs = []
    for axis, output in enumerate(position):
        taps = np.arange(geometry.window[axis])
        start = output * geometry.stride[axis] - geometry.before[axis]
        cells = start + taps * geometry.dilation[axis]
        inside = (cells >= 0) & (cells < geometry.size[axis])
        pairs.append((cells[inside], taps[inside]))
    return _every(pairs)


def _every(pairs):
    """All combinations of one (place, tap) per axis: two arrays (rows, 3)."""
    places = np.meshgrid(*(place for place, _ in pairs), indexing="ij")
    taps = np.meshgrid(*(tap for _, tap in pairs), indexing="ij")
    return tuple(np.stack([a.reshape(-1) for a in grid], axis=1) for grid in (places, taps))


def _by_channel(layer, channels, places, taps, axes):
    """Every channel with every place: (units, channel of each row, taps of each row, 3 long)."""
    rows = len(places)
    column = np.repeat(channels, rows)
    places, taps = np.tile(places, (len(channels), 1)), np.tile(taps, (len(channels), 1))
    units = joined(layer, column, places, axes)
    if channels_last(layer):
        order = np.lexsort((column, *places.T[::-1]))
        units, column, taps = units[order], column[order], taps[order]
    return units, column, taps


def _weights(layer) -> np.ndarray:
    """w with three window axes: (first, second, T, R, S)."""
    w = reals(layer.parameters["w"])
    return w.reshape(*w.shape[:2], *lift(w.shape[2:], 1))


def _conv(layer, x_shape, y_shape, unit, kept) -> Readers:
    channel, position = split(layer, unit)
    geometry, axes = geometry_of(layer, x_shape), len(x_shape) - 1
    w = _weights(layer)  # (K, C/G, T, R, S)
    group, c = divmod(channel, w.shape[1])
    per_group = geometry.out_channels // geometry.groups
    channels = np.arange(group * per_group, (group + 1) * per_group)
    units, k, taps = _by_channel(layer, channels, *covering(geometry, position), axes)
    return Readers(units, w[k, c, *taps.T], taps[:, 3 - axes :])


def _conv_transpose(layer, x_shape, y_shape, unit, kept) -> Readers:
    # this is the convolution whose dx is our output: the neuron is one of *its* outputs
    channel, position = split(layer, unit)
    geometry, axes = geometry_of(layer, x_shape), len(x_shape) - 1
    w = _weights(layer)  # (C, K/G, T, R, S)
    per_group = w.shape[1]
    group = channel // (w.shape[0] // geometry.groups)
    channels = np.arange(group * per_group, (group + 1) * per_group)
    units, k, taps = _by_channel(layer, channels, *covered(geometry, position), axes)
    return Readers(units, w[channel, k - group * per_group, *taps.T], taps[:, 3 - axes :])


def _max_pool(layer, x_shape, y_shape, unit, kept) -> Readers:
    channel, position = split(layer, unit)
    geometry, axes = geometry_of(layer, x_shape), len(x_shape) - 1
    outputs, taps = covering(geometry, position)
    units = joined(layer, np.full(len(outputs), channel), outputs, axes)
    chosen = winners(layer, kept)[tuple(units.T)]
    won = chosen == np.ravel_multi_index(tuple(taps.T), geometry.window)
    losers = tuple(
        (tuple(int(i) for i in window), _winner_cell(layer, geometry, channel, output, tap, axes))
        for window, output, tap in zip(units[~won], outputs[~won], chosen[~won])
    )
    return Readers(units[won], np.ones(int(won.sum())), taps[won][:, 3 - axes :], losers)


def winners(layer, kept) -> np.ndarray:
    """The winner of every window of the sample: what the max-pool kept, without the batch."""
    return host(kept[0])[0]


def _winner_cell(layer, geometry, channel, output, tap, axes) -> tuple[int, ...]:
    """The input unit that the window at ``output`` chose."""
    taps = np.unravel_index(int(tap), geometry.window)
    cell = [
        int(o) * s - before + int(t) * d
        for o, s, before, t, d in zip(
            output, geometry.stride, geometry.before, taps, geometry.dilation
        )
    ]
    return tuple(int(i) for i in joined(layer, [channel], [cell], axes)[0])


def winner_of(layer, x_shape, unit, kept) -> tuple[int, ...]:
    """The input unit that this output of a max-pool chose."""
    channel, position = split(layer, unit)
    tap = winners(layer, kept)[tuple(unit)]
    geometry = geometry_of(layer, x_shape)
    return _winner_cell(layer, geometry, channel, position, tap, len(x_shape) - 1)


def window_of(layer, x_shape, unit) -> np.ndarray:
    """The input units (rows, axes) that this output of a pool reads, in row-major order."""
    channel, position = split(layer, unit)
    cells, _ = covered(geometry_of(layer, x_shape), position)
    return joined(layer, np.full(len(cells), channel), cells, len(x_shape) - 1)


def _avg_pool(layer, x_shape, y_shape, unit, kept) -> Readers:
    channel, position = split(layer, unit)
    geometry, axes = geometry_of(layer, x_shape), len(x_shape) - 1
    outputs, taps = covering(geometry, position)
    units = joined(layer, np.full(len(outputs), channel), outputs, axes)
    count = [divisor(geometry, output, layer.options["count_include_pad"]) for output in outputs]
    return Readers(units, 1.0 / np.array(count, dtype=np.float64), taps[:, 3 - axes :])


def divisor(geometry, output, count_include_pad) -> int:
    """What an average pool divides the window at this output by."""
    count = []
    for axis, place in enumerate(output):
        before = geometry.before[axis] if count_include_pad else 0
        after = geometry.after[axis] if count_include_pad else 0
        start = int(place) * geometry.stride[axis] - geometry.before[axis]
        cells = start + np.arange(geometry.window[axis]) * geometry.dilation[axis]
        count.append(int(((cells >= -before) & (cells < geometry.size[axis] + after)).sum()))
    return math.prod(count)


def _linear(layer, x_shape, y_shape, unit, kept) -> Readers:
    outputs = y_shape[-1]
    units = np.empty((outputs, len(unit)), np.int64)
    units[:, :-1] = unit[:-1]  # leading axes pass through: every position has its own outputs
    units[:, -1] = np.arange(outputs)
    return Readers(units, reals(layer.parameters["w"][:, unit[-1]]))


_FOR_KIND = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "linear": _linear,
}
