"""gradroute alone: the error of each algorithm, first calls in a new process, small calls."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import gradroute as gr

from . import accuracy, machine

# ---- first calls --------------------------------------------------------------------------

# large enough that the build that shares its work among threads is the one that serves
_FIRST_CALL = """
import sys, time
import numpy as np, numba
def ones(*shape): return np.ones(shape, np.float32)
x, w, y = ones(8, 16, 28, 28), ones(16, 16, 3, 3), ones(8, 16, 26, 26)
winner, index = np.zeros((8, 16, 14, 14), np.uint8), np.arange(9999) % 999
calls = {
    "conv": lambda: gr.conv(x, w),
    "conv_dx": lambda: gr.conv_backward(y, x, w, need=("x",)),
    "conv_dw": lambda: gr.conv_backward(y, x, w, need=("w",)),
    "max_pool": lambda: gr.max_pool(x, 2),
    "max_pool_backward": lambda: gr.max_pool_backward(y[..., :14, :14], winner, x.shape, 2),
    "linear": lambda: gr.linear(ones(128, 128), ones(128, 128)),
    "scatter_add": lambda: gr.scatter_add(ones(999, 16), index, ones(9999, 16)),
}
start = time.process_time()
import gradroute as gr
with gr.config(backend="numba"):
    calls[sys.argv[1]]()
print(time.process_time() - start)
"""
FIRST_CALLS = ("conv", "conv_dx", "conv_dw", "max_pool", "max_pool_backward", "linear",
               "scatter_add")  # fmt: skip


def first_call(operation: str, folder) -> float:
    """Processor seconds of ``import gradroute`` and the first call in a new process.

    They are the same beside other work.  NumPy and Numba are imported before.  ``folder`` is that
    of the kernel cache.
    """
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_CALL, operation], text=True, capture_output=True, check=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder)},
    )  # fmt: skip
    return float(done.stdout)


def first_calls(operation: str) -> list[str]:
    """Cold, with a filled cache, builds compiled, and files that the second process added."""
    with tempfile.TemporaryDirectory() as folder:
        cold = first_call(operation, folder)
        built = sum(file.is_file() for file in Path(folder).rglob("*"))
        cached = min(first_call(operation, folder) for _ in range(2))
        added = sum(file.is_file() for file in Path(folder).rglob("*")) - built
    return [f"{cold:.1f}", f"{cached:.2f}", str(built), str(added)]


# ---- small calls --------------------------------------------------------------------------


def _small(n: int) -> dict:
    """Calls on n images of 8 x 8 with one channel."""

    def ones(*shape):
        return np.ones(shape, np.float32)

    x, w = ones(n, 1, 8, 8), ones(1, 1, 3, 3)
    y = gr.conv(x, w)
    pooled, winner = gr.max_pool(x, 2)
    rows, matrix = ones(n, 64), ones(10, 64)
    out, index, src = ones(7), np.arange(64 * n) % 7, ones(64 * n)
    return {
        "conv": lambda: gr.conv(x, w),
        "conv_backward, dx": lambda: gr.conv_backward(y, x, w, need=("x",)),
        "conv_backward, dw": lambda: gr.conv_backward(y, x, w, need=("w",)),
        "max_pool": lambda: gr.max_pool(x, 2),
        "max_pool_backward": lambda: gr.max_pool_backward(pooled, winner, x.shape, 2),
        "linear": lambda: gr.linear(rows, matrix),
        "activate": lambda: gr.activate(x, "relu"),
        "scatter_add": lambda: gr.scatter_add(out, index, src),
    }


def _fastest(call, seconds=0.01, repeats=7) -> float:
    count, taken = 1, 0.0
    while taken < seconds:
        count *= 2
        taken = _many(call, count)
    return min(_many(call, count) for _ in range(repeats)) / count


def _many(call, count) -> float:
    start = time.process_time()  # one thread: the same beside other work
    for _ in range(count):
        call()
    return time.process_time() - start


def small_calls() -> list[list[str]]:
    """(call, microseconds of one image, of its arithmetic, and what the call costs beside it).

    The arithmetic is what each of four more images adds.
    """
    lines = []
    with gr.config(backend="numba", threads=1):
        one, five = _small(1), _small(5)
        for name, call in one.items():
            whole = _fastest(call)
            arithmetic = max(0.0, (_fastest(five[name]) - whole) / 4)
            times = (whole, arithmetic, whole - arithmetic)
            lines.append([name, *(f"{seconds * 1e6:.1f}" for seconds in times)])
    return lines


# ---- the report ---------------------------------------------------------------------------


def write(path, threads: int, command: str, step=lambda what: None) -> None:
    """Writes the Markdown at ``path``; ``step`` is told what comes next."""
    from ..cli.warmup import _builds, _kernels
    from .report import table

    where = machine.describe()  # before it starts: the commit that is measured
    step("small calls")
    small = small_calls()
    wrong = []
    for case in accuracy.cases():
        step(f"error of {case.op}, {case.name}")
        wrong.append([f"{case.op}: {case.name}", *accuracy.errors(case, threads)])
    first = []
    for operation in FIRST_CALLS:
        step(f"first call of {operation}")
        first.append([operation, *first_calls(operation)])
    text = [
        "# Errors, first calls, small calls", "",
        f"Written by `{command}`; do not edit.", "",
        *table(["", ""], [[k, v] for k, v in where.items()]),
        "## Error of each algorithm", "",
        "Relative L2 error of float32 to the same sum in float64, standard normal values; in "
        "brackets the algorithm that served the call, behind a colon the one that it leaves its "
        "sums to; of a product's two gradients each may have its own. Without workspace the direct "
        "loops serve: one float32 sum in order for each result, for dw one for each row of an "
        "image first.", "",
        *table(accuracy.COLUMNS, wrong),
        "## First call in a new process", "",
        "Processor seconds of `import gradroute` and the first call, beyond `import numba`: with "
        "an empty kernel cache, so that the operation is compiled, and with a filled one.", "",
        *table(["operation", "empty, s", "filled, s", "files written",
                "files added by a second process"], first),
        f"`gradroute warmup` compiles all there is to compile: {len(_builds())} variants of "
        f"{len(_kernels())} kernels, a serial and a parallel one for each dtype. Shapes, strides "
        "and options add none.", "",
        "## Calls on an 8 x 8 image", "",
        "Processor microseconds on one thread, one channel. The arithmetic is what each further "
        "image of a batch adds; the rest is checks, plan, allocation and Numba's own call.", "",
        *table(["call", "one image", "its arithmetic", "the call beside it"], small),
    ]  # fmt: skip
    Path(path).write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")
