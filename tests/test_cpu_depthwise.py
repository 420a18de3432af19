"""The depthwise kernels of the Numba backend, called as the plan calls them."""

import itertools

import numpy as np
import pytest
from compare import assert_close

import gradroute as gr
from gradroute.config import available_threads
from gradroute.kernels.cpu import vectors

pytestmark = pytest.mark.skipif(not vectors.TARGET, reason="no vectors with FMA on this machine")

#: N, C, K, G, (H, W), (R, S), stride, dilation, padding
SHAPES = [
    (2, 6, 6, 6, (7, 7), (3, 3), 1, 1, 1),
    (1, 3, 3, 3, (14, 37), (3, 3), 1, 1, 1),
    (2, 5, 5, 5, (9, 19), (3, 3), 2, 1, 1),
    (1, 18, 18, 18, (11, 23), (5, 5), 1, 1, 2),
    (1, 18, 18, 18, (11, 23), (5, 5), 2, 1, 2),
    (1, 4, 4, 4, (15, 18), (7, 7), 1, 1, 3),
    (1, 4, 4, 4, (15, 18), (2, 4), 2, 1, 0),
    (1, 4, 4, 4, (17, 20), (3, 3), 1, 3, 3),
    (1, 4, 4, 4, (17, 20), (3, 3), 2, 2, 2),
    (1, 2, 2, 2, (3, 3), (2, 2), 1, 1, 4),
    (2, 8, 8, 2, (9, 18), (3, 3), 1, 1, 1),
    (1, 3, 6, 3, (9, 18), (3, 3), 2, 1, 1),
]

#: the same, of planes of which a whole row fits a vector of 16, 8 or 4 lanes, or strips of stride 2
NARROW = [
    (3, 5, 5, 5, (14, 14), (3, 3), 2, 1, 1),
    (2, 5, 15, 5, (9, 6), (3, 3), 1, 1, 1),
    (2, 5, 15, 5, (9, 6), (3, 3), 2, 1, 1),
    (2, 7, 7, 7, (5, 8), (3, 3), 1, 1, 0),
    (2, 7, 7, 7, (8, 12), (3, 3), 1, 1, 2),
    (2, 7, 7, 7, (11, 16), (3, 3), 1, 1, 1),
    (2, 4, 4, 4, (12, 17), (3, 3), 1, 1, 1),
    (2, 4, 4, 4, (11, 15), (3, 3), 2, 1, 0),
    (2, 4, 4, 4, (12, 16), (3, 3), 2, 1, 2),
    (2, 4, 4, 4, (9, 30), (3, 3), 2, 1, 1),
    (2, 4, 4, 4, (9, 31), (3, 3), 2, 1, 1),
    (2, 4, 4, 4, (9, 33), (3, 3), 2, 1, 2),
    (1, 3, 6, 3, (61, 75), (3, 3), 2, 1, 1),
    (1, 3, 3, 3, (29, 62), (3, 3), 2, 1, 2),
    (1, 40, 40, 40, (1, 9), (3, 3), 1, 1, 2),
    (1, 90, 90, 90, (3, 1), (3, 3), 2, 1, 1),
    (2, 30, 30, 30, (2, 3), (3, 3), 1, 1, 4),
    (2, 30, 30, 30, (3, 2), (3, 3), 2, 1, 4),
]

#: the same, of other windows than 3x3: in one piece and in several, along both axes, one of them
#: beside padding only, with two taps of a line left of each other, of planes of which half a vector
#: holds a row, for four images at a time and for fewer
WINDOWS = [
    (1, 5, 5, 5, (7, 7), (7, 7), 1, 1, 3),
    (3, 5, 5, 5, (7, 7), (5, 5), 1, 1, 2),
    (6, 3, 6, 3, (9, 6), (6, 4), 1, 1, 2),
    (5, 4, 4, 4, (17, 15), (5, 5), 2, 1, 2),
    (1, 20, 20, 20, (33, 34), (9, 8), 1, 1, 4),
    (2, 33, 33, 33, (16, 17), (1, 11), 1, 1, 5),
    (4, 6, 6, 6, (8, 8), (13, 3), 1, 1, 6),
    (2, 6, 6, 6, (13, 40), (5, 6), 2, 3, 4),
    (2, 6, 6, 6, (13, 20), (3, 5), 2, 2, 2),
    (1, 6, 6, 6, (5, 6), (1, 1), 2, 1, 1),
]

