"""The host side of the CUDA backend, executed without a GPU: what is launched, with what, and what
is said when something is wrong."""

import contextlib
import ctypes

import calls
import cuda_on_cpu
import numpy as np
import pytest
from compare import assert_same_bits, results
from cuda_on_cpu import KernelError
from values import make

import gradroute as gr
from gradroute.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    BackendError,
    IndexRangeError,
    WorkspaceError,
)
from gradroute.kernels import cuda
from gradroute.kernels.cuda import cupy_runtime, launch, scatter


@pytest.fixture
def device(cpu_runner):
    with cuda_on_cpu.stand_in() as runtime:
        yield runtime


@pytest.fixture
def cupy(device):
    return device.array_module()


def normal(shape):
    return make("normal", shape, "float32", 1)


def on_device(device, arrays):
    return {name: device.to_device(array) for name, array in arrays.items()}


# ---- libraries ----------------------------------------------------------------------------


@pytest.mark.parametrize("call", calls.CALLS, ids=str)
def test_cuda_arrays_in_are_cuda_arrays_out_with_the_same_bits(device, cupy, call):
    arrays = call.arrays("float32")
    with gr.config(backend="cuda"):
        from_host = call({name: array.copy() for name, array in arrays.items()})
    from_device = call(on_device(device, arrays))
    assert all(isinstance(array, np.ndarray) for array in results(from_host))
    assert all(isinstance(array, cupy.ndarray) for array in results(from_device))
    assert_same_bits(
        tuple(array.get() for array in results(from_device)), tuple(results(from_host))
    )


def test_a_cuda_array_is_never_copied_to_the_host_unasked(device):
    x = device.to_device(np.ones((1, 1, 4, 4), "f"))
    for name in ("numba", "reference"):
        with gr.config(backend=name), pytest.raises(ArgumentTypeError, match="asnumpy"):
            gr.max_pool(x, 2)
    assert gr.which_backend(x) == "cuda"


def test_host_and_cuda_arrays_do_not_mix(device):
    x = np.ones((1, 1, 4, 4), "f")
    with pytest.raises(ArgumentTypeError, match="one library"):
        gr.conv(x, device.to_device(np.ones((1, 1, 2, 2), "f")))


def test_a_strided_cuda_out_is_written_in_place_and_nowhere_else(device, cupy):
    x, w = make("normal", (2, 3, 6, 6), "float32", 1), make("normal", (4, 3, 3, 3), "float32", 2)
    whole = cupy.zeros((2, 4, 4, 8), "float32")
    out = whole[:, :, ::-1, ::2]
    y = gr.conv(device.to_device(x), device.to_device(w), out=out)
    assert y is out
    expected = np.zeros((2, 4, 4, 8), "f")
    expected[:, :, ::-1, ::2] = gr.conv(device.to_device(x), device.to_device(w)).get()
    np.testing.assert_array_equal(whole.get(), expected)


# ---- sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize("call", calls.CALLS, ids=str)
def test_cuda_64_bit_offsets_give_the_same_bits(device, monkeypatch, call):
    with gr.config(backend="cuda"):
        narrow = call(call.arrays("float32"))
        monkeypatch.setattr(launch, "WIDE_FROM", 0)
        assert_same_bits(call(call.arrays("float32")), narrow)


def test_cuda_offsets_are_64_bit_exactly_where_31_bits_could_overflow(device, cupy):
    small = cupy.empty((1, 1, 1, 4, 4), "float32")
    assert not launch.needs_wide(None, small)
    far = np.lib.stride_tricks.as_strided(np.zeros(1, "f"), (2, 2), (4 << 29, 4 << 29))
    assert launch.needs_wide(None, small, far)
    many = np.broadcast_to(np.zeros(1, "f"), (1 << 30,))
    assert launch.needs_wide(None, many)
    from gradroute.geometry import pool_geometry

    stride = {"window": 2, "padding": 0, "dilation": 1, "ceil_mode": False}
    assert not launch.needs_wide(pool_geometry((1, 1, 4), stride=1, **stride))
    assert launch.needs_wide(pool_geometry((1, 1, 4), stride=1 << 30, **stride))


