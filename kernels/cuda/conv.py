"""Convolution on the GPU: see conv_gather.cu, conv_filter.cu, conv_direct.cu and columns.cu."""

from __future__ import annotations

import math

from . import tensor
from .launch import launch, launch_each, needs_wide, options
from .plans import BIAS_CHUNK, PRODUCTS, TILES, bias_chunks, conv_sizes, gather_grid
from .structures import (
    ColumnStrides,
    c_wide,
    conv_of,
    strides_of,
    weight_strides,
    window_of,
)


def conv_forward(y, x, w, b, geometry, plan, workspace):
    _gather(y, x, w, b, geometry, False, plan, workspace)


def conv_dx(dx, dy, w, b, geometry, plan, workspace):
    _gather(dx, dy, w, b, geometry, True, plan, workspace)


def _gather(out, source, w, b, geometry, transposed, plan, workspace):
    """y from x, or dx from dy: the same sum over taps and channels."""
    arguments = (
        out, strides_of(out), source, strides_of(source),
        w, weight_strides(w, geometry, transposed), None if b is None else _packed(b),
        conv_of(geometry, transposed),
    )  # fmt: skip
    wide, dtype = needs_wide(geometry, out, source, w), out.dtype.name
    if plan.algorithm in PRODUCTS:
        tensor.gather(arguments, geometry, transposed, plan, workspace, wide)
        return
    if plan.algorithm == "direct":
        launch_each("conv_direct", "conv_direct", out.size, arguments, opts=options(dtype, wide))
        return
    tile = TILES[plan.blocking["tile"]]
    blocks, *tiles = gather_grid(geometry, transposed, tile.tile_m, tile.tile_n)
    launch(
        "conv_gather", "conv_gather", blocks, tile.threads, (*arguments, *map(c_wide, tiles)),
        opts=options(dtype, wide, **tile.defines()),
    )  # fmt: skip


def _packed(b):
    """A bias with unit stride: it is K elements long."""
    return b if b.strides[0] == b.itemsize else b.copy()


# ---- gradients of the parameters ----------------------------------------------------------


def conv_dw(dw, db, dy, x, geometry, plan, workspace):
    wide, dtype = needs_wide(geometry, dw, dy, x), dw.dtype.name
    opts = options(dtype, wide)
    sizes = conv_of(geometry, False)
    arrays = (dy, strides_of(dy), x, strides_of(x), sizes)
    target = (dw, weight_strides(dw, geometry, False))
    if plan.algorithm == "direct":
        launch("conv_direct", "conv_direct_filter", dw.size, 128, (*target, *arrays), opts=opts)
    else:
        splits = c_wide(plan.blocking["splits"])
        if plan.algorithm in PRODUCTS:
            partial = tensor.partial_filters(arrays, geometry, plan, workspace, wide)
        else:
            partial = workspace
            _partial_filters(workspace, arrays, geometry, plan, dtype, wide)
        launch_each(
            "conv_finish", "conv_finish_filter", dw.size,
            (*target, partial, *arrays, splits), opts=opts,
        )  # fmt: skip
    if db is not None:
        bias_gradient(db, dy, plan, workspace)


def _partial_filters(workspace, arrays, geometry, plan, dtype, wide):
    tile = TILES[plan.blocking["tile"]]
    pixels, out, source = conv_sizes(geometry, False)
    filter_tiles = -(-out // tile.tile_m)
    column_tiles = -(-source * geometry.taps // tile.tile_n)
    splits = plan.blocking["splits"]
    length = -(-pixels // splits)
    launch(
        "conv_filter", "conv_filter", splits * geometry.groups * filter_tiles * column_tiles,
        tile.threads, (workspace, *arrays, c_wide(filter_tiles), c_wide(column_tiles),
                       c_wide(length)),
        opts=options(dtype, wide, **tile.defines()),
    )  # fmt: skip


def bias_gradient(db, dy, plan, workspace):
    channels, chunks = dy.shape[1], bias_chunks(dy.shape)
    total = dy.shape[0] * math.prod(dy.shape[2:])
    opts = options(dy.dtype.name, needs_wide(None, dy))
    sizes = (*map(c_wide, (channels, *dy.shape[2:], BIAS_CHUNK, chunks, total)),)
    launch(
        "conv_finish", "bias_partial", channels * chunks, 256,
        (workspace, dy, strides_of(dy), *sizes), opts=opts,
    )  # fmt: skip
    finish_bias(db, workspace, chunks, opts)


def finish_bias(db, partial, chunks, opts):
    """db[k] = the sum of partial[k], which holds one sum per chunk, in their order."""
    args = (db, c_wide(db.strides[0] // db.itemsize), partial, c_wide(chunks))
    launch_each("conv_finish", "bias_finish", db.size, args, opts=opts)


# ---- columns ------------------------------------------------------------------------------


def _column_strides(cols):
    return ColumnStrides(*(step // cols.itemsize for step in cols.strides))


def im2col(cols, x, geometry, plan, workspace):
    args = (cols, _column_strides(cols), x, strides_of(x), window_of(geometry))
    opts = options(x.dtype.name, needs_wide(geometry, cols, x))
    launch_each("columns", "im2col", cols.size, args, opts=opts)


def col2im(x, cols, geometry, plan, workspace):
    args = (x, strides_of(x), cols, _column_strides(cols), window_of(geometry))
    opts = options(x.dtype.name, needs_wide(geometry, cols, x))
    launch_each("columns", "col2im", x.size, args, opts=opts)
