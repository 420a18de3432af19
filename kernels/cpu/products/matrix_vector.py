"""Products of matrices and vectors: their speed is that of reading the matrix once.

A tile of matrix_product.py would use one of its columns.  Here each sum is SPREAD partial sums, to
which its terms go in turns, and which are added at the end, halves to halves.  So four rows of a
matrix that lie side by side are read a vector of terms at a time, the partial sums in its lanes;
and where the terms of neighbouring results lie side by side, each term's row is read in order,
and added to the one of SPREAD rows of partial sums whose turn it is.  The bits are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from ..emitted.lanes import LanesEmitter, add, lanes_load, lanes_store, splat, splat_like
from ..emitted.memory import load, step, store
from ..emitted.vectors import ITEMSIZE, add_row, fill_row
from ..jit import array, inlined, int64, kernel, out, prange

SPREAD = 16  # lanes

#: Bytes of a row that are read in order before the next one, and of results that a thread owns.
RUN = 2048

#: Terms of a sum: fewer are no vector; with more the error would grow beyond that of pieces.
LEAST_TERMS, MOST_TERMS = SPREAD, 1 << 17

#: Results below which long sums are cut into parts (product_blocks.py), so that threads share them.
LEAST_RESULTS = 64


@dataclass(frozen=True)
class Program:
    block: int  # results that a thread computes at a time
    size: int  # of the workspace, in elements


def plan(made, g, dtype, settings):
    """``made``, the plan so far, as one of this algorithm; None where it does not serve ``g``."""
    results = g.rows * g.columns
    if g.summed != 1 or min(g.rows, g.columns) != 1 or not LEAST_TERMS <= g.inner <= MOST_TERMS:
        return None
    if g.batch * results < LEAST_RESULTS and g.inner > RUN:
        return None
    item = ITEMSIZE[dtype]
    most = RUN // item
    block = min(most, -(-results // (4 * made.threads)) if g.batch < made.threads else results)
    block = -(-block // SPREAD) * SPREAD
    program = Program(block, made.threads * SPREAD * block)
    size = program.size * item
    if settings.workspace_limit is not None and size > settings.workspace_limit:
        return None
    return replace(made, algorithm="matrix_vector", workspace_bytes=size,
                   blocking={"rows": program.block}, program=program)  # fmt: skip


def run(y, a, b, bias, plan, workspace):
    """y (B, I, J) = a (B, 1, I, L) @ b (B, 1, L, J) + bias (I or 1, J or 1); I or J is 1."""
    if y.shape[2] == 1:
        y, matrix, vector, bias = y[:, :, 0], a[:, 0], b[:, 0, :, 0], bias[:, :1]
    else:
        y, matrix, vector, bias = y[:, 0], b[:, 0].swapaxes(1, 2), a[:, 0, 0], bias[:1].T
    if vector.strides[1] != vector.itemsize:
        vector = np.ascontiguousarray(vector)
    work = workspace[: plan.workspace_bytes].view(y.dtype)  # what is kept may be larger
    products(y.dtype, plan.threads, y, matrix, vector, bias, work, plan.program.block, plan.threads)


@intrinsic
def _times_plus(typing, a, b, total):
    """a * b + total, lane by lane, rounded once."""

    def generate(context, builder, signature, arguments):
        emit = LanesEmitter(context, builder, signature.return_type)
        suffix = {4: "f32", 8: "f64"}[emit.size]
        kind = ir.FunctionType(emit.vector, [emit.vector] * 3)
        name = f"llvm.fma.v{emit.count}{suffix}"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

    return total(a, b, total), generate


@intrinsic
def sum_of_lanes(typing, values):
    """All lanes, halves added to halves."""

    def generate(context, builder, signature, arguments):
        (vector,), emit = arguments, LanesEmitter(context, builder, signature.args[0])
        width = emit.count
        while width > 1:
            width //= 2
            picks = [(lane + width) % emit.count for lane in range(emit.count)]
            other = builder.shuffle_vector(vector, vector, emit.numbers(picks))
            vector = builder.fadd(vector, other)
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return values.dtype(values), generate


@inlined
def _row(m, at, hop, v, v_at, terms, zeros):
    """One result from a row whose terms are ``hop`` apart."""
    total = zeros
    for k in range(0, terms, SPREAD):
        factor = lanes_load(v, v_at + k, 1, 0, terms - k, zeros)
        value = lanes_load(m, at + k * hop, hop, 0, terms - k, zeros)
        total = _times_plus(value, factor, total)
    return sum_of_lanes(total)


@inlined
def _four_rows(y, to, y_step, m, at, row, v, v_at, terms, zeros):
    """Four results from rows whose terms lie side by side."""
    one, two, three, four = zeros, zeros, zeros, zeros
    b, c, d = at + row, at + 2 * row, at + 3 * row
    for k in range(0, terms, SPREAD):
        end = terms - k
        factor = lanes_load(v, v_at + k, 1, 0, end, zeros)
        one = _times_plus(lanes_load(m, at + k, 1, 0, end, zeros), factor, one)
        two = _times_plus(lanes_load(m, b + k, 1, 0, end, zeros), factor, two)
        three = _times_plus(lanes_load(m, c + k, 1, 0, end, zeros), factor, three)
        four = _times_plus(lanes_load(m, d + k, 1, 0, end, zeros), factor, four)
    store(y, to, sum_of_lanes(one))
    store(y, to + y_step, sum_of_lanes(two))
    store(y, to + 2 * y_step, sum_of_lanes(three))
    store(y, to + 3 * y_step, sum_of_lanes(four))


@inlined
def _columns(work, base, apart, m, at, count, v, v_at, terms, zeros):
    """Sums of ``count`` results to work[base:], from terms that lie side by side for them all."""
    hop = step(m, 2)
    for i in range(SPREAD):
        fill_row(work, base + i * apart, work.dtype.type(0), apart)
    four = terms // (4 * SPREAD) * 4 * SPREAD
    for turn in range(four // 4):  # four terms of a partial sum
        k = turn // SPREAD * 4 * SPREAD + turn % SPREAD
        sums, far = base + turn % SPREAD * apart, SPREAD * hop
        first = splat_like(load(v, v_at + k), zeros)
        second = splat_like(load(v, v_at + k + SPREAD), zeros)
        third = splat_like(load(v, v_at + k + 2 * SPREAD), zeros)
        fourth = splat_like(load(v, v_at + k + 3 * SPREAD), zeros)
        for j in range(0, count, SPREAD):
            row, end = at + k * hop + j, count - j
            total = lanes_load(work, sums + j, 1, 0, SPREAD, zeros)
            total = _times_plus(lanes_load(m, row, 1, 0, end, zeros), first, total)
            total = _times_plus(lanes_load(m, row + far, 1, 0, end, zeros), second, total)
            total = _times_plus(lanes_load(m, row + 2 * far, 1, 0, end, zeros), third, total)
            total = _times_plus(lanes_load(m, row + 3 * far, 1, 0, end, zeros), fourth, total)
            lanes_store(work, sums + j, 1, 0, SPREAD, total)
    for k in range(four, terms):
        sums, row = base + k % SPREAD * apart, at + k * hop
        factor = splat_like(load(v, v_at + k), zeros)
        for j in range(0, count, SPREAD):
            value = lanes_load(m, row + j, 1, 0, count - j, zeros)
            total = _times_plus(value, factor, lanes_load(work, sums + j, 1, 0, SPREAD, zeros))
            lanes_store(work, sums + j, 1, 0, SPREAD, total)
    for i in range(terms % SPREAD, SPREAD if terms % SPREAD else 0):
        for j in range(0, count, SPREAD):  # the lanes beyond a row's end
            here = base + i * apart + j
            total = add(lanes_load(work, here, 1, 0, SPREAD, zeros), zeros)
            lanes_store(work, here, 1, 0, SPREAD, total)
    width = SPREAD
    while width > 1:
        width //= 2
        for i in range(width):
            add_row(work, base + i * apart, work, base + (i + width) * apart, count)


@kernel(lambda F: (out(F, 2), array(F, 3), array(F, 2), array(F, 2), out(F, 1), int64, int64))
def products(y, m, v, bias, work, block, pieces):
    """y (B, I) = m (B, I, L) @ v (B, L) + bias (I or 1, 1); v's rows lie side by side."""
    B, I, L = m.shape
    blocks = (I + block - 1) // block
    for piece in prange(pieces):
        zeros = splat(m.dtype.type(0), SPREAD)
        base, apart = piece * SPREAD * block, block
        for task in range(B * blocks * piece // pieces, B * blocks * (piece + 1) // pieces):
            n, first = task // blocks, task % blocks * block
            count, row = min(block, I - first), step(m, 1)
            at, v_at = n * step(m, 0) + first * row, n * step(v, 0)
            to, y_step, i = n * step(y, 0) + first * step(y, 1), step(y, 1), 0
            if step(m, 2) == 1:
                while i + 4 <= count:
                    _four_rows(y, to + i * y_step, y_step, m, at + i * row, row, v, v_at, L, zeros)
                    i += 4
            elif row == 1:
                _columns(work, base, apart, m, at, count, v, v_at, L, zeros)
                for j in range(count):
                    store(y, to + j * y_step, load(work, base + j))
                i = count
            for j in range(i, count):
                store(y, to + j * y_step, _row(m, at + j * row, step(m, 2), v, v_at, L, zeros))
            for j in range(count if bias.size else 0):
                extra = load(bias, (first + j if bias.shape[0] > 1 else 0) * step(bias, 0))
                store(y, to + j * y_step, load(y, to + j * y_step) + extra)
