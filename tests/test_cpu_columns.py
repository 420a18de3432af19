"""Convolutions of few outputs by way of their columns."""

import threading

import numpy as np
import pytest
from needs import needs_vectors
from pointwise import channels_last

import gradroute as gr
from gradroute.kernels.cpu.convolution import column_plans, window_columns
from gradroute.kernels.cpu.emitted import placed_rows

pytestmark = needs_vectors

#: x, w, options: sums and outputs of every kind of length, in one piece
CASES = {
    "padding wider than the image": ((5, 24, 6, 5, 6), (20, 24, 3, 3, 3),
                                     {"stride": 2, "padding": 3, "dilation": 3}),
    "few output channels": ((2, 96, 16, 8, 24), (4, 96, 5, 5, 2),
                            {"stride": 4, "padding": (6, 6, 0), "dilation": 3}),
    "many taps": ((1, 70, 16, 8, 16), (34, 70, 5, 5, 5), {"stride": 2}),
    "strides beyond the window": ((3, 40, 20, 23), (33, 40, 2, 3), {"stride": (3, 5)}),
    "one image, a row of outputs": ((1, 64, 9, 31), (48, 64, 9, 3), {"stride": 2}),
    "one output": ((1, 64, 7, 6), (48, 64, 6, 6), {"stride": 3}),
    "groups": ((2, 48, 13, 12), (40, 12, 5, 5), {"stride": 3, "padding": 2, "groups": 4}),
    "a signal, images of their own": ((3, 33, 600), (40, 33, 6), {"stride": 3, "padding": 1}),
    "one channel, more outputs than it": ((2, 1, 900), (70, 1, 16), {"stride": 8}),
    "neighbours": ((2, 40, 14, 15), (40, 40, 5, 5), {"padding": 2}),
}  # fmt: skip

COST = column_plans.conv_costs.by_columns


@pytest.fixture(autouse=True)
def always(monkeypatch, fresh_plans):
    """Columns wherever they can serve: what they cost is not what is tested."""
    monkeypatch.setattr(column_plans.conv_costs, "by_columns", lambda *_: 0.0)


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def _given(case, dtype):
    x_shape, w_shape, options = case
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
    bias = rng.standard_normal(w_shape[0]).astype(dtype)
    with gr.config(backend="reference"):
        dy = rng.standard_normal(gr.conv(x, w, **options).shape).astype(dtype)
    return dy, x, w, bias, options


def _everything(dy, x, w, bias, options):
    """y, dx, dw and db."""
    return gr.conv(x, w, bias, **options), *gr.conv_backward(dy, x, w, **options)


def _planned(x, w, options):
    return [gr.plan(operation, x, w, **options).algorithm
            for operation in ("conv", "conv_dx", "conv_dw")]  # fmt: skip


#: settings unlike those of other tests, whose plans are kept
MINE = {"workspace_limit": 1 << 41}


@pytest.mark.parametrize("precision", ["standard", "strict"])
@pytest.mark.parametrize("dtype, bound", [("float32", 2e-6), ("float64", 4e-15)])
def test_every_pass_in_either_layout(case, dtype, bound, precision):
    dy, x, w, bias, options = _given(case, dtype)
    with gr.config(backend="reference"):
        exact = _everything(*(a.astype(float) for a in (dy, x, w, bias)), options)
    for arrays in ((dy, x), channels_last(dy, x)):
        with gr.config(precision=precision, **MINE):
            assert "columns" in _planned(x, w, options)
            found = _everything(*arrays, w, bias, options)
            with gr.config(threads=1):
                alone = _everything(*arrays, w, bias, options)
        for one, same, wanted in zip(found, alone, exact):
            np.testing.assert_array_equal(one, same)
            assert np.linalg.norm(one - wanted) <= bound * np.linalg.norm(wanted)


def test_dw_of_few_weights_an_output_channel_reads_dy_as_it_lies(monkeypatch):
    monkeypatch.setattr(column_plans.conv_costs, "by_columns", COST)
    x = np.zeros((2, 1, 16000), "float32")
    chosen = [gr.plan("conv_dw", x, np.zeros((512, 1, taps), "float32"), stride=8).algorithm
              for taps in (16, 64)]  # fmt: skip
    assert chosen == ["columns", "pixel_major"]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("images", [1, 2])
def test_a_batch_in_pieces(monkeypatch, images, last):
    """Of one image, or of two and then one."""
    case = (5, 24, 6, 5, 6), *CASES["padding wider than the image"][1:]
    dy, x, w, bias, options = _given(case, "float64")
    with gr.config(backend="reference"):
        exact = _everything(dy, x, w, bias, options)
    column = 24 * w[0, 0].size * dy[0, 0].size * 8
    monkeypatch.setattr(window_columns, "MOST_BYTES", images * column)
    arrays = channels_last(dy, x) if last else (dy, x)
    with gr.config(workspace_limit=(1 << 41) + images):
        plan = gr.plan("conv_dw", x, w, **options)
        assert plan.algorithm == "columns" and plan.blocking["images"] == images
        for one, wanted in zip(_everything(*arrays, w, bias, options), exact):
            assert np.linalg.norm(one - wanted) <= 4e-15 * np.linalg.norm(wanted)


