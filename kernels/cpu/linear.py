"""The gradients of a fully connected layer, all in one compiled function and one parallel region.

A small layer's three sums cost less than three calls do.  The blocks are those of
matrix_product.py, and so are the bits; what those blocks do not serve goes by way of matmul.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from .columns import column_sums
from .jit import array, helper, kernel, out, prange
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
    return Program(to_x, to_w, bias_threads, _blocks(to_x, to_w))


def _blocks(*plans):
    if any(plan is None or plan.algorithm != "packed" for plan in plans):
        return None
    made = [plan.program.blocking for plan in plans]
    if any(p.parts > 1 for p in made):  # these are added up when all threads are done
        return None
    slot = max(p.slot for p in made)  # while a thread is at its second product, others may not be
    return tuple(p._replace(slot=slot, parts_at=p.slots * slot) for p in made)


@intrinsic
def _stacked(typing, matrix, turned, axes):
    """The matrix, or its transpose, behind ``axes`` axes of length 1; both are constants."""
    if not all(isinstance(one, types.IntegerLiteral) for one in (turned, axes)):
        return None
    lead, transposed = axes.literal_value, turned.literal_value
    made = types.Array(matrix.dtype, matrix.ndim + lead, "A", readonly=not matrix.mutable)

    def generate(context, builder, signature, arguments):
        source = context.make_array(signature.args[0])(context, builder, arguments[0])
        result = context.make_array(made)(context, builder)
        shape, strides = (
            cgutils.unpack_tuple(builder, field)[:: -1 if transposed else 1]
            for field in (source.shape, source.strides)
        )
        zero, one = (ir.Constant(ir.IntType(64), number) for number in (0, 1))
        populate_array(
            result, data=source.data, shape=[one] * lead + list(shape),
            strides=[zero] * lead + list(strides), itemsize=source.itemsize,
            meminfo=source.meminfo, parent=source.parent,
        )  # fmt: skip
        return impl_ret_borrowed(context, builder, made, result._getvalue())

    return made(matrix, turned, axes), generate


@kernel(lambda F: (out(F, 2), out(F, 2), out(F, 1), array(F, 2), array(F, 2), array(F, 2),
                   out(F, 1), BLOCKING, BLOCKING))  # fmt: skip
def gradients(dx, dw, db, dy, x, w, work, p, q):
    """dx = dy @ w, dw = dy^T @ x, and db, if it has elements; all lie in order, without gaps."""
    to_x, to_w, nothing = _stacked(dx, 0, 1), _stacked(dw, 0, 1), w[:0]
    rows, columns = _stacked(dy, 0, 2), _stacked(dy, 1, 2)
    weights, inputs = _stacked(w, 0, 2), _stacked(x, 0, 2)
    for slot in prange(p.slots):
        _share(to_x, rows, weights, nothing, work, slot, p)
        _share(to_w, columns, inputs, nothing, work, slot, q)
        column_sums(db, dy, slot * db.size // p.slots, (slot + 1) * db.size // p.slots)


@helper
def _share(y, a, b, bias, work, slot, p):
    """One thread's blocks of y = a @ b."""
    count = blocks_of_product(y, p)
    for task in range(slot * count // p.slots, (slot + 1) * count // p.slots):
        block_of_product(task, slot, y, a, b, bias, work, p)
