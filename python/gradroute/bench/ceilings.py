"""What this machine can do at most, measured: multiply-adds in registers, copying in memory.

The roofline model and its two ceilings: Williams, Waterman, Patterson, Communications of the ACM
52(4), 2009.  A kernel that needs fewer multiplications than the direct sum (Winograd), or that
uses units other than the vector ones, may appear above the first ceiling; one whose arrays stay
in a cache may appear above the second.
"""

from __future__ import annotations

import functools
import time

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from ..kernels.cpu.emitted.vectors import LANES, REGISTERS, Emitter, const

#: independent sums: enough to hide the latency of a multiply-add in both of a core's units
_SUMS = 24 if REGISTERS == 32 else 12
_COPY_BYTES = 256 * 1024 * 1024


@intrinsic
def _multiply_adds(typing, like, steps):
    """Runs ``steps`` multiply-adds on each of _SUMS vectors in registers; returns one lane."""

    def generate(context, builder, signature, arguments):
        _, steps = arguments
        e = Emitter(builder, signature.args[0])
        fma = e.intrinsic(f"llvm.fma.{e.suffix}", *[e.vector] * 4)
        before = builder.block
        body, done = (builder.append_basic_block(name) for name in ("sums.step", "sums.done"))
        factor = e.splat(arguments[0])
        builder.branch(body)
        builder.position_at_end(body)
        step = builder.phi(const(0).type)
        sums = [builder.phi(e.vector) for _ in range(_SUMS)]
        after = [builder.call(fma, [total, factor, factor]) for total in sums]
        following = builder.add(step, const(1))
        for phi, first, then in ((step, const(0), following),
                                 *((p, factor, a) for p, a in zip(sums, after))):  # fmt: skip
            phi.add_incoming(first, before)
            phi.add_incoming(then, body)
        builder.cbranch(builder.icmp_signed("<", following, steps), body, done)
        builder.position_at_end(done)
        total = after[0]
        for value in after[1:]:
            total = builder.fadd(total, value)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return like(like, types.int64), generate


def _arithmetic(results, factor, steps):
    for thread in prange(len(results)):
        results[thread] = _multiply_adds(factor, steps)


def _copy(target, source):
    for i in prange(len(source)):
        target[i] = source[i]


@functools.cache
def _compiled(function):
    return numba.njit(parallel=True, nogil=True)(function)


def _best(call, repeats=5) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@functools.cache
def ceilings(dtype: str, threads: int) -> dict:
    """The two ceilings: {"flops": additions and multiplications a second, "bytes": a second}.

    Copying counts what is read and what is written.  Takes about a second.
    """
    kind = np.dtype(dtype).type
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        results, steps = np.zeros(threads, dtype), 2_000_000
        arithmetic, copy = _compiled(_arithmetic), _compiled(_copy)
        seconds = _best(lambda: arithmetic(results, kind(0.5), steps))
        flops = threads * 2 * _SUMS * LANES[dtype] * steps / seconds
        source = np.ones(_COPY_BYTES // np.dtype(dtype).itemsize, dtype)
        target = np.empty_like(source)
        seconds = _best(lambda: copy(target, source))
    finally:
        numba.set_num_threads(before)
    return {"flops": flops, "bytes": 2 * _COPY_BYTES / seconds}
