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

import gpu_bench
import gpu_checks

NO_GPU = 77
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

    def row(self, row):
        print(gpu_bench.line(row), flush=True)
        self.data["bench"].append(row)
        self.save()

    def save(self):
        self.file.write_text(json.dumps(self.data, indent=1))
        (self.folder / "results.md").write_text(gpu_bench.markdown(self.data))


def run_logged(command, log: pathlib.Path, seconds=LIMIT, **environment) -> int:
    """The exit status; output goes to the terminal's log file as it comes.  124: out of time."""
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


def tests(results: Results) -> bool:
    """The test suite's cuda cases on the device, then what only a device can show."""
    results.check("tensor cores multiply exactly", gpu_checks.exact_products())
    results.check("3xTF32 error to float64", gpu_checks.split_error())
    results.check("training on CPU and GPU", gpu_checks.training_agreement())
    log, left_out = results.folder / "tests.log", without_their_needs()
    if left_out:
        results.check("test files left out", "for want of packages: " + ", ".join(left_out))
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", "tests"]
    command += [f"--ignore=tests/{name}" for name in left_out]
    status = run_logged(command, log, LIMIT - 120, GRADROUTE_REQUIRE="cuda")
    last = log.read_text().strip().splitlines()[-1:]
    results.check("pytest -k cuda", f"exit {status}: {' '.join(last)}")
    return status == 0 and gpu_checks.all_good(results.data["checks"])


def sanitize(results: Results) -> bool:
    """Every kernel once, small, under each tool of compute-sanitizer."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.path.exists(tool):
        results.check("compute-sanitizer", "not run: it is not installed (CUDA toolkit)")
        return False
    log, good = results.folder / "sanitize.log", True
    whole = []
    for kind in ("memcheck", "racecheck", "initcheck", "synccheck"):
        part = log.with_suffix(".part")
        status = run_logged(
            [tool, f"--tool={kind}", "--error-exitcode=9", sys.executable, gpu_checks.__file__],
            part, LIMIT // 4,
        )  # fmt: skip
        whole.append(f"==== {kind}, exit {status}\n{part.read_text()}")
        part.unlink()
        log.write_text("\n".join(whole))
        results.check(f"compute-sanitizer {kind}", "no error" if status == 0 else f"exit {status}")
        good &= status == 0
    return good


def bench(results: Results) -> bool:
    results.data["bench"] = []
    for row in gpu_bench.rows(LIMIT - 30):
        results.row(row)
    return not any(row.get("failure") for row in results.data["bench"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/gpu")
    parser.add_argument("--only", choices=("tests", "sanitize", "bench"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu-results"))
    options = parser.parse_args()
    from gradroute.kernels import cuda

    reason = cuda.available()
    if reason:
        print(f"ci/gpu: no GPU can be used here, nothing was run: {reason}")
        return NO_GPU
    results = Results(options.out)
    parts = {"tests": tests, "sanitize": sanitize, "bench": bench}
    wanted = [options.only] if options.only else list(parts)
    good = [parts[name](results) for name in wanted]
    print(f"results are in {options.out}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
