"""Dilated convolutions by way of the phases of their images, and cut to what they read."""

import numpy as np
import pytest
from compare import assert_close
from needs import needs_vectors

import gradroute as gr
from gradroute.config import available_threads
from gradroute.kernels.cpu.amx import amx_tiles
from gradroute.kernels.cpu.convolution import conv_costs, phase_plans, phases, tile_plans

pytestmark = needs_vectors

#: (N, C, ...), (K, C/G, ...), options
CASES = {
    "phases of different lengths": ((2, 32, 19, 23), (48, 32, 3, 3), {"padding": 2, "dilation": 2}),
    "an uneven window": ((2, 16, 21, 30), (24, 16, 3, 2), {"padding": (3, 1), "dilation": (3, 5)}),
    "no padding": ((2, 20, 21, 45), (24, 20, 3, 3), {"dilation": (2, 9)}),
    "padding that is no multiple": ((2, 16, 22, 31), (8, 16, 3, 3),
                                    {"padding": ((1, 4), (5, 0)), "dilation": 3}),
    "two cells a phase": ((1, 64, 33, 33), (32, 64, 3, 3), {"padding": 18, "dilation": 18}),
    "a causal signal": ((2, 8, 200), (12, 8, 3), {"padding": ((40, 0),), "dilation": 20}),
    "a stride": ((2, 16, 21, 30), (24, 16, 3, 3), {"padding": 5, "dilation": 3, "stride": 2}),
    "a stride that divides": ((2, 16, 21, 30), (24, 16, 3, 3),
                              {"padding": 4, "dilation": 4, "stride": 2}),
    "three axes": ((2, 8, 7, 9, 12), (12, 8, 3, 2, 3), {"padding": 2, "dilation": (2, 1, 3)}),
    "groups": ((2, 64, 19, 19), (64, 32, 3, 3), {"padding": 4, "dilation": 4, "groups": 2}),
}  # fmt: skip
#: of which most is multiplied with padding only
FAR = {
    "taps off the image": ((1, 64, 20, 20), (32, 64, 3, 3), {"padding": 21, "dilation": 21}),
    "outputs off the image": ((2, 8, 9, 9), (12, 8, 3, 3), {"padding": 20}),
    "a signal far behind": ((2, 16, 30), (16, 16, 4), {"padding": ((90, 30),), "dilation": 15}),
}
#: whose blocks hold cells of the images side by side
CELLS = {
    "two cells": ((2, 64, 33, 33), (48, 64, 3, 3), {"padding": 18, "dilation": 18}),
    "three cells, one row": ((1, 32, 31, 50), (64, 32, 3, 3),
                             {"padding": 11, "dilation": (11, 17)}),
    "no padding": ((1, 64, 36, 40), (32, 64, 3, 2), {"dilation": (14, 20)}),
    "one axis": ((2, 32, 12, 60), (32, 32, 3, 3), {"padding": (1, 25), "dilation": (1, 25)}),
    "three axes": ((1, 32, 5, 21, 22), (32, 32, 2, 3, 3), {"padding": (1, 10, 9),
                                                            "dilation": (1, 10, 9)}),
}  # fmt: skip
OPERATIONS = ("conv", "conv_dx", "conv_dw")
LAYOUTS = ("channels_first", "channels_last")


@pytest.fixture
def always(monkeypatch, fresh_plans):
    """Phases wherever they can be, in small batches."""
    monkeypatch.setattr(phase_plans, "pay", lambda *arguments: True)
    monkeypatch.setattr(phases, "COPY_BYTES", [1 << 16])


