"""The tensor-core convolutions: arrays packed to channels last, then conv_tensor*.cu.

Packing reads and writes each array once; im2col would do so once per tap.
"""

from __future__ import annotations

import math

from .launch import launch, launch_each, options
from .plans import (
    PRODUCTS,
    TENSOR_M,
    TENSOR_N,
    TENSOR_THREADS,
    conv_sizes,
    gather_grid,
    padded,
    tensor_parts,
)
from .structures import c_int, c_wide, strides_of

_PACK_TILE = 32


def _parts(workspace, operation, geometry, dtype):
    """The workspace as its packed arrays and the rest."""
    first, second = tensor_parts(operation, geometry, dtype)
    end = first + second
    return workspace[:first], workspace[first:end], workspace[end:]


def _pack_options(plan, dtype, wide):
    rounding = {"round": 1} if plan.algorithm == "tensor_tf32" else {}
    return options(dtype, wide, **rounding)


def _pack_image(packed, array, groups, opts):
    """(N, G*C, D, H, W) of any strides -> (N, D, H, W, G, padded)."""
    batch, channels, *size = array.shape
    width = padded(channels // groups, array.dtype.name)
    pixels, columns = batch * math.prod(size), groups * width
    channel_tiles = -(-columns // _PACK_TILE)
    pixels_first = abs(array.strides[1]) != array.itemsize
    args = (
        packed, array, strides_of(array), c_wide(channels // groups), c_wide(width),
        *map(c_wide, size), c_wide(channel_tiles), c_int(pixels_first), c_wide(columns),
        c_wide(pixels),
    )  # fmt: skip
    blocks = -(-pixels // _PACK_TILE) * channel_tiles
    launch("conv_pack", "pack_image", blocks, 256, args, opts=opts)


def gather(arguments, geometry, transposed, plan, workspace, wide):
    """y from x, or dx from dy; ``arguments`` are those of conv_gather."""
    out, _, source, _, w, strides, _, sizes = arguments
    dtype = out.dtype.name
    packed, filters, _ = _parts(workspace, plan.operation, geometry, dtype)
    _, channels, reduced = conv_sizes(geometry, transposed)
    width = padded(reduced, dtype)
    opts = _pack_options(plan, dtype, wide)
    _pack_image(packed, source, geometry.groups, opts)
    total = geometry.groups * channels * geometry.taps * width
    launch_each(
        "conv_pack", "pack_filters", total, (filters, w, strides, sizes, c_wide(width)), opts=opts
    )
    blocks, *tiles = gather_grid(geometry, transposed, TENSOR_M, TENSOR_N)
    launch(
        "conv_tensor", "conv_tensor", blocks, TENSOR_THREADS,
        (*arguments, packed, filters, c_wide(width), *map(c_wide, tiles)),
        opts=options(dtype, wide, product=PRODUCTS[plan.algorithm]),
    )  # fmt: skip


def partial_filters(arrays, geometry, plan, workspace, wide):
    """The partial sums of dw (splits, K, C/G * taps), in the workspace behind the packed arrays."""
    dy, _, x, _, sizes = arrays
    dtype = x.dtype.name
    packed_dy, packed_x, partial = _parts(workspace, plan.operation, geometry, dtype)
    opts = _pack_options(plan, dtype, wide)
    _pack_image(packed_dy, dy, geometry.groups, opts)
    _pack_image(packed_x, x, geometry.groups, opts)
    pixels, out, source = conv_sizes(geometry, False)
    width_k, width_c = padded(out, dtype), padded(source, dtype)
    filter_tiles, column_tiles = -(-out // TENSOR_M), -(-width_c * geometry.taps // TENSOR_N)
    splits = plan.blocking["splits"]
    sizes_wide = (width_k, width_c, filter_tiles, column_tiles, -(-pixels // splits))
    launch(
        "conv_tensor_filter", "conv_tensor_filter",
        splits * geometry.groups * filter_tiles * column_tiles, TENSOR_THREADS,
        (partial, packed_dy, packed_x, sizes, *map(c_wide, sizes_wide)),
        opts=options(dtype, wide, product=PRODUCTS[plan.algorithm]),
    )  # fmt: skip
    return partial
