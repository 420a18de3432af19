"""The tensor-core kernels on every convolution of the table, whatever the plan would choose."""

import cuda_on_cpu
import numpy as np
import oracle
import pytest
from cases import CONV
from values import exact, make, named

import gradroute as gr
from gradroute.geometry import conv_geometry
from gradroute.kernels.cuda import conv, plans, workspace

#: (dtype, algorithm): the relative L2 error to float64 that it may have, its inputs as given.
#: TF32 keeps 10 bits of mantissa, as float16; bfloat16 keeps 7; the results are rounded once.
BOUNDS = {
    ("float32", "tensor_tf32"): 2e-3,
    ("float32", "tensor_3xtf32"): 2e-6,
    ("float16", "tensor_16bit"): 6e-4,
    ("bfloat16", "tensor_16bit"): 5e-3,
}
CASES = [case for case in CONV if case.x[0]]


@pytest.fixture(params=cuda_on_cpu.ORDERS)
def device(request, cpu_runner):
    with cuda_on_cpu.stand_in(request.param) as runtime:
        yield runtime


def canonical(array):
    """(N, C, ...) with three spatial axes."""
    lead = array.shape[:2]
    return array.reshape(*lead, *(1,) * (5 - array.ndim), *array.shape[2:])


def error(actual, expected):
    actual, expected = np.asarray(actual).astype(float), np.asarray(expected)
    assert actual.shape == expected.shape
    known = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~known], expected[~known])
    size = np.sqrt(np.mean(expected[known] ** 2)) if known.any() else 0
    return np.sqrt(np.mean((actual[known] - expected[known]) ** 2)) / (size or 1) if size else 0


def run(device, kernel, operation, shape, arrays, geometry, dtype, algorithm):
    """One kernel with its plan forced; the result as NumPy."""
    plan = plans.tensor_plan(operation, geometry, dtype, algorithm, None)
    on_device = [device.to_device(canonical(a)) for a in arrays]
    out = device.array_module().empty(canonical(np.empty(shape, "int8")).shape, dtype)
    if operation == "conv_dw":
        kernel(out, None, *on_device, geometry, plan, workspace(plan))
    else:
        kernel(out, *on_device, None, geometry, plan, workspace(plan))
    return out.get().reshape(shape)


@pytest.mark.parametrize("dtype, algorithm", BOUNDS, ids=lambda v: v)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cuda_tensor_cores_sum_every_read(device, case, dtype, algorithm):
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **case.options}
    geometry = conv_geometry(case.x, case.window, **options)
    x, w = make(case.kind, case.x, dtype, seed=1), make("normal", case.window, dtype, seed=2)
    y = oracle.conv(exact(x), exact(w), **case.options)
    dy = make("normal", y.shape, dtype, seed=4)
    dx, dw, _ = oracle.conv_backward(exact(dy), exact(x), exact(w), **case.options)
    bound = BOUNDS[dtype, algorithm]
    how = (geometry, dtype, algorithm)
    found = run(device, conv.conv_forward, "conv_forward", y.shape, (x, w), *how)
    assert error(found, y) <= bound
    found = run(device, conv.conv_dx, "conv_dx", dx.shape, (dy, w), *how)
    assert error(found, dx) <= bound
    found = run(device, conv.conv_dw, "conv_dw", dw.shape, (dy, x), *how)
    assert error(found, dw) <= bound


#: operation: shapes of x and w, padding 1, whose results are sums of 2,304 products
LONG_SUMS = {
    "conv_forward": ((1, 256, 2, 2), (16, 256, 3, 3)),
    "conv_dx": ((1, 16, 2, 2), (256, 16, 3, 3)),
    "conv_dw": ((1, 16, 48, 48), (16, 16, 3, 3)),
}


