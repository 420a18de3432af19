"""Transposition in registers, emitted as LLVM IR: whole blocks, edges, rows that start anywhere.

A block of lanes x lanes takes log2(lanes) rounds of shuffles of pairs of rows; edges go the same
way with masked loads and stores, so that 7 x 13 costs about what 16 x 16 does.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from ..jit import helper
from .vectors import Emitter, const, element_pointer


@intrinsic
def _transpose_block(typing, target, to, target_step, source, start, source_step):
    """A square block, lanes x lanes: log2(lanes) rounds of exchanging halves of pairs of rows."""

    def generate(context, builder, signature, arguments):
        target, to, target_step, source, start, source_step = arguments
        e = Emitter(builder, signature.args[0].dtype)
        write = element_pointer(context, builder, signature.args[0], target, to)
        read = element_pointer(context, builder, signature.args[3], source, start)
        rows = [builder.load(e.at(read, builder.mul(source_step, const(i))), align=e.size)
                for i in range(e.lanes)]  # fmt: skip
        for i, row in enumerate(_transposed(e, rows)):
            builder.store(row, e.at(write, builder.mul(target_step, const(i))), align=e.size)
        return context.get_dummy_value()

    index = types.intp
    return types.void(target, index, index, source, index, index), generate


@intrinsic
def _transpose_edge(typing, target, to, target_step, source, start, source_step, rows, columns):
    """A block of at most lanes x lanes: rows behind the last are read as the last, not written."""

    def generate(context, builder, signature, arguments):
        target, to, target_step, source, start, source_step, rows, columns = arguments
        e = Emitter(builder, signature.args[0].dtype)
        write = element_pointer(context, builder, signature.args[0], target, to)
        read = element_pointer(context, builder, signature.args[3], source, start)
        last, mask = builder.sub(rows, const(1)), e.first_lanes(columns)
        values = []
        for i in range(e.lanes):
            row = builder.select(builder.icmp_signed("<", const(i), rows), const(i), last)
            values.append(e.masked_load(e.at(read, builder.mul(source_step, row)), mask))
        _store_rows(e, _transposed(e, values), write, target_step, columns, e.first_lanes(rows))
        return context.get_dummy_value()

    index = types.intp
    signature = types.void(target, index, index, source, index, index, index, index)
    return signature, generate


def _store_rows(e, values, write, target_step, count, mask):
    """Stores the first ``count`` vectors, of each the lanes in ``mask``."""
    build = e.builder
    for j, value in enumerate(values):
        with build.if_then(build.icmp_signed("<", const(j), count)):
            e.masked_store(value, e.at(write, build.mul(target_step, const(j))), mask)


@intrinsic
def _gather_block(typing, target, to, target_step, source, start, table, first, count):
    """Transposes ``lanes`` rows that start anywhere, of ``count`` elements each."""

    def generate(context, builder, signature, arguments):
        target, to, target_step, source, start, table, first, count = arguments
        e = Emitter(builder, signature.args[0].dtype)
        write = element_pointer(context, builder, signature.args[0], target, to)
        read = element_pointer(context, builder, signature.args[3], source, start)
        offsets = element_pointer(context, builder, signature.args[5], table, first)
        rows = [e.at(read, builder.load(builder.gep(offsets, [const(i)])))
                for i in range(e.lanes)]  # fmt: skip
        with builder.if_else(builder.icmp_signed(">=", count, const(e.lanes))) as (full, part):
            with full:
                values = _transposed(e, [builder.load(row, align=e.size) for row in rows])
                for j, value in enumerate(values):
                    at = e.at(write, builder.mul(target_step, const(j)))
                    builder.store(value, at, align=e.size)
            with part:
                mask = e.first_lanes(count)
                values = _transposed(e, [e.masked_load(row, mask) for row in rows])
                every = e.first_lanes(const(e.lanes))
                _store_rows(e, values, write, target_step, count, every)
        return context.get_dummy_value()

    index = types.intp
    signature = types.void(target, index, index, source, index, table, index, index)
    return signature, generate


@helper
def gather_transpose(target, to, target_step, source, start, table, first, count, lanes):
    """target[to + j*target_step + i] = source[start + table[first + i] + j]

    for i < lanes and j < count.
    """
    for j in range(0, count, lanes):
        _gather_block(target, to + j * target_step, target_step, source, start + j, table, first,
                      count - j)  # fmt: skip


def _transposed(e, rows):
    """Swaps the off-diagonal blocks of every 2*width x 2*width block, for width = lanes/2 .. 1."""
    width = e.lanes // 2
    while width:
        lanes, result = range(e.lanes), list(rows)
        upper = [i if not i & width else e.lanes + i - width for i in lanes]
        lower = [i + width if not i & width else e.lanes + i for i in lanes]
        for i in lanes:
            if not i & width:
                result[i] = e.shuffle(rows[i], rows[i + width], upper)
                result[i + width] = e.shuffle(rows[i], rows[i + width], lower)
        rows, width = result, width // 2
    return rows


@helper
def transpose(target, to, target_step, source, start, source_step, rows, columns, lanes):
    """target[to + j*target_step + i] = source[start + i*source_step + j], i < rows, j < columns."""
    for i in range(0, rows, lanes):
        for j in range(0, columns, lanes):
            write = to + j * target_step + i
            read = start + i * source_step + j
            if i + lanes <= rows and j + lanes <= columns:
                _transpose_block(target, write, target_step, source, read, source_step)
            else:
                _transpose_edge(target, write, target_step, source, read, source_step,
                                min(lanes, rows - i), min(lanes, columns - j))  # fmt: skip
