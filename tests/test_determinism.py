"""The same bits whatever the number of threads, which thread calls, and what ran before."""

import threading

import numpy as np
import pytest
from calls import MEMORY
from compare import assert_same_bits, results
from values import LAYOUTS, make, to

import gradroute as gr
from gradroute.config import available_threads

COUNTS = [n for n in (2, 3, 8) if n <= available_threads()]
several_threads = pytest.mark.skipif(not COUNTS, reason="this process may use one thread only")

#: big enough to be shared between threads, odd enough to be shared unevenly
X, W = (3, 12, 37, 41), (20, 12, 3, 3)


def _conv(layout, **options):
    x, w = to(make("normal", X, "float32"), layout), make("normal", W, "float32", seed=1)
    y = gr.conv(x, w, layout=layout, **options)
    dy = to(make("normal", np.moveaxis(y, -1, 1).shape if layout == LAYOUTS[1] else y.shape,
                 "float32", seed=2), layout)  # fmt: skip
    return y, *gr.conv_backward(dy, x, w, layout=layout, **options)


def _depthwise(layout):
    x, w = to(make("normal", X, "float32"), layout), make("normal", (12, 1, 3, 3), "float32")
    y = gr.conv(x, w, padding=1, groups=12, layout=layout)
    return y, *gr.conv_backward(x, x, w, padding=1, groups=12, layout=layout)


def _narrow(stride):
    x, w = make("normal", (9, 40, 14, 13), "float32"), make("normal", (40, 1, 3, 3), "float32")
    options = {"padding": 1, "groups": 40, "stride": stride}
    y = gr.conv(x, w, **options)
    return y, *gr.conv_backward(y, x, w, **options)


def _pool(layout, window=3, stride=2):
    x = to(make("ties", X, "float32"), layout)
    options = {"stride": stride, "layout": layout}
    y, winner = gr.max_pool(x, window, **options)
    dy = make("normal", y.shape, "float32", seed=1)
    return (y, winner, gr.max_pool_backward(dy, winner, x.shape, window, **options),
            gr.max_unpool(dy, winner, x.shape, window, **options),
            gr.avg_pool(x, window, **options),
            gr.avg_pool_backward(dy, x.shape, window, **options))  # fmt: skip


def _matmul():
    a, b = make("normal", (3, 150, 170), "float32"), make("normal", (170, 130), "float32", seed=1)
    y = gr.matmul(a, b)
    return y, *gr.matmul_backward(y, a, b)


def _scatter():
    index = np.random.default_rng(0).integers(0, 50, 20_000)
    src = make("normal", (20_000, 7), "float32")
    return gr.scatter_add(np.zeros((50, 7), np.float32), index, src)


def _histogram():
    index = np.random.default_rng(0).integers(0, 50, 100_003)
    return gr.scatter_add(np.ones(50, np.float32), index, make("normal", index.shape, "float32"))


def _columns():
    x = make("normal", X, "float32")
    cols = gr.im2col(x, 3, padding=1)
    return cols, gr.col2im(make("normal", cols.shape, "float32", seed=1), X, 3, padding=1)


def _element_wise():
    x = make("normal", (100_003,), "float32")
    y = gr.activate(x, "gelu")
    logits = make("normal", (5_000, 11), "float32")
    return y, gr.activate_backward(x, "silu", x=y), *gr.softmax_cross_entropy(
        logits, np.arange(5_000) % 11
    )


WORK = {
    "conv": lambda: _conv(LAYOUTS[0], padding=1),
    "conv channels last": lambda: _conv(LAYOUTS[1], padding=1),
    "conv strided": lambda: _conv(LAYOUTS[0], stride=2),
    "depthwise": lambda: _depthwise(LAYOUTS[0]),
    "depthwise channels last": lambda: _depthwise(LAYOUTS[1]),
    "depthwise of narrow images": lambda: _narrow(1),
    "depthwise of narrow images, strided": lambda: _narrow(2),
    "pool": lambda: _pool(LAYOUTS[0]),
    "pool channels last": lambda: _pool(LAYOUTS[1]),
    "pool 2x2": lambda: _pool(LAYOUTS[0], 2, 2),
    "pool 2x2 channels last": lambda: _pool(LAYOUTS[1], 2, 2),
    "matmul": _matmul,
    "scatter": _scatter,
    "histogram": _histogram,
    "columns": _columns,
    "element-wise": _element_wise,
}
every_work = pytest.mark.parametrize("work", WORK)


