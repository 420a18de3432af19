"""The gradients of one product, both in one compiled function and one parallel region.

A small layer's three sums cost less than three calls do.  The blocks are those of
matrix_product.py, or for tiny sizes plain loops, and so are the bits; what they do not serve goes
by way of matmul.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from ..convolution.columns import column_sums
from ..emitted.memory import load, step, store
from ..jit import array, helper, int64, kernel, out, prange
from .matrix_product import block_of_product, blocks_of_product
from .product_blocks import BLOCKING, Blocking


@dataclass(frozen=True)
class Program:
    """Plans of the products, each None if it is not wanted."""

    to_x: object
    to_w: object
    bias_threads: int
    blocks: tuple[Blocking, Blocking] | None  # of both products where one function computes them


def build(to_x, to_w, bias_threads) -> Program:
    return Program(to_x, to_w, bias_threads, blocks_of_both((to_x, to_w), (False, False)))


def blocks_of_both(plans, turned):
    """The blocks of two products in one function, or None.

    ``turned`` tells for each whether its transpose is computed.
    """
    if any(plan is None or plan.algorithm not in ("packed", "direct") for plan in plans):
        return None
    if any(plan.algorithm == "direct" for plan in plans):
        loops = all(plan.algorithm == "direct" and plan.threads == 1 for plan in plans)
        return (LOOPS, LOOPS) if loops else None
    made = [p.program.turned if turn else p.program.blocking for p, turn in zip(plans, turned)]
    if any(p.parts > 1 for p in made):  # these are added up when all threads are done
        return None
    slot = max(p.slot for p in made)  # while a thread is at its second product, others may not be
    return tuple(p._replace(slot=slot, parts_at=p.slots * slot) for p in made)


#: In place of blocks: no tile, but plain loops, of one thread.
LOOPS = Blocking(*[0] * len(Blocking._fields))._replace(slots=1)


@intrinsic
def _stacked(typing, matrix, turned, ndim):
    """A matrix, or a batch of them (B, I, J), with axes of length 1 before I: ``ndim`` in all.

    With ``turned`` each is transposed.  Both are constants.
    """
    if not all(isinstance(one, types.IntegerLiteral) for one in (turned, ndim)):
        return None
    axes, transposed = ndim.literal_value, turned.literal_value
    made = types.Array(matrix.dtype, axes, "A", readonly=not matrix.mutable)

    def generate(context, builder, signature, arguments):
        source = context.make_array(signature.args[0])(context, builder, arguments[0])
        result = context.make_array(made)(context, builder)
        between = axes - matrix.ndim

        def arranged(field, filling):
            parts = list(cgutils.unpack_tuple(builder, field))
            fill = [ir.Constant(ir.IntType(64), filling)] * between
            last = parts[-2:][:: -1 if transposed else 1]
            return parts[:-2] + fill + last

        populate_array(
            result, data=source.data, shape=arranged(source.shape, 1),
            strides=arranged(source.strides, 0), itemsize=source.itemsize,
            meminfo=source.meminfo, parent=source.parent,
        )  # fmt: skip
        return impl_ret_borrowed(context, builder, made, result._getvalue())

    return made(matrix, turned, ndim), generate


_SIDES = (BLOCKING, BLOCKING, int64, int64)


@kernel(lambda F: (out(F, 2), out(F, 2), out(F, 1), array(F, 2), array(F, 2), array(F, 2),
                   out(F, 1), *_SIDES))  # fmt: skip
def gradients(dx, dw, db, dy, x, w, work, p, q, turn_x, turn_w):
    """dx = dy @ w, dw = dy^T @ x, and db, if it has elements: then db and dy lie in order.

    ``turn_x`` and ``turn_w``: p and q are of the transposed product.
    """
    for slot in prange(p.slots):
        if turn_x:
            _share(slot, _stacked(dx, 1, 3), _stacked(w, 1, 4), _stacked(dy, 1, 4), work, p, False)
        else:
            _share(slot, _stacked(dx, 0, 3), _stacked(dy, 0, 4), _stacked(w, 0, 4), work, p, False)
        if turn_w:
            _share(slot, _stacked(dw, 1, 3), _stacked(x, 1, 4), _stacked(dy, 0, 4), work, q, True)
        else:
            _share(slot, _stacked(dw, 0, 3), _stacked(dy, 1, 4), _stacked(x, 0, 4), work, q, True)
        column_sums(db, dy, slot * db.size // p.slots, (slot + 1) * db.size // p.slots)


@kernel(lambda F: (out(F, 3), out(F, 3), array(F, 3), array(F, 3), array(F, 3), out(F, 1),
                   *_SIDES))  # fmt: skip
def gradients_of_batch(da, db, dy, a, b, work, p, q, turn_a, turn_b):
    """da = dy @ b^T and db = a^T @ dy, of each product of a batch."""
    for slot in prange(p.slots):
        if turn_a:
            _share(slot, _stacked(da, 1, 3), _stacked(b, 0, 4), _stacked(dy, 1, 4), work, p, False)
        else:
            _share(slot, _stacked(da, 0, 3), _stacked(dy, 0, 4), _stacked(b, 1, 4), work, p, False)
        if turn_b:
            _share(slot, _stacked(db, 1, 3), _stacked(dy, 1, 4), _stacked(a, 0, 4), work, q, True)
        else:
            _share(slot, _stacked(db, 0, 3), _stacked(a, 1, 4), _stacked(dy, 0, 4), work, q, True)


@helper
def _share(slot, y, a, b, work, p, second):
    """One thread's blocks of y = a @ b.

    The first blocks are the larger ones: who has those of one product has the last of the other.
    """
    if p.width == 0:
        nothing = work[:0]
        for task in range(y.shape[0] * y.shape[1]):
            row_of_sums(task, y, a, b, nothing)
        return
    nothing = a[0, 0, :0]
    count = blocks_of_product(y, p)
    turn = p.slots - 1 - slot if second else slot
    for task in range(turn * count // p.slots, (turn + 1) * count // p.slots):
        block_of_product(task, slot, y, a, b, nothing, work, p)


@helper
def row_of_sums(task, y, a, b, bias):
    """A row of y, one of its B * I, as a sum of rows of b."""
    _, I, J = y.shape
    _, E, _, L = a.shape
    n, i = task // I, task % I
    row = n * step(y, 0) + i * step(y, 1)
    for j in range(J):
        start = load(bias, j * step(bias, 0)) if bias.size else a.dtype.type(0)
        store(y, row + j * step(y, 2), start)
    for e in range(E):
        for m in range(L):
            value = load(a, n * step(a, 0) + e * step(a, 1) + i * step(a, 2) + m * step(a, 3))
            other = n * step(b, 0) + e * step(b, 1) + m * step(b, 2)
            for j in range(J):
                at = row + j * step(y, 2)
                store(y, at, load(y, at) + value * load(b, other + j * step(b, 3)))
