"""The parts of ci/gpu.  Run by it, with the package on PYTHONPATH."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import traceback

import gpu_bench
import gpu_checks

NO_GPU, UNUSABLE = 77, 2
#: seconds that one part may take, the start of Python included
LIMIT = 460


class Results:
    """results.json and results.md, written anew after every row."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "results.json"
        self.data = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.data.setdefault("checks", {})
        self.data.setdefault("bench", [])
        self.data["versions"] = gpu_checks.versions()

    def check(self, name, outcome):
        print(f"{name}: {outcome}", flush=True)
        self.data["checks"][name] = outcome
        self.save()

    def attempt(self, name, check):
        """``check()``'s outcome, or its exception: one that fails must not hide the others."""
        try:
            self.check(name, check())
        except Exception as error:
            self.check(name, f"FAILED: {type(error).__name__}: {error}"[:500])

    def row(self, row):
        print(gpu_bench.line(row), flush=True)
        self.data["bench"].append(row)
        self.save()

    def save(self):
        self.file.write_text(json.dumps(self.data, indent=1))
        (self.folder / "results.md").write_text(gpu_bench.markdown(self.data))


def run_logged(command, log: pathlib.Path, seconds=LIMIT, **environment) -> int:
    """The exit status; output goes to the log file as it comes.  124: out of time."""
    with log.open("w") as file:
        try:
            return subprocess.run(
                command, stdout=file, stderr=subprocess.STDOUT, timeout=seconds,
                env={**os.environ, **environment},
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            file.write(f"\nstopped after {seconds} s\n")
            return 124


def without_their_needs() -> list:
    """The test files that import a package which is not installed here."""
    tests = pathlib.Path("tests")
    local = {path.stem for path in tests.iterdir()}
    found = []
    for path in sorted(tests.glob("test_*.py")):
        names = set(re.findall(r"^(?:import|from) (\w+)", path.read_text(), re.M))
        if "geometries" in names:  # the one helper of the tests with a need of its own
            names.add("hypothesis")
        if any(importlib.util.find_spec(name) is None for name in names - local):
            found.append(path.name)
    return found


def tests(results: Results, end: float) -> bool:
    """The test suite's cuda cases on the device, then what only a device can show."""
    results.attempt("tensor cores multiply exactly", gpu_checks.exact_products)
    results.attempt("3xTF32 error to float64", gpu_checks.split_error)
    results.attempt("training on CPU and GPU", gpu_checks.training_agreement)
    if importlib.util.find_spec("pytest") is None:
        results.check("pytest -k cuda", "FAILED: pytest is missing: pip install pytest")
        return False
    log, left_out = results.folder / "tests.log", without_their_needs()
    if left_out:
        results.check("test files left out", "for want of packages: " + ", ".join(left_out))
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", "tests"]
    # what runs the kernels on the CPU needs no GPU and takes minutes
    command += ["--ignore-glob=tests/test_cuda_*", *(f"--ignore=tests/{name}" for name in left_out)]
    status = run_logged(command, log, end - time.monotonic(), GRADROUTE_REQUIRE="cuda")
    last = log.read_text().strip().splitlines()[-1:]
    outcome = "passed" if status == 0 else f"FAILED, exit {status}"
    results.check("pytest -k cuda", f"{outcome}: {' '.join(last)}")
    return gpu_checks.all_good(results.data["checks"])


#: tool: its own options
SANITIZERS = {"memcheck": ["--padding=256"], "racecheck": [], "initcheck": [], "synccheck": []}


def sanitize(results: Results, end: float) -> bool:
    """Every kernel once, small, under each tool of compute-sanitizer."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.path.exists(tool):
        results.check("compute-sanitizer", "FAILED: not installed; it comes with the CUDA toolkit")
        return False
    log, whole, good = results.folder / "sanitize.log", [], True
    part = log.with_suffix(".part")
    script = [sys.executable, gpu_checks.__file__]
    runs = {"plain": script}  # compiles the kernels, which the tools would slow down
    for kind, options in SANITIZERS.items():
        runs[kind] = [tool, f"--tool={kind}", "--error-exitcode=9", *options, *script]
    for left, (kind, command) in zip(range(len(runs), 0, -1), runs.items()):
        status = run_logged(command, part, (end - time.monotonic()) / left)
        whole.append(f"==== {kind}, exit {status}\n{part.read_text()}")
        part.unlink()
        log.write_text("\n".join(whole))
        outcome = "no error" if status == 0 else f"FAILED, exit {status}: see {log.name}"
        results.check(f"compute-sanitizer {kind}", outcome)
        good &= status == 0
    return good


def bench(results: Results, end: float) -> bool:
    """Every shape beside torch; goes on where an earlier run was out of time."""
    kept = results.data["bench"]
    unfinished = bool(kept) and kept[-1].get("failure") == gpu_bench.OUT_OF_TIME
    # goes on behind the rows of shapes: those between the copy and the note that time was up
    results.data["bench"] = kept = kept[1:-1] if unfinished else []
    if reason := gpu_bench.torch_missing():
        results.check("comparison with torch", f"FAILED: {reason}; ours alone is measured")
    # 30 s for the shape that is being measured when the time is up
    for row in gpu_bench.rows(end - time.monotonic() - 30, {row["name"] for row in kept}):
        results.row(row)
    return not any(row.get("failure") for row in kept)


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/gpu")
    parser.add_argument("--only", choices=("tests", "sanitize", "bench"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu-results"))
    options = parser.parse_args()
    from gradroute.kernels import cuda

    reason = cuda.available()
    if reason and os.environ.get("GPU_SEEN"):
        print(f"ci/gpu: there is a GPU, but it cannot be used: {reason}")
        return UNUSABLE
    if reason:
        print(f"ci/gpu: no GPU can be used here, nothing was run: {reason}")
        return NO_GPU
    results, good = Results(options.out), True
    parts = {"tests": tests, "sanitize": sanitize, "bench": bench}
    for name in [options.only] if options.only else list(parts):
        try:
            good &= parts[name](results, time.monotonic() + LIMIT)
        except Exception:
            results.check(name, "FAILED: " + traceback.format_exc(limit=-3))
            good = False
    print(f"results are in {options.out}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
