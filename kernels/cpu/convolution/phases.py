"""Dilated convolutions as undilated ones of the images' phases, and only of what they read.

Every d-th cell of an image, from cell a on, is its phase a: a convolution of dilation d and stride
1 is d undilated ones, of phase after phase, on each axis.  The phases are copied into a batch of
small images (phase_copies.py), which any algorithm convolves, and their results are copied back.

Before that the window is cut to the taps that meet the image at all, the result to the outputs
that see it, and the image to what they read, all as views: what is left out is multiplied by
nothing but padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..emitted.vectors import ITEMSIZE, LANES
from . import columns
from .phase_copies import Move, gather, scatter

#: Bytes of the copies of both images, if a single phase takes no more: what costs least of those
#: that leave the whole workspace small enough to be kept between calls, or else the last.
COPY_BYTES = [n * 1024 * 1024 for n in (16, 8, 4, 2)]

#: A window of more taps on an axis is looked at by none of this.
TAPS = 4096


class Near(NamedTuple):
    """One axis of a convolution without the taps, outputs and cells that add nothing to it."""

    tap: int  # first ones
    output: int
    cell: int
    apart: int  # every so many cells of the image are read, if any
    size: int
    window: int
    out: int
    stride: int
    dilation: int
    before: int
    after: int


class Copies(NamedTuple):
    """A batch of small images."""

    count: int
    size: tuple
    at: int  # where in the workspace, in bytes
    move: Move


@dataclass(frozen=True)
class Program:
    inner: object  # the plan of the undilated convolution
    taps: tuple  # of w, outputs of y, cells of x: slices that cut them to what is read
    outputs: tuple
    cells: tuple
    whole: tuple  # whether that is all of them
    batches: int  # of phases; 0 where the views serve as they are
    units: int  # of a batch
    of_x: Copies | None
    of_y: Copies | None
    dw_at: int  # where in the workspace the sums of a later batch lie, in bytes
    size: int  # of the workspace, in bytes


def nearer(g):
    """The axes as `Near`, or None where no tap meets the image on one of them."""
    if max(g.window) > TAPS or 0 in g.y_shape:
        return None
    axes = [_near(*axis) for axis in zip(g.size, g.window, g.out, g.stride, g.dilation, g.before)]
    return None if None in axes else axes


def _near(size, window, out, stride, dilation, before):
    met = []
    for tap in range(window):
        offset = tap * dilation - before
        first = max(0, -(offset // stride))
        last = min(out - 1, (size - 1 - offset) // stride)
        if first <= last:
            met.append((tap, first, last))
    if not met:
        return None
    tap, output = met[0][0], min(first for _, first, _ in met)
    window, out = met[-1][0] - tap + 1, max(last for _, _, last in met) - output + 1
    cell = output * stride + tap * dilation - before
    if window == 1:
        dilation = 1
    elif out == 1:
        stride = dilation
    apart = math.gcd(stride, dilation)
    stride, dilation = stride // apart, dilation // apart
    lead = 0 if cell >= 0 else -(cell // apart)
    cell += lead * apart
    reads = (out - 1) * stride + (window - 1) * dilation + 1 - lead
    size = min(-(-(size - cell) // apart), reads)
    return Near(tap, output, cell, apart, size, window, out, stride, dilation, lead, reads - size)


def geometry(g, axes):
    """The convolution of the views."""
    names = ("size", "window", "out", "stride", "dilation", "before", "after")
    return replace(g, **{name: tuple(getattr(axis, name) for axis in axes) for name in names})


#: Of the multiply-adds, the part that must be spared for views alone.
SPARED = 0.2


def serves(g, near) -> bool:
    """Is there a dilation, or enough that adds nothing?"""
    return (max(near.dilation) > 1 or near.dilation != g.dilation
            or near.multiply_adds <= (1 - SPARED) * g.multiply_adds)  # fmt: skip


def phase_geometry(g):
    """The undilated convolution of all phases of geometry ``g``, a batch of small images."""
    axes = [_phase(*axis) for axis in zip(g.size, g.window, g.out, g.stride, g.dilation, g.before)]
    size, out, before, after = zip(*axes)
    return replace(g, batch=g.batch * math.prod(g.dilation), size=size, out=out, before=before,
                   after=after, dilation=(1, 1, 1))  # fmt: skip


def _phase(size, window, out, stride, dilation, before):
    """Cell i of phase a of the image is its cell dilation*(i + lead) + stride*a - before."""
    out = -(-out // dilation)
    lead = max(0, (before + (dilation - 1) * (1 - stride)) // dilation)
    reads = (out - 1) * stride + window - lead
    size = min(-(-(size + before) // dilation) - lead, reads)
    return size, out, lead, reads - size


def build(operation, g, axes, dtype, limit, kept, plan, cost,
          choices=None) -> tuple[Program, object, int]:  # fmt: skip
    """The program, the geometry that its inner plan is for, and which of ``choices`` it is.

    ``plan(geometry, limit)`` plans the undilated convolution; ``limit`` in bytes or None; a
    workspace of ``kept`` bytes is kept between calls; ``cost(program, geometry, dtype)`` or None.
    """
    near = geometry(g, axes)
    taps, outputs = (tuple(slice(getattr(axis, first), getattr(axis, first) + getattr(axis, count))
                           for axis in axes)
                     for first, count in (("tap", "window"), ("output", "out")))  # fmt: skip
    cells = tuple(slice(axis.cell, axis.cell + (axis.size - 1) * axis.apart + 1, axis.apart)
                  for axis in axes)  # fmt: skip
    whole = (near.window == g.window, near.out == g.out, near.size == g.size)
    views = taps, outputs, cells, whole
    if max(near.dilation) == 1:
        inner = plan(near, limit)
        return Program(inner, *views, 0, 0, None, None, 0, inner.workspace_bytes), near, 0
    found, least = None, math.inf
    for most in choices or COPY_BYTES:
        if limit is not None:
            most = min(most, limit // 2)
        pair = *_batches(operation, near, views, dtype, limit, most, plan), most
        takes = (cost(*pair[:2], dtype) or 0) if pair[0].size <= kept else math.inf
        if takes < least:
            found, least = pair, takes
        if pair[0].batches == 1 and takes < math.inf:
            break  # less room makes more batches
    return found or pair


def _batches(operation, near, views, dtype, limit, most, plan):
    """With copies of at most ``most`` bytes, if there can be."""
    one, item = phase_geometry(near), ITEMSIZE[dtype]
    each = item * (one.in_channels * one.plane + one.out_channels * one.out_plane)
    phases = near.dilation[2]
    parts = -(-phases // max(1, min(phases, most // each)))
    wide = -(-phases // parts)
    total = near.batch * near.dilation[0] * near.dilation[1] * parts
    batches = -(-total // max(1, min(total, most // (wide * each))))
    units = -(-total // batches)
    one = replace(one, batch=units * wide)
    summed = operation == "conv_dw" and batches > 1
    sizes = [-(-item * math.prod(shape) // 64) * 64 for shape in (one.x_shape, one.y_shape)]
    sizes.append(item * math.prod(one.w_shape) if summed else 0)
    inner = plan(one, None if limit is None else limit - sum(sizes))
    at = -(-inner.workspace_bytes // 64) * 64
    shares = wide, parts, total, 0, LANES[dtype]
    of_x = Copies(one.batch, one.size, at, _move(near, one, shares))
    of_y = Copies(one.batch, one.out, at + sizes[0],
                  Move(*near.dilation, 1, 1, 1, 0, 0, 0, *one.out, *shares))  # fmt: skip
    return Program(inner, *views, batches, units, of_x, of_y, at + sum(sizes[:2]),
                   at + sum(sizes)), one  # fmt: skip


def _move(near, one, shares):
    """Where the cells of x are in the phases of geometry ``one``."""
    base = [d * lead - before for d, lead, before in zip(near.dilation, one.before, near.before)]
    return Move(*near.dilation, *near.stride, *base, *one.size, *shares)


def convolve(drivers, v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, T, R, S) + bias, for the forward pass and dx.

    False, and v is to be computed otherwise, if the algorithm for the phases is not for these data.
    """
    p, forward = plan.program, plan.operation == "conv_forward"
    if not p.whole[1 if forward else 2] or (not forward and p.batches and _skips(p.of_x.move)):
        v[...] = bias.reshape(-1, 1, 1, 1) if bias.size else 0
    seen = (p.outputs, p.cells) if forward else (p.cells, p.outputs)
    v, u = (image[:, :, *slices] for image, slices in zip((v, u), seen))
    w = w[:, :, :, *p.taps]
    run = drivers[p.inner.algorithm]
    if not p.batches:
        return run(v, u, w, bias, p.inner, workspace)
    target, source = (_copy(image, of_y, p, workspace)
                      for image, of_y in ((v, forward), (u, not forward)))  # fmt: skip
    found = np.zeros(1, np.int64)
    for first in range(0, p.batches * p.units, p.units):
        gather(v.dtype, plan.threads, source.flat, found[:0], u, first, p.units, source.move)
        if not run(target.images, source.images, w, bias, p.inner, workspace):
            return False
        scatter(v.dtype, plan.threads, v, found, target.flat, first, p.units, target.move)
        if found[0] and not np.isfinite(w).all():
            return False  # zeros behind a phase's end were multiplied
    return True