@pytest.fixture
def numba_backend():
    with gr.config(backend="numba"):
        yield


@several_threads
@every_work
@pytest.mark.parametrize("precision", ["strict", "standard"])
def test_the_number_of_threads_changes_no_bit(numba_backend, work, precision):
    with gr.config(threads=1, precision=precision):
        expected = WORK[work]()
    for count in COUNTS:
        with gr.config(threads=count, precision=precision):
            assert_same_bits(WORK[work](), expected)


#: x, w, options: those whose blocks are so wide that the memory of more threads would not do, and
#: small ones for a limit on memory
WIDE = [
    ((2, 128, 98, 98), (1, 128, 1, 1), {"stride": 4, "dilation": 2}, "float64"),
    ((1, 256, 81, 81), (1, 256, 1, 1), {"stride": 4}, "float64"),
    ((4, 256, 37, 37), (1, 256, 7, 7), {"stride": 4, "padding": 3}, "float64"),
]
LIMITED = [
    ((4, 64, 17, 17), (128, 32, 1, 1), {"groups": 2}, "float32"),
    ((2, 3, 15, 15), (32, 3, 5, 5), {"stride": 2, "padding": 2}, "float32"),
    ((4, 16, 40, 40), (16, 16, 3, 3), {"padding": 1}, "float64"),
    ((2, 64, 18, 18), (64, 64, 3, 3), {"padding": 2, "dilation": 2}, "float32"),
    ((2, 128, 12, 12), (4, 128, 3, 3), {"padding": 1}, "float32"),
]


def _passes(x_shape, w_shape, options, dtype):
    x, w = make("normal", x_shape, dtype), make("normal", w_shape, dtype, seed=1)
    y = gr.conv(x, w, **options)
    return y, *gr.conv_backward(y, x, w, **options)


@several_threads
@pytest.mark.parametrize("case", WIDE)
def test_what_serves_a_convolution_does_not_depend_on_the_number_of_threads(numba_backend, case):
    with gr.config(threads=1):
        expected = _passes(*case)
    for count in COUNTS:
        with gr.config(threads=count):
            assert_same_bits(_passes(*case), expected)


@several_threads
@pytest.mark.parametrize("precision", ["strict", "standard"])
@pytest.mark.parametrize("case", LIMITED)
def test_nor_does_it_where_memory_is_limited(numba_backend, case, precision):
    served = set()
    for limit in (10_000, 50_000, 75_000, 100_000, 135_000, 165_000, 220_000, 300_000, 500_000):
        settings = {"workspace_limit": limit, "precision": precision}
        with gr.config(threads=1, **settings):
            expected = _passes(*case)
            plan = gr.plan("conv", *(np.empty(shape, case[3]) for shape in case[:2]), **case[2])
            assert plan.workspace_bytes <= limit and plan.threads == 1
            served.add(plan.algorithm)
        for count in COUNTS:
            with gr.config(threads=count, **settings):
                assert_same_bits(_passes(*case), expected)
    assert len(served) > 1  # the limits are about where they matter


@every_work
def test_two_python_threads_at_once_get_the_same_bits(numba_backend, work):
    """Compute in several threads of one process, as a data loader and a trainer would."""
    expected = WORK[work]()
    found, errors = [None] * 3, []

    def compute(slot):
        try:
            with gr.config(backend="numba"):
                for _ in range(3):
                    found[slot] = WORK[work]()
        except BaseException as error:  # brought back to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=compute, args=(slot,)) for slot in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for slot in found:
        assert_same_bits(slot, expected)