#: those of which much only meets padding: it is left out, by phases
FAR = [NARROW[16], NARROW[17], WINDOWS[5], WINDOWS[6]]

#: the same, of more channels than a vector holds, in groups that fill vectors, share them or leave
#: lanes over, and dilated beyond the image: what channels-last images are cut into
MANY = [
    (1, 35, 35, 35, (13, 23), (3, 3), 1, 1, 1),
    (2, 35, 35, 35, (13, 22), (3, 3), 2, 1, 0),
    (1, 130, 130, 130, (5, 6), (3, 3), 1, 1, 2),
    (1, 20, 20, 20, (3, 4), (3, 3), 1, 5, 5),
    (1, 20, 20, 20, (17, 20), (3, 3), 1, 3, 3),
    (2, 24, 24, 8, (9, 17), (3, 3), 2, 1, 1),
    (2, 64, 64, 16, (9, 9), (3, 3), 1, 1, 1),
    (1, 24, 24, 3, (9, 8), (3, 3), 1, 1, 1),
    (1, 16, 32, 8, (9, 8), (3, 3), 2, 1, 1),
    (1, 32, 16, 8, (9, 8), (3, 3), 1, 1, 1),
]

#: the same, of groups of which one fills a vector of float32: of channels-last images only
FULL = [
    (2, 32, 32, 2, (9, 14), (3, 3), 1, 1, 1),
    (2, 48, 48, 4, (13, 10), (3, 3), 2, 1, 1),
    (1, 24, 48, 3, (8, 11), (3, 3), 2, 1, 2),
    (1, 80, 45, 5, (7, 9), (3, 3), 1, 2, 2),
]


def taps(shape, window, stride, dilation, padding, out):
    """For every tap of the window: (tap, slices of the outputs, slices of the inputs it reads)."""
    for tap in itertools.product(*map(range, window)):
        outputs, inputs = [], []
        for t, size, count in zip(tap, shape, out):
            offset = t * dilation - padding
            kept = [o for o in range(count) if 0 <= o * stride + offset < size]
            outputs.append(slice(kept[0], kept[-1] + 1) if kept else slice(0, 0))
            first = kept[0] * stride + offset if kept else 0
            inputs.append(slice(first, first + stride * (len(kept) - 1) + 1 if kept else 0, stride))
        yield tap, outputs, inputs


