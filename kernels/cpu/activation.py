"""Activations, their slopes, and the softmax cross entropy at the end of a classifier."""

from __future__ import annotations

import math

import numpy as np

from ..contract import ACTIVATIONS
from .convolution.columns import bias_gradient
from .emitted.formulas import FROM_INPUT, FROM_OUTPUT, VALUE, exponential, formula, widened
from .emitted.lanes import add, beats, choose, lanes_load, lanes_store, splat
from .emitted.memory import load, step, store
from .emitted.row_lanes import times
from .jit import array, boolean, float64, inlined, int64, kernel, out, prange
from .pooling.max_pool_runs import largest_lane
from .products.matrix_vector import sum_of_lanes

_CODE = {name: code for code, name in enumerate(ACTIVATIONS)}
_RELU, _LEAKY_RELU, _ELU, _SIGMOID, _TANH, _SOFTPLUS, _GELU, _SILU = range(len(ACTIVATIONS))

_WIDTH = 16  # lanes

#: Elements of which a thread takes some at a time.
_PIECE = 1024 * _WIDTH

#: The loss is summed in this many pieces, in order, however many threads compute them.
_LOSS_PIECES = 64


def _loops(code, kind):
    """The loop over a piece of the elements for one activation: its values or its slopes."""

    @inlined
    def values(y, x, first, end, zeros):
        for i in range(first, end, _WIDTH):
            count = min(_WIDTH, end - i)
            found = formula(lanes_load(x, i, 1, 0, count, zeros), code, kind)
            lanes_store(y, i, 1, 0, count, found)

    @inlined
    def slopes(dx, dy, saved, first, end, zeros):
        for i in range(first, end, _WIDTH):
            count = min(_WIDTH, end - i)
            slope = formula(lanes_load(saved, i, 1, 0, count, zeros), code, kind)
            arrived = lanes_load(dy, i, 1, 0, count, zeros)
            lanes_store(dx, i, 1, 0, count, times(arrived, slope))

    return values if kind == VALUE else slopes


(_relu, _leaky_relu, _elu, _sigmoid, _tanh, _softplus, _gelu, _silu) = (
    _loops(code, VALUE) for code in range(len(ACTIVATIONS))
)
(_relu_in, _leaky_in, _elu_in, _sigmoid_in, _tanh_in, _softplus_in, _gelu_in, _silu_in) = (
    _loops(code, FROM_INPUT) for code in range(len(ACTIVATIONS))
)
_elu_out, _sigmoid_out, _tanh_out, _softplus_out = (
    _loops(code, FROM_OUTPUT) for code in (_ELU, _SIGMOID, _TANH, _SOFTPLUS)
)