def test_arrays_that_lie_otherwise_go_another_way(case):
    dy, x, w, bias, options = _given(case, "float32")
    with gr.config(**MINE):
        right = _everything(dy, x, w, bias, options)
        views = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (dy, x, w)]
        turned = [np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1] for a in (dy, x, w)]
        for one in (views, turned, (dy, channels_last(x)[0], w), (channels_last(dy)[0], x, w)):
            for found, wanted in zip(_everything(*one, bias, options), right):
                assert np.linalg.norm(found - wanted) <= 4e-6 * np.linalg.norm(wanted)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["dy", "x", "w"])
@pytest.mark.parametrize("last", [False, True])
def test_what_is_not_finite_goes_where_it_is_multiplied_and_not_into_padding(value, which, last):
    dy, x, w, bias, options = _given(CASES["padding wider than the image"], "float32")
    {"dy": dy, "x": x, "w": w}[which].flat[::1571] = value
    with gr.config(backend="reference"):
        exact = _everything(*(a.astype(float) for a in (dy, x, w, bias)), options)
    arrays = channels_last(dy, x) if last else (dy, x)
    with gr.config(**MINE):
        found = _everything(*arrays, w, bias, options)
    for one, wanted in zip(found, exact):
        np.testing.assert_array_equal(np.isnan(one), np.isnan(wanted))
        np.testing.assert_allclose(one, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("last", [False, True])
def test_a_transposed_convolution_adds_its_bias_to_every_cell(case, last):
    """Also to those that no window reads."""
    dy, x, w, _, options = _given(case, "float64")
    rest = [n - ((o - 1) * s + (r - 1) * d + 1 - 2 * p) for n, o, r, s, d, p in zip(
        x.shape[2:], dy.shape[2:], w.shape[2:],
        *(np.broadcast_to(options.get(name, default), x.ndim - 2)
          for name, default in (("stride", 1), ("dilation", 1), ("padding", 0))))]  # fmt: skip
    given = dict(options, output_padding=tuple(map(int, rest)))
    bias = np.arange(x.shape[1], dtype=float)
    with gr.config(backend="reference"):
        exact = gr.conv_transpose(dy, w, bias, **given)
    with gr.config(**MINE):
        found = gr.conv_transpose(channels_last(dy)[0] if last else dy, w, bias, **given)
    assert np.linalg.norm(found - exact) <= 4e-15 * np.linalg.norm(exact)


def test_a_limit_without_room_for_columns_is_kept():
    dy, x, w, bias, options = _given(CASES["few output channels"], "float32")
    with gr.config(workspace_limit=100_000):
        for operation in ("conv", "conv_dx", "conv_dw"):
            plan = gr.plan(operation, x, w, **options)
            assert plan.algorithm != "columns" and plan.workspace_bytes <= 100_000


@pytest.mark.parametrize("lanes", [4, 16])
def test_places_are_those_of_whole_vectors(lanes):
    """And their beginnings tell runs of neighbours, also around padding, from what lies apart."""
    rows = np.array([[5, 6, -1, 8, 9], [0, 2, 4, 6, 8], [-1, -1, -1, -1, -1]])
    places, begins = placed_rows.tables(rows, lanes)
    vectors_of_a_row = -(-5 // lanes)
    np.testing.assert_array_equal(places.reshape(3, -1)[:, :5], rows)
    assert (places.reshape(3, -1)[:, 5:] == -1).all()
    first = begins.reshape(3, vectors_of_a_row)[:, 0]
    np.testing.assert_array_equal(first, [5, placed_rows.APART, placed_rows.NOTHING])


def test_a_workspace_of_an_odd_number_of_floats_serves_the_next_call_in_float64():
    """It is kept between a thread's calls."""
    x, w = np.ones((1, 17, 9, 9), np.float32), np.ones((5, 17, 3, 3), np.float32)
    found = []

    def calls():
        with gr.config(backend="numba", threads=1, **MINE):
            found.append(gr.plan("conv", x, w, stride=3))
            gr.conv(x, w, stride=3)
            found.append(gr.conv(x.astype(float), w.astype(float), stride=5))

    thread = threading.Thread(target=calls)
    thread.start()
    thread.join()
    plan, wide = found
    assert plan.algorithm == "columns" and plan.workspace_bytes % 8 == 4
    assert (wide == 17 * 9).all()
