"""Convolutions with windows of 1 x 1: matrix products on the images as they lie.

An image whose pixels lie side by side is a matrix (C, P), pixels along its rows; with channels
last the whole batch is one such matrix, of N * P pixels along its columns.  On either

    y = w @ x  (K, C) @ (C, P)        dx = w^T @ dy        dw = sum of dy @ x^T over the matrices

A stride is taken out of x before, or put back into dx afterwards.  Groups are products one after
the other.  Small images are one product too, whose columns are brought together
(joined_product.py), and images of one pixel are rows of a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ..amx import amx_matmul, amx_pointwise, amx_pointwise_dw
from ..convolution import columns
from ..convolution.implicit_gemm import in_one_row
from ..emitted.memory import load, step, store
from ..emitted.padded_rows import pad_row, take_even
from ..emitted.vectors import copy_row, fill_row, spread_even
from ..jit import array, inlined, kernel, out, prange, triple
from . import (grouped_product, inner_product, joined_dw, joined_product, pixel_rows, pixel_strips,
               planned_product)  # fmt: skip

#: With fewer channels, in or out, than a vector has lanes the pixel-major tile is ahead.
LEAST_CHANNELS = 16

#: Pixels of a batch, for the same reason.
LEAST_BATCH = 128

#: Pixels of an image from which on they fill the vector tile's columns well.
LEAST_PIXELS = 128


#: What reads images otherwise than one by one.
_JOINED = amx_pointwise.Program, joined_dw.Program, joined_product.Program


@dataclass(frozen=True)
class Program:
    images: object  # the plan of the product with each image, or None: another way is ahead
    batch: object  # the plan of the product with the whole batch as one matrix
    stride: tuple[int, int, int]
    shape: tuple[int, ...]  # of x or dx without the stride
    at: int  # of the pixels without the stride in the workspace, in bytes
    size: int  # of the workspace, in bytes
    lone: bool  # have images one pixel, and batches are matrices (N, C)?

    @property
    def strided(self) -> bool:
        return self.stride != (1, 1, 1)


def serves(g) -> bool:
    """Is this a window of 1 without padding, of channels and pixels enough?

    Images of one pixel are rows of a matrix, of any size, in either layout.
    """
    channels = min(g.in_channels, g.out_channels) // g.groups
    if g.taps > 1 or any((*g.before, *g.after)):
        return False
    enough = channels >= LEAST_CHANNELS and g.batch * g.out_plane >= LEAST_BATCH
    return enough or of_one_pixel(g)


def build(g, images, batch, itemsize) -> Program:
    """``images`` and ``batch`` are the products' plans."""
    inner = max(plan.workspace_bytes for plan in (images, batch) if plan)
    at = -(-inner // 64) * 64
    shape = (g.batch, g.in_channels, 1, 1, g.out_plane)
    size = at + (prod(shape) * itemsize if g.stride != (1, 1, 1) else 0)
    return Program(images, batch, g.stride, shape, at, size, of_one_pixel(g))


def of_one_pixel(g) -> bool:
    """Are images one pixel of one group?"""
    return g.plane == 1 and g.groups == 1


def convolve(v, u, w, bias, plan, workspace) -> bool:
    """v = u convolved with w (G, rows, channels, 1, 1, 1), plus bias, for the forward pass and dx.

    False, and v is to be computed otherwise, if the arrays lie otherwise, or the product says so.
    """
    program = plan.program
    if program.lone:
        product = program.batch
        if product.algorithm == "inner":
            inner_product.run(v[:, :, 0, 0, 0], u[:, :, 0, 0, 0], w[0, :, :, 0, 0, 0], bias[None],
                              product, workspace)  # fmt: skip
            return True
        y, x = v[None, :, :, 0, 0, 0], u[None, None, :, :, 0, 0, 0]
        factor = w[:, None, :, :, 0, 0, 0].swapaxes(2, 3)
        return planned_product.product(product, y, x, factor, bias[None], workspace)
    back = program.strided and plan.operation == "conv_dx"  # does v get the stride?
    target = _thin(v, program, workspace) if back else v
    served = None
    if _has_runs(program, amx_pointwise) and not _channels_last(target):
        served = amx_pointwise.run(target, u, w[0, :, :, 0, 0, 0], bias, program.images, workspace)
    elif _has_runs(program, joined_product) and not (_channels_last(target) and _channels_last(u)):
        served = _joined(target, u, w, bias, plan, workspace)
    elif program.strided and not back and program.batch.algorithm == "amx":
        served = _strided(v, u, w, bias, program, workspace)
    if served is None:
        source = u if back else _without_stride(u, plan, workspace)
        served = _products(target, source, w, bias, program, workspace)
    if served and back:
        put(v.dtype, plan.threads, v, target, bias, program.stride)
    return served


def _strided(v, u, w, bias, program, workspace):
    """The product on AMX tiles with every few pixels of u; None where one is not many channels."""
    if not (_channels_last(v) and _channels_last(u)) or len(w) > 1 or v.shape[2] > 1:
        return None
    target, (_, row, pixel) = _as_one(v), program.stride
    if target is None:
        return None
    image, line, apart = (u.strides[axis] // u.itemsize for axis in (0, 3, 4))
    places = v.shape[4], v.shape[3], row * line, image
    pixels = u[:1, :, 0, 0, ::pixel]  # the first row of them
    return amx_matmul.run(target, w[:1, :, :, 0, 0, 0][None], pixels[None], bias[:, None],
                          program.batch, workspace, places)  # fmt: skip


def _products(v, u, w, bias, program, workspace) -> bool:
    """The products of one group after the other."""
    inner, targets, sources = _matrices(v, u, program)
    if inner is None:
        return False
    if inner.algorithm == "strips" and not pixel_strips.fits(targets, sources):
        inner = inner.otherwise()
    if inner is program.batch and grouped_product.fits(inner, len(w)):
        grouped_product.run(targets[0], sources[0], w[..., 0, 0, 0], bias, inner, workspace)
        return True
    for g, (target, source) in enumerate(_groups(len(w), targets, sources)):
        weights, biases = w[g, :, :, 0, 0, 0], bias[g * w.shape[1] : (g + 1) * w.shape[1]]
        if inner.algorithm == "strips":
            pixel_strips.run(target, weights, source, biases, inner, workspace)
            continue
        weights = np.broadcast_to(weights, (len(target), 1, *weights.shape))
        if not planned_product.product(inner, target, weights, source[:, None], biases[:, None],
                                       workspace):  # fmt: skip
            return False
    return True


def _joined(v, u, w, bias, plan, workspace):
    """One product of each group with the pixels of all images; None if these lie otherwise."""
    for g, (target, source) in enumerate(_groups(len(w), v, u)):
        weights, biases = w[g, :, :, 0, 0, 0], bias[g * w.shape[1] : (g + 1) * w.shape[1]]
        if not joined_product.run(target, source, weights, biases, plan.program.images.program,
                                  plan.threads, workspace):  # fmt: skip
            return None
    return True


def reduce(dw, db, dy, x, plan, workspace) -> bool:
    """dw from dy and x, and db of dy if it has elements; False as `convolve`."""
    program = plan.program
    if program.lone:
        return _reduce_lone(dw, db, dy, x, plan, workspace)
    # with channels last patches.py gives images one by one that were planned as one row of pixels
    planned = (len(dy), prod(dy.shape[2:])) == (program.shape[0], program.shape[4])
    if _has_runs(program, amx_pointwise_dw) and planned:
        return amx_pointwise_dw.run(dw, db, dy, x, program.images, workspace)
    if _has_runs(program, joined_dw) and planned and _reduce_joined(dw, dy, x, plan, workspace):
        if db.size:
            columns.bias_gradient(db.dtype, plan.threads, db, dy)
        return True
    inner, dys, xs = _matrices(dy, _without_stride(x, plan, workspace), program)
    if inner is None:
        return False
    if inner.algorithm == "rows" and not pixel_rows.fits(dys, xs):
        inner = inner.otherwise()
    sums = db[None, :, None] if inner.algorithm == "rows" else db[None, :0, None]
    groups = _groups(xs.shape[1] // dw.shape[1], dw[None, :, :, 0, 0, 0], sums, dys, xs)
    for target, biases, left, right in groups:
        if inner.algorithm == "rows":
            pixel_rows.run(target[0], biases[0, :, 0], left, right, inner, workspace)
        elif not planned_product.product(inner, target, left[None], right[None].swapaxes(2, 3),
                                         planned_product.NO_BIASES[dw.dtype],
                                         workspace):  # fmt: skip
            return False
    if db.size and inner.algorithm != "rows":  # a product reads dy where it lies
        columns.bias_gradient(db.dtype, plan.threads, db, dy)
    return True


def _reduce_joined(dw, dy, x, plan, workspace) -> bool:
    """dw, group by group, from the pixels of all images; False if these lie otherwise."""
    for target, left, right in _groups(x.shape[1] // dw.shape[1], dw[None, :, :, 0, 0, 0], dy, x):
        if not joined_dw.run(target[0], left, right, plan.program.images.program, plan.threads,
                             workspace):  # fmt: skip
            return False
    return True


def _reduce_lone(dw, db, dy, x, plan, workspace):
    left, right = (image[None, None, :, :, 0, 0, 0] for image in (dy, x))
    if not planned_product.product(plan.program.batch, dw[None, :, :, 0, 0, 0],
                                   left.swapaxes(2, 3), right, planned_product.NO_BIASES[dw.dtype],
                                   workspace):  # fmt: skip
        return False
    if db.size:
        columns.bias_gradient(db.dtype, plan.threads, db, dy)
    return True


def _groups(count, *matrices):
    """What of each matrix (n, channels, P) is a group's."""
    sizes = [matrix.shape[1] // count for matrix in matrices]
    for g in range(count):
        yield tuple(matrix[:, g * size : (g + 1) * size] for matrix, size in zip(matrices, sizes))


def _has_runs(program, driver) -> bool:
    """Does a driver serve the images that takes a stride out on the way?"""
    return program.images is not None and isinstance(program.images.program, driver.Program)


def _without_stride(x, plan, workspace):
    """x, or a copy of the pixels that the stride leaves."""
    if not plan.program.strided:
        return x
    thin = _thin(x, plan.program, workspace)
    take(x.dtype, plan.threads, thin, x, plan.program.stride)
    return thin


def _matrices(one, other, program):
    """The plan of the product, and both images as matrices (n, C, P); Nones where they are none."""
    if _channels_last(one) and _channels_last(other):
        pair = [_as_one(image) for image in (one, other)]
        if not any(image is None for image in pair):
            return program.batch, *pair
    pair = [in_one_row(image) for image in (one, other)]
    lying = all(image is not None and image.itemsize in (image.strides[1], image.strides[4])
                for image in pair)  # fmt: skip
    if program.images is None or not lying:
        return None, None, None
    images = program.images
    if isinstance(images.program, _JOINED):
        images = images.otherwise()
    if images is None:
        return None, None, None
    return images, *(image[:, :, 0, 0] for image in pair)


def _channels_last(image):
    return image.strides[1] == image.itemsize


def _as_one(image):
    """A batch of images with channels last as (1, C, N*P), or None where that takes a copy."""
    rows = np.moveaxis(image, 1, -1)
    matrix = rows.reshape(-1, image.shape[1])
    return matrix.T[None] if np.may_share_memory(matrix, image) else None


def _thin(strided, program, workspace):
    """Room for the pixels that the stride leaves, in the layout of ``strided``."""
    n, c, *pixels = program.shape
    size = prod(program.shape) * strided.itemsize
    room = workspace[program.at : program.at + size].view(strided.dtype)
    if _channels_last(strided):
        return np.moveaxis(room.reshape(n, *pixels, c), -1, 1)
    return room.reshape(program.shape)


@kernel(lambda F: (out(F, 5), array(F, 5), triple))
def take(thin, x, stride):
    """thin (N, C, 1, 1, pixels) = every stride-th pixel of x (N, C, D, H, W)."""
    N, C, D, H, W = x.shape
    width = (W + stride[2] - 1) // stride[2]
    channels = C if step(thin, 1) == 1 else 1  # those that lie side by side are one task
    tasks = C // channels
    for task in prange(N * tasks):
        n, c = task // tasks, task % tasks
        to = n * step(thin, 0) + c * step(thin, 1)
        for d in range(0, D, stride[0]):
            if channels == 1 and stride[2] * step(x, 4) == 2:
                rows = (H + stride[1] - 1) // stride[1]
                start = n * step(x, 0) + c * step(x, 1) + d * step(x, 2)
                take_even(thin, to, x, start, stride[1] * step(x, 3), rows, width)
                to += rows * width
                continue
            for h in range(0, H, stride[1]):
                start = n * step(x, 0) + c * step(x, 1) + d * step(x, 2) + h * step(x, 3)
                if channels == 1:
                    pad_row(thin, to, x, start, stride[2] * step(x, 4), 0, width, width)
                else:
                    for w in range(width):
                        copy_row(thin, to + w * C, x, start + w * stride[2] * step(x, 4), C)
                to += width * step(thin, 4)


@kernel(lambda F: (out(F, 5), array(F, 5), array(F, 1), triple))
def put(x, thin, bias, stride):
    """Every stride-th pixel of x (N, C, D, H, W) = thin; the others are the bias, or zero."""
    N, C, D, H, W = x.shape
    width = (W + stride[2] - 1) // stride[2]
    channels = C if step(thin, 1) == 1 else 1
    tasks = C // channels
    for task in prange(N * tasks * D):
        n, c, d = task // (tasks * D), task // D % tasks, task % D
        rows = (H + stride[1] - 1) // stride[1]
        start = n * step(thin, 0) + c * step(thin, 1)
        start += d // stride[0] * rows * width * step(thin, 4)
        for h in range(H):
            to = n * step(x, 0) + c * step(x, 1) + d * step(x, 2) + h * step(x, 3)
            taken = d % stride[0] == 0 and h % stride[1] == 0
            if channels == 1:
                _put_row(x, to, thin, start, bias, c, stride[2], width, taken)
            else:
                _put_pixels(x, to, thin, start, bias, stride[2], taken)
            start += width * step(thin, 4) if taken else 0


@inlined
def _put_row(x, to, thin, start, bias, c, stride, width, taken):
    """A row of one channel."""
    value = load(bias, c * step(bias, 0)) if bias.size else x.dtype.type(0)
    if step(x, 4) == 1:
        fill_row(x, to, value, x.shape[4])
    else:
        for w in range(x.shape[4]):
            store(x, to + w * step(x, 4), value)
    if not taken:
        return
    if step(x, 4) * stride == 2:
        spread_even(x, to, thin, start, width)
    else:
        for q in range(width):
            store(x, to + q * stride * step(x, 4), load(thin, start + q))


@inlined
def _put_pixels(x, to, thin, start, bias, stride, taken):
    """A row of all channels, which lie side by side."""
    C = x.shape[1]
    for w in range(x.shape[4]):
        at = to + w * step(x, 4)
        if taken and w % stride == 0:
            copy_row(x, at, thin, start + w // stride * C, C)
        elif bias.size == 0:
            fill_row(x, at, x.dtype.type(0), C)
        else:
            for c in range(C):
                store(x, at + c, load(bias, c * step(bias, 0)))
