"""The tensor-core kernels on every convolution of the table, whatever the plan would choose."""

import cuda_on_cpu
import numpy as np
import oracle
import pytest
from cases import CONV
from values import exact, make

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


@pytest.mark.parametrize(
    "dtype, precision, algorithm",
    [
        ("float32", "strict", "implicit_gemm"),
        ("float32", "standard", "implicit_gemm"),
        ("float32", "tf32", "tensor_tf32"),
        ("float16", "strict", "tensor_16bit"),
        ("bfloat16", "standard", "tensor_16bit"),
        ("float64", "tf32", "implicit_gemm"),
    ],
)
def test_cuda_float32_leaves_the_tensor_cores_alone_unless_tf32_is_asked_for(
    device, dtype, precision, algorithm
):
    from gradroute.config import Settings

    geometry = conv_geometry(
        (8, 64, 28, 28), (64, 64, 3, 3), stride=1, padding=1, dilation=1, groups=1
    )
    for operation in ("conv_forward", "conv_dx", "conv_dw"):
        plan = plans.plan(operation, geometry, dtype, Settings(precision=precision))
        assert plan.algorithm == algorithm
