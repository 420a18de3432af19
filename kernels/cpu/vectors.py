"""Vector primitives emitted as LLVM IR: copy a row, fill a row, transpose a matrix.

Between arrays that might overlap LLVM vectorises a loop only behind run-time checks, which rows
of 7 or 14 pixels never earn back; it does not find transposition at all.  Tails are masked: no
byte behind a row is read or written.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .jit import helper


def _target():
    """(bytes of a vector, registers) for the machine that Numba compiles for, or None."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    features = features.split(",")
    if "+avx512f" in features:
        return 64, 32
    if "+avx2" in features and "+fma" in features:
        return 32, 16
    if triple.startswith(("aarch64", "arm64")):
        return 16, 32
    return None  # without vector FMA llvm.fma is a library call: plain loops serve


TARGET = _target()
VECTOR_BYTES, REGISTERS = TARGET or (16, 16)
ITEMSIZE = {"float32": 4, "float64": 8}
LANES = {name: VECTOR_BYTES // size for name, size in ITEMSIZE.items()}

_INT = ir.IntType(64)


def const(value):
    return ir.Constant(_INT, value)


class Emitter:
    """IR for vectors of one dtype."""

    def __init__(self, builder, dtype):
        self.builder = builder
        self.size = ITEMSIZE[dtype.name]
        self.lanes = VECTOR_BYTES // self.size
        self.element = ir.FloatType() if self.size == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.element, self.lanes)
        self.mask = ir.VectorType(ir.IntType(1), self.lanes)
        self.suffix = f"v{self.lanes}f{8 * self.size}"

    def intrinsic(self, name, result, *arguments):
        kind = ir.FunctionType(result, list(arguments))
        return cgutils.get_or_insert_function(self.builder.module, kind, name)

    def at(self, pointer, index):
        """Pointer to the vector that starts ``index`` elements behind ``pointer``."""
        pointer = self.builder.gep(pointer, [index])
        return self.builder.bitcast(pointer, self.vector.as_pointer())

    def splat(self, scalar):
        b = self.builder
        undefined = ir.Constant(self.vector, ir.Undefined)
        vector = b.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(vector, undefined, [0] * self.lanes)

    def shuffle(self, a, b, lanes):
        kind = ir.VectorType(ir.IntType(32), len(lanes))
        return self.builder.shuffle_vector(a, b, ir.Constant(kind, lanes))

    def first_lanes(self, count):
        """A mask of the first ``count`` lanes."""
        b = self.builder
        kind = ir.VectorType(_INT, self.lanes)
        one = b.insert_element(ir.Constant(kind, ir.Undefined), count,
                               ir.Constant(ir.IntType(32), 0))  # fmt: skip
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        counts = b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)
        return b.icmp_signed("<", ir.Constant(kind, list(range(self.lanes))), counts)

    def masked_load(self, pointer, mask):
        function = self.intrinsic(f"llvm.masked.load.{self.suffix}.p0", self.vector,
                                  self.vector.as_pointer(), ir.IntType(32), self.mask,
                                  self.vector)  # fmt: skip
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        align = ir.Constant(ir.IntType(32), self.size)
        return self.builder.call(function, [pointer, align, mask, zero])

    def masked_store(self, value, pointer, mask):
        function = self.intrinsic(f"llvm.masked.store.{self.suffix}.p0", ir.VoidType(),
                                  self.vector, self.vector.as_pointer(), ir.IntType(32),
                                  self.mask)  # fmt: skip
        align = ir.Constant(ir.IntType(32), self.size)
        self.builder.call(function, [value, pointer, align, mask])

    def rows(self, count, full, tail):
        """full(offset) for each whole vector of ``count`` elements, tail(offset, mask) after."""
        b = self.builder
        whole = b.and_(count, const(-self.lanes))
        with cgutils.for_range_slice(b, const(0), whole, const(self.lanes), _INT) as (offset, _):
            full(offset)
        with b.if_then(b.icmp_signed("<", whole, count)):
            tail(whole, self.first_lanes(b.sub(count, whole)))


def pointer(context, builder, array_type, array, offset):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


@intrinsic
def copy_row(typing, target, to, source, start, count):
    """target[to : to + count] = source[start : start + count], offsets in elements."""

    def generate(context, builder, signature, arguments):
        target, to, source, start, count = arguments
        e = Emitter(builder, signature.args[0].dtype)
        write = pointer(context, builder, signature.args[0], target, to)
        read = pointer(context, builder, signature.args[2], source, start)

        def full(i):
            value = builder.load(e.at(read, i), align=e.size)
            builder.store(value, e.at(write, i), align=e.size)

        def tail(i, mask):
            e.masked_store(e.masked_load(e.at(read, i), mask), e.at(write, i), mask)

        e.rows(count, full, tail)
        return context.get_dummy_value()

    index = types.intp
    return types.void(target, index, source, index, index), generate