@pytest.mark.parametrize("stride", [1 << 31, 1 << 62])
def test_cuda_takes_strides_beyond_32_bits(device, stride):
    x = make("normal", (1, 2, 5), "float32")
    with gr.config(backend="cuda"):
        y, winner = gr.max_pool(x, 2, stride=stride)
        dx = gr.max_pool_backward(y, winner, x.shape, 2, stride=stride)
    np.testing.assert_array_equal(y[..., 0], x[..., :2].max(-1))
    np.testing.assert_array_equal(dx.sum(-1), y[..., 0])


@pytest.mark.parametrize("channels", [1, 16])
@pytest.mark.parametrize("precision", ["standard", "tf32"])
def test_cuda_taps_far_outside_the_image_overflow_no_offset(device, channels, precision):
    """The first of two taps lies 2^27 planes of 16 elements in front of every image."""
    far = 1 << 27
    x, w = normal((2, channels, 2, 4, 4)), normal((16, channels, 2, 3, 3))
    dy, near = normal((2, 16, 2, 2, 2)), w[:, :, 1:]
    options = {"dilation": (far, 1, 1), "padding": ((far, 0), (0, 0), (0, 0))}
    with gr.config(backend="cuda", precision=precision):
        found = (gr.conv(x, w, **options), *gr.conv_backward(dy, x, w, **options))
        dx, dw, db = gr.conv_backward(dy, x, near)
        expected = (gr.conv(x, near), dx, np.concatenate([np.zeros_like(dw), dw], 2), db)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("call", calls.CALLS, ids=str)
def test_a_small_cuda_grid_covers_every_element(device, monkeypatch, call):
    with gr.config(backend="cuda"):
        expected = call(call.arrays("float32"))
        monkeypatch.setattr(launch, "LARGEST_GRID", 1)
        assert_same_bits(call(call.arrays("float32")), expected)


@pytest.mark.parametrize("tile", ["64x64x16", "128x128x8", "128x32x16"])
def test_every_cuda_tile_computes_the_same_convolution(device, monkeypatch, tile):
    from gradroute.kernels.cuda import plans

    x, w = make("normal", (2, 9, 8, 9), "float32", 1), make("normal", (10, 9, 3, 2), "float32", 2)
    dy = make("normal", (2, 10, 6, 8), "float32", 3)
    plans._plan.cache_clear()
    monkeypatch.setattr(plans, "tile_for", lambda *sizes: tile)
    with gr.config(backend="cuda"):
        found = (gr.conv(x, w), *gr.conv_backward(dy, x, w))
    plans._plan.cache_clear()
    with gr.config(backend="reference"):
        expected = (gr.conv(x, w), *gr.conv_backward(dy, x, w))
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) <= 1e-6 * np.linalg.norm(other)


def test_the_cuda_filter_gradient_is_split_and_summed_in_order(device):
    x = make("normal", (4, 2, 24, 24), "float32", 1)
    dy = make("normal", (4, 3, 24, 24), "float32", 2)
    w = np.zeros((3, 2, 1, 1), "f")
    with gr.config(backend="cuda"):
        plan = gr.plan("conv_dw", x, w)
        _, dw, _ = gr.conv_backward(dy, x, w)
    assert plan.blocking["splits"] > 1
    exact = np.einsum("nkhw,nchw->kc", dy.astype(float), x.astype(float))
    assert np.linalg.norm(dw[..., 0, 0] - exact) <= 1e-6 * np.linalg.norm(exact)


def test_the_cuda_workspace_stays_below_its_limit(device):
    x, w = np.zeros((4, 32, 24, 24), "f"), np.zeros((32, 32, 3, 3), "f")
    with gr.config(backend="cuda", precision="tf32"):
        whole = gr.plan("conv_dw", x, w)
        with gr.config(workspace_limit=w.nbytes):
            tight = gr.plan("conv_dw", x, w)
    assert (whole.algorithm, tight.algorithm) == ("tensor_tf32", "implicit_gemm")
    assert tight.workspace_bytes <= w.nbytes < whole.workspace_bytes


