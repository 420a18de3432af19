"""ci/gpu without a GPU: it says so, and its own checks hold when the kernels run on the CPU."""

import functools
import os
import pathlib
import subprocess
import sys
import time

import cuda_on_cpu
import numpy as np
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


@pytest.mark.skipif(os.name == "nt", reason="ci/gpu is a bash script")
@pytest.mark.parametrize("gpu, status, said", [("", 77, "no GPU can be"), ("1", 2, "there is")])
def test_the_cuda_command_names_the_packages_that_are_missing(tmp_path, gpu, status, said):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')  # sees no package
    python.chmod(0o755)
    done = subprocess.run(
        [CI / "gpu"], capture_output=True, text=True,
        env={**os.environ, "PYTHON": str(python), "GPU_SEEN": gpu},
    )  # fmt: skip
    assert done.returncode == status
    assert said in done.stdout and "numpy, numba, cupy-cuda13x" in done.stdout


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
    right, wrong = "b[j][0] = top[0], b[j][1] = top[4]", "b[j][1] = top[0], b[j][0] = top[4]"
    swapped = text.replace(right, wrong)
    assert swapped != text
    monkeypatch.setattr(launch, "source", lambda f: swapped if f == "conv_tensor" else real(f))
    assert gpu_checks.exact_products().startswith("FAILED")


# ---- the parts, each with something small in place of what only a GPU machine has -----------


@pytest.fixture
def parts(scripts, tmp_path, monkeypatch):
    import gpu_parts

    monkeypatch.chdir(CI.parent)
    return gpu_parts


@pytest.fixture
def results(parts, tmp_path):
    return parts.Results(tmp_path / "results")


def soon():
    return time.monotonic() + 60


def test_cuda_results_are_written_row_by_row_with_their_versions(parts, results):
    results.check("a check", "passed | and\nmore")
    results.row({"name": "resnet", "ours_ms": 1.25, "torch_ms": 1.0, "of_torch": 0.8})
    table = (results.folder / "results.md").read_text()
    assert "| a check | passed \\| and more |" in table and "| resnet |" in table
    for name in ("driver", "torch", "cupy", "NVRTC", "cuDNN", "numpy"):
        assert f"| {name} |" in table
    assert parts.Results(results.folder).data["bench"][0]["ours_ms"] == 1.25


def test_the_cuda_tests_part_runs_pytest_without_what_needs_no_gpu(parts, results, monkeypatch):
    run = []

    def logged(command, log, seconds, **environment):
        run.append((command, seconds, environment))
        log.write_text("3 failed, 7 passed\n")
        return 1

    monkeypatch.setattr(parts, "run_logged", logged)
    for name in ("exact_products", "split_error", "training_agreement"):
        monkeypatch.setattr(parts.gpu_checks, name, lambda: "passed")
    monkeypatch.setattr(parts.gpu_checks, "split_error", lambda: 1 / 0)
    assert not parts.tests(results, soon())
    ((command, seconds, environment),) = run
    assert "--ignore-glob=tests/test_cuda_*" in command and 0 < seconds <= 60
    assert environment == {"GRADROUTE_REQUIRE": "cuda"}
    checks = results.data["checks"]
    assert checks["pytest -k cuda"] == "FAILED, exit 1: 3 failed, 7 passed"
    assert checks["3xTF32 error to float64"].startswith("FAILED: ZeroDivisionError")


def test_a_cuda_machine_without_pytest_is_told_so(parts, results, monkeypatch):
    for name in ("exact_products", "split_error", "training_agreement"):
        monkeypatch.setattr(parts.gpu_checks, name, lambda: "passed")
    monkeypatch.setattr(parts.importlib.util, "find_spec", lambda name: None)
    assert not parts.tests(results, soon())
    assert "pip install pytest" in results.data["checks"]["pytest -k cuda"]


