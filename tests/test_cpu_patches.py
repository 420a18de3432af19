"""Convolutions whose windows lie side by side, as matrix products on images in another order."""

import numpy as np
import pytest
from needs import needs_vectors
from pointwise import channels_last

import gradroute as gr
from gradroute.config import available_threads
from gradroute.kernels.cpu.amx import amx_tiles
from gradroute.kernels.cpu.convolution import patches

pytestmark = needs_vectors

#: x, K, window, which is the stride: rows of every kind of step, edges that no window reads
CASES = {
    "sixteen": ((8, 3, 64, 80), 200, (16, 16)),
    "eight, and an edge": ((2, 5, 97, 133), 208, (8, 8)),
    "odd": ((3, 20, 40, 66), 240, (3, 5)),
    "two": ((3, 70, 34, 41), 260, (2, 2)),
    "four along a row": ((3, 70, 8, 161), 260, (1, 4)),
    "one along a row": ((3, 70, 24, 17), 260, (4, 1)),
    "twelve": ((2, 2, 12, 800), 240, (12, 12)),
    "one channel": ((2, 1, 160, 131), 300, (16, 16)),
    "three axes": ((5, 3, 5, 33, 35), 200, (2, 8, 8)),
    "groups": ((2, 20, 64, 96), 400, (8, 8)),
    "one window an image": ((130, 3, 17, 16), 192, (16, 16)),
}

#: windows that read a whole image each
WHOLE = {
    "an image": ((24, 20, 5, 6), 40, (5, 6)),
    "a volume, few of them": ((3, 40, 2, 4, 3), 33, (2, 4, 3)),
    "many channels": ((2, 257, 7, 7), 120, (7, 7)),
    "groups": ((9, 40, 4, 4), 48, (4, 4)),
    "a signal": ((130, 18, 30), 64, (30,)),
}

#: of their float32 results: vectors add up to 4096 terms in one go, AMX fewer
WHOLE_ERROR = 1.5e-6 if amx_tiles.available() else 3e-6


@pytest.fixture(params=CASES)
def case(request):
    x_shape, K, window = CASES[request.param]
    return x_shape, K, window, {"stride": window, "groups": 2 if request.param == "groups" else 1}


@pytest.fixture(params=["channels first", "channels last", "x alone channels last"])
def layout(request):
    return {"channels first": (), "channels last": (0, 1), "x alone channels last": (1,)}[
        request.param
    ]


