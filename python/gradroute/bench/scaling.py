"""How the cost grows: time against batch, channels, image size and threads; memory against size."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from .cases import Case
from .measure import measure, sides
from .record import OURS

_BASE = {"N": 8, "C": 32, "H": 28, "W": 28}
_OPS = ("conv_forward", "conv_dx", "conv_dw", "pool_forward", "pool_backward")

#: what is varied -> the values, and the fields that take the value
SWEEPS = {
    "batch": ((2, 4, 8, 16, 32), ("N",)),
    "channels": ((16, 32, 64, 128), ("C", "K")),
    "image size": ((14, 28, 56, 112), ("H", "W")),
}

#: the exponent that the direct sum has: of a convolution, of a pool
DIRECT = {"batch": (1, 1), "channels": (2, 1), "image size": (2, 2)}

#: cases for threads: large enough that a second thread can pay
_THREADED = {
    "3x3, 64 channels, 56x56": {"N": 8, "C": 64, "H": 56, "W": 56, "K": 64, "R": 3},
    "1x1, 256 to 64 channels, 28x28": {"N": 8, "C": 256, "H": 28, "W": 28, "K": 64, "R": 1},
    "3x3, 16 channels, 8x8": {"N": 8, "C": 16, "H": 8, "W": 8, "K": 16, "R": 3},
}


def _case(op: str, name: str, sizes: dict) -> Case:
    """A 3x3 convolution with padding 1 or a 2x2 pool, unless ``sizes`` say otherwise."""
    if op.startswith("conv"):
        window = sizes.get("R", 3)
        sizes = {"K": sizes["C"], **sizes, "R": window, "S": window, "stride": 1,
                 "padding": window // 2, "dilation": 1, "groups": 1}  # fmt: skip
    else:
        sizes = {f: sizes[f] for f in "NCHW"} | {"window": 2, "stride": 2, "padding": 0}
    return Case(op, name, tuple(sizes.items()))


def exponent(sizes, seconds) -> float:
    """The power of the size with which the time grows: slope of the least-squares line of logs."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def steps(maximum: int) -> int:
    """How many results `grow` yields: for a progress bar."""
    sweeps = sum(len(values) for values, _ in SWEEPS.values()) * len(_OPS)
    return sweeps + len(_THREADED) * 3 * min(2, maximum) + len(_MEMORY_SIZES) * len(_MEMORY)


def grow(threads: int, backend: str, seconds: float) -> Iterator[tuple[str, dict]]:
    """(section, result) one by one; `collect` puts them together."""
    ours, peers, _ = sides(["pytorch"], threads=threads, backend=backend, layout="channels_first")
    for what, (values, fields) in SWEEPS.items():
        for op in _OPS:
            for value in values:
                sizes = {**_BASE, **{f: value for f in fields if f != "K"}}
                case = _case(op, f"{what} {value}", sizes)
                row = measure(case, ours, peers, seconds=seconds, dtype="float32")
                yield "sweeps", {"what": what, "op": op, "value": value, "seconds": _fastest(row)}
    for count in sorted({1, min(2, threads)}):
        ours, peers, _ = sides(["pytorch"], threads=count, backend=backend, layout="channels_first")
        for name, sizes in _THREADED.items():
            for op in _OPS[:3]:
                row = measure(_case(op, name, sizes), ours, peers, seconds=seconds, dtype="float32")
                found = {"case": name, "op": op, "threads": count, "seconds": _fastest(row)}
                yield "threads", found
    for side in _MEMORY:
        for size in _MEMORY_SIZES:
            yield "memory", {"side": side, "size": size, "bytes": peak_memory(side, size)}


def _fastest(row) -> dict:
    """Each side's fastest call: a curve of few points should not bend where others worked."""
    return {t.side: t.fastest for t in row.timings if t.fastest is not None}


def collect(results) -> dict:
    """{"sweeps": [...], "threads": [...], "memory": [...]}"""
    sections = {"sweeps": [], "threads": [], "memory": []}
    for section, result in results:
        sections[section].append(result)
    return sections


def exponents(sweeps: list[dict], side: str = OURS) -> list[tuple[str, str, float]]:
    """(what is varied, operation, fitted exponent) for one side."""
    found = []
    for what in SWEEPS:
        for op in _OPS:
            points = [
                (s["value"], s["seconds"][side])
                for s in sweeps
                if s["what"] == what and s["op"] == op and side in s["seconds"]
            ]
            if len(points) > 2:
                found.append((what, op, exponent(*zip(*points))))
    return found


def direct_exponent(what: str, op: str) -> int:
    return DIRECT[what][op.startswith("pool")]


# ---- memory -------------------------------------------------------------------------------

_MEMORY = ("gradroute", "pytorch", "numpy im2col")
_MEMORY_SIZES = (56, 112, 224, 448)

_PEAK = """
import json, pathlib, sys
from gradroute.bench.measure import sides
from gradroute.bench.scaling import memory_case
side, size, threads = json.loads(sys.argv[1])
ours, peers, _ = sides([] if side == "gradroute" else [side], threads=threads, backend="numba",
                       layout="channels_first")
peer = peers[0] if peers else ours
def status(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
with ours.settings():
    small = memory_case(16)
    peer.prepare(small, small.inputs("float32")).call()
    case = memory_case(size)
    run = peer.prepare(case, case.inputs("float32"))
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    result = run.call()
    print(status("VmHWM") - before)
"""


def memory_case(size: int) -> Case:
    """A 3x3 convolution, 32 to 32 channels, on one image."""
    return _case("conv_forward", "memory", {"N": 1, "C": 32, "H": size, "W": size})


def peak_memory(side: str, size: int) -> int | None:
    """Bytes by which a forward convolution raises a fresh process's peak, its result included.

    None where the side is not installed, or where the system is not Linux, whose /proc it needs.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, json.dumps([side, size, 1])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return None if done.returncode else int(done.stdout)


def result_bytes(size: int) -> int:
    """What the result alone takes in float32."""
    return 4 * math.prod(memory_case(size).shapes["dy"])
