"""Activations, their slopes, and the loss at the end of a classifier.

At -inf and inf the formulas are taken at their word, as in PyTorch: silu(-inf) and gelu(-inf) are
NaN (-inf * 0).
"""

import math

import numpy as np

from ..contract import ELU_ALPHA, LEAKY_SLOPE

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x):
    small = np.exp(-np.abs(x))  # never overflows
    return np.where(x < 0, small, 1) / (1 + small)


def _normal_cdf(x):
    return (1 + _erf(x / math.sqrt(2))) / 2


def _normal_density(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


_VALUE = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, LEAKY_SLOPE * x),
    "elu": lambda x: np.where(x > 0, x, ELU_ALPHA * np.expm1(x)),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "gelu": lambda x: x * _normal_cdf(x),
    "silu": lambda x: x * _sigmoid(x),
}

_SLOPE_FROM_INPUT = {
    "relu": lambda x: np.where(x > 0, 1.0, 0.0),
    "leaky_relu": lambda x: np.where(x > 0, 1.0, LEAKY_SLOPE),
    "elu": lambda x: np.where(x > 0, 1, ELU_ALPHA * np.exp(x)),
    "sigmoid": lambda x: _sigmoid(x) * _sigmoid(-x),
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
    "softplus": _sigmoid,
    "gelu": lambda x: _normal_cdf(x) + x * _normal_density(x),
    "silu": lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
}

_SLOPE_FROM_OUTPUT = {
    "relu": lambda y: np.where(y > 0, 1.0, 0.0),
    "leaky_relu": lambda y: np.where(y > 0, 1.0, LEAKY_SLOPE),
    "elu": lambda y: np.where(y > 0, 1, y + ELU_ALPHA),
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y**2,
    "softplus": lambda y: -np.expm1(-y),
}


@np.errstate(all="ignore")
def activate(y, x, name, plan, workspace):
    y[...] = _VALUE[name](x.astype(np.float64))


@np.errstate(all="ignore")
def activate_backward(dx, dy, saved, name, from_output, plan, workspace):
    slope = (_SLOPE_FROM_OUTPUT if from_output else _SLOPE_FROM_INPUT)[name]
    dx[...] = dy * slope(saved.astype(np.float64))


@np.errstate(all="ignore")
def linear_slope(dz, db, dy, y, name, plan, workspace):
    dz[...] = dy * _SLOPE_FROM_OUTPUT[name](y.astype(np.float64))
    db[...] = dz.sum(axis=0, dtype=np.float64)


def check_labels(labels, classes, plan, workspace):
    bad = (labels < 0) | (labels >= classes)
    return int(np.argmax(bad)) if bad.any() else -1


@np.errstate(all="ignore")
def softmax_cross_entropy(loss, dlogits, logits, labels, bad, plan, workspace):
    if bad != -1:
        return
    z = logits.astype(np.float64)
    rows = np.arange(len(z))
    labels = labels.astype(np.int64)
    z -= z.max(axis=1, keepdims=True)  # so that exp cannot overflow; the result is the same
    log_sum = np.log(np.exp(z).sum(axis=1, keepdims=True))
    loss[...] = np.sum(log_sum[:, 0] - z[rows, labels]) / np.float64(len(z))
    share = np.exp(z - log_sum)
    share[rows, labels] -= 1
    dlogits[...] = share / len(z)
