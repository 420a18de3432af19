"""One mistake in a call that was right: in an array, an option, a value, or out."""

import math
from dataclasses import replace

import numpy as np

from .draw import chance, pick

#: what turns up where an option was meant to be; some of it is even allowed
ODD = (
    -1, 0, 1, 7, 255, 2**31, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, True, False,
    None, 1.0, 2.5, math.nan, math.inf, 1j, "", "3", "same", "valid", "first", "channels_last",
    b"1", (), [], {}, (1,), (2, 1), (1, 1, 1), (1, 1, 1, 1), ((1, 2), (0, 1)), ((1, 2),), ((0,),),
    (None,), (True, True), (1.0, 1.0), (2**62, 1), (2**40,), (-1, 1), (1, -1), np.int64(2),
    np.uint8(3), np.int64(-1), np.bool_(True), np.float32(2), np.array(2), np.array([1, 2]),
    np.array([1.0, 2.0]), np.array([[1, 2], [0, 1]]), np.zeros(0, int), range(1, 3), object(),
    slice(None), int, "x" * 1000, "relu", "raise", "w", ("x", "x"), ("x", 3), {"x"},
    np.datetime64("2026-01-01"), np.ma.masked,
)  # fmt: skip

_DTYPES = ("float64", "float32", "float16", "int64", "uint8", "bool", "complex64", "object", "S4",
           "datetime64[s]", ">f8", ">f4", ">i8", "longdouble", "f4,i4")  # fmt: skip


def spoil(rng, call, arrays):
    """(call, arrays, what was done): arrays and options as they are, but for one."""
    ways = [_array]
    if call.options:
        ways += [_option, _option]
    if call.rest:
        ways += [_rest, _rest]
    if call.integers:
        ways += [_values]
    return pick(rng, *ways)(rng, call, dict(arrays))


def _option(rng, call, arrays):
    options = dict(call.options)
    name, value = pick(rng, *options), pick(rng, *ODD)
    options[name] = value
    return replace(call, options=tuple(options.items())), arrays, f"{name}={value!r}"


def _rest(rng, call, arrays):
    at = int(rng.integers(len(call.rest)))
    value, rest = pick(rng, *ODD), list(call.rest)
    if isinstance(rest[at], tuple) and chance(rng, 0.5):  # one entry of a shape or a window
        entries = list(rest[at])
        entries[int(rng.integers(len(entries)))] = value
        value = tuple(entries)
    rest[at] = value
    return replace(call, rest=tuple(rest)), arrays, f"argument {at} behind the arrays = {value!r}"


def _values(rng, call, arrays):
    name = pick(rng, *call.integers)
    array = np.array(arrays[name])
    if array.size:
        at = tuple(int(rng.integers(n)) for n in array.shape)
        limits = np.iinfo(array.dtype)
        array[at] = pick(rng, limits.min, limits.max, array.flat[0], max(limits.min, -1), 100)
    arrays[name] = array
    return call, arrays, f"a value of {name}"


def _array(rng, call, arrays):
    name = pick(rng, *arrays)
    ways = [_shape, _dtype, _kind] if name == "w" else [_shape, _dtype, _kind, _huge]
    arrays[name] = array = pick(rng, *ways)(rng, arrays[name])
    what = f"{type(array).__name__} {getattr(array, 'dtype', '')} {getattr(array, 'shape', '')}"
    return call, arrays, f"{name} = {what}"


def _shape(rng, array):
    shape = list(array.shape)
    way = int(rng.integers(4))
    if way == 0 or not shape:
        shape.insert(int(rng.integers(len(shape) + 1)), pick(rng, 0, 1, 2))
    elif way == 1:
        del shape[int(rng.integers(len(shape)))]
    elif way == 2:
        rng.shuffle(shape)
    else:
        at = int(rng.integers(len(shape)))
        shape[at] = pick(rng, 0, shape[at] + 1, max(0, shape[at] - 1), 2 * shape[at], 1)
    return np.ones(shape, array.dtype)


def _huge(rng, array):
    """An axis far larger than memory, and no byte of it.  (Not of w: every tap costs time.)"""
    if not array.size or not array.ndim:
        return array
    shape, at = list(array.shape), int(rng.integers(array.ndim))
    shape[at] = 1
    shape[at] = min(pick(rng, 2**31, 2**40, 2**61), 2**62 // (16 * math.prod(shape)))
    one = np.ones((1,) * len(shape), array.dtype)
    return np.lib.stride_tricks.as_strided(one, shape, (0,) * len(shape), writeable=False)


def _dtype(rng, array):
    dtype = np.dtype(pick(rng, *_DTYPES))
    if dtype.kind in "SMV":
        return np.zeros(array.shape, dtype)
    with np.errstate(all="ignore"):
        return array.astype(dtype)


def _kind(rng, array):
    way = int(rng.integers(8))
    if way == 0:
        return array.tolist()
    if way == 1:
        return np.ma.masked_array(array)
    if way == 2:
        return np.asmatrix(array.reshape(1, -1))
    return (None, 3, "array", object(), np.ndarray)[way - 3]
