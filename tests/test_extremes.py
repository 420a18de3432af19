"""Options far beyond the image: right, and done at once, whatever their size."""

import tracemalloc

import numpy as np
import pytest
from compare import assert_close

import gradroute as gr
from gradroute.kernels.cpu.convolution.blocks import even_lengths

X = np.arange(2.0 * 3 * 40).reshape(2, 3, 40) - 100
W = np.arange(16.0 * 3 * 2).reshape(16, 3, 2) - 40
HUGE = [10**6, 2**31, 2**40, 2**61]


@pytest.mark.parametrize("stride", HUGE)
def test_a_stride_beyond_the_image_leaves_one_window(backend, stride):
    y = gr.conv(X, W, stride=stride)
    expected = gr.conv(X[..., :2], W)
    assert_close(y, expected, "float64")
    dx, dw, db = gr.conv_backward(y, X, W, stride=stride)
    near = gr.conv_backward(y, X[..., :2], W)
    assert_close(dx[..., :2], near[0], "float64")
    assert not dx[..., 2:].any()
    assert_close(dw, near[1], "float64")
    assert_close(db, near[2], "float64")
    pooled, winner = gr.max_pool(X, 2, stride=stride)
    assert pooled.shape == (2, 3, 1) and (winner == 1).all()


@pytest.mark.parametrize("stride", [*HUGE, 2**62])
def test_a_stride_beyond_the_rows_of_an_image_keeps_those_along_them(backend, stride):
    """Few weights and many pixels: elements of the only row, at offsets of their own."""
    x = np.cos(np.arange(60.0)).reshape(1, 3, 2, 10)
    w = np.sin(np.arange(600.0)).reshape(8, 3, 5, 5)
    options = {"stride": (stride, 1), "padding": 2}
    y = gr.conv(x, w, **options)
    right = gr.conv(x, w, padding=2)[:, :, :1]
    assert_close(y, right, "float64")
    near = gr.conv_backward(np.pad(y, [(0, 0), (0, 0), (0, 1), (0, 0)]), x, w, padding=2)
    for one, other in zip(gr.conv_backward(y, x, w, **options), near):
        assert_close(one, other, "float64")


@pytest.mark.parametrize("dilation", HUGE)
def test_a_dilation_beyond_the_image_leaves_the_taps_on_it(dilation):
    """One tap of two falls on each output: the other reads padding."""
    options = {"dilation": dilation, "padding": ((0, dilation),)}
    y = gr.conv(X, W, **options)
    assert_close(y, gr.conv(X, W[..., :1]), "float64")
    dx, dw, db = gr.conv_backward(y, X, W, **options)
    near = gr.conv_backward(y, X, W[..., :1])
    assert_close(dx, near[0], "float64")
    assert_close(dw[..., :1], near[1], "float64")
    assert not dw[..., 1:].any()
    assert_close(db, near[2], "float64")


def test_padding_far_in_front_of_a_pool_is_refused_at_once(backend):
    far = 2**40
    with pytest.raises(gr.GradrouteError, match="only padding"):
        gr.avg_pool(X, 2, padding=((far, 0),), stride=1)
    with pytest.raises((gr.GradrouteError, MemoryError)):  # allowed, and larger than memory
        gr.avg_pool(X, far + 1, padding=((far, far),), stride=1)


@pytest.mark.parametrize("name", ["reference", "numba"])  # a GPU would have to hold the rows
def test_a_product_without_elements_costs_nothing(name):
    rows = np.broadcast_to(np.ones((1, 12)), (2**50, 12))
    with gr.config(backend=name):
        assert gr.matmul(rows, np.ones((2, 12, 0))).shape == (2, 2**50, 0)


@pytest.mark.parametrize("operation", ["conv", "conv_dx", "conv_dw"])
@pytest.mark.parametrize("groups", [1, 2])
def test_an_image_beyond_any_memory_is_planned_at_once(operation, groups):
    x = np.broadcast_to(np.float32(1), (2, 64, 3, 2**45))
    w = np.broadcast_to(np.float32(1), (64, 64 // groups, 1, 2))
    for precision in ("standard", "strict"):
        with gr.config(backend="numba", precision=precision):
            assert gr.plan(operation, x, w, groups=groups, dilation=2).algorithm
            if operation == "conv":
                with pytest.raises(MemoryError):
                    gr.conv(x, w, groups=groups, dilation=2)


@pytest.mark.parametrize("span", [1, 2, 7, 60, 385])
@pytest.mark.parametrize("limit", [1, 3, 19, 400])
def test_lengths_of_even_parts_are_all_there_are(span, limit):
    lengths = {-(-span // parts) for parts in range(1, span + 1)}
    assert even_lengths(span, limit) == sorted({n for n in lengths if n <= limit}, reverse=True)


def test_a_volume_with_one_axis_of_billions_is_planned_at_once():
    """It takes no memory where it is broadcast; the lengths of its blocks were tried one by one."""
    assert len(even_lengths(2**31, 6898)) == 6898
    x = np.broadcast_to(np.float32(1), (1, 5, 5, 2**31, 6))
    with gr.config(backend="numba"):
        plan = gr.plan("conv", x, np.ones((1, 5, 5, 5, 5), np.float32), padding=2)
    assert plan.workspace_bytes <= 32 << 20


@pytest.mark.parametrize("size, window, options", [
    (7, 2, {"stride": 2}), (1, 2, {"padding": 2}), (7, 3, {"stride": 3, "padding": 2}),
    (7, 5, {}), (7, 3, {"dilation": 3, "padding": 3}), (7, 1, {}),
])  # fmt: skip
@pytest.mark.parametrize("channels", [3, 64])
def test_billions_of_images_are_planned_at_once(size, window, options, channels):
    """A broadcast batch takes no memory; plans listed the pieces that it would be cut into."""
    x = np.broadcast_to(np.float32(1), (2**33, channels, size, size))
    w = np.ones((64, channels, window, window), np.float32)
    with gr.config(backend="numba"):
        tracemalloc.start()
        try:
            for operation in ("conv", "conv_dx", "conv_dw"):
                assert gr.plan(operation, x, w, **options).algorithm
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
        finally:
            tracemalloc.stop()