@every_work
def test_shared_work_agrees_with_the_reference(numba_backend, work):
    """Sizes at which the blocked kernels use every part of their blocking."""
    found = results(WORK[work]())
    with gr.config(backend="reference"):
        expected = results(WORK[work]())
    for one, other in zip(found, expected, strict=True):
        if other.dtype.kind in "iu":
            np.testing.assert_array_equal(one, other)
        else:
            error = np.linalg.norm(one.astype(float) - other.astype(float))
            assert error <= 1e-5 * np.linalg.norm(other.astype(float))


def test_strict_and_standard_both_keep_the_documented_error(numba_backend):
    """Weights and images with a large mean: the sums do not cancel, and must not be off."""
    x = make("normal", (2, 32, 16, 16), "float32") + np.float32(3)
    w = make("normal", (32, 32, 3, 3), "float32", seed=1) + np.float32(1)
    with gr.config(backend="reference"):
        expected = gr.conv(x.astype(float), w.astype(float), padding=1)
    for precision in ("strict", "standard"):
        with gr.config(precision=precision):
            error = np.linalg.norm(gr.conv(x, w, padding=1) - expected)
        assert error <= 1e-5 * np.linalg.norm(expected)


#: arrays -> results, with the shapes of the arrays
ANYWHERE = {
    "conv": (lambda x, w: gr.conv(x, w, padding=1), X, W),
    "conv_backward": (lambda dy, x, w: gr.conv_backward(dy, x, w, padding=1),
                      (3, 20, 37, 41), X, W),
    "depthwise": (lambda x, w: gr.conv(x, w, padding=1, groups=12), X, (12, 1, 3, 3)),
    "depthwise backward": (lambda dy, x, w: gr.conv_backward(dy, x, w, padding=1, groups=12),
                           X, X, (12, 1, 3, 3)),
    "depthwise of narrow images": (
        lambda dy, x, w: gr.conv_backward(dy, x, w, padding=1, groups=12),
        (3, 12, 9, 7), (3, 12, 9, 7), (12, 1, 3, 3)),
    "groups backward": (lambda dy, x, w: gr.conv_backward(dy, x, w, padding=1, groups=3),
                        (3, 18, 37, 41), X, (18, 4, 3, 3)),
    "groups transposed": (lambda x, w: gr.conv_transpose(x, w, stride=2, groups=3),
                          X, (12, 2, 3, 3)),
    "3x3 of many channels": (lambda dy, x, w: gr.conv_backward(dy, x, w, padding=1),
                             (2, 40, 24, 24), (2, 40, 24, 24), (40, 40, 3, 3)),
    "avg_pool": (lambda x: gr.avg_pool(x, 3), X),
    "col2im": (lambda cols: gr.col2im(cols, X, 3), (3, 108, 35 * 39)),
    "matmul": (lambda a, b: gr.matmul(a, b), (70, 90), (90, 80)),
    "linear_backward": (lambda dy, x, w: gr.linear_backward(dy, x, w),
                        (70, 80), (70, 90), (80, 90)),
    "activate": (lambda x: gr.activate(x, "gelu"), (301, 41)),
}  # fmt: skip


@pytest.mark.parametrize("memory", [name for name in MEMORY if name != "record field"])
@pytest.mark.parametrize("name", ANYWHERE)
def test_where_the_numbers_lie_changes_no_bit(numba_backend, name, memory):
    function, *shapes = ANYWHERE[name]
    arrays = [make("normal", shape, "float32", seed=i) for i, shape in enumerate(shapes)]
    expected = function(*arrays)
    assert_same_bits(function(*map(MEMORY[memory], arrays)), expected)


@pytest.mark.parametrize("memory", ["every second", "backwards", "Fortran order"])
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_where_the_result_goes_changes_no_bit(numba_backend, groups, memory):
    x, w = make("normal", X, "float32"), make("normal", (12, 12 // groups, 3, 3), "float32", seed=1)
    expected = gr.conv_backward(x, x, w, padding=1, groups=groups)
    out = tuple(MEMORY[memory](np.zeros_like(array)) for array in expected)
    gr.conv_backward(x, x, w, padding=1, groups=groups, out=out)
    assert_same_bits(out, expected)


@every_work
def test_twenty_runs_give_the_same_bits(numba_backend, work):
    expected = WORK[work]()
    for _ in range(20):
        assert_same_bits(WORK[work](), expected)
