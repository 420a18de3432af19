"""ci/gpu without a GPU: it says so, and its own checks hold when the kernels run on the CPU."""

import os
import pathlib
import subprocess
import sys

import cuda_on_cpu
import pytest

from gradroute.kernels.cuda import cupy_runtime

CI = pathlib.Path(__file__).parent.parent / "ci"


@pytest.fixture
def scripts(cpu_runner, monkeypatch):
    """ci/ on the import path, and the kernels run on the CPU."""
    monkeypatch.syspath_prepend(str(CI))
    with cuda_on_cpu.stand_in():
        yield


@pytest.mark.skipif(os.name == "nt", reason="ci/gpu is a bash script")
def test_without_a_gpu_the_cuda_command_says_so_and_exits_77(tmp_path):
    if cupy_runtime.CupyRuntime().available() is None:
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [CI / "gpu", "--out", tmp_path / "results"], capture_output=True, text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 77
    assert "no GPU can be used here, nothing was run" in done.stdout
    assert not (tmp_path / "results").exists()


def test_the_cuda_commands_own_checks_hold_on_the_cpu(scripts):
    import gpu_checks

    assert gpu_checks.exact_products() == gpu_checks.PASSED
    assert gpu_checks.training_agreement(4).startswith(gpu_checks.PASSED)
    gpu_checks.every_kernel()


def test_the_cuda_command_notices_tensor_cores_that_lay_their_fragments_out_otherwise(
    scripts, monkeypatch
):
    import gpu_checks

    from gradroute.kernels.cuda import launch

    text, real = launch.source("conv_tensor"), launch.source
    swapped = text.replace("b[j][0] = top[0], b[j][1] = top[4]", "b[j][1] = top[0], b[j][0] = top[4]")
    assert swapped != text
    monkeypatch.setattr(launch, "source", lambda f: swapped if f == "conv_tensor" else real(f))
    assert gpu_checks.exact_products().startswith("FAILED")


def test_cuda_results_are_written_row_by_row_with_their_versions(scripts, tmp_path):
    import gpu_parts

    results = gpu_parts.Results(tmp_path)
    results.check("a check", "passed")
    results.row({"name": "resnet", "ours_ms": 1.25, "torch_ms": 1.0, "of_torch": 0.8})
    table = (tmp_path / "results.md").read_text()
    assert "| a check | passed |" in table and "| resnet |" in table and "driver" in table
    assert gpu_parts.Results(tmp_path).data["bench"][0]["ours_ms"] == 1.25


def test_every_benchmark_shape_of_cuda_has_its_batch_raised(scripts):
    import gpu_bench

    rows = [*gpu_bench.shapes("conv"), *gpu_bench.shapes("pool")]
    assert len(rows) > 50 and {row["N"] for row in rows} == {64}
