"""What only a device can show: exact tensor-core products, errors, CPU and GPU training alike.

Run as a script it calls every kernel once on small arrays, for compute-sanitizer.
"""

from __future__ import annotations

import importlib
import subprocess

import numpy as np

import gradroute as gr
from gradroute.geometry import conv_geometry
from gradroute.kernels import cuda
from gradroute.kernels.cuda import conv, launch, plans

PASSED = "passed"
TENSOR_PRODUCTS = (
    ("float32", "tensor_tf32"), ("float32", "tensor_3xtf32"), ("float16", "tensor_16bit"),
)  # fmt: skip


def versions() -> dict:
    """Of everything that the results depend on."""
    runtime = launch.runtime()
    found = {"device": runtime.device_name, "gradroute": gr.__version__, "numpy": np.__version__}
    for name in ("numba", "cupy", "torch"):
        try:
            found[name] = importlib.import_module(name).__version__
        except (ImportError, AttributeError):  # the tests' stand-in for CuPy has no version
            found[name] = "missing"
    found["CUDA runtime, driver API"] = _asked(lambda: ", ".join(map(_dotted, _cuda_versions())))
    found["NVRTC"] = _asked(lambda: "{}.{}".format(*_cupy().cuda.nvrtc.getVersion()))
    found["cuDNN"] = _asked(lambda: importlib.import_module("torch").backends.cudnn.version())
    found["driver"] = _asked(_driver)
    return found


def _asked(question) -> str:
    try:
        return str(question())
    except Exception as error:  # each library fails in its own way where it is not there
        return f"unknown ({type(error).__name__})"


def _cupy():
    return launch.runtime().array_module()


def _cuda_versions():
    runtime = _cupy().cuda.runtime
    return runtime.runtimeGetVersion(), runtime.driverGetVersion()


def _dotted(version: int) -> str:
    """13020 -> "13.2": CUDA's way of writing versions."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return said.split()[0]  # one line per GPU


def all_good(checks: dict) -> bool:
    return not any(outcome.startswith("FAILED") for outcome in checks.values())


# ---- tensor cores -------------------------------------------------------------------------


def _convolution(x, w, algorithm):
    """conv of float arrays by one algorithm, on the device; padding 1."""
    geometry = conv_geometry(x.shape, w.shape, stride=1, padding=1, dilation=1, groups=1)
    dtype = x.dtype.name
    if algorithm == "implicit_gemm":
        plan = plans.tiled_plan("conv_forward", geometry, dtype, None, None)
    else:
        plan = plans.tensor_plan("conv_forward", geometry, dtype, algorithm, None)
    y = cuda.array_module().empty((geometry.batch, geometry.out_channels, *geometry.out), dtype)
    on_device = (cuda.to_device(a[:, :, None]) for a in (x, w))
    conv.conv_forward(y, *on_device, None, geometry, plan, cuda.workspace(plan))
    return cuda.to_host(y)[:, :, 0]


def _exact(x, w):
    with gr.config(backend="reference"):
        return gr.conv(x.astype(np.float64), w.astype(np.float64), padding=1)


def exact_products() -> str:
    """Small integers are exact in TF32, float16 and bfloat16, and so are their sums in float32:
    a fragment that lies elsewhere than the PTX manual says gives other numbers."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(-3, 4, (2, 24, 9, 11)), rng.integers(-2, 3, (72, 24, 3, 3))
    expected = _exact(x.astype("f"), w.astype("f"))
    for dtype, algorithm in TENSOR_PRODUCTS:
        if not np.array_equal(_convolution(x.astype(dtype), w.astype(dtype), algorithm), expected):
            return f"FAILED: {algorithm} in {dtype} differs"
    return PASSED


