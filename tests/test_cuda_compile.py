"""The compile gate: every kernel compiles for every architecture, without warnings or spills."""

import cuda_compile
import pytest
from conftest import REQUIRED

from gradroute.errors import BackendError
from gradroute.kernels.cuda import cupy_runtime, launch


@pytest.fixture(scope="module", autouse=True)
def compiler():
    """NVRTC, which needs no GPU: pip install cupy-cuda13x nvidia-cuda-nvrtc."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # the loader's errors share no class
        missing = f"NVRTC is missing ({error}): pip install cupy-cuda13x nvidia-cuda-nvrtc"
        pytest.fail(missing) if "cuda" in REQUIRED else pytest.skip(missing)


def test_cuda_kernels_compile_for_every_architecture_without_warning_or_spill():
    problems = {
        f"{file} {' '.join(options)} {architecture}": result["problems"]
        for (file, options, architecture), result in cuda_compile.run()
        if result["problems"]
    }
    assert problems == {}


def test_every_cuda_source_is_in_the_gate():
    import importlib.resources

    files = importlib.resources.files("gradroute.kernels.cuda").iterdir()
    sources = {entry.name[:-3] for entry in files if entry.name.endswith(".cu")}
    assert {file for file, _, _ in cuda_compile.COMPILATIONS} == sources


def test_the_gate_sees_a_cuda_spill_and_a_warning():
    log = (
        "x.cu(3): warning #177-D: variable was declared but never referenced\n"
        "ptxas info    : Compiling entry function 'spilling' for 'sm_90'\n"
        "ptxas info    : Function properties for spilling\n"
        "    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 255 registers, 64 bytes smem\n"
    )
    assert len(cuda_compile.read_log(log)["problems"]) == 2


def test_a_cuda_source_that_does_not_compile_is_the_packages_error(monkeypatch):
    monkeypatch.setattr(launch, "source", lambda file: "this is no C++")
    with pytest.raises(BackendError, match="broken.cu does not compile for sm_90"):
        cupy_runtime.compile_cubin("broken", (), "sm_90")


def test_a_changed_cuda_header_is_a_new_cache_entry(monkeypatch):
    before = cupy_runtime.cache_key("loss", (), "sm_90", "13.0")
    assert before == cupy_runtime.cache_key("loss", (), "sm_90", "13.0")
    headers = dict(launch.headers())
    headers["device.cuh"] += "// changed\n"
    monkeypatch.setattr(launch, "headers", lambda: headers)
    assert before != cupy_runtime.cache_key("loss", (), "sm_90", "13.0")


def test_a_compiled_cuda_file_is_read_back_from_disk(tmp_path, monkeypatch):
    options = launch.options("float32")
    first = cupy_runtime.cached_cubin("columns", options, "sm_80", tmp_path)
    monkeypatch.setattr(cupy_runtime, "compile_cubin", None)  # a second compilation would fail
    assert cupy_runtime.cached_cubin("columns", options, "sm_80", tmp_path) == first
