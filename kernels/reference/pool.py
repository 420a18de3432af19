"""Pooling: the largest element of a window and where it sat, or the window's average."""

import numpy as np

from .conv import inside, padded, reads, rolled, unrolled

# ---- max pooling --------------------------------------------------------------------------


@np.errstate(all="ignore")
def max_pool_forward(y, winner, x, geometry, ties, nan, plan, workspace):
    image = padded(x, geometry)
    present = inside(geometry)
    best = np.zeros(geometry.y_shape)
    position = np.full(geometry.y_shape, -1)  # -1: no candidate yet
    for number, tap in enumerate(np.ndindex(*geometry.window)):  # row-major
        candidate = image[reads(geometry, tap)]
        wins = present[tap] & ((position == -1) | _beats(candidate, best, ties, nan))
        best = np.where(wins, candidate, best)
        position = np.where(wins, number, position)
    y[...] = best
    if winner is not None:
        winner[...] = position


def _beats(new, old, ties, nan):
    """Does the later element of the window win over the best one so far?"""
    equal = (new == old) & (ties == "last")
    new_nan, old_nan = np.isnan(new), np.isnan(old)
    if nan == "propagate":  # the first NaN wins for good
        return ~old_nan & (new_nan | (new > old) | equal)
    both = new_nan & old_nan & (ties == "last")  # NaN ranks below -inf, and equal to NaN
    return ~new_nan & (old_nan | (new > old) | equal) | both


@np.errstate(all="ignore")
def max_pool_backward(dx, dy, winner, bad, geometry, plan, workspace):
    if bad != -1:
        return
    total = np.zeros((geometry.batch, geometry.channels, geometry.plane))
    np.add.at(total, _cells(winner, geometry), dy)
    dx[...] = total.reshape(dx.shape)


def max_unpool_forward(x, y, winner, bad, geometry, plan, workspace):
    if bad != -1:
        return
    image = np.zeros((geometry.batch, geometry.channels, geometry.plane), x.dtype)
    n, c, cells = _cells(winner, geometry)
    for window in np.ndindex(*geometry.out):  # row-major: the last one stays
        here = (..., *window)
        image[n[..., 0, 0, 0], c[..., 0, 0, 0], cells[here]] = y[here]
    x[...] = image.reshape(x.shape)


def max_unpool_backward(dy, dx, winner, bad, geometry, plan, workspace):
    if bad != -1:
        return
    number = np.arange(geometry.out_plane).reshape(geometry.out)  # names the window
    kept = np.empty(geometry.x_shape, np.int64)
    windows = np.broadcast_to(number, geometry.y_shape)
    max_unpool_forward(kept, windows, winner, bad, geometry, plan, workspace)
    cells = _cells(winner, geometry)
    planes = (geometry.batch, geometry.channels, geometry.plane)
    dy[...] = np.where(kept.reshape(planes)[cells] == number, dx.reshape(planes)[cells], 0)


# ---- winners and indices ------------------------------------------------------------------


def _axis_positions(geometry, winner):
    """The input position of each winner on each axis, and whether the winner is a tap at all."""
    g = geometry
    winner = winner.astype(np.int64)
    tap = np.unravel_index(winner % g.taps, g.window)
    windows = np.ogrid[tuple(slice(o) for o in g.out)]
    positions = [
        o * s - before + t * d
        for o, s, before, t, d in zip(windows, g.stride, g.before, tap, g.dilation)
    ]
    return positions, winner < g.taps


def _cells(winner, geometry):
    """(n, c, position in the plane) of every winner: an index into (N, C, D*H*W)."""
    _, height, width = geometry.size
    (d, h, w), _ = _axis_positions(geometry, winner)
    n, c = np.ogrid[: geometry.batch, : geometry.channels]
    return n[..., None, None, None], c[..., None, None, None], (d * height + h) * width + w


def _first(bad):
    """The flat position of the first True, or -1."""
    return int(np.argmax(bad)) if bad.any() else -1


def check_winner(winner, geometry, plan, workspace):
    positions, good = _axis_positions(geometry, winner)
    for position, size in zip(positions, geometry.size):
        good = good & (position >= 0) & (position < size)
    return _first(~good)


def winner_to_index(index, winner, bad, geometry, plan, workspace):
    if bad == -1:
        index[...] = _cells(winner, geometry)[2]


def _taps_of(index, geometry):
    """The tap through which each window reads a plane index, per axis, and whether it does."""
    g = geometry
    index = index.astype(np.int64)
    good = (index >= 0) & (index < g.plane)
    cell = np.unravel_index(np.where(good, index, 0), g.size)
    taps = []
    for axis, o in enumerate(np.ogrid[tuple(slice(o) for o in g.out)]):
        offset = cell[axis] - (o * g.stride[axis] - g.before[axis])
        tap, rest = np.divmod(offset, g.dilation[axis])
        good = good & (rest == 0) & (tap >= 0) & (tap < g.window[axis])
        taps.append(tap)
    return taps, good


def check_index_in_window(index, geometry, plan, workspace):
    return _first(~_taps_of(index, geometry)[1])


def index_to_winner(winner, index, bad, geometry, plan, workspace):
    if bad != -1:
        return
    (t, r, s), _ = _taps_of(index, geometry)
    _, rows, columns = geometry.window
    winner[...] = (t * rows + r) * columns + s


# ---- average pooling ----------------------------------------------------------------------


def _divisor(geometry, count_include_pad):
    """(Z, P, Q): taps inside the image, or inside the padded image, that each window has."""
    g = geometry
    count = np.ones((1, 1, 1))
    for axis in range(3):
        o, tap = np.ogrid[: g.out[axis], : g.window[axis]]
        position = o * g.stride[axis] - g.before[axis] + tap * g.dilation[axis]
        low, high = 0, g.size[axis]
        if count_include_pad:
            low, high = -g.before[axis], high + g.after[axis]
        counted = ((position >= low) & (position < high)).sum(axis=1)
        count = count * np.expand_dims(counted, tuple({0, 1, 2} - {axis}))
    return count


@np.errstate(all="ignore")
def avg_pool_forward(y, x, geometry, count_include_pad, plan, workspace):
    y[...] = unrolled(x, geometry).sum(axis=(2, 3, 4)) / _divisor(geometry, count_include_pad)


@np.errstate(all="ignore")
def avg_pool_backward(dx, dy, geometry, count_include_pad, plan, workspace):
    share = (dy / _divisor(geometry, count_include_pad))[:, :, None, None, None]
    taps = (geometry.batch, geometry.channels, *geometry.window, *geometry.out)
    dx[...] = rolled(np.broadcast_to(share, taps), geometry)
