"""scatter_add against a loop over its index."""

import numpy as np
import pytest
from cases import SCATTER
from compare import assert_close
from values import exact, make

import gradroute as gr

INDEX_DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def src_shape(shape, axis, index_shape):
    axis %= len(shape)
    return (*shape[:axis], *index_shape, *shape[axis + 1 :])


def added(out, index, src, axis):
    """np.take's rule backwards, one index at a time, in order."""
    axis %= out.ndim
    total = np.moveaxis(exact(out).copy(), axis, 0)
    parts = exact(src).reshape(*out.shape[:axis], index.size, *out.shape[axis + 1 :])
    for row, part in zip(index.reshape(-1).tolist(), np.moveaxis(parts, axis, 0)):
        total[row] += part
    return np.moveaxis(total, 0, axis)


def index_into(size, shape, seed=0):
    return np.random.default_rng(seed).integers(-size, size, shape)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape, axis, index_shape", SCATTER)
def test_scatter_add_adds_each_source_at_its_index(backend, shape, axis, index_shape, dtype):
    out = make("normal", shape, dtype)
    index = np.asarray(index_into(shape[axis], index_shape))
    src = make("normal", src_shape(shape, axis, index_shape), dtype, seed=1)
    expected = added(out, index, src, axis)
    assert gr.scatter_add(out, index, src, axis=axis) is out
    assert_close(out, expected, dtype)


@pytest.mark.parametrize("index_dtype", INDEX_DTYPES)
def test_every_integer_dtype_is_an_index(backend, index_dtype):
    index = np.array([0, 3, 3, 1, 127, 0], index_dtype)
    out, src = make("normal", (128, 2)), make("normal", (6, 2), seed=1)
    expected = added(out, index, src, 0)
    assert_close(gr.scatter_add(out, index, src), expected, "float64")


@pytest.mark.parametrize("mode", ["wrap", "clip"])
@pytest.mark.parametrize("index_dtype", ["int8", "uint8", "int64", "uint64"])
def test_wrap_and_clip_mean_what_they_mean_to_np_take(backend, mode, index_dtype):
    index = np.array([0, 4, 5, 11, 100], index_dtype)
    if index.dtype.kind == "i":
        index[:2] = -1, -12
    if index_dtype == "uint64":
        index[0] = 2**64 - 1
    wide = [int(i) % 5 if mode == "wrap" else min(max(int(i), 0), 4) for i in index]
    if index_dtype == "int64":
        assert wide == np.take(np.arange(5), index, mode=mode).tolist()
    out, src = make("normal", (5, 3)), make("normal", (5, 3), seed=1)
    expected = added(out, np.array(wide), src, 0)
    assert_close(gr.scatter_add(out, index, src, mode=mode), expected, "float64")


def test_a_one_dimensional_index_is_what_torch_calls_index_add(backend):
    out = np.zeros((3, 2), np.float32)
    src = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    gr.scatter_add(out, np.array([2, 0, 2]), src)
    np.testing.assert_array_equal(out, [[3, 4], [0, 0], [6, 8]])


def test_a_flat_index_scatters_element_by_element(backend):
    out, src = np.zeros((2, 3)), np.array([1.0, 2.0, 4.0, 8.0])
    gr.scatter_add(out.reshape(-1), np.array([5, 0, 5, -2]), src)
    np.testing.assert_array_equal(out, [[2, 0, 0], [0, 8, 5]])


@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_non_finite_sources_reach_their_rows_only(backend, kind):
    out, src = make("ties", (6, 4), "float32"), make("ties", (9, 4), "float32")
    src[4:6] = make(kind, (2, 4), "float32", seed=3)
    index = np.array([0, 1, 2, 3, 5, 5, 0, 1, 2])
    with np.errstate(invalid="ignore"):
        expected = added(out, index, src, 0)
    assert np.isfinite(expected[:5]).all() and not np.isfinite(expected[5]).all()
    assert_close(gr.scatter_add(out, index, src), expected, "float32")


def test_rows_that_no_index_names_keep_their_bits(backend):
    out = np.full((4, 3), np.nan, np.float32)
    out.view(np.uint32)[1] = 0x7FA00001  # a signalling NaN with a payload
    before = out.tobytes()
    gr.scatter_add(out, np.array([3, 3]), np.ones((2, 3), np.float32))
    assert out[:3].tobytes() == before[: out[:3].nbytes]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rows", [1, 5, 100])
def test_a_histogram_adds_each_entry_and_leaves_other_places_alone(backend, rows, dtype):
    index, src = index_into(rows, 33_003), make("normal", (33_003,), dtype)
    out = make("normal", (rows + 3,), dtype, seed=1)
    index[index < 0] += rows  # of the rows, not of out
    out[rows:] = -0.0, np.inf, 0.0
    expected = added(out, index, src, 0)
    signalling = 0x7FA00001 if dtype == "float32" else 0x7FF4000000000001
    out.view(np.uint32 if dtype == "float32" else np.uint64)[-1] = signalling
    left_alone = out[rows:].tobytes()
    apart = np.zeros(2 * out.size, dtype)[::-2]
    apart[:rows] = out[:rows]
    gr.scatter_add(out, index, src)
    assert_close(out[:rows], expected[:rows], dtype)
    assert out[rows:].tobytes() == left_alone
    gr.scatter_add(apart, np.repeat(index, 2)[::2], np.repeat(src, 2)[::2])
    np.testing.assert_array_equal(apart[:rows], out[:rows])


def test_non_finite_entries_of_a_histogram_reach_their_places_only(backend):
    out, src = np.zeros(4, np.float32), np.ones(40_000, np.float32)
    src[[1, 30_001]] = np.inf, -np.inf
    src[20_002] = np.nan
    src[39_999] = np.inf
    index = np.arange(40_000) % 4
    with np.errstate(invalid="ignore"):
        gr.scatter_add(out, index, src)
    assert out[0] == 10_000 and np.isnan(out[[1, 2]]).all() and out[3] == np.inf


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scatter_add_in_16_bits_is_rounded_once(backend, dtype):
    pytest.importorskip("ml_dtypes")
    out, src = make("normal", (5, 3), dtype), make("normal", (40, 3), dtype, seed=1)
    index = index_into(5, (40,))
    expected = added(out, index, src, 0)
    assert_close(gr.scatter_add(out, index, src), expected, out.dtype)


def test_a_source_that_shares_memory_with_out_is_read_before_it_changes(backend):
    out = make("normal", (6, 3))
    src = out[::-1][:4]
    index = np.array([0, 5, 5, 1])
    expected = added(out, index, src.copy(), 0)
    assert_close(gr.scatter_add(out, index, src), expected, "float64")
