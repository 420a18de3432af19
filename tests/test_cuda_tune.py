"""gr.config.tune on the CUDA backend: candidates measured once, the choice kept on disk."""

import cuda_on_cpu
import numpy as np
import pytest
from values import make

import gradroute as gr
from gradroute.kernels.cuda import tuning

SHAPES = ((1, 16, 6, 6), (17, 16, 3, 3))


@pytest.fixture
def device(cpu_runner, tmp_path, monkeypatch):
    """A device whose clock favours the kernel named in ``device.fast``."""
    # the runner keeps its own cache: only the tuned choices move
    monkeypatch.setattr(tuning.cupy_runtime, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(tuning, "_chosen", {})
    with cuda_on_cpu.stand_in() as runtime, gr.config(backend="cuda"):
        runtime.fast, runtime.measured = None, 0

        def timed(run):
            runtime.measured += 1
            runtime.launched.clear()
            run()
            return 1.0 if runtime.fast in runtime.launched else 2.0

        runtime.timed = timed
        yield runtime


def test_cuda_tuning_takes_the_fastest_candidate_and_remembers_it(device, monkeypatch):
    x, w = (make("normal", shape, "float32", 1) for shape in SHAPES)
    device.fast = "conv_tensor"
    assert gr.plan("conv", x, w).algorithm == "implicit_gemm"
    with gr.config(tune=True):
        assert gr.plan("conv", x, w).algorithm == "tensor_3xtf32"
        tuned = gr.conv(x, w)
        measured = device.measured
        monkeypatch.setattr(tuning, "_chosen", {})  # as a new process would find it
        assert gr.plan("conv", x, w).algorithm == "tensor_3xtf32"
    assert measured and device.measured == measured
    exact = gr.conv(x.astype(float), w.astype(float))
    assert np.linalg.norm(tuned - exact) <= 1e-5 * np.linalg.norm(exact)


def test_cuda_tuning_under_strict_stays_off_the_tensor_cores(device):
    x, w = (make("normal", shape, "float32", 1) for shape in SHAPES)
    device.fast = "conv_tensor"
    with gr.config(tune=True, precision="strict"):
        assert gr.plan("conv", x, w).algorithm == "implicit_gemm"


def test_cuda_tuning_refuses_a_split_product_that_is_not_accurate(device, monkeypatch):
    x, w = (make("normal", shape, "float32", 1) for shape in SHAPES)
    device.fast = "conv_tensor"
    monkeypatch.setattr(tuning, "SPLIT_ERROR", 0.0)
    with gr.config(tune=True):
        assert gr.plan("conv", x, w).algorithm == "implicit_gemm"


@pytest.mark.parametrize("need", ["x", "w"])
def test_cuda_tuning_serves_the_gradients_too(device, need):
    x, w = (make("normal", shape, "float32", 1) for shape in SHAPES)
    dy = make("normal", (1, 17, 4, 4), "float32", 3)
    usual = gr.conv_backward(dy, x, w, need=need)
    with gr.config(tune=True):
        tuned = gr.conv_backward(dy, x, w, need=need)
    for one, other in zip(tuned, usual, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)


def test_a_damaged_file_of_tuned_cuda_choices_is_measured_anew(device, tmp_path):
    (tmp_path / "tuned.json").write_text("{")
    x, w = (make("normal", shape, "float32", 1) for shape in SHAPES)
    with gr.config(tune=True):
        assert gr.plan("conv", x, w).backend == "cuda"
    assert device.measured