@intrinsic
def fill_row(typing, target, to, value, count):
    """target[to : to + count] = value."""

    def generate(context, builder, signature, arguments):
        target, to, value, count = arguments
        e = Emitter(builder, signature.args[0].dtype)
        write = pointer(context, builder, signature.args[0], target, to)
        vector = e.splat(value)
        e.rows(count, lambda i: builder.store(vector, e.at(write, i), align=e.size),
               lambda i, mask: e.masked_store(vector, e.at(write, i), mask))  # fmt: skip
        return context.get_dummy_value()

    index = types.intp
    return types.void(target, index, target.dtype, index), generate


@intrinsic
def finite_row(typing, source, start, count):
    """Is no element of source[start : start + count] infinite or NaN?  (x * 0 is 0 if finite.)"""

    def generate(context, builder, signature, arguments):
        source, start, count = arguments
        e = Emitter(builder, signature.args[0].dtype)
        read = pointer(context, builder, signature.args[0], source, start)
        zero = ir.Constant(e.vector, [0.0] * e.lanes)
        total = cgutils.alloca_once_value(builder, zero)

        def add(values):
            builder.store(builder.fadd(builder.load(total), builder.fmul(values, zero)), total)

        e.rows(count, lambda i: add(builder.load(e.at(read, i), align=e.size)),
               lambda i, mask: add(e.masked_load(e.at(read, i), mask)))  # fmt: skip
        total = builder.load(total)
        unordered = builder.bitcast(builder.fcmp_unordered("uno", total, total),
                                    ir.IntType(e.lanes))  # fmt: skip
        return builder.icmp_unsigned("==", unordered, ir.Constant(unordered.type, 0))

    return types.boolean(source, types.intp, types.intp), generate


@intrinsic
def sum_row(typing, source, start, count):
    """The sum of source[start : start + count]: every lane in order, then the lanes."""

    def generate(context, builder, signature, arguments):
        source, start, count = arguments
        e = Emitter(builder, signature.args[0].dtype)
        read = pointer(context, builder, signature.args[0], source, start)
        total = cgutils.alloca_once_value(builder, ir.Constant(e.vector, [0.0] * e.lanes))

        def add(values):
            builder.store(builder.fadd(builder.load(total), values), total)

        e.rows(count, lambda i: add(builder.load(e.at(read, i), align=e.size)),
               lambda i, mask: add(e.masked_load(e.at(read, i), mask)))  # fmt: skip
        values, width = builder.load(total), e.lanes // 2
        while width:
            other = [(i + width) % e.lanes for i in range(e.lanes)]
            values, width = builder.fadd(values, e.shuffle(values, values, other)), width // 2
        return builder.extract_element(values, ir.Constant(ir.IntType(32), 0))

    return source.dtype(source, types.intp, types.intp), generate


@intrinsic
def add_row(typing, target, to, source, start, count):
    """target[to : to + count] += source[start : start + count]."""

    def generate(context, builder, signature, arguments):
        target, to, source, start, count = arguments
        e = Emitter(builder, signature.args[0].dtype)
        write = pointer(context, builder, signature.args[0], target, to)
        read = pointer(context, builder, signature.args[2], source, start)

        def full(i):
            value = builder.load(e.at(read, i), align=e.size)
            value = builder.fadd(builder.load(e.at(write, i), align=e.size), value)
            builder.store(value, e.at(write, i), align=e.size)

        def tail(i, mask):
            value = e.masked_load(e.at(read, i), mask)
            value = builder.fadd(e.masked_load(e.at(write, i), mask), value)
            e.masked_store(value, e.at(write, i), mask)

        e.rows(count, full, tail)
        return context.get_dummy_value()

    index = types.intp
    return types.void(target, index, source, index, index), generate


@intrinsic
def _transpose_block(typing, target, to, target_step, source, start, source_step):
    """A square block, lanes x lanes: log2(lanes) rounds of exchanging halves of pairs of rows."""

    def generate(context, builder, signature, arguments):
        target, to, target_step, source, start, source_step = arguments
        e = Emitter(builder, signature.args[0].dtype)
        write = pointer(context, builder, signature.args[0], target, to)
        read = pointer(context, builder, signature.args[3], source, start)
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
        write = pointer(context, builder, signature.args[0], target, to)
        read = pointer(context, builder, signature.args[3], source, start)
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
        write = pointer(context, builder, signature.args[0], target, to)
        read = pointer(context, builder, signature.args[3], source, start)
        offsets = pointer(context, builder, signature.args[5], table, first)
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
    """target[to + j*target_step + i] = source[start + table[first + i] + j], i < lanes, j < count."""
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
