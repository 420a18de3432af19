"""The Numba pooling kernels against loops over windows, on every memory layout of a caller."""

import functools
import itertools

import numpy as np
import pytest

import gradroute as gr
from gradroute import geometry as shapes
from gradroute.kernels.contract import Plan
from gradroute.kernels.cpu import pool

GEOMETRIES = {
    "2x2": ((2, 5, 8, 8), 2, 2, 0, 1, False),
    "2x2 wide": ((1, 3, 4, 70), 2, 2, 0, 1, False),
    "2x2, a window a row": ((3, 7, 4, 2), 2, 2, 0, 1, False),
    "2x2, two windows a row": ((3, 3, 6, 4), 2, 2, 0, 1, False),
    "2x2, eight windows a row": ((3, 3, 2, 16), 2, 2, 0, 1, False),
    "2x2, seven windows a row": ((3, 3, 6, 14), 2, 2, 0, 1, False),
    "2x2 of planes": ((2, 3, 3, 4, 8), (1, 2, 2), (1, 2, 2), 0, 1, False),
    "2x2 and a row left": ((2, 3, 9, 8), 2, 2, 0, 1, False),
    "2x2 and a column left": ((2, 3, 8, 9), 2, 2, 0, 1, False),
    "3x3 stride 2 padded": ((2, 19, 9, 37), 3, 2, 1, 1, False),
    "overlapping, stride 1": ((1, 4, 6, 21), 3, 1, 1, 1, False),
    "stride 3, gaps": ((1, 3, 11, 40), 2, 3, 0, 1, False),
    "stride 3, padded": ((2, 3, 11, 52), 4, 3, 1, 1, False),
    "stride 4": ((2, 3, 21, 71), 5, 4, 2, 1, False),
    "stride 5": ((1, 3, 21, 36), 5, 5, 0, 1, False),
    "few images of many channels": ((1, 40, 9, 9), 3, 2, 1, 1, False),
    "dilated": ((1, 17, 12, 30), 3, 2, ((1, 2), (2, 0)), 2, False),
    "ceil mode": ((1, 2, 7, 20), 3, 2, 1, 1, True),
    "three axes": ((1, 2, 5, 6, 19), (2, 3, 2), (2, 1, 2), ((1, 0), 1, 0), 1, False),
    "one row": ((2, 3, 33), 4, 2, 2, 1, False),
    "more than 256 taps": ((1, 1, 18, 30), (17, 17), 1, 0, 1, False),
    "whole images": ((3, 11, 7, 7), 7, 7, 0, 1, False),
    "whole volumes": ((2, 3, 3, 4, 5), (3, 4, 5), 1, 0, 1, False),
    "whole rows": ((2, 3, 9, 6), (2, 6), (3, 1), 0, 1, False),
    "whole rows, ceil mode": ((2, 3, 8, 6), (4, 6), (3, 1), 0, 1, True),
    "text over time": ((3, 5, 50), 50, 1, 0, 1, False),
    "small planes, two windows a row": ((5, 16, 4, 4), 2, 2, 0, 1, False),
    "small planes with rows left": ((3, 8, 5, 7), 3, (5, 2), 0, 1, False),
    "windows over the edge everywhere": ((2, 3, 5, 6), 9, 1, 4, 1, False),
    "small planes, stride 1": ((3, 5, 7, 7), 3, 1, 1, 1, False),
    "small planes, dilated": ((2, 3, 9, 11), 3, 1, 2, 2, False),
    "small planes, one padded behind": ((2, 3, 6, 9), 2, 1, ((0, 1), (0, 1)), 1, False),
    "large windows over small planes": ((3, 5, 9, 11), 5, 1, 2, 1, False),
    "stride 3, side by side": ((2, 5, 15, 54), 3, 3, 0, 1, False),
    "64 channels or more": ((1, 70, 7, 9), 3, 2, 1, 1, False),
    "64 channels, rows and columns left": ((2, 96, 8, 9), (3, 2), (2, 2), 0, 1, False),
    "64 channels, stride 1": ((2, 64, 5, 6), 2, 1, ((0, 1), (1, 0)), 1, False),
    "64 channels of volumes": ((1, 65, 3, 6, 5), (1, 3, 4), (2, 1, 2), (0, 0, 1), 1, False),
    "two channels": ((3, 2, 7, 9), 3, 2, 1, 1, False),
    "twelve channels": ((2, 12, 6, 8), 2, 2, 0, 1, False),
    "no image": ((0, 3, 4, 4), 2, 2, 0, 1, False),
    "no whole image": ((0, 3, 4, 4), 4, 4, 0, 1, False),
}
LAYOUTS = ["first", "last", "every second", "backwards"]


