"""One case on every side: checked against float64 first, then timed, alternating."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterator

import numpy as np

from .cases import Case
from .peers import Peer, peer_class
from .peers.ours import Ours
from .record import ABSENT, Row, Timing

#: largest relative L2 error to float64 with which a result counts as the same
TOLERANCE = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-13}


def expected(case: Case, inputs: dict, threads: int) -> list[np.ndarray]:
    """The case in float64: by PyTorch in double, or by gradroute's reference without PyTorch."""
    wide = {
        name: array.astype("float64") if array.dtype.kind == "f" else array
        for name, array in inputs.items()
    }
    torch = peer_class("pytorch")
    if torch.missing() is None:
        run = torch(threads).prepare(case, wide)
        return run.read(run.call())
    oracle = Ours(threads, backend="reference")
    with oracle.settings():
        run = oracle.prepare(case, wide)
        return run.read(run.call())


def error_to(wanted: list[np.ndarray], got: list[np.ndarray]) -> float:
    """Largest relative L2 error of the arrays; infinite where an integer or a shape differs."""
    if len(wanted) != len(got):
        return math.inf
    worst = 0.0
    for want, array in zip(wanted, got):
        if want.shape != array.shape:
            return math.inf
        if want.dtype.kind in "iu":
            if not np.array_equal(want, array):
                return math.inf
            continue
        # in place, as the arrays can be large: ||got - want|| / ||want||
        difference = array.astype(np.float64)
        difference -= want
        norm, off = np.linalg.norm(want), np.linalg.norm(difference)
        error = float(off / norm) if norm else float(off)
        worst = max(worst, error if math.isfinite(error) else math.inf)
    return worst


def alternate(calls: list, seconds: float, least: int = 5, most: int = 1000) -> list[list[float]]:
    """Times of each call, in seconds; the calls take turns until ``seconds`` have passed.

    Each timed call comes right after an untimed one of its own side: worker threads that the
    other side left spinning, and caches that it filled, are then gone.  Every second round goes
    backwards, so that no side always follows the same one.  Each side goes on until it has used
    its share of ``seconds``, and is timed ``least`` times at least; but one that has taken far
    longer than its share is not waited for again.
    """
    times = [[] for _ in calls]
    clock = time.perf_counter
    share = seconds / max(1, len(calls))
    patience = max(0.3, 5 * share)
    waiting = list(range(len(calls)))
    while waiting:
        for side in waiting:
            call = calls[side]
            call()
            start = clock()
            call()
            times[side].append(clock() - start)
        waiting = [
            side
            for side in reversed(waiting)
            if (2 * sum(times[side]) < share and len(times[side]) < most)
            or (2 * sum(times[side]) < patience and len(times[side]) < least)
        ]
    return times


def _checked(peer: Peer, case: Case, inputs, wanted, dtype) -> tuple[object, Timing]:
    """The peer's call, or None with the reason in the Timing."""
    try:
        run = peer.prepare(case, inputs)
        if run is None:
            return None, Timing(peer.name, note=ABSENT)
        got = run.read(run.call())
        error = error_to(wanted[: len(got)] if run.note else wanted, got)
    except Exception as failure:  # whatever a library raises becomes the row's note
        text = str(failure).strip().splitlines()
        return None, Timing(peer.name, note=f"{type(failure).__name__}: {text[0] if text else ''}")
    if not error <= TOLERANCE[dtype]:
        return None, Timing(peer.name, error=error, note=f"wrong: error {error:.1e} to float64")
    return run.call, Timing(peer.name, error=error, note=run.note)


def measure(case: Case, ours: Ours, peers: list[Peer], *, seconds: float, dtype: str) -> Row:
    """Checks every side against float64, then times those that are right."""
    inputs = case.inputs(dtype)
    wanted = expected(case, inputs, ours.threads)
    with contextlib.ExitStack() as stack:
        stack.enter_context(ours.settings())
        pairs = [_checked(peer, case, inputs, wanted, dtype) for peer in (ours, *peers)]
        del wanted
        ready = [(call, timing) for call, timing in pairs if call is not None]
        for (_, timing), times in zip(ready, alternate([call for call, _ in ready], seconds)):
            timing.seconds = statistics.median(times)
            timing.fastest, timing.calls = min(times), len(times)
    return Row(
        op=case.op, name=case.name, sizes=dict(case.sizes), dtype=dtype, layout=ours.layout,
        backend=ours.backend, threads=ours.threads, flops=case.flops,
        bytes=case.bytes(np.dtype(dtype).itemsize), timings=[timing for _, timing in pairs],
    )  # fmt: skip


def key(case: Case, ours: Ours, dtype: str) -> tuple:
    """What `Row.key` of that measurement is."""
    return (case.op, case.name, dtype, ours.layout, ours.backend, ours.threads)


def sides(peer_names, *, threads: int, backend: str, layout: str) -> tuple[Ours, list[Peer], dict]:
    """gradroute, the peers that are installed, and {name: how to install} of the others."""
    peers, missing = [], {}
    for name in peer_names:
        peer = peer_class(name)
        install = peer.missing()
        if install is not None:
            missing[name] = install
        elif backend == "cuda":
            if name == "pytorch":  # the only peer that is told which device to use
                peers.append(peer(threads, device="cuda"))
        else:
            peers.append(peer(threads))
    return Ours(threads, backend, layout), peers, missing


def measure_all(cases, ours, peers, *, seconds: float, dtype: str) -> Iterator[Row]:
    for case in cases:
        yield measure(case, ours, peers, seconds=seconds, dtype=dtype)