def test_cuda_linear_backward_fuses_the_slope_with_the_bias_gradient(device):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((300, 5), "f"), rng.standard_normal((7, 5), "f")
    dy = rng.standard_normal((300, 7), "f")
    y = gr.linear(x, w, activation="relu")
    with gr.config(backend="cuda"):
        dx, dw, db = gr.linear_backward(dy, x, w, y=y, activation="relu")
    assert device.launched == ["linear_slope", "bias_finish"]
    dz = np.where(y > 0, dy, 0).astype(float)
    for found, expected in ((dx, dz @ w), (dw, dz.T @ x), (db, dz.sum(0))):
        assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)


# ---- scatter by atomics -------------------------------------------------------------------


def test_the_atomic_cuda_scatter_adds_the_same_numbers(device):
    from gradroute.geometry import ScatterGeometry

    rng = np.random.default_rng(0)
    source, rows = rng.integers(-9, 9, (2, 50, 3)).astype("f"), rng.integers(0, 4, 50)
    out = device.to_device(np.zeros((2, 4, 3), "f"))
    place = ScatterGeometry(2, 4, 3, 50)
    scatter.scatter_add_atomic(out, device.to_device(rows), device.to_device(source), -1, place)
    expected = np.zeros((2, 4, 3), "f")
    np.add.at(expected, (slice(None), rows), source)
    np.testing.assert_array_equal(out.get(), expected)


# ---- value checks -------------------------------------------------------------------------


def bad_values():
    """name -> a call whose integers are out of range, and the array it must leave alone."""
    out = np.zeros(3, "f")
    winner = np.full((1, 1, 2, 2), 4, "uint8")
    y, logits = np.ones((1, 1, 2, 2), "f"), np.ones((2, 3), "f")
    dx, dlogits = np.full((1, 1, 4, 4), 7, "f"), np.full((2, 3), 7, "f")
    return {
        "scatter_add": lambda to: gr.scatter_add(
            to(out), to(np.array([0, 3])), to(np.ones(2, "f"))),
        "max_pool_backward": lambda to: gr.max_pool_backward(
            to(y), to(winner), (1, 1, 4, 4), 2, out=to(dx)),
        "max_unpool": lambda to: gr.max_unpool(to(y), to(winner), (1, 1, 4, 4), 2),
        "winner_to_index": lambda to: gr.winner_to_index(to(winner), (1, 1, 4, 4), 2),
        "index_to_winner": lambda to: gr.index_to_winner(
            to(np.full((1, 1, 2, 2), -1)), (1, 1, 4, 4), 2),
        "softmax_cross_entropy": lambda to: gr.softmax_cross_entropy(
            to(logits), to(np.array([0, 3])), out=(None, to(dlogits))),
    }  # fmt: skip


@pytest.mark.parametrize("name", bad_values())
def test_a_bad_value_on_cuda_is_raised_by_the_call_or_by_synchronize(device, name):
    call = bad_values()[name]
    with pytest.raises(IndexRangeError):
        call(device.to_device)
    with gr.config(value_checks="later"):
        call(device.to_device)  # no kernel touches memory that is not its own: it would be reported
        with pytest.raises(IndexRangeError):
            gr.synchronize()
        gr.synchronize()  # raised once


def test_a_cuda_check_that_is_not_decided_yet_is_raised_by_a_later_call(device):
    y, winner = np.ones((1, 1, 2, 2), "f"), np.full((1, 1, 2, 2), 9, "uint8")
    with gr.config(value_checks="later"):
        device.late = True
        gr.max_pool_backward(device.to_device(y), device.to_device(winner), (1, 1, 4, 4), 2)
        gr.activate(device.to_device(y), "relu")  # the GPU has not come that far
        device.late = False
        with pytest.raises(IndexRangeError):
            gr.activate(device.to_device(y), "relu")


def test_a_failed_cuda_check_leaves_the_results_memory_alone(device):
    kept = device.to_device(np.full((1, 1, 4, 4), 7, "f"))
    y, winner = np.ones((1, 1, 2, 2), "f"), np.full((1, 1, 2, 2), 9, "uint8")
    with gr.config(value_checks="later"):
        gr.max_pool_backward(
            device.to_device(y), device.to_device(winner), (1, 1, 4, 4), 2, out=kept
        )
        with pytest.raises(IndexRangeError):
            gr.max_pool(kept, 2)  # the next call raises it as well
    np.testing.assert_array_equal(kept.get(), 7)