SANITIZER = """#!/bin/sh
echo "$@"
case "$1" in --tool=racecheck) exit 9;; esac
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""


@pytest.mark.skipif(os.name == "nt", reason="ci/gpu is a bash script")
def test_the_cuda_sanitize_part_runs_every_tool_and_reports_each(
    parts, results, tmp_path, monkeypatch
):
    tool, script = tmp_path / "compute-sanitizer", tmp_path / "script.py"
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    script.write_text("print('every kernel')")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(parts.gpu_checks, "__file__", str(script))
    assert not parts.sanitize(results, soon())
    outcomes = {name.split()[-1]: said for name, said in results.data["checks"].items()}
    assert outcomes.pop("racecheck").startswith("FAILED, exit 9")
    assert outcomes == dict.fromkeys(("plain", "memcheck", "initcheck", "synccheck"), "no error")
    log = (results.folder / "sanitize.log").read_text()
    assert log.count("every kernel\n") == 4 and "--tool=memcheck --error-exitcode=9" in log
    assert sorted(path.name for path in results.folder.iterdir()) == [
        "results.json", "results.md", "sanitize.log"]  # fmt: skip


def test_a_cuda_machine_without_the_sanitizer_is_told_so(parts, results, monkeypatch):
    monkeypatch.setattr(parts.shutil, "which", lambda name: None)
    monkeypatch.setattr(parts.os.path, "exists", lambda path: False)
    assert not parts.sanitize(results, soon())
    assert "CUDA toolkit" in results.data["checks"]["compute-sanitizer"]


def test_a_cuda_command_that_runs_too_long_is_stopped(parts, tmp_path):
    log = tmp_path / "log"
    assert parts.run_logged([sys.executable, "-c", "import time; time.sleep(60)"], log, 0.5) == 124
    assert "stopped after" in log.read_text()


# ---- the benchmark --------------------------------------------------------------------------

TINY = {
    "conv": {"N": 1, "C": 16, "H": 4, "W": 4, "K": 17, "R": 3, "S": 3, "stride": 1, "padding": 1,
             "dilation": 1, "groups": 1},
    "pool": {"N": 1, "C": 2, "H": 6, "W": 6, "window": 3, "stride": 2, "padding": 1},
    "scatter": {"count": 20, "inner": 3, "rows": 4},
    "linear": {"N": 4, "in": 5, "out": 6},
    "matmul": {"B": 1, "I": 3, "L": 4, "J": 5},
    "elements": {},
}  # fmt: skip


@pytest.fixture
def benchmark(parts, monkeypatch):
    """gpu_bench on tiny shapes; torch on the CPU, with copies of the same arrays."""
    import gpu_bench
    import gpu_rows
    import torch

    def tiny():
        for family, row in TINY.items():
            measure = getattr(gpu_rows, family)
            if family == "elements":
                measure = functools.partial(measure, shape=(8, 2, 4, 4), rows=(4, 3))
            yield measure, {"name": family, **row}

    def as_torch(*arrays):
        return tuple(torch.from_numpy(array.get()) for array in arrays)

    for name in ("AHEAD_BYTES", "COPY_BYTES", "ROTATE_BYTES"):
        monkeypatch.setattr(gpu_bench, name, 1 << 10)
    monkeypatch.setattr(gpu_bench, "REPEAT", 2)
    monkeypatch.setattr(gpu_bench, "every_shape", lambda: [*tiny()])
    for module in (gpu_bench, gpu_rows):
        monkeypatch.setattr(module, "torch_missing", lambda: None)
        monkeypatch.setattr(module, "as_torch", as_torch)
    for cached in (gpu_bench._filler, gpu_bench.copy_bandwidth):
        cached.cache_clear()
    yield gpu_bench
    for cached in (gpu_bench._filler, gpu_bench.copy_bandwidth):
        cached.cache_clear()


def first_results(calls):
    found = calls[0]()
    found = found if isinstance(found, tuple) else (found,)
    return [np.asarray(a.get() if hasattr(a, "get") else a) for a in found if a is not None]


def test_the_cuda_benchmark_times_the_same_computation_on_both_sides(benchmark, monkeypatch):
    import gpu_rows

    compared = []

    def compare(ours, theirs, *rest, **labels):
        if theirs:
            for one, other in zip(first_results(ours), first_results(theirs)):
                if one.dtype.kind == "f":  # a winner and torch's index count differently
                    size = np.abs(other).max()
                    bound = {"tf32": 2e-3, "float16": 2e-2}.get(labels["mode"], 1e-5)
                    assert np.abs(one.astype(float) - other).max() <= bound * size, labels
                    compared.append(labels["pass"])
        return benchmark.compare(ours, theirs, *rest, **labels)

    monkeypatch.setattr(gpu_rows, "compare", compare)
    rows = [*benchmark.rows(600)]
    assert [row["failure"] for row in rows if "failure" in row] == []
    assert {row["name"] for row in rows} == {"copy 1 GiB", *TINY}
    assert {"forward", "dx", "dw", "backward", "backward, relu", "scatter_add", "relu", "gelu",
            "im2col", "col2im"} == set(compared)  # fmt: skip
    assert all(row["ours_ms"] > 0 and "host_ms" in row for row in rows[1:])
    algorithms = {row.get("algorithm") for row in rows}
    assert algorithms >= {"implicit_gemm", "tensor_tf32", "tensor_16bit"}


def test_a_cuda_shape_that_fails_is_a_row_and_the_others_go_on(benchmark, results, monkeypatch):
    import gpu_parts
    import gpu_rows

    def broken(row):
        raise MemoryError("no room")

    monkeypatch.setattr(gpu_rows, "matmul", broken)
    assert not gpu_parts.bench(results, soon())
    failures = {row["name"]: row["failure"] for row in results.data["bench"] if "failure" in row}
    assert failures == {"matmul": "MemoryError: no room"}
    assert results.data["bench"][-1]["name"] == "elements"


def test_a_cuda_benchmark_out_of_time_goes_on_where_it_stopped(benchmark, results, monkeypatch):
    import gpu_parts

    assert not gpu_parts.bench(results, time.monotonic())
    assert results.data["bench"][-1]["failure"] == benchmark.OUT_OF_TIME
    results.data["bench"].insert(1, {"name": "conv", "ours_ms": 1.0})
    assert gpu_parts.bench(results, time.monotonic() + 600)
    names = [row["name"] for row in results.data["bench"]]
    assert set(names) == {"copy 1 GiB", *TINY} and names.count("conv") == 1


def test_a_cuda_machine_without_torch_measures_ours_alone(benchmark, results, monkeypatch):
    import gpu_parts
    import gpu_rows

    for module in (benchmark, gpu_rows):
        monkeypatch.setattr(module, "torch_missing", lambda: "torch cannot be imported")
    assert gpu_parts.bench(results, time.monotonic() + 600)
    assert "ours alone" in results.data["checks"]["comparison with torch"]
    assert not any("torch_ms" in row for row in results.data["bench"])


def test_every_benchmark_shape_of_cuda_has_its_batch_raised(scripts):
    import gpu_bench

    rows = [row for _, row in gpu_bench.every_shape() if "elements" not in row["name"]]
    assert len(rows) > 70 and {row["N"] for row in rows} == {64}
    files = {path.stem for path in gpu_bench.SHAPES.glob("*.csv")}
    assert {measure.__name__ for measure, _ in gpu_bench.every_shape()} == files | {"elements"}
