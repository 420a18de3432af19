"""The benchmark part of ci/gpu: how times are taken, which rows there are, and the tables.

Both sides get the same dtype, the same memory and the same TF32 setting.  Times are medians by CUDA
events over inputs that rotate through more memory than the L2 cache holds.
"""

from __future__ import annotations

import csv
import functools
import math
import pathlib
import statistics
import time

import numpy as np

from gradroute.kernels.cuda import launch

SHAPES = pathlib.Path(__file__).parent.parent / "asv_bench" / "shapes"
BATCH = 64
#: more than the L2 cache of any GPU so far
ROTATE_BYTES = 256 << 20
#: what the GPU is given to do before a measurement, so that the host is ahead of it meanwhile and
#: its own time (Python, a launch) is not in the result
AHEAD_MS, AHEAD_BYTES = 10, 256 << 20
COPY_BYTES = 1 << 30
REPEAT = 15
OUT_OF_TIME = "not measured: out of time; run ci/gpu --only bench again for the rest"


def shapes(name):
    """The rows of one CSV, numbers as integers."""
    with (SHAPES / f"{name}.csv").open() as file:
        for row in csv.DictReader(file):
            numbers = {key: int(value) for key, value in row.items() if key != "name"}
            yield {"name": row["name"], **numbers, "N": BATCH}


def every_shape():
    """(function that measures it, its shape), the cheap ones first."""
    import gpu_rows

    found = [(gpu_rows.elements, {"name": f"elements:{BATCH}x64x56x56"})]
    for family in ("scatter", "pool", "linear", "matmul", "conv"):
        found += [(getattr(gpu_rows, family), row) for row in shapes(family)]
    return found


def rows(seconds, done=()):
    """One dictionary per measurement, until all are done or the time is up.

    ``done``: names of shapes that an earlier run measured.
    """
    end = time.monotonic() + seconds
    yield copy_bandwidth()
    listed = [(measure, row) for measure, row in every_shape() if row["name"] not in done]
    for count, (measure, row) in enumerate(listed):
        if time.monotonic() > end:
            yield {"name": f"{len(listed) - count} shapes", "failure": OUT_OF_TIME}
            return
        try:
            for found in measure(row):
                yield {"name": row["name"], **found}
        except Exception as error:  # one shape that fails must not hide the others
            yield {"name": row["name"], "failure": f"{type(error).__name__}: {error}"[:300]}


# ---- measuring ----------------------------------------------------------------------------


@functools.cache
def torch_missing() -> str | None:
    """Why nothing can be compared with torch here, or None."""
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported ({error}): pip install torch"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU: it needs a build with CUDA"
    return None


def event():
    recorded = launch.runtime().array_module().cuda.Event()
    recorded.record()
    return recorded


def elapsed_ms(start, stop) -> float:
    stop.synchronize()
    return launch.runtime().array_module().cuda.get_elapsed_time(start, stop)


@functools.cache
def _filler():
    """Two arrays, and how often copying one to the other keeps this GPU busy for AHEAD_MS."""
    library = launch.runtime().array_module()
    x, y = (library.zeros(AHEAD_BYTES // 4, "float32") for _ in range(2))
    y[...] = x
    start = event()
    y[...] = x
    return x, y, math.ceil(AHEAD_MS / max(elapsed_ms(start, event()), 0.01))


def median_ms(calls):
    """(median ms of one call on the GPU, ms that the host needs to start it).

    ``calls`` are the same work on different memory.
    """
    for call in calls[:2]:  # compiles, chooses algorithms, fills the memory pool
        call()
    x, y, times = _filler()
    for _ in range(times):
        y[...] = x
    marks, begun = [event()], time.perf_counter()
    for i in range(REPEAT):
        calls[i % len(calls)]()
        marks.append(event())
    host_ms = (time.perf_counter() - begun) * 1e3 / REPEAT
    times = [elapsed_ms(start, stop) for start, stop in zip(marks, marks[1:])]
    return statistics.median(times), host_ms


def compare(ours, theirs, moved=None, flops=None, **labels):
    """One row: our calls, torch's where it is there, and what that makes per second."""
    ms, host_ms = median_ms(ours)
    row = {**labels, "ours_ms": ms, "host_ms": host_ms}
    if theirs and torch_missing() is None:
        torch_ms, _ = median_ms(theirs)
        row |= {"torch_ms": torch_ms, "of_torch": torch_ms / ms}
    if moved:
        row["GB_per_s"] = moved / ms / 1e6
        row["of_copy"] = row["GB_per_s"] / copy_bandwidth()["GB_per_s"]
    if flops:
        row["TFLOP_per_s"] = flops / ms / 1e9
    return row


@functools.cache
def copy_bandwidth():
    """What a copy of 1 GiB reaches, reading and writing: the bound of all that only moves data."""
    library = launch.runtime().array_module()
    x, y = (library.zeros(COPY_BYTES // 4, "float32") for _ in range(2))

    def copy():
        y[...] = x

    ms, _ = median_ms([copy])
    return {"name": "copy 1 GiB", "ours_ms": ms, "GB_per_s": 2 * x.nbytes / ms / 1e6}


# ---- arrays -------------------------------------------------------------------------------


def numbers(shape, dtype="float32"):
    """Ordinary numbers on the device: a block of random ones, repeated."""
    block = np.random.default_rng(0).standard_normal(1 << 16).astype(dtype)
    return launch.runtime().to_device(np.resize(block, shape))


def rotating(make):
    """As many results of ``make()``, each a tuple of arrays, as do not fit the cache together."""
    first = make()
    bytes_ = sum(array.nbytes for array in first)
    count = max(2, min(16, -(-ROTATE_BYTES // bytes_)))
    return [first, *(make() for _ in range(count - 1))]


def as_torch(*arrays):
    """The same memory as torch tensors."""
    import torch

    return tuple(torch.from_dlpack(array) for array in arrays)


# ---- tables -------------------------------------------------------------------------------

COLUMNS = ("name", "pass", "mode", "algorithm", "ours_ms", "host_ms", "torch_ms", "of_torch",
           "TFLOP_per_s", "GB_per_s", "of_copy", "failure")  # fmt: skip


def _cell(value):
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def line(row):
    return "  ".join(f"{name} {_cell(row[name])}" for name in COLUMNS if name in row)


def markdown(data):
    """results.md: versions, checks, and one row per measurement."""
    text = ["# gradroute on a GPU", "", "| | |", "|---|---|"]
    text += [f"| {name} | {value} |" for name, value in data["versions"].items()]
    text += ["", "| check | outcome |", "|---|---|"]
    text += [f"| {name} | {_in_a_cell(outcome)} |" for name, outcome in data["checks"].items()]
    text += [
        "", f"Batch {BATCH}. `ours_ms` and `torch_ms` are the GPU's time, `host_ms` is what the "
        "host needs to start our call. `of_torch` above 1: faster than torch/cuDNN. `of_copy`: "
        "share of the bandwidth of a copy.", "",
    ]  # fmt: skip
    text += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in data["bench"]:
        cells = (_in_a_cell(_cell(row.get(name))) for name in COLUMNS)
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _in_a_cell(text) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
