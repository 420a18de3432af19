"""Activations, their slopes, and the softmax cross entropy at the end of a classifier."""

from __future__ import annotations

import math

import numpy as np

from ..contract import ACTIVATIONS, ELU_ALPHA, LEAKY_SLOPE
from .columns import bias_gradient
from .jit import array, boolean, float64, helper, int64, kernel, out, prange
from .memory import load, step, store

_CODE = {name: code for code, name in enumerate(ACTIVATIONS)}
_RELU, _LEAKY_RELU, _ELU, _SIGMOID, _TANH, _SOFTPLUS, _GELU, _SILU = range(len(ACTIVATIONS))

#: The loss is summed in this many pieces, in order, however many threads compute them.
_LOSS_PIECES = 64


@helper
def _sigmoid(x):
    one = type(x)(1)
    small = math.exp(-abs(x))  # never overflows
    return (small if x < 0 else one) / (one + small)


@helper
def _normal_cdf(x):
    """In float64: next to erfc's tail the rounding of x alone would cost float32 its digits."""
    return 0.5 * math.erfc(-float64(x) * math.sqrt(0.5))


@helper
def _value(x, name):
    kind = type(x)
    if name == _RELU:
        return kind(0) if x <= 0 else x  # NaN is not <= 0 and stays
    if name == _LEAKY_RELU:
        return x if x > 0 else kind(LEAKY_SLOPE) * x
    if name == _ELU:
        return x if x > 0 else kind(ELU_ALPHA) * math.expm1(x)
    if name == _SIGMOID:
        return _sigmoid(x)
    if name == _TANH:
        return math.tanh(x)
    if name == _SOFTPLUS:
        return (kind(0) if x <= 0 else x) + math.log1p(math.exp(-abs(x)))
    if name == _GELU:
        return kind(x * _normal_cdf(x))
    return x * _sigmoid(x)


@helper
def _slope_from_input(x, name):
    kind = type(x)
    one = kind(1)
    if name == _RELU:
        return one if x > 0 else kind(0)
    if name == _LEAKY_RELU:
        return one if x > 0 else kind(LEAKY_SLOPE)
    if name == _ELU:
        return one if x > 0 else kind(ELU_ALPHA) * math.exp(x)
    if name == _SIGMOID:
        return _sigmoid(x) * _sigmoid(-x)
    if name == _TANH:
        small = math.exp(kind(-2) * abs(x))  # 1 - tanh(x)**2 without its cancellation
        return kind(4) * small / ((one + small) * (one + small))
    if name == _SOFTPLUS:
        return _sigmoid(x)
    if name == _GELU:
        density = math.exp(-0.5 * float64(x) * float64(x)) / math.sqrt(2 * math.pi)
        return kind(_normal_cdf(x) + x * density)
    return _sigmoid(x) * (one + x * _sigmoid(-x))


@helper
def _slope_from_output(y, name):
    kind = type(y)
    one = kind(1)
    if name == _RELU:
        return one if y > 0 else kind(0)
    if name == _LEAKY_RELU:
        return one if y > 0 else kind(LEAKY_SLOPE)
    if name == _ELU:
        return one if y > 0 else y + kind(ELU_ALPHA)
    if name == _SIGMOID:
        return y * (one - y)
    if name == _TANH:
        return (one - y) * (one + y)
    return -math.expm1(-y)  # softplus


@kernel(lambda F: (out(F, 1), array(F, 1), int64))
def apply(y, x, name):
    if name == _RELU:  # a loop of its own has vectors; a branch on random signs costs 8 cycles
        for i in prange(x.size):
            value = load(x, i)
            store(y, i, x.dtype.type(0) if value <= 0 else value)
        return
    for i in prange(x.size):
        store(y, i, _value(load(x, i), name))


@kernel(lambda F: (out(F, 1), array(F, 1), array(F, 1), int64, boolean))
def apply_slope(dx, dy, saved, name, from_output):
    if name == _RELU:  # as in apply; the slope is the same from both
        for i in prange(dy.size):
            above = load(saved, i) > 0
            store(dx, i, load(dy, i) * (dy.dtype.type(1) if above else dy.dtype.type(0)))
        return
    for i in prange(dy.size):
        at = load(saved, i)
        slope = _slope_from_output(at, name) if from_output else _slope_from_input(at, name)
        store(dx, i, load(dy, i) * slope)


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
    pieces = losses.size
    for piece in prange(pieces):
        loss = 0.0
        for n in range(N * piece // pieces, N * (piece + 1) // pieces):
            at, to = n * step(logits, 0), n * step(dlogits, 0)
            largest = load(logits, at)
            for c in range(1, C):
                largest = max(largest, load(logits, at + c * step(logits, 1)))
            total = 0.0
            for c in range(C):
                share = math.exp(load(logits, at + c * step(logits, 1)) - largest)
                store(dlogits, to + c * step(dlogits, 1), share)
                total += share
            for c in range(C):
                here = to + c * step(dlogits, 1)
                share = load(dlogits, here)
                # the label's share less one, without the cancellation
                part = -(total - share) if c == labels[n] else float64(share)
                store(dlogits, here, part / (total * N))
            label = load(logits, at + labels[n] * step(logits, 1))
            loss += math.log(total) + (float64(largest) - label)
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