def geometry_of(name):
    shape, window, stride, padding, dilation, ceil_mode = GEOMETRIES[name]
    return shapes.pool_geometry(
        shape, window=window, stride=stride, padding=padding, dilation=dilation,
        ceil_mode=ceil_mode,
    )  # fmt: skip


def laid_out(values, layout):
    """The same values in another memory layout."""
    if layout == "last":
        return np.ascontiguousarray(np.moveaxis(values, 1, -1)).transpose(0, 4, 1, 2, 3)
    if layout == "every second":
        wide = np.zeros((*values.shape[:-1], 2 * values.shape[-1]), values.dtype)
        wide[..., ::2] = values
        return wide[..., ::2]
    if layout == "backwards":
        return np.ascontiguousarray(values[..., ::-1, ::-1])[..., ::-1, ::-1]
    return np.ascontiguousarray(values)


def windows(g):
    """Every window: its position, and (tap number, input position) of the taps inside the image."""
    for place in np.ndindex(*g.out):
        taps = []
        for number, tap in enumerate(np.ndindex(*g.window)):
            at = [o * s - b + t * d for o, s, b, t, d in
                  zip(place, g.stride, g.before, tap, g.dilation)]  # fmt: skip
            if all(0 <= i < n for i, n in zip(at, g.size)):
                taps.append((number, tuple(at)))
        yield place, taps


def pick(values, ties, nan):
    """Which of a window's values wins, by the rule in words."""
    is_nan = np.isnan(values)
    if nan == "propagate" and is_nan.any():
        return int(np.argmax(is_nan))
    rank = np.where(is_nan, -np.inf, values)
    best = np.flatnonzero((rank == rank.max()) & (is_nan == is_nan.all()))
    if nan == "omit" and not is_nan.all():
        best = np.flatnonzero(~is_nan & (values == values[~is_nan].max()))
    return int(best[0] if ties == "first" else best[-1])


@functools.cache
def awkward_and_its_maximum(name, dtype, ties, nan):
    g = geometry_of(name)
    x = awkward(g.x_shape, dtype)
    return x, *expected_max(x, g, ties, nan)


def expected_max(x, g, ties, nan):
    y, winner = np.empty(g.y_shape, x.dtype), np.empty(g.y_shape, np.int64)
    for place, taps in windows(g):
        for n, c in np.ndindex(*x.shape[:2]):
            values = np.array([x[(n, c, *at)] for _, at in taps])
            won = pick(values, ties, nan)
            y[(n, c, *place)], winner[(n, c, *place)] = values[won], taps[won][0]
    return y, winner


def expected_dx(dy, winner, g):
    dx = np.zeros(g.x_shape, dy.dtype)
    for place, taps in windows(g):  # row-major
        cell = dict(taps)
        for n, c in np.ndindex(*dy.shape[:2]):
            dx[(n, c, *cell[int(winner[(n, c, *place)])])] += dy[(n, c, *place)]
    return dx


