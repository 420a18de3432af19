"""A call like one before looks up what its checks found; whatever differs is checked."""

import numpy as np
import pytest
from calls import CALLS
from compare import results

import gradroute as gr
from gradroute.config import config
from gradroute.ops import checks, settled

ONES = {
    "x": np.ones((2, 3, 8, 8), np.float32),
    "w": np.ones((4, 3, 3, 3), np.float32),
    "rows": np.ones((5, 7), np.float32),
    "matrix": np.ones((6, 7), np.float32),
}


@pytest.fixture(autouse=True)
def fresh():
    with gr.config(backend="numba"):
        config.current().settled.clear()
        yield


def test_calls_alike_are_settled_once_and_share_no_memory():
    y = gr.conv(ONES["x"], ONES["w"])
    kept = len(config.current().settled)
    again = gr.conv(ONES["x"].copy(), ONES["w"])
    assert kept == len(config.current().settled) == 1
    assert np.array_equal(y, again) and not np.may_share_memory(y, again)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_the_second_call_gives_the_bits_of_the_first(call, dtype):
    first = results(call(call.arrays(dtype)))
    kept = len(config.current().settled)
    for again in (call(call.arrays(dtype)), call(call.arrays(dtype))):
        for one, other in zip(results(again), first, strict=True):
            assert one.dtype == other.dtype and one.tobytes() == other.tobytes()
    assert kept == len(config.current().settled)


@pytest.mark.parametrize("mode", ["raise", "wrap", "clip"])
@pytest.mark.parametrize("integer", ["int64", "int32", "uint8", "uint64"])
def test_scatter_add_of_every_index_twice(mode, integer):
    index, src = np.array([3, 0, 3], integer), np.array([1, 2, 4], np.float32)
    for _ in range(3):
        out = gr.scatter_add(np.zeros(4, np.float32), index, src, mode=mode)
        assert out.tolist() == [2, 0, 0, 5]


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_winners_of_every_dtype_twice(dtype):
    y, winner = gr.max_pool(ONES["x"], 2)
    winner = winner.astype(dtype)
    for _ in range(3):
        dx = gr.max_pool_backward(y, winner, ONES["x"].shape, 2)
        assert dx[0, 0, :2, :4].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("option", ["stride", "padding", "dilation", "groups"])
@pytest.mark.parametrize("wrong", [True, 1.0, (True, 1), (1, 1.0)])
def test_options_that_equal_good_ones_are_refused_after_them(option, wrong):
    x, w = np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)
    good = 1 if option == "groups" or not isinstance(wrong, tuple) else (1, 1)
    for _ in range(2):
        gr.conv(x, w, **{option: good})
        with pytest.raises(TypeError):
            gr.conv(x, w, **{option: wrong})


def test_a_shape_that_equals_a_good_one_is_refused_after_it():
    y, winner = gr.max_pool(ONES["x"], 2)
    for _ in range(2):
        gr.max_pool_backward(y, winner, ONES["x"].shape, 2)
        with pytest.raises(TypeError):
            gr.max_pool_backward(y, winner, (2, 3, 8.0, 8), 2)


def test_numpy_integers_lists_and_sets_are_taken_as_before():
    x, w = ONES["x"], ONES["w"]
    y = gr.conv(x, w, stride=2)
    dy = np.ones_like(y)
    for _ in range(2):
        assert np.array_equal(y, gr.conv(x, w, stride=np.int64(2)))
        assert np.array_equal(y, gr.conv(x, w, stride=[2, 2]))
        assert np.array_equal(y, gr.conv(x, w, stride=np.array([2, 2])))
        dx, dw, db = gr.conv_backward(dy, x, w, stride=2, need={"w"})
        assert dx is None and dw.shape == w.shape and db is None
    assert len(config.current().settled) == 1


def test_arrays_of_the_same_shape_are_told_apart():
    x, w = ONES["x"], ONES["w"]
    packed = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    packed[...] = x
    turned = np.ones(x.shape[::-1], np.float32).transpose()
    readonly = x.copy()
    readonly.flags.writeable = False
    wanted = gr.conv(x, w)
    for array in (packed, turned, readonly, x):
        assert np.array_equal(gr.conv(array, w), wanted)
    for array in (x.astype(">f4"), x.astype("int32"), x.astype("float64"), x.tolist(), None,
                  np.ma.masked_array(x)):  # fmt: skip
        with pytest.raises(TypeError):
            gr.conv(array, w)


def test_another_setting_is_another_call():
    x, w = np.ones((4, 32, 28, 28), np.float32), np.ones((32, 32, 3, 3), np.float32)
    gr.conv(x, w)
    with gr.config(backend="reference"):
        assert gr.which_backend(x) == "reference"
        assert np.array_equal(gr.conv(x, w)[..., 5, 5], np.full((4, 32), 288, np.float32))
    with gr.config(workspace_limit=0):
        config.current().settled.clear()  # of other tests
        assert gr.plan("conv", x, w).workspace_bytes == 0
        gr.conv(x, w)
        plans = [plan for _, _, _, plan in config.current().settled.values()]
        assert [plan.algorithm for plan in plans] == ["direct"]