def _given(case, dtype):
    x_shape, K, window, options = case
    rng = np.random.default_rng(0)
    x = rng.standard_normal(x_shape).astype(dtype)
    w = rng.standard_normal((K, x_shape[1] // options["groups"], *window)).astype(dtype)
    bias = rng.standard_normal(K).astype(dtype)
    pixels = [n // r for n, r in zip(x_shape[2:], window)]
    return rng.standard_normal((x_shape[0], K, *pixels)).astype(dtype), x, w, bias, options


def _everything(dy, x, w, bias, options, last=()):
    """y, dx, dw, db and a transposed convolution with a bias; ``last``: those that lie so."""
    dy, x = (channels_last(a)[0] if i in last else a for i, a in enumerate((dy, x)))
    left = tuple(n % r for n, r in zip(x.shape[2:], w.shape[2:]))
    turned = gr.conv_transpose(dy, w, bias[: x.shape[1]], output_padding=left, **options)
    return gr.conv(x, w, bias, **options), *gr.conv_backward(dy, x, w, **options), turned


def _close(found, exact, bound):
    for one, wanted in zip(found, exact):
        assert np.linalg.norm(one - wanted) <= bound * np.linalg.norm(wanted)


@pytest.mark.parametrize("precision", ["standard", "strict"])
@pytest.mark.parametrize("dtype, bound", [("float32", 1.5e-6), ("float64", 4e-15)])
def test_every_pass_in_every_layout(case, layout, dtype, bound, precision):
    dy, x, w, bias, options = _given(case, dtype)
    with gr.config(precision=precision):
        for operation in ("conv", "conv_dw", *(["conv_dx"] if dtype == "float64" else [])):
            assert gr.plan(operation, x, w, **options).algorithm == "patches"
        found = _everything(dy, x, w, bias, options, layout)
        with gr.config(threads=1):
            alone = _everything(dy, x, w, bias, options, layout)
    with gr.config(backend="reference"):
        exact = _everything(*(a.astype(float) for a in (dy, x, w, bias)), options)
    _close(found, exact, bound)
    for one, same in zip(found, alone):
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("dtype, bound", [("float32", WHOLE_ERROR), ("float64", 4e-15)])
@pytest.mark.parametrize("name", WHOLE)
def test_images_that_are_one_window_are_rows_of_a_matrix(name, dtype, bound, layout):
    """Whatever the stride, as there is one output."""
    options = {"stride": 3, "groups": 2 if name == "groups" else 1}
    dy, x, w, bias, options = _given((*WHOLE[name], options), dtype)
    for operation in ("conv", "conv_dx", "conv_dw"):
        assert gr.plan(operation, x, w, **options).algorithm == "patches"
    with gr.config(backend="reference"):
        exact = [gr.conv(*(a.astype(float) for a in (x, w, bias)), **options),
                 *gr.conv_backward(*(a.astype(float) for a in (dy, x, w)), **options)]  # fmt: skip
    back = [channels_last(a)[0] if i in layout else a for i, a in enumerate((dy, x))]
    apart = [np.repeat(a, 2, axis=2)[:, :, ::2] for a in (dy, x)]
    for one, other in (back, apart):
        found = gr.conv(other, w, bias, **options), *gr.conv_backward(one, other, w, **options)
        _close(found, exact, bound)
        with gr.config(threads=1):
            alone = gr.conv(other, w, bias, **options), *gr.conv_backward(one, other, w, **options)
        for here, same in zip(found, alone):
            np.testing.assert_array_equal(here, same)
    other = np.arange(x.shape[1], dtype=dtype)
    turned = gr.conv_transpose(dy, w, other, **options | {"stride": 1})
    _close([turned - other.reshape(-1, *[1] * (x.ndim - 2))], exact[1:2], 100 * bound)


@pytest.mark.parametrize("last", [(), (0, 1)])
@pytest.mark.parametrize("name", ["sixteen", "eight, and an edge"])
def test_a_batch_in_pieces(monkeypatch, name, last):
    """Of three images, or of one; the last piece of fewer."""
    x_shape, K, window = CASES[name]
    x_shape = (x_shape[0] | 1, *x_shape[1:])
    dy, x, w, bias, options = _given((x_shape, K, window, {"stride": window, "groups": 1}), float)
    with gr.config(backend="reference"):
        exact = _everything(dy, x, w, bias, options)
    monkeypatch.setattr(patches, "MOST_BYTES", x.nbytes // 3 + 200_000)
    settings = {"workspace_limit": 1 << 40}  # unlike other tests': plans are kept
    with gr.config(**settings):
        plan = gr.plan("conv_dw", x, w, **options)
        assert plan.algorithm == "patches" and plan.blocking["images"] < len(x)
        _close(_everything(dy, x, w, bias, options, last), exact, 4e-15)


def test_arrays_that_lie_otherwise_go_another_way(case):
    dy, x, w, bias, options = _given(case, "float32")
    right = _everything(dy, x, w, bias, options)
    spread = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (dy, x, w)]
    for views in (spread, (dy, spread[1], w), (spread[0], x, w), (dy, x, spread[2])):
        _close(_everything(*views, bias, options), right, 2e-6)
    room = np.full((*w.shape, 3), np.nan, w.dtype)[..., 1]
    gr.conv_backward(dy, x, w, out=(None, room, None), need=("w",), **options)
    _close([room], right[2:3], 2e-6)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_numbers_that_are_not_finite_reach_their_window_alone(value, layout):
    case = (*CASES["eight, and an edge"], {"stride": (8, 8), "groups": 1})
    dy, x, w, bias, options = _given(case, "float32")
    x[1, 2, 17, 30] = value
    x[0, 1, 96, 3] = x[0, 1, 3, 132] = value  # read by no window
    dy[0, 7, 3, 2] = value
    y, dx, dw, db, _ = _everything(dy, x, w, bias, options, layout)
    for found, place in ((y, np.s_[1, :, 2, 3]), (dx, np.s_[0, :, 24:32, 16:24]), (db, 7)):
        assert not np.isfinite(found[place]).any()
        found[place] = 0
        assert np.isfinite(found).all()
    assert not np.isfinite(dw[:, 2, 1, 6]).any() and not np.isfinite(dw[7]).any()
    dw[7] = dw[:, 2, 1, 6] = 0
    assert np.isfinite(dw).all()


def test_neither_threads_nor_distances_between_channels_change_a_bit(case):
    dy, x, w, bias, options = _given(case, "float32")
    right = _everything(dy, x, w, bias, options)
    apart = [np.stack([a, a], axis=2)[:, :, 0] for a in (dy, x)]
    for threads in {1, available_threads()}:
        with gr.config(threads=threads):
            for one, same in zip(_everything(*apart, w, bias, options), right):
                np.testing.assert_array_equal(one, same)


def test_a_workspace_too_small_for_the_matrices_leaves_them_to_another_algorithm():
    x, w = np.ones((8, 3, 64, 80), "float32"), np.ones((200, 3, 16, 16), "float32")
    with gr.config(workspace_limit=100_000):
        assert gr.plan("conv", x, w, stride=16).algorithm != "patches"