def arrays(shapes, dtype="float64", layout="channels_first"):
    x_shape, w_shape, options = shapes
    generator = np.random.default_rng(0)
    x, w = (generator.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
    if layout == "channels_last":
        x, options = np.ascontiguousarray(np.moveaxis(x, 1, -1)), {**options, "layout": layout}
    return x, w, options


def everything(x, w, options, bias=None):
    """y, dx, dw and db."""
    y = gr.conv(x, w, bias, **options)
    dy = np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return y, *gr.conv_backward(dy, x, w, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("name", [*CASES, *FAR])
def test_they_give_what_the_definition_gives(always, name, dtype, layout):
    x, w, options = arrays({**CASES, **FAR}[name], dtype, layout)
    bias = np.linspace(-2, 2, len(w)).astype(dtype)
    with gr.config(backend="numba"):
        for operation in OPERATIONS:
            assert gr.plan(operation, x, w, **options).algorithm == "phases"
        found = everything(x, w, options, bias)
    with gr.config(backend="reference"):
        exact = everything(x.astype(float), w.astype(float), options, bias.astype(float))
    for one, right in zip(found, exact):
        assert_close(one, right, dtype)


@pytest.mark.parametrize("name", ["phases of different lengths", "a stride", "taps off the image"])
def test_transposed_they_add_the_bias_also_to_cells_that_nothing_reads(always, name):
    x_shape, (K, C, *window), options = {**CASES, **FAR}[name]
    x = np.cos(np.arange(2.0 * K * 12 * 10)).reshape(2, K, 12, 10)
    w = np.sin(np.arange(float(K * C * np.prod(window)))).reshape(K, C, *window)
    options = {**options, "padding": 0}
    found = gr.conv_transpose(x, w, np.arange(1.0, C + 1), **options)
    with gr.config(backend="reference"):
        assert_close(found, gr.conv_transpose(x, w, np.arange(1.0, C + 1), **options), "float64")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_the_bits_do_not_depend_on_the_number_of_threads(always, name, layout):
    x, w, options = arrays(CASES[name], "float32", layout)
    results = []
    for threads in (1, available_threads()):
        with gr.config(threads=threads):
            results.append(everything(x, w, options))
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("where", ["x", "w", "dy"])
@pytest.mark.parametrize("name", [*CASES, *FAR])
def test_what_is_not_finite_reaches_what_a_direct_sum_takes_it_to(always, name, where, value):
    x, w, options = arrays({**CASES, **FAR}[name], "float32")
    y = gr.conv(x, w, **options)
    dy = np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    {"x": x, "w": w, "dy": dy}[where].reshape(-1)[[1, -1]] = value
    results = []
    for backend in ("numba", "reference"):
        with gr.config(backend=backend):
            results.append((gr.conv(x, w, **options), *gr.conv_backward(dy, x, w, **options)))
    for one, right in zip(*results):
        np.testing.assert_array_equal(np.isnan(one), np.isnan(right))
        np.testing.assert_array_equal(np.isposinf(one), np.isposinf(right))
        np.testing.assert_array_equal(np.isneginf(one), np.isneginf(right))
        finite = np.isfinite(right)
        assert_close(one[finite], right[finite], "float32")


@pytest.fixture(params=["of rows", "of all axes"])
def in_cells(monkeypatch, fresh_plans, request):
    """Cells wherever they can be, and no phases."""
    which = 1 if request.param == "of rows" else -1
    monkeypatch.setattr(tile_plans, "cheapest",
                        lambda programs, tiles: (programs * 2)[which])  # fmt: skip
    monkeypatch.setattr(phase_plans, "pay", lambda *arguments: False)


@pytest.mark.parametrize("precision", ("standard", "strict"))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("name", CELLS)
def test_cells_give_what_the_definition_gives(in_cells, name, dtype, precision):
    x, w, options = arrays(CELLS[name], dtype)
    bias = np.linspace(-2, 2, len(w)).astype(dtype)
    results = []
    for threads in (1, available_threads()):
        with gr.config(backend="numba", precision=precision, threads=threads):
            results.append(everything(x, w, options, bias))
    with gr.config(backend="reference"):
        exact = everything(x.astype(float), w.astype(float), options, bias.astype(float))
    for one, other, right in zip(*results, exact):
        np.testing.assert_array_equal(one, other)
        assert_close(one, right, dtype)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    y = gr.conv(last, w, bias, layout="channels_last", **options)
    assert_close(np.moveaxis(y, -1, 1), exact[0], dtype)


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("precision", ("standard", "strict"))
@pytest.mark.parametrize("name", CELLS)
def test_a_weight_that_is_not_finite_is_not_multiplied_with_padding(
    in_cells, name, precision, value
):
    x, w, options = arrays(CELLS[name], "float32")
    w.reshape(-1)[[0, -1]] = value
    with gr.config(backend="reference"):
        exact = everything(x, w, options)[:2]
    with gr.config(backend="numba", precision=precision):
        for one, right in zip(everything(x, w, options), exact):
            np.testing.assert_array_equal(np.isfinite(one), np.isfinite(right))


def test_long_dilations_are_served_so_and_name_what_serves_the_phases():
    w = np.ones((64, 64, 3, 3), "float32")
    for operation in OPERATIONS:
        x = np.broadcast_to(np.float32(1), (1, 64, 256, 256))
        plan = gr.plan(operation, x, w, padding=8, dilation=8)
        assert plan.algorithm == "phases" and plan.blocking["phases"] == (1, 8, 8)
        assert plan.blocking["by"] in ("winograd", "amx", "implicit_gemm")
        x = np.broadcast_to(np.float32(1), (1, 64, 33, 33))
        plan = gr.plan(operation, x, w, padding=36, dilation=36)  # the middle of w only
        assert plan.algorithm == "phases" and plan.blocking["by"] == "pointwise"
        assert gr.plan(operation, x, w, padding=1).algorithm != "phases"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_workspace_limit_holds_for_the_copies_too(always, operation):
    x, w, options = arrays(CASES["two cells a phase"], "float32")
    free = gr.plan(operation, x, w, **options).workspace_bytes
    right = everything(x, w, options)
    for limit in (0, free // 2, free - 1):
        with gr.config(workspace_limit=limit):
            assert gr.plan(operation, x, w, **options).workspace_bytes <= limit
            for one, wanted in zip(everything(x, w, options), right):
                assert_close(one, wanted, "float32")


@pytest.mark.skipif(not amx_tiles.available(), reason="a processor with AMX")
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"dilation": 2, "padding": 2}])
def test_an_estimate_counts_every_step_of_the_sums(options):
    """Not less than what is multiplied takes on tiles that are full."""
    x, w = np.ones((2, 64, 30, 30), "float32"), np.ones((64, 64, 5, 5), "float32")
    for operation in ("conv", "conv_dx"):
        plan = gr.plan(operation, x, w, **options)
        if plan.algorithm == "amx":
            y = gr.conv(x, w, **options)
            read = 0.5 * y.size * w[0].size  # the other half may only meet padding
            assert conv_costs.of_program(plan.program, True) >= conv_costs.TILES[False] * read
