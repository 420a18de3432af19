"""What the Numba kernels promise beyond right results: error, memory, vector widths, tails."""

import csv
import pathlib
import platform

import numpy as np
import processes
import pytest

import gradroute as gr
from gradroute.kernels import cpu

SHAPES = pathlib.Path(__file__).parent.parent / "asv_bench" / "shapes" / "conv.csv"
MIB = 1 << 20
OPERATIONS = ("conv", "conv_dx", "conv_dw")

#: batch, channels, size, output channels, window, and options that reach every path of a block
GEOMETRIES = [
    ((2, 5, 9, 11), (7, 5, 3, 3), {"padding": 1}),
    ((3, 16, 7, 7), (33, 16, 1, 1), {}),
    ((2, 3, 23, 21), (15, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 8, 14, 14), (18, 8, 1, 1), {"stride": 2}),
    ((1, 6, 12, 13), (9, 2, 3, 2), {"groups": 3, "dilation": 2, "padding": 2}),
    ((2, 34, 5, 6), (3, 34, 2, 2), {"stride": 3, "padding": ((2, 3), (0, 4))}),
    ((2, 3, 9, 40), (20, 3, 3, 3), {"padding": 1}),
    ((3, 20, 4, 5), (18, 20, 3, 3), {"padding": 1}),
    ((2, 97, 5, 6), (81, 97, 3, 3), {"padding": 1}),
    ((2, 140, 7, 5), (130, 140, 2, 2), {"stride": 2, "padding": ((0, 1), (1, 0))}),
]