@kernel(lambda F: (out(F, 1), array(F, 1), int64))
def apply(y, x, name):
    for piece in prange((x.size + _PIECE - 1) // _PIECE):
        zeros = splat(x.dtype.type(0), _WIDTH)
        first, end = piece * _PIECE, min((piece + 1) * _PIECE, x.size)
        if name == _RELU:
            _relu(y, x, first, end, zeros)
        elif name == _LEAKY_RELU:
            _leaky_relu(y, x, first, end, zeros)
        elif name == _ELU:
            _elu(y, x, first, end, zeros)
        elif name == _SIGMOID:
            _sigmoid(y, x, first, end, zeros)
        elif name == _TANH:
            _tanh(y, x, first, end, zeros)
        elif name == _SOFTPLUS:
            _softplus(y, x, first, end, zeros)
        elif name == _GELU:
            _gelu(y, x, first, end, zeros)
        else:
            _silu(y, x, first, end, zeros)


@kernel(lambda F: (out(F, 1), array(F, 1), array(F, 1), int64, boolean))
def apply_slope(dx, dy, saved, name, from_output):
    for piece in prange((dy.size + _PIECE - 1) // _PIECE):
        zeros = splat(dy.dtype.type(0), _WIDTH)
        first, end = piece * _PIECE, min((piece + 1) * _PIECE, dy.size)
        if name == _RELU:  # as from the output
            _relu_in(dx, dy, saved, first, end, zeros)
        elif name == _LEAKY_RELU:  # as from the output
            _leaky_in(dx, dy, saved, first, end, zeros)
        elif name == _ELU:
            if from_output:
                _elu_out(dx, dy, saved, first, end, zeros)
            else:
                _elu_in(dx, dy, saved, first, end, zeros)
        elif name == _SIGMOID:
            if from_output:
                _sigmoid_out(dx, dy, saved, first, end, zeros)
            else:
                _sigmoid_in(dx, dy, saved, first, end, zeros)
        elif name == _TANH:
            if from_output:
                _tanh_out(dx, dy, saved, first, end, zeros)
            else:
                _tanh_in(dx, dy, saved, first, end, zeros)
        elif name == _SOFTPLUS:
            if from_output:
                _softplus_out(dx, dy, saved, first, end, zeros)
            else:
                _softplus_in(dx, dy, saved, first, end, zeros)
        elif name == _GELU:
            _gelu_in(dx, dy, saved, first, end, zeros)
        else:
            _silu_in(dx, dy, saved, first, end, zeros)


def activate(y, x, name, plan, workspace):
    apply(y.dtype, plan.threads, y, x, _CODE[name])


def activate_backward(dx, dy, saved, name, from_output, plan, workspace):
    apply_slope(dx.dtype, plan.threads, dx, dy, saved, _CODE[name], from_output)


def linear_slope(dz, db, dy, y, name, plan, workspace):
    flat = (array.reshape(-1) for array in (dz, dy, y))
    apply_slope(dz.dtype, plan.threads, *flat, _CODE[name], True)
    bias_gradient(db.dtype, plan.threads, db, dz[:, :, None, None, None])


# ---- the loss -----------------------------------------------------------------------------


@kernel(lambda I: (out(int64, 1), array(I, 1), int64), variants=("int64", "int32", "uint8"))
def first_bad_label(found, labels, classes):
    """found[piece] = the first label of that piece outside 0..classes-1, or -1."""
    pieces = found.size
    for piece in prange(pieces):
        bad = np.int64(-1)
        for i in range(labels.size * piece // pieces, labels.size * (piece + 1) // pieces):
            label = load(labels, i * step(labels, 0))
            if bad < 0 and (label < 0 or label >= classes):
                bad = i
        found[piece] = bad


@kernel(lambda F: (out(float64, 1), out(F, 2), array(F, 2), array(int64, 1)))
def share_rows(losses, dlogits, logits, labels):
    """losses[piece] = the summed loss of the piece's rows; dlogits = (softmax - one-hot) / N."""
    N, C = logits.shape
    pieces, hop, on = losses.size, step(logits, 1), step(dlogits, 1)
    for piece in prange(pieces):
        loss, least = 0.0, splat(logits.dtype.type(-np.inf), _WIDTH)
        nothing = splat(0.0, _WIDTH)
        for n in range(N * piece // pieces, N * (piece + 1) // pieces):
            at, to = n * step(logits, 0), n * step(dlogits, 0)
            best, total = least, nothing
            for c in range(0, C, _WIDTH):
                value = lanes_load(logits, at + c * hop, hop, 0, min(_WIDTH, C - c), least)
                best = choose(beats(value, best, False, False), value, best)
            largest = largest_lane(best)  # where a number is NaN, all shares are
            down = splat(-largest, _WIDTH)
            for c in range(0, C, _WIDTH):
                count = min(_WIDTH, C - c)
                value = lanes_load(logits, at + c * hop, hop, 0, count, least)
                share = exponential(add(value, down))
                total = add(total, widened(share))
                lanes_store(dlogits, to + c * on, on, 0, count, share)
            whole, label = sum_of_lanes(total), labels[n]
            own = load(dlogits, to + label * on)
            each = splat(logits.dtype.type(1 / (whole * N)), _WIDTH)
            for c in range(0, C, _WIDTH):
                count = min(_WIDTH, C - c)
                share = lanes_load(dlogits, to + c * on, on, 0, count, least)
                lanes_store(dlogits, to + c * on, on, 0, count, times(share, each))
            # the label's share less one, without the cancellation
            store(dlogits, to + label * on, -(whole - own) / (whole * N))
            loss += math.log(whole) + (float64(largest) - load(logits, at + label * hop))
        losses[piece] = loss


def check_labels(labels, classes, plan, workspace):
    found = np.empty(plan.threads, np.int64)
    first_bad_label(labels.dtype, plan.threads, found, labels, classes)
    bad = found[found >= 0]
    return int(bad[0]) if bad.size else -1


def softmax_cross_entropy(loss, dlogits, logits, labels, bad, plan, workspace):
    if bad != -1:
        return
    losses = np.empty(_LOSS_PIECES)
    labels = labels.astype(np.int64, copy=False)
    share_rows(logits.dtype, plan.threads, losses, dlogits, logits, labels)
    loss[...] = np.sum(losses) / np.float64(len(logits)) if len(logits) else np.nan
