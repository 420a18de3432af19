"""Numbers to compute with: ordinary ones, and the kinds at which kernels differ."""

import numpy as np

LAYOUTS = ("channels_first", "channels_last")


def _with(rng, values, specials, share):
    values = values.copy()
    chosen = rng.random(values.shape) < share
    values[chosen] = rng.choice(specials, chosen.sum())
    return values


def make(kind, shape, dtype="float64", seed=0):
    """An array of the named kind; the values are exact in every dtype but for "normal"."""
    rng = np.random.default_rng([seed, *shape])
    small = rng.integers(-3, 4, shape).astype(float)
    if kind == "normal":
        values = rng.standard_normal(shape)
    elif kind == "ties":
        values = small
    elif kind == "nan":
        values = _with(rng, small, [np.nan], 0.2)
    elif kind == "inf":
        values = _with(rng, small, [np.inf, -np.inf], 0.2)
    elif kind == "minus_inf":
        values = _with(rng, np.full(shape, -np.inf), [np.nan, -1.0], 0.15)
    elif kind == "zeros":
        values = rng.choice([0.0, -0.0], shape)
    elif kind == "all_nan":
        values = _with(rng, np.full(shape, np.nan), [-np.inf], 0.1)
    elif kind == "one_inf":  # a single one: what it reaches is easy to see
        values = small
        values.reshape(-1)[values.size // 2 : values.size // 2 + 1] = np.inf
    else:
        raise AssertionError(f"no kind {kind!r}")
    return np.asarray(values).astype(named(dtype))


def named(dtype):
    """The dtype of that name; bfloat16 exists only where ml_dtypes is."""
    if dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


def exact(array):
    """The same numbers in float64."""
    return None if array is None else array.astype(np.float64)


def to(array, layout):
    """(N, C, ...) -> the layout, as a new contiguous array."""
    if layout == "channels_first" or array is None:
        return array
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def back(array, layout):
    """The inverse of `to`, as a view."""
    return array if layout == "channels_first" or array is None else np.moveaxis(array, -1, 1)


def shape_in(shape, layout):
    return tuple(shape) if layout == "channels_first" else (shape[0], *shape[2:], shape[1])