@pytest.mark.parametrize("mean", [0, 1])
@pytest.mark.parametrize("operation", LONG_SUMS)
def test_cuda_3xtf32_is_as_accurate_as_float32_in_long_sums(cpu_runner, operation, mean):
    """Tensor cores cut their sums off, as the runner's do, which a long sum would show."""
    rng = np.random.default_rng(0)
    x, w = ((rng.standard_normal(s) + mean).astype("f") for s in LONG_SUMS[operation])
    geometry = conv_geometry(x.shape, w.shape, stride=1, padding=1, dilation=1, groups=1)
    dy = (rng.standard_normal((1, w.shape[0], *x.shape[2:])) + mean).astype("f")
    dx, dw, _ = oracle.conv_backward(exact(dy), exact(x), exact(w), padding=1)
    kernel, arrays, expected = {
        "conv_forward": (conv.conv_forward, (x, w), oracle.conv(exact(x), exact(w), padding=1)),
        "conv_dx": (conv.conv_dx, (dy, w), dx),
        "conv_dw": (conv.conv_dw, (dy, x), dw),
    }[operation]
    with cuda_on_cpu.stand_in() as device:
        how = (geometry, "float32", "tensor_3xtf32")
        found = run(device, kernel, operation, expected.shape, arrays, *how)
    assert error(found, expected) <= 1e-6


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e30])
def test_cuda_3xtf32_keeps_its_accuracy_for_tiny_and_huge_numbers(cpu_runner, size):
    x, w = (make("normal", s, "float32", 1) for s in ((1, 16, 4, 4), (16, 16, 3, 3)))
    x *= np.float32(size)
    geometry = conv_geometry(x.shape, w.shape, stride=1, padding=1, dilation=1, groups=1)
    y = oracle.conv(exact(x), exact(w), padding=1)
    with cuda_on_cpu.stand_in() as device:
        how = (geometry, "float32", "tensor_3xtf32")
        found = run(device, conv.conv_forward, "conv_forward", y.shape, (x, w), *how)
    assert error(found / size, y / size) <= 1e-6


SHAPES = ((8, 64, 28, 28), (64, 64, 3, 3))


@pytest.mark.parametrize(
    "dtype, precision, algorithm",
    [
        ("float32", "strict", "implicit_gemm"),
        ("float32", "standard", "tensor_3xtf32"),
        ("float32", "tf32", "tensor_tf32"),
        ("float16", "strict", "tensor_16bit"),
        ("bfloat16", "standard", "tensor_16bit"),
        ("float64", "tf32", "implicit_gemm"),
    ],
)
def test_cuda_precision_decides_which_tensor_cores_serve_a_convolution(
    device, dtype, precision, algorithm
):
    x, w = (np.zeros(shape, named(dtype)) for shape in SHAPES)
    with gr.config(backend="cuda", precision=precision):
        for operation in ("conv", "conv_dx", "conv_dw"):
            assert gr.plan(operation, x, w, padding=1).algorithm == algorithm


@pytest.mark.parametrize(
    "why, capability, x, w",
    [
        ("tensor cores hardly faster than the float units", (8, 9), *SHAPES),
        ("tensor cores hardly faster than the float units", (12, 0), *SHAPES),
        ("few channels", (9, 0), (8, 8, 28, 28), (8, 8, 3, 3)),
        ("little to do with each packed element", (9, 0), (8, 64, 28, 28), (64, 64, 1, 1)),
        ("too few blocks for the device", (9, 0), (1, 64, 7, 7), (64, 64, 3, 3)),
        ("packed arrays beyond the bound", (9, 0), (64, 64, 320, 320), (64, 64, 3, 3)),
    ],
)
def test_cuda_convolutions_that_3xtf32_would_not_speed_up_stay_off_it(
    device, monkeypatch, why, capability, x, w
):
    monkeypatch.setattr(type(device), "capability", capability)
    monkeypatch.setattr(type(device), "multiprocessors", 132)
    x, w = (np.broadcast_to(np.float32(0), shape) for shape in (x, w))
    with gr.config(backend="cuda"):
        for operation in ("conv", "conv_dx", "conv_dw"):
            assert gr.plan(operation, x, w, padding="same").algorithm == "implicit_gemm", why


def test_cuda_standard_runs_on_the_tensor_cores_and_stays_within_its_error(cpu_runner):
    shapes = (2, 64, 16, 16), (72, 64, 3, 3)
    x, w = (make("normal", shape, "float32", 1) for shape in shapes)
    dy = make("normal", (2, 72, 16, 16), "float32", 3)
    with cuda_on_cpu.stand_in() as device, gr.config(backend="cuda"):
        found = (gr.conv(x, w, padding=1), *gr.conv_backward(dy, x, w, padding=1, need=("x", "w")))
        assert {"conv_tensor", "conv_tensor_filter"} <= set(device.launched)
        assert not {"conv_gather", "conv_filter"} & set(device.launched)
    expected = oracle.conv_backward(exact(dy), exact(x), exact(w), padding=1)[:2]
    for one, other in zip(found, (oracle.conv(exact(x), exact(w), padding=1), *expected)):
        assert error(one, other) <= 1e-6
