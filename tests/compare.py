"""How results are compared, and how close each dtype has to come."""

import numpy as np

#: relative L2 error to float64 that a result may have; 16 bits: computed wider, rounded once
BOUND = {"float64": 1e-13, "float32": 1e-5, "float16": 6e-4, "bfloat16": 5e-3}


def assert_close(actual, expected, dtype, *, floor=0.0):
    """actual has this dtype, expected's shape, its NaN and inf, and its values within BOUND.

    The error is measured against the size of the whole result (its root mean square, or `floor`
    where that is larger: sums that cancel have errors of the size of what was summed).
    """
    dtype = np.dtype(dtype)
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert actual.dtype == dtype
    actual = np.asarray(actual).astype(np.float64)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    actual, expected = actual[finite], expected[finite]
    assert np.isfinite(actual).all(), "a finite result came out as NaN or inf"
    if actual.size:
        error = np.sqrt(np.mean((actual - expected) ** 2))
        size = max(np.sqrt(np.mean(expected**2)), floor)
        assert error <= BOUND[dtype.name] * size, f"relative error {error / (size or 1):.2g}"


def assert_same_bits(actual, expected):
    """Not even the sign of a zero differs."""
    for one, other in zip(results(actual), results(expected), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def results(returned):
    """The arrays that a function returned, None left out."""
    returned = returned if isinstance(returned, tuple) else (returned,)
    return [array for array in returned if array is not None]
