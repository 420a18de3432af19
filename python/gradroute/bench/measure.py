"""One case on every side: checked against float64 first, then timed, in turns.

The sides share one process, and each has its own pool of threads.  Workers of GNU OpenMP go on
spinning for some 10 ms after a parallel region, in case another one follows; a pool that starts
meanwhile shares its core with them, and a call of 0.1 ms may then take 8.  So every turn begins
with an idle PAUSE, after which nobody spins, and untimed calls of the side whose turn it is until
WAKE has passed: its threads and caches are awake then, as in a program that uses it throughout.
Each timed call comes right after an untimed one of its own side.
"""

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

#: seconds without work before each turn: twice as long as GNU OpenMP's workers spin
PAUSE = 0.02

#: seconds of untimed calls, one at least, with which a turn begins
WAKE = 0.003


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


def alternate(calls: list, seconds: float, turns: int = 5) -> list[list[float]]:
    """Times of each call, in seconds; the calls take turns.

    Each side has an equal share of ``seconds``, spread over its turns, and is timed once a turn
    at least; one that has taken far longer than its share is not waited for again.  Every second
    round goes backwards, so that no side always follows the same one.
    """
    times = [[] for _ in calls]
    share = seconds / max(1, len(calls))
    patience = max(0.3, 5 * share)
    waiting = list(range(len(calls)))
    for _ in range(turns):
        for side in waiting:
            time.sleep(PAUSE)
            times[side] += _turn(calls[side], share / turns)
        waiting = [side for side in reversed(waiting) if 2 * sum(times[side]) < patience]
    return times


def _turn(call, seconds: float) -> list[float]:
    """Times of every second call until ``seconds`` have passed; the first is preceded by WAKE."""
    clock = time.perf_counter
    begin = clock()
    call()
    while clock() - begin < WAKE:
        call()
    times, begin = [], clock()
    while True:
        start = clock()
        call()
        end = clock()
        times.append(end - start)
        if end - begin >= seconds:
            return times
        call()


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
