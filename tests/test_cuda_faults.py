"""Faults planted in the real kernels, and found: what makes a passing check mean something.

Each fault is a change of one place in a .cu file, or a wrong launch.  The checked runner must
report it under its name, whatever the numbers that come out.
"""

import ctypes

import cuda_on_cpu
import numpy as np
import pytest
from cuda_on_cpu import KernelError
from cuda_on_cpu.arrays import UnwrittenError

import gradroute as gr
from gradroute.kernels.cuda import launch, structures


@pytest.fixture(params=cuda_on_cpu.ORDERS)
def device(request, cpu_runner):
    with cuda_on_cpu.stand_in(request.param) as runtime, gr.config(backend="cuda"):
        yield runtime


def normal(*shape, dtype="float32"):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def convolve():
    gr.conv(normal(2, 5, 9, 9), normal(7, 5, 3, 3), padding=1)


def convolve_16_bits():
    gr.conv(normal(1, 32, 6, 6, dtype="float16"), normal(16, 32, 3, 3, dtype="float16"), padding=1)


def filter_gradient():
    dy, x, w = normal(2, 7, 9, 9), normal(2, 5, 9, 9), normal(7, 5, 3, 3)
    gr.conv_backward(dy, x, w, padding=1, need="w")


def linear_gradient():
    dy = normal(40, 5)
    gr.linear_backward(dy, normal(40, 3), normal(5, 3), y=dy, activation="relu")


def loss():
    gr.softmax_cross_entropy(normal(70, 5), np.arange(70) % 5)


def pool():
    gr.max_pool(normal(2, 3, 9, 9)[:, :, ::2], 2)


def pool_backward():
    y, winner = gr.max_pool(normal(2, 3, 8, 8), 2)
    gr.max_pool_backward(y, winner, (2, 3, 8, 8), 2)


def atomic_scatter():
    from gradroute.geometry import ScatterGeometry
    from gradroute.kernels.cuda import scatter

    to = launch.runtime().to_device
    scatter.scatter_add_atomic(
        to(np.zeros((1, 4, 8), "f")), to(np.arange(40) % 4), to(normal(1, 40, 8)), -1,
        ScatterGeometry(1, 4, 8, 40),
    )  # fmt: skip


