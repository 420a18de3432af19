"""Bad input gets one clear exception of the package's own before anything is written."""

import re

import numpy as np
import pytest
from bad_inputs import BAD_INPUTS, WINNER, X

import gradroute as gr


@pytest.mark.parametrize("row", BAD_INPUTS, ids=lambda row: row[0])
def test_bad_input_is_refused_by_name_and_nothing_is_written(backend, row):
    _, words, shape, call = row
    out = None if shape is None else np.full(shape, 77.0)
    with pytest.raises(gr.GradrouteError) as error:
        call(out)
    assert isinstance(error.value, (TypeError, ValueError))
    message = str(error.value)
    for word in words:
        pattern = rf"(?<!\w){re.escape(word)}(?!\w)" if word.isalnum() and len(word) < 3 else word
        assert re.search(pattern, message) or word in message, message
    if out is not None:
        assert (out == 77).all()


def test_the_rows_say_different_things():
    names = [row[0] for row in BAD_INPUTS]
    assert len(set(names)) == len(names) >= 100


def test_an_error_can_be_caught_as_what_a_numpy_user_expects(backend):
    with pytest.raises(ValueError):
        gr.conv(X, np.ones((3, 5, 3, 3)))
    with pytest.raises(TypeError):
        gr.conv(X, [[[[1.0]]]])
    with pytest.raises(IndexError):
        gr.scatter_add(np.zeros(3), np.array([3]), np.ones(1))
    with pytest.raises(gr.errors.IndexRangeError, match=r"index\[1, 0\]"):
        gr.scatter_add(np.zeros(3), np.array([[0], [7]]), np.ones((2, 1)))


def test_an_empty_target_cannot_be_added_to(backend):
    with pytest.raises(gr.GradrouteError, match="out"):
        gr.scatter_add(np.zeros((0, 2)), np.array([0]), np.ones((1, 2)))


def test_a_workspace_beyond_the_limit_is_refused(backend):
    x, w = np.ones((2, 16, 20, 20), np.float32), np.ones((16, 16, 3, 3), np.float32)
    bytes_needed = gr.plan("conv", x, w).workspace_bytes
    with gr.config(workspace_limit=bytes_needed):
        expected = gr.conv(x, w)
    if bytes_needed:
        with gr.config(workspace_limit=bytes_needed - 1):
            smaller = gr.plan("conv", x, w).workspace_bytes
            if smaller < bytes_needed:  # another algorithm fits
                np.testing.assert_allclose(gr.conv(x, w), expected, rtol=1e-5)
            else:
                with pytest.raises(MemoryError, match="workspace_limit"):
                    gr.conv(x, w)


class OfAnotherLibrary:
    """Looks like an array, and is none of NumPy's or CuPy's."""

    shape, dtype, ndim = (2, 4, 6, 7), np.dtype("float64"), 4


def test_arrays_of_other_libraries_are_refused(backend):
    with pytest.raises(gr.GradrouteError, match="x.*OfAnotherLibrary"):
        gr.avg_pool(OfAnotherLibrary(), 2)
    with pytest.raises(gr.GradrouteError, match="w.*OfAnotherLibrary"):
        gr.conv(X, OfAnotherLibrary())
    with pytest.raises(gr.GradrouteError, match="winner.*OfAnotherLibrary"):
        gr.max_pool_backward(np.ones((2, 4, 3, 3)), OfAnotherLibrary(), X.shape, 2)


@pytest.mark.parametrize("axis", range(1, 4))
def test_the_smallest_refused_winner_is_the_number_of_taps(backend, axis):
    window = (2, 3, 1)[:axis]
    x = np.arange(2.0 * 12**axis).reshape(1, 2, *(12,) * axis)
    _, winner = gr.max_pool(x, window)
    dy = np.ones(winner.shape)
    winner[...] = np.prod(window) - 1
    gr.max_pool_backward(dy, winner, x.shape, window)
    winner[(0, 1, *(-1,) * axis)] += 1
    with pytest.raises(gr.errors.IndexRangeError, match="winner"):
        gr.max_pool_backward(dy, winner, x.shape, window)
    assert WINNER.max() == 0
