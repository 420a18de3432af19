"""Vector primitives emitted as LLVM IR: copy, fill, sum and look at a row.

Between arrays that might overlap LLVM vectorises a loop only behind run-time checks, which rows
of 7 or 14 pixels never earn back.  Tails are masked: no byte behind a row is read or written.
(transposition.py has what LLVM does not find at all.)
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic


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
LINE = 64  #: bytes of a cache line
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

    def masked_load(self, pointer, mask, others=None):
        """The lanes of the mask; the others are those of ``others``, or 0."""
        function = self.intrinsic(f"llvm.masked.load.{self.suffix}.p0", self.vector,
                                  self.vector.as_pointer(), ir.IntType(32), self.mask,
                                  self.vector)  # fmt: skip
        others = others or ir.Constant(self.vector, [0.0] * self.lanes)
        align = ir.Constant(ir.IntType(32), self.size)
        return self.builder.call(function, [pointer, align, mask, others])

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


def element_pointer(context, builder, array_type, array, offset):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


def cases(builder, number, values):
    """Positions the builder in a block for each of ``values`` of ``number``, then behind them."""
    end = builder.append_basic_block("cases.end")
    switch = builder.switch(number, end)
    for case in values:
        block = builder.append_basic_block(f"case.{case}")
        switch.add_case(const(case), block)
        builder.position_at_end(block)
        yield case
        builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def copy_row(typing, target, to, source, start, count):
    """target[to : to + count] = source[start : start + count], offsets in elements."""

    def generate(context, builder, signature, arguments):
        target, to, source, start, count = arguments
        e = Emitter(builder, signature.args[0].dtype)
        write = element_pointer(context, builder, signature.args[0], target, to)
        read = element_pointer(context, builder, signature.args[2], source, start)

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
def spread_even(typing, target, to, source, start, count):
    """target[to + 2*i] = source[start + i], i < count; the elements between are not written."""

    def generate(context, builder, signature, arguments):
        target, to, source, start, count = arguments
        e = Emitter(builder, signature.args[0].dtype)
        write = element_pointer(context, builder, signature.args[0], target, to)
        read = element_pointer(context, builder, signature.args[2], source, start)
        kind = ir.VectorType(ir.IntType(1), e.lanes)
        even = ir.Constant(kind, [1 - i % 2 for i in range(e.lanes)])

        def spread(i, values, left):
            first = builder.mul(i, const(2))
            for at in (0, e.lanes):
                lanes = [(i + at) // 2 for i in range(e.lanes)]
                mask = e.first_lanes(builder.sub(builder.mul(left, const(2)), const(at)))
                e.masked_store(e.shuffle(values, values, lanes),
                               e.at(write, builder.add(first, const(at))),
                               builder.and_(mask, even))  # fmt: skip

        e.rows(count, lambda i: spread(i, builder.load(e.at(read, i), align=e.size),
                                       const(e.lanes)),
               lambda i, mask: spread(i, e.masked_load(e.at(read, i), mask),
                                      builder.sub(count, i)))  # fmt: skip
        return context.get_dummy_value()

    index = types.intp
    return types.void(target, index, source, index, index), generate


@intrinsic
def fill_row(typing, target, to, value, count):
    """target[to : to + count] = value."""

    def generate(context, builder, signature, arguments):
        target, to, value, count = arguments
        e = Emitter(builder, signature.args[0].dtype)
        write = element_pointer(context, builder, signature.args[0], target, to)
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
        read = element_pointer(context, builder, signature.args[0], source, start)
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
        read = element_pointer(context, builder, signature.args[0], source, start)
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
        write = element_pointer(context, builder, signature.args[0], target, to)
        read = element_pointer(context, builder, signature.args[2], source, start)

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
