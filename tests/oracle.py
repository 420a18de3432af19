"""What each operation is, written down a second time, as a list of single reads.

Nothing here comes from the package: sizes follow the formulas of the documentation, and every
result is built read by read, "window o reads cell i through tap t", in float64.  Slow, so the
cases are small.
"""

import math
from dataclasses import dataclass

import numpy as np


def per_axis(option, axes):
    return (int(option),) * axes if np.ndim(option) == 0 else tuple(int(v) for v in option)


def same_pair(total):
    total = max(total, 0)
    return total // 2, total - total // 2  # the odd cell behind


def pairs(padding, size, window, stride, dilation):
    """padding as (before, after) per axis."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        return tuple(
            same_pair((-(-n // s) - 1) * s + (r - 1) * d + 1 - n)
            for n, r, s, d in zip(size, window, stride, dilation)
        )
    items = (padding,) * len(size) if np.ndim(padding) == 0 else padding
    return tuple((int(p), int(p)) if np.ndim(p) == 0 else tuple(map(int, p)) for p in items)


@dataclass
class Reads:
    """Every (window o, tap t, cell i) with cell i on the image."""

    size: tuple
    window: tuple
    out: tuple
    stride: tuple
    dilation: tuple
    pads: tuple

    def position(self, o, t):
        return tuple(
            a * s - before + b * d
            for a, b, s, d, (before, _) in zip(o, t, self.stride, self.dilation, self.pads)
        )

    def __iter__(self):
        for o in np.ndindex(*self.out):
            for t in np.ndindex(*self.window):
                i = self.position(o, t)
                if all(0 <= p < n for p, n in zip(i, self.size)):
                    yield o, t, i

    def divisors(self, include_pad):
        """Taps of each window inside the image, or inside the padded image."""
        count = np.zeros(self.out)
        for o in np.ndindex(*self.out):
            for t in np.ndindex(*self.window):
                count[o] += all(
                    -before * include_pad <= p < n + after * include_pad
                    for p, n, (before, after) in zip(self.position(o, t), self.size, self.pads)
                )
        return count


def _at(*index):
    """An index of two leading axes and one spatial position."""
    return (slice(None), slice(None), *index)


def windows(size, window, *, stride=1, padding=0, dilation=1, ceil_mode=False):
    axes = len(size)
    window, stride, dilation = (per_axis(v, axes) for v in (window, stride, dilation))
    pads = pairs(padding, size, window, stride, dilation)
    out = []
    for n, r, s, d, (before, after) in zip(size, window, stride, dilation, pads):
        steps = (n + before + after - (r - 1) * d - 1) / s
        count = (math.ceil(steps) if ceil_mode else math.floor(steps)) + 1
        if ceil_mode and (count - 1) * s >= n + before:
            count -= 1
        out.append(count)
    return Reads(tuple(size), window, tuple(out), stride, dilation, pads)


def transpose_windows(size, window, *, stride=1, padding=0, output_padding=0, dilation=1):
    """The reads of the convolution that conv_transpose runs backwards: o is a cell of its x."""
    axes = len(size)
    window, stride, dilation, extra = (
        per_axis(v, axes) for v in (window, stride, dilation, output_padding)
    )
    full = [
        (n - 1) * s + (r - 1) * d + 1 + e
        for n, r, s, d, e in zip(size, window, stride, dilation, extra)
    ]
    if padding == "same":
        pads = tuple(same_pair(f - n * s) for f, n, s in zip(full, size, stride))
        image = [n * s for n, s in zip(size, stride)]
    else:
        pads = pairs(padding, size, window, stride, dilation)
        image = [f - before - after for f, (before, after) in zip(full, pads)]
    return Reads(tuple(image), window, tuple(size), stride, dilation, pads)


# ---- convolution --------------------------------------------------------------------------


def _grouped(array, groups):
    """(N, C) -> (N, G, C/G), or weights (K, C/G) -> (G, K/G, C/G)"""
    return array.reshape(len(array), groups, array.shape[1] // groups)


def _taps(w, t, groups):
    return w[_at(*t)].reshape(groups, -1, w.shape[1])  # (G, K/G, C/G)


@np.errstate(invalid="ignore")
def read(x, w, reads, groups):
    """y[o] += w[t] x[i]"""
    y = np.zeros((len(x), len(w), *reads.out))
    for o, t, i in reads:
        product = _taps(w, t, groups)[None] * _grouped(x[_at(*i)], groups)[:, :, None, :]
        y[_at(*o)] += product.sum(-1).reshape(len(x), len(w))
    return y


@np.errstate(invalid="ignore")
def spread(y, w, reads, groups):
    """x[i] += w[t].T y[o]"""
    x = np.zeros((len(y), w.shape[1] * groups, *reads.size))
    for o, t, i in reads:
        product = _taps(w, t, groups)[None] * _grouped(y[_at(*o)], groups)[..., None]
        x[_at(*i)] += product.sum(2).reshape(x.shape[:2])
    return x


@np.errstate(invalid="ignore")
def weigh(y, x, w_shape, reads, groups):
    """w[t] += y[o] x[i].T, summed over the batch"""
    w = np.zeros(w_shape)
    for o, t, i in reads:
        a, b = _grouped(y[_at(*o)], groups), _grouped(x[_at(*i)], groups)
        w[_at(*t)] += (a[..., None] * b[:, :, None, :]).sum(0).reshape(w_shape[:2])
    return w


def add_bias(y, b):
    return y if b is None else y + b.reshape(-1, *(1,) * (y.ndim - 2))


def sum_of_channel(dy):
    return dy.sum(axis=(0, *range(2, dy.ndim)))


def conv(x, w, b=None, *, groups=1, **options):
    return add_bias(read(x, w, windows(x.shape[2:], w.shape[2:], **options), groups), b)


def conv_backward(dy, x, w, *, groups=1, **options):
    reads = windows(x.shape[2:], w.shape[2:], **options)
    dw = weigh(dy, x, w.shape, reads, groups)
    return spread(dy, w, reads, groups), dw, sum_of_channel(dy)


def conv_transpose(x, w, b=None, *, groups=1, **options):
    return add_bias(spread(x, w, transpose_windows(x.shape[2:], w.shape[2:], **options), groups), b)


def conv_transpose_backward(dy, x, w, *, groups=1, **options):
    reads = transpose_windows(x.shape[2:], w.shape[2:], **options)
    dw = weigh(x, dy, w.shape, reads, groups)
    return read(dy, w, reads, groups), dw, sum_of_channel(dy)


def im2col(x, window, **options):
    """(N, C*R*S, P*Q)"""
    reads = windows(x.shape[2:], window, **options)
    cols = np.zeros((*x.shape[:2], *reads.window, *reads.out))
    for o, t, i in reads:
        cols[_at(*t, *o)] = x[_at(*i)]
    return cols.reshape(len(x), x.shape[1] * math.prod(reads.window), math.prod(reads.out))


def col2im(cols, x_shape, window, **options):
    reads = windows(x_shape[2:], window, **options)
    cols = cols.reshape(*x_shape[:2], *reads.window, *reads.out)
    x = np.zeros(x_shape)
    for o, t, i in reads:
        x[_at(*i)] += cols[_at(*t, *o)]
    return x


# ---- pooling ------------------------------------------------------------------------------


def pool_windows(size, window, *, stride=None, **options):
    return windows(size, window, stride=window if stride is None else stride, **options)


def _winner(values, ties, nan):
    """The position in a list of (tap, value): the rule of the documentation, case by case."""
    nans = [tap for tap, value in values if np.isnan(value)]
    numbers = [(tap, value) for tap, value in values if not np.isnan(value)]
    if nans and nan == "propagate":
        return nans[0]
    if not numbers:
        return nans[0 if ties == "first" else -1]
    largest = max(value for _, value in numbers)
    equal = [tap for tap, value in numbers if value == largest]
    return equal[0 if ties == "first" else -1]


def max_pool(x, window, *, ties="first", nan="propagate", **options):
    """y, winner, and the index in the plane of every winner."""
    reads = pool_windows(x.shape[2:], window, **options)
    seen = {}
    for o, t, i in reads:
        tap = int(np.ravel_multi_index(t, reads.window))
        seen.setdefault(o, {})[tap] = i
    shape = (*x.shape[:2], *reads.out)
    y, winner, index = np.zeros(shape), np.zeros(shape, int), np.zeros(shape, int)
    for n, c in np.ndindex(*x.shape[:2]):
        for o, cells in seen.items():
            values = [(tap, x[(n, c, *i)]) for tap, i in sorted(cells.items())]
            here = (n, c, *o)
            winner[here] = _winner(values, ties, nan)
            won = cells[winner[here]]
            y[here] = x[(n, c, *won)]
            index[here] = np.ravel_multi_index(won, reads.size)
    return y, winner, index


def hand_back(dy, index, x_shape):
    """dx: every window hands its gradient to the cell that won it."""
    dx = np.zeros((*x_shape[:2], math.prod(x_shape[2:])))
    for here in np.ndindex(*dy.shape):
        dx[(*here[:2], index[here])] += dy[here]
    return dx.reshape(x_shape)


def max_unpool(y, index, x_shape):
    x = np.zeros((*x_shape[:2], math.prod(x_shape[2:])))
    for here in np.ndindex(*y.shape):  # row-major: the last one stays
        x[(*here[:2], index[here])] = y[here]
    return x.reshape(x_shape)


def max_unpool_backward(dx, index):
    owner = {(*here[:2], index[here]): here for here in np.ndindex(*index.shape)}
    flat = dx.reshape(*dx.shape[:2], math.prod(dx.shape[2:]))
    dy = np.zeros(index.shape)
    for cell, here in owner.items():
        dy[here] = flat[cell]
    return dy


def avg_pool(x, window, *, count_include_pad=True, **options):
    reads = pool_windows(x.shape[2:], window, **options)
    y = np.zeros((*x.shape[:2], *reads.out))
    for o, _, i in reads:
        y[_at(*o)] += x[_at(*i)]
    return y / reads.divisors(count_include_pad)


def avg_pool_backward(dy, x_shape, window, *, count_include_pad=True, **options):
    reads = pool_windows(x_shape[2:], window, **options)
    dx, share = np.zeros(x_shape), dy / reads.divisors(count_include_pad)
    for o, _, i in reads:
        dx[_at(*i)] += share[_at(*o)]
    return dx