def reduce(drivers, dw, db, dy, x, plan, workspace) -> bool:
    """dw, and db unless it is empty; False as `convolve`."""
    p = plan.program
    if not p.whole[0]:
        dw[...] = 0
    if db.size and not p.whole[1]:
        columns.bias_gradient(db.dtype, plan.threads, db, dy)
        db = db[:0]
    dw, dy, x = dw[:, :, *p.taps], dy[:, :, *p.outputs], x[:, :, *p.cells]
    run = drivers[p.inner.algorithm]
    if not p.batches:
        return run(dw, db, dy, x, p.inner, workspace)
    sources = [(dy, _copy(dy, True, p, workspace)), (x, _copy(x, False, p, workspace))]
    found, sums = np.zeros(1, np.int64), (dw, db)
    for first in range(0, p.batches * p.units, p.units):
        for image, copy in sources:
            gather(dw.dtype, plan.threads, copy.flat, found, image, first, p.units, copy.move)
            if found[0]:
                return False  # zeros behind a phase's end would be multiplied
        if first:
            room = workspace[p.dw_at : p.dw_at + dw.nbytes].view(dw.dtype)
            sums = room.reshape(dw.shape), np.empty_like(db)
        if not run(*sums, *(copy.images for _, copy in sources), p.inner, workspace):
            return False
        if first:
            dw += sums[0]
            db += sums[1]
    return True


def _skips(move):
    """May there be cells of x that are in no phase?"""
    return any(apart > 1 for apart, dilation in zip(move[3:6], move[:3]) if dilation > 1)


class _Copy(NamedTuple):
    """A batch of small images."""

    flat: np.ndarray
    images: np.ndarray
    move: Move


def _copy(image, of_y, p, workspace):
    """Room for the phases of an image, y's or x's, in its own layout."""
    count, size, at, move = p.of_y if of_y else p.of_x
    channels = image.shape[1]
    shape = (count, channels, *size)
    flat = workspace[at : at + math.prod(shape) * image.itemsize].view(image.dtype)
    if image.strides[1] == image.itemsize and channels > 1:
        images = np.moveaxis(flat.reshape(count, *size, channels), -1, 1)
        return _Copy(flat, images, move._replace(last=1))
    return _Copy(flat, flat.reshape(shape), move)
