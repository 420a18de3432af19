"""Activations and the loss on the GPU: see activation.cu and loss.cu."""

from __future__ import annotations

import ctypes

from ..contract import ACTIVATIONS, ELU_ALPHA, LEAKY_SLOPE
from .conv import finish_bias
from .launch import checked, flag_argument, launch, launch_each, needs_wide, new_flag, options
from .plans import slope_tiles
from .structures import c_int, c_wide, integers_of

_ROWS_PER_BLOCK = 8  # one warp each


def _constants():
    return ctypes.c_double(LEAKY_SLOPE), ctypes.c_double(ELU_ALPHA)


def activate(y, x, name, plan, workspace):
    args = (y, x, c_int(ACTIVATIONS.index(name)), *_constants())
    opts = options(x.dtype.name, needs_wide(None, x))
    launch_each("activation", "activate", x.size, args, opts=opts)


def activate_backward(dx, dy, saved, name, from_output, plan, workspace):
    args = (dx, dy, saved, c_int(ACTIVATIONS.index(name)), c_int(from_output), *_constants())
    opts = options(dy.dtype.name, needs_wide(None, dy))
    launch_each("activation", "activate_backward", dy.size, args, opts=opts)


def linear_slope(dz, db, dy, y, name, plan, workspace):
    rows, columns = dz.shape
    chunks = plan.blocking["chunks"]
    args = (
        dz, workspace, dy, y, c_int(ACTIVATIONS.index(name)), *_constants(),
        c_wide(rows), c_wide(columns), c_wide(chunks),
    )  # fmt: skip
    opts = options(dz.dtype.name, needs_wide(None, dz))
    launch("activation", "linear_slope", slope_tiles(columns) * chunks, 256, args, opts=opts)
    finish_bias(db, workspace, chunks, opts)


def check_labels(labels, classes, plan, workspace):
    bad = new_flag()
    args = (bad, *integers_of(labels), c_wide(classes))
    opts = options(wide=needs_wide(None, labels))
    launch_each("loss", "check_labels", labels.size, args, opts=opts)
    return checked(bad)


def softmax_cross_entropy(loss, dlogits, logits, labels, bad, plan, workspace):
    rows, classes = logits.shape
    opts = options(logits.dtype.name, needs_wide(None, logits, dlogits))
    flag = flag_argument(bad)
    args = (
        workspace, dlogits, *_steps(dlogits), logits, *_steps(logits), *integers_of(labels),
        flag, c_wide(rows), c_wide(classes),
    )  # fmt: skip
    blocks = min(-(-rows // _ROWS_PER_BLOCK), 1 << 16)
    launch("loss", "softmax_rows", blocks, 32 * _ROWS_PER_BLOCK, args, opts=opts)
    launch("loss", "mean_loss", 1, 256, (loss, workspace, flag, c_wide(rows)), opts=opts)


def _steps(matrix):
    return tuple(c_wide(step // matrix.itemsize) for step in matrix.strides)