def images(x_shape, w_shape, options, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    with gr.config(backend="reference"):
        dy = rng.standard_normal(gr.conv(x, w, **options).shape)
    return x.astype(dtype), w.astype(dtype), dy.astype(dtype)


def every_pass(x, w, dy, options):
    return (gr.conv(x, w, **options), *gr.conv_backward(dy, x, w, **options))


def poison(operation, x, w, options):
    """Fills the memory that the next call will find as its workspace with NaN."""
    memory = cpu.workspace(gr.plan(operation, x, w, **options))
    if memory is not None:
        memory[: len(memory) // 4 * 4].view("float32")[:] = np.nan


@pytest.mark.parametrize("x_shape, w_shape, options", GEOMETRIES)
@pytest.mark.parametrize("precision", ("strict", "standard"))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_what_an_earlier_call_left_in_the_workspace_does_not_matter(
    x_shape, w_shape, options, precision, dtype
):
    x, w, dy = images(x_shape, w_shape, options, dtype)
    with gr.config(backend="numba", precision=precision):
        for operation in OPERATIONS:
            poison(operation, x, w, options)
            results = every_pass(x, w, dy, options)
            with gr.config(backend="reference"):
                expected = every_pass(*(a.astype("float64") for a in (x, w, dy)), options)
            for actual, wanted in zip(results, expected):
                error = np.linalg.norm(actual - wanted) / np.linalg.norm(wanted)
                assert error <= (1e-5 if dtype == "float32" else 1e-14 * 10)


@pytest.mark.parametrize("x_shape, w_shape, options", GEOMETRIES)
@pytest.mark.parametrize("layout", ("channels_first", "channels_last"))
def test_nothing_but_the_result_is_written(x_shape, w_shape, options, layout):
    x, w, dy = images(x_shape, w_shape, options, "float32")
    if layout == "channels_last":
        x, dy = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
    options = {**options, "layout": layout}
    with gr.config(backend="numba", precision="strict"):
        wanted = every_pass(x, w, dy, options)
        for place, result in enumerate(wanted):
            around = np.full([2 * n + 2 for n in result.shape], 7.5, "float32")
            inside = tuple(slice(1, 2 * n + 1, 2) for n in result.shape)
            out = around[inside]
            if place == 0:
                gr.conv(x, w, out=out, **options)
            else:
                outs = [None, None, None]
                outs[place - 1] = out
                need = ("x", "w", "b")[place - 1 : place]
                gr.conv_backward(dy, x, w, need=need, out=tuple(outs), **options)
            np.testing.assert_allclose(out, result, rtol=1e-4, atol=1e-4)
            around[inside] = 7.5
            assert (around == 7.5).all()


def one_after_the_other(products, axis=0):
    """The float32 sum in order, every partial sum rounded."""
    return np.cumsum(products, axis=axis, dtype="float32").take(-1, axis=axis)


@pytest.mark.parametrize("channels, size", [(64, 8), (200, 5)])
def test_strict_sums_err_at_most_twice_as_much_as_a_direct_float32_sum(channels, size):
    x, w, dy = images((2, channels, size, size), (20, channels, 3, 3), {}, "float32", seed=3)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    rows = windows.transpose(1, 4, 5, 0, 2, 3).reshape(channels * 9, -1)  # (C*R*S, N*P*Q)
    flat = dy.transpose(1, 0, 2, 3).reshape(20, -1)
    y = np.stack([one_after_the_other(k.reshape(-1, 1) * rows) for k in w])
    dw = np.stack([one_after_the_other(k * rows, axis=1) for k in flat])
    with gr.config(backend="reference"):
        exact = every_pass(*(a.astype("float64") for a in (x, w, dy)), {})
    with gr.config(backend="numba", precision="strict"):
        ours = every_pass(x, w, dy, {})
    direct = {0: y.reshape(20, 2, *exact[0].shape[2:]).swapaxes(0, 1), 2: dw.reshape(w.shape)}
    for place, naive in direct.items():
        size = np.linalg.norm(exact[place])
        error = np.linalg.norm(ours[place] - exact[place]) / size
        assert error <= 2 * np.linalg.norm(naive - exact[place]) / size


@pytest.mark.parametrize("which", ("x", "w", "dy"))
@pytest.mark.parametrize("value", (np.inf, np.nan))
@pytest.mark.parametrize("precision", ("strict", "standard"))
def test_padding_is_not_multiplied_with_what_is_not_finite(which, value, precision):
    x, w, dy = images((2, 4, 6, 6), (5, 4, 3, 3), {"padding": 2}, "float32")
    {"x": x, "w": w, "dy": dy}[which].reshape(-1)[13] = value
    options = {"padding": 2}
    with gr.config(backend="reference"), np.errstate(invalid="ignore"):
        expected = every_pass(*(a.astype("float64") for a in (x, w, dy)), options)
    with gr.config(backend="numba", precision=precision):
        results = every_pass(x, w, dy, options)
    for actual, wanted in zip(results, expected):
        finite = np.isfinite(wanted)
        np.testing.assert_array_equal(actual[~finite], wanted[~finite])
        np.testing.assert_allclose(actual[finite], wanted[finite], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_the_workspace_is_packed_weights_and_32_mib_at_most(operation, dtype):
    with SHAPES.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 40
    with gr.config(backend="numba", precision="strict"):
        for row in rows:
            names = ("N", "C", "H", "W", "K", "R", "S", "groups")
            n, c, h, w, k, r, s, groups = (int(row[name]) for name in names)
            x, weights = np.empty((n, c, h, w), dtype), np.empty((k, c // groups, r, s), dtype)
            options = {name: int(row[name]) for name in ("stride", "padding", "dilation", "groups")}
            plan = gr.plan(operation, x, weights, **options)
            # dw keeps float32 sums of whole tiles where the others keep the packed weights
            columns = 64 * -(-weights[0].size // 64)
            packed = 2 * k * columns * weights.itemsize
            assert plan.workspace_bytes <= 32 * MIB + packed, (row["name"], plan)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_workspace_limit_is_kept_or_refused(operation):
    x, w, dy = images((4, 24, 20, 20), (30, 24, 3, 3), {"padding": 1}, "float32")
    with gr.config(backend="numba"):
        wanted = every_pass(x, w, dy, {"padding": 1})
        free = gr.plan(operation, x, w, padding=1).workspace_bytes
    for limit in (0, free // 4, free // 2, free):
        with gr.config(backend="numba", workspace_limit=limit):
            assert gr.plan(operation, x, w, padding=1).workspace_bytes <= limit
            for actual, expected in zip(every_pass(x, w, dy, {"padding": 1}), wanted):
                assert np.linalg.norm(actual - expected) <= 1e-5 * np.linalg.norm(expected)


def test_long_rows_are_cut_into_blocks_that_fit_the_workspace():
    x, w = np.ones((1, 40, 300_000), "float32"), np.ones((8, 40, 5), "float32")
    with gr.config(backend="numba", precision="strict"):
        for operation in OPERATIONS:
            assert gr.plan(operation, x, w, padding=2).workspace_bytes <= 32 * MIB
        y = gr.conv(x, w, padding=2)
    assert (y[:, :, 2:-2] == 200).all()
    assert (y[:, :, 0] == 120).all() and (y[:, :, -2] == 160).all()


NARROWER = """
from gradroute.kernels.cpu.emitted import vectors

def passes(x, w, dy, **options):
    return (gr.conv(x, w, **options), *gr.conv_backward(dy, x, w, **options),
            gr.matmul(x.reshape(len(x), -1), x.reshape(len(x), -1).T))

assert vectors.VECTOR_BYTES == {bytes} and (vectors.TARGET is None) == {plain}
for dtype in ("float32", "float64"):
    for columns, shape, options in (
        (10, (20, 8, 3, 3), dict(padding=1)), (10, (9, 8, 1, 1), dict(stride=2)),
        (8, (8, 1, 3, 3), dict(padding=1, groups=8)), (4, (8, 1, 3, 3), dict(padding=1, groups=8)),
        (7, (8, 1, 3, 3), dict(padding=1, stride=2, groups=8)),
    ):
        x = rng.standard_normal((3, 8, 13, columns)).astype(dtype)
        w = rng.standard_normal(shape).astype(dtype)
        plan = gr.plan("conv", x, w, **options)
        assert (plan.algorithm == "direct") == {plain}, plan
        dy = gr.conv(x, w, **options)
        with gr.config(backend="reference"):
            wanted = passes(*(a.astype("float64") for a in (x, w, dy)), **options)
        for actual, expected in zip(passes(x, w, dy, **options), wanted):
            error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
            assert error < (1e-6 if dtype == "float32" else 1e-14), error
"""

AVX2 = "+avx,+avx2,+fma,+bmi,+bmi2,+sse4.1,+sse4.2,+popcnt,-avx512f"

NEON = f"""
sys.path.insert(0, {processes.TESTS!r})
import neon_machine
neon_machine.emit_for_neon()
"""

on_x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="these are x86 vector widths"
)


@on_x86
@pytest.mark.parametrize(
    "name, features, width, plain, before",
    [
        ("haswell", AVX2, 32, False, ""),
        ("haswell", AVX2, 16, False, NEON),
        ("x86-64", "+sse2,-avx,-avx2,-avx512f,-fma", 16, True, ""),
    ],
    ids=["avx2", "neon's widths", "plain loops"],
)
def test_narrower_machines_run_the_same_tile_or_plain_loops(
    tmp_path, name, features, width, plain, before
):
    program = NARROWER.replace("{bytes}", str(width)).replace("{plain}", str(plain))
    processes.run(
        before + program, limit=400, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features,
        NUMBA_CACHE_DIR=str(tmp_path), GRADROUTE_BACKEND="numba",
    )  # fmt: skip
