"""Convolution as textbooks write it: im2col, a matrix product, and col2im back.

Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document
Processing" (2006), section 4.
"""

import numpy as np

# ---- windows on a padded image, also used by pool.py --------------------------------------


def padded(x, geometry):
    """x with its padding written out: (N, C, D, H, W) -> (N, C, before + D + behind, ...).

    Behind there are as many zeros as asked for, or more where ceil_mode lets a window reach out.
    """
    g = geometry
    asked = np.add(g.size, g.before) + g.after
    reached = (np.array(g.out) - 1) * g.stride + (np.array(g.window) - 1) * g.dilation + 1
    image = np.zeros((*x.shape[:2], *np.maximum(asked, reached)), np.float64)
    image[inner(g)] = x
    return image


def inner(geometry):
    """Where the image lies inside the padded image."""
    g = geometry
    return (..., *(slice(before, before + n) for before, n in zip(g.before, g.size)))


def reads(geometry, tap):
    """The cells of the padded image that every window reads through one tap: (N, C, Z, P, Q)."""
    g = geometry
    first = [t * dilation for t, dilation in zip(tap, g.dilation)]
    return (
        ...,
        *(slice(f, f + (o - 1) * s + 1, s) for f, o, s in zip(first, g.out, g.stride)),
    )


def unrolled(x, geometry):
    """(N, C, D, H, W) -> (N, C, T, R, S, Z, P, Q): what each window reads through each tap."""
    image = padded(x, geometry)
    cols = np.empty((*x.shape[:2], *geometry.window, *geometry.out), np.float64)
    for tap in np.ndindex(*geometry.window):
        cols[(slice(None), slice(None), *tap)] = image[reads(geometry, tap)]
    return cols


def rolled(cols, geometry):
    """The transpose of `unrolled`: every entry is added to the cell it was read from."""
    image = padded(np.zeros((*cols.shape[:2], *geometry.size)), geometry)
    for tap in np.ndindex(*geometry.window):
        image[reads(geometry, tap)] += cols[(slice(None), slice(None), *tap)]
    return image[inner(geometry)]


def inside(geometry):
    """(T, R, S, Z, P, Q): True where that tap of that window lies on the image."""
    return unrolled(np.ones((1, 1, *geometry.size)), geometry)[0, 0] == 1


# ---- the matrices of one convolution ------------------------------------------------------


def _weight_matrix(w, geometry):
    """(K, C/G, T, R, S) -> (G, K/G, C/G*T*R*S)"""
    g = geometry
    return w.astype(np.float64).reshape(g.groups, g.out_channels // g.groups, -1)


def _output_matrix(dy, geometry):
    """(N, K, Z, P, Q) -> (N, G, K/G, Z*P*Q)"""
    g = geometry
    return dy.astype(np.float64).reshape(g.batch, g.groups, g.out_channels // g.groups, g.out_plane)


def _column_matrix(cols, geometry):
    """(N, C, T, R, S, Z, P, Q) -> (N, G, C/G*T*R*S, Z*P*Q)"""
    g = geometry
    rows = g.in_channels // g.groups * g.taps
    return cols.reshape(len(cols), g.groups, rows, g.out_plane)


def _present(geometry):
    """The column matrix of `inside`: (1, G, C/G*T*R*S, Z*P*Q)"""
    g = geometry
    here = np.broadcast_to(inside(g), (1, g.in_channels, *g.window, *g.out))
    return _column_matrix(here, g)


def _product(a, b, present):
    """a @ b over those entries of b that are present: the 0 of a padding cell stays out.

    It matters only where a is not finite, since inf * 0 would be NaN.
    """
    if np.isfinite(a).all():
        return a @ b
    total = np.zeros(np.broadcast_shapes(a.shape[:-1] + (1,), b.shape[:-2] + (1, b.shape[-1])))
    for i in range(a.shape[-1]):
        row = slice(i, i + 1)
        total += np.where(present[..., row, :], a[..., row] * b[..., row, :], 0)
    return total


# ---- kernels ------------------------------------------------------------------------------


@np.errstate(all="ignore")
def conv_forward(y, x, w, b, geometry, plan, workspace):
    cols = _column_matrix(unrolled(x, geometry), geometry)
    out = _product(_weight_matrix(w, geometry), cols, _present(geometry)).reshape(y.shape)
    y[...] = out if b is None else out + b.astype(np.float64).reshape(-1, 1, 1, 1)


@np.errstate(all="ignore")
def conv_dx(dx, dy, w, b, geometry, plan, workspace):
    g = geometry
    cols = _weight_matrix(w, g).swapaxes(-1, -2) @ _output_matrix(dy, g)
    out = rolled(cols.reshape(g.batch, g.in_channels, *g.window, *g.out), g)
    dx[...] = out if b is None else out + b.astype(np.float64).reshape(-1, 1, 1, 1)


@np.errstate(all="ignore")
def conv_dw(dw, db, dy, x, geometry, plan, workspace):
    cols = _column_matrix(unrolled(x, geometry), geometry).swapaxes(-1, -2)
    per_image = _product(
        _output_matrix(dy, geometry), cols, _present(geometry).swapaxes(-1, -2)
    )  # (N, G, K/G, C/G*T*R*S)
    dw[...] = per_image.sum(axis=0).reshape(dw.shape)
    if db is not None:
        bias_gradient(db, dy, plan, workspace)


@np.errstate(all="ignore")
def bias_gradient(db, dy, plan, workspace):
    db[...] = dy.sum(axis=(0, 2, 3, 4), dtype=np.float64)


@np.errstate(all="ignore")
def im2col(cols, x, geometry, plan, workspace):
    cols[...] = unrolled(x, geometry)


@np.errstate(all="ignore")
def col2im(x, cols, geometry, plan, workspace):
    x[...] = rolled(cols, geometry)