def awkward(shape, dtype, seed=0):
    """Many ties, both zeros, infinities and NaN."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, shape).astype(dtype)
    for special in (np.nan, -np.inf, -np.inf, np.inf, -0.0):
        values[rng.random(shape) < 0.06] = special
    return values


def plan(threads=1):
    return Plan("numba", "pool", "direct", threads=threads)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_max_pool_keeps_the_tie_and_nan_rules_in_every_lane(name, layout):
    g = geometry_of(name)
    for ties, nan in itertools.product(("first", "last"), ("propagate", "omit")):
        x, y_expected, winner_expected = awkward_and_its_maximum(name, "float32", ties, nan)
        y = laid_out(np.full(g.y_shape, 7, "float32"), layout)
        winner = laid_out(np.zeros(g.y_shape, g.winner_dtype), layout)
        pool.max_pool_forward(y, winner, laid_out(x, layout), g, ties, nan, plan(), None)
        np.testing.assert_array_equal(winner, winner_expected, f"{ties} {nan}")
        np.testing.assert_array_equal(y, y_expected, f"{ties} {nan}")
        y[...] = 7
        pool.max_pool_forward(y, None, laid_out(x, layout), g, ties, nan, plan(), None)
        np.testing.assert_array_equal(y, y_expected, f"{ties} {nan}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_backward_adds_in_row_major_window_order_to_the_bit(name, layout, dtype):
    g = geometry_of(name)
    rng = np.random.default_rng(1)
    _, _, winner = awkward_and_its_maximum(name, dtype, "first", "propagate")
    winner = laid_out(winner.astype(g.winner_dtype), layout)
    dy = rng.standard_normal(g.y_shape).astype(dtype)
    dy[rng.random(dy.shape) < 0.02] = np.inf
    expected = expected_dx(dy, winner, g)
    for threads in (1, 2):
        dx = laid_out(np.full(g.x_shape, 7, dtype), layout)
        pool.max_pool_backward(dx, laid_out(dy, layout), winner, -1, g, plan(threads), None)
        assert dx.tobytes() == expected.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_first_winner_that_is_no_input_is_found_wherever_it_is(name, layout):
    g = geometry_of(name)
    if g.batch == 0:
        return
    _, good = expected_max(np.ones(g.x_shape, "float32"), g, "first", "propagate")
    good = good.astype(g.winner_dtype)
    assert pool.check_winner(laid_out(good, layout), g, plan(2), None) == -1
    inside = {place: {number for number, _ in taps} for place, taps in windows(g)}
    rng = np.random.default_rng(2)
    for flat in [0, good.size - 1, *rng.integers(0, good.size, 6)]:
        place = np.unravel_index(flat, good.shape)
        wrong = set(range(min(g.taps + 2, 256))) - inside[tuple(place[2:])]
        for number in sorted(wrong)[:3]:
            bad = good.copy()
            bad[place] = number
            for threads in (1, 2):
                assert pool.check_winner(laid_out(bad, layout), g, plan(threads), None) == flat


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_written_beside_the_outputs(layout):
    g = geometry_of("3x3 stride 2 padded")
    x = laid_out(awkward(g.x_shape, "float32"), layout)

    def framed(shape, dtype):
        frame = np.full(tuple(n + 4 for n in shape), 77, dtype)
        inner = frame[tuple(slice(2, -2) for _ in shape)]
        return frame, inner

    y_frame, y = framed(g.y_shape, "float32")
    w_frame, winner = framed(g.y_shape, g.winner_dtype)
    dx_frame, dx = framed(g.x_shape, "float32")
    pool.max_pool_forward(y, winner, x, g, "first", "propagate", plan(), None)
    pool.max_pool_backward(dx, y, winner, -1, g, plan(), None)
    for frame, inner in ((y_frame, y), (w_frame, winner), (dx_frame, dx)):
        inner[...] = 77
        assert (frame == 77).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_means_and_their_shares_are_those_of_loops_over_windows(name, layout, dtype):
    g = geometry_of(name)
    rng = np.random.default_rng(2)
    x, dy = (rng.standard_normal(shape).astype(dtype) for shape in (g.x_shape, g.y_shape))
    x[rng.random(x.shape) < 0.01] = np.inf
    dy[rng.random(dy.shape) < 0.01] = np.inf
    for padding_counts in (False, True):
        mean, share = np.empty(g.y_shape), np.zeros(g.x_shape)
        for place, taps in windows(g):
            counted = divisor(g, place, padding_counts)
            here = np.array([at for _, at in taps]).T
            mean[:, :, *place] = x[:, :, *here].astype(float).sum(axis=2) / counted
            share[:, :, *here] += dy[:, :, *place].astype(float)[..., None] / counted
        found = []
        for threads in (1, 2):
            y, dx = (laid_out(np.full(shape, 7, dtype), layout) for shape in (g.y_shape, g.x_shape))
            pool.avg_pool_forward(y, laid_out(x, layout), g, padding_counts, plan(threads), None)
            pool.avg_pool_backward(dx, laid_out(dy, layout), g, padding_counts, plan(threads), None)
            tolerance = {"float32": 2e-6, "float64": 4e-15}[dtype]
            np.testing.assert_allclose(y, mean, tolerance, 4 * tolerance)
            np.testing.assert_allclose(dx, share, tolerance, 4 * tolerance)
            found.append(y.tobytes() + dx.tobytes())
        assert found[0] == found[1]


def divisor(g, place, padding_counts):
    """How many taps of a window count."""
    counted = 1
    for axis, o in enumerate(place):
        taps = o * g.stride[axis] - g.before[axis] + np.arange(g.window[axis]) * g.dilation[axis]
        low, high = (-g.before[axis], g.after[axis]) if padding_counts else (0, 0)
        counted *= int(((taps >= low) & (taps < g.size[axis] + high)).sum())
    return counted


@pytest.mark.parametrize("size, window", [((2,), 2), ((24,), 24), ((1, 18), (1, 18)), ((18, 5), 5)])
def test_dilated_windows_reach_further_than_their_taps_are_many(size, window):
    """As many taps as the image has pixels, some of them in the padding behind."""
    window = window if isinstance(window, tuple) else (window,) * len(size)
    options = {"stride": 1, "dilation": 2, "padding": tuple((0, 2 * (r - 1)) for r in window)}
    x = np.random.default_rng(4).standard_normal((3, 17, *size)).astype("f4")
    found = []
    for backend in ("numba", "reference"):
        with gr.config(backend=backend):
            y, winner = gr.max_pool(x, window, **options)
            mean = gr.avg_pool(x, window, **options)
            found.append((y, mean, gr.max_pool_backward(y, winner, x.shape, window, **options),
                          gr.avg_pool_backward(y, x.shape, window, **options)))  # fmt: skip
    for one, exact in zip(*found):
        np.testing.assert_allclose(one, exact, rtol=2e-6, atol=2e-6)


LARGE = {
    "5x5": ((3, 5, 13, 13), 5, 2, 1),
    "13x13 on less": ((2, 3, 7, 9), 13, 6, 1),
    "more than 256 taps": ((1, 2, 20, 18), 17, 8, 1),
    "one column": ((2, 3, 21, 1), (9, 5), (4, 2), 1),
    "one row": ((2, 3, 1, 40), (5, 9), (2, 4), 1),
    "padded behind": ((1, 3, 11, 35), (4, 6), ((0, 3), (1, 4)), 1),
    "dilated along rows": ((2, 3, 8, 20), 5, (2, 4), (1, 2)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LARGE)
def test_rows_then_columns_find_the_same_winners_as_whole_windows(name, dtype):
    shape, window, padding, dilation = LARGE[name]
    options = {"stride": 1, "padding": padding, "dilation": dilation}
    g = shapes.pool_geometry(shape, window=window, ceil_mode=False, **options)
    x = awkward(shape, dtype, seed=3)
    y, winner = expected_max(x[:, :, None], g, "first", "propagate")
    for limit, way in ((None, "by_axes"), (0, "direct")):
        for threads in (1, 2):
            with gr.config(threads=threads, workspace_limit=limit):
                assert gr.plan("max_pool", x, window, **options).algorithm == way
                for _ in range(2):  # the second call is a settled one
                    found = gr.max_pool(x, window, **options)
                    np.testing.assert_array_equal(found[0], y[:, :, 0])
                    np.testing.assert_array_equal(found[1], winner[:, :, 0])
                found = gr.max_pool(x, window, winner=False, **options)
                np.testing.assert_array_equal(found[0], y[:, :, 0])
                others = gr.max_pool(x, window, ties="last", nan="omit", **options)
        ordered = expected_max(x[:, :, None], g, "last", "omit")
        np.testing.assert_array_equal(others[1], ordered[1][:, :, 0])
