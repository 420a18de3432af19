"""Where the memory of results begins."""

import numpy as np
import pytest

import gradroute as gr
from gradroute import alignment


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_results_begin_at_a_cache_line(dtype):
    x, w = np.ones((8, 4, 64, 64), dtype), np.ones((8, 4, 1, 1), dtype)
    with gr.config(backend="numba"):
        results = [gr.conv(x, w), gr.max_pool(x, 1)[0], gr.activate(x, "relu"), gr.matmul(x, x)]
    for y in results:
        assert y.nbytes >= alignment.ALIGNED_FROM
        assert y.ctypes.data % alignment.LINE == 0
        assert y.flags.c_contiguous and y.flags.writeable


@pytest.mark.parametrize("shape", [(0,), (), (3, 5), (1 << 16,), (3, 1 << 17), (2, 0, 1 << 20)])
def test_new_memory_has_the_shape_and_dtype_of_numpys(shape):
    for dtype in (np.dtype("uint8"), np.dtype("float64")):
        made, wanted = alignment.empty(shape, dtype), np.empty(shape, dtype)
        assert made.dtype == wanted.dtype
        assert made.shape == wanted.shape
        assert made.strides == wanted.strides


def test_more_bytes_than_can_be_counted_are_numpys_error():
    with pytest.raises(ValueError):
        alignment.empty((1 << 40, 1 << 40), np.dtype("float32"))