def direct(x, w, dy, shape):
    """y, dx, dw as the definition says, in float64; padding is never multiplied."""
    _, C, K, G, size, window, stride, dilation, padding = shape
    x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
    y, dx, dw = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(w)
    pairs = [(k, c, k // (K // G) * (C // G) + c) for k in range(K) for c in range(C // G)]
    for tap, o, i in taps(size, window, stride, dilation, padding, dy.shape[2:]):
        for k, c, source in pairs:
            y[:, k, *o] += w[k, c, *tap] * x[:, source, *i]
            dx[:, source, *i] += w[k, c, *tap] * dy[:, k, *o]
            dw[k, c, *tap] += (dy[:, k, *o] * x[:, source, *i]).sum()
    return y, dx, dw


def problem(shape, dtype):
    N, C, K, G, size, window, stride, dilation, padding = shape
    rng = np.random.default_rng(3)
    out = [(n + 2 * padding - (r - 1) * dilation - 1) // stride + 1 for n, r in zip(size, window)]
    shapes = ((N, C, *size), (K, C // G, *window), (N, K, *out))
    options = {"stride": stride, "dilation": dilation, "padding": padding, "groups": G}
    return *(rng.standard_normal(s).astype(dtype) for s in shapes), options


def last(a):
    """The same values, channels last."""
    return np.ascontiguousarray(np.moveaxis(a, 1, -1))


def first(a):
    return np.moveaxis(a, -1, 1)


@pytest.fixture(autouse=True)
def numba():
    with gr.config(backend="numba"):
        yield


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("shape", SHAPES + NARROW + WINDOWS + MANY, ids=str)
def test_every_layout_gives_the_direct_sum(shape, dtype):
    x, w, dy, options = problem(shape, dtype)
    plan = gr.plan("conv", x, w, **options)
    found = (plan.algorithm, plan.blocking.get("by"))
    assert found == (("phases", "depthwise") if shape in FAR else ("depthwise", None))
    expected = direct(x, w, dy, shape)
    bias = dy.astype(np.float64).sum((0, 2, 3))
    assert_close(gr.conv(x, w, **options), expected[0], dtype)
    for found, exact in zip(gr.conv_backward(dy, x, w, **options), (*expected[1:], bias)):
        assert_close(found, exact, dtype)
    options["layout"] = "channels_last"
    b = np.arange(len(w), dtype=dtype)
    assert_close(first(gr.conv(last(x), w, b, **options)), expected[0] + b[:, None, None], dtype)
    dx, dw, db = gr.conv_backward(last(dy), last(x), w, **options)
    for found, exact in zip((first(dx), dw, db), (*expected[1:], bias)):
        assert_close(found, exact, dtype)


@pytest.mark.parametrize("shape", FULL, ids=str)
def test_channels_last_images_have_a_plan_of_their_own_where_a_group_fills_a_vector(shape):
    x, w, dy, options = problem(shape, "float32")
    expected, b = direct(x, w, dy, shape), np.arange(len(w), dtype="float32")
    for layout, give, take in (("channels_first", np.array, np.array),
                               ("channels_last", last, first)):  # fmt: skip
        options["layout"] = layout
        plans = [gr.plan(name, give(x), w, **options) for name in ("conv", "conv_dx", "conv_dw")]
        own = layout == "channels_last" and vectors.VECTOR_BYTES == 64
        assert all((plan.algorithm == "depthwise") == own for plan in plans)
        y = take(gr.conv(give(x), w, b, **options))
        assert_close(y, expected[0] + b[:, None, None], "float32")
        dx, dw, db = gr.conv_backward(give(dy), give(x), w, **options)
        found = (take(dx), dw, db)
        for one, exact in zip(found, (*expected[1:], dy.astype(float).sum((0, 2, 3)))):
            assert_close(one, exact, "float32")
    with gr.config(workspace_limit=plans[0].workspace_bytes - 1):
        assert_close(first(gr.conv(last(x), w, **options)), expected[0], "float32")


@pytest.mark.parametrize(
    "shape", [*SHAPES[:3], SHAPES[9], SHAPES[11], *NARROW, *WINDOWS, *MANY, *FULL], ids=str
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", (np.inf, np.nan))
def test_padding_is_not_multiplied(shape, value):
    x, w, dy, options = problem(shape, "float32")
    w[1], dy[0, 0, 0, 0] = value, value
    expected = direct(x, w, dy, shape)
    for layout, give, take in (("channels_first", np.array, np.array),
                               ("channels_last", last, first)):  # fmt: skip
        options["layout"] = layout
        y = take(gr.conv(give(x), w, **options))
        dx, dw, _ = gr.conv_backward(give(dy), give(x), w, **options)
        for found, exact in zip((y, take(dx), dw), expected):
            assert_close(found, exact, "float32")


@pytest.mark.skipif(vectors.VECTOR_BYTES < 64, reason="narrower vectors do not hold such rows")
@pytest.mark.parametrize("shape", NARROW[:2], ids=str)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_narrow_planes_give_the_bits_of_wide_ones(shape, dtype):
    """The same image with columns of zeros behind it, or none: its rows are summed alike."""
    x, w, _, options = problem(shape, dtype)
    options["padding"] = 0
    wide = np.concatenate([x, np.zeros((*x.shape[:-1], 64), dtype)], axis=-1)
    assert (gr.plan("conv", x, w, **options).blocking
            != gr.plan("conv", wide, w, **options).blocking)  # fmt: skip
    y = gr.conv(x, w, **options)
    assert np.array_equal(y, gr.conv(wide, w, **options)[..., : y.shape[-1]])


@pytest.mark.parametrize("shape", [SHAPES[10], MANY[0], MANY[5], FULL[0]], ids=str)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_infinite_pixels_show_only_where_they_are_read(shape):
    """Beyond the last dy there is nothing to multiply an infinite pixel with, not zero."""
    x, w, dy, options = problem(shape, "float32")
    x[0, 1, :, -1], x[0, 0, -1] = np.inf, -np.inf
    expected = direct(x, w, dy, shape)
    for layout, give in (("channels_first", np.array), ("channels_last", last)):
        dw = gr.conv_backward(give(dy), give(x), w, need=("w",), layout=layout, **options)[1]
        assert_close(dw, expected[2], "float32")


@pytest.mark.parametrize("layout", ("channels_first", "channels_last"))
@pytest.mark.parametrize(
    "shape", [SHAPES[0], SHAPES[2], SHAPES[5], SHAPES[10], MANY[0], MANY[6], FULL[1]], ids=str
)
def test_threads_do_not_change_a_bit(shape, layout):
    if gr.config.threads == 1 or available_threads() < 2:
        pytest.skip("one thread only")
    shape = (3, *shape[1:4], (40, 41), *shape[5:])  # enough work for a parallel region
    x, w, dy, options = problem(shape, "float32")
    if layout == "channels_last":
        x, dy, options["layout"] = last(x), last(dy), layout
    results = []
    for threads in (1, 2):
        with gr.config(threads=threads):
            results.append((gr.conv(x, w, **options), *gr.conv_backward(dy, x, w, **options)))
    for one, two in zip(*results):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("stride, dilation", ((1, 1), (1, 2), (2, 1)))
def test_channels_last_windows_of_several_planes(stride, dilation):
    """A third axis is summed plane by plane of the window, in groups as without them."""
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((2, 5, 9, 10, 24)), rng.standard_normal((24, 2, 3, 3, 3))
    options = {"groups": 12, "padding": 1, "layout": "channels_last", "stride": stride,
               "dilation": dilation}  # fmt: skip
    assert gr.plan("conv", x, w, **options).algorithm == "depthwise"
    y = gr.conv(x, w, **options)
    dy = rng.standard_normal(y.shape)
    found = (y, *gr.conv_backward(dy, x, w, **options))
    with gr.config(backend="reference"):
        wanted = (gr.conv(x, w, **options), *gr.conv_backward(dy, x, w, **options))
    for one, other in zip(found, wanted):
        assert_close(one, other, "float64")


def test_reversed_and_spread_rows_are_served():
    x, w, dy, options = problem(SHAPES[1], "float64")
    expected = direct(x, w, dy, SHAPES[1])
    reversed_x, spread = np.ascontiguousarray(x[..., ::-1])[..., ::-1], np.zeros((*dy.shape, 2))
    spread[..., 0] = dy
    assert_close(gr.conv(reversed_x, w, **options), expected[0], "float64")
    dx, dw, _ = gr.conv_backward(spread[..., 0], reversed_x, w, **options)
    assert_close(dx, expected[1], "float64")
    assert_close(dw, expected[2], "float64")


def test_more_channels_and_strides_are_left_to_others():
    x, w, _, options = problem((1, 32, 32, 2, (8, 8), (3, 3), 1, 1, 1), "float32")
    assert gr.plan("conv", x, w, **options).algorithm != "depthwise"
    x, w, _, options = problem((1, 4, 4, 4, (12, 12), (3, 3), 3, 1, 1), "float32")
    assert gr.plan("conv", x, w, **options).algorithm != "depthwise"