def test_a_target_that_has_become_read_only_is_refused():
    out, index, src = np.zeros(4, np.float32), np.array([1, 3]), np.ones(2, np.float32)
    gr.scatter_add(out, index, src)
    out.flags.writeable = False
    with pytest.raises(ValueError):
        gr.scatter_add(out, index, src)
    assert out.tolist() == [0, 1, 0, 1]


def test_values_are_checked_at_every_call():
    y, winner = gr.max_pool(ONES["x"], 2)
    gr.max_pool_backward(y, winner, ONES["x"].shape, 2)
    with pytest.raises(IndexError):
        gr.max_pool_backward(y, winner + np.uint8(4), ONES["x"].shape, 2)
    out, src = np.zeros(4, np.float32), np.ones(2, np.float32)
    gr.scatter_add(out, np.array([1, 3]), src)
    with pytest.raises(IndexError):
        gr.scatter_add(out, np.array([1, 4]), src)


def test_a_deferred_value_check_is_raised_by_a_settled_call(monkeypatch):
    class Device:
        def flag_value(self, bad, wait):
            return bad

    rows, matrix = ONES["rows"], ONES["matrix"]
    gr.linear(rows, matrix)
    monkeypatch.setattr(checks._pending, "checks", ((Device(), 3, lambda at: f"at {at}"),))
    with pytest.raises(IndexError, match="at 3"):
        gr.linear(rows, matrix)
    gr.linear(rows, matrix)


def test_an_empty_matrix_product_and_a_missing_bias_are_settled_too():
    rows, matrix = np.ones((0, 7), np.float32), ONES["matrix"]
    b = np.ones(6, np.float32)
    for _ in range(2):
        assert gr.linear(rows, matrix).shape == (0, 6)
        assert gr.linear(ONES["rows"], matrix)[0, 0] == 7
        assert gr.linear(ONES["rows"], matrix, b)[0, 0] == 8
    assert len(config.current().settled) == 3


def test_the_number_of_calls_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(settled, "MOST", 4)
    for n in range(1, 11):
        gr.activate(np.ones(n, np.float32), "relu")
        assert len(config.current().settled) <= 4


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("window, options", [
    (2, {}), (3, {"stride": 2, "padding": 1}), (8, {}), (4, {"ties": "last"}),
])  # fmt: skip
def test_a_bad_winner_is_found_and_named_at_every_call(layout, window, options):
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 8)).astype(np.float32)
    y, winner = gr.max_pool(x, window, layout=layout, **options)
    again = gr.max_pool(x, window, layout=layout, **options)
    assert y.tobytes() == again[0].tobytes() and winner.tobytes() == again[1].tobytes()
    options.pop("ties", None)
    messages = set()
    for _ in range(3):
        dx = gr.max_pool_backward(y, winner, x.shape, window, layout=layout, **options)
        assert np.isclose(dx.sum(dtype=float), y.sum(dtype=float))
        wrong = winner.copy()
        wrong[1, 0, 0, 0] = window * window
        with pytest.raises(IndexError) as error:
            gr.max_pool_backward(y, wrong, x.shape, window, layout=layout, **options)
        messages.add(str(error.value))
    assert len(messages) == 1 and "(1, 0, 0, 0, 0)" in messages.pop()


def test_a_target_that_shares_memory_with_what_is_added_gives_the_right_sums():
    index = np.array([1, 0, 1, 2])
    for _ in range(3):
        gr.scatter_add(np.zeros(4, np.float32), index, np.ones(4, np.float32))
        whole = np.arange(4, dtype=np.float32)
        gr.scatter_add(whole, index, whole)
        assert whole.tolist() == [0 + 1, 1 + 0 + 2, 2 + 3, 3]


@pytest.mark.parametrize("shape, axis", [((4,), 0), ((4, 3), 0), ((2, 4, 5), 1), ((4, 33), 0)])
def test_small_additions_are_checked_before_the_first_at_every_call(shape, axis):
    rng = np.random.default_rng(0)
    index = np.array([3, -1, 0, 3, -4])
    src = rng.integers(0, 9, (*shape[:axis], 5, *shape[axis + 1 :])).astype(np.float64)
    wanted = np.zeros(shape)
    np.add.at(wanted, (slice(None),) * axis + (index,), src)
    for _ in range(3):
        out = np.zeros(shape)
        assert gr.scatter_add(out, index, src, axis=axis) is out
        assert np.array_equal(out, wanted)
        for bad in (4, -5):
            wrong = index.copy()
            wrong[2] = bad
            with pytest.raises(IndexError, match=r"index\[2\]"):
                gr.scatter_add(out, wrong, src, axis=axis)
        assert np.array_equal(out, wanted)
