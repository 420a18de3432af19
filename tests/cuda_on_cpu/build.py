"""Compiles a .cu file with g++ into a shared library, once per content and options."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).parent
RUNNER = ("scheduler", "memory", "launch", "hooks")
HEADERS = ("cuda_on_cpu.h", "primitives.h", "runner.h")
BASE = (
    "-std=c++17", "-g1", "-fPIC", "-DGR_CPU", "-mfma", "-ffp-contract=off", "-fno-strict-aliasing",
    "-fno-gnu-unique", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function",
    "-Wno-psabi",
)  # fmt: skip
#: what every access and every arithmetic operation of a kernel is instrumented with
CHECKS = (
    "-O1", "-DGR_CHECK", "-fsanitize=thread", "-fsanitize=undefined,float-cast-overflow",
    "-fno-sanitize=null,object-size,vptr,float-divide-by-zero",
)  # fmt: skip
_ENTRY = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\((?P<bound>[^;{]*?)\)\s*)?'
    r"(?P<name>\w+)\s*\((?=[^;]*?\{)"
)
#: compilations are kept here between sessions
_ALL = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = _ALL / "gradroute" / "cpu_runner"


_making = {}  # path -> its lock


class CompilerMissing(RuntimeError):
    """There is no C++ compiler; the message says how to get one."""


class CompileError(RuntimeError):
    """g++ refused a kernel."""


def compiler() -> str:
    """The C++ compiler's path."""
    found = os.environ.get("CXX") or shutil.which("g++")
    if not found:
        raise CompilerMissing(
            "the CUDA kernels are tested by running them as C++, which needs g++ 12 or newer: "
            "apt-get install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora)"
        )
    return found


def _run(command) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise CompileError(" ".join(map(str, command)) + "\n" + done.stderr)


def _cached(name: str, key_parts, make) -> Path:
    """The file that ``make(path)`` writes, from the cache if the same one was made before."""
    key = hashlib.sha256("\0".join(map(str, key_parts)).encode()).hexdigest()[:24]
    path = CACHE / f"{name}-{key}"
    with _making.setdefault(path, threading.Lock()):  # not twice at once in this process
        if not path.exists():
            CACHE.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                made = Path(folder) / "made"
                make(made)
                os.replace(made, path)
    return path


def _texts(names) -> list:
    return [(HERE / name).read_text() for name in names]


def _runner_objects() -> list:
    """The runner itself, compiled without instrumentation."""
    objects = []
    for part in RUNNER:
        command = (compiler(), *BASE, "-O2", "-DGR_CHECK", "-c", HERE / f"{part}.cpp", "-o")
        parts = (*command, *_texts(HEADERS), *_texts([f"{part}.cpp"]))
        objects.append(
            _cached(f"{part}.o", parts, lambda path, command=command: _run((*command, path)))
        )
    return objects


def build(name: str, text: str, headers: dict, options: tuple) -> Path:
    """The shared library of one .cu text: ``headers`` are the .cuh texts that it may include.

    Its kernels are registered with the runner by name, signature and launch bound.
    """
    entries = [(m["name"], (m["bound"] or "1024").split(",")[0]) for m in _ENTRY.finditer(text)]
    stub = f'#include "{name}.cu"\n'
    stub += "".join(f"GR_EXPORT({entry}, {bound})\n" for entry, bound in entries)
    flags = (*BASE, *CHECKS, *options)
    parts = (name, stub, text, *sum(sorted(headers.items()), ()), *flags)
    parts += (*_texts(HEADERS), *_texts(f"{part}.cpp" for part in RUNNER), compiler())

    def make(path):
        folder = path.parent
        (folder / f"{name}.cu").write_text(text)
        (folder / "stub.cpp").write_text(stub)
        for header, content in headers.items():
            (folder / header).write_text(content)
        objects = _runner_objects()
        compiled = folder / "kernels.o"
        _run((compiler(), *flags, f"-I{folder}", f"-I{HERE}", "-c", folder / "stub.cpp",
              "-o", compiled))  # fmt: skip
        _run((compiler(), "-shared", "-Wl,-Bsymbolic", "-o", path, compiled, *objects))

    return _cached(f"{name}.so", parts, make)