# ---- errors -------------------------------------------------------------------------------


def test_without_a_driver_the_cuda_backend_says_what_to_install():
    reason = cupy_runtime.CupyRuntime().available()
    if reason is None:
        pytest.skip("there is a GPU")
    with launch.use_runtime(cupy_runtime.CupyRuntime()), gr.config(backend="cuda"):
        with pytest.raises(BackendError, match="cannot run here") as raised:
            gr.max_pool(np.zeros((1, 1, 2, 2), "f"), 2)
    assert "install" in str(raised.value)


@pytest.mark.parametrize(
    "count, capability, reason",
    [
        (0, (9, 0), "no CUDA device is visible"),
        (1, (7, 5), "compute capability 7.5, 8.0 or newer"),
        (1, (8, 0), None),
    ],
)
def test_a_cuda_device_that_is_missing_or_too_old_is_named(monkeypatch, count, capability, reason):
    cupy = pytest.importorskip("cupy")
    runtime = cupy_runtime.CupyRuntime()
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: count)
    monkeypatch.setattr(cupy.cuda.runtime, "getDevice", lambda: 0)
    monkeypatch.setattr(cupy.cuda.nvrtc, "getVersion", lambda: (13, 0))
    found = {"name": b"x", "major": capability[0], "minor": capability[1], "multiProcessorCount": 1}
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda device: found)
    said = runtime.available()
    assert said is None if reason is None else reason in said


def test_a_full_cuda_device_is_the_packages_error_and_the_pool_goes_on(monkeypatch):
    cupy = pytest.importorskip("cupy")
    freed = []
    monkeypatch.setattr(
        cupy, "get_default_memory_pool",
        lambda: type("Pool", (), {"free_all_blocks": lambda self: freed.append(True)})(),
    )  # fmt: skip

    def full(*_):
        raise cupy.cuda.memory.OutOfMemoryError(1 << 40, 0, 0)

    monkeypatch.setattr(cupy, "empty", full)
    monkeypatch.setattr(cupy_runtime, "_library", cupy_runtime._Library)  # not the one made before
    for allocate in (
        lambda runtime: runtime.scratch(1 << 40),
        lambda runtime: runtime.array_module().empty((1 << 40,), "float32"),
    ):
        freed.clear()
        with pytest.raises(WorkspaceError, match="out of memory"):
            allocate(cupy_runtime.CupyRuntime())
        assert freed


@pytest.mark.parametrize("value", [ctypes.c_int(5), ctypes.c_double(0.5)])
def test_cupy_takes_a_kernel_parameter_by_its_address(value):
    function = pytest.importorskip("cupy.cuda.function")
    parameter = cupy_runtime._parameter(value, 0)
    assert function.CPointer(ctypes.addressof(parameter)).ptr == ctypes.addressof(value)


def test_an_array_on_another_cuda_device_is_refused():
    class OnTheSecond:
        data = type("Pointer", (), {"device_id": 1, "ptr": 4096})

    assert cupy_runtime._parameter(OnTheSecond, 1).value == 4096
    with pytest.raises(ArgumentValueError, match="lies on GPU 1 and GPU 0 is the current one"):
        cupy_runtime._parameter(OnTheSecond, 0)


def test_importing_the_cuda_backend_imports_no_cupy():
    import subprocess
    import sys

    code = "import sys, gradroute.kernels.cuda; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_cuda_grids_beyond_the_limits_are_refused(device):
    with pytest.raises(ValueError, match="exceed what CUDA allows"):
        launch.launch("loss", "mean_loss", (1, 70000), 32, ())


def test_use_runtime_puts_the_former_runtime_back():
    with launch.use_runtime("one"):
        with contextlib.suppress(KeyError), launch.use_runtime("two"):
            assert launch.runtime() == "two"
            raise KeyError
        assert launch.runtime() == "one"


def test_the_cuda_backend_exports_what_dispatch_needs():
    assert set(cuda.__all__) >= {
        "available", "array_module", "to_device", "to_host", "synchronize", "flag_value", "plan",
        "workspace",
    }  # fmt: skip
    assert issubclass(KernelError, RuntimeError)