def split_error() -> str:
    """Relative L2 error of 3xTF32 and of the strict kernel to float64; the promise is 1e-5."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 256, 14, 14), "f"), rng.standard_normal((64, 256, 3, 3), "f")
    exact = _exact(x, w)
    errors = {
        name: float(np.linalg.norm(_convolution(x, w, name) - exact) / np.linalg.norm(exact))
        for name in ("tensor_3xtf32", "implicit_gemm")
    }
    said = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    return f"{PASSED if errors['tensor_3xtf32'] <= 1e-5 else 'FAILED'}: {said}"


# ---- training -----------------------------------------------------------------------------


def _losses(backend, steps) -> np.ndarray:
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((64, 1, 8, 8), "f"), rng.integers(0, 4, 64)
    images += labels[:, None, None, None] * 0.5
    net = gr.nn.Sequential(
        conv1=gr.nn.Conv(1, 8, 3, padding=1), relu1=gr.nn.Activation("relu"),
        pool1=gr.nn.MaxPool(2), flat=gr.nn.Flatten(), fc=gr.nn.Linear(128, 4), seed=0,
        dtype="float32",
    )  # fmt: skip
    optimiser, losses = gr.nn.SGD(net, 0.01, momentum=0.9), []
    with gr.config(backend=backend, precision="strict"):
        for _ in range(steps):
            loss, dlogits = gr.softmax_cross_entropy(net.forward(images), labels)
            net.backward(dlogits)
            optimiser.step()
            losses.append(float(loss))
    return np.array(losses)


def training_agreement(steps=20) -> str:
    """The same training run on both backends: their losses stay together."""
    on_cpu, on_gpu = _losses("numba", steps), _losses("cuda", steps)
    apart = float(np.max(np.abs(on_cpu - on_gpu) / on_cpu))
    again = bool(np.array_equal(on_gpu, _losses("cuda", steps)))
    good = apart <= 1e-3 and again and on_gpu[-1] < on_gpu[0]
    return (
        f"{PASSED if good else 'FAILED'}: loss {on_gpu[0]:.4f} to {on_gpu[-1]:.4f} "
        f"in {steps} steps, largest relative difference {apart:.1e}, second run on the GPU "
        f"{'has the same bits' if again else 'DIFFERS'}"
    )


# ---- one small call of everything ---------------------------------------------------------


def every_kernel() -> None:
    rng = np.random.default_rng(0)
    pool = {"stride": 2, "padding": 1}
    with gr.config(backend="cuda"):
        for dtype in ("float32", "float16"):
            x, w = rng.standard_normal((2, 18, 9, 9)), rng.standard_normal((20, 18, 3, 3))
            x, w = x.astype(dtype), w.astype(dtype)
            for precision in ("strict", "tf32"):
                with gr.config(precision=precision):
                    y = gr.conv(x, w, w[:, 0, 0, 0].copy(), **pool)
                    gr.conv_backward(y, x, w, **pool)
            depthwise = w[:18, :1].copy()
            gr.conv_backward(gr.conv(x, depthwise, groups=18), x, depthwise, groups=18)
            y, winner = gr.max_pool(x, 3, **pool)
            gr.max_pool_backward(y, winner, x.shape, 3, **pool)
            gr.max_unpool_backward(
                gr.max_unpool(y, winner, x.shape, 3, **pool), winner, x.shape, 3, **pool
            )
            index = gr.winner_to_index(winner, x.shape, 3, **pool)
            gr.index_to_winner(index, x.shape, 3, **pool)
            gr.avg_pool_backward(gr.avg_pool(x, 3, **pool), x.shape, 3, **pool)
            gr.col2im(gr.im2col(x, 3), x.shape, 3)
            gr.activate_backward(x, "gelu", x=gr.activate(x, "tanh"))
            logits = x[:, :, 0, 0]
            gr.softmax_cross_entropy(np.ascontiguousarray(logits), np.array([0, 3]))
            weights = np.ones((5, 18), dtype)
            z = gr.linear(logits, weights, activation="relu")
            gr.linear_backward(z, logits, weights, y=z, activation="relu")
            gr.scatter_add(logits.copy(), np.array([0, 1, 1, -1]), np.repeat(logits, 2, axis=0))
    _every_product()
    gr.synchronize()


def _every_product() -> None:
    """The tensor-core kernels, whichever of them this GPU's plans would choose."""
    x, w = np.ones((1, 24, 9, 9)), np.ones((72, 24, 3, 3))
    for dtype, algorithm in TENSOR_PRODUCTS:
        _convolution(x.astype(dtype), w.astype(dtype), algorithm)


if __name__ == "__main__":
    # every array an allocation of its own: inside a pool an access outside an array looks sound
    launch.runtime().array_module().cuda.set_allocator(None)
    every_kernel()
