"""Pooling: the winner's rule, where gradients go back to, averages and their divisors."""

import numpy as np
import oracle
import pytest
from cases import POOL
from compare import assert_close
from values import LAYOUTS, back, exact, make, shape_in, to

import gradroute as gr

DTYPES = ("float64", "float32")
by_name = {"ids": str}
WITH_TIES_OR_NAN = [case for case in POOL if case.kind != "normal"]


def winner_dtype(case):
    return np.uint8 if np.prod(case.window) <= 256 else np.uint16


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", POOL, **by_name)
def test_max_pool_picks_the_largest_and_remembers_where(backend, case, dtype, layout):
    x = make(case.kind, case.x, dtype)
    y, winner = gr.max_pool(to(x, layout), case.window, **case.options, layout=layout)
    expected, where, _ = oracle.max_pool(exact(x), case.window, **case.options)
    assert_close(back(y, layout), expected, dtype)
    np.testing.assert_array_equal(back(winner, layout), where)
    assert winner.dtype == winner_dtype(case)

    alone, nothing = gr.max_pool(
        to(x, layout), case.window, **case.options, layout=layout, winner=False
    )
    assert nothing is None
    assert_close(back(alone, layout), expected, dtype)


@pytest.mark.parametrize("ties", ["first", "last"])
@pytest.mark.parametrize("nan", ["propagate", "omit"])
@pytest.mark.parametrize("case", WITH_TIES_OR_NAN, **by_name)
def test_ties_and_nan_follow_the_rule_asked_for(backend, case, ties, nan):
    x = make(case.kind, case.x, "float32")
    rule = {"ties": ties, "nan": nan}
    y, winner = gr.max_pool(x, case.window, **case.options, **rule)
    expected, where, _ = oracle.max_pool(exact(x), case.window, **case.options, **rule)
    np.testing.assert_array_equal(winner, where)
    assert_close(y, expected, "float32")


@pytest.mark.parametrize("ties", ["first", "last"])
def test_the_value_is_the_winners_own_down_to_the_sign_of_zero(backend, ties):
    x = make("zeros", (2, 3, 8, 8), "float32")
    y, winner = gr.max_pool(x, 2, ties=ties)
    index = gr.winner_to_index(winner, x.shape, 2)
    won = np.take_along_axis(x.reshape(2, 3, 64), index.reshape(2, 3, 16), axis=2)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(won.reshape(y.shape)))
    assert set(np.unique(winner)) == ({0} if ties == "first" else {3})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", POOL, **by_name)
def test_max_pool_backward_hands_each_gradient_to_its_winner(backend, case, dtype, layout):
    x = make(case.kind, case.x, dtype)
    shape = shape_in(case.x, layout)
    options = {**case.options, "layout": layout}
    _, winner = gr.max_pool(to(x, layout), case.window, **options)
    _, _, index = oracle.max_pool(exact(x), case.window, **case.options)
    dy = make("normal", index.shape, dtype, seed=1)
    dx = gr.max_pool_backward(to(dy, layout), winner, shape, case.window, **options)
    assert_close(back(dx, layout), oracle.hand_back(exact(dy), index, case.x), dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", POOL, **by_name)
def test_winner_and_index_name_the_same_cell(backend, case, layout):
    x = make(case.kind, case.x, "float32")
    options = {**case.options, "layout": layout}
    shape = shape_in(case.x, layout)
    _, winner = gr.max_pool(to(x, layout), case.window, **options)
    index = gr.winner_to_index(winner, shape, case.window, **options)
    _, _, expected = oracle.max_pool(exact(x), case.window, **case.options)
    assert index.dtype == np.int64
    np.testing.assert_array_equal(back(index, layout), expected)
    again = gr.index_to_winner(index, shape, case.window, **options)
    assert again.dtype == winner.dtype
    np.testing.assert_array_equal(again, winner)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", POOL, **by_name)
def test_max_unpool_puts_back_and_its_backward_reads_there(backend, case, dtype, layout):
    options = {**case.options, "layout": layout}
    shape = shape_in(case.x, layout)
    x = make(case.kind, case.x, dtype)
    _, winner = gr.max_pool(to(x, layout), case.window, **options)
    _, _, index = oracle.max_pool(exact(x), case.window, **case.options)
    y = make("normal", index.shape, dtype, seed=1)
    image = gr.max_unpool(to(y, layout), winner, shape, case.window, **options)
    assert_close(back(image, layout), oracle.max_unpool(exact(y), index, case.x), dtype)

    dx = make("normal", case.x, dtype, seed=2)
    dy = gr.max_unpool_backward(to(dx, layout), winner, shape, case.window, **options)
    assert_close(back(dy, layout), oracle.max_unpool_backward(exact(dx), index), dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", POOL, **by_name)
def test_avg_pool_divides_by_the_cells_it_counts(backend, case, dtype, layout):
    x = make(case.kind, case.x, dtype)
    shape = shape_in(case.x, layout)
    for include in (True, False):
        options = {**case.options, "count_include_pad": include}
        with np.errstate(invalid="ignore"):
            expected = oracle.avg_pool(exact(x), case.window, **options)
        y = gr.avg_pool(to(x, layout), case.window, **options, layout=layout)
        assert_close(back(y, layout), expected, dtype)

        dy = make("normal", expected.shape, dtype, seed=1)
        dx = gr.avg_pool_backward(to(dy, layout), shape, case.window, **options, layout=layout)
        expected = oracle.avg_pool_backward(exact(dy), case.x, case.window, **options)
        assert_close(back(dx, layout), expected, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["3x3 stride 2 padded", "NaN", "ties"])
def test_pools_in_16_bits_choose_exactly_and_round_sums_once(backend, name, dtype):
    pytest.importorskip("ml_dtypes")
    case = next(case for case in POOL if case.name == name)
    x = make(case.kind, case.x, dtype)
    y, winner = gr.max_pool(x, case.window, **case.options)
    expected, where, index = oracle.max_pool(exact(x), case.window, **case.options)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(exact(y), expected)  # a maximum is not rounded
    np.testing.assert_array_equal(winner, where)
    dy = make("normal", y.shape, dtype, seed=1)
    dx = gr.max_pool_backward(dy, winner, case.x, case.window, **case.options)
    assert_close(dx, oracle.hand_back(exact(dy), index, case.x), x.dtype)
    average = gr.avg_pool(x, case.window, **case.options)
    assert_close(average, oracle.avg_pool(exact(x), case.window, **case.options), x.dtype)