#: name: (file, the place, what it is changed to, what to run, what the report must say)
FAULTS = {
    "write past the end": (
        "conv_gather", "    if (m >= m_end) continue;\n", "", convolve, "out of bounds|race"),
    "read past the end": (
        "avg_pool", "if (inside(g, in)) sum", "sum",
        lambda: gr.avg_pool(normal(1, 1, 4, 4), 3, padding=1, stride=1), "out of bounds"),
    "write between the elements of a view": (
        "max_pool", "y[at(ys, o)] = rounded<real>(best);", "y[i] = rounded<real>(best);",
        lambda: gr.max_pool(launch.runtime().to_device(normal(1, 2, 8, 8)), 2, winner=False,
                            out=(launch.runtime().to_device(normal(1, 2, 4, 8))[..., ::2], None)),
        "between the elements of a strided view"),
    "missing barrier": (
        "conv_gather", "    }\n    __syncthreads();\n  }\n", "    }\n  }\n", convolve, "race on"),
    "missing barrier in front of another warp's sums": (
        "activation", "  part[warp][lane] = sum;\n  __syncthreads();\n",
        "  part[warp][lane] = sum;\n", linear_gradient, "race on|uninitialised"),
    "missing wait for cp.async": (
        "conv_tensor", "copy_async_wait<STAGES - 2>();", "", convolve_16_bits, "uninitialised"),
    "wait for one tile too few": (
        "conv_tensor", "copy_async_wait<STAGES - 2>();", "copy_async_wait<STAGES - 1>();",
        convolve_16_bits, "uninitialised"),
    "plain += where atomicAdd is meant": (
        "scatter_atomic", "atomicAdd(target, value)", "*target += value", atomic_scatter,
        "race on"),
    "barrier that half of the block never reaches": (
        "loss", "    __syncthreads();\n    if ((int)threadIdx.x < half) part",
        "    if ((int)threadIdx.x < half) __syncthreads();\n    if ((int)threadIdx.x < half) part",
        loss, "race|barrier|deadlock"),
    "warp operation without half of its lanes": (
        "loss", "    sum = warp_sum(sum);\n", "    if (lane < 16) sum = warp_sum(sum);\n",
        loss, "deadlock|mismatch"),
    "uninitialised shared memory": (
        "conv_filter", "    columns[n] = e;\n", "    if (n & 1) columns[n] = e;\n",
        filter_gradient, "uninitialised|overflow|out of bounds"),
    "misaligned vector load": (
        "conv_tensor", "packed_source + from, read", "packed_source + from + 1, read",
        convolve_16_bits, "misaligned"),
    "write to an input": (
        "max_pool", "    y[at(ys, o)] = rounded<real>(best);",
        "    const_cast<real*>(x)[0] = rounded<real>(best);", pool, "read-only"),
    "gradient added where another thread adds": (
        "max_pool", "    dx[at(dxs, in)] = rounded<real>(sum);", "    dx[0] = rounded<real>(sum);",
        pool_backward, "race on"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_cuda_fault_is_reported(device, monkeypatch, name):
    file, place, change, run, report = FAULTS[name]
    whole = launch.source(file)
    assert place in whole, "the place has moved: plant this fault anew"
    run()  # sound as it stands
    real = launch.source
    monkeypatch.setattr(
        launch, "source", lambda f: whole.replace(place, change) if f == file else real(f)
    )
    with pytest.raises(KernelError, match=report):
        run()


def columns_arguments(x, cols, geometry):
    from gradroute.kernels.cuda.conv import _column_strides

    return (
        cols, _column_strides(cols), x, structures.strides_of(x), structures.window_of(geometry),
    )  # fmt: skip


@pytest.fixture
def columns(device):
    from gradroute.geometry import im2col_geometry

    geometry = im2col_geometry((1, 2, 5, 5), window=2, stride=1, padding=0, dilation=1)
    x = device.to_device(normal(*geometry.x_shape))
    cols = device.array_module().empty(geometry.cols_shape, "float32")
    return x, cols, columns_arguments(x, cols, geometry)


def test_a_cuda_scalar_of_the_wrong_type_is_reported(columns):
    _, cols, args = columns
    with pytest.raises(KernelError, match="argument 5 is c_int of 4 bytes, the kernel takes i8"):
        launch.launch("columns", "im2col", 1, 256, (*args, ctypes.c_int(cols.size)))


def test_a_cuda_launch_with_too_few_threads_leaves_elements_that_nobody_wrote(columns, device):
    _, cols, args = columns
    launch.launch("columns", "im2col", 1, 64, (*args, ctypes.c_longlong(cols.size - 1)))
    with pytest.raises(UnwrittenError, match="1 of 128 elements"):
        device.to_host(cols)


def test_a_cuda_block_larger_than_its_launch_bound_is_reported(device):
    with pytest.raises(KernelError, match="512 threads, __launch_bounds__ is 256"):
        to = device.to_device
        rows = ctypes.c_longlong(4)
        launch.launch("loss", "mean_loss", 1, 512, (to(normal(1)), to(normal(4)), None, rows))


def test_a_host_array_handed_to_a_cuda_kernel_is_reported(columns):
    _, cols, args = columns
    with pytest.raises(KernelError, match="argument 2 is ndarray, not a device array"):
        launch.launch_each("columns", "im2col", cols.size, (*args[:2], normal(2), *args[3:]))


def test_a_cuda_offset_that_leaves_32_bits_is_reported(device):
    from gradroute.geometry import im2col_geometry

    step = 1 << 31  # one output row that no narrow offset can reach
    geometry = im2col_geometry((1, 1, 4, 4), window=1, stride=1, padding=0, dilation=1)
    x = device.to_device(normal(1, 1, 1, 4, 4))
    cols = device.array_module().empty(geometry.cols_shape, "float32")
    args = list(columns_arguments(x, cols, geometry))
    args[3] = structures.Strides(0, 0, 0, step - 1, 1)
    with pytest.raises(KernelError, match="overflow|out of bounds"):
        launch.launch_each("columns", "im2col", cols.size, args)
