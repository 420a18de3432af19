"""What ran where: the lines that a number means nothing without."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

_PACKAGES = ("gradroute", "numpy", "numba", "torch", "jax", "onnxruntime", "mygrad",
             "cupy-cuda12x", "cupy-cuda13x")  # fmt: skip


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _vector_units() -> str:
    from ..kernels.cpu.emitted.vectors import TARGET

    if TARGET is None:
        return "none with fused multiply-add that Numba can use"
    return f"{8 * TARGET[0]} bits, {TARGET[1]} registers"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout that gradroute was imported from; None outside of one."""

    def git(*command):
        return subprocess.run(["git", "-C", str(here.parent), *command], text=True,
                              capture_output=True, check=True).stdout.strip()  # fmt: skip

    here = Path(__file__).resolve()
    try:
        git("ls-files", "--error-unmatch", str(here))  # not a repository that merely lies around it
        found = git("rev-parse", "HEAD")[:12]
        return found + (" with local changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def describe() -> dict:
    """Machine and versions, as a flat {what: text}."""
    from ..config import available_threads

    found = {
        "date": datetime.date.today().isoformat(),
        "processor": _cpu(),
        "cores that the process may use": str(available_threads()),
        "vector registers": _vector_units(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        version = _version(package)
        if version:
            found[package] = version
    measured = commit()
    if measured:
        found["gradroute's commit"] = measured
    slowed = [name for name in ("OPENBLAS_CORETYPE", "OMP_NUM_THREADS") if name in os.environ]
    if slowed:
        found["set in the environment"] = ", ".join(f"{n}={os.environ[n]}" for n in slowed)
    return found
